/* common/parquet/thrift.c - Thrift's compact protocol, read by a cursor. */
#include "common/parquet/thrift.h"

#include <stdarg.h>
#include <stdio.h>

#define DEPTH_MAX 16 /* FileMetaData nests 7 deep */

bool varint_read(struct bl_cursor *cursor, uint64_t *ret)
{
    uint64_t value = 0;
    uint8_t byte = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (!bl_cursor_u8(cursor, &byte))
            return false;
        if (shift == 63 && byte > 1)
            break;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *ret = value;
            return true;
        }
    }
    cursor->failed = true;
    return false;
}

struct thrift thrift_open(const void *data, size_t size)
{
    return (struct thrift){.cursor = bl_cursor(data, size), .depth_left = DEPTH_MAX};
}

void thrift_fail(struct thrift *t, const char *format, ...)
{
    t->cursor.failed = true;
    if (t->problem[0])
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(t->problem, sizeof t->problem, format, args);
    va_end(args);
}

int thrift_result(const struct thrift *t, struct bl_error *err)
{
    if (!t->cursor.failed)
        return 0;
    return bl_fail(err, BL_EFORMAT, "%s", t->problem);
}

static void fail_short(struct thrift *t, const struct thrift_struct *s)
{
    size_t size = (size_t)(t->cursor.pos - t->cursor.start) + t->cursor.left;
    thrift_fail(t, "%s: field %d is cut off at the end of the %zu bytes", s->name, s->id, size);
}

static bool read_varint(struct thrift *t, const struct thrift_struct *s, uint64_t *ret)
{
    if (varint_read(&t->cursor, ret))
        return true;
    fail_short(t, s);
    return false;
}

struct thrift_struct thrift_begin(struct thrift *t, const char *name)
{
    if (--t->depth_left < 0)
        thrift_fail(t, "%s: expected structs at most %d deep", name, DEPTH_MAX);
    return (struct thrift_struct){.name = name};
}

bool thrift_next(struct thrift *t, struct thrift_struct *s)
{
    uint8_t head = 0;
    uint64_t id;
    if (!bl_cursor_u8(&t->cursor, &head)) {
        fail_short(t, s);
        return false;
    }
    s->type = head & 15;
    if (s->type == 0) {
        t->depth_left++;
        return false;
    }
    if (head >> 4) {
        s->id += head >> 4;
    } else {
        if (!read_varint(t, s, &id))
            return false;
        s->id = (int16_t)varint_zigzag(id);
    }
    uint64_t bit = s->id >= 0 && s->id < 64 ? UINT64_C(1) << s->id : 0;
    if (s->seen & bit)
        thrift_fail(t, "%s: field %d is there twice", s->name, s->id);
    if (s->id > INT16_MAX)
        thrift_fail(t, "%s: expected field numbers up to 32767, found %d", s->name, s->id);
    s->seen |= bit;
    return !t->cursor.failed;
}

static bool expect(struct thrift *t, const struct thrift_struct *s, bool fits, const char *expected)
{
    if (!fits)
        thrift_fail(t, "%s: field %d: expected %s, found Thrift type %d", s->name, s->id, expected,
                    s->type);
    return !t->cursor.failed;
}

void thrift_bool(struct thrift *t, const struct thrift_struct *s, bool *ret)
{
    if (expect(t, s, s->type == THRIFT_TRUE || s->type == THRIFT_FALSE, "a boolean"))
        *ret = s->type == THRIFT_TRUE;
}

void thrift_i64(struct thrift *t, const struct thrift_struct *s, int64_t *ret)
{
    uint64_t n;
    if (expect(t, s, s->type == THRIFT_I64, "a 64-bit integer") && read_varint(t, s, &n))
        *ret = varint_zigzag(n);
}

void thrift_i32(struct thrift *t, const struct thrift_struct *s, int32_t *ret)
{
    uint64_t n;
    if (!expect(t, s, s->type == THRIFT_I32, "a 32-bit integer") || !read_varint(t, s, &n))
        return;
    int64_t value = varint_zigzag(n);
    if (value < INT32_MIN || value > INT32_MAX)
        thrift_fail(t, "%s: field %d: expected a 32-bit integer, found %lld", s->name, s->id,
                    (long long)value);
    else
        *ret = (int32_t)value;
}

void thrift_binary(struct thrift *t, const struct thrift_struct *s, const uint8_t **ret,
                   size_t *ret_size)
{
    uint64_t size;
    if (!expect(t, s, s->type == THRIFT_BINARY, "a string") || !read_varint(t, s, &size))
        return;
    if (bl_cursor_take(&t->cursor, size, ret))
        *ret_size = size;
    else
        fail_short(t, s);
}

