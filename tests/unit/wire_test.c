/* tests/unit/wire_test.c - messages as bytes: what is packed comes back, and what is not ours is
 * refused with its field's name. */
#include "tests/unit/unit.h"

#include <dirent.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/random.h"
#include "common/data/run.h"
#include "proto/wire.h"

static uint8_t run[RUN_ID_BYTES] = "sixteen bytes!!";
static uint8_t digest[32] = "thirty-two bytes of a digest ...";

/* One honest message of each body; what a test changes in it is its own. */
static struct {
    Blipren__Envelope envelope;
    Blipren__Hello hello;
    Blipren__Beat beat;
    Blipren__Ended ended;
    Blipren__Rendezvous rendezvous;
    Blipren__Formed formed;
    Blipren__Received received;
    Blipren__Consumed consumed;
    Blipren__Report report;
    Blipren__Range range, *ranges[1];
    Blipren__Validation validation;
    Blipren__Caption caption, *captions[1];
    Blipren__Broken broken;
    Blipren__Saved saved;
    Blipren__Completed completed;
    Blipren__VoidSlot voids[2], *void_list[2];
    Blipren__Goodbye goodbye;
    Blipren__Welcome welcome;
    Blipren__Refuse refuse;
    Blipren__Pulse pulse;
    Blipren__End end;
    Blipren__Form form;
    Blipren__Assignment assignment;
    Blipren__Save save;
    Blipren__Stop stop;
    Blipren__Store store;
    Blipren__Fetch fetch;
    Blipren__Put put;
    Blipren__Piece piece;
    Blipren__Kept kept;
    Blipren__Rendezvous *entries[1];
    uint64_t many[17];
    uint64_t samples[3];
    uint32_t epochs[3];
    double numbers[2];
    Blipren__BatchHeader header;
    Blipren__Slot slots[2], *slot_list[2];
} m;

static void make_peers(void)
{
    m.hello = (Blipren__Hello)BLIPREN__HELLO__INIT;
    m.hello.role = BLIPREN__ROLE__ROLE_WORKER;
    m.hello.name = (char *)"rechner-ä:17";
    m.hello.build = (char *)"blipren 1 avx2";
    m.hello.data_endpoint = (char *)"tcp://127.0.0.1:4000";
    m.hello.applied_step = -1;
    m.hello.state_digest = (ProtobufCBinaryData){sizeof digest, digest};
    m.beat = (Blipren__Beat)BLIPREN__BEAT__INIT;
    m.beat.phase = (char *)"train";
    m.ended = (Blipren__Ended)BLIPREN__ENDED__INIT;
    m.ended.applied_step = 12;
    m.ended.n_probe_hash = 2;
    m.ended.probe_hash = m.samples;
    m.ended.probe_error = (char *)"no such file";
    m.rendezvous = (Blipren__Rendezvous)BLIPREN__RENDEZVOUS__INIT;
    m.rendezvous.key = (char *)"3/rank_0";
    m.rendezvous.value = (ProtobufCBinaryData){sizeof digest, digest};
    m.store = (Blipren__Store)BLIPREN__STORE__INIT;
    m.entries[0] = &m.rendezvous;
    m.store.entry = m.entries;
    m.store.n_entry = 1;
    m.formed = (Blipren__Formed)BLIPREN__FORMED__INIT;
    m.received = (Blipren__Received)BLIPREN__RECEIVED__INIT;
    m.received.kind = BLIPREN__KIND__KIND_TRAIN;
    m.consumed = (Blipren__Consumed)BLIPREN__CONSUMED__INIT;
    m.consumed.kind = BLIPREN__KIND__KIND_VALIDATE;
    m.broken = (Blipren__Broken)BLIPREN__BROKEN__INIT;
    m.broken.n_unreached = 3;
    m.broken.unreached = m.epochs;
    m.saved = (Blipren__Saved)BLIPREN__SAVED__INIT;
    m.saved.folder = (char *)"step-000100-g3";
    m.goodbye = (Blipren__Goodbye)BLIPREN__GOODBYE__INIT;
}

