/* common/log.h - one line an event on standard error: time, level, program and identity, then
 * `key=value` words. Only loop.c and main.c of a program log; the rooms below return errors. Safe
 * from any thread. */
#pragma once

#include "common/error.h"

enum bl_log_level { BL_LOG_DEBUG, BL_LOG_INFO, BL_LOG_WARNING, BL_LOG_ERROR };

/* Program name ("coord", "worker") and identity ("rank=0"), prefixed to each line. Texts are
 * copied. */
void bl_log_identity(const char *program, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void bl_log_threshold(enum bl_log_level level);
void bl_log(enum bl_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for a line that a peer provokes: at most LOG_LIMIT_LINES a minute of each (its name, or a stranger's address), then
 * they are counted. */
void bl_log_peer(enum bl_log_level level, const char *peer, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Writes how many lines were left out in a minute that is over. To be called now and then. */
void bl_log_counts(void);
/* A failure's one line, at error level. */
void bl_log_error(const struct bl_error *err);
/* A hook that draws over the terminal's last line (a progress bar) hides it while a line is
 * written. NULL = none. */
void bl_log_around(void (*before)(void), void (*after)(void));
