/* coordinator/core_peers.c - who is here (M1): peers that come, answer, leave, fall silent or break the protocol. */
#include "coordinator/core_state.h"

#include <string.h>

static void say_stop(struct coord *c, uint64_t peer, uint64_t link)
{
    struct coord_action *action = core_act_to(c, COORD_ACTION_STOP, peer, link);
    action->stop.last = c->ledger.committed;
    action->stop.code = c->exit_code;
}

void core_say_stop_to_all(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase != ABSENT)
            say_stop(c, c->workers[i].peer, c->workers[i].link);
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (c->loaders[i].present)
            say_stop(c, c->loaders[i].peer, c->loaders[i].link);
}

void core_losses_clear(struct coord *c)
{
    c->losses = c->faults = c->fallen_count = 0;
}

bool core_losses_are_excused(const struct coord *c)
{
    return c->losses > 0 && c->faults == 0 && c->fallen_count == 0;
}

/* Its connection closed: its process has ended, or it heard nothing of us for P, and comes again. */
static void fell(struct coord *c, const struct worker *w)
{
    if (c->fallen_count == FALLEN_MAX)
        c->faults++;
    else
        c->fallen[c->fallen_count++] = w->peer;
}

static void got_up(struct coord *c, uint64_t peer)
{
    for (uint32_t i = c->fallen_count; i-- > 0;)
        if (c->fallen[i] == peer)
            c->fallen[i] = c->fallen[--c->fallen_count];
}

void core_worker_lost(struct coord *c, struct worker *w, bool dead)
{
    bool was_member = w->phase == MEMBER;
    if (!dead && (was_member || w->phase == CLOSING || core_is_survivor(c, w)))
        c->absent_until_ms = c->now_ms + c->timing.forming_ms;
    if (w->phase == PLANNED)
        c->plan.broken = true;
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state == SAVE_REQUESTED && c->saves[i].link == w->link)
            c->saves[i].state = SAVE_FREE;
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state != LEASE_FREE)
            core_lease_free(c, w, &w->leases[k]);
    w->phase = ABSENT;
    c->losses++;
    if (was_member && (is_live(c) || c->state == COORD_FORMING))
        core_end_generation(c);
}

void core_loader_lost(struct coord *c, struct loader *l)
{
    uint32_t index = (uint32_t)(l - c->loaders);
    l->present = false;
    c->loader_gone_ms = c->now_ms;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        for (uint32_t k = 0; w->lease_count > 0 && k < c->config.plan.window; k++) {
            struct lease *lease = &w->leases[k];
            if (lease->hedge.serial && lease->hedge.loader == index)
                lease->hedge.serial = 0;
            if (lease->state == LEASE_OUT && lease->loader == index)
                core_lease_revoke(c, lease);
        }
    }
}

static void peer_lost(struct coord *c, uint64_t peer, bool dead)
{
    struct worker *w = core_worker_find(c, peer);
    struct loader *l = w ? NULL : core_loader_find(c, peer);
    if (w)
        core_worker_lost(c, w, dead);
    else if (l)
        core_loader_lost(c, l);
}

static void refuse(struct coord *c, uint64_t peer, uint64_t link, const char *text,
                   uint64_t expected, uint64_t found)
{
    struct coord_action *action = core_act_to(c, COORD_ACTION_REFUSE, peer, link);
    action->refuse.text = text;
    action->refuse.expected = expected;
    action->refuse.found = found;
}

static void drop(struct coord *c, uint64_t peer, uint64_t link, const char *text, uint64_t expected,
                 uint64_t found)
{
    struct coord_action *action = core_act_to(c, COORD_ACTION_VIOLATION, peer, link);
    action->refuse.text = text;
    action->refuse.expected = expected;
    action->refuse.found = found;
    refuse(c, peer, link, text, expected, found);
    c->violations++;
    c->faults++;
    peer_lost(c, peer, true);
}

void core_violation(struct coord *c, const struct coord_event *e, const char *text,
                    uint64_t expected, uint64_t found)
{
    drop(c, e->peer, e->link, text, expected, found);
}

void core_drop_worker(struct coord *c, struct worker *w, const char *text, uint64_t expected,
                      uint64_t found)
{
    drop(c, w->peer, w->link, text, expected, found);
}

bool core_is_member(const struct coord *c, const struct worker *w, const struct coord_event *e)
{
    return w && w->link == e->link && w->phase == MEMBER && e->generation == c->generation;
}

struct worker *core_member(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_worker_find(c, e->peer);
    if (core_is_member(c, w, e))
        return w;
    c->late++;
    return NULL;
}