static void make_reports(void)
{
    m.range = (Blipren__Range)BLIPREN__RANGE__INIT;
    m.range.count = 64;
    m.ranges[0] = &m.range;
    m.numbers[0] = 0.25;
    m.numbers[1] = 0.75;
    m.report = (Blipren__Report)BLIPREN__REPORT__INIT;
    m.report.step = 7;
    m.report.nll_sum = 12.5;
    m.report.n_trained = 1;
    m.report.trained = m.ranges;
    m.report.n_expert_share = 2;
    m.report.expert_share = m.numbers;
    m.caption = (Blipren__Caption)BLIPREN__CAPTION__INIT;
    m.caption.text = (char *)"zwei rote Kreise \xf0\x9f\x94\xb4";
    m.captions[0] = &m.caption;
    m.validation = (Blipren__Validation)BLIPREN__VALIDATION__INIT;
    m.validation.n_captions = 1;
    m.validation.captions = m.captions;
    m.completed = (Blipren__Completed)BLIPREN__COMPLETED__INIT;
    m.completed.kind = BLIPREN__KIND__KIND_TRAIN;
    for (uint32_t i = 0; i < 2; i++) {
        m.voids[i] = (Blipren__VoidSlot)BLIPREN__VOID_SLOT__INIT;
        m.voids[i].slot = 3 + i;
        m.voids[i].reason = (char *)"truncated";
        m.void_list[i] = &m.voids[i];
    }
    m.voids[1].unreadable = true;
    m.completed.n_voids = 2;
    m.completed.voids = m.void_list;
}

static void make_coordinators(void)
{
    m.welcome = (Blipren__Welcome)BLIPREN__WELCOME__INIT;
    m.welcome.run_folder = (char *)"/runs/1";
    m.welcome.kind = BLIPREN__KIND__KIND_TRAIN;
    m.welcome.patience_ms = 10000;
    m.welcome.n_probe = 2;
    m.welcome.probe = m.samples;
    m.refuse = (Blipren__Refuse)BLIPREN__REFUSE__INIT;
    m.pulse = (Blipren__Pulse)BLIPREN__PULSE__INIT;
    m.end = (Blipren__End)BLIPREN__END__INIT;
    m.form = (Blipren__Form)BLIPREN__FORM__INIT;
    m.form.rank = 1;
    m.form.world = 2;
    m.form.source = -1;
    m.assignment = (Blipren__Assignment)BLIPREN__ASSIGNMENT__INIT;
    m.assignment.kind = BLIPREN__KIND__KIND_TRAIN;
    m.assignment.n_sample = m.assignment.n_epoch = 3;
    m.samples[1] = UINT64_MAX;
    m.assignment.sample = m.samples;
    m.assignment.epoch = m.epochs;
    m.assignment.worker = 9;
    m.assignment.endpoint = (char *)"tcp://127.0.0.1:4000";
    m.save = (Blipren__Save)BLIPREN__SAVE__INIT;
    m.save.folder = (char *)"step-000100-g3";
    m.stop = (Blipren__Stop)BLIPREN__STOP__INIT;
}

static void make_files(void)
{
    static uint8_t bytes[] = "bytes of a file";
    m.fetch = (Blipren__Fetch)BLIPREN__FETCH__INIT;
    m.fetch.token = (ProtobufCBinaryData){BL_TOKEN_BYTES, digest};
    m.fetch.file = (char *)"dataset.index";
    m.put = (Blipren__Put)BLIPREN__PUT__INIT;
    m.put.token = (ProtobufCBinaryData){BL_TOKEN_BYTES, digest};
    m.put.checkpoint = (char *)"step-000100-g3";
    m.put.file = (char *)"qformer.safetensors";
    m.put.size = sizeof bytes;
    m.put.data = (ProtobufCBinaryData){sizeof bytes, bytes};
    m.piece = (Blipren__Piece)BLIPREN__PIECE__INIT;
    m.piece.file = (char *)"dataset.index";
    m.piece.size = sizeof bytes;
    m.piece.sha256 = (ProtobufCBinaryData){sizeof digest, digest};
    m.piece.data = (ProtobufCBinaryData){sizeof bytes, bytes};
    m.kept = (Blipren__Kept)BLIPREN__KEPT__INIT;
    m.kept.checkpoint = (char *)"step-000100-g3";
    m.kept.kept = 9;
}

static void make_header(void)
{
    m.header = (Blipren__BatchHeader)BLIPREN__BATCH_HEADER__INIT;
    m.header.version = BL_PROTOCOL_VERSION;
    m.header.run = (ProtobufCBinaryData){sizeof run, run};
    m.header.kind = BLIPREN__KIND__KIND_TRAIN;
    m.header.worker = 9;
    m.header.image_side = 224;
    for (int i = 0; i < 2; i++) {
        m.slots[i] = (Blipren__Slot)BLIPREN__SLOT__INIT;
        m.slot_list[i] = &m.slots[i];
    }
    m.slots[0].tokens = 9;
    m.slots[0].prefix = m.slots[0].label_first = 3;
    m.slots[1].bad = true;
    m.header.n_slots = 2;
    m.header.slots = m.slot_list;
}

