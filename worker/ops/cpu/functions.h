/* worker/ops/cpu/functions.h - exp, the normal distribution, activations, number formats and
 * dropout masks as branch-free code that compilers turn into vectors. Each constant polynomial is a
 * minimax fit over its range; the errors given are measured over all of it
 * (tests/unit/ops_functions_test.c).
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include "common/random.h"
#include "common/size.h"
#include "worker/ops/ops.h"

static inline float bits_to_f32(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } u = {.bits = bits};
    return u.value;
}

static inline uint32_t f32_to_bits(float value)
{
    union {
        float value;
        uint32_t bits;
    } u = {.value = value};
    return u.bits;
}

/* e^x within 1e-7 relative for x <= 88; 0 below -60, where a softmax or a sigmoid has long vanished
 * beside 1: so no subnormal numbers, each of which costs a processor a hundred ordinary ones, come
 * of their products. NaN stays NaN. x = n ln 2 + r, |r| <= ln(2)/2. Adding `magic` rounds to an
 * integer and leaves n + 127 in the low bits, which shifted up is the number 2^n. */
static inline float f32_exp(float x)
{
    const float magic = 0x1.8p23f + 127, log2e = 0x1.715476p0f;
    const float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f; /* n * ln2_high is exact */
    float t = x * log2e + magic, n = t - magic;
    float r = x - n * ln2_high - n * ln2_low;
    float q = 0x1.6a243p-10f;
    q = q * r + 0x1.1239e4p-7f;
    q = q * r + 0x1.5558f2p-5f;
    q = q * r + 0x1.555492p-3f;
    q = q * r + 0x1.fffffcp-2f;
    float e = (q * r * r + r + 1) * bits_to_f32(f32_to_bits(t) << 23);
    return x < -60 ? 0 : e;
}

static inline float f32_sigmoid(float x)
{
    float e = f32_exp(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}

static inline float f32_sigmoid_slope(float x)
{
    float e = f32_exp(-fabsf(x));
    return e / ((1 + e) * (1 + e));
}

/* The standard normal distribution function, within 1e-7 absolute. For a = |x|, e^(a^2/2) P(X > a)
 * is a smooth function of s = 0.4 a / (1 + 0.4 a), 1/2 at 0. `gauss` is e^(-x^2/2). */
static inline float f32_normal_cdf(float x, float gauss)
{
    float a = 0.4f * fabsf(x), s = a / (1 + a);
    float q = -0x1.017c68p-7f;
    q = q * s - 0x1.2b405ap-7f;
    q = q * s + 0x1.12295ap-4f;
    q = q * s - 0x1.215c1cp-5f;
    q = q * s - 0x1.a47df4p-6f;
    q = q * s - 0x1.b7952ep-4f;
    q = q * s + 0x1.9e931ap-5f;
    q = q * s + 0x1.215346p-1f;
    q = q * s - 0x1.fea53ap-1f;
    q = (q * s + 0.5f) * gauss;
    return x < 0 ? q : 1 - q;
}

static inline float f32_gelu_erf(float x)
{
    return x * f32_normal_cdf(x, f32_exp(-0.5f * x * x));
}

static inline float f32_gelu_erf_slope(float x)
{
    float gauss = f32_exp(-0.5f * x * x);
    return f32_normal_cdf(x, gauss) + x * gauss * 0x1.988454p-2f; /* 1 / sqrt(2 pi) */
}

/* (1 + tanh u) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) */
static inline float f32_gelu_tanh(float x)
{
    return x * f32_sigmoid(0x1.988454p0f * (x + 0.044715f * x * x * x));
}

static inline float f32_gelu_tanh_slope(float x)
{
    float u2 = 0x1.988454p0f * (x + 0.044715f * x * x * x);
    return f32_sigmoid(u2) +
           x * f32_sigmoid_slope(u2) * 0x1.988454p0f * (1 + 3 * 0.044715f * x * x);
}

static inline float f32_silu(float x)
{
    return x * f32_sigmoid(x);
}

static inline float f32_silu_slope(float x)
{
    return f32_sigmoid(x) + x * f32_sigmoid_slope(x);
}

/* sin and cos within 1 ulp for |x| up to 2^24: x = n pi/2 + r in double, |r| <= pi/4. */
static inline void f32_sincos(float x, float *ret_sin, float *ret_cos)
{
    const double magic = 0x1.8p52;
    double t = x * 0x1.45f306dc9c883p-1 + magic, n = t - magic;
    double r = x - n * 0x1.921fb54442d18p0 - n * 0x1.1a62633145c07p-54, z = r * r;
    double s = 0x1.6cd83814de719p-19;
    s = s * z - 0x1.a00f9d1fc534cp-13;
    s = s * z + 0x1.11110895a4c8cp-7;
    s = s * z - 0x1.5555554cb9040p-3;
    s = s * z * r + r;
    double c = -0x1.242abd6904135p-22;
    c = c * z + 0x1.a0111fb11560cp-16;
    c = c * z - 0x1.6c16b898197dbp-10;
    c = c * z + 0x1.5555554f4da14p-5;
    c = (c * z - 0.5) * z + 1;
    union {
        double value;
        uint64_t bits;
    } quadrant = {.value = t};
    bool swap = quadrant.bits & 1, minus_sin = quadrant.bits & 2,
         minus_cos = (quadrant.bits + 1) & 2;
    double sine = swap ? c : s, cosine = swap ? s : c;
    *ret_sin = (float)(minus_sin ? -sine : sine);
    *ret_cos = (float)(minus_cos ? -cosine : cosine);
}

static inline float bf16_to_f32(uint16_t x)
{
    return bits_to_f32((uint32_t)x << 16);
}

/* To nearest, ties to even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float x)
{
    uint32_t bits = f32_to_bits(x), rounded = bits + 0x7FFF + (bits >> 16 & 1);
    return (uint16_t)((x != x ? bits | 0x400000 : rounded) >> 16);
}

static inline float f16_to_f32(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, magnitude = x & 0x7FFF;
    uint32_t normal = (magnitude << 13) + (112u << 23);
    normal += magnitude >= 0x7C00 ? 112u << 23 : 0; /* infinity and NaN: the largest exponent */
    uint32_t subnormal = f32_to_bits((float)(int32_t)magnitude * 0x1p-24f);
    return bits_to_f32(sign | (magnitude < 0x400 ? subnormal : normal));
}

