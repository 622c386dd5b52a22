/* tests/unit/core_coord_test.c - the coordinator's rules: who is a member, what is ordered of whom, what counts, what is
 * saved, how it ends. Peers are played by hand; the log has every action since it was last cleared. */
#include "tests/unit/unit.h"

#include "common/config/schema.h"
#include "common/limits.h"
#include "coordinator/core.h"

#define LOG_MAX 4096
#define RECORDS_MAX 1024
enum { WORKER_A = 11, WORKER_B = 12, WORKER_C = 13, LOADER_A = 21, LOADER_B = 22 };

static uint64_t train_ids[40], validate_ids[4];
static struct coord_config config;
static struct coord *c;
static uint64_t now_ms;
static struct coord_action log_list[LOG_MAX];
static uint32_t log_count;
static struct coord_record records[RECORDS_MAX]; /* the journal */
static uint64_t record_seqs[RECORDS_MAX];
static uint32_t record_count, on_disk;

static void keep(const struct coord_actions *actions)
{
    for (uint32_t i = 0; i < actions->count; i++) {
        assert_true(log_count < LOG_MAX && record_count < RECORDS_MAX);
        log_list[log_count++] = actions->list[i];
        if (actions->list[i].type == COORD_ACTION_JOURNAL) {
            record_seqs[record_count] = actions->list[i].journal.seq;
            records[record_count++] = actions->list[i].journal.record;
        }
    }
}

static void feed(struct coord_event e)
{
    e.now_ms = now_ms;
    const struct coord_actions *actions = coord_step(c, &e);
    coord_check(c);
    keep(actions);
    while (actions->more) {
        actions = coord_step(c, &(struct coord_event){.type = COORD_EVENT_TICK, .now_ms = now_ms});
        keep(actions);
    }
}

static uint32_t count(enum coord_action_type type, uint64_t peer)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < log_count; i++)
        found += log_list[i].type == type && (peer == 0 || log_list[i].peer == peer);
    return found;
}

/* The last action of its type, to anybody if peer is 0. */
static const struct coord_action *last(enum coord_action_type type, uint64_t peer)
{
    for (uint32_t i = log_count; i-- > 0;)
        if (log_list[i].type == type && (peer == 0 || log_list[i].peer == peer))
            return &log_list[i];
    fail_msg("expected the action %s to peer %llu", coord_action_name(type),
             (unsigned long long)peer);
    return NULL;
}

static const struct coord_action *last_note(enum coord_note kind, uint64_t peer)
{
    for (uint32_t i = log_count; i-- > 0;)
        if (log_list[i].type == COORD_ACTION_NOTE && log_list[i].note.kind == kind &&
            log_list[i].peer == peer)
            return &log_list[i];
    fail_msg("expected a note %d of peer %llu", kind, (unsigned long long)peer);
    return NULL;
}

static void assert_state(enum coord_state state)
{
    assert_string_equal(coord_state_name(coord_status(c).state), coord_state_name(state));
}

/* Everything journaled comes to lie on disk. */
static void disk(void)
{
    while (on_disk < record_count) {
        struct coord_event e = {.type = COORD_EVENT_JOURNALED};
        e.journaled.seq = record_seqs[record_count - 1];
        on_disk = record_count;
        feed(e);
    }
}

static struct coord_event from(uint64_t peer, enum coord_event_type type)
{
    return (struct coord_event){
        .type = type, .peer = peer, .link = 100 + peer, .generation = coord_status(c).generation};
}

static struct bl_digest state_of(uint64_t step)
{
    return (struct bl_digest){{7, (uint8_t)step}};
}

static uint32_t loader_capacity;

static void hello(uint64_t peer)
{
    struct coord_event e = from(peer, COORD_EVENT_HELLO);
    e.hello.role = peer >= LOADER_A ? BL_ROLE_LOADER : BL_ROLE_WORKER;
    e.hello.capacity = loader_capacity;
    feed(e);
}

static void ended(uint64_t peer, int64_t applied_step, uint64_t state_generation)
{
    struct coord_event e = from(peer, COORD_EVENT_ENDED);
    e.ended.applied_step = applied_step;
    e.ended.state_generation = state_generation;
    if (applied_step >= 0)
        e.ended.digest = state_of((uint64_t)applied_step);
    feed(e);
}

static void join(uint64_t peer)
{
    hello(peer);
    ended(peer, -1, 0);
}

static void lost(uint64_t peer, bool dead)
{
    struct coord_event e = {.type = COORD_EVENT_LOST, .peer = peer};
    e.lost.dead = dead;
    feed(e);
}

static void tick(uint64_t ms)
{
    now_ms += ms;
    feed((struct coord_event){.type = COORD_EVENT_TICK});
}

static void formed(uint64_t peer, uint64_t step)
{
    struct coord_event e = from(peer, COORD_EVENT_FORMED);
    e.formed.step = step;
    e.formed.digest = state_of(step);
    feed(e);
}

static void micro_batch_event(uint64_t peer, enum coord_event_type type, enum bl_kind kind,
                              uint64_t step, uint32_t micro_batch)
{
    struct coord_event e = from(peer, type);
    e.micro_batch.kind = kind;
    e.micro_batch.step = step;
    e.micro_batch.micro_batch = micro_batch;
    feed(e);
}

/* The loader ships an assignment, the worker gets and uses it. */
static void serve(const struct coord_action *assignment)
{
    struct coord_action o = *assignment;
    uint64_t worker = o.assignment.worker;
    micro_batch_event(o.peer, COORD_EVENT_COMPLETED, o.assignment.kind, o.assignment.step,
                      o.assignment.micro_batch);
    micro_batch_event(worker, COORD_EVENT_RECEIVED, o.assignment.kind, o.assignment.step,
                      o.assignment.micro_batch);
    if (bl_kind_is_pass(o.assignment.kind))
        micro_batch_event(worker, COORD_EVENT_VALIDATION, o.assignment.kind, o.assignment.step,
                          o.assignment.micro_batch);
    micro_batch_event(worker, COORD_EVENT_CONSUMED, o.assignment.kind, o.assignment.step,
                      o.assignment.micro_batch);
}

static uint64_t digest_of_indices(uint64_t step, struct bl_range indices)
{
    uint64_t sum = 0;
    for (uint32_t index = indices.first; index < indices.first + indices.count; index++) {
        uint32_t epoch;
        uint64_t epoch_index;
        bl_plan_sample(&config.plan, step, index, &epoch, &epoch_index);
        sum += bl_sample_term(index, train_ids[epoch_index]);
    }
    return sum;
}

static void report(uint64_t peer, uint64_t step, struct bl_range indices)
{
    struct coord_event e = from(peer, COORD_EVENT_REPORT);
    e.report.step = step;
    e.report.trained = &indices;
    e.report.trained_count = 1;
    e.report.sample_digest = digest_of_indices(step, indices);
    feed(e);
}

/* Serves the assignments of one step (or of the validation) that the log has and those that follow. */
static void serve_step(enum bl_kind kind, uint64_t step)
{
    for (uint32_t i = 0; i < log_count; i++)
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT && log_list[i].assignment.kind == kind &&
            log_list[i].assignment.step == step)
            serve(&log_list[i]);
}

/* The same, each micro-batch taking the worker that long. */
static void serve_step_taking(enum bl_kind kind, uint64_t step, uint32_t ms)
{
    for (uint32_t i = 0; i < log_count; i++) {
        if (log_list[i].type != COORD_ACTION_ASSIGNMENT || log_list[i].assignment.kind != kind ||
            log_list[i].assignment.step != step)
            continue;
        struct coord_action a = log_list[i];
        micro_batch_event(a.assignment.worker, COORD_EVENT_RECEIVED, kind, step,
                          a.assignment.micro_batch);
        now_ms += ms;
        micro_batch_event(a.assignment.worker, COORD_EVENT_CONSUMED, kind, step,
                          a.assignment.micro_batch);
    }
}

/* Rank 0 saves as told, the checksums hold, the record comes to lie on disk. */
static void save_well(void)
{
    const struct coord_action *save = last(COORD_ACTION_SAVE, 0);
    char name[COORD_CHECKPOINT_NAME_MAX];
    coord_checkpoint_name(save->checkpoint, name);
    struct coord_checkpoint checkpoint = save->checkpoint;
    struct coord_event e = from(save->peer, COORD_EVENT_SAVED);
    e.saved.step = checkpoint.step;
    e.saved.folder = name;
    e.saved.ok = true;
    feed(e);
    e = (struct coord_event){.type = COORD_EVENT_VERIFIED};
    e.verified.checkpoint = checkpoint;
    e.verified.ok = true;
    feed(e);
    disk();
    assert_int_equal(last(COORD_ACTION_REGISTERED, 0)->checkpoint.step, checkpoint.step);
}

static void start(void)
{
    struct bl_error err = {0};
    assert_ok(coord_new(&config, &c, &err), err);
    for (uint32_t i = 0; i < on_disk; i++)
        assert_ok(coord_replay(c, &records[i], &err), err);
    keep(coord_start(c, now_ms));
}

/* The process dies and starts again with the journal; what is not on disk yet is gone. */
static void restart(void)
{
    coord_free(&c);
    record_count = on_disk;
    log_count = 0;
    start();
}

/* 4 micro-batches of 2 batch indices, window 2, 1 step ahead, 6 steps, a checkpoint every 2; P = 600 ms. */
static int begin(void **state)
{
    loader_capacity = 64;
    for (uint64_t i = 0; i < 40; i++)
        train_ids[i] = 2 * i;
    for (uint64_t i = 0; i < 4; i++)
        validate_ids[i] = 2 * i + 1;
    config = (struct coord_config){.plan = {.kind = BL_KIND_TRAIN,
                                            .seed = 3,
                                            .train_samples = 40,
                                            .validate_samples = 0,
                                            .batch = 8,
                                            .micro_batch = 2,
                                            .steps = 6,
                                            .checkpoint_every = 2,
                                            .steps_ahead = 1,
                                            .window = 2},
                                   .train_ids = train_ids,
                                   .validate_ids = validate_ids,
                                   .sample_count = 80,
                                   .max_bad_fraction = 0.5,
                                   .bad_minimum = 4,
                                   .patience_ms = 600,
                                   .workers_max = 8,
                                   .loaders_max = 8,
                                   .workers_min = 1,
                                   .workers_wanted = 1};
    now_ms = 10000;
    log_count = record_count = on_disk = 0;
    return 0;
}

static int end(void **state)
{
    coord_free(&c);
    assert_null(c);
    return 0;
}

static const struct bl_range all_places = {0, 8}, first_half = {0, 4}, second_half = {4, 4};

/* One worker and one loader, checkpoint 0 registered, step 0 being ordered. */
static void begin_alone(void)
{
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    disk();
    formed(WORKER_A, 0);
    save_well();
    assert_state(COORD_TRAINING);
}

static void begin_alone_validating(void)
{
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    disk();
    formed(WORKER_A, 0);
    save_well();
    assert_state(COORD_VALIDATING);
}

/* Two workers. */
static void begin_pair(void)
{
    config.workers_wanted = 2;
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    assert_state(COORD_GATHERING);
    join(WORKER_B);
    disk();
    formed(WORKER_A, 0);
    formed(WORKER_B, 0);
    save_well();
    assert_state(COORD_TRAINING);
}

static void train_alone(uint64_t step)
{
    serve_step(BL_KIND_TRAIN, step);
    report(WORKER_A, step, all_places);
    disk();
}

