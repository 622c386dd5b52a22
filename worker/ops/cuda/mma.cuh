/* worker/ops/cuda/mma.cuh - asynchronous copies to shared memory, matrix loads and tensor-core products of
 * bf16 (PTX ISA: cp.async, ldmatrix, mma.sync.m16n8k16). On the host their twins in tests/cudasim follow the
 * same fragment layouts.
 *
 * With lane = 4 g + t, the two halves of a register in order:
 *   a (16 x 16)   a[0] row g, columns 2t, 2t+1; a[1] row g+8; a[2] row g, columns 2t+8, 2t+9; a[3] row g+8
 *   b (16 x 8)    b[0] rows 2t, 2t+1 of column g; b[1] rows 2t+8, 2t+9
 *   c (16 x 8)    c[0], c[1] row g, columns 2t, 2t+1; c[2], c[3] row g+8
 */
#pragma once

#include "worker/ops/cuda/cuda.cuh"

#ifdef __CUDACC__

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global memory, or zeros; both addresses are multiples of 16. */
__device__ __forceinline__ void copy_async(void *shared, const void *global, bool there)
{
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
}
/* Ends a group of copies. */
__device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
/* All of this thread's copies have arrived; a barrier shows them to the others. */
__device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group 0;\n" ::: "memory");
}

/* Four 8 x 8 matrices of 16-bit elements: lane 8 m + r gives the address of row r of matrix m. x[m] of a
 * lane = its row g, columns 2t, 2t+1. */
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}
/* The same of the matrices turned: x[m] = rows 2t, 2t+1 of column g. */
__device__ __forceinline__ void load_matrices_turned(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* c += a b in f32 */
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 2^x; 0 for what is below 2^-126 */
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* Two f32 as a register of bf16, the first in the low half. */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

#else
#include <cudasim_mma.h>

__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    return from_f32<bf16>(low).bits | (uint32_t)from_f32<bf16>(high).bits << 16;
}
#endif
