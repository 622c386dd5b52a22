/* coordinator/core_assign.c - which loader makes which micro-batch for which worker, and what became of it (O1 - O6). */
#include "coordinator/core_state.h"

static uint64_t sample_at(const struct coord *c, enum bl_kind kind, uint64_t step, uint32_t index,
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
        *digest += bl_sample_term(index, sample_at(c, lease->kind, lease->step, index, &epoch));
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
        ret_sample[i] = sample_at(c, assignment->assignment.kind, assignment->assignment.step,
                                  assignment->assignment.indices.first + i, &ret_epoch[i]);
}

void core_on_received(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    struct lease *lease = core_lease_of(c, w, e);
    if (!lease || lease->state == LEASE_RECEIVED)
        return core_violation(c, e, "Received without an assignment", e->micro_batch.step,
                              e->micro_batch.micro_batch);
    c->revoked_count -= lease->state == LEASE_REVOKED;
    if (lease->state == LEASE_OUT)
        core_learn_turnaround(c, lease);
    if (lease->state == LEASE_OUT && !lease->hedge.serial &&
        c->loaders[lease->loader].strike_worker == w->peer)
        c->loaders[lease->loader].strikes = 0;
    lease->state = LEASE_RECEIVED;
    lease->hedge.serial = 0;
    lease->since_ms = w->received_ms = c->now_ms;
    w->taken = 0;
}

void core_on_consumed(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    struct lease *lease = core_lease_of(c, w, e);
    if (!lease || lease->state != LEASE_RECEIVED)
        return core_violation(c, e, "Consumed before Received", e->micro_batch.step,
                              e->micro_batch.micro_batch);
    if (c->state == COORD_VALIDATING && bl_kind_is_pass(lease->kind) &&
        !c->validated[lease->micro_batch])
        return core_violation(c, e, "Consumed before its Validation", e->micro_batch.step,
                              e->micro_batch.micro_batch);
    uint64_t *longest_ms = &w->longest_ms[lease->kind];
    *longest_ms = latest(*longest_ms, latest(1, c->now_ms - latest(lease->since_ms, w->free_ms)));
    w->free_ms = c->now_ms;
    core_lease_free(c, w, lease);
}

static bool mark(uint8_t *set, uint64_t sample)
{
    uint8_t bit = (uint8_t)(1u << sample % 8);
    bool is_new = !(set[sample / 8] & bit);
    set[sample / 8] |= bit;
    return is_new;
}

bool coord_is_missing(const struct coord *c, uint64_t sample)
{
    return c->missing_samples[sample / 8] >> sample % 8 & 1;
}

/* Are they slots of the micro-batch, in order, with the samples that were assigned? */
static bool voids_fit(struct coord *c, const struct coord_event *e)
{
    struct bl_range indices =
        bl_plan_indices(&c->config.plan, e->micro_batch.kind, e->micro_batch.micro_batch);
    for (uint32_t i = 0; i < e->micro_batch.void_count; i++) {
        const struct coord_void *v = &e->micro_batch.voids[i];
        uint32_t epoch, least = i ? e->micro_batch.voids[i - 1].slot + 1 : 0;
        if (v->slot < least || v->slot >= indices.count) {
            core_violation(c, e, "void slots out of range or order", indices.count, v->slot);
            return false;
        }
        uint64_t sample =
            sample_at(c, e->micro_batch.kind, e->micro_batch.step, indices.first + v->slot, &epoch);
        if (v->sample != sample) {
            core_violation(c, e, "a void slot names another sample than assigned", sample,
                           v->sample);
            return false;
        }
    }
    return true;
}

static void count_samples(struct coord *c, const struct coord_event *e)
{
    struct bl_range indices =
        bl_plan_indices(&c->config.plan, e->micro_batch.kind, e->micro_batch.micro_batch);
    for (uint32_t slot = 0; slot < indices.count; slot++) {
        uint32_t epoch;
        c->seen += mark(c->seen_samples, sample_at(c, e->micro_batch.kind, e->micro_batch.step,
                                                   indices.first + slot, &epoch));
    }
    for (uint32_t i = 0; i < e->micro_batch.void_count; i++)
        if (mark(c->bad_samples, e->micro_batch.voids[i].sample)) {
            c->bad += !e->micro_batch.voids[i].asked;
            core_act(c, COORD_ACTION_BAD_SAMPLE)->void_index = i;
        }
    if (c->seen >= c->config.bad_minimum &&
        (double)c->bad > c->config.max_bad_fraction * (double)c->seen)
        core_begin_stop(c, BL_EDATA);
}

