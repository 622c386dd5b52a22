/* tests/cudasim/include/cuda_runtime_api.h - stands in for CUDA's header of this name where kernels are
 * compiled for the host: the few types of the runtime that kernels and their launchers use. */
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
} cudaError_t;

typedef struct CUstream_st *cudaStream_t;

/* A launch of the shim alone never fails; who takes launches (cudasim_submit) may say that one did. */
cudaError_t cudaGetLastError(void);

/* The shim's own: decides in which order the threads of a block run from here on. */
void cudasim_seed(unsigned long long seed);

#ifdef __cplusplus
}
#endif
