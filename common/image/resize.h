/* common/image/resize.h - the two passes of a resize, plain and by vector instructions. Private to
 * the image room and its tests. */
#pragma once

#include <stdbool.h>
#include <string.h>

#include "common/image/image.h"

/* What one pass does along its axis: position i of the result is the sum over t < taps of
 * weights[i * taps + t] * source[first[i] + t], in 1/2^22, rounded and clipped to u8. Only the first
 * count[i] weights are not zero, and only they have a source; taps is a multiple of 4. */
struct resize_axis {
    int64_t from, to; /* sizes */
    int64_t taps;
    int32_t *first, *count; /* (to) */
    int32_t *weights;       /* (to, taps) */
    /* The same for 16-bit multipliers: weight = high * 2^12 + low, 0 <= low < 2^12. */
    int16_t *high, *low; /* (to, taps) */
    /* The same for 8-bit multipliers: weight = sum of digits[d] * 2^(8 d), digits -128 to 127. */
    int8_t *digits[3]; /* (to, taps) */
};

enum { RESIZE_PRECISION = 22, RESIZE_LOW_BITS = 12, RESIZE_ROWS = 4, RESIZE_SLACK = 32 };

struct resize_passes {
    const char *name;
    /* Each out (axis->to, 3) from its row (axis->from, 3). RESIZE_SLACK bytes behind the end of each
     * row are readable; rows may be the same, outs are not. */
    void (*horizontal)(const struct resize_axis *axis, const uint8_t *const rows[RESIZE_ROWS],
                       uint8_t *const outs[RESIZE_ROWS]);
    /* Row i of the result, row_bytes long, from rows of `source`, row_bytes apart. */
    void (*vertical)(const struct resize_axis *axis, int64_t i, const uint8_t *source,
                     size_t row_bytes, uint8_t *out);
};

/* Three bytes of a pixel; before the last of a row four in one store, as the next pixel covers it. */
static inline void resize_put_pixel(uint8_t *out, const uint8_t pixel[4], bool last)
{
    if (last)
        memcpy(out, pixel, 3);
    else
        memcpy(out, pixel, 4);
}

/* Bytes [start, row_bytes) of row i of the result, by plain sums: all of it, or what is left of a row
 * behind the last whole vector. */
void resize_vertical_rest(const struct resize_axis *axis, int64_t i, const uint8_t *source,
                          size_t row_bytes, size_t start, uint8_t *out);

/* The plain passes are the readable truth. NULL where this processor lacks the instructions. */
extern const struct resize_passes resize_plain;
const struct resize_passes *resize_avx2(void);
const struct resize_passes *resize_avx512(void); /* needs VNNI */

/* image_resize by the given passes. */
int image_resize_by(const struct resize_passes *passes, const struct image *image,
                    int64_t out_width, int64_t out_height, enum image_filter filter, uint8_t *out,
                    struct bl_error *err);
