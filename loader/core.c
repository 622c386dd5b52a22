/* loader/core.c - a loader's rules. Numbers like D2 refer to docs/protocol.md. */
#include "loader/core.h"

#include <stdlib.h>

#include "common/cleanup.h"
#include "common/limits.h"

enum rule { DO, LATE, PROTO, BUG };

/* DO     the event has its function below
 * LATE   counted and dropped
 * PROTO  the coordinator does not do this: the connection is given up for a new one
 * BUG    our own pool or loop does not do this: an assert */
static const enum rule rules[LOADER_EVENT_COUNT][LOADER_STATE_COUNT] = {
#define RULE(event, ...) [LOADER_EVENT_##event] = {__VA_ARGS__}
    /* clang-format off */
    /*            JOINING OPENING WORKING GONE */
    RULE(WELCOME, DO,     LATE,   LATE,   LATE),
    RULE(REFUSE,  DO,     DO,     DO,     LATE),
    RULE(PULSE,   PROTO,  DO,     DO,     LATE),
    RULE(END,     PROTO,  DO,     DO,     LATE),
    RULE(ASSIGNMENT,   PROTO,  PROTO,  DO,     LATE),
    RULE(STOP,    PROTO,  DO,     DO,     LATE),
    RULE(OPENED,  DO,     DO,     BUG,    LATE),
    RULE(MADE,    DO,     DO,     DO,     LATE),
    RULE(SHIPPED, BUG,    BUG,    DO,     LATE),
    RULE(LOST,    DO,     DO,     DO,     LATE),
    RULE(TICK,    DO,     DO,     DO,     LATE),
/* clang-format on */
#undef RULE
};

const char *loader_rule_name(enum loader_state state, enum loader_event_type type)
{
    static const char *const names[] = {
        [DO] = "do", [LATE] = "late", [PROTO] = "proto", [BUG] = "bug"};
    return names[rules[type][state]];
}

enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_MAKING, SLOT_SHIPPING };

struct slot {
    enum slot_state state;
    bool dead;     /* MAKING: of no use any more; freed when the pool is done with it */
    uint64_t turn; /* order of arrival */
    uint64_t link, generation;
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
    uint64_t worker;
};

struct loader {
    struct loader_config config;
    struct bl_timing timing;
    enum loader_state state;
    uint64_t now_ms, heard_ms, beat_ms, connect_ms, away_ms;
    struct loader_actions actions;
    uint64_t made, dropped, late, violations;

    uint64_t link;
    bool linked; /* welcome on it */
    bool opening, opened;
    uint64_t generation; /* assignments of older ones are dead */
    uint64_t turn;
    uint32_t slot_count;
    struct slot *slots;
};

static struct loader_action *act(struct loader *l, enum loader_action_type type)
{
    BL_ASSERT_CMP(l->actions.count, <, l->actions.capacity);
    struct loader_action *action = &l->actions.list[l->actions.count++];
    *action = (struct loader_action){.type = type, .link = l->link, .generation = l->generation};
    return action;
}

static struct loader_action *act_on(struct loader *l, enum loader_action_type type,
                                    const struct slot *slot)
{
    struct loader_action *action = act(l, type);
    action->generation = slot->generation;
    action->assignment.slot = (uint32_t)(slot - l->slots);
    action->assignment.kind = slot->kind;
    action->assignment.step = slot->step;
    action->assignment.micro_batch = slot->micro_batch;
    action->assignment.worker = slot->worker;
    return action;
}

static uint32_t slots_in(const struct loader *l, enum slot_state state)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < l->slot_count; i++)
        count += l->slots[i].state == state;
    return count;
}

static void do_exit(struct loader *l, int code, const char *text)
{
    struct loader_action *action = act(l, LOADER_ACTION_EXIT);
    action->exit.code = code;
    action->exit.text = text;
    l->state = LOADER_GONE;
}

