/* worker/loop.c - events from sockets, engine and clock into worker/core.h, its actions back out. */
#include "worker/loop.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/log.h"
#include "common/run.h"
#include "common/size.h"
#include "proto/wire.h"
#include "worker/core.h"
#include "worker/engine.h"

#define TICK_MS 50
#define LINGER_MS 500

/* A rendezvous entry on its way from the engine's thread to the coordinator. */
struct outgoing {
    struct outgoing *next;
    uint64_t generation;
    char key[64];
    size_t size;
    uint8_t value[];
};

struct loop {
    const struct worker_options *options;
    uv_loop_t uv;
    uv_async_t wake;
    uv_timer_t tick;
    uv_signal_t signals[2];
    void *zmq;
    struct wire_socket *control, *data;
    char data_endpoint[SOCKET_ENDPOINT_MAX], name[128], build[128];
    uint64_t incarnation, link;

    struct worker *core;
    struct engine *engine;
    struct config *config;
    struct dataset *dataset;
    struct bl_plan plan;
    char fingerprint[65], run_folder[4096];
    uint8_t run[RUN_ID_BYTES];
    bool run_known;

    int64_t image_side, vocabulary;   /* of the models; 0 until they are open */
    struct batch **buffers;           /* (window), the core's slots */
    struct batch *incoming;           /* the data being handled */
    const Blipren__Envelope *handled; /* the message being handled */
    struct engine_event event;        /* the engine's event being handled */
    uint64_t step_digest;             /* places trained in the step under way */
    double idle_since, data_wait_s;   /* waiting for batches in the step under way */

    pthread_mutex_t lock;
    struct outgoing *outgoing, **outgoing_end; /* under the lock */

    bool leaving;
    struct bl_error error; /* why it left, code 0: as told */
};

static void handle(struct loop *l, struct worker_event *event);

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* -- messages out -- */

static void send_envelope(struct loop *l, uint64_t generation, Blipren__Envelope *e)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    e->version = BL_PROTOCOL_VERSION;
    e->generation = generation;
    e->peer = l->incarnation;
    if (l->run_known)
        e->run = (ProtobufCBinaryData){sizeof l->run, l->run};
    wire_pack(e, &data, &size);
    /* A full or lost connection shows as silence; the core deals with that. */
    if (l->control && wire_dealer_send(l->control, data, size) < 0)
        bl_log(BL_LOG_DEBUG, "message=%s not sent: no connection, ignoring", wire_body_name(e));
}

#define ENVELOPE(name, BODY, message)                                                              \
    Blipren__Envelope name = BLIPREN__ENVELOPE__INIT;                                              \
    name.body_case = BLIPREN__ENVELOPE__BODY_##BODY;                                               \
    name.message

static ProtobufCBinaryData digest_bytes(const struct bl_digest *digest)
{
    return (ProtobufCBinaryData){32, (uint8_t *)(uintptr_t)digest->bytes};
}

static void send_hello(struct loop *l, const struct worker_action *a)
{
    Blipren__Hello hello = BLIPREN__HELLO__INIT;
    hello.role = BLIPREN__ROLE__ROLE_WORKER;
    hello.name = l->name;
    hello.build = l->build;
    hello.data_endpoint = l->data_endpoint;
    hello.applied_step = a->ended.applied_step;
    hello.state_digest = digest_bytes(&a->ended.digest);
    ENVELOPE(e, HELLO, hello) = &hello;
    send_envelope(l, 0, &e);
}

static void send_ended(struct loop *l, const struct worker_action *a)
{
    Blipren__Ended ended = BLIPREN__ENDED__INIT;
    ended.applied_step = a->ended.applied_step;
    ended.state_generation = a->ended.state_generation;
    ended.state_digest = digest_bytes(&a->ended.digest);
    ENVELOPE(e, ENDED, ended) = &ended;
    send_envelope(l, a->generation, &e);
}

