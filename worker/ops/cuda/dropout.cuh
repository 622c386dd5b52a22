/* worker/ops/cuda/dropout.cuh - dropout's Philox bits, those of the CPU (worker/ops/ops.h, struct
 * ops_dropout). */
#pragma once

#include "worker/ops/cuda/cuda.cuh"

extern "C" {
#include "common/random.h"
}

/* ops_dropout as a kernel's argument. */
struct dropout_site {
    uint32_t key[2], step, site;
    uint32_t threshold; /* kept: (word >> 8) >= threshold, which is p 2^24 rounded up */
    float keep;         /* 1 / (1 - p) */
    const int32_t *positions;
};

static inline bool dropout_is_off(const struct ops_dropout *dropout)
{
    return !dropout || dropout->p == 0;
}

static inline struct dropout_site dropout_site(const struct ops_dropout *dropout)
{
    struct dropout_site site = {};
    if (dropout_is_off(dropout))
        return site;
    const uint64_t key = bl_mix64(dropout->seed, BL_RANDOM_DROPOUT);
    site.key[0] = (uint32_t)key;
    site.key[1] = (uint32_t)(key >> 32);
    site.step = dropout->step;
    site.site = dropout->site;
    site.threshold = (uint32_t)ceilf(dropout->p * 0x1p24f);
    site.keep = 1 / (1 - dropout->p);
    site.positions = dropout->positions;
    return site;
}

/* The factors of elements 4 `quad` .. + 3 of the sample at `position`: 0 or 1 / (1 - p). */
__device__ __forceinline__ void dropout_quad(float (&factor)[4], const struct dropout_site &d,
                                             uint32_t position, uint32_t quad)
{
    uint32_t a = quad, b = d.site, c = position, e = d.step, k0 = d.key[0], k1 = d.key[1];
    CU_UNROLL
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xD2511F53u, a), low0 = 0xD2511F53u * a;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, c), low1 = 0xCD9E8D57u * c;
        a = high1 ^ b ^ k0;
        b = low1;
        c = high0 ^ e ^ k1;
        e = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    factor[0] = a >> 8 >= d.threshold ? d.keep : 0;
    factor[1] = b >> 8 >= d.threshold ? d.keep : 0;
    factor[2] = c >> 8 >= d.threshold ? d.keep : 0;
    factor[3] = e >> 8 >= d.threshold ? d.keep : 0;
}

/* The factors of elements first and first + 1. */
__device__ __forceinline__ void dropout_pair(float (&factor)[2], const struct dropout_site &d,
                                             uint32_t position, uint64_t first)
{
    float quad[4];
    const int shift = (int)(first % 4);
    dropout_quad(quad, d, position, (uint32_t)(first / 4));
    factor[0] = shift == 0 ? quad[0] : shift == 1 ? quad[1] : shift == 2 ? quad[2] : quad[3];
    factor[1] = shift == 0 ? quad[1] : shift == 1 ? quad[2] : quad[3];
    if (shift == 3) {
        dropout_quad(quad, d, position, (uint32_t)(first / 4) + 1);
        factor[1] = quad[0];
    }
}

/* The factor of one element. */
__device__ __forceinline__ float dropout_one(const struct dropout_site &d, uint32_t position,
                                             uint64_t element)
{
    float quad[4];
    const int i = (int)(element % 4);
    dropout_quad(quad, d, position, (uint32_t)(element / 4));
    return i == 0 ? quad[0] : i == 1 ? quad[1] : i == 2 ? quad[2] : quad[3];
}

/* The factors of elements first .. + 3, which may lie in two quads. */
__device__ __forceinline__ void dropout_four(float (&factor)[4], const struct dropout_site &d,
                                             uint32_t position, uint64_t first)
{
    float low[4], high[4] = {};
    const int shift = (int)(first % 4);
    dropout_quad(low, d, position, (uint32_t)(first / 4));
    if (shift > 0)
        dropout_quad(high, d, position, (uint32_t)(first / 4) + 1);
    float x[7] = {low[0], low[1], low[2], low[3], high[0], high[1], high[2]};
    /* by 1, then by 2: registers have no variable index */
    CU_UNROLL
    for (int i = 0; i < 6; i++)
        x[i] = shift & 1 ? x[i + 1] : x[i];
    CU_UNROLL
    for (int i = 0; i < 4; i++)
        factor[i] = shift & 2 ? x[i + 2] : x[i];
}