static int make_all(void **state)
{
    memset(&m, 0, sizeof m);
    m.envelope = (Blipren__Envelope)BLIPREN__ENVELOPE__INIT;
    m.envelope.version = BL_PROTOCOL_VERSION;
    m.envelope.run = (ProtobufCBinaryData){sizeof run, run};
    m.envelope.peer = 42;
    m.envelope.generation = 3;
    make_peers();
    make_reports();
    make_coordinators();
    make_files();
    make_header();
    return 0;
}

static const struct {
    Blipren__Envelope__BodyCase body;
    void *message;
    const char *name;
} bodies[] = {
    {BLIPREN__ENVELOPE__BODY_HELLO, &m.hello, "hello"},
    {BLIPREN__ENVELOPE__BODY_BEAT, &m.beat, "beat"},
    {BLIPREN__ENVELOPE__BODY_ENDED, &m.ended, "ended"},
    {BLIPREN__ENVELOPE__BODY_RENDEZVOUS, &m.rendezvous, "rendezvous"},
    {BLIPREN__ENVELOPE__BODY_FORMED, &m.formed, "formed"},
    {BLIPREN__ENVELOPE__BODY_RECEIVED, &m.received, "received"},
    {BLIPREN__ENVELOPE__BODY_CONSUMED, &m.consumed, "consumed"},
    {BLIPREN__ENVELOPE__BODY_REPORT, &m.report, "report"},
    {BLIPREN__ENVELOPE__BODY_VALIDATION, &m.validation, "validation"},
    {BLIPREN__ENVELOPE__BODY_BROKEN, &m.broken, "broken"},
    {BLIPREN__ENVELOPE__BODY_SAVED, &m.saved, "saved"},
    {BLIPREN__ENVELOPE__BODY_COMPLETED, &m.completed, "completed"},
    {BLIPREN__ENVELOPE__BODY_GOODBYE, &m.goodbye, "goodbye"},
    {BLIPREN__ENVELOPE__BODY_WELCOME, &m.welcome, "welcome"},
    {BLIPREN__ENVELOPE__BODY_REFUSE, &m.refuse, "refuse"},
    {BLIPREN__ENVELOPE__BODY_PULSE, &m.pulse, "pulse"},
    {BLIPREN__ENVELOPE__BODY_END, &m.end, "end"},
    {BLIPREN__ENVELOPE__BODY_FORM, &m.form, "form"},
    {BLIPREN__ENVELOPE__BODY_ASSIGNMENT, &m.assignment, "assignment"},
    {BLIPREN__ENVELOPE__BODY_SAVE, &m.save, "save"},
    {BLIPREN__ENVELOPE__BODY_STOP, &m.stop, "stop"},
    {BLIPREN__ENVELOPE__BODY_STORE, &m.store, "store"},
    {BLIPREN__ENVELOPE__BODY_FETCH, &m.fetch, "fetch"},
    {BLIPREN__ENVELOPE__BODY_PUT, &m.put, "put"},
    {BLIPREN__ENVELOPE__BODY_PIECE, &m.piece, "piece"},
    {BLIPREN__ENVELOPE__BODY_KEPT, &m.kept, "kept"},
};
#define BODIES (sizeof bodies / sizeof *bodies)

static void pack_body(size_t i, uint8_t **ret, size_t *ret_size)
{
    m.envelope.body_case = bodies[i].body;
    m.envelope.hello = bodies[i].message; /* one union: any member will do */
    wire_pack(&m.envelope, ret, ret_size);
}

/* -- what is packed comes back ---------------------------------------------------------------- */

static void every_message_comes_back_byte_for_byte(void **state)
{
    for (size_t i = 0; i < BODIES; i++) {
        struct bl_error err;
        bl_autofree uint8_t *data = NULL, *again = NULL;
        size_t size, again_size;
        Blipren__Envelope *e;
        pack_body(i, &data, &size);
        assert_ok(wire_unpack(data, size, &e, &err), err);
        assert_string_equal(wire_body_name(e), bodies[i].name);
        wire_pack(e, &again, &again_size);
        assert_int_equal(size, again_size);
        assert_memory_equal(data, again, size);
        wire_envelope_free(&e);
        assert_null(e);
    }
}

