/* tests/unit/ops_cross_test.c - the parts of attention over shared keys: softmax with dropout and row
 * sums, affine rows, and products that share an operand, against double. */
#include "tests/unit/ops.h"

/* Rows of N, ld apart, with `behind` between them. */
static float *spread(const float *x, int64_t rows, int64_t N, int64_t ld, float behind)
{
    float *y = random_f32(99, rows * ld);
    for (int64_t i = 0; i < rows * ld; i++)
        y[i] = i % ld < N ? x[i / ld * N + i % ld] : behind;
    return y;
}

static double *spread_expected(const double *x, int64_t rows, int64_t N, int64_t ld, double behind)
{
    double *y = zeros(rows * ld);
    for (int64_t i = 0; i < rows * ld; i++)
        y[i] = i % ld < N ? x[i / ld * N + i % ld] : behind;
    return y;
}

/* -- softmax -- */

enum { STEP = 9, SITE = 4 };
static const int32_t positions[] = {1000, 3, 65537};
static const uint64_t seed = 42;
static const float scale = 0.37f;

struct softmax_input {
    int64_t S, rows, N, ld, stride;
    float drop;
    const float *x, *d_dropped, *d_sums;
    double *p, *dropped, *sums, *d_x;
};

static double factor(const struct softmax_input *in, int64_t i)
{
    uint64_t element = (uint64_t)(i % (in->rows * in->N));
    uint32_t words[4];
    bl_draw(seed, BL_RANDOM_DROPOUT, element / 4 | (uint64_t)SITE << 32,
            (uint32_t)positions[i / (in->rows * in->N)] | (uint64_t)STEP << 32, words);
    return bl_unit_f32(words[element % 4]) >= in->drop ? 1 / (1 - (double)in->drop) : 0;
}

/* y = (dropped (R,N), sums (R)); in->p besides */
static void softmax(const void *input, const double *x, double *y)
{
    const struct softmax_input *in = input;
    const int64_t R = in->S * in->rows, N = in->N;
    for (int64_t r = 0; r < R; r++) {
        double sum = 0;
        y[R * N + r] = 0;
        for (int64_t j = 0; j < N; j++)
            sum += exp((double)scale * x[r * N + j]);
        for (int64_t j = 0; j < N; j++) {
            in->p[r * N + j] = exp((double)scale * x[r * N + j]) / sum;
            y[r * N + j] = in->p[r * N + j] * factor(in, r * N + j);
            y[R * N + r] += y[r * N + j];
        }
    }
}

static void run_softmax(struct ops_run *run, const void *input)
{
    const struct softmax_input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t R = in->S * in->rows, N = in->N, ld = in->ld, count = R * ld;
    const struct ops_dropout dropout = {in->drop, seed, STEP, SITE,
                                        run_bytes(run, positions, sizeof positions)};
    const struct ops_dropout *drops = in->drop > 0 ? &dropout : NULL;
    act *x = run_act(run, spread(in->x, R, N, ld, NAN), count),
        *dropped = run_act(run, NULL, count);
    act *d = run_act(run, spread(in->d_dropped, R, N, ld, NAN), count);
    const double *p = spread_expected(in->p, R, N, ld, 0);
    const double *p_dropped = spread_expected(in->dropped, R, N, ld, 0);
    float *sums = run_f32(run, NULL, R), *d_sums = run_f32(run, in->d_sums, R);
    ops->softmax_forward(ops, x, dropped, sums, x, scale, drops, in->S, in->rows, N, ld);
    run_expect_act(run, "p", x, p, count, 16);
    run_expect_act(run, "dropped", dropped, p_dropped, count, 16);
    run_expect_f32(run, "sums", sums, in->sums, R, 32);
    ops->softmax_drop(ops, dropped, x, drops, in->S, in->rows, N, ld);
    run_expect_act(run, "dropped again", dropped, p_dropped, count, 16);
    ops->softmax_backward(ops, d, d, d_sums, x, scale, drops, in->S, in->rows, N, ld);
    run_expect_act(run, "d_x", d, spread_expected(in->d_x, R, N, ld, 0), count, 64);
}

