/* worker/ops/cuda/matmul.c - matrices, linear layers, head and loss (product.h).
 *
 *     forward          y (R,N)   = x W^T        N x R = (K x N)^T (K x R)
 *     backward input   d_x (R,K) = d_y W        K x R = (K x N) (N x R)
 *     backward weight  d_w (N,K) = d_y^T x      K x N = (K x R) (N x R)^T
 * with W (N,K), x (R,K), d_y (R,N), columns first on the right. Logits and weights' gradients are f32. A residual is
 * added by the product (beta = 1); so is GELU's tanh form in bf16 (cuda.fuses_gelu), whose bias is rounded to bf16.
 */
#include <stdlib.h>

#include "worker/ops/cuda/product.h"

#define LOGITS_BYTES ((int64_t)512 << 20) /* f32 logits at hand at a time */

/* W (N,K) */
struct ops_matrix {
    int64_t N, K;
    enum bl_dtype dtype; /* of rows: BL_F32 or BL_BF16 */
    const void *rows;    /* == owned, or the master */
    void *owned;
    const float *master; /* trainable ones */
};

/* -- the three products -- */

/* y (R,N) of type_y = epilogue(base + x W^T + bias), base and bias of y's type or NULL: none. The epilogue is said
 * without its bias. */
static void product_forward(struct cuda *cuda, void *y, cudaDataType_t type_y, const void *base,
                            const act *x, const struct ops_matrix *w, const void *bias, int64_t R,
                            cublasLtEpilogue_t epilogue)
{
    struct product p = product_of(cuda, type_y);
    p.op_a = CUBLAS_OP_T;
    p.op_b = CUBLAS_OP_N;
    p.m = w->N;
    p.n = R;
    p.k = w->K;
    p.lda = p.ldb = w->K;
    p.ldc = w->N;
    p.epilogue = epilogue;
    if (bias)
        p.epilogue = epilogue == CUBLASLT_EPILOGUE_GELU ? CUBLASLT_EPILOGUE_GELU_BIAS
                                                        : CUBLASLT_EPILOGUE_BIAS;
    product_run(cuda, &p, y, w->rows, x, base, bias);
}

/* d_x (R,K) = or += d_y W; rows of d_y ld elements apart */
static void product_backward(struct cuda *cuda, act *d_x, const act *d_y, int64_t ld,
                             const struct ops_matrix *w, int64_t R, bool accumulate)
{
    struct product p = product_of(cuda, product_act_type(cuda));
    p.op_a = p.op_b = CUBLAS_OP_N;
    p.m = w->K;
    p.n = R;
    p.k = w->N;
    p.lda = p.ldc = w->K;
    p.ldb = ld;
    product_run(cuda, &p, d_x, w->rows, d_y, accumulate ? d_x : NULL, NULL);
}

/* -- linear layers -- */

/* The bias in the results' type; NULL: there is none, or memory ran out. */
static const void *bias_as_act(struct cuda *cuda, const float *bias, int64_t N)
{
    if (cuda->launch.act == CUDA_ACT_F32)
        return bias;
    if (!bias)
        return NULL;
    void *narrow = cuda_scratch(cuda, CUDA_SCRATCH_INNER, (size_t)N * 2);
    if (narrow)
        cuda_ok(cuda, cuda_convert(cuda->launch.stream, narrow, BL_BF16, bias, BL_F32, N),
                "a bias");
    return narrow;
}

static void linear_forward(struct ops *self, act *y, act *saved_pre, const act *x,
                           const struct ops_matrix *w, const float *bias, int64_t R,
                           enum ops_epilogue epilogue)
{
    struct cuda *cuda = cuda_of(self);
    if (R == 0)
        return;
    const cudaDataType_t type = product_act_type(cuda);
    const bool gelu = epilogue == OPS_GELU_TANH && cuda->fuses_gelu;
    if (!saved_pre && (epilogue == OPS_NONE || gelu)) {
        product_forward(cuda, y, type, NULL, x, w, bias_as_act(cuda, bias, w->N), R,
                        gelu ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT);
        return;
    }
    act *product = saved_pre ? saved_pre : y;
    product_forward(cuda, product, type, NULL, x, w, NULL, R, CUBLASLT_EPILOGUE_DEFAULT);
    if (!self->dry)
        cuda_ok(cuda,
                cuda_bias_activation(cuda->launch, y, saved_pre, product, bias, R, w->N, epilogue),
                "an activation");
}

