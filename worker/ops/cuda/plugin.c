/* worker/ops/cuda/plugin.c - the one function that the module exports, and which GPUs there are. */
#include <nccl.h>
#include <stdio.h>

#include "worker/ops/cuda/cuda.h"
#include "worker/ops/plugin.h"

/* Drivers below 580 do not run programs of CUDA 13. */
#define DRIVER_MIN "580"

static int no_device(cudaError_t rc, struct bl_error *err)
{
    int driver = 0;
    cudaDriverGetVersion(&driver); /* 0: no driver */
    if (driver > 0 && driver < CUDART_VERSION / 1000 * 1000) {
        bl_fail(err, BL_EDEVICE, "the NVIDIA driver is too old: it supports CUDA %d.%d",
                driver / 1000, driver % 1000 / 10);
        return bl_error_remedy(
            err, "CUDA %d needs driver " DRIVER_MIN " or newer; use --device cpu until then",
            CUDART_VERSION / 1000);
    }
    bl_fail(err, BL_EDEVICE, "no GPU: %s",
            driver ? cudaGetErrorString(rc) : "there is no NVIDIA driver");
    return bl_error_remedy(err, "use --device cpu, or install the NVIDIA driver (" DRIVER_MIN
                                " or newer) and see nvidia-smi");
}

static int count(int *ret, struct bl_error *err)
{
    int devices = 0;
    cudaError_t rc = cudaGetDeviceCount(&devices);
    if (rc == cudaSuccess && devices == 0)
        rc = cudaErrorNoDevice;
    if (rc != cudaSuccess)
        return no_device(rc, err);
    *ret = devices;
    return 0;
}

static void kind(int index, char *ret, size_t size)
{
    struct cudaDeviceProp properties;
    int driver = 0, nccl = 0;
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
        snprintf(ret, size, "cuda: unknown");
        return;
    }
    cudaDriverGetVersion(&driver);
    ncclGetVersion(&nccl);
    snprintf(ret, size,
             "cuda: %.64s, %d SMs, driver for CUDA %d.%d, CUDA %d.%d, cuBLASLt %zu, NCCL %d",
             properties.name, properties.multiProcessorCount, driver / 1000, driver % 1000 / 10,
             CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, cublasLtGetVersion(), nccl);
}

static int64_t memory(int index)
{
    size_t left = 0, total = 0;
    if (cudaSetDevice(index) != cudaSuccess || cudaMemGetInfo(&left, &total) != cudaSuccess)
        return 0;
    return (int64_t)total;
}

__attribute__((visibility("default"))) const struct ops_plugin *ops_plugin(void)
{
    static const struct ops_plugin plugin = {.version = BLIPREN_VERSION,
                                             .ops_size = sizeof(struct ops),
                                             .count = count,
                                             .kind = kind,
                                             .memory = memory,
                                             .open = cuda_open,
                                             .open_dry = cuda_dry_open};
    return &plugin;
}
