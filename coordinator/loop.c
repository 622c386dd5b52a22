/* coordinator/loop.c - events from sockets, clock, journal and children into coordinator/core.h, its actions back out. */
#include "coordinator/loop.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/file.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/size.h"
#include "coordinator/curves.h"
#include "coordinator/epoch.h"
#include "coordinator/loop_state.h"
#include "coordinator/progress.h"
#include "coordinator/registry.h"

#define TICK_MS 50
#define PROGRESS_MS 250
#define LINGER_MS 1000
/* Samples seen before data.max_bad_fraction is judged: a few bad ones at the start say nothing. */
#define BAD_MINIMUM 100

static void leave(struct loop *l)
{
    l->leaving = true;
    bl_notify_stopping();
    if (l->children)
        children_stop(l->children, false);
    uv_stop(&l->uv);
}

/* Ends the loop with this error; the first counts. */
static void fail(struct loop *l, const struct bl_error *error)
{
    if (!l->error.code)
        l->error = *error;
    leave(l);
}

static void exit_with(struct loop *l, const struct coord_action *a)
{
    if (a->exit.code && !l->error.code)
        bl_fail(&l->error, (enum bl_error_code)a->exit.code, "%s%s%s", a->exit.text,
                a->exit.code == BL_EPEER && l->blame[0] ? "; " : "",
                a->exit.code == BL_EPEER ? l->blame : "");
    if (a->exit.code == BL_EDATA)
        bl_error_remedy(&l->error, "%s/bad_samples.jsonl lists them", l->config->run_dir);
    if (a->exit.code == BL_EFORMAT)
        bl_error_remedy(
            &l->error,
            "put %s/checkpoints back from a backup, or start another run in a new run_dir",
            l->config->run_dir);
    if (a->exit.code == BL_EIO)
        bl_error_remedy(&l->error,
                        "fix the problems listed above, then run the same command to resume");
    leave(l);
}

static void must(struct loop *l, int rc, const struct bl_error *err)
{
    if (rc < 0)
        fail(l, err);
}

static void on_verified(struct loop *l, struct coord_checkpoint checkpoint, bool ok);

/* With the writer's own words, if it is its Saved that is being handled. */
static void log_unsaved(const struct loop *l, struct coord_checkpoint checkpoint)
{
    char name[COORD_CHECKPOINT_NAME_MAX];
    coord_checkpoint_name(checkpoint, name);
    bool saved = l->handled && l->handled->body_case == BLIPREN__ENVELOPE__BODY_SAVED &&
                 strcmp(l->handled->saved->folder, name) == 0;
    bl_log(BL_LOG_WARNING, "checkpoint step=%" PRIu64 " could not be written%s%s; ignoring",
           checkpoint.step, saved ? ": " : "", saved ? l->handled->saved->error : "");
}

static void probe(struct loop *l)
{
    l->probed_ms = uv_now(&l->uv);
    journal_probe(l->journal);
}

