/* tests/unit/ops_matmul_test.c - linear layers over frozen and trainable matrices of every form. */
#include "tests/unit/ops.h"

#include "worker/ops/cpu/functions.h"

struct input {
    int64_t R, N, K;
    struct cpu_options options;
    bool trainable, keep_data, bias, accumulate;
    enum bl_dtype dtype;
    enum ops_epilogue epilogue;
    const void *stored;                       /* W in dtype */
    const float *x, *b, *d_y;                 /* what goes in */
    const float *old_d_x, *old_d_w, *old_d_b; /* what is added to */
    double *pre, *y, *sum, *d_x, *d_w, *d_b;  /* what comes out */
};

static double activation(enum ops_epilogue epilogue, double x)
{
    switch (epilogue) {
    case OPS_GELU_ERF:
        return x * 0.5 * (1 + erf(x / sqrt(2)));
    case OPS_GELU_TANH:
        return x * 0.5 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case OPS_SILU:
        return x / (1 + exp(-x));
    case OPS_NONE:
        break;
    }
    return x;
}

static void run(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    struct bl_error err;
    int64_t R = in->R, N = in->N, K = in->K;
    size_t stored_bytes = (size_t)(N * K) * (in->dtype == BL_F32 ? 4 : 2);
    /* Errors of a sum of K random products grow with its root. */
    double tolerance = 8 + 2 * sqrt((double)K);

    struct ops_matrix *w = NULL;
    void *host = malloc(stored_bytes);
    memcpy(host, in->stored, stored_bytes);
    if (in->trainable) {
        assert_ok(ops->matrix_trainable(ops, &w, run_f32(run, host, N * K), N, K, &err), err);
        ops->matrices_refresh(ops, &w, 1);
    } else {
        assert_ok(ops->matrix_frozen(ops, &w, host, in->dtype, N, K,
                                     in->keep_data ? OPS_DATA_STAYS : OPS_DATA_GOES, &err),
                  err);
        if (!in->keep_data)
            memset(host, 0xFF, stored_bytes);
    }

    act *x = run_act(run, in->x, R * K), *y = run_act(run, NULL, R * N);
    act *pre = run_act(run, NULL, R * N), *d_y = run_act(run, in->d_y, R * N);
    float *bias = in->bias ? run_f32(run, in->b, N) : NULL;
    ops->linear_forward(ops, y, pre, x, w, bias, R, in->epilogue);
    run_expect_act(run, "pre", pre, in->pre, R * N, tolerance);
    run_expect_act(run, "y", y, in->y, R * N, tolerance);
    ops->linear_forward(ops, y, NULL, x, w, bias, R, in->epilogue);
    run_expect_act(run, "y alone", y, in->y, R * N, tolerance);
    act *sum = run_act(run, NULL, R * N);
    ops->linear_add(ops, sum, d_y, x, w, bias, R);
    run_expect_act(run, "sum", sum, in->sum, R * N, tolerance);

    act *d_x = run_act(run, in->accumulate ? in->old_d_x : NULL, R * K);
    ops->linear_backward_input(ops, d_x, d_y, w, R, in->accumulate);
    run_expect_act(run, "d_x", d_x, in->d_x, R * K, 8 + 2 * sqrt((double)N));

    float *d_w = run_f32(run, in->old_d_w, N * K), *d_b = run_f32(run, in->old_d_b, N);
    ops->linear_backward_weight(ops, d_w, in->bias ? d_b : NULL, d_y, x, R, N, K);
    run_expect_f32(run, "d_w", d_w, in->d_w, N * K, 8 + 2 * sqrt((double)R));
    run_expect_f32(run, "d_b", d_b, in->d_b, N, 8 + 2 * sqrt((double)R));
    ops->matrix_free(ops, &w);
    assert_null(w);
    free(host);
}

/* Fills in->stored and returns the values that the operations are to work with. */
static double *make_matrix(struct input *in)
{
    int64_t count = in->N * in->K;
    float *w = random_f32(5, count);
    uint16_t *half = (uint16_t *)random_f32(6, count);
    double *values = zeros(count);
    for (int64_t i = 0; i < count; i++) {
        if (in->dtype == BL_BF16) {
            half[i] = f32_to_bf16(w[i]);
            w[i] = bf16_to_f32(half[i]);
        } else if (in->dtype == BL_F16) {
            /* any bits but those of infinity and NaN: the exponent stays below 15 */
            half[i] = (uint16_t)(f32_to_bits(w[i]) >> 8 & 0xBBFF);
            w[i] = f16_to_f32(half[i]);
        }
        bool rounded = in->options.precision == OPS_BF16 && !in->trainable;
        values[i] = rounded ? bf16_to_f32(f32_to_bf16(w[i])) : w[i];
    }
    in->stored = in->dtype == BL_F32 ? (const void *)w : half;
    return values;
}

