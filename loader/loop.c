/* loader/loop.c - events from sockets, threads and clock into loader/core.h, its actions back out. */
#include "loader/loop.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/progress.h"
#include "common/data/run.h"
#include "loader/core.h"
#include "loader/fetch.h"
#include "loader/outbox.h"
#include "proto/member.h"

/* An assignment in a slot of the core, from ACCEPT to COMPLETED or DISCARD. */
struct assignment {
    uint64_t *samples;
    uint32_t *epochs;
    uint64_t *missing; /* of the samples: known to be void on every host */
    size_t missing_count;
    bool rows;     /* wanted: those of the feature cache */
    bool withheld; /* made, and not to be shipped */
    uint32_t count, first;
    char endpoint[SOCKET_ENDPOINT_MAX];
    struct fetch_micro_batch *micro_batch; /* once it is made; held */
    struct outbox_message message;
    char error[256]; /* why it cannot be shipped; empty: it can */
};

struct loop {
    const struct loader_options *options;
    struct member member;
    struct outboxes *outboxes;

    struct loader *core;
    struct fetch *fetch;
    uint32_t threads, capacity, slot_count;
    struct assignment *assignments;     /* (slot_count) */
    const Blipren__Assignment *handled; /* the message being handled */

    struct assignment *failed;          /* the one that has just got its error */
    char unusable[SOCKET_ENDPOINT_MAX]; /* the last endpoint of which a line was logged */
    char probe_error[512];              /* why an image of the last probe could not be read */
    bool data_open;
};

/* -- messages out ----------------------------------------------------------------------------- */

static void send_hello(struct loop *l)
{
    Blipren__Hello hello = BLIPREN__HELLO__INIT;
    hello.applied_step = -1;
    hello.capacity = l->capacity;
    member_hello(&l->member, &hello);
}

static void send_ended(struct loop *l, const struct loader_action *a)
{
    Blipren__Ended ended = BLIPREN__ENDED__INIT;
    uint32_t count;
    const uint64_t *hashes = fetch_probe_hashes(l->fetch, &count);
    ended.applied_step = -1;
    ended.n_probe_hash = count;
    ended.probe_hash = (uint64_t *)(uintptr_t)hashes;
    ended.probe_error = l->probe_error;
    ended.needs_files = !fetch_sees_run(l->fetch);
    const char *vision, *llm;
    fetch_models(l->fetch, &vision, &llm);
    ended.vision_sha256 = (char *)(uintptr_t)vision;
    ended.llm_sha256 = (char *)(uintptr_t)llm;
    WIRE_ENVELOPE(e, ENDED, ended) = &ended;
    member_send(&l->member, a->generation, &e);
}

/* What it waits for: an image that takes long is told by name. */
static void describe_waiting(struct loop *l, char *ret, size_t size)
{
    enum { LONG_MS = 2000 };
    struct loader_status status = loader_status(l->core);
    char name[BL_BEAT_WAITING_MAX / 2];
    uint64_t ms;
    if (!status.making)
        snprintf(ret, size, "%s", status.shipping ? "workers" : "assignments");
    else if (fetch_slowest(l->fetch, name, sizeof name, &ms) && ms >= LONG_MS)
        snprintf(ret, size, "image %s for %" PRIu64 " s", name, ms / 1000);
    else
        ret[0] = 0;
    wire_text(ret);
}

static void send_beat(struct loop *l, const struct loader_action *a)
{
    char waiting[BL_BEAT_WAITING_MAX];
    describe_waiting(l, waiting, sizeof waiting);
    Blipren__Beat beat = BLIPREN__BEAT__INIT;
    beat.phase = (char *)(l->data_open ? "load" : "open");
    beat.waiting = waiting;
    beat.progress = bl_progress();
    WIRE_ENVELOPE(e, BEAT, beat) = &beat;
    member_send(&l->member, a->generation, &e);
}

