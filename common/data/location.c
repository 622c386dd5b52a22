/* common/data/location.c - see location.h. */
#include "common/data/location.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/cell.h"
#include "common/file_hash.h"
#include "common/size.h"

/* -- text ------------------------------------------------------------------------------------- */

static int fail(const char *text, struct bl_error *err)
{
    return bl_fail(err, BL_EFORMAT, "expected the location of an image, found \"%.100s\"", text);
}

static int parse_file(const char *text, struct location *ret)
{
    ret->path = text;
    return *text == '/' ? 0 : -1;
}

/* A decimal number before the character `end`; *at moves behind it. */
static int parse_number(const char **at, char end, uint64_t *ret)
{
    uint64_t number = 0;
    const char *c = *at;
    for (; *c >= '0' && *c <= '9'; c++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*c - '0'), &number))
            return -1;
    if (c == *at || *c != end)
        return -1;
    *at = c + 1;
    *ret = number;
    return 0;
}

static int parse_range(const char *text, struct location *ret)
{
    uint64_t end;
    if (parse_number(&text, '+', &ret->offset) < 0 || parse_number(&text, ':', &ret->length) < 0 ||
        __builtin_add_overflow(ret->offset, ret->length, &end) || end > INT64_MAX)
        return -1;
    return parse_file(text, ret);
}

static int parse_cell(const char *text, struct location *ret)
{
    uint64_t length;
    if (parse_number(&text, '+', &ret->row) < 0 || parse_number(&text, ':', &length) < 0 ||
        ret->row > INT64_MAX || length > strlen(text))
        return -1;
    ret->column = text;
    ret->column_length = (size_t)length;
    return parse_file(text + length, ret);
}

static int parse_url(const char *text, struct location *ret)
{
    const char *space = strchr(text, ' ');
    if (!space || space == text)
        return -1;
    ret->url = text;
    ret->url_length = (size_t)(space - text);
    return parse_file(space + 1, ret);
}

static int format_file(const struct location *l, char **ret)
{
    return asprintf(ret, "%s", l->path);
}

static int format_range(const struct location *l, char **ret)
{
    return asprintf(ret, "range:%" PRIu64 "+%" PRIu64 ":%s", l->offset, l->length, l->path);
}

static int format_cell(const struct location *l, char **ret)
{
    return asprintf(ret, "cell:%" PRIu64 "+%zu:%.*s%s", l->row, l->column_length,
                    (int)l->column_length, l->column, l->path);
}

static int format_url(const struct location *l, char **ret)
{
    return asprintf(ret, "url:%.*s %s", (int)l->url_length, l->url, l->path);
}

static const struct {
    const char *prefix;
    int (*parse)(const char *text, struct location *ret); /* behind the prefix */
    int (*format)(const struct location *location, char **ret);
} kinds[LOCATION_KIND_COUNT] = {
    [LOCATION_FILE] = {"", parse_file, format_file},
    [LOCATION_RANGE] = {"range:", parse_range, format_range},
    [LOCATION_CELL] = {"cell:", parse_cell, format_cell},
    [LOCATION_URL] = {"url:", parse_url, format_url},
};

int location_parse(const char *text, struct location *ret, struct bl_error *err)
{
    /* The file's empty prefix fits everything: it comes last. */
    for (int kind = LOCATION_KIND_COUNT - 1; kind >= 0; kind--) {
        size_t length = strlen(kinds[kind].prefix);
        struct location found = {.kind = (enum location_kind)kind};
        if (strncmp(text, kinds[kind].prefix, length))
            continue;
        if (kinds[kind].parse(text + length, &found) < 0)
            return fail(text, err);
        *ret = found;
        return 0;
    }
    return fail(text, err);
}

int location_format(const struct location *location, char **ret, struct bl_error *err)
{
    if (kinds[location->kind].format(location, ret) >= 0)
        return 0;
    *ret = NULL;
    return bl_fail(err, BL_ENOMEM, "no memory for an image's location");
}

void location_describe(const struct location *l, char *ret, size_t size)
{
    if (l->kind == LOCATION_URL)
        snprintf(ret, size, "%.*s", (int)bl_min((int64_t)l->url_length, (int64_t)size), l->url);
    else if (l->kind == LOCATION_CELL)
        snprintf(ret, size, "%s, row %" PRIu64, l->path, l->row + 1);
    else if (l->kind == LOCATION_RANGE)
        snprintf(ret, size, "%s[%" PRIu64 "+%" PRIu64 "]", l->path, l->offset, l->length);
    else
        snprintf(ret, size, "%s", l->path);
}

