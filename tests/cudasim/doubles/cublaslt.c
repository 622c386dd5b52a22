/* tests/cudasim/doubles/cublaslt.c - the part of cuBLASLt that worker/ops/cuda calls: products in plain
 * loops with f32 sums. Layouts are columns first, as there.
 *
 * Algorithms  differ in time, which depends on the shape and is a hundredfold the first time, and in the order of their sums,
 *             which the shape alone decides otherwise. One that the heuristic lists is void (its state says so), one refuses
 *             to run, one takes only operands of 16 bytes' alignment, one fills its workspace. Where reductions of partial
 *             results are allowed, the first ones have another order each time.
 * Refusals    what the heuristic was promised is checked when the product is asked for: shapes, alignment, workspace, and
 *             that the algorithm is one of its own. The epilogue's function is GELU's tanh form.
 */
#include "tests/cudasim/doubles/cublaslt.h"

#include <cublasLt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cudasim/doubles/queue.h"

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

/* The sum of k products; each order, of 16, adds lanes in another one. */
static float dot(const float *x, const float *y, int64_t k, int order)
{
    float sums[16] = {0}, sum = 0;
    for (int64_t at = 0; at < k / 16 * 16; at += 16)
        for (int lane = 0; lane < 16; lane++)
            sums[lane] += x[at + lane] * y[at + lane];
    for (int64_t at = k / 16 * 16; at < k; at++)
        sum += x[at] * y[at];
    for (int lane = 0; lane < 16; lane++)
        sum += sums[(lane * (2 * order + 1)) % 16];
    return sum;
}

