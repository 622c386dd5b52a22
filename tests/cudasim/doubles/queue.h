/* tests/cudasim/doubles/queue.h - how the doubles of CUDA's libraries put work into a stream (cudart.cc). */
#pragma once

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* run(context), each time that a graph runs it, once everything put into the stream before has run; device memory may be
 * touched there and nowhere else. It may put its work off until flush(), which is called before anything else runs or memory is
 * released. The context, from malloc, is freed when nothing can run it any more. Fails where the stream is captured and the capture is
 * invalid. */
cudaError_t double_queue_lazily(cudaStream_t stream, void (*run)(void *context), void *context,
                                void (*flush)(void));
/* The same, nothing put off, and no sooner than ready(context) says so, which is asked, again and again, once everything before has run. Who waits for
 * the stream lets other threads in meanwhile. */
cudaError_t double_queue_when(cudaStream_t stream, bool (*ready)(void *context),
                              void (*run)(void *context), void *context);
/* What runs so takes this much longer, as events tell it (cudaEventElapsedTime). */
void double_spend(double ms);

#ifdef __cplusplus
}
#endif
