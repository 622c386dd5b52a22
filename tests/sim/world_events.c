/* tests/sim/world_events.c - what arrives: each event goes into its core, unless the process is gone or stalled. */
#include "tests/sim/world.h"

static const char *const program_names[] = {"coord", "worker", "loader"};

/* A connection that was never made is made only if its process still wants it. */
static bool still_connects(const struct link *l, int link)
{
    const struct process *p = process_of(l->program, l->index);
    return p->up && p->instance == l->instance && p->link == link;
}

void to_coord_now(struct sim_event *e)
{
    struct link *l = &w->links[e->link];
    struct coordinator *k = &w->coords[l->address];
    if (l->up_lost)
        return;
    if (l->coord_instance == 0 && !still_connects(l, (int)e->link))
        return;
    if (l->coord_instance == 0 && !k->up) /* its socket tries to connect */
        return sim_push_again(&w->queue, e, w->now_ms + 1 + delay());
    uint64_t free_ms =
        later(k->stalled_until_ms,
              later(k->up_cut_until_ms, process_of(l->program, l->index)->up_cut_until_ms));
    if (free_ms > w->now_ms)
        return sim_push_again(&w->queue, e, free_ms);
    if (l->coord_instance == 0)
        l->coord_instance = k->instance;
    if (l->coord_instance != k->instance || !k->up || coord_wakes_taken(k))
        return;
    w->k = k;
    e->coord.now_ms = w->now_ms;
    if (e->coord.type == COORD_EVENT_REPORT)
        e->coord.report.trained = e->trained;
    else if (e->coord.type == COORD_EVENT_SAVED)
        e->coord.saved.folder = e->name;
    else if (e->coord.type == COORD_EVENT_BROKEN)
        e->coord.broken.unreached = e->unreached;
    else if (e->coord.type == COORD_EVENT_COMPLETED)
        e->coord.micro_batch.voids = e->voids;
    bool is_micro_batch = e->coord.type == COORD_EVENT_RECEIVED ||
                          e->coord.type == COORD_EVENT_CONSUMED ||
                          e->coord.type == COORD_EVENT_COMPLETED;
    TRACE("coord %u <- %s %s %d g%llu link %u micro-batch %llu.%u", k->instance,
          coord_event_name(e->coord.type), program_names[l->program], l->index,
          (unsigned long long)e->coord.generation, e->link,
          is_micro_batch ? (unsigned long long)e->coord.micro_batch.step : 0,
          is_micro_batch ? e->coord.micro_batch.micro_batch : 0);
    do_coord(coord_step(k->core, &e->coord), e);
}

void coord_own(struct sim_event *e)
{
    struct coordinator *k = coordinator_of(e->instance);
    if (!k)
        return;
    e->coord.now_ms = w->now_ms;
    if (k->stalled_until_ms > w->now_ms)
        return sim_push_again(&w->queue, e, k->stalled_until_ms);
    if (coord_wakes_taken(k))
        return;
    if (e->coord.type == COORD_EVENT_TICK) {
        tick_later(COORD, 0, k->instance);
        if (w->now_ms > k->probed_ms + patience())
            coord_probe(k);
    } else {
        TRACE("coord %u <- %s", k->instance, coord_event_name(e->coord.type));
    }
    w->k = k;
    do_coord(coord_step(k->core, &e->coord), e);
    if (e->coord.type != COORD_EVENT_TICK || !k->up || w->keep_last == 0)
        return;
    struct coord_event prune = {.type = COORD_EVENT_PRUNE, .now_ms = w->now_ms};
    prune.prune.keep = w->keep_last;
    do_coord(coord_step(k->core, &prune), NULL);
}

/* What a member takes note of outside its rules. */
static void take_epoch(struct process *p, bool is_welcome, uint64_t link, uint64_t epoch)
{
    bool is_current = p->link >= 0 && w->links[p->link].core_link == link;
    if (is_welcome && is_current && epoch > p->epoch)
        p->epoch = epoch;
}

