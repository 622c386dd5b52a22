/* worker/ops/cpu/matmul.h - the matrix of a linear layer on the CPU. */
#pragma once

#include "worker/ops/cpu/cpu.h"

/* W (N,K). Its rows lie in one format: f32 (trainable, or small), else as stored. */
struct ops_matrix {
    int64_t N, K;
    enum bl_dtype dtype; /* of rows: BL_F32, BL_F16 or BL_BF16 */
    const void *rows;    /* borrowed from the caller, or == owned */
    void *owned;
    struct matrix_packing *packing; /* NULL: its products are f32 */
};

/* bf16 copies for the products: each made when first needed, and again when the master changed. */
struct matrix_packing {
    struct packed *forward;  /* W^T (K,N) */
    struct packed *backward; /* W (N,K) */
    bool forward_fresh, backward_fresh;
};

/* The address of an element. */
static inline const char *matrix_at(const struct ops_matrix *matrix, int64_t index)
{
    return (const char *)matrix->rows + index * (matrix->dtype == BL_F32 ? 4 : 2);
}
