/* common/parquet/thrift.h - reading structs of Thrift's compact protocol.
 *
 *     struct thrift_struct s = thrift_begin(t, "PageLocation");
 *     while (thrift_next(t, &s))
 *         switch (s.id) {
 *         case 1: thrift_i64(t, &s, &offset); break;
 *         default: thrift_skip(t, &s);
 *         }
 *     thrift_require(t, &s, 1, "offset");
 *
 * Failure sticks: the loop ends, later reads leave their results untouched, and thrift_result tells at the end. Fields that come
 * twice, of another type than asked for, or nested too deeply are failures; unknown ones are skipped. */
#pragma once

#include "common/cursor.h"
#include "common/error.h"

enum thrift_type {
    THRIFT_TRUE = 1,
    THRIFT_FALSE,
    THRIFT_I8,
    THRIFT_I16,
    THRIFT_I32,
    THRIFT_I64,
    THRIFT_DOUBLE,
    THRIFT_BINARY,
    THRIFT_LIST,
    THRIFT_SET,
    THRIFT_MAP,
    THRIFT_STRUCT,
    THRIFT_UUID,
};

struct thrift {
    struct bl_cursor cursor;
    int depth_left;
    char problem[192]; /* of the first failure */
};

/* The struct being read and its current field. */
struct thrift_struct {
    const char *name;
    int id, type;
    uint64_t seen; /* ids of 0 to 63 */
};

struct thrift thrift_open(const void *data, size_t size);
struct thrift_struct thrift_begin(struct thrift *t, const char *name);
/* To the next field; false behind the last one and after a failure. */
bool thrift_next(struct thrift *t, struct thrift_struct *s);
void thrift_skip(struct thrift *t, const struct thrift_struct *s);
void thrift_bool(struct thrift *t, const struct thrift_struct *s, bool *ret);
void thrift_i32(struct thrift *t, const struct thrift_struct *s, int32_t *ret);
void thrift_i64(struct thrift *t, const struct thrift_struct *s, int64_t *ret);
/* Borrowed from the input. */
void thrift_binary(struct thrift *t, const struct thrift_struct *s, const uint8_t **ret,
                   size_t *ret_size);
/* The length of a list of structs, which follow; at most the bytes that are left. 0 after a failure. */
size_t thrift_structs(struct thrift *t, const struct thrift_struct *s);
/* A field of type struct: to be read next by thrift_begin. */
void thrift_nested(struct thrift *t, const struct thrift_struct *s);
/* That the struct, now read, had this field. */
void thrift_require(struct thrift *t, const struct thrift_struct *s, int id, const char *field);
/* For what only the caller can judge. */
void thrift_fail(struct thrift *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* 0, or -BL_EFORMAT with the first failure's text. */
int thrift_result(const struct thrift *t, struct bl_error *err);

/* Unsigned LEB128 of at most 64 bits, which the format uses outside of Thrift too. */
bool varint_read(struct bl_cursor *cursor, uint64_t *ret);
static inline int64_t varint_zigzag(uint64_t n)
{
    return (int64_t)(n >> 1 ^ (~(n & 1) + 1));
}