static void linear_add(struct ops *self, act *y, const act *base, const act *x,
                       const struct ops_matrix *w, const float *bias, int64_t R)
{
    struct cuda *cuda = cuda_of(self);
    if (R > 0)
        product_forward(cuda, y, product_act_type(cuda), base, x, w, bias_as_act(cuda, bias, w->N),
                        R, CUBLASLT_EPILOGUE_DEFAULT);
}

static void linear_backward_input(struct ops *self, act *d_x, const act *d_y,
                                  const struct ops_matrix *w, int64_t R, bool accumulate)
{
    if (R > 0)
        product_backward(cuda_of(self), d_x, d_y, w->N, w, R, accumulate);
}

static void linear_backward_weight(struct ops *self, float *d_w, float *d_bias, const act *d_y,
                                   const act *x, int64_t R, int64_t N, int64_t K)
{
    struct cuda *cuda = cuda_of(self);
    if (R == 0)
        return;
    struct product p = product_of(cuda, CUDA_R_32F);
    p.op_a = CUBLAS_OP_N;
    p.op_b = CUBLAS_OP_T;
    p.m = p.lda = p.ldc = K;
    p.n = p.ldb = N;
    p.k = R;
    product_run(cuda, &p, d_w, x, d_y, d_w, NULL);
    if (!d_bias)
        return;
    void *scratch = cuda_scratch(cuda, CUDA_SCRATCH_INNER, cuda_column_sums_scratch(R, N));
    if (scratch)
        cuda_ok(cuda, cuda_column_sums(cuda->launch, d_bias, d_y, R, N, scratch),
                "a bias's gradient");
}

/* -- head and loss -- */

/* Logits of a block of rows at a time, in f32; their gradient takes their place. */
static void head_loss(struct ops *self, float *nll, uint8_t *correct, act *d_x, const act *x,
                      const struct ops_matrix *w, const int32_t *labels, int64_t R)
{
    struct cuda *cuda = cuda_of(self);
    if (R == 0)
        return;
    const int64_t V = w->N, D = w->K;
    const int64_t most = bl_max(1, LOGITS_BYTES / ((int64_t)sizeof(float) * V));
    const int64_t rows = bl_ceil_div(R, bl_ceil_div(R, most));
    const int64_t ld = cuda->launch.act == CUDA_ACT_BF16 ? 2 * V : V;
    float *logits = cuda_scratch(cuda, CUDA_SCRATCH_OUTER, (size_t)(rows * V) * sizeof *logits);
    for (int64_t first = 0; first < R && logits; first += rows) {
        const int64_t count = bl_min(rows, R - first);
        product_forward(cuda, logits, CUDA_R_32F, NULL, ops_at(self, x, first * D), w, NULL, count,
                        CUBLASLT_EPILOGUE_DEFAULT);
        cuda_ok(cuda,
                cuda_softmax_cross_entropy(
                    cuda->launch, nll + first, correct ? correct + first : NULL,
                    d_x ? (act *)logits : NULL, ld, logits, labels + first, count, V),
                "the loss");
        if (d_x)
            product_backward(cuda, ops_at(self, d_x, first * D), (const act *)logits, ld, w, count,
                             false);
    }
}

/* -- matrices -- */

static struct ops_matrix *new_matrix(int64_t N, int64_t K, enum bl_dtype dtype,
                                     struct bl_error *err)
{
    struct ops_matrix *matrix = calloc(1, sizeof *matrix);
    if (!matrix) {
        bl_fail(err, BL_ENOMEM, "no memory for a matrix");
        return NULL;
    }
    matrix->N = N;
    matrix->K = K;
    matrix->dtype = dtype;
    return matrix;
}

static void matrix_free(struct ops *self, struct ops_matrix **matrix)
{
    if (!*matrix)
        return;
    cuda_release(self, (*matrix)->owned);
    free(*matrix);
    *matrix = NULL;
}

