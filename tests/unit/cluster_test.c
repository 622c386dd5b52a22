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
        assert_true(t.drain_ms < t.stalled_ms);
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

/* A plan of sources with these samples, and draws of an epoch. */
static struct bl_plan mixed(uint32_t count, const uint64_t (*sources)[2])
{
    struct bl_plan plan = {.seed = 9, .batch = 5, .source_count = count};
    for (uint32_t s = 0; s < count; s++) {
        plan.sources[s] = (struct bl_source){.samples = sources[s][0], .draws = sources[s][1]};
        plan.train_samples += sources[s][0];
    }
    return plan;
}

/* Training sample of a position. */
static uint64_t sample_at(const struct bl_plan *plan, uint64_t position, uint32_t *ret_pass)
{
    uint64_t index;
    bl_plan_sample(plan, position / plan->batch, (uint32_t)(position % plan->batch), ret_pass,
                   &index);
    assert_true(index < plan->train_samples);
    return index;
}

static void one_source_of_weight_1_has_the_order_of_no_list(void **state)
{
    struct bl_plan plain = {.seed = 9, .batch = 5, .train_samples = 23};
    struct bl_plan listed = mixed(1, (const uint64_t[][2]){{23, 23}});
    for (uint64_t position = 0; position < 200; position++) {
        uint32_t epoch, pass;
        assert_int_equal(sample_at(&plain, position, &epoch), sample_at(&listed, position, &pass));
        assert_int_equal(epoch, pass);
    }
}

static void sources_of_weight_1_are_one_permutation_of_all(void **state)
{
    struct bl_plan plan = mixed(3, (const uint64_t[][2]){{23, 23}, {1, 1}, {40, 40}});
    for (uint64_t position = 0; position < 640; position++) {
        uint32_t pass;
        assert_int_equal(sample_at(&plan, position, &pass),
                         bl_permute(9, position / 64, 64, position % 64));
        assert_int_equal(pass, position / 64);
    }
}

/* Each epoch has exactly `draws` of each source, and each pass of a source each of its samples once. */
static void a_source_is_gone_through_whole_before_a_sample_of_it_comes_again(void **state)
{
    enum { EPOCHS = 60 };
    static const uint64_t sources[][2] = {{24, 12}, {7, 14}, {10, 7}, {5, 5}, {3, 1}, {9, 22}};
    struct bl_plan plan = mixed(6, sources);
    static uint8_t seen[6][EPOCHS * 22 / 5][24];
    uint64_t draws = bl_plan_epoch(&plan);
    memset(seen, 0, sizeof seen);
    assert_int_equal(draws, 61);
    for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
        uint64_t drawn[6] = {0};
        for (uint64_t i = 0; i < draws; i++) {
            uint32_t pass, s = 0;
            uint64_t sample = sample_at(&plan, epoch * draws + i, &pass);
            for (; sample >= sources[s][0]; s++)
                sample -= sources[s][0];
            assert_false(seen[s][pass][sample]++);
            drawn[s]++;
        }
        for (uint32_t s = 0; s < 6; s++)
            assert_int_equal(drawn[s], sources[s][1]);
    }
    for (uint32_t s = 0; s < 6; s++)
        for (uint64_t draw = 0; draw < EPOCHS * sources[s][1]; draw++) {
            uint64_t pass = draw / sources[s][0], there = 0;
            for (uint64_t i = 0; i < sources[s][0]; i++)
                there += seen[s][pass][i];
            assert_int_equal(there, pass < EPOCHS * sources[s][1] / sources[s][0]
                                        ? sources[s][0]
                                        : EPOCHS * sources[s][1] % sources[s][0]);
        }
}

static void order_of_ten_million_samples_is_found_without_a_list(void **state)
{
    struct bl_plan plan =
        mixed(3, (const uint64_t[][2]){{217868, 435736}, {10000000, 5000000}, {1000, 100}});
    uint64_t drawn[3] = {0};
    for (uint64_t position = 0; position < 100000; position++) {
        uint32_t pass;
        uint64_t sample = sample_at(&plan, UINT64_C(1000000000000) + position, &pass);
        drawn[sample < 217868 ? 0 : sample < 10217868 ? 1 : 2]++;
    }
    assert_in_range(drawn[0], 7800, 8300);
    assert_in_range(drawn[1], 91700, 92200);
}

static void validation_takes_its_share_of_each_source(void **state)
{
    struct bl_plan plan = {.source_count = 3};
    const uint64_t samples[] = {70, 0, 31};
    for (uint32_t s = 0; s < 3; s++)
        plan.sources[s].validation = samples[s];
    for (uint64_t most = 0; most < 120; most++) {
        uint64_t count = bl_plan_choose_validation(&plan, most), sum = 0;
        assert_int_equal(count, most == 0 || most > 101 ? 101 : most);
        for (uint32_t s = 0; s < 3; s++) {
            sum += plan.sources[s].validated;
            assert_true(plan.sources[s].validated <= samples[s]);
            assert_true(plan.sources[s].validated >= count * samples[s] / 101);
        }
        assert_int_equal(sum, count);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t first = plan.sources[0].validated;
            assert_int_equal(bl_plan_validation_sample(&plan, i), i < first ? i : 70 + i - first);
        }
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
          cmocka_unit_test(one_source_of_weight_1_has_the_order_of_no_list),
          cmocka_unit_test(sources_of_weight_1_are_one_permutation_of_all),
          cmocka_unit_test(a_source_is_gone_through_whole_before_a_sample_of_it_comes_again),
          cmocka_unit_test(order_of_ten_million_samples_is_found_without_a_list),
          cmocka_unit_test(validation_takes_its_share_of_each_source),
          cmocka_unit_test(milestones_are_where_the_plan_says))