static void carry_out(struct loop *l, const struct coord_action *a)
{
    const struct peer *peer;
    struct bl_error err;
    switch (a->type) {
    case COORD_ACTION_PULSE:
        peers_each(l->peers, loop_pulse_one, l);
        break;
    case COORD_ACTION_JOURNAL:
        journal_append(l->journal, a->journal.seq, &a->journal.record);
        break;
    case COORD_ACTION_PROBE:
        probe(l);
        break;
    case COORD_ACTION_KEEP:
        loop_keep_entry(l);
        break;
    case COORD_ACTION_RELAYED:
        loop_forget_entries(l);
        break;
    case COORD_ACTION_VERIFY:
        loop_verify(l, a->checkpoint, on_verified);
        break;
    case COORD_ACTION_COMMITTED:
        must(l, loop_committed(l, a->committed.step, &err), &err);
        break;
    case COORD_ACTION_REPORTED:
        results_report(l->results, l->handled->report);
        loop_note_times(l->sender, l->handled->report);
        break;
    case COORD_ACTION_ACCEPTED:
        if (loop_embeds(l))
            loop_embedded(l);
        else
            results_validation(l->results, l->handled->validation);
        break;
    case COORD_ACTION_VALIDATED:
        if (!loop_embeds(l))
            must(l, loop_validated(l, a->step, &err), &err);
        break;
    case COORD_ACTION_REWOUND:
        must(l, loop_rewound(l, a->step, &err), &err);
        break;
    case COORD_ACTION_REGISTERED:
        loop_register(l, a->checkpoint);
        break;
    case COORD_ACTION_REMOVED:
        loop_remove(l, a->checkpoint);
        break;
    case COORD_ACTION_UNSAVED:
        log_unsaved(l, a->checkpoint);
        break;
    case COORD_ACTION_CHECKPOINTED:
        loop_answer_checkpoint(l, a->checkpointed.step, a->checkpointed.ok);
        break;
    case COORD_ACTION_BAD_SAMPLE:
        loop_bad_sample(l, a->void_index);
        break;
    case COORD_ACTION_NOTE:
        loop_note(l, a);
        break;
    case COORD_ACTION_VIOLATION:
        peer = peers_of_link(l->peers, a->link);
        bl_log(BL_LOG_ERROR,
               "peer=%s broke the protocol: %s (expected %" PRIu64 ", found %" PRIu64 ")",
               peer ? peer->name : "?", a->refuse.text, a->refuse.expected, a->refuse.found);
        break;
    case COORD_ACTION_EXIT:
        exit_with(l, a);
        break;
    default:
        loop_send(l, a);
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

/* A process that stood still for long may have lost the run meanwhile (J4): it looks before it does anything. That blocks the
 * loop, which has just been away for longer. */
static bool is_taken(struct loop *l)
{
    uint64_t now_ms = uv_now(&l->uv), away_ms = now_ms - l->stepped_ms, epoch;
    bool was_away = l->stepped_ms && (double)away_ms > l->config->cluster.patience_s * 1000;
    struct bl_error err;
    l->stepped_ms = now_ms;
    uint64_t own = coord_ledger(l->core)->epoch;
    if (!was_away || epoch_look(l->config->run_dir, own, &epoch, &err) < 0 || epoch == own)
        return false;
    bl_fail(&err, BL_ETAKEN,
            "another coordinator has taken the run over while this process stood still for %.1f s",
            (double)away_ms / 1000);
    fail(l, &err);
    return true;
}

/* One event into the core, at the loop's time, and its actions carried out. Nothing once the loop ends. */
static void step(struct loop *l, struct coord_event *event)
{
    if (l->leaving || is_taken(l))
        return;
    event->now_ms = uv_now(&l->uv);
    carry_out_all(l, coord_step(l->core, event));
    if (!l->leaving)
        loop_note_pause(l);
}

static void on_verified(struct loop *l, struct coord_checkpoint checkpoint, bool ok)
{
    struct coord_event event = {.type = COORD_EVENT_VERIFIED, .verified = {checkpoint, ok}};
    step(l, &event);
}

/* A stranger's connection is closed; a peer's too, which then connects anew. */
static void drop_malformed(struct loop *l, struct peer *peer, struct wire_frames *frames,
                           struct bl_error *why)
{
    char stranger[96], line[1600];
    const char *address = wire_address(frames);
    snprintf(stranger, sizeof stranger, "unknown peer at %s", address);
    bl_error_peer(why, peer ? peer->name : stranger);
    bl_error_complete(why);
    bl_error_format(why, line, sizeof line);
    bl_log_peer(BL_LOG_ERROR, peer ? peer->name : address, "%s", line);
    wire_cut(l->router, frames->connection);
}

/* What a stranger sends is not even unpacked if it is too large. */
static bool is_no_hello(struct wire_frames *frames, struct bl_error *err)
{
    size_t size = frames->count ? zmq_msg_size(&frames->at[0]) : 0;
    if (size <= BL_HELLO_BYTES_MAX)
        return false;
    bl_fail(err, BL_EPROTO, "expected a Hello of at most %d bytes, found a message of %zu",
            BL_HELLO_BYTES_MAX, size);
    return true;
}

/* One message that is well formed. Nothing is kept of a connection that did not begin with a Hello. */
static void take_message(struct loop *l, struct peer *peer, const struct wire_id *from,
                         const Blipren__Envelope *m, struct wire_frames *frames)
{
    struct coord_event event;
    if (!peer && m->body_case != BLIPREN__ENVELOPE__BODY_HELLO) {
        wire_cut(l->router, frames->connection);
        return;
    }
    if (!peer) {
        peer = peers_add(l->peers, from);
        snprintf(peer->address, sizeof peer->address, "%s", wire_address(frames));
    }
    peer->connection = frames->connection;
    l->handled = m;
    l->sender = peer;
    if (loop_take_message(l, peer, m, &event))
        step(l, &event);
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
    if ((!peer && is_no_hello(frames, &err)) || wire_unpack_frames(frames, &m, &err) < 0) {
        drop_malformed(l, peer, frames, &err);
        return;
    }
    take_message(l, peer, from, m, frames);
    wire_envelope_free(&m);
}

/* A peer's connection broke; a Pulse to everyone will show whose, once ZeroMQ has let go of it. */
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
    if (peer->unreachable && !children_runs(search->children, peer->secret))
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
        bl_log_peer(BL_LOG_WARNING, peer->name, "peer=%s connection lost", peer->name);
        step(l, &event);
        if ((peer = peers_of_link(l->peers, link))) /* the core knew it no more */
            loop_forget(l, peer);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct loop *l = timer->data;
    struct coord_event event = {.type = COORD_EVENT_TICK};
    if (l->leaving)
        return;
    if (l->probe_ticks && --l->probe_ticks == 0)
        peers_each(l->peers, loop_pulse_one, l);
    drop_unreachable(l);
    bl_log_counts();
    if ((double)(uv_now(&l->uv) - l->probed_ms) > l->config->cluster.patience_s * 1000)
        probe(l);
    step(l, &event);
    if (!l->leaving && loop_has_old_checkpoints(l)) {
        struct coord_event prune = {
            .type = COORD_EVENT_PRUNE,
            .prune = {(uint32_t)l->config->train.keep_last, l->best.checkpoint}};
        step(l, &prune);
    }
}

static void on_draw(uv_timer_t *timer)
{
    struct loop *l = timer->data;
    if (l->leaving)
        return;
    loop_progress(l, false);
    loop_note_absence(l);
    bl_notify_alive();
    if (l->children)
        children_watch(l->children);
}

static void written(void *context, uint64_t seq, uint64_t epoch, const struct bl_error *err)
{
    struct loop *l = context;
    pthread_mutex_lock(&l->lock);
    if (err)
        l->journal_error = *err;
    else
        l->journaled_seq = seq;
    l->journaled_epoch = epoch;
    pthread_mutex_unlock(&l->lock);
    uv_async_send(&l->journaled);
}

static void on_journaled(uv_async_t *async)
{
    struct loop *l = async->data;
    pthread_mutex_lock(&l->lock);
    struct coord_event event = {.type = COORD_EVENT_JOURNALED,
                                .journaled = {l->journaled_seq, l->journaled_epoch}};
    struct bl_error err = l->journal_error;
    pthread_mutex_unlock(&l->lock);
    if (err.code)
        fail(l, &err);
    else
        step(l, &event);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct loop *l = handle->data;
    if (l->stops && number == SIGHUP)
        return; /* a terminal that closes and its shell may both send one */
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
    step(l, &event);
}

static void release(struct loop *l, const struct peer *peer)
{
    struct coord_event event = {
        .type = COORD_EVENT_RELEASE, .peer = peer->incarnation, .link = peer->link};
    bl_log(BL_LOG_INFO, "peer=%s is released: it leaves at the next step", peer->name);
    step(l, &event);
}

static void on_asked(void *context, enum control_command command, unsigned number)
{
    struct loop *l = context;
    struct coord_event event = {.type = command == CONTROL_STOP ? COORD_EVENT_STOP
                                                                : COORD_EVENT_CHECKPOINT};
    if (command == CONTROL_STATUS)
        return loop_answer_status(l);
    if (command == CONTROL_SCALE)
        return loop_scale(l, number, release);
    if (command == CONTROL_STOP && !l->stops++)
        bl_log(BL_LOG_INFO, "`blipren-coord stop`: saving, then stopping (a signal: at once)");
    step(l, &event);
}

/* Without it the run trains as well. */
static void open_control(struct loop *l)
{
    struct bl_error err;
    if (control_open(&l->uv, l->config->run_dir, on_asked, l, &l->control, &err) == 0)
        return;
    bl_log(BL_LOG_WARNING, "%s: %s; ignoring", err.file, err.text);
}

/* Who sent a SIGKILL is not told; the kernel, for lack of memory, counts what it killed. */
static void log_child_end(struct loop *l, const struct child_end *end)
{
    if (l->leaving || l->letting_go || (!end->exit_code && !end->signal))
        return;
    if (end->signal != SIGKILL) {
        bl_log(BL_LOG_WARNING, "%s (process %d) ended: %s %d", end->name, end->pid,
               end->signal ? "signal" : "exit code", end->signal ? end->signal : end->exit_code);
        return;
    }
    char peak[64] = "";
    if (end->peak)
        snprintf(peak, sizeof peak, ", it had %.1f GB at most", (double)end->peak / 1e9);
    snprintf(l->blame, sizeof l->blame,
             "%s (process %d) was killed (signal 9), %s%s; lower train.micro_batch or the number "
             "of workers here",
             end->name, end->pid,
             end->out_of_memory ? "by the kernel: out of memory" : "perhaps for lack of memory",
             peak);
    bl_log(BL_LOG_WARNING, "%s", l->blame);
}

static void on_child_ended(void *context, const struct child_end *end)
{
    struct loop *l = context;
    log_child_end(l, end);
    struct peer *peer = peers_of_secret(l->peers, end->secret);
    if (!peer)
        return;
    struct coord_event event = {.type = COORD_EVENT_LOST,
                                .peer = peer->incarnation,
                                .link = peer->link,
                                .lost = {.dead = true, .killed = end->killed}};
    step(l, &event);
}

static void on_child_given_up(void *context, const char *name, const char *last_line)
{
    struct loop *l = context;
    struct bl_error err;
    bl_fail(&err, BL_EPEER, "it keeps exiting; its last line: %s", last_line);
    bl_error_peer(&err, name);
    bl_error_remedy(&err, "see %s/logs/%s.log", l->config->run_dir, name);
    fail(l, &err);
}

static int replay(void *context, const struct coord_record *record, struct bl_error *err)
{
    return coord_replay(((struct loop *)context)->core, record, err);
}

/* A run resumes with the data it began with, where its metrics can be written. */
static int may_start(void *context, struct bl_error *err)
{
    const struct loop *l = context;
    if (!loop_embeds(l))
        BL_TRY(metrics_check(l->config->run_dir, err));
    char hex[65];
    const struct coord_ledger *ledger = coord_ledger(l->core);
    if (loop_embeds(l) || !ledger->checkpoint_count)
        return 0;
    bl_hex(dataset_fingerprint(l->dataset), 32, hex);
    if (registry_fits_data(l->config->run_dir, ledger->checkpoints[ledger->checkpoint_count - 1],
                           hex, err) == 0)
        return 0;
    return bl_error_file(err, l->options->yaml);
}

static int open_core(struct loop *l, struct bl_error *err)
{
    const struct config *c = l->config;
    struct coord_config config = {.plan = l->plan,
                                  .train_ids = l->train_ids,
                                  .validate_ids = l->validate_ids,
                                  .done = l->embed.done,
                                  .sample_count = dataset_samples(l->dataset),
                                  .max_bad_fraction = c->data.max_bad_fraction,
                                  .bad_minimum =
                                      (uint64_t)bl_min(BAD_MINIMUM, (int64_t)l->plan.train_samples),
                                  .patience_ms = (uint32_t)(c->cluster.patience_s * 1000),
                                  .workers_max = BL_WORKERS_MAX,
                                  .loaders_max = BL_LOADERS_MAX,
                                  .workers_min = (uint32_t)c->cluster.workers_min,
                                  .workers_wanted = (uint32_t)c->cluster.workers_min,
                                  .members_gone = l->options->local};
    if (l->options->local && (uint32_t)l->options->workers > config.workers_wanted)
        config.workers_wanted = (uint32_t)l->options->workers;
    BL_TRY(coord_new(&config, &l->core, err));
    BL_TRY(journal_open(c->run_dir, replay, may_start, written, l, &l->journal, err));
    if (loop_embeds(l))
        return 0;
    const struct coord_ledger *ledger = coord_ledger(l->core);
    l->committed = ledger->committed;
    if (ledger->started)
        bl_log(BL_LOG_INFO, "resuming at step=%" PRIu64 " of %" PRIu64, ledger->committed,
               l->plan.steps);
    if (c->train.keep_best)
        BL_TRY(best_read(c->run_dir, &l->best, err));
    else
        BL_TRY(registry_unpoint(c->run_dir, "best", err));
    BL_TRY(registry_tidy(c->run_dir, ledger->checkpoints, (int)ledger->checkpoint_count,
                         l->best.checkpoint, err));
    BL_TRY(results_new(bl_plan_micro_batches(&l->plan, bl_plan_pass(&l->plan)), &l->results, err));
    return metrics_open(c->run_dir, &l->metrics, err);
}

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
    int numbers[RUN_SIGNALS_MAX], count = run_signals(numbers);
    for (int i = 0; i < count; i++) {
        uv_signal_init(&l->uv, &l->signals[i]);
        l->signals[i].data = l;
        uv_signal_start(&l->signals[i], on_signal, numbers[i]);
    }
}