/* Reasons share half of what a message may hold. */
static void fill_voids(const struct fetch_micro_batch *g, Blipren__VoidSlot *voids, size_t count)
{
    size_t room = BL_HEADER_BYTES_MAX / 2 / (count ? count : 1), n = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        struct fetch_slot *slot = &g->slots[i];
        if (!slot->bad)
            continue;
        if (strlen(slot->reason) >= room) {
            slot->reason[room - 1] = 0;
            wire_text(slot->reason); /* a character may have been cut */
        }
        voids[n] = (Blipren__VoidSlot)BLIPREN__VOID_SLOT__INIT;
        voids[n].slot = i;
        voids[n].sample = slot->sample;
        voids[n].unreadable = slot->unreadable;
        voids[n].asked = slot->asked;
        voids[n++].reason = slot->reason;
    }
}

static size_t fill_damaged(const struct fetch_micro_batch *g, uint64_t *samples)
{
    size_t n = 0;
    for (uint32_t i = 0; i < g->count; i++)
        if (g->slots[i].damaged)
            samples[n++] = g->slots[i].sample;
    return n;
}

static void send_completed(struct loop *l, const struct loader_action *a)
{
    struct assignment *o = &l->assignments[a->assignment.slot];
    const struct fetch_micro_batch *g =
        a->assignment.shipped || o->withheld ? o->micro_batch : NULL;
    size_t count = g ? g->count - g->good : 0;
    bl_autofree Blipren__VoidSlot *voids = calloc(count + 1, sizeof *voids);
    bl_autofree Blipren__VoidSlot **list = calloc(count + 1, sizeof *list);
    bl_autofree uint64_t *damaged = calloc(g ? g->good + 1 : 1, sizeof *damaged);
    BL_ASSERT(voids && list && damaged);
    if (g)
        fill_voids(g, voids, count);
    for (size_t i = 0; i < count; i++)
        list[i] = &voids[i];
    Blipren__Completed completed = BLIPREN__COMPLETED__INIT;
    completed.kind = (Blipren__Kind)a->assignment.kind;
    completed.step = a->assignment.step;
    completed.micro_batch = a->assignment.micro_batch;
    completed.error = o->error;
    completed.withheld = o->withheld;
    completed.n_voids = count;
    completed.voids = list;
    completed.n_damaged = g ? fill_damaged(g, damaged) : 0;
    completed.damaged = damaged;
    WIRE_ENVELOPE(e, COMPLETED, completed) = &completed;
    member_send(&l->member, a->generation, &e);
}

/* -- a micro-batch, as data message ----------------------------------------------------------------- */

static void release_frame(void *data, void *micro_batch)
{
    fetch_micro_batch_release(micro_batch);
}

/* A frame around memory of the micro-batch, which it holds until it is sent or dropped. */
static void wrap(zmq_msg_t *frame, void *data, size_t size, struct fetch_micro_batch *g)
{
    atomic_fetch_add_explicit(&g->holders, 1, memory_order_relaxed);
    if (zmq_msg_init_data(frame, data, size, release_frame, g) == 0)
        return;
    fetch_micro_batch_release(g);
    bl_assert_failed("memory for a frame's head", __FILE__, __LINE__, __func__);
}

static void free_packed(void *data, void *hint)
{
    free(data);
}

