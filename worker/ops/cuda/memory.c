/* worker/ops/cuda/memory.c - the device's memory as communicators reach it, from a thread of their own:
 * copies run on a stream of their own, behind the work that was queued when they were asked for. */
#include <stdlib.h>
#include <string.h>

#include "worker/ops/cuda/cuda.h"

static void *mark(void *context)
{
    struct cuda *cuda = cuda_of(context);
    cudaEvent_t event = NULL;
    if (!cuda_ok(cuda, cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event"))
        return NULL;
    cuda_ok(cuda, cudaEventRecord(event, cuda->launch.stream), "an event");
    return event;
}

static void forget(void *context, void *event)
{
    if (event)
        cudaEventDestroy(event);
}

/* The thread is not that of the ops: a failure is the communicator's to report. */
static bool fetch(void *context, void *event, void *host, const void *device, size_t bytes)
{
    struct cuda *cuda = cuda_of(context);
    cudaError_t rc = cudaSetDevice(cuda->device);
    if (rc == cudaSuccess && event)
        rc = cudaStreamWaitEvent(cuda->comm_stream, event, 0);
    if (rc == cudaSuccess)
        rc = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, cuda->comm_stream);
    return rc == cudaSuccess && cudaStreamSynchronize(cuda->comm_stream) == cudaSuccess;
}

static bool put(void *context, void *device, const void *host, size_t bytes)
{
    struct cuda *cuda = cuda_of(context);
    cudaError_t rc =
        cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, cuda->comm_stream);
    return rc == cudaSuccess && cudaStreamSynchronize(cuda->comm_stream) == cudaSuccess;
}

static void *alloc_pinned(void *context, size_t bytes)
{
    void *p = NULL;
    if (cudaSetDevice(cuda_of(context)->device) != cudaSuccess)
        return NULL;
    return cudaMallocHost(&p, bytes) == cudaSuccess ? p : NULL;
}

static void release_pinned(void *context, void *p)
{
    if (p)
        cudaFreeHost(p);
}

static void identity(void *context, uint8_t ret[16])
{
    struct cudaDeviceProp properties;
    memset(ret, 0, 16);
    if (cudaGetDeviceProperties(&properties, cuda_of(context)->device) == cudaSuccess)
        memcpy(ret, properties.uuid.bytes, 16);
}

const struct comm_memory cuda_memory = {.mark = mark,
                                        .forget = forget,
                                        .fetch = fetch,
                                        .put = put,
                                        .alloc = alloc_pinned,
                                        .release = release_pinned,
                                        .identity = identity};