/* Block floating point of `count` values `step` apart (bfp.c). */
static void round_blocks(double *x, int64_t block, int64_t count, int64_t step)
{
    for (int64_t first = 0; first < count; first += block) {
        const int64_t end = bl_min(count, first + block);
        float most = 0;
        for (int64_t i = first; i < end; i++)
            most = fmaxf(most, fabsf((float)x[i * step]));
        for (int64_t i = first; i < end; i++)
            x[i * step] = most < 0x1p-100f ? 0
                                           : rint(x[i * step] * (double)(4095 / most)) *
                                                 (double)(most * (1.0f / 4095));
    }
}

/* What the form multiplies for `count` values `step` apart. */
static void round_values(const struct input *in, double *x, int64_t count, int64_t step)
{
    if (in->options.form == ops_backend().bfp)
        round_blocks(x, in->options.form->block, count, step);
    else if (in->options.form == ops_backend().amx)
        for (int64_t i = 0; i < count; i++)
            x[i * step] = bf16_to_f32(f32_to_bf16((float)x[i * step]));
}

/* Likewise for x, an activation of `rows` rows of `count`. */
static double *multiplied(const struct input *in, const float *x, int64_t rows, int64_t count)
{
    double *values = doubles(x, rows * count);
    for (int64_t r = 0; in->options.form && r < rows; r++)
        round_values(in, values + r * count, count, 1);
    return values;
}

static double *copied(const double *x, int64_t count)
{
    double *copy = zeros(count);
    memcpy(copy, x, (size_t)count * sizeof *copy);
    return copy;
}

static void check(struct input in)
{
    int64_t R = in.R, N = in.N, K = in.K;
    double *stored = make_matrix(&in), *w = stored, *w_backward = stored;
    in.x = random_f32(1, R * K);
    in.b = random_f32(2, N);
    in.d_y = random_f32(3, R * N);
    in.old_d_x = random_f32(7, R * K);
    in.old_d_w = random_f32(8, N * K);
    in.old_d_b = random_f32(9, N);
    in.pre = zeros(R * N);
    in.y = zeros(R * N);
    in.sum = zeros(R * N);
    in.d_x = in.accumulate ? doubles(in.old_d_x, R * K) : zeros(R * K);
    in.d_w = doubles(in.old_d_w, N * K);
    in.d_b = doubles(in.old_d_b, N);
    /* f32 and bf16 rows are read in place, but for those of whole tiles */
    const bool tiles = in.options.form && in.options.form->multiply_few && !in.trainable &&
                       K % PANELS_FEW_INNER == 0 && N % PANELS_FEW_COLUMNS == 0;
    const bool few = R <= 8 && !tiles;
    const double *x = few && in.options.form ? doubles(in.x, R * K) : multiplied(&in, in.x, R, K);
    const double *d_y = multiplied(&in, in.d_y, R, N);
    double *x_weight = doubles(in.x, R * K), *d_y_weight = doubles(in.d_y, R * N);
    if (in.options.form && R >= 32) { /* blocks along rows */
        for (int64_t k = 0; k < K; k++)
            round_values(&in, x_weight + k, R, K);
        for (int64_t n = 0; n < N; n++)
            round_values(&in, d_y_weight + n, R, N);
    }
    if (in.options.form) {
        w = copied(stored, N * K);
        w_backward = copied(stored, N * K);
        for (int64_t n = 0; n < N && !few; n++)
            round_values(&in, w + n * K, K, 1);
        for (int64_t k = 0; k < K; k++)
            round_values(&in, w_backward + k, N, K);
    }
    for (int64_t r = 0; r < R; r++)
        for (int64_t n = 0; n < N; n++) {
            const double d = in.d_y[r * N + n];
            double sum = in.bias ? in.b[n] : 0;
            for (int64_t k = 0; k < K; k++) {
                sum += x[r * K + k] * w[n * K + k];
                in.d_x[r * K + k] += d_y[r * N + n] * w_backward[n * K + k];
                in.d_w[n * K + k] += d_y_weight[r * N + n] * x_weight[r * K + k];
            }
            in.pre[r * N + n] = sum;
            in.y[r * N + n] = activation(in.epilogue, sum);
            in.sum[r * N + n] = d + sum;
            in.d_b[n] += in.bias ? d : 0;
        }
    ops_each(in.options, run, &in);
    arrays_free();
}