static void send_beat(struct loop *l, const struct worker_action *a)
{
    const char *phase = "join", *waiting = "";
    if (l->engine)
        engine_phase(l->engine, &phase, &waiting);
    struct worker_status status = worker_status(l->core);
    Blipren__Beat beat = BLIPREN__BEAT__INIT;
    beat.phase = (char *)(uintptr_t)phase;
    beat.waiting = (char *)(uintptr_t)status.waiting;
    beat.step = status.applied_step < 0 ? 0 : (uint64_t)status.applied_step;
    ENVELOPE(e, BEAT, beat) = &beat;
    send_envelope(l, a->generation, &e);
}

static void send_group(struct loop *l, const struct worker_action *a)
{
    if (a->type == WORKER_ACTION_GOT) {
        Blipren__Got got = BLIPREN__GOT__INIT;
        got.kind = (Blipren__Kind)a->group.kind;
        got.step = a->group.step;
        got.group = a->group.group;
        ENVELOPE(e, GOT, got) = &got;
        send_envelope(l, a->generation, &e);
    } else {
        Blipren__Used used = BLIPREN__USED__INIT;
        used.kind = (Blipren__Kind)a->group.kind;
        used.step = a->group.step;
        used.group = a->group.group;
        ENVELOPE(e, USED, used) = &used;
        send_envelope(l, a->generation, &e);
    }
}

static void send_report(struct loop *l, const struct worker_action *a)
{
    const struct trainer_report *r = &l->event.report;
    Blipren__Range range = BLIPREN__RANGE__INIT, *ranges[1] = {&range};
    range.first = a->report.places.first;
    range.count = a->report.places.count;
    Blipren__Report report = BLIPREN__REPORT__INIT;
    report.step = a->report.step;
    report.nll_sum = r->nll;
    report.tokens = (uint64_t)r->tokens;
    report.images = (uint64_t)r->images;
    report.grad_norm = r->norm;
    report.learning_rate = r->rate;
    report.skipped = r->skipped;
    report.n_trained = range.count > 0;
    report.trained = ranges;
    report.sample_digest = l->step_digest;
    report.data_wait_s = l->data_wait_s;
    report.compute_s = r->compute_s;
    report.reduce_wait_s = r->reduce_wait_s;
    bool moe = l->config->projector.kind == CONFIG_MOE;
    report.n_expert_share = moe ? (size_t)l->config->projector.experts : 0;
    report.expert_share = (double *)(uintptr_t)r->share;
    report.router_entropy = r->entropy;
    report.balance_loss = r->balance_loss;
    report.router_z_loss = r->router_z_loss;
    ENVELOPE(e, REPORT, report) = &report;
    send_envelope(l, a->generation, &e);
    l->step_digest = 0;
    l->data_wait_s = 0;
}

static void send_result(struct loop *l, const struct worker_action *a)
{
    const struct engine_validation *v = &l->event.validation;
    size_t count = (size_t)v->caption_count;
    bl_autofree Blipren__Caption *captions = calloc(count + 1, sizeof *captions);
    bl_autofree Blipren__Caption **list = calloc(count + 1, sizeof *list);
    BL_ASSERT(captions && list);
    for (size_t i = 0; i < count; i++) {
        captions[i] = (Blipren__Caption)BLIPREN__CAPTION__INIT;
        captions[i].sample = v->captions[i].sample;
        captions[i].text = v->captions[i].text;
        captions[i].ended = v->captions[i].ended;
        list[i] = &captions[i];
    }
    Blipren__Validation result = BLIPREN__VALIDATION__INIT;
    result.step = a->group.step;
    result.group = a->group.group;
    result.nll_sum = v->nll;
    result.tokens = (uint64_t)v->tokens;
    result.correct = (uint64_t)v->correct;
    result.shuffled_nll_sum = v->shuffled_nll;
    result.shuffled_tokens = (uint64_t)v->shuffled_tokens;
    result.paired_nll_sum = v->paired_nll;
    result.n_captions = count;
    result.captions = list;
    bool moe = l->config->projector.kind == CONFIG_MOE;
    result.n_expert_weight = moe ? (size_t)l->config->projector.experts : 0;
    result.expert_weight = (double *)(uintptr_t)v->weight;
    result.images = (uint64_t)v->images;
    ENVELOPE(e, VALIDATION, validation) = &result;
    send_envelope(l, a->generation, &e);
}