static void a_run_goes_from_hello_to_goodbye(void **state)
{
    config.plan.validate_samples = 4;
    config.plan.validate_every = 3;
    begin_alone();
    for (uint64_t step = 0; step < 6; step++) {
        train_alone(step);
        assert_int_equal(last(COORD_ACTION_COMMITTED, 0)->committed.step, step);
        if ((step + 1) % 2 == 0 && step < 5) {
            assert_int_equal(last(COORD_ACTION_SAVE, WORKER_A)->checkpoint.step, step + 1);
            save_well();
        }
        if (step + 1 == 3 || step + 1 == 6) {
            assert_state(COORD_VALIDATING);
            serve_step(BL_KIND_VALIDATE, step + 1);
            assert_int_equal(last(COORD_ACTION_VALIDATED, 0)->step, step + 1);
            disk();
        }
    }
    assert_state(COORD_SAVING);
    save_well();
    assert_int_equal(count(COORD_ACTION_REGISTERED, 0), 4);
    assert_int_equal(count(COORD_ACTION_ACCEPTED, 0), 4);
    disk();
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_A)->stop.last, 6);
    assert_int_equal(last(COORD_ACTION_STOP, LOADER_A)->stop.code, 0);
    feed(from(WORKER_A, COORD_EVENT_GOODBYE));
    assert_state(COORD_LEAVING);
    feed(from(LOADER_A, COORD_EVENT_GOODBYE));
    assert_int_equal(last(COORD_ACTION_EXIT, 0)->exit.code, 0);
    assert_int_equal(count(COORD_ACTION_VIOLATION, 0), 0);
}

static void nothing_is_said_before_it_is_on_disk(void **state)
{
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    assert_state(COORD_PLANNING);
    assert_int_equal(count(COORD_ACTION_FORM, 0), 0);
    disk();
    assert_int_equal(count(COORD_ACTION_FORM, WORKER_A), 1);
    formed(WORKER_A, 0);
    save_well();
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, all_places);
    assert_int_equal(count(COORD_ACTION_COMMITTED, 0), 0);
    disk();
    assert_int_equal(count(COORD_ACTION_COMMITTED, 0), 1);
}

static void the_first_generation_waits_for_those_wanted_but_not_for_ever(void **state)
{
    config.workers_wanted = 3;
    start();
    disk();
    join(WORKER_A);
    assert_state(COORD_GATHERING);
    tick(0);
    for (int i = 0; i < 12; i++) {
        assert_state(COORD_GATHERING);
        feed(from(WORKER_A, COORD_EVENT_BEAT));
        tick(100);
    }
    assert_state(COORD_PLANNING);
}

static void assignments_keep_to_window_room_and_steps_ahead(void **state)
{
    begin_alone();
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, 0), 2); /* the window */
    join(LOADER_B);
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, 0), 2);
    for (uint32_t i = 0; i < log_count; i++) /* serving continues without a report */
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT)
            serve(&log_list[i]);
    uint32_t assignments = count(COORD_ACTION_ASSIGNMENT, 0);
    assert_int_equal(assignments, 8); /* steps 0 and 1 */
    for (uint32_t i = 0, n = 0; i < log_count; i++)
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT) {
            assert_int_equal(log_list[i].assignment.step, n / 4);
            assert_int_equal(log_list[i].assignment.micro_batch, n % 4);
            n++;
        }
}

static void two_ranks_are_served_alike(void **state)
{
    begin_pair();
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, 0), 4);
    const uint64_t workers[] = {WORKER_A, WORKER_B, WORKER_A, WORKER_B};
    const uint32_t micro_batches[] = {0, 2, 1, 3};
    for (uint32_t i = 0, n = 0; i < log_count; i++)
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT) {
            assert_int_equal(log_list[i].assignment.worker, workers[n]);
            assert_int_equal(log_list[i].assignment.micro_batch, micro_batches[n]);
            n++;
        }
}

static void an_assignment_names_its_samples(void **state)
{
    begin_alone();
    uint64_t samples[2], sum = 0;
    uint32_t epochs[2];
    const struct coord_action *assignment = last(COORD_ACTION_ASSIGNMENT, LOADER_A);
    coord_assignment_samples(c, assignment, samples, epochs);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(epochs[i], 0);
        sum += bl_sample_term(assignment->assignment.indices.first + i, samples[i]);
    }
    assert_int_equal(sum, digest_of_indices(0, assignment->assignment.indices));
}

static void a_lost_loaders_assignments_go_to_another(void **state)
{
    begin_alone();
    join(LOADER_B);
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 0, 0);
    log_count = 0;
    lost(LOADER_A, true);
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, 0),
                     1); /* what the worker has is not made again */
    assert_int_equal(last(COORD_ACTION_ASSIGNMENT, LOADER_B)->assignment.micro_batch, 1);
}

static void an_assignment_that_takes_too_long_goes_to_another(void **state)
{
    begin_alone();
    join(LOADER_B);
    log_count = 0;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(count(COORD_ACTION_ASSIGNMENT, 0), 0);
        feed(from(WORKER_A, COORD_EVENT_BEAT));
        feed(from(LOADER_A, COORD_EVENT_BEAT));
        feed(from(LOADER_B, COORD_EVENT_BEAT));
        tick(100);
    }
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, LOADER_B), 2);
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 0,
                      0); /* the first one's, after all */
    assert_int_equal(count(COORD_ACTION_VIOLATION, 0), 0);
}

/* J3. The commit is on disk, but in a journal that nobody reads any more. */
static void a_record_counts_only_while_the_epoch_is_its_own(void **state)
{
    begin_alone();
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, all_places);
    assert_int_equal(records[record_count - 1].type, COORD_RECORD_COMMIT);
    struct coord_event e = {.type = COORD_EVENT_JOURNALED};
    e.journaled.seq = record_seqs[record_count - 1];
    e.journaled.epoch = 1;
    log_count = 0;
    feed(e);
    assert_state(COORD_FINISHED);
    assert_int_equal(log_count, 1);
    assert_int_equal(last(COORD_ACTION_EXIT, 0)->exit.code, BL_ETAKEN);
    assert_int_equal(coord_ledger(c)->committed, 0);
}

/* J4. */
static void a_peer_of_a_newer_epoch_is_not_welcomed(void **state)
{
    start();
    disk();
    struct coord_event e = from(WORKER_A, COORD_EVENT_HELLO);
    e.hello.role = BL_ROLE_WORKER;
    e.hello.epoch = 1;
    feed(e);
    assert_int_equal(count(COORD_ACTION_WELCOME, 0), 0);
    assert_int_equal(count(COORD_ACTION_PROBE, 0), 1);
}

static void a_step_counts_when_all_ranks_have_reported_it(void **state)
{
    begin_pair();
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, first_half);
    disk();
    assert_int_equal(count(COORD_ACTION_COMMITTED, 0), 0);
    report(WORKER_B, 0, second_half);
    disk();
    assert_int_equal(count(COORD_ACTION_COMMITTED, 0), 1);
    assert_int_equal(records[record_count - 1].digest, digest_of_indices(0, all_places));
}

static void only_a_report_that_counts_is_kept(void **state)
{
    begin_pair();
    serve_step(BL_KIND_TRAIN, 0);
    struct coord_event e = from(WORKER_C, COORD_EVENT_REPORT); /* of nobody */
    feed(e);
    e = from(WORKER_A, COORD_EVENT_REPORT); /* of no generation that lives */
    e.generation--;
    feed(e);
    assert_int_equal(count(COORD_ACTION_REPORTED, 0), 0);
    report(WORKER_A, 0, first_half);
    assert_int_equal(count(COORD_ACTION_REPORTED, 0), 1);
    e = from(WORKER_A, COORD_EVENT_REPORT); /* twice */
    feed(e);
    assert_int_equal(count(COORD_ACTION_REPORTED, 0), 1);
}

static void other_samples_or_batch_indices_than_ordered_stop_the_run(void **state)
{
    begin_pair();
    serve_step(BL_KIND_TRAIN, 0);
    struct coord_event e = from(WORKER_A, COORD_EVENT_REPORT);
    e.report.trained = &first_half;
    e.report.trained_count = 1;
    e.report.sample_digest = digest_of_indices(0, first_half) + 1;
    feed(e);
    assert_string_equal(last(COORD_ACTION_VIOLATION, WORKER_A)->refuse.text,
                        "a rank trained other samples than ordered");
    assert_state(COORD_LEAVING);
    disk();
    lost(WORKER_A, true);
    lost(WORKER_B, true);
    lost(LOADER_A, true);
    assert_int_equal(last(COORD_ACTION_EXIT, 0)->exit.code, BL_EPROTO);
    end(state);
    begin(state);
    begin_pair();
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, second_half);
    assert_string_equal(last(COORD_ACTION_VIOLATION, WORKER_A)->refuse.text,
                        "a rank trained other batch indices than its own");
}

/* A and B trained step 0; B applied step 1 too, which A did not report. A is lost. */
static void lose_one_of_the_pair(void)
{
    begin_pair();
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, first_half);
    report(WORKER_B, 0, second_half);
    disk();
    serve_step(BL_KIND_TRAIN, 1);
    report(WORKER_B, 1, second_half);
    log_count = 0;
    lost(WORKER_A, true);
}

static void a_survivor_carries_the_step_that_it_applied(void **state)
{
    lose_one_of_the_pair();
    assert_state(COORD_ENDING);
    assert_int_equal(count(COORD_ACTION_END, WORKER_B), 1);
    assert_int_equal(count(COORD_ACTION_END, LOADER_A), 1);
    ended(WORKER_B, 2, 1);
    disk();
    const struct coord_action *form = last(COORD_ACTION_FORM, WORKER_B);
    assert_int_equal(form->form.source, 0);
    assert_int_equal(form->form.step, 2);
    assert_int_equal(form->form.state_generation, 1);
    assert_int_equal(coord_ledger(c)->committed, 1); /* not before everyone has it */
    formed(WORKER_B, 2);
    disk();
    assert_int_equal(coord_ledger(c)->committed, 2);
    assert_true(last(COORD_ACTION_COMMITTED, 0)->committed.via_survivors);
    assert_int_equal(last(COORD_ACTION_ASSIGNMENT, 0)->assignment.step, 2);
}

/* It computes a micro-batch: End is answered when that is through. */
static void a_survivor_that_is_busy_for_long_is_waited_for_while_it_beats(void **state)
{
    lose_one_of_the_pair();
    for (int i = 0; i < 60; i++) {
        feed(from(WORKER_B, COORD_EVENT_BEAT));
        tick(100);
    }
    assert_state(COORD_ENDING);
    assert_int_equal(count(COORD_ACTION_REFUSE, WORKER_B), 0);
    ended(WORKER_B, 2, 1);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_B)->form.step, 2);
}

static void a_step_that_no_survivor_applied_is_done_again(void **state)
{
    begin_pair();
    serve_step(BL_KIND_TRAIN, 0);
    log_count = 0;
    lost(WORKER_A, true);
    ended(WORKER_B, 0, 1);
    disk();
    formed(WORKER_B, 0);
    assert_int_equal(coord_ledger(c)->committed, 0);
    for (uint32_t i = 0; i < log_count; i++)
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT)
            serve(&log_list[i]);
    report(WORKER_B, 0, all_places);
    disk();
    assert_int_equal(coord_ledger(c)->committed, 1);
}