static void an_assignments_and_a_headers_values_survive(void **state)
{
    struct bl_error err;
    bl_autofree uint8_t *data = NULL, *header = NULL;
    size_t size, header_size;
    Blipren__Envelope *e;
    Blipren__BatchHeader *h;
    pack_body(18, &data, &size);
    assert_ok(wire_unpack(data, size, &e, &err), err);
    assert_true(e->generation == 3 && e->peer == 42);
    assert_memory_equal(e->run.data, run, sizeof run);
    assert_int_equal(e->assignment->n_sample, 3);
    assert_true(e->assignment->sample[1] == UINT64_MAX);
    assert_string_equal(e->assignment->endpoint, "tcp://127.0.0.1:4000");
    wire_envelope_free(&e);
    wire_pack_header(&m.header, &header, &header_size);
    assert_ok(wire_unpack_header(header, header_size, &h, &err), err);
    assert_int_equal(h->n_slots, 2);
    assert_int_equal(h->slots[0]->label_first, 3);
    assert_true(h->slots[1]->bad);
    wire_header_free(&h);
    assert_null(h);
}

/* The largest honest messages stay below the frame's limit and the memory's. */
static void the_largest_micro_batch_fits_into_a_message(void **state)
{
    struct bl_error err;
    bl_autofree Blipren__Slot *slots = calloc(BL_MICRO_BATCH_SLOTS_MAX, sizeof *slots);
    bl_autofree Blipren__Slot **list = calloc(BL_MICRO_BATCH_SLOTS_MAX, sizeof *list);
    bl_autofree uint64_t *samples = calloc(BL_MICRO_BATCH_SLOTS_MAX, sizeof *samples);
    bl_autofree uint32_t *epochs = calloc(BL_MICRO_BATCH_SLOTS_MAX, sizeof *epochs);
    bl_autofree uint8_t *data = NULL, *again = NULL;
    size_t size;
    Blipren__BatchHeader *h;
    Blipren__Envelope *e;
    for (int i = 0; i < BL_MICRO_BATCH_SLOTS_MAX; i++) {
        slots[i] = (Blipren__Slot)BLIPREN__SLOT__INIT;
        slots[i].sample = samples[i] = UINT64_MAX;
        slots[i].tokens = BL_CAPTION_TOKENS_MAX;
        slots[i].prefix = slots[i].label_first = BL_CAPTION_TOKENS_MAX - 1;
        slots[i].image_hash = UINT64_MAX;
        epochs[i] = UINT32_MAX;
        list[i] = &slots[i];
    }
    m.header.n_slots = BL_MICRO_BATCH_SLOTS_MAX;
    m.header.slots = list;
    wire_pack_header(&m.header, &data, &size);
    assert_true(size <= BL_HEADER_BYTES_MAX);
    assert_ok(wire_unpack_header(data, size, &h, &err), err);
    wire_header_free(&h);
    m.assignment.n_sample = m.assignment.n_epoch = BL_MICRO_BATCH_SLOTS_MAX;
    m.assignment.sample = samples;
    m.assignment.epoch = epochs;
    pack_body(18, &again, &size);
    assert_ok(wire_unpack(again, size, &e, &err), err);
    wire_envelope_free(&e);
}

/* Else fuzzing would start from bytes that are refused at once. */
/* 256 captions of 1024 tokens have a megabyte: what does not fit is left out, from the end. */
static void a_validation_takes_as_many_captions_as_a_message_has_room_for(void **state)
{
    enum { COUNT = 256 };
    static Blipren__Caption captions[COUNT];
    static Blipren__Caption *list[COUNT];
    static char text[4097];
    static double weights[BL_EXPERTS_MAX];
    struct bl_error err;
    Blipren__Envelope *back;
    uint8_t *data;
    size_t size;
    memset(text, 'a', sizeof text - 1);
    for (int i = 0; i < COUNT; i++) {
        captions[i] = (Blipren__Caption)BLIPREN__CAPTION__INIT;
        captions[i].sample = UINT64_MAX;
        captions[i].text = text;
        captions[i].ended = true;
        list[i] = &captions[i];
    }
    size_t fit = wire_captions_fit(list, COUNT);
    assert_in_range(fit, 60, COUNT - 1);
    m.validation.n_captions = fit;
    m.validation.captions = list;
    m.validation.n_expert_weight = BL_EXPERTS_MAX;
    m.validation.expert_weight = weights;
    m.validation.step = m.validation.tokens = m.validation.correct = UINT64_MAX;
    m.envelope.body_case = BLIPREN__ENVELOPE__BODY_VALIDATION;
    m.envelope.validation = &m.validation;
    wire_pack(&m.envelope, &data, &size);
    assert_ok(wire_unpack(data, size, &back, &err), err);
    wire_envelope_free(&back);
    free(data);
    assert_int_equal(wire_captions_fit(list, 8), 8);
}

