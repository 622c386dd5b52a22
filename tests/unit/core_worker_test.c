/* tests/unit/core_worker_test.c - the worker's rules: joining, forming, micro-batches in order, snapshots, aborts, leaving. */
#include "tests/unit/unit.h"

#include "worker/core.h"

static struct worker *w;
static const struct worker_actions *actions;
static uint64_t now_ms, the_link, generation;

static struct worker_event event(enum worker_event_type type)
{
    return (struct worker_event){
        .type = type, .now_ms = now_ms, .link = the_link, .generation = generation};
}

static void feed(struct worker_event e)
{
    actions = worker_step(w, &e);
    worker_check(w);
}

static const struct worker_action *action(enum worker_action_type type)
{
    for (uint32_t i = 0; i < actions->count; i++)
        if (actions->list[i].type == type)
            return &actions->list[i];
    return NULL;
}

static enum worker_state state_now(void)
{
    return worker_status(w).state;
}

/* 4 micro-batches of 2 batch indices, 2 validation micro-batches, a checkpoint every 2 steps, a window of 3. */
static const struct bl_plan plan = {.seed = 1,
                                    .train_samples = 100,
                                    .validate_samples = 4,
                                    .batch = 8,
                                    .micro_batch = 2,
                                    .steps = 10,
                                    .checkpoint_every = 2,
                                    .validate_every = 5,
                                    .steps_ahead = 2,
                                    .window = 3};

static void welcome(void)
{
    struct worker_event e = event(WORKER_EVENT_WELCOME);
    e.welcome.patience_ms = 600;
    feed(e);
}

static int begin(void **state)
{
    struct worker_config config = {.incarnation = 77,
                                   .member = {.patience_ms = 600, .reconnect_ms = 6000}};
    now_ms = 1000;
    the_link = 1;
    generation = 0;
    assert_int_equal(worker_new(&config, &w, NULL), 0);
    actions = worker_start(w, now_ms);
    assert_int_equal(action(WORKER_ACTION_CONNECT)->link, 1);
    welcome();
    assert_non_null(action(WORKER_ACTION_OPEN));
    assert_int_equal(worker_set_plan(w, &plan, NULL), 0);
    feed(event(WORKER_EVENT_OPENED));
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.applied_step, -1);
    assert_int_equal(state_now(), WORKER_READY);
    return 0;
}

static int end(void **state)
{
    worker_free(&w);
    assert_null(w);
    return 0;
}

static void form(uint32_t rank, uint32_t world, int32_t source, uint64_t step,
                 uint64_t state_generation)
{
    generation++;
    struct worker_event e = event(WORKER_EVENT_FORM);
    e.form.rank = rank;
    e.form.world = world;
    e.form.source = source;
    e.form.step = step;
    e.form.state_generation = state_generation;
    e.form.checkpoint = "";
    feed(e);
}

static struct bl_digest digest_of(uint8_t first)
{
    return (struct bl_digest){{first}};
}

static void formed(uint8_t digest)
{
    struct worker_event e = event(WORKER_EVENT_FORMED);
    e.formed.digest = digest_of(digest);
    feed(e);
}

static void data_for(enum bl_kind kind, uint64_t step, uint32_t micro_batch)
{
    struct worker_event e = event(WORKER_EVENT_DATA);
    e.data.worker = 77;
    e.data.kind = kind;
    e.data.step = step;
    e.data.micro_batch = micro_batch;
    feed(e);
}

static void computed(uint32_t slot)
{
    struct worker_event e = event(WORKER_EVENT_COMPUTED);
    e.computed.slot = slot;
    feed(e);
}

static void applied(uint64_t step)
{
    struct worker_event e = event(WORKER_EVENT_APPLIED);
    e.applied.step = step;
    feed(e);
}

static void snapped(uint64_t step)
{
    struct worker_event e = event(WORKER_EVENT_SNAPPED);
    e.applied.step = step;
    feed(e);
}

static void save(uint64_t step, const char *folder)
{
    struct worker_event e = event(WORKER_EVENT_SAVE);
    e.save.step = step;
    e.save.folder = folder;
    feed(e);
}

static void written(uint64_t step, bool ok)
{
    struct worker_event e = event(WORKER_EVENT_WRITTEN);
    e.written.step = step;
    e.written.ok = ok;
    feed(e);
}

static void aborted(int64_t applied_step, uint8_t digest)
{
    struct worker_event e = event(WORKER_EVENT_ABORTED);
    e.aborted.applied_step = applied_step;
    e.aborted.digest = digest_of(digest);
    feed(e);
}

