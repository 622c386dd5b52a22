/* loader/core.c - a loader's rules: the table, dispatch, membership, the machine as a whole. Numbers like D2 refer to
 * docs/protocol.md. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "loader/core_state.h"

#define DO RULE_DO
#define LATE RULE_LATE
#define PROTO RULE_PROTO
#define BUG RULE_BUG
static const enum core_rule rules[LOADER_EVENT_COUNT][LOADER_STATE_COUNT] = {
#define RULE(event, ...) [LOADER_EVENT_##event] = {__VA_ARGS__}
    /* clang-format off */
    /*               JOINING OPENING PROBING WORKING GONE */
    RULE(WELCOME,    DO,     LATE,   LATE,   LATE,   LATE),
    RULE(REFUSE,     DO,     DO,     DO,     DO,     LATE),
    RULE(PULSE,      PROTO,  DO,     DO,     DO,     LATE),
    RULE(END,        PROTO,  DO,     DO,     DO,     LATE),
    RULE(ASSIGNMENT, PROTO,  PROTO,  PROTO,  DO,     LATE),
    RULE(STOP,       PROTO,  DO,     DO,     DO,     LATE),
    RULE(OPENED,     DO,     DO,     BUG,    BUG,    LATE),
    RULE(PROBED,     DO,     BUG,    DO,     BUG,    LATE),
    RULE(MADE,       DO,     DO,     DO,     DO,     LATE),
    RULE(SHIPPED,    BUG,    BUG,    BUG,    DO,     LATE),
    RULE(LOST,       DO,     DO,     DO,     DO,     LATE),
    RULE(TICK,       DO,     DO,     DO,     DO,     LATE),
/* clang-format on */
#undef RULE
};

#undef DO
#undef LATE
#undef PROTO
#undef BUG

/* ---- Membership: what the shared rules mean to a loader ---------------------------------------
 */

static void call_connect(void *loader)
{
    struct loader *l = loader;
    l->state = LOADER_JOINING;
    loader_act(l, LOADER_ACTION_CONNECT);
}

static void call_open(void *loader, bool start)
{
    struct loader *l = loader;
    l->state = LOADER_OPENING;
    if (start)
        loader_act(l, LOADER_ACTION_OPEN);
}

static void probe(struct loader *l)
{
    l->probing = true;
    l->probe_link = l->member.link;
    loader_act(l, LOADER_ACTION_PROBE);
}

/* The run is open; that its images are here too is to be shown (D4). */
static void call_ready(void *loader)
{
    struct loader *l = loader;
    l->state = LOADER_PROBING;
    if (!l->probing) /* else for an older connection's Welcome: its PROBED starts the next */
        probe(l);
}

static void call_beat(void *loader)
{
    loader_act(loader, LOADER_ACTION_BEAT);
}

static bool call_let_go(void *loader)
{
    loader_drop_all(loader);
    return true;
}

static void call_exit(void *loader, int code, const char *text)
{
    struct loader *l = loader;
    struct loader_action *action = loader_act(l, LOADER_ACTION_EXIT);
    action->exit.code = code;
    action->exit.text = text;
    l->state = LOADER_GONE;
}

static const struct core_member_calls member_calls = {call_connect, call_open,   call_ready,
                                                      call_beat,    call_let_go, call_exit};

static void on_welcome(struct loader *l, const struct loader_event *e)
{
    core_member_welcome(&l->member, e->welcome.patience_ms, e->epoch);
}

static void on_refuse(struct loader *l, const struct loader_event *e)
{
    core_member_exit(&l->member, BL_EPEER, "the coordinator refused this loader");
}

static void on_pulse(struct loader *l, const struct loader_event *e)
{
    loader_see_generation(l, e->generation);
}

static void on_end(struct loader *l, const struct loader_event *e)
{
    loader_see_generation(l, e->generation);
    loader_drop_all(l);
}

static void on_stop(struct loader *l, const struct loader_event *e)
{
    loader_act(l, LOADER_ACTION_GOODBYE);
    core_member_exit(&l->member, e->stop.code, bl_stop_text(e->stop.code));
}

static void on_opened(struct loader *l, const struct loader_event *e)
{
    core_member_opened(&l->member);
}