/* scale[i] = 1 / (1 - p) where element first + i of the sample is kept, else 0. `scratch`-free: the
 * ten rounds run over blocks of counters (common/random.h has the plain form). */
static inline void dropout_scales(float *restrict scale, const struct ops_dropout *dropout,
                                  int64_t sample, uint64_t first, int64_t count)
{
    enum { COUNTERS = 16 };
    const uint64_t key = bl_mix64(dropout->seed, BL_RANDOM_DROPOUT);
    const uint32_t site = dropout->site, step = dropout->step;
    const uint32_t position = (uint32_t)dropout->positions[sample];
    /* (x >> 8) 2^-24 >= p, both sides exact */
    const int32_t threshold = (int32_t)ceilf(dropout->p * 0x1p24f);
    const float keep = 1 / (1 - dropout->p);
    for (int64_t i = -(int64_t)(first % 4); i < count; i += 4 * COUNTERS) {
        float block[4 * COUNTERS];
        const uint32_t counter = (uint32_t)((first + (uint64_t)i) / 4);
#pragma omp simd
        for (int lane = 0; lane < COUNTERS; lane++) {
            struct bl_philox_block x = {counter + (uint32_t)lane, site, position, step};
            x = bl_philox_rounds(x, (uint32_t)key, (uint32_t)(key >> 32));
            block[4 * lane] = (int32_t)(x.a >> 8) >= threshold ? keep : 0;
            block[4 * lane + 1] = (int32_t)(x.b >> 8) >= threshold ? keep : 0;
            block[4 * lane + 2] = (int32_t)(x.c >> 8) >= threshold ? keep : 0;
            block[4 * lane + 3] = (int32_t)(x.d >> 8) >= threshold ? keep : 0;
        }
        int64_t from = bl_max(0, -i), to = bl_min(4 * COUNTERS, count - i);
        for (int64_t j = from; j < to; j++)
            scale[i + j] = block[j];
    }
}

/* No dropout in fact? */
static inline bool dropout_is_off(const struct ops_dropout *dropout)
{
    return !dropout || dropout->p == 0;
}
