/* loader/core_assignments.c - the bounded queue of assignments: what is made and shipped next, and what answers it (D1 - D3). */
#include "loader/core_state.h"

static struct loader_action *act_on(struct loader *l, enum loader_action_type type,
                                    const struct slot *slot)
{
    struct loader_action *action = loader_act(l, type);
    action->generation = slot->generation;
    action->assignment.slot = (uint32_t)(slot - l->slots);
    action->assignment.kind = slot->kind;
    action->assignment.step = slot->step;
    action->assignment.micro_batch = slot->micro_batch;
    action->assignment.worker = slot->worker;
    return action;
}

/* The assignment is done with: its credit goes back on the link it came by, if that still is. */
static void slot_done(struct loader *l, struct slot *slot, bool shipped)
{
    slot->state = SLOT_FREE;
    l->made += shipped;
    l->dropped += !shipped;
    if (l->member.linked && slot->link == l->member.link)
        act_on(l, LOADER_ACTION_COMPLETED, slot)->assignment.shipped = shipped;
    else
        act_on(l, LOADER_ACTION_DISCARD, slot);
}

static void slot_kill(struct loader *l, struct slot *slot)
{
    if (slot->state == SLOT_MAKING)
        slot->dead = true;
    else if (slot->state != SLOT_FREE)
        slot_done(l, slot, false);
}

void loader_drop_all(struct loader *l)
{
    for (uint32_t i = 0; i < l->slot_count; i++)
        slot_kill(l, &l->slots[i]);
}

void loader_see_generation(struct loader *l, uint64_t generation)
{
    if (generation <= l->generation)
        return;
    l->generation = generation;
    loader_drop_all(l);
}

static struct slot *oldest_queued(struct loader *l)
{
    struct slot *oldest = NULL;
    for (uint32_t i = 0; i < l->slot_count; i++)
        if (l->slots[i].state == SLOT_QUEUED && (!oldest || l->slots[i].turn < oldest->turn))
            oldest = &l->slots[i];
    return oldest;
}

static void start_jobs(struct loader *l)
{
    struct slot *slot;
    while (loader_slots_in(l, SLOT_MAKING) < l->config.jobs && (slot = oldest_queued(l))) {
        slot->state = SLOT_MAKING;
        act_on(l, LOADER_ACTION_MAKE, slot);
    }
}

/* Assignments of the living connection that wait for their Completed. */
static uint32_t held(const struct loader *l)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < l->slot_count; i++)
        count += l->slots[i].state != SLOT_FREE && l->slots[i].link == l->member.link;
    return count;
}

static struct slot *free_slot(struct loader *l)
{
    for (uint32_t i = 0; i < l->slot_count; i++)
        if (l->slots[i].state == SLOT_FREE)
            return &l->slots[i];
    return NULL;
}

void loader_on_assignment(struct loader *l, const struct loader_event *e)
{
    loader_see_generation(l, e->generation);
    if (held(l) == l->config.capacity)
        return core_member_wrong(&l->member);
    struct slot *slot = free_slot(l);
    BL_ASSERT(slot != NULL); /* others than this link's are MAKING: at most `jobs` */
    *slot = (struct slot){.state = SLOT_QUEUED,
                          .turn = l->turn++,
                          .link = l->member.link,
                          .generation = e->generation,
                          .kind = e->assignment.kind,
                          .step = e->assignment.step,
                          .micro_batch = e->assignment.micro_batch,
                          .worker = e->assignment.worker};
    act_on(l, LOADER_ACTION_ACCEPT, slot);
    if (e->generation < l->generation)
        slot_kill(l, slot);
    start_jobs(l);
}

void loader_on_made(struct loader *l, const struct loader_event *e)
{
    BL_ASSERT(e->slot.slot < l->slot_count && l->slots[e->slot.slot].state == SLOT_MAKING);
    struct slot *slot = &l->slots[e->slot.slot];
    if (slot->dead) {
        slot_done(l, slot, false);
    } else {
        slot->state = SLOT_SHIPPING;
        act_on(l, LOADER_ACTION_SHIP, slot);
    }
    start_jobs(l);
}

void loader_on_shipped(struct loader *l, const struct loader_event *e)
{
    BL_ASSERT(e->slot.slot < l->slot_count && l->slots[e->slot.slot].state == SLOT_SHIPPING);
    slot_done(l, &l->slots[e->slot.slot], !e->slot.failed);
}