static void send_formed(struct loop *l, const struct worker_action *a)
{
    Blipren__Formed formed = BLIPREN__FORMED__INIT;
    formed.step = a->formed.step;
    formed.state_digest = digest_bytes(&a->formed.digest);
    ENVELOPE(e, FORMED, formed) = &formed;
    send_envelope(l, a->generation, &e);
}

static void send_broken(struct loop *l, const struct worker_action *a)
{
    Blipren__Broken broken = BLIPREN__BROKEN__INIT;
    wire_text(l->event.error.text); /* what the system and libraries say may be anything */
    broken.text = l->event.error.text;
    ENVELOPE(e, BROKEN, broken) = &broken;
    send_envelope(l, a->generation, &e);
}

static void send_saved(struct loop *l, const struct worker_action *a)
{
    char line[600] = "";
    if (!a->save.ok)
        bl_error_format(&l->event.error, line, sizeof line);
    wire_text(line);
    Blipren__Saved saved = BLIPREN__SAVED__INIT;
    saved.step = a->save.step;
    saved.folder = (char *)(uintptr_t)a->save.folder;
    saved.error = a->save.ok ? (char *)"" : line[0] ? line : (char *)"failed";
    ENVELOPE(e, SAVED, saved) = &saved;
    send_envelope(l, a->generation, &e);
}

static void send_goodbye(struct loop *l, const char *reason)
{
    Blipren__Goodbye goodbye = BLIPREN__GOODBYE__INIT;
    goodbye.reason = (char *)(uintptr_t)reason;
    ENVELOPE(e, GOODBYE, goodbye) = &goodbye;
    send_envelope(l, 0, &e);
}

/* -- leaving -- */

static void leave(struct loop *l)
{
    if (l->leaving)
        return;
    l->leaving = true;
    uv_stop(&l->uv);
}

static void fail(struct loop *l, const struct bl_error *error)
{
    if (!l->error.code)
        l->error = *error;
    char line[1600];
    bl_error_format(&l->error, line, sizeof line);
    wire_text(line);
    send_goodbye(l, line);
    leave(l);
}

/* -- actions -- */

static void on_control(void *context, const struct wire_id *from, struct wire_frames *frames);
static void on_lost(void *context);

static void connect_control(struct loop *l, const struct worker_action *a)
{
    wire_socket_close(&l->control, LINGER_MS);
    l->link = a->link;
    struct wire_id id = wire_id_make(l->incarnation, a->link);
    struct bl_error err;
    if (wire_dealer(&l->uv, l->zmq, l->options->endpoint, &id, on_control, l, &l->control, &err) <
            0 ||
        wire_watch(l->control, l->zmq, on_lost, &err) < 0) {
        fail(l, &err);
        return;
    }
    send_hello(l, a);
}

static void publish(void *context, uint64_t generation, const char *key, const void *value,
                    size_t size)
{
    struct loop *l = context;
    struct outgoing *o = calloc(1, sizeof *o + size);
    BL_ASSERT(o != NULL);
    o->generation = generation;
    snprintf(o->key, sizeof o->key, "%s", key);
    o->size = size;
    memcpy(o->value, value, size);
    pthread_mutex_lock(&l->lock);
    *l->outgoing_end = o;
    l->outgoing_end = &o->next;
    pthread_mutex_unlock(&l->lock);
    uv_async_send(&l->wake);
}

static void wake(void *context)
{
    struct loop *l = context;
    uv_async_send(&l->wake);
}

/* Configuration and index at once, the models on the engine's thread. */
static int open_run(struct loop *l, struct bl_error *err)
{
    BL_TRY(run_open(l->run_folder, l->run, &l->config, &l->dataset, err));
    run_plan(l->config, l->dataset, &l->plan);
    bl_hex(dataset_fingerprint(l->dataset), 32, l->fingerprint);
    BL_TRY(worker_set_plan(l->core, &l->plan, err));
    l->buffers = calloc(l->plan.window, sizeof(struct batch *));
    if (!l->buffers)
        return bl_fail(err, BL_ENOMEM, "no memory for %u buffers", l->plan.window);
    struct engine_options options = {.config = l->config,
                                     .data_fingerprint = l->fingerprint,
                                     .threads = l->options->threads,
                                     .comm_host = l->options->host,
                                     .patience_ms = (int)(l->config->cluster.patience_s * 1000),
                                     .publish = publish,
                                     .wake = wake,
                                     .context = l};
    return engine_open(&options, &l->engine, err);
}

