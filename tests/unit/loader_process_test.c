/* tests/unit/loader_process_test.c - the real loader process in the cluster of play.h. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loader/sample.h"
#include "tests/unit/play.h"

/* parent: it is to die with this process. */
static void start_loader(bool parent)
{
    char number[16];
    snprintf(number, sizeof number, "%d", (int)getpid());
    play_start((const char *[]){getenv("BLIPREN_LOADER"), "--coord", play.endpoint, "--threads",
                                "2", "--capacity", "3", "--patience", "5",
                                parent ? "--parent" : NULL, number, NULL});
}

/* A loader that is ready for assignments. */
static void open_ready(void)
{
    play_open(true);
    start_loader(false);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    play_say_welcome();
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_ENDED);
}

/* -- the tests -------------------------------------------------------------------------------- */

static void a_loader_says_hello_and_is_ready_once_it_is_welcome(void **state)
{
    play_open(true);
    start_loader(false);
    Blipren__Envelope *m = play_expect(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_int_equal(m->version, BL_PROTOCOL_VERSION);
    assert_int_equal(m->run.len, 0);
    assert_int_equal(m->hello->role, BLIPREN__ROLE__ROLE_LOADER);
    assert_int_equal(m->hello->capacity, 3);
    uint64_t incarnation = m->peer;
    wire_envelope_free(&m);
    play_say_welcome();
    m = play_expect(BLIPREN__ENVELOPE__BODY_ENDED);
    assert_int_equal(m->ended->applied_step, -1);
    assert_true(m->peer == incarnation);
    assert_memory_equal(m->run.data, play.run, RUN_ID_BYTES);
    wire_envelope_free(&m);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_BEAT);
    play_stop();
}

/* It answers for those that it cannot read too: whether it may stay is the coordinator's to say. */
static void a_loader_proves_that_it_sees_the_data(void **state)
{
    static const uint64_t samples[] = {3, 7, 0, PLAY_IMAGES};
    play_open(false);
    start_loader(false);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    play_say_welcome_probe(samples, 4);
    Blipren__Envelope *m = play_expect(BLIPREN__ENVELOPE__BODY_ENDED);
    assert_int_equal(m->ended->n_probe_hash, 4);
    assert_true(m->ended->probe_hash[0] != 0 && m->ended->probe_hash[2] != 0);
    assert_true(m->ended->probe_hash[0] != m->ended->probe_hash[2]);
    assert_true(m->ended->probe_hash[1] == 0 && m->ended->probe_hash[3] == 0);
    assert_non_null(strstr(m->ended->probe_error, play_images[7].name));
    assert_non_null(strstr(m->ended->probe_error, play_images[7].reason));
    wire_envelope_free(&m);
    play_stop();
}

static bool no_wait(void *context, uint32_t ms)
{
    return false;
}

/* The slots of a micro-batch against what the sample's own function makes of them here. */
static void compare(const struct wire_frames *frames, const uint64_t *samples, size_t count)
{
    struct bl_error err;
    struct sample_source *source;
    Blipren__BatchHeader *h;
    assert_int_equal(frames->count, 3);
    assert_ok(wire_unpack_header(zmq_msg_data((zmq_msg_t *)&frames->at[0]),
                                 zmq_msg_size(&frames->at[0]), &h, &err),
              err);
    assert_ok(sample_source_open(play_path("run"), play.run, NULL, "",
                                 &(struct location_patience){no_wait, NULL}, &source, &err),
              err);
    assert_int_equal(sample_side(source), PLAY_SIDE);
    assert_int_equal(h->image_side, PLAY_SIDE);
    assert_int_equal(h->n_slots, count);
    assert_int_equal(h->worker, PLAY_WORKER);
    assert_int_equal(h->step, 3);
    assert_int_equal(h->first, 4);
    assert_true(h->generation == play.generation);
    assert_memory_equal(h->run.data, play.run, RUN_ID_BYTES);
    const uint8_t *pixels = zmq_msg_data((zmq_msg_t *)&frames->at[1]);
    const uint8_t *ids = zmq_msg_data((zmq_msg_t *)&frames->at[2]);
    for (size_t i = 0; i < count; i++) {
        static uint8_t expected[PLAY_SIDE * PLAY_SIDE * 3];
        struct token_ids expected_ids = {0};
        struct sample_info info;
        const Blipren__Slot *slot = h->slots[i];
        int rc = sample_make(source, samples[i], 2, expected, &expected_ids, &info, &err);
        assert_true(slot->sample == samples[i]);
        assert_int_equal(slot->bad, rc < 0);
        if (rc == 0) {
            assert_int_equal(slot->tokens, info.tokens);
            assert_int_equal(slot->prefix, info.prefix);
            assert_int_equal(slot->label_first, info.label_first);
            assert_true(slot->prefix > 0 && slot->label_first < slot->tokens);
            assert_true(slot->image_hash == info.image_hash && info.image_hash != 0);
            assert_memory_equal(pixels, expected, sizeof expected);
            assert_memory_equal(ids, expected_ids.ids, 4 * slot->tokens);
            pixels += sizeof expected;
            ids += 4 * slot->tokens;
        }
        token_ids_release(&expected_ids);
    }
    assert_ptr_equal(pixels, (const uint8_t *)zmq_msg_data((zmq_msg_t *)&frames->at[1]) +
                                 zmq_msg_size(&frames->at[1]));
    assert_ptr_equal(ids, (const uint8_t *)zmq_msg_data((zmq_msg_t *)&frames->at[2]) +
                              zmq_msg_size(&frames->at[2]));
    wire_header_free(&h);
    sample_source_free(&source);
}

