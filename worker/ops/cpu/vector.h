/* worker/ops/cpu/vector.h - vectors as wide as the instruction set that a file is compiled for. */
#pragma once

#include <stdint.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#include "worker/ops/cpu/transpose.h"
#endif

#if defined(__AVX512F__)
enum { VECTOR = 16 };
#elif defined(__AVX__)
enum { VECTOR = 8 };
#else
enum { VECTOR = 4 };
#endif

/* Any address will do, and it may be an array of float. */
typedef float vector __attribute__((vector_size(VECTOR * sizeof(float)), aligned(4), may_alias));
/* The same for 16-bit elements, as many; and words that hold an element's bits. */
typedef uint16_t half_vector
    __attribute__((vector_size(VECTOR * sizeof(uint16_t)), aligned(2), may_alias));
typedef uint32_t word_vector __attribute__((vector_size(VECTOR * sizeof(uint32_t)), may_alias));

/* bf16 values as f32. */
static inline vector widened(half_vector x)
{
#if defined(__AVX512F__) /* compilers make two halves of what follows */
    return (vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16);
#else
    return (vector)(__builtin_convertvector(x, word_vector) << 16);
#endif
}

/* The sum of a vector's values: halves upon halves. */
static inline float total_of(vector x)
{
    typedef float four __attribute__((vector_size(16)));
#if defined(__AVX512F__)
    const __m256 half = _mm512_castps512_ps256(x) + _mm512_extractf32x8_ps(x, 1);
    four sum = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
#elif defined(__AVX__)
    four sum = _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1);
#else
    four sum = x;
#endif
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* rows[i] lane j <- rows[j] lane i */
#if defined(__AVX512F__)
static inline __attribute__((always_inline)) void transpose(vector rows[VECTOR])
{
    __m512i dwords[VECTOR];
    for (int i = 0; i < VECTOR; i++)
        dwords[i] = (__m512i)rows[i];
    transpose_dwords(dwords);
    for (int i = 0; i < VECTOR; i++)
        rows[i] = (vector)dwords[i];
}
#else
/* Of two vectors' lanes, one of each in turn: those of the lower halves, or of the upper ones. */
static inline vector zip_low(vector a, vector b)
{
#if defined(__AVX__)
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
static inline vector zip_high(vector a, vector b)
{
#if defined(__AVX__)
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

/* A perfect shuffle for each bit of a lane's number. */
static inline __attribute__((always_inline)) void transpose(vector rows[VECTOR])
{
    for (int round = 1; round < VECTOR; round *= 2) {
        vector zipped[VECTOR];
        for (int i = 0; i < VECTOR / 2; i++) {
            zipped[2 * i] = zip_low(rows[i], rows[i + VECTOR / 2]);
            zipped[2 * i + 1] = zip_high(rows[i], rows[i + VECTOR / 2]);
        }
        for (int i = 0; i < VECTOR; i++)
            rows[i] = zipped[i];
    }
}
#endif