static void form(struct loop *l, const struct worker_action *a)
{
    char folder[4096] = "";
    if (a->form.checkpoint[0])
        snprintf(folder, sizeof folder, "%s/checkpoints/%s", l->run_folder, a->form.checkpoint);
    l->step_digest = 0;
    l->data_wait_s = 0;
    l->idle_since = now_s();
    bl_log_identity("worker", "%s rank=%u", l->name, a->form.rank);
    engine_form(l->engine, a->generation, (int)a->form.rank, (int)a->form.world, a->form.source,
                a->form.have_state, folder);
}

static void compute(struct loop *l, const struct worker_action *a)
{
    const struct batch *batch = l->buffers[a->group.slot];
    if (batch->kind == BATCH_TRAIN) {
        l->step_digest += batch->digest;
        l->data_wait_s += now_s() - l->idle_since;
    }
    engine_compute(l->engine, a->generation, a->group.slot, batch, a->group.last);
}

static void write_snapshot(struct loop *l, const struct worker_action *a)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/checkpoints/%s", l->run_folder, a->save.folder);
    engine_write(l->engine, folder);
}

static void exit_with(struct loop *l, const struct worker_action *a)
{
    if (a->exit.code && !l->error.code) {
        bl_fail(&l->error, (enum bl_error_code)a->exit.code, "%s", a->exit.text);
        bl_error_peer(&l->error, l->options->endpoint);
    }
    leave(l);
}

static void carry_out(struct loop *l, const struct worker_action *a)
{
    struct bl_error err;
    switch (a->type) {
    case WORKER_ACTION_CONNECT:
        connect_control(l, a);
        break;
    case WORKER_ACTION_OPEN:
        if (open_run(l, &err) < 0)
            fail(l, &err);
        break;
    case WORKER_ACTION_BEAT:
        send_beat(l, a);
        break;
    case WORKER_ACTION_ENDED:
        send_ended(l, a);
        break;
    case WORKER_ACTION_FORMED:
        send_formed(l, a);
        break;
    case WORKER_ACTION_GOT:
    case WORKER_ACTION_USED:
        send_group(l, a);
        break;
    case WORKER_ACTION_REPORT:
        send_report(l, a);
        break;
    case WORKER_ACTION_RESULT:
        send_result(l, a);
        break;
    case WORKER_ACTION_BROKEN:
        send_broken(l, a);
        break;
    case WORKER_ACTION_SAVED:
        send_saved(l, a);
        break;
    case WORKER_ACTION_GOODBYE:
        send_goodbye(l, "done");
        break;
    case WORKER_ACTION_KEEP:
        l->buffers[a->group.slot] = bl_take(&l->incoming);
        break;
    case WORKER_ACTION_DROP:
        batch_free(&l->incoming);
        break;
    case WORKER_ACTION_RELEASE:
        batch_free(&l->buffers[a->group.slot]);
        break;
    case WORKER_ACTION_FORM:
        form(l, a);
        break;
    case WORKER_ACTION_HAND_ON:
        engine_deliver(l->engine, a->generation, l->handled->rendezvous->key,
                       l->handled->rendezvous->value.data, l->handled->rendezvous->value.len);
        break;
    case WORKER_ACTION_COMPUTE:
        compute(l, a);
        break;
    case WORKER_ACTION_REDUCE:
        engine_reduce(l->engine, a->generation, a->report.step);
        break;
    case WORKER_ACTION_SNAPSHOT:
        engine_snapshot(l->engine, a->generation, a->report.step);
        break;
    case WORKER_ACTION_DISCARD:
        engine_discard(l->engine);
        break;
    case WORKER_ACTION_ABORT:
        engine_abort(l->engine, a->generation);
        break;
    case WORKER_ACTION_WRITE:
        write_snapshot(l, a);
        break;
    case WORKER_ACTION_EXIT:
        exit_with(l, a);
        break;
    case WORKER_ACTION_COUNT:
        break;
    }
}