static void every_message_has_honest_seeds_in_the_fuzz_corpus(void **state)
{
    char folder[512], path[1024];
    bool headers = false, seeds[BODIES] = {false};
    snprintf(folder, sizeof folder, "%s/tests/fuzz/corpus/proto", getenv("BLIPREN_SOURCE"));
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        struct bl_error err;
        bl_autofree char *data = NULL;
        size_t size;
        Blipren__Envelope *e;
        Blipren__BatchHeader *h;
        if (strncmp(entry->d_name, "seed-", 5) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        assert_ok(bl_file_read(path, 1 << 20, &data, &size, &err), err);
        if (data[0]) {
            assert_ok(wire_unpack_header(data + 1, size - 1, &h, &err), err);
            wire_header_free(&h);
            headers = true;
        } else {
            assert_ok(wire_unpack(data + 1, size - 1, &e, &err), err);
            for (size_t i = 0; i < BODIES; i++)
                seeds[i] |= e->body_case == bodies[i].body;
            wire_envelope_free(&e);
        }
    }
    closedir(d);
    assert_true(headers);
    for (size_t i = 0; i < BODIES; i++)
        if (!seeds[i])
            fail_msg("no seed for %s; add one to tests/fuzz/seeds.py", bodies[i].name);
    /* and `bodies` has all that there are, beside the envelope's own five fields */
    assert_int_equal(BODIES, blipren__envelope__descriptor.n_fields - 5);
}

/* -- what is wrong is named ------------------------------------------------------------------- */

static void refused(const void *data, size_t size, bool header, const char *expected)
{
    struct bl_error err;
    char line[1600];
    Blipren__Envelope *e = NULL;
    Blipren__BatchHeader *h = NULL;
    int rc = header ? wire_unpack_header(data, size, &h, &err) : wire_unpack(data, size, &e, &err);
    assert_int_equal(rc, -BL_EPROTO);
    assert_true(!e && !h);
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line, expected);
}

/* Packs body i as it stands now, and makes it honest again. */
static void body_refused(Blipren__Envelope__BodyCase body, const char *expected)
{
    bl_autofree uint8_t *data = NULL;
    size_t size, i = 0;
    while (bodies[i].body != body)
        i++;
    pack_body(i, &data, &size);
    refused(data, size, false, expected);
    make_all(NULL);
}

static void header_refused(const char *expected)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    wire_pack_header(&m.header, &data, &size);
    refused(data, size, true, expected);
    make_all(NULL);
}

static void a_wrong_envelope_is_refused(void **state)
{
    m.envelope.run.len = 15;
    body_refused(BLIPREN__ENVELOPE__BODY_PULSE, "Envelope.run: expected 16 bytes, found 15");
    m.envelope.peer = 0;
    body_refused(BLIPREN__ENVELOPE__BODY_PULSE, "Envelope.peer: expected an incarnation, found 0");
    m.envelope.version = 9;
    body_refused(BLIPREN__ENVELOPE__BODY_PULSE,
                 "Envelope.version: expected version 1, found 9; install the same version of "
                 "BLIPren on every host");
    bl_autofree uint8_t *data = NULL;
    size_t size;
    m.envelope.body_case = BLIPREN__ENVELOPE__BODY__NOT_SET;
    wire_pack(&m.envelope, &data, &size);
    refused(data, size, false, "expected a body, found none");
}

static void a_hello_of_another_version_is_given_out_to_be_answered(void **state)
{
    struct bl_error err;
    bl_autofree uint8_t *data = NULL;
    size_t size;
    Blipren__Envelope *e;
    m.envelope.version = 2;
    m.hello.capacity = UINT32_MAX;
    pack_body(0, &data, &size);
    assert_ok(wire_unpack(data, size, &e, &err), err);
    assert_int_equal(e->version, 2);
    wire_envelope_free(&e);
}

