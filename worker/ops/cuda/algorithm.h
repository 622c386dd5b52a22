/* worker/ops/cuda/algorithm.h - which of cuBLASLt's algorithms computes a product (product.c).
 *
 * Fixed      the first result of the library's heuristic that runs, with a workspace of fixed size and without reduction of
 *            partial results: two processes on one kind of GPU choose alike.
 * Timed      where ops.times_products: the fastest of the heuristic's first ALGORITHMS, each run once to warm up and then
 *            ALGORITHM_RUNS times between two events. The winner holds for a class of products, in which n and k, whichever
 *            counts the ragged rows, are rounded up to 128: ragged rows never repeat.
 * Cost       a class waits for the device once and computes its product (1 + ALGORITHM_RUNS) ALGORITHMS times at most, and
 *            there are ALGORITHM_CLASSES classes at most; products of any further one are fixed.
 */
#pragma once

#include "worker/ops/cuda/product.h"

enum { ALGORITHMS = 8, ALGORITHM_RUNS = 2, ALGORITHM_CLASSES = 512 };

/* What cuBLASLt is told of a product, kept by shape. */
struct cuda_plan {
    bool used;
    struct product product;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithms[ALGORITHMS]; /* the first one runs, unless it is refused */
    int algorithm_count;
    bool of_class; /* the algorithm is the class's: chosen for another shape */
};

struct cuda_algorithms;

/* Where a product's operands are: d = op(a) op(b) + c (NULL: none). */
struct product_place {
    void *d;
    const void *a, *b, *c;
};

int algorithms_open(struct cuda *cuda, struct bl_error *err);
void algorithms_close(struct cuda *cuda); /* also after a failed open */

/* Queues the plan's product by one algorithm. */
cublasStatus_t algorithm_run(struct cuda *cuda, const struct cuda_plan *plan,
                             const cublasLtMatmulAlgo_t *algorithm,
                             const struct product_place *place);
/* The heuristic's algorithms, best first, for a plan that has its descriptors. false: there is none, which is recorded. */
bool algorithms_find(struct cuda *cuda, struct cuda_plan *plan);
/* As algorithms_find; the first one is the fastest of the plan's class where products are timed. */
bool algorithms_choose(struct cuda *cuda, struct cuda_plan *plan,
                       const struct product_place *place);
/* Device memory that timing takes: a product that accumulates is timed on scratch. For a dry device. */
void algorithms_reserve(struct cuda *cuda, const struct product *product,
                        const struct product_place *place);
