/* common/parquet/runs.h - the two encodings of integers that levels, dictionary indices and lengths are made of. */
#pragma once

#include "common/cursor.h"
#include "common/error.h"

/* RLE / bit-packing hybrid: integers of 0 to 32 bits. */
struct runs {
    struct bl_cursor cursor;
    int width;
    uint64_t left; /* values of the current run */
    bool packed;   /* else all are `value` */
    uint32_t value;
    const uint8_t *bits; /* of a packed run */
    size_t bits_size, bit;
};
struct runs runs_open(const uint8_t *data, size_t size, int width);
/* The next values, all of them or -BL_EFORMAT. */
int runs_read(struct runs *runs, uint32_t *ret, size_t count, struct bl_error *err);
/* The same of at most 8 bits. */
int runs_read_bytes(struct runs *runs, uint8_t *ret, size_t count, struct bl_error *err);

/* DELTA_BINARY_PACKED at the cursor, which moves behind it: exactly count integers. Sums wrap at 64 bits. */
int delta_read(struct bl_cursor *cursor, size_t count, int64_t *ret, struct bl_error *err);
