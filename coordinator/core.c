/* coordinator/core.c - the coordinator's rules: what counts when, one event after the other. Numbers like M3 refer to
 * docs/protocol.md; core_state.h tells where the other rules stand. */
#include "coordinator/core_state.h"

#include <stdlib.h>

#include "common/cleanup.h"
#include "common/random.h"

enum rule { DO, LATE, PROTO };

/* DO     the event has its function below
 * LATE   counted and dropped: it crossed a message of ours, or the peer left
 * PROTO  with the living generation's number it breaks the protocol and the peer goes, else LATE */
static const enum rule rules[COORD_EVENT_COUNT][COORD_STATE_COUNT] = {
#define RULE(event, ...) [COORD_EVENT_##event] = {__VA_ARGS__}
    /* clang-format off */
    /*                GATHER CHECK  PLAN   FORM   TRAIN  VALID  SAVE   ENDING LEAVE  FINISHED */
    RULE(HELLO,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(ENDED,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(BEAT,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(RENDEZVOUS,  LATE,  LATE,  LATE,  DO,    LATE,  LATE,  LATE,  LATE,  LATE,  LATE),
    RULE(FORMED,      LATE,  LATE,  LATE,  DO,    PROTO, PROTO, PROTO, LATE,  LATE,  LATE),
    RULE(RECEIVED,         LATE,  LATE,  LATE,  PROTO, DO,    DO,    DO,    LATE,  LATE,  LATE),
    RULE(CONSUMED,        LATE,  LATE,  LATE,  PROTO, DO,    DO,    DO,    LATE,  LATE,  LATE),
    RULE(REPORT,      LATE,  LATE,  LATE,  PROTO, DO,    PROTO, PROTO, LATE,  LATE,  LATE),
    RULE(VALIDATION,  LATE,  LATE,  LATE,  PROTO, PROTO, DO,    LATE,  LATE,  LATE,  LATE),
    RULE(BROKEN,      LATE,  LATE,  LATE,  DO,    DO,    DO,    DO,    LATE,  LATE,  LATE),
    RULE(SAVED,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(COMPLETED,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(GOODBYE,     DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(LOST,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(JOURNALED,   DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(VERIFIED,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(PRUNE, LATE, LATE, LATE, LATE, DO, DO, DO, LATE, LATE, LATE),
    RULE(CHECKPOINT,  DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(RELEASE,     DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(STOP,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(TICK,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
/* clang-format on */
#undef RULE
};

const char *coord_rule_name(enum coord_state state, enum coord_event_type type)
{
    static const char *const names[] = {[DO] = "do", [LATE] = "late", [PROTO] = "proto"};
    return names[rules[type][state]];
}

static void settle_leaving(struct coord *c)
{
    if (!c->leave_journaled || core_peers_present(c) > 0)
        return;
    core_exit(c, c->exit_code, c->exit_text);
}

static void settle_finished(struct coord *c)
{
}

static void settle(struct coord *c)
{
    static void (*const settle_state[COORD_STATE_COUNT])(struct coord *) = {
        [COORD_GATHERING] = core_settle_gathering, [COORD_CHECKING] = core_settle_checking,
        [COORD_PLANNING] = core_settle_planning,   [COORD_FORMING] = core_settle_forming,
        [COORD_TRAINING] = core_settle_live,       [COORD_VALIDATING] = core_settle_live,
        [COORD_SAVING] = core_settle_live,         [COORD_ENDING] = core_settle_ending,
        [COORD_LEAVING] = settle_leaving,          [COORD_FINISHED] = settle_finished,
    };
    enum coord_state before;
    do {
        before = c->state;
        settle_state[before](c);
        if (c->state != before)
            core_moved(c);
    } while (c->state != before);
}

static void on_stop(struct coord *c, const struct coord_event *e)
{
    core_begin_stop(c, BL_ESTOPPED);
}

/* A stop that does not come to its end is cut short twice: first no further step is waited for,
 * then no further checkpoint (E3). */
static void tick_stopping(struct coord *c)
{
    if (!c->stopping || c->now_ms < c->stop_deadline_ms || c->state == COORD_LEAVING)
        return;
    if (c->stop_overdue)
        return core_leave(c, c->stop_code, "stopped without saving the last steps");
    c->stop_overdue = true;
    c->stop_deadline_ms = c->now_ms + c->timing.drain_ms;
    if (c->state == COORD_TRAINING && c->issued == c->ledger.committed)
        core_end_generation(c);
}

static void on_tick(struct coord *c, const struct coord_event *e)
{
    if (c->now_ms >= c->pulse_ms) {
        c->pulse_ms = c->now_ms + c->timing.heartbeat_ms;
        core_act(c, COORD_ACTION_PULSE);
    }
    core_tick_peers(c);
    if (is_live(c))
        core_tick_leases(c);
    if (is_live(c))
        core_tick_hedges(c);
    core_tick_waits(c);
    if (c->state == COORD_FORMING && c->entry_count > 0)
        core_relay(c); /* who is still to come may need these first */
    tick_stopping(c);
    if (c->state == COORD_LEAVING && c->now_ms >= c->leave_deadline_ms) {
        core_leases_clear(c); /* of who never answered */
        for (uint32_t i = 0; i < c->worker_top; i++)
            c->workers[i].phase = ABSENT;
        for (uint32_t i = 0; i < c->loader_top; i++)
            c->loaders[i].present = false;
    }
}

static bool is_from_loop(enum coord_event_type type)
{
    return type >= COORD_EVENT_LOST;
}

static void handle(struct coord *c, const struct coord_event *e)
{
    static void (*const handlers[COORD_EVENT_COUNT])(struct coord *, const struct coord_event *) = {
        [COORD_EVENT_HELLO] = core_on_hello,
        [COORD_EVENT_ENDED] = core_on_ended,
        [COORD_EVENT_BEAT] = core_on_beat,
        [COORD_EVENT_RENDEZVOUS] = core_on_rendezvous,
        [COORD_EVENT_FORMED] = core_on_formed,
        [COORD_EVENT_RECEIVED] = core_on_received,
        [COORD_EVENT_CONSUMED] = core_on_consumed,
        [COORD_EVENT_REPORT] = core_on_report,
        [COORD_EVENT_VALIDATION] = core_on_validation,
        [COORD_EVENT_BROKEN] = core_on_broken,
        [COORD_EVENT_SAVED] = core_on_saved,
        [COORD_EVENT_COMPLETED] = core_on_completed,
        [COORD_EVENT_GOODBYE] = core_on_goodbye,
        [COORD_EVENT_LOST] = core_on_lost,
        [COORD_EVENT_JOURNALED] = core_on_journaled,
        [COORD_EVENT_VERIFIED] = core_on_verified,
        [COORD_EVENT_PRUNE] = core_on_prune,
        [COORD_EVENT_CHECKPOINT] = core_on_checkpoint,
        [COORD_EVENT_RELEASE] = core_on_release,
        [COORD_EVENT_STOP] = on_stop,
        [COORD_EVENT_TICK] = on_tick,
    };
    if (e->type != COORD_EVENT_HELLO && !is_from_loop(e->type) && !core_sender_is_known(c, e))
        return;
    switch (rules[e->type][c->state]) {
    case DO:
        handlers[e->type](c, e);
        return;
    case PROTO:
        if (core_is_member(c, core_worker_find(c, e->peer), e)) {
            core_violation(c, e, "a message that this state does not expect", c->state, e->type);
            return;
        }
        c->late++;
        return;
    case LATE:
        c->late++;
        return;
    }
}

const struct coord_actions *coord_step(struct coord *c, const struct coord_event *e)
{
    BL_ASSERT_CMP(e->type, <, COORD_EVENT_COUNT);
    c->actions.count = 0;
    c->actions.more = false;
    if (e->now_ms > c->now_ms)
        c->now_ms = e->now_ms;
    handle(c, e);
    settle(c);
    return &c->actions;
}

/* What may not change between the processes of one run (schedule length and milestones may). */
static uint64_t plan_digest(const struct bl_plan *plan)
{
    uint64_t digest = bl_mix64(plan->seed, plan->train_samples);
    digest = bl_mix64(digest, plan->validate_samples);
    if (plan->source_count > 1 || bl_plan_epoch(plan) != plan->train_samples)
        for (uint32_t s = 0; s < plan->source_count; s++)
            digest = bl_mix64(bl_mix64(digest, plan->sources[s].samples), plan->sources[s].draws);
    return bl_mix64(digest, (uint64_t)plan->batch << 32 | plan->micro_batch);
}

const struct coord_actions *coord_start(struct coord *c, uint64_t now_ms)
{
    c->actions.count = 0;
    c->now_ms = c->pulse_ms = c->ready_since_ms = now_ms;
    c->generation = c->ledger.generation;
    c->formed = c->ledger.formed;
    c->floor = c->ledger.floor;
    c->issued = c->ledger.committed;
    if (c->ledger.generation > 0 && !c->config.members_gone)
        c->absent_until_ms = now_ms + c->timing.forming_ms;
    if (!c->ledger.started)
        core_journal(c, (struct coord_record){.type = COORD_RECORD_START,
                                              .digest = plan_digest(&c->config.plan)});
    settle(c);
    return &c->actions;
}

int coord_replay(struct coord *c, const struct coord_record *record, struct bl_error *err)
{
    uint64_t digest = plan_digest(&c->config.plan);
    if (record->type == COORD_RECORD_START && record->digest != digest) {
        bl_fail(err, BL_ECONFIG,
                "the run began with other data, or another seed, batch or micro-batch "
                "(plan %016llx, now %016llx)",
                (unsigned long long)record->digest, (unsigned long long)digest);
        return bl_error_remedy(err, "set them back, or start another run in a new run_dir");
    }
    BL_TRY(coord_ledger_apply(&c->ledger, record, err));
    if (c->ledger.committed <= c->config.plan.steps)
        return 0;
    bl_fail(err, BL_ECONFIG, "the run has done more steps already than the %llu asked for",
            (unsigned long long)c->config.plan.steps);
    bl_error_remedy(err, "ask for more, or choose another run_dir");
    return bl_error_key(err, "train.steps");
}

static int range_check(const char *key, uint64_t value, uint64_t least, uint64_t most,
                       struct bl_error *err)
{
    if (value >= least && value <= most)
        return 0;
    bl_fail(err, BL_ECONFIG, "expected %llu to %llu but found %llu", (unsigned long long)least,
            (unsigned long long)most, (unsigned long long)value);
    return bl_error_key(err, "%s", key);
}

static int config_check(const struct coord_config *config, struct bl_error *err)
{
    const struct bl_plan *plan = &config->plan;
    bool embeds = plan->kind == BL_KIND_EMBED;
    BL_TRY(range_check("train_samples", plan->train_samples, 1, (uint64_t)1 << 40, err));
    BL_TRY(range_check("validate_samples", plan->validate_samples, 0, UINT32_MAX, err));
    BL_TRY(range_check("batch", plan->batch, 1, BL_GLOBAL_BATCH_MAX, err));
    BL_TRY(range_check("micro_batch", plan->micro_batch, 1, BL_MICRO_BATCH_SLOTS_MAX, err));
    BL_TRY(range_check("kind", plan->kind, BL_KIND_TRAIN, BL_KIND_EMBED, err));
    BL_TRY(range_check("steps", plan->steps, embeds ? 0 : 1, embeds ? 0 : BL_STEPS_MAX, err));
    BL_TRY(range_check("steps_ahead", plan->steps_ahead, 1, BL_STEPS_AHEAD_MAX, err));
    BL_TRY(range_check("window", plan->window, 1, BL_WINDOW_MAX, err));
    BL_TRY(range_check("sample_count", config->sample_count, 1, (uint64_t)1 << 40, err));
    BL_TRY(range_check("patience_ms", config->patience_ms, BL_PATIENCE_MS_MIN,
                       UINT64_C(1000) * BL_PATIENCE_S_MAX, err));
    BL_TRY(range_check("workers_max", config->workers_max, 1, BL_WORKERS_MAX, err));
    BL_TRY(range_check("loaders_max", config->loaders_max, 1, BL_LOADERS_MAX, err));
    BL_TRY(range_check("workers_min", config->workers_min, 1, config->workers_max, err));
    return range_check("workers_wanted", config->workers_wanted, config->workers_min,
                       config->workers_max, err);
}

int coord_new(const struct coord_config *config, struct coord **ret_coord, struct bl_error *err)
{
    BL_TRY(config_check(config, err));
    bl_auto(coord) struct coord *c = calloc(1, sizeof *c);
    if (!c)
        return bl_fail(err, BL_ENOMEM, "coordinator: no memory");
    const struct bl_plan *plan = &config->plan;
    uint32_t micro_batches = bl_plan_micro_batches(plan, bl_plan_pass(plan));
    uint32_t slots = plan->micro_batch;
    c->config = *config;
    c->timing = bl_timing_of(config->patience_ms);
    c->first = true;
    c->journal_first = c->journal_next = 1;
    coord_ledger_init(&c->ledger);
    /* One event at most: forgets or stops every peer, ends or forms everyone, says a few things of each, assignments, voids. */
    c->actions.capacity = 10 * config->workers_max + 8 * config->loaders_max +
                          2 * ASSIGNMENTS_PER_CALL + 3 * PENDING_MAX + slots + 2 * SAVES_MAX + 64;
    c->actions.list = calloc(c->actions.capacity, sizeof *c->actions.list);
    c->workers = calloc(config->workers_max, sizeof *c->workers);
    c->loaders = calloc(config->loaders_max, sizeof *c->loaders);
    c->ranks = calloc(config->workers_max, sizeof *c->ranks);
    c->leases = calloc((size_t)config->workers_max * plan->window, sizeof *c->leases);
    c->digests = calloc((size_t)config->workers_max * ring_size(c), sizeof *c->digests);
    c->validated = calloc((size_t)micro_batches + 1, sizeof *c->validated);
    c->to_validate = calloc((size_t)micro_batches + 1, sizeof *c->to_validate);
    c->seen_samples = calloc(config->sample_count / 8 + 1, 1);
    c->bad_samples = calloc(config->sample_count / 8 + 1, 1);
    c->missing_samples = calloc(config->sample_count / 8 + 1, 1);
    if (!c->actions.list || !c->workers || !c->loaders || !c->ranks || !c->leases || !c->digests ||
        !c->validated || !c->to_validate || !c->seen_samples || !c->bad_samples ||
        !c->missing_samples)
        return bl_fail(err, BL_ENOMEM, "coordinator: no memory");
    for (uint32_t i = 0; i < config->workers_max; i++) {
        c->workers[i].leases = &c->leases[(size_t)i * plan->window];
        c->workers[i].digests = &c->digests[(size_t)i * ring_size(c)];
    }
    for (uint32_t i = 0; config->done && i < micro_batches; i++) {
        c->validated[i] = config->done[i] != 0;
        c->validated_count += c->validated[i];
    }
    *ret_coord = bl_take(&c);
    return 0;
}

void coord_free(struct coord **coord)
{
    struct coord *c = *coord;
    if (!c)
        return;
    free(c->actions.list);
    free(c->workers);
    free(c->loaders);
    free(c->ranks);
    free(c->leases);
    free(c->digests);
    free(c->validated);
    free(c->to_validate);
    free(c->seen_samples);
    free(c->bad_samples);
    free(c->missing_samples);
    free(c);
    *coord = NULL;
}
