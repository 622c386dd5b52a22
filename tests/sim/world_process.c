/* tests/sim/world_process.c - processes that start, tick, crash and come back, and everything else that goes wrong. */
#include "tests/sim/world.h"

static const char *const fault_names[] = {
    "crash-worker", "crash-loader", "crash-coord", "break-link", "stall",
    "hang-loader",  "hang-worker",  "fail-comm",   "damage",     "reconnect",
    "blackout",     "cut",          "slow-disk",   "take-over",  "release"};

void tick_later(enum program program, int index, uint32_t instance)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->index = index;
    e->instance = instance;
    if (program == COORD) {
        e->what = SIM_COORD_OWN;
        e->coord.type = COORD_EVENT_TICK;
    } else if (program == WORKER) {
        e->what = SIM_WORKER_OWN;
        e->worker.type = WORKER_EVENT_TICK;
    } else {
        e->what = SIM_LOADER_OWN;
        e->loader.type = LOADER_EVENT_TICK;
    }
    sim_push(&w->queue, e, w->now_ms + 1 + patience() / 16 + below(patience() / 16));
}

void restart_later(enum program program, int index, uint64_t ms)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_RESTART;
    e->program = program;
    e->index = index;
    sim_push(&w->queue, e, w->now_ms + ms);
}

static struct core_member_config member_config(void)
{
    return (struct core_member_config){patience(), 40ull * patience()};
}

static void start_worker(int index)
{
    struct process *p = &w->workers[index];
    uint32_t instance = p->instance + 1;
    *p = (struct process){.up = true, .instance = instance, .link = -1};
    p->engine.step = -1;
    p->incarnation = sim_random(&w->chance) | 1;
    struct worker_config config = {.incarnation = p->incarnation, .member = member_config()};
    BL_ASSERT(worker_new(&config, &p->worker, NULL) == 0);
    do_worker(index, worker_start(p->worker, w->now_ms), NULL);
    tick_later(WORKER, index, instance);
}

static void start_loader(int index)
{
    struct process *p = &w->loaders[index];
    uint32_t instance = p->instance + 1;
    *p = (struct process){.up = true, .instance = instance, .link = -1};
    p->incarnation = sim_random(&w->chance) | 1;
    p->capacity = 1 + below(w->capacity);
    p->jobs = 1 + below(p->capacity);
    struct loader_config config = {
        .capacity = p->capacity, .jobs = p->jobs, .member = member_config()};
    BL_ASSERT(loader_new(&config, &p->loader, NULL) == 0);
    do_loader(index, loader_start(p->loader, w->now_ms), NULL);
    tick_later(LOADER, index, instance);
}

static void crash_peer(enum program program, int index)
{
    struct process *p = process_of(program, index);
    if (!p->up)
        return;
    w->result.crashes++;
    p->up = false;
    worker_free(&p->worker);
    loader_free(&p->loader);
    if (program == WORKER)
        comm_fail(p->engine.generation);
    if (p->link >= 0) {
        struct link *l = &w->links[p->link];
        l->down_lost = true;
        l->up_lost |= chance(0.5);
        if (coordinator_of(l->coord_instance) && !chance(w->silent_chance))
            tell_coord_lost(p->link, chance(0.7));
    }
}

static void crash_and_restart(enum program program, int index)
{
    if (!process_of(program, index)->up)
        return;
    crash_peer(program, index);
    restart_later(program, index, below(3 * patience()));
}

void crash_local_peers(void)
{
    for (uint32_t i = 0; i < w->worker_count; i++)
        crash_and_restart(WORKER, (int)i);
    for (uint32_t i = 0; i < w->loader_count; i++)
        crash_and_restart(LOADER, (int)i);
}

void fault_later(void)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_FAULT;
    sim_push(&w->queue, e, w->now_ms + 1 + below(2 * w->fault_every_ms));
}

static int random_link(void)
{
    const struct process *p =
        chance(0.6) ? &w->workers[below(w->worker_count)] : &w->loaders[below(w->loader_count)];
    return p->up ? p->link : -1;
}

/* A checkpoint rots on disk; the one at step 0 stays, as somebody always has to. */
static void damage(void)
{
    if (w->saved_count == 0 || w->keep_last > 0)
        return; /* of few, all might rot: then a run may stop */
    struct saved *saved = &w->saved[below((uint32_t)w->saved_count)];
    if (saved->checkpoint.step > 0)
        saved->whole = false;
}

/* Most workers go at once; who stays is alone, or away for longer than anybody waits. */
static void blackout(void)
{
    for (uint32_t i = 0; i < w->worker_count; i++) {
        struct process *p = &w->workers[i];
        if (chance(0.8))
            crash_and_restart(WORKER, (int)i);
        else
            p->stalled_until_ms = later(p->stalled_until_ms, w->now_ms + below(8 * patience()));
    }
}

/* It computes, or waits for other ranks in an all-reduce that has not ended. */
static bool may_hang(const struct engine *engine)
{
    enum op_type type = engine->ops[0].type;
    return engine->running && (type == OP_COMPUTE || (type == OP_REDUCE && !engine->decided));
}

static void hang_worker(struct process *p)
{
    p->hung = !p->hung && p->up && may_hang(&p->engine);
    p->was_hung |= p->hung;
    if (!p->hung) /* it wakes up */
        reduce_go(p->engine.generation);
}

