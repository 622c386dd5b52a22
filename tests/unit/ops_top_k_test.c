/* tests/unit/ops_top_k_test.c - the likeliest logits of each row, and the logarithm of the sum of exponentials. */
#include "tests/unit/ops.h"

struct input {
    int64_t R, V, k;
    const float *x; /* (R, V) */
};

/* values, ids (k) of one row, by insertion behind equals */
static void reference(const struct input *in, int64_t r, float *values, int32_t *ids)
{
    int64_t count = 0;
    for (int64_t v = 0; v < in->V; v++) {
        float value = in->x[r * in->V + v];
        value = isnan(value) ? -INFINITY : value;
        int64_t at = count;
        while (at > 0 && value > values[at - 1])
            at--;
        if (at == in->k)
            continue;
        count += count < in->k;
        memmove(values + at + 1, values + at, (size_t)(count - 1 - at) * sizeof *values);
        memmove(ids + at + 1, ids + at, (size_t)(count - 1 - at) * sizeof *ids);
        values[at] = value;
        ids[at] = (int32_t)v;
    }
}

static double reference_sum(const float *x, int64_t V)
{
    double most = -INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++)
        most = fmax(most, x[v]);
    for (int64_t v = 0; v < V; v++)
        sum += exp(x[v] - most);
    return most + log(sum);
}

static void run(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t R = in->R, V = in->V, k = in->k;
    float *values = malloc((size_t)(R * k) * sizeof *values + 1);
    int32_t *ids = malloc((size_t)(R * k) * sizeof *ids + 1);
    double *log_sum = malloc((size_t)R * sizeof *log_sum + 1), *nll = zeros(R);
    for (int64_t r = 0; r < R; r++)
        reference(in, r, values + r * k, ids + r * k);
    double *sums = run_bytes(run, NULL, (size_t)R * sizeof *sums);
    float *got = run_f32(run, NULL, R * k);
    int32_t *at = run_bytes(run, NULL, (size_t)(R * k) * sizeof *at);
    ops->top_k(ops, sums, got, at, run_act(run, in->x, R * V), R, V, k);
    run_expect_bytes(run, "values", got, values, (size_t)(R * k) * sizeof *values);
    run_expect_bytes(run, "ids", at, ids, (size_t)(R * k) * sizeof *ids);
    run_expect_bytes(run, "log_sum", sums, NULL, (size_t)R * sizeof *sums);
    ops->copy_out(ops, log_sum, sums, (size_t)R * sizeof *sums);
    for (int64_t r = 0; r < R; r++) {
        const double most = values[r * k], expected = reference_sum(in->x + r * V, V) - most;
        nll[r] = log_sum[r] - most;
        if (fabs(nll[r] - expected) > 1e-6 * expected + 1e-15 * fabs(most))
            fail_msg("%s: nll %lld: expected %.12g, found %.12g", ops->name, (long long)r, expected,
                     nll[r]);
    }
    free(values);
    free(ids);
    free(log_sum);
}

/* Logits up to `scale`; step > 0: multiples of it alone, so that many are equal. */
static void check(int64_t R, int64_t V, int64_t k, float scale, float step)
{
    float *x = random_f32((uint64_t)(R + V + k), R * V);
    for (int64_t i = 0; i < R * V; i++)
        x[i] = step > 0 ? step * floorf(x[i] * scale / step) : x[i] * scale;
    ops_each((struct cpu_options){.precision = OPS_F32}, run, &(struct input){R, V, k, x});
    arrays_free();
}

static void the_likeliest_come_in_order_and_with_them_the_logarithm_of_the_sum(void **state)
{
    check(0, 5, 1, 8, 0);
    check(1, 1, 1, 8, 0);
    check(3, 7, 7, 8, 0);
    check(5, 2048, 1, 16, 0);
    check(2, 12347, 16, 16, 0);
    check(4, 16384, 5, 32, 0);
    check(1, 9000, 300, 8, 0);
}

static void equal_logits_come_by_their_ids(void **state)
{
    check(3, 33, 9, 1, 0.5f);
    check(2, 10008, 40, 4, 1);
    check(1, 5001, 4, 1, 2);
}

/* The others' sum is far below the greatest logit's 1. */
static void a_logit_far_above_the_others_has_a_small_but_exact_nll(void **state)
{
    enum { V = 4999 };
    float *x = random_f32(1, V);
    for (int above = 8; above <= 16; above *= 2) {
        x[1234] = (float)above;
        ops_each((struct cpu_options){.precision = OPS_F32}, run, &(struct input){1, V, 2, x});
    }
    arrays_free();
}

static void run_odd(struct ops_run *run, const void *input)
{
    enum { V = 6, R = 4 };
    static const float x[R][V] = {{1, NAN, 3, -INFINITY, 2, 3},
                                  {-INFINITY, -INFINITY, NAN, -INFINITY, NAN, -INFINITY},
                                  {-INFINITY, 0, -0.0f, -INFINITY, -INFINITY, 0},
                                  {5, INFINITY, 5, 4, 3, 2}};
    static const int32_t expected[R][V] = {
        {2, 5, 4, 0, 1, 3}, {0, 1, 2, 3, 4, 5}, {1, 2, 5, 0, 3, 4}, {1, 0, 2, 3, 4, 5}};
    struct ops *ops = run_ops(run);
    double log_sum[R], *sums = run_bytes(run, NULL, sizeof log_sum);
    float *values = run_f32(run, NULL, R * V);
    int32_t *ids = run_bytes(run, NULL, sizeof expected);
    ops->top_k(ops, sums, values, ids, run_act(run, x[0], R * V), R, V, V);
    run_expect_bytes(run, "ids", ids, expected, sizeof expected);
    ops->copy_out(ops, log_sum, sums, sizeof log_sum);
    assert_true(isnan(log_sum[0]) && isnan(log_sum[1]) && isnan(log_sum[3]));
    assert_true(fabs(log_sum[2] - log(3)) < 1e-6);
}

static void what_is_not_finite_has_its_place_and_the_sum_tells_of_it(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_odd, NULL);
}

UNIT_MAIN(cmocka_unit_test(the_likeliest_come_in_order_and_with_them_the_logarithm_of_the_sum),
          cmocka_unit_test(equal_logits_come_by_their_ids),
          cmocka_unit_test(a_logit_far_above_the_others_has_a_small_but_exact_nll),
          cmocka_unit_test(what_is_not_finite_has_its_place_and_the_sum_tells_of_it))
