/* worker/ops/cuda/cuda.c - opening a GPU, its memory, and copies. */
#include "worker/ops/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1.0 / (1 << 20))

/* -- failures -- */

bool cuda_ok(struct cuda *cuda, cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess)
        return true;
    if (!cuda->failure.code)
        bl_fail(&cuda->failure, BL_EDEVICE, "%s: %s: %s", cuda->name, what, cudaGetErrorString(rc));
    return false;
}

bool cuda_lt_ok(struct cuda *cuda, cublasStatus_t rc, const char *what)
{
    if (rc == CUBLAS_STATUS_SUCCESS)
        return true;
    if (!cuda->failure.code)
        bl_fail(&cuda->failure, BL_EDEVICE, "%s: %s: cuBLASLt status %d (%s)", cuda->name, what,
                (int)rc, cublasLtGetStatusString(rc));
    return false;
}

/* -- memory -- */

static int dry_alloc(struct ops *self, enum ops_use use, size_t bytes, void **ret,
                     struct bl_error *err)
{
    *ret = ops_dry_alloc(self->dry, use, bytes);
    return *ret ? 0 : bl_fail(err, BL_ENOMEM, "no memory to count memory");
}

int cuda_alloc(struct ops *self, size_t bytes, void **ret, struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    if (self->dry)
        return dry_alloc(self, OPS_ARRAYS, bytes, ret, err);
    void *p = NULL;
    cudaError_t rc = cudaMalloc(&p, bytes ? bytes : 1);
    if (rc == cudaErrorMemoryAllocation) {
        size_t left = 0, total = 0;
        cudaGetLastError(); /* it sticks only to this call */
        cudaMemGetInfo(&left, &total);
        bl_fail(err, BL_ENOMEM, "no memory for %.0f MiB on %s: %.0f of %.0f MiB are free",
                (double)bytes * MIB, cuda->name, (double)left * MIB, (double)total * MIB);
        return bl_error_remedy(err, "lower train.micro_batch, or use a GPU with more memory");
    }
    if (rc != cudaSuccess)
        return bl_fail(err, BL_EDEVICE, "%s: %zu bytes cannot be had: %s", cuda->name, bytes,
                       cudaGetErrorString(rc));
    size_t left = 0, total = 0;
    if (cudaMemGetInfo(&left, &total) == cudaSuccess && total - left > cuda->peak)
        cuda->peak = total - left;
    *ret = p;
    return 0;
}

/* Of the device, so that it counts the libraries' own memory, and other processes'. */
static size_t cuda_peak_bytes(const struct ops *self)
{
    return ((const struct cuda *)self)->peak;
}

void cuda_release(struct ops *self, void *p)
{
    if (self->dry)
        ops_dry_free(self->dry, p);
    else if (p)
        cuda_ok(cuda_of(self), cudaFree(p), "memory cannot be released");
}

void *cuda_scratch(struct cuda *cuda, enum cuda_scratch_slot slot, size_t bytes)
{
    if (bytes <= cuda->scratch[slot].bytes)
        return cuda->ops.dry ? NULL : cuda->scratch[slot].memory;
    struct bl_error err;
    cuda_release(&cuda->ops, cuda->scratch[slot].memory); /* waits for whoever uses it */
    cuda->scratch[slot].memory = NULL;
    cuda->scratch[slot].bytes = 0;
    int rc = cuda->ops.dry
                 ? dry_alloc(&cuda->ops, OPS_SCRATCH, bytes, &cuda->scratch[slot].memory, &err)
                 : cuda_alloc(&cuda->ops, bytes, &cuda->scratch[slot].memory, &err);
    if (rc == 0)
        cuda->scratch[slot].bytes = bytes;
    else if (!cuda->failure.code)
        cuda->failure = err;
    return cuda->ops.dry ? NULL : cuda->scratch[slot].memory;
}

/* -- copies -- */

/* Room for `bytes`, at most a part, in the ring. NULL: the device failed. */
static char *ring_take(struct cuda *cuda, size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    if (cuda->ring_used + bytes > CUDA_RING_PART_BYTES) {
        cudaEvent_t read = cuda->ring_read[cuda->ring_part];
        if (!cuda_ok(cuda, cudaEventRecord(read, cuda->launch.stream), "an event"))
            return NULL;
        cuda->ring_part = (cuda->ring_part + 1) % CUDA_RING_PARTS;
        cuda->ring_used = 0;
        /* of this part's last round; at first it was never recorded, which counts as done */
        if (!cuda_ok(cuda, cudaEventSynchronize(cuda->ring_read[cuda->ring_part]), "a copy"))
            return NULL;
    }
    char *p = cuda->ring + (size_t)cuda->ring_part * CUDA_RING_PART_BYTES + cuda->ring_used;
    cuda->ring_used += bytes;
    return p;
}

void cuda_copy_in(struct ops *self, void *device, const void *host, size_t bytes)
{
    struct cuda *cuda = cuda_of(self);
    for (size_t at = 0; at < bytes; at += CUDA_RING_PART_BYTES) {
        size_t size = bytes - at < CUDA_RING_PART_BYTES ? bytes - at : CUDA_RING_PART_BYTES;
        char *pinned = ring_take(cuda, size);
        if (!pinned)
            return;
        memcpy(pinned, (const char *)host + at, size);
        cuda_ok(cuda,
                cudaMemcpyAsync((char *)device + at, pinned, size, cudaMemcpyHostToDevice,
                                cuda->launch.stream),
                "a copy to the device");
    }
}