static void softmax_drops_sums_and_returns_the_gradient_of_both(void **state)
{
    static const struct softmax_input shapes[] = {
        {.S = 1, .rows = 1, .N = 1, .ld = 1, .stride = 1},
        {.S = 3, .rows = 5, .N = 7, .ld = 8, .stride = 1},
        {.S = 2, .rows = 3, .N = 33, .ld = 33, .stride = 1, .drop = 0.3f},
        {.S = 3, .rows = 2, .N = 729, .ld = 736, .stride = 31, .drop = 0.1f},
    };
    for (int64_t s = 0; s < COUNT(shapes); s++) {
        struct softmax_input in = shapes[s];
        const int64_t R = in.S * in.rows, count = R * in.N;
        in.x = random_f32(1, count);
        in.d_dropped = random_f32(2, count);
        in.d_sums = random_f32(3, R);
        in.p = zeros(count);
        in.d_x = zeros(count);
        const double *x = doubles(in.x, count);
        const double *weight = concat(2, in.d_dropped, count, in.d_sums, R);
        central_differences(in.d_x, softmax, &in, x, count, weight, count + R, in.stride);
        in.dropped = zeros(count + R);
        softmax(&in, x, in.dropped);
        in.sums = in.dropped + count;
        ops_each((struct cpu_options){.precision = OPS_F32}, run_softmax, &in);
        arrays_free();
    }
}

/* -- affine rows -- */

struct affine_input {
    int64_t R, D, period, G, center_rows; /* 0: no center */
    bool weight, bias;
    const float *x, *w, *shift, *b, *d_y, *center;
};

static void run_affine(struct ops_run *run, const void *input)
{
    const struct affine_input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t R = in->R, D = in->D, count = R * D;
    double *y = zeros(count), *d_x = zeros(count), *d_shift = zeros(R),
           *more = doubles(in->shift, R);
    double *d_w = doubles(in->w, D), *d_b = doubles(in->b, in->G * D);
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = 0; i < D; i++) {
            const int64_t at = r * D + i, b = r / in->period % in->G * D + i;
            const double w = in->weight ? in->w[i] : 1, d = in->d_y[at];
            const double center = in->center_rows ? in->center[r / in->center_rows * D + i] : 0;
            const double x = in->x[at] + in->shift[r] * center;
            y[at] = w * x + (in->bias ? (double)in->shift[r] * in->b[b] : 0);
            d_x[at] = w * d;
            d_shift[r] += d * (w * center + in->b[b]);
            more[r] += d * (w * center + in->b[b]);
            d_w[i] += x * d;
            d_b[b] += in->shift[r] * d;
        }
    act *x = run_act(run, in->x, count), *out = run_act(run, NULL, count);
    act *d_y = run_act(run, in->d_y, count);
    float *w = run_f32(run, in->w, D), *shift = run_f32(run, in->shift, R);
    float *b = run_f32(run, in->b, in->G * D);
    float *center = in->center_rows ? run_f32(run, in->center, R / in->center_rows * D) : NULL;
    const struct ops_affine a = {in->weight ? w : NULL,
                                 in->bias ? shift : NULL,
                                 in->bias ? b : NULL,
                                 in->period,
                                 in->G,
                                 center,
                                 in->center_rows};
    ops->affine_forward(ops, out, x, &a, R, D);
    run_expect_act(run, "y", out, y, count, 4);

    float *sums_w = run_f32(run, in->w, D), *sums_b = run_f32(run, in->b, in->G * D);
    float *sums_r = run_f32(run, in->shift, R), *new_r = run_f32(run, NULL, R);
    ops->affine_backward(ops, NULL, in->bias ? new_r : NULL, NULL, NULL, d_y, in->weight ? x : NULL,
                         &a, R, D, false);
    if (in->bias)
        run_expect_f32(run, "d_shift", new_r, d_shift, R, 64);
    ops->affine_backward(ops, in->weight ? d_y : NULL, in->bias ? sums_r : NULL,
                         in->weight ? sums_w : NULL, in->bias ? sums_b : NULL, d_y,
                         in->weight ? x : NULL, &a, R, D, true);
    if (in->bias) {
        run_expect_f32(run, "d_shift +=", sums_r, more, R, 64);
        run_expect_f32(run, "d_bias", sums_b, d_b, in->G * D, 64);
    }
    if (in->weight) {
        run_expect_f32(run, "d_weight", sums_w, d_w, D, 64);
        run_expect_act(run, "d_x in place", d_y, d_x, count, 2);
    }
    ops->affine_forward(ops, x, x, &a, R, D);
    run_expect_act(run, "y in place", x, y, count, 4);
}

