/* worker/ops/cuda/matmul.c - matrices, linear layers, head and loss over cuBLASLt.
 *
 * cuBLASLt counts columns first: a row-major (R,C) with rows `ld` apart is its C x R. So
 *     forward          y (R,N)   = x W^T        N x R = (K x N)^T (K x R)
 *     backward input   d_x (R,K) = d_y W        K x R = (K x N) (N x R)
 *     backward weight  d_w (N,K) = d_y^T x      K x N = (K x R) (N x R)^T
 * with W (N,K), x (R,K), d_y (R,N).
 *
 * Types      bf16: operands bf16, f32 sums, results bf16 or (logits, weights' gradients) f32. f32:
 *            everything f32, no TF32.
 * Plans      a product's descriptors and algorithm, kept by shape. The algorithm is the heuristic's
 *            first for that shape: nothing is timed, so that two processes choose alike.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/ops/cuda/cuda.h"

#define WORKSPACE_BYTES (32 << 20)
#define LOGITS_BYTES ((int64_t)512 << 20) /* f32 logits at hand at a time */
#define PLANS 1024                        /* kept; an older one of the same place gives way */

/* W (N,K) */
struct ops_matrix {
    int64_t N, K;
    enum bl_dtype dtype; /* of rows: BL_F32 or BL_BF16 */
    const void *rows;    /* == owned, or the master */
    void *owned;
    const float *master; /* trainable ones */
};

/* One product: C (m x n) = alpha A B + beta C, columns first. */
struct product {
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    cublasOperation_t op_a, op_b;
    cudaDataType_t type, type_c; /* of A and B; of C */
    cublasLtEpilogue_t epilogue;
    uint32_t align_a, align_b, align_c; /* bytes, a power of two up to 256 */
};

struct cuda_plan {
    bool used;
    struct product product;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
};

/* -- plans -- */

static void plan_release(struct cuda_plan *plan)
{
    if (plan->desc)
        cublasLtMatmulDescDestroy(plan->desc);
    cublasLtMatrixLayout_t layouts[] = {plan->a, plan->b, plan->c};
    for (int i = 0; i < 3; i++)
        if (layouts[i])
            cublasLtMatrixLayoutDestroy(layouts[i]);
    *plan = (struct cuda_plan){0};
}

/* FNV-1a over the product's bytes, which its makers cleared. */
static size_t place_of(const struct product *product)
{
    const unsigned char *bytes = (const unsigned char *)product;
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *product; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return (hash ^ hash >> 32) % PLANS;
}

static cublasStatus_t make_layout(cublasLtMatrixLayout_t *ret, cudaDataType_t type,
                                  cublasOperation_t op, int64_t rows, int64_t columns, int64_t ld)
{
    bool turned = op == CUBLAS_OP_T;
    return cublasLtMatrixLayoutCreate(ret, type, (uint64_t)(turned ? columns : rows),
                                      (uint64_t)(turned ? rows : columns), ld);
}

static bool make_descriptors(struct cuda *cuda, struct cuda_plan *plan)
{
    const struct product *p = &plan->product;
    static const char what[] = "the description of a matrix product";
    cublasLtMatmulDesc_t *desc = &plan->desc;
    return cuda_lt_ok(cuda, cublasLtMatmulDescCreate(desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), what) &&
           cuda_lt_ok(cuda,
                      cublasLtMatmulDescSetAttribute(*desc, CUBLASLT_MATMUL_DESC_TRANSA, &p->op_a,
                                                     sizeof p->op_a),
                      what) &&
           cuda_lt_ok(cuda,
                      cublasLtMatmulDescSetAttribute(*desc, CUBLASLT_MATMUL_DESC_TRANSB, &p->op_b,
                                                     sizeof p->op_b),
                      what) &&
           cuda_lt_ok(cuda,
                      cublasLtMatmulDescSetAttribute(*desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                     &p->epilogue, sizeof p->epilogue),
                      what) &&
           cuda_lt_ok(cuda, make_layout(&plan->a, p->type, p->op_a, p->m, p->k, p->lda), what) &&
           cuda_lt_ok(cuda, make_layout(&plan->b, p->type, p->op_b, p->k, p->n, p->ldb), what) &&
           cuda_lt_ok(cuda, make_layout(&plan->c, p->type_c, CUBLAS_OP_N, p->m, p->n, p->ldc),
                      what);
}

