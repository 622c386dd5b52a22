/* worker/core.c - a worker's rules. Numbers like W3 refer to docs/protocol.md. */
#include "worker/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"

enum rule { DO, LATE, PROTO, BUG };

/* DO     the event has its function below
 * LATE   counted and dropped: it crossed a message of ours, or belongs to an ended generation
 * PROTO  the coordinator does not do this: the connection is given up for a new one
 * BUG    our own engine, writer or loop does not do this: an assert */
static const enum rule rules[WORKER_EVENT_COUNT][WORKER_STATE_COUNT] = {
#define RULE(event, ...) [WORKER_EVENT_##event] = {__VA_ARGS__}
    /* clang-format off */
    /*               JOIN   OPEN   READY  FORM   RECV   COMP   HOLD   REDUCE BROKEN ENDING LEAVE GONE */
    RULE(WELCOME,    DO,    LATE,  LATE,  LATE,  LATE,  LATE,  LATE,  LATE,  LATE,  LATE,  LATE, LATE),
    RULE(REFUSE,     DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,   LATE),
    RULE(PULSE,      PROTO, DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE, LATE),
    RULE(END,        PROTO, PROTO, PROTO, DO,    DO,    DO,    DO,    DO,    DO,    PROTO, LATE, LATE),
    RULE(FORM,       PROTO, PROTO, DO,    PROTO, PROTO, PROTO, PROTO, PROTO, PROTO, PROTO, LATE, LATE),
    RULE(RENDEZVOUS, PROTO, PROTO, PROTO, DO,    LATE,  LATE,  LATE,  LATE,  LATE,  PROTO, LATE, LATE),
    RULE(SAVE,       PROTO, PROTO, PROTO, PROTO, DO,    DO,    DO,    DO,    DO,    PROTO, LATE, LATE),
    RULE(STOP,       PROTO, DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE, LATE),
    RULE(DATA,       LATE,  LATE,  LATE,  LATE,  DO,    DO,    DO,    DO,    LATE,  LATE,  LATE, LATE),
    RULE(OPENED,     DO,    DO,    BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   BUG,  LATE),
    RULE(FORMED,     BUG,   BUG,   BUG,   DO,    BUG,   BUG,   BUG,   BUG,   BUG,   DO,    LATE, LATE),
    RULE(COMPUTED,   BUG,   BUG,   BUG,   BUG,   BUG,   DO,    BUG,   BUG,   LATE,  LATE,  LATE, LATE),
    RULE(APPLIED,    BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   DO,    DO,    DO,    LATE, LATE),
    RULE(SNAPPED,    BUG,   BUG,   BUG,   BUG,   DO,    DO,    DO,    DO,    DO,    DO,    LATE, LATE),
    RULE(FAILED,     BUG,   BUG,   BUG,   DO,    DO,    DO,    DO,    DO,    LATE,  LATE,  LATE, LATE),
    RULE(ABORTED,    BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   BUG,   DO,    DO,   LATE),
    RULE(WRITTEN,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE, LATE),
    RULE(LOST,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE, LATE),
    RULE(TICK,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,   LATE),
/* clang-format on */
#undef RULE
};

const char *worker_rule_name(enum worker_state state, enum worker_event_type type)
{
    static const char *const names[] = {
        [DO] = "do", [LATE] = "late", [PROTO] = "proto", [BUG] = "bug"};
    return names[rules[type][state]];
}

enum buffer_state { BUFFER_FREE, BUFFER_KEPT, BUFFER_IN_ENGINE };

struct buffer {
    enum buffer_state state;
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
};

/* The one copy of the state that rank 0 may hold. */
enum snapshot_state { SNAPSHOT_NONE, SNAPSHOT_TAKING, SNAPSHOT_HELD, SNAPSHOT_WRITING };