/* NULL: none. */
static const char *keys_folder(const struct loop *l)
{
    const char *keys = l->options->keys ? l->options->keys : l->config->cluster.keys;
    return keys && keys[0] ? keys : NULL;
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
                                       .keys = keys_folder(l),
                                       .workers = l->options->workers,
                                       .loaders = l->options->loaders,
                                       .device = l->options->device,
                                       .threads = threads,
                                       .loader_threads = (int)l->config->cluster.loader_threads,
                                       .loader_capacity = (int)l->config->cluster.loader_capacity,
                                       .given_up = on_child_given_up,
                                       .ended = on_child_ended,
                                       .context = l};
    return children_open(&options, &l->children, err);
}

static int fail_bind(const struct loop *l, struct bl_error *err)
{
    if (l->options->bind)
        return bl_error_key(err, "--bind");
    bl_error_key(err, "cluster.bind");
    return bl_error_file(err, l->options->yaml);
}

static void note_security(struct loop *l)
{
    l->security = wire_has_keys(l->zmq)           ? SECURITY_KEYS
                  : wire_is_loopback(l->endpoint) ? SECURITY_LOOPBACK
                                                  : SECURITY_NONE;
    bl_log(BL_LOG_INFO, "listening endpoint=%s run=%s security=%s", l->endpoint, l->config->run_dir,
           loop_security_names[l->security]);
    if (l->security == SECURITY_NONE)
        bl_log(BL_LOG_WARNING,
               "security=none: whoever reaches this port can read and join the run");
}

