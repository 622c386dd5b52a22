/* coordinator/loop.c - events from sockets, clock, journal and children into coordinator/core.h, its actions back out. */
#include "coordinator/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <uv.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/run.h"
#include "coordinator/check.h"
#include "coordinator/children.h"
#include "coordinator/core.h"
#include "coordinator/curves.h"
#include "coordinator/journal.h"
#include "coordinator/metrics.h"
#include "coordinator/peers.h"
#include "coordinator/progress.h"
#include "coordinator/registry.h"
#include "coordinator/results.h"
#include "proto/wire.h"

#define TICK_MS 50
#define PROGRESS_MS 250
#define LINGER_MS 1000
/* Samples seen before data.max_bad_fraction is judged: a few bad ones at the start say nothing. */
#define BAD_MINIMUM 100
/* Rates are means over about this many steps. */
#define RATE_STEPS 20

struct loop {
    const struct coordinator_options *options;
    struct config *config;
    struct dataset *dataset;
    uint64_t *train_ids, *validate_ids;
    struct bl_plan plan;
    uint8_t run[RUN_ID_BYTES];
    uint64_t incarnation;
    int lock_fd;

    uv_loop_t uv;
    bool uv_open;
    uv_timer_t tick, draw;
    uv_signal_t signals[2];
    uv_async_t journaled;
    void *zmq;
    struct wire_socket *router;
    char endpoint[SOCKET_ENDPOINT_MAX];

    struct coord *core;
    struct journal *journal;
    struct metrics *metrics;
    struct results *results;
    struct peers *peers;
    struct children *children;
    FILE *bad_samples;

    pthread_mutex_t lock;
    uint64_t journaled_seq;        /* under the lock, from the journal's thread */
    struct bl_error journal_error; /* under the lock */

    const Blipren__Envelope *handled; /* the message being handled … */
    struct peer *sender;              /* … and whose it is */
    int verifications;                /* under way on the thread pool */
    struct coord_checkpoint best;     /* generation 0: none */
    double best_loss, last_loss;      /* of validations */
    uint64_t last_loss_step;
    double latest_train_loss;
    double step_s, images, tokens; /* running means per step */
    double wait_data, wait_compute, wait_reduce;
    uint64_t last_commit_ms;
    uint64_t steps_at_start;
    int stops;       /* signals taken */
    int probe_ticks; /* until everyone gets a Pulse; 0: no need */
    bool leaving;
    struct bl_error error; /* why it ends, code 0: complete */
};

static void step_core(struct loop *l, struct coord_event *event);

/* -- messages out -- */

static void send_to(struct loop *l, struct peer *peer, uint64_t generation, Blipren__Envelope *e)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    e->version = BL_PROTOCOL_VERSION;
    e->generation = generation;
    e->peer = l->incarnation;
    e->run = (ProtobufCBinaryData){sizeof l->run, l->run};
    wire_pack(e, &data, &size);
    /* The next tick tells the core that it is lost. */
    if (wire_router_send(l->router, &peer->id, data, size) < 0)
        peer->unreachable = true;
}

static void send_welcome(struct loop *l, struct peer *peer, uint64_t generation)
{
    uint32_t patience_ms = (uint32_t)(l->config->cluster.patience_s * 1000);
    Blipren__Welcome welcome = BLIPREN__WELCOME__INIT;
    welcome.run_folder = l->config->run_dir;
    welcome.patience_ms = patience_ms;
    welcome.heartbeat_ms = bl_timing_of(patience_ms).heartbeat_ms;
    WIRE_ENVELOPE(e, WELCOME, welcome) = &welcome;
    send_to(l, peer, generation, &e);
}

static void send_refuse(struct loop *l, struct peer *peer, const char *text, const char *remedy)
{
    char line[700];
    snprintf(line, sizeof line, "%s", text);
    wire_text(line);
    Blipren__Refuse refuse = BLIPREN__REFUSE__INIT;
    refuse.text = line;
    refuse.remedy = (char *)(uintptr_t)remedy;
    WIRE_ENVELOPE(e, REFUSE, refuse) = &refuse;
    bl_log(BL_LOG_WARNING, "peer=%s refused: %s", peer->name, text);
    send_to(l, peer, 0, &e);
}

static void send_form(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    char name[COORD_CHECKPOINT_NAME_MAX] = "";
    if (a->form.source < 0 && a->form.checkpoint.generation)
        coord_checkpoint_name(a->form.checkpoint, name);
    Blipren__Form form = BLIPREN__FORM__INIT;
    form.rank = a->form.rank;
    form.world = a->form.world;
    form.source = a->form.source;
    form.step = a->form.step;
    form.state_generation = a->form.state_generation;
    form.checkpoint = name;
    WIRE_ENVELOPE(e, FORM, form) = &form;
    send_to(l, peer, a->generation, &e);
}

static void send_order(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    static uint64_t samples[BL_GROUP_SLOTS_MAX];
    static uint32_t epochs[BL_GROUP_SLOTS_MAX];
    struct peer *worker = peers_of_incarnation(l->peers, a->order.worker);
    coord_order_samples(l->core, a, samples, epochs);
    Blipren__Order order = BLIPREN__ORDER__INIT;
    order.kind = (Blipren__Kind)a->order.kind;
    order.step = a->order.step;
    order.group = a->order.group;
    order.first = a->order.places.first;
    order.n_sample = order.n_epoch = a->order.places.count;
    order.sample = samples;
    order.epoch = epochs;
    order.worker = a->order.worker;
    order.endpoint = worker ? worker->endpoint : (char *)"";
    WIRE_ENVELOPE(e, ORDER, order) = &order;
    send_to(l, peer, a->generation, &e);
}

