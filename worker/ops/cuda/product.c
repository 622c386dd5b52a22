/* worker/ops/cuda/product.c - see product.h. */
#include "worker/ops/cuda/product.h"

#include <stdlib.h>
#include <string.h>

#define WORKSPACE_BYTES (32 << 20)
#define PLANS 1024 /* kept; an older one of the same place gives way */

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

/* Of an operand that is rows x columns after `op`; batch of them are `stride` elements apart. */
static bool make_layout(struct cuda *cuda, cublasLtMatrixLayout_t *ret, cudaDataType_t type,
                        cublasOperation_t op, int64_t rows, int64_t columns, int64_t ld,
                        int64_t batch, int64_t stride)
{
    static const char what[] = "the layout of a matrix";
    const bool turned = op == CUBLAS_OP_T;
    const int32_t count = (int32_t)batch;
    return cuda_lt_ok(cuda,
                      cublasLtMatrixLayoutCreate(ret, type, (uint64_t)(turned ? columns : rows),
                                                 (uint64_t)(turned ? rows : columns), ld),
                      what) &&
           cuda_lt_ok(cuda,
                      cublasLtMatrixLayoutSetAttribute(*ret, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                       &count, sizeof count),
                      what) &&
           cuda_lt_ok(cuda,
                      cublasLtMatrixLayoutSetAttribute(*ret,
                                                       CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                       &stride, sizeof stride),
                      what);
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
           make_layout(cuda, &plan->a, p->type, p->op_a, p->m, p->k, p->lda, p->batch,
                       p->stride_a) &&
           make_layout(cuda, &plan->b, p->type, p->op_b, p->k, p->n, p->ldb, p->batch,
                       p->stride_b) &&
           make_layout(cuda, &plan->c, p->type_c, CUBLAS_OP_N, p->m, p->n, p->ldc, p->batch,
                       p->stride_c);
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

cudaDataType_t product_act_type(const struct cuda *cuda)
{
    return cuda->launch.act == CUDA_ACT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

struct product product_of(const struct cuda *cuda, cudaDataType_t type_c)
{
    struct product p;
    memset(&p, 0, sizeof p); /* its padding is compared, too */
    p.batch = 1;
    p.type = product_act_type(cuda);
    p.type_c = type_c;
    p.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return p;
}

void product_run(struct cuda *cuda, struct product *p, void *c, const void *a, const void *b,
                 const void *bias, bool accumulate)
{
    const float one = 1, beta = accumulate ? 1 : 0;
    if (cuda->ops.dry)
        return;
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

/* -- opening -- */

int cuda_matmul_open(struct cuda *cuda, struct bl_error *err)
{
    if (cuda->ops.dry)
        return cuda_alloc(&cuda->ops, WORKSPACE_BYTES, &cuda->workspace, err);
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
    cuda_release(&cuda->ops, cuda->workspace);
    if (cuda->lt)
        cublasLtDestroy(cuda->lt);
}
