/* worker/ops/cpu/transpose.h - 16 vectors of 16 dwords transposed, in registers, and the mask of a row's end. x86 alone. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

/* The first `count` of 16 lanes, all of them, or none. */
__attribute__((target("avx512f,avx512bw"), always_inline)) static inline __mmask16
lanes_of(int64_t count)
{
    return count >= 16 ? 0xFFFF : count > 0 ? (__mmask16)((1 << count) - 1) : 0;
}

/* rows[i] dword j <- rows[j] dword i */
__attribute__((target("avx512f,avx512bw"), always_inline)) static inline void
transpose_dwords(__m512i rows[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        rows[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        rows[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
    }
}