struct worker {
    struct worker_config config;
    struct bl_timing timing;
    struct bl_plan plan;
    bool plan_known;
    enum worker_state state;
    uint64_t now_ms, heard_ms, beat_ms, connect_ms, away_ms;
    struct worker_actions actions;
    uint64_t late, duplicates, violations;

    uint64_t link;
    bool linked;  /* welcome on it */
    bool opening; /* OPEN is with the engine */
    bool opened;
    bool engaged;  /* the engine has a FORM that no ABORTED has ended */
    bool leaving;  /* ENDING leads out */
    int stop_code; /* with that */

    uint64_t generation, state_generation;
    int64_t applied_step; /* steps in the state; -1 = none */
    struct bl_digest digest;
    struct {
        uint64_t step, state_generation;
        int32_t source;
    } form;
    uint32_t rank, world;
    uint32_t next_micro_batch; /* of the share, of step applied_step */

    struct buffer *buffers; /* plan.window */
    uint8_t *validated;     /* validation micro-batches kept since the state became what it is */

    enum snapshot_state snapshot;
    uint64_t snapshot_step;
    uint64_t snapshot_link, snapshot_generation; /* WRITING: who asked */
    char snapshot_folder[WORKER_FOLDER_MAX];
    bool save_asked; /* a Save that could not begin yet */
    uint64_t save_step;
    char save_folder[WORKER_FOLDER_MAX];
};

static struct worker_action *act(struct worker *w, enum worker_action_type type)
{
    BL_ASSERT_CMP(w->actions.count, <, w->actions.capacity);
    struct worker_action *action = &w->actions.list[w->actions.count++];
    *action = (struct worker_action){.type = type, .link = w->link, .generation = w->generation};
    return action;
}

/* The compute states: a formed generation lives and its communicator works. */
static bool is_live(const struct worker *w)
{
    return w->state >= WORKER_RECEIVING && w->state <= WORKER_REDUCING;
}

static struct bl_range share(const struct worker *w)
{
    return bl_share(bl_plan_micro_batches(&w->plan, BL_KIND_TRAIN), w->rank, w->world);
}

/* ---- Connection (W1, W2) ----------------------------------------------------------------------
 */

static void fill_ended(const struct worker *w, struct worker_action *action)
{
    action->ended.applied_step = w->applied_step;
    action->ended.state_generation = w->state_generation;
    action->ended.digest = w->digest;
}

static void do_exit(struct worker *w, int code, const char *text)
{
    struct worker_action *action = act(w, WORKER_ACTION_EXIT);
    action->exit.code = code;
    action->exit.text = text;
    w->state = WORKER_GONE;
}

static void do_connect(struct worker *w)
{
    w->link++;
    w->linked = false;
    w->connect_ms = w->now_ms;
    w->state = WORKER_JOINING;
    fill_ended(w, act(w, WORKER_ACTION_CONNECT));
}

/* No communicator and models open: says so, with the state it has. */
static void be_ready(struct worker *w)
{
    w->state = WORKER_READY;
    fill_ended(w, act(w, WORKER_ACTION_ENDED));
}

static void abort_engine(struct worker *w)
{
    act(w, WORKER_ACTION_ABORT);
    w->state = WORKER_ENDING;
}

/* Keeps the state, lets go of the communicator, then comes back. */
static void coordinator_lost(struct worker *w)
{
    if (w->linked)
        w->away_ms = w->now_ms;
    w->linked = false;
    w->save_asked = false;
    if (w->state == WORKER_ENDING)
        return;
    if (w->engaged)
        abort_engine(w);
    else if (w->state != WORKER_JOINING || w->now_ms >= w->connect_ms + w->timing.heartbeat_ms)
        do_connect(w); /* else the last try is too young: TICK makes the next */
}

static void coordinator_wrong(struct worker *w)
{
    w->violations++;
    coordinator_lost(w);
}

/* ---- Snapshot and checkpoint (W7, W8) ---------------------------------------------------------
 */