/* Head of a list or set. Each element takes a byte at least. */
static bool read_list(struct thrift *t, const struct thrift_struct *s, int *ret_type,
                      size_t *ret_count)
{
    uint8_t head;
    uint64_t count;
    if (!bl_cursor_u8(&t->cursor, &head)) {
        fail_short(t, s);
        return false;
    }
    count = head >> 4;
    if (count == 15 && !read_varint(t, s, &count))
        return false;
    if (count > t->cursor.left) {
        fail_short(t, s);
        return false;
    }
    *ret_type = head & 15;
    *ret_count = count;
    return true;
}

size_t thrift_structs(struct thrift *t, const struct thrift_struct *s)
{
    int type;
    size_t count;
    if (!expect(t, s, s->type == THRIFT_LIST, "a list") || !read_list(t, s, &type, &count))
        return 0;
    if (count && type != THRIFT_STRUCT) {
        thrift_fail(t, "%s: field %d: expected a list of structs, found one of Thrift type %d",
                    s->name, s->id, type);
        return 0;
    }
    return count;
}

void thrift_nested(struct thrift *t, const struct thrift_struct *s)
{
    expect(t, s, s->type == THRIFT_STRUCT, "a struct");
}

void thrift_require(struct thrift *t, const struct thrift_struct *s, int id, const char *field)
{
    if (!(s->seen >> id & 1))
        thrift_fail(t, "%s: expected the field %s, found none", s->name, field);
}

static void skip_value(struct thrift *t, const struct thrift_struct *s, int type);

static void skip_list(struct thrift *t, const struct thrift_struct *s)
{
    int type;
    size_t count;
    if (!read_list(t, s, &type, &count))
        return;
    for (size_t i = 0; i < count && !t->cursor.failed; i++)
        /* A boolean is a byte of its own here, and a part of the field's head elsewhere. */
        skip_value(t, s, type == THRIFT_TRUE || type == THRIFT_FALSE ? THRIFT_I8 : type);
}

static void skip_map(struct thrift *t, const struct thrift_struct *s)
{
    uint64_t count;
    uint8_t types = 0;
    if (!read_varint(t, s, &count) || count == 0)
        return;
    if (!bl_cursor_u8(&t->cursor, &types) || count > t->cursor.left) {
        fail_short(t, s);
        return;
    }
    for (uint64_t i = 0; i < 2 * count && !t->cursor.failed; i++) {
        int type = i % 2 ? types & 15 : types >> 4;
        skip_value(t, s, type == THRIFT_TRUE || type == THRIFT_FALSE ? THRIFT_I8 : type);
    }
}

static void skip_struct(struct thrift *t, const struct thrift_struct *of)
{
    struct thrift_struct s = thrift_begin(t, of->name);
    while (!t->cursor.failed && thrift_next(t, &s))
        skip_value(t, &s, s.type);
}

static void skip_value(struct thrift *t, const struct thrift_struct *s, int type)
{
    uint64_t n;
    if (--t->depth_left < 0)
        thrift_fail(t, "%s: field %d: expected values at most %d deep", s->name, s->id, DEPTH_MAX);
    if (t->cursor.failed)
        return;
    switch (type) {
    case THRIFT_TRUE:
    case THRIFT_FALSE:
        break;
    case THRIFT_I16:
    case THRIFT_I32:
    case THRIFT_I64:
        read_varint(t, s, &n);
        break;
    case THRIFT_I8:
    case THRIFT_DOUBLE:
    case THRIFT_UUID:
        if (!bl_cursor_skip(&t->cursor, type == THRIFT_I8 ? 1 : type == THRIFT_DOUBLE ? 8 : 16))
            fail_short(t, s);
        break;
    case THRIFT_BINARY:
        if (read_varint(t, s, &n) && !bl_cursor_skip(&t->cursor, n))
            fail_short(t, s);
        break;
    case THRIFT_LIST:
    case THRIFT_SET:
        skip_list(t, s);
        break;
    case THRIFT_MAP:
        skip_map(t, s);
        break;
    case THRIFT_STRUCT:
        skip_struct(t, s);
        break;
    default:
        thrift_fail(t, "%s: field %d: expected a Thrift type of 1 to 13, found %d", s->name, s->id,
                    type);
    }
    t->depth_left++;
}

void thrift_skip(struct thrift *t, const struct thrift_struct *s)
{
    skip_value(t, s, s->type);
}