static void carry_out_all(struct loop *l, const struct worker_actions *actions)
{
    /* The list is the core's until the next call; nothing below calls the core. */
    for (uint32_t i = 0; i < actions->count; i++)
        carry_out(l, &actions->list[i]);
}

static void handle(struct loop *l, struct worker_event *event)
{
    if (l->leaving)
        return;
    event->now_ms = uv_now(&l->uv);
    carry_out_all(l, worker_step(l->core, event));
}

/* -- messages in -- */

/* The coordinator's word on the run: taken once, and the same for ever. */
static int take_welcome(struct loop *l, const Blipren__Envelope *m, struct bl_error *err)
{
    if (m->run.len != RUN_ID_BYTES)
        return bl_fail(err, BL_EPROTO, "a Welcome without the run's id");
    if (l->run_known && memcmp(l->run, m->run.data, RUN_ID_BYTES) != 0) {
        bl_fail(err, BL_EPEER, "the coordinator at %s now owns another run", l->options->endpoint);
        return bl_error_remedy(err, "start this worker again to join it");
    }
    memcpy(l->run, m->run.data, RUN_ID_BYTES);
    l->run_known = true;
    snprintf(l->run_folder, sizeof l->run_folder, "%s", m->welcome->run_folder);
    return 0;
}

/* Fills the event from a message; false: not one for a worker. */
static bool translate(struct loop *l, const Blipren__Envelope *m, struct worker_event *e,
                      struct bl_error *err)
{
    *e = (struct worker_event){.link = l->link, .generation = m->generation};
    switch (m->body_case) {
    case BLIPREN__ENVELOPE__BODY_WELCOME:
        e->type = WORKER_EVENT_WELCOME;
        e->welcome.patience_ms = m->welcome->patience_ms;
        return take_welcome(l, m, err) == 0;
    case BLIPREN__ENVELOPE__BODY_REFUSE:
        e->type = WORKER_EVENT_REFUSE;
        bl_fail(&l->error, BL_EPEER, "refused: %.400s", m->refuse->text);
        bl_error_remedy(&l->error, "%.200s", m->refuse->remedy);
        bl_error_peer(&l->error, l->options->endpoint);
        return true;
    case BLIPREN__ENVELOPE__BODY_PULSE:
        e->type = WORKER_EVENT_PULSE;
        return true;
    case BLIPREN__ENVELOPE__BODY_END:
        e->type = WORKER_EVENT_END;
        return true;
    case BLIPREN__ENVELOPE__BODY_FORM:
        e->type = WORKER_EVENT_FORM;
        e->form.rank = m->form->rank;
        e->form.world = m->form->world;
        e->form.source = m->form->source;
        e->form.step = m->form->step;
        e->form.state_generation = m->form->state_generation;
        e->form.checkpoint = m->form->checkpoint;
        return true;
    case BLIPREN__ENVELOPE__BODY_RENDEZVOUS:
        e->type = WORKER_EVENT_RENDEZVOUS;
        return true;
    case BLIPREN__ENVELOPE__BODY_SAVE:
        e->type = WORKER_EVENT_SAVE;
        e->save.step = m->save->step;
        e->save.folder = m->save->folder;
        return true;
    case BLIPREN__ENVELOPE__BODY_STOP:
        e->type = WORKER_EVENT_STOP;
        e->stop.last = m->stop->last;
        return true;
    default:
        bl_fail(err, BL_EPROTO, "a worker has no use for %s", wire_body_name(m));
        return false;
    }
}