static void say_saved(struct worker *w, uint64_t step, const char *folder, bool ok)
{
    struct worker_action *action = act(w, WORKER_ACTION_SAVED);
    action->save.step = step;
    action->save.ok = ok;
    memcpy(action->save.folder, folder, WORKER_FOLDER_MAX);
}

static void take_snapshot(struct worker *w)
{
    BL_ASSERT_CMP(w->snapshot, ==, SNAPSHOT_NONE);
    w->snapshot = SNAPSHOT_TAKING;
    w->snapshot_step = (uint64_t)w->applied_step;
    act(w, WORKER_ACTION_SNAPSHOT)->report.step = w->snapshot_step;
}

static void drop_snapshot(struct worker *w)
{
    act(w, WORKER_ACTION_DISCARD)->report.step = w->snapshot_step;
    w->snapshot = SNAPSHOT_NONE;
}

static void refuse_save(struct worker *w)
{
    w->save_asked = false;
    say_saved(w, w->save_step, w->save_folder, false);
}

static void write_snapshot(struct worker *w)
{
    struct worker_action *action = act(w, WORKER_ACTION_WRITE);
    action->save.step = w->snapshot_step;
    memcpy(action->save.folder, w->save_folder, WORKER_FOLDER_MAX);
    memcpy(w->snapshot_folder, w->save_folder, WORKER_FOLDER_MAX);
    w->snapshot_link = w->link;
    w->snapshot_generation = w->generation;
    w->snapshot = SNAPSHOT_WRITING;
    w->save_asked = false;
}

/* Serves the Save that was asked for, as far as it can be now. */
static void try_save(struct worker *w)
{
    if (!w->save_asked)
        return;
    if (w->snapshot == SNAPSHOT_HELD && w->snapshot_step == w->save_step)
        return write_snapshot(w);
    if (w->snapshot == SNAPSHOT_HELD && w->snapshot_step > w->save_step)
        return refuse_save(w); /* that state is gone; the copy's own Save comes later */
    if (w->snapshot == SNAPSHOT_HELD)
        drop_snapshot(w); /* nobody asks for an older one any more */
    if (w->snapshot != SNAPSHOT_NONE)
        return;
    bool state_rests = is_live(w) && w->state != WORKER_REDUCING;
    if (state_rests && (uint64_t)w->applied_step == w->save_step)
        take_snapshot(w);
    else
        refuse_save(w);
}

/* ---- Computing (W3 - W5) ----------------------------------------------------------------------
 */

static void fill_micro_batch(const struct worker *w, struct worker_action *action, uint32_t slot)
{
    action->micro_batch.slot = slot;
    action->micro_batch.kind = w->buffers[slot].kind;
    action->micro_batch.step = w->buffers[slot].step;
    action->micro_batch.micro_batch = w->buffers[slot].micro_batch;
}

/* Validation micro-batches in any order; training micro-batches strictly in the share's. */
static struct buffer *next_buffer(struct worker *w)
{
    for (uint32_t slot = 0; slot < w->plan.window; slot++) {
        struct buffer *b = &w->buffers[slot];
        if (b->state != BUFFER_KEPT || b->step != (uint64_t)w->applied_step)
            continue;
        if (b->kind == BL_KIND_VALIDATE || b->micro_batch == share(w).first + w->next_micro_batch)
            return b;
    }
    return NULL;
}

static bool step_is_computed(const struct worker *w)
{
    return w->next_micro_batch == share(w).count;
}

/* The copy of the next state needs the snapshot's buffer: applying waits until it is free. */
static bool must_hold(const struct worker *w)
{
    return w->rank == 0 && w->snapshot != SNAPSHOT_NONE &&
           bl_plan_snapshots(&w->plan, (uint64_t)w->applied_step + 1);
}

static void fill_step(const struct worker *w, struct worker_action *action)
{
    struct bl_range micro_batches = share(w);
    struct bl_range first = bl_plan_indices(&w->plan, BL_KIND_TRAIN, micro_batches.first);
    struct bl_range last =
        bl_plan_indices(&w->plan, BL_KIND_TRAIN, micro_batches.first + micro_batches.count - 1);
    action->report.step = (uint64_t)w->applied_step;
    action->report.indices = (struct bl_range){first.first, last.first + last.count - first.first};
}

