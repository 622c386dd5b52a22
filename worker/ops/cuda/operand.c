/* worker/ops/cuda/operand.c - products of each sample that share an operand x (S,N,D):
 *
 *     transposed   y (S,M,N)   = a x^T      N x M = (D x N)^T (D x M)
 *     plain        y (S,M,D)   = a x        D x M = (D x N) (N x M)
 *     backward     d_x (S,N,D) += a^T b     D x N = (D x M) (N x M)^T
 * columns first on the right. Rows of N lie ops_score_ld(N) apart, which suits vectors of 16 bytes.
 */
#include <stdlib.h>

#include "worker/ops/cuda/product.h"

struct ops_operand {
    int64_t S, N, D;
    const act *x; /* borrowed */
};

static int operand_create(struct ops *self, struct ops_operand **ret, int64_t N, int64_t D,
                          struct bl_error *err)
{
    struct ops_operand *operand = calloc(1, sizeof *operand);
    if (!operand)
        return bl_fail(err, BL_ENOMEM, "no memory for an operand");
    operand->N = N;
    operand->D = D;
    *ret = operand;
    return 0;
}

static void operand_free(struct ops *self, struct ops_operand **operand)
{
    free(*operand);
    *operand = NULL;
}

static void operand_set(struct ops *self, struct ops_operand *operand, const act *x, int64_t S)
{
    operand->x = x;
    operand->S = S;
}

static void product_transposed(struct ops *self, act *y, const act *a, const struct ops_operand *x,
                               int64_t M)
{
    struct cuda *cuda = cuda_of(self);
    const int64_t N = x->N, D = x->D, ld = ops_score_ld(self, N);
    if (x->S == 0)
        return;
    struct product p = product_of(cuda, product_act_type(cuda));
    p.op_a = CUBLAS_OP_T;
    p.op_b = CUBLAS_OP_N;
    p.m = N;
    p.n = M;
    p.k = p.lda = p.ldb = D;
    p.ldc = ld;
    p.batch = x->S;
    p.stride_a = N * D;
    p.stride_b = M * D;
    p.stride_c = M * ld;
    product_run(cuda, &p, y, x->x, a, NULL, NULL);
}

static void product(struct ops *self, act *y, const act *a, const struct ops_operand *x, int64_t M)
{
    struct cuda *cuda = cuda_of(self);
    const int64_t N = x->N, D = x->D, ld = ops_score_ld(self, N);
    if (x->S == 0)
        return;
    struct product p = product_of(cuda, product_act_type(cuda));
    p.op_a = p.op_b = CUBLAS_OP_N;
    p.m = p.lda = p.ldc = D;
    p.n = M;
    p.k = N;
    p.ldb = ld;
    p.batch = x->S;
    p.stride_a = N * D;
    p.stride_b = M * ld;
    p.stride_c = M * D;
    product_run(cuda, &p, y, x->x, a, NULL, NULL);
}

static void product_backward(struct ops *self, float *d_x, const act *a, const act *b,
                             const struct ops_operand *x, int64_t M)
{
    struct cuda *cuda = cuda_of(self);
    const int64_t N = x->N, D = x->D, ld = ops_score_ld(self, N);
    if (x->S == 0)
        return;
    struct product p = product_of(cuda, CUDA_R_32F);
    p.op_a = CUBLAS_OP_N;
    p.op_b = CUBLAS_OP_T;
    p.m = p.lda = p.ldc = D;
    p.n = N;
    p.k = M;
    p.ldb = ld;
    p.batch = x->S;
    p.stride_a = M * D;
    p.stride_b = M * ld;
    p.stride_c = N * D;
    product_run(cuda, &p, d_x, b, a, d_x, NULL);
}

void cuda_fill_operand(struct ops *table)
{
    table->operand_create = operand_create;
    table->operand_free = operand_free;
    table->operand_set = operand_set;
    table->product_transposed = product_transposed;
    table->product = product;
    table->product_backward = product_backward;
}
