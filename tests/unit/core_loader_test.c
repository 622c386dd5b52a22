/* tests/unit/core_loader_test.c - the loader's rules: the queue, its bounds, credit, dead assignments. */
#include "tests/unit/unit.h"

#include "loader/core.h"

static struct loader *l;
static const struct loader_actions *actions;
static uint64_t now_ms;

static struct loader_event event(enum loader_event_type type, uint64_t generation)
{
    return (struct loader_event){
        .type = type, .now_ms = now_ms, .link = 1, .generation = generation};
}

static void feed(struct loader_event e)
{
    actions = loader_step(l, &e);
    loader_check(l);
}

static const struct loader_action *action(enum loader_action_type type)
{
    for (uint32_t i = 0; i < actions->count; i++)
        if (actions->list[i].type == type)
            return &actions->list[i];
    return NULL;
}

static void assignment(uint64_t generation, uint32_t micro_batch)
{
    struct loader_event e = event(LOADER_EVENT_ASSIGNMENT, generation);
    e.assignment.kind = BL_KIND_TRAIN;
    e.assignment.step = 4;
    e.assignment.micro_batch = micro_batch;
    e.assignment.worker = 77;
    feed(e);
}

static void slot_event(enum loader_event_type type, uint32_t slot)
{
    struct loader_event e = event(type, 0);
    e.slot.slot = slot;
    feed(e);
}

/* Capacity 3, 2 jobs, welcome and open. */
static int begin(void **state)
{
    struct loader_config config = {
        .capacity = 3, .jobs = 2, .member = {.patience_ms = 600, .reconnect_ms = 6000}};
    now_ms = 1000;
    assert_int_equal(loader_new(&config, &l, NULL), 0);
    actions = loader_start(l, now_ms);
    assert_non_null(action(LOADER_ACTION_CONNECT));
    struct loader_event e = event(LOADER_EVENT_WELCOME, 0);
    e.welcome.patience_ms = 600;
    feed(e);
    assert_non_null(action(LOADER_ACTION_OPEN));
    feed(event(LOADER_EVENT_OPENED, 0));
    assert_non_null(action(LOADER_ACTION_ENDED));
    return 0;
}

static int end(void **state)
{
    loader_free(&l);
    assert_null(l);
    return 0;
}

static void an_assignment_is_made_shipped_and_answered(void **state)
{
    assignment(1, 5);
    uint32_t slot = action(LOADER_ACTION_ACCEPT)->assignment.slot;
    assert_int_equal(action(LOADER_ACTION_MAKE)->assignment.slot, slot);
    slot_event(LOADER_EVENT_MADE, slot);
    assert_int_equal(action(LOADER_ACTION_SHIP)->assignment.worker, 77);
    slot_event(LOADER_EVENT_SHIPPED, slot);
    const struct loader_action *sent = action(LOADER_ACTION_COMPLETED);
    assert_true(sent->assignment.shipped);
    assert_int_equal(sent->assignment.micro_batch, 5);
    assert_int_equal(sent->generation, 1);
}

static void what_cannot_be_shipped_is_answered_as_not_shipped(void **state)
{
    assignment(1, 5);
    slot_event(LOADER_EVENT_MADE, 0);
    struct loader_event e = event(LOADER_EVENT_SHIPPED, 0);
    e.slot.failed = true;
    feed(e);
    assert_false(action(LOADER_ACTION_COMPLETED)->assignment.shipped);
    assert_int_equal(loader_status(l).dropped, 1);
}

static void assignments_wait_for_a_free_job_in_the_order_they_came(void **state)
{
    assignment(1, 0);
    uint32_t first = action(LOADER_ACTION_ACCEPT)->assignment.slot;
    assignment(1, 1);
    assert_non_null(action(LOADER_ACTION_MAKE));
    assignment(1, 2);
    assert_null(action(LOADER_ACTION_MAKE));
    slot_event(LOADER_EVENT_MADE, first);
    assert_int_equal(action(LOADER_ACTION_MAKE)->assignment.micro_batch, 2);
}

static void an_assignment_beyond_the_capacity_ends_the_connection(void **state)
{
    for (uint32_t micro_batch = 0; micro_batch < 3; micro_batch++)
        assignment(1, micro_batch);
    assignment(1, 3);
    assert_non_null(action(LOADER_ACTION_CONNECT));
    assert_int_equal(loader_status(l).violations, 1);
}