static void a_state_from_before_the_last_generation_is_no_survivor(void **state)
{
    lose_one_of_the_pair();
    ended(WORKER_B, 1, 1);
    disk();
    formed(WORKER_B, 1); /* generation 2 continues from step 1 … */
    hello(WORKER_A);
    ended(WORKER_A, 2, 1);      /* … and A comes back with the step 1 of generation 1 */
    assert_state(COORD_ENDING); /* nothing was ordered yet: a step boundary */
    ended(WORKER_B, 1, 2);
    disk();
    const struct coord_action *form = last(COORD_ACTION_FORM, WORKER_A);
    assert_int_equal(form->form.step, 1);
    assert_int_equal(form->form.state_generation, 2);
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_B)->form.rank, form->form.source);
}

static void different_states_of_one_step_stop_the_run(void **state)
{
    begin_pair();
    struct coord_event e = from(WORKER_A, COORD_EVENT_BROKEN);
    feed(e);
    ended(WORKER_A, 0, 1);
    e = from(WORKER_B, COORD_EVENT_ENDED);
    e.ended.applied_step = 0;
    e.ended.state_generation = 1;
    e.ended.digest = state_of(9);
    feed(e);
    assert_string_equal(last(COORD_ACTION_VIOLATION, 0)->refuse.text,
                        "survivors hold different states of one step");
    assert_state(COORD_LEAVING);
}

static void a_rank_that_formed_with_another_state_stops_the_run(void **state)
{
    config.workers_wanted = 2;
    start();
    disk();
    join(WORKER_A);
    join(WORKER_B);
    disk();
    formed(WORKER_A, 0);
    struct coord_event e = from(WORKER_B, COORD_EVENT_FORMED);
    e.formed.digest = state_of(9);
    feed(e);
    assert_state(COORD_LEAVING);
}

static void ended_unseeing(uint64_t peer, int64_t applied_step, uint64_t state_generation)
{
    struct coord_event e = from(peer, COORD_EVENT_ENDED);
    e.ended.applied_step = applied_step;
    e.ended.state_generation = state_generation;
    e.ended.needs_files = true;
    if (applied_step >= 0)
        e.ended.digest = state_of((uint64_t)applied_step);
    feed(e);
}

static void join_unseeing(uint64_t peer)
{
    hello(peer);
    ended_unseeing(peer, -1, 0);
}

static void who_sees_the_run_folder_is_rank_0_and_reads_for_all(void **state)
{
    config.workers_wanted = 3;
    start();
    disk();
    join_unseeing(WORKER_A);
    join(WORKER_B);
    join_unseeing(WORKER_C);
    disk();
    static const uint64_t workers[] = {WORKER_B, WORKER_A, WORKER_C};
    for (uint32_t rank = 0; rank < 3; rank++) {
        const struct coord_action *form = last(COORD_ACTION_FORM, workers[rank]);
        assert_int_equal(form->form.rank, rank);
        assert_int_equal(form->form.source, -1);
        assert_true(form->form.one_reads);
    }
    for (uint32_t rank = 0; rank < 3; rank++)
        formed(workers[rank], 0);
    assert_int_equal(last(COORD_ACTION_SAVE, 0)->peer, WORKER_B);
}

static void where_all_see_the_run_folder_each_reads(void **state)
{
    config.workers_wanted = 2;
    start();
    disk();
    join(WORKER_A);
    join(WORKER_B);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.rank, 0);
    assert_false(last(COORD_ACTION_FORM, WORKER_B)->form.one_reads);
}

static void where_nobody_sees_the_run_folder_one_reads(void **state)
{
    config.workers_wanted = 2;
    start();
    disk();
    join_unseeing(WORKER_A);
    join_unseeing(WORKER_B);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.rank, 0);
    assert_true(last(COORD_ACTION_FORM, WORKER_B)->form.one_reads);
}

static void the_source_keeps_its_state_under_another_rank(void **state)
{
    config.workers_wanted = 1;
    start();
    disk();
    join_unseeing(WORKER_A);
    disk();
    formed(WORKER_A, 0);
    join(WORKER_B);
    disk();
    ended_unseeing(WORKER_A, 0, 1);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_B)->form.rank, 0);
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.rank, 1);
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_B)->form.source, 1);
    assert_false(last(COORD_ACTION_FORM, WORKER_B)->form.one_reads);
}

static void a_newcomer_joins_at_a_step_boundary(void **state)
{
    begin_alone();
    for (uint32_t i = 0, n = 0; i < log_count && n < 3; i++)
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT) {
            serve(&log_list[i]);
            n++;
        }
    log_count = 0;
    join(WORKER_B);
    assert_state(COORD_TRAINING);
    assert_int_equal(count(COORD_ACTION_END, 0), 0);
    micro_batch_event(LOADER_A, COORD_EVENT_COMPLETED, BL_KIND_TRAIN, 0, 3);
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 0, 3);
    micro_batch_event(WORKER_A, COORD_EVENT_CONSUMED, BL_KIND_TRAIN, 0, 3);
    report(WORKER_A, 0, all_places);
    disk();
    serve_step(BL_KIND_TRAIN, 1);
    while (coord_status(c).state == COORD_TRAINING) {
        uint64_t step = coord_status(c).step;
        assert_int_equal(step, 1); /* it was begun when the newcomer came */
        report(WORKER_A, step, all_places);
        disk();
    }
    assert_state(COORD_ENDING);
    ended(WORKER_A, 2, 1);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_B)->form.world, 2);
}

static void the_source_is_a_member_even_when_there_are_more_workers_than_micro_batches(void **state)
{
    config.plan.micro_batch = 4; /* two micro-batches: two ranks, a third worker is spare */
    begin_pair();
    join(WORKER_C);
    lost(WORKER_B, false);
    ended(WORKER_A, 0, 1);
    disk();
    formed(WORKER_C, 0);
    feed(from(WORKER_A, COORD_EVENT_BROKEN)); /* C alone was formed in generation 2 */
    ended(WORKER_A, 0, 1);
    ended(WORKER_C, 0, 2);
    hello(WORKER_B);
    ended(WORKER_B, 0, 1);
    tick(100);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, 0)->form.world, 2);
    const struct coord_action *form = last(COORD_ACTION_FORM, WORKER_C);
    assert_int_equal(form->generation, 3);
    assert_int_equal(form->form.state_generation, 2);
    assert_int_equal(form->form.rank, form->form.source);
}

static void with_no_survivor_the_run_goes_back_to_the_last_whole_checkpoint(void **state)
{
    begin_alone();
    for (uint64_t step = 0; step < 5; step++) {
        train_alone(step);
        if (step == 1 || step == 3)
            save_well();
    }
    assert_int_equal(coord_ledger(c)->committed, 5);
    lost(WORKER_A, true);
    join(WORKER_B);
    assert_state(COORD_CHECKING);
    assert_int_equal(last(COORD_ACTION_VERIFY, 0)->checkpoint.step, 4);
    struct coord_event e = {.type = COORD_EVENT_VERIFIED};
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    feed(e); /* damaged */
    disk();
    assert_state(COORD_CHECKING);
    assert_int_equal(last(COORD_ACTION_VERIFY, 0)->checkpoint.step, 2);
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    e.verified.ok = true;
    feed(e);
    disk(); /* the damaged one is dropped, and this one looked at again */
    feed(e);
    disk();
    assert_int_equal(last(COORD_ACTION_REWOUND, 0)->step, 2);
    const struct coord_action *form = last(COORD_ACTION_FORM, WORKER_B);
    assert_int_equal(form->form.source, -1);
    assert_int_equal(form->form.checkpoint.step, 2);
    assert_int_equal(coord_ledger(c)->committed, 2);
    formed(WORKER_B, 2);
    assert_int_equal(last(COORD_ACTION_ASSIGNMENT, 0)->assignment.step, 2);
}

static void a_worker_that_may_come_back_is_waited_for(void **state)
{
    begin_alone();
    train_alone(0);
    lost(WORKER_A, false);
    join(WORKER_B);
    assert_state(COORD_GATHERING);
    hello(WORKER_A);
    ended(WORKER_A, 1, 1);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.step, 1);
    assert_int_equal(count(COORD_ACTION_REWOUND, 0), 0);
}

static void a_run_whose_checkpoints_are_all_damaged_stops(void **state)
{
    begin_alone();
    train_alone(0);
    lost(WORKER_A, true);
    join(WORKER_B);
    struct coord_event e = {.type = COORD_EVENT_VERIFIED};
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    feed(e);
    disk();
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_B)->stop.code, BL_EFORMAT);
    assert_int_equal(coord_ledger(c)->checkpoint_count, 1); /* its folder may only be away */
}

static void damaged_checkpoints_leave_the_journal_once_an_older_one_is_whole(void **state)
{
    begin_alone();
    for (uint64_t step = 0; step < 3; step++) {
        train_alone(step);
        if (step == 1)
            save_well();
    }
    lost(WORKER_A, true);
    join(WORKER_B);
    struct coord_event e = {.type = COORD_EVENT_VERIFIED};
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    feed(e); /* damaged */
    disk();
    assert_int_equal(coord_ledger(c)->checkpoint_count, 2);
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    assert_int_equal(e.verified.checkpoint.step, 0);
    e.verified.ok = true;
    feed(e);
    disk();
    assert_int_equal(coord_ledger(c)->checkpoint_count, 1);
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    feed(e);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_B)->form.checkpoint.step, 0);
}

static void a_restarted_coordinator_goes_on_from_its_journal(void **state)
{
    begin_pair();
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, first_half);
    report(WORKER_B, 0, second_half);
    restart(); /* the commit of step 0 was not on disk */
    assert_int_equal(coord_ledger(c)->committed, 0);
    hello(WORKER_A);
    ended(WORKER_A, 1, 1);
    assert_state(COORD_GATHERING); /* the journal knows of two */
    hello(WORKER_B);
    ended(WORKER_B, 1, 1);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, 0)->generation, 2);
    formed(WORKER_A, 1);
    formed(WORKER_B, 1);
    disk();
    assert_int_equal(coord_ledger(c)->committed, 1);
    assert_int_equal(count(COORD_ACTION_REWOUND, 0), 0);
}

static void the_journal_of_another_run_is_refused(void **state)
{
    start();
    disk();
    coord_free(&c);
    config.plan.seed++;
    struct bl_error err = {0};
    assert_ok(coord_new(&config, &c, &err), err);
    assert_int_equal(coord_replay(c, &records[0], &err), -BL_ECONFIG);
    assert_non_null(strstr(err.text, "the run began with other data"));
}

static void a_finished_run_has_nothing_to_do(void **state)
{
    config.plan.steps = 1;
    begin_alone();
    train_alone(0);
    save_well();
    disk();
    restart();
    disk();
    assert_int_equal(last(COORD_ACTION_EXIT, 0)->exit.code, 0);
    assert_int_equal(count(COORD_ACTION_FORM, 0), 0);
}

static void more_steps_done_than_asked_for_are_refused(void **state)
{
    begin_alone();
    for (uint64_t step = 0; step < 3; step++)
        train_alone(step);
    coord_free(&c);
    config.plan.steps = 2;
    struct bl_error err = {0};
    assert_ok(coord_new(&config, &c, &err), err);
    int rc = 0;
    for (uint32_t i = 0; i < on_disk && rc == 0; i++)
        rc = coord_replay(c, &records[i], &err);
    assert_int_equal(rc, -BL_ECONFIG);
    assert_string_equal(err.key, "train.steps");
}