/* Alone in a generation, with the fresh state. */
static void begin_alone(void)
{
    form(0, 1, -1, 0, 0);
    assert_false(action(WORKER_ACTION_FORM)->form.have_state);
    formed(1);
    assert_int_equal(action(WORKER_ACTION_FORMED)->formed.step, 0);
}

/* All micro-batches of a step, one after the other, up to the all-reduce (or the hold before it). */
static void compute_step(uint64_t step)
{
    for (uint32_t micro_batch = 0; micro_batch < 4; micro_batch++) {
        data_for(BL_KIND_TRAIN, step, micro_batch);
        const struct worker_action *compute = action(WORKER_ACTION_COMPUTE);
        assert_int_equal(compute->micro_batch.micro_batch, micro_batch);
        assert_int_equal(compute->micro_batch.last, micro_batch == 3);
        computed(compute->micro_batch.slot);
    }
}

static void a_step_goes_from_data_to_report(void **state)
{
    begin_alone();
    compute_step(0);
    assert_int_equal(action(WORKER_ACTION_REDUCE)->report.step, 0);
    assert_int_equal(state_now(), WORKER_REDUCING);
    applied(0);
    const struct worker_action *report = action(WORKER_ACTION_REPORT);
    assert_int_equal(report->report.step, 0);
    assert_int_equal(report->report.indices.first, 0);
    assert_int_equal(report->report.indices.count, 8);
    assert_int_equal(worker_status(w).applied_step, 1);
}

static void micro_batches_are_computed_in_order_whatever_order_they_come_in(void **state)
{
    begin_alone();
    data_for(BL_KIND_TRAIN, 0, 1);
    assert_non_null(action(WORKER_ACTION_RECEIVED));
    assert_null(action(WORKER_ACTION_COMPUTE));
    data_for(BL_KIND_TRAIN, 0, 0);
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.micro_batch, 0);
    computed(action(WORKER_ACTION_COMPUTE)->micro_batch.slot);
    assert_non_null(action(WORKER_ACTION_CONSUMED));
    assert_non_null(action(WORKER_ACTION_RELEASE));
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.micro_batch, 1);
}

/* Within a step and at its end; not beside a validation micro-batch. */
static void the_micro_batch_that_follows_is_named_where_it_is_here(void **state)
{
    begin_alone();
    data_for(BL_KIND_TRAIN, 0, 1);
    data_for(BL_KIND_TRAIN, 0, 0);
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.next, 0);
    data_for(BL_KIND_TRAIN, 0, 3);
    computed(1);
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.micro_batch, 1);
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.next, WORKER_NO_SLOT);
    data_for(BL_KIND_TRAIN, 1, 0);
    computed(0);
    data_for(BL_KIND_TRAIN, 0, 2);
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.next, 2);
    computed(0);
    assert_true(action(WORKER_ACTION_COMPUTE)->micro_batch.last);
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.next, 1);
}

static void what_it_has_or_does_not_want_is_dropped(void **state)
{
    begin_alone();
    data_for(BL_KIND_TRAIN, 0, 0);
    data_for(BL_KIND_TRAIN, 0, 0); /* in the engine */
    assert_non_null(action(WORKER_ACTION_DROP));
    assert_null(action(WORKER_ACTION_RECEIVED));
    computed(0);
    data_for(BL_KIND_TRAIN, 0, 0); /* computed */
    assert_non_null(action(WORKER_ACTION_DROP));
    assert_int_equal(worker_status(w).duplicates, 2);
    data_for(BL_KIND_TRAIN, 3, 0); /* too far ahead */
    assert_non_null(action(WORKER_ACTION_DROP));
    data_for(BL_KIND_TRAIN, 0, 4); /* no such micro-batch */
    assert_non_null(action(WORKER_ACTION_DROP));
    data_for(BL_KIND_VALIDATE, 5, 0); /* of another state */
    assert_non_null(action(WORKER_ACTION_DROP));
    struct worker_event e = event(WORKER_EVENT_DATA);
    e.data.worker = 78; /* for the process that was here before */
    e.data.kind = BL_KIND_TRAIN;
    e.data.micro_batch = 1;
    feed(e);
    assert_non_null(action(WORKER_ACTION_DROP));
    e.data.worker = 77;
    e.generation--;
    feed(e);
    assert_non_null(action(WORKER_ACTION_DROP));
    assert_int_equal(worker_status(w).held, 0);
}

