/* tests/unit/loader_process_test.c - the real loader process, between a coordinator and a worker
 * that the test plays over loopback. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "common/cleanup.h"
#include "common/data/run.h"
#include "loader/sample.h"
#include "proto/wire.h"
#include "tests/unit/folder.h"

#define WAIT_MS 20000     /* only a failing test waits so long */
#define PATIENCE_MS 12000 /* long for a busy machine; a Beat comes after a sixth of it */
#define WORKER 77         /* the worker's incarnation */
#define SIDE 64           /* of the demo's vision model */

/* -- the run folder --------------------------------------------------------------------------- */

/* Name in the run, the golden image it is, and what is wrong with it when the loader sees it. */
static const struct {
    const char *name, *golden, *reason;
} images[] = {
    {"a.jpg", "rgb.jpg", NULL},
    {"b.png", "grey-8.png", NULL},
    {"c.png", "palette-8.png", NULL},
    {"d.webp", "lossy.webp", NULL},
    {"e.jpg", "cmyk.jpg", NULL},
    {"f.png", "rgb-16.png", NULL},
    {"damaged.jpg", "rgb-444.jpg", "Premature end of JPEG file"},
    {"absent.png", "rgb.png", "cannot be opened: No such file or directory"},
    {"changed.png", "rgba.png", "the file has changed since the run's index was made"},
    {"giant.png", "wide.png", "800"},
};
#define IMAGES ((int)(sizeof images / sizeof *images))
#define GOOD 6

static void put(const char *name, const void *data, size_t size)
{
    struct bl_error err;
    assert_ok(bl_file_write(inside(name), data, size, &err), err);
}

/* Writes golden image i into the run's source, but `cut` bytes of its end. */
static void put_image(int i, size_t cut)
{
    struct bl_error err;
    char from[512], to[64];
    bl_autofree char *data = NULL;
    size_t size;
    snprintf(from, sizeof from, "%s/tests/golden/image/%s", getenv("BLIPREN_SOURCE"),
             images[i].golden);
    snprintf(to, sizeof to, "data/%s", images[i].name);
    assert_ok(bl_file_read(from, 1 << 24, &data, &size, &err), err);
    put(to, data, size - cut);
}

static void make_sources(void)
{
    char list[2048] = "";
    size_t at = 0;
    for (int i = 0; i < IMAGES; i++) {
        put_image(i, strcmp(images[i].name, "damaged.jpg") == 0 ? 300 : 0);
        at +=
            (size_t)snprintf(list + at, sizeof list - at,
                             "{\"file_name\": \"%s\", \"text\": \"a red circle and %d squares\"}\n",
                             images[i].name, i);
    }
    put("data/metadata.jsonl", list, at);
}

static void make_index(void)
{
    struct bl_error err;
    char yaml[2048];
    struct config *config = NULL;
    struct dataset *dataset = NULL;
    uint8_t id[RUN_ID_BYTES];
    const char *source = getenv("BLIPREN_SOURCE");
    int size = snprintf(yaml, sizeof yaml,
                        "run_dir: run\nvision: {path: %s/deploy/demo/models/vision}\n"
                        "llm: {path: %s/deploy/demo/models/llm}\ntrain: {steps: 1}\n"
                        "data:\n  source: data\n  validation: 0\n  max_pixels: 800\n"
                        "  captions: [{column: text, prefix: 'Short caption: '}]\n",
                        source, source);
    assert_ok(config_parse(yaml, (size_t)size, "run.yaml", folder, &config, &err), err);
    put("run/config.yaml", config->text, strlen(config->text));
    assert_ok(dataset_prepare(config, NULL, NULL, &dataset, NULL, &err), err);
    assert_int_equal(dataset_samples(dataset), IMAGES);
    assert_ok(run_id(inside("run"), true, id, &err), err);
    dataset_free(&dataset);
    config_free(&config);
}

static int make_run(void **state)
{
    if (make_folder(state) < 0 || bl_folder_make(inside("data"), NULL) < 0 ||
        bl_folder_make(inside("run"), NULL) < 0)
        return -1;
    make_sources();
    make_index();
    assert_int_equal(unlink(inside("data/absent.png")), 0);
    put("data/changed.png", "another", 7);
    return 0;
}

