/* coordinator/core_assign.c - which loader makes which micro-batch for which worker (O1 - O5). */
#include "coordinator/core_state.h"

uint64_t core_sample_at(const struct coord *c, enum bl_kind kind, uint64_t step, uint32_t index,
                        uint32_t *ret_epoch)
{
    *ret_epoch = 0;
    if (bl_kind_is_pass(kind))
        return c->config.validate_ids[index];
    uint64_t epoch_index;
    bl_plan_sample(&c->config.plan, step, index, ret_epoch, &epoch_index);
    return c->config.train_ids[epoch_index];
}

/* Training steps below it may be ordered: within steps_ahead of the lowest step whose commit is not
 * on disk, and never past a validation or a checkpoint that must come first. */
static uint64_t assign_end(const struct coord *c)
{
    const struct bl_plan *plan = &c->config.plan;
    uint64_t committed = c->ledger.committed, end = committed + 1 + plan->steps_ahead;
    if (end > plan->steps)
        end = plan->steps;
    if (c->regrouping && end > c->hold)
        end = c->hold;
    if (core_is_pausing(c) && end > c->pause)
        end = c->pause;
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
        *ret_lease = (struct lease){.kind = bl_plan_pass(&c->config.plan),
                                    .step = c->validating,
                                    .micro_batch = c->to_validate[share.first + w->next_validate]};
        return true;
    }
    if (w->next_step >= end)
        return false;
    *ret_lease =
        (struct lease){.kind = c->config.plan.kind,
                       .step = w->next_step,
                       .micro_batch = rank_micro_batches(c, w->rank).first + w->next_index};
    return true;
}

/* Moves w's cursor past the micro-batch it stood at, adding what was ordered to the step's digest. */
static void micro_batch_assigned(struct coord *c, struct worker *w, const struct lease *lease)
{
    if (bl_kind_is_pass(lease->kind)) {
        w->next_validate++;
        return;
    }
    struct bl_range indices = bl_plan_indices(&c->config.plan, lease->kind, lease->micro_batch);
    uint64_t *digest = assigned_digest(c, w, lease->step);
    for (uint32_t index = indices.first; index < indices.first + indices.count; index++) {
        uint32_t epoch;
        *digest +=
            bl_sample_term(index, core_sample_at(c, lease->kind, lease->step, index, &epoch));
    }
    if (++w->next_index == rank_micro_batches(c, w->rank).count) {
        w->next_index = 0;
        w->next_step++;
        *assigned_digest(c, w, w->next_step) = 0;
    }
}

static struct lease *lease_in(const struct coord *c, const struct worker *w, enum lease_state state)
{
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state == state)
            return &w->leases[k];
    return NULL;
}

/* One that may be given out again now. */
static struct lease *revoked_lease(const struct coord *c, const struct worker *w)
{
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state == LEASE_REVOKED && c->now_ms >= w->leases[k].after_ms)
            return &w->leases[k];
    return NULL;
}

/* A revoked lease first; else the rank whose next micro-batch comes first in its share, lowest step
 * first: so ranks are served alike. The lease is in LEASE_REVOKED, to be given out. */
static struct lease *next_lease(struct coord *c, uint64_t end, struct worker **ret_worker)
{
    for (uint32_t rank = 0; c->revoked_count > 0 && rank < c->plan.world; rank++) {
        *ret_worker = rank_worker(c, rank);
        struct lease *lease = revoked_lease(c, *ret_worker);
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
    micro_batch_assigned(c, best, &best_lease);
    struct lease *lease = lease_in(c, best, LEASE_FREE);
    *lease = best_lease;
    lease->loader = UINT32_MAX;
    core_lease_revoke(c, lease);
    best->lease_count++;
    *ret_worker = best;
    return lease;
}

static bool rests(const struct coord *c, const struct loader *l)
{
    return c->now_ms < l->rest_until_ms;
}

static bool all_rest(const struct coord *c)
{
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (c->loaders[i].present && c->loaders[i].ready && !rests(c, &c->loaders[i]))
            return false;
    return true;
}

/* The loader with most room; the one that had the lease before only if no other has any, and one that has to rest only
 * if all have to. */
struct loader *core_loader_with_room(struct coord *c, uint32_t not_this)
{
    struct loader *best = NULL, *fallback = NULL;
    bool any = all_rest(c);
    for (uint32_t i = 0; i < c->loader_top; i++) {
        struct loader *l = &c->loaders[i];
        if (!l->present || !l->ready || l->held == l->capacity || (rests(c, l) && !any))
            continue;
        if (i == not_this)
            fallback = l;
        else if (!best || l->capacity - l->held > best->capacity - best->held)
            best = l;
    }
    return best ? best : fallback;
}

/* Is there any? It is asked after every event, and the first that is found answers it. */
static bool has_room(const struct coord *c)
{
    bool any = all_rest(c);
    for (uint32_t i = 0; i < c->loader_top; i++) {
        const struct loader *l = &c->loaders[i];
        if (l->present && l->ready && l->held < l->capacity && (any || !rests(c, l)))
            return true;
    }
    return false;
}

uint64_t core_order(struct coord *c, struct loader *l, const struct worker *w,
                    const struct lease *lease)
{
    l->held++;
    struct coord_action *action = core_act_to(c, COORD_ACTION_ASSIGNMENT, l->peer, l->link);
    action->assignment.kind = lease->kind;
    action->assignment.step = lease->step;
    action->assignment.micro_batch = lease->micro_batch;
    action->assignment.indices = bl_plan_indices(&c->config.plan, lease->kind, lease->micro_batch);
    action->assignment.worker = w->peer;
    return ++c->serial;
}

void core_assign(struct coord *c)
{
    uint64_t end = assign_end(c);
    for (int assignments = 0; has_room(c); assignments++) {
        if (assignments == ASSIGNMENTS_PER_CALL) {
            c->actions.more = true;
            return;
        }
        struct worker *w;
        struct lease *lease = next_lease(c, end, &w);
        if (!lease)
            return;
        struct loader *l = core_loader_with_room(c, lease->loader);
        lease->state = LEASE_OUT;
        c->revoked_count--;
        lease->loader = (uint32_t)(l - c->loaders);
        lease->serial = core_order(c, l, w, lease);
        c->hedge_credit += c->hedge_credit < HEDGE_SHARE * HEDGES_AT_ONCE;
        lease->since_ms = c->now_ms;
        lease->shipped_ms = lease->overtaken_ms = 0;
    }
}

void coord_assignment_samples(const struct coord *c, const struct coord_action *assignment,
                              uint64_t *ret_sample, uint32_t *ret_epoch)
{
    for (uint32_t i = 0; i < assignment->assignment.indices.count; i++)
        ret_sample[i] = core_sample_at(c, assignment->assignment.kind, assignment->assignment.step,
                                       assignment->assignment.indices.first + i, &ret_epoch[i]);
}
