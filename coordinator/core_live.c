/* coordinator/core_live.c - a living generation: commits (L1, L2), validation (V1 - V3), and what the journal's word sets free. */
#include "coordinator/core_state.h"

#include <string.h>

static void validation_begin(struct coord *c)
{
    const struct bl_plan *plan = &c->config.plan;
    uint32_t micro_batches = bl_plan_micro_batches(plan, bl_plan_pass(plan));
    if (c->validated_count == 0 || c->validating != c->ledger.committed) {
        memset(c->validated, 0, micro_batches);
        c->validated_count = 0;
        c->validating = c->ledger.committed;
    }
    c->to_validate_count = 0;
    for (uint32_t micro_batch = 0; micro_batch < micro_batches; micro_batch++)
        if (!c->validated[micro_batch])
            c->to_validate[c->to_validate_count++] = micro_batch;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        rank_worker(c, rank)->next_validate = 0;
}

static enum coord_state live_state(const struct coord *c)
{
    if (c->issued > c->ledger.committed)
        return COORD_TRAINING;
    if (c->ledger.committed == 0 && !core_is_saved(c, 0))
        return COORD_SAVING;
    if (!c->stopping && core_validation_is_due(c))
        return COORD_VALIDATING;
    return c->ledger.committed == core_end_step(c) ? COORD_SAVING : COORD_TRAINING;
}

/* Is there anyone who is to join, or to leave, once the steps begun are through (M3, M13)? */
static bool must_regroup(const struct coord *c)
{
    uint32_t leaving = 0;
    for (uint32_t rank = 0; c->releasing && rank < c->plan.world; rank++)
        leaving += rank_worker(c, rank)->released;
    if (leaving > 0 && leaving < c->plan.world)
        return true;
    return core_workers_usable(c) > 0 && c->plan.world < bl_plan_world_max(&c->config.plan);
}

void core_settle_live(struct coord *c)
{
    core_let_go_of_released(c);
    core_mark_left_out(c);
    if (!must_regroup(c))
        c->regrouping = false;
    else if (!c->regrouping && !c->stopping &&
             (c->ledger.committed < c->config.plan.steps ||
              (c->config.plan.kind == BL_KIND_EMBED && core_validation_is_due(c)))) {
        c->regrouping = true;
        c->hold = core_steps_begun(c);
    }
    if (c->regrouping && !c->stopping && c->ledger.committed >= c->hold)
        return core_end_generation(c);
    core_settle_asked(c);
    enum coord_state before = c->state;
    c->state = live_state(c);
    if (c->state == COORD_VALIDATING && before != COORD_VALIDATING)
        validation_begin(c);
    if (c->state == COORD_SAVING) {
        if (!core_must_be_saved(c))
            return core_leave(c, c->stopping ? c->stop_code : 0,
                              c->stopping ? core_stop_text(c) : "the run is complete");
        core_request_save(c, c->ledger.committed);
    }
    core_send_saves(c);
    core_assign(c);
}

/* Are these ranges, in order, exactly the batch indices of the rank's share? */
static bool trained_is_share(const struct coord *c, const struct worker *w,
                             const struct coord_event *e)
{
    const struct bl_plan *plan = &c->config.plan;
    struct bl_range micro_batches = rank_micro_batches(c, w->rank);
    struct bl_range last =
        bl_plan_indices(plan, plan->kind, micro_batches.first + micro_batches.count - 1);
    uint64_t next = bl_plan_indices(plan, plan->kind, micro_batches.first).first;
    for (uint32_t i = 0; i < e->report.trained_count; i++) {
        if (e->report.trained[i].first != next)
            return false;
        next += e->report.trained[i].count;
    }
    return next == (uint64_t)last.first + last.count;
}

/* Commits every step that all ranks have applied (L2). */
static void commit(struct coord *c)
{
    uint64_t lowest = UINT64_MAX;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (rank_worker(c, rank)->done < lowest)
            lowest = rank_worker(c, rank)->done;
    for (; c->issued < lowest; c->issued++) {
        uint64_t digest = 0;
        for (uint32_t rank = 0; rank < c->plan.world; rank++)
            digest += *assigned_digest(c, rank_worker(c, rank), c->issued);
        core_journal(c, (struct coord_record){.type = COORD_RECORD_COMMIT,
                                              .generation = c->generation,
                                              .step = c->issued,
                                              .digest = digest});
    }
}