static void more_than_the_window_is_dropped(void **state)
{
    begin_alone();
    for (uint32_t micro_batch = 1; micro_batch < 4; micro_batch++)
        data_for(BL_KIND_TRAIN, 0, micro_batch);
    data_for(BL_KIND_TRAIN, 1, 0);
    assert_non_null(action(WORKER_ACTION_DROP));
    assert_int_equal(worker_status(w).violations, 1);
}

static void a_rank_takes_its_share_only(void **state)
{
    form(1, 2, -1, 0, 0);
    formed(1);
    data_for(BL_KIND_TRAIN, 0, 1);
    assert_non_null(action(WORKER_ACTION_DROP));
    data_for(BL_KIND_TRAIN, 0, 2);
    assert_non_null(action(WORKER_ACTION_KEEP));
    computed(0);
    data_for(BL_KIND_TRAIN, 0, 3);
    assert_true(action(WORKER_ACTION_COMPUTE)->micro_batch.last);
    computed(0);
    applied(0);
    assert_int_equal(action(WORKER_ACTION_REPORT)->report.indices.first, 4);
    assert_int_equal(action(WORKER_ACTION_REPORT)->report.indices.count, 4);
}

static void a_validation_micro_batch_is_computed_and_answered_once(void **state)
{
    begin_alone();
    data_for(BL_KIND_VALIDATE, 0, 1);
    assert_int_equal(action(WORKER_ACTION_COMPUTE)->micro_batch.kind, BL_KIND_VALIDATE);
    computed(0);
    assert_int_equal(action(WORKER_ACTION_RESULT)->micro_batch.micro_batch, 1);
    assert_non_null(action(WORKER_ACTION_CONSUMED));
    data_for(BL_KIND_VALIDATE, 0, 1);
    assert_non_null(action(WORKER_ACTION_DROP));
}

static void rank_0_copies_its_state_in_passing_and_writes_it_when_told(void **state)
{
    begin_alone();
    compute_step(0);
    applied(0);
    assert_null(action(WORKER_ACTION_SNAPSHOT));
    compute_step(1);
    applied(1);
    assert_int_equal(action(WORKER_ACTION_SNAPSHOT)->report.step, 2);
    snapped(2);
    assert_null(action(WORKER_ACTION_WRITE));
    save(2, "step-2");
    assert_string_equal(action(WORKER_ACTION_WRITE)->save.folder, "step-2");
    compute_step(2); /* training continues */
    assert_non_null(action(WORKER_ACTION_REDUCE));
    applied(2);
    compute_step(3); /* but not into the next such state */
    assert_null(action(WORKER_ACTION_REDUCE));
    assert_int_equal(state_now(), WORKER_HOLDING);
    written(2, true);
    assert_true(action(WORKER_ACTION_SAVED)->save.ok);
    assert_string_equal(action(WORKER_ACTION_SAVED)->save.folder, "step-2");
    assert_non_null(action(WORKER_ACTION_REDUCE));
}

static void another_rank_copies_nothing(void **state)
{
    form(1, 4, -1, 0, 0);
    formed(1);
    for (uint64_t step = 0; step < 2; step++) {
        data_for(BL_KIND_TRAIN, step, 1);
        computed(0);
        applied(step);
        assert_null(action(WORKER_ACTION_SNAPSHOT));
    }
}

static void a_resting_state_is_saved_on_demand(void **state)
{
    begin_alone();
    save(0, "step-0");
    assert_int_equal(action(WORKER_ACTION_SNAPSHOT)->report.step, 0);
    snapped(0);
    assert_non_null(action(WORKER_ACTION_WRITE));
    written(0, false);
    assert_false(action(WORKER_ACTION_SAVED)->save.ok);
    save(1, "step-1"); /* a state that it does not have */
    assert_false(action(WORKER_ACTION_SAVED)->save.ok);
    compute_step(0);
    save(0, "step-0"); /* a state that is being changed */
    assert_false(action(WORKER_ACTION_SAVED)->save.ok);
}

