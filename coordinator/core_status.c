/* coordinator/core_status.c - names, what a person may see, and the invariants that can be seen from inside. */
#include "coordinator/core_state.h"

struct coord_status coord_status(const struct coord *c)
{
    struct coord_status status = {
        .state = c->state,
        .stopping = c->stopping,
        .generation = c->ledger.generation,
        .step = c->issued,
        .world = is_live(c) || c->state == COORD_FORMING ? c->plan.world : 0,
        .workers = c->worker_top - core_workers_in(c, ABSENT),
        .workers_needed = core_workers_needed(c, core_workers_in(c, READY)),
        .validation_done = c->validated_count,
        .validation_size = bl_plan_micro_batches(&c->config.plan, bl_plan_pass(&c->config.plan)),
        .assignments = c->serial,
        .hedges = c->hedges,
        .late = c->late,
        .violations = c->violations,
        .seen = c->seen,
        .bad = c->bad,
    };
    status.loaders = core_peers_present(c) - status.workers;
    for (uint32_t rank = 0; rank < status.world; rank++)
        for (uint32_t k = 0; k < c->config.plan.window; k++)
            status.leases_out += rank_worker(c, rank)->leases[k].state == LEASE_OUT;
    return status;
}

enum coord_state coord_state_now(const struct coord *c)
{
    return c->state;
}

static uint64_t since(const struct coord *c, uint64_t ms)
{
    return c->now_ms > ms ? c->now_ms - ms : 0;
}

static void worker_as_member(const struct coord *c, const struct worker *w,
                             struct coord_member *ret)
{
    static const char *const phases[] = {
        [ABSENT] = "absent",   [OPENING] = "opening", [READY] = "ready",
        [PLANNED] = "planned", [MEMBER] = "member",   [CLOSING] = "closing"};
    *ret = (struct coord_member){.phase = phases[w->phase],
                                 .rank = w->phase == MEMBER ? (int64_t)w->rank : -1,
                                 .done = w->phase == MEMBER ? w->done : 0,
                                 .leases = w->lease_count,
                                 .heard_ms = since(c, w->signs.heard_ms),
                                 .progress_ms = since(c, w->signs.progress_ms),
                                 .left_out = w->left_out};
}

static void loader_as_member(const struct coord *c, const struct loader *l,
                             struct coord_member *ret)
{
    *ret = (struct coord_member){.phase = !l->ready                      ? "opening"
                                          : c->now_ms < l->rest_until_ms ? "resting"
                                                                         : "ready",
                                 .rank = -1,
                                 .leases = l->held,
                                 .capacity = l->capacity,
                                 .heard_ms = since(c, l->signs.heard_ms),
                                 .progress_ms = since(c, l->signs.progress_ms)};
}

bool coord_member(const struct coord *c, uint64_t link, struct coord_member *ret)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase != ABSENT && c->workers[i].link == link) {
            worker_as_member(c, &c->workers[i], ret);
            return true;
        }
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (c->loaders[i].present && c->loaders[i].link == link) {
            loader_as_member(c, &c->loaders[i], ret);
            return true;
        }
    return false;
}

const struct coord_ledger *coord_ledger(const struct coord *c)
{
    return &c->ledger;
}

const char *coord_state_name(enum coord_state state)
{
    static const char *const names[] = {
#define X(name, waits_for) #name,
        COORD_STATES(X)
#undef X
    };
    return names[state];
}

const char *coord_event_name(enum coord_event_type type)
{
    static const char *const names[] = {
#define X(name, source) #name,
        COORD_EVENTS(X)
#undef X
    };
    return names[type];
}

const char *coord_action_name(enum coord_action_type type)
{
    static const char *const names[] = {
#define X(name, effect) #name,
        COORD_ACTIONS(X)
#undef X
    };
    return names[type];
}

static void check_worker(const struct coord *c, const struct worker *w)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < c->config.plan.window; k++) {
        const struct lease *lease = &w->leases[k];
        count += lease->state != LEASE_FREE;
        if (lease->state == LEASE_OUT)
            BL_ASSERT(c->loaders[lease->loader].present);
        BL_ASSERT(!lease->hedge.serial ||
                  (lease->state == LEASE_OUT && c->loaders[lease->hedge.loader].present &&
                   lease->hedge.loader != lease->loader));
    }
    BL_ASSERT_CMP(count, ==, w->lease_count);
    BL_ASSERT(w->lease_count == 0 || w->phase == MEMBER);
    BL_ASSERT(w->phase != PLANNED || c->state == COORD_PLANNING || c->state == COORD_LEAVING ||
              c->state == COORD_FINISHED);
    if (w->phase != MEMBER || !is_live(c))
        return;
    BL_ASSERT_CMP(w->done, >=, c->issued);
    BL_ASSERT_CMP(w->next_step, >=, w->done);
    BL_ASSERT_CMP(w->next_step, <=, c->ledger.committed + 1 + c->config.plan.steps_ahead);
}

void coord_check(const struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        check_worker(c, &c->workers[i]);
    for (uint32_t i = 0; i < c->loader_top; i++)
        BL_ASSERT(!c->loaders[i].present || c->loaders[i].held <= c->loaders[i].capacity);
    BL_ASSERT_CMP(c->issued, <=, c->config.plan.steps);
    BL_ASSERT_CMP(c->ledger.generation, <=, c->generation);
    BL_ASSERT_CMP(c->actions.count, <=, c->actions.capacity);
    if (is_live(c)) {
        BL_ASSERT_CMP(core_workers_in(c, MEMBER), ==, c->plan.world);
        BL_ASSERT_CMP(c->ledger.committed, <=, c->issued);
        BL_ASSERT_CMP(c->issued, <=, c->ledger.committed + c->config.plan.steps_ahead + 1);
    }
    if (c->state == COORD_GATHERING || c->state == COORD_CHECKING || c->state == COORD_PLANNING)
        BL_ASSERT_CMP(core_workers_in(c, MEMBER), ==, 0);
}