/* Is there another loader that can be asked now, or (ready false) once it has opened the data? */
static bool has_other(const struct coord *c, const struct loader *l, bool ready)
{
    for (uint32_t i = 0; i < c->loader_top; i++) {
        const struct loader *other = &c->loaders[i];
        if (other != l && other->present && (other->ready || !ready))
            return true;
    }
    return false;
}

/* One loader's word is not enough: its host may lack the data (O8). */
static void suspect(struct coord *c, const struct loader *l, uint64_t sample)
{
    for (uint32_t i = 0; i < SUSPECTS_MAX && i < c->suspect_count; i++) {
        struct suspect *s = &c->suspects[i];
        if (s->sample != sample)
            continue;
        bool again = !has_other(c, l, false) &&
                     is_past(c->now_ms, latest(s->since_ms, c->loader_gone_ms), c->timing.lease_ms);
        if (s->peer != l->peer || again)
            mark(c->missing_samples, sample);
        return;
    }
    c->suspects[c->suspect_count++ % SUSPECTS_MAX] = (struct suspect){sample, l->peer, c->now_ms};
}

/* A loader from which assignments are taken again and again gets none for a growing while (O7). */
static void strike(struct coord *c, struct loader *l, const struct worker *w)
{
    l->strikes++;
    l->strike_worker = w->peer;
    l->strike_ms = c->now_ms;
    if (l->strikes < STRIKES_MAX)
        return;
    uint32_t doublings = l->strikes - STRIKES_MAX < 6 ? l->strikes - STRIKES_MAX : 6;
    uint64_t rest_ms = (uint64_t)c->config.patience_ms << doublings;
    l->rest_until_ms = c->now_ms + rest_ms;
    core_note(c, COORD_NOTE_RESTING, l->peer, l->link, "gets no assignments while others are there")
        ->note.ms = rest_ms;
}

/* Of all that is taken from a loader within P the first is logged and counted. */
static void take_away(struct coord *c, struct worker *w, struct lease *lease, const char *why)
{
    struct loader *l = &c->loaders[lease->loader];
    uint64_t since_ms = lease->since_ms;
    lease->tries++;
    core_lease_revoke(c, lease);
    if (l->strikes > 0 && !is_past(c->now_ms, l->strike_ms, c->timing.lease_ms))
        return;
    struct coord_action *action = core_note(c, COORD_NOTE_REVOKED, l->peer, l->link, why);
    action->note.other_link = w->link;
    action->note.ms = c->now_ms - since_ms;
    action->note.has_micro_batch = true;
    action->note.micro_batch_kind = lease->kind;
    action->note.step = lease->step;
    action->note.micro_batch = lease->micro_batch;
    strike(c, l, w);
    w->taken++;
}

static bool is_hedge_of(const struct coord *c, const struct lease *lease, const struct loader *l)
{
    return lease->hedge.serial && &c->loaders[lease->hedge.loader] == l;
}

/* The lease that the loader has, alone or as the second one, and the message is about; NULL: it is no longer the loader's. */
static struct lease *lease_of_loader(struct coord *c, const struct loader *l,
                                     const struct coord_event *e, struct worker **ret_worker)
{
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        struct lease *lease = w->lease_count > 0 ? core_lease_of(c, w, e) : NULL;
        *ret_worker = w;
        if (lease && lease->state == LEASE_OUT &&
            (&c->loaders[lease->loader] == l || is_hedge_of(c, lease, l)))
            return lease;
    }
    return NULL;
}

/* Assignments are made in the order of arrival (D1): those it had before are late. */
static void note_overtaken(struct coord *c, uint32_t loader, uint64_t serial)
{
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        for (uint32_t k = 0; k < c->config.plan.window; k++) {
            struct lease *lease = &rank_worker(c, rank)->leases[k];
            if (lease->state == LEASE_OUT && lease->loader == loader && lease->serial < serial &&
                !lease->overtaken_ms)
                lease->overtaken_ms = c->now_ms;
        }
}

/* The first loader still has it: so it is no matter if the second one could not. */
static void hedge_completed(struct coord *c, struct lease *lease, const struct coord_event *e)
{
    if (e->micro_batch.withheld || e->micro_batch.unshipped)
        lease->hedge.serial = 0;
    else
        lease->hedge.shipped_ms = c->now_ms;
}