static void a_micro_batch_reaches_its_worker_and_its_credit_comes_back(void **state)
{
    static const uint64_t samples[] = {3, 0, 5, 4, 1, 2};
    open_ready();
    play_say_assignment(9, samples, PLAY_GOOD, play.data_endpoint);
    compare(play_expect_batch(0), samples, PLAY_GOOD);
    Blipren__Envelope *m = NULL;
    for (uint64_t progress = 0; progress < PLAY_GOOD;) { /* an early Beat may have less */
        m = play_expect(BLIPREN__ENVELOPE__BODY_BEAT);
        progress = m->beat->progress;
        wire_envelope_free(&m);
    }
    m = play_expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
    assert_int_equal(m->completed->kind, BLIPREN__KIND__KIND_TRAIN);
    assert_int_equal(m->completed->step, 3);
    assert_int_equal(m->completed->micro_batch, 9);
    assert_int_equal(m->completed->n_voids, 0);
    wire_envelope_free(&m);
    play_stop();
}

static void what_cannot_be_had_is_a_void_slot_with_its_reason(void **state)
{
    static const uint64_t mixed[] = {0, 6, 7, 1, 8, 9}, all_bad[] = {7, 8};
    static uint64_t missing[] = {7, 8};
    open_ready();
    play_say_assignment(0, mixed, 6, play.data_endpoint);
    Blipren__Envelope *m = play_expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
    assert_true(m->completed->withheld); /* another loader may be able to read two of them */
    assert_int_equal(m->completed->n_voids, 4);
    wire_envelope_free(&m);
    play.missing = missing;
    play.missing_count = 2;
    play_say_assignment(0, mixed, 6, play.data_endpoint);
    compare(play_expect_batch(0), mixed, 6);
    m = play_expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
    assert_false(m->completed->withheld);
    static const uint32_t slots[] = {1, 2, 4, 5};
    assert_int_equal(m->completed->n_voids, 4);
    for (size_t i = 0; i < 4; i++) {
        const Blipren__VoidSlot *v = m->completed->voids[i];
        assert_int_equal(v->slot, slots[i]);
        assert_true(v->sample == mixed[slots[i]]);
        assert_int_equal(v->unreadable, v->sample == 7 || v->sample == 8);
        if (!strstr(v->reason, play_images[v->sample].reason))
            fail_msg("%s: expected \"%s\", found \"%s\"", play_images[v->sample].name,
                     play_images[v->sample].reason, v->reason);
    }
    wire_envelope_free(&m);
    play_say_assignment(1, all_bad, 2, play.data_endpoint);
    compare(play_expect_batch(1), all_bad, 2);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
    play_stop();
}

static void many_micro_batches_in_flight_all_arrive(void **state)
{
    open_ready();
    for (uint32_t g = 0; g < 40; g++) {
        uint64_t samples[2] = {g % PLAY_GOOD, (g + 1) % PLAY_GOOD};
        if (g >= 3) /* the loader's capacity */
            play_expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
        play_say_assignment(g, samples, 2, play.data_endpoint);
    }
    play_expect_batch(39);
    uint64_t seen = 0;
    for (int i = 0; i < 40; i++) {
        struct bl_error err;
        Blipren__BatchHeader *h;
        assert_ok(wire_unpack_header(zmq_msg_data(&play.batch[i].at[0]),
                                     zmq_msg_size(&play.batch[i].at[0]), &h, &err),
                  err);
        uint64_t samples[2] = {h->micro_batch % PLAY_GOOD, (h->micro_batch + 1) % PLAY_GOOD};
        seen |= (uint64_t)1 << h->micro_batch;
        wire_header_free(&h);
        compare(&play.batch[i], samples, 2);
    }
    assert_true(seen == ((uint64_t)1 << 40) - 1);
    play_stop();
}