static void ask_for_checkpoint(void)
{
    feed((struct coord_event){.type = COORD_EVENT_CHECKPOINT});
}

static void a_checkpoint_asked_for_is_written_between_two_steps(void **state)
{
    begin_alone();
    train_alone(0);
    serve_step(BL_KIND_TRAIN, 1); /* all of step 1 is there: it is finished first */
    ask_for_checkpoint();
    assert_state(COORD_TRAINING);
    report(WORKER_A, 1, all_places);
    disk();
    assert_state(COORD_SAVING);
    assert_int_equal(last(COORD_ACTION_SAVE, WORKER_A)->checkpoint.step, 2);
    save_well();
    assert_int_equal(last(COORD_ACTION_CHECKPOINTED, 0)->checkpointed.step, 2);
    assert_true(last(COORD_ACTION_CHECKPOINTED, 0)->checkpointed.ok);
    assert_state(COORD_TRAINING);
    train_alone(2);
    assert_state(COORD_TRAINING); /* nothing is due after 3 steps, and nobody asks */
    ask_for_checkpoint();
    assert_state(COORD_SAVING);
    save_well();
    assert_int_equal(last(COORD_ACTION_CHECKPOINTED, 0)->checkpointed.step, 3);
    log_count = 0;
    ask_for_checkpoint(); /* of a state that is saved: the answer comes at once */
    assert_int_equal(last(COORD_ACTION_CHECKPOINTED, 0)->checkpointed.step, 3);
    assert_int_equal(count(COORD_ACTION_SAVE, 0), 0);
}

static void
a_checkpoint_asked_for_that_cannot_be_written_is_answered_and_training_goes_on(void **state)
{
    begin_alone();
    train_alone(0);
    ask_for_checkpoint();
    assert_state(COORD_SAVING);
    struct coord_action save = *last(COORD_ACTION_SAVE, WORKER_A);
    char name[COORD_CHECKPOINT_NAME_MAX];
    coord_checkpoint_name(save.checkpoint, name);
    struct coord_event e = from(WORKER_A, COORD_EVENT_SAVED);
    e.saved.step = save.checkpoint.step;
    e.saved.folder = name;
    feed(e);
    assert_false(last(COORD_ACTION_CHECKPOINTED, 0)->checkpointed.ok);
    assert_state(COORD_TRAINING);
    train_alone(1);
}

static void
a_checkpoint_asked_for_while_there_is_no_worker_comes_with_the_next_generation(void **state)
{
    begin_alone();
    train_alone(0);
    lost(WORKER_A, true);
    ask_for_checkpoint();
    assert_int_equal(count(COORD_ACTION_CHECKPOINTED, 0), 0);
    join(WORKER_B);
    struct coord_event e = {.type = COORD_EVENT_VERIFIED};
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    e.verified.ok = true;
    feed(e);
    disk();
    formed(WORKER_B, 0);
    assert_int_equal(last(COORD_ACTION_CHECKPOINTED, 0)->checkpointed.step, 0);
}

static void stop(void)
{
    feed((struct coord_event){.type = COORD_EVENT_STOP});
}

static void a_stop_before_anything_began_ends_at_once(void **state)
{
    start();
    disk();
    stop();
    disk();
    assert_int_equal(last(COORD_ACTION_EXIT, 0)->exit.code, BL_ESTOPPED);
}

static void a_stop_finishes_the_steps_begun_and_saves(void **state)
{
    begin_alone();
    for (uint32_t i = 0, n = 0; i < log_count && n < 5;
         i++) /* step 0, and one micro-batch of step 1 */
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT) {
            serve(&log_list[i]);
            n++;
        }
    stop();
    report(WORKER_A, 0, all_places);
    disk();
    assert_state(COORD_SAVING);
    assert_int_equal(last(COORD_ACTION_SAVE, 0)->checkpoint.step, 1);
    save_well();
    disk();
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_A)->stop.last, 1);
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_A)->stop.code, BL_ESTOPPED);
}

static void a_stop_that_cannot_finish_its_steps_saves_what_there_is(void **state)
{
    begin_alone();
    train_alone(0);
    serve_step(BL_KIND_TRAIN, 1);
    serve_step(BL_KIND_TRAIN, 2);
    lost(LOADER_A, true);
    stop();
    assert_state(COORD_TRAINING);
    for (int i = 0; i < 24; i++) {
        feed(from(WORKER_A, COORD_EVENT_BEAT));
        tick(100);
    }
    assert_state(COORD_ENDING);
    ended(WORKER_A, 1, 1);
    disk();
    formed(WORKER_A, 1);
    save_well();
    disk();
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_A)->stop.last, 1);
}

static void a_peer_that_does_not_leave_is_left(void **state)
{
    config.plan.steps = 1;
    begin_alone();
    train_alone(0);
    save_well();
    disk();
    assert_state(COORD_LEAVING);
    hello(LOADER_B); /* who comes now is told at once */
    assert_int_equal(count(COORD_ACTION_STOP, LOADER_B), 1);
    for (int i = 0; i < 24; i++) {
        assert_state(COORD_LEAVING);
        feed(from(WORKER_A, COORD_EVENT_BEAT));
        tick(100);
    }
    assert_int_equal(last(COORD_ACTION_EXIT, 0)->exit.code, 0);
}

/* All that is assigned in training is void, until the run stops: how many samples. */
static uint64_t train_on_voids(bool asked_for)
{
    uint64_t bad = 0;
    for (uint32_t i = 0; i < log_count && !coord_status(c).stopping; i++) {
        if (log_list[i].type != COORD_ACTION_ASSIGNMENT)
            continue;
        struct coord_action assignment = log_list[i];
        uint64_t samples[2];
        uint32_t epochs[2];
        coord_assignment_samples(c, &assignment, samples, epochs);
        struct coord_void voids[2] = {{0, samples[0], false, asked_for},
                                      {1, samples[1], false, asked_for}};
        struct coord_event e = from(LOADER_A, COORD_EVENT_COMPLETED);
        e.micro_batch.kind = BL_KIND_TRAIN;
        e.micro_batch.step = assignment.assignment.step;
        e.micro_batch.micro_batch = assignment.assignment.micro_batch;
        e.micro_batch.voids = voids;
        e.micro_batch.void_count = 2;
        feed(e);
        micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, assignment.assignment.step,
                          assignment.assignment.micro_batch);
        micro_batch_event(WORKER_A, COORD_EVENT_CONSUMED, BL_KIND_TRAIN, assignment.assignment.step,
                          assignment.assignment.micro_batch);
        bad += 2;
    }
    return bad;
}

static void samples_that_a_rule_leaves_out_are_not_bad(void **state)
{
    begin_alone();
    uint64_t left_out = train_on_voids(true);
    assert_int_equal(count(COORD_ACTION_BAD_SAMPLE, 0), left_out);
    assert_true(left_out > 4);
    assert_false(coord_status(c).stopping);
    assert_int_equal(coord_status(c).bad, 0);
}

static void too_many_bad_samples_stop_the_run_with_a_checkpoint(void **state)
{
    begin_alone();
    assert_int_equal(train_on_voids(false), 4); /* the minimum that is judged */
    assert_int_equal(count(COORD_ACTION_BAD_SAMPLE, 0), 4);
    serve_step(BL_KIND_TRAIN, 0);
    lost(WORKER_A, true);
    disk();
    assert_int_equal(last(COORD_ACTION_STOP, LOADER_A)->stop.code, BL_EDATA);
}

static void a_void_slot_with_another_sample_drops_the_loader(void **state)
{
    begin_alone();
    struct coord_void lie = {0, 79, false, false};
    struct coord_event e = from(LOADER_A, COORD_EVENT_COMPLETED);
    e.micro_batch.kind = BL_KIND_TRAIN;
    e.micro_batch.voids = &lie;
    e.micro_batch.void_count = 1;
    feed(e);
    assert_int_equal(count(COORD_ACTION_REFUSE, LOADER_A), 1);
    assert_state(COORD_TRAINING);
}

static void silent_peers_are_lost(void **state)
{
    begin_alone();
    tick(599);
    assert_int_equal(count(COORD_ACTION_FORGET, 0), 0);
    assert_int_equal(count(COORD_ACTION_PULSE, 0), 1);
    tick(1);
    assert_int_equal(count(COORD_ACTION_FORGET, 0), 2);
    assert_state(COORD_GATHERING);
}

static void a_second_connection_of_a_member_ends_the_generation(void **state)
{
    begin_alone();
    hello(WORKER_A); /* the same one again: nothing */
    assert_state(COORD_TRAINING);
    struct coord_event e = from(WORKER_A, COORD_EVENT_HELLO);
    e.link = 999;
    e.hello.role = BL_ROLE_WORKER;
    feed(e);
    assert_int_equal(last(COORD_ACTION_FORGET, WORKER_A)->link, 100 + WORKER_A);
    assert_state(COORD_GATHERING);
    log_count = 0;
    ended(WORKER_A, 0, 1); /* on the old connection: late */
    disk();
    assert_int_equal(count(COORD_ACTION_FORM, 0), 0);
}

static void messages_that_no_honest_peer_sends_drop_the_peer(void **state)
{
    struct {
        enum coord_event_type type;
        uint64_t peer;
        const char *text;
    } cases[] = {
        {COORD_EVENT_FORMED, WORKER_A, "a message that this state does not expect"},
        {COORD_EVENT_RECEIVED, LOADER_A, "a message of the other role"},
        {COORD_EVENT_COMPLETED, WORKER_A, "a message of the other role"},
        {COORD_EVENT_CONSUMED, WORKER_A, "Consumed before Received"},
        {COORD_EVENT_REPORT, WORKER_A, "Report of a step that is not the next"},
        {COORD_EVENT_VALIDATION, WORKER_A, "a message that this state does not expect"},
        {COORD_EVENT_ENDED, WORKER_A, "Ended is the answer to Welcome or End"},
        {COORD_EVENT_ENDED, LOADER_A, "a loader is ready once"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin(state);
        begin_alone();
        feed(from(cases[i].peer, cases[i].type));
        assert_string_equal(last(COORD_ACTION_REFUSE, cases[i].peer)->refuse.text, cases[i].text);
        assert_int_equal(coord_status(c).violations, 1);
        coord_free(&c);
    }
    begin(state);
    begin_alone();
    struct coord_event e = from(WORKER_A, COORD_EVENT_RECEIVED);
    e.generation = 99;
    feed(e);
    assert_string_equal(last(COORD_ACTION_REFUSE, WORKER_A)->refuse.text,
                        "a generation that never was");
}

static void a_worker_that_does_not_answer_end_is_named_and_lost(void **state)
{
    begin_pair();
    feed(from(WORKER_A, COORD_EVENT_BROKEN));
    ended(WORKER_A, 0, 1);
    for (int i = 0; i < 120; i++) { /* 20 times its patience */
        assert_state(COORD_ENDING);
        feed(from(WORKER_A, COORD_EVENT_BEAT));
        feed(from(WORKER_B, COORD_EVENT_BEAT));
        feed(from(LOADER_A, COORD_EVENT_BEAT));
        tick(100);
    }
    assert_int_equal(count(COORD_ACTION_FORGET, WORKER_B), 1);
    assert_string_equal(last_note(COORD_NOTE_STALLED, WORKER_B)->note.text, "to answer End");
    tick(100);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.world, 1);
}

