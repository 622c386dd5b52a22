/* coordinator/core_delivery.c - what becomes of an assignment (O5 - O8): received and consumed, completed with voids, or taken from a
 * loader that does not deliver. */
#include "coordinator/core_state.h"

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
        uint64_t sample = core_sample_at(c, e->micro_batch.kind, e->micro_batch.step,
                                         indices.first + v->slot, &epoch);
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
        c->seen += mark(c->seen_samples, core_sample_at(c, e->micro_batch.kind, e->micro_batch.step,
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
}
