/* coordinator/core_live.c - a living generation: commits (L1, L2), validation (V1 - V3), checkpoints (C1 - C6), and what the
 * journal's word sets free. */
#include "coordinator/core_state.h"

#include <string.h>

static uint32_t saves_unchecked(const struct coord *c)
{
    uint32_t count = 0;
    for (int i = 0; i < SAVES_MAX; i++)
        count += c->saves[i].state == SAVE_VERIFYING || c->saves[i].state == SAVE_JOURNALING;
    return count;
}

/* A free entry; if there is none, the one whose writer was asked longest ago gives way. NULL: all
 * wait for the checksums of others, which needs a rank 0 that does not wait for its Saves. */
static struct save *save_entry(struct coord *c)
{
    struct save *oldest = NULL;
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state == SAVE_FREE)
            return save;
        if (save->state == SAVE_REQUESTED &&
            (!oldest || save->checkpoint.generation < oldest->checkpoint.generation))
            oldest = save;
    }
    return oldest;
}

static bool is_being_saved(const struct coord *c, uint64_t step)
{
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state != SAVE_FREE && c->saves[i].checkpoint.step == step)
            return true;
    return false;
}

void core_request_save(struct coord *c, uint64_t step)
{
    struct coord_checkpoint checkpoint = {step, c->generation};
    if (core_is_saved(c, step) || is_being_saved(c, step))
        return;
    struct save *save = save_entry(c);
    if (save)
        *save = (struct save){.state = SAVE_WANTED, .checkpoint = checkpoint};
    else
        core_act(c, COORD_ACTION_UNSAVED)->checkpoint = checkpoint;
}

static void send_saves(struct coord *c)
{
    const struct worker *w = rank_worker(c, 0);
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_WANTED || saves_unchecked(c) >= SAVES_UNCHECKED_MAX ||
            save->checkpoint.step > c->ledger.committed)
            continue;
        save->state = SAVE_REQUESTED;
        save->peer = w->peer;
        save->link = w->link;
        save->since_ms = c->now_ms;
        core_act_to(c, COORD_ACTION_SAVE, w->peer, w->link)->checkpoint = save->checkpoint;
    }
}

/* The run may not go on before the state after `committed` steps is registered. */
static bool must_be_saved(const struct coord *c)
{
    uint64_t done = c->ledger.committed;
    return (done == 0 || done == core_end_step(c)) && !core_is_saved(c, done);
}

static void answer_checkpoint(struct coord *c, uint64_t step, bool ok)
{
    struct coord_action *action = core_act(c, COORD_ACTION_CHECKPOINTED);
    action->checkpointed.step = step;
    action->checkpointed.ok = ok;
    c->checkpoint_asked = false;
}

void core_on_checkpoint(struct coord *c, const struct coord_event *e)
{
    c->checkpoint_asked = true;
    c->pause_generation = 0;
}

/* A checkpoint that was asked for (C8): this generation rests after the steps that some rank has begun, until their state
 * is registered. */
static void settle_asked(struct coord *c)
{
    if (!c->checkpoint_asked || c->stopping)
        return;
    if (!core_is_pausing(c)) {
        c->pause = core_steps_begun(c);
        c->pause_generation = c->generation;
    }
    if (c->ledger.committed == c->pause && core_is_saved(c, c->pause))
        answer_checkpoint(c, c->pause, true);
}

static void save_failed(struct coord *c, struct save *save)
{
    uint64_t step = save->checkpoint.step;
    core_act(c, COORD_ACTION_UNSAVED)->checkpoint = save->checkpoint;
    save->state = SAVE_FREE;
    if (is_live(c) && core_is_pausing(c) && step == c->pause)
        answer_checkpoint(c, step, false);
    if (is_live(c) && step == c->ledger.committed && must_be_saved(c) &&
        ++c->save_failures >= SAVE_FAILURES_MAX)
        core_leave(c, BL_EIO, "a checkpoint that is needed cannot be written");
}

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
    settle_asked(c);
    enum coord_state before = c->state;
    c->state = live_state(c);
    if (c->state == COORD_VALIDATING && before != COORD_VALIDATING)
        validation_begin(c);
    if (c->state == COORD_SAVING) {
        if (!must_be_saved(c))
            return core_leave(c, c->stopping ? c->stop_code : 0,
                              c->stopping ? core_stop_text(c) : "the run is complete");
        core_request_save(c, c->ledger.committed);
    }
    send_saves(c);
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

void core_on_saved(struct coord *c, const struct coord_event *e)
{
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_REQUESTED || save->link != e->link ||
            save->checkpoint.step != e->saved.step)
            continue;
        char name[COORD_CHECKPOINT_NAME_MAX];
        coord_checkpoint_name(save->checkpoint, name);
        if (strcmp(name, e->saved.folder) != 0)
            continue;
        if (!e->saved.ok)
            return save_failed(c, save);
        save->state = SAVE_VERIFYING;
        core_act(c, COORD_ACTION_VERIFY)->checkpoint = save->checkpoint;
        return;
    }
    c->late++;
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

/* A part at a time, and none while others are on their way: the loop asks again (C7). */
void core_on_prune(struct coord *c, const struct coord_event *e)
{
    const struct coord_ledger *ledger = &c->ledger;
    if (!journal_is_idle(c))
        return;
    uint32_t dropped = 0;
    for (uint32_t i = 0; i + e->prune.keep < ledger->checkpoint_count; i++) {
        struct coord_checkpoint old = ledger->checkpoints[i];
        bool kept =
            old.step == e->prune.and_keep.step && old.generation == e->prune.and_keep.generation;
        if (kept || dropped++ >= DROPPED_AT_ONCE)
            continue;
        core_journal(c, (struct coord_record){.type = COORD_RECORD_REMOVED,
                                              .step = old.step,
                                              .generation = old.generation});
    }
}

void core_on_verified(struct coord *c, const struct coord_event *e)
{
    struct coord_checkpoint found = e->verified.checkpoint;
    if (c->state == COORD_CHECKING && c->check == CHECK_RUNNING && found.step == c->checking.step &&
        found.generation == c->checking.generation) {
        c->check = e->verified.ok ? CHECK_OK : CHECK_BAD;
        return;
    }
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_VERIFYING || save->checkpoint.step != found.step ||
            save->checkpoint.generation != found.generation)
            continue;
        if (!e->verified.ok)
            return save_failed(c, save);
        save->state = SAVE_JOURNALING;
        core_journal(c, (struct coord_record){.type = COORD_RECORD_CHECKPOINT,
                                              .step = found.step,
                                              .generation = found.generation});
        return;
    }
    c->late++;
}
