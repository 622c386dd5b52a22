/* worker/ops/cpu/pack.h - matrices laid out in whole vectors, as they lie or turned. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "common/size.h"
#include "worker/ops/cpu/vector.h"

static inline int64_t padded(int64_t columns)
{
    return bl_ceil_div(columns, VECTOR) * VECTOR;
}

/* rows x columns into rows of padded(columns), zeros behind. */
static inline void pack(float *restrict y, const float *x, int64_t ld_x, int64_t rows,
                        int64_t columns)
{
    const int64_t width = padded(columns);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(y + r * width, x + r * ld_x, (size_t)columns * sizeof *y);
        for (int64_t c = columns; c < width; c++)
            y[r * width + c] = 0;
    }
}

/* Its transpose: columns rows of padded(rows), zeros behind, ld_y apart. */
static inline void pack_transposed(float *restrict y, int64_t ld_y, const float *x, int64_t ld_x,
                                   int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r += VECTOR) {
        int64_t c = 0;
        for (; r + VECTOR <= rows && c + VECTOR <= columns; c += VECTOR) {
            vector block[VECTOR];
            for (int i = 0; i < VECTOR; i++)
                block[i] = *(const vector *)(x + (r + i) * ld_x + c);
            transpose(block);
            for (int i = 0; i < VECTOR; i++)
                *(vector *)(y + (c + i) * ld_y + r) = block[i];
        }
        for (; c < columns; c++)
            for (int64_t i = 0; i < VECTOR; i++)
                y[c * ld_y + r + i] = r + i < rows ? x[(r + i) * ld_x + c] : 0;
    }
}
