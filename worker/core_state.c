/* worker/core_state.c - the ground the rules stand on: actions, what a state means, letting go of the communicator. */
#include "worker/core_state.h"

struct worker_action *worker_act(struct worker *w, enum worker_action_type type)
{
    BL_ASSERT_CMP(w->actions.count, <, w->actions.capacity);
    struct worker_action *action = &w->actions.list[w->actions.count++];
    *action =
        (struct worker_action){.type = type, .link = w->member.link, .generation = w->generation};
    return action;
}

bool worker_is_live(const struct worker *w)
{
    return w->state >= WORKER_RECEIVING && w->state <= WORKER_REDUCING;
}

struct bl_range worker_share(const struct worker *w)
{
    return bl_share(bl_plan_micro_batches(&w->plan, w->plan.kind), w->rank, w->world);
}

void worker_abort(struct worker *w)
{
    worker_act(w, WORKER_ACTION_ABORT);
    w->state = WORKER_ENDING;
}