static void send_save(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    char name[COORD_CHECKPOINT_NAME_MAX];
    coord_checkpoint_name(a->checkpoint, name);
    Blipren__Save save = BLIPREN__SAVE__INIT;
    save.step = a->checkpoint.step;
    save.folder = name;
    WIRE_ENVELOPE(e, SAVE, save) = &save;
    send_to(l, peer, a->generation, &e);
}

static void send_stop(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    Blipren__Stop stop = BLIPREN__STOP__INIT;
    stop.last = a->stop.last;
    stop.reason = (char *)(uintptr_t)bl_error_name(a->stop.code);
    WIRE_ENVELOPE(e, STOP, stop) = &stop;
    send_to(l, peer, a->generation, &e);
}

static void send_end(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    Blipren__End end = BLIPREN__END__INIT;
    WIRE_ENVELOPE(e, END, end) = &end;
    send_to(l, peer, a->generation, &e);
}

static void send_rendezvous(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    WIRE_ENVELOPE(e, RENDEZVOUS, rendezvous) = l->handled->rendezvous;
    send_to(l, peer, a->generation, &e);
}

static void pulse_one(void *context, struct peer *peer)
{
    struct loop *l = context;
    Blipren__Pulse pulse = BLIPREN__PULSE__INIT;
    WIRE_ENVELOPE(e, PULSE, pulse) = &pulse;
    if (peer->role != BL_ROLE_NONE)
        send_to(l, peer, coord_status(l->core).generation, &e);
}

/* -- leaving -- */

static void leave(struct loop *l)
{
    l->leaving = true;
    if (l->children)
        children_stop(l->children, false);
    uv_stop(&l->uv);
}

static void fail(struct loop *l, const struct bl_error *error)
{
    if (!l->error.code)
        l->error = *error;
    leave(l);
}

/* -- files -- */

struct verification {
    uv_work_t work;
    struct loop *loop;
    struct coord_checkpoint checkpoint;
    struct bl_error error;
    bool ok;
};

static void verify_work(uv_work_t *work)
{
    struct verification *v = work->data;
    v->ok = registry_verify(v->loop->config->run_dir, v->checkpoint, &v->error) == 0;
}

static void verify_done(uv_work_t *work, int status)
{
    struct verification *v = work->data;
    struct loop *l = v->loop;
    struct coord_event event = {.type = COORD_EVENT_VERIFIED, .verified = {v->checkpoint, v->ok}};
    if (!v->ok)
        bl_log_error(&v->error);
    l->verifications--;
    free(v);
    step_core(l, &event);
}

static void start_verification(struct loop *l, struct coord_checkpoint checkpoint)
{
    struct verification *v = calloc(1, sizeof *v);
    BL_ASSERT(v != NULL);
    v->work.data = v;
    v->loop = l;
    v->checkpoint = checkpoint;
    l->verifications++;
    uv_queue_work(&l->uv, &v->work, verify_work, verify_done);
}

/* Points "latest" and "best", removes what train.keep_last no longer keeps. */
static void register_checkpoint(struct loop *l, struct coord_checkpoint checkpoint)
{
    const struct coord_ledger *ledger = coord_ledger(l->core);
    const char *run = l->config->run_dir;
    struct bl_error err;
    int rc = registry_point(run, "latest", checkpoint, &err);
    bool better = l->last_loss_step == checkpoint.step &&
                  (!l->best.generation || l->last_loss < l->best_loss);
    if (l->config->train.keep_best && better && isfinite(l->last_loss)) {
        l->best = checkpoint;
        l->best_loss = l->last_loss;
        if (rc == 0)
            rc = registry_point(run, "best", checkpoint, &err);
    }
    int64_t keep = l->config->train.keep_last;
    for (uint32_t i = 0; rc == 0 && i + keep < ledger->checkpoint_count; i++) {
        struct coord_checkpoint old = ledger->checkpoints[i];
        bool is_best = old.step == l->best.step && old.generation == l->best.generation;
        if (!is_best)
            rc = registry_remove(run, old, &err);
    }
    if (rc < 0)
        bl_log_error(&err); /* the checkpoint itself is whole; ignoring */
    bl_log(BL_LOG_INFO, "checkpoint step=%" PRIu64 " is whole on disk", checkpoint.step);
}

static void note_bad_sample(struct loop *l, uint32_t index)
{
    const Blipren__VoidSlot *slot = l->handled->sent->voids[index];
    struct dataset_sample sample;
    if (slot->sample >= dataset_samples(l->dataset))
        return;
    dataset_sample(l->dataset, slot->sample, &sample);
    bl_log(BL_LOG_WARNING, "bad sample=%" PRIu64 " file=%s: %s; ignoring", slot->sample,
           sample.image, slot->reason);
    json_t *o = json_pack("{s:I, s:s, s:s}", "sample", (json_int_t)slot->sample, "file_name",
                          sample.image, "reason", slot->reason);
    bl_autofree char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (line && (fprintf(l->bad_samples, "%s\n", line) < 0 || fflush(l->bad_samples) != 0))
        bl_log(BL_LOG_WARNING, "bad_samples.jsonl cannot be written: %s; ignoring",
               strerror(errno));
}