static void on_control(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct loop *l = context;
    Blipren__Envelope *m = NULL;
    struct worker_event event;
    struct bl_error err = {0};
    int rc = frames->count == 1
                 ? wire_unpack(zmq_msg_data(&frames->at[0]), zmq_msg_size(&frames->at[0]), &m, &err)
                 : bl_fail(&err, BL_EPROTO, "expected one frame, found %d", frames->count);
    if (rc == 0 && translate(l, m, &event, &err)) {
        l->handled = m;
        handle(l, &event);
        l->handled = NULL;
    } else {
        bl_error_peer(&err, l->options->endpoint);
        fail(l, &err);
    }
    if (m)
        wire_envelope_free(&m);
}

/* A coordinator that was killed and comes back is found at once, not after the patience. */
static void on_lost(void *context)
{
    struct loop *l = context;
    struct worker_event event = {.type = WORKER_EVENT_LOST, .link = l->link};
    handle(l, &event);
}

static void on_data(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct loop *l = context;
    struct bl_error err;
    if (!l->image_side || l->leaving)
        return;
    struct batch_rules rules = {l->run, &l->plan, l->image_side, l->vocabulary};
    if (batch_read(&rules, frames, &l->incoming, &err) < 0) {
        bl_error_peer(&err, "a loader");
        bl_error_remedy(&err, "ignoring its batch");
        bl_log_error(&err);
        return;
    }
    const struct batch *b = l->incoming;
    struct worker_event event = {.type = WORKER_EVENT_DATA,
                                 .generation = b->generation,
                                 .data = {.worker = b->worker,
                                          .kind = (enum bl_kind)b->kind,
                                          .step = b->step,
                                          .group = b->group}};
    handle(l, &event);
    batch_free(&l->incoming);
}

/* -- the engine -- */

static void handle_engine_event(struct loop *l)
{
    const struct engine_event *from = &l->event;
    struct worker_event event = {.generation = from->generation};
    struct bl_digest digest;
    memcpy(digest.bytes, from->digest, sizeof digest.bytes);
    switch (from->kind) {
    case ENGINE_OPENED:
        engine_fits(l->engine, &l->image_side, &l->vocabulary);
        event.type = WORKER_EVENT_OPENED;
        event.opened.ok = true;
        break;
    case ENGINE_FORMED:
        event.type = WORKER_EVENT_FORMED;
        event.formed.digest = digest;
        break;
    case ENGINE_COMPUTED:
        event.type = WORKER_EVENT_COMPUTED;
        event.computed.slot = from->slot;
        break;
    case ENGINE_APPLIED:
        event.type = WORKER_EVENT_APPLIED;
        event.applied.step = from->step;
        break;
    case ENGINE_SNAPPED:
        event.type = WORKER_EVENT_SNAPPED;
        event.applied.step = from->step;
        break;
    case ENGINE_FAILED:
        bl_log(BL_LOG_WARNING, "generation=%" PRIu64 " %s", from->generation, from->error.text);
        event.type = WORKER_EVENT_FAILED;
        break;
    case ENGINE_ABORTED:
        event.type = WORKER_EVENT_ABORTED;
        event.aborted.applied_step = from->applied_step;
        event.aborted.digest = digest;
        break;
    case ENGINE_WRITTEN:
        event.type = WORKER_EVENT_WRITTEN;
        event.written.step = from->step;
        event.written.ok = from->error.code == 0;
        break;
    case ENGINE_BROKEN:
        fail(l, &from->error);
        return;
    }
    l->idle_since = now_s();
    handle(l, &event);
}

static void send_outgoing(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    struct outgoing *o = l->outgoing;
    l->outgoing = NULL;
    l->outgoing_end = &l->outgoing;
    pthread_mutex_unlock(&l->lock);
    for (struct outgoing *next; o; o = next) {
        next = o->next;
        Blipren__Rendezvous entry = BLIPREN__RENDEZVOUS__INIT;
        entry.key = o->key;
        entry.value = (ProtobufCBinaryData){o->size, o->value};
        ENVELOPE(e, RENDEZVOUS, rendezvous) = &entry;
        send_envelope(l, o->generation, &e);
        free(o);
    }
}