/* In RECEIVING or HOLDING: what can the engine do now? */
static void go_on(struct worker *w)
{
    if (step_is_computed(w)) {
        if (must_hold(w)) {
            w->state = WORKER_HOLDING;
            return;
        }
        fill_step(w, act(w, WORKER_ACTION_REDUCE));
        w->state = WORKER_REDUCING;
        return;
    }
    struct buffer *b = next_buffer(w);
    if (!b) {
        w->state = WORKER_RECEIVING;
        return;
    }
    b->state = BUFFER_IN_ENGINE;
    struct worker_action *action = act(w, WORKER_ACTION_COMPUTE);
    fill_micro_batch(w, action, (uint32_t)(b - w->buffers));
    action->micro_batch.last =
        b->kind == BL_KIND_TRAIN && w->next_micro_batch + 1 == share(w).count;
    w->state = WORKER_COMPUTING;
}

/* ---- One function per event -------------------------------------------------------------------
 */

static void on_welcome(struct worker *w, const struct worker_event *e)
{
    if (e->welcome.patience_ms < BL_PATIENCE_MS_MIN)
        return coordinator_wrong(w);
    w->linked = true;
    w->timing = bl_timing_of(e->welcome.patience_ms);
    w->beat_ms = w->now_ms + w->timing.heartbeat_ms;
    if (w->opened)
        return be_ready(w);
    w->state = WORKER_OPENING;
    if (!w->opening)
        act(w, WORKER_ACTION_OPEN);
    w->opening = true;
}

static void on_refuse(struct worker *w, const struct worker_event *e)
{
    do_exit(w, BL_EPEER, "the coordinator refused this worker");
}

static void on_pulse(struct worker *w, const struct worker_event *e)
{
}

static void on_end(struct worker *w, const struct worker_event *e)
{
    if (e->generation != w->generation)
        return coordinator_wrong(w);
    if (w->save_asked)
        refuse_save(w);
    abort_engine(w);
}

static void on_form(struct worker *w, const struct worker_event *e)
{
    if (e->generation <= w->generation || e->form.world == 0 || e->form.rank >= e->form.world ||
        e->form.world > bl_plan_world_max(&w->plan) || e->form.source >= (int64_t)e->form.world ||
        e->form.source < -1 || e->form.step > w->plan.steps)
        return coordinator_wrong(w);
    bool have_state = e->form.source >= 0 && w->applied_step == (int64_t)e->form.step &&
                      w->state_generation == e->form.state_generation;
    if (e->form.source == (int32_t)e->form.rank && !have_state)
        return coordinator_wrong(w);
    w->generation = e->generation;
    w->rank = e->form.rank;
    w->world = e->form.world;
    w->form.step = e->form.step;
    w->form.state_generation = e->form.state_generation;
    w->form.source = e->form.source;
    if (!have_state)
        w->applied_step = -1; /* what is here gets written over */
    w->engaged = true;
    w->state = WORKER_FORMING;
    struct worker_action *action = act(w, WORKER_ACTION_FORM);
    action->form.rank = w->rank;
    action->form.world = w->world;
    action->form.source = e->form.source;
    action->form.step = e->form.step;
    action->form.have_state = have_state;
    action->form.checkpoint = e->form.checkpoint;
}

static void on_rendezvous(struct worker *w, const struct worker_event *e)
{
    if (e->generation == w->generation)
        act(w, WORKER_ACTION_HAND_ON);
    else
        coordinator_wrong(w);
}

