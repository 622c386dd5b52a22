/* tests/unit/play.c - see play.h. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/unit/folder.h"
#include "tests/unit/play.h"

/* -- the run folder --------------------------------------------------------------------------- */

const struct play_image play_images[PLAY_IMAGES] = {
    {"a.jpg", "rgb.jpg", NULL},
    {"b.png", "grey-8.png", NULL},
    {"c.png", "palette-8.png", NULL},
    {"d.webp", "lossy.webp", NULL},
    {"e.jpg", "cmyk.jpg", NULL},
    {"f.png", "rgb-16.png", NULL},
    {"damaged.jpg", "rgb-444.jpg", "Premature end of JPEG file"},
    {"absent.png", "rgb.png", "cannot be opened: No such file or directory"},
    {"changed.png", "rgba.png", "the image has changed since the run's index was made"},
    {"giant.png", "wide.png", "800"},
};

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
             play_images[i].golden);
    snprintf(to, sizeof to, "data/%s", play_images[i].name);
    assert_ok(bl_file_read(from, 1 << 24, &data, &size, &err), err);
    put(to, data, size - cut);
}

static void make_sources(void)
{
    char list[2048] = "";
    size_t at = 0;
    for (int i = 0; i < PLAY_IMAGES; i++) {
        put_image(i, strcmp(play_images[i].name, "damaged.jpg") == 0 ? 300 : 0);
        at +=
            (size_t)snprintf(list + at, sizeof list - at,
                             "{\"file_name\": \"%s\", \"text\": \"a red circle and %d squares\"}\n",
                             play_images[i].name, i);
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
    assert_int_equal(dataset_samples(dataset), PLAY_IMAGES);
    assert_ok(run_id(inside("run"), true, id, &err), err);
    dataset_free(&dataset);
    config_free(&config);
}

int play_make_run(void **state)
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

int play_remove_run(void **state)
{
    return bl_folder_remove(folder, NULL);
}

/* -- the cluster that the test plays ---------------------------------------------------------- */

struct play play;

static void on_control(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct bl_error err;
    Blipren__Envelope *m;
    assert_int_equal(frames->count, 1);
    assert_ok(wire_unpack(zmq_msg_data(&frames->at[0]), zmq_msg_size(&frames->at[0]), &m, &err),
              err);
    assert_true(play.messages < PLAY_MESSAGES_MAX);
    play.from = *from;
    play.message[play.messages++] = m;
}

static void on_data(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    assert_true(play.batches < PLAY_BATCHES_MAX);
    wire_frames_move(&play.batch[play.batches++], frames);
}

static void on_expired(uv_timer_t *timer)
{
    play.expired = true;
}

void play_turn(int wait_ms)
{
    play.expired = false;
    uv_timer_start(&play.timer, on_expired, (uint64_t)wait_ms, 0);
    uv_run(&play.uv, UV_RUN_ONCE);
}

/* The oldest message of that body, taken out of those received; NULL: there is none. */
Blipren__Envelope *play_take(Blipren__Envelope__BodyCase body)
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
Blipren__Envelope *play_expect(Blipren__Envelope__BodyCase body)
{
    Blipren__Envelope *m;
    while (!(m = play_take(body))) {
        play_turn(PLAY_WAIT_MS);
        if (play.expired)
            fail_msg("the peer does not send body %d", body);
    }
    return m;
}

void play_expect_and_drop(Blipren__Envelope__BodyCase body)
{
    Blipren__Envelope *m = play_expect(body);
    wire_envelope_free(&m);
}

struct wire_frames *play_expect_batch(int index)
{
    while (play.batches <= index) {
        play_turn(PLAY_WAIT_MS);
        if (play.expired)
            fail_msg("the peer ships %d batches, not %d", play.batches, index + 1);
    }
    return &play.batch[index];
}

void play_say(Blipren__Envelope *m)
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

uint32_t play_patience_ms = PLAY_PATIENCE_MS;

void play_say_welcome(void)
{
    play_say_welcome_probe(NULL, 0);
}

void play_say_welcome_probe(const uint64_t *samples, size_t count)
{
    Blipren__Welcome welcome = BLIPREN__WELCOME__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    char path[256];
    snprintf(path, sizeof path, "%s", inside("run"));
    welcome.run_folder = path;
    welcome.kind = BLIPREN__KIND__KIND_TRAIN;
    welcome.patience_ms = play_patience_ms;
    welcome.heartbeat_ms = play_patience_ms / 6;
    welcome.n_probe = count;
    welcome.probe = (uint64_t *)(uintptr_t)samples;
    m.body_case = BLIPREN__ENVELOPE__BODY_WELCOME;
    m.welcome = &welcome;
    play_say(&m);
}

void play_say_end(void)
{
    Blipren__End end = BLIPREN__END__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    m.body_case = BLIPREN__ENVELOPE__BODY_END;
    m.end = &end;
    play_say(&m);
}

void play_say_pulse(void)
{
    Blipren__Pulse pulse = BLIPREN__PULSE__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    m.body_case = BLIPREN__ENVELOPE__BODY_PULSE;
    m.pulse = &pulse;
    play_say(&m);
}

void play_say_stop(void)
{
    Blipren__Stop stop = BLIPREN__STOP__INIT;
    Blipren__Envelope m = BLIPREN__ENVELOPE__INIT;
    m.body_case = BLIPREN__ENVELOPE__BODY_STOP;
    m.stop = &stop;
    play_say(&m);
}

/* Micro-batch g of step 3: samples[0..count) at batch indices from 4 on, in epoch 2. */
void play_say_assignment(uint32_t g, const uint64_t *samples, size_t count, const char *endpoint)
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
    assignment.worker = PLAY_WORKER;
    assignment.missing = play.missing;
    assignment.n_missing = play.missing_count;
    assignment.endpoint = (char *)(uintptr_t)endpoint;
    m.body_case = BLIPREN__ENVELOPE__BODY_ASSIGNMENT;
    m.assignment = &assignment;
    play_say(&m);
}