static void do_connect(struct loader *l)
{
    l->link++;
    l->linked = false;
    l->connect_ms = l->now_ms;
    l->state = LOADER_JOINING;
    act(l, LOADER_ACTION_CONNECT);
}

/* ---- Assignments (D1 - D3) -------------------------------------------------------------------------
 */

/* The order is done with: its credit goes back on the link it came by, if that still is. */
static void slot_done(struct loader *l, struct slot *slot, bool shipped)
{
    slot->state = SLOT_FREE;
    l->made += shipped;
    l->dropped += !shipped;
    if (l->linked && slot->link == l->link)
        act_on(l, LOADER_ACTION_COMPLETED, slot)->assignment.shipped = shipped;
    else
        act_on(l, LOADER_ACTION_DISCARD, slot);
}

static void slot_kill(struct loader *l, struct slot *slot)
{
    if (slot->state == SLOT_MAKING)
        slot->dead = true;
    else if (slot->state != SLOT_FREE)
        slot_done(l, slot, false);
}

static void kill_all(struct loader *l)
{
    for (uint32_t i = 0; i < l->slot_count; i++)
        slot_kill(l, &l->slots[i]);
}

static void start_jobs(struct loader *l)
{
    while (slots_in(l, SLOT_MAKING) < l->config.jobs) {
        struct slot *oldest = NULL;
        for (uint32_t i = 0; i < l->slot_count; i++)
            if (l->slots[i].state == SLOT_QUEUED && (!oldest || l->slots[i].turn < oldest->turn))
                oldest = &l->slots[i];
        if (!oldest)
            return;
        oldest->state = SLOT_MAKING;
        act_on(l, LOADER_ACTION_MAKE, oldest);
    }
}

/* A newer generation makes the assignments of all older ones worthless. */
static void see_generation(struct loader *l, uint64_t generation)
{
    if (generation <= l->generation)
        return;
    l->generation = generation;
    kill_all(l);
}

static void coordinator_lost(struct loader *l)
{
    if (l->linked)
        l->away_ms = l->now_ms;
    l->linked = false;
    kill_all(l);
    if (l->state != LOADER_JOINING || l->now_ms >= l->connect_ms + l->timing.heartbeat_ms)
        do_connect(l); /* else the last try is too young: TICK makes the next */
}

static void coordinator_wrong(struct loader *l)
{
    l->violations++;
    coordinator_lost(l);
}

/* ---- One function per event -------------------------------------------------------------------
 */

static void be_ready(struct loader *l)
{
    l->state = LOADER_WORKING;
    act(l, LOADER_ACTION_ENDED);
}

static void on_welcome(struct loader *l, const struct loader_event *e)
{
    if (e->welcome.patience_ms < BL_PATIENCE_MS_MIN)
        return coordinator_wrong(l);
    l->linked = true;
    l->timing = bl_timing_of(e->welcome.patience_ms);
    l->beat_ms = l->now_ms + l->timing.heartbeat_ms;
    if (l->opened)
        return be_ready(l);
    l->state = LOADER_OPENING;
    if (!l->opening)
        act(l, LOADER_ACTION_OPEN);
    l->opening = true;
}

static void on_refuse(struct loader *l, const struct loader_event *e)
{
    do_exit(l, BL_EPEER, "the coordinator refused this loader");
}

static void on_pulse(struct loader *l, const struct loader_event *e)
{
    see_generation(l, e->generation);
}

static void on_end(struct loader *l, const struct loader_event *e)
{
    see_generation(l, e->generation);
    kill_all(l);
}

