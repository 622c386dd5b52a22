/* tests/unit/ops_loss_test.c - head and cross entropy against the formula in double. */
#include "tests/unit/ops.h"

#include "common/limits.h"

struct input {
    int64_t R, V, D;
    const float *x, *w;
    const int32_t *labels;
    const uint8_t *correct;
    double *nll, *d_x;
};

/* x -> nll, with ->w */
static void reference(const void *input, const double *x, double *nll)
{
    const struct input *in = input;
    double *z = malloc((size_t)in->V * sizeof *z);
    for (int64_t r = 0; r < in->R; r++) {
        double sum = 0;
        for (int64_t j = 0; j < in->V; j++) {
            z[j] = 0;
            for (int64_t i = 0; i < in->D; i++)
                z[j] += x[r * in->D + i] * in->w[j * in->D + i];
            sum += exp(z[j]);
        }
        nll[r] = log(sum) - z[in->labels[r]];
    }
    free(z);
}

static void run(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    struct bl_error err;
    struct ops_matrix *w = NULL;
    assert_ok(ops->matrix_frozen(ops, &w, in->w, BL_F32, in->V, in->D, OPS_DATA_STAYS, &err), err);
    act *x = run_act(run, in->x, in->R * in->D), *d_x = run_act(run, NULL, in->R * in->D);
    int32_t *labels = run_bytes(run, in->labels, (size_t)in->R * sizeof *labels);
    float *nll = run_f32(run, NULL, in->R);
    uint8_t *correct = run_bytes(run, NULL, (size_t)in->R);
    ops->head_loss(ops, nll, correct, d_x, x, w, labels, in->R);
    run_expect_f32(run, "nll", nll, in->nll, in->R, 16);
    run_expect_act(run, "d_x", d_x, in->d_x, in->R * in->D, 64);
    run_expect_bytes(run, "correct", correct, in->correct, (size_t)in->R);
    float *alone = run_f32(run, NULL, in->R);
    ops->head_loss(ops, alone, NULL, NULL, x, w, labels, in->R);
    run_expect_f32(run, "nll alone", alone, in->nll, in->R, 16);
    ops->matrix_free(ops, &w);
}

static void check(int64_t R, int64_t V, int64_t D, int64_t stride)
{
    struct input in = {.R = R, .V = V, .D = D};
    in.x = random_f32(1, R * D);
    in.w = random_f32(2, V * D);
    int32_t *labels = (int32_t *)random_f32(3, R);
    uint8_t *correct = (uint8_t *)random_f32(4, R);
    for (int64_t r = 0; r < R; r++) {
        double most = -INFINITY;
        int64_t best = 0;
        for (int64_t j = 0; j < V; j++) {
            double z = 0;
            for (int64_t i = 0; i < D; i++)
                z += (double)in.x[r * D + i] * in.w[j * D + i];
            best = z > most ? j : best;
            most = z > most ? z : most;
        }
        labels[r] = (int32_t)(r % 3 ? r * 7919 % V : best);
        correct[r] = labels[r] == best;
    }
    in.labels = labels;
    in.correct = correct;
    in.nll = zeros(R);
    in.d_x = zeros(R * D);
    double *ones = zeros(R);
    for (int64_t r = 0; r < R; r++)
        ones[r] = 1;
    const double *x = doubles(in.x, R * D);
    central_differences(in.d_x, reference, &in, x, R * D, ones, R, stride);
    reference(&in, x, in.nll);
    ops_each((struct cpu_options){.precision = OPS_F32}, run, &in);
    arrays_free();
}

static void the_loss_and_its_gradient_follow_the_formula(void **state)
{
    check(0, 5, 3, 1);
    check(1, 1, 1, 1);
    check(7, 33, 31, 1);
    check(70, 65, 5, 7);
    check(3, 3001, 16, 3);
    check(5, 36, 8, 3);
}

/* Rows beyond one block of logits: each row's result is what it is alone. */
static void run_many_rows(struct ops_run *run, const void *input)
{
    enum { V = 700000, D = 2, R = BL_OPS_LOGITS_BYTES / (4 * V) + 5 };
    struct ops *ops = run_ops(run);
    struct bl_error err;
    struct ops_matrix *w = NULL;
    float *x = random_f32(1, R * D), *table = random_f32(2, V * D);
    int32_t *labels = (int32_t *)random_f32(3, R);
    double *nll = zeros(R);
    for (int r = 0; r < R; r++) {
        labels[r] = r * 7919 % V;
        nll[r] = NAN;
    }
    for (int r = 0; r < R; r += R / 3) {
        double sum = 0, at_label = 0;
        for (int j = 0; j < V; j++) {
            double z = (double)x[r * D] * table[j * D] + (double)x[r * D + 1] * table[j * D + 1];
            sum += exp(z);
            at_label = j == labels[r] ? z : at_label;
        }
        nll[r] = log(sum) - at_label;
    }
    assert_ok(ops->matrix_frozen(ops, &w, table, BL_F32, V, D, OPS_DATA_STAYS, &err), err);
    float *got = run_f32(run, NULL, R);
    act *d_x = run_act(run, NULL, R * D);
    ops->head_loss(ops, got, NULL, d_x, run_act(run, x, R * D), w,
                   run_bytes(run, labels, sizeof *labels * R), R);
    run_expect_f32(run, "nll", got, nll, R, 16);
    float d[R * D];
    run_read_act(run, d, d_x, R * D);
    for (int i = 0; i < R * D; i++)
        assert_true(fabsf(d[i]) < 2);
    ops->matrix_free(ops, &w);
    arrays_free();
}

static void more_rows_than_one_block_of_logits_are_all_computed(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_many_rows, NULL);
}

static void run_not_a_number(struct ops_run *run, const void *input)
{
    struct ops *ops = run_ops(run);
    struct bl_error err;
    struct ops_matrix *w = NULL;
    const float x[2][2] = {{NAN, 1}, {1, 1}}, table[3][2] = {{1, 2}, {3, 4}, {5, 6}};
    const int32_t labels[2] = {0, 2};
    assert_ok(ops->matrix_frozen(ops, &w, table, BL_F32, 3, 2, OPS_DATA_STAYS, &err), err);
    float *nll = run_f32(run, NULL, 2), got[2];
    uint8_t *correct = run_bytes(run, NULL, 2), right[2];
    ops->head_loss(ops, nll, correct, NULL, run_act(run, x[0], 4), w,
                   run_bytes(run, labels, sizeof labels), 2);
    ops->copy_out(ops, got, nll, sizeof got);
    ops->copy_out(ops, right, correct, sizeof right);
    assert_true(isnan(got[0]) && isfinite(got[1]));
    assert_true(!right[0] && right[1]);
    ops->matrix_free(ops, &w);
}

static void a_row_that_is_not_a_number_has_such_a_loss_and_is_not_correct(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_not_a_number, NULL);
}

UNIT_MAIN(cmocka_unit_test(the_loss_and_its_gradient_follow_the_formula),
          cmocka_unit_test(more_rows_than_one_block_of_logits_are_all_computed),
          cmocka_unit_test(a_row_that_is_not_a_number_has_such_a_loss_and_is_not_correct))