static void pack_header(struct loop *l, const struct loader_action *a, const struct assignment *o,
                        zmq_msg_t *frame)
{
    const struct fetch_micro_batch *g = o->micro_batch;
    bl_autofree Blipren__Slot *slots = calloc(g->count, sizeof *slots);
    bl_autofree Blipren__Slot **list = calloc(g->count, sizeof *list);
    BL_ASSERT(slots && list);
    for (uint32_t i = 0; i < g->count; i++) {
        const struct fetch_slot *from = &g->slots[i];
        slots[i] = (Blipren__Slot)BLIPREN__SLOT__INIT;
        slots[i].sample = from->sample;
        slots[i].bad = from->bad;
        slots[i].tokens = from->tokens;
        slots[i].prefix = from->prefix;
        slots[i].label_first = from->label_first;
        slots[i].label_end = from->label_end;
        slots[i].image_hash = from->image_hash;
        list[i] = &slots[i];
    }
    Blipren__BatchHeader header = BLIPREN__BATCH_HEADER__INIT;
    header.version = BL_PROTOCOL_VERSION;
    header.run = (ProtobufCBinaryData){sizeof l->member.run, l->member.run};
    header.generation = a->generation;
    header.worker = a->assignment.worker;
    header.loader = l->member.name;
    header.kind = (Blipren__Kind)a->assignment.kind;
    header.step = a->assignment.step;
    header.micro_batch = a->assignment.micro_batch;
    header.first = o->first;
    header.image_side = fetch_side(l->fetch);
    header.cached = fetch_is_cached(l->fetch) || g->filled;
    header.rows = g->rows;
    header.n_slots = g->count;
    header.slots = list;
    uint8_t *data;
    size_t size;
    wire_pack_header(&header, &data, &size);
    if (zmq_msg_init_data(frame, data, size, free_packed, NULL) != 0)
        bl_assert_failed("memory for a frame's head", __FILE__, __LINE__, __func__);
}

/* One worker's endpoint is no reason to leave the others without data: the coordinator hears why. */
static void cannot_ship(struct loop *l, struct assignment *o, const struct bl_error *why)
{
    wire_frames_close(&o->message.frames);
    snprintf(o->error, sizeof o->error, "%s", why->text);
    wire_text(o->error);
    l->failed = o;
    if (strcmp(l->unusable, o->endpoint) == 0)
        return;
    snprintf(l->unusable, sizeof l->unusable, "%s", o->endpoint);
    bl_log(BL_LOG_WARNING, "cannot ship to a worker: %s; %s", why->text, why->remedy);
}

static bool is_missing(const struct assignment *o, uint64_t sample)
{
    for (size_t i = 0; i < o->missing_count; i++)
        if (o->missing[i] == sample)
            return true;
    return false;
}

/* Is there an image that perhaps only this host cannot read? The coordinator asks another loader first (O8). */
static bool must_withhold(const struct assignment *o, const struct fetch_micro_batch *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        if (g->slots[i].bad && g->slots[i].unreadable && !is_missing(o, g->slots[i].sample))
            return true;
    return false;
}

static void ship(struct loop *l, const struct loader_action *a)
{
    struct assignment *o = &l->assignments[a->assignment.slot];
    struct fetch_micro_batch *g = o->micro_batch;
    struct bl_error err;
    if (must_withhold(o, g)) {
        o->withheld = true;
        l->failed = o;
        return;
    }
    pack_header(l, a, o, &o->message.frames.at[0]);
    wrap(&o->message.frames.at[1], g->images, g->good * g->image_bytes, g);
    wrap(&o->message.frames.at[2], g->ids.ids, g->ids.count * sizeof *g->ids.ids, g);
    o->message.frames.count = 3;
    if (outboxes_add(l->outboxes, o->endpoint, &o->message, uv_now(&l->member.uv), &err) < 0)
        cannot_ship(l, o, &err);
}

/* -- actions ---------------------------------------------------------------------------------- */

static void keep_assignment(struct loop *l, uint32_t slot)
{
    const Blipren__Assignment *m = l->handled;
    struct assignment *o = &l->assignments[slot];
    o->count = (uint32_t)m->n_sample;
    o->first = m->first;
    o->samples = calloc(o->count, sizeof *o->samples);
    o->epochs = calloc(o->count, sizeof *o->epochs);
    BL_ASSERT(o->samples && o->epochs);
    memcpy(o->samples, m->sample, o->count * sizeof *o->samples);
    memcpy(o->epochs, m->epoch, o->count * sizeof *o->epochs);
    o->missing_count = m->n_missing;
    o->missing = calloc(o->missing_count + 1, sizeof *o->missing);
    BL_ASSERT(o->missing);
    if (o->missing_count) /* an empty list is NULL */
        memcpy(o->missing, m->missing, o->missing_count * sizeof *o->missing);
    o->rows = m->rows;
    snprintf(o->endpoint, sizeof o->endpoint, "%s", m->endpoint);
}