static void a_checkpoint_that_is_needed_is_tried_three_times(void **state)
{
    start();
    disk();
    join(WORKER_A);
    disk();
    formed(WORKER_A, 0);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(count(COORD_ACTION_SAVE, WORKER_A), i);
        struct coord_event e = from(WORKER_A, COORD_EVENT_SAVED);
        char name[COORD_CHECKPOINT_NAME_MAX];
        coord_checkpoint_name(last(COORD_ACTION_SAVE, 0)->checkpoint, name);
        e.saved.folder = name;
        feed(e);
    }
    disk();
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_A)->stop.code, BL_EIO);
}

static void a_generation_that_is_not_formed_in_time_ends(void **state)
{
    start();
    disk();
    join(WORKER_A);
    disk();
    assert_state(COORD_FORMING);
    for (int i = 0; i < 12; i++) {
        assert_state(COORD_FORMING);
        feed(from(WORKER_A, COORD_EVENT_BEAT));
        tick(100);
    }
    assert_state(COORD_ENDING);
    ended(WORKER_A, -1, 0);
    assert_state(COORD_GATHERING); /* a moment's rest */
    tick(100);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->generation, 2);
}

static void an_interrupted_validation_goes_on_where_it_was(void **state)
{
    config.plan.validate_samples = 4;
    config.plan.validate_at_start = true;
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    disk();
    formed(WORKER_A, 0);
    save_well();
    assert_state(COORD_VALIDATING);
    serve(last(COORD_ACTION_ASSIGNMENT, LOADER_A));
    assert_int_equal(count(COORD_ACTION_ACCEPTED, 0), 1);
    feed(from(WORKER_A, COORD_EVENT_BROKEN));
    log_count = 0;
    ended(WORKER_A, 0, 1);
    disk();
    formed(WORKER_A, 0);
    assert_state(COORD_VALIDATING);
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, 0), 1);
    serve(last(COORD_ACTION_ASSIGNMENT, LOADER_A));
    assert_int_equal(count(COORD_ACTION_VALIDATED, 0), 1);
    disk();
    assert_state(COORD_TRAINING);
}

/* -- embedding -- */

static uint8_t done[8];

/* 8 shards of 5 images, the last of 3; two samples are other names of images. */
static void begin_embedding(void)
{
    config.plan = (struct bl_plan){.kind = BL_KIND_EMBED,
                                   .train_samples = 38,
                                   .validate_samples = 38,
                                   .batch = 5,
                                   .micro_batch = 5,
                                   .validate_at_start = true,
                                   .steps_ahead = 1,
                                   .window = 2};
    config.validate_ids = train_ids;
    config.done = done;
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    disk();
    formed(WORKER_A, 0);
}

/* Every shard that is ordered is made; how often each was, in ret. */
static void make_shards(uint32_t ret[8])
{
    for (uint32_t i = 0; i < log_count; i++)
        if (log_list[i].type == COORD_ACTION_ASSIGNMENT) {
            assert_int_equal(log_list[i].assignment.kind, BL_KIND_EMBED);
            assert_int_equal(log_list[i].assignment.step, 0);
            ret[log_list[i].assignment.micro_batch]++;
            serve(&log_list[i]);
        }
}

static void embedding_makes_every_shard_once_and_ends(void **state)
{
    uint32_t made[8] = {0};
    memset(done, 0, sizeof done);
    begin_embedding();
    assert_state(COORD_VALIDATING);
    make_shards(made);
    for (int i = 0; i < 8; i++)
        assert_int_equal(made[i], 1);
    assert_int_equal(count(COORD_ACTION_VALIDATED, 0), 1);
    assert_int_equal(count(COORD_ACTION_SAVE, 0), 0);
    disk();
    assert_state(COORD_LEAVING);
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_A)->stop.code, 0);
    for (uint32_t i = 0; i < record_count; i++)
        assert_true(records[i].type == COORD_RECORD_START ||
                    records[i].type == COORD_RECORD_GENERATION ||
                    records[i].type == COORD_RECORD_FINISH);
}

static void a_shard_that_is_there_is_not_made(void **state)
{
    uint32_t made[8] = {0};
    memset(done, 1, sizeof done);
    done[3] = done[7] = 0;
    begin_embedding();
    make_shards(made);
    for (int i = 0; i < 8; i++)
        assert_int_equal(made[i], i == 3 || i == 7);
    disk();
    assert_state(COORD_LEAVING);
}

static void embedding_that_is_complete_ends_at_once(void **state)
{
    memset(done, 1, sizeof done);
    config.plan.kind = BL_KIND_EMBED;
    config.plan.steps = 0;
    config.plan.validate_samples = 8;
    config.plan.micro_batch = 1;
    config.done = done;
    start();
    disk();
    assert_state(COORD_FINISHED);
}

static void a_newcomer_embeds_with_the_others_at_once(void **state)
{
    uint32_t made[8] = {0};
    memset(done, 0, sizeof done);
    begin_embedding();
    serve(last(COORD_ACTION_ASSIGNMENT, LOADER_A));
    join(WORKER_B);
    assert_state(COORD_ENDING);
    ended(WORKER_A, 0, 1);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_B)->form.world, 2);
    log_count = 0;
    formed(WORKER_A, 0);
    formed(WORKER_B, 0);
    make_shards(made);
    uint32_t sum = 0;
    for (int i = 0; i < 8; i++)
        sum += made[i];
    assert_int_equal(sum, 7); /* one was made before */
    disk();
    assert_state(COORD_LEAVING);
}

static void workers_that_die_after_each_shard_do_not_end_the_run(void **state)
{
    memset(done, 0, sizeof done);
    config.members_gone = true;
    begin_embedding();
    for (uint32_t i = 0; i < 7; i++) {
        serve(last(COORD_ACTION_ASSIGNMENT, LOADER_A));
        lost(WORKER_A, true);
        disk();
        join(WORKER_A);
        disk();
        formed(WORKER_A, 0);
        assert_state(COORD_VALIDATING);
    }
    serve(last(COORD_ACTION_ASSIGNMENT, LOADER_A));
    disk();
    assert_state(COORD_LEAVING);
}

static void a_configuration_out_of_range_is_named(void **state)
{
    struct bl_error err = {0};
    config.plan.window = 0;
    assert_int_equal(coord_new(&config, &c, &err), -BL_ECONFIG);
    assert_string_equal(err.key, "window");
    assert_string_equal(err.text, "expected 1 to 256 but found 0");
}

static void beat(uint64_t peer, uint64_t progress)
{
    struct coord_event e = from(peer, COORD_EVENT_BEAT);
    e.beat.progress = progress;
    feed(e);
}

static void who_loads_for_long_forms_at_the_first_try(void **state)
{
    config.workers_wanted = 2;
    start();
    disk();
    join(WORKER_A);
    join(WORKER_B);
    disk();
    for (int i = 0; i < 100; i++) { /* B has long been done and waits for A */
        beat(WORKER_A, 1 + (uint64_t)i);
        beat(WORKER_B, 0);
        tick(100);
        assert_state(COORD_FORMING);
    }
    formed(WORKER_A, 0);
    formed(WORKER_B, 0);
    assert_state(COORD_SAVING);
    assert_int_equal(coord_status(c).generation, 1);
}

static void who_opens_for_long_is_waited_for_and_who_gets_stuck_is_named(void **state)
{
    config.workers_wanted = 2;
    start();
    disk();
    join(WORKER_A);
    hello(WORKER_B);
    for (int i = 0; i < 100; i++) {
        beat(WORKER_A, 0);
        beat(WORKER_B, 1 + (uint64_t)i);
        tick(100);
        assert_state(COORD_GATHERING);
    }
    for (int i = 0; i < 121; i++) {
        beat(WORKER_A, 0);
        beat(WORKER_B, 0);
        tick(100);
    }
    assert_string_equal(last_note(COORD_NOTE_STALLED, WORKER_B)->note.text, "to open its models");
    assert_state(COORD_PLANNING);
}

/* Ticks with Beats of everybody but no progress, until the worker is given up; how long that took. */
static uint32_t hung_for_ms(const char *text)
{
    uint32_t ms = 0;
    for (; coord_status(c).state == COORD_TRAINING; ms += 100) {
        assert_true(ms < 100000);
        beat(WORKER_A, 0);
        beat(LOADER_A, 0);
        tick(100);
    }
    assert_string_equal(last_note(COORD_NOTE_STALLED, WORKER_A)->note.text, text);
    return ms;
}

static void who_computes_for_long_keeps_its_generation_and_who_gets_stuck_loses_it(void **state)
{
    begin_alone();
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, all_places);
    disk();
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 1, 0);
    for (int i = 0; i < 200; i++) {
        beat(WORKER_A, 1 + (uint64_t)i);
        beat(LOADER_A, 0);
        tick(100);
        assert_state(COORD_TRAINING);
    }
    hung_for_ms("to compute a micro-batch");
    assert_state(COORD_GATHERING);
}

/* How long a worker that hangs in step 1 is waited for, whose micro-batches of step 0 took it so long. */
static uint32_t hung_after_micro_batches_of(uint32_t ms)
{
    begin_alone();
    serve_step_taking(BL_KIND_TRAIN, 0, ms);
    report(WORKER_A, 0, all_places);
    disk();
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 1, 0);
    return hung_for_ms("to compute a micro-batch");
}

static void a_hung_worker_is_not_waited_for(void **state)
{
    assert_in_range(hung_after_micro_batches_of(10), 3 * 600, 3 * 600 + 8 * 10 + 200);
}

static void a_slow_worker_is_waited_for_as_long_as_it_has_shown_to_need(void **state)
{
    assert_in_range(hung_after_micro_batches_of(500), 3 * 600 + 8 * 500, 3 * 600 + 8 * 500 + 200);
}

static void beat_looking(uint64_t peer, uint64_t looks)
{
    struct coord_event e = from(peer, COORD_EVENT_BEAT);
    e.beat.looks = looks;
    feed(e);
}

/* Both ranks are in step 1's all-reduce; B looks for A's bytes, and A does or does not. How long until something happens. */
static uint32_t reduce_waits_for_ms(bool a_looks)
{
    uint32_t ms = 0;
    begin_pair();
    serve_step_taking(BL_KIND_TRAIN, 0, 10);
    report(WORKER_A, 0, first_half);
    report(WORKER_B, 0, second_half);
    disk();
    serve_step(BL_KIND_TRAIN, 1);
    for (; coord_status(c).state == COORD_TRAINING; ms += 100) {
        assert_true(ms < 100000);
        beat_looking(WORKER_A, a_looks ? 1 + ms : 0);
        beat_looking(WORKER_B, 1 + ms);
        beat(LOADER_A, 0);
        tick(100);
    }
    return ms;
}

/* M13. */
static void a_released_worker_leaves_at_a_step_boundary(void **state)
{
    begin_pair();
    feed((struct coord_event){.type = COORD_EVENT_RELEASE, .peer = WORKER_B});
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, first_half);
    report(WORKER_B, 0, second_half);
    assert_int_equal(count(COORD_ACTION_STOP, 0), 0);
    disk();
    assert_state(COORD_ENDING);
    ended(WORKER_A, 1, 1);
    ended(WORKER_B, 1, 1);
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_B)->stop.code, 0);
    disk();
    assert_state(COORD_FORMING);
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.world, 1);
}

static void the_last_one_with_the_runs_state_is_not_let_go(void **state)
{
    begin_alone();
    feed((struct coord_event){.type = COORD_EVENT_RELEASE, .peer = WORKER_A});
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, all_places);
    disk();
    assert_state(COORD_TRAINING);
    assert_int_equal(count(COORD_ACTION_STOP, 0), 0);
}

