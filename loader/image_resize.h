/* loader/image_resize.h - the two passes of a resize, plain and by vector instructions. Private to
 * the image room and its tests. */
#pragma once

#include <stdbool.h>

#include "loader/image.h"

/* What one pass does along its axis: position i of the result is the sum over t < taps of
 * weights[i * taps + t] * source[first[i] + t], in 1/2^22, rounded and clipped to u8. Only the
 * first count[i] weights are not zero, and only they have a source; taps is a multiple of 4. */
struct resize_axis {
    int64_t from, to; /* sizes */
    int64_t taps;
    int32_t *first, *count; /* (to) */
    int32_t *weights;       /* (to, taps) */
    /* The same split for 16-bit multipliers: weight = high * 2^12 + low, 0 <= low < 2^12. */
    int16_t *high, *low; /* (to, taps) */
};

struct resize_passes {
    const char *name;
    /* row (axis->to, 3) from two source rows of (axis->from, 3) at once; a and b may be the same.
     * RESIZE_SLACK bytes behind the end of a and of b are readable. */
    void (*horizontal)(const struct resize_axis *axis, const uint8_t *a, const uint8_t *b,
                       uint8_t *out_a, uint8_t *out_b);
    /* Row i of the result, row_bytes long, from rows of `source`, row_bytes apart. */
    void (*vertical)(const struct resize_axis *axis, int64_t i, const uint8_t *source,
                     size_t row_bytes, uint8_t *out);
};
enum { RESIZE_PRECISION = 22, RESIZE_LOW_BITS = 12, RESIZE_SLACK = 32 };

extern const struct resize_passes resize_plain; /* the readable truth */
#ifdef __x86_64__
extern const struct resize_passes resize_avx2;
#endif

/* image_resize by the given passes. */
int image_resize_by(const struct resize_passes *passes, const struct image *image,
                    int64_t out_width, int64_t out_height, enum image_filter filter, uint8_t *out,
                    struct bl_error *err);
