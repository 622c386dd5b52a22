/* worker/core_step.c - a step: which micro-batches are kept, the order in which they are computed, when the step is applied
 * (W3 - W5). */
#include <string.h>

#include "worker/core_state.h"

static void fill_micro_batch(const struct worker *w, struct worker_action *action, uint32_t slot)
{
    action->micro_batch.slot = slot;
    action->micro_batch.kind = w->buffers[slot].kind;
    action->micro_batch.step = w->buffers[slot].step;
    action->micro_batch.micro_batch = w->buffers[slot].micro_batch;
}

static void act_on_buffer(struct worker *w, enum worker_action_type type, uint32_t slot)
{
    fill_micro_batch(w, worker_act(w, type), slot);
}

static void release(struct worker *w, uint32_t slot)
{
    act_on_buffer(w, WORKER_ACTION_RELEASE, slot);
    w->buffers[slot].state = BUFFER_FREE;
}

void worker_release_buffers(struct worker *w)
{
    for (uint32_t slot = 0; slot < w->plan.window; slot++)
        if (w->buffers[slot].state != BUFFER_FREE)
            release(w, slot);
}

void worker_begin_step(struct worker *w)
{
    w->next_micro_batch = 0;
    memset(w->validated, 0, bl_plan_micro_batches(&w->plan, bl_plan_pass(&w->plan)));
}

/* ---- What is kept (W4) ------------------------------------------------------------------------
 */

static bool is_mine(const struct worker *w, const struct worker_event *e)
{
    uint64_t applied = (uint64_t)w->applied_step;
    if (e->data.worker != w->incarnation || e->generation != w->generation)
        return false;
    if (e->data.kind == bl_plan_pass(&w->plan))
        return e->data.step == applied &&
               e->data.micro_batch < bl_plan_micro_batches(&w->plan, e->data.kind);
    struct bl_range micro_batches = worker_share(w);
    return e->data.kind == BL_KIND_TRAIN && e->data.step >= applied &&
           e->data.step <= applied + w->plan.steps_ahead &&
           e->data.micro_batch >= micro_batches.first &&
           e->data.micro_batch < micro_batches.first + micro_batches.count;
}

/* The buffer that holds this micro-batch, or NULL. */
static struct buffer *find_buffer(const struct worker *w, enum bl_kind kind, uint64_t step,
                                  uint32_t micro_batch)
{
    for (uint32_t slot = 0; slot < w->plan.window; slot++) {
        struct buffer *b = &w->buffers[slot];
        if (b->state != BUFFER_FREE && b->kind == kind && b->step == step &&
            b->micro_batch == micro_batch)
            return b;
    }
    return NULL;
}

/* Kept already, or computed already. */
static bool is_duplicate(const struct worker *w, const struct worker_event *e)
{
    if (bl_kind_is_pass(e->data.kind))
        return w->validated[e->data.micro_batch];
    if (e->data.step == (uint64_t)w->applied_step &&
        e->data.micro_batch < worker_share(w).first + w->next_micro_batch)
        return true;
    return find_buffer(w, e->data.kind, e->data.step, e->data.micro_batch) != NULL;
}

static uint32_t free_slot(const struct worker *w)
{
    uint32_t slot = 0;
    while (slot < w->plan.window && w->buffers[slot].state != BUFFER_FREE)
        slot++;
    return slot;
}

/* ---- What is computed next (W5) ---------------------------------------------------------------
 */

/* Validation micro-batches in any order; training micro-batches strictly in the share's. */
static struct buffer *next_buffer(struct worker *w)
{
    for (uint32_t slot = 0; slot < w->plan.window; slot++) {
        struct buffer *b = &w->buffers[slot];
        if (b->state != BUFFER_KEPT || b->step != (uint64_t)w->applied_step)
            continue;
        if (bl_kind_is_pass(b->kind) ||
            b->micro_batch == worker_share(w).first + w->next_micro_batch)
            return b;
    }
    return NULL;
}

