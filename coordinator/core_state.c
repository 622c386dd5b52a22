/* coordinator/core_state.c - the ground the rules stand on: looking things up, actions, the journal (J1, J2), ending a generation and
 * the run. */
#include "coordinator/core_state.h"

#include "common/random.h"

static uint32_t hint_of(uint64_t peer)
{
    return (uint32_t)(bl_mix64(peer, 0) % PEER_HINTS);
}

static bool is_worker(const struct worker *w, uint64_t peer)
{
    return w->phase != ABSENT && w->peer == peer;
}

static bool is_loader(const struct loader *l, uint64_t peer)
{
    return l->present && l->peer == peer;
}

/* Every message asks for its sender: so where that was found last is looked at first. */
struct worker *core_worker_find(struct coord *c, uint64_t peer)
{
    uint32_t *hint = &c->worker_hints[hint_of(peer)];
    if (is_worker(&c->workers[*hint], peer))
        return &c->workers[*hint];
    if (is_loader(&c->loaders[c->loader_hints[hint_of(peer)]], peer))
        return NULL; /* a peer is one or the other */
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (is_worker(&c->workers[i], peer)) {
            *hint = i;
            return &c->workers[i];
        }
    return NULL;
}

struct loader *core_loader_find(struct coord *c, uint64_t peer)
{
    uint32_t *hint = &c->loader_hints[hint_of(peer)];
    if (is_loader(&c->loaders[*hint], peer))
        return &c->loaders[*hint];
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (is_loader(&c->loaders[i], peer)) {
            *hint = i;
            return &c->loaders[i];
        }
    return NULL;
}

uint32_t core_workers_in(const struct coord *c, enum phase phase)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->worker_top; i++)
        count += c->workers[i].phase == phase;
    return count;
}

uint32_t core_peers_present(const struct coord *c)
{
    uint32_t count = c->worker_top - core_workers_in(c, ABSENT);
    for (uint32_t i = 0; i < c->loader_top; i++)
        count += c->loaders[i].present;
    return count;
}

struct coord_action *core_act(struct coord *c, enum coord_action_type type)
{
    BL_ASSERT_CMP(c->actions.count, <, c->actions.capacity);
    struct coord_action *action = &c->actions.list[c->actions.count++];
    *action = (struct coord_action){.type = type, .generation = c->ledger.generation};
    return action;
}

struct coord_action *core_act_to(struct coord *c, enum coord_action_type type, uint64_t peer,
                                 uint64_t link)
{
    struct coord_action *action = core_act(c, type);
    action->peer = peer;
    action->link = link;
    return action;
}

struct coord_action *core_note(struct coord *c, enum coord_note kind, uint64_t peer, uint64_t link,
                               const char *text)
{
    struct coord_action *action = core_act_to(c, COORD_ACTION_NOTE, peer, link);
    action->note.kind = kind;
    action->note.text = text;
    return action;
}

void core_journal(struct coord *c, struct coord_record record)
{
    BL_ASSERT_CMP(c->journal_next - c->journal_first, <, PENDING_MAX);
    struct coord_action *action = core_act(c, COORD_ACTION_JOURNAL);
    action->journal.seq = c->journal_next;
    action->journal.record = record;
    c->pending[c->journal_next++ % PENDING_MAX] = record;
}

bool core_is_survivor(const struct coord *c, const struct worker *w)
{
    return w->applied_step >= 0 && w->state_generation >= c->floor &&
           w->state_generation >= c->formed;
}

bool core_is_saved(const struct coord *c, uint64_t step)
{
    if (c->config.plan.kind == BL_KIND_EMBED)
        return true; /* there is no state that could be lost */
    for (uint32_t i = 0; i < c->ledger.checkpoint_count; i++)
        if (c->ledger.checkpoints[i].step == step)
            return true;
    return false;
}

bool core_validation_is_due(const struct coord *c)
{
    if (c->config.plan.kind == BL_KIND_EMBED)
        return c->validated_count < bl_plan_micro_batches(&c->config.plan, BL_KIND_EMBED);
    return bl_plan_validates(&c->config.plan, c->ledger.committed) &&
           c->ledger.validated < (int64_t)c->ledger.committed;
}

bool core_is_complete(const struct coord *c)
{
    return c->ledger.committed == c->config.plan.steps && !core_validation_is_due(c) &&
           core_is_saved(c, c->ledger.committed);
}

const char *core_stop_text(const struct coord *c)
{
    return c->stop_code == BL_EDATA
               ? "more of the samples than data.max_bad_fraction could not be read"
               : "stopped";
}

void core_end_generation(struct coord *c)
{
    core_leases_clear(c);
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase != MEMBER)
            continue;
        w->phase = CLOSING;
        w->since_ms = c->now_ms;
        core_act_to(c, COORD_ACTION_END, w->peer, w->link);
    }
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (c->loaders[i].present)
            core_act_to(c, COORD_ACTION_END, c->loaders[i].peer, c->loaders[i].link);
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state == SAVE_WANTED)
            c->saves[i].state = SAVE_FREE;
    c->state = COORD_ENDING;
}

void core_leave(struct coord *c, int code, const char *text)
{
    if (c->state == COORD_LEAVING || c->state == COORD_FINISHED)
        return;
    c->state = COORD_LEAVING;
    c->exit_code = code;
    c->exit_text = text;
    c->leave_deadline_ms = c->now_ms + c->timing.drain_ms;
    core_journal(c, (struct coord_record){.type = COORD_RECORD_FINISH,
                                          .step = c->ledger.committed,
                                          .code = (uint32_t)code});
}

void core_exit(struct coord *c, int code, const char *text)
{
    struct coord_action *action = core_act(c, COORD_ACTION_EXIT);
    action->exit.code = code;
    action->exit.text = text;
    c->state = COORD_FINISHED;
}

void core_fail(struct coord *c, const struct worker *w, const char *text, uint64_t expected,
               uint64_t found)
{
    struct coord_action *action = core_act_to(c, COORD_ACTION_VIOLATION, w->peer, w->link);
    action->refuse.text = text;
    action->refuse.expected = expected;
    action->refuse.found = found;
    c->violations++;
    core_leave(c, BL_EPROTO, text);
}

uint64_t core_steps_begun(const struct coord *c)
{
    uint64_t highest = 0;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (rank_worker(c, rank)->next_step > highest)
            highest = rank_worker(c, rank)->next_step;
    return highest;
}

bool core_is_pausing(const struct coord *c)
{
    return c->checkpoint_asked && !c->stopping && c->pause_generation == c->generation;
}

uint64_t core_end_step(const struct coord *c)
{
    if (core_is_pausing(c))
        return c->pause;
    return c->stopping ? c->last : c->config.plan.steps;
}

void core_begin_stop(struct coord *c, int code)
{
    if (c->stopping)
        return;
    c->stopping = true;
    c->stop_code = code;
    c->stop_deadline_ms = c->now_ms + c->timing.drain_ms;
    if (is_live(c))
        c->last = core_steps_begun(c);
}
