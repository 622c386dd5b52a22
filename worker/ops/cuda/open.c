/* worker/ops/cuda/open.c - opening a GPU, a second queue of it, or the account of its memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/ops/cuda/cuda.h"

static void cuda_close(struct ops *self)
{
    struct cuda *cuda = cuda_of(self);
    if (cuda->launch.stream)
        cudaStreamSynchronize(cuda->launch.stream);
    cuda_matmul_close(cuda);
    for (int i = 0; i < CUDA_SCRATCH_COUNT; i++)
        cuda_release(self, cuda->scratch[i].memory);
    for (int i = 0; i < CUDA_RING_PARTS; i++)
        if (cuda->ring_read[i])
            cudaEventDestroy(cuda->ring_read[i]);
    if (cuda->ring)
        cudaFreeHost(cuda->ring);
    if (cuda->queued)
        cudaEventDestroy(cuda->queued);
    if (cuda->launch.stream)
        cudaStreamDestroy(cuda->launch.stream);
    if (cuda->comm_stream)
        cudaStreamDestroy(cuda->comm_stream);
    ops_dry_destroy(self->dry);
    free(cuda);
}

/* Work that others wait for goes before what is queued beside it. */
enum queue { QUEUE_FIRST, QUEUE_BESIDE };

static cudaError_t open_stream(cudaStream_t *ret, enum queue queue)
{
    int least, greatest;
    cudaError_t rc = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (rc != cudaSuccess)
        return rc;
    return cudaStreamCreateWithPriority(ret, cudaStreamNonBlocking,
                                        queue == QUEUE_FIRST ? greatest : least);
}

/* Stream, pinned ring and cuBLASLt; what is there is released by cuda_close. */
static int open_parts(struct cuda *cuda, enum queue queue, struct bl_error *err)
{
    cudaError_t rc = cudaSetDevice(cuda->device);
    if (rc == cudaSuccess)
        rc = open_stream(&cuda->launch.stream, queue);
    if (rc == cudaSuccess && queue == QUEUE_FIRST)
        rc = open_stream(&cuda->comm_stream, queue);
    if (rc == cudaSuccess)
        rc = cudaMallocHost((void **)&cuda->ring, (size_t)CUDA_RING_PARTS * CUDA_RING_PART_BYTES);
    for (int i = 0; i < CUDA_RING_PARTS && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&cuda->ring_read[i], cudaEventDisableTiming);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&cuda->queued, cudaEventDisableTiming);
    if (rc != cudaSuccess) {
        bl_fail(err, BL_EDEVICE, "cuda:%d cannot be opened: %s", cuda->device,
                cudaGetErrorString(rc));
        return bl_error_remedy(err, "nvidia-smi shows whether it works and who uses it");
    }
    return cuda_matmul_open(cuda, err);
}

static void cuda_wait_for(struct ops *self, struct ops *other)
{
    struct cuda *cuda = cuda_of(self), *before = cuda_of(other);
    BL_ASSERT(!cuda->records && !before->records);
    if (before->failure.code && !cuda->failure.code)
        cuda->failure = before->failure;
    if (!self->dry &&
        cuda_ok(cuda, cudaEventRecord(before->queued, before->launch.stream), "an event"))
        cuda_ok(cuda, cudaStreamWaitEvent(cuda->launch.stream, before->queued, 0), "an event");
}

static int cuda_open_beside(struct ops *self, struct ops **ret, struct bl_error *err);

