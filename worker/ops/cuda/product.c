/* worker/ops/cuda/product.c - see product.h. */
#include "worker/ops/cuda/product.h"

#include <stdlib.h>
#include <string.h>

#include "worker/ops/cuda/algorithm.h"

#define PLANS 1024 /* kept; an older one of the same place gives way */

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

static bool set_bias(struct cuda *cuda, const struct cuda_plan *plan, const void *bias)
{
    return !bias ||
           cuda_lt_ok(cuda,
                      cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                     &bias, sizeof bias),
                      "a bias");
}

/* NULL: there is none, which is recorded. */
static struct cuda_plan *plan_for(struct cuda *cuda, const struct product *product,
                                  const void *bias, const struct product_place *place)
{
    struct cuda_plan *plan = &cuda->plans[place_of(product)];
    if (plan->used && memcmp(&plan->product, product, sizeof *product) == 0)
        return set_bias(cuda, plan, bias) ? plan : NULL;
    plan_release(plan);
    plan->product = *product;
    plan->used = make_descriptors(cuda, plan) && set_bias(cuda, plan, bias) &&
                 algorithms_choose(cuda, plan, place);
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
    return (struct product){.batch = 1,
                            .type = product_act_type(cuda),
                            .type_c = type_c,
                            .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
}

/* By the first of the plan's algorithms that is not refused; those before it are forgotten. */
static cublasStatus_t run_plan(struct cuda *cuda, struct cuda_plan *plan,
                               const struct product_place *place)
{
    for (;;) {
        cublasStatus_t rc = algorithm_run(cuda, plan, &plan->algorithms[0], place);
        if (rc != CUBLAS_STATUS_NOT_SUPPORTED)
            return rc;
        if (plan->of_class && algorithms_find(cuda, plan))
            continue;
        if (plan->algorithm_count < 2)
            return rc;
        plan->algorithm_count--;
        memmove(plan->algorithms, plan->algorithms + 1,
                (size_t)plan->algorithm_count * sizeof *plan->algorithms);
    }
}

void product_run(struct cuda *cuda, struct product *p, void *d, const void *a, const void *b,
                 const void *c, const void *bias)
{
    const struct product_place place = {d, a, b, c};
    if (cuda->ops.dry) {
        algorithms_reserve(cuda, p, &place);
        return;
    }
    p->align_a = alignment(a);
    p->align_b = alignment(b);
    p->align_c = alignment(c ? c : d);
    p->align_d = alignment(d);
    p->adds = c != NULL;
    struct cuda_plan *plan = cuda->failure.code ? NULL : plan_for(cuda, p, bias, &place);
    if (plan)
        cuda_lt_ok(cuda, run_plan(cuda, plan, &place), "a matrix product");
}

/* -- opening -- */

int cuda_matmul_open(struct cuda *cuda, struct bl_error *err)
{
    if (cuda->ops.dry)
        return cuda_alloc(&cuda->ops, PRODUCT_WORKSPACE_BYTES, &cuda->workspace, err);
    cublasStatus_t rc = cublasLtCreate(&cuda->lt);
    if (rc != CUBLAS_STATUS_SUCCESS) {
        bl_fail(err, BL_EDEVICE, "%s: cuBLASLt cannot be opened: status %d (%s)", cuda->name,
                (int)rc, cublasLtGetStatusString(rc));
        return bl_error_remedy(err, "install the cuBLAS of CUDA 13");
    }
    cuda->plans = calloc(PLANS, sizeof *cuda->plans);
    if (!cuda->plans)
        return bl_fail(err, BL_ENOMEM, "no memory for a list of plans");
    BL_TRY(algorithms_open(cuda, err));
    return cuda_alloc(&cuda->ops, PRODUCT_WORKSPACE_BYTES, &cuda->workspace, err);
}

void cuda_matmul_close(struct cuda *cuda)
{
    for (int i = 0; cuda->plans && i < PLANS; i++)
        plan_release(&cuda->plans[i]);
    free(cuda->plans);
    algorithms_close(cuda);
    cuda_release(&cuda->ops, cuda->workspace);
    if (cuda->lt)
        cublasLtDestroy(cuda->lt);
}
