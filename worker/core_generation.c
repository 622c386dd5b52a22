/* worker/core_generation.c - a generation's beginning and end: forming the communicator, letting go of it (M5, M6, W3). */
#include "worker/core_state.h"

void worker_on_end(struct worker *w, const struct worker_event *e)
{
    if (e->generation != w->generation)
        return core_member_wrong(&w->member);
    worker_refuse_save(w);
    worker_abort(w);
}

/* The state of that many steps and that generation is here already (M6). */
static bool has_state(const struct worker *w, const struct worker_event *e)
{
    return e->form.source >= 0 && w->applied_step == (int64_t)e->form.step &&
           w->state_generation == e->form.state_generation;
}

static bool is_form_possible(const struct worker *w, const struct worker_event *e)
{
    bool is_source = e->form.source == (int32_t)e->form.rank;
    return e->generation > w->generation && e->form.world > 0 && e->form.rank < e->form.world &&
           e->form.world <= bl_plan_world_max(&w->plan) && e->form.source >= -1 &&
           e->form.source < (int64_t)e->form.world && e->form.step <= w->plan.steps &&
           (!is_source || has_state(w, e));
}

void worker_on_form(struct worker *w, const struct worker_event *e)
{
    if (!is_form_possible(w, e))
        return core_member_wrong(&w->member);
    bool have_state = has_state(w, e);
    w->generation = e->generation;
    w->rank = e->form.rank;
    w->world = e->form.world;
    w->form_step = e->form.step;
    if (!have_state)
        w->applied_step = -1; /* what is here gets written over */
    w->engaged = true;
    w->state = WORKER_FORMING;
    struct worker_action *action = worker_act(w, WORKER_ACTION_FORM);
    action->form.rank = w->rank;
    action->form.world = w->world;
    action->form.source = e->form.source;
    action->form.step = e->form.step;
    action->form.have_state = have_state;
    action->form.checkpoint = e->form.checkpoint;
    action->form.one_reads = e->form.one_reads;
}

void worker_on_rendezvous(struct worker *w, const struct worker_event *e)
{
    if (e->generation == w->generation)
        worker_act(w, WORKER_ACTION_HAND_ON);
    else
        core_member_wrong(&w->member);
}

void worker_on_formed(struct worker *w, const struct worker_event *e)
{
    w->applied_step = (int64_t)w->form_step;
    w->state_generation = w->generation;
    w->digest = e->formed.digest;
    if (w->state == WORKER_ENDING)
        return;
    worker_begin_step(w);
    struct worker_action *action = worker_act(w, WORKER_ACTION_FORMED);
    action->formed.step = w->form_step;
    action->formed.digest = e->formed.digest;
    w->state = WORKER_RECEIVING;
}

void worker_on_failed(struct worker *w, const struct worker_event *e)
{
    worker_act(w, WORKER_ACTION_BROKEN);
    w->state = WORKER_BROKEN;
    worker_refuse_save(w);
}

/* The engine is free of everything: what belonged to the generation goes. */
void worker_on_aborted(struct worker *w, const struct worker_event *e)
{
    w->engaged = false;
    worker_release_buffers(w);
    worker_drop_copy(w);
    if (w->state == WORKER_LEAVING)
        return worker_leave(w);
    if (w->applied_step >= 0) { /* else given up at Form, even if nothing was written over it */
        BL_ASSERT_CMP(e->aborted.applied_step, ==, w->applied_step);
        w->digest = e->aborted.digest;
    }
    core_member_resume(&w->member);
}