/* The slot is free again. */
static void drop_assignment(struct assignment *o)
{
    outboxes_withdraw(&o->message);
    if (o->micro_batch)
        fetch_micro_batch_release(o->micro_batch);
    free(o->samples);
    free(o->epochs);
    free(o->missing);
    *o = (struct assignment){0};
}

static void make(struct loop *l, uint32_t slot)
{
    const struct assignment *o = &l->assignments[slot];
    struct bl_error err;
    const struct fetch_order order = {.slot = slot,
                                      .count = o->count,
                                      .samples = o->samples,
                                      .epochs = o->epochs,
                                      .missing = o->missing,
                                      .missing_count = o->missing_count,
                                      .rows = o->rows};
    if (fetch_make(l->fetch, &order, &err) < 0)
        member_fail(&l->member, &err);
}

static void probe(struct loop *l)
{
    struct bl_error err;
    if (fetch_probe(l->fetch, l->member.probe, l->member.probe_count, &err) < 0)
        member_fail(&l->member, &err);
}

static void carry_out(struct loop *l, const struct loader_action *a)
{
    switch (a->type) {
    case LOADER_ACTION_CONNECT:
        member_connect(&l->member, a->link);
        send_hello(l);
        break;
    case LOADER_ACTION_OPEN:
        fetch_open(l->fetch, l->member.files, l->member.run_folder, l->member.run, l->options->map,
                   l->member.cache_tower);
        break;
    case LOADER_ACTION_PROBE:
        probe(l);
        break;
    case LOADER_ACTION_BEAT:
        send_beat(l, a);
        break;
    case LOADER_ACTION_ENDED:
        send_ended(l, a);
        break;
    case LOADER_ACTION_ACCEPT:
        keep_assignment(l, a->assignment.slot);
        break;
    case LOADER_ACTION_MAKE:
        make(l, a->assignment.slot);
        break;
    case LOADER_ACTION_SHIP:
        ship(l, a);
        break;
    case LOADER_ACTION_COMPLETED:
        send_completed(l, a);
        drop_assignment(&l->assignments[a->assignment.slot]);
        break;
    case LOADER_ACTION_DISCARD:
        drop_assignment(&l->assignments[a->assignment.slot]);
        break;
    case LOADER_ACTION_GOODBYE:
        member_goodbye(&l->member, "done");
        break;
    case LOADER_ACTION_EXIT:
        member_exit(&l->member, a->exit.code, a->exit.text);
        break;
    case LOADER_ACTION_COUNT:
        break;
    }
}

static void step(struct loop *l, struct loader_event *event)
{
    if (l->member.leaving)
        return;
    event->now_ms = uv_now(&l->member.uv);
    const struct loader_actions *actions = loader_step(l->core, event);
    for (uint32_t i = 0; i < actions->count && !l->member.leaving; i++)
        carry_out(l, &actions->list[i]);
}

static void shipped(struct loop *l, const struct assignment *o, bool failed)
{
    struct loader_event event = {.type = LOADER_EVENT_SHIPPED,
                                 .slot = {(uint32_t)(o - l->assignments), failed}};
    if (!failed)
        bl_progress_add(1);
    step(l, &event);
}

/* Ships what the sockets take. */
static void pump(struct loop *l)
{
    struct outbox_message *message;
    while (!l->member.leaving && (message = outboxes_ship(l->outboxes, uv_now(&l->member.uv)))) {
        size_t offset = offsetof(struct assignment, message);
        shipped(l, (const struct assignment *)((const char *)message - offset), false);
    }
}

static void handle(struct loop *l, struct loader_event *event)
{
    step(l, event);
    const struct assignment *failed = bl_take(&l->failed);
    if (failed)
        shipped(l, failed, true);
    pump(l);
}

/* -- messages in ------------------------------------------------------------------------------ */