static void the_end_of_a_generation_frees_everything_and_tells_the_state(void **state)
{
    begin_alone();
    data_for(BL_KIND_TRAIN, 0, 0);
    data_for(BL_KIND_TRAIN, 0, 2);
    feed(event(WORKER_EVENT_END));
    assert_non_null(action(WORKER_ACTION_ABORT));
    computed(0); /* it was under way */
    assert_int_equal(actions->count, 0);
    aborted(0, 9);
    int released = 0;
    for (uint32_t i = 0; i < actions->count; i++)
        released += actions->list[i].type == WORKER_ACTION_RELEASE;
    assert_int_equal(released, 2);
    const struct worker_action *ended = action(WORKER_ACTION_ENDED);
    assert_int_equal(ended->ended.applied_step, 0);
    assert_int_equal(ended->ended.state_generation, 1);
    assert_int_equal(ended->ended.digest.bytes[0], 9);
}

static void a_step_applied_while_ending_is_in_the_state_but_not_reported(void **state)
{
    begin_alone();
    compute_step(0);
    feed(event(WORKER_EVENT_END));
    applied(0);
    assert_null(action(WORKER_ACTION_REPORT));
    aborted(1, 3);
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.applied_step, 1);
}

static void a_broken_communicator_is_told_and_ended(void **state)
{
    begin_alone();
    compute_step(0);
    feed(event(WORKER_EVENT_FAILED));
    assert_non_null(action(WORKER_ACTION_BROKEN));
    feed(event(WORKER_EVENT_END));
    assert_non_null(action(WORKER_ACTION_ABORT));
    aborted(0, 1);
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.applied_step, 0);
}

static void the_state_it_has_is_kept_and_another_given_up(void **state)
{
    begin_alone();
    feed(event(WORKER_EVENT_END));
    aborted(0, 1);
    form(1, 2, 0, 0, 1); /* the source's state is that of generation 1 after 0 steps: the same */
    assert_true(action(WORKER_ACTION_FORM)->form.have_state);
    feed(event(WORKER_EVENT_END));
    aborted(0, 1);
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.applied_step, 0);
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.state_generation, 1);
    form(1, 2, 0, 0, 2); /* a fork of it */
    assert_false(action(WORKER_ACTION_FORM)->form.have_state);
    feed(event(WORKER_EVENT_END));
    aborted(-1, 0);
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.applied_step, -1);
}

static void a_lost_coordinator_leaves_the_state_and_ends_the_communicator(void **state)
{
    begin_alone();
    compute_step(0);
    applied(0);
    feed(event(WORKER_EVENT_LOST));
    assert_non_null(action(WORKER_ACTION_ABORT));
    assert_null(action(WORKER_ACTION_CONNECT));
    feed(event(WORKER_EVENT_END)); /* of the lost connection */
    assert_int_equal(actions->count, 0);
    aborted(1, 5);
    assert_int_equal(action(WORKER_ACTION_CONNECT)->link, 2);
    assert_int_equal(action(WORKER_ACTION_CONNECT)->ended.applied_step, 1);
    the_link = 2;
    welcome();
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.applied_step, 1);
    assert_int_equal(action(WORKER_ACTION_ENDED)->ended.digest.bytes[0], 5);
}

static void a_write_goes_on_when_its_generation_ends(void **state)
{
    begin_alone();
    save(0, "step-0");
    snapped(0);
    feed(event(WORKER_EVENT_END));
    assert_null(action(WORKER_ACTION_DISCARD));
    aborted(0, 1);
    assert_null(action(WORKER_ACTION_DISCARD));
    written(0, true);
    assert_true(action(WORKER_ACTION_SAVED)->save.ok);
}

static void a_copy_that_nobody_asked_for_goes_with_its_generation(void **state)
{
    begin_alone();
    for (uint64_t step = 0; step < 2; step++) {
        compute_step(step);
        applied(step);
    }
    snapped(2);
    feed(event(WORKER_EVENT_END));
    aborted(2, 1);
    assert_int_equal(action(WORKER_ACTION_DISCARD)->report.step, 2);
}

static void stop_lets_go_of_the_communicator_and_says_goodbye(void **state)
{
    begin_alone();
    feed(event(WORKER_EVENT_STOP));
    assert_non_null(action(WORKER_ACTION_ABORT));
    aborted(0, 1);
    assert_non_null(action(WORKER_ACTION_GOODBYE));
    assert_int_equal(action(WORKER_ACTION_EXIT)->exit.code, 0);
}

static void a_run_that_ended_with_an_error_is_its_workers_error_too(void **state)
{
    begin_alone();
    struct worker_event e = event(WORKER_EVENT_STOP);
    e.stop.code = BL_EDATA;
    feed(e);
    aborted(0, 1);
    assert_int_equal(action(WORKER_ACTION_EXIT)->exit.code, BL_EDATA);
}