static void fill_step(const struct worker *w, struct worker_action *action)
{
    struct bl_range micro_batches = worker_share(w);
    struct bl_range first = bl_plan_indices(&w->plan, BL_KIND_TRAIN, micro_batches.first);
    struct bl_range last =
        bl_plan_indices(&w->plan, BL_KIND_TRAIN, micro_batches.first + micro_batches.count - 1);
    action->report.step = (uint64_t)w->applied_step;
    action->report.indices = (struct bl_range){first.first, last.first + last.count - first.first};
}

static void reduce(struct worker *w)
{
    if (worker_must_hold(w)) {
        w->state = WORKER_HOLDING;
        return;
    }
    fill_step(w, worker_act(w, WORKER_ACTION_REDUCE));
    w->state = WORKER_REDUCING;
}

/* The slot of the training micro-batch that is computed after this one, or WORKER_NO_SLOT. */
static uint32_t next_slot(const struct worker *w, const struct buffer *b, bool last)
{
    if (b->kind != BL_KIND_TRAIN)
        return WORKER_NO_SLOT;
    const struct buffer *next =
        last ? find_buffer(w, BL_KIND_TRAIN, b->step + 1, worker_share(w).first)
             : find_buffer(w, BL_KIND_TRAIN, b->step, b->micro_batch + 1);
    return next ? (uint32_t)(next - w->buffers) : WORKER_NO_SLOT;
}

/* In RECEIVING or HOLDING: gives the engine what it can do now. */
static void continue_step(struct worker *w)
{
    uint32_t count = worker_share(w).count;
    if (w->next_micro_batch == count)
        return reduce(w);
    struct buffer *b = next_buffer(w);
    if (!b) {
        w->state = WORKER_RECEIVING;
        return;
    }
    b->state = BUFFER_IN_ENGINE;
    struct worker_action *action = worker_act(w, WORKER_ACTION_COMPUTE);
    fill_micro_batch(w, action, (uint32_t)(b - w->buffers));
    action->micro_batch.last = b->kind == BL_KIND_TRAIN && w->next_micro_batch + 1 == count;
    action->micro_batch.next = next_slot(w, b, action->micro_batch.last);
    w->state = WORKER_COMPUTING;
}

/* ---- Events ------------------------------------------------------------------------------------
 */

void worker_on_data(struct worker *w, const struct worker_event *e)
{
    uint32_t slot = free_slot(w);
    bool mine = is_mine(w, e), duplicate = mine && is_duplicate(w, e);
    if (!mine || duplicate || slot == w->plan.window) {
        w->member.late += !mine;
        w->duplicates += duplicate;
        w->member.violations += mine && !duplicate; /* more than the window: nobody assigned this */
        worker_act(w, WORKER_ACTION_DROP);
        return;
    }
    w->buffers[slot] =
        (struct buffer){BUFFER_KEPT, e->data.kind, e->data.step, e->data.micro_batch};
    if (bl_kind_is_pass(e->data.kind))
        w->validated[e->data.micro_batch] = 1;
    act_on_buffer(w, WORKER_ACTION_KEEP, slot);
    act_on_buffer(w, WORKER_ACTION_RECEIVED, slot);
    if (w->state == WORKER_RECEIVING)
        continue_step(w);
}

void worker_on_computed(struct worker *w, const struct worker_event *e)
{
    uint32_t slot = e->computed.slot;
    BL_ASSERT(slot < w->plan.window && w->buffers[slot].state == BUFFER_IN_ENGINE);
    if (bl_kind_is_pass(w->buffers[slot].kind))
        act_on_buffer(w, WORKER_ACTION_RESULT, slot);
    else
        w->next_micro_batch++;
    act_on_buffer(w, WORKER_ACTION_CONSUMED, slot);
    release(w, slot);
    continue_step(w);
}

void worker_on_applied(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT_CMP(e->applied.step, ==, w->applied_step);
    bool living = w->state == WORKER_REDUCING;
    if (living)
        fill_step(w, worker_act(w, WORKER_ACTION_REPORT));
    w->applied_step++;
    if (!living)
        return; /* the generation is over: Ended tells */
    worker_begin_step(w);
    w->state = WORKER_RECEIVING;
    worker_copy_or_save(w);
    continue_step(w);
}

/* The step that held for the copy goes on. */
void worker_on_written(struct worker *w, const struct worker_event *e)
{
    worker_written(w, e);
    if (w->state == WORKER_HOLDING)
        continue_step(w);
}