static int start(struct loop *l, struct bl_error *err)
{
    char endpoint[SOCKET_ENDPOINT_MAX];
    const struct config *c = l->config;
    const char *keys = keys_folder(l);
    snprintf(endpoint, sizeof endpoint, "tcp://%s:%lld",
             l->options->bind ? l->options->bind : c->cluster.bind, (long long)c->cluster.port);
    if (wire_check_endpoint(endpoint, keys || c->cluster.insecure || l->options->insecure, err) < 0)
        return fail_bind(l, err);
    if (wire_context_open(keys, &l->zmq, err) < 0)
        return bl_error_key(err, l->options->keys ? "--keys" : "cluster.keys");
    BL_TRY(peers_new(&l->peers, err));
    struct wire_guard guard = {.limits = wire_control_limits(), .lost = on_connection_lost};
    if (wire_router(&l->uv, l->zmq, endpoint, &guard, on_message, l, &l->router, l->endpoint, err) <
        0)
        return fail_bind(l, err);
    BL_TRY(loop_write_config(l, err));
    BL_TRY(loop_serve_files(l, keys, err));
    BL_TRY(loop_write_endpoint(l, err));
    open_control(l);
    note_security(l);
    bl_notify_ready("listening at %s", l->endpoint);
    uv_update_time(&l->uv);
    carry_out_all(l, coord_start(l->core, uv_now(&l->uv)));
    return l->options->local && !l->leaving ? start_children(l, err) : 0;
}