static struct signs *signs_of(struct coord *c, uint64_t peer)
{
    struct worker *w = core_worker_find(c, peer);
    return w ? &w->signs : &core_loader_find(c, peer)->signs;
}

static void welcome(struct coord *c, const struct coord_event *e)
{
    core_act_to(c, COORD_ACTION_WELCOME, e->peer, e->link);
    if (c->leave_journaled)
        say_stop(c, e->peer, e->link);
}

static void hello_worker(struct coord *c, const struct coord_event *e)
{
    uint32_t i = 0;
    while (i < c->worker_top && c->workers[i].phase != ABSENT)
        i++;
    if (i == c->config.workers_max)
        return refuse(c, e->peer, e->link, "no room for another worker", i, (uint64_t)i + 1);
    if (i == c->worker_top)
        c->worker_top++;
    struct worker *w = &c->workers[i];
    w->phase = OPENING;
    w->since_ms = c->now_ms;
    w->peer = e->peer;
    w->link = e->link;
    w->signs = (struct signs){.heard_ms = c->now_ms, .progress_ms = c->now_ms};
    w->free_ms = c->now_ms;
    memset(w->longest_ms, 0, sizeof w->longest_ms);
    w->applied_step = -1;
    w->released = w->told = w->needs_files = false;
    welcome(c, e);
}

static void hello_loader(struct coord *c, const struct coord_event *e)
{
    if (e->hello.capacity == 0 || e->hello.capacity > BL_LOADER_CAPACITY_MAX)
        return refuse(c, e->peer, e->link, "a loader's capacity is out of range",
                      BL_LOADER_CAPACITY_MAX, e->hello.capacity);
    uint32_t i = 0;
    while (i < c->loader_top && c->loaders[i].present)
        i++;
    if (i == c->config.loaders_max)
        return refuse(c, e->peer, e->link, "no room for another loader", i, (uint64_t)i + 1);
    if (i == c->loader_top)
        c->loader_top++;
    c->loaders[i] = (struct loader){.present = true,
                                    .peer = e->peer,
                                    .link = e->link,
                                    .since_ms = c->now_ms,
                                    .signs = {.heard_ms = c->now_ms, .progress_ms = c->now_ms},
                                    .capacity = e->hello.capacity};
    welcome(c, e);
}

void core_on_hello(struct coord *c, const struct coord_event *e)
{
    if (e->hello.epoch > c->ledger.epoch) { /* no answer: it looks for the other one (J4) */
        c->late++;
        core_act(c, COORD_ACTION_PROBE);
        return;
    }
    const struct worker *w = core_worker_find(c, e->peer);
    const struct loader *l = core_loader_find(c, e->peer);
    if (w || l) {
        uint64_t link = w ? w->link : l->link;
        if (link == e->link)
            return (void)core_act_to(c, COORD_ACTION_WELCOME, e->peer, e->link); /* asked twice */
        core_act_to(c, COORD_ACTION_FORGET, e->peer, link);
        peer_lost(c, e->peer, false);
    }
    got_up(c, e->peer);
    if (e->hello.role == BL_ROLE_WORKER)
        hello_worker(c, e);
    else if (e->hello.role == BL_ROLE_LOADER)
        hello_loader(c, e);
    else
        refuse(c, e->peer, e->link, "a peer is a worker or a loader", BL_ROLE_WORKER,
               e->hello.role);
}

void core_on_release(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_worker_find(c, e->peer);
    if (w)
        c->releasing = w->released = true;
    else
        c->late++;
}

/* Is w's state somebody else's too, who stays? Members have it, or a newer one. */
static bool is_dispensable(const struct coord *c, const struct worker *w)
{
    if (is_live(c) || !core_is_survivor(c, w))
        return true;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        const struct worker *other = &c->workers[i];
        if (other->phase == READY && !other->released && core_is_survivor(c, other) &&
            other->state_generation == w->state_generation &&
            other->applied_step >= w->applied_step)
            return true;
    }
    return false;
}

void core_let_go_of_released(struct coord *c)
{
    for (uint32_t i = 0; c->releasing && i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase != READY || !w->released || w->told || !is_dispensable(c, w))
            continue;
        w->told = true;
        say_stop(c, w->peer, w->link);
    }
}

