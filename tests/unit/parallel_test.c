/* tests/unit/parallel_test.c - items on several threads: each once, the first failure counts, and a stop is obeyed. */
#include "tests/unit/unit.h"

#include <stdatomic.h>

#include "common/data/parallel.h"

enum { ITEMS = 1000 };

struct scene {
    atomic_int runs[ITEMS];
    uint64_t fails_from, waits_from; /* items from here on */
    uint64_t last_done, stop_at;
};

static int run_item(void *context, struct parallel *run, uint64_t i, struct bl_error *err)
{
    struct scene *s = context;
    atomic_fetch_add(&s->runs[i], 1);
    if (i >= s->waits_from)
        return parallel_wait(run, 3600 * 1000) ? 0 : bl_fail(err, BL_ESTOPPED, "stopped");
    return i < s->fails_from ? 0 : bl_fail(err, BL_EDATA, "item %d", (int)i);
}

static bool watch(void *context, uint64_t done)
{
    struct scene *s = context;
    assert_true(done >= s->last_done && done <= ITEMS);
    s->last_done = done;
    return done < s->stop_at;
}

static int run(struct scene *s, uint64_t count, struct bl_error *err)
{
    return parallel_run(
        &(struct parallel_work){.count = count, .item = run_item, .watch = watch, .context = s},
        err);
}

static void each_item_is_run_once(void **state)
{
    static struct scene s = {.fails_from = ITEMS, .waits_from = ITEMS, .stop_at = ITEMS + 1};
    struct bl_error err;
    assert_ok(run(&s, ITEMS, &err), err);
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(atomic_load(&s.runs[i]), 1);
    assert_int_equal(s.last_done, ITEMS);
    assert_ok(run(&s, 0, &err), err);
}

static void the_first_failure_by_number_is_given(void **state)
{
    static struct scene s = {.fails_from = 700, .waits_from = ITEMS, .stop_at = ITEMS + 1};
    struct bl_error err;
    assert_int_equal(run(&s, ITEMS, &err), -BL_EDATA);
    assert_string_equal(err.text, "item 700");
    assert_int_equal(atomic_load(&s.runs[ITEMS - 1]), 0);
}

static void a_stop_wakes_those_who_wait(void **state)
{
    static struct scene s = {.fails_from = ITEMS, .waits_from = 20, .stop_at = 20};
    struct bl_error err;
    assert_int_equal(run(&s, ITEMS, &err), -BL_ESTOPPED);
    assert_int_equal(atomic_load(&s.runs[ITEMS - 1]), 0);
}

UNIT_MAIN(cmocka_unit_test(each_item_is_run_once),
          cmocka_unit_test(the_first_failure_by_number_is_given),
          cmocka_unit_test(a_stop_wakes_those_who_wait))