static void wait_in_backlog(struct process *p, struct sim_event *e)
{
    if (w->now_ms >= p->backlog_ms)
        p->backlog_ms = w->now_ms + patience() / 8;
    sim_push_again(&w->queue, e, p->backlog_ms);
}

void worker_now(struct sim_event *e)
{
    struct process *p = &w->workers[e->index];
    if (!p->up || p->instance != e->instance)
        return;
    if (p->stalled_until_ms > w->now_ms)
        return sim_push_again(&w->queue, e, p->stalled_until_ms);
    struct worker_event *m = &e->worker;
    bool is_work = m->type >= WORKER_EVENT_OPENED && m->type <= WORKER_EVENT_ABORTED;
    if (is_work && (p->hung || w->now_ms < p->backlog_ms))
        return wait_in_backlog(p, e);
    m->now_ms = w->now_ms;
    take_epoch(p, m->type == WORKER_EVENT_WELCOME, m->link, m->epoch);
    if (m->type == WORKER_EVENT_TICK)
        tick_later(WORKER, e->index, e->instance);
    else
        TRACE("worker %d <- %s g%llu", e->index, worker_event_name(m->type),
              (unsigned long long)m->generation);
    if (m->type == WORKER_EVENT_FORM)
        m->form.checkpoint = e->name;
    if (m->type == WORKER_EVENT_SAVE)
        m->save.folder = e->name;
    if (m->type == WORKER_EVENT_OPENED)
        BL_ASSERT(worker_set_plan(p->worker, &w->config.plan, NULL) == 0);
    if (m->type == WORKER_EVENT_WRITTEN && w->unseeing[e->index] && !coordinator_of(e->link))
        m->written.ok = false; /* the coordinator that asked for it is no more (F4) */
    if (m->type == WORKER_EVENT_WRITTEN && m->written.ok) {
        struct coord_checkpoint checkpoint = checkpoint_named(e->name);
        struct saved *saved = saved_find(checkpoint);
        BL_ASSERT(saved || w->saved_count < SAVED_MAX);
        if (!saved)
            saved = &w->saved[w->saved_count++];
        *saved = (struct saved){checkpoint, e->content, true};
    }
    do_worker(e->index, worker_step(p->worker, m), e);
}

void loader_now(struct sim_event *e)
{
    struct process *p = &w->loaders[e->index];
    if (!p->up || p->instance != e->instance)
        return;
    struct loader_event *m = &e->loader;
    bool is_work = m->type == LOADER_EVENT_MADE || m->type == LOADER_EVENT_SHIPPED;
    if (is_work && p->slots[m->slot.slot].turn != e->engine_turn)
        return;
    if (p->stalled_until_ms > w->now_ms)
        return sim_push_again(&w->queue, e, p->stalled_until_ms);
    if (p->hung && is_work)
        return sim_push_again(&w->queue, e, w->now_ms + patience() / 8);
    m->now_ms = w->now_ms;
    take_epoch(p, m->type == LOADER_EVENT_WELCOME, m->link, m->epoch);
    if (m->type == LOADER_EVENT_TICK)
        tick_later(LOADER, e->index, e->instance);
    else
        TRACE("loader %d <- %s", e->index, loader_event_name(m->type));
    do_loader(e->index, loader_step(p->loader, m), e);
}

void engine_now(struct sim_event *e)
{
    struct process *p = &w->workers[e->index];
    if (!p->up || p->instance != e->instance || !p->engine.running ||
        p->engine.turn != e->engine_turn)
        return;
    if (is_odd(e->index, STICKS) && p->engine.ops[0].type == OP_COMPUTE && chance(0.1))
        p->hung = p->was_hung = true;
    if (p->hung)
        return sim_push_again(&w->queue, e, w->now_ms + patience() / 8);
    op_end(e->index, e->ok);
}