static struct cuda *new_cuda(enum ops_precision precision, struct bl_error *err)
{
    struct cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda) {
        bl_fail(err, BL_ENOMEM, "no memory for the CUDA backend");
        return NULL;
    }
    cuda->first = cuda;
    cuda->launch.act = precision == OPS_F32 ? CUDA_ACT_F32 : CUDA_ACT_BF16;
    cuda->ops = (struct ops){.name = cuda->name,
                             .precision = precision,
                             .act_bytes = precision == OPS_F32 ? sizeof(float) : 2,
                             /* 128 tiles of 128 rows: an H100 has 132 multiprocessors */
                             .rows_at_once = 16384,
                             .score_multiple = precision == OPS_F32 ? 4 : 8,
                             .head_dim_max = CUDA_HEAD_DIM_MAX,
                             .memory = &cuda_memory,
                             .collectives = &cuda_nccl,
                             .close = cuda_close,
                             .open_beside = cuda_open_beside,
                             .wait_for = cuda_wait_for};
    cuda_fill_memory(&cuda->ops);
    cuda_fill_table(&cuda->ops);
    cuda_fill_matmul(&cuda->ops);
    cuda_fill_operand(&cuda->ops);
    return cuda;
}

/* *ret = cuda, whose parts were opened with this result; closed where that failed. */
static int opened(struct cuda *cuda, int rc, struct ops **ret)
{
    if (rc < 0)
        cuda_close(&cuda->ops);
    else
        *ret = &cuda->ops;
    return rc;
}

static const char *precision_words(enum ops_precision precision)
{
    return precision == OPS_F32 ? "f32" : "bf16 products";
}

int cuda_open(int index, enum ops_precision precision, struct ops **ret, struct bl_error *err)
{
    struct cudaDeviceProp properties;
    cudaError_t found = cudaGetDeviceProperties(&properties, index);
    if (found != cudaSuccess)
        return bl_fail(err, BL_EDEVICE, "cuda:%d: %s", index, cudaGetErrorString(found));
    struct cuda *cuda = new_cuda(precision, err);
    if (!cuda)
        return -BL_ENOMEM;
    cuda->device = index;
    cuda->fuses_gelu = precision == OPS_BF16 && properties.major >= 9;
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d: %.128s, %s", index, properties.name,
             precision_words(precision));
    cuda_fill_recording(&cuda->ops);
    return opened(cuda, open_parts(cuda, QUEUE_FIRST, err), ret);
}

static int dry_sync(struct ops *self, struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    if (cuda->failure.code && err)
        *err = cuda->failure;
    return -cuda->failure.code;
}

static int open_dry_parts(struct cuda *cuda, struct ops_dry *dry, struct bl_error *err)
{
    if (!dry)
        return bl_fail(err, BL_ENOMEM, "no memory to count memory");
    cuda->ops.dry = dry;
    cuda->ops.memory = NULL; /* nothing of it is reached from the host */
    cuda->ops.sync = dry_sync;
    ops_dry_fill(&cuda->ops);
    cuda_fill_scratch(&cuda->ops);
    return cuda_matmul_open(cuda, err);
}

int cuda_dry_open(enum ops_precision precision, struct ops **ret, struct bl_error *err)
{
    struct cuda *cuda = new_cuda(precision, err);
    if (!cuda)
        return -BL_ENOMEM;
    snprintf(cuda->name, sizeof cuda->name, "cuda: %s", precision_words(precision));
    cuda->fuses_gelu = precision == OPS_BF16;
    return opened(cuda, open_dry_parts(cuda, ops_dry_create(), err), ret);
}

/* -- a second queue -- */

static int cuda_open_beside(struct ops *self, struct ops **ret, struct bl_error *err)
{
    struct cuda *first = cuda_of(self);
    struct cuda *cuda = new_cuda(self->precision, err);
    if (!cuda)
        return -BL_ENOMEM;
    cuda->first = first;
    cuda->device = first->device;
    cuda->fuses_gelu = first->fuses_gelu;
    cuda->ops.times_products = self->times_products;
    cuda->ops.memory = NULL;
    cuda->ops.collectives = NULL;
    cuda->ops.open_beside = NULL;
    memcpy(cuda->name, first->name, sizeof cuda->name);
    return opened(cuda,
                  self->dry ? open_dry_parts(cuda, ops_dry_share(self->dry), err)
                            : open_parts(cuda, QUEUE_BESIDE, err),
                  ret);
}
