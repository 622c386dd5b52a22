/* common/parquet/values.c - the values of a page, by encoding. Nulls are not among them. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/parquet/parquet_parts.h"
#include "common/parquet/runs.h"
#include "common/size.h"

struct source {
    const struct parquet_column *column;
    struct bl_cursor cursor;
    const struct dictionary *dictionary;
    size_t count;
    struct values_memory *memory;
};

static int fail_short(struct bl_error *err, size_t i, size_t count)
{
    return bl_fail(err, BL_EFORMAT, "expected %zu values, found the page's end in value %zu", count,
                   i);
}

/* --- PLAIN. --- */

static int plain_bytes(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    for (size_t i = 0; i < s->count; i++) {
        uint32_t size;
        ret[i] = (struct parquet_value){0};
        if (!bl_cursor_u32le(&s->cursor, &size) || !bl_cursor_take(&s->cursor, size, &ret[i].bytes))
            return fail_short(err, i, s->count);
        ret[i].size = size;
    }
    return 0;
}

/* An integer of 32 bits as 64: with its sign, unless the column has none. */
static int64_t widen(const struct parquet_column *column, uint32_t bits)
{
    return column->is_unsigned ? (int64_t)bits : (int64_t)(int32_t)bits;
}

static size_t width_of(const struct parquet_column *column)
{
    return column->physical_type == TYPE_INT64 || column->physical_type == TYPE_DOUBLE ? 8 : 4;
}

/* A number of width_of bytes. */
static struct parquet_value number(const struct parquet_column *column, const uint8_t *bytes)
{
    struct parquet_value value = {0};
    uint32_t bits;
    float real;
    memcpy(&bits, bytes, sizeof bits);
    memcpy(&real, bytes, sizeof real);
    if (column->physical_type == TYPE_INT32)
        value.integer = widen(column, bits);
    else if (column->physical_type == TYPE_FLOAT)
        value.real = (double)real;
    else
        memcpy(&value.integer, bytes, sizeof value.integer);
    return value;
}

static int take_numbers(struct source *s, const uint8_t **ret, struct bl_error *err)
{
    size_t size;
    if (!bl_mul(s->count, width_of(s->column), &size) || !bl_cursor_take(&s->cursor, size, ret))
        return fail_short(err, s->cursor.left / width_of(s->column), s->count);
    return 0;
}

static int plain_numbers(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    const uint8_t *data = NULL;
    BL_TRY(take_numbers(s, &data, err));
    for (size_t i = 0; i < s->count; i++)
        ret[i] = number(s->column, data + i * width_of(s->column));
    return 0;
}

/* The first bytes of all values, then the second ones, and so on. */
static int byte_stream_split(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    const uint8_t *data = NULL;
    BL_TRY(take_numbers(s, &data, err));
    for (size_t i = 0; i < s->count; i++) {
        uint8_t bytes[8] = {0};
        for (size_t k = 0; k < width_of(s->column); k++)
            bytes[k] = data[k * s->count + i];
        ret[i] = number(s->column, bytes);
    }
    return 0;
}

static int plain_booleans(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    const uint8_t *bits;
    if (!bl_cursor_take(&s->cursor, s->count / 8 + (s->count % 8 > 0), &bits))
        return fail_short(err, s->cursor.left * 8, s->count);
    for (size_t i = 0; i < s->count; i++)
        ret[i] = (struct parquet_value){.integer = bits[i / 8] >> i % 8 & 1};
    return 0;
}

static int plain(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    switch (s->column->physical_type) {
    case TYPE_BYTE_ARRAY:
        return plain_bytes(s, ret, err);
    case TYPE_BOOLEAN:
        return plain_booleans(s, ret, err);
    default:
        return plain_numbers(s, ret, err);
    }
}

/* --- Dictionary indices and booleans in runs. --- */

#define AT_ONCE 1024 /* integers decoded before they are used: some KB of stack */