static void close_all(struct loop *l)
{
    l->leaving = true; /* a start that failed half-way has timers, and no peers */
    if (l->uv_open) {
        loop_remove_endpoint(l);
        control_close(&l->control);
        children_close(&l->children);
        wire_socket_close(&l->router, LINGER_MS);
        file_service_close(&l->files);
        journal_close(&l->journal);
        while (l->disk_jobs)
            uv_run(&l->uv, UV_RUN_ONCE);
        uv_run(&l->uv, UV_RUN_NOWAIT);
        wire_loop_close(&l->uv);
        wire_context_close(&l->zmq);
    }
    loop_fill_free(l);
    loop_forget_entries(l);
    free(l->entries);
    peers_free(&l->peers);
    results_free(&l->results);
    metrics_close(&l->metrics);
    coord_free(&l->core);
    bad_samples_close(&l->bad_samples);
    bad_samples_close(&l->damaged);
    dataset_free(&l->dataset);
    free(l->train_ids);
    free(l->validate_ids);
    free(l->embed.done);
    config_free(&l->config);
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    pthread_mutex_destroy(&l->lock);
}

/* One line by which two runs are compared. */
static void print_weights(const struct loop *l, const struct coord_ledger *ledger)
{
    char hex[65];
    struct bl_error err;
    if (!ledger->checkpoint_count)
        return;
    struct coord_checkpoint last = ledger->checkpoints[ledger->checkpoint_count - 1];
    if (registry_weights_sha256(l->config->run_dir, last, hex, &err) < 0)
        bl_log_error(&err); /* a line less; ignoring */
    else if (hex[0])
        printf("weights: %s\n", hex);
}