/* Nobody listens at the worker's address: the micro-batches wait, and the end of their generation frees them. */
static void assignments_of_a_dead_worker_come_back_when_the_generation_ends(void **state)
{
    static const uint64_t samples[] = {0, 1};
    open_ready();
    for (uint32_t g = 0; g < 3; g++)
        play_say_assignment(g, samples, 2, "tcp://127.0.0.1:1");
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_BEAT);
    play.generation = 2;
    play_say_end();
    for (int i = 0; i < 3; i++) {
        Blipren__Envelope *m = play_expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
        assert_int_equal(m->generation, 1);
        wire_envelope_free(&m);
    }
    play_say_assignment(5, samples, 2, play.data_endpoint);
    compare(play_expect_batch(0), samples, 2);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
    play_stop();
}

/* The line is how an operator learns of a firewall between a loader and a worker. */
static void a_worker_that_takes_nothing_is_named(void **state)
{
    static const uint64_t samples[] = {0};
    play_patience_ms = 600;
    open_ready();
    play_patience_ms = PLAY_PATIENCE_MS;
    play_say_assignment(0, samples, 1, "tcp://127.0.0.1:1");
    for (int beats = 0; beats < 10; beats++) { /* a second */
        play_expect_and_drop(BLIPREN__ENVELOPE__BODY_BEAT);
        play_say_pulse();
    }
    play_stop();
    play_expect_last_line("the worker at tcp://127.0.0.1:1 has taken no micro-batch for 0.6 s");
}

static void a_signal_ends_the_loader_with_a_goodbye(void **state)
{
    static const uint64_t samples[] = {0, 1, 2};
    open_ready();
    play_say_assignment(0, samples, 3, play.data_endpoint);
    kill(play.peer, SIGTERM);
    Blipren__Envelope *m = play_expect(BLIPREN__ENVELOPE__BODY_GOODBYE);
    assert_string_equal(m->goodbye->reason, "stopped by signal 15");
    wire_envelope_free(&m);
    assert_int_equal(play_exit_code(), bl_error_exit_code(BL_ESTOPPED));
    play_expect_last_line("stopped by signal 15");
    play_close();
}

static void a_refused_loader_prints_reason_and_remedy(void **state)
{
    play_open(false);
    start_loader(false);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    Blipren__Refuse refuse = BLIPREN__REFUSE__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    refuse.text = (char *)"version 1 is too old";
    refuse.remedy = (char *)"install the new one";
    m.body_case = BLIPREN__ENVELOPE__BODY_REFUSE;
    m.refuse = &refuse;
    play_say(&m);
    assert_int_equal(play_exit_code(), bl_error_exit_code(BL_EPEER));
    play_expect_last_line("refused: version 1 is too old; install the new one");
    play_close();
}

static void another_run_folder_is_refused_by_name(void **state)
{
    play_open(false);
    start_loader(false);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    play.run[0] ^= 1;
    play_say_welcome();
    assert_int_equal(play_exit_code(), bl_error_exit_code(BL_EPEER));
    play_expect_last_line(
        "this is not the run folder that the coordinator sees under this path; mount "
        "the same folder at the same path on every host");
    play_close();
}

static void a_silent_coordinator_is_called_again_and_then_given_up(void **state)
{
    play_open(false);
    start_loader(false);
    Blipren__Envelope *m = play_expect(BLIPREN__ENVELOPE__BODY_HELLO);
    struct wire_id first = play.from;
    wire_envelope_free(&m);
    play_patience_ms = 1200;
    play_say_welcome();
    play_patience_ms = PLAY_PATIENCE_MS;
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_memory_not_equal(first.bytes, play.from.bytes, sizeof first.bytes);
    assert_int_equal(play_exit_code(), bl_error_exit_code(BL_EPEER));
    play_expect_last_line("start blipren-coord there, or give its address by --coord");
    play_close();
}