static void on_wake(uv_async_t *async)
{
    struct loop *l = async->data;
    send_outgoing(l);
    while (l->engine && !l->leaving && engine_next(l->engine, &l->event)) {
        handle_engine_event(l);
        engine_event_release(&l->event);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct worker_event event = {.type = WORKER_EVENT_TICK};
    handle(timer->data, &event);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct loop *l = handle->data;
    struct bl_error err;
    bl_fail(&err, BL_ESTOPPED, "stopped by signal %d", number);
    fail(l, &err);
}

/* -- start and end -- */

static void start_handles(struct loop *l)
{
    uv_async_init(&l->uv, &l->wake, on_wake);
    uv_timer_init(&l->uv, &l->tick);
    l->wake.data = l->tick.data = l;
    uv_timer_start(&l->tick, on_tick, TICK_MS, TICK_MS);
    static const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&l->uv, &l->signals[i]);
        l->signals[i].data = l;
        uv_signal_start(&l->signals[i], on_signal, numbers[i]);
    }
}

static void close_handle(uv_handle_t *handle, void *argument)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void close_all(struct loop *l)
{
    engine_close(&l->engine);
    wire_socket_close(&l->control, LINGER_MS);
    wire_socket_close(&l->data, 0);
    uv_run(&l->uv, UV_RUN_NOWAIT);
    uv_walk(&l->uv, close_handle, NULL);
    while (uv_loop_close(&l->uv) == UV_EBUSY)
        uv_run(&l->uv, UV_RUN_ONCE);
    wire_context_close(&l->zmq);
    send_outgoing(l);
    for (uint32_t i = 0; l->buffers && i < l->plan.window; i++)
        batch_free(&l->buffers[i]);
    free(l->buffers);
    batch_free(&l->incoming);
    worker_free(&l->core);
    config_free(&l->config);
    dataset_free(&l->dataset);
    pthread_mutex_destroy(&l->lock);
}

static int start(struct loop *l, struct bl_error *err)
{
    const struct worker_options *o = l->options;
    char listen[SOCKET_ENDPOINT_MAX];
    snprintf(listen, sizeof listen, "tcp://%s:0", o->host);
    /* a coordinator that starts us was told already */
    if (wire_check_endpoint(o->endpoint, o->insecure || o->parent, err) < 0)
        return bl_error_key(err, "--coord");
    if (wire_check_endpoint(listen, o->insecure, err) < 0)
        return bl_error_key(err, "--host");
    if (!o->parent && wire_is_loopback(listen) && !wire_is_loopback(o->endpoint)) {
        bl_fail(err, BL_EUSAGE, "expected an address that other hosts can reach, found %s",
                o->host);
        bl_error_remedy(err, "give this host's own address");
        return bl_error_key(err, "--host");
    }
    BL_TRY(wire_context_open(&l->zmq, err));
    BL_TRY(wire_pull(&l->uv, l->zmq, o->host, on_data, l, &l->data, l->data_endpoint, err));
    struct worker_config config = {.incarnation = l->incarnation,
                                   .patience_ms = 10000,
                                   .reconnect_ms = (uint64_t)o->patience_s * 1000};
    BL_TRY(worker_new(&config, &l->core, err));
    uv_update_time(&l->uv);
    carry_out_all(l, worker_start(l->core, uv_now(&l->uv)));
    return 0;
}

int worker_run(const struct worker_options *options, struct bl_error *err)
{
    struct loop l = {.options = options, .incarnation = wire_incarnation()};
    char host[64] = "";
    if (options->parent)
        run_die_with_parent(options->parent);
    gethostname(host, sizeof host - 1);
    snprintf(l.name, sizeof l.name, "%s:%d", host, (int)getpid());
    wire_text(l.name);
    run_build(l.build, sizeof l.build);
    bl_log_identity("worker", "%s", l.name);
    pthread_mutex_init(&l.lock, NULL);
    l.outgoing_end = &l.outgoing;
    uv_loop_init(&l.uv);
    start_handles(&l);
    int rc = start(&l, err);
    if (rc == 0 && !l.leaving)
        uv_run(&l.uv, UV_RUN_DEFAULT);
    if (rc == 0 && l.error.code) {
        *err = l.error;
        rc = -l.error.code;
    }
    close_all(&l);
    return rc;
}