static bool choose_algorithm(struct cuda *cuda, struct cuda_plan *plan)
{
    const struct product *p = &plan->product;
    static const char what[] = "the choice of an algorithm";
    size_t workspace = WORKSPACE_BYTES;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t size;
    } attributes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &p->align_a, sizeof p->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &p->align_b, sizeof p->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &p->align_c, sizeof p->align_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &p->align_c, sizeof p->align_c},
    };
    cublasLtMatmulPreference_t preference;
    if (!cuda_lt_ok(cuda, cublasLtMatmulPreferenceCreate(&preference), what))
        return false;
    bool good = true;
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes && good; i++)
        good =
            cuda_lt_ok(cuda,
                       cublasLtMatmulPreferenceSetAttribute(
                           preference, attributes[i].name, attributes[i].value, attributes[i].size),
                       what);
    cublasLtMatmulHeuristicResult_t result;
    int count = 0;
    cublasStatus_t rc = CUBLAS_STATUS_SUCCESS;
    if (good)
        rc = cublasLtMatmulAlgoGetHeuristic(cuda->lt, plan->desc, plan->a, plan->b, plan->c,
                                            plan->c, preference, 1, &result, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    if (good && (rc != CUBLAS_STATUS_SUCCESS || count == 0) && !cuda->failure.code)
        bl_fail(&cuda->failure, BL_EDEVICE,
                "%s: no algorithm for a product of %lld x %lld x %lld (cuBLASLt status %d)",
                cuda->name, (long long)p->m, (long long)p->n, (long long)p->k, (int)rc);
    if (good && count > 0)
        plan->algo = result.algo;
    return good && count > 0;
}

static bool set_bias(struct cuda *cuda, const struct cuda_plan *plan, const void *bias)
{
    return !bias ||
           cuda_lt_ok(cuda,
                      cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                     &bias, sizeof bias),
                      "a bias");
}

/* NULL: there is none, which is recorded. */
static const struct cuda_plan *plan_for(struct cuda *cuda, const struct product *product,
                                        const void *bias)
{
    struct cuda_plan *plan = &cuda->plans[place_of(product)];
    if (plan->used && memcmp(&plan->product, product, sizeof *product) == 0)
        return set_bias(cuda, plan, bias) ? plan : NULL;
    plan_release(plan);
    plan->product = *product;
    plan->used =
        make_descriptors(cuda, plan) && set_bias(cuda, plan, bias) && choose_algorithm(cuda, plan);
    return plan->used ? plan : NULL;
}

static uint32_t alignment(const void *p)
{
    uintptr_t at = (uintptr_t)p;
    uintptr_t lowest = at & (~at + 1);
    return at == 0 || lowest > 256 ? 256 : (uint32_t)lowest;
}

static struct product product_of(cudaDataType_t type, cudaDataType_t type_c)
{
    struct product p;
    memset(&p, 0, sizeof p); /* its padding is compared, too */
    p.type = type;
    p.type_c = type_c;
    p.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return p;
}

/* bias: of the epilogue CUBLASLT_EPILOGUE_BIAS, m elements of C's type. */
static void multiply(struct cuda *cuda, struct product *p, void *c, const void *a, const void *b,
                     const void *bias, bool accumulate)
{
    const float one = 1, beta = accumulate ? 1 : 0;
    p->align_a = alignment(a);
    p->align_b = alignment(b);
    p->align_c = alignment(c);
    const struct cuda_plan *plan = cuda->failure.code ? NULL : plan_for(cuda, p, bias);
    if (!plan)
        return;
    cuda_lt_ok(cuda,
               cublasLtMatmul(cuda->lt, plan->desc, &one, a, plan->a, b, plan->b, &beta, c, plan->c,
                              c, plan->c, &plan->algo, cuda->workspace, WORKSPACE_BYTES,
                              cuda->launch.stream),
               "a matrix product");
}

/* -- the three products -- */

