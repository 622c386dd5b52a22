/* tests/unit/cluster_test.c - what the three programs compute alike: shares, micro-batches, milestones, waiting times. */
#include "tests/unit/unit.h"

#include "common/cluster.h"
#include "common/random.h"

static void waiting_times_keep_their_order_for_every_patience(void **state)
{
    for (uint32_t patience_ms = 60; patience_ms < 10000000; patience_ms += 1 + patience_ms / 7) {
        struct bl_timing t = bl_timing_of(patience_ms);
        assert_true(t.heartbeat_ms >= 10);
        assert_true(3 * t.heartbeat_ms <= t.lost_ms); /* two heartbeats may be missed */
        assert_true(t.lease_ms <= t.lost_ms);
        assert_true(t.lost_ms < t.forming_ms);
        assert_true(t.forming_ms < t.drain_ms);
        assert_true(t.drain_ms < t.ending_ms);
    }
}

static void shares_cover_every_micro_batch_once_and_differ_by_one_at_most(void **state)
{
    for (uint32_t total = 1; total < 300; total += 1 + total / 5)
        for (uint32_t world = 1; world <= total; world++) {
            uint32_t next = 0, least = UINT32_MAX, most = 0;
            for (uint32_t rank = 0; rank < world; rank++) {
                struct bl_range share = bl_share(total, rank, world);
                assert_int_equal(share.first, next);
                next += share.count;
                least = share.count < least ? share.count : least;
                most = share.count > most ? share.count : most;
            }
            assert_int_equal(next, total);
            assert_true(least >= 1 && most - least <= 1);
        }
}

static void micro_batches_cover_every_batch_index_once(void **state)
{
    for (uint32_t batch = 1; batch < 100; batch += 7)
        for (uint32_t micro_batch = 1; micro_batch <= batch; micro_batch++) {
            struct bl_plan plan = {
                .batch = batch, .micro_batch = micro_batch, .validate_samples = batch + 3};
            for (enum bl_kind kind = BL_KIND_TRAIN; kind <= BL_KIND_VALIDATE; kind++) {
                uint32_t next = 0;
                for (uint32_t g = 0; g < bl_plan_micro_batches(&plan, kind); g++) {
                    struct bl_range indices = bl_plan_indices(&plan, kind, g);
                    assert_int_equal(indices.first, next);
                    assert_true(indices.count >= 1 && indices.count <= micro_batch);
                    next += indices.count;
                }
                assert_int_equal(next, kind == BL_KIND_TRAIN ? batch : batch + 3);
            }
        }
}

static void an_epoch_of_steps_trains_every_sample_once(void **state)
{
    struct bl_plan plan = {.seed = 5, .batch = 7, .train_samples = 35};
    uint8_t seen[2][35] = {{0}};
    for (uint64_t step = 0; step < 10; step++)
        for (uint32_t index = 0; index < 7; index++) {
            uint32_t epoch;
            uint64_t epoch_index;
            bl_plan_sample(&plan, step, index, &epoch, &epoch_index);
            assert_int_equal(epoch, step / 5);
            assert_int_equal(epoch_index, bl_permute(5, epoch, 35, (step * 7 + index) % 35));
            assert_false(seen[epoch][epoch_index]++);
        }
}

static void milestones_are_where_the_plan_says(void **state)
{
    struct bl_plan plan = {
        .steps = 10, .checkpoint_every = 4, .validate_every = 5, .validate_samples = 1};
    for (uint64_t step = 0; step <= 10; step++) {
        assert_int_equal(bl_plan_checkpoints(&plan, step),
                         step == 0 || step == 4 || step == 8 || step == 10);
        assert_int_equal(bl_plan_snapshots(&plan, step), step == 4 || step == 8);
        assert_int_equal(bl_plan_validates(&plan, step), step == 5 || step == 10);
    }
    plan.validate_at_start = true;
    assert_true(bl_plan_validates(&plan, 0));
    plan.validate_samples = 0;
    assert_false(bl_plan_validates(&plan, 5));
}

UNIT_MAIN(cmocka_unit_test(waiting_times_keep_their_order_for_every_patience),
          cmocka_unit_test(shares_cover_every_micro_batch_once_and_differ_by_one_at_most),
          cmocka_unit_test(micro_batches_cover_every_batch_index_once),
          cmocka_unit_test(an_epoch_of_steps_trains_every_sample_once),
          cmocka_unit_test(milestones_are_where_the_plan_says))
