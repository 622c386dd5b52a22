/* tests/evidence/hang_thread.c - a library to preload, for threads that do nothing any more while the others of their process go on:
 * one that gets SIGUSR2 (tgkill), and one that opens a file whose path ends in $HANG_AT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void hang(int number)
{
    for (;;)
        pause();
}

__attribute__((constructor)) static void prepare(void)
{
    struct sigaction action = {.sa_handler = hang};
    sigaction(SIGUSR2, &action, NULL);
}

static int open_or_hang(const char *name, const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
    const char *at = getenv("HANG_AT");
    if (at && strlen(path) >= strlen(at) && !strcmp(path + strlen(path) - strlen(at), at))
        hang(0);
    return next(path, flags, mode);
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                    \
        va_end(more);                                                                              \
        return open_or_hang(#name, path, flags, mode);                                             \
    }
OPEN(open)
OPEN(open64)