static void the_end_of_a_generation_gives_the_credit_of_its_assignments_back(void **state)
{
    for (uint32_t micro_batch = 0; micro_batch < 3; micro_batch++)
        assignment(1, micro_batch);
    feed(event(LOADER_EVENT_END, 1));
    assert_int_equal(actions->count, 1); /* the queued one; two are being made */
    assert_false(action(LOADER_ACTION_COMPLETED)->assignment.shipped);
    slot_event(LOADER_EVENT_MADE, 0);
    assert_null(action(LOADER_ACTION_SHIP));
    assert_false(action(LOADER_ACTION_COMPLETED)->assignment.shipped);
    slot_event(LOADER_EVENT_MADE, 1);
    assert_false(action(LOADER_ACTION_COMPLETED)->assignment.shipped);
}

static void a_newer_generation_is_seen_in_an_assignment_too(void **state)
{
    assignment(1, 0);
    slot_event(LOADER_EVENT_MADE, 0);
    assignment(2, 0);
    assert_false(action(LOADER_ACTION_COMPLETED)->assignment.shipped);
    assert_int_equal(action(LOADER_ACTION_COMPLETED)->generation, 1);
    assert_int_equal(action(LOADER_ACTION_MAKE)->generation, 2);
}

static void a_lost_connection_drops_assignments_silently_and_comes_back(void **state)
{
    for (uint32_t micro_batch = 0; micro_batch < 3; micro_batch++)
        assignment(1, micro_batch);
    feed(event(LOADER_EVENT_LOST, 0));
    assert_non_null(action(LOADER_ACTION_DISCARD));
    assert_null(action(LOADER_ACTION_COMPLETED));
    assert_int_equal(action(LOADER_ACTION_CONNECT)->link, 2);
    slot_event(LOADER_EVENT_MADE, 0);
    assert_non_null(action(LOADER_ACTION_DISCARD));
    struct loader_event e = event(LOADER_EVENT_WELCOME, 0);
    e.link = 2;
    e.welcome.patience_ms = 600;
    feed(e);
    assert_non_null(action(LOADER_ACTION_ENDED)); /* open already */
    assert_int_equal(loader_status(l).making, 1);
}

static void silence_is_a_lost_connection_and_too_much_of_it_the_end(void **state)
{
    now_ms += 599;
    feed(event(LOADER_EVENT_TICK, 0));
    assert_null(action(LOADER_ACTION_CONNECT));
    assert_non_null(action(LOADER_ACTION_BEAT));
    now_ms += 1;
    feed(event(LOADER_EVENT_TICK, 0));
    assert_non_null(action(LOADER_ACTION_CONNECT));
    int tries = 0;
    for (int i = 0; i < 100 && !action(LOADER_ACTION_EXIT); i++) {
        now_ms += 100;
        feed(event(LOADER_EVENT_TICK, 0));
        tries += action(LOADER_ACTION_CONNECT) != NULL;
    }
    assert_int_equal(action(LOADER_ACTION_EXIT)->exit.code, BL_EPEER);
    assert_int_equal(tries, 9);
}

static void a_run_that_ended_with_an_error_is_its_loaders_error_too(void **state)
{
    struct loader_event e = event(LOADER_EVENT_STOP, 0);
    e.stop.code = BL_EDATA;
    feed(e);
    assert_int_equal(action(LOADER_ACTION_EXIT)->exit.code, BL_EDATA);
}

static void stop_says_goodbye(void **state)
{
    feed(event(LOADER_EVENT_STOP, 0));
    assert_non_null(action(LOADER_ACTION_GOODBYE));
    assert_int_equal(action(LOADER_ACTION_EXIT)->exit.code, 0);
    assignment(1, 0);
    assert_int_equal(actions->count, 0);
}

static void messages_of_an_older_connection_are_late(void **state)
{
    struct loader_event e = event(LOADER_EVENT_STOP, 0);
    e.link = 7;
    feed(e);
    assert_int_equal(actions->count, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
UNIT_MAIN(CASE(an_assignment_is_made_shipped_and_answered),
          CASE(what_cannot_be_shipped_is_answered_as_not_shipped),
          CASE(assignments_wait_for_a_free_job_in_the_order_they_came),
          CASE(an_assignment_beyond_the_capacity_ends_the_connection),
          CASE(the_end_of_a_generation_gives_the_credit_of_its_assignments_back),
          CASE(a_newer_generation_is_seen_in_an_assignment_too),
          CASE(a_lost_connection_drops_assignments_silently_and_comes_back),
          CASE(silence_is_a_lost_connection_and_too_much_of_it_the_end),
          CASE(a_run_that_ended_with_an_error_is_its_loaders_error_too), CASE(stop_says_goodbye),
          CASE(messages_of_an_older_connection_are_late))
