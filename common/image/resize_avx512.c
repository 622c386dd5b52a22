/* common/image/resize_avx512.c - the passes of image_resize.c by AVX-512 VNNI, with the same bits.
 *
 * vpdpbusd adds up four products of a u8 and an i8 in each 32-bit lane. So each weight is written in
 * three signed digits to base 256, and sum(w p) = sum over d of sum(digit_d p) << 8 d. Intermediate
 * sums may wrap round 2^32; the total fits, so it comes out exact. */
#include "common/image/resize.h"

#ifdef __x86_64__
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))

/* Four neighbouring digits in every 32-bit lane. */
AVX512 static inline __m512i four_digits(const int8_t *digits)
{
    int32_t four;
    memcpy(&four, digits, sizeof four);
    return _mm512_set1_epi32(four);
}

AVX512 static inline __m512i finish(const __m512i sums[3])
{
    const __m512i half = _mm512_set1_epi32(1 << (RESIZE_PRECISION - 1));
    __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(sums[2], 16), _mm512_slli_epi32(sums[1], 8));
    sum = _mm512_add_epi32(_mm512_add_epi32(sum, sums[0]), half);
    return _mm512_srai_epi32(sum, RESIZE_PRECISION);
}

AVX512 static inline __m128i load_16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* A row in each quarter of a register. Four taps a turn: their 12 bytes become r0 r1 r2 r3, g0 …,
 * b0 …. */
AVX512 static void avx512_horizontal(const struct resize_axis *axis,
                                     const uint8_t *const rows[RESIZE_ROWS],
                                     uint8_t *const outs[RESIZE_ROWS])
{
    const __m512i by_channel =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
    for (int64_t i = 0; i < axis->to; i++) {
        int64_t weights = i * axis->taps, first = 3 * (int64_t)axis->first[i];
        __m512i sums[3] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int64_t t = 0; t < axis->count[i]; t += 4) {
            int64_t at = first + 3 * t;
            __m512i bytes = _mm512_castsi128_si512(load_16(rows[0] + at));
            bytes = _mm512_inserti32x4(bytes, load_16(rows[1] + at), 1);
            bytes = _mm512_inserti32x4(bytes, load_16(rows[2] + at), 2);
            bytes = _mm512_inserti32x4(bytes, load_16(rows[3] + at), 3);
            bytes = _mm512_shuffle_epi8(bytes, by_channel);
            for (int d = 0; d < 3; d++)
                sums[d] =
                    _mm512_dpbusd_epi32(sums[d], bytes, four_digits(axis->digits[d] + weights + t));
        }
        __m512i value = finish(sums);
        value = _mm512_packus_epi16(_mm512_packs_epi32(value, value), value);
        uint8_t pixels[64];
        _mm512_storeu_si512(pixels, value);
        for (int r = 0; r < RESIZE_ROWS; r++)
            resize_put_pixel(outs[r] + 3 * i, pixels + 16 * r, i + 1 == axis->to);
    }
}

/* Up to 64 bytes of the result, those of the mask, from four source rows at a time; rows beyond the last weigh nothing. */
AVX512 static inline void vertical_64(const struct resize_axis *axis, int64_t i,
                                      const uint8_t *rows, size_t row_bytes, __mmask64 mask,
                                      uint8_t *out)
{
    const __m512i zero = _mm512_setzero_si512();
    int64_t count = axis->count[i], weights = i * axis->taps;
    __m512i sums[4][3] = {
        {zero, zero, zero}, {zero, zero, zero}, {zero, zero, zero}, {zero, zero, zero}};
    for (int64_t t = 0; t < count; t += 4) {
        __m512i row[4];
        for (int64_t r = 0; r < 4; r++)
            row[r] = t + r < count
                         ? _mm512_maskz_loadu_epi8(mask, rows + (size_t)(t + r) * row_bytes)
                         : zero;
        __m512i lower_01 = _mm512_unpacklo_epi8(row[0], row[1]);
        __m512i upper_01 = _mm512_unpackhi_epi8(row[0], row[1]);
        __m512i lower_23 = _mm512_unpacklo_epi8(row[2], row[3]);
        __m512i upper_23 = _mm512_unpackhi_epi8(row[2], row[3]);
        __m512i columns[4] = {
            _mm512_unpacklo_epi16(lower_01, lower_23), _mm512_unpackhi_epi16(lower_01, lower_23),
            _mm512_unpacklo_epi16(upper_01, upper_23), _mm512_unpackhi_epi16(upper_01, upper_23)};
        for (int d = 0; d < 3; d++) {
            __m512i digits = four_digits(axis->digits[d] + weights + t);
            for (int q = 0; q < 4; q++)
                sums[q][d] = _mm512_dpbusd_epi32(sums[q][d], columns[q], digits);
        }
    }
    __m512i lower = _mm512_packs_epi32(finish(sums[0]), finish(sums[1]));
    __m512i upper = _mm512_packs_epi32(finish(sums[2]), finish(sums[3]));
    _mm512_mask_storeu_epi8(out, mask, _mm512_packus_epi16(lower, upper));
}

AVX512 static void avx512_vertical(const struct resize_axis *axis, int64_t i, const uint8_t *source,
                                   size_t row_bytes, uint8_t *out)
{
    const uint8_t *rows = source + (size_t)axis->first[i] * row_bytes;
    size_t x = 0;
    for (; x + 64 <= row_bytes; x += 64)
        vertical_64(axis, i, rows + x, row_bytes, ~(__mmask64)0, out + x);
    if (x < row_bytes)
        vertical_64(axis, i, rows + x, row_bytes, ((__mmask64)1 << (row_bytes - x)) - 1, out + x);
}

const struct resize_passes *resize_avx512(void)
{
    static const struct resize_passes passes = {"AVX-512", avx512_horizontal, avx512_vertical};
    bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vnni");
    return supported ? &passes : NULL;
}
#else
const struct resize_passes *resize_avx512(void)
{
    return NULL;
}
#endif
