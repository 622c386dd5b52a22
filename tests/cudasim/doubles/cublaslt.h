/* tests/cudasim/doubles/cublaslt.h - what a test may ask of the double of cuBLASLt besides its own interface. */
#pragma once

#include <stdint.h>

/* Products queued so far; of the last one its algorithm, the fastest there is for it, and the heuristic's first that runs.
 * An algorithm that the heuristic offers and that refuses to run counts in refused. */
struct double_products {
    int64_t queued, refused;
    int algorithm, fastest, first;
};

extern struct double_products double_products;
