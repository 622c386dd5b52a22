/* tests/sim/world_net.c - connections: what is sent arrives in order, late, or not at all. */
#include "tests/sim/world.h"

void connect_peer(enum program program, int index, uint64_t core_link)
{
    BL_ASSERT_CMP(w->link_count, <, LINKS_MAX);
    struct process *p = process_of(program, index);
    p->link = w->link_count++;
    unsigned attempt = p->attempts++;
    w->links[p->link] = (struct link){.program = program,
                                      .index = index,
                                      .address = w->finding == IN_TURN   ? (int)(attempt % COORDS)
                                                 : w->finding == BY_FILE ? w->endpoint
                                                                         : 0,
                                      .instance = p->instance,
                                      .core_link = core_link,
                                      .peer = p->incarnation};
}

void send_up(int link, struct sim_event *e)
{
    struct link *l = &w->links[link];
    const struct process *p = process_of(l->program, l->index);
    e->what = SIM_TO_COORD;
    e->link = (uint32_t)link;
    e->coord.peer = l->peer;
    e->coord.link = (uint64_t)link + 1;
    l->last_up_ms = later(l->last_up_ms, later(w->now_ms, p->stalled_until_ms) + delay());
    sim_push(&w->queue, e, l->last_up_ms);
}

struct sim_event *to_coord(enum coord_event_type type, uint64_t generation)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->coord.type = type;
    e->coord.generation = generation;
    return e;
}

/* The current link of a peer whose core said `core_link`; -1 = that one is closed. */
static int link_of(const struct process *p, uint64_t core_link)
{
    return p->link >= 0 && w->links[p->link].core_link == core_link ? p->link : -1;
}

void send_up_from(const struct process *p, uint64_t core_link, struct sim_event *e)
{
    int link = link_of(p, core_link);
    if (link >= 0)
        send_up(link, e);
    else
        sim_event_done(&w->queue, e);
}

int coord_link(uint64_t link)
{
    BL_ASSERT(link >= 1 && link <= (uint64_t)w->link_count);
    return (int)link - 1;
}

void send_down(uint64_t link, struct sim_event *e)
{
    struct link *l = &w->links[coord_link(link)];
    e->what = l->program == WORKER ? SIM_TO_WORKER : SIM_TO_LOADER;
    e->link = (uint32_t)coord_link(link);
    e->index = l->index;
    e->instance = l->instance;
    if (l->program == WORKER)
        e->worker.link = l->core_link, e->worker.epoch = w->k->epoch;
    else
        e->loader.link = l->core_link, e->loader.epoch = w->k->epoch;
    uint64_t free_ms =
        later(w->k->stalled_until_ms, process_of(l->program, l->index)->stalled_until_ms);
    l->last_down_ms = later(l->last_down_ms, later(w->now_ms, free_ms) + delay());
    sim_push(&w->queue, e, l->last_down_ms);
}

void down_worker(uint64_t link, enum worker_event_type type, uint64_t generation)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->worker.type = type;
    e->worker.generation = generation;
    send_down(link, e);
}

void down_loader(uint64_t link, enum loader_event_type type, uint64_t generation)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->loader.type = type;
    e->loader.generation = generation;
    send_down(link, e);
}

bool is_worker_link(uint64_t link)
{
    return w->links[coord_link(link)].program == WORKER;
}

void tell_coord_lost(int link, bool dead)
{
    struct sim_event *e = to_coord(COORD_EVENT_LOST, 0);
    e->what = SIM_COORD_OWN;
    e->instance = w->links[link].coord_instance;
    e->coord.peer = w->links[link].peer;
    e->coord.link = (uint64_t)link + 1;
    e->coord.lost.dead = dead;
    e->coord.lost.killed = dead && link % 2; /* what the loop can know, it knows of some */
    e->link = (uint32_t)link;
    sim_push(&w->queue, e, w->now_ms + delay());
}

void tell_peer_lost(int link)
{
    const struct link *l = &w->links[link];
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = l->program == WORKER ? SIM_WORKER_OWN : SIM_LOADER_OWN;
    e->index = l->index;
    e->instance = l->instance;
    if (l->program == WORKER) {
        e->worker.type = WORKER_EVENT_LOST;
        e->worker.link = l->core_link;
    } else {
        e->loader.type = LOADER_EVENT_LOST;
        e->loader.link = l->core_link;
    }
    sim_push(&w->queue, e, w->now_ms + delay());
}

void break_link(int link)
{
    struct link *l = &w->links[link];
    bool both = chance(0.7);
    if (both || chance(0.5))
        l->up_lost = true;
    if (both || !l->up_lost)
        l->down_lost = true;
    if (coordinator_of(l->coord_instance) && !chance(w->silent_chance))
        tell_coord_lost(link, false);
    if (!chance(w->silent_chance))
        tell_peer_lost(link);
}