static void wrong_fields_of_peers_are_named(void **state)
{
    static char long_text[600];
    memset(long_text, 'x', sizeof long_text - 1);
    m.hello.role = BLIPREN__ROLE__ROLE_NONE;
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO, "Hello.role: expected WORKER or LOADER");
    m.hello.role = (Blipren__Role)99;
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO,
                 "Hello.role: expected one of the names of Role, found number 99");
    m.hello.name = long_text;
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO,
                 "Hello.name: expected a text below 128 bytes, found 599");
    m.hello.build = (char *)"\xff";
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO, "Hello.build: expected UTF-8");
    m.hello.build = (char *)"\xed\xa0\x80"; /* half of a surrogate pair */
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO, "Hello.build: expected UTF-8");
    m.hello.data_endpoint = (char *)"ipc://x";
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO,
                 "Hello.data_endpoint: expected an address like tcp://127.0.0.1:5555, found "
                 "\"ipc://x\"");
    m.hello.applied_step = -2;
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO,
                 "Hello.applied_step: expected -1 to 9223372036854775807, found -2");
    m.hello.state_digest.len = 31;
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO,
                 "Hello.state_digest: expected 0 or 32 bytes, found 31");
    m.hello.role = BLIPREN__ROLE__ROLE_LOADER;
    body_refused(BLIPREN__ENVELOPE__BODY_HELLO, "Hello.capacity: expected 1 to 256, found 0");
    m.received.kind = BLIPREN__KIND__KIND_NONE;
    body_refused(BLIPREN__ENVELOPE__BODY_RECEIVED,
                 "Received.kind: expected TRAIN, VALIDATE or EMBED");
    m.saved.folder = (char *)"../../etc";
    body_refused(BLIPREN__ENVELOPE__BODY_SAVED,
                 "Saved.folder: expected a folder's name, found \"../../etc\"");
    m.voids[1].slot = 3;
    body_refused(BLIPREN__ENVELOPE__BODY_COMPLETED,
                 "Completed.voids.slot: expected 4 to 4095, found 3");
    m.epochs[2] = 1024;
    body_refused(BLIPREN__ENVELOPE__BODY_BROKEN,
                 "Broken.unreached: expected 0 to 1023, found 1024");
    m.ended.n_probe_hash = 17;
    m.ended.probe_hash = m.many;
    body_refused(BLIPREN__ENVELOPE__BODY_ENDED, "Ended.probe_hash: expected 0 to 16, found 17");
    m.welcome.n_probe = 17;
    m.welcome.probe = m.many;
    body_refused(BLIPREN__ENVELOPE__BODY_WELCOME, "Welcome.probe: expected 0 to 16, found 17");
    m.voids[1].reason = (char *)"\xc3";
    body_refused(BLIPREN__ENVELOPE__BODY_COMPLETED, "VoidSlot.reason: expected UTF-8");
    m.range.first = 1 << 20;
    body_refused(BLIPREN__ENVELOPE__BODY_REPORT, "Report.trained.count: expected 0 to 0, found 64");
    m.report.compute_s = -1;
    body_refused(BLIPREN__ENVELOPE__BODY_REPORT, "Report.compute_s: expected seconds, found -1");
    m.caption.text = (char *)"\x80";
    body_refused(BLIPREN__ENVELOPE__BODY_VALIDATION, "Caption.text: expected UTF-8");
}

static void wrong_fields_of_a_coordinator_are_named(void **state)
{
    m.welcome.run_folder = (char *)"runs/1";
    body_refused(BLIPREN__ENVELOPE__BODY_WELCOME,
                 "Welcome.run_folder: expected an absolute path, found \"runs/1\"");
    m.welcome.patience_ms = 10;
    body_refused(BLIPREN__ENVELOPE__BODY_WELCOME,
                 "Welcome.patience_ms: expected 60 to 86400000, found 10");
    m.form.world = 0;
    body_refused(BLIPREN__ENVELOPE__BODY_FORM, "Form.world: expected 1 to 1024, found 0");
    m.form.rank = 2;
    body_refused(BLIPREN__ENVELOPE__BODY_FORM, "Form.rank: expected 0 to 1, found 2");
    m.form.source = 2;
    body_refused(BLIPREN__ENVELOPE__BODY_FORM, "Form.source: expected -1 to 1, found 2");
    m.form.checkpoint = (char *)"..";
    body_refused(BLIPREN__ENVELOPE__BODY_FORM,
                 "Form.checkpoint: expected a folder's name, found \"..\"");
    m.assignment.n_epoch = 2;
    body_refused(BLIPREN__ENVELOPE__BODY_ASSIGNMENT, "Assignment.epoch: expected 3 to 3, found 2");
    m.assignment.n_sample = m.assignment.n_epoch = 0;
    body_refused(BLIPREN__ENVELOPE__BODY_ASSIGNMENT,
                 "Assignment.sample: expected 1 to 4096, found 0");
    m.assignment.worker = 0;
    body_refused(BLIPREN__ENVELOPE__BODY_ASSIGNMENT,
                 "Assignment.worker: expected an incarnation, found 0");
    m.save.folder = (char *)"";
    body_refused(BLIPREN__ENVELOPE__BODY_SAVE, "Save.folder: expected a folder's name, found \"\"");
}