static int remove_run(void **state)
{
    return bl_folder_remove(folder, NULL);
}

/* -- the cluster that the test plays ---------------------------------------------------------- */

#define BATCHES_MAX 64
#define MESSAGES_MAX 256

static struct {
    uv_loop_t uv;
    uv_timer_t timer;
    void *zmq;
    struct wire_socket *control, *data;
    char endpoint[SOCKET_ENDPOINT_MAX], data_endpoint[SOCKET_ENDPOINT_MAX];
    uint8_t run[RUN_ID_BYTES];
    uint64_t generation;
    bool expired;

    pid_t loader;
    struct wire_id from; /* of the last message */
    int messages, batches;
    Blipren__Envelope *message[MESSAGES_MAX]; /* not yet expected, oldest first */
    struct wire_frames batch[BATCHES_MAX];
} play;

static void on_control(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct bl_error err;
    Blipren__Envelope *m;
    assert_int_equal(frames->count, 1);
    assert_ok(wire_unpack(zmq_msg_data(&frames->at[0]), zmq_msg_size(&frames->at[0]), &m, &err),
              err);
    assert_true(play.messages < MESSAGES_MAX);
    play.from = *from;
    play.message[play.messages++] = m;
}

static void on_data(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    assert_true(play.batches < BATCHES_MAX);
    wire_frames_move(&play.batch[play.batches++], frames);
}

static void on_expired(uv_timer_t *timer)
{
    play.expired = true;
}

static void run_a_turn(int wait_ms)
{
    play.expired = false;
    uv_timer_start(&play.timer, on_expired, (uint64_t)wait_ms, 0);
    uv_run(&play.uv, UV_RUN_ONCE);
}

/* The oldest message of that body, taken out of those received; NULL: there is none. */
static Blipren__Envelope *take(Blipren__Envelope__BodyCase body)
{
    for (int i = 0; i < play.messages; i++) {
        Blipren__Envelope *m = play.message[i];
        if (m->body_case != body)
            continue;
        play.messages--;
        memmove(&play.message[i], &play.message[i + 1],
                (size_t)(play.messages - i) * sizeof *play.message);
        return m;
    }
    return NULL;
}

/* Waits for a message of that body. It is the caller's. */
static Blipren__Envelope *expect(Blipren__Envelope__BodyCase body)
{
    Blipren__Envelope *m;
    while (!(m = take(body))) {
        run_a_turn(WAIT_MS);
        if (play.expired)
            fail_msg("the loader does not send body %d", body);
    }
    return m;
}

static void expect_and_drop(Blipren__Envelope__BodyCase body)
{
    Blipren__Envelope *m = expect(body);
    wire_envelope_free(&m);
}

static struct wire_frames *expect_batch(int index)
{
    while (play.batches <= index) {
        run_a_turn(WAIT_MS);
        if (play.expired)
            fail_msg("the loader ships %d batches, not %d", play.batches, index + 1);
    }
    return &play.batch[index];
}

static void say(Blipren__Envelope *m)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    m->version = BL_PROTOCOL_VERSION;
    m->run = (ProtobufCBinaryData){sizeof play.run, play.run};
    m->peer = 1;
    m->generation = play.generation;
    wire_pack(m, &data, &size);
    assert_int_equal(wire_router_send(play.control, &play.from, data, size), 0);
}

static uint32_t patience_ms = PATIENCE_MS; /* what Welcome says */

static void say_welcome(void)
{
    Blipren__Welcome welcome = BLIPREN__WELCOME__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    char path[256];
    snprintf(path, sizeof path, "%s", inside("run"));
    welcome.run_folder = path;
    welcome.patience_ms = patience_ms;
    welcome.heartbeat_ms = patience_ms / 6;
    m.body_case = BLIPREN__ENVELOPE__BODY_WELCOME;
    m.welcome = &welcome;
    say(&m);
}

static void say_end(void)
{
    Blipren__End end = BLIPREN__END__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    m.body_case = BLIPREN__ENVELOPE__BODY_END;
    m.end = &end;
    say(&m);
}

