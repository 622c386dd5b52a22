/* worker/ops/cuda/cuda.c - a GPU's first failure, its memory, and copies. */
#include "worker/ops/cuda/cuda.h"

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

static int refuse_memory(const struct cuda *cuda, struct bl_error *err)
{
    return bl_fail(err, BL_EDEVICE, "%s: a recording may not take memory", cuda->name);
}

int cuda_alloc(struct ops *self, size_t bytes, void **ret, struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    if (self->dry)
        return dry_alloc(self, OPS_ARRAYS, bytes, ret, err);
    if (cuda->records)
        return refuse_memory(cuda, err);
    void *p = NULL;
    cudaError_t rc = cudaMalloc(&p, bytes ? bytes : 1);
    if (rc == cudaErrorMemoryAllocation) {
        size_t left = 0, total = 0;
        cudaGetLastError(); /* it sticks only to this call */
        cudaMemGetInfo(&left, &total);
        bl_fail(err, BL_ENOMEM, "no memory for %.0f MiB on %s: %.0f of %.0f MiB are free",
                (double)bytes * MIB, cuda->name, (double)left * MIB, (double)total * MIB);
        return bl_error_remedy(
            err, "lower train.micro_batch, set train.recompute, or use a GPU with more memory");
    }
    if (rc != cudaSuccess)
        return bl_fail(err, BL_EDEVICE, "%s: %zu bytes cannot be had: %s", cuda->name, bytes,
                       cudaGetErrorString(rc));
    size_t left = 0, total = 0;
    if (cudaMemGetInfo(&left, &total) == cudaSuccess && total - left > cuda->first->peak)
        cuda->first->peak = total - left;
    *ret = p;
    return 0;
}

/* Of the device, so that it counts the libraries' own memory, and other processes'. */
static size_t cuda_peak_bytes(const struct ops *self)
{
    return ((const struct cuda *)self)->peak;
}

static size_t cuda_free_bytes(const struct ops *self)
{
    size_t left = 0, total = 0;
    return cudaMemGetInfo(&left, &total) == cudaSuccess ? left : 0;
}

void cuda_release(struct ops *self, void *p)
{
    struct cuda *cuda = cuda_of(self);
    BL_ASSERT(!cuda->records);
    if (self->dry) {
        ops_dry_free(self->dry, p);
    } else if (p) {
        cuda->first->releases++;
        cuda_ok(cuda, cudaFree(p), "memory cannot be released");
    }
}

void *cuda_scratch(struct cuda *cuda, enum cuda_scratch_slot slot, size_t bytes)
{
    if (bytes <= cuda->scratch[slot].bytes)
        return cuda->ops.dry ? NULL : cuda->scratch[slot].memory;
    struct bl_error err;
    if (cuda->records) {
        if (!cuda->failure.code)
            refuse_memory(cuda, &cuda->failure);
        return NULL;
    }
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
    BL_ASSERT(!cuda->records);
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
    BL_ASSERT(!cuda->records);
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
    BL_ASSERT(!cuda->records);
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

void cuda_fill_memory(struct ops *table)
{
    table->peak_bytes = cuda_peak_bytes;
    table->free_bytes = cuda_free_bytes;
    table->alloc = cuda_alloc;
    table->release = cuda_release;
    table->copy_in = cuda_copy_in;
    table->copy_out = cuda_copy_out;
    table->copy = cuda_copy;
    table->zero = cuda_zero;
    table->sync = cuda_sync;
    table->act_from_f32 = cuda_act_from_f32;
    table->act_to_f32 = cuda_act_to_f32;
}
