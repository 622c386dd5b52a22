/* coordinator/core_orders.c - which loader makes which group for which worker, and what became of it (O1 - O6). */
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

static uint64_t sample_at(const struct coord *c, enum bl_kind kind, uint64_t step, uint32_t place,
                          uint32_t *ret_epoch)
{
    *ret_epoch = 0;
    if (kind == BL_KIND_VALIDATE)
        return c->config.validate_ids[place];
    uint64_t index;
    bl_plan_sample(&c->config.plan, step, place, ret_epoch, &index);
    return c->config.train_ids[index];
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

/* The next new group for this rank, of a training step below `end`. */
static bool next_group(const struct coord *c, const struct worker *w, uint64_t end,
                       struct lease *ret_lease)
{
    if (c->state == COORD_VALIDATING) {
        struct bl_range share = validation_share(c, w->rank);
        if (w->next_validate >= share.count)
            return false;
        *ret_lease = (struct lease){.kind = BL_KIND_VALIDATE,
                                    .step = c->validating,
                                    .group = c->to_validate[share.first + w->next_validate]};
        return true;
    }
    if (w->next_step >= end)
        return false;
    *ret_lease = (struct lease){.kind = BL_KIND_TRAIN,
                                .step = w->next_step,
                                .group = rank_groups(c, w->rank).first + w->next_index};
    return true;
}

/* Moves w's cursor past the group it stood at, adding what was ordered to the step's digest. */
static void group_ordered(struct coord *c, struct worker *w, const struct lease *lease)
{
    if (lease->kind == BL_KIND_VALIDATE) {
        w->next_validate++;
        return;
    }
    struct bl_range places = bl_plan_places(&c->config.plan, lease->kind, lease->group);
    uint64_t *digest = ordered_digest(c, w, lease->step);
    for (uint32_t place = places.first; place < places.first + places.count; place++) {
        uint32_t epoch;
        *digest += bl_sample_term(place, sample_at(c, lease->kind, lease->step, place, &epoch));
    }
    if (++w->next_index == rank_groups(c, w->rank).count) {
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

/* A revoked lease first; else the rank whose next group comes first in its share, lowest step
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
        if (w->lease_count == c->config.plan.window || !next_group(c, w, end, &lease))
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
    group_ordered(c, best, &best_lease);
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

void core_issue_orders(struct coord *c)
{
    uint64_t end = order_end(c);
    for (int orders = 0; loader_with_room(c, UINT32_MAX); orders++) {
        if (orders == ORDERS_PER_CALL) {
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
        struct coord_action *action = core_act_to(c, COORD_ACTION_ORDER, l->peer, l->link);
        action->order.kind = lease->kind;
        action->order.step = lease->step;
        action->order.group = lease->group;
        action->order.places = bl_plan_places(&c->config.plan, lease->kind, lease->group);
        action->order.worker = w->peer;
    }
}

void coord_order_samples(const struct coord *c, const struct coord_action *order,
                         uint64_t *ret_sample, uint32_t *ret_epoch)
{
    for (uint32_t i = 0; i < order->order.places.count; i++)
        ret_sample[i] = sample_at(c, order->order.kind, order->order.step,
                                  order->order.places.first + i, &ret_epoch[i]);
}

struct lease *core_lease_of(const struct coord *c, const struct worker *w,
                            const struct coord_event *e)
{
    for (uint32_t k = 0; k < c->config.plan.window; k++) {
        struct lease *lease = &w->leases[k];
        if (lease->state != LEASE_FREE && lease->kind == e->group.kind &&
            lease->step == e->group.step && lease->group == e->group.group)
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
    if (!lease || lease->state == LEASE_GOT)
        return core_violation(c, e, "Got without an order", e->group.step, e->group.group);
    c->revoked_count -= lease->state == LEASE_REVOKED;
    lease->state = LEASE_GOT;
}

void core_on_used(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    struct lease *lease = core_lease_of(c, w, e);
    if (!lease || lease->state != LEASE_GOT)
        return core_violation(c, e, "Used before Got", e->group.step, e->group.group);
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
    struct bl_range places = bl_plan_places(&c->config.plan, e->group.kind, e->group.group);
    uint32_t next_void = 0;
    for (uint32_t slot = 0; slot < places.count; slot++) {
        uint32_t epoch;
        uint64_t sample = sample_at(c, e->group.kind, e->group.step, places.first + slot, &epoch);
        c->seen += mark(c->seen_samples, sample);
        if (next_void == e->group.void_count || e->group.voids[next_void].slot != slot)
            continue;
        if (e->group.voids[next_void].sample != sample)
            return core_violation(c, e, "a void slot names another sample than ordered", sample,
                                  e->group.voids[next_void].sample);
        if (mark(c->bad_samples, sample)) {
            c->bad++;
            core_act(c, COORD_ACTION_BAD_SAMPLE)->void_index = next_void;
        }
        next_void++;
    }
    if (next_void != e->group.void_count)
        return core_violation(c, e, "void slots out of range or order", next_void,
                              e->group.void_count);
    if (c->seen >= c->config.bad_minimum &&
        (double)c->bad > c->config.max_bad_fraction * (double)c->seen)
        core_begin_stop(c, BL_EDATA);
}

void core_on_sent(struct coord *c, const struct coord_event *e)
{
    struct loader *l = core_loader_find(c, e->peer);
    if (!l || l->held == 0)
        return core_violation(c, e, "Sent without an order", 1, 0);
    l->held--;
    if ((e->group.kind != BL_KIND_TRAIN && e->group.kind != BL_KIND_VALIDATE) ||
        e->group.group >= bl_plan_groups(&c->config.plan, e->group.kind) ||
        e->group.step > c->config.plan.steps)
        return core_violation(c, e, "Sent for a group that is not", e->group.kind, e->group.group);
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
