/* common/log.c - log lines, whole and one at a time. */
#include "common/deadline.h"
#include "common/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/log_limit.h"
#include "common/utf8.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char program_name[32] = "blipren", identity[96];
static enum bl_log_level threshold = BL_LOG_INFO;
static void (*hook_before)(void), (*hook_after)(void);
static struct log_limit limit;

void bl_log_identity(const char *program, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&lock);
    snprintf(program_name, sizeof program_name, "%s", program);
    vsnprintf(identity, sizeof identity, format, args);
    utf8_clean(identity);
    pthread_mutex_unlock(&lock);
    va_end(args);
}

void bl_log_threshold(enum bl_log_level level)
{
    pthread_mutex_lock(&lock);
    threshold = level;
    pthread_mutex_unlock(&lock);
}

void bl_log_around(void (*before)(void), void (*after)(void))
{
    pthread_mutex_lock(&lock);
    hook_before = before;
    hook_after = after;
    pthread_mutex_unlock(&lock);
}

static void write_line(enum bl_log_level level, const char *format, va_list args)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    char line[2048], clock[32];
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    strftime(clock, sizeof clock, "%H:%M:%S", &local);
    vsnprintf(line, sizeof line, format, args);
    /* Peers' words and file names may hold anything; a line stays one line, and says what it seems to say. */
    utf8_clean(line);
    pthread_mutex_lock(&lock);
    if (level >= threshold) {
        if (hook_before)
            hook_before();
        fprintf(stderr, "%s.%03ld %s %s%s%s: %s\n", clock, now.tv_nsec / 1000000, names[level],
                program_name, identity[0] ? " " : "", identity, line);
        fflush(stderr);
        if (hook_after)
            hook_after();
    }
    pthread_mutex_unlock(&lock);
}

void bl_log(enum bl_log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_line(level, format, args);
    va_end(args);
}

void bl_log_peer(enum bl_log_level level, const char *peer, const char *format, ...)
{
    pthread_mutex_lock(&lock);
    bool may = log_limit_may(&limit, peer, bl_now_ms());
    pthread_mutex_unlock(&lock);
    if (!may)
        return;
    va_list args;
    va_start(args, format);
    write_line(level, format, args);
    va_end(args);
}

void bl_log_counts(void)
{
    char peer[LOG_LIMIT_NAME_MAX];
    uint32_t count;
    for (;;) {
        pthread_mutex_lock(&lock);
        bool any = log_limit_count(&limit, bl_now_ms(), peer, &count);
        pthread_mutex_unlock(&lock);
        if (!any)
            return;
        bl_log(BL_LOG_WARNING, "%u more lines about %s were left out", count, peer);
    }
}

void bl_log_error(const struct bl_error *err)
{
    char line[1600];
    struct bl_error whole = *err;
    bl_error_complete(&whole);
    bl_error_format(&whole, line, sizeof line);
    bl_log(BL_LOG_ERROR, "%s", line);
}