/* No rows; one of each; one row, as a decoder has; odd ones; several tiles of rows, of columns, and
 * of rows widened at a time. */
static const int64_t shapes[][3] = {{0, 5, 7},      {1, 1, 1},     {1, 192, 64},  {2, 6, 37},
                                    {7, 33, 31},    {257, 5, 3},   {64, 192, 48}, {300, 65, 65},
                                    {257, 49, 200}, {70, 500, 40}, {40, 33, 900}, {5, 2100, 17}};

static void trainable_layers_follow_the_formula(void **state)
{
    for (int64_t i = 0; i < COUNT(shapes); i++)
        check((struct input){.R = shapes[i][0],
                             .N = shapes[i][1],
                             .K = shapes[i][2],
                             .options = {.precision = OPS_F32},
                             .trainable = true,
                             .bias = i % 2,
                             .accumulate = i / 2 % 2,
                             .epilogue = (enum ops_epilogue)(i % 4)});
}

static void gradients_of_large_matrices_by_few_rows_follow_the_formula(void **state)
{
    check((struct input){.R = 3,
                         .N = 1061,
                         .K = 1009,
                         .options = {.precision = OPS_F32},
                         .trainable = true,
                         .bias = true});
}

static void frozen_matrices_of_every_type_give_what_they_store(void **state)
{
    static const enum bl_dtype dtypes[] = {BL_F32, BL_F16, BL_BF16};
    for (int64_t i = 0; i < COUNT(shapes) * COUNT(dtypes) * 4; i++) {
        const int64_t *shape = shapes[i % COUNT(shapes)];
        check((struct input){
            .R = shape[0],
            .N = shape[1],
            .K = shape[2],
            .options = {.precision = i % 2 ? OPS_BF16 : OPS_F32, .wide_max = i / 4 % 2 * 1000000},
            .dtype = dtypes[i / COUNT(shapes) % COUNT(dtypes)],
            .keep_data = i / 11 % 2,
            .bias = i / 3 % 2,
            .accumulate = i / 5 % 2,
            .epilogue = (enum ops_epilogue)(i / 7 % 4)});
    }
}

/* Each edge of a block, a strip, a panel, of tiles, and of parts of K. */
static const int64_t more[][3] = {{130, 300, 70}, {17, 500, 129}, {9, 48, 128}, {400, 96, 256},
                                  {33, 70, 1100}, {16, 80, 1088}, {3, 208, 64}, {9, 20, 8500},
                                  {9, 8500, 20},  {260, 20, 8300}};

/* Values of every type, forward and back. */
static void check_form(const struct panels_form *form, enum ops_precision precision)
{
    static const enum bl_dtype dtypes[] = {BL_F32, BL_F16, BL_BF16};
    if (!form)
        skip();
    for (int64_t i = 0; i < COUNT(shapes) + COUNT(more); i++) {
        const int64_t *shape = i < COUNT(shapes) ? shapes[i] : more[i - COUNT(shapes)];
        check((struct input){.R = shape[0],
                             .N = shape[1],
                             .K = shape[2],
                             .options = {.precision = precision, .form = form},
                             .dtype = i % 2 ? BL_F32 : dtypes[i / 2 % 3],
                             .trainable = i % 4 == 1,
                             .keep_data = i / 3 % 2,
                             .bias = i / 2 % 2,
                             .accumulate = i / 3 % 2,
                             .epilogue = (enum ops_epilogue)(i % 4)});
    }
}

static void block_products_multiply_rounded_blocks_and_sum_in_f32(void **state)
{
    check_form(ops_backend().bfp, OPS_BF16);
}

static void bf16_products_multiply_rounded_values_and_sum_in_f32(void **state)
{
    check_form(ops_backend().amx, OPS_BF16);
}

static void f32_products_by_tiles_follow_the_formula(void **state)
{
    check_form(ops_backend().amx_f32, OPS_F32);
}

