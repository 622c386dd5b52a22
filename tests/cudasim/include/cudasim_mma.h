/* tests/cudasim/include/cudasim_mma.h - host twins of worker/ops/cuda/mma.cuh, which says what they do. */
#pragma once

#include <cudasim.h>

#define copy_async(shared, global, there)                                                          \
    cudasim_copy_async(shared, (there) ? (global) : nullptr, 16)
#define copy_commit() cudasim_copy_commit()
#define copy_wait() cudasim_copy_wait(0)

/* What a lane needs of the others' rows and fragments. */
static inline uint16_t cudasim_half(const unsigned char *lanes, int lane, int reg, int half)
{
    uint16_t x;
    memcpy(&x, lanes + 64 * lane + 4 * reg + 2 * half, sizeof x);
    return x;
}
static inline float cudasim_bf16(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}

/* Each lane gives its row of 16 bytes; row r of matrix m is lane 8 m + r's. */
static inline void cudasim_load_matrices(uint32_t (&x)[4], const void *row, bool turned,
                                         const char *file, int line)
{
    if ((uintptr_t)row % 16)
        abort(); /* misaligned address */
    const unsigned char *rows = cudasim_exchange(row, 16, file, line);
    const int g = CUDASIM_LANE / 4, t = CUDASIM_LANE % 4;
    for (int m = 0; m < 4; m++) {
        uint32_t halves[2];
        for (int i = 0; i < 2; i++) {
            const int r = turned ? 2 * t + i : g, c = turned ? g : 2 * t + i;
            halves[i] = cudasim_half(rows, 8 * m + r, c / 2, c % 2);
        }
        x[m] = halves[0] | halves[1] << 16;
    }
}
#define load_matrices(x, row) cudasim_load_matrices(x, row, false, __FILE__, __LINE__)
#define load_matrices_turned(x, row) cudasim_load_matrices(x, row, true, __FILE__, __LINE__)

/* A lane's registers: a in 0 to 3, b in 4 and 5. */
static inline void cudasim_multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1, const char *file, int line)
{
    const uint32_t given[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const unsigned char *lanes = cudasim_exchange(given, sizeof given, file, line);
    const int g = CUDASIM_LANE / 4, t = CUDASIM_LANE % 4;
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (int k = 0; k < 16; k++) {
            const uint16_t x =
                cudasim_half(lanes, row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2);
            const uint16_t y = cudasim_half(lanes, column * 4 + k % 8 / 2, 4 + k / 8, k % 2);
            c[i] += cudasim_bf16(x) * cudasim_bf16(y);
        }
    }
}
#define multiply_add(c, a, b0, b1) cudasim_multiply_add(c, a, b0, b1, __FILE__, __LINE__)

static inline float exp2_fast(float x)
{
    return x < -126 ? 0 : exp2f(x);
}
