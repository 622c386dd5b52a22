/* tests/unit/ops_optimizer_test.c - gradient norm, AdamW, moving average, fixed-point sums. */
#include "tests/unit/ops.h"

#include <float.h>

static const int64_t counts[] = {0, 1, 33, 16384, 50001};

static void run_norm(struct ops_run *run, const void *input)
{
    const int64_t count = *(const int64_t *)input;
    struct ops *ops = run_ops(run);
    float *g = random_f32(1, count);
    const double start[2] = {3, 1}, scale = 0.25;
    double expected = 3, bad = 1, got[2];
    for (int64_t i = 0; i < count; i++)
        expected += g[i] * scale * g[i] * scale;
    double *out = run_bytes(run, start, sizeof start);
    ops->grad_norm(ops, out, run_f32(run, g, count), count, scale);
    run_expect_bytes(run, "norm", out, NULL, sizeof start);
    ops->copy_out(ops, got, out, sizeof got);
    assert_true(fabs(got[0] - expected) <= 1e-12 * expected && got[1] == bad);

    for (int64_t i = 0; i < count; i += 17, bad++)
        g[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    out = run_bytes(run, start, sizeof start);
    ops->grad_norm(ops, out, run_f32(run, g, count), count, scale);
    ops->copy_out(ops, got, out, sizeof got);
    assert_true(got[1] == bad);
    arrays_free();
}

static void the_norm_sums_squares_and_counts_what_is_not_finite(void **state)
{
    for (int64_t i = 0; i < COUNT(counts); i++)
        ops_each((struct cpu_options){.precision = OPS_F32}, run_norm, &counts[i]);
}

static void run_adamw(struct ops_run *run, const void *input)
{
    const int64_t count = *(const int64_t *)input;
    struct ops *ops = run_ops(run);
    const double scale = 0.125;
    struct ops_adamw o = {
        .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01};
    double *p = doubles(random_f32(1, count), count), *m = zeros(count), *v = zeros(count);
    float *param = run_f32(run, random_f32(1, count), count);
    float *moment1 = run_bytes(run, NULL, (size_t)count * sizeof(float));
    float *moment2 = run_bytes(run, NULL, (size_t)count * sizeof(float));
    for (o.t = 1; o.t <= 3; o.t++) {
        float *g = random_f32((uint64_t)o.t, count);
        for (int64_t i = 0; i < count; i++) {
            double g_i = g[i] * scale;
            p[i] -= o.lr * o.weight_decay * p[i];
            m[i] = o.beta1 * m[i] + (1 - o.beta1) * g_i;
            v[i] = o.beta2 * v[i] + (1 - o.beta2) * g_i * g_i;
            double unbiased1 = m[i] / (1 - pow(o.beta1, (double)o.t));
            double unbiased2 = v[i] / (1 - pow(o.beta2, (double)o.t));
            p[i] -= o.lr * unbiased1 / (sqrt(unbiased2) + o.eps);
        }
        ops->adamw(ops, param, moment1, moment2, run_f32(run, g, count), count, scale, &o);
        run_expect_f32(run, "p", param, p, count, 4);
        run_expect_f32(run, "m", moment1, m, count, 4);
        run_expect_f32(run, "v", moment2, v, count, 4);
    }
    arrays_free();
}

static void adamw_follows_the_published_algorithm(void **state)
{
    for (int64_t i = 0; i < COUNT(counts); i++)
        ops_each((struct cpu_options){.precision = OPS_F32}, run_adamw, &counts[i]);
}

static void run_ema(struct ops_run *run, const void *input)
{
    const int64_t count = *(const int64_t *)input;
    struct ops *ops = run_ops(run);
    const float decay = 0.99f;
    float *p = random_f32(1, count), *old = random_f32(2, count);
    double *expected = zeros(count);
    for (int64_t i = 0; i < count; i++)
        expected[i] = (double)decay * old[i] + (1 - (double)decay) * p[i];
    float *ema = run_f32(run, old, count);
    ops->ema(ops, ema, run_f32(run, p, count), count, decay);
    run_expect_f32(run, "ema", ema, expected, count, 2);
    arrays_free();
}

static void the_moving_average_moves_by_its_decay(void **state)
{
    for (int64_t i = 0; i < COUNT(counts); i++)
        ops_each((struct cpu_options){.precision = OPS_F32}, run_ema, &counts[i]);
}

static void run_fixed(struct ops_run *run, const void *input)
{
    const int64_t count = *(const int64_t *)input;
    struct ops *ops = run_ops(run);
    float *g = random_f32(1, count);
    for (int64_t i = 0; i < count; i++)
        g[i] = ldexpf(g[i], (int)(i % 70) - 45); /* from far below 2^-36 to 2^24 */
    int64_t *sum = (int64_t *)zeros(count), *twice = (int64_t *)zeros(count);
    double *back = zeros(count);
    for (int64_t i = 0; i < count; i++) {
        sum[i] = (int64_t)nearbyint(ldexp(g[i], 36));
        twice[i] = 2 * sum[i];
        back[i] = (float)ldexp((double)twice[i], -36);
    }
    int64_t *acc = run_bytes(run, NULL, (size_t)count * sizeof *acc);
    int64_t *bad = run_bytes(run, NULL, sizeof *bad);
    float *values = run_f32(run, g, count), *out = run_f32(run, NULL, count);
    ops->fixed_add(ops, acc, bad, values, count, 0x1p26f);
    run_expect_bytes(run, "acc", acc, sum, (size_t)count * sizeof *acc);
    ops->fixed_add(ops, acc, bad, values, count, 0x1p26f);
    run_expect_bytes(run, "acc twice", acc, twice, (size_t)count * sizeof *acc);
    ops->fixed_get(ops, out, acc, count);
    run_expect_f32(run, "g", out, back, count, 0);
    const int64_t none = 0;
    run_expect_bytes(run, "bad", bad, &none, sizeof none);
    arrays_free();
}

static void fixed_point_sums_are_exact_to_the_bit(void **state)
{
    for (int64_t i = 0; i < COUNT(counts); i++)
        ops_each((struct cpu_options){.precision = OPS_F32}, run_fixed, &counts[i]);
}

static void run_fixed_bad(struct ops_run *run, const void *input)
{
    /* ties go to even: 2^-37 is half a unit */
    const float g[] = {NAN,      INFINITY,   -INFINITY,   0x1p20f,   -0x1p20f, 0x1.fffffep19f,
                       0x1p-37f, 0x1.8p-36f, -0x1.8p-36f, -0x1p-37f, FLT_MAX,  0x0.8p-126f};
    const int64_t expected[] = {0, 0, 0, 0, 0, 0x1fffffel << 31, 0, 2, -2, 0, 0, 0}, six = 6;
    struct ops *ops = run_ops(run);
    int64_t *acc = run_bytes(run, NULL, sizeof expected);
    int64_t *bad = run_bytes(run, NULL, sizeof *bad);
    ops->fixed_add(ops, acc, bad, run_f32(run, g, COUNT(g)), COUNT(g), 0x1p20f);
    run_expect_bytes(run, "acc", acc, expected, sizeof expected);
    run_expect_bytes(run, "bad", bad, &six, sizeof six);
}

static void values_beyond_the_limit_or_not_finite_raise_the_flag_and_are_not_added(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_fixed_bad, NULL);
}

UNIT_MAIN(cmocka_unit_test(the_norm_sums_squares_and_counts_what_is_not_finite),
          cmocka_unit_test(adamw_follows_the_published_algorithm),
          cmocka_unit_test(the_moving_average_moves_by_its_decay),
          cmocka_unit_test(fixed_point_sums_are_exact_to_the_bit),
          cmocka_unit_test(values_beyond_the_limit_or_not_finite_raise_the_flag_and_are_not_added))