static void f32_products_of_bf16_matrices_follow_the_formula(void **state)
{
    const struct panels_form *form = ops_backend().amx_f32;
    if (!form)
        skip();
    for (int64_t i = 0; i < COUNT(more); i++)
        check((struct input){.R = more[i][0],
                             .N = more[i][1],
                             .K = more[i][2],
                             .options = {.precision = OPS_F32, .form = form},
                             .dtype = BL_BF16,
                             .keep_data = i % 2,
                             .bias = i / 2 % 2,
                             .accumulate = i / 3 % 2,
                             .epilogue = (enum ops_epilogue)(i % 4)});
}

/* One huge value, one that is not finite, and nothing but zeros in a block. input: the form, or NULL, a matrix in bf16. */
static void run_extremes(struct ops_run *run, const void *input)
{
    enum { R = 16, N = 48, K = 384 };
    struct ops *ops = run_ops(run);
    struct bl_error err;
    struct ops_matrix *w = NULL;
    float ones[N * K], rows[R * K] = {0}, found[R * N];
    uint16_t half_ones[N * K];
    double expected[R * N] = {0};
    for (int64_t i = 0; i < N * K; i++) {
        ones[i] = 1;
        half_ones[i] = f32_to_bf16(1);
    }
    for (int64_t k = 0; k < K; k++)
        rows[K + k] = k == 200 ? 4095e6f : 1;
    rows[2 * K + 7] = INFINITY;
    rows[3 * K + 300] = NAN;
    rows[4 * K + 5] = 0x1p-120f;
    const bool blocks =
        input == ops_backend().bfp; /* the huge one's loses its ones, the tiny one's is zero */
    for (int64_t n = 0; n < N; n++) {
        expected[N + n] = 4095e6 + (blocks ? 256 : K - 1);
        expected[2 * N + n] = expected[3 * N + n] = NAN;
    }
    if (input)
        assert_ok(ops->matrix_trainable(ops, &w, run_f32(run, ones, N * K), N, K, &err), err);
    else
        assert_ok(ops->matrix_frozen(ops, &w, half_ones, BL_BF16, N, K, OPS_DATA_GOES, &err), err);
    act *x = run_act(run, rows, R * K), *y = run_act(run, NULL, R * N);
    ops->linear_forward(ops, y, NULL, x, w, NULL, R, OPS_NONE);
    run_expect_act(run, "y", y, expected, R * N, 2);
    run_read_act(run, found, y, R * N);
    for (int64_t n = 0; n < N; n++)
        assert_true(isnan(found[2 * N + n]) && isnan(found[3 * N + n]) &&
                    found[4 * N + n] == (blocks ? 0 : 0x1p-120f));
    ops->matrix_free(ops, &w);
}

static void values_that_are_not_finite_give_nan(void **state)
{
    const struct ops_backend backend = ops_backend();
    if (!backend.bfp && !backend.amx_f32)
        skip();
    if (backend.bfp)
        ops_each((struct cpu_options){.precision = OPS_BF16, .form = backend.bfp}, run_extremes,
                 backend.bfp);
    if (backend.amx_f32) {
        const struct cpu_options f32 = {.precision = OPS_F32, .form = backend.amx_f32};
        ops_each(f32, run_extremes, backend.amx_f32);
        ops_each(f32, run_extremes, NULL);
    }
}

/* Where the two forms differ by a tenth: at -3. */
static void run_gelu(struct ops_run *run, const void *input)
{
    enum { R = 8, N = 16, K = 8 };
    struct ops *ops = run_ops(run);
    struct bl_error err;
    struct ops_matrix *w = NULL;
    float weights[N * K], ones[R * K];
    double expected[2][R * N];
    for (int i = 0; i < N * K; i++)
        weights[i] = -0.25f;
    for (int i = 0; i < R * K; i++)
        ones[i] = 1;
    float bias[N];
    for (int n = 0; n < N; n++)
        bias[n] = -1;
    for (int i = 0; i < R * N; i++) {
        expected[0][i] = activation(OPS_GELU_ERF, -3);
        expected[1][i] = activation(OPS_GELU_TANH, -3);
    }
    assert_ok(ops->matrix_frozen(ops, &w, weights, BL_F32, N, K, OPS_DATA_GOES, &err), err);
    act *x = run_act(run, ones, R * K), *y = run_act(run, NULL, R * N);
    float *b = run_f32(run, bias, N);
    for (int tanh_form = 0; tanh_form < 2; tanh_form++) {
        ops->linear_forward(ops, y, NULL, x, w, b, R, tanh_form ? OPS_GELU_TANH : OPS_GELU_ERF);
        run_expect_act(run, tanh_form ? "tanh" : "erf", y, expected[tanh_form], R * N, 4);
    }
    ops->matrix_free(ops, &w);
}

