/* tests/unit/slow_open.c - preloaded: a disk on which one file is slow. Opening a path that ends in SLOW_OPEN_NAME takes
 * SLOW_OPEN_MS milliseconds more. */
#undef _FILE_OFFSET_BITS /* open and open64 are two functions here */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int opener(const char *path, int flags, ...);

static void wait_for(const char *path)
{
    const char *name = getenv("SLOW_OPEN_NAME"), *ms = getenv("SLOW_OPEN_MS");
    if (!name || !ms || strlen(path) < strlen(name))
        return;
    if (strcmp(path + strlen(path) - strlen(name), name) == 0)
        usleep((unsigned)atoi(ms) * 1000);
}

static int open_as(const char *symbol, const char *path, int flags, mode_t mode)
{
    union {
        void *pointer;
        opener *function;
    } real = {dlsym(RTLD_NEXT, symbol)};
    wait_for(path);
    return real.function(path, flags, mode);
}

/* A mode that was not given is read as whatever is there, and not looked at by the kernel. */
int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = va_arg(args, mode_t);
    va_end(args);
    return open_as("open", path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = va_arg(args, mode_t);
    va_end(args);
    return open_as("open64", path, flags, mode);
}