static int indices(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    uint8_t width = 0;
    if (!s->dictionary)
        return bl_fail(err, BL_EFORMAT,
                       "expected a dictionary page before a page of indices into it, found none");
    if (!bl_cursor_u8(&s->cursor, &width) || width > 32)
        return bl_fail(err, BL_EFORMAT, "expected dictionary indices of at most 32 bits, found %d",
                       width);
    struct runs runs = runs_open(s->cursor.pos, s->cursor.left, width);
    uint32_t index[AT_ONCE];
    for (size_t done = 0; done < s->count;) {
        size_t n = s->count - done < AT_ONCE ? s->count - done : AT_ONCE;
        BL_TRY(runs_read(&runs, index, n, err));
        for (size_t i = 0; i < n; i++) {
            if (index[i] >= s->dictionary->count)
                return bl_fail(err, BL_EFORMAT,
                               "expected indices below the dictionary's %zu values, found %u",
                               s->dictionary->count, index[i]);
            ret[done + i] = s->dictionary->values[index[i]];
        }
        done += n;
    }
    return 0;
}

static int rle_booleans(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    uint32_t size, bits[AT_ONCE];
    const uint8_t *data = NULL;
    if (!bl_cursor_u32le(&s->cursor, &size) || !bl_cursor_take(&s->cursor, size, &data))
        return fail_short(err, 0, s->count);
    struct runs runs = runs_open(data, size, 1);
    for (size_t done = 0; done < s->count;) {
        size_t n = s->count - done < AT_ONCE ? s->count - done : AT_ONCE;
        BL_TRY(runs_read(&runs, bits, n, err));
        for (size_t i = 0; i < n; i++)
            ret[done + i] = (struct parquet_value){.integer = bits[i]};
        done += n;
    }
    return 0;
}

/* --- Delta encodings. --- */

/* Count of integers; the caller's (free). */
static int delta_integers(struct source *s, int64_t **ret, struct bl_error *err)
{
    bl_autofree int64_t *integers = malloc((s->count ? s->count : 1) * sizeof *integers);
    if (!integers)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu integers", s->count);
    BL_TRY(delta_read(&s->cursor, s->count, integers, err));
    *ret = bl_take(&integers);
    return 0;
}

static int delta_binary_packed(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    bl_autofree int64_t *integers = NULL;
    BL_TRY(delta_integers(s, &integers, err));
    bool narrow = s->column->physical_type == TYPE_INT32;
    for (size_t i = 0; i < s->count; i++)
        ret[i] = (struct parquet_value){.integer = narrow ? widen(s->column, (uint32_t)integers[i])
                                                          : integers[i]};
    return 0;
}

/* Lengths, then all bytes without anything between. */
static int delta_length_byte_array(struct source *s, struct parquet_value *ret,
                                   struct bl_error *err)
{
    bl_autofree int64_t *lengths = NULL;
    BL_TRY(delta_integers(s, &lengths, err));
    for (size_t i = 0; i < s->count; i++) {
        ret[i] = (struct parquet_value){0};
        if (lengths[i] < 0 || lengths[i] > UINT32_MAX ||
            !bl_cursor_take(&s->cursor, (size_t)lengths[i], &ret[i].bytes))
            return bl_fail(err, BL_EFORMAT,
                           "expected value %zu inside the page, found a length of %lld", i,
                           (long long)lengths[i]);
        ret[i].size = (uint32_t)lengths[i];
    }
    return 0;
}

/* Bytes of all values whole, from lengths of shared starts and from the rests in ret; no start is longer than the value before. */
static int whole_size(const struct source *s, const int64_t *shared,
                      const struct parquet_value *ret, size_t *ret_size, struct bl_error *err)
{
    size_t total = 0, before = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (shared[i] < 0 || (uint64_t)shared[i] > before)
            return bl_fail(
                err, BL_EFORMAT,
                "expected value %zu to share at most the %zu bytes of the one before, found %lld",
                i, before, (long long)shared[i]);
        before = (size_t)shared[i] + ret[i].size;
        total += before;
        if (total > BL_PARQUET_PAGE_BYTES_MAX)
            return bl_fail(err, BL_ELIMIT,
                           "expected pages of at most %d bytes of values, found more",
                           BL_PARQUET_PAGE_BYTES_MAX);
    }
    *ret_size = total;
    return 0;
}

