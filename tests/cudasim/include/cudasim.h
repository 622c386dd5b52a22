/* tests/cudasim/include/cudasim.h - CUDA kernels on the host, as C++17: what nvcc declares by itself.
 *
 * A block runs as one fiber per thread on the calling OS thread, blocks one after the other. A thread
 * runs until it waits (barrier, shuffle, tensor-core instruction) or ends; which one goes next is drawn
 * at random, so that a missing barrier shows as a wrong result. What a GPU leaves undefined ends the
 * process with a message: threads that wait at different barriers, a shuffle among lanes of which some
 * have ended or wait elsewhere. Shared memory comes from malloc for every block, filled with 0xCD: with
 * AddressSanitizer its bounds are checked. Asynchronous copies arrive when they are waited for.
 */
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <tuple>

#include <cuda_runtime_api.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* Where the running fiber stands. */
struct cudasim_place {
    dim3 thread, block, block_size, grid_size;
};
extern thread_local struct cudasim_place cudasim_at;
#define threadIdx (cudasim_at.thread)
#define blockIdx (cudasim_at.block)
#define blockDim (cudasim_at.block_size)
#define gridDim (cudasim_at.grid_size)

/* Runs body(context) as every thread of the grid. */
void cudasim_run(dim3 grid, dim3 block, size_t dynamic_bytes, void (*body)(void *context),
                 void *context);

/* Where launches go, each with what runs it; NULL: it runs at once. What fails sets the calling thread's last error. */
extern void (*cudasim_submit)(cudaStream_t stream, std::function<void()> work);
extern thread_local cudaError_t cudasim_last_error;

/* Arguments are taken at the launch, as a GPU does. */
template <typename... P, typename... A>
void cudasim_launch(dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
                    void (*kernel)(P...), A... given)
{
    const std::tuple<P...> arguments(static_cast<P>(given)...);
    const auto work = [=] {
        const auto thread = [&] { std::apply(kernel, arguments); };
        cudasim_run(
            grid, block, dynamic_bytes, [](void *context) { (*(decltype(thread) *)context)(); },
            (void *)&thread);
    };
    cudasim_submit ? cudasim_submit(stream, work) : work();
}

/* The block's shared memory of a declaration, of which `key` is the address of a static. */
void *cudasim_shared(const void *key, size_t bytes);
void *cudasim_dynamic(void);

void cudasim_block_barrier(const char *file, int line);
void cudasim_warp_barrier(const char *file, int line);
/* Every lane of the warp gives `bytes` (64 at most) and gets all lanes', 64 bytes apart. Valid until
 * the lane's next exchange but one. */
const unsigned char *cudasim_exchange(const void *given, size_t bytes, const char *file, int line);

#define __syncthreads() cudasim_block_barrier(__FILE__, __LINE__)
#define __syncwarp() cudasim_warp_barrier(__FILE__, __LINE__)

template <typename T> T cudasim_shuffle(T value, int lane, const char *file, int line)
{
    T got;
    memcpy(&got, cudasim_exchange(&value, sizeof value, file, line) + 64 * lane, sizeof got);
    return got;
}
#define CUDASIM_LANE ((int)(threadIdx.x % 32))
#define __shfl_xor_sync(mask, value, lanes)                                                        \
    cudasim_shuffle(value, CUDASIM_LANE ^ (lanes), __FILE__, __LINE__)
#define __shfl_sync(mask, value, lane) cudasim_shuffle(value, lane, __FILE__, __LINE__)

/* cp.async: the bytes (zeros of NULL) arrive at the wait for their group; until then the place holds 0xCD. */
void cudasim_copy_async(void *shared, const void *global, size_t bytes);
void cudasim_copy_commit(void);
void cudasim_copy_wait(int groups_left);

static inline uint32_t __umulhi(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}
static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float __uint_as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline unsigned long long atomicAdd(unsigned long long *sum, unsigned long long x)
{
    unsigned long long old = *sum;
    *sum += x;
    return old;
}
static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}