static void on_save(struct worker *w, const struct worker_event *e)
{
    if (e->generation != w->generation || strlen(e->save.folder) >= WORKER_FOLDER_MAX)
        return coordinator_wrong(w);
    if (w->save_asked)
        refuse_save(w); /* the newer one counts */
    w->save_asked = true;
    w->save_step = e->save.step;
    memset(w->save_folder, 0, sizeof w->save_folder);
    snprintf(w->save_folder, sizeof w->save_folder, "%s", e->save.folder);
    if (w->state == WORKER_BROKEN)
        refuse_save(w);
    else
        try_save(w);
}

static void on_stop(struct worker *w, const struct worker_event *e)
{
    w->leaving = true;
    w->stop_code = e->stop.code;
    if (w->engaged) {
        if (w->state != WORKER_ENDING)
            act(w, WORKER_ACTION_ABORT);
        w->state = WORKER_LEAVING;
        return;
    }
    act(w, WORKER_ACTION_GOODBYE);
    do_exit(w, w->stop_code, bl_stop_text(w->stop_code));
}

static bool is_mine(const struct worker *w, const struct worker_event *e)
{
    uint64_t applied = (uint64_t)w->applied_step;
    if (e->data.worker != w->config.incarnation || e->generation != w->generation)
        return false;
    if (e->data.kind == BL_KIND_VALIDATE)
        return e->data.step == applied &&
               e->data.micro_batch < bl_plan_micro_batches(&w->plan, BL_KIND_VALIDATE);
    struct bl_range micro_batches = share(w);
    return e->data.kind == BL_KIND_TRAIN && e->data.step >= applied &&
           e->data.step <= applied + w->plan.steps_ahead &&
           e->data.micro_batch >= micro_batches.first &&
           e->data.micro_batch < micro_batches.first + micro_batches.count;
}

/* Kept already, or computed already (W4). */
static bool is_duplicate(const struct worker *w, const struct worker_event *e)
{
    if (e->data.kind == BL_KIND_VALIDATE)
        return w->validated[e->data.micro_batch];
    if (e->data.step == (uint64_t)w->applied_step &&
        e->data.micro_batch < share(w).first + w->next_micro_batch)
        return true;
    for (uint32_t slot = 0; slot < w->plan.window; slot++) {
        const struct buffer *b = &w->buffers[slot];
        if (b->state != BUFFER_FREE && b->kind == e->data.kind && b->step == e->data.step &&
            b->micro_batch == e->data.micro_batch)
            return true;
    }
    return false;
}

static void on_data(struct worker *w, const struct worker_event *e)
{
    uint32_t slot = 0;
    while (slot < w->plan.window && w->buffers[slot].state != BUFFER_FREE)
        slot++;
    bool mine = is_mine(w, e), duplicate = mine && is_duplicate(w, e);
    if (!mine || duplicate || slot == w->plan.window) {
        w->late += !mine;
        w->duplicates += duplicate;
        w->violations += mine && !duplicate; /* more than the window: nobody ordered this */
        act(w, WORKER_ACTION_DROP);
        return;
    }
    w->buffers[slot] =
        (struct buffer){BUFFER_KEPT, e->data.kind, e->data.step, e->data.micro_batch};
    if (e->data.kind == BL_KIND_VALIDATE)
        w->validated[e->data.micro_batch] = 1;
    fill_micro_batch(w, act(w, WORKER_ACTION_KEEP), slot);
    fill_micro_batch(w, act(w, WORKER_ACTION_RECEIVED), slot);
    if (w->state == WORKER_RECEIVING)
        go_on(w);
}

static void on_opened(struct worker *w, const struct worker_event *e)
{
    if (!e->opened.ok)
        return do_exit(w, BL_EPEER, "the run's models cannot be opened");
    BL_ASSERT(w->plan_known);
    w->opened = true;
    if (w->state == WORKER_OPENING)
        be_ready(w);
}

