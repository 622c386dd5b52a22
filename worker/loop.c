/* worker/loop.c - events from sockets, engine and clock into worker/core.h, its actions back out. */
#include "worker/loop_state.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/log.h"
#include "common/data/run.h"
#include "worker/ops/ops.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void connect_control(struct loop *l, const struct worker_action *a)
{
    struct bl_error err;
    if (member_connect(&l->member, a->link, &err) < 0)
        member_fail(&l->member, &err);
    else
        loop_send_hello(l, a);
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
    member_wake(&l->member);
}

static void wake(void *context)
{
    struct loop *l = context;
    member_wake(&l->member);
}

/* Configuration and index at once, the models on the engine's thread. */
static int open_run(struct loop *l, struct bl_error *err)
{
    BL_TRY(run_open(l->member.run_folder, l->member.run, &l->config, &l->dataset, err));
    run_plan(l->config, l->dataset, &l->plan);
    bl_hex(dataset_fingerprint(l->dataset), 32, l->fingerprint);
    BL_TRY(worker_set_plan(l->core, &l->plan, err));
    l->buffers = calloc(l->plan.window, sizeof(struct batch *));
    if (!l->buffers)
        return bl_fail(err, BL_ENOMEM, "no memory for %u buffers", l->plan.window);
    struct engine_options options = {.config = l->config,
                                     .data_fingerprint = l->fingerprint,
                                     .device = &l->device,
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
        snprintf(folder, sizeof folder, "%s/checkpoints/%s", l->member.run_folder,
                 a->form.checkpoint);
    l->step_digest = 0;
    l->data_wait_s = 0;
    l->idle_since = now_s();
    bl_log_identity("worker", "%s rank=%u", l->member.name, a->form.rank);
    engine_form(l->engine, a->generation, (int)a->form.rank, (int)a->form.world, a->form.source,
                a->form.have_state, folder);
}

static void compute(struct loop *l, const struct worker_action *a)
{
    const struct batch *batch = l->buffers[a->micro_batch.slot];
    if (batch->kind == BATCH_TRAIN) {
        l->step_digest += batch->digest;
        l->data_wait_s += now_s() - l->idle_since;
    }
    engine_compute(l->engine, a->generation, a->micro_batch.slot, batch, a->micro_batch.last);
}

static void write_snapshot(struct loop *l, const struct worker_action *a)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/checkpoints/%s", l->member.run_folder, a->save.folder);
    engine_write(l->engine, folder);
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
            member_fail(&l->member, &err);
        break;
    case WORKER_ACTION_BEAT:
        loop_send_beat(l, a);
        break;
    case WORKER_ACTION_ENDED:
        loop_send_ended(l, a);
        break;
    case WORKER_ACTION_FORMED:
        loop_send_formed(l, a);
        break;
    case WORKER_ACTION_RECEIVED:
    case WORKER_ACTION_CONSUMED:
        loop_send_micro_batch(l, a);
        break;
    case WORKER_ACTION_REPORT:
        loop_send_report(l, a);
        break;
    case WORKER_ACTION_RESULT:
        loop_send_result(l, a);
        break;
    case WORKER_ACTION_BROKEN:
        loop_send_broken(l, a);
        break;
    case WORKER_ACTION_SAVED:
        loop_send_saved(l, a);
        break;
    case WORKER_ACTION_GOODBYE:
        member_goodbye(&l->member, "done");
        break;
    case WORKER_ACTION_KEEP:
        l->buffers[a->micro_batch.slot] = bl_take(&l->incoming);
        break;
    case WORKER_ACTION_DROP:
        batch_free(&l->incoming);
        break;
    case WORKER_ACTION_RELEASE:
        batch_free(&l->buffers[a->micro_batch.slot]);
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
        member_exit(&l->member, a->exit.code, a->exit.text);
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
    if (l->member.leaving)
        return;
    event->now_ms = uv_now(&l->member.uv);
    carry_out_all(l, worker_step(l->core, event));
}

