/* common/image/resize_plain.c - the two passes in plain C. */
#include "common/image/resize.h"

static uint8_t clip(int32_t sum)
{
    int32_t value = (sum + (1 << (RESIZE_PRECISION - 1))) >> RESIZE_PRECISION;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void plain_horizontal(const struct resize_axis *axis, const uint8_t *const rows[RESIZE_ROWS],
                             uint8_t *const outs[RESIZE_ROWS])
{
    for (int r = 0; r < RESIZE_ROWS; r++)
        for (int64_t i = 0; i < axis->to; i++) {
            const int32_t *weights = axis->weights + i * axis->taps;
            const uint8_t *source = rows[r] + 3 * axis->first[i];
            int32_t sums[3] = {0};
            for (int64_t t = 0; t < axis->count[i]; t++)
                for (int64_t c = 0; c < 3; c++)
                    sums[c] += weights[t] * source[3 * t + c];
            for (int64_t c = 0; c < 3; c++)
                outs[r][3 * i + c] = clip(sums[c]);
        }
}

void resize_vertical_rest(const struct resize_axis *axis, int64_t i, const uint8_t *source,
                          size_t row_bytes, size_t start, uint8_t *out)
{
    const int32_t *weights = axis->weights + i * axis->taps;
    source += (size_t)axis->first[i] * row_bytes;
    for (size_t x = start; x < row_bytes; x++) {
        int32_t sum = 0;
        for (int64_t t = 0; t < axis->count[i]; t++)
            sum += weights[t] * source[(size_t)t * row_bytes + x];
        out[x] = clip(sum);
    }
}

static void plain_vertical(const struct resize_axis *axis, int64_t i, const uint8_t *source,
                           size_t row_bytes, uint8_t *out)
{
    resize_vertical_rest(axis, i, source, row_bytes, 0, out);
}

const struct resize_passes resize_plain = {"plain", plain_horizontal, plain_vertical};
