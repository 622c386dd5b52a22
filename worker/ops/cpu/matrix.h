/* worker/ops/cpu/matrix.h - the matrix of a linear layer on the CPU.
 *
 * Frozen     f32 precision keeps the data's type, the default one rounds to bf16. 16-bit rows are
 *            widened where they are multiplied; a matrix of at most cpu->wide_max elements once and
 *            for all. Data that may be kept and is right as it stands is not copied.
 * Trainable  the caller's f32 master itself.
 * bf16       where the processor multiplies bf16 (cpu->packed), W^T and W are packed (packed.h) when
 *            first multiplied, and again after matrix_refresh.
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
    struct matrix_packing *packing; /* NULL: products are f32 */
};

struct matrix_packing {
    struct packed *forward;  /* W^T (K,N) */
    struct packed *backward; /* W (N,K) */
    bool forward_fresh, backward_fresh;
};

/* The packed W^T (turned) or W, made or renewed. NULL: out of memory, which is recorded. */
struct packed *CPU_VARIANT(matrix_packed)(struct cpu *cpu, const struct ops_matrix *w, bool turned);

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