/* Fills the event from a message. */
static int translate(const struct loop *l, const Blipren__Envelope *m, struct worker_event *e,
                     struct bl_error *err)
{
    *e = (struct worker_event){.link = l->member.link, .generation = m->generation};
    switch (m->body_case) {
    case BLIPREN__ENVELOPE__BODY_WELCOME:
        e->type = WORKER_EVENT_WELCOME;
        e->welcome.patience_ms = m->welcome->patience_ms;
        return 0;
    case BLIPREN__ENVELOPE__BODY_REFUSE:
        e->type = WORKER_EVENT_REFUSE;
        return 0;
    case BLIPREN__ENVELOPE__BODY_PULSE:
        e->type = WORKER_EVENT_PULSE;
        return 0;
    case BLIPREN__ENVELOPE__BODY_END:
        e->type = WORKER_EVENT_END;
        return 0;
    case BLIPREN__ENVELOPE__BODY_FORM:
        e->type = WORKER_EVENT_FORM;
        e->form.rank = m->form->rank;
        e->form.world = m->form->world;
        e->form.source = m->form->source;
        e->form.step = m->form->step;
        e->form.state_generation = m->form->state_generation;
        e->form.checkpoint = m->form->checkpoint;
        return 0;
    case BLIPREN__ENVELOPE__BODY_RENDEZVOUS:
        e->type = WORKER_EVENT_RENDEZVOUS;
        return 0;
    case BLIPREN__ENVELOPE__BODY_SAVE:
        e->type = WORKER_EVENT_SAVE;
        e->save.step = m->save->step;
        e->save.folder = m->save->folder;
        return 0;
    case BLIPREN__ENVELOPE__BODY_STOP:
        e->type = WORKER_EVENT_STOP;
        e->stop.last = m->stop->last;
        e->stop.code = bl_error_code(m->stop->reason);
        return 0;
    default:
        return bl_fail(err, BL_EPROTO, "a worker has no use for %s", wire_body_name(m));
    }
}

static int on_message(void *context, const Blipren__Envelope *m, struct bl_error *err)
{
    struct loop *l = context;
    struct worker_event event;
    BL_TRY(translate(l, m, &event, err));
    l->handled = m;
    handle(l, &event);
    l->handled = NULL;
    return 0;
}

static void on_lost(void *context)
{
    struct loop *l = context;
    struct worker_event event = {.type = WORKER_EVENT_LOST, .link = l->member.link};
    handle(l, &event);
}

static void on_data(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct loop *l = context;
    struct bl_error err;
    if (!l->image_side || l->member.leaving)
        return;
    struct batch_rules rules = {l->member.run, &l->plan, l->image_side, l->vocabulary};
    if (batch_read(&rules, frames, &l->incoming, &err) < 0) {
        char peer[96];
        snprintf(peer, sizeof peer, "a loader at %s", wire_address(frames));
        bl_error_peer(&err, peer);
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
                                          .micro_batch = b->micro_batch}};
    handle(l, &event);
    batch_free(&l->incoming);
}

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
        member_fail(&l->member, &from->error);
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
        WIRE_ENVELOPE(e, RENDEZVOUS, rendezvous) = &entry;
        member_send(&l->member, o->generation, &e);
        free(o);
    }
}

static void on_woken(void *context)
{
    struct loop *l = context;
    send_outgoing(l);
    while (l->engine && !l->member.leaving && engine_next(l->engine, &l->event)) {
        handle_engine_event(l);
        engine_event_release(&l->event);
    }
}

static void on_tick(void *context)
{
    struct worker_event event = {.type = WORKER_EVENT_TICK};
    handle(context, &event);
}

static void close_all(struct loop *l)
{
    engine_close(&l->engine);
    wire_socket_close(&l->data, 0);
    member_close(&l->member);
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
    BL_TRY(wire_context_open(&l->member.zmq, err));
    if (wire_pull(&l->member.uv, l->member.zmq, o->host, on_data, l, &l->data, l->data_endpoint,
                  err) < 0)
        return bl_error_key(err, "--host");
    struct worker_config config = {.incarnation = l->member.incarnation,
                                   .patience_ms = 10000,
                                   .reconnect_ms = (uint64_t)o->patience_s * 1000};
    BL_TRY(worker_new(&config, &l->core, err));
    uv_update_time(&l->member.uv);
    carry_out_all(l, worker_start(l->core, uv_now(&l->member.uv)));
    return 0;
}

int worker_run(const struct worker_options *options, struct bl_error *err)
{
    static const struct member_calls calls = {on_message, on_lost, on_woken, on_tick};
    struct loop l = {.options = options};
    char kind[256];
    struct member_options member = {.role = BLIPREN__ROLE__ROLE_WORKER,
                                    .endpoint = options->endpoint,
                                    .kind = kind,
                                    .parent = options->parent,
                                    .calls = &calls,
                                    .context = &l};
    BL_TRY(ops_device_choose(options->device, &l.device, err));
    ops_device_kind(&l.device, kind, sizeof kind);
    pthread_mutex_init(&l.lock, NULL);
    l.outgoing_end = &l.outgoing;
    member_open(&l.member, &member);
    if (l.device.fallback[0])
        bl_log(BL_LOG_INFO, "device=cpu: %s", l.device.fallback);
    int rc = start(&l, err);
    if (rc == 0)
        rc = member_run(&l.member, err);
    close_all(&l);
    return rc;
}
