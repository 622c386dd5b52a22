/* worker/ops/cpu/matrix.h - the matrix of a linear layer on the CPU.
 *
 * Frozen     f32 precision keeps the data's type, the default one rounds to bf16. 16-bit rows are
 *            widened where they are multiplied; a matrix of at most cpu->wide_max elements once and
 *            for all, unless panels are made from it and it is not f16, which few rows cannot read as it lies. Data that
 *            may be kept and is right as it stands is not copied.
 * Trainable  the caller's f32 master itself.
 * Panels     with cpu->form, matrices with both sides above CPU_PANELS_MIN are multiplied by panels (panels.h), which are
 *            made from them on the way: nothing is kept. Those in bf16 have a form of their own where that takes fewer products.
 */
#pragma once

#include <string.h>

#include "worker/ops/cpu/cpu.h"
#include "worker/ops/cpu/functions.h"

/* W (N,K). */
struct ops_matrix {
    int64_t N, K;
    enum bl_dtype dtype; /* of rows: BL_F32, BL_F16 or BL_BF16 */
    const void *rows;    /* borrowed from the caller, or == owned */
    void *owned;
    int64_t borrowed;               /* bytes of a file that a dry device counts for it */
    const struct panels_form *form; /* NULL, or multiplied by panels */
};

/* The address of an element. */
static inline const char *matrix_at(const struct ops_matrix *matrix, int64_t index)
{
    return (const char *)matrix->rows + index * (matrix->dtype == BL_F32 ? 4 : 2);
}

static inline void widen(float *restrict y, const void *x, enum bl_dtype dtype, int64_t count)
{
    const uint16_t *half = x;
    if (dtype == BL_F32)
        memcpy(y, x, (size_t)count * sizeof *y);
    else if (dtype == BL_BF16)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = bf16_to_f32(half[i]);
    else
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f16_to_f32(half[i]);
}

static inline void narrow(uint16_t *restrict y, const float *x, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        y[i] = f32_to_bf16(x[i]);
}
