/* worker/core_membership.c - joining, being lost and leaving: what the shared rules of proto/core_member.h mean to a worker. */
#include "worker/core_state.h"

static void fill_ended(const struct worker *w, struct worker_action *action)
{
    action->ended.applied_step = w->applied_step;
    action->ended.state_generation = w->state_generation;
    action->ended.digest = w->digest;
}

static void call_connect(void *worker)
{
    struct worker *w = worker;
    w->state = WORKER_JOINING;
    fill_ended(w, worker_act(w, WORKER_ACTION_CONNECT));
}

static void call_open(void *worker, bool start)
{
    struct worker *w = worker;
    w->state = WORKER_OPENING;
    if (start)
        worker_act(w, WORKER_ACTION_OPEN);
}

/* No communicator and models open: says so, with the state it has. */
static void call_ready(void *worker)
{
    struct worker *w = worker;
    BL_ASSERT(w->plan_known);
    w->state = WORKER_READY;
    fill_ended(w, worker_act(w, WORKER_ACTION_ENDED));
}

static void call_beat(void *worker)
{
    worker_act(worker, WORKER_ACTION_BEAT);
}

/* Keeps the state, lets go of the communicator. */
static bool call_let_go(void *worker)
{
    struct worker *w = worker;
    w->save_asked = false;
    if (w->engaged && w->state != WORKER_ENDING && w->state != WORKER_LEAVING)
        worker_abort(w);
    return !w->engaged;
}

static void call_exit(void *worker, int code, const char *text)
{
    struct worker *w = worker;
    struct worker_action *action = worker_act(w, WORKER_ACTION_EXIT);
    action->exit.code = code;
    action->exit.text = text;
    w->state = WORKER_GONE;
}

const struct core_member_calls worker_member_calls = {call_connect, call_open,   call_ready,
                                                      call_beat,    call_let_go, call_exit};

void worker_leave(struct worker *w)
{
    worker_act(w, WORKER_ACTION_GOODBYE);
    core_member_exit(&w->member, w->stop_code, bl_stop_text(w->stop_code));
}

void worker_on_welcome(struct worker *w, const struct worker_event *e)
{
    core_member_welcome(&w->member, e->welcome.patience_ms, e->epoch);
}

void worker_on_refuse(struct worker *w, const struct worker_event *e)
{
    core_member_exit(&w->member, BL_EPEER, "the coordinator refused this worker");
}

void worker_on_pulse(struct worker *w, const struct worker_event *e)
{
    /* A sign of life, which core_member_admit took note of. */
}

void worker_on_stop(struct worker *w, const struct worker_event *e)
{
    w->stop_code = e->stop.code;
    if (!w->engaged)
        return worker_leave(w);
    if (w->state != WORKER_ENDING)
        worker_abort(w);
    w->state = WORKER_LEAVING;
}

void worker_on_opened(struct worker *w, const struct worker_event *e)
{
    core_member_opened(&w->member);
}

void worker_on_lost(struct worker *w, const struct worker_event *e)
{
    core_member_lost(&w->member);
}

void worker_on_tick(struct worker *w, const struct worker_event *e)
{
    core_member_tick(&w->member);
}
