/* worker/ops/cuda/algorithm.c - see algorithm.h. */
#include "worker/ops/cuda/algorithm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLASS_ROWS 128

struct cuda_algorithms {
    cudaEvent_t begun, ended;
    int class_count;
    struct {
        struct product product; /* n and k rounded up */
        cublasLtMatmulAlgo_t fastest;
    } classes[ALGORITHM_CLASSES];
};

int algorithms_open(struct cuda *cuda, struct bl_error *err)
{
    struct cuda_algorithms *own = cuda->algorithms = calloc(1, sizeof *own);
    if (!own)
        return bl_fail(err, BL_ENOMEM, "no memory for a list of algorithms");
    cudaError_t rc = cudaEventCreateWithFlags(&own->begun, cudaEventDefault);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&own->ended, cudaEventDefault);
    return rc == cudaSuccess
               ? 0
               : bl_fail(err, BL_EDEVICE, "%s: an event: %s", cuda->name, cudaGetErrorString(rc));
}

void algorithms_close(struct cuda *cuda)
{
    struct cuda_algorithms *own = cuda->algorithms;
    if (own && own->begun)
        cudaEventDestroy(own->begun);
    if (own && own->ended)
        cudaEventDestroy(own->ended);
    free(own);
}

cublasStatus_t algorithm_run(struct cuda *cuda, const struct cuda_plan *plan,
                             const cublasLtMatmulAlgo_t *algorithm,
                             const struct product_place *place)
{
    const float one = 1, beta = place->c ? 1 : 0;
    return cublasLtMatmul(cuda->lt, plan->desc, &one, place->a, plan->a, place->b, plan->b, &beta,
                          place->c ? place->c : place->d, plan->c, place->d, plan->c, algorithm,
                          cuda->workspace, PRODUCT_WORKSPACE_BYTES, cuda->launch.stream);
}

/* -- the heuristic -- */

static bool make_preference(struct cuda *cuda, const struct product *p,
                            cublasLtMatmulPreference_t *ret)
{
    static const char what[] = "the choice of an algorithm";
    const size_t workspace = PRODUCT_WORKSPACE_BYTES;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
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
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &p->align_d, sizeof p->align_d},
    };
    if (!cuda_lt_ok(cuda, cublasLtMatmulPreferenceCreate(ret), what))
        return false;
    bool good = true;
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes && good; i++)
        good = cuda_lt_ok(cuda,
                          cublasLtMatmulPreferenceSetAttribute(
                              *ret, attributes[i].name, attributes[i].value, attributes[i].size),
                          what);
    if (!good)
        cublasLtMatmulPreferenceDestroy(*ret);
    return good;
}