/* Elements from host memory to *y of `to`, through scratch where the type changes. */
static void upload(struct cuda *cuda, void *y, enum bl_dtype to, const void *data,
                   enum bl_dtype from, int64_t count)
{
    const int64_t piece = 8 << 20;
    const size_t wide = from == BL_F32 ? 4 : 2, wanted = to == BL_F32 ? 4 : 2;
    if (from == to && cuda->ops.dry)
        return;
    if (from == to) {
        cuda_copy_in(&cuda->ops, y, data, (size_t)count * wide);
        return;
    }
    void *raw = cuda_scratch(cuda, CUDA_SCRATCH_INNER, (size_t)bl_min(piece, count) * wide);
    for (int64_t at = 0; at < count && raw; at += piece) {
        int64_t some = bl_min(piece, count - at);
        cuda_copy_in(&cuda->ops, raw, (const char *)data + (size_t)at * wide, (size_t)some * wide);
        cuda_ok(
            cuda,
            cuda_convert(cuda->launch.stream, (char *)y + (size_t)at * wanted, to, raw, from, some),
            "a matrix");
    }
}

/* Kept as what products take: bf16, or f32. */
static int matrix_frozen(struct ops *self, struct ops_matrix **ret, const void *data,
                         enum bl_dtype dtype, int64_t N, int64_t K, enum ops_data stays,
                         struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    enum bl_dtype kept = cuda_act_dtype(cuda);
    struct ops_matrix *matrix = new_matrix(N, K, kept, err);
    if (!matrix)
        return -BL_ENOMEM;
    int rc = cuda_alloc(self, (size_t)(N * K) * (kept == BL_F32 ? 4 : 2), &matrix->owned, err);
    if (rc < 0) {
        free(matrix);
        return rc;
    }
    matrix->rows = matrix->owned;
    upload(cuda, matrix->owned, kept, data, dtype, N * K);
    *ret = matrix;
    return 0;
}

/* In f32 products read the masters. */
static void matrices_refresh(struct ops *self, struct ops_matrix *const *matrices, int64_t count)
{
    struct cuda *cuda = cuda_of(self);
    if (cuda->launch.act == CUDA_ACT_F32 || self->dry)
        return;
    for (int64_t first = 0; first < count; first += CUDA_MASTERS_MAX) {
        struct cuda_masters list = {.count = (int32_t)bl_min(CUDA_MASTERS_MAX, count - first)};
        for (int32_t i = 0; i < list.count; i++) {
            const struct ops_matrix *w = matrices[first + i];
            list.at[i] = (struct cuda_master){w->owned, w->master, w->N * w->K};
        }
        cuda_ok(cuda, cuda_follow_masters(cuda->launch.stream, &list), "matrices");
    }
}

static int matrix_trainable(struct ops *self, struct ops_matrix **ret, const float *master,
                            int64_t N, int64_t K, struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    struct ops_matrix *matrix = new_matrix(N, K, cuda_act_dtype(cuda), err);
    if (!matrix)
        return -BL_ENOMEM;
    matrix->master = master;
    matrix->rows = master;
    if (matrix->dtype == BL_BF16) {
        int rc = cuda_alloc(self, (size_t)(N * K) * 2, &matrix->owned, err);
        if (rc < 0) {
            free(matrix);
            return rc;
        }
        matrix->rows = matrix->owned;
        matrices_refresh(self, &matrix, 1);
    }
    *ret = matrix;
    return 0;
}

static void embed(struct ops *self, act *y, const struct ops_matrix *table, const int32_t *ids,
                  int64_t R)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_embed(cuda->launch, y, table->rows, table->dtype, ids, R, table->K),
            "embedding");
}

void cuda_fill_matmul(struct ops *table)
{
    table->matrix_frozen = matrix_frozen;
    table->matrix_trainable = matrix_trainable;
    table->matrices_refresh = matrices_refresh;
    table->matrix_free = matrix_free;
    table->linear_forward = linear_forward;
    table->linear_add = linear_add;
    table->linear_backward_input = linear_backward_input;
    table->linear_backward_weight = linear_backward_weight;
    table->embed = embed;
    table->head_loss = head_loss;
}
