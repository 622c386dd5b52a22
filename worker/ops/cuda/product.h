/* worker/ops/cuda/product.h - matrix products by cuBLASLt, which matmul.c and operand.c ask for.
 *
 * cuBLASLt counts columns first: a row-major (R,C) with rows `ld` apart is its C x R.
 *
 * Types      bf16: operands bf16, f32 sums, results bf16 or f32. f32: everything f32, no TF32.
 * Plans      a product's descriptors and algorithm (algorithm.h), kept by shape.
 */
#pragma once

#include "worker/ops/cuda/cuda.h"

#define PRODUCT_WORKSPACE_BYTES ((size_t)32 << 20)

/* One product: C (m x n) = op(A) op(B), columns first; or one for each of `batch`, whose matrices are
 * stride_* elements apart. */
struct product {
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    int64_t batch, stride_a, stride_b, stride_c;
    cublasOperation_t op_a, op_b;
    cudaDataType_t type, type_c; /* of A and B; of C */
    cublasLtEpilogue_t epilogue;
    /* Of what product_run is given, and set by it: alignment in bytes, a power of two up to 256; is there a c to add to? */
    uint32_t align_a, align_b, align_c, align_d, adds;
};
_Static_assert(sizeof(struct product) == 10 * sizeof(int64_t) + 10 * sizeof(uint32_t),
               "its bytes are compared: none may be padding");

/* One product of operands of the device's `act` type, result of type_c; the rest is 0. */
struct product product_of(const struct cuda *cuda, cudaDataType_t type_c);
/* The device's `act` type. */
cudaDataType_t product_act_type(const struct cuda *cuda);
/* d = the product, or c + it where c is not NULL; c may be d. bias: of an epilogue that has one, m elements of C's type. */
void product_run(struct cuda *cuda, struct product *p, void *d, const void *a, const void *b,
                 const void *c, const void *bias);