/* -- progress and metrics -- */

static void show_progress(struct loop *l, bool line)
{
    struct coord_status s = coord_status(l->core);
    double left = l->step_s > 0 ? l->step_s * (double)(l->plan.steps - s.step) : -1;
    struct progress_view view = {
        .phase = coord_state_name(s.state),
        .step = (int64_t)s.step,
        .steps = (int64_t)l->plan.steps,
        .epoch = (double)s.step * l->plan.batch / (double)l->plan.train_samples,
        .loss = l->latest_train_loss,
        .images_per_s = l->step_s > 0 ? l->images / l->step_s : 0,
        .tokens_per_s = l->step_s > 0 ? l->tokens / l->step_s : 0,
        .seconds_left = left,
        .waiting = progress_bound_by(l->wait_data, l->wait_compute, l->wait_reduce),
        .workers = (int)s.workers,
        .loaders = (int)s.loaders};
    progress_show(&view, line);
}

static void blend(double *mean, double x, bool first)
{
    *mean = first ? x : *mean + (x - *mean) / RATE_STEPS;
}

static void on_committed(struct loop *l, uint64_t step)
{
    struct metrics_step m;
    double share[METRICS_EXPERTS_MAX];
    struct bl_error err;
    uint64_t now = uv_now(&l->uv);
    double step_s = l->last_commit_ms ? (double)(now - l->last_commit_ms) / 1000 : 0;
    bool first = l->step_s <= 0;
    l->last_commit_ms = now;
    if (!results_take_step(l->results, step, &m, share))
        return; /* known from a survivor's state alone: no rank lived to tell its loss */
    m.step = (int64_t)step + 1;
    m.epoch = (double)m.step * l->plan.batch / (double)l->plan.train_samples;
    m.step_s = step_s;
    l->latest_train_loss = m.loss;
    if (step_s > 0) {
        blend(&l->step_s, step_s, first);
        blend(&l->images, (double)m.images, first);
        blend(&l->tokens, (double)m.tokens, first);
        blend(&l->wait_data, m.data_wait_s, first);
        blend(&l->wait_compute, m.compute_s, first);
        blend(&l->wait_reduce, m.reduce_wait_s, first);
    }
    if (m.skipped)
        bl_log(BL_LOG_WARNING, "step=%" PRIu64 " skipped: its gradient is not usable (norm %g)",
               step, m.norm);
    for (int e = 0; e < m.experts; e++)
        if (share[e] < 0.01 && m.step % l->config->log.every == 0)
            bl_log(BL_LOG_WARNING,
                   "step=%" PRIu64
                   " expert=%d gets %.2f %% of the routing weight: the mixture collapses",
                   step, e, 100 * share[e]);
    if (metrics_step(l->metrics, &m, &err) < 0) {
        fail(l, &err);
        return;
    }
    show_progress(l, m.step % l->config->log.every == 0 || m.step == (int64_t)l->plan.steps);
}

struct caption_writer {
    struct loop *loop;
    uint64_t step;
    int shown;
};

static void write_caption(void *context, uint64_t sample, const char *text, bool ended)
{
    struct caption_writer *w = context;
    struct dataset_sample about;
    struct dataset_caption reference;
    struct bl_error err;
    if (sample >= dataset_samples(w->loop->dataset))
        return;
    dataset_sample(w->loop->dataset, sample, &about);
    dataset_caption(w->loop->dataset, sample, 0, &reference);
    if (metrics_caption(w->loop->metrics, (int64_t)w->step, about.image, reference.text, text,
                        ended, &err) < 0)
        bl_log_error(&err);
    if (w->shown++ < 2)
        bl_log(BL_LOG_INFO, "caption step=%" PRIu64 " \"%s\" (%s)", w->step, text, reference.text);
}

static void on_validated(struct loop *l, uint64_t step)
{
    struct metrics_validation m = {.step = (int64_t)step};
    double weight[METRICS_EXPERTS_MAX];
    struct caption_writer writer = {l, step, 0};
    struct bl_error err;
    results_sum_validation(l->results, &m, weight);
    results_each_caption(l->results, write_caption, &writer);
    results_clear_validation(l->results);
    l->last_loss = m.loss;
    l->last_loss_step = step;
    l->last_commit_ms = 0; /* the next step's time is not the validation's */
    bl_log(BL_LOG_INFO,
           "validation step=%" PRIu64
           " loss=%.4f accuracy=%.3f image_matters=%.4f captions=%d ended=%d",
           step, m.loss, m.accuracy, m.shuffled_loss - m.paired_loss, m.captions, m.ended);
    if (metrics_validation(l->metrics, &m, &err) < 0)
        fail(l, &err);
}

/* -- actions -- */

static void exit_with(struct loop *l, const struct coord_action *a)
{
    if (a->exit.code && !l->error.code)
        bl_fail(&l->error, (enum bl_error_code)a->exit.code, "%s", a->exit.text);
    leave(l);
}

