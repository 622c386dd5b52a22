/* worker/ops/cpu/matmul.h - the matrix of a linear layer on the CPU. */
#pragma once

#include "worker/ops/cpu/cpu.h"

/* W (N,K). Its rows lie in one format: f32 (trainable, or small), else as stored. */
struct ops_matrix {
    int64_t N, K;
    enum bl_dtype dtype; /* of rows: BL_F32, BL_F16 or BL_BF16 */
    const void *rows;    /* borrowed from the caller, or == owned */
    void *owned;
};

/* Elements [first, first + count) widened to f32. */
static inline const char *matrix_at(const struct ops_matrix *matrix, int64_t first)
{
    return (const char *)matrix->rows + first * (matrix->dtype == BL_F32 ? 4 : 2);
}