/* What the core does not look at. */
static int check_assignment(const struct loop *l, const Blipren__Assignment *m,
                            struct bl_error *err)
{
    for (size_t i = 0; l->data_open && i < m->n_sample; i++)
        if (m->sample[i] >= fetch_samples(l->fetch)) {
            bl_fail(err, BL_EPROTO, "expected samples below %" PRIu64 ", found %" PRIu64,
                    fetch_samples(l->fetch), m->sample[i]);
            return bl_error_key(err, "Assignment.sample");
        }
    if (m->rows && l->data_open && !fetch_is_cached(l->fetch)) {
        bl_fail(err, BL_EPROTO, "expected no wish for the feature cache's rows in a run without");
        return bl_error_key(err, "Assignment.rows");
    }
    return 0;
}

static int on_message(void *context, const Blipren__Envelope *m, struct bl_error *err)
{
    struct loop *l = context;
    if (m->body_case != BLIPREN__ENVELOPE__BODY_ASSIGNMENT)
        return bl_fail(err, BL_EPROTO, "a loader expects no %s", wire_body_name(m));
    BL_TRY(check_assignment(l, m->assignment, err));
    struct loader_event event = {.type = LOADER_EVENT_ASSIGNMENT,
                                 .link = l->member.link,
                                 .generation = m->generation,
                                 .epoch = m->epoch,
                                 .assignment = {.kind = (enum bl_kind)m->assignment->kind,
                                                .step = m->assignment->step,
                                                .micro_batch = m->assignment->micro_batch,
                                                .worker = m->assignment->worker}};
    l->handled = m->assignment;
    handle(l, &event);
    l->handled = NULL;
    return 0;
}

static void look_after_outboxes(struct loop *l)
{
    uint64_t now_ms = uv_now(&l->member.uv);
    struct bl_timing timing = bl_timing_of(l->member.patience_ms);
    const char *endpoint;
    while ((endpoint = outboxes_stuck(l->outboxes, now_ms, timing.lease_ms)))
        bl_log(BL_LOG_WARNING,
               "the worker at %s has taken no micro-batch for %g s; check that this host can reach "
               "that address and port",
               endpoint, timing.lease_ms / 1000.0);
    outboxes_sweep(l->outboxes, now_ms, timing.drain_ms);
}

static void on_event(void *context, const struct member_event *from)
{
    struct loop *l = context;
    struct loader_event event = {.type = (enum loader_event_type)from->type,
                                 .link = from->link,
                                 .generation = from->generation,
                                 .epoch = from->epoch};
    if (from->type == MEMBER_EVENT_WELCOME)
        event.welcome.patience_ms = from->patience_ms;
    if (from->type == MEMBER_EVENT_STOP)
        event.stop.code = from->code;
    if (from->type == MEMBER_EVENT_TICK)
        look_after_outboxes(l);
    handle(l, &event);
}

/* -- threads, sockets, clock, signals --------------------------------------------------------- */

static void on_opened(struct loop *l, const struct bl_error *error)
{
    if (error->code) {
        member_fail(&l->member, error);
        return;
    }
    l->data_open = true;
    member_warn_unused(&l->member);
    if (!fetch_sees_run(l->fetch))
        member_say_unseen(&l->member);
    bl_log(BL_LOG_INFO, "run=%s samples=%" PRIu64 " side=%u threads=%u capacity=%u",
           l->member.run_folder, fetch_samples(l->fetch), fetch_side(l->fetch), l->threads,
           l->capacity);
    struct loader_event event = {.type = LOADER_EVENT_OPENED};
    handle(l, &event);
}

static void on_probed(struct loop *l, const struct bl_error *error)
{
    struct loader_event event = {.type = LOADER_EVENT_PROBED};
    l->probe_error[0] = 0;
    if (error->code) {
        bl_error_format(error, l->probe_error, sizeof l->probe_error);
        wire_text(l->probe_error);
        bl_log(BL_LOG_WARNING, "cannot read this run's images here: %s", l->probe_error);
    }
    handle(l, &event);
}

