/* common/image/resize_image.c - PIL's resize, bit for bit.
 *
 * Position i of an axis of n source and m result positions lies at c = (i + 0.5) n / m in the
 * source; with s = max(n / m, 1) the sources x within support * s of it weigh
 * f((x + 0.5 - c) / s), normalised to sum 1 in double precision, then rounded to 22 bits. f is the
 * triangle (support 1), or Keys' cubic with a = -0.5 (support 2; R. Keys, "Cubic convolution
 * interpolation for digital image processing", 1981). Rows and columns are separate passes with
 * u8 between them. */
#include "common/image/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/size.h"

static double triangle(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static void axis_release(struct resize_axis *axis)
{
    free(axis->first);
    free(axis->count);
    free(axis->weights);
    free(axis->high);
    free(axis->low);
    for (int d = 0; d < 3; d++)
        free(axis->digits[d]);
}

static void set_weight(struct resize_axis *axis, int64_t place, int32_t weight)
{
    axis->weights[place] = weight;
    axis->high[place] = (int16_t)(weight >> RESIZE_LOW_BITS);
    axis->low[place] = (int16_t)(weight & ((1 << RESIZE_LOW_BITS) - 1));
    for (int d = 0; d < 3; d++) {
        axis->digits[d][place] = (int8_t)weight;
        weight = (weight - (int8_t)weight) / 256;
    }
}

/* Weights of result position i; scratch has axis->taps places. */
static void axis_fill(struct resize_axis *axis, int64_t i, double support, enum image_filter filter,
                      double *scratch)
{
    double scale = (double)axis->from / (double)axis->to, stretch = scale > 1.0 ? scale : 1.0;
    double center = ((double)i + 0.5) * scale, sum = 0, inverse = 1.0 / stretch;
    int64_t first = bl_max((int64_t)(center - support + 0.5), 0);
    int64_t count = bl_min((int64_t)(center + support + 0.5), axis->from) - first;
    for (int64_t t = 0; t < count; t++) {
        double x = ((double)(t + first) - center + 0.5) * inverse;
        scratch[t] = filter == IMAGE_BICUBIC ? cubic(x) : triangle(x);
        sum += scratch[t];
    }
    axis->first[i] = (int32_t)first;
    axis->count[i] = (int32_t)count;
    for (int64_t t = 0; t < count; t++) {
        double weight = (sum != 0.0 ? scratch[t] / sum : scratch[t]) * (1 << RESIZE_PRECISION);
        set_weight(axis, i * axis->taps + t, (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5));
    }
}

static int axis_plan(struct resize_axis *axis, int64_t from, int64_t to, enum image_filter filter,
                     struct bl_error *err)
{
    double scale = (double)from / (double)to;
    double support = (filter == IMAGE_BICUBIC ? 2.0 : 1.0) * (scale > 1.0 ? scale : 1.0);
    axis->from = from;
    axis->to = to;
    axis->taps = bl_ceil_div((int64_t)ceil(support) * 2 + 1, 4) * 4;
    size_t count = (size_t)(to * axis->taps); /* about 4 * from, so small */
    axis->first = calloc((size_t)to, sizeof *axis->first);
    axis->count = calloc((size_t)to, sizeof *axis->count);
    axis->weights = calloc(count, sizeof *axis->weights);
    axis->high = calloc(count, sizeof *axis->high);
    axis->low = calloc(count, sizeof *axis->low);
    for (int d = 0; d < 3; d++)
        axis->digits[d] = calloc(count, sizeof *axis->digits[d]);
    bl_autofree double *scratch = calloc((size_t)axis->taps, sizeof *scratch);
    if (!axis->first || !axis->count || !axis->weights || !axis->high || !axis->low ||
        !axis->digits[0] || !axis->digits[1] || !axis->digits[2] || !scratch)
        return bl_fail(err, BL_ENOMEM, "no memory to resize %lld to %lld pixels", (long long)from,
                       (long long)to);
    for (int64_t i = 0; i < to; i++)
        axis_fill(axis, i, support, filter, scratch);
    return 0;
}

/* The row at `row`, or where fewer than RESIZE_SLACK readable bytes follow it a copy in `padded`.
 */
static const uint8_t *with_slack(const uint8_t *row, size_t row_bytes, const uint8_t *end,
                                 uint8_t *padded)
{
    if ((size_t)(end - row) >= row_bytes + RESIZE_SLACK)
        return row;
    return memcpy(padded, row, row_bytes);
}

/* out (image->height, width, 3) */
static int resize_width(const struct resize_passes *passes, const struct image *image,
                        int64_t width, enum image_filter filter, uint8_t *out, struct bl_error *err)
{
    __attribute__((cleanup(axis_release))) struct resize_axis axis = {0};
    BL_TRY(axis_plan(&axis, image->width, width, filter, err));
    size_t row_bytes = (size_t)image->width * 3, out_bytes = (size_t)width * 3;
    size_t padded_bytes = row_bytes + RESIZE_SLACK;
    bl_autofree uint8_t *padded = calloc(RESIZE_ROWS, padded_bytes);
    bl_autofree uint8_t *unused = malloc(RESIZE_ROWS * out_bytes);
    if (!padded || !unused)
        return bl_fail(err, BL_ENOMEM, "no memory to resize rows of %lld pixels",
                       (long long)image->width);
    const uint8_t *end = image->pixels + (size_t)image->height * row_bytes;
    for (int64_t y = 0; y < image->height; y += RESIZE_ROWS) {
        const uint8_t *rows[RESIZE_ROWS];
        uint8_t *outs[RESIZE_ROWS];
        for (int64_t r = 0; r < RESIZE_ROWS; r++) {
            bool exists = y + r < image->height; /* a row too many repeats the last, for nothing */
            int64_t from = bl_min(y + r, image->height - 1);
            rows[r] = with_slack(image->pixels + (size_t)from * row_bytes, row_bytes, end,
                                 padded + (size_t)r * padded_bytes);
            outs[r] = exists ? out + (size_t)from * out_bytes : unused + (size_t)r * out_bytes;
        }
        passes->horizontal(&axis, rows, outs);
    }
    return 0;
}

/* out (height, image->width, 3) */
static int resize_height(const struct resize_passes *passes, const struct image *image,
                         int64_t height, enum image_filter filter, uint8_t *out,
                         struct bl_error *err)
{
    __attribute__((cleanup(axis_release))) struct resize_axis axis = {0};
    BL_TRY(axis_plan(&axis, image->height, height, filter, err));
    size_t row_bytes = (size_t)image->width * 3;
    for (int64_t y = 0; y < height; y++)
        passes->vertical(&axis, y, image->pixels, row_bytes, out + (size_t)y * row_bytes);
    return 0;
}

/* Pillow 13's choice (earlier versions always took rows first): columns first where that spares
 * more than twice as many lines. It shows in the result, as the picture between the passes has 8
 * bits. */
static bool columns_first(const struct image *image, int64_t out_width, int64_t out_height)
{
    return image->height - out_height > 2 * bl_max(image->width - out_width, 0);
}

int image_resize_by(const struct resize_passes *passes, const struct image *image,
                    int64_t out_width, int64_t out_height, enum image_filter filter, uint8_t *out,
                    struct bl_error *err)
{
    BL_ASSERT_CMP(image->width * image->height, >, 0);
    BL_ASSERT(filter == IMAGE_BILINEAR || filter == IMAGE_BICUBIC);
    if (out_width < 1 || out_height < 1 || out_width > BL_IMAGE_SIDE_MAX ||
        out_height > BL_IMAGE_SIDE_MAX)
        return bl_fail(err, BL_ELIMIT, "expected sides of 1 to %d pixels, found %lld x %lld",
                       BL_IMAGE_SIDE_MAX, (long long)out_width, (long long)out_height);
    if (out_width == image->width && out_height == image->height) {
        memcpy(out, image->pixels, (size_t)(out_width * out_height * 3));
        return 0;
    }
    if (out_height == image->height)
        return resize_width(passes, image, out_width, filter, out, err);
    if (out_width == image->width)
        return resize_height(passes, image, out_height, filter, out, err);

    bool columns = columns_first(image, out_width, out_height);
    bl_autoimage struct image between = {.width = columns ? image->width : out_width,
                                         .height = columns ? out_height : image->height};
    between.pixels = malloc((size_t)(between.width * between.height * 3));
    if (!between.pixels)
        return bl_fail(err, BL_ENOMEM, "no memory to resize to %lld x %lld pixels",
                       (long long)between.width, (long long)between.height);
    if (columns) {
        BL_TRY(resize_height(passes, image, out_height, filter, between.pixels, err));
        return resize_width(passes, &between, out_width, filter, out, err);
    }
    BL_TRY(resize_width(passes, image, out_width, filter, between.pixels, err));
    return resize_height(passes, &between, out_height, filter, out, err);
}

static const struct resize_passes *best_passes(void)
{
    if (resize_avx512())
        return resize_avx512();
    return resize_avx2() ? resize_avx2() : &resize_plain;
}

int image_resize(const struct image *image, int64_t out_width, int64_t out_height,
                 enum image_filter filter, uint8_t *out, struct bl_error *err)
{
    return image_resize_by(best_passes(), image, out_width, out_height, filter, out, err);
}