static void forget(struct loop *l, struct peer *peer)
{
    if (peer == l->sender)
        l->sender = NULL;
    peers_remove(l->peers, peer);
}

/* Actions that are messages to one peer. */
static void send_action(struct loop *l, const struct coord_action *a)
{
    struct peer *peer = peers_of_link(l->peers, a->link);
    char text[256];
    if (!peer)
        return;
    switch (a->type) {
    case COORD_ACTION_WELCOME:
        send_welcome(l, peer, a->generation);
        break;
    case COORD_ACTION_REFUSE:
        snprintf(text, sizeof text, "%s (expected %" PRIu64 ", found %" PRIu64 ")", a->refuse.text,
                 a->refuse.expected, a->refuse.found);
        send_refuse(l, peer, text, "");
        forget(l, peer);
        break;
    case COORD_ACTION_FORGET:
        forget(l, peer);
        break;
    case COORD_ACTION_END:
        send_end(l, peer, a);
        break;
    case COORD_ACTION_FORM:
        send_form(l, peer, a);
        break;
    case COORD_ACTION_RELAY:
        send_rendezvous(l, peer, a);
        break;
    case COORD_ACTION_ORDER:
        send_order(l, peer, a);
        break;
    case COORD_ACTION_SAVE:
        send_save(l, peer, a);
        break;
    default:
        send_stop(l, peer, a);
        break;
    }
}

static void carry_out(struct loop *l, const struct coord_action *a)
{
    struct bl_error err;
    switch (a->type) {
    case COORD_ACTION_PULSE:
        peers_each(l->peers, pulse_one, l);
        break;
    case COORD_ACTION_JOURNAL:
        journal_append(l->journal, a->journal.seq, &a->journal.record);
        break;
    case COORD_ACTION_VERIFY:
        start_verification(l, a->checkpoint);
        break;
    case COORD_ACTION_COMMITTED:
        on_committed(l, a->committed.step);
        break;
    case COORD_ACTION_ACCEPTED:
        results_validation(l->results, l->handled->validation);
        break;
    case COORD_ACTION_VALIDATED:
        on_validated(l, a->step);
        break;
    case COORD_ACTION_REWOUND:
        results_clear(l->results);
        bl_log(BL_LOG_WARNING, "no worker's state survived: going back to step=%" PRIu64, a->step);
        if (metrics_rewind(l->metrics, (int64_t)a->step, &err) < 0)
            fail(l, &err);
        break;
    case COORD_ACTION_REGISTERED:
        register_checkpoint(l, a->checkpoint);
        break;
    case COORD_ACTION_UNSAVED:
        bl_log(BL_LOG_WARNING, "checkpoint step=%" PRIu64 " could not be written%s%s; ignoring",
               a->checkpoint.step,
               l->handled && l->handled->body_case == BLIPREN__ENVELOPE__BODY_SAVED ? ": " : "",
               l->handled && l->handled->body_case == BLIPREN__ENVELOPE__BODY_SAVED
                   ? l->handled->saved->error
                   : "");
        break;
    case COORD_ACTION_BAD_SAMPLE:
        note_bad_sample(l, a->void_index);
        break;
    case COORD_ACTION_VIOLATION:
        bl_log(BL_LOG_ERROR,
               "peer=%s broke the protocol: %s (expected %" PRIu64 ", found %" PRIu64 ")",
               l->sender ? l->sender->name : "?", a->refuse.text, a->refuse.expected,
               a->refuse.found);
        break;
    case COORD_ACTION_EXIT:
        exit_with(l, a);
        break;
    default:
        send_action(l, a);
        break;
    }
}

static void carry_out_all(struct loop *l, const struct coord_actions *actions)
{
    for (;;) {
        bool more = actions->more;
        for (uint32_t i = 0; i < actions->count; i++)
            carry_out(l, &actions->list[i]);
        if (!more || l->leaving)
            return;
        struct coord_event tick = {.type = COORD_EVENT_TICK, .now_ms = uv_now(&l->uv)};
        actions = coord_step(l->core, &tick);
    }
}

static void step_core(struct loop *l, struct coord_event *event)
{
    if (l->leaving)
        return;
    event->now_ms = uv_now(&l->uv);
    carry_out_all(l, coord_step(l->core, event));
}

/* -- messages in -- */

/* What only texts can tell; the core judges the rest. */
static const char *refusal(struct loop *l, const Blipren__Envelope *m, const char **ret_remedy)
{
    static char text[700];
    char build[512];
    *ret_remedy = "install the same version of BLIPren on every host";
    if (m->version != BL_PROTOCOL_VERSION) {
        snprintf(text, sizeof text, "this coordinator speaks protocol version %d, you speak %u",
                 BL_PROTOCOL_VERSION, m->version);
        return text;
    }
    run_build(build, sizeof build);
    if (m->hello->role == BLIPREN__ROLE__ROLE_WORKER && l->config->train.reproducible &&
        strcmp(build, m->hello->build)) {
        snprintf(text, sizeof text,
                 "a reproducible run needs the same build everywhere: here %s, there %s", build,
                 m->hello->build);
        *ret_remedy = "use machines of one kind, or train.reproducible: false";
        return text;
    }
    return NULL;
}