static void wrong_fields_of_files_are_named(void **state)
{
    m.fetch.token.len = 15;
    body_refused(BLIPREN__ENVELOPE__BODY_FETCH, "Fetch.token: expected 16 bytes, found 15");
    m.fetch.file = (char *)"../config.yaml";
    body_refused(BLIPREN__ENVELOPE__BODY_FETCH,
                 "Fetch.file: expected a folder's name, found \"../config.yaml\"");
    m.put.checkpoint = (char *)"";
    body_refused(BLIPREN__ENVELOPE__BODY_PUT,
                 "Put.checkpoint: expected a folder's name, found \"\"");
    m.put.offset = 1;
    body_refused(BLIPREN__ENVELOPE__BODY_PUT,
                 "Put.data: expected at most 131072 bytes inside of the file, found 16 at 1 of 16");
    m.piece.size = 15;
    body_refused(
        BLIPREN__ENVELOPE__BODY_PIECE,
        "Piece.data: expected at most 131072 bytes inside of the file, found 16 at 0 of 15");
    m.piece.sha256.len = 31;
    body_refused(BLIPREN__ENVELOPE__BODY_PIECE, "Piece.sha256: expected 0 or 32 bytes, found 31");
    m.kept.checkpoint = (char *)"/tmp";
    body_refused(BLIPREN__ENVELOPE__BODY_KEPT,
                 "Kept.checkpoint: expected a folder's name, found \"/tmp\"");
}

static void wrong_fields_of_a_header_are_named(void **state)
{
    m.header.run.len = 0;
    header_refused("BatchHeader.run: expected 16 bytes, found 0");
    m.header.kind = BLIPREN__KIND__KIND_NONE;
    header_refused("BatchHeader.kind: expected TRAIN, VALIDATE or EMBED");
    m.header.image_side = 0;
    header_refused("BatchHeader.image_side: expected 1 to 16384, found 0");
    m.header.n_slots = 0;
    header_refused("BatchHeader.slots: expected 1 to 4096, found 0");
    m.header.first = UINT32_MAX;
    header_refused("BatchHeader.first: expected 0 to 2147479551, found 4294967295");
    m.slots[0].tokens = 0;
    header_refused("Slot.tokens: expected 1 to 16384, found 0");
    m.slots[0].tokens = UINT32_MAX;
    header_refused("Slot.tokens: expected 1 to 16384, found 4294967295");
    m.slots[0].label_first = 9;
    header_refused("Slot.label_first: expected 0 to 8, found 9");
    m.slots[0].label_end = 10;
    header_refused("Slot.label_end: expected 4 to 9, found 10");
    m.slots[0].label_end = 3;
    header_refused("Slot.label_end: expected 4 to 9, found 3");
    m.slots[0].prefix = 9;
    header_refused("Slot.prefix: expected 0 to 8, found 9");
    m.slots[1].tokens = 1;
    header_refused("Slot.tokens: expected 0 to 0, found 1");
}

static void bytes_that_packing_would_not_give_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *expected;
    } ends[] = {
        {"\x20\x2b", 2, "a field twice, a number written too long or a NUL in a text of Envelope"},
        {"\x98\x06\x01", 3,
         "Envelope: found field number 99, which is not supported by this version"},
        {"\x08", 1, "%zu bytes are no message of this protocol"},
    };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        bl_autofree uint8_t *data = NULL;
        char expected[200];
        size_t size;
        pack_body(15, &data, &size);
        bl_autofree uint8_t *longer = malloc(size + ends[i].size);
        memcpy(longer, data, size);
        memcpy(longer + size, ends[i].bytes, ends[i].size);
        if (i == 2)
            snprintf(expected, sizeof expected, "%zu bytes are no message of this protocol",
                     size + 1);
        else
            snprintf(expected, sizeof expected, "%s", ends[i].expected);
        refused(longer, size + ends[i].size, false, expected);
    }
}

static void a_text_with_a_nul_inside_is_refused(void **state)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    pack_body(0, &data, &size);
    uint8_t *name = memmem(data, size, "rechner", 7);
    assert_non_null(name);
    name[3] = 0;
    refused(data, size, false,
            "a field twice, a number written too long or a NUL in a text of Envelope");
}

static void a_message_over_the_limit_is_not_looked_at(void **state)
{
    bl_autofree uint8_t *data = calloc(1, BL_HEADER_BYTES_MAX + 1);
    refused(data, BL_HEADER_BYTES_MAX + 1, false,
            "expected a message of at most 262144 bytes, found 262145");
    refused(data, BL_HEADER_BYTES_MAX + 1, true,
            "expected a header of at most 262144 bytes, found 262145");
}

