/* common/error.c - filling and printing struct bl_error. */
#define BL_ERROR_DEFINITIONS
#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

static const struct {
    const char *name;
    int exit_code;
    const char *remedy;
} codes[] = {{"OK", 0, ""},
#define X(name, exit_code, meaning, remedy) {#name, exit_code, remedy},
             BL_ERROR_CODES(X)
#undef X
};

int bl_fail(struct bl_error *err, enum bl_error_code code, const char *format, ...)
{
    if (err) {
        memset(err, 0, sizeof *err);
        err->code = code;
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return -(int)code;
}

int bl_fail_errno(struct bl_error *err, const char *format, ...)
{
    int saved = errno;
    if (err) {
        memset(err, 0, sizeof *err);
        err->code = BL_EIO;
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        size_t used = strlen(err->text);
        snprintf(err->text + used, sizeof err->text - used, ": %s", strerror(saved));
        err->os_error = saved;
    }
    return -BL_EIO;
}

static int code_of(const struct bl_error *err)
{
    return err && err->code ? -err->code : -BL_EIO;
}

int bl_error_file(struct bl_error *err, const char *file)
{
    if (err && !err->file[0])
        snprintf(err->file, sizeof err->file, "%s", file);
    return code_of(err);
}

int bl_error_key(struct bl_error *err, const char *format, ...)
{
    if (err && !err->key[0]) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->key, sizeof err->key, format, args);
        va_end(args);
    }
    return code_of(err);
}

int bl_error_peer(struct bl_error *err, const char *peer)
{
    if (err && !err->peer[0])
        snprintf(err->peer, sizeof err->peer, "%s", peer);
    return code_of(err);
}

int bl_error_remedy(struct bl_error *err, const char *format, ...)
{
    if (err && !err->remedy[0]) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->remedy, sizeof err->remedy, format, args);
        va_end(args);
    }
    return code_of(err);
}

static const char *remedy_of_errno(int number)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ENAMETOOLONG:
        return "check the path";
    case EACCES:
    case EPERM:
    case EROFS:
        return "choose a place this user may use, or change its permissions";
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return "make room, then start again: a run resumes from its last checkpoint";
    case EMFILE:
    case ENFILE:
        return "raise the limit of open files (ulimit -n)";
    default:
        return NULL;
    }
}

void bl_error_complete(struct bl_error *err)
{
    const char *remedy = remedy_of_errno(err->os_error);
    bool known = err->code > 0 && err->code < (int)(sizeof codes / sizeof *codes);
    if (!remedy)
        remedy = known ? codes[err->code].remedy : "";
    bl_error_remedy(err, "%s", remedy);
}

void bl_error_format(const struct bl_error *err, char *buffer, unsigned long size)
{
    if (!size)
        return;
    snprintf(buffer, size, "%s%s%s%s%s%s%s%s%s%s", err->file, err->file[0] ? ": " : "", err->key,
             err->key[0] ? ": " : "", err->peer, err->peer[0] ? ": " : "", err->text,
             err->remedy[0] ? "; " : "", err->remedy, "");
    utf8_clean(buffer);
}

int bl_error_exit_code(int code)
{
    if (code < 0)
        code = -code;
    return code < (int)(sizeof codes / sizeof *codes) ? codes[code].exit_code : 1;
}

const char *bl_error_name(int code)
{
    if (code < 0)
        code = -code;
    return code < (int)(sizeof codes / sizeof *codes) ? codes[code].name : "UNKNOWN";
}

int bl_error_code(const char *name)
{
    for (int code = 0; code < (int)(sizeof codes / sizeof *codes); code++)
        if (!strcmp(codes[code].name, name))
            return code;
    return *name ? BL_EPEER : BL_OK;
}

void bl_assert_failed(const char *cond, const char *file, int line, const char *func)
{
    fprintf(stderr, "%s:%d: %s: assertion failed: %s\n", file, line, func, cond);
    abort();
}

void bl_assert_failed_cmp(const char *cond, long long a, long long b, const char *file, int line,
                          const char *func)
{
    fprintf(stderr, "%s:%d: %s: assertion failed: %s (left %lld, right %lld)\n", file, line, func,
            cond, a, b);
    abort();
}