static void who_hangs_inside_the_all_reduce_is_named_and_lost(void **state)
{
    assert_in_range(reduce_waits_for_ms(false), 3 * 600, 3 * 600 + 8 * 10 * 2 + 300);
    assert_string_equal(last_note(COORD_NOTE_STALLED, WORKER_A)->note.text,
                        "to exchange gradients in the all-reduce");
    assert_int_equal(count(COORD_ACTION_FORGET, WORKER_A), 1);
    assert_int_equal(count(COORD_ACTION_FORGET, WORKER_B), 0);
}

static void an_all_reduce_in_which_everybody_waits_costs_nobody_its_place(void **state)
{
    reduce_waits_for_ms(true);
    assert_state(COORD_ENDING);
    assert_int_equal(count(COORD_ACTION_FORGET, 0), 0);
}

static void an_assignment_is_left_to_a_loader_that_gets_on(void **state)
{
    begin_alone();
    join(LOADER_B);
    log_count = 0;
    for (int i = 0; i < 100; i++) {
        beat(WORKER_A, 0);
        beat(LOADER_A, 1 + (uint64_t)i);
        beat(LOADER_B, 0);
        tick(100);
    }
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, 0), 0);
    const struct coord_action *note = last_note(COORD_NOTE_WAITING, LOADER_A);
    assert_string_equal(note->note.text, "to make and ship a micro-batch to");
    assert_int_equal(note->note.other_link, 100 + WORKER_A);
}

static void when_no_loader_has_room_the_one_that_does_not_get_on_is_named(void **state)
{
    loader_capacity = 2;
    begin_alone();
    for (int i = 0; i < 100; i++) {
        beat(WORKER_A, 0);
        beat(LOADER_A, 0);
        tick(100);
    }
    assert_string_equal(last_note(COORD_NOTE_WAITING, LOADER_A)->note.text,
                        "to make what it was assigned before");
}

static void what_is_shipped_and_does_not_come_goes_to_another_loader(void **state)
{
    begin_alone();
    join(LOADER_B);
    micro_batch_event(LOADER_A, COORD_EVENT_COMPLETED, BL_KIND_TRAIN, 0, 0);
    log_count = 0;
    for (int i = 0; i < 7; i++) {
        beat(WORKER_A, 0);
        beat(LOADER_A, 1 + (uint64_t)i); /* it makes progress on something else */
        beat(LOADER_B, 0);
        tick(100);
    }
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, LOADER_B), 1);
    assert_int_equal(last(COORD_ACTION_ASSIGNMENT, LOADER_B)->assignment.micro_batch, 0);
    assert_string_equal(last_note(COORD_NOTE_REVOKED, LOADER_A)->note.text,
                        "says that it shipped what has not come to");
}

/* LOADER_A has made four steps at once each, and has begun the fifth when LOADER_B comes. */
static void begin_with_a_late_loader(void)
{
    begin_alone();
    for (uint64_t step = 0; step < 4; step++)
        train_alone(step);
    join(LOADER_B);
    log_count = 0;
}

/* Time passes; A says that it gets on. */
static void wait_for_late(int ticks)
{
    for (int i = 0; i < ticks; i++) {
        beat(WORKER_A, 0);
        beat(LOADER_A, 1000 + (uint64_t)now_ms);
        beat(LOADER_B, 0);
        tick(10);
    }
}

static void what_a_worker_waits_for_and_is_late_is_made_by_a_second_loader_too(void **state)
{
    begin_with_a_late_loader();
    wait_for_late(9);
    assert_int_equal(count(COORD_ACTION_ASSIGNMENT, LOADER_B),
                     1); /* what it waits for, and no more */
    assert_int_equal(last(COORD_ACTION_ASSIGNMENT, LOADER_B)->assignment.micro_batch, 0);
    assert_int_equal(coord_status(c).hedges, 1);
    const struct coord_action *note = last_note(COORD_NOTE_HEDGED, LOADER_A);
    assert_string_equal(note->note.text, "is late with a micro-batch for");
    assert_int_equal(note->note.other_link, 100 + WORKER_A);
    assert_int_equal(count(COORD_ACTION_END, 0), 0);
}

static void the_first_of_two_deliveries_counts_and_both_loaders_get_their_room_back(void **state)
{
    begin_with_a_late_loader();
    wait_for_late(9);
    struct coord_member before, after;
    coord_member(c, 100 + LOADER_B, &before);
    micro_batch_event(LOADER_B, COORD_EVENT_COMPLETED, BL_KIND_TRAIN, 4, 0);
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 4, 0);
    micro_batch_event(WORKER_A, COORD_EVENT_CONSUMED, BL_KIND_TRAIN, 4, 0);
    coord_member(c, 100 + LOADER_A, &before);
    micro_batch_event(LOADER_A, COORD_EVENT_COMPLETED, BL_KIND_TRAIN, 4, 0);
    coord_member(c, 100 + LOADER_A, &after);
    assert_int_equal(after.leases, before.leases - 1);
    assert_int_equal(count(COORD_ACTION_VIOLATION, 0), 0);
    for (uint32_t i = 0; i < log_count; i++)
        assert_true(log_list[i].type != COORD_ACTION_NOTE ||
                    log_list[i].note.kind != COORD_NOTE_REVOKED);
}

static void the_second_loader_goes_on_alone_when_the_first_is_lost(void **state)
{
    begin_with_a_late_loader();
    wait_for_late(9);
    log_count = 0;
    lost(LOADER_A, true);
    for (uint32_t i = 0; i < log_count;
         i++) /* the others go to B; what it has does not go there again */
        assert_false(log_list[i].type == COORD_ACTION_ASSIGNMENT &&
                     log_list[i].assignment.step == 4 && log_list[i].assignment.micro_batch == 0);
    micro_batch_event(LOADER_B, COORD_EVENT_COMPLETED, BL_KIND_TRAIN, 4, 0);
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 4, 0);
    assert_int_equal(count(COORD_ACTION_VIOLATION, 0), 0);
}

static void a_second_loader_that_is_lost_leaves_the_first_what_it_has(void **state)
{
    begin_with_a_late_loader();
    wait_for_late(9);
    lost(LOADER_B, true);
    assert_int_equal(coord_status(c).leases_out > 0, 1);
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_TRAIN, 4, 0);
    assert_int_equal(count(COORD_ACTION_VIOLATION, 0), 0);
}

static void a_loader_that_never_ships_gets_no_more_assignments_for_a_while(void **state)
{
    begin_alone();
    for (int i = 0; i < 60; i++) {
        beat(WORKER_A, 0);
        beat(LOADER_A, 0);
        tick(100);
    }
    assert_true(last_note(COORD_NOTE_RESTING, LOADER_A)->note.ms >= 600);
    assert_true(count(COORD_ACTION_ASSIGNMENT, LOADER_A) > 2); /* nobody else is there … */
    join(LOADER_B);
    log_count = 0;
    for (int i = 0; i < 12; i++) {
        beat(WORKER_A, 0);
        beat(LOADER_A, 0);
        beat(LOADER_B, 0);
        tick(100);
        assert_int_equal(count(COORD_ACTION_ASSIGNMENT, LOADER_A), 0); /* … and now somebody is */
    }
}

static void broken(uint64_t peer, uint32_t unreached_rank)
{
    struct coord_event e = from(peer, COORD_EVENT_BROKEN);
    e.broken.unreached = &unreached_rank;
    e.broken.unreached_count = 1;
    feed(e);
}

static void a_newcomer_that_nobody_can_reach_is_left_out_and_named(void **state)
{
    begin_pair();
    join(WORKER_C);
    feed(from(WORKER_A, COORD_EVENT_BROKEN));
    ended(WORKER_A, 0, 1);
    ended(WORKER_B, 0, 1);
    tick(100);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_C)->form.world, 3);
    broken(WORKER_A, last(COORD_ACTION_FORM, WORKER_C)->form.rank);
    assert_int_equal(count(COORD_ACTION_NOTE, WORKER_C), 1);
    assert_int_equal(last_note(COORD_NOTE_UNFORMED, WORKER_A)->note.other_link, 100 + WORKER_C);
    last_note(COORD_NOTE_LEFT_OUT, WORKER_C);
    ended(WORKER_A, 0, 1);
    ended(WORKER_B, 0, 1);
    ended(WORKER_C, -1, 0);
    log_count = 0;
    tick(100);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.world, 2);
    assert_int_equal(count(COORD_ACTION_FORM, WORKER_C), 0);
    formed(WORKER_A, 0);
    formed(WORKER_B, 0);
    assert_state(COORD_TRAINING); /* and continues: C is no reason to end it … */
    for (int i = 0; i < 65; i++) {
        beat(WORKER_A, (uint64_t)i);
        beat(WORKER_B, (uint64_t)i);
        beat(WORKER_C, 0);
        beat(LOADER_A, (uint64_t)i);
        tick(100);
    }
    serve_step(BL_KIND_TRAIN, 0);
    report(WORKER_A, 0, first_half);
    report(WORKER_B, 0, second_half);
    disk();
    assert_state(COORD_ENDING); /* … for a while */
}

/* The newest generation is not formed in time by any member; all of them end it. Of three that had a state, two have it. */
static void never_formed(const uint64_t *peers, uint32_t peer_count)
{
    assert_state(COORD_FORMING);
    for (int i = 0; i < 40 && coord_status(c).state == COORD_FORMING; i++) {
        for (uint32_t k = 0; k < peer_count; k++)
            beat(peers[k], 0);
        tick(100);
    }
    for (uint32_t k = 0; k < peer_count; k++)
        if (count(COORD_ACTION_FORM, peers[k]))
            ended(peers[k], k < 2 ? 0 : -1, k < 2);
    log_count = 0;
    tick(100);
    disk();
}

static void where_one_alone_may_be_left_out_each_is_tried_without(void **state)
{
    config.workers_min = config.workers_wanted = 3;
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    join(WORKER_B);
    join(WORKER_C);
    disk();
    formed(WORKER_A, 0);
    formed(WORKER_B, 0);
    formed(WORKER_C, 0);
    lost(WORKER_C, true);
    const uint64_t peers[] = {WORKER_A, WORKER_B, WORKER_C + 1, WORKER_C + 2};
    join(peers[2]);
    join(peers[3]);
    ended(WORKER_A, 0, 1);
    ended(WORKER_B, 0, 1);
    log_count = 0;
    tick(100);
    disk();
    assert_int_equal(count(COORD_ACTION_FORM, 0), 4);
    never_formed(peers, 4);
    assert_int_equal(count(COORD_ACTION_FORM, 0), 3);
    assert_int_equal(count(COORD_ACTION_FORM, peers[3]),
                     0); /* the newcomer of two that may be the cause */
    never_formed(peers, 4);
    assert_int_equal(count(COORD_ACTION_FORM, 0), 3);
    assert_int_equal(count(COORD_ACTION_FORM, peers[2]), 0); /* it was the other one */
}

