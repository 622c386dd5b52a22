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

/* -- for backends -- */

/* NULL: no memory. */
struct ops_dry *ops_dry_create(void);
/* One account for a device's queues: each calls destroy. */
struct ops_dry *ops_dry_share(struct ops_dry *dry);
void ops_dry_destroy(struct ops_dry *dry); /* NULL is fine */
/* Addresses that nothing may touch; NULL: no memory for the account of them. */
void *ops_dry_alloc(struct ops_dry *dry, enum ops_use use, size_t bytes);
void ops_dry_free(struct ops_dry *dry, void *memory); /* NULL is fine */
/* Pages of a file that will be read, or, negative, no longer. */
void ops_dry_borrow(struct ops_dry *dry, int64_t bytes);
/* Operations that take no memory on any backend do nothing from here on. */
void ops_dry_fill(struct ops *table);

/* -- for who plans -- */

/* Like ops_cpu_open. *ret is the caller's (ops_free). */
int ops_cpu_dry_open(enum ops_precision precision, int threads, struct ops **ret,
                     struct bl_error *err);
/* Of a device chosen by name as for ops_device_choose, or "cuda": a GPU, which this machine need not have. *ret_total: bytes that
 * the GPU has; 0: unknown, or it is the CPU. */
int ops_dry_open(const char *device, enum ops_precision precision, int threads, struct ops **ret,
                 int64_t *ret_total, struct bl_error *err);
void ops_dry_usage(const struct ops *ops, struct ops_usage *ret);
/* Of all uses together, at most so far. */
int64_t ops_dry_peak(const struct ops *ops);
