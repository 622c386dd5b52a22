/* coordinator/core_lease.c - what is ordered and not Consumed: a rank's window of leases, and which of them it is to compute next. */
#include "coordinator/core_state.h"

void core_lease_free(struct coord *c, struct worker *w, struct lease *lease)
{
    c->revoked_count -= lease->state == LEASE_REVOKED;
    lease->state = LEASE_FREE;
    lease->hedge.serial = 0;
    w->lease_count--;
}

/* The first loader is out of it: the second one's is the assignment now. false: there is none. */
static bool hedge_takes_over(struct lease *lease)
{
    if (!lease->hedge.serial)
        return false;
    lease->state = LEASE_OUT;
    lease->loader = lease->hedge.loader;
    lease->serial = lease->hedge.serial;
    lease->since_ms = lease->hedge.since_ms;
    lease->shipped_ms = lease->hedge.shipped_ms;
    lease->overtaken_ms = 0;
    lease->hedge.serial = 0;
    return true;
}

void core_lease_revoke(struct coord *c, struct lease *lease)
{
    if (hedge_takes_over(lease))
        return;
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

/* What w is to compute next: of a step the first that it has not consumed, as it goes in order (O1); of a pass what it has
 * received. NULL: nothing of the kind is assigned. */
static struct lease *next_of(const struct coord *c, const struct worker *w)
{
    struct lease *next = NULL;
    for (uint32_t k = 0; k < c->config.plan.window; k++) {
        struct lease *lease = &w->leases[k];
        bool needed = lease->state == LEASE_RECEIVED && bl_kind_is_pass(lease->kind);
        if (lease->state != LEASE_FREE && !bl_kind_is_pass(lease->kind))
            needed = lease->step == w->done;
        if (needed && (!next || lease->micro_batch < next->micro_batch))
            next = lease;
    }
    return next;
}

const struct lease *core_lease_at_hand(const struct coord *c, const struct worker *w)
{
    const struct lease *next = next_of(c, w);
    return next && next->state == LEASE_RECEIVED ? next : NULL;
}

struct lease *core_awaited_lease(const struct coord *c, const struct worker *w)
{
    struct lease *next = next_of(c, w);
    for (uint32_t k = 0; !next && k < c->config.plan.window; k++)
        if (w->leases[k].state == LEASE_OUT && bl_kind_is_pass(w->leases[k].kind))
            next = &w->leases[k];
    return next && next->state == LEASE_OUT ? next : NULL;
}