static void on_formed(struct worker *w, const struct worker_event *e)
{
    w->applied_step = (int64_t)w->form.step;
    w->state_generation = w->generation;
    w->digest = e->formed.digest;
    if (w->state == WORKER_ENDING)
        return;
    w->next_micro_batch = 0;
    memset(w->validated, 0, bl_plan_micro_batches(&w->plan, BL_KIND_VALIDATE));
    struct worker_action *action = act(w, WORKER_ACTION_FORMED);
    action->formed.step = w->form.step;
    action->formed.digest = e->formed.digest;
    w->state = WORKER_RECEIVING;
}

static void on_computed(struct worker *w, const struct worker_event *e)
{
    uint32_t slot = e->computed.slot;
    BL_ASSERT(slot < w->plan.window && w->buffers[slot].state == BUFFER_IN_ENGINE);
    if (w->buffers[slot].kind == BL_KIND_VALIDATE)
        fill_micro_batch(w, act(w, WORKER_ACTION_RESULT), slot);
    else
        w->next_micro_batch++;
    fill_micro_batch(w, act(w, WORKER_ACTION_CONSUMED), slot);
    fill_micro_batch(w, act(w, WORKER_ACTION_RELEASE), slot);
    w->buffers[slot].state = BUFFER_FREE;
    go_on(w);
}

static void on_applied(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT_CMP(e->applied.step, ==, w->applied_step);
    bool living = w->state == WORKER_REDUCING;
    if (living)
        fill_step(w, act(w, WORKER_ACTION_REPORT));
    w->applied_step++;
    if (!living)
        return; /* the generation is over: Ended tells */
    w->next_micro_batch = 0;
    memset(w->validated, 0, bl_plan_micro_batches(&w->plan, BL_KIND_VALIDATE));
    w->state = WORKER_RECEIVING;
    if (w->rank == 0 && bl_plan_snapshots(&w->plan, (uint64_t)w->applied_step))
        take_snapshot(w);
    else
        try_save(w);
    go_on(w);
}

static void on_snapped(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT(w->snapshot == SNAPSHOT_TAKING && e->applied.step == w->snapshot_step);
    w->snapshot = SNAPSHOT_HELD;
    if (is_live(w))
        try_save(w);
}

static void on_failed(struct worker *w, const struct worker_event *e)
{
    act(w, WORKER_ACTION_BROKEN);
    w->state = WORKER_BROKEN;
    if (w->save_asked)
        refuse_save(w);
}

/* The engine is free of everything: what belonged to the generation goes. */
static void on_aborted(struct worker *w, const struct worker_event *e)
{
    w->engaged = false;
    for (uint32_t slot = 0; slot < w->plan.window; slot++) {
        if (w->buffers[slot].state == BUFFER_FREE)
            continue;
        fill_micro_batch(w, act(w, WORKER_ACTION_RELEASE), slot);
        w->buffers[slot].state = BUFFER_FREE;
    }
    if (w->snapshot == SNAPSHOT_TAKING || w->snapshot == SNAPSHOT_HELD)
        drop_snapshot(w);
    if (w->leaving) {
        act(w, WORKER_ACTION_GOODBYE);
        return do_exit(w, w->stop_code, bl_stop_text(w->stop_code));
    }
    if (w->applied_step >=
        0) { /* else it was given up at Form, even if nothing was written over it */
        BL_ASSERT_CMP(e->aborted.applied_step, ==, w->applied_step);
        w->digest = e->aborted.digest;
    }
    if (w->linked)
        be_ready(w);
    else
        do_connect(w);
}

static void on_written(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT(w->snapshot == SNAPSHOT_WRITING && e->written.step == w->snapshot_step);
    w->snapshot = SNAPSHOT_NONE;
    if (w->linked && w->link == w->snapshot_link) {
        say_saved(w, w->snapshot_step, w->snapshot_folder, e->written.ok);
        w->actions.list[w->actions.count - 1].generation = w->snapshot_generation;
    }
    if (is_live(w))
        try_save(w);
    if (w->state == WORKER_HOLDING)
        go_on(w);
}

static void on_lost(struct worker *w, const struct worker_event *e)
{
    coordinator_lost(w);
}