static void say_stop(void)
{
    Blipren__Stop stop = BLIPREN__STOP__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    m.body_case = BLIPREN__ENVELOPE__BODY_STOP;
    m.stop = &stop;
    say(&m);
}

/* Micro-batch g of step 3: samples[0..count) at batch indices from 4 on, in epoch 2. */
static void say_assignment(uint32_t g, const uint64_t *samples, size_t count, const char *endpoint)
{
    uint32_t epochs[16];
    for (size_t i = 0; i < count; i++)
        epochs[i] = 2;
    Blipren__Assignment assignment = BLIPREN__ASSIGNMENT__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    assignment.kind = BLIPREN__KIND__KIND_TRAIN;
    assignment.step = 3;
    assignment.micro_batch = g;
    assignment.first = 4;
    assignment.n_sample = assignment.n_epoch = count;
    assignment.sample = (uint64_t *)(uintptr_t)samples;
    assignment.epoch = epochs;
    assignment.worker = WORKER;
    assignment.endpoint = (char *)(uintptr_t)endpoint;
    m.body_case = BLIPREN__ENVELOPE__BODY_ASSIGNMENT;
    m.assignment = &assignment;
    say(&m);
}

/* Starts the program with its messages in FOLDER/log. parent: it is to die with this process. */
static void start_loader(bool parent)
{
    char number[16];
    snprintf(number, sizeof number, "%d", (int)getpid());
    const char *arguments[] = {getenv("BLIPREN_LOADER"),
                               "--coord",
                               play.endpoint,
                               "--threads",
                               "2",
                               "--capacity",
                               "3",
                               "--patience",
                               "5",
                               parent ? "--parent" : NULL,
                               number,
                               NULL};
    play.loader = fork();
    assert_true(play.loader >= 0);
    if (play.loader)
        return;
    if (!freopen(inside("log"), "a", stderr))
        _exit(99);
    execv(arguments[0], (char **)(uintptr_t)arguments);
    _exit(98);
}