static void finish(struct loop *l)
{
    struct bl_error err;
    const struct coord_ledger *ledger = coord_ledger(l->core);
    progress_end();
    loop_answer_end(l);
    if (l->error.code == BL_ETAKEN) {
        bl_error_file(&l->error, l->config->run_dir);
        return; /* the run folder is another's */
    }
    loop_say_damaged(l);
    if (loop_embeds(l)) {
        if (!l->error.code && loop_embed_finish(l, &err) < 0)
            l->error = err;
        return;
    }
    if (!l->error.code || l->error.code == BL_ESTOPPED)
        loop_remove_old(l);
    if (loop_fill_finish(l, &err) < 0)
        bl_log_error(&err); /* what is kept is there for the next run; ignoring */
    if (curves_draw(l->config->run_dir, &err) < 0)
        bl_log_error(&err); /* a picture less; ignoring */
    if (!l->error.code) {
        printf("complete: %" PRIu64 " steps, checkpoint %s/checkpoints/latest\n", ledger->committed,
               l->config->run_dir);
        print_weights(l, ledger);
    }
    fflush(stdout);
}

int coordinator_run(const struct coordinator_options *options, struct bl_error *err)
{
    struct loop l = {.options = options, .incarnation = wire_incarnation(), .lock_fd = -1};
    best_init(&l.best);
    pthread_mutex_init(&l.lock, NULL);
    bl_log_identity("coord", "%s", "");
    int rc = loop_open_files(&l, err);
    if (rc == 0 && options->plan) {
        close_all(&l);
        return bl_output_finish(err);
    }
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