static bool has_bias(cublasLtEpilogue_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

static bool has_gelu(cublasLtEpilogue_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_GELU || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

/* d = epilogue(alpha op(a) op(b) + beta c + bias) */
static void multiply(const struct desc *p, int order, float alpha, const void *a,
                     const struct layout *la, const void *b, const struct layout *lb, float beta,
                     const void *c, void *d, const struct layout *ld)
{
    int64_t k = p->op[0] == CUBLAS_OP_T ? la->rows : la->columns;
    float *rows = unpack(a, la, p->op[0], 0), *columns = unpack(b, lb, p->op[1], 1);
    for (int64_t j = 0; j < ld->columns; j++)
        for (int64_t i = 0; i < ld->rows; i++) {
            float sum = alpha * dot(rows + i * k, columns + j * k, k, order);
            if (beta != 0)
                sum += beta * load(c, ld->type, j * ld->ld + i);
            if (has_bias(p->epilogue))
                sum += load(p->bias, ld->type, i);
            if (has_gelu(p->epilogue))
                sum *= 0.5f * (1 + tanhf(0.79788456f * (sum + 0.044715f * sum * sum * sum)));
            store(d, ld->type, j * ld->ld + i, sum);
        }
    free(rows);
    free(columns);
}

static const void *sample(const void *p, const struct layout *l, int32_t i)
{
    return (const char *)p + i * l->stride * (l->type == CUDA_R_32F ? 4 : 2);
}

/* -- algorithms -- */

enum { VOID_ONE, PLAIN, REFUSING, ALIGNED, VARYING, LARGE, SPLIT, ALGORITHMS };
enum { MAGIC = 0x5eed, LARGE_WORKSPACE = 4 << 20 };

/* What a cublasLtMatmulAlgo_t holds: an algorithm and what its heuristic was promised. */
struct algorithm {
    uint32_t magic;
    int id;
    uint32_t align[3]; /* of A, B and C, bytes */
};
_Static_assert(sizeof(struct algorithm) <= sizeof(cublasLtMatmulAlgo_t), "it must fit");

struct preference {
    uint64_t workspace;
    uint32_t schemes, align[3];
};

/* One product as its descriptors have it. */
struct problem {
    int64_t m, n, k;
    const struct desc *desc;
    const struct layout *a, *b, *c;
};

struct double_products double_products;

static struct problem problem_of(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c)
{
    struct problem p = {.desc = (const struct desc *)desc,
                        .a = (const struct layout *)a,
                        .b = (const struct layout *)b,
                        .c = (const struct layout *)c};
    p.m = p.desc->op[0] == CUBLAS_OP_T ? p.a->columns : p.a->rows;
    p.k = p.desc->op[0] == CUBLAS_OP_T ? p.a->rows : p.a->columns;
    p.n = p.desc->op[1] == CUBLAS_OP_T ? p.b->rows : p.b->columns;
    return p;
}

static bool is_valid(const struct problem *p)
{
    const cublasLtEpilogue_t epilogue = p->desc->epilogue;
    const bool known =
        epilogue == CUBLASLT_EPILOGUE_DEFAULT || has_bias(epilogue) || has_gelu(epilogue);
    /* Of an output of batches only the first one's epilogue would be defined. */
    return known && (epilogue == CUBLASLT_EPILOGUE_DEFAULT || p->c->batch == 1) &&
           p->k == (p->desc->op[1] == CUBLAS_OP_T ? p->b->columns : p->b->rows) &&
           p->m == p->c->rows && p->n == p->c->columns && p->a->ld >= p->a->rows &&
           p->b->ld >= p->b->rows && p->c->ld >= p->c->rows && p->a->batch == p->c->batch &&
           p->b->batch == p->c->batch && p->a->type == p->b->type &&
           (p->c->type == CUDA_R_32F || p->c->type == p->a->type);
}

static int64_t bytes_of(const struct layout *l, int64_t elements)
{
    return elements * (l->type == CUDA_R_32F ? 4 : 2);
}

static bool in_16_bytes(const struct layout *l)
{
    return bytes_of(l, l->ld) % 16 == 0 && bytes_of(l, l->stride) % 16 == 0;
}

static uint64_t shape_hash(const struct problem *p)
{
    uint64_t hash = 0;
    /* Rows of a class have the same favourite, as it would be. */
    const int64_t sizes[] = {p->m, (p->n + 127) / 128, (p->k + 127) / 128, p->desc->op[0],
                             p->desc->op[1]};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        hash = (hash ^ (uint64_t)sizes[i]) * 0x9E3779B97F4A7C15u;
    return hash >> 40;
}

/* Can it compute that? ALIGNED asks for whole vectors of 16 bytes along k, too. */
static bool can(int id, const struct problem *p)
{
    return id != ALIGNED || (in_16_bytes(p->a) && in_16_bytes(p->b) && in_16_bytes(p->c) &&
                             bytes_of(p->a, p->k) % 16 == 0);
}

static size_t workspace_of(int id)
{
    return id == LARGE ? LARGE_WORKSPACE : 0;
}

/* Microseconds; what varies has its turns at being the fastest. */
static double cost_of(int id, const struct problem *p)
{
    static const double base[ALGORITHMS] = {
        [PLAIN] = 8, [ALIGNED] = 4, [VARYING] = 2, [LARGE] = 6, [SPLIT] = 1};
    const double varies = id == VARYING ? (double)(shape_hash(p) % 4) * 3 : 0;
    return (base[id] + varies) * (1 + (double)(p->m * p->n * p->k) * 1e-6);
}

/* The order in which the heuristic lists them; it is not always right. */
static int listed(const struct problem *p, int place)
{
    static const int orders[2][ALGORITHMS] = {
        {SPLIT, VOID_ONE, PLAIN, REFUSING, LARGE, VARYING, ALIGNED},
        {SPLIT, REFUSING, VARYING, LARGE, PLAIN, VOID_ONE, ALIGNED}};
    return orders[shape_hash(p) / 4 % 2][place];
}

/* -- a product -- */

/* A product on its way: what the call was given, descriptions and scalars as they were then. */
struct job {
    struct desc desc;
    float alpha, beta;
    struct layout la, lb, ld;
    const void *a, *b, *c;
    void *d, *workspace;
    int id;
    double ms;
};

static void compute(const struct job *j)
{
    static uint64_t splits;
    const int order = j->id == SPLIT ? (int)(splits++ % 8) : j->id;
    if (workspace_of(j->id) > 0)
        memset(j->workspace, 0xFF, workspace_of(j->id));
    for (int32_t i = 0; i < j->ld.batch; i++)
        multiply(&j->desc, order, j->alpha, sample(j->a, &j->la, i), &j->la,
                 sample(j->b, &j->lb, i), &j->lb, j->beta, sample(j->c, &j->ld, i),
                 (char *)(uintptr_t)sample(j->d, &j->ld, i), &j->ld);
}

/* A product that another one overwrites at once, as when algorithms are timed, is never computed. */
static struct {
    bool any;
    struct job job;
} put_off;

static void flush(void)
{
    if (put_off.any)
        compute(&put_off.job);
    put_off.any = false;
}

static bool overwrites(const struct job *j, const struct job *other)
{
    const struct layout *x = &j->ld, *y = &other->ld;
    return j->d == other->d && x->type == y->type && x->rows == y->rows &&
           x->columns == y->columns && x->ld == y->ld && x->batch == y->batch &&
           x->stride == y->stride && j->a != j->d && j->b != j->d && (j->beta == 0 || j->c != j->d);
}

static void run_job(void *context)
{
    const struct job *j = context;
    if (put_off.any && !overwrites(j, &put_off.job))
        flush();
    put_off.any = true;
    put_off.job = *j;
    double_spend(j->ms);
}

static bool is_aligned(const void *p, uint32_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* The best of those that run, by cost or by the heuristic's order. */
static int best_of(const struct problem *p, bool by_cost)
{
    int best = -1;
    for (int place = 0; place < ALGORITHMS; place++) {
        const int id = listed(p, place);
        if (id == SPLIT || id == VOID_ONE || id == REFUSING || !can(id, p))
            continue;
        if (best < 0 || (by_cost && cost_of(id, p) < cost_of(best, p)))
            best = id;
    }
    return best;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lt, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t layout_a, const void *b,
                              cublasLtMatrixLayout_t layout_b, const void *beta, const void *c,
                              cublasLtMatrixLayout_t layout_c, void *d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_size, cudaStream_t stream)
{
    static bool warm[ALGORITHMS];
    const struct problem p = problem_of(desc, layout_a, layout_b, layout_d);
    struct algorithm by;
    memcpy(&by, algo, sizeof by);
    if (!is_valid(&p) || by.magic != MAGIC || by.id < 0 || by.id >= ALGORITHMS ||
        by.id == VOID_ONE || !is_aligned(a, by.align[0]) || !is_aligned(b, by.align[1]) ||
        !is_aligned(d, by.align[2]) || workspace_size < workspace_of(by.id) ||
        (has_bias(p.desc->epilogue) && (!p.desc->bias || !is_aligned(p.desc->bias, 16))))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (by.id == REFUSING || !can(by.id, &p)) {
        double_products.refused++;
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    struct job *job = malloc(sizeof *job);
    if (!job)
        return CUBLAS_STATUS_ALLOC_FAILED;
    *job = (struct job){.desc = *p.desc,
                        .alpha = *(const float *)alpha,
                        .beta = *(const float *)beta,
                        .la = *p.a,
                        .lb = *p.b,
                        .ld = *p.c,
                        .a = a,
                        .b = b,
                        .c = c,
                        .d = d,
                        .workspace = workspace,
                        .id = by.id,
                        .ms = cost_of(by.id, &p) * 1e-3 * (warm[by.id] ? 1 : 100)};
    warm[by.id] = true;
    double_products.queued++;
    double_products.algorithm = by.id;
    double_products.fastest = best_of(&p, true);
    double_products.first = best_of(&p, false);
    return double_queue_lazily(stream, run_job, job, flush) == cudaSuccess
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lt, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *found)
{
    const struct problem p = problem_of(desc, a, b, d);
    const struct preference *promised = (const struct preference *)preference;
    if (requested <= 0 || !is_valid(&p))
        return CUBLAS_STATUS_INVALID_VALUE;
    *found = 0;
    for (int place = 0; place < ALGORITHMS && *found < requested; place++) {
        const int id = listed(&p, place);
        const bool aligned =
            promised->align[0] >= 16 && promised->align[1] >= 16 && promised->align[2] >= 16;
        if (!can(id, &p) || (id == ALIGNED && !aligned) ||
            (id == SPLIT && promised->schemes == CUBLASLT_REDUCTION_SCHEME_NONE) ||
            workspace_of(id) > promised->workspace)
            continue;
        cublasLtMatmulHeuristicResult_t *result = &results[(*found)++];
        struct algorithm is = {.magic = MAGIC, .id = id};
        memcpy(is.align, promised->align, sizeof is.align);
        memset(result, 0xFF, sizeof *result);
        result->state = id == VOID_ONE ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
        if (id == VOID_ONE)
            continue;
        memcpy(&result->algo, &is, sizeof is);
        result->workspaceSize = workspace_of(id);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t lt, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    const struct problem p = problem_of(desc, a, b, d);
    struct algorithm by;
    memcpy(&by, algo, sizeof by);
    if (!is_valid(&p) || by.magic != MAGIC)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!can(by.id, &p))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    result->workspaceSize = workspace_of(by.id);
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
    struct preference *made = malloc(sizeof *made);
    *made = (struct preference){.schemes = UINT32_MAX, .align = {256, 256, 256}};
    *ret = (cublasLtMatmulPreference_t)made;
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
    struct preference *p = (struct preference *)preference;
    switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        memcpy(&p->workspace, value, size);
        break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        memcpy(&p->schemes, value, size);
        break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        memcpy(&p->align[0], value, size);
        break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        memcpy(&p->align[1], value, size);
        break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: /* C is D here */
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        memcpy(&p->align[2], value, size);
        break;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
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