static void on_made(struct loop *l, struct fetch_micro_batch *micro_batch)
{
    l->assignments[micro_batch->slot].micro_batch = micro_batch;
    struct loader_event event = {.type = LOADER_EVENT_MADE, .slot = {micro_batch->slot, false}};
    handle(l, &event);
}

static void on_woken(void *context)
{
    struct loop *l = context;
    struct fetch_event event;
    for (int count = 0; !l->member.leaving && fetch_next(l->fetch, &event); count++) {
        switch (event.kind) {
        case FETCH_OPENED:
            on_opened(l, &event.error);
            break;
        case FETCH_MADE:
            on_made(l, event.micro_batch);
            break;
        case FETCH_PROBED:
            on_probed(l, &event.error);
            break;
        case FETCH_FAILED:
            member_fail(&l->member, &event.error);
            break;
        }
        if (count == SOCKET_MESSAGES_PER_TURN)
            return member_wake(&l->member); /* the clock and the sockets have their turn */
    }
}

static void on_writable(void *context)
{
    pump(context);
}

/* -- start and end ---------------------------------------------------------------------------- */

static uint32_t all_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

/* ZeroMQ lets go of the micro-batches when its context is closed, so they are freed after it. */
static void close_all(struct loop *l)
{
    if (l->fetch)
        fetch_stop(l->fetch);
    for (uint32_t i = 0; l->assignments && i < l->slot_count; i++)
        drop_assignment(&l->assignments[i]);
    outboxes_close(&l->outboxes);
    member_close(&l->member);
    fetch_free(&l->fetch);
    loader_free(&l->core);
    free(l->assignments);
}

static void count_threads(struct loop *l)
{
    const struct loader_options *o = l->options;
    l->threads = o->threads ? (uint32_t)o->threads : all_cores();
    l->capacity = o->capacity ? (uint32_t)o->capacity : 2 * l->threads;
    if (l->capacity > BL_LOADER_CAPACITY_MAX)
        l->capacity = BL_LOADER_CAPACITY_MAX;
    if (l->threads > l->capacity)
        l->threads = l->capacity; /* a thread makes a micro-batch */
}

static int start(struct loop *l, struct bl_error *err)
{
    count_threads(l);
    struct loader_config config = {
        .capacity = l->capacity, .jobs = l->threads, .member = member_config(&l->member)};
    BL_TRY(loader_new(&config, &l->core, err));
    l->slot_count = config.capacity + config.jobs;
    l->assignments = calloc(l->slot_count, sizeof *l->assignments);
    if (!l->assignments)
        return bl_fail(err, BL_ENOMEM, "no memory for %u assignments", l->slot_count);
    struct outboxes_options outboxes = {&l->member.uv, l->member.zmq,
                                        l->options->keys || l->options->insecure, on_writable, l};
    BL_TRY(outboxes_open(&outboxes, &l->outboxes, err));
    BL_TRY(fetch_start(&(struct fetch_options){(int)l->threads, member_wake, &l->member}, &l->fetch,
                       err));
    uv_update_time(&l->member.uv);
    const struct loader_actions *actions = loader_start(l->core, uv_now(&l->member.uv));
    for (uint32_t i = 0; i < actions->count; i++)
        carry_out(l, &actions->list[i]);
    return member_run(&l->member, err);
}

int loader_run(const struct loader_options *options, struct bl_error *err)
{
    static const struct member_calls calls = {on_event, on_message, on_woken};
    struct loop l = {.options = options};
    struct member_options member = {.role = BLIPREN__ROLE__ROLE_LOADER,
                                    .coordinator = options->coordinator,
                                    .keys = options->keys,
                                    .insecure = options->insecure,
                                    .patience_s = options->patience_s,
                                    .grace_s = options->grace_s,
                                    .name = options->name,
                                    .parent = options->parent,
                                    .map = options->map,
                                    .calls = &calls,
                                    .context = &l};
    int rc = member_open(&l.member, &member, err);
    if (rc == 0)
        rc = start(&l, err);
    close_all(&l);
    return rc;
}