/* A quarter of a megabyte of empty sub-messages: the worst that protobuf allows, and bounded. */
static void small_bytes_cannot_take_much_memory(void **state)
{
    size_t size = BL_HEADER_BYTES_MAX & ~(size_t)1;
    bl_autofree uint8_t *data = malloc(size);
    struct bl_error err;
    Blipren__BatchHeader *h;
    for (size_t i = 0; i < size; i += 2) {
        data[i] = 10 << 3 | 2; /* slots, of no bytes */
        data[i + 1] = 0;
    }
    assert_int_equal(wire_unpack_header(data, size, &h, &err), -BL_EPROTO);
    assert_null(h);
}

/* Each byte cut off, and random bytes changed: nothing but 0 or a named failure comes out. */
static void damaged_bytes_are_refused_or_honest(void **state)
{
    uint64_t seed = 20250601;
    for (size_t i = 0; i < BODIES; i++) {
        bl_autofree uint8_t *data = NULL, *copy = NULL;
        size_t size;
        pack_body(i, &data, &size);
        copy = malloc(size);
        for (size_t n = 0; n < size + 1000; n++) {
            struct bl_error err = {0};
            Blipren__Envelope *e;
            size_t length = n < size ? n : size;
            uint32_t draw[4];
            memcpy(copy, data, size);
            bl_draw(seed, BL_RANDOM_SAMPLING, i, n, draw);
            if (n >= size)
                for (uint32_t flips = 0; flips <= draw[0] % 4; flips++)
                    copy[(draw[1] >> flips) % size] ^= (uint8_t)(1u << (draw[2] >> 3 * flips) % 8);
            int rc = wire_unpack(copy, length, &e, &err);
            if (rc == 0) {
                wire_envelope_free(&e);
                continue;
            }
            assert_int_equal(rc, -BL_EPROTO);
            assert_true(e == NULL && err.text[0]);
        }
    }
}

static void texts_of_the_system_become_fit_for_a_message(void **state)
{
    char text[] = "a\xff\xc3\xa4\xed\xa0\x80z\xe2\x82", plain[] = "grün", empty[] = "";
    wire_text(text);
    assert_string_equal(text, "a?\xc3\xa4???z?");
    wire_text(plain);
    assert_string_equal(plain, "grün");
    wire_text(empty);
    assert_string_equal(empty, "");
}

static void routing_ids_differ_by_connection_and_start_with_no_zero(void **state)
{
    struct wire_id a = wire_id_make(256, 1), b = wire_id_make(256, 2), c = wire_id_make(512, 1);
    assert_true(a.bytes[0] != 0);
    assert_memory_not_equal(a.bytes, b.bytes, sizeof a.bytes);
    assert_memory_not_equal(a.bytes, c.bytes, sizeof a.bytes);
    assert_true(wire_incarnation() != 0);
    assert_true(wire_incarnation() != wire_incarnation());
}

#define WIRE_TEST(name) cmocka_unit_test_setup(name, make_all)

UNIT_MAIN(WIRE_TEST(every_message_comes_back_byte_for_byte),
          WIRE_TEST(an_assignments_and_a_headers_values_survive),
          WIRE_TEST(a_validation_takes_as_many_captions_as_a_message_has_room_for),
          WIRE_TEST(the_largest_micro_batch_fits_into_a_message),
          WIRE_TEST(every_message_has_honest_seeds_in_the_fuzz_corpus),
          WIRE_TEST(a_wrong_envelope_is_refused),
          WIRE_TEST(a_hello_of_another_version_is_given_out_to_be_answered),
          WIRE_TEST(wrong_fields_of_peers_are_named),
          WIRE_TEST(wrong_fields_of_a_coordinator_are_named),
          WIRE_TEST(wrong_fields_of_files_are_named), WIRE_TEST(wrong_fields_of_a_header_are_named),
          WIRE_TEST(bytes_that_packing_would_not_give_are_refused),
          WIRE_TEST(a_text_with_a_nul_inside_is_refused),
          WIRE_TEST(a_message_over_the_limit_is_not_looked_at),
          WIRE_TEST(small_bytes_cannot_take_much_memory),
          WIRE_TEST(damaged_bytes_are_refused_or_honest),
          WIRE_TEST(texts_of_the_system_become_fit_for_a_message),
          WIRE_TEST(routing_ids_differ_by_connection_and_start_with_no_zero))