static void the_two_forms_of_gelu_are_told_apart(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_BF16}, run_gelu, NULL);
}

/* Matrices of several sizes, masters one behind the other: their addresses and sizes suit vectors or not. */
static void run_refresh(struct ops_run *run, const void *input)
{
    enum { MATRICES = 5, K = 3, MOST = 40 * K };
    static const int64_t rows[MATRICES] = {1, 40, 8, 16, 5};
    const float ones[K] = {1, 1, 1};
    struct ops *ops = run_ops(run);
    struct bl_error err;
    struct ops_matrix *w[MATRICES] = {NULL};
    float *masters = run_f32(run, NULL, MATRICES * MOST), values[MATRICES * MOST];
    act *x = run_act(run, ones, K), *y = run_act(run, NULL, MOST);
    for (int i = 0, at = 0; i < MATRICES; at += (int)rows[i++] * K)
        assert_ok(ops->matrix_trainable(ops, &w[i], masters + at, rows[i], K, &err), err);
    for (int time = 1; time <= 2; time++) {
        double sums[MOST];
        for (int i = 0; i < MATRICES * MOST; i++)
            values[i] = (float)(time * (i % 16));
        ops->copy_in(ops, masters, values, sizeof values);
        ops->matrices_refresh(ops, w, MATRICES);
        for (int i = 0, at = 0; i < MATRICES; at += (int)rows[i++] * K) {
            for (int r = 0; r < rows[i]; r++) {
                sums[r] = 0;
                for (int k = 0; k < K; k++)
                    sums[r] += (double)values[at + r * K + k];
            }
            ops->linear_forward(ops, y, NULL, x, w[i], NULL, 1, OPS_NONE);
            run_expect_act(run, "y", y, sums, rows[i], 0);
        }
    }
    for (int i = 0; i < MATRICES; i++)
        ops->matrix_free(ops, &w[i]);
}

static void run_refresh_one(struct ops_run *run, const void *input)
{
    const float one = 1, two = 2;
    const double once = 1, twice = 2;
    struct ops *ops = run_ops(run);
    struct bl_error err;
    struct ops_matrix *w = NULL;
    float *master = run_f32(run, &one, 1);
    act *x = run_act(run, &one, 1), *y = run_act(run, NULL, 1), *d_x = run_act(run, NULL, 1);
    assert_ok(ops->matrix_trainable(ops, &w, master, 1, 1, &err), err);
    for (int i = 0; i < 2; i++) {
        ops->matrices_refresh(ops, &w, 1);
        ops->linear_forward(ops, y, NULL, x, w, NULL, 1, OPS_NONE);
        ops->linear_backward_input(ops, d_x, x, w, 1, false);
        run_expect_act(run, "y", y, i ? &twice : &once, 1, 0);
        run_expect_act(run, "d_x", d_x, i ? &twice : &once, 1, 0);
        ops->copy_in(ops, master, &two, sizeof two);
    }
    ops->matrix_free(ops, &w);
}

static void a_refreshed_matrix_follows_its_master(void **state)
{
    static const struct cpu_options f32 = {.precision = OPS_F32}, bf16 = {.precision = OPS_BF16};
    ops_each(f32, run_refresh_one, NULL);
    ops_each(bf16, run_refresh_one, NULL);
    ops_each(f32, run_refresh, NULL);
    ops_each(bf16, run_refresh, NULL);
}

UNIT_MAIN(cmocka_unit_test(trainable_layers_follow_the_formula),
          cmocka_unit_test(gradients_of_large_matrices_by_few_rows_follow_the_formula),
          cmocka_unit_test(frozen_matrices_of_every_type_give_what_they_store),
          cmocka_unit_test(bf16_products_multiply_rounded_values_and_sum_in_f32),
          cmocka_unit_test(f32_products_by_tiles_follow_the_formula),
          cmocka_unit_test(f32_products_of_bf16_matrices_follow_the_formula),
          cmocka_unit_test(block_products_multiply_rounded_blocks_and_sum_in_f32),
          cmocka_unit_test(values_that_are_not_finite_give_nan),
          cmocka_unit_test(the_two_forms_of_gelu_are_told_apart),
          cmocka_unit_test(a_refreshed_matrix_follows_its_master))
