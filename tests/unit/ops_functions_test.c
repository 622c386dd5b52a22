/* tests/unit/ops_functions_test.c - the vector functions over their whole range against libm in
 * double, and the number formats exhaustively. */
#include "tests/unit/ops.h"

#include "worker/ops/cpu/functions.h"

static double erf_cdf(double x)
{
    return 0.5 * erfc(-x / sqrt(2));
}

/* Every float of the range is too many: a step of 2^-12 of the exponent and up. */
static float next_of(float x)
{
    return bits_to_f32(f32_to_bits(x) + 1499);
}

static void exp_is_within_its_bound_everywhere(void **state)
{
    for (float x = 0x1p-40f; x < 88; x = next_of(x)) {
        assert_true(fabs(f32_exp(x) / exp(x) - 1) < 1e-7);
        if (x < 60)
            assert_true(fabs(f32_exp(-x) / exp(-x) - 1) < 1e-7);
    }
    assert_true(f32_exp(0) == 1 && f32_exp(-0.0f) == 1);
    assert_true(f32_exp(-60.5f) == 0 && f32_exp(-INFINITY) == 0 && isnan(f32_exp(NAN)));
}

static void the_normal_distribution_is_within_its_bound_everywhere(void **state)
{
    for (float x = 0x1p-40f; x < 40; x = next_of(x))
        for (int sign = -1; sign <= 1; sign += 2) {
            float at = (float)sign * x, got = f32_normal_cdf(at, f32_exp(-0.5f * at * at));
            assert_true(fabs(got - erf_cdf(at)) < 1e-7);
            assert_true(fabs(f32_gelu_erf(at) - at * erf_cdf(at)) < 3e-7 * fmax(1, x) * fmin(1, x));
        }
}

static void the_sigmoid_is_within_four_units_in_the_last_place(void **state)
{
    for (float x = 0x1p-40f; x < 60; x = next_of(x))
        for (int sign = -1; sign <= 1; sign += 2) {
            double at = sign * (double)x, expected = 1 / (1 + exp(-at));
            assert_true(fabs(f32_sigmoid((float)at) / expected - 1) < 4 * 0x1p-24);
        }
    assert_true(f32_sigmoid(INFINITY) == 1 && f32_sigmoid(-INFINITY) == 0);
    assert_true(isnan(f32_sigmoid(NAN)));
}

static void sine_and_cosine_hold_for_large_angles(void **state)
{
    for (float x = 0x1p-40f; x < 0x1p24f; x = next_of(x))
        for (int sign = -1; sign <= 1; sign += 2) {
            float sine, cosine, at = (float)sign * x;
            f32_sincos(at, &sine, &cosine);
            assert_true(fabs(sine - sin(at)) < 1e-7 && fabs(cosine - cos(at)) < 1e-7);
        }
}

static void sixteen_bit_numbers_widen_exactly_and_round_to_even(void **state)
{
    for (uint32_t bits = 0; bits < 1 << 16; bits++) {
        int exponent = bits >> 10 & 31, fraction = bits & 1023;
        double value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        float got = f16_to_f32((uint16_t)bits);
        if (exponent == 31)
            assert_true(fraction ? isnan(got) : isinf(got));
        else
            assert_true(fabsf(got) == value);
        assert_int_equal(!!signbit(got), bits >> 15);

        float wide = bf16_to_f32((uint16_t)bits);
        if (isnan(wide))
            assert_true(isnan(bf16_to_f32(f32_to_bf16(wide))));
        else
            assert_int_equal(f32_to_bf16(wide), bits);
    }
    assert_int_equal(f32_to_bf16(0x1.01p0f), 0x3F80);     /* a tie, to even: down */
    assert_int_equal(f32_to_bf16(0x1.03p0f), 0x3F82);     /* a tie, to even: up */
    assert_int_equal(f32_to_bf16(0x1.010002p0f), 0x3F81); /* above a tie */
    assert_int_equal(f32_to_bf16(0x1.fffffep127f), 0x7F80);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(bits_to_f32(0x7F800001)))));
}

static void dropout_equals_philox_from_any_first_element(void **state)
{
    enum { N = 300 };
    static const int32_t positions[] = {4, 1 << 20};
    const struct ops_dropout dropout = {0.4f, 99, 7, 3, positions};
    for (int s = 0; s < 2; s++)
        for (uint64_t first = 0; first < 9; first++)
            for (int64_t count = 0; count < N; count += 1 + count / 3) {
                float scale[N + 1];
                scale[count] = 7;
                dropout_scales(scale, &dropout, s, first, count);
                for (int64_t i = 0; i < count; i++) {
                    uint64_t element = first + (uint64_t)i;
                    uint32_t words[4];
                    bl_draw(99, BL_RANDOM_DROPOUT, element / 4 | 3ull << 32,
                            (uint32_t)positions[s] | 7ull << 32, words);
                    bool keep = bl_unit_f32(words[element % 4]) >= dropout.p;
                    assert_true(scale[i] == (keep ? 1 / (1 - dropout.p) : 0));
                }
                assert_true(scale[count] == 7);
            }
}

UNIT_MAIN(cmocka_unit_test(exp_is_within_its_bound_everywhere),
          cmocka_unit_test(the_normal_distribution_is_within_its_bound_everywhere),
          cmocka_unit_test(the_sigmoid_is_within_four_units_in_the_last_place),
          cmocka_unit_test(sine_and_cosine_hold_for_large_angles),
          cmocka_unit_test(sixteen_bit_numbers_widen_exactly_and_round_to_even),
          cmocka_unit_test(dropout_equals_philox_from_any_first_element))
