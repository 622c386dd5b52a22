/* coordinator/core_assign.c - which loader makes which micro-batch for which worker, and what became of it (O1 - O6). */
#include "coordinator/core_state.h"

void core_lease_free(struct coord *c, struct worker *w, struct lease *lease)
{
    c->revoked_count -= lease->state == LEASE_REVOKED;
    lease->state = LEASE_FREE;
    w->lease_count--;
}

void core_lease_revoke(struct coord *c, struct lease *lease)
{
    lease->state = LEASE_REVOKED;
    c->revoked_count++;
}

void core_leases_clear(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        for (uint32_t k = 0; w->lease_count > 0 && k < c->config.plan.window; k++)
            if (w->leases[k].state != LEASE_FREE)
                core_lease_free(c, w, &w->leases[k]);
    }
    BL_ASSERT_CMP(c->revoked_count, ==, 0);
}

static uint64_t sample_at(const struct coord *c, enum bl_kind kind, uint64_t step, uint32_t index,
                          uint32_t *ret_epoch)
{
    *ret_epoch = 0;
    if (kind == BL_KIND_VALIDATE)
        return c->config.validate_ids[index];
    uint64_t epoch_index;
    bl_plan_sample(&c->config.plan, step, index, ret_epoch, &epoch_index);
    return c->config.train_ids[epoch_index];
}

/* Training steps below it may be ordered: within steps_ahead of the lowest step whose commit is not
 * on disk, and never past a validation or a checkpoint that must come first. */
static uint64_t order_end(const struct coord *c)
{
    const struct bl_plan *plan = &c->config.plan;
    uint64_t committed = c->ledger.committed, end = committed + 1 + plan->steps_ahead;
    if (end > plan->steps)
        end = plan->steps;
    if (c->regrouping && end > c->hold)
        end = c->hold;
    if (c->stopping && end > c->last)
        end = c->last;
    for (uint64_t step = committed; step < end; step++)
        if ((step == 0 && !core_is_saved(c, 0)) ||
            (bl_plan_validates(plan, step) && c->ledger.validated < (int64_t)step))
            return step;
    return end;
}

static struct bl_range validation_share(const struct coord *c, uint32_t rank)
{
    return bl_share(c->to_validate_count, rank, c->plan.world);
}

/* The next new micro-batch for this rank, of a training step below `end`. */
static bool next_micro_batch(const struct coord *c, const struct worker *w, uint64_t end,
                             struct lease *ret_lease)
{
    if (c->state == COORD_VALIDATING) {
        struct bl_range share = validation_share(c, w->rank);
        if (w->next_validate >= share.count)
            return false;
        *ret_lease = (struct lease){.kind = BL_KIND_VALIDATE,
                                    .step = c->validating,
                                    .micro_batch = c->to_validate[share.first + w->next_validate]};
        return true;
    }
    if (w->next_step >= end)
        return false;
    *ret_lease =
        (struct lease){.kind = BL_KIND_TRAIN,
                       .step = w->next_step,
                       .micro_batch = rank_micro_batches(c, w->rank).first + w->next_index};
    return true;
}

/* Moves w's cursor past the micro-batch it stood at, adding what was ordered to the step's digest. */
static void micro_batch_ordered(struct coord *c, struct worker *w, const struct lease *lease)
{
    if (lease->kind == BL_KIND_VALIDATE) {
        w->next_validate++;
        return;
    }
    struct bl_range indices = bl_plan_indices(&c->config.plan, lease->kind, lease->micro_batch);
    uint64_t *digest = ordered_digest(c, w, lease->step);
    for (uint32_t index = indices.first; index < indices.first + indices.count; index++) {
        uint32_t epoch;
        *digest += bl_sample_term(index, sample_at(c, lease->kind, lease->step, index, &epoch));
    }
    if (++w->next_index == rank_micro_batches(c, w->rank).count) {
        w->next_index = 0;
        w->next_step++;
        *ordered_digest(c, w, w->next_step) = 0;
    }
}

static struct lease *lease_in(const struct coord *c, const struct worker *w, enum lease_state state)
{
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state == state)
            return &w->leases[k];
    return NULL;
}

/* A revoked lease first; else the rank whose next micro-batch comes first in its share, lowest step
 * first: so ranks are served alike. The lease is in LEASE_REVOKED, to be given out. */
static struct lease *next_lease(struct coord *c, uint64_t end, struct worker **ret_worker)
{
    for (uint32_t rank = 0; c->revoked_count > 0 && rank < c->plan.world; rank++) {
        *ret_worker = rank_worker(c, rank);
        struct lease *lease = lease_in(c, *ret_worker, LEASE_REVOKED);
        if (lease)
            return lease;
    }
    struct worker *best = NULL;
    struct lease best_lease = {0};
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        struct lease lease;
        if (w->lease_count == c->config.plan.window || !next_micro_batch(c, w, end, &lease))
            continue;
        if (!best || lease.step < best_lease.step ||
            (lease.step == best_lease.step &&
             w->next_index + w->next_validate < best->next_index + best->next_validate)) {
            best = w;
            best_lease = lease;
        }
    }
    if (!best)
        return NULL;
    micro_batch_ordered(c, best, &best_lease);
    struct lease *lease = lease_in(c, best, LEASE_FREE);
    *lease = best_lease;
    lease->loader = UINT32_MAX;
    core_lease_revoke(c, lease);
    best->lease_count++;
    *ret_worker = best;
    return lease;
}