/* How many bytes each value shares with the start of the one before, then the rests as DELTA_LENGTH_BYTE_ARRAY. */
static int delta_byte_array(struct source *s, struct parquet_value *ret, struct bl_error *err)
{
    bl_autofree int64_t *shared = NULL;
    size_t size = 0;
    BL_TRY(delta_integers(s, &shared, err));
    BL_TRY(delta_length_byte_array(s, ret, err));
    BL_TRY(whole_size(s, shared, ret, &size, err));
    uint8_t *to = malloc(size ? size : 1);
    if (!to)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes of values", size);
    s->memory->owned = to;
    s->memory->owned_size = size;
    for (size_t i = 0; i < s->count; i++) {
        const uint8_t *rest = ret[i].bytes, *start = to;
        if (shared[i])
            memcpy(to, ret[i - 1].bytes, (size_t)shared[i]);
        to += shared[i];
        if (ret[i].size)
            memcpy(to, rest, ret[i].size);
        to += ret[i].size;
        ret[i].bytes = start;
        ret[i].size = (uint32_t)(to - start);
    }
    return 0;
}

/* --- All of them. --- */

#define ANY_TYPE                                                                                   \
    ((1 << TYPE_BOOLEAN | 1 << TYPE_INT32 | 1 << TYPE_INT64 | 1 << TYPE_FLOAT | 1 << TYPE_DOUBLE | \
      1 << TYPE_BYTE_ARRAY))

static const struct {
    const char *name;
    int types; /* that may have it, a bit each */
    int (*decode)(struct source *s, struct parquet_value *ret, struct bl_error *err);
} encodings[] = {
    [ENCODING_PLAIN] = {"PLAIN", ANY_TYPE, plain},
    [1] = {"GROUP_VAR_INT", 0, NULL},
    [ENCODING_PLAIN_DICTIONARY] = {"PLAIN_DICTIONARY", ANY_TYPE, indices},
    [ENCODING_RLE] = {"RLE", 1 << TYPE_BOOLEAN, rle_booleans},
    [4] = {"BIT_PACKED", 0, NULL},
    [ENCODING_DELTA_BINARY_PACKED] = {"DELTA_BINARY_PACKED", 1 << TYPE_INT32 | 1 << TYPE_INT64,
                                      delta_binary_packed},
    [ENCODING_DELTA_LENGTH_BYTE_ARRAY] = {"DELTA_LENGTH_BYTE_ARRAY", 1 << TYPE_BYTE_ARRAY,
                                          delta_length_byte_array},
    [ENCODING_DELTA_BYTE_ARRAY] = {"DELTA_BYTE_ARRAY", 1 << TYPE_BYTE_ARRAY, delta_byte_array},
    [ENCODING_RLE_DICTIONARY] = {"RLE_DICTIONARY", ANY_TYPE, indices},
    [ENCODING_BYTE_STREAM_SPLIT] = {"BYTE_STREAM_SPLIT",
                                    1 << TYPE_INT32 | 1 << TYPE_INT64 | 1 << TYPE_FLOAT |
                                        1 << TYPE_DOUBLE,
                                    byte_stream_split},
};
#define ENCODING_COUNT ((int)(sizeof encodings / sizeof *encodings))

void values_memory_release(struct values_memory *memory)
{
    free(memory->owned);
    *memory = (struct values_memory){0};
}

int values_decode(const struct parquet_column *column, int encoding, const uint8_t *data,
                  size_t size, const struct dictionary *dictionary, size_t count,
                  struct parquet_value *ret, struct values_memory *memory, struct bl_error *err)
{
    if (encoding < 0 || encoding >= ENCODING_COUNT)
        return bl_fail(err, BL_EFORMAT, "expected an encoding of 0 to %d, found %d",
                       ENCODING_COUNT - 1, encoding);
    if (!(encodings[encoding].types >> column->physical_type & 1)) {
        bl_fail(err, BL_EFORMAT, "%s values encoded as %s are not read", column->type,
                encodings[encoding].name);
        return bl_error_remedy(err, "write the file again with the writer's default encodings");
    }
    struct source source = {.column = column,
                            .cursor = bl_cursor(data, size),
                            .dictionary = dictionary,
                            .count = count,
                            .memory = memory};
    /* Where all are null some writers leave even the head of their encoding out. */
    return count ? encodings[encoding].decode(&source, ret, err) : 0;
}

int levels_decode(const uint8_t *data, size_t size, int max, size_t count, uint8_t *ret,
                  struct bl_error *err)
{
    int width = 0;
    while (max >> width)
        width++;
    struct runs runs = runs_open(data, size, width);
    BL_TRY(runs_read_bytes(&runs, ret, count, err));
    for (size_t i = 0; i < count; i++)
        if (ret[i] > max)
            return bl_fail(err, BL_EFORMAT, "expected levels of 0 to %d, found %d", max, ret[i]);
    return 0;
}
