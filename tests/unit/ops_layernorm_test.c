/* tests/unit/ops_layernorm_test.c - layer norm against its formula in double. */
#include "tests/unit/ops.h"

struct input {
    int64_t R, D, stride;
    const float *x, *weight, *bias, *d_y;
    bool frozen, accumulate;
    double *y, *saved, *d; /* expected; d = d_x, d_weight, d_bias */
};

static const float eps = 1e-5f;

/* x = (x, weight, bias) -> y */
static void reference(const void *input, const double *x, double *y)
{
    const struct input *in = input;
    const double *weight = x + in->R * in->D, *bias = weight + in->D;
    for (int64_t r = 0; r < in->R; r++) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < in->D; i++)
            mean += x[r * in->D + i] / (double)in->D;
        for (int64_t i = 0; i < in->D; i++)
            variance += pow(x[r * in->D + i] - mean, 2) / (double)in->D;
        double rstd = 1 / sqrt(variance + eps);
        for (int64_t i = 0; i < in->D; i++)
            y[r * in->D + i] = (x[r * in->D + i] - mean) * rstd * weight[i] + bias[i];
        in->saved[2 * r] = mean;
        in->saved[2 * r + 1] = rstd;
    }
}

/* d_x by the formula, after `reference`: of few elements, which may be nearly equal, y bends too sharply
 * for differences. */
static void exact_gradient(const struct input *in, const double *x)
{
    const double *weight = x + in->R * in->D, D = (double)in->D;
    for (int64_t r = 0; r < in->R; r++) {
        const double mean = in->saved[2 * r], rstd = in->saved[2 * r + 1];
        double mean_g = 0, mean_gx = 0;
        for (int64_t i = 0; i < in->D; i++) {
            const double g = in->d_y[r * in->D + i] * weight[i];
            mean_g += g / D;
            mean_gx += g * (x[r * in->D + i] - mean) * rstd / D;
        }
        for (int64_t i = 0; i < in->D; i++)
            in->d[r * in->D + i] = rstd * (in->d_y[r * in->D + i] * weight[i] - mean_g -
                                           (x[r * in->D + i] - mean) * rstd * mean_gx);
    }
}

static void run(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    int64_t R = in->R, D = in->D, count = R * D;
    double tolerance = 8 + sqrt((double)D) / 4;
    act *x = run_act(run, in->x, count), *y = run_act(run, NULL, count);
    act *d_y = run_act(run, in->d_y, count);
    float *weight = run_f32(run, in->weight, D), *bias = run_f32(run, in->bias, D);
    float *saved = run_f32(run, NULL, 2 * R);
    ops->layernorm_forward(ops, y, saved, x, weight, bias, R, D, eps);
    run_expect_act(run, "y", y, in->y, count, tolerance);
    run_expect_f32(run, "saved", saved, in->saved, 2 * R, tolerance);

    /* From something, to tell = from +=. */
    act *d_x = run_act(run, in->accumulate ? in->x : NULL, count);
    float *d_weight = run_f32(run, in->weight, D), *d_bias = run_f32(run, in->bias, D);
    ops->layernorm_backward(ops, d_x, in->frozen ? NULL : d_weight, in->frozen ? NULL : d_bias, d_y,
                            x, saved, weight, R, D, in->accumulate);
    /* Of one element nothing is left but rounding, times rstd = 316; of two hardly more. */
    run_expect_act(run, "d_x", d_x, in->d, count, D <= 2 ? 2048 : 64);
    run_expect_f32(run, "d_weight", d_weight, in->d + count, D, 32);
    run_expect_f32(run, "d_bias", d_bias, in->d + count + D, D, 32);

    ops->layernorm_forward(ops, x, NULL, x, weight, bias, R, D, eps);
    run_expect_act(run, "y in place", x, in->y, count, tolerance);
}

static void check(int64_t R, int64_t D, bool frozen, bool accumulate, int64_t stride)
{
    int64_t count = R * D;
    struct input in = {.R = R, .D = D, .frozen = frozen, .accumulate = accumulate};
    in.x = random_f32(1, count);
    in.weight = random_f32(2, D);
    in.bias = random_f32(3, D);
    in.d_y = random_f32(4, count);
    in.saved = zeros(2 * R);
    in.y = zeros(count);
    in.d = zeros(count + 2 * D);
    double *x = concat(3, in.x, count, in.weight, D, in.bias, D);
    central_differences(in.d, reference, &in, x, count + 2 * D, doubles(in.d_y, count), count,
                        stride);
    reference(&in, x, in.y);
    if (D <= 2)
        exact_gradient(&in, x);
    for (int64_t i = 0; i < count + 2 * D; i++) {
        if (i >= count && frozen)
            in.d[i] = 0;
        if (i >= count || accumulate)
            in.d[i] += x[i];
    }
    ops_each((struct cpu_options){.precision = OPS_F32}, run, &in);
    arrays_free();
}

static void layer_norm_and_its_gradients_follow_the_formula(void **state)
{
    static const int64_t rows[] = {0, 1, 7, 257}, widths[] = {1, 2, 31, 33};
    for (int64_t r = 0; r < COUNT(rows); r++)
        for (int64_t d = 0; d < COUNT(widths); d++)
            check(rows[r], widths[d], d % 2, r % 2, rows[r] > 7 ? 11 : 1);
    check(7, 576, false, true, 13);
    check(3, 1152, true, false, 13);
    check(2, 2048, false, false, 13);
    check(1100, 24, false, true, 997);
}

static void run_odd_values(struct ops_run *run, const void *input)
{
    enum { R = 4, D = 40 };
    struct ops *ops = run_ops(run);
    float x[R * D], one[D], zero[D] = {0};
    double y[R * D];
    for (int i = 0; i < R * D; i++) {
        int sign = i % 2 ? 1 : -1;
        x[i] = i < D ? 3 : i < 2 * D ? (float)sign * 1e18f : i < 3 * D ? (float)sign : NAN;
        y[i] = i < D ? 0 : i < 2 * D ? sign : i < 3 * D ? sign / sqrt(1 + eps) : NAN;
    }
    for (int i = 0; i < D; i++)
        one[i] = 1;
    act *out = run_act(run, NULL, R * D);
    ops->layernorm_forward(ops, out, NULL, run_act(run, x, R * D), run_f32(run, one, D),
                           run_f32(run, zero, D), R, D, eps);
    run_expect_act(run, "y", out, y, R * D, 4);
    float got[R * D];
    run_read_act(run, got, out, R * D);
    assert_true(isnan(got[3 * D]) && isnan(got[R * D - 1]));
}

static void equal_large_and_not_a_number_rows_stay_among_themselves(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_odd_values, NULL);
}

UNIT_MAIN(cmocka_unit_test(layer_norm_and_its_gradients_follow_the_formula),
          cmocka_unit_test(equal_large_and_not_a_number_rows_stay_among_themselves))