static bool take_hello(struct loop *l, struct peer *peer, const Blipren__Envelope *m,
                       struct coord_event *e)
{
    const char *remedy, *text;
    snprintf(peer->name, sizeof peer->name, "%s", m->hello->name);
    snprintf(peer->build, sizeof peer->build, "%s", m->hello->build);
    snprintf(peer->endpoint, sizeof peer->endpoint, "%s", m->hello->data_endpoint);
    text = refusal(l, m, &remedy);
    if (text) {
        send_refuse(l, peer, text, remedy);
        forget(l, peer);
        return false;
    }
    peer->incarnation = m->peer;
    peer->role = (enum bl_role)m->hello->role;
    e->type = COORD_EVENT_HELLO;
    e->hello.role = peer->role;
    e->hello.capacity = m->hello->capacity;
    bl_log(BL_LOG_INFO, "peer=%s joins as %s", peer->name,
           peer->role == BL_ROLE_WORKER ? "worker" : "loader");
    return true;
}

static void take_digest(struct bl_digest *ret, const ProtobufCBinaryData *bytes)
{
    memset(ret, 0, sizeof *ret);
    if (bytes->len == sizeof ret->bytes)
        memcpy(ret->bytes, bytes->data, sizeof ret->bytes);
}

static void take_group(struct coord_event *e, enum coord_event_type type, Blipren__Kind kind,
                       uint64_t step, uint32_t group)
{
    e->type = type;
    e->group.kind = (enum bl_kind)kind;
    e->group.step = step;
    e->group.group = group;
}

struct scratch {
    struct coord_void voids[BL_GROUP_SLOTS_MAX];
    struct bl_range trained[BL_GROUP_SLOTS_MAX];
};

/* Fills the event from a message; false: it is dealt with. */
static bool translate(struct loop *l, struct peer *peer, const Blipren__Envelope *m,
                      struct coord_event *e, struct scratch *scratch)
{
    switch (m->body_case) {
    case BLIPREN__ENVELOPE__BODY_HELLO:
        return take_hello(l, peer, m, e);
    case BLIPREN__ENVELOPE__BODY_ENDED:
        e->type = COORD_EVENT_ENDED;
        e->ended.applied_step = m->ended->applied_step;
        e->ended.state_generation = m->ended->state_generation;
        take_digest(&e->ended.digest, &m->ended->state_digest);
        return true;
    case BLIPREN__ENVELOPE__BODY_BEAT:
        snprintf(peer->phase, sizeof peer->phase, "%s", m->beat->phase);
        snprintf(peer->waiting, sizeof peer->waiting, "%s", m->beat->waiting);
        e->type = COORD_EVENT_BEAT;
        return true;
    case BLIPREN__ENVELOPE__BODY_RENDEZVOUS:
        e->type = COORD_EVENT_RENDEZVOUS;
        return true;
    case BLIPREN__ENVELOPE__BODY_FORMED:
        e->type = COORD_EVENT_FORMED;
        e->formed.step = m->formed->step;
        take_digest(&e->formed.digest, &m->formed->state_digest);
        return true;
    case BLIPREN__ENVELOPE__BODY_GOT:
        take_group(e, COORD_EVENT_GOT, m->got->kind, m->got->step, m->got->group);
        return true;
    case BLIPREN__ENVELOPE__BODY_USED:
        take_group(e, COORD_EVENT_USED, m->used->kind, m->used->step, m->used->group);
        return true;
    case BLIPREN__ENVELOPE__BODY_REPORT:
        results_report(l->results, m->report);
        for (size_t i = 0; i < m->report->n_trained; i++)
            scratch->trained[i] =
                (struct bl_range){m->report->trained[i]->first, m->report->trained[i]->count};
        e->type = COORD_EVENT_REPORT;
        e->report.step = m->report->step;
        e->report.sample_digest = m->report->sample_digest;
        e->report.trained_count = (uint32_t)m->report->n_trained;
        e->report.trained = scratch->trained;
        return true;
    case BLIPREN__ENVELOPE__BODY_VALIDATION:
        take_group(e, COORD_EVENT_VALIDATION, BLIPREN__KIND__KIND_VALIDATE, m->validation->step,
                   m->validation->group);
        return true;
    case BLIPREN__ENVELOPE__BODY_BROKEN:
        bl_log(BL_LOG_WARNING, "peer=%s %s", peer->name, m->broken->text);
        e->type = COORD_EVENT_BROKEN;
        return true;
    case BLIPREN__ENVELOPE__BODY_SAVED:
        e->type = COORD_EVENT_SAVED;
        e->saved.step = m->saved->step;
        e->saved.folder = m->saved->folder;
        e->saved.ok = !m->saved->error[0];
        return true;
    case BLIPREN__ENVELOPE__BODY_SENT:
        take_group(e, COORD_EVENT_SENT, m->sent->kind, m->sent->step, m->sent->group);
        for (size_t i = 0; i < m->sent->n_voids; i++)
            scratch->voids[i] =
                (struct coord_void){m->sent->voids[i]->slot, m->sent->voids[i]->sample};
        e->group.void_count = (uint32_t)m->sent->n_voids;
        e->group.voids = scratch->voids;
        return true;
    case BLIPREN__ENVELOPE__BODY_GOODBYE:
        bl_log(BL_LOG_INFO, "peer=%s leaves: %s", peer->name, m->goodbye->reason);
        e->type = COORD_EVENT_GOODBYE;
        return true;
    default:
        bl_log(BL_LOG_WARNING, "peer=%s sent %s, which is no peer's to send; ignoring", peer->name,
               wire_body_name(m));
        return false;
    }
}

