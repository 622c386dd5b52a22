/* worker/ops/cuda/cuda.h - what the files of the CUDA backend share.
 *
 *   open.c       opening, a second queue
 *   cuda.c       memory, copies, the first failure
 *   recording.c  recordings: CUDA graphs
 *   product.c    one matrix product, or a batch of them: cuBLASLt
 *   algorithm.c  by which of its algorithms
 *   matmul.c     matrices, linear layers, head and loss
 *   operand.c    products of attention over shared keys
 *   table.c      every other operation: a launcher of kernels.h
 *   memory.c     the device's memory as communicators reach it
 *   nccl.c       collectives among GPUs
 *   plugin.c     what the module exports
 *
 * Queue      one stream; a call returns when its work is queued. copy_in goes through a pinned ring, so
 *            that the source may be let go at once and nothing waits for the device. A second queue is a struct cuda of its own,
 *            with its own workspace, scratch and ring, whose stream has the lowest priority.
 * Bits       equal on one model of GPU with one version of cuBLASLt, unless ops.times_products: kernels sum over
 *            fixed trees, and a product's algorithm depends on its shape alone (algorithm.h).
 */
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "worker/comm/backend.h"
#include "worker/ops/cuda/kernels.h"
#include "worker/ops/dry.h"
#include "worker/ops/ops.h"

/* Scratch is taken anew by each operation. An operation that calls another holds CUDA_SCRATCH_OUTER. */
enum cuda_scratch_slot { CUDA_SCRATCH_OUTER, CUDA_SCRATCH_INNER, CUDA_SCRATCH_COUNT };

/* The pinned ring: a part is written while the device reads the others. */
enum { CUDA_RING_PARTS = 4, CUDA_RING_PART_BYTES = 8 << 20 };

struct cuda_plan;
struct cuda_algorithms;

struct cuda {
    struct ops ops; /* first: every operation's self is the struct cuda */
    int device;
    char name[192];
    struct cuda_launch launch;
    struct bl_error failure; /* the first one; sticks */

    cublasLtHandle_t lt;
    void *workspace;
    struct cuda_plan *plans; /* of products, by shape */
    struct cuda_algorithms *algorithms;
    /* bf16, on Hopper or newer: before it the library's fused GELU is slower than a kernel of its own. */
    bool fuses_gelu;

    struct {
        void *memory;
        size_t bytes;
    } scratch[CUDA_SCRATCH_COUNT];

    char *ring; /* pinned */
    cudaEvent_t ring_read[CUDA_RING_PARTS];
    int ring_part;
    size_t ring_used;
    struct cuda *first; /* itself, or of a second queue the first, whose the next two are */
    size_t peak;        /* bytes of the device in use, at most so far */
    uint64_t releases;  /* of device memory so far: recordings from before one are void */

    bool records; /* the stream is being captured (recording.c) */

    cudaStream_t comm_stream; /* of the thread that communicates */
    cudaEvent_t queued;       /* wait_for: what was queued here when another began to wait */
};

static inline struct cuda *cuda_of(struct ops *self)
{
    return (struct cuda *)self;
}

/* The enum bl_dtype of `act`. */
static inline enum bl_dtype cuda_act_dtype(const struct cuda *cuda)
{
    return cuda->launch.act == CUDA_ACT_BF16 ? BL_BF16 : BL_F32;
}

/* Records a failure of `what`, unless there is one already; true when there was none. */
bool cuda_ok(struct cuda *cuda, cudaError_t rc, const char *what);
bool cuda_lt_ok(struct cuda *cuda, cublasStatus_t rc, const char *what);

/* Device memory of at least `bytes`, for work queued from now on; valid until the slot's next use.
 * NULL: memory ran out, which is recorded; or this is a dry device, which computes nothing. */
void *cuda_scratch(struct cuda *cuda, enum cuda_scratch_slot slot, size_t bytes);

/* As ops.h says. */
int cuda_alloc(struct ops *self, size_t bytes, void **ret, struct bl_error *err);
void cuda_release(struct ops *self, void *p);
void cuda_copy_in(struct ops *self, void *device, const void *host, size_t bytes);

int cuda_open(int index, enum ops_precision precision, struct ops **ret, struct bl_error *err);
/* A device that counts the memory this backend would take (worker/ops/dry.h); no GPU is needed. */
int cuda_dry_open(enum ops_precision precision, struct ops **ret, struct bl_error *err);
/* cuBLASLt's state and the workspace. */
int cuda_matmul_open(struct cuda *cuda, struct bl_error *err);
void cuda_matmul_close(struct cuda *cuda);

/* Each enters its file's operations into the table. */
void cuda_fill_memory(struct ops *table);
void cuda_fill_recording(struct ops *table);
void cuda_fill_matmul(struct ops *table);
void cuda_fill_operand(struct ops *table);
void cuda_fill_table(struct ops *table);
/* The operations of that file that take working memory, over those of ops_dry_fill. */
void cuda_fill_scratch(struct ops *table);

extern const struct comm_memory cuda_memory;
extern const struct comm_backend cuda_nccl;
