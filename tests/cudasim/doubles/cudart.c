/* tests/cudasim/doubles/cudart.c - the part of the CUDA runtime that worker/ops/cuda calls, on host
 * memory: one device whose queue is empty as soon as something is put into it.
 *
 * What it is strict about: device memory is filled with NaN when it is handed out and again when it is
 * released, a pinned buffer is not device memory, and a copy must say its direction right. */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_BYTES ((size_t)16 << 30)

/* What is handed out, in a list. */
struct block {
    struct block *next;
    char *base;
    size_t bytes;
};

static struct block *blocks;
static size_t used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void broken(const char *what)
{
    fprintf(stderr, "cudart double: %s\n", what);
    abort();
}

static bool is_device(const void *p, size_t bytes)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (const struct block *b = blocks; b && !found; b = b->next)
        found = (const char *)p >= b->base && (const char *)p + bytes <= b->base + b->bytes;
    pthread_mutex_unlock(&lock);
    return found;
}

cudaError_t cudaMalloc(void **ret, size_t bytes)
{
    size_t rounded = (bytes + 255) / 256 * 256;
    struct block *block = malloc(sizeof *block);
    char *base = used + rounded > DEVICE_BYTES ? NULL : aligned_alloc(256, rounded);
    if (!base || !block) {
        free(block);
        free(base);
        return cudaErrorMemoryAllocation;
    }
    memset(base, 0xFF, rounded);
    *block = (struct block){blocks, base, bytes};
    pthread_mutex_lock(&lock);
    block->next = blocks;
    blocks = block;
    used += rounded;
    pthread_mutex_unlock(&lock);
    *ret = base;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (!p)
        return cudaSuccess;
    pthread_mutex_lock(&lock);
    struct block **at = &blocks, *block;
    while (*at && (*at)->base != p)
        at = &(*at)->next;
    if (!(block = *at))
        broken("cudaFree of what cudaMalloc did not give");
    *at = block->next;
    used -= (block->bytes + 255) / 256 * 256;
    pthread_mutex_unlock(&lock);
    memset(block->base, 0xFF, block->bytes);
    free(block->base);
    free(block);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
    *left = DEVICE_BYTES - used;
    *total = DEVICE_BYTES;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **ret, size_t bytes)
{
    *ret = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *ret ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *y, const void *x, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (is_device(y, bytes) != to || is_device(x, bytes) != from)
        broken("cudaMemcpyAsync: a pointer is not on the side that the direction says");
    memcpy(y, x, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    if (!is_device(p, bytes))
        broken("cudaMemsetAsync beyond device memory");
    memset(p, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags)
{
    *ret = malloc(1);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags)
{
    *ret = malloc(1);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *ret)
{
    *ret = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDriverGetVersion(int *ret)
{
    *ret = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *ret, int device)
{
    if (device != 0)
        return cudaErrorInvalidDevice;
    *ret = (struct cudaDeviceProp){.name = "shim", .multiProcessorCount = 1};
    memcpy(ret->uuid.bytes, "shim of the host", 16);
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaErrorMemoryAllocation ? "out of memory" : "an error of the double";
}
