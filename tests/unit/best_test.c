/* tests/unit/best_test.c - which checkpoint is the best one. */
#include "tests/unit/unit.h"

#include <math.h>
#include <unistd.h>

#include "common/file.h"
#include "coordinator/best.h"
#include "coordinator/registry.h"

static struct coord_ledger ledger_of(uint32_t count, const uint64_t *steps)
{
    struct coord_ledger ledger;
    coord_ledger_init(&ledger);
    for (uint32_t i = 0; i < count; i++)
        ledger.checkpoints[ledger.checkpoint_count++] = (struct coord_checkpoint){steps[i], 1};
    return ledger;
}

static void a_checkpoint_without_a_validation_is_not_the_best(void **state)
{
    struct coord_ledger ledger = ledger_of(1, (uint64_t[]){0});
    struct best best;
    best_init(&best);
    assert_false(best_improves(&best, &ledger));
    best_validated(&best, 5, 2.0);
    assert_false(best_improves(&best, &ledger));
    best_validated(&best, 0, NAN);
    assert_false(best_improves(&best, &ledger));
}

static void the_lowest_loss_is_the_best_whichever_comes_first(void **state)
{
    struct coord_ledger before = ledger_of(1, (uint64_t[]){0}),
                        after = ledger_of(3, (uint64_t[]){0, 5, 10});
    struct best best;
    best_init(&best);
    best_validated(&best, 5, 2.0); /* validated, then saved */
    assert_false(best_improves(&best, &before));
    assert_true(best_improves(&best, &after));
    assert_int_equal(best.checkpoint.step, 5);
    best_validated(&best, 10, 1.0); /* saved, then validated */
    assert_true(best_improves(&best, &after));
    assert_false(best_improves(&best, &after));
    assert_int_equal(best.checkpoint.step, 10);
    best_validated(&best, 0, 1.5);
    assert_false(best_improves(&best, &after));
    assert_int_equal(best.checkpoint.step, 10);
}

static void a_loss_waits_for_its_checkpoint_while_others_are_validated(void **state)
{
    struct coord_ledger before = ledger_of(1, (uint64_t[]){0}),
                        after = ledger_of(3, (uint64_t[]){0, 5, 10});
    struct best best;
    best_init(&best);
    best_validated(&best, 0, 3.0);
    assert_true(best_improves(&best, &before));
    best_validated(&best, 5, 1.0); /* still being written when step 10 is validated */
    best_validated(&best, 10, 2.0);
    assert_false(best_improves(&best, &before));
    assert_true(best_improves(&best, &after));
    assert_int_equal(best.checkpoint.step, 5);
    for (uint64_t step = 11; step < 100; step++)
        best_validated(&best, step, 0.5); /* of states that nobody saves */
    assert_false(best_improves(&best, &after));
}

static void a_rewind_takes_what_came_after_it(void **state)
{
    struct coord_ledger ledger = ledger_of(2, (uint64_t[]){5, 10});
    struct best best;
    best_init(&best);
    best_validated(&best, 10, 1.0);
    assert_true(best_improves(&best, &ledger));
    best_rewound(&best, 10);
    assert_int_equal(best.checkpoint.step, 10);
    best_rewound(&best, 5);
    assert_int_equal(best.checkpoint.generation, 0);
    assert_false(best_improves(&best, &ledger));
}

static void a_new_coordinator_finds_the_link_and_its_loss(void **state)
{
    char run[] = "/tmp/blipren-best-XXXXXX", path[200];
    static const char lines[] = "{\"type\":\"step\",\"step\":5,\"loss_nats\":0.1}\n"
                                "{\"type\":\"validation\",\"step\":5,\"loss_nats\":3.0}\n"
                                "{\"type\":\"rewind\",\"step\":0}\n"
                                "{\"type\":\"validation\",\"step\":5,\"loss_nats\":2.5}\n"
                                "{\"type\":\"validation\",\"step\":10,\"loss_nats\":2.75}\n"
                                "{\"type\":\"validation\",\"step\":5,\"loss";
    struct bl_error err;
    struct best best;
    assert_non_null(mkdtemp(run));
    snprintf(path, sizeof path, "%s/checkpoints/step-000005-g2", run);
    assert_ok(bl_folder_make(path, &err), err);
    assert_ok(best_read(run, &best, &err), err); /* no link yet */
    assert_int_equal(best.checkpoint.generation, 0);
    assert_ok(registry_point(run, "best", (struct coord_checkpoint){5, 2}, &err), err);
    assert_ok(best_read(run, &best, &err), err); /* no loss yet */
    assert_int_equal(best.checkpoint.generation, 0);
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    assert_ok(bl_file_write(path, lines, sizeof lines - 1, &err), err);
    assert_ok(best_read(run, &best, &err), err);
    assert_int_equal(best.checkpoint.step, 5);
    assert_int_equal(best.checkpoint.generation, 2);
    assert_float_equal(best.loss, 2.5, 0);
    assert_ok(registry_remove(run, best.checkpoint, &err), err); /* the link dangles */
    assert_ok(best_read(run, &best, &err), err);
    assert_int_equal(best.checkpoint.generation, 0);
    assert_ok(bl_folder_remove(run, &err), err);
}

UNIT_MAIN(cmocka_unit_test(a_checkpoint_without_a_validation_is_not_the_best),
          cmocka_unit_test(the_lowest_loss_is_the_best_whichever_comes_first),
          cmocka_unit_test(a_loss_waits_for_its_checkpoint_while_others_are_validated),
          cmocka_unit_test(a_rewind_takes_what_came_after_it),
          cmocka_unit_test(a_new_coordinator_finds_the_link_and_its_loss))