static void on_assignment(struct loader *l, const struct loader_event *e)
{
    see_generation(l, e->generation);
    struct slot *slot = NULL;
    uint32_t alive = 0;
    for (uint32_t i = 0; i < l->slot_count; i++) {
        alive += l->slots[i].state != SLOT_FREE && l->slots[i].link == l->link;
        if (l->slots[i].state == SLOT_FREE && !slot)
            slot = &l->slots[i];
    }
    if (alive == l->config.capacity)
        return coordinator_wrong(l);
    BL_ASSERT(slot != NULL); /* others than this link's are MAKING: at most `jobs` */
    *slot = (struct slot){.state = SLOT_QUEUED,
                          .turn = l->turn++,
                          .link = l->link,
                          .generation = e->generation,
                          .kind = e->assignment.kind,
                          .step = e->assignment.step,
                          .micro_batch = e->assignment.micro_batch,
                          .worker = e->assignment.worker};
    act_on(l, LOADER_ACTION_ACCEPT, slot);
    if (e->generation < l->generation)
        slot_kill(l, slot);
    start_jobs(l);
}

static void on_stop(struct loader *l, const struct loader_event *e)
{
    act(l, LOADER_ACTION_GOODBYE);
    do_exit(l, e->stop.code, bl_stop_text(e->stop.code));
}

static void on_opened(struct loader *l, const struct loader_event *e)
{
    if (!e->opened.ok)
        return do_exit(l, BL_EPEER, "the run's data cannot be opened");
    l->opened = true;
    if (l->state == LOADER_OPENING)
        be_ready(l);
}

static void on_made(struct loader *l, const struct loader_event *e)
{
    BL_ASSERT(e->slot.slot < l->slot_count && l->slots[e->slot.slot].state == SLOT_MAKING);
    struct slot *slot = &l->slots[e->slot.slot];
    if (slot->dead) {
        slot_done(l, slot, false);
    } else {
        slot->state = SLOT_SHIPPING;
        act_on(l, LOADER_ACTION_SHIP, slot);
    }
    start_jobs(l);
}

static void on_shipped(struct loader *l, const struct loader_event *e)
{
    BL_ASSERT(e->slot.slot < l->slot_count && l->slots[e->slot.slot].state == SLOT_SHIPPING);
    slot_done(l, &l->slots[e->slot.slot], true);
}

static void on_lost(struct loader *l, const struct loader_event *e)
{
    coordinator_lost(l);
}

static void on_tick(struct loader *l, const struct loader_event *e)
{
    if (!l->linked && l->now_ms >= l->away_ms + l->config.reconnect_ms)
        return do_exit(l, BL_EPEER, "no coordinator for the whole of --patience");
    if (l->linked && l->now_ms >= l->heard_ms + l->timing.lost_ms)
        return coordinator_lost(l);
    if (l->state == LOADER_JOINING && l->now_ms >= l->connect_ms + l->timing.lost_ms)
        return do_connect(l);
    if (l->linked && l->now_ms >= l->beat_ms) {
        l->beat_ms = l->now_ms + l->timing.heartbeat_ms;
        act(l, LOADER_ACTION_BEAT);
    }
}

/* ---- The machine ------------------------------------------------------------------------------
 */

static void handle(struct loader *l, const struct loader_event *e)
{
    static void (*const handlers[LOADER_EVENT_COUNT])(struct loader *,
                                                      const struct loader_event *) = {
        [LOADER_EVENT_WELCOME] = on_welcome,
        [LOADER_EVENT_REFUSE] = on_refuse,
        [LOADER_EVENT_PULSE] = on_pulse,
        [LOADER_EVENT_END] = on_end,
        [LOADER_EVENT_ASSIGNMENT] = on_assignment,
        [LOADER_EVENT_STOP] = on_stop,
        [LOADER_EVENT_OPENED] = on_opened,
        [LOADER_EVENT_MADE] = on_made,
        [LOADER_EVENT_SHIPPED] = on_shipped,
        [LOADER_EVENT_LOST] = on_lost,
        [LOADER_EVENT_TICK] = on_tick,
    };
    switch (rules[e->type][l->state]) {
    case DO:
        handlers[e->type](l, e);
        return;
    case LATE:
        l->late++;
        return;
    case PROTO:
        coordinator_wrong(l);
        return;
    case BUG:
        bl_assert_failed_cmp("an event (number) that its state (number) excludes", e->type,
                             l->state, __FILE__, __LINE__, __func__);
    }
}