static void on_tick(struct worker *w, const struct worker_event *e)
{
    if (!w->linked && w->now_ms >= w->away_ms + w->config.reconnect_ms)
        return do_exit(w, BL_EPEER, "no coordinator for the whole of --patience");
    if (w->linked && w->now_ms >= w->heard_ms + w->timing.lost_ms)
        return coordinator_lost(w);
    if (w->state == WORKER_JOINING && w->now_ms >= w->connect_ms + w->timing.lost_ms)
        return do_connect(w);
    if (w->linked && w->now_ms >= w->beat_ms) {
        w->beat_ms = w->now_ms + w->timing.heartbeat_ms;
        act(w, WORKER_ACTION_BEAT);
    }
}

/* ---- The machine ------------------------------------------------------------------------------
 */

static bool is_message(enum worker_event_type type)
{
    return type <= WORKER_EVENT_STOP;
}

static bool is_of_link(enum worker_event_type type)
{
    return is_message(type) || type == WORKER_EVENT_LOST;
}

static bool is_from_engine(enum worker_event_type type)
{
    return type >= WORKER_EVENT_FORMED && type <= WORKER_EVENT_ABORTED;
}

static void handle(struct worker *w, const struct worker_event *e)
{
    static void (*const handlers[WORKER_EVENT_COUNT])(struct worker *,
                                                      const struct worker_event *) = {
        [WORKER_EVENT_WELCOME] = on_welcome, [WORKER_EVENT_REFUSE] = on_refuse,
        [WORKER_EVENT_PULSE] = on_pulse,     [WORKER_EVENT_END] = on_end,
        [WORKER_EVENT_FORM] = on_form,       [WORKER_EVENT_RENDEZVOUS] = on_rendezvous,
        [WORKER_EVENT_SAVE] = on_save,       [WORKER_EVENT_STOP] = on_stop,
        [WORKER_EVENT_DATA] = on_data,       [WORKER_EVENT_OPENED] = on_opened,
        [WORKER_EVENT_FORMED] = on_formed,   [WORKER_EVENT_COMPUTED] = on_computed,
        [WORKER_EVENT_APPLIED] = on_applied, [WORKER_EVENT_SNAPPED] = on_snapped,
        [WORKER_EVENT_FAILED] = on_failed,   [WORKER_EVENT_ABORTED] = on_aborted,
        [WORKER_EVENT_WRITTEN] = on_written, [WORKER_EVENT_LOST] = on_lost,
        [WORKER_EVENT_TICK] = on_tick,
    };
    switch (rules[e->type][w->state]) {
    case DO:
        handlers[e->type](w, e);
        return;
    case LATE:
        w->late++;
        if (e->type == WORKER_EVENT_DATA)
            act(w, WORKER_ACTION_DROP);
        return;
    case PROTO:
        coordinator_wrong(w);
        return;
    case BUG:
        bl_assert_failed_cmp("an event (number) that its state (number) excludes", e->type,
                             w->state, __FILE__, __LINE__, __func__);
    }
}

const struct worker_actions *worker_step(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT_CMP(e->type, <, WORKER_EVENT_COUNT);
    w->actions.count = 0;
    if (e->now_ms > w->now_ms)
        w->now_ms = e->now_ms;
    bool link_is_dead = w->state == WORKER_ENDING && !w->linked;
    if (is_of_link(e->type) && (e->link != w->link || link_is_dead)) {
        w->late++;
        return &w->actions;
    }
    if (is_message(e->type))
        w->heard_ms = w->now_ms;
    if (is_from_engine(e->type) && w->state != WORKER_GONE)
        BL_ASSERT_CMP(e->generation, ==, w->generation);
    handle(w, e);
    return &w->actions;
}

const struct worker_actions *worker_start(struct worker *w, uint64_t now_ms)
{
    w->actions.count = 0;
    w->now_ms = w->away_ms = now_ms;
    do_connect(w);
    return &w->actions;
}

