/* worker/loop.c - events from sockets, engine and clock into worker/core.h, its actions back out. */
#include "worker/loop_state.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/data/captions.h"
#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/file.h"
#include "common/log.h"
#include "common/progress.h"
#include "worker/ops/ops.h"

/* ---- Actions: one function for each that is not a message --------------------------------------
 */

static void connect_control(struct loop *l, const struct worker_action *a)
{
    member_connect(&l->member, a->link);
    loop_send_hello(l, a);
}

static void open_run(struct loop *l, const struct worker_action *a)
{
    loop_open(l);
}

static void say_goodbye(struct loop *l, const struct worker_action *a)
{
    member_goodbye(&l->member, "done");
}

static void keep(struct loop *l, const struct worker_action *a)
{
    l->buffers[a->micro_batch.slot] = bl_take(&l->incoming);
    bl_progress_add(1);
}

static void drop(struct loop *l, const struct worker_action *a)
{
    batch_free(&l->incoming);
}

static void release(struct loop *l, const struct worker_action *a)
{
    batch_free(&l->buffers[a->micro_batch.slot]);
}

static int checkpoint_path(const struct loop *l, const char *name, char ret[4096],
                           struct bl_error *err)
{
    char folder[4096];
    BL_TRY(bl_path_join(folder, sizeof folder, l->member.run_folder, "checkpoints", err));
    return bl_path_join(ret, 4096, folder, name, err);
}

static void form(struct loop *l, const struct worker_action *a)
{
    char folder[4096] = "";
    struct bl_error err;
    if (a->form.checkpoint[0] && checkpoint_path(l, a->form.checkpoint, folder, &err) < 0)
        return member_fail(&l->member, &err);
    l->step_digest = 0;
    l->data_wait_s = 0;
    l->idle_since = bl_now_s();
    bl_log_identity("worker", "%s rank=%u", l->member.name, a->form.rank);
    struct engine_forming forming = {.rank = (int)a->form.rank,
                                     .world = (int)a->form.world,
                                     .source = a->form.source,
                                     .have_state = a->form.have_state,
                                     .one_reads = a->form.one_reads,
                                     .checkpoint = folder};
    engine_form(l->engine, a->generation, &forming);
}

static void hand_on(struct loop *l, const struct worker_action *a)
{
    const Blipren__Store *store = l->handled->store;
    for (size_t i = 0; i < store->n_entry; i++)
        engine_deliver(l->engine, a->generation, store->entry[i]->key, store->entry[i]->value.data,
                       store->entry[i]->value.len);
}

static void compute(struct loop *l, const struct worker_action *a)
{
    const uint32_t next = a->micro_batch.next;
    const struct batch *batch = l->buffers[a->micro_batch.slot];
    if (batch->kind == BATCH_TRAIN) {
        l->step_digest += batch->digest;
        l->data_wait_s += bl_now_s() - l->idle_since;
    }
    engine_compute(l->engine, a->generation, a->micro_batch.slot, batch, a->micro_batch.last,
                   next == WORKER_NO_SLOT ? NULL : l->buffers[next]);
}

static void reduce(struct loop *l, const struct worker_action *a)
{
    engine_reduce(l->engine, a->generation, a->report.step);
}

static void take_snapshot(struct loop *l, const struct worker_action *a)
{
    engine_snapshot(l->engine, a->generation, a->report.step);
}

static void discard_snapshot(struct loop *l, const struct worker_action *a)
{
    engine_discard(l->engine);
}

static void write_snapshot(struct loop *l, const struct worker_action *a)
{
    char folder[4096];
    struct bl_error err;
    if (checkpoint_path(l, a->save.folder, folder, &err) < 0)
        return member_fail(&l->member, &err);
    engine_write(l->engine, folder);
}

static void abort_generation(struct loop *l, const struct worker_action *a)
{
    engine_abort(l->engine, a->generation);
}

static void leave(struct loop *l, const struct worker_action *a)
{
    member_exit(&l->member, a->exit.code, a->exit.text);
}

