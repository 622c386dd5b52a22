/* common/image/resize_avx2.c - the passes of image_resize.c by AVX2, with the same bits.
 *
 * A weight has 23 bits and a sign, the multiply-add of pairs (vpmaddwd) takes 16. So each weight is
 * split, weight = high * 2^12 + low, and sum(w p) = (sum(high p) << 12) + sum(low p). Intermediate
 * sums may wrap round 2^32; the total fits, so it comes out exact. */
#include "common/image/resize.h"

#ifdef __x86_64__
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

/* Two neighbouring 16-bit weights in every 32-bit lane. */
AVX2 static inline __m256i weight_pair(const int16_t *weights)
{
    int32_t pair;
    memcpy(&pair, weights, sizeof pair);
    return _mm256_set1_epi32(pair);
}

AVX2 static inline __m256i finish(__m256i high, __m256i low)
{
    const __m256i half = _mm256_set1_epi32(1 << (RESIZE_PRECISION - 1));
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, RESIZE_LOW_BITS), low);
    return _mm256_srai_epi32(_mm256_add_epi32(sum, half), RESIZE_PRECISION);
}

/* Row a in the lower half of each register, row b in the upper. Four taps a turn: their 12 bytes
 * become 16-bit pairs (r0 r1, g0 g1, b0 b1) and (r2 r3, g2 g3, b2 b3). */
AVX2 static void two_rows(const struct resize_axis *axis, const uint8_t *a, const uint8_t *b,
                          uint8_t *out_a, uint8_t *out_b)
{
    const __m256i taps_01 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i taps_23 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    for (int64_t i = 0; i < axis->to; i++) {
        const int16_t *high = axis->high + i * axis->taps, *low = axis->low + i * axis->taps;
        const uint8_t *source_a = a + 3 * axis->first[i], *source_b = b + 3 * axis->first[i];
        __m256i sum_high = _mm256_setzero_si256(), sum_low = _mm256_setzero_si256();
        for (int64_t t = 0; t < axis->count[i]; t += 4) {
            __m256i bytes = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(source_a + 3 * t))),
                _mm_loadu_si128((const __m128i *)(source_b + 3 * t)), 1);
            __m256i p01 = _mm256_shuffle_epi8(bytes, taps_01);
            __m256i p23 = _mm256_shuffle_epi8(bytes, taps_23);
            sum_high = _mm256_add_epi32(sum_high, _mm256_madd_epi16(p01, weight_pair(high + t)));
            sum_low = _mm256_add_epi32(sum_low, _mm256_madd_epi16(p01, weight_pair(low + t)));
            sum_high =
                _mm256_add_epi32(sum_high, _mm256_madd_epi16(p23, weight_pair(high + t + 2)));
            sum_low = _mm256_add_epi32(sum_low, _mm256_madd_epi16(p23, weight_pair(low + t + 2)));
        }
        __m256i value = finish(sum_high, sum_low);
        value = _mm256_packus_epi16(_mm256_packs_epi32(value, value), value);
        uint8_t pixels[32];
        _mm256_storeu_si256((__m256i *)pixels, value);
        resize_put_pixel(out_a + 3 * i, pixels, i + 1 == axis->to);
        resize_put_pixel(out_b + 3 * i, pixels + 16, i + 1 == axis->to);
    }
}

AVX2 static void avx2_horizontal(const struct resize_axis *axis,
                                 const uint8_t *const rows[RESIZE_ROWS],
                                 uint8_t *const outs[RESIZE_ROWS])
{
    for (int r = 0; r < RESIZE_ROWS; r += 2)
        two_rows(axis, rows[r], rows[r + 1], outs[r], outs[r + 1]);
}

/* 32 bytes of the result from two source rows at a time. */
AVX2 static void avx2_vertical(const struct resize_axis *axis, int64_t i, const uint8_t *source,
                               size_t row_bytes, uint8_t *out)
{
    const __m256i zero = _mm256_setzero_si256();
    const int16_t *high = axis->high + i * axis->taps, *low = axis->low + i * axis->taps;
    const uint8_t *rows = source + (size_t)axis->first[i] * row_bytes;
    int64_t count = axis->count[i];
    size_t x = 0;
    for (; x + 32 <= row_bytes; x += 32) {
        __m256i sum_high[4] = {zero, zero, zero, zero}, sum_low[4] = {zero, zero, zero, zero};
        for (int64_t t = 0; t < count; t += 2) {
            const uint8_t *p = rows + (size_t)t * row_bytes + x;
            __m256i even = _mm256_loadu_si256((const __m256i *)p);
            __m256i odd =
                t + 1 < count ? _mm256_loadu_si256((const __m256i *)(p + row_bytes)) : zero;
            __m256i lower = _mm256_unpacklo_epi8(even, odd);
            __m256i upper = _mm256_unpackhi_epi8(even, odd);
            __m256i pairs[4] = {
                _mm256_unpacklo_epi8(lower, zero), _mm256_unpackhi_epi8(lower, zero),
                _mm256_unpacklo_epi8(upper, zero), _mm256_unpackhi_epi8(upper, zero)};
            __m256i weight_high = weight_pair(high + t), weight_low = weight_pair(low + t);
            for (int q = 0; q < 4; q++) {
                sum_high[q] =
                    _mm256_add_epi32(sum_high[q], _mm256_madd_epi16(pairs[q], weight_high));
                sum_low[q] = _mm256_add_epi32(sum_low[q], _mm256_madd_epi16(pairs[q], weight_low));
            }
        }
        __m256i lower =
            _mm256_packs_epi32(finish(sum_high[0], sum_low[0]), finish(sum_high[1], sum_low[1]));
        __m256i upper =
            _mm256_packs_epi32(finish(sum_high[2], sum_low[2]), finish(sum_high[3], sum_low[3]));
        _mm256_storeu_si256((__m256i *)(out + x), _mm256_packus_epi16(lower, upper));
    }
    resize_vertical_rest(axis, i, source, row_bytes, x, out);
}

const struct resize_passes *resize_avx2(void)
{
    static const struct resize_passes passes = {"AVX2", avx2_horizontal, avx2_vertical};
    return __builtin_cpu_supports("avx2") ? &passes : NULL;
}
#else
const struct resize_passes *resize_avx2(void)
{
    return NULL;
}
#endif