static void handle_message(struct loop *l, struct peer *peer, const Blipren__Envelope *m)
{
    static struct scratch scratch; /* the loop has one thread */
    struct coord_event event = {.peer = m->peer, .link = peer->link, .generation = m->generation};
    if (m->body_case != BLIPREN__ENVELOPE__BODY_HELLO && peer->role == BL_ROLE_NONE)
        return; /* of a connection that was refused or never said Hello */
    if (m->version != BL_PROTOCOL_VERSION && m->body_case != BLIPREN__ENVELOPE__BODY_HELLO)
        return;
    l->handled = m;
    l->sender = peer;
    if (translate(l, peer, m, &event, &scratch))
        step_core(l, &event);
    l->handled = NULL;
    l->sender = NULL;
}

static void on_message(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct loop *l = context;
    Blipren__Envelope *m = NULL;
    struct bl_error err;
    if (l->leaving)
        return;
    struct peer *peer = peers_of_id(l->peers, from);
    if (wire_unpack_frames(frames, &m, &err) < 0) {
        bl_error_peer(&err, peer->name[0] ? peer->name : "unknown peer");
        bl_log_error(&err);
        return;
    }
    handle_message(l, peer, m);
    wire_envelope_free(&m);
}

/* -- other events -- */

/* Somebody's connection broke; a Pulse to everyone will show whose, once ZeroMQ has let go of it. */
static void on_connection_lost(void *context)
{
    struct loop *l = context;
    l->probe_ticks = 2;
}

struct search {
    const struct children *children;
    struct peer *found;
};

/* A child's end is told by the system, which also knows that it will not come back with its state. */
static void note_unreachable(void *context, struct peer *peer)
{
    struct search *search = context;
    const char *colon = strrchr(peer->name, ':'); /* host:pid */
    if (peer->unreachable && !(colon && children_runs(search->children, atoi(colon + 1))))
        search->found = peer;
}

static void drop_unreachable(struct loop *l)
{
    for (;;) {
        struct search search = {.children = l->children};
        peers_each(l->peers, note_unreachable, &search);
        struct peer *peer = search.found;
        if (!peer || l->leaving)
            return;
        uint64_t link = peer->link;
        struct coord_event event = {
            .type = COORD_EVENT_LOST, .peer = peer->incarnation, .link = link};
        bl_log(BL_LOG_WARNING, "peer=%s connection lost", peer->name);
        step_core(l, &event);
        if ((peer = peers_of_link(l->peers, link))) /* the core knew it no more */
            forget(l, peer);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct loop *l = timer->data;
    struct coord_event event = {.type = COORD_EVENT_TICK};
    if (l->probe_ticks && --l->probe_ticks == 0)
        peers_each(l->peers, pulse_one, l);
    drop_unreachable(l);
    step_core(l, &event);
}

static void on_draw(uv_timer_t *timer)
{
    struct loop *l = timer->data;
    if (!l->leaving)
        show_progress(l, false);
}

static void written(void *context, uint64_t seq, const struct bl_error *err)
{
    struct loop *l = context;
    pthread_mutex_lock(&l->lock);
    if (err)
        l->journal_error = *err;
    else
        l->journaled_seq = seq;
    pthread_mutex_unlock(&l->lock);
    uv_async_send(&l->journaled);
}

static void on_journaled(uv_async_t *async)
{
    struct loop *l = async->data;
    pthread_mutex_lock(&l->lock);
    struct coord_event event = {.type = COORD_EVENT_JOURNALED, .journaled = {l->journaled_seq}};
    struct bl_error err = l->journal_error;
    pthread_mutex_unlock(&l->lock);
    if (err.code)
        fail(l, &err);
    else
        step_core(l, &event);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct loop *l = handle->data;
    if (l->stops++) {
        bl_log(BL_LOG_WARNING, "second signal %d: stopping at once", number);
        struct bl_error err;
        bl_fail(&err, BL_ESTOPPED, "stopped at once; the last checkpoint counts");
        if (l->children)
            children_stop(l->children, true);
        fail(l, &err);
        return;
    }
    bl_log(BL_LOG_INFO, "signal %d: saving, then stopping (again: at once)", number);
    struct coord_event event = {.type = COORD_EVENT_STOP};
    step_core(l, &event);
}

static void on_child_ended(void *context, const char *name, int pid, int exit_code, int signal)
{
    struct loop *l = context;
    char host[64] = "", peer_name[96];
    gethostname(host, sizeof host - 1);
    snprintf(peer_name, sizeof peer_name, "%s:%d", host, pid);
    struct peer *peer = peers_of_name(l->peers, peer_name);
    if (!l->leaving && (exit_code || signal))
        bl_log(BL_LOG_WARNING, "%s (process %d) ended: %s %d", name, pid,
               signal ? "signal" : "exit code", signal ? signal : exit_code);
    if (!peer)
        return;
    struct coord_event event = {.type = COORD_EVENT_LOST,
                                .peer = peer->incarnation,
                                .link = peer->link,
                                .lost = {.dead = true}};
    step_core(l, &event);
}

static void on_child_given_up(void *context, const char *name, const char *last_line)
{
    struct loop *l = context;
    struct bl_error err;
    bl_fail(&err, BL_EPEER, "it ends again and again; its last line: %s", last_line);
    bl_error_peer(&err, name);
    bl_error_remedy(&err, "see %s/logs/%s.log", l->config->run_dir, name);
    fail(l, &err);
}

/* -- the run folder -- */

/* One coordinator a run folder. */
static int lock_run(struct loop *l, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_folder_make(l->config->run_dir, err));
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "lock", err));
    l->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (l->lock_fd >= 0 && flock(l->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (l->lock_fd >= 0 && errno == EWOULDBLOCK) {
        bl_fail(err, BL_EUSAGE, "another coordinator works in this run folder");
        bl_error_remedy(err, "stop it first, or choose another run_dir");
        return bl_error_file(err, l->config->run_dir);
    }
    bl_fail_errno(err, "cannot be locked");
    return bl_error_file(err, path);
}

/* config.yaml of the run folder: may the run go on under what is asked now? */
static int compare_config(struct loop *l, struct bl_error *err)
{
    char path[4096], notice[600];
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "config.yaml", err));
    if (bl_path_is_file(path)) {
        struct config *before = NULL;
        BL_TRY(config_open(path, &before, err));
        int rc = config_may_resume(before, l->config, notice, sizeof notice, err);
        config_free(&before);
        if (rc < 0)
            return bl_error_file(err, l->options->yaml);
        if (notice[0])
            bl_log(BL_LOG_INFO, "%s", notice);
    }
    return 0;
}