static void
affine_rows_take_a_bias_and_a_center_for_each_group_and_return_every_gradient(void **state)
{
    static const struct affine_input shapes[] = {
        {.R = 1, .D = 1, .period = 1, .G = 1, .weight = true, .bias = true},
        {.R = 7, .D = 33, .period = 1, .G = 1, .weight = true},
        {.R = 24, .D = 31, .period = 4, .G = 3, .bias = true},
        {.R = 256, .D = 576, .period = 32, .G = 8, .weight = true, .bias = true},
        {.R = 0, .D = 5, .period = 2, .G = 1, .weight = true, .bias = true},
        {.R = 96, .D = 576, .period = 1, .G = 1, .center_rows = 32, .weight = true, .bias = true},
        {.R = 36, .D = 31, .period = 2, .G = 3, .center_rows = 18, .weight = true, .bias = true},
    };
    for (int64_t s = 0; s < COUNT(shapes); s++) {
        struct affine_input in = shapes[s];
        in.x = random_f32(1, in.R * in.D);
        in.w = random_f32(2, in.D);
        in.shift = random_f32(3, in.R);
        in.b = random_f32(4, in.G * in.D);
        in.d_y = random_f32(5, in.R * in.D);
        in.center = in.center_rows ? random_f32(6, in.R / in.center_rows * in.D) : NULL;
        ops_each((struct cpu_options){.precision = OPS_F32}, run_affine, &in);
        arrays_free();
    }
}

/* -- products -- */

struct product_input {
    int64_t S, M, N, D;
    const float *x, *wide, *narrow, *d; /* (S,N,D), (S,M,D), (S,M,N), (S,N,D) */
};

static void run_products(struct ops_run *run, const void *input)
{
    const struct product_input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t S = in->S, M = in->M, N = in->N, D = in->D;
    double *scores = zeros(S * M * N), *y = zeros(S * M * D), *d = doubles(in->d, S * N * D);
    for (int64_t s = 0; s < S; s++)
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < N; n++)
                for (int64_t i = 0; i < D; i++) {
                    const double x = in->x[(s * N + n) * D + i], a = in->wide[(s * M + m) * D + i];
                    const double b = in->narrow[(s * M + m) * N + n];
                    scores[(s * M + m) * N + n] += a * x;
                    y[(s * M + m) * D + i] += b * x;
                    d[(s * N + n) * D + i] += b * a;
                }
    struct bl_error err;
    struct ops_operand *operand;
    act *x = run_act(run, in->x, S * N * D), *wide = run_act(run, in->wide, S * M * D);
    const int64_t ld = ops_score_ld(ops, N);
    act *narrow = run_act(run, spread(in->narrow, S * M, N, ld, NAN), S * M * ld);
    act *out = run_act(run, NULL, S * M * ld);
    act *out_wide = run_act(run, NULL, S * M * D);
    float *d_x = run_f32(run, in->d, S * N * D);
    const double tolerance = 16 + sqrt((double)bl_max(N, D));
    assert_ok(ops->operand_create(ops, &operand, N, D, &err), err);
    for (int again = 0; again < 2; again++) { /* set anew, with fewer samples at first */
        ops->operand_set(ops, operand, x, again ? S : bl_min(S, 1));
        ops->product_transposed(ops, out, wide, operand, M);
        ops->product(ops, out_wide, narrow, operand, M);
    }
    run_expect_act(run, "a x^T", out, spread_expected(scores, S * M, N, ld, NAN), S * M * ld,
                   tolerance);
    run_expect_act(run, "a x", out_wide, y, S * M * D, tolerance);
    ops->product_backward(ops, d_x, narrow, wide, operand, M);
    run_expect_f32(run, "d_x", d_x, d, S * N * D, tolerance);
    ops->operand_free(ops, &operand);
}

static void products_share_an_operand_and_add_to_its_gradient(void **state)
{
    static const struct product_input shapes[] = {
        {.S = 0, .M = 3, .N = 4, .D = 5},
        {.S = 1, .M = 1, .N = 1, .D = 1},
        {.S = 3, .M = 5, .N = 7, .D = 33},
        {.S = 2, .M = 24, .N = 196, .D = 48},
    };
    for (int64_t s = 0; s < COUNT(shapes); s++) {
        struct product_input in = shapes[s];
        in.x = random_f32(1, in.S * in.N * in.D);
        in.wide = random_f32(2, in.S * in.M * in.D);
        in.narrow = random_f32(3, in.S * in.M * in.N);
        in.d = random_f32(4, in.S * in.N * in.D);
        ops_each((struct cpu_options){.precision = OPS_F32}, run_products, &in);
        arrays_free();
    }
}

UNIT_MAIN(
    cmocka_unit_test(softmax_drops_sums_and_returns_the_gradient_of_both),
    cmocka_unit_test(affine_rows_take_a_bias_and_a_center_for_each_group_and_return_every_gradient),
    cmocka_unit_test(products_share_an_operand_and_add_to_its_gradient))