/* The coordinator's process ends and another takes its port: nobody waits for a minute of silence. */
static void a_lost_connection_is_made_anew_at_once(void **state)
{
    static const uint64_t samples[] = {0, 1};
    play_patience_ms = 60000;
    open_ready();
    play_patience_ms = PLAY_PATIENCE_MS;
    struct wire_id first = play.from;
    play_restart_coordinator();
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_memory_not_equal(first.bytes, play.from.bytes, sizeof first.bytes);
    play_say_welcome();
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_ENDED);
    play_say_assignment(0, samples, 2, play.data_endpoint);
    compare(play_expect_batch(0), samples, 2);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
    play_stop();
}

/* It says Hello on a connection of its own, and works on. */
static void expect_a_new_connection(struct wire_id before)
{
    static const uint64_t samples[] = {0, 1};
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_memory_not_equal(before.bytes, play.from.bytes, sizeof before.bytes);
    play_say_welcome();
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_ENDED);
    play_say_assignment(0, samples, 2, play.data_endpoint);
    compare(play_expect_batch(0), samples, 2);
    play_stop();
}

static void a_malformed_message_costs_the_connection_and_not_the_loader(void **state)
{
    open_ready();
    struct wire_id before = play.from;
    assert_int_equal(wire_router_send(play.control, &play.from, "\xff\xff\xff", 3), 0);
    expect_a_new_connection(before);
}

static void a_sample_that_does_not_exist_costs_the_connection(void **state)
{
    static const uint64_t samples[] = {PLAY_IMAGES};
    open_ready();
    struct wire_id before = play.from;
    play_say_assignment(0, samples, 1, play.data_endpoint);
    expect_a_new_connection(before);
}

static void an_endpoint_that_cannot_be_used_is_answered_and_the_others_are_served(void **state)
{
    static const uint64_t samples[] = {0, 1};
    open_ready();
    play_say_assignment(0, samples, 1, "tcp://192.0.2.1:5555");
    Blipren__Envelope *m = play_expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
    assert_non_null(strstr(m->completed->error, "tcp://192.0.2.1:5555 is not on this machine"));
    wire_envelope_free(&m);
    play_say_assignment(1, samples, 2, play.data_endpoint);
    compare(play_expect_batch(0), samples, 2);
    m = play_expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
    assert_string_equal(m->completed->error, "");
    wire_envelope_free(&m);
    play_stop();
}

/* A process between the test and the loader is killed: the loader goes too. */
static void a_loader_dies_with_its_parent(void **state)
{
    int ends[2];
    play_open(false);
    assert_int_equal(pipe(ends), 0);
    pid_t parent = fork();
    if (parent == 0) {
        start_loader(true);
        (void)!write(ends[1], &play.peer, sizeof play.peer);
        pause();
        _exit(0);
    }
    pid_t loader;
    assert_int_equal(read(ends[0], &loader, sizeof loader), sizeof loader);
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    for (int ms = 0; kill(loader, 0) == 0; ms += 10) {
        char path[64], state_letter = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)loader);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%*d (%*[^)]) %c", &state_letter) == 1 && state_letter == 'Z') {
            fclose(f);
            break; /* nobody reaps orphans here */
        }
        if (f)
            fclose(f);
        assert_true(ms < PLAY_WAIT_MS);
        play_turn(10);
    }
    close(ends[0]);
    close(ends[1]);
    play_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loader_says_hello_and_is_ready_once_it_is_welcome),
        cmocka_unit_test(a_loader_proves_that_it_sees_the_data),
        cmocka_unit_test(a_micro_batch_reaches_its_worker_and_its_credit_comes_back),
        cmocka_unit_test(what_cannot_be_had_is_a_void_slot_with_its_reason),
        cmocka_unit_test(many_micro_batches_in_flight_all_arrive),
        cmocka_unit_test(assignments_of_a_dead_worker_come_back_when_the_generation_ends),
        cmocka_unit_test(a_worker_that_takes_nothing_is_named),
        cmocka_unit_test(a_signal_ends_the_loader_with_a_goodbye),
        cmocka_unit_test(a_refused_loader_prints_reason_and_remedy),
        cmocka_unit_test(another_run_folder_is_refused_by_name),
        cmocka_unit_test(a_silent_coordinator_is_called_again_and_then_given_up),
        cmocka_unit_test(a_lost_connection_is_made_anew_at_once),
        cmocka_unit_test(a_malformed_message_costs_the_connection_and_not_the_loader),
        cmocka_unit_test(a_sample_that_does_not_exist_costs_the_connection),
        cmocka_unit_test(an_endpoint_that_cannot_be_used_is_answered_and_the_others_are_served),
        cmocka_unit_test(a_loader_dies_with_its_parent),
    };
    return cmocka_run_group_tests(tests, play_make_run, play_remove_run);
}