/* Waits for the process; its exit code, or minus the signal. */
static int loader_exit(void)
{
    int status = 0;
    for (int ms = 0; waitpid(play.loader, &status, WNOHANG) == 0; ms += 10) {
        assert_true(ms < WAIT_MS);
        run_a_turn(10);
    }
    play.loader = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* The last line that the loader printed, from its first colon after the time on. */
static void expect_last_line(const char *expected)
{
    struct bl_error err;
    bl_autofree char *text = NULL;
    size_t size;
    assert_ok(bl_file_read(inside("log"), 1 << 20, &text, &size, &err), err);
    assert_true(size > 0);
    text[size - 1] = 0;
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (!strstr(line, expected))
        fail_msg("expected \"%s\" in the last line, found \"%s\"", expected, line);
}

static void open_play(bool with_worker)
{
    struct bl_error err;
    memset(&play, 0, sizeof play);
    uv_loop_init(&play.uv);
    uv_timer_init(&play.uv, &play.timer);
    play.generation = 1;
    assert_ok(run_id(inside("run"), false, play.run, &err), err);
    assert_ok(wire_context_open(&play.zmq, &err), err);
    assert_ok(wire_router(&play.uv, play.zmq, "tcp://127.0.0.1:*", on_control, NULL, &play.control,
                          play.endpoint, &err),
              err);
    if (with_worker)
        assert_ok(wire_pull(&play.uv, play.zmq, "127.0.0.1", on_data, NULL, &play.data,
                            play.data_endpoint, &err),
                  err);
}

static void close_play(void)
{
    if (play.loader) {
        kill(play.loader, SIGKILL);
        loader_exit();
    }
    for (int i = 0; i < play.messages; i++)
        wire_envelope_free(&play.message[i]);
    for (int i = 0; i < play.batches; i++)
        wire_frames_close(&play.batch[i]);
    wire_socket_close(&play.control, 0);
    wire_socket_close(&play.data, 0);
    uv_close((uv_handle_t *)&play.timer, NULL);
    while (uv_loop_close(&play.uv) == UV_EBUSY)
        uv_run(&play.uv, UV_RUN_ONCE);
    wire_context_close(&play.zmq);
}

/* A loader that is ready for assignments. */
static void open_ready(void)
{
    open_play(true);
    start_loader(false);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    say_welcome();
    expect_and_drop(BLIPREN__ENVELOPE__BODY_ENDED);
}

static void expect_stop(void)
{
    say_stop();
    expect_and_drop(BLIPREN__ENVELOPE__BODY_GOODBYE);
    assert_int_equal(loader_exit(), 0);
    close_play();
}

/* -- the tests -------------------------------------------------------------------------------- */

static void a_loader_says_hello_and_is_ready_once_it_is_welcome(void **state)
{
    open_play(true);
    start_loader(false);
    Blipren__Envelope *m = expect(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_int_equal(m->version, BL_PROTOCOL_VERSION);
    assert_int_equal(m->run.len, 0);
    assert_int_equal(m->hello->role, BLIPREN__ROLE__ROLE_LOADER);
    assert_int_equal(m->hello->capacity, 3);
    uint64_t incarnation = m->peer;
    wire_envelope_free(&m);
    say_welcome();
    m = expect(BLIPREN__ENVELOPE__BODY_ENDED);
    assert_int_equal(m->ended->applied_step, -1);
    assert_true(m->peer == incarnation);
    assert_memory_equal(m->run.data, play.run, RUN_ID_BYTES);
    wire_envelope_free(&m);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_BEAT);
    expect_stop();
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
    assert_ok(sample_source_open(inside("run"), play.run, &source, &err), err);
    assert_int_equal(sample_side(source), SIDE);
    assert_int_equal(h->image_side, SIDE);
    assert_int_equal(h->n_slots, count);
    assert_int_equal(h->worker, WORKER);
    assert_int_equal(h->step, 3);
    assert_int_equal(h->first, 4);
    assert_true(h->generation == play.generation);
    assert_memory_equal(h->run.data, play.run, RUN_ID_BYTES);
    const uint8_t *pixels = zmq_msg_data((zmq_msg_t *)&frames->at[1]);
    const uint8_t *ids = zmq_msg_data((zmq_msg_t *)&frames->at[2]);
    for (size_t i = 0; i < count; i++) {
        static uint8_t expected[SIDE * SIDE * 3];
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
    say_assignment(9, samples, GOOD, play.data_endpoint);
    compare(expect_batch(0), samples, GOOD);
    Blipren__Envelope *m = expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
    assert_int_equal(m->completed->kind, BLIPREN__KIND__KIND_TRAIN);
    assert_int_equal(m->completed->step, 3);
    assert_int_equal(m->completed->micro_batch, 9);
    assert_int_equal(m->completed->n_voids, 0);
    wire_envelope_free(&m);
    expect_stop();
}

static void what_cannot_be_had_is_a_void_slot_with_its_reason(void **state)
{
    static const uint64_t mixed[] = {0, 6, 7, 1, 8, 9}, all_bad[] = {7, 8};
    open_ready();
    say_assignment(0, mixed, 6, play.data_endpoint);
    compare(expect_batch(0), mixed, 6);
    Blipren__Envelope *m = expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
    static const uint32_t slots[] = {1, 2, 4, 5};
    assert_int_equal(m->completed->n_voids, 4);
    for (size_t i = 0; i < 4; i++) {
        const Blipren__VoidSlot *v = m->completed->voids[i];
        assert_int_equal(v->slot, slots[i]);
        assert_true(v->sample == mixed[slots[i]]);
        if (!strstr(v->reason, images[v->sample].reason))
            fail_msg("%s: expected \"%s\", found \"%s\"", images[v->sample].name,
                     images[v->sample].reason, v->reason);
    }
    wire_envelope_free(&m);
    say_assignment(1, all_bad, 2, play.data_endpoint);
    compare(expect_batch(1), all_bad, 2);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
    expect_stop();
}

static void many_micro_batches_in_flight_all_arrive(void **state)
{
    open_ready();
    for (uint32_t g = 0; g < 40; g++) {
        uint64_t samples[2] = {g % GOOD, (g + 1) % GOOD};
        if (g >= 3) /* the loader's capacity */
            expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
        say_assignment(g, samples, 2, play.data_endpoint);
    }
    expect_batch(39);
    uint64_t seen = 0;
    for (int i = 0; i < 40; i++) {
        struct bl_error err;
        Blipren__BatchHeader *h;
        assert_ok(wire_unpack_header(zmq_msg_data(&play.batch[i].at[0]),
                                     zmq_msg_size(&play.batch[i].at[0]), &h, &err),
                  err);
        uint64_t samples[2] = {h->micro_batch % GOOD, (h->micro_batch + 1) % GOOD};
        seen |= (uint64_t)1 << h->micro_batch;
        wire_header_free(&h);
        compare(&play.batch[i], samples, 2);
    }
    assert_true(seen == ((uint64_t)1 << 40) - 1);
    expect_stop();
}

/* Nobody listens at the worker's address: the micro-batches wait, and the end of their generation frees them. */
static void assignments_of_a_dead_worker_come_back_when_the_generation_ends(void **state)
{
    static const uint64_t samples[] = {0, 1};
    open_ready();
    for (uint32_t g = 0; g < 3; g++)
        say_assignment(g, samples, 2, "tcp://127.0.0.1:1");
    expect_and_drop(BLIPREN__ENVELOPE__BODY_BEAT);
    play.generation = 2;
    say_end();
    for (int i = 0; i < 3; i++) {
        Blipren__Envelope *m = expect(BLIPREN__ENVELOPE__BODY_COMPLETED);
        assert_int_equal(m->generation, 1);
        wire_envelope_free(&m);
    }
    say_assignment(5, samples, 2, play.data_endpoint);
    compare(expect_batch(0), samples, 2);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
    expect_stop();
}

static void a_signal_ends_the_loader_with_a_goodbye(void **state)
{
    static const uint64_t samples[] = {0, 1, 2};
    open_ready();
    say_assignment(0, samples, 3, play.data_endpoint);
    kill(play.loader, SIGTERM);
    Blipren__Envelope *m = expect(BLIPREN__ENVELOPE__BODY_GOODBYE);
    assert_string_equal(m->goodbye->reason, "stopped by signal 15");
    wire_envelope_free(&m);
    assert_int_equal(loader_exit(), bl_error_exit_code(BL_ESTOPPED));
    expect_last_line("stopped by signal 15");
    close_play();
}

static void a_refused_loader_prints_reason_and_remedy(void **state)
{
    open_play(false);
    start_loader(false);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    Blipren__Refuse refuse = BLIPREN__REFUSE__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    refuse.text = (char *)"version 1 is too old";
    refuse.remedy = (char *)"install the new one";
    m.body_case = BLIPREN__ENVELOPE__BODY_REFUSE;
    m.refuse = &refuse;
    say(&m);
    assert_int_equal(loader_exit(), bl_error_exit_code(BL_EPEER));
    expect_last_line("refused: version 1 is too old; install the new one");
    close_play();
}

static void another_run_folder_is_refused_by_name(void **state)
{
    open_play(false);
    start_loader(false);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    play.run[0] ^= 1;
    say_welcome();
    assert_int_equal(loader_exit(), bl_error_exit_code(BL_EPEER));
    expect_last_line("this is not the run folder that the coordinator sees under this path; mount "
                     "the same folder at the same path on every host");
    close_play();
}

static void a_silent_coordinator_is_called_again_and_then_given_up(void **state)
{
    open_play(false);
    start_loader(false);
    Blipren__Envelope *m = expect(BLIPREN__ENVELOPE__BODY_HELLO);
    struct wire_id first = play.from;
    wire_envelope_free(&m);
    patience_ms = 1200;
    say_welcome();
    patience_ms = PATIENCE_MS;
    expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_memory_not_equal(first.bytes, play.from.bytes, sizeof first.bytes);
    assert_int_equal(loader_exit(), bl_error_exit_code(BL_EPEER));
    expect_last_line("start blipren-coord there, or give its address by --coord");
    close_play();
}

/* The coordinator's process ends and another takes its port: nobody waits for a minute of silence. */
static void a_lost_connection_is_made_anew_at_once(void **state)
{
    struct bl_error err;
    char endpoint[SOCKET_ENDPOINT_MAX];
    static const uint64_t samples[] = {0, 1};
    patience_ms = 60000;
    open_ready();
    patience_ms = PATIENCE_MS;
    struct wire_id first = play.from;
    wire_socket_close(&play.control, 0);
    for (int tries = 0; !play.control && tries < 100; tries++) {
        run_a_turn(10); /* ZeroMQ closes its listener in the background */
        (void)wire_router(&play.uv, play.zmq, play.endpoint, on_control, NULL, &play.control,
                          endpoint, &err);
    }
    assert_non_null(play.control);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_memory_not_equal(first.bytes, play.from.bytes, sizeof first.bytes);
    say_welcome();
    expect_and_drop(BLIPREN__ENVELOPE__BODY_ENDED);
    say_assignment(0, samples, 2, play.data_endpoint);
    compare(expect_batch(0), samples, 2);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_COMPLETED);
    expect_stop();
}

static void bytes_that_are_no_message_end_the_loader_with_a_line(void **state)
{
    open_play(false);
    start_loader(false);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    assert_int_equal(wire_router_send(play.control, &play.from, "\xff\xff\xff", 3), 0);
    assert_int_equal(loader_exit(), bl_error_exit_code(BL_EPROTO));
    expect_last_line("3 bytes are no message of this protocol");
    close_play();
}

static void a_sample_that_does_not_exist_is_a_broken_protocol(void **state)
{
    static const uint64_t samples[] = {IMAGES};
    open_ready();
    say_assignment(0, samples, 1, play.data_endpoint);
    assert_int_equal(loader_exit(), bl_error_exit_code(BL_EPROTO));
    expect_last_line("Assignment.sample: ");
    expect_last_line("expected samples below 10, found 10");
    close_play();
}

static void a_worker_on_another_machine_needs_consent(void **state)
{
    static const uint64_t samples[] = {0};
    open_ready();
    say_assignment(0, samples, 1, "tcp://192.0.2.1:5555");
    assert_int_equal(loader_exit(), bl_error_exit_code(BL_EUSAGE));
    expect_last_line("tcp://192.0.2.1:5555 is not on this machine alone");
    close_play();
}

/* A process between the test and the loader is killed: the loader goes too. */
static void a_loader_dies_with_its_parent(void **state)
{
    int ends[2];
    open_play(false);
    assert_int_equal(pipe(ends), 0);
    pid_t parent = fork();
    if (parent == 0) {
        start_loader(true);
        (void)!write(ends[1], &play.loader, sizeof play.loader);
        pause();
        _exit(0);
    }
    pid_t loader;
    assert_int_equal(read(ends[0], &loader, sizeof loader), sizeof loader);
    expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
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
        assert_true(ms < WAIT_MS);
        run_a_turn(10);
    }
    close(ends[0]);
    close(ends[1]);
    close_play();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loader_says_hello_and_is_ready_once_it_is_welcome),
        cmocka_unit_test(a_micro_batch_reaches_its_worker_and_its_credit_comes_back),
        cmocka_unit_test(what_cannot_be_had_is_a_void_slot_with_its_reason),
        cmocka_unit_test(many_micro_batches_in_flight_all_arrive),
        cmocka_unit_test(assignments_of_a_dead_worker_come_back_when_the_generation_ends),
        cmocka_unit_test(a_signal_ends_the_loader_with_a_goodbye),
        cmocka_unit_test(a_refused_loader_prints_reason_and_remedy),
        cmocka_unit_test(another_run_folder_is_refused_by_name),
        cmocka_unit_test(a_silent_coordinator_is_called_again_and_then_given_up),
        cmocka_unit_test(a_lost_connection_is_made_anew_at_once),
        cmocka_unit_test(bytes_that_are_no_message_end_the_loader_with_a_line),
        cmocka_unit_test(a_sample_that_does_not_exist_is_a_broken_protocol),
        cmocka_unit_test(a_worker_on_another_machine_needs_consent),
        cmocka_unit_test(a_loader_dies_with_its_parent),
    };
    return cmocka_run_group_tests(tests, make_run, remove_run);
}
