/* tests/evidence/slow_fsync.c - preloaded into a program: every sync to disk takes SLOW_FSYNC_MS longer, as on a busy disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int slowly(int fd, const char *name)
{
    int (*sync_file)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *ms = getenv("SLOW_FSYNC_MS");
    usleep(ms ? 1000 * (useconds_t)atoi(ms) : 0);
    return sync_file(fd);
}

int fsync(int fd)
{
    return slowly(fd, "fsync");
}

int fdatasync(int fd)
{
    return slowly(fd, "fdatasync");
}