const char *play_path(const char *name)
{
    return inside(name);
}

void play_start(const char *const *arguments)
{
    play.peer = fork();
    assert_true(play.peer >= 0);
    if (play.peer)
        return;
    if (!freopen(inside("log"), "a", stderr))
        _exit(99);
    execv(arguments[0], (char **)(uintptr_t)arguments);
    _exit(98);
}

/* Waits for the process; its exit code, or minus the signal. */
int play_exit_code(void)
{
    int status = 0;
    for (int ms = 0; waitpid(play.peer, &status, WNOHANG) == 0; ms += 10) {
        assert_true(ms < PLAY_WAIT_MS);
        play_turn(10);
    }
    play.peer = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* The last line that the peer printed, from its first colon after the time on. */
void play_expect_last_line(const char *expected)
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

/* The program is the only one that connects. */
static const struct wire_guard guard = {
    .limits = {.strangers = 100, .each = 1 << 30, .together = 1 << 30}};

void play_open(bool with_worker)
{
    struct bl_error err;
    memset(&play, 0, sizeof play);
    uv_loop_init(&play.uv);
    uv_timer_init(&play.uv, &play.timer);
    play.generation = 1;
    assert_ok(run_id(inside("run"), false, play.run, &err), err);
    assert_ok(wire_context_open(NULL, &play.zmq, &err), err);
    assert_ok(wire_router(&play.uv, play.zmq, "tcp://127.0.0.1:*", &guard, on_control, NULL,
                          &play.control, play.endpoint, &err),
              err);
    if (with_worker)
        assert_ok(wire_pull(&play.uv, play.zmq, "127.0.0.1", &guard, on_data, NULL, &play.data,
                            play.data_endpoint, &err),
                  err);
}

void play_restart_coordinator(void)
{
    struct bl_error err;
    char endpoint[SOCKET_ENDPOINT_MAX];
    wire_socket_close(&play.control, 0);
    for (int tries = 0; !play.control && tries < 100; tries++) {
        play_turn(10); /* ZeroMQ closes its listener in the background */
        (void)wire_router(&play.uv, play.zmq, play.endpoint, &guard, on_control, NULL,
                          &play.control, endpoint, &err);
    }
    assert_non_null(play.control);
}

void play_close(void)
{
    if (play.peer) {
        kill(play.peer, SIGKILL);
        play_exit_code();
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

void play_stop(void)
{
    play_say_stop();
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_GOODBYE);
    assert_int_equal(play_exit_code(), 0);
    play_close();
}