static void on_probed(struct loader *l, const struct loader_event *e)
{
    l->probing = false;
    if (l->state != LOADER_PROBING)
        return;
    if (l->probe_link != l->member.link)
        return probe(l);
    l->state = LOADER_WORKING;
    loader_act(l, LOADER_ACTION_ENDED);
}

static void on_lost(struct loader *l, const struct loader_event *e)
{
    core_member_lost(&l->member);
}

static void on_tick(struct loader *l, const struct loader_event *e)
{
    core_member_tick(&l->member);
}

/* ---- The machine ------------------------------------------------------------------------------
 */

static loader_handler *const handlers[LOADER_EVENT_COUNT] = {
    [LOADER_EVENT_WELCOME] = on_welcome,
    [LOADER_EVENT_REFUSE] = on_refuse,
    [LOADER_EVENT_PULSE] = on_pulse,
    [LOADER_EVENT_END] = on_end,
    [LOADER_EVENT_ASSIGNMENT] = loader_on_assignment,
    [LOADER_EVENT_STOP] = on_stop,
    [LOADER_EVENT_OPENED] = on_opened,
    [LOADER_EVENT_PROBED] = on_probed,
    [LOADER_EVENT_MADE] = loader_on_made,
    [LOADER_EVENT_SHIPPED] = loader_on_shipped,
    [LOADER_EVENT_LOST] = on_lost,
    [LOADER_EVENT_TICK] = on_tick,
};

static enum core_source source_of(enum loader_event_type type)
{
    if (type == LOADER_EVENT_LOST)
        return SOURCE_LINK;
    return type <= LOADER_EVENT_STOP || type == LOADER_EVENT_ASSIGNMENT ? SOURCE_MESSAGE
                                                                        : SOURCE_OWN;
}

const struct loader_actions *loader_step(struct loader *l, const struct loader_event *e)
{
    BL_ASSERT_CMP(e->type, <, LOADER_EVENT_COUNT);
    l->actions.count = 0;
    if (core_member_admit(&l->member, source_of(e->type), e->link, e->epoch, e->now_ms) &&
        core_member_apply(&l->member, rules[e->type][l->state], e->type, l->state))
        handlers[e->type](l, e);
    return &l->actions;
}

const struct loader_actions *loader_start(struct loader *l, uint64_t now_ms)
{
    l->actions.count = 0;
    core_member_start(&l->member, now_ms);
    return &l->actions;
}

int loader_new(const struct loader_config *config, struct loader **ret_loader, struct bl_error *err)
{
    if (config->capacity < 1 || config->capacity > BL_LOADER_CAPACITY_MAX || config->jobs < 1 ||
        config->jobs > config->capacity)
        return bl_fail(err, BL_ECONFIG,
                       "expected 1 to %d assignments, %u jobs at most but found %u, %u",
                       BL_LOADER_CAPACITY_MAX, config->capacity, config->capacity, config->jobs);
    bl_auto(loader) struct loader *l = calloc(1, sizeof *l);
    if (!l)
        return bl_fail(err, BL_ENOMEM, "loader: no memory");
    l->config = *config;
    core_member_init(&l->member, &config->member, &member_calls, l);
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
                                  .queued = loader_slots_in(l, SLOT_QUEUED),
                                  .making = loader_slots_in(l, SLOT_MAKING),
                                  .shipping = loader_slots_in(l, SLOT_SHIPPING),
                                  .made = l->made,
                                  .dropped = l->dropped,
                                  .violations = l->member.violations};
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

const char *loader_rule_name(enum loader_state state, enum loader_event_type type)
{
    return core_rule_name(rules[type][state]);
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
        held += slot->state != SLOT_FREE && slot->link == l->member.link;
        if (slot->state == SLOT_QUEUED || slot->state == SLOT_SHIPPING)
            BL_ASSERT(l->member.linked && slot->link == l->member.link &&
                      slot->generation == l->generation);
    }
    BL_ASSERT_CMP(held, <=, l->config.capacity);
    BL_ASSERT_CMP(loader_slots_in(l, SLOT_MAKING), <=, l->config.jobs);
}
