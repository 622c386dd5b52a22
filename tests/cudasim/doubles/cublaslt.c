/* tests/cudasim/doubles/cublaslt.c - the part of cuBLASLt that worker/ops/cuda calls: products in plain
 * loops with f32 sums, in an order that the shape alone decides. Layouts are columns first, as there. */
#include "tests/cudasim/doubles/queue.h"

#include <cublasLt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct desc {
    cublasOperation_t op[2]; /* of A, of B */
    cublasLtEpilogue_t epilogue;
    const void *bias;
};

struct layout {
    cudaDataType type;
    int64_t rows, columns, ld;
    int32_t batch;
    int64_t stride;
};

static float load(const void *p, cudaDataType type, int64_t i)
{
    if (type == CUDA_R_32F)
        return ((const float *)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, ties to even. */
static void store(void *p, cudaDataType type, int64_t i, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (type == CUDA_R_32F)
        ((float *)p)[i] = x;
    else if (x != x)
        ((uint16_t *)p)[i] = 0x7FC0;
    else
        ((uint16_t *)p)[i] = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* op(M) as rows of f32: row i is op(M)[i][0..k) when `turn` is 0, op(M)[0..k)[i] else. */
static float *unpack(const void *p, const struct layout *l, cublasOperation_t op, int by_columns)
{
    int64_t rows = op == CUBLAS_OP_T ? l->columns : l->rows,
            columns = op == CUBLAS_OP_T ? l->rows : l->columns;
    float *m = malloc((size_t)(rows * columns) * sizeof *m + 1);
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = 0; r < rows; r++) {
            int64_t at = op == CUBLAS_OP_T ? r * l->ld + c : c * l->ld + r;
            m[by_columns ? c * rows + r : r * columns + c] = load(p, l->type, at);
        }
    return m;
}

/* The sum of k products, in an order of k alone. */
static float dot(const float *x, const float *y, int64_t k)
{
    float sums[16] = {0}, sum = 0;
    for (int64_t at = 0; at < k / 16 * 16; at += 16)
        for (int lane = 0; lane < 16; lane++)
            sums[lane] += x[at + lane] * y[at + lane];
    for (int64_t at = k / 16 * 16; at < k; at++)
        sum += x[at] * y[at];
    for (int lane = 0; lane < 16; lane++)
        sum += sums[lane];
    return sum;
}

/* d = alpha op(a) op(b) + bias + beta c */
static void multiply(const struct desc *p, float alpha, const void *a, const struct layout *la,
                     const void *b, const struct layout *lb, float beta, const void *c, void *d,
                     const struct layout *ld)
{
    int64_t k = p->op[0] == CUBLAS_OP_T ? la->rows : la->columns;
    float *rows = unpack(a, la, p->op[0], 0), *columns = unpack(b, lb, p->op[1], 1);
    for (int64_t j = 0; j < ld->columns; j++)
        for (int64_t i = 0; i < ld->rows; i++) {
            float sum = alpha * dot(rows + i * k, columns + j * k, k);
            if (p->epilogue == CUBLASLT_EPILOGUE_BIAS)
                sum += load(p->bias, ld->type, i);
            if (beta != 0)
                sum += beta * load(c, ld->type, j * ld->ld + i);
            store(d, ld->type, j * ld->ld + i, sum);
        }
    free(rows);
    free(columns);
}

static const void *sample(const void *p, const struct layout *l, int32_t i)
{
    return (const char *)p + i * l->stride * (l->type == CUDA_R_32F ? 4 : 2);
}

/* A product on its way: what the call was given, descriptions and scalars as they were then. */
struct job {
    struct desc desc;
    float alpha, beta;
    struct layout la, lb, ld;
    const void *a, *b, *c;
    void *d;
};

static void run_job(void *context)
{
    const struct job *j = context;
    for (int32_t i = 0; i < j->ld.batch; i++)
        multiply(&j->desc, j->alpha, sample(j->a, &j->la, i), &j->la, sample(j->b, &j->lb, i),
                 &j->lb, j->beta, sample(j->c, &j->ld, i),
                 (char *)(uintptr_t)sample(j->d, &j->ld, i), &j->ld);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lt, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t layout_a, const void *b,
                              cublasLtMatrixLayout_t layout_b, const void *beta, const void *c,
                              cublasLtMatrixLayout_t layout_c, void *d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_size, cudaStream_t stream)
{
    struct job *job = malloc(sizeof *job);
    if (!job)
        return CUBLAS_STATUS_ALLOC_FAILED;
    *job = (struct job){*(const struct desc *)desc,
                        *(const float *)alpha,
                        *(const float *)beta,
                        *(const struct layout *)layout_a,
                        *(const struct layout *)layout_b,
                        *(const struct layout *)layout_d,
                        a,
                        b,
                        c,
                        d};
    double_queue(stream, run_job, job);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lt, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *found)
{
    const struct desc *p = (const struct desc *)desc;
    const struct layout *la = (const struct layout *)a, *lb = (const struct layout *)b,
                        *ld = (const struct layout *)d;
    int64_t k = p->op[0] == CUBLAS_OP_T ? la->rows : la->columns;
    int64_t m = p->op[0] == CUBLAS_OP_T ? la->columns : la->rows;
    int64_t n = p->op[1] == CUBLAS_OP_T ? lb->rows : lb->columns;
    if (k != (p->op[1] == CUBLAS_OP_T ? lb->columns : lb->rows) || m != ld->rows ||
        n != ld->columns || la->ld < la->rows || lb->ld < lb->rows || ld->ld < ld->rows ||
        la->batch != ld->batch || lb->batch != ld->batch)
        return CUBLAS_STATUS_INVALID_VALUE;
    memset(results, 0, sizeof *results);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *ret, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    struct desc *desc = calloc(1, sizeof *desc);
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    desc->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    *ret = (cublasLtMatmulDesc_t)desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t size)
{
    struct desc *p = (struct desc *)desc;
    switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        memcpy(&p->op[0], value, size);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        memcpy(&p->op[1], value, size);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        memcpy(&p->epilogue, value, size);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        memcpy(&p->bias, value, size);
        break;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *ret, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld)
{
    struct layout *layout = malloc(sizeof *layout);
    *layout = (struct layout){type, (int64_t)rows, (int64_t)columns, ld, 1, 0};
    *ret = (cublasLtMatrixLayout_t)layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t name,
                                                const void *value, size_t size)
{
    struct layout *l = (struct layout *)layout;
    if (name == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && size == sizeof l->batch)
        memcpy(&l->batch, value, size);
    else if (name == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET && size == sizeof l->stride)
        memcpy(&l->stride, value, size);
    else
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *ret)
{
    *ret = malloc(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t size)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *ret)
{
    *ret = malloc(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t lt)
{
    free(lt);
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return 0;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return "a status of the double";
}
