/* common/cache/numbers.c - see numbers.h. */
#include "common/cache/numbers.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The least magnitude that f16 rounds to infinity, 65520. */
#define F16_OVERFLOW 0x477ff000u

/* Finite and below F16_OVERFLOW. */
static uint16_t f16_of(float x)
{
    uint32_t sign = bits_of(x) >> 16 & 0x8000u, magnitude = bits_of(x) & 0x7fffffffu, half;
    if (magnitude < 0x38800000u) /* below 2^-14, f16's least normal: an addition rounds to 2^-24 */
        half = bits_of(of_bits(magnitude) + 0.5f) - bits_of(0.5f);
    else /* exponents' biases differ by 112; 13 bits of the mantissa go */
        half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    return (uint16_t)(sign | half);
}

static float of_f16(uint16_t half)
{
    uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
    float x = of_bits(magnitude) * 0x1p112f;
    uint32_t bits = (half & 0x7c00u) == 0x7c00u ? magnitude | 0x7f800000u : bits_of(x);
    return of_bits(sign | bits);
}

/* Finite; f32's largest values round to infinity, which is told. */
static uint16_t bf16_of(float x)
{
    uint32_t bits = bits_of(x);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static enum number_fault find_fault(enum config_cache_dtype dtype, const float *x, size_t count,
                                    size_t *ret_at)
{
    uint32_t most = dtype == CONFIG_CACHE_F16    ? F16_OVERFLOW
                    : dtype == CONFIG_CACHE_BF16 ? 0x7f7f8000u
                                                 : 0x7f800000u;
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
        if (magnitude < most)
            continue;
        *ret_at = i;
        return magnitude >= 0x7f800000u ? NUMBER_NOT_FINITE : NUMBER_OVERFLOW;
    }
    return NUMBER_FITS;
}

/* q = round(x / scale), scale = max |x| / 127 of the token */
static void store_token(int8_t *q, float *scale, const float *x, size_t width)
{
    float most = 0;
    for (size_t i = 0; i < width; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    *scale = most / 127;
    for (size_t i = 0; i < width; i++) {
        float rounded = most > 0 ? nearbyintf(x[i] / most * 127) : 0;
        q[i] = (int8_t)rounded;
    }
}

enum number_fault numbers_store(enum config_cache_dtype dtype, void *to, float *scale,
                                const float *from, size_t count, size_t width, size_t *ret_at)
{
    enum number_fault fault = find_fault(dtype, from, count, ret_at);
    uint16_t *half = to;
    if (fault != NUMBER_FITS)
        return fault;
    switch (dtype) {
    case CONFIG_CACHE_F32:
        memcpy(to, from, count * sizeof *from);
        break;
    case CONFIG_CACHE_F16:
        for (size_t i = 0; i < count; i++)
            half[i] = f16_of(from[i]);
        break;
    case CONFIG_CACHE_BF16:
        for (size_t i = 0; i < count; i++)
            half[i] = bf16_of(from[i]);
        break;
    case CONFIG_CACHE_INT8:
        for (size_t i = 0; i < count / width; i++)
            store_token((int8_t *)to + i * width, &scale[i], from + i * width, width);
        break;
    }
    return NUMBER_FITS;
}

void numbers_load(enum config_cache_dtype dtype, float *to, const void *from, const float *scale,
                  size_t count, size_t width)
{
    const uint16_t *half = from;
    const int8_t *q = from;
    switch (dtype) {
    case CONFIG_CACHE_F32:
        memcpy(to, from, count * sizeof *to);
        break;
    case CONFIG_CACHE_F16:
        for (size_t i = 0; i < count; i++)
            to[i] = of_f16(half[i]);
        break;
    case CONFIG_CACHE_BF16:
        for (size_t i = 0; i < count; i++)
            to[i] = of_bits((uint32_t)half[i] << 16);
        break;
    case CONFIG_CACHE_INT8:
        for (size_t token = 0; token < count / width; token++)
            for (size_t i = token * width; i < (token + 1) * width; i++)
                to[i] = (float)q[i] * scale[token];
        break;
    }
}
