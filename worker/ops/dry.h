/* worker/ops/dry.h - a device that is asked for memory and computes nothing: the model, the trainer and
 * the backend's own code run over it as they will, and what they ask for is what a run will need.
 *
 * Its addresses are no process's: whoever touches them is stopped (SIGSEGV). ops->dry is set,
 * so that weights are not read either; data of matrix_frozen may be NULL. */
#pragma once

#include "worker/ops/ops.h"

enum ops_use {
    OPS_ARRAYS,   /* alloc(): parameters, gradients, activations */
    OPS_MATRICES, /* matrices as the device wants them, or the file's pages where these are used */
    OPS_SCRATCH,  /* working memory of operations, logits among it */
    OPS_USES
};

struct ops_usage {
    int64_t bytes[OPS_USES]; /* now */
};

/* Like ops_cpu_open. *ret is the caller's (ops_free). */
int ops_cpu_dry_open(enum ops_precision precision, int threads, struct ops **ret,
                     struct bl_error *err);
void ops_dry_usage(const struct ops *ops, struct ops_usage *ret);
