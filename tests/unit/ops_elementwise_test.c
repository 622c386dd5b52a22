/* tests/unit/ops_elementwise_test.c - sums, activations, SwiGLU and dropout against double. */
#include "tests/unit/ops.h"

struct input {
    int64_t R, D;
    enum ops_epilogue epilogue;
    const float *a, *b;
    double *y, *d;
};

/* Central differences of one function: exact enough in double. */
static double slope(double (*f)(double), double x)
{
    const double h = 0x1p-17;
    return (f(x + h) - f(x - h)) / (2 * h);
}

static double gelu_erf(double x)
{
    return x * 0.5 * erfc(-x / sqrt(2));
}
static double gelu_tanh(double x)
{
    return x * 0.5 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
static double silu(double x)
{
    return x / (1 + exp(-x));
}
static double identity(double x)
{
    return x;
}

static double (*const functions[])(double) = {[OPS_NONE] = identity,
                                              [OPS_GELU_ERF] = gelu_erf,
                                              [OPS_GELU_TANH] = gelu_tanh,
                                              [OPS_SILU] = silu};

static void run_add(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    act *a = run_act(run, in->a, in->R), *b = run_act(run, in->b, in->R);
    act *y = run_act(run, NULL, in->R);
    ops->add(ops, y, a, b, in->R);
    run_expect_act(run, "y", y, in->y, in->R, 1);
    ops->add(ops, a, a, b, in->R);
    run_expect_act(run, "in place", a, in->y, in->R, 1);
}

static void sums_are_sums(void **state)
{
    static const int64_t counts[] = {0, 1, 33, 4097, 20000};
    for (int64_t i = 0; i < COUNT(counts); i++) {
        struct input in = {.R = counts[i]};
        in.a = random_f32(1, in.R);
        in.b = random_f32(2, in.R);
        in.y = zeros(in.R);
        for (int64_t j = 0; j < in.R; j++)
            in.y[j] = (double)in.a[j] + in.b[j];
        ops_each((struct cpu_options){.precision = OPS_F32}, run_add, &in);
        arrays_free();
    }
}

static void run_activation(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    act *pre = run_act(run, in->a, in->R), *d_y = run_act(run, in->b, in->R);
    act *d_x = run_act(run, NULL, in->R);
    ops->activation_backward(ops, d_x, d_y, pre, in->epilogue, in->R);
    run_expect_act(run, "d_x", d_x, in->d, in->R, 8);
    ops->activation_backward(ops, d_y, d_y, pre, in->epilogue, in->R);
    run_expect_act(run, "in place", d_y, in->d, in->R, 8);
}

static void the_gradient_of_an_activation_is_its_slope(void **state)
{
    for (enum ops_epilogue e = OPS_NONE; e <= OPS_SILU; e++)
        for (int64_t count = 0; count < 20000; count = 7 * count + 1) {
            struct input in = {.R = count, .epilogue = e};
            float *pre = random_f32(1, count);
            in.b = random_f32(2, count);
            in.d = zeros(count);
            for (int64_t i = 0; i < count; i++) {
                pre[i] *= 8;
                in.d[i] = in.b[i] * slope(functions[e], pre[i]);
            }
            in.a = pre;
            ops_each((struct cpu_options){.precision = OPS_F32}, run_activation, &in);
            arrays_free();
        }
}

static void run_swiglu(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t count = in->R * in->D;
    act *x = run_act(run, in->a, 2 * count), *y = run_act(run, NULL, count);
    act *d_x = run_act(run, NULL, 2 * count);
    ops->swiglu_forward(ops, y, x, in->R, in->D);
    run_expect_act(run, "y", y, in->y, count, 8);
    ops->swiglu_backward(ops, d_x, run_act(run, in->b, count), x, in->R, in->D);
    run_expect_act(run, "d_x", d_x, in->d, 2 * count, 8);
}

static void swiglu_and_its_gradient_follow_the_formula(void **state)
{
    static const int64_t shapes[][2] = {{0, 3}, {1, 1}, {7, 31}, {257, 33}, {3, 1536}};
    for (int64_t s = 0; s < COUNT(shapes); s++) {
        struct input in = {.R = shapes[s][0], .D = shapes[s][1]};
        const int64_t count = in.R * in.D;
        float *x = random_f32(1, 2 * count);
        in.a = x;
        in.b = random_f32(2, count);
        in.y = zeros(count);
        in.d = zeros(2 * count);
        for (int64_t i = 0; i < count; i++) {
            int64_t gate = i / in.D * 2 * in.D + i % in.D, up = gate + in.D;
            x[gate] *= 5;
            in.y[i] = silu(x[gate]) * x[up];
            in.d[gate] = in.b[i] * x[up] * slope(silu, x[gate]);
            in.d[up] = in.b[i] * silu(x[gate]);
        }
        ops_each((struct cpu_options){.precision = OPS_F32}, run_swiglu, &in);
        arrays_free();
    }
}

/* -- dropout: R samples of 3 rows of D -- */

enum { ROWS = 3, STEP = 9, SITE = 4 };
static const int32_t positions[] = {1000, 3, 0, 65537};
static const uint64_t seed = 42;
static const float drop = 0.3f;

static void run_dropout(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t count = in->R * ROWS * in->D;
    struct ops_dropout dropout = {drop, seed, STEP, SITE,
                                  run_bytes(run, positions, sizeof positions)};
    act *x = run_act(run, in->a, count), *y = run_act(run, NULL, count);
    double *same = doubles(in->a, count);
    ops->dropout(ops, y, x, &dropout, in->R, ROWS, in->D);
    run_expect_act(run, "y", y, in->y, count, 2);
    ops->dropout(ops, y, x, NULL, in->R, ROWS, in->D);
    run_expect_act(run, "none", y, same, count, 0);
    ops->dropout(ops, x, x, &dropout, in->R, ROWS, in->D);
    run_expect_act(run, "in place", x, in->y, count, 2);
    dropout.p = 0;
    ops->dropout(ops, y, y, &dropout, in->R, ROWS, in->D);
    run_expect_act(run, "p = 0", y, same, count, 0);
}

static void dropout_is_a_function_of_the_sample_and_its_share_is_right(void **state)
{
    static const int64_t shapes[][2] = {{0, 4}, {1, 1}, {4, 31}, {3, 2049}, {4, 3000}};
    for (int64_t s = 0; s < COUNT(shapes); s++) {
        struct input in = {.R = shapes[s][0], .D = shapes[s][1]};
        const int64_t count = in.R * ROWS * in.D;
        int64_t kept = 0;
        in.a = random_f32(1, count);
        in.y = zeros(count);
        for (int64_t i = 0; i < count; i++) {
            uint64_t element = (uint64_t)(i % (ROWS * in.D));
            uint32_t words[4];
            bl_draw(seed, BL_RANDOM_DROPOUT, element / 4 | (uint64_t)SITE << 32,
                    (uint32_t)positions[i / (ROWS * in.D)] | (uint64_t)STEP << 32, words);
            bool keep = bl_unit_f32(words[element % 4]) >= drop;
            in.y[i] = keep ? in.a[i] / (1 - (double)drop) : 0;
            kept += keep;
        }
        if (count > 10000)
            assert_true(fabs((double)kept / (double)count - (1 - drop)) < 0.02);
        ops_each((struct cpu_options){.precision = OPS_F32}, run_dropout, &in);
        arrays_free();
    }
}

/* An element's bits must not depend on where in the array it stands: threads, packing and
 * micro-batches move it. */
static void run_place(struct ops_run *run, const void *input)
{
    enum { N = 5003 };
    struct ops *ops = run_ops(run);
    float x[N], first[4], got[N];
    for (enum ops_epilogue e = OPS_NONE; e <= OPS_SILU; e++)
        for (int shift = 0; shift < 3; shift++) {
            for (int i = 0; i < N; i++)
                x[i] = 0.7310585f;
            act *a = run_act(run, x, N);
            ops->activation_backward(ops, ops_at(ops, a, shift), ops_at(ops, a, shift),
                                     ops_at(ops, a, shift), e, N - shift);
            run_read_act(run, got, a, N);
            first[e] = shift == 0 ? got[0] : first[e];
            for (int i = shift; i < N; i++)
                assert_true(got[i] == first[e]);
        }
}

static void an_element_has_the_same_bits_wherever_it_stands(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_place, NULL);
}

UNIT_MAIN(cmocka_unit_test(sums_are_sums),
          cmocka_unit_test(the_gradient_of_an_activation_is_its_slope),
          cmocka_unit_test(swiglu_and_its_gradient_follow_the_formula),
          cmocka_unit_test(dropout_is_a_function_of_the_sample_and_its_share_is_right),
          cmocka_unit_test(an_element_has_the_same_bits_wherever_it_stands))
