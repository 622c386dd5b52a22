/* coordinator/core_hedge.c - hedging (O10): a worker that has nothing else to do waits for a micro-batch that takes far longer than others
 * have. A second loader makes it, too; whichever comes first is kept, the other one is a duplicate, which the worker drops. */
#include <string.h>

#include "coordinator/core_state.h"

static void sort(uint32_t *list, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        uint32_t x = list[i], k = i;
        for (; k > 0 && list[k - 1] > x; k--)
            list[k] = list[k - 1];
        list[k] = x;
    }
}

/* By the median, so that one slow loader among fast ones is late, and where all are slow nobody is. */
static void judge_late(struct coord *c)
{
    uint32_t sorted[TURNAROUNDS];
    uint32_t count =
        c->turnaround_count < TURNAROUNDS ? (uint32_t)c->turnaround_count : TURNAROUNDS;
    memcpy(sorted, c->turnarounds, sizeof sorted);
    sort(sorted, count);
    c->late_ms = latest((uint64_t)HEDGE_FACTOR * sorted[count / 2], c->timing.heartbeat_ms / 4);
}

void core_learn_turnaround(struct coord *c, const struct lease *lease)
{
    uint64_t ms = c->now_ms - lease->since_ms;
    c->turnarounds[c->turnaround_count++ % TURNAROUNDS] =
        ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
    if (c->turnaround_count % TURNAROUNDS_JUDGED == 0)
        judge_late(c);
}

/* The log names a loader that is late once in P. */
static void note(struct coord *c, const struct worker *w, const struct lease *lease)
{
    struct loader *l = &c->loaders[lease->loader];
    if (l->hedge_noted_ms && !is_past(c->now_ms, l->hedge_noted_ms, c->timing.lease_ms))
        return;
    l->hedge_noted_ms = c->now_ms;
    struct coord_action *action =
        core_note(c, COORD_NOTE_HEDGED, l->peer, l->link, "is late with a micro-batch for");
    action->note.other_link = w->link;
    action->note.ms = c->now_ms - lease->since_ms;
    action->note.has_micro_batch = true;
    action->note.micro_batch_kind = lease->kind;
    action->note.step = lease->step;
    action->note.micro_batch = lease->micro_batch;
}

void core_tick_hedges(struct coord *c)
{
    for (uint32_t rank = 0; rank < c->plan.world && c->late_ms > 0; rank++) {
        const struct worker *w = rank_worker(c, rank);
        struct lease *lease = core_awaited_lease(c, w);
        if (!lease || lease->hedge.serial ||
            c->now_ms - latest(lease->since_ms, lease->hedge.since_ms) <= c->late_ms)
            continue;
        struct loader *l = core_loader_with_room(c, lease->loader);
        if (!l || l == &c->loaders[lease->loader])
            continue;
        if (c->hedge_credit < HEDGE_SHARE)
            return; /* so that what makes everything slow is not made slower */
        c->hedge_credit -= HEDGE_SHARE;
        c->hedges++;
        note(c, w, lease);
        lease->hedge = (struct hedge){.serial = core_order(c, l, w, lease),
                                      .loader = (uint32_t)(l - c->loaders),
                                      .since_ms = c->now_ms};
    }
}
