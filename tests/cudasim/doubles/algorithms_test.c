/* tests/cudasim/doubles/algorithms_test.c - by which of cuBLASLt's algorithms the backend computes its products. */
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <stdlib.h>

#include "tests/cudasim/doubles/cublaslt.h"
#include "worker/ops/cuda/algorithm.h"

enum { SIDE = 400 };

struct rig {
    struct ops *ops;
    struct ops_matrix *w;
    float *master, *more; /* device */
    act *x, *y;
    int64_t N, K;
};

/* Every number is 1, so that sums are exact and tell how often they were added. */
static void open_rig(struct rig *rig, bool times, enum ops_precision precision, int64_t N,
                     int64_t K)
{
    struct bl_error err = {0};
    const int64_t most = SIDE * SIDE;
    float *ones = malloc((size_t)most * sizeof *ones);
    for (int64_t i = 0; i < most; i++)
        ones[i] = 1;
    *rig = (struct rig){.N = N, .K = K};
    assert_ok(cuda_open(0, precision, &rig->ops, &err), err);
    struct ops *ops = rig->ops;
    ops->times_products = times;
    const size_t bytes = (size_t)most * sizeof *ones;
    assert_ok(ops->alloc(ops, bytes, (void **)&rig->master, &err), err);
    assert_ok(ops->alloc(ops, bytes, (void **)&rig->more, &err), err);
    assert_ok(ops->alloc(ops, bytes, (void **)&rig->x, &err), err);
    assert_ok(ops->alloc(ops, bytes, (void **)&rig->y, &err), err);
    ops->copy_in(ops, rig->master, ones, bytes);
    ops->copy_in(ops, rig->more, ones, bytes);
    ops->act_from_f32(ops, rig->x, rig->master, most);
    ops->act_from_f32(ops, rig->y, rig->master, most);
    assert_ok(ops->matrix_trainable(ops, &rig->w, rig->master, N, K, &err), err);
    free(ones);
}

static void close_rig(struct rig *rig)
{
    struct bl_error err = {0};
    assert_ok(rig->ops->sync(rig->ops, &err), err);
    rig->ops->matrix_free(rig->ops, &rig->w);
    void *const device[] = {rig->master, rig->more, rig->x, rig->y};
    for (int i = 0; i < 4; i++)
        rig->ops->release(rig->ops, device[i]);
    rig->ops->close(rig->ops);
}

/* Products that a forward pass of R rows queues. */
static int64_t forward(struct rig *rig, int64_t R)
{
    const int64_t before = double_products.queued;
    rig->ops->linear_forward(rig->ops, rig->y, NULL, rig->x, rig->w, NULL, R, OPS_NONE);
    return double_products.queued - before;
}

static const int64_t widths[][2] = {{8, 16},   {24, 8},  {31, 33}, {64, 64},
                                    {100, 48}, {128, 7}, {160, 32}};

static void the_fastest_algorithm_is_found_once_and_taken(void **state)
{
    int better = 0;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        struct rig rig;
        open_rig(&rig, true, i % 2 ? OPS_BF16 : OPS_F32, widths[i][0], widths[i][1]);
        const int64_t queued = forward(&rig, 40);
        assert_int_not_equal(queued, 1);
        assert_in_range(queued, 1 + 1 + ALGORITHM_RUNS, 1 + ALGORITHMS * (1 + ALGORITHM_RUNS));
        for (int again = 0; again < 2; again++) {
            assert_int_equal(double_products.algorithm, double_products.fastest);
            assert_int_equal(forward(&rig, 40), 1);
        }
        better += double_products.fastest != double_products.first;
        close_rig(&rig);
    }
    assert_true(better > 2); /* else it shows nothing */
}

static void rows_that_round_up_to_the_same_share_what_was_found(void **state)
{
    struct rig rig;
    open_rig(&rig, true, OPS_F32, 64, 32);
    assert_true(forward(&rig, 129) > 1);
    for (int64_t R = 130; R <= 256; R += 3) {
        assert_int_equal(forward(&rig, R), 1);
        assert_int_equal(double_products.algorithm, double_products.fastest);
    }
    assert_true(forward(&rig, 257) > 1);
    close_rig(&rig);
}

/* A gradient of weights sums over rows: an algorithm that wants them in 16 bytes takes 136 of them and not 137. */
static void what_does_not_suit_a_shape_is_not_taken_from_its_class(void **state)
{
    int narrow = 0;
    for (int64_t K = 8; K <= 96; K += 8) {
        struct rig rig;
        open_rig(&rig, true, OPS_BF16, 64, K);
        rig.ops->linear_backward_weight(rig.ops, rig.more, NULL, rig.y, rig.x, 136, 64, K);
        const int chosen = double_products.algorithm;
        const struct double_products before = double_products;
        rig.ops->linear_backward_weight(rig.ops, rig.more, NULL, rig.y, rig.x, 137, 64, K);
        assert_int_equal(double_products.queued - before.queued, 1);
        narrow += double_products.algorithm != chosen;
        close_rig(&rig);
    }
    assert_in_range(narrow, 1, 11); /* else it shows nothing */
}

static void a_product_that_accumulates_is_added_once(void **state)
{
    struct rig rig;
    float found[48 * 64];
    open_rig(&rig, true, OPS_F32, 48, 64);
    const int64_t before = double_products.queued;
    rig.ops->linear_backward_weight(rig.ops, rig.more, NULL, rig.y, rig.x, 40, 48, 64);
    assert_true(double_products.queued - before > 1);
    rig.ops->copy_out(rig.ops, found, rig.more, sizeof found);
    for (size_t i = 0; i < sizeof found / sizeof *found; i++)
        assert_true(found[i] == 1 + 40);
    close_rig(&rig);
}

static void without_leave_the_first_that_runs_is_taken(void **state)
{
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        struct rig rig;
        open_rig(&rig, false, OPS_F32, widths[i][0], widths[i][1]);
        for (int64_t R = 40; R < 300; R += 60)
            for (int again = 0; again < 2; again++) {
                assert_int_equal(forward(&rig, R), 1);
                assert_int_equal(double_products.algorithm, double_products.first);
            }
        close_rig(&rig);
    }
    assert_true(double_products.refused > 0);
}

UNIT_MAIN(cmocka_unit_test(the_fastest_algorithm_is_found_once_and_taken),
          cmocka_unit_test(rows_that_round_up_to_the_same_share_what_was_found),
          cmocka_unit_test(what_does_not_suit_a_shape_is_not_taken_from_its_class),
          cmocka_unit_test(a_product_that_accumulates_is_added_once),
          cmocka_unit_test(without_leave_the_first_that_runs_is_taken))