static cudaDataType_t type_of(enum bl_dtype dtype)
{
    return dtype == BL_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cudaDataType_t act_type(const struct cuda *cuda)
{
    return type_of(cuda_act_dtype(cuda));
}

/* y (R,N) of type_y = x W^T + bias (NULL: none; of y's type) */
static void product_forward(struct cuda *cuda, void *y, cudaDataType_t type_y, const act *x,
                            const struct ops_matrix *w, const void *bias, int64_t R)
{
    struct product p = product_of(act_type(cuda), type_y);
    p.op_a = CUBLAS_OP_T;
    p.op_b = CUBLAS_OP_N;
    p.m = w->N;
    p.n = R;
    p.k = w->K;
    p.lda = p.ldb = w->K;
    p.ldc = w->N;
    if (bias)
        p.epilogue = CUBLASLT_EPILOGUE_BIAS;
    multiply(cuda, &p, y, w->rows, x, bias, false);
}

/* d_x (R,K) = or += d_y W; rows of d_y ld elements apart */
static void product_backward(struct cuda *cuda, act *d_x, const act *d_y, int64_t ld,
                             const struct ops_matrix *w, int64_t R, bool accumulate)
{
    struct product p = product_of(act_type(cuda), act_type(cuda));
    p.op_a = p.op_b = CUBLAS_OP_N;
    p.m = w->K;
    p.n = R;
    p.k = w->N;
    p.lda = p.ldc = w->K;
    p.ldb = ld;
    multiply(cuda, &p, d_x, w->rows, d_y, NULL, accumulate);
}

/* -- linear layers -- */

/* The bias in the results' type; NULL: memory ran out. */
static const void *bias_as_act(struct cuda *cuda, const float *bias, int64_t N)
{
    if (cuda->launch.act == CUDA_ACT_F32)
        return bias;
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
    bool plain = epilogue == OPS_NONE && !saved_pre;
    const void *fused = plain && bias ? bias_as_act(cuda, bias, w->N) : NULL;
    act *product = saved_pre ? saved_pre : y;
    product_forward(cuda, product, act_type(cuda), x, w, fused, R);
    if (!plain)
        cuda_ok(cuda,
                cuda_bias_activation(cuda->launch, y, saved_pre, product, bias, R, w->N, epilogue),
                "an activation");
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
    struct product p = product_of(act_type(cuda), CUDA_R_32F);
    p.op_a = CUBLAS_OP_N;
    p.op_b = CUBLAS_OP_T;
    p.m = p.lda = p.ldc = K;
    p.n = p.ldb = N;
    p.k = R;
    multiply(cuda, &p, d_w, x, d_y, NULL, true);
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
        product_forward(cuda, logits, CUDA_R_32F, ops_at(self, x, first * D), w, NULL, count);
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
                         enum bl_dtype dtype, int64_t N, int64_t K, bool keep_data,
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

static void matrix_refresh(struct ops *self, struct ops_matrix *matrix)
{
    struct cuda *cuda = cuda_of(self);
    if (matrix->owned)
        cuda_ok(cuda,
                cuda_convert(cuda->launch.stream, matrix->owned, BL_BF16, matrix->master, BL_F32,
                             matrix->N * matrix->K),
                "a matrix");
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
        matrix_refresh(self, matrix);
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

/* -- opening -- */

int cuda_matmul_open(struct cuda *cuda, struct bl_error *err)
{
    cublasStatus_t rc = cublasLtCreate(&cuda->lt);
    if (rc != CUBLAS_STATUS_SUCCESS) {
        bl_fail(err, BL_EDEVICE, "%s: cuBLASLt cannot be opened: status %d (%s)", cuda->name,
                (int)rc, cublasLtGetStatusString(rc));
        return bl_error_remedy(err, "install the cuBLAS of CUDA 13");
    }
    cuda->plans = calloc(PLANS, sizeof *cuda->plans);
    if (!cuda->plans)
        return bl_fail(err, BL_ENOMEM, "no memory for a list of plans");
    return cuda_alloc(&cuda->ops, WORKSPACE_BYTES, &cuda->workspace, err);
}

void cuda_matmul_close(struct cuda *cuda)
{
    for (int i = 0; cuda->plans && i < PLANS; i++)
        plan_release(&cuda->plans[i]);
    free(cuda->plans);
    cudaFree(cuda->workspace);
    if (cuda->lt)
        cublasLtDestroy(cuda->lt);
}

void cuda_fill_matmul(struct ops *table)
{
    table->matrix_frozen = matrix_frozen;
    table->matrix_trainable = matrix_trainable;
    table->matrix_refresh = matrix_refresh;
    table->matrix_free = matrix_free;
    table->linear_forward = linear_forward;
    table->linear_backward_input = linear_backward_input;
    table->linear_backward_weight = linear_backward_weight;
    table->embed = embed;
    table->head_loss = head_loss;
}