/* Never shorter: what waits for the end keeps its order. */
static void extend(uint64_t *until_ms, uint64_t ms)
{
    *until_ms = later(*until_ms, ms);
}

/* A process or a coordinator's host is cut off, in one direction or in both; what is sent meanwhile arrives afterwards. */
static void cut(uint64_t until_ms)
{
    bool up = chance(0.6), down = !up || chance(0.5);
    struct coordinator *k = &w->coords[below(COORDS)];
    struct process *p =
        chance(0.6) ? &w->workers[below(w->worker_count)] : &w->loaders[below(w->loader_count)];
    bool host = chance(0.3);
    if (up)
        extend(host ? &k->up_cut_until_ms : &p->up_cut_until_ms, until_ms);
    if (down)
        extend(host ? &k->down_cut_until_ms : &p->down_cut_until_ms, until_ms);
    if (!host && chance(0.5))
        extend(&p->data_cut_until_ms, until_ms);
    if (!host && chance(0.5))
        extend(&p->comm_cut_until_ms, until_ms);
}

/* Somebody starts another coordinator beside one that is alive, stands still, or has just died. */
static void take_over(void)
{
    int address = w->coords[0].up || w->coords[0].starting;
    if (!w->coords[address].up && !w->coords[address].starting)
        start_coord(address);
}

static struct coordinator *any_coordinator(void)
{
    int first = (int)below(COORDS);
    return &w->coords[w->coords[first].up ? first : 1 - first];
}

/* Somebody scales the run down; the process leaves, and comes again. */
static void release_worker(void)
{
    const struct process *p = &w->workers[below(w->worker_count)];
    const struct coordinator *k = any_coordinator();
    if (!p->up || !k->up)
        return;
    struct sim_event *e = to_coord(COORD_EVENT_RELEASE, 0);
    e->what = SIM_COORD_OWN;
    e->instance = k->instance;
    e->coord.peer = p->incarnation;
    sim_push(&w->queue, e, w->now_ms);
}

static void do_fault(enum fault fault)
{
    TRACE("fault %s", fault_names[fault]);
    uint64_t until_ms = w->now_ms + below(3 * patience()), *stalled;
    int link;
    switch (fault) {
    case CRASH_WORKER:
        return crash_and_restart(WORKER, (int)below(w->worker_count));
    case CRASH_LOADER:
        return crash_and_restart(LOADER, (int)below(w->loader_count));
    case CRASH_COORD:
        if (!any_coordinator()->up)
            return;
        crash_coord(any_coordinator());
        return coord_restart_later(below(3 * patience()));
    case BREAK_LINK:
        link = random_link();
        if (link >= 0)
            break_link(link);
        return;
    case RECONNECT:
        link = random_link();
        if (link >= 0)
            tell_peer_lost(link); /* a false alarm: the peer comes again on a second connection */
        return;
    case STALL:
        stalled = chance(0.2)   ? &any_coordinator()->stalled_until_ms
                  : chance(0.6) ? &w->workers[below(w->worker_count)].stalled_until_ms
                                : &w->loaders[below(w->loader_count)].stalled_until_ms;
        *stalled = later(*stalled, until_ms);
        return;
    case HANG_LOADER:
        link = (int)below(w->loader_count);
        w->loaders[link].hung = !w->loaders[link].hung;
        return;
    case HANG_WORKER:
        return hang_worker(&w->workers[below(w->worker_count)]);
    case FAIL_COMM:
        return comm_fail(w->workers[below(w->worker_count)].engine.generation);
    case DAMAGE:
        return damage();
    case BLACKOUT:
        return blackout();
    case CUT:
        return cut(until_ms);
    case SLOW_DISK:
        w->disk_slow_until_ms = until_ms;
        return;
    case TAKE_OVER:
        return take_over();
    case RELEASE:
        return release_worker();
    case FAULT_COUNT:
        return;
    }
}

void random_fault(void)
{
    if (w->healed)
        return;
    uint32_t total = 0;
    for (int i = 0; i < FAULT_COUNT; i++)
        total += w->fault_weight[i];
    if (total == 0)
        return;
    uint32_t pick = below(total);
    int fault = 0;
    while (pick >= w->fault_weight[fault])
        pick -= w->fault_weight[fault++];
    do_fault((enum fault)fault);
    fault_later();
}

void heal(void)
{
    TRACE("healed");
    w->healed = true;
    w->slow_chance = 0;
    w->silent_chance = 0;
    w->disk_slow_until_ms = 0;
    for (uint32_t i = 0; i < w->loader_count; i++)
        w->loaders[i].hung = false;
    for (uint32_t i = 0; i < w->worker_count; i++)
        w->workers[i].hung = is_odd((int)i, STICKS) && w->workers[i].hung;
    for (uint32_t i = 0; i < w->worker_count; i++)
        reduce_go(w->workers[i].engine.generation);
}

void restart(const struct sim_event *e)
{
    if (e->program == COORD) {
        coord_restart(e->index);
    } else if (!process_of((enum program)e->program, e->index)->up) {
        if (e->program == WORKER)
            start_worker(e->index);
        else
            start_loader(e->index);
    }
}