/* The loader with most room; the one that had the lease before only if no other has any. */
static struct loader *loader_with_room(struct coord *c, uint32_t not_this)
{
    struct loader *best = NULL, *fallback = NULL;
    for (uint32_t i = 0; i < c->loader_top; i++) {
        struct loader *l = &c->loaders[i];
        if (!l->present || !l->ready || l->held == l->capacity)
            continue;
        if (i == not_this)
            fallback = l;
        else if (!best || l->capacity - l->held > best->capacity - best->held)
            best = l;
    }
    return best ? best : fallback;
}

void core_assign(struct coord *c)
{
    uint64_t end = order_end(c);
    for (int assignments = 0; loader_with_room(c, UINT32_MAX); assignments++) {
        if (assignments == ASSIGNMENTS_PER_CALL) {
            c->actions.more = true;
            return;
        }
        struct worker *w;
        struct lease *lease = next_lease(c, end, &w);
        if (!lease)
            return;
        struct loader *l = loader_with_room(c, lease->loader);
        lease->state = LEASE_OUT;
        c->revoked_count--;
        lease->loader = (uint32_t)(l - c->loaders);
        lease->since_ms = c->now_ms;
        l->held++;
        struct coord_action *action = core_act_to(c, COORD_ACTION_ASSIGNMENT, l->peer, l->link);
        action->assignment.kind = lease->kind;
        action->assignment.step = lease->step;
        action->assignment.micro_batch = lease->micro_batch;
        action->assignment.indices =
            bl_plan_indices(&c->config.plan, lease->kind, lease->micro_batch);
        action->assignment.worker = w->peer;
    }
}

void coord_assignment_samples(const struct coord *c, const struct coord_action *assignment,
                              uint64_t *ret_sample, uint32_t *ret_epoch)
{
    for (uint32_t i = 0; i < assignment->assignment.indices.count; i++)
        ret_sample[i] = sample_at(c, assignment->assignment.kind, assignment->assignment.step,
                                  assignment->assignment.indices.first + i, &ret_epoch[i]);
}

struct lease *core_lease_of(const struct coord *c, const struct worker *w,
                            const struct coord_event *e)
{
    for (uint32_t k = 0; k < c->config.plan.window; k++) {
        struct lease *lease = &w->leases[k];
        if (lease->state != LEASE_FREE && lease->kind == e->micro_batch.kind &&
            lease->step == e->micro_batch.step && lease->micro_batch == e->micro_batch.micro_batch)
            return lease;
    }
    return NULL;
}

void core_on_got(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    struct lease *lease = core_lease_of(c, w, e);
    if (!lease || lease->state == LEASE_RECEIVED)
        return core_violation(c, e, "Received without an assignment", e->micro_batch.step,
                              e->micro_batch.micro_batch);
    c->revoked_count -= lease->state == LEASE_REVOKED;
    lease->state = LEASE_RECEIVED;
}

void core_on_used(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    struct lease *lease = core_lease_of(c, w, e);
    if (!lease || lease->state != LEASE_RECEIVED)
        return core_violation(c, e, "Consumed before Received", e->micro_batch.step,
                              e->micro_batch.micro_batch);
    core_lease_free(c, w, lease);
}

static bool mark(uint8_t *set, uint64_t sample)
{
    uint8_t bit = (uint8_t)(1u << sample % 8);
    bool is_new = !(set[sample / 8] & bit);
    set[sample / 8] |= bit;
    return is_new;
}

static void count_samples(struct coord *c, const struct coord_event *e)
{
    struct bl_range indices =
        bl_plan_indices(&c->config.plan, e->micro_batch.kind, e->micro_batch.micro_batch);
    uint32_t next_void = 0;
    for (uint32_t slot = 0; slot < indices.count; slot++) {
        uint32_t epoch;
        uint64_t sample =
            sample_at(c, e->micro_batch.kind, e->micro_batch.step, indices.first + slot, &epoch);
        c->seen += mark(c->seen_samples, sample);
        if (next_void == e->micro_batch.void_count || e->micro_batch.voids[next_void].slot != slot)
            continue;
        if (e->micro_batch.voids[next_void].sample != sample)
            return core_violation(c, e, "a void slot names another sample than ordered", sample,
                                  e->micro_batch.voids[next_void].sample);
        if (mark(c->bad_samples, sample)) {
            c->bad++;
            core_act(c, COORD_ACTION_BAD_SAMPLE)->void_index = next_void;
        }
        next_void++;
    }
    if (next_void != e->micro_batch.void_count)
        return core_violation(c, e, "void slots out of range or order", next_void,
                              e->micro_batch.void_count);
    if (c->seen >= c->config.bad_minimum &&
        (double)c->bad > c->config.max_bad_fraction * (double)c->seen)
        core_begin_stop(c, BL_EDATA);
}

void core_on_sent(struct coord *c, const struct coord_event *e)
{
    struct loader *l = core_loader_find(c, e->peer);
    if (!l || l->held == 0)
        return core_violation(c, e, "Completed without an assignment", 1, 0);
    l->held--;
    if ((e->micro_batch.kind != BL_KIND_TRAIN && e->micro_batch.kind != BL_KIND_VALIDATE) ||
        e->micro_batch.micro_batch >= bl_plan_micro_batches(&c->config.plan, e->micro_batch.kind) ||
        e->micro_batch.step > c->config.plan.steps)
        return core_violation(c, e, "Completed for a micro-batch that is not", e->micro_batch.kind,
                              e->micro_batch.micro_batch);
    if (e->generation == c->generation)
        count_samples(c, e);
}

void core_tick_leases(struct coord *c)
{
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        for (uint32_t k = 0; k < c->config.plan.window; k++) {
            struct lease *lease = &rank_worker(c, rank)->leases[k];
            if (lease->state == LEASE_OUT &&
                is_past(c->now_ms, lease->since_ms, c->timing.lease_ms))
                core_lease_revoke(c, lease);
        }
}