int worker_new(const struct worker_config *config, struct worker **ret_worker, struct bl_error *err)
{
    BL_ASSERT(config->incarnation != 0);
    bl_auto(worker) struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return bl_fail(err, BL_ENOMEM, "worker: no memory");
    /* All buffers released in one event, and a few more. */
    w->actions.capacity = BL_WINDOW_MAX + 16;
    w->actions.list = calloc(w->actions.capacity, sizeof *w->actions.list);
    if (!w->actions.list)
        return bl_fail(err, BL_ENOMEM, "worker: no memory");
    w->config = *config;
    w->timing = bl_timing_of(config->patience_ms);
    w->applied_step = -1;
    *ret_worker = bl_take(&w);
    return 0;
}

int worker_set_plan(struct worker *w, const struct bl_plan *plan, struct bl_error *err)
{
    BL_ASSERT(!w->engaged && plan->window <= BL_WINDOW_MAX);
    struct buffer *buffers = calloc(plan->window, sizeof *buffers);
    uint8_t *validated = calloc((size_t)bl_plan_micro_batches(plan, BL_KIND_VALIDATE) + 1, 1);
    if (!buffers || !validated) {
        free(buffers);
        free(validated);
        return bl_fail(err, BL_ENOMEM, "worker: no memory");
    }
    free(w->buffers);
    free(w->validated);
    w->buffers = buffers;
    w->validated = validated;
    w->plan = *plan;
    w->plan_known = true;
    return 0;
}

void worker_free(struct worker **worker)
{
    struct worker *w = *worker;
    if (!w)
        return;
    free(w->actions.list);
    free(w->buffers);
    free(w->validated);
    free(w);
    *worker = NULL;
}

struct worker_status worker_status(const struct worker *w)
{
    struct worker_status status = {
        .state = w->state,
        .generation = w->generation,
        .rank = w->rank,
        .world = w->world,
        .applied_step = w->applied_step,
        .late = w->late,
        .duplicates = w->duplicates,
        .violations = w->violations,
        .waiting = w->state == WORKER_RECEIVING   ? "data"
                   : w->state == WORKER_COMPUTING ? "compute"
                   : w->state == WORKER_REDUCING  ? "all-reduce"
                                                  : "",
    };
    for (uint32_t slot = 0; w->plan_known && slot < w->plan.window; slot++)
        status.held += w->buffers[slot].state != BUFFER_FREE;
    return status;
}

const char *worker_state_name(enum worker_state state)
{
    static const char *const names[] = {
#define X(name, waits_for) #name,
        WORKER_STATES(X)
#undef X
    };
    return names[state];
}

const char *worker_event_name(enum worker_event_type type)
{
    static const char *const names[] = {
#define X(name, source) #name,
        WORKER_EVENTS(X)
#undef X
    };
    return names[type];
}

const char *worker_action_name(enum worker_action_type type)
{
    static const char *const names[] = {
#define X(name, effect) #name,
        WORKER_ACTIONS(X)
#undef X
    };
    return names[type];
}

void worker_check(const struct worker *w)
{
    uint32_t in_engine = 0;
    for (uint32_t slot = 0; w->plan_known && slot < w->plan.window; slot++) {
        in_engine += w->buffers[slot].state == BUFFER_IN_ENGINE;
        BL_ASSERT(w->buffers[slot].state == BUFFER_FREE || w->engaged);
    }
    if (is_live(w)) {
        BL_ASSERT(w->engaged && w->linked && w->applied_step >= 0);
        BL_ASSERT_CMP(in_engine, ==, w->state == WORKER_COMPUTING);
        BL_ASSERT_CMP(w->next_micro_batch, <=, share(w).count);
    }
    if (w->state == WORKER_JOINING || w->state == WORKER_OPENING || w->state == WORKER_READY)
        BL_ASSERT(!w->engaged);
    if (w->state == WORKER_READY)
        BL_ASSERT(w->linked);
}