static void a_rank_that_lies_about_its_state_is_dropped(void **state)
{
    begin_pair();
    feed(from(WORKER_A, COORD_EVENT_BROKEN));
    ended(WORKER_A, 0, 1);
    ended(WORKER_B, 0, 1);
    tick(100);
    disk();
    uint64_t source = last(COORD_ACTION_FORM, WORKER_A)->form.source ==
                              (int32_t)last(COORD_ACTION_FORM, WORKER_A)->form.rank
                          ? WORKER_A
                          : WORKER_B;
    uint64_t liar = source == WORKER_A ? WORKER_B : WORKER_A;
    formed(source, 0);
    struct coord_event e = from(liar, COORD_EVENT_FORMED);
    e.formed.digest = state_of(9);
    feed(e);
    assert_int_equal(count(COORD_ACTION_REFUSE, liar), 1);
    assert_state(COORD_ENDING);
    ended(source, 0, 2);
    disk();
    assert_int_equal(last(COORD_ACTION_FORM, source)->form.world, 1);
}

static void a_validation_that_is_never_sent_drops_the_worker(void **state)
{
    config.plan.validate_samples = 4;
    config.plan.validate_at_start = true;
    begin_alone_validating();
    const struct coord_action *a = last(COORD_ACTION_ASSIGNMENT, LOADER_A);
    uint32_t micro_batch = a->assignment.micro_batch;
    micro_batch_event(WORKER_A, COORD_EVENT_RECEIVED, BL_KIND_VALIDATE, 0, micro_batch);
    micro_batch_event(WORKER_A, COORD_EVENT_CONSUMED, BL_KIND_VALIDATE, 0, micro_batch);
    assert_string_equal(last(COORD_ACTION_REFUSE, WORKER_A)->refuse.text,
                        "Consumed before its Validation");
}

static void a_run_that_always_goes_back_to_the_same_step_stops(void **state)
{
    begin_alone();
    for (int i = 1; i <= 3; i++) {
        train_alone(0);
        lost(WORKER_A, true);
        hello(WORKER_A);
        ended(WORKER_A, -1, 0);
        if (i == 3)
            break;
        struct coord_event e = {.type = COORD_EVENT_VERIFIED};
        e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
        e.verified.ok = true;
        feed(e);
        log_count = 0;
        disk();
        formed(WORKER_A, 0);
    }
    struct coord_event e = {.type = COORD_EVENT_VERIFIED};
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    e.verified.ok = true;
    feed(e);
    assert_state(COORD_LEAVING);
    disk();
    assert_int_equal(last(COORD_ACTION_STOP, WORKER_A)->stop.code, BL_EPEER);
}

/* Everything that WORKER_A did is lost again and again; how it went is the caller's. Ends when the checkpoint is to be verified. */
static void go_back(void (*lose)(void), int times)
{
    begin_alone();
    for (int i = 1; i <= times; i++) {
        train_alone(0);
        lose();
        hello(WORKER_A);
        ended(WORKER_A, -1, 0);
        for (int k = 0; k < 14 && count(COORD_ACTION_VERIFY, 0) == 0;
             k++) { /* for its state, 2 P */
            beat(WORKER_A, 0);
            beat(LOADER_A, 0);
            tick(150);
        }
        struct coord_event e = {.type = COORD_EVENT_VERIFIED};
        e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
        e.verified.ok = true;
        feed(e);
        if (coord_state_now(c) == COORD_LEAVING)
            return;
        log_count = 0;
        disk();
        formed(WORKER_A, 0);
    }
}

static void lose_a_by_silence(void)
{
    for (int i = 0; i < 5; i++) {
        beat(LOADER_A, 0);
        tick(150);
    }
}

static void lose_a_and_see_it_again(void)
{
    lost(WORKER_A, false);
}

static void a_run_whose_workers_fall_silent_or_come_again_goes_on(void **state)
{
    go_back(lose_a_by_silence, 8);
    assert_state(COORD_TRAINING);
    coord_free(&c);
    begin(state);
    go_back(lose_a_and_see_it_again, 8);
    assert_state(COORD_TRAINING);
}

static void any_number_of_damaged_checkpoints_can_be_passed_over(void **state)
{
    enum { DAMAGED = 300 };
    config.plan.steps = 1000;
    config.members_gone = true;
    start();
    disk();
    coord_free(&c);
    struct bl_error err = {0};
    assert_ok(coord_new(&config, &c, &err), err);
    assert_ok(coord_replay(c, &records[0], &err), err);
    struct coord_record r = {.type = COORD_RECORD_GENERATION, .generation = 1, .world = 1};
    assert_ok(coord_replay(c, &r, &err), err);
    for (uint64_t step = 0; step <= DAMAGED; step++) {
        r = (struct coord_record){.type = COORD_RECORD_CHECKPOINT, .generation = 1, .step = step};
        assert_ok(coord_replay(c, &r, &err), err);
        r = (struct coord_record){.type = COORD_RECORD_COMMIT, .generation = 1, .step = step};
        assert_ok(coord_replay(c, &r, &err), err);
    }
    log_count = 0;
    keep(coord_start(c, now_ms));
    join(WORKER_A);
    for (int i = 0; i < 2 * DAMAGED && coord_status(c).state != COORD_FORMING; i++) {
        beat(WORKER_A, (uint64_t)i);
        tick(1);
        if (coord_status(c).state == COORD_CHECKING && count(COORD_ACTION_VERIFY, 0) > 0) {
            struct coord_event e = {.type = COORD_EVENT_VERIFIED};
            e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
            e.verified.ok = e.verified.checkpoint.step == 0;
            log_count = 0;
            feed(e);
        }
        disk();
    }
    assert_int_equal(last(COORD_ACTION_FORM, WORKER_A)->form.checkpoint.step, 0);
    assert_int_equal(coord_ledger(c)->checkpoint_count, 1);
}

static void old_checkpoints_leave_the_journal_before_their_folders_go(void **state)
{
    begin_alone();
    for (uint64_t step = 0; step < 5; step++) {
        train_alone(step);
        if (step == 1 || step == 3)
            save_well();
    }
    assert_int_equal(coord_ledger(c)->checkpoint_count, 3);
    struct coord_event e = {.type = COORD_EVENT_PRUNE};
    e.prune.keep = 1;
    e.prune.and_keep = coord_ledger(c)->checkpoints[1];
    feed(e);
    assert_int_equal(count(COORD_ACTION_REMOVED, 0), 0);
    disk();
    assert_int_equal(last(COORD_ACTION_REMOVED, 0)->checkpoint.step, 0);
    assert_int_equal(count(COORD_ACTION_REMOVED, 0), 1);
    assert_int_equal(coord_ledger(c)->checkpoint_count, 2);
}

static void a_pulse_carries_no_number_that_is_not_on_disk(void **state)
{
    start();
    disk();
    join(LOADER_A);
    join(WORKER_A);
    assert_state(COORD_PLANNING);
    tick(100);
    assert_int_equal(last(COORD_ACTION_PULSE, 0)->generation, 0);
    assert_int_equal(coord_status(c).generation, 0);
    disk();
    tick(100);
    assert_int_equal(last(COORD_ACTION_PULSE, 0)->generation, 1);
}

/* Completed of an assignment whose first image this loader cannot read. */
static void withhold(const struct coord_action *assignment, bool withheld)
{
    struct coord_action a = *assignment;
    uint64_t samples[2];
    uint32_t epochs[2];
    coord_assignment_samples(c, &a, samples, epochs);
    struct coord_void unreadable = {0, samples[0], true, false};
    struct coord_event e = from(a.peer, COORD_EVENT_COMPLETED);
    e.micro_batch.kind = a.assignment.kind;
    e.micro_batch.step = a.assignment.step;
    e.micro_batch.micro_batch = a.assignment.micro_batch;
    e.micro_batch.withheld = withheld;
    e.micro_batch.voids = &unreadable;
    e.micro_batch.void_count = 1;
    feed(e);
}

static uint64_t first_sample(const struct coord_action *assignment)
{
    uint64_t samples[2];
    uint32_t epochs[2];
    coord_assignment_samples(c, assignment, samples, epochs);
    return samples[0];
}

static void an_image_that_one_loader_cannot_read_is_asked_of_another(void **state)
{
    begin_alone();
    join(LOADER_B);
    struct coord_action a = *last(COORD_ACTION_ASSIGNMENT, LOADER_A);
    log_count = 0;
    withhold(&a, true);
    assert_string_equal(last_note(COORD_NOTE_REVOKED, LOADER_A)->note.text,
                        "cannot read an image for");
    assert_int_equal(count(COORD_ACTION_BAD_SAMPLE, 0), 0);
    assert_false(coord_is_missing(c, first_sample(&a)));
    tick(100);
    assert_int_equal(last(COORD_ACTION_ASSIGNMENT, LOADER_B)->assignment.micro_batch,
                     a.assignment.micro_batch);
    a = *last(COORD_ACTION_ASSIGNMENT, LOADER_B);
    withhold(&a, true); /* so it is: void everywhere */
    assert_true(coord_is_missing(c, first_sample(&a)));
    log_count = 0;
    tick(100);
    a = *last(COORD_ACTION_ASSIGNMENT, 0);
    withhold(&a, false);
    assert_int_equal(count(COORD_ACTION_BAD_SAMPLE, 0), 1);
    assert_int_equal(count(COORD_ACTION_VIOLATION, 0), 0);
}

static void a_loader_that_is_alone_confirms_its_own_word_after_a_pause(void **state)
{
    begin_alone();
    struct coord_action a = *last(COORD_ACTION_ASSIGNMENT, LOADER_A);
    log_count = 0;
    withhold(&a, true);
    for (int i = 0; i < 6; i++) {
        for (uint32_t k = 0; k < log_count; k++)
            assert_false(log_list[k].type == COORD_ACTION_ASSIGNMENT &&
                         log_list[k].assignment.micro_batch == a.assignment.micro_batch);
        beat(WORKER_A, (uint64_t)i + 1);
        beat(LOADER_A, (uint64_t)i + 1);
        tick(100);
    }
    withhold(last(COORD_ACTION_ASSIGNMENT, LOADER_A), true);
    assert_true(coord_is_missing(c, first_sample(&a)));
}

/* The loader's word, and the same once more P later. */
static uint64_t withhold_twice(uint64_t other)
{
    struct coord_action a = *last(COORD_ACTION_ASSIGNMENT, LOADER_A);
    withhold(&a, true);
    for (int i = 0; i < 6; i++) {
        beat(WORKER_A, (uint64_t)i + 1);
        beat(LOADER_A, (uint64_t)i + 1);
        beat(other, (uint64_t)i + 1);
        tick(100);
    }
    return first_sample(&a);
}

static void a_loader_is_not_alone_while_another_opens_the_data(void **state)
{
    begin_alone();
    hello(LOADER_B);
    uint64_t sample = withhold_twice(LOADER_B);
    withhold(last(COORD_ACTION_ASSIGNMENT, LOADER_A), true);
    assert_false(coord_is_missing(c, sample));
}

static void a_loader_that_has_just_become_alone_does_not_confirm_its_own_word(void **state)
{
    begin_alone();
    hello(LOADER_B);
    uint64_t sample = withhold_twice(LOADER_B);
    lost(LOADER_B, true);
    withhold(last(COORD_ACTION_ASSIGNMENT, LOADER_A), true);
    assert_false(coord_is_missing(c, sample));
    for (int i = 0; i < 7; i++) {
        beat(WORKER_A, (uint64_t)i + 7);
        beat(LOADER_A, (uint64_t)i + 7);
        tick(100);
    }
    withhold(last(COORD_ACTION_ASSIGNMENT, LOADER_A), true);
    assert_true(coord_is_missing(c, sample));
}

static void a_void_slot_that_nobody_confirmed_is_not_trained_with(void **state)
{
    begin_alone();
    withhold(last(COORD_ACTION_ASSIGNMENT, LOADER_A), false);
    assert_string_equal(last(COORD_ACTION_REFUSE, LOADER_A)->refuse.text,
                        "a void slot that no other loader has confirmed");
    assert_state(COORD_ENDING);
}