/* What the peers will read. A start that failed before leaves the old one. */
static int write_config(struct loop *l, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "config.yaml", err));
    return bl_file_write(path, l->config->text, strlen(l->config->text), err);
}

static int read_ids(const struct dataset *dataset, enum dataset_split split, uint64_t **ret,
                    struct bl_error *err)
{
    uint64_t count = dataset_count(dataset, split);
    *ret = calloc(count + 1, sizeof **ret);
    if (!*ret)
        return bl_fail(err, BL_ENOMEM, "no memory for %" PRIu64 " sample ids", count);
    for (uint64_t i = 0; i < count; i++)
        (*ret)[i] = dataset_id(dataset, split, i);
    return 0;
}

static bool indexing(void *context, uint64_t done, uint64_t total)
{
    if (isatty(STDOUT_FILENO))
        printf("\r\033[Kindexing %" PRIu64 "/%" PRIu64 "%s", done, total,
               done == total ? "\n" : "");
    fflush(stdout);
    return true;
}

static int prepare_data(struct loop *l, struct bl_error *err)
{
    bool reused;
    BL_TRY(dataset_prepare(l->config, indexing, l, &l->dataset, &reused, err));
    BL_TRY(read_ids(l->dataset, DATASET_TRAIN, &l->train_ids, err));
    BL_TRY(read_ids(l->dataset, DATASET_VALIDATION, &l->validate_ids, err));
    run_plan(l->config, l->dataset, &l->plan);
    bl_log(BL_LOG_INFO, "data train=%" PRIu64 " validation=%" PRIu64 "%s", l->plan.train_samples,
           l->plan.validate_samples, reused ? " (index reused)" : "");
    return 0;
}

static int replay(void *context, const struct coord_record *record, struct bl_error *err)
{
    return coord_replay(((struct loop *)context)->core, record, err);
}

static int open_core(struct loop *l, struct bl_error *err)
{
    const struct config *c = l->config;
    struct coord_config config = {.plan = l->plan,
                                  .train_ids = l->train_ids,
                                  .validate_ids = l->validate_ids,
                                  .sample_count = dataset_samples(l->dataset),
                                  .max_bad_fraction = c->data.max_bad_fraction,
                                  .bad_minimum = BAD_MINIMUM,
                                  .patience_ms = (uint32_t)(c->cluster.patience_s * 1000),
                                  .workers_max = BL_WORKERS_MAX,
                                  .loaders_max = BL_LOADERS_MAX,
                                  .workers_min = (uint32_t)c->cluster.workers_min,
                                  .workers_wanted = (uint32_t)c->cluster.workers_min,
                                  .members_gone = l->options->local};
    if (l->options->local && (uint32_t)l->options->workers > config.workers_wanted)
        config.workers_wanted = (uint32_t)l->options->workers;
    BL_TRY(coord_new(&config, &l->core, err));
    BL_TRY(journal_open(c->run_dir, replay, written, l, &l->journal, err));
    const struct coord_ledger *ledger = coord_ledger(l->core);
    l->steps_at_start = ledger->committed;
    if (ledger->started)
        bl_log(BL_LOG_INFO, "the run goes on at step=%" PRIu64 " of %" PRIu64, ledger->committed,
               l->plan.steps);
    BL_TRY(registry_tidy(c->run_dir, ledger->checkpoints, (int)ledger->checkpoint_count, err));
    BL_TRY(results_new(bl_plan_groups(&l->plan, BL_KIND_VALIDATE), &l->results, err));
    return metrics_open(c->run_dir, &l->metrics, err);
}

