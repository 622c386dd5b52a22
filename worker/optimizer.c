/* worker/optimizer.c - the optimizers there are. */
#include "worker/optimizer.h"

const struct optimizer *const optimizers[OPTIMIZER_COUNT] = {
    [OPTIMIZER_ADAMW] = &optimizer_adamw,
};
