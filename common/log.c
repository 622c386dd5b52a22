/* common/log.c - log lines, whole and one at a time. */
#include "common/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char program_name[32] = "blipren", identity[96];
static enum bl_log_level threshold = BL_LOG_INFO;
static void (*hook_before)(void), (*hook_after)(void);

/* What a terminal would obey or a reader be misled by: controls (C0, DEL, C1), separators of lines and paragraphs, invisible
 * format characters, among them those that turn the direction of writing. */
static bool is_unsafe(utf8proc_int32_t point)
{
    utf8proc_category_t category = utf8proc_category(point);
    return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
           category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

/* Peers' words and file names may hold anything; a line stays one line, and says what it seems to say. */
static void clean(char *text)
{
    char *to = text;
    for (const char *from = text; *from;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)from, -1, &point);
        if (size <= 0 || is_unsafe(point)) {
            *to++ = '?';
            from += size > 0 ? size : 1;
            continue;
        }
        memmove(to, from, (size_t)size);
        to += size;
        from += size;
    }
    *to = 0;
}

void bl_log_identity(const char *program, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&lock);
    snprintf(program_name, sizeof program_name, "%s", program);
    vsnprintf(identity, sizeof identity, format, args);
    clean(identity);
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

void bl_log(enum bl_log_level level, const char *format, ...)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    char line[2048], clock[32];
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    strftime(clock, sizeof clock, "%H:%M:%S", &local);
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    clean(line);
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

void bl_log_error(const struct bl_error *err)
{
    char line[1600];
    struct bl_error whole = *err;
    bl_error_complete(&whole);
    bl_error_format(&whole, line, sizeof line);
    bl_log(BL_LOG_ERROR, "%s", line);
}
