/* common/parquet/runs.c - runs of equal values or of packed bits, and packed differences.
 *
 * Hybrid: each run has a varint head. Odd: head >> 1 groups of 8 values, packed from the lowest bit up. Even: head >> 1 times the
 * value that follows in whole bytes.
 * Delta: varints of block size, miniblocks in a block, count, first value (zigzag); then blocks: the least difference (zigzag), a
 * width for each miniblock, the miniblocks' packed differences from the least one. */
#include "common/parquet/runs.h"

#include <string.h>

#include "common/parquet/thrift.h"
#include "common/size.h"

/* width bits from that bit on; what lies beyond the data is 0. */
static inline uint64_t bits_at(const uint8_t *data, size_t size, size_t bit, unsigned width)
{
    size_t byte = bit >> 3;
    unsigned shift = bit & 7;
    uint64_t low = 0, high = 0;
    if (__builtin_expect(size - byte >= 9, 1)) {
        memcpy(&low, data + byte, 8);
        high = data[byte + 8];
    } else {
        memcpy(&low, data + byte, size - byte < 8 ? size - byte : 8);
    }
    uint64_t value = low >> shift;
    if (shift)
        value |= high << (64 - shift);
    return width < 64 ? value & ((UINT64_C(1) << width) - 1) : value;
}

struct runs runs_open(const uint8_t *data, size_t size, int width)
{
    return (struct runs){.cursor = bl_cursor(data, size), .width = width};
}

static bool open_packed(struct runs *r, uint64_t groups)
{
    size_t width = (size_t)r->width, size, count;
    if (!bl_mul(groups, width, &size) || !bl_mul(groups, 8, &count))
        return false;
    /* Some writers leave the padding of the last run out. */
    if (size > r->cursor.left) {
        size = r->cursor.left;
        count = size * 8 / width;
    }
    r->left = count;
    r->bits_size = size;
    r->bit = 0;
    return bl_cursor_take(&r->cursor, size, &r->bits);
}

static bool open_repeated(struct runs *r, uint64_t count)
{
    const uint8_t *bytes;
    size_t size = (size_t)(r->width + 7) / 8;
    if (!bl_cursor_take(&r->cursor, size, &bytes))
        return false;
    r->value = size ? (uint32_t)bits_at(bytes, size, 0, (unsigned)size * 8) : 0;
    r->left = count;
    return true;
}

/* So that there is a value left. */
static int next_run(struct runs *r, size_t wanted, struct bl_error *err)
{
    while (r->left == 0) {
        uint64_t head;
        bool opened = varint_read(&r->cursor, &head);
        r->packed = opened && (head & 1);
        opened = opened && (r->packed ? open_packed(r, head >> 1) : open_repeated(r, head >> 1));
        if (!opened)
            return bl_fail(err, BL_EFORMAT,
                           "expected runs of %zu more values, found the end of their bytes",
                           wanted);
    }
    return 0;
}

/* Both readers, of which only the type of the result differs. */
#define RUNS_READ(r, ret, count, err)                                                              \
    while (count > 0) {                                                                            \
        BL_TRY(next_run(r, count, err));                                                           \
        size_t n = r->left < count ? r->left : count;                                              \
        for (size_t i = 0; r->packed && i < n; i++, r->bit += (size_t)r->width)                    \
            ret[i] = (__typeof__(*ret))bits_at(r->bits, r->bits_size, r->bit, (unsigned)r->width); \
        for (size_t i = 0; !r->packed && i < n; i++)                                               \
            ret[i] = (__typeof__(*ret))r->value;                                                   \
        r->left -= n;                                                                              \
        ret += n;                                                                                  \
        count -= n;                                                                                \
    }

int runs_read(struct runs *r, uint32_t *ret, size_t count, struct bl_error *err)
{
    RUNS_READ(r, ret, count, err)
    return 0;
}

int runs_read_bytes(struct runs *r, uint8_t *ret, size_t count, struct bl_error *err)
{
    RUNS_READ(r, ret, count, err)
    return 0;
}

/* --- Differences. --- */

struct delta {
    struct bl_cursor *cursor;
    uint64_t miniblock_count, miniblock_values;
    uint64_t last; /* the value before */
};

static bool read_head(struct delta *d, uint64_t *ret_count)
{
    uint64_t block_values, first;
    if (!varint_read(d->cursor, &block_values) || !varint_read(d->cursor, &d->miniblock_count) ||
        !varint_read(d->cursor, ret_count) || !varint_read(d->cursor, &first))
        return false;
    if (d->miniblock_count == 0 || block_values % d->miniblock_count)
        return false;
    d->miniblock_values = block_values / d->miniblock_count;
    d->last = (uint64_t)varint_zigzag(first);
    return d->miniblock_values > 0 && d->miniblock_values % 8 == 0;
}

static bool read_miniblock(struct delta *d, unsigned width, uint64_t least, size_t count,
                           int64_t *ret)
{
    const uint8_t *bits;
    size_t size;
    if (width > 64 || !bl_mul(d->miniblock_values / 8, width, &size))
        return false;
    /* The padding of the last one may be left out. */
    if (size > d->cursor->left && (count * width + 7) / 8 <= d->cursor->left)
        size = d->cursor->left;
    if (!bl_cursor_take(d->cursor, size, &bits))
        return false;
    for (size_t i = 0; i < count; i++) {
        d->last += least + (width ? bits_at(bits, size, i * width, width) : 0);
        ret[i] = (int64_t)d->last;
    }
    return true;
}

/* Miniblocks behind the last value have a width, and no bytes. */
static bool read_block(struct delta *d, size_t *left, int64_t **ret)
{
    uint64_t least;
    const uint8_t *widths;
    if (!varint_read(d->cursor, &least) || !bl_cursor_take(d->cursor, d->miniblock_count, &widths))
        return false;
    for (uint64_t i = 0; i<d->miniblock_count && * left> 0; i++) {
        size_t count = (size_t)bl_min((int64_t)*left, (int64_t)(d->miniblock_values & INT64_MAX));
        if (!read_miniblock(d, widths[i], (uint64_t)varint_zigzag(least), count, *ret))
            return false;
        *left -= count;
        *ret += count;
    }
    return true;
}

int delta_read(struct bl_cursor *cursor, size_t count, int64_t *ret, struct bl_error *err)
{
    struct delta d = {.cursor = cursor};
    uint64_t found = 0;
    if (!read_head(&d, &found))
        return bl_fail(err, BL_EFORMAT,
                       "expected the head of DELTA_BINARY_PACKED integers, found other bytes");
    if (found != count)
        return bl_fail(err, BL_EFORMAT, "expected %zu DELTA_BINARY_PACKED integers, found %llu",
                       count, (unsigned long long)found);
    if (count == 0)
        return 0;
    *ret++ = (int64_t)d.last;
    for (size_t left = count - 1; left > 0;)
        if (!read_block(&d, &left, &ret))
            return bl_fail(
                err, BL_EFORMAT,
                "expected %zu more DELTA_BINARY_PACKED integers, found the end of their bytes",
                left);
    return 0;
}
