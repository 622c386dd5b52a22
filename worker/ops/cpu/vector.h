/* worker/ops/cpu/vector.h - vectors as wide as the instruction set that a file is compiled for. */
#pragma once

#include <stdint.h>

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
