/* tests/unit/ops_rmsnorm_test.c - RMS norm against its formula in double. */
#include "tests/unit/ops.h"

struct input {
    int64_t R, D;
    const float *x, *weight, *d_y;
    bool accumulate;
    double *y, *rstd, *d_x; /* expected */
};

static const float eps = 1e-6f;

static void reference(const void *input, const double *x, double *y)
{
    const struct input *in = input;
    for (int64_t r = 0; r < in->R; r++) {
        double squares = 0;
        for (int64_t i = 0; i < in->D; i++)
            squares += x[r * in->D + i] * x[r * in->D + i];
        in->rstd[r] = 1 / sqrt(squares / (double)in->D + eps);
        for (int64_t i = 0; i < in->D; i++)
            y[r * in->D + i] = x[r * in->D + i] * in->rstd[r] * in->weight[i];
    }
}

static void run(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    int64_t R = in->R, D = in->D, count = R * D;
    act *x = run_act(run, in->x, count), *y = run_act(run, NULL, count);
    act *d_x = run_act(run, in->accumulate ? in->x : NULL, count);
    float *weight = run_f32(run, in->weight, D), *saved = run_f32(run, NULL, R);
    ops->rmsnorm_forward(ops, y, saved, x, weight, R, D, eps);
    run_expect_act(run, "y", y, in->y, count, 8);
    run_expect_f32(run, "saved", saved, in->rstd, R, 8);
    ops->rmsnorm_backward(ops, d_x, run_act(run, in->d_y, count), x, saved, weight, R, D,
                          in->accumulate);
    run_expect_act(run, "d_x", d_x, in->d_x, count, 64);
    ops->rmsnorm_forward(ops, y, NULL, x, weight, R, D, eps);
    run_expect_act(run, "y alone", y, in->y, count, 8);
}

static void check(int64_t R, int64_t D, bool accumulate, int64_t stride)
{
    int64_t count = R * D;
    struct input in = {.R = R, .D = D, .accumulate = accumulate};
    in.x = random_f32(1, count);
    in.weight = random_f32(2, D);
    in.d_y = random_f32(3, count);
    in.y = zeros(count);
    in.rstd = zeros(R);
    in.d_x = zeros(count);
    const double *x = doubles(in.x, count);
    central_differences(in.d_x, reference, &in, x, count, doubles(in.d_y, count), count, stride);
    reference(&in, x, in.y);
    for (int64_t i = 0; accumulate && i < count; i++)
        in.d_x[i] += x[i];
    ops_each((struct cpu_options){.precision = OPS_F32}, run, &in);
    arrays_free();
}

static void rms_norm_and_its_gradient_follow_the_formula(void **state)
{
    static const int64_t rows[] = {0, 1, 7, 257}, widths[] = {2, 31, 33};
    for (int64_t r = 0; r < COUNT(rows); r++)
        for (int64_t d = 0; d < COUNT(widths); d++)
            check(rows[r], widths[d], r % 2, rows[r] > 7 ? 11 : 1);
    check(7, 576, false, 13);
    check(3, 1152, true, 13);
    check(2, 2048, false, 13);
}

UNIT_MAIN(cmocka_unit_test(rms_norm_and_its_gradient_follow_the_formula))
