/* worker/core.c - a worker's rules: the table, dispatch, the machine as a whole. Numbers like W3 refer to docs/protocol.md. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "worker/core_state.h"

#define DO RULE_DO
#define LATE RULE_LATE
#define PROTO RULE_PROTO
#define BUG RULE_BUG
static const enum core_rule rules[WORKER_EVENT_COUNT][WORKER_STATE_COUNT] = {
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

#undef DO
#undef LATE
#undef PROTO
#undef BUG

static worker_handler *const handlers[WORKER_EVENT_COUNT] = {
    [WORKER_EVENT_WELCOME] = worker_on_welcome, [WORKER_EVENT_REFUSE] = worker_on_refuse,
    [WORKER_EVENT_PULSE] = worker_on_pulse,     [WORKER_EVENT_END] = worker_on_end,
    [WORKER_EVENT_FORM] = worker_on_form,       [WORKER_EVENT_RENDEZVOUS] = worker_on_rendezvous,
    [WORKER_EVENT_SAVE] = worker_on_save,       [WORKER_EVENT_STOP] = worker_on_stop,
    [WORKER_EVENT_DATA] = worker_on_data,       [WORKER_EVENT_OPENED] = worker_on_opened,
    [WORKER_EVENT_FORMED] = worker_on_formed,   [WORKER_EVENT_COMPUTED] = worker_on_computed,
    [WORKER_EVENT_APPLIED] = worker_on_applied, [WORKER_EVENT_SNAPPED] = worker_on_snapped,
    [WORKER_EVENT_FAILED] = worker_on_failed,   [WORKER_EVENT_ABORTED] = worker_on_aborted,
    [WORKER_EVENT_WRITTEN] = worker_on_written, [WORKER_EVENT_LOST] = worker_on_lost,
    [WORKER_EVENT_TICK] = worker_on_tick,
};

static enum core_source source_of(enum worker_event_type type)
{
    if (type == WORKER_EVENT_LOST)
        return SOURCE_LINK;
    bool is_message = type <= WORKER_EVENT_STOP || type == WORKER_EVENT_FORM ||
                      type == WORKER_EVENT_RENDEZVOUS || type == WORKER_EVENT_SAVE;
    return is_message ? SOURCE_MESSAGE : SOURCE_OWN;
}

static bool is_from_engine(enum worker_event_type type)
{
    return type >= WORKER_EVENT_FORMED && type <= WORKER_EVENT_ABORTED;
}

const struct worker_actions *worker_step(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT_CMP(e->type, <, WORKER_EVENT_COUNT);
    w->actions.count = 0;
    if (!core_member_admit(&w->member, source_of(e->type), e->link, e->epoch, e->now_ms))
        return &w->actions;
    if (is_from_engine(e->type) && w->state != WORKER_GONE)
        BL_ASSERT_CMP(e->generation, ==, w->generation);
    if (core_member_apply(&w->member, rules[e->type][w->state], e->type, w->state))
        handlers[e->type](w, e);
    else if (e->type == WORKER_EVENT_DATA)
        worker_act(w, WORKER_ACTION_DROP);
    return &w->actions;
}

const struct worker_actions *worker_start(struct worker *w, uint64_t now_ms)
{
    w->actions.count = 0;
    core_member_start(&w->member, now_ms);
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
    w->incarnation = config->incarnation;
    core_member_init(&w->member, &config->member, &worker_member_calls, w);
    w->applied_step = -1;
    *ret_worker = bl_take(&w);
    return 0;
}

int worker_set_plan(struct worker *w, const struct bl_plan *plan, struct bl_error *err)
{
    BL_ASSERT(!w->engaged && plan->window <= BL_WINDOW_MAX);
    struct buffer *buffers = calloc(plan->window, sizeof *buffers);
    uint8_t *validated = calloc((size_t)bl_plan_micro_batches(plan, bl_plan_pass(plan)) + 1, 1);
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
        .late = w->member.late,
        .duplicates = w->duplicates,
        .violations = w->member.violations,
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

const char *worker_rule_name(enum worker_state state, enum worker_event_type type)
{
    return core_rule_name(rules[type][state]);
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
    if (worker_is_live(w)) {
        BL_ASSERT(w->engaged && w->member.linked && w->applied_step >= 0);
        BL_ASSERT_CMP(in_engine, ==, w->state == WORKER_COMPUTING);
        BL_ASSERT_CMP(w->next_micro_batch, <=, worker_share(w).count);
    }
    BL_ASSERT_CMP(w->member.state == MEMBER_JOINING, ==, w->state == WORKER_JOINING);
    BL_ASSERT_CMP(w->member.state == MEMBER_OPENING, ==, w->state == WORKER_OPENING);
    if (w->state == WORKER_JOINING || w->state == WORKER_OPENING || w->state == WORKER_READY)
        BL_ASSERT(!w->engaged);
    if (w->state == WORKER_READY)
        BL_ASSERT(w->member.linked);
}