void core_on_ended(struct coord *c, const struct coord_event *e)
{
    struct loader *l = core_loader_find(c, e->peer);
    if (l) {
        if (l->ready)
            return core_violation(c, e, "a loader is ready once", 1, 2);
        if (2 * e->ended.probes_good < e->ended.probes) {
            refuse(c, e->peer, e->link, "it does not see this run's images", e->ended.probes,
                   e->ended.probes_good);
            core_loader_lost(c, l);
            return;
        }
        l->ready = true;
        return;
    }
    struct worker *w = core_worker_find(c, e->peer);
    if (w->phase != OPENING && w->phase != CLOSING)
        return core_violation(c, e, "Ended is the answer to Welcome or End", CLOSING, w->phase);
    if (e->ended.applied_step < -1 || e->ended.state_generation > c->ledger.generation)
        return core_violation(c, e, "a state of a generation that never was", c->ledger.generation,
                              e->ended.state_generation);
    w->phase = READY;
    w->since_ms = c->now_ms;
    w->needs_files = e->ended.needs_files;
    w->applied_step = e->ended.applied_step;
    w->state_generation = e->ended.state_generation;
    w->digest = e->ended.digest;
    if (!core_is_survivor(c, w))
        return;
    uint64_t most = c->ledger.committed + c->config.plan.steps_ahead + 1;
    if ((uint64_t)w->applied_step > most)
        core_violation(c, e, "a state with steps that were never ordered", most,
                       (uint64_t)w->applied_step);
    else if ((uint64_t)w->applied_step < c->issued)
        core_violation(c, e, "a state without a step that its generation committed", c->issued,
                       (uint64_t)w->applied_step);
}

void core_on_beat(struct coord *c, const struct coord_event *e)
{
    struct signs *signs = signs_of(c, e->peer);
    if (e->beat.looks > signs->looks) {
        signs->looks = e->beat.looks;
        signs->looks_ms = c->now_ms;
    }
    if (e->beat.progress <= signs->progress)
        return;
    signs->progress = e->beat.progress;
    signs->progress_ms = c->now_ms;
}

void core_on_goodbye(struct coord *c, const struct coord_event *e)
{
    core_act_to(c, COORD_ACTION_FORGET, e->peer, e->link);
    peer_lost(c, e->peer, true);
}

void core_on_lost(struct coord *c, const struct coord_event *e)
{
    const struct worker *w = core_worker_find(c, e->peer);
    const struct loader *l = core_loader_find(c, e->peer);
    if ((!w && !l) || (e->link != 0 && e->link != (w ? w->link : l->link))) {
        c->late++;
        return;
    }
    core_act_to(c, COORD_ACTION_FORGET, e->peer, w ? w->link : l->link);
    if (w && e->lost.dead)
        c->faults += !e->lost.killed;
    else if (w)
        fell(c, w);
    peer_lost(c, e->peer, e->lost.dead);
}

static void silent(struct coord *c, uint64_t peer, uint64_t link, const struct signs *signs)
{
    core_note(c, COORD_NOTE_LOST, peer, link, "is lost: nothing was heard of it")->note.ms =
        c->now_ms - signs->heard_ms;
    core_act_to(c, COORD_ACTION_FORGET, peer, link);
}

void core_tick_peers(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase == ABSENT || !is_past(c->now_ms, w->signs.heard_ms, c->timing.lost_ms))
            continue;
        silent(c, w->peer, w->link, &w->signs);
        core_worker_lost(c, w, false);
    }
    for (uint32_t i = 0; i < c->loader_top; i++) {
        struct loader *l = &c->loaders[i];
        if (!l->present || !is_past(c->now_ms, l->signs.heard_ms, c->timing.lost_ms))
            continue;
        silent(c, l->peer, l->link, &l->signs);
        core_loader_lost(c, l);
    }
}

bool core_sender_is_known(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_worker_find(c, e->peer);
    struct loader *l = w ? NULL : core_loader_find(c, e->peer);
    if ((!w && !l) || e->link != (w ? w->link : l->link)) {
        c->late++;
        return false;
    }
    struct signs *signs = w ? &w->signs : &l->signs;
    signs->heard_ms = c->now_ms;
    if (e->type != COORD_EVENT_BEAT)
        signs->progress_ms = c->now_ms;
    bool from_worker = e->type >= COORD_EVENT_RENDEZVOUS && e->type <= COORD_EVENT_SAVED;
    if ((from_worker && !w) || (e->type == COORD_EVENT_COMPLETED && !l)) {
        core_violation(c, e, "a message of the other role", e->type,
                       w ? BL_ROLE_WORKER : BL_ROLE_LOADER);
        return false;
    }
    if (e->generation > c->ledger.generation) {
        core_violation(c, e, "a generation that never was", c->ledger.generation, e->generation);
        return false;
    }
    return true;
}