static void carry_out(struct loop *l, const struct worker_action *a)
{
    static void (*const handlers[WORKER_ACTION_COUNT])(struct loop *,
                                                       const struct worker_action *) = {
        [WORKER_ACTION_CONNECT] = connect_control,
        [WORKER_ACTION_OPEN] = open_run,
        [WORKER_ACTION_BEAT] = loop_send_beat,
        [WORKER_ACTION_ENDED] = loop_send_ended,
        [WORKER_ACTION_FORMED] = loop_send_formed,
        [WORKER_ACTION_RECEIVED] = loop_send_micro_batch,
        [WORKER_ACTION_CONSUMED] = loop_send_micro_batch,
        [WORKER_ACTION_REPORT] = loop_send_report,
        [WORKER_ACTION_RESULT] = loop_send_result,
        [WORKER_ACTION_BROKEN] = loop_send_broken,
        [WORKER_ACTION_SAVED] = loop_send_saved,
        [WORKER_ACTION_GOODBYE] = say_goodbye,
        [WORKER_ACTION_KEEP] = keep,
        [WORKER_ACTION_DROP] = drop,
        [WORKER_ACTION_RELEASE] = release,
        [WORKER_ACTION_FORM] = form,
        [WORKER_ACTION_HAND_ON] = hand_on,
        [WORKER_ACTION_COMPUTE] = compute,
        [WORKER_ACTION_REDUCE] = reduce,
        [WORKER_ACTION_SNAPSHOT] = take_snapshot,
        [WORKER_ACTION_DISCARD] = discard_snapshot,
        [WORKER_ACTION_ABORT] = abort_generation,
        [WORKER_ACTION_WRITE] = write_snapshot,
        [WORKER_ACTION_EXIT] = leave,
    };
    handlers[a->type](l, a);
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
    *e = (struct worker_event){
        .link = l->member.link, .generation = m->generation, .epoch = m->epoch};
    switch (m->body_case) {
    case BLIPREN__ENVELOPE__BODY_FORM:
        e->type = WORKER_EVENT_FORM;
        e->form.rank = m->form->rank;
        e->form.world = m->form->world;
        e->form.source = m->form->source;
        e->form.step = m->form->step;
        e->form.state_generation = m->form->state_generation;
        e->form.checkpoint = m->form->checkpoint;
        e->form.one_reads = m->form->one_reads;
        return 0;
    case BLIPREN__ENVELOPE__BODY_STORE:
        e->type = WORKER_EVENT_RENDEZVOUS;
        return 0;
    case BLIPREN__ENVELOPE__BODY_SAVE:
        e->type = WORKER_EVENT_SAVE;
        e->save.step = m->save->step;
        e->save.folder = m->save->folder;
        return 0;
    default:
        return bl_fail(err, BL_EPROTO, "a worker expects no %s", wire_body_name(m));
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

static void on_event(void *context, const struct member_event *from)
{
    struct worker_event event = {.type = (enum worker_event_type)from->type,
                                 .link = from->link,
                                 .generation = from->generation,
                                 .epoch = from->epoch};
    if (from->type == MEMBER_EVENT_WELCOME)
        event.welcome.patience_ms = from->patience_ms;
    if (from->type == MEMBER_EVENT_STOP)
        event.stop.code = from->code;
    handle(context, &event);
}

static void ignore_batch(struct wire_frames *frames, const struct bl_error *why)
{
    const char *address = wire_address(frames);
    bl_log_peer(BL_LOG_WARNING, address, "batch ignored: loader %s at %s: %s%s%s",
                why->peer[0] ? why->peer : "of unknown name", address, why->key,
                why->key[0] ? ": " : "", why->text);
}

static void on_data(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct loop *l = context;
    struct bl_error err;
    if (!l->image_side || l->member.leaving)
        return;
    const struct batch_rules rules = {.run = l->member.run,
                                      .plan = &l->plan,
                                      .image_side = l->image_side,
                                      .vocabulary = l->vocabulary,
                                      .cached = l->member.cache_tower[0] != 0,
                                      .fill = l->config->cache.fill,
                                      .row_bytes = l->row_bytes};
    int connection = frames->connection;
    if (batch_read(&rules, frames, &l->incoming, &err) < 0) {
        ignore_batch(frames, &err);
        return wire_cut(l->data, connection);
    }
    wire_know(l->data, connection, true);
    if (batch_check_samples(l->incoming, &l->plan, l->dataset, l->images, &err) < 0) {
        ignore_batch(&l->incoming->frames, &err);
        return batch_free(&l->incoming);
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

/* From now on a loader's first message may be as large as the micro-batches that this worker may be sent. */
static void allow_batches(struct loop *l)
{
    enum { SLOT_HEADER = BL_HEADER_BYTES_MAX / BL_MICRO_BATCH_SLOTS_MAX };
    uint64_t pixels = (uint64_t)l->image_side * (uint64_t)l->image_side * 3;
    uint64_t slot = (l->row_bytes ? l->row_bytes : pixels) +
                    (uint64_t)caption_tokens_max(&l->config->data) * sizeof(int32_t) + SLOT_HEADER;
    uint64_t message = l->plan.micro_batch * slot;
    struct guard_limits limits = wire_data_limits(l->plan.window * message);
    wire_allow(l->data, &limits);
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
        l->row_bytes = engine_row_bytes(l->engine);
        if (l->row_bytes)
            bl_log(BL_LOG_INFO,
                   "no feature cache in %s on this host: loaders ship its rows, %.3g MB an image",
                   l->config->cache.path, (double)l->row_bytes / 1e6);
        allow_batches(l);
        event.type = WORKER_EVENT_OPENED;
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
    l->idle_since = bl_now_s();
    bl_progress_add(1);
    handle(l, &event);
}

static void on_woken(void *context)
{
    struct loop *l = context;
    loop_send_rendezvous(l);
    for (int count = 0; l->engine && !l->member.leaving && engine_next(l->engine, &l->event);
         count++) {
        handle_engine_event(l);
        engine_event_release(&l->event);
        if (count == SOCKET_MESSAGES_PER_TURN)
            return member_wake(&l->member); /* the clock and the sockets have their turn */
    }
}

static void close_all(struct loop *l)
{
    engine_close(&l->engine);
    wire_socket_close(&l->data, 0);
    member_close(&l->member);
    loop_send_rendezvous(l);
    for (uint32_t i = 0; l->buffers && i < l->plan.window; i++)
        batch_free(&l->buffers[i]);
    free(l->buffers);
    batch_free(&l->incoming);
    worker_free(&l->core);
    config_free(&l->config);
    dataset_free(&l->dataset);
    free(l->images);
    pthread_mutex_destroy(&l->lock);
}

/* Where loaders connect. */
static int listen_for_data(struct loop *l, struct bl_error *err)
{
    const struct worker_options *o = l->options;
    char listen[SOCKET_ENDPOINT_MAX];
    snprintf(listen, sizeof listen, "tcp://%s:0", o->host);
    BL_TRY(wire_check_endpoint(listen, o->keys || o->insecure, err));
    if (!o->parent && wire_is_loopback(listen) && l->member.endpoint[0] &&
        !wire_is_loopback(l->member.endpoint)) {
        bl_fail(err, BL_EUSAGE, "expected an address that other hosts can reach, found %s",
                o->host);
        return bl_error_remedy(err, "give this host's own address with --host");
    }
    struct wire_guard guard = {.limits = wire_data_limits(0)}; /* nobody has a batch for us yet */
    return wire_pull(&l->member.uv, l->member.zmq, o->host, &guard, on_data, l, &l->data,
                     l->data_endpoint, err);
}

static int start(struct loop *l, struct bl_error *err)
{
    if (listen_for_data(l, err) < 0)
        return bl_error_key(err, "--host");
    struct worker_config config = {.incarnation = l->member.incarnation,
                                   .member = member_config(&l->member)};
    BL_TRY(worker_new(&config, &l->core, err));
    uv_update_time(&l->member.uv);
    carry_out_all(l, worker_start(l->core, uv_now(&l->member.uv)));
    return member_run(&l->member, err);
}

int worker_run(const struct worker_options *options, struct bl_error *err)
{
    static const struct member_calls calls = {on_event, on_message, on_woken};
    struct loop l = {.options = options};
    char kind[256];
    struct member_options member = {.role = BLIPREN__ROLE__ROLE_WORKER,
                                    .coordinator = options->coordinator,
                                    .keys = options->keys,
                                    .insecure = options->insecure,
                                    .patience_s = options->patience_s,
                                    .grace_s = options->grace_s,
                                    .name = options->name,
                                    .kind = kind,
                                    .parent = options->parent,
                                    .map = options->map,
                                    .calls = &calls,
                                    .context = &l};
    BL_TRY(ops_device_choose(options->device, &l.device, err));
    ops_device_kind(&l.device, kind, sizeof kind);
    pthread_mutex_init(&l.lock, NULL);
    l.outgoing_end = &l.outgoing;
    if (l.device.fallback[0])
        bl_log(BL_LOG_INFO, "device=cpu: %s", l.device.fallback);
    int rc = member_open(&l.member, &member, err);
    if (rc == 0)
        rc = start(&l, err);
    close_all(&l);
    return rc;
}
