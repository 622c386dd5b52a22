/* tests/unit/ledger_test.c - what the journal's records add up to, and what they may not say. */
#include "tests/unit/unit.h"

#include "coordinator/core.h"

#define RECORD(name, ...) ((struct coord_record){.type = COORD_RECORD_##name, __VA_ARGS__})

static void apply(struct coord_ledger *ledger, struct coord_record record)
{
    struct bl_error err = {0};
    assert_ok(coord_ledger_apply(ledger, &record, &err), err);
}

static void refuse(struct coord_ledger *ledger, struct coord_record record, const char *text)
{
    struct coord_ledger before = *ledger;
    struct bl_error err = {0};
    assert_int_equal(coord_ledger_apply(ledger, &record, &err), -BL_EFORMAT);
    assert_string_equal(err.text, text);
    assert_memory_equal(ledger, &before, sizeof before);
}

static struct coord_ledger after_three_steps(void)
{
    struct coord_ledger ledger;
    coord_ledger_init(&ledger);
    apply(&ledger, RECORD(START, .digest = 1));
    apply(&ledger, RECORD(GENERATION, .generation = 1, .world = 2));
    apply(&ledger, RECORD(CHECKPOINT, .step = 0, .generation = 1));
    for (uint64_t step = 0; step < 3; step++)
        apply(&ledger, RECORD(COMMIT, .step = step, .generation = 1));
    apply(&ledger, RECORD(CHECKPOINT, .step = 2, .generation = 1));
    apply(&ledger, RECORD(VALIDATED, .step = 3));
    return ledger;
}

static void records_add_up(void **state)
{
    struct coord_ledger ledger = after_three_steps();
    assert_true(ledger.started);
    assert_int_equal(ledger.committed, 3);
    assert_int_equal(ledger.generation, 1);
    assert_int_equal(ledger.formed, 1);
    assert_int_equal(ledger.world, 2);
    assert_int_equal(ledger.validated, 3);
    assert_int_equal(ledger.checkpoint_count, 2);
}

static void an_epoch_begins_at_any_time_and_never_again(void **state)
{
    struct coord_ledger ledger;
    coord_ledger_init(&ledger);
    apply(&ledger, RECORD(EPOCH, .step = 1));
    apply(&ledger, RECORD(START, .digest = 1));
    apply(&ledger, RECORD(EPOCH, .step = 4));
    assert_int_equal(ledger.epoch, 4);
    refuse(&ledger, RECORD(EPOCH, .step = 4), "next epoch: expected 5 but found 4");
}

static void a_rewind_annuls_what_came_after_the_checkpoint(void **state)
{
    struct coord_ledger ledger = after_three_steps();
    apply(&ledger, RECORD(REWIND, .step = 2, .generation = 1));
    assert_int_equal(ledger.committed, 2);
    assert_int_equal(ledger.validated, 2);
    assert_int_equal(ledger.floor, 2);
    assert_int_equal(ledger.rewinds, 1);
    refuse(&ledger, RECORD(COMMIT, .step = 2, .generation = 1),
           "generation of a commit: expected 1 but found 1");
    apply(&ledger, RECORD(GENERATION, .generation = 2, .world = 1));
    apply(&ledger, RECORD(COMMIT, .step = 2, .generation = 2));
    apply(&ledger, RECORD(REWIND, .step = 0, .generation = 1));
    assert_int_equal(ledger.checkpoint_count, 1);
    assert_int_equal(ledger.committed, 0);
}

static void contradictions_are_refused(void **state)
{
    struct coord_ledger ledger;
    coord_ledger_init(&ledger);
    refuse(&ledger, RECORD(COMMIT, .step = 0), "records before START: expected 1 but found 0");
    ledger = after_three_steps();
    refuse(&ledger, RECORD(START, .digest = 1), "records before START: expected 0 but found 1");
    refuse(&ledger, RECORD(COMMIT, .step = 4, .generation = 1),
           "committed step: expected 3 but found 4");
    refuse(&ledger, RECORD(COMMIT, .step = 3, .generation = 2),
           "generation of a commit: expected 1 but found 2");
    refuse(&ledger, RECORD(GENERATION, .generation = 1), "next generation: expected 2 but found 1");
    refuse(&ledger, RECORD(VALIDATED, .step = 3), "validated step: expected 3 but found 3");
    refuse(&ledger, RECORD(CHECKPOINT, .step = 4, .generation = 1),
           "step of a new checkpoint: expected 3 but found 4");
    refuse(&ledger, RECORD(CHECKPOINT, .step = 2, .generation = 1),
           "step of a new checkpoint: expected 3 but found 2");
    refuse(&ledger, RECORD(DAMAGED, .step = 1),
           "step of a registered checkpoint: expected 3 but found 1");
    refuse(&ledger, RECORD(REWIND, .step = 4, .generation = 1),
           "rewind beyond the commits: expected 3 but found 4");
    refuse(&ledger, RECORD(REWIND, .step = 1, .generation = 1),
           "rewind to a checkpoint that is not registered: expected 2 but found 1");
    refuse(&ledger, RECORD(REWIND, .step = 1),
           "rewind without a checkpoint: expected 0 but found 1");
    refuse(&ledger, (struct coord_record){.type = COORD_RECORD_COUNT},
           "type of a record: expected 10 but found 10");
}

static void a_damaged_checkpoint_leaves_the_list(void **state)
{
    struct coord_ledger ledger = after_three_steps();
    apply(&ledger, RECORD(DAMAGED, .step = 2, .generation = 1));
    assert_int_equal(ledger.checkpoint_count, 1);
    assert_int_equal(ledger.checkpoints[0].step, 0);
}

static void the_oldest_checkpoints_give_way_and_order_is_kept(void **state)
{
    struct coord_ledger ledger = after_three_steps();
    ledger.committed = 4 * BL_CHECKPOINTS_KEPT_MAX;
    for (uint64_t step = ledger.committed; step > 4; step -= 2)
        apply(&ledger, RECORD(CHECKPOINT, .step = step, .generation = 1));
    assert_int_equal(ledger.checkpoint_count, BL_CHECKPOINTS_KEPT_MAX);
    for (uint32_t i = 1; i < ledger.checkpoint_count; i++)
        assert_true(ledger.checkpoints[i - 1].step < ledger.checkpoints[i].step);
}

static void checkpoint_names_sort_and_are_unique(void **state)
{
    char name[COORD_CHECKPOINT_NAME_MAX];
    coord_checkpoint_name((struct coord_checkpoint){100, 3}, name);
    assert_string_equal(name, "step-000100-g3");
}

UNIT_MAIN(cmocka_unit_test(an_epoch_begins_at_any_time_and_never_again),
          cmocka_unit_test(records_add_up),
          cmocka_unit_test(a_rewind_annuls_what_came_after_the_checkpoint),
          cmocka_unit_test(contradictions_are_refused),
          cmocka_unit_test(a_damaged_checkpoint_leaves_the_list),
          cmocka_unit_test(the_oldest_checkpoints_give_way_and_order_is_kept),
          cmocka_unit_test(checkpoint_names_sort_and_are_unique))