/* -- bytes ------------------------------------------------------------------------------------ */

static int fail_range(const struct location *l, uint64_t file_size, struct bl_error *err)
{
    bl_fail(err, BL_EDATA,
            "expected %" PRIu64 " bytes at offset %" PRIu64 ", found the file's end at %" PRIu64,
            l->length, l->offset, file_size);
    return bl_error_file(err, l->path);
}

int location_stamp(const struct location *l, struct bl_stamp *ret, struct bl_error *err)
{
    struct bl_stamp stamp;
    BL_TRY(bl_file_stamp(l->path, &stamp, err));
    if (l->kind == LOCATION_RANGE) {
        if (l->offset + l->length > stamp.size)
            return fail_range(l, stamp.size, err);
        stamp.size = l->length;
    }
    *ret = stamp;
    return 0;
}

int location_read(const struct location *l, size_t max_bytes, char **ret_data, size_t *ret_size,
                  struct bl_stamp *ret_stamp, struct bl_error *err)
{
    bool range = l->kind == LOCATION_RANGE;
    struct bl_stamp stamp;
    bl_autofree char *data = NULL;
    size_t size;
    if (l->kind == LOCATION_CELL)
        return cell_read(l, max_bytes, ret_data, ret_size, ret_stamp, err);
    BL_TRY(bl_file_read_range(l->path, range ? l->offset : 0, range ? l->length : UINT64_MAX,
                              max_bytes, &data, &size, &stamp, err));
    if (range && size < l->length)
        return fail_range(l, stamp.size, err);
    stamp.size = size;
    if (ret_stamp)
        *ret_stamp = stamp;
    *ret_data = bl_take(&data);
    *ret_size = size;
    return 0;
}

static int cell_sha256(const struct location *l, uint8_t ret_hash[32], struct bl_stamp *ret_stamp,
                       struct bl_error *err)
{
    bl_autofree char *data = NULL;
    size_t size;
    BL_TRY(cell_read(l, SIZE_MAX, &data, &size, ret_stamp, err));
    bl_sha256(data, size, ret_hash);
    return 0;
}

int location_sha256(const struct location *l, uint8_t ret_hash[32], struct bl_stamp *ret_stamp,
                    struct bl_error *err)
{
    bool range = l->kind == LOCATION_RANGE;
    struct bl_stamp stamp;
    uint64_t size;
    if (l->kind == LOCATION_CELL)
        return cell_sha256(l, ret_hash, ret_stamp, err);
    BL_TRY(bl_file_sha256_range(l->path, range ? l->offset : 0, range ? l->length : UINT64_MAX,
                                ret_hash, &size, &stamp, err));
    if (range && size < l->length)
        return fail_range(l, stamp.size, err);
    stamp.size = size;
    *ret_stamp = stamp;
    return 0;
}

enum location_failure location_failure_of(const struct bl_error *err)
{
    if (err->code == BL_ENOMEM)
        return LOCATION_PASSING;
    if (err->code == BL_EDATA)
        return LOCATION_UNREADABLE;
    if (err->code != BL_EIO)
        return LOCATION_BAD;
    switch (err->os_error) {
    case 0: /* no regular file */
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case EPERM:
    case ELOOP:
    case ENAMETOOLONG:
        return LOCATION_UNREADABLE;
    default:
        return LOCATION_PASSING;
    }
}

/* A file server that fails over is back within seconds; one that is not deserves an error that names it. 0: give up. */
static uint32_t backoff_ms(unsigned failures)
{
    static const uint16_t waits[] = {100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000};
    BL_ASSERT_CMP(failures, >, 0);
    return failures <= sizeof waits / sizeof *waits ? waits[failures - 1] : 0;
}

int location_before_next_try(const struct location *location, unsigned failures,
                             const struct location_patience *patience, struct bl_error *err)
{
    char name[4096];
    if (location_failure_of(err) != LOCATION_PASSING)
        return -err->code;
    uint32_t ms = backoff_ms(failures);
    if (ms && !patience->wait(patience->context, ms))
        return bl_fail(err, BL_ESTOPPED, "stopped while waiting for an image");
    if (ms)
        return 0;
    location_describe(location, name, sizeof name);
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof err->text - used, " (tried %u times)", failures);
    return bl_error_file(err, name);
}