void core_on_report(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    if (e->report.step != w->done || e->report.step >= w->next_step)
        return core_violation(c, e, "Report of a step that is not the next", w->done,
                              e->report.step);
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state != LEASE_FREE && w->leases[k].step <= e->report.step)
            return core_violation(c, e, "Report before its micro-batches were Consumed",
                                  w->leases[k].step, e->report.step);
    uint64_t expected = *assigned_digest(c, w, e->report.step);
    if (!trained_is_share(c, w, e))
        return core_fail(c, w, "a rank trained other batch indices than its own",
                         rank_micro_batches(c, w->rank).count, e->report.trained_count);
    if (e->report.sample_digest != expected)
        return core_fail(c, w, "a rank trained other samples than ordered", expected,
                         e->report.sample_digest);
    w->done++;
    w->free_ms = c->now_ms;
    core_act(c, COORD_ACTION_REPORTED);
    commit(c);
}

void core_on_validation(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    struct lease *lease = core_lease_of(c, w, e);
    if (e->micro_batch.kind != bl_plan_pass(&c->config.plan) || !lease ||
        lease->state != LEASE_RECEIVED)
        return core_violation(c, e, "a validation result without an assignment", c->validating,
                              e->micro_batch.step);
    if (c->validated[e->micro_batch.micro_batch])
        return;
    c->validated[e->micro_batch.micro_batch] = 1;
    c->validated_count++;
    core_moved(c);
    core_act(c, COORD_ACTION_ACCEPTED)->step = c->validating;
    if (c->validated_count < bl_plan_micro_batches(&c->config.plan, e->micro_batch.kind))
        return;
    core_act(c, COORD_ACTION_VALIDATED)->step = c->validating;
    if (c->config.plan.kind == BL_KIND_EMBED)
        return; /* the shards are on disk, and are their own record */
    core_journal(c, (struct coord_record){.type = COORD_RECORD_VALIDATED, .step = c->validating});
}

/* A record is on disk: only now does it count, and only now may anybody hear of it (J2). */
static void record_on_disk(struct coord *c, const struct coord_record *record)
{
    int rc = coord_ledger_apply(&c->ledger, record, NULL);
    BL_ASSERT_CMP(rc, ==, 0);
    struct coord_action *action;
    switch (record->type) {
    case COORD_RECORD_COMMIT:
        c->step_ms = c->now_ms - c->moved_ms;
        core_moved(c);
        action = core_act(c, COORD_ACTION_COMMITTED);
        action->committed.step = record->step;
        action->committed.via_survivors = record->via_survivors;
        if (is_live(c) && record->generation == c->generation && !record->via_survivors &&
            bl_plan_snapshots(&c->config.plan, record->step + 1))
            core_request_save(c, record->step +
                                     1); /* rank 0 has its copy ready and waits for it (C2) */
        break;
    case COORD_RECORD_REWIND:
        core_act(c, COORD_ACTION_REWOUND)->step = record->step;
        break;
    case COORD_RECORD_CHECKPOINT:
        core_moved(c);
        c->passed_over = 0; /* the list is another now */
        core_act(c, COORD_ACTION_REGISTERED)->checkpoint =
            (struct coord_checkpoint){record->step, record->generation};
        for (int i = 0; i < SAVES_MAX; i++)
            if (c->saves[i].state == SAVE_JOURNALING && c->saves[i].checkpoint.step == record->step)
                c->saves[i].state = SAVE_FREE;
        break;
    case COORD_RECORD_REMOVED:
        core_act(c, COORD_ACTION_REMOVED)->checkpoint =
            (struct coord_checkpoint){record->step, record->generation};
        break;
    case COORD_RECORD_VALIDATED:
        c->validated_count = 0;
        break;
    case COORD_RECORD_FINISH:
        c->leave_journaled = true;
        core_say_stop_to_all(c);
        break;
    default:
        break;
    }
}

void core_on_journaled(struct coord *c, const struct coord_event *e)
{
    BL_ASSERT_CMP(e->journaled.seq, <, c->journal_next);
    if (e->journaled.epoch != c->ledger.epoch)
        return core_exit(c, BL_ETAKEN, "another coordinator has taken the run over");
    while (c->journal_first <= e->journaled.seq) {
        struct coord_record record = c->pending[c->journal_first++ % PENDING_MAX];
        record_on_disk(c, &record);
    }
}