static void completed_lease(struct coord *c, struct loader *l, const struct coord_event *e)
{
    struct worker *w;
    struct lease *lease = lease_of_loader(c, l, e, &w);
    if (!lease)
        return;
    bool second = is_hedge_of(c, lease, l);
    note_overtaken(c, (uint32_t)(l - c->loaders), second ? lease->hedge.serial : lease->serial);
    for (uint32_t i = 0; e->micro_batch.withheld && i < e->micro_batch.void_count; i++)
        if (e->micro_batch.voids[i].unreadable)
            suspect(c, l, e->micro_batch.voids[i].sample);
    if (second)
        return hedge_completed(c, lease, e);
    if (e->micro_batch.withheld) {
        lease->after_ms =
            c->now_ms + (has_other(c, l, true) ? c->timing.heartbeat_ms : c->timing.lease_ms);
        take_away(c, w, lease, "cannot read an image for");
    } else if (e->micro_batch.unshipped) {
        take_away(c, w, lease, "cannot ship to");
    } else {
        lease->shipped_ms = c->now_ms;
    }
}

/* Shipped void, though nobody confirmed that: the worker that has it must not train with it. */
static bool is_unconfirmed(struct coord *c, const struct coord_event *e)
{
    for (uint32_t i = 0; i < e->micro_batch.void_count; i++)
        if (e->micro_batch.voids[i].unreadable &&
            !coord_is_missing(c, e->micro_batch.voids[i].sample)) {
            core_violation(c, e, "a void slot that no other loader has confirmed",
                           e->micro_batch.step, e->micro_batch.voids[i].sample);
            return true;
        }
    return false;
}

void core_on_completed(struct coord *c, const struct coord_event *e)
{
    struct loader *l = core_loader_find(c, e->peer);
    if (!l || l->held == 0)
        return core_violation(c, e, "Completed without an assignment", 1, 0);
    l->held--;
    if ((e->micro_batch.kind != c->config.plan.kind &&
         e->micro_batch.kind != bl_plan_pass(&c->config.plan)) ||
        e->micro_batch.micro_batch >= bl_plan_micro_batches(&c->config.plan, e->micro_batch.kind) ||
        e->micro_batch.step > c->config.plan.steps)
        return core_violation(c, e, "Completed for a micro-batch that is not", e->micro_batch.kind,
                              e->micro_batch.micro_batch);
    if (e->generation != c->generation || !voids_fit(c, e))
        return;
    if (!e->micro_batch.withheld && is_unconfirmed(c, e)) {
        if (is_live(c))
            core_end_generation(c);
        return;
    }
    if (is_live(c))
        completed_lease(c, l, e);
    if (!e->micro_batch.unshipped && !e->micro_batch.withheld)
        count_samples(c, e);
}

/* Since when it has made no progress: by neither its loader, nor a worker that has enough to do meanwhile. */
static uint64_t stands_since(const struct coord *c, const struct worker *w,
                             const struct lease *lease, const char **ret_why)
{
    const struct loader *l = &c->loaders[lease->loader];
    uint64_t loader_ms = l->signs.progress_ms;
    *ret_why = "makes no progress on an assignment for";
    if (lease->overtaken_ms) {
        loader_ms = lease->overtaken_ms;
        *ret_why = "makes later assignments, but not one for";
    }
    if (lease->shipped_ms) {
        loader_ms = lease->shipped_ms;
        *ret_why = "says that it shipped what has not come to";
    }
    return latest(latest(lease->since_ms, loader_ms), w->signs.progress_ms);
}

void core_tick_leases(struct coord *c)
{
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        for (uint32_t k = 0; k < c->config.plan.window; k++) {
            struct lease *lease = &w->leases[k];
            const char *why;
            if (lease->state != LEASE_OUT)
                continue;
            uint32_t wait_ms = c->timing.lease_ms << (lease->tries < 4 ? lease->tries : 4);
            if (is_past(c->now_ms, stands_since(c, w, lease, &why), wait_ms))
                take_away(c, w, lease, why);
        }
    }
    for (uint32_t rank = 0; rank < c->plan.world && is_live(c); rank++)
        if (rank_worker(c, rank)->taken >= STRIKES_MAX) {
            rank_worker(c, rank)->taken = 0;
            core_blame_unserved(c, rank_worker(c, rank));
        }
    if (is_live(c))
        core_tick_hedges(c);
}