static void a_loader_that_does_not_see_the_images_is_refused(void **state)
{
    start();
    disk();
    hello(LOADER_A);
    struct coord_event e = from(LOADER_A, COORD_EVENT_ENDED);
    e.ended.applied_step = -1;
    e.ended.probes = 8;
    e.ended.probes_good = 3;
    feed(e);
    assert_string_equal(last(COORD_ACTION_REFUSE, LOADER_A)->refuse.text,
                        "it does not see this run's images");
    assert_int_equal(coord_status(c).loaders, 0);
    hello(LOADER_B);
    e = from(LOADER_B, COORD_EVENT_ENDED);
    e.ended.applied_step = -1;
    e.ended.probes = 8;
    e.ended.probes_good = 7; /* an image may well be gone */
    feed(e);
    assert_int_equal(coord_status(c).loaders, 1);
}

static void set_key_to_most(const char *path, void *field, size_t size)
{
    int key = config_find_key(path);
    assert_true(key >= 0);
    uint64_t most = (uint64_t)config_key_at((size_t)key)->max;
    memcpy(field, &most, size);
}

/* A configuration that check lets pass must not fail when training begins. */
static void the_rules_take_all_that_the_configuration_allows(void **state)
{
    struct bl_error err = {0};
    set_key_to_most("cluster.window", &config.plan.window, sizeof config.plan.window);
    set_key_to_most("cluster.steps_ahead", &config.plan.steps_ahead,
                    sizeof config.plan.steps_ahead);
    set_key_to_most("train.steps", &config.plan.steps, sizeof config.plan.steps);
    set_key_to_most("train.global_batch", &config.plan.batch, sizeof config.plan.batch);
    set_key_to_most("train.micro_batch", &config.plan.micro_batch, sizeof config.plan.micro_batch);
    config.patience_ms = BL_PATIENCE_S_MAX * 1000u;
    assert_ok(coord_new(&config, &c, &err), err);
    uint64_t keep_last, capacity;
    set_key_to_most("train.keep_last", &keep_last, sizeof keep_last);
    assert_true(keep_last <= BL_CHECKPOINTS_KEPT_MAX);
    set_key_to_most("cluster.loader_capacity", &capacity, sizeof capacity);
    assert_int_equal(capacity, BL_LOADER_CAPACITY_MAX);
}

static void lose_worker(uint64_t peer, bool killed)
{
    struct coord_event e = {.type = COORD_EVENT_LOST, .peer = peer};
    e.lost.dead = true;
    e.lost.killed = killed;
    feed(e);
}

/* A new one, on the checkpoint registered last. */
static void form_again(uint64_t peer)
{
    join(peer);
    struct coord_event e = {.type = COORD_EVENT_VERIFIED};
    e.verified.checkpoint = last(COORD_ACTION_VERIFY, 0)->checkpoint;
    e.verified.ok = true;
    feed(e);
    disk();
    if (coord_status(c).state == COORD_FORMING)
        formed(peer, 0);
}

static void rewinds_that_get_no_further_stop_the_run(void **state)
{
    begin_alone();
    for (uint64_t i = 0; i < 2; i++) {
        lose_worker(WORKER_A + i, false);
        form_again(WORKER_A + i + 1);
        assert_state(COORD_TRAINING);
    }
    lose_worker(WORKER_A + 2, false);
    form_again(WORKER_A + 3);
    assert_state(COORD_LEAVING);
    feed(from(LOADER_A, COORD_EVENT_GOODBYE));
    feed(from(WORKER_A + 3, COORD_EVENT_GOODBYE));
    assert_string_equal(last(COORD_ACTION_EXIT, 0)->exit.text,
                        "the run went back to one step again and again and got no further");
}

static void a_worker_that_somebody_kills_again_and_again_does_not_stop_the_run(void **state)
{
    begin_alone();
    for (uint64_t i = 0; i < 9; i++) {
        lose_worker(WORKER_A + i, true);
        form_again(WORKER_A + i + 1);
        assert_state(COORD_TRAINING);
    }
}

/* One of each: what the killed one lost with it would have been the other's to keep. */
static void a_kill_does_not_excuse_another_workers_failure(void **state)
{
    begin_alone();
    for (uint64_t i = 0; i < 3; i++) {
        uint64_t member = WORKER_A + 2 * i, opening = member + 1;
        assert_state(COORD_TRAINING);
        hello(opening);
        lose_worker(opening, false);
        lose_worker(member, true);
        form_again(member + 2);
    }
    assert_state(COORD_LEAVING);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
UNIT_MAIN(
    CASE(a_run_goes_from_hello_to_goodbye), CASE(the_last_one_with_the_runs_state_is_not_let_go),
    CASE(a_released_worker_leaves_at_a_step_boundary), CASE(nothing_is_said_before_it_is_on_disk),
    CASE(the_first_generation_waits_for_those_wanted_but_not_for_ever),
    CASE(assignments_keep_to_window_room_and_steps_ahead), CASE(two_ranks_are_served_alike),
    CASE(an_assignment_names_its_samples), CASE(a_lost_loaders_assignments_go_to_another),
    CASE(an_assignment_that_takes_too_long_goes_to_another),
    CASE(a_record_counts_only_while_the_epoch_is_its_own),
    CASE(a_peer_of_a_newer_epoch_is_not_welcomed),
    CASE(a_step_counts_when_all_ranks_have_reported_it), CASE(only_a_report_that_counts_is_kept),
    CASE(other_samples_or_batch_indices_than_ordered_stop_the_run),
    CASE(a_survivor_carries_the_step_that_it_applied),
    CASE(a_survivor_that_is_busy_for_long_is_waited_for_while_it_beats),
    CASE(a_step_that_no_survivor_applied_is_done_again),
    CASE(a_state_from_before_the_last_generation_is_no_survivor),
    CASE(different_states_of_one_step_stop_the_run),
    CASE(a_rank_that_formed_with_another_state_stops_the_run),
    CASE(who_sees_the_run_folder_is_rank_0_and_reads_for_all),
    CASE(where_all_see_the_run_folder_each_reads), CASE(where_nobody_sees_the_run_folder_one_reads),
    CASE(the_source_keeps_its_state_under_another_rank),
    CASE(who_hangs_inside_the_all_reduce_is_named_and_lost),
    CASE(a_released_worker_leaves_at_a_step_boundary),
    CASE(the_last_one_with_the_runs_state_is_not_let_go),
    CASE(an_all_reduce_in_which_everybody_waits_costs_nobody_its_place),
    CASE(rewinds_that_get_no_further_stop_the_run),
    CASE(a_worker_that_somebody_kills_again_and_again_does_not_stop_the_run),
    CASE(a_kill_does_not_excuse_another_workers_failure), CASE(a_newcomer_joins_at_a_step_boundary),
    CASE(the_source_is_a_member_even_when_there_are_more_workers_than_micro_batches),
    CASE(with_no_survivor_the_run_goes_back_to_the_last_whole_checkpoint),
    CASE(a_worker_that_may_come_back_is_waited_for),
    CASE(a_run_whose_checkpoints_are_all_damaged_stops),
    CASE(damaged_checkpoints_leave_the_journal_once_an_older_one_is_whole),
    CASE(a_restarted_coordinator_goes_on_from_its_journal),
    CASE(the_journal_of_another_run_is_refused), CASE(a_finished_run_has_nothing_to_do),
    CASE(more_steps_done_than_asked_for_are_refused),
    CASE(a_stop_before_anything_began_ends_at_once),
    CASE(a_checkpoint_asked_for_is_written_between_two_steps),
    CASE(a_checkpoint_asked_for_that_cannot_be_written_is_answered_and_training_goes_on),
    CASE(a_checkpoint_asked_for_while_there_is_no_worker_comes_with_the_next_generation),
    CASE(a_stop_finishes_the_steps_begun_and_saves),
    CASE(a_stop_that_cannot_finish_its_steps_saves_what_there_is),
    CASE(a_peer_that_does_not_leave_is_left), CASE(samples_that_a_rule_leaves_out_are_not_bad),
    CASE(too_many_bad_samples_stop_the_run_with_a_checkpoint),
    CASE(a_void_slot_with_another_sample_drops_the_loader), CASE(silent_peers_are_lost),
    CASE(a_second_connection_of_a_member_ends_the_generation),
    CASE(messages_that_no_honest_peer_sends_drop_the_peer),
    CASE(a_worker_that_does_not_answer_end_is_named_and_lost),
    CASE(a_checkpoint_that_is_needed_is_tried_three_times),
    CASE(a_generation_that_is_not_formed_in_time_ends),
    CASE(an_interrupted_validation_goes_on_where_it_was),
    CASE(embedding_makes_every_shard_once_and_ends), CASE(a_shard_that_is_there_is_not_made),
    CASE(embedding_that_is_complete_ends_at_once), CASE(a_newcomer_embeds_with_the_others_at_once),
    CASE(workers_that_die_after_each_shard_do_not_end_the_run),
    CASE(a_configuration_out_of_range_is_named), CASE(who_loads_for_long_forms_at_the_first_try),
    CASE(who_opens_for_long_is_waited_for_and_who_gets_stuck_is_named),
    CASE(who_computes_for_long_keeps_its_generation_and_who_gets_stuck_loses_it),
    CASE(a_hung_worker_is_not_waited_for),
    CASE(a_slow_worker_is_waited_for_as_long_as_it_has_shown_to_need),
    CASE(an_assignment_is_left_to_a_loader_that_gets_on),
    CASE(when_no_loader_has_room_the_one_that_does_not_get_on_is_named),
    CASE(what_is_shipped_and_does_not_come_goes_to_another_loader),
    CASE(what_a_worker_waits_for_and_is_late_is_made_by_a_second_loader_too),
    CASE(the_first_of_two_deliveries_counts_and_both_loaders_get_their_room_back),
    CASE(the_second_loader_goes_on_alone_when_the_first_is_lost),
    CASE(a_second_loader_that_is_lost_leaves_the_first_what_it_has),
    CASE(a_loader_that_never_ships_gets_no_more_assignments_for_a_while),
    CASE(a_newcomer_that_nobody_can_reach_is_left_out_and_named),
    CASE(where_one_alone_may_be_left_out_each_is_tried_without),
    CASE(a_rank_that_lies_about_its_state_is_dropped),
    CASE(a_validation_that_is_never_sent_drops_the_worker),
    CASE(a_run_that_always_goes_back_to_the_same_step_stops),
    CASE(a_run_whose_workers_fall_silent_or_come_again_goes_on),
    CASE(any_number_of_damaged_checkpoints_can_be_passed_over),
    CASE(old_checkpoints_leave_the_journal_before_their_folders_go),
    CASE(a_pulse_carries_no_number_that_is_not_on_disk),
    CASE(an_image_that_one_loader_cannot_read_is_asked_of_another),
    CASE(a_loader_that_is_alone_confirms_its_own_word_after_a_pause),
    CASE(a_loader_is_not_alone_while_another_opens_the_data),
    CASE(a_loader_that_has_just_become_alone_does_not_confirm_its_own_word),
    CASE(a_void_slot_that_nobody_confirmed_is_not_trained_with),
    CASE(a_loader_that_does_not_see_the_images_is_refused),
    CASE(the_rules_take_all_that_the_configuration_allows))