static void stop_without_a_communicator_ends_at_once(void **state)
{
    feed(event(WORKER_EVENT_STOP));
    assert_non_null(action(WORKER_ACTION_GOODBYE));
    assert_non_null(action(WORKER_ACTION_EXIT));
}

static void what_no_coordinator_does_ends_the_connection(void **state)
{
    begin_alone();
    save(0, "x");
    snapped(0);
    written(0, true);
    form(0, 1, -1, 0, 0); /* without an End */
    assert_non_null(action(WORKER_ACTION_ABORT));
    assert_int_equal(worker_status(w).violations, 1);
}

static void silence_is_a_lost_coordinator_and_too_much_of_it_the_end(void **state)
{
    now_ms += 600;
    feed(event(WORKER_EVENT_TICK));
    assert_non_null(action(WORKER_ACTION_CONNECT));
    for (int i = 0; i < 100 && !action(WORKER_ACTION_EXIT); i++) {
        now_ms += 100;
        feed(event(WORKER_EVENT_TICK));
    }
    assert_int_equal(now_ms, 1000 + 600 + 6000);
    assert_int_equal(action(WORKER_ACTION_EXIT)->exit.code, BL_EPEER);
}

/* J4. A stalled coordinator answers where another one did before. */
static void a_coordinator_of_an_older_epoch_is_not_heard(void **state)
{
    struct worker_event e;
    for (the_link = 2; the_link <= 3; the_link++) {
        now_ms += 600;
        feed(event(WORKER_EVENT_TICK));
        assert_int_equal(action(WORKER_ACTION_CONNECT)->link, the_link);
        if (the_link == 3)
            break;
        e = event(WORKER_EVENT_WELCOME);
        e.welcome.patience_ms = 600;
        e.epoch = 3;
        feed(e);
    }
    enum worker_event_type types[] = {WORKER_EVENT_WELCOME, WORKER_EVENT_REFUSE, WORKER_EVENT_STOP};
    for (int i = 0; i < 3; i++) {
        e = event(types[i]);
        e.welcome.patience_ms = 600;
        e.epoch = 2;
        feed(e);
        assert_int_equal(state_now(), WORKER_JOINING);
        assert_null(action(WORKER_ACTION_EXIT));
    }
    now_ms += 600;
    feed(event(WORKER_EVENT_TICK));
    the_link = action(WORKER_ACTION_CONNECT)->link;
    e = event(WORKER_EVENT_WELCOME);
    e.welcome.patience_ms = 600;
    e.epoch = 4;
    feed(e);
    assert_int_equal(state_now(), WORKER_READY);
}

static void a_refused_worker_leaves(void **state)
{
    feed(event(WORKER_EVENT_REFUSE));
    assert_int_equal(action(WORKER_ACTION_EXIT)->exit.code, BL_EPEER);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
UNIT_MAIN(CASE(a_step_goes_from_data_to_report),
          CASE(micro_batches_are_computed_in_order_whatever_order_they_come_in),
          CASE(the_micro_batch_that_follows_is_named_where_it_is_here),
          CASE(what_it_has_or_does_not_want_is_dropped), CASE(more_than_the_window_is_dropped),
          CASE(a_rank_takes_its_share_only),
          CASE(a_validation_micro_batch_is_computed_and_answered_once),
          CASE(rank_0_copies_its_state_in_passing_and_writes_it_when_told),
          CASE(another_rank_copies_nothing), CASE(a_resting_state_is_saved_on_demand),
          CASE(the_end_of_a_generation_frees_everything_and_tells_the_state),
          CASE(a_step_applied_while_ending_is_in_the_state_but_not_reported),
          CASE(a_broken_communicator_is_told_and_ended),
          CASE(the_state_it_has_is_kept_and_another_given_up),
          CASE(a_lost_coordinator_leaves_the_state_and_ends_the_communicator),
          CASE(a_write_goes_on_when_its_generation_ends),
          CASE(a_copy_that_nobody_asked_for_goes_with_its_generation),
          CASE(stop_lets_go_of_the_communicator_and_says_goodbye),
          CASE(a_run_that_ended_with_an_error_is_its_workers_error_too),
          CASE(stop_without_a_communicator_ends_at_once),
          CASE(what_no_coordinator_does_ends_the_connection),
          CASE(silence_is_a_lost_coordinator_and_too_much_of_it_the_end),
          CASE(a_coordinator_of_an_older_epoch_is_not_heard), CASE(a_refused_worker_leaves))