const struct loader_actions *loader_step(struct loader *l, const struct loader_event *e)
{
    BL_ASSERT_CMP(e->type, <, LOADER_EVENT_COUNT);
    l->actions.count = 0;
    if (e->now_ms > l->now_ms)
        l->now_ms = e->now_ms;
    bool is_message = e->type <= LOADER_EVENT_STOP;
    if ((is_message || e->type == LOADER_EVENT_LOST) && e->link != l->link) {
        l->late++;
        return &l->actions;
    }
    if (is_message)
        l->heard_ms = l->now_ms;
    handle(l, e);
    return &l->actions;
}

const struct loader_actions *loader_start(struct loader *l, uint64_t now_ms)
{
    l->actions.count = 0;
    l->now_ms = l->away_ms = now_ms;
    do_connect(l);
    return &l->actions;
}

int loader_new(const struct loader_config *config, struct loader **ret_loader, struct bl_error *err)
{
    BL_ASSERT(config->incarnation != 0);
    if (config->capacity < 1 || config->capacity > BL_LOADER_CAPACITY_MAX || config->jobs < 1 ||
        config->jobs > config->capacity)
        return bl_fail(err, BL_ECONFIG,
                       "expected 1 to %d assignments, %u jobs at most but found %u, %u",
                       BL_LOADER_CAPACITY_MAX, config->capacity, config->capacity, config->jobs);
    bl_auto(loader) struct loader *l = calloc(1, sizeof *l);
    if (!l)
        return bl_fail(err, BL_ENOMEM, "loader: no memory");
    l->config = *config;
    l->timing = bl_timing_of(config->patience_ms);
    l->slot_count = config->capacity + config->jobs;
    l->slots = calloc(l->slot_count, sizeof *l->slots);
    l->actions.capacity = 2 * l->slot_count + 16; /* all killed, all started, and a few */
    l->actions.list = calloc(l->actions.capacity, sizeof *l->actions.list);
    if (!l->slots || !l->actions.list)
        return bl_fail(err, BL_ENOMEM, "loader: no memory");
    *ret_loader = bl_take(&l);
    return 0;
}

void loader_free(struct loader **loader)
{
    struct loader *l = *loader;
    if (!l)
        return;
    free(l->slots);
    free(l->actions.list);
    free(l);
    *loader = NULL;
}

struct loader_status loader_status(const struct loader *l)
{
    return (struct loader_status){.state = l->state,
                                  .generation = l->generation,
                                  .queued = slots_in(l, SLOT_QUEUED),
                                  .making = slots_in(l, SLOT_MAKING),
                                  .shipping = slots_in(l, SLOT_SHIPPING),
                                  .made = l->made,
                                  .dropped = l->dropped,
                                  .violations = l->violations};
}

const char *loader_state_name(enum loader_state state)
{
    static const char *const names[] = {
#define X(name, waits_for) #name,
        LOADER_STATES(X)
#undef X
    };
    return names[state];
}

const char *loader_event_name(enum loader_event_type type)
{
    static const char *const names[] = {
#define X(name, source) #name,
        LOADER_EVENTS(X)
#undef X
    };
    return names[type];
}

const char *loader_action_name(enum loader_action_type type)
{
    static const char *const names[] = {
#define X(name, effect) #name,
        LOADER_ACTIONS(X)
#undef X
    };
    return names[type];
}

void loader_check(const struct loader *l)
{
    uint32_t held = 0;
    for (uint32_t i = 0; i < l->slot_count; i++) {
        const struct slot *slot = &l->slots[i];
        held += slot->state != SLOT_FREE && slot->link == l->link;
        if (slot->state == SLOT_QUEUED || slot->state == SLOT_SHIPPING)
            BL_ASSERT(l->linked && slot->link == l->link && slot->generation == l->generation);
    }
    BL_ASSERT_CMP(held, <=, l->config.capacity);
    BL_ASSERT_CMP(slots_in(l, SLOT_MAKING), <=, l->config.jobs);
}
