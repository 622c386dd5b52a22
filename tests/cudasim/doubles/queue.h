/* tests/cudasim/doubles/queue.h - how the doubles of CUDA's libraries put work into a stream (cudart.cc). */
#pragma once

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* run(context), which it frees, once everything put into the stream before has run; device memory may be
 * touched there and nowhere else. */
void double_queue(cudaStream_t stream, void (*run)(void *context), void *context);

#ifdef __cplusplus
}
#endif