static int open_files(struct loop *l, struct bl_error *err)
{
    char path[4096];
    BL_TRY(config_open(l->options->yaml, &l->config, err));
    BL_TRY(check_models(l->options->yaml, l->config, err));
    BL_TRY(lock_run(l, err));
    BL_TRY(compare_config(l, err));
    BL_TRY(run_id(l->config->run_dir, true, l->run, err));
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "checkpoints", err));
    BL_TRY(bl_folder_make(path, err));
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "bad_samples.jsonl", err));
    l->bad_samples = fopen(path, "ae");
    if (!l->bad_samples) {
        bl_fail_errno(err, "cannot be written");
        return bl_error_file(err, path);
    }
    return prepare_data(l, err);
}

/* -- start and end -- */

static void start_handles(struct loop *l)
{
    uv_loop_init(&l->uv);
    l->uv_open = true;
    uv_timer_init(&l->uv, &l->tick);
    uv_timer_init(&l->uv, &l->draw);
    uv_async_init(&l->uv, &l->journaled, on_journaled);
    l->tick.data = l->draw.data = l->journaled.data = l;
    uv_timer_start(&l->tick, on_tick, TICK_MS, TICK_MS);
    uv_timer_start(&l->draw, on_draw, PROGRESS_MS, PROGRESS_MS);
    static const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&l->uv, &l->signals[i]);
        l->signals[i].data = l;
        uv_signal_start(&l->signals[i], on_signal, numbers[i]);
    }
}

static int start_children(struct loop *l, struct bl_error *err)
{
    int threads = (int)l->config->threads;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!threads)
        threads = (int)(cores / l->options->workers > 1 ? cores / l->options->workers : 1);
    struct children_options options = {.loop = &l->uv,
                                       .run_folder = l->config->run_dir,
                                       .endpoint = l->endpoint,
                                       .workers = l->options->workers,
                                       .loaders = l->options->loaders,
                                       .threads = threads,
                                       .given_up = on_child_given_up,
                                       .ended = on_child_ended,
                                       .context = l};
    return children_open(&options, &l->children, err);
}

static int start(struct loop *l, struct bl_error *err)
{
    char endpoint[SOCKET_ENDPOINT_MAX];
    const struct config *c = l->config;
    snprintf(endpoint, sizeof endpoint, "tcp://%s:%lld", c->cluster.bind,
             (long long)c->cluster.port);
    if (wire_check_endpoint(endpoint, c->cluster.insecure || l->options->insecure, err) < 0)
        return bl_error_key(err, "cluster.bind");
    BL_TRY(wire_context_open(&l->zmq, err));
    BL_TRY(wire_router(&l->uv, l->zmq, endpoint, on_message, l, &l->router, l->endpoint, err));
    BL_TRY(write_config(l, err));
    BL_TRY(wire_watch(l->router, l->zmq, on_connection_lost, err));
    BL_TRY(peers_new(&l->peers, err));
    bl_log(BL_LOG_INFO, "listening endpoint=%s run=%s", l->endpoint, c->run_dir);
    uv_update_time(&l->uv);
    carry_out_all(l, coord_start(l->core, uv_now(&l->uv)));
    return l->options->local && !l->leaving ? start_children(l, err) : 0;
}

static void close_all(struct loop *l)
{
    if (l->uv_open) {
        children_close(&l->children);
        wire_socket_close(&l->router, LINGER_MS);
        journal_close(&l->journal);
        while (l->verifications)
            uv_run(&l->uv, UV_RUN_ONCE);
        uv_run(&l->uv, UV_RUN_NOWAIT);
        wire_loop_close(&l->uv);
        wire_context_close(&l->zmq);
    }
    peers_free(&l->peers);
    results_free(&l->results);
    metrics_close(&l->metrics);
    coord_free(&l->core);
    if (l->bad_samples)
        fclose(l->bad_samples);
    dataset_free(&l->dataset);
    free(l->train_ids);
    free(l->validate_ids);
    config_free(&l->config);
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    pthread_mutex_destroy(&l->lock);
}

static void finish(struct loop *l)
{
    struct bl_error err;
    const struct coord_ledger *ledger = coord_ledger(l->core);
    progress_end();
    if (curves_draw(l->config->run_dir, &err) < 0)
        bl_log_error(&err); /* a picture less; ignoring */
    if (!l->error.code)
        printf("complete: %" PRIu64 " steps, checkpoint %s/checkpoints/latest\n", ledger->committed,
               l->config->run_dir);
    fflush(stdout);
}

int coordinator_run(const struct coordinator_options *options, struct bl_error *err)
{
    struct loop l = {.options = options, .incarnation = wire_incarnation(), .lock_fd = -1};
    pthread_mutex_init(&l.lock, NULL);
    bl_log_identity("coord", "%s", "");
    int rc = open_files(&l, err);
    if (rc == 0) {
        start_handles(&l);
        rc = open_core(&l, err);
    }
    if (rc == 0)
        rc = start(&l, err);
    if (rc == 0) {
        if (!l.leaving)
            uv_run(&l.uv, UV_RUN_DEFAULT);
        finish(&l);
        if (l.error.code) {
            *err = l.error;
            rc = -l.error.code;
        }
    }
    close_all(&l);
    return rc;
}