bool algorithms_find(struct cuda *cuda, struct cuda_plan *plan)
{
    const struct product *p = &plan->product;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t results[ALGORITHMS];
    int found = 0;
    if (!make_preference(cuda, p, &preference))
        return false;
    cublasStatus_t rc =
        cublasLtMatmulAlgoGetHeuristic(cuda->lt, plan->desc, plan->a, plan->b, plan->c, plan->c,
                                       preference, ALGORITHMS, results, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    plan->of_class = false;
    plan->algorithm_count = 0;
    for (int i = 0; rc == CUBLAS_STATUS_SUCCESS && i < found; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            plan->algorithms[plan->algorithm_count++] = results[i].algo;
    if (plan->algorithm_count == 0 && !cuda->failure.code)
        bl_fail(&cuda->failure, BL_EDEVICE,
                "%s: no algorithm for a product of %lld x %lld x %lld (cuBLASLt status %d)",
                cuda->name, (long long)p->m, (long long)p->n, (long long)p->k, (int)rc);
    return plan->algorithm_count > 0;
}

/* -- the fastest of a class -- */

static struct product class_of(const struct product *product)
{
    struct product is = *product;
    is.n = bl_ceil_div(is.n, CLASS_ROWS) * CLASS_ROWS;
    is.k = bl_ceil_div(is.k, CLASS_ROWS) * CLASS_ROWS;
    return is;
}

static const cublasLtMatmulAlgo_t *find_class(const struct cuda_algorithms *own,
                                              const struct product *class)
{
    for (int i = 0; i < own->class_count; i++)
        if (memcmp(&own->classes[i].product, class, sizeof *class) == 0)
            return &own->classes[i].fastest;
    return NULL;
}

/* Does an algorithm that was chosen for another shape suit the plan's? */
static bool suits(struct cuda *cuda, const struct cuda_plan *plan,
                  const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t result;
    return cublasLtMatmulAlgoCheck(cuda->lt, plan->desc, plan->a, plan->b, plan->c, plan->c,
                                   algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= PRODUCT_WORKSPACE_BYTES;
}

/* Milliseconds of ALGORITHM_RUNS products; infinite: it does not run. */
static float time_of(struct cuda *cuda, const struct cuda_plan *plan,
                     const cublasLtMatmulAlgo_t *algorithm, const struct product_place *place)
{
    struct cuda_algorithms *own = cuda->algorithms;
    static const char what[] = "timing a product";
    float ms = INFINITY;
    if (algorithm_run(cuda, plan, algorithm, place) != CUBLAS_STATUS_SUCCESS ||
        !cuda_ok(cuda, cudaEventRecord(own->begun, cuda->launch.stream), what))
        return INFINITY;
    for (int i = 0; i < ALGORITHM_RUNS; i++)
        if (algorithm_run(cuda, plan, algorithm, place) != CUBLAS_STATUS_SUCCESS)
            return INFINITY;
    if (!cuda_ok(cuda, cudaEventRecord(own->ended, cuda->launch.stream), what) ||
        !cuda_ok(cuda, cudaEventSynchronize(own->ended), what) ||
        !cuda_ok(cuda, cudaEventElapsedTime(&ms, own->begun, own->ended), what))
        return INFINITY;
    return ms;
}

static size_t result_bytes(const struct product *p)
{
    const int64_t elements = (p->batch - 1) * p->stride_c + p->n * p->ldc;
    return (size_t)elements * (p->type_c == CUDA_R_32F ? 4 : 2);
}

static bool is_accumulated(const struct product_place *place)
{
    return place->c == place->d;
}

void algorithms_reserve(struct cuda *cuda, const struct product *product,
                        const struct product_place *place)
{
    if (cuda->ops.times_products && is_accumulated(place))
        cuda_scratch(cuda, CUDA_SCRATCH_OUTER, result_bytes(product));
}

/* Puts the fastest of the plan's algorithms first. Of a product that accumulates, whose destination takes it once, the sums go
 * to the outer scratch, which no such operation holds. */
static void time_all(struct cuda *cuda, struct cuda_plan *plan, struct product_place place)
{
    if (is_accumulated(&place))
        place.d = cuda_scratch(cuda, CUDA_SCRATCH_OUTER, result_bytes(&plan->product));
    if (!place.d)
        return;
    int best = 0;
    float least = INFINITY;
    for (int i = 0; i < plan->algorithm_count; i++) {
        const float ms = time_of(cuda, plan, &plan->algorithms[i], &place);
        if (ms < least) {
            least = ms;
            best = i;
        }
    }
    const cublasLtMatmulAlgo_t fastest = plan->algorithms[best];
    memmove(plan->algorithms + 1, plan->algorithms, (size_t)best * sizeof fastest);
    plan->algorithms[0] = fastest;
}

bool algorithms_choose(struct cuda *cuda, struct cuda_plan *plan, const struct product_place *place)
{
    struct cuda_algorithms *own = cuda->algorithms;
    if (!cuda->ops.times_products)
        return algorithms_find(cuda, plan);
    const struct product class = class_of(&plan->product);
    const cublasLtMatmulAlgo_t *known = find_class(own, &class);
    if (known && suits(cuda, plan, known)) {
        plan->algorithms[0] = *known;
        plan->algorithm_count = 1;
        plan->of_class = true;
        return true;
    }
    if (!algorithms_find(cuda, plan))
        return false;
    if (known || own->class_count == ALGORITHM_CLASSES)
        return true;
    time_all(cuda, plan, *place);
    if (cuda->failure.code)
        return false;
    own->classes[own->class_count].product = class;
    own->classes[own->class_count++].fastest = plan->algorithms[0];
    return true;
}