static void cuda_copy_out(struct ops *self, void *host, const void *device, size_t bytes)
{
    struct cuda *cuda = cuda_of(self);
    if (!bytes)
        return;
    cudaStream_t stream = cuda->launch.stream;
    if (cuda_ok(cuda, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream),
                "a copy from the device"))
        cuda_ok(cuda, cudaStreamSynchronize(stream), "the device");
}

static void cuda_copy(struct ops *self, void *y, const void *x, size_t bytes)
{
    struct cuda *cuda = cuda_of(self);
    if (bytes)
        cuda_ok(cuda, cudaMemcpyAsync(y, x, bytes, cudaMemcpyDeviceToDevice, cuda->launch.stream),
                "a copy on the device");
}

static void cuda_zero(struct ops *self, void *p, size_t bytes)
{
    struct cuda *cuda = cuda_of(self);
    if (bytes)
        cuda_ok(cuda, cudaMemsetAsync(p, 0, bytes, cuda->launch.stream), "clearing memory");
}

static int cuda_sync(struct ops *self, struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cudaStreamSynchronize(cuda->launch.stream), "the device");
    if (cuda->failure.code && err)
        *err = cuda->failure;
    return -cuda->failure.code;
}

static void cuda_act_from_f32(struct ops *self, act *y, const float *x, int64_t count)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_convert(cuda->launch.stream, y, cuda_act_dtype(cuda), x, BL_F32, count),
            "act_from_f32");
}

static void cuda_act_to_f32(struct ops *self, float *y, const act *x, int64_t count)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_convert(cuda->launch.stream, y, BL_F32, x, cuda_act_dtype(cuda), count),
            "act_to_f32");
}

/* -- opening -- */

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
    if (cuda->launch.stream)
        cudaStreamDestroy(cuda->launch.stream);
    if (cuda->comm_stream)
        cudaStreamDestroy(cuda->comm_stream);
    ops_dry_destroy(self->dry);
    free(cuda);
}

/* Stream, pinned ring and cuBLASLt; what is there is released by cuda_close. */
static int open_parts(struct cuda *cuda, struct bl_error *err)
{
    cudaError_t rc = cudaSetDevice(cuda->device);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&cuda->launch.stream, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&cuda->comm_stream, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaMallocHost((void **)&cuda->ring, (size_t)CUDA_RING_PARTS * CUDA_RING_PART_BYTES);
    for (int i = 0; i < CUDA_RING_PARTS && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&cuda->ring_read[i], cudaEventDisableTiming);
    if (rc != cudaSuccess) {
        bl_fail(err, BL_EDEVICE, "cuda:%d cannot be opened: %s", cuda->device,
                cudaGetErrorString(rc));
        return bl_error_remedy(err, "nvidia-smi shows whether it works and who uses it");
    }
    return cuda_matmul_open(cuda, err);
}

static struct cuda *new_cuda(enum ops_precision precision, struct bl_error *err)
{
    struct cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda) {
        bl_fail(err, BL_ENOMEM, "no memory for the CUDA backend");
        return NULL;
    }
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
                             .peak_bytes = cuda_peak_bytes,
                             .close = cuda_close,
                             .alloc = cuda_alloc,
                             .release = cuda_release,
                             .copy_in = cuda_copy_in,
                             .copy_out = cuda_copy_out,
                             .copy = cuda_copy,
                             .zero = cuda_zero,
                             .sync = cuda_sync,
                             .act_from_f32 = cuda_act_from_f32,
                             .act_to_f32 = cuda_act_to_f32};
    cuda_fill_table(&cuda->ops);
    cuda_fill_matmul(&cuda->ops);
    cuda_fill_operand(&cuda->ops);
    return cuda;
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
    int rc = open_parts(cuda, err);
    if (rc < 0)
        cuda_close(&cuda->ops);
    else
        *ret = &cuda->ops;
    return rc;
}

static int dry_sync(struct ops *self, struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    if (cuda->failure.code && err)
        *err = cuda->failure;
    return -cuda->failure.code;
}

int cuda_dry_open(enum ops_precision precision, struct ops **ret, struct bl_error *err)
{
    struct cuda *cuda = new_cuda(precision, err);
    if (!cuda)
        return -BL_ENOMEM;
    snprintf(cuda->name, sizeof cuda->name, "cuda: %s", precision_words(precision));
    cuda->fuses_gelu = precision == OPS_BF16;
    cuda->ops.dry = ops_dry_create();
    cuda->ops.memory = NULL; /* nothing of it is reached from the host */
    cuda->ops.sync = dry_sync;
    ops_dry_fill(&cuda->ops);
    cuda_fill_scratch(&cuda->ops);
    int rc = cuda->ops.dry ? cuda_matmul_open(cuda, err)
                           : bl_fail(err, BL_ENOMEM, "no memory to count memory");
    if (rc < 0)
        cuda_close(&cuda->ops);
    else
        *ret = &cuda->ops;
    return rc;
}
