/* tests/sim/world.c - the imagined cluster: processes, connections, disk, engines, and what breaks them. Everything a loop
 * would do for its core is done here, as late, as often lost and as badly timed as the real thing is allowed to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "tests/sim/sim.h"

#define LINKS_MAX 8192
#define COMMS_MAX 1024
#define RECORDS_MAX 8192
#define SAVED_MAX 512
#define OPS_MAX 16
#define EVENTS_MAX 400000

enum program { COORD, WORKER, LOADER };
static const char *const program_names[] = {"coord", "worker", "loader"};

/* One connection between a worker or loader and a coordinator, in order in both directions. */
struct link {
    enum program program;
    int index;
    uint32_t instance;       /* of the peer */
    uint64_t core_link;      /* the peer core's number of it */
    uint64_t peer;           /* its incarnation */
    uint32_t coord_instance; /* 0: no coordinator has heard on it */
    bool open;               /* the coordinator's side */
    bool up_lost, down_lost; /* nothing arrives any more */
    uint64_t last_up_ms, last_down_ms;
};

/* The communicator of one generation. */
struct comm {
    uint32_t world;
    int members[SIM_WORKERS_MAX]; /* by rank; -1 = not joined */
    uint32_t joined;
    bool failed;
    uint64_t state; /* what it was formed with */
    int64_t step;
    uint64_t reduce_step, reduce_sum, reduce_state, reduced;
    uint32_t reduce_count, arrived;
};

enum op_type { OP_FORM, OP_COMPUTE, OP_REDUCE, OP_SNAPSHOT };
struct op {
    enum op_type type;
    uint64_t generation, step;
    uint32_t slot, rank, world;
    int32_t source;
    bool have_state;
    char checkpoint[COORD_CHECKPOINT_NAME_MAX];
};

struct engine {
    struct op ops[OPS_MAX];
    int count; /* ops[0] runs if running */
    bool running;
    bool decided;  /* its completion is on the way */
    bool joined;   /* FORM: counted in its comm */
    uint64_t turn; /* completions of an older turn are void */
    uint64_t last_post_ms;
    uint64_t generation; /* of the comm it is in; 0 = none */
    uint32_t rank, rendezvous;
    uint64_t state;
    int64_t step; /* of state; -1 = none */
    uint32_t trained_count, places;
    struct bl_range trained[SIM_BATCH_MAX];
    uint64_t sum;
    uint64_t snap_state;
    struct { /* of the step being reduced, for Report */
        uint32_t count;
        struct bl_range ranges[SIM_BATCH_MAX];
        uint64_t sum;
    } report;
};

struct held {
    bool used;
    enum bl_kind kind;
    uint64_t step;
    uint32_t group;
    uint64_t content;
};

struct process {
    bool up;
    uint32_t instance;
    uint64_t incarnation;
    int link; /* newest; -1 = none */
    uint64_t stalled_until_ms;
    /* worker */
    struct worker *worker;
    struct engine engine;
    struct held held[SIM_WINDOW_MAX];
    /* loader */
    struct loader *loader;
    bool hung;
    struct {
        uint64_t turn; /* completions of an older turn are void */
        uint64_t content;
        uint64_t worker;
        uint32_t void_count;
        struct coord_void voids[SIM_BATCH_MAX];
    } slots[2 * SIM_CAPACITY_MAX];
    uint64_t slot_turn;
    uint32_t capacity, jobs;
};

struct saved {
    struct coord_checkpoint checkpoint;
    uint64_t state;
    bool whole;
};

enum fault {
    CRASH_WORKER,
    CRASH_LOADER,
    CRASH_COORD,
    BREAK_LINK,
    STALL,
    HANG_LOADER,
    FAIL_COMM,
    DAMAGE,
    RECONNECT,
    BLACKOUT,
    FAULT_COUNT
};
static const char *const fault_names[] = {
    "crash-worker", "crash-loader", "crash-coord", "break-link", "stall",
    "hang-loader",  "fail-comm",    "damage",      "reconnect",  "blackout"};

struct world {
    uint64_t chance, now_ms;
    bool verbose;
    struct sim_queue queue;
    struct sim_result result;
    struct truth truth;

    /* drawn */
    struct coord_config config;
    uint32_t worker_count, loader_count, capacity, jobs;
    uint32_t delay_ms, slow_ms;
    double slow_chance, silent_chance, bad_chance, duplicate_chance, write_failure_chance;
    bool local, healed, stop_wanted, data_may_fail;
    uint32_t fault_every_ms;
    uint32_t fault_weight[FAULT_COUNT];
    uint64_t train_ids[SIM_SAMPLES_MAX], validate_ids[SIM_SAMPLES_MAX];
    uint64_t heal_ms, end_ms;
    uint64_t expected[SIM_STEPS_MAX]; /* sums of the terms of each step */

    struct coord *coord;
    uint32_t coord_instance;
    bool coord_up, over;
    uint64_t coord_stalled_until_ms, last_fsync_ms;
    struct process workers[SIM_WORKERS_MAX], loaders[SIM_LOADERS_MAX];
    struct link links[LINKS_MAX];
    int link_count;
    struct comm comms[COMMS_MAX];
    uint64_t data_last_ms[SIM_LOADERS_MAX][SIM_WORKERS_MAX];

    struct coord_record records[RECORDS_MAX]; /* the journal: on disk, then on its way */
    uint64_t record_seqs[RECORDS_MAX];
    int on_disk, record_count;
    struct saved saved[SAVED_MAX];
    int saved_count;
};

static struct world *w; /* one at a time: what is below reads as rules, not as plumbing */

#define TRACE(...)                                                                                 \
    do {                                                                                           \
        if (w->verbose) {                                                                          \
            printf("%6llu ", (unsigned long long)w->now_ms);                                       \
            printf(__VA_ARGS__);                                                                   \
            putchar('\n');                                                                         \
        }                                                                                          \
    } while (0)

static uint32_t below(uint32_t n)
{
    return sim_below(&w->chance, n);
}

static bool chance(double p)
{
    return sim_chance(&w->chance, p);
}

/* How long something takes: mostly little, sometimes long. */
static uint64_t delay(void)
{
    uint64_t ms = below(w->delay_ms + 1);
    return chance(w->slow_chance) ? ms + below(w->slow_ms + 1) : ms;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint32_t patience(void)
{
    return w->config.patience_ms;
}

static struct process *process_of(enum program program, int index)
{
    return program == WORKER ? &w->workers[index] : &w->loaders[index];
}

static int worker_index(uint64_t incarnation)
{
    for (uint32_t i = 0; i < w->worker_count; i++)
        if (w->workers[i].up && w->workers[i].incarnation == incarnation)
            return (int)i;
    return -1;
}

static bool is_bad(uint64_t sample)
{
    return (double)(bl_mix64(w->config.plan.seed, sample) >> 11) * 0x1p-53 < w->bad_chance;
}

static void name_copy(char to[COORD_CHECKPOINT_NAME_MAX], const char *from)
{
    size_t size = strlen(from) + 1;
    BL_ASSERT_CMP(size, <=, COORD_CHECKPOINT_NAME_MAX);
    memcpy(to, from, size);
}

static struct bl_digest digest_of(uint64_t number)
{
    struct bl_digest digest = {{0}};
    memcpy(digest.bytes, &number, sizeof number);
    return digest;
}

/* ---- Disk ------------------------------------------------------------------------------------- */

static struct saved *saved_find(struct coord_checkpoint checkpoint)
{
    for (int i = w->saved_count; i-- > 0;)
        if (w->saved[i].checkpoint.step == checkpoint.step &&
            w->saved[i].checkpoint.generation == checkpoint.generation)
            return &w->saved[i];
    return NULL;
}

static struct coord_checkpoint checkpoint_named(const char *name)
{
    unsigned long long step = 0, generation = 0;
    int fields = sscanf(name, "step-%llu-g%llu", &step, &generation);
    BL_ASSERT_CMP(fields, ==, 2);
    return (struct coord_checkpoint){step, generation};
}

static void record_to_disk(void)
{
    const struct coord_record *record = &w->records[w->on_disk++];
    const struct saved *saved =
        saved_find((struct coord_checkpoint){record->step, record->generation});
    BL_ASSERT(record->type != COORD_RECORD_CHECKPOINT || saved);
    truth_record(&w->truth, record, saved ? saved->state : 0, w->comms[record->generation].state);
    w->result.generations += record->type == COORD_RECORD_GENERATION;
    w->result.rewinds += record->type == COORD_RECORD_REWIND;
}

/* ---- Connections ------------------------------------------------------------------------------ */

static void connect_peer(enum program program, int index, uint64_t core_link)
{
    BL_ASSERT_CMP(w->link_count, <, LINKS_MAX);
    struct process *p = process_of(program, index);
    p->link = w->link_count++;
    w->links[p->link] = (struct link){.program = program,
                                      .index = index,
                                      .instance = p->instance,
                                      .core_link = core_link,
                                      .peer = p->incarnation};
}

static void send_up(int link, struct sim_event *e)
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

static struct sim_event *to_coord(enum coord_event_type type, uint64_t generation)
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

static void send_up_from(const struct process *p, uint64_t core_link, struct sim_event *e)
{
    int link = link_of(p, core_link);
    if (link >= 0)
        send_up(link, e);
    else
        sim_event_done(&w->queue, e);
}

static int coord_link(uint64_t link)
{
    BL_ASSERT(link >= 1 && link <= (uint64_t)w->link_count);
    return (int)link - 1;
}

static void send_down(uint64_t link, struct sim_event *e)
{
    struct link *l = &w->links[coord_link(link)];
    e->what = l->program == WORKER ? SIM_TO_WORKER : SIM_TO_LOADER;
    e->link = (uint32_t)coord_link(link);
    e->index = l->index;
    e->instance = l->instance;
    if (l->program == WORKER)
        e->worker.link = l->core_link;
    else
        e->loader.link = l->core_link;
    uint64_t free_ms =
        later(w->coord_stalled_until_ms, process_of(l->program, l->index)->stalled_until_ms);
    l->last_down_ms = later(l->last_down_ms, later(w->now_ms, free_ms) + delay());
    sim_push(&w->queue, e, l->last_down_ms);
}

static void down_worker(uint64_t link, enum worker_event_type type, uint64_t generation)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->worker.type = type;
    e->worker.generation = generation;
    send_down(link, e);
}

static void down_loader(uint64_t link, enum loader_event_type type, uint64_t generation)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->loader.type = type;
    e->loader.generation = generation;
    send_down(link, e);
}

static bool is_worker_link(uint64_t link)
{
    return w->links[coord_link(link)].program == WORKER;
}

static void tell_coord_lost(int link, bool dead)
{
    struct sim_event *e = to_coord(COORD_EVENT_LOST, 0);
    e->what = SIM_COORD_OWN;
    e->instance = w->links[link].coord_instance;
    e->coord.peer = w->links[link].peer;
    e->coord.link = (uint64_t)link + 1;
    e->coord.lost.dead = dead;
    e->link = (uint32_t)link;
    sim_push(&w->queue, e, w->now_ms + delay());
}

static void tell_peer_lost(int link)
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

/* What is under way on the link is lost; each side hears of it, or has to notice by the silence. */
static void break_link(int link)
{
    struct link *l = &w->links[link];
    bool both = chance(0.7);
    if (both || chance(0.5))
        l->up_lost = true;
    if (both || !l->up_lost)
        l->down_lost = true;
    if (l->coord_instance == w->coord_instance && !chance(w->silent_chance))
        tell_coord_lost(link, false);
    if (!chance(w->silent_chance))
        tell_peer_lost(link);
}

/* ---- Engines ---------------------------------------------------------------------------------- */

static void post(int index, struct sim_event *e)
{
    struct engine *engine = &w->workers[index].engine;
    e->what = SIM_WORKER_OWN;
    e->index = index;
    e->instance = w->workers[index].instance;
    e->worker.generation = engine->generation;
    engine->last_post_ms = later(engine->last_post_ms, w->now_ms + (chance(0.8) ? 0 : below(4)));
    sim_push(&w->queue, e, engine->last_post_ms);
}

static struct sim_event *engine_event(enum worker_event_type type)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->worker.type = type;
    return e;
}

static void engine_go(int index);

static void schedule_op(int index, bool ok)
{
    struct engine *engine = &w->workers[index].engine;
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_ENGINE;
    e->index = index;
    e->instance = w->workers[index].instance;
    e->engine_turn = ++engine->turn;
    e->ok = ok;
    engine->decided = true;
    sim_push(&w->queue, e, later(w->now_ms, w->workers[index].stalled_until_ms) + 1 + delay());
}

static bool is_collective(const struct op *op)
{
    return op->type == OP_FORM || op->type == OP_REDUCE;
}

/* A member is gone: who waits for it fails; who had everything already may still get through. */
static void comm_fail(uint64_t generation)
{
    struct comm *comm = &w->comms[generation];
    if (generation == 0 || comm->failed)
        return;
    comm->failed = true;
    TRACE("comm %llu fails", (unsigned long long)generation);
    for (uint32_t i = 0; i < w->worker_count; i++) {
        struct engine *engine = &w->workers[i].engine;
        if (!w->workers[i].up || engine->generation != generation || !engine->running ||
            !is_collective(&engine->ops[0]) || (engine->decided && chance(0.5)))
            continue;
        schedule_op((int)i, false);
    }
}

/* Everybody of the generation takes the source's state. */
static void form_complete(struct comm *comm, const struct op *op)
{
    if (op->source >= 0) {
        const struct engine *source = &w->workers[comm->members[op->source]].engine;
        comm->state = source->state;
        comm->step = source->step;
    } else if (op->checkpoint[0]) {
        const struct saved *saved = saved_find(checkpoint_named(op->checkpoint));
        BL_ASSERT(saved);
        if (!saved->whole) { /* it rotted after it was verified: nobody can load it */
            comm->failed = true;
            for (uint32_t rank = 0; rank < comm->world; rank++)
                schedule_op(comm->members[rank], false);
            return;
        }
        comm->state = saved->state;
        comm->step = (int64_t)saved->checkpoint.step;
    } else {
        comm->state = w->truth.fresh;
        comm->step = 0;
    }
    if (comm->step != (int64_t)op->step)
        sim_fail(SIM_UNSAFE, "a generation is formed at step %lld, not %llu", (long long)comm->step,
                 (unsigned long long)op->step);
    truth_lives(&w->truth, comm->state, op->step, "forming");
    for (uint32_t rank = 0; rank < comm->world; rank++)
        schedule_op(comm->members[rank], true);
}

static void form_join(int index)
{
    struct engine *engine = &w->workers[index].engine;
    const struct op *op = &engine->ops[0];
    if (!engine->running || op->type != OP_FORM || engine->joined || engine->decided ||
        engine->rendezvous < op->world)
        return;
    struct comm *comm = &w->comms[op->generation];
    engine->joined = true;
    comm->members[op->rank] = index;
    if (++comm->joined == comm->world)
        form_complete(comm, op);
}

static void reduce_join(int index)
{
    struct engine *engine = &w->workers[index].engine;
    const struct op *op = &engine->ops[0];
    struct comm *comm = &w->comms[op->generation];
    if (engine->step != (int64_t)op->step)
        sim_fail(SIM_UNSAFE, "worker %d reduces step %llu with %lld steps", index,
                 (unsigned long long)op->step, (long long)engine->step);
    if (comm->arrived == 0) {
        comm->reduce_step = op->step;
        comm->reduce_state = engine->state;
        comm->reduce_sum = comm->reduce_count = 0;
    }
    if (comm->reduce_step != op->step || comm->reduce_state != engine->state)
        sim_fail(SIM_UNSAFE, "ranks reduce different steps or states");
    comm->reduce_count += engine->places;
    comm->reduce_sum += engine->sum;
    engine->report.count = engine->trained_count;
    memcpy(engine->report.ranges, engine->trained, sizeof engine->trained);
    engine->report.sum = engine->sum;
    if (++comm->arrived < comm->world)
        return;
    comm->arrived = 0;
    comm->reduced = truth_reduced(&w->truth, op->generation, op->step, comm->reduce_state,
                                  comm->reduce_count, comm->reduce_sum, w->expected[op->step]);
    for (uint32_t rank = 0; rank < comm->world; rank++)
        schedule_op(comm->members[rank], true);
}

static void clear_trained(struct engine *engine)
{
    engine->trained_count = engine->places = 0;
    engine->sum = 0;
}

static void op_start(int index)
{
    struct process *p = &w->workers[index];
    struct engine *engine = &p->engine;
    const struct op *op = &engine->ops[0];
    engine->running = true;
    engine->decided = engine->joined = false;
    if (is_collective(op) && w->comms[op->generation].failed)
        return schedule_op(index, false);
    switch (op->type) {
    case OP_FORM:
        clear_trained(engine);
        if (!op->have_state)
            engine->step = -1;
        send_up_from(p, p->link >= 0 ? w->links[p->link].core_link : 0,
                     to_coord(COORD_EVENT_RENDEZVOUS, op->generation));
        form_join(index);
        return;
    case OP_REDUCE:
        return reduce_join(index);
    case OP_COMPUTE:
    case OP_SNAPSHOT:
        return schedule_op(index, true);
    }
}

static void engine_go(int index)
{
    struct engine *engine = &w->workers[index].engine;
    if (!engine->running && engine->count > 0)
        op_start(index);
}

static void engine_queue(int index, struct op op)
{
    struct engine *engine = &w->workers[index].engine;
    BL_ASSERT_CMP(engine->count, <, OPS_MAX);
    engine->ops[engine->count++] = op;
    engine_go(index);
}

static void computed(struct engine *engine, const struct held *held)
{
    struct bl_range places = bl_plan_places(&w->config.plan, held->kind, held->group);
    if (engine->step != (int64_t)held->step && held->kind == BL_KIND_VALIDATE)
        sim_fail(SIM_UNSAFE, "validation after %llu steps on a state of %lld",
                 (unsigned long long)held->step, (long long)engine->step);
    if (held->kind == BL_KIND_VALIDATE)
        return;
    engine->trained[engine->trained_count++] = places;
    engine->places += places.count;
    engine->sum += held->content;
}

/* The running operation comes to its end: what it changes, and what the loop hears. */
static void op_end(int index, bool ok)
{
    struct process *p = &w->workers[index];
    struct engine *engine = &p->engine;
    struct op op = engine->ops[0];
    struct comm *comm = &w->comms[op.generation];
    engine->running = false;
    if (!ok) {
        engine->count = 0;
        return post(index, engine_event(WORKER_EVENT_FAILED));
    }
    memmove(engine->ops, engine->ops + 1, (size_t)--engine->count * sizeof *engine->ops);
    struct sim_event *e;
    switch (op.type) {
    case OP_FORM:
        if (op.have_state && engine->state != comm->state)
            sim_fail(SIM_UNSAFE, "worker %d keeps a state that is not the source's", index);
        engine->state = comm->state;
        engine->step = comm->step;
        e = engine_event(WORKER_EVENT_FORMED);
        e->worker.formed.digest = digest_of(engine->state);
        break;
    case OP_COMPUTE:
        computed(engine, &p->held[op.slot]);
        e = engine_event(WORKER_EVENT_COMPUTED);
        e->worker.computed.slot = op.slot;
        break;
    case OP_REDUCE:
        engine->state = comm->reduced;
        engine->step++;
        clear_trained(engine);
        e = engine_event(WORKER_EVENT_APPLIED);
        e->worker.applied.step = op.step;
        break;
    default:
        if (engine->step != (int64_t)op.step)
            sim_fail(SIM_UNSAFE, "a snapshot of step %llu is taken at %lld",
                     (unsigned long long)op.step, (long long)engine->step);
        engine->snap_state = engine->state;
        e = engine_event(WORKER_EVENT_SNAPPED);
        e->worker.applied.step = op.step;
        break;
    }
    post(index, e);
    engine_go(index);
}

static void engine_abort(int index)
{
    struct engine *engine = &w->workers[index].engine;
    if (engine->running && engine->decided && chance(0.5)) {
        bool failed = is_collective(&engine->ops[0]) && w->comms[engine->generation].failed;
        engine->count = 1; /* what is queued does not run */
        if (!failed)
            op_end(index, true);
    }
    engine->turn++;
    engine->running = false;
    engine->count = 0;
    clear_trained(engine);
    comm_fail(engine->generation);
    struct sim_event *e = engine_event(WORKER_EVENT_ABORTED);
    e->worker.aborted.applied_step = engine->step;
    if (engine->step >= 0)
        e->worker.aborted.digest = digest_of(engine->state);
    post(index, e);
    engine->generation = 0;
}

/* ---- Processes -------------------------------------------------------------------------------- */

static void tick_later(enum program program, int index, uint32_t instance)
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

static void restart_later(enum program program, int index, uint64_t ms)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_RESTART;
    e->program = program;
    e->index = index;
    sim_push(&w->queue, e, w->now_ms + ms);
}

static void do_worker(int index, const struct worker_actions *actions,
                      const struct sim_event *from);
static void do_loader(int index, const struct loader_actions *actions,
                      const struct sim_event *from);
static void do_coord(const struct coord_actions *actions, const struct sim_event *from);

static void start_worker(int index)
{
    struct process *p = &w->workers[index];
    uint32_t instance = p->instance + 1;
    *p = (struct process){.up = true, .instance = instance, .link = -1};
    p->engine.step = -1;
    p->incarnation = sim_random(&w->chance) | 1;
    struct worker_config config = {.incarnation = p->incarnation,
                                   .patience_ms = patience(),
                                   .reconnect_ms = 40ull * patience()};
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
    struct loader_config config = {.incarnation = p->incarnation,
                                   .capacity = p->capacity,
                                   .jobs = p->jobs,
                                   .patience_ms = patience(),
                                   .reconnect_ms = 40ull * patience()};
    BL_ASSERT(loader_new(&config, &p->loader, NULL) == 0);
    do_loader(index, loader_start(p->loader, w->now_ms), NULL);
    tick_later(LOADER, index, instance);
}

static void start_coord(void)
{
    w->coord_up = true;
    w->coord_instance++;
    struct bl_error err = {0};
    BL_ASSERT(coord_new(&w->config, &w->coord, &err) == 0);
    for (int i = 0; i < w->on_disk; i++)
        if (coord_replay(w->coord, &w->records[i], &err) < 0)
            sim_fail(SIM_UNSAFE, "the journal cannot be replayed: %s", err.text);
    do_coord(coord_start(w->coord, w->now_ms), NULL);
    tick_later(COORD, 0, w->coord_instance);
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
        if (l->coord_instance == w->coord_instance && !chance(w->silent_chance))
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

/* The journal keeps what is on disk, and of what was on its way a part from its beginning: a torn
 * record is one that is not there. */
static void crash_coord(void)
{
    if (!w->coord_up)
        return;
    w->result.crashes++;
    w->coord_up = false;
    coord_free(&w->coord);
    int keep = w->on_disk + (int)below((uint32_t)(w->record_count - w->on_disk + 1));
    while (w->on_disk < keep)
        record_to_disk();
    w->record_count = w->on_disk;
    w->truth.validating = UINT64_MAX; /* results were kept in its memory */
    for (int i = 0; i < w->link_count; i++) {
        struct link *l = &w->links[i];
        if (l->coord_instance != w->coord_instance || l->down_lost)
            continue;
        l->open = false;
        l->up_lost = l->down_lost = true;
        if (!chance(w->silent_chance))
            tell_peer_lost(i);
    }
    if (!w->local)
        return;
    for (uint32_t i = 0; i < w->worker_count; i++)
        crash_and_restart(WORKER, (int)i);
    for (uint32_t i = 0; i < w->loader_count; i++)
        crash_and_restart(LOADER, (int)i);
}

/* ---- What the loops do ------------------------------------------------------------------------ */

static void worker_form(int index, const struct worker_action *a)
{
    struct engine *engine = &w->workers[index].engine;
    struct comm *comm = &w->comms[a->generation];
    BL_ASSERT_CMP(a->generation, <, COMMS_MAX);
    comm->world = a->form.world;
    engine->generation = a->generation;
    engine->rank = a->form.rank;
    engine->rendezvous = 0;
    struct op op = {.type = OP_FORM,
                    .generation = a->generation,
                    .step = a->form.step,
                    .rank = a->form.rank,
                    .world = a->form.world,
                    .source = a->form.source,
                    .have_state = a->form.have_state};
    name_copy(op.checkpoint, a->form.checkpoint);
    engine_queue(index, op);
}

static void worker_write(int index, const struct worker_action *a)
{
    const struct process *p = &w->workers[index];
    struct sim_event *e = engine_event(WORKER_EVENT_WRITTEN);
    e->what = SIM_WORKER_OWN;
    e->index = index;
    e->instance = p->instance;
    e->worker.written.step = a->save.step;
    e->worker.written.ok = w->healed || !chance(w->write_failure_chance);
    e->content = p->engine.snap_state;
    name_copy(e->name, a->save.folder);
    sim_push(&w->queue, e, w->now_ms + 1 + 2 * delay());
}

static void worker_message(int index, const struct worker_action *a)
{
    struct process *p = &w->workers[index];
    struct sim_event *e = to_coord(COORD_EVENT_BEAT, a->generation);
    struct coord_event *m = &e->coord;
    switch (a->type) {
    case WORKER_ACTION_ENDED:
        m->type = COORD_EVENT_ENDED;
        m->ended.applied_step = a->ended.applied_step;
        m->ended.state_generation = a->ended.state_generation;
        m->ended.digest = a->ended.digest;
        break;
    case WORKER_ACTION_FORMED:
        m->type = COORD_EVENT_FORMED;
        m->formed.step = a->formed.step;
        m->formed.digest = a->formed.digest;
        break;
    case WORKER_ACTION_GOT:
    case WORKER_ACTION_USED:
    case WORKER_ACTION_RESULT:
        m->type = a->type == WORKER_ACTION_GOT    ? COORD_EVENT_GOT
                  : a->type == WORKER_ACTION_USED ? COORD_EVENT_USED
                                                  : COORD_EVENT_VALIDATION;
        m->group.kind = a->group.kind;
        m->group.step = a->group.step;
        m->group.group = a->group.group;
        e->content = p->engine.state; /* what a result was computed with */
        break;
    case WORKER_ACTION_REPORT:
        m->type = COORD_EVENT_REPORT;
        m->report.step = a->report.step;
        m->report.sample_digest = p->engine.report.sum;
        m->report.trained_count = p->engine.report.count;
        memcpy(e->trained, p->engine.report.ranges, sizeof e->trained);
        break;
    case WORKER_ACTION_BROKEN:
        m->type = COORD_EVENT_BROKEN;
        break;
    case WORKER_ACTION_SAVED:
        m->type = COORD_EVENT_SAVED;
        m->saved.step = a->save.step;
        m->saved.ok = a->save.ok;
        name_copy(e->name, a->save.folder);
        break;
    case WORKER_ACTION_GOODBYE:
        m->type = COORD_EVENT_GOODBYE;
        break;
    default:
        BL_ASSERT(a->type == WORKER_ACTION_BEAT);
    }
    send_up_from(p, a->link, e);
}

static void do_worker_action(int index, const struct worker_action *a, const struct sim_event *from)
{
    struct process *p = &w->workers[index];
    struct sim_event *e;
    switch (a->type) {
    case WORKER_ACTION_CONNECT:
        connect_peer(WORKER, index, a->link);
        e = to_coord(COORD_EVENT_HELLO, a->generation);
        e->coord.hello.role = BL_ROLE_WORKER;
        send_up(p->link, e);
        return;
    case WORKER_ACTION_OPEN:
        e = engine_event(WORKER_EVENT_OPENED);
        e->what = SIM_WORKER_OWN;
        e->index = index;
        e->instance = p->instance;
        e->worker.opened.ok = true;
        sim_push(&w->queue, e, w->now_ms + 1 + 2 * delay());
        return;
    case WORKER_ACTION_KEEP:
        BL_ASSERT(!p->held[a->group.slot].used);
        p->held[a->group.slot] =
            (struct held){true, a->group.kind, a->group.step, a->group.group, from->content};
        return;
    case WORKER_ACTION_DROP:
        return;
    case WORKER_ACTION_RELEASE:
        BL_ASSERT(p->held[a->group.slot].used);
        p->held[a->group.slot].used = false;
        return;
    case WORKER_ACTION_FORM:
        return worker_form(index, a);
    case WORKER_ACTION_HAND_ON:
        p->engine.rendezvous++;
        return form_join(index);
    case WORKER_ACTION_COMPUTE:
        return engine_queue(index, (struct op){.type = OP_COMPUTE,
                                               .generation = a->generation,
                                               .step = a->group.step,
                                               .slot = a->group.slot});
    case WORKER_ACTION_REDUCE:
        return engine_queue(
            index,
            (struct op){.type = OP_REDUCE, .generation = a->generation, .step = a->report.step});
    case WORKER_ACTION_SNAPSHOT:
        return engine_queue(
            index,
            (struct op){.type = OP_SNAPSHOT, .generation = a->generation, .step = a->report.step});
    case WORKER_ACTION_DISCARD:
        return;
    case WORKER_ACTION_ABORT:
        return engine_abort(index);
    case WORKER_ACTION_WRITE:
        return worker_write(index, a);
    case WORKER_ACTION_EXIT:
        if (a->exit.code != 0 && strstr(a->exit.text, "refused") && !w->over)
            TRACE("worker %d was refused", index);
        p->up = false;
        comm_fail(p->engine.generation);
        if (!w->over)
            restart_later(WORKER, index, patience());
        return;
    default:
        return worker_message(index, a);
    }
}

static void do_worker(int index, const struct worker_actions *actions, const struct sim_event *from)
{
    struct process *p = &w->workers[index];
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct worker_action *a = &actions->list[i];
        TRACE("  worker %d %s %s g%llu", index, worker_state_name(worker_status(p->worker).state),
              worker_action_name(a->type), (unsigned long long)a->generation);
        do_worker_action(index, a, from);
    }
    worker_check(p->worker);
    if (worker_status(p->worker).violations > 0)
        sim_fail(SIM_UNSAFE, "worker %d saw a violation", index);
    if (!p->up)
        worker_free(&p->worker);
}

static void loader_ship(int index, const struct loader_action *a)
{
    struct process *p = &w->loaders[index];
    uint32_t slot = a->order.slot;
    int to = worker_index(a->order.worker);
    uint64_t sent_ms = later(w->now_ms, p->stalled_until_ms) + delay();
    for (int copies = to < 0 ? 0 : chance(w->duplicate_chance) ? 2 : 1; copies > 0; copies--) {
        struct sim_event *e = engine_event(WORKER_EVENT_DATA);
        e->what = SIM_WORKER_OWN;
        e->index = to;
        e->instance = w->workers[to].instance;
        e->worker.generation = a->generation;
        e->worker.data.worker = a->order.worker;
        e->worker.data.kind = a->order.kind;
        e->worker.data.step = a->order.step;
        e->worker.data.group = a->order.group;
        e->content = p->slots[slot].content;
        uint64_t *last = &w->data_last_ms[index][to];
        *last = later(*last, later(sent_ms, w->workers[to].stalled_until_ms) + delay());
        if (!w->healed && chance(w->slow_chance * 0.2))
            sim_event_done(&w->queue, e); /* a data connection broke */
        else
            sim_push(&w->queue, e, *last);
    }
    struct sim_event *done = sim_event_new(&w->queue);
    done->what = SIM_LOADER_OWN;
    done->index = index;
    done->instance = p->instance;
    done->loader.type = LOADER_EVENT_SHIPPED;
    done->loader.slot.slot = slot;
    done->engine_turn = p->slots[slot].turn = ++p->slot_turn;
    sim_push(&w->queue, done, sent_ms);
}

static void loader_make(int index, const struct loader_action *a)
{
    struct process *p = &w->loaders[index];
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_LOADER_OWN;
    e->index = index;
    e->instance = p->instance;
    e->loader.type = LOADER_EVENT_MADE;
    e->loader.slot.slot = a->order.slot;
    e->engine_turn = p->slots[a->order.slot].turn = ++p->slot_turn;
    sim_push(&w->queue, e, later(w->now_ms, p->stalled_until_ms) + 1 + delay());
}

static void do_loader_action(int index, const struct loader_action *a, const struct sim_event *from)
{
    struct process *p = &w->loaders[index];
    struct sim_event *e;
    switch (a->type) {
    case LOADER_ACTION_CONNECT:
        connect_peer(LOADER, index, a->link);
        e = to_coord(COORD_EVENT_HELLO, 0);
        e->coord.hello.role = BL_ROLE_LOADER;
        e->coord.hello.capacity = p->capacity;
        send_up(p->link, e);
        return;
    case LOADER_ACTION_OPEN:
        e = sim_event_new(&w->queue);
        e->what = SIM_LOADER_OWN;
        e->index = index;
        e->instance = p->instance;
        e->loader.type = LOADER_EVENT_OPENED;
        e->loader.opened.ok = true;
        sim_push(&w->queue, e, w->now_ms + 1 + delay());
        return;
    case LOADER_ACTION_ACCEPT:
        p->slots[a->order.slot].content = from->content;
        p->slots[a->order.slot].void_count = from->void_count;
        memcpy(p->slots[a->order.slot].voids, from->voids, sizeof from->voids);
        return;
    case LOADER_ACTION_MAKE:
        return loader_make(index, a);
    case LOADER_ACTION_SHIP:
        return loader_ship(index, a);
    case LOADER_ACTION_DISCARD:
        p->slots[a->order.slot].turn = ++p->slot_turn;
        return;
    case LOADER_ACTION_EXIT:
        p->up = false;
        if (!w->over)
            restart_later(LOADER, index, patience());
        return;
    case LOADER_ACTION_SENT:
        e = to_coord(COORD_EVENT_SENT, a->generation);
        e->coord.group.kind = a->order.kind;
        e->coord.group.step = a->order.step;
        e->coord.group.group = a->order.group;
        if (a->order.shipped) {
            e->coord.group.void_count = p->slots[a->order.slot].void_count;
            memcpy(e->voids, p->slots[a->order.slot].voids, sizeof e->voids);
        }
        p->slots[a->order.slot].turn = ++p->slot_turn;
        return send_up_from(p, a->link, e);
    case LOADER_ACTION_BEAT:
        return send_up_from(p, a->link, to_coord(COORD_EVENT_BEAT, a->generation));
    case LOADER_ACTION_ENDED:
        e = to_coord(COORD_EVENT_ENDED, a->generation);
        e->coord.ended.applied_step = -1;
        return send_up_from(p, a->link, e);
    case LOADER_ACTION_GOODBYE:
        return send_up_from(p, a->link, to_coord(COORD_EVENT_GOODBYE, a->generation));
    case LOADER_ACTION_COUNT:
        return;
    }
}

static void do_loader(int index, const struct loader_actions *actions, const struct sim_event *from)
{
    struct process *p = &w->loaders[index];
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct loader_action *a = &actions->list[i];
        TRACE("  loader %d %s %s g%llu", index, loader_state_name(loader_status(p->loader).state),
              loader_action_name(a->type), (unsigned long long)a->generation);
        do_loader_action(index, a, from);
    }
    loader_check(p->loader);
    if (loader_status(p->loader).violations > 0)
        sim_fail(SIM_UNSAFE, "loader %d saw a violation", index);
    if (!p->up)
        loader_free(&p->loader);
}

static void coord_form(const struct coord_action *a)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->worker.type = WORKER_EVENT_FORM;
    e->worker.generation = a->generation;
    e->worker.form.rank = a->form.rank;
    e->worker.form.world = a->form.world;
    e->worker.form.source = a->form.source;
    e->worker.form.step = a->form.step;
    e->worker.form.state_generation = a->form.state_generation;
    if (a->form.source < 0 && a->form.checkpoint.generation > 0)
        coord_checkpoint_name(a->form.checkpoint, e->name);
    send_down(a->link, e);
}

static void coord_order(const struct coord_action *a)
{
    struct sim_event *e = sim_event_new(&w->queue);
    uint64_t samples[SIM_BATCH_MAX];
    uint32_t epochs[SIM_BATCH_MAX];
    BL_ASSERT_CMP(a->order.places.count, <=, SIM_BATCH_MAX);
    coord_order_samples(w->coord, a, samples, epochs);
    e->loader.type = LOADER_EVENT_ORDER;
    e->loader.generation = a->generation;
    e->loader.order.kind = a->order.kind;
    e->loader.order.step = a->order.step;
    e->loader.order.group = a->order.group;
    e->loader.order.worker = a->order.worker;
    for (uint32_t i = 0; i < a->order.places.count; i++) {
        e->content += bl_sample_term(a->order.places.first + i, samples[i]);
        if (is_bad(samples[i]))
            e->voids[e->void_count++] = (struct coord_void){i, samples[i]};
    }
    send_down(a->link, e);
}

static void coord_journal(const struct coord_action *a)
{
    BL_ASSERT_CMP(w->record_count, <, RECORDS_MAX);
    w->record_seqs[w->record_count] = a->journal.seq;
    w->records[w->record_count++] = a->journal.record;
    struct sim_event *e = to_coord(COORD_EVENT_JOURNALED, 0);
    e->what = SIM_COORD_OWN;
    e->instance = w->coord_instance;
    e->coord.journaled.seq = a->journal.seq;
    w->last_fsync_ms =
        later(w->last_fsync_ms, later(w->now_ms, w->coord_stalled_until_ms) + below(3) +
                                    (chance(w->slow_chance) ? below(w->slow_ms + 1) : 0));
    sim_push(&w->queue, e, w->last_fsync_ms);
}

static void coord_verify(const struct coord_action *a)
{
    const struct saved *saved = saved_find(a->checkpoint);
    struct sim_event *e = to_coord(COORD_EVENT_VERIFIED, 0);
    e->what = SIM_COORD_OWN;
    e->instance = w->coord_instance;
    e->coord.verified.checkpoint = a->checkpoint;
    e->coord.verified.ok = saved && saved->whole;
    sim_push(&w->queue, e, w->now_ms + 1 + delay());
}

static void coord_exit(const struct coord_action *a)
{
    const struct coord_ledger *ledger = coord_ledger(w->coord);
    TRACE("coord exits with %d: %s", a->exit.code, a->exit.text);
    bool may_fail = (a->exit.code == BL_EIO && w->write_failure_chance > 0) ||
                    (a->exit.code == BL_EPEER && w->now_ms < w->heal_ms + 12ull * patience());
    if (a->exit.code == 0) {
        if (ledger->committed != w->config.plan.steps || w->truth.committed != ledger->committed)
            sim_fail(SIM_UNSAFE, "the run ends well with %llu steps",
                     (unsigned long long)ledger->committed);
        const struct coord_checkpoint *last = &ledger->checkpoints[ledger->checkpoint_count - 1];
        if (ledger->checkpoint_count == 0 || last->step != w->config.plan.steps)
            sim_fail(SIM_UNSAFE, "the run ends well without its last checkpoint");
        if (bl_plan_validates(&w->config.plan, ledger->committed) &&
            ledger->validated != (int64_t)ledger->committed)
            sim_fail(SIM_UNSAFE, "the run ends well without its last validation");
        w->over = true;
    } else if (a->exit.code == BL_EDATA && w->data_may_fail) {
        w->over = true;
    } else if ((a->exit.code == BL_ESTOPPED && w->stop_wanted) || may_fail) {
        w->stop_wanted = false; /* the second act: the same run again, to its end */
        crash_coord();
        restart_later(COORD, 0, below(patience()));
        if (w->healed)
            w->end_ms += 400ull * patience();
    } else {
        sim_fail(SIM_UNSAFE, "the coordinator leaves with %s: %s", bl_error_name(a->exit.code),
                 a->exit.text);
    }
}

static void coord_pulse(const struct coord_action *a)
{
    for (int i = 0; i < w->link_count; i++)
        if (w->links[i].open && w->links[i].coord_instance == w->coord_instance) {
            if (w->links[i].program == WORKER)
                down_worker((uint64_t)i + 1, WORKER_EVENT_PULSE, a->generation);
            else
                down_loader((uint64_t)i + 1, LOADER_EVENT_PULSE, a->generation);
        }
}

static void do_coord_action(const struct coord_action *a, const struct sim_event *from)
{
    struct sim_event *e;
    switch (a->type) {
    case COORD_ACTION_WELCOME:
        w->links[coord_link(a->link)].open = true;
        e = sim_event_new(&w->queue);
        if (is_worker_link(a->link)) {
            e->worker.type = WORKER_EVENT_WELCOME;
            e->worker.welcome.patience_ms = patience();
        } else {
            e->loader.type = LOADER_EVENT_WELCOME;
            e->loader.welcome.patience_ms = patience();
        }
        return send_down(a->link, e);
    case COORD_ACTION_REFUSE:
        if (!strstr(a->refuse.text, "End was not answered"))
            sim_fail(SIM_UNSAFE, "an honest peer is refused: %s", a->refuse.text);
        if (is_worker_link(a->link))
            down_worker(a->link, WORKER_EVENT_REFUSE, a->generation);
        else
            down_loader(a->link, LOADER_EVENT_REFUSE, a->generation);
        w->links[coord_link(a->link)].open = false;
        return;
    case COORD_ACTION_FORGET:
        w->links[coord_link(a->link)].open = false;
        return;
    case COORD_ACTION_PULSE:
        return coord_pulse(a);
    case COORD_ACTION_END:
        if (is_worker_link(a->link))
            down_worker(a->link, WORKER_EVENT_END, a->generation);
        else
            down_loader(a->link, LOADER_EVENT_END, a->generation);
        return;
    case COORD_ACTION_FORM:
        return coord_form(a);
    case COORD_ACTION_RELAY:
        return down_worker(a->link, WORKER_EVENT_RENDEZVOUS, a->generation);
    case COORD_ACTION_ORDER:
        return coord_order(a);
    case COORD_ACTION_SAVE:
        e = sim_event_new(&w->queue);
        e->worker.type = WORKER_EVENT_SAVE;
        e->worker.generation = a->generation;
        e->worker.save.step = a->checkpoint.step;
        coord_checkpoint_name(a->checkpoint, e->name);
        return send_down(a->link, e);
    case COORD_ACTION_STOP:
        if (is_worker_link(a->link))
            down_worker(a->link, WORKER_EVENT_STOP, a->generation);
        else
            down_loader(a->link, LOADER_EVENT_STOP, a->generation);
        return;
    case COORD_ACTION_JOURNAL:
        return coord_journal(a);
    case COORD_ACTION_VERIFY:
        return coord_verify(a);
    case COORD_ACTION_ACCEPTED:
        truth_lives(&w->truth, from->content, a->step, "validation");
        return truth_accepted(&w->truth, a->step, from->coord.group.group);
    case COORD_ACTION_BAD_SAMPLE:
        if (!is_bad(from->voids[a->void_index].sample))
            sim_fail(SIM_UNSAFE, "a good sample is called bad");
        return;
    case COORD_ACTION_VIOLATION:
        sim_fail(SIM_UNSAFE, "a violation among honest peers: %s: expected %llu, found %llu",
                 a->refuse.text, (unsigned long long)a->refuse.expected,
                 (unsigned long long)a->refuse.found);
        return;
    case COORD_ACTION_EXIT:
        return coord_exit(a);
    case COORD_ACTION_COMMITTED:
    case COORD_ACTION_VALIDATED:
    case COORD_ACTION_REWOUND:
    case COORD_ACTION_REGISTERED:
    case COORD_ACTION_UNSAVED:
    case COORD_ACTION_COUNT:
        return;
    }
}

static void do_coord(const struct coord_actions *actions, const struct sim_event *from)
{
    uint32_t instance = w->coord_instance;
    coord_check(w->coord);
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct coord_action *a = &actions->list[i];
        TRACE("  coord %s %s g%llu peer %llx", coord_state_name(coord_status(w->coord).state),
              coord_action_name(a->type), (unsigned long long)a->generation,
              (unsigned long long)a->peer >> 48);
        do_coord_action(a, from);
        if (!w->coord_up || w->coord_instance != instance)
            return; /* it left */
    }
    if (!actions->more)
        return;
    const struct coord_event tick = {.type = COORD_EVENT_TICK, .now_ms = w->now_ms};
    do_coord(coord_step(w->coord, &tick), NULL);
}

/* ---- Deliveries ------------------------------------------------------------------------------- */

static void to_coord_now(struct sim_event *e)
{
    struct link *l = &w->links[e->link];
    if (l->up_lost)
        return;
    if (l->coord_instance == 0 && !w->coord_up) /* its socket tries to connect */
        return sim_push_again(&w->queue, e, w->now_ms + 1 + delay());
    if (w->coord_stalled_until_ms > w->now_ms)
        return sim_push_again(&w->queue, e, w->coord_stalled_until_ms);
    if (l->coord_instance == 0)
        l->coord_instance = w->coord_instance;
    if (l->coord_instance != w->coord_instance || !w->coord_up)
        return;
    e->coord.now_ms = w->now_ms;
    if (e->coord.type == COORD_EVENT_REPORT)
        e->coord.report.trained = e->trained;
    else if (e->coord.type == COORD_EVENT_SAVED)
        e->coord.saved.folder = e->name;
    else if (e->coord.type == COORD_EVENT_SENT)
        e->coord.group.voids = e->voids;
    bool is_group = e->coord.type == COORD_EVENT_GOT || e->coord.type == COORD_EVENT_USED ||
                    e->coord.type == COORD_EVENT_SENT;
    TRACE("coord <- %s %s %d g%llu link %u group %llu.%u", coord_event_name(e->coord.type),
          program_names[l->program], l->index, (unsigned long long)e->coord.generation, e->link,
          is_group ? (unsigned long long)e->coord.group.step : 0,
          is_group ? e->coord.group.group : 0);
    do_coord(coord_step(w->coord, &e->coord), e);
}

static void coord_own(struct sim_event *e)
{
    if (!w->coord_up || e->instance != w->coord_instance)
        return;
    e->coord.now_ms = w->now_ms;
    if (w->coord_stalled_until_ms > w->now_ms)
        return sim_push_again(&w->queue, e, w->coord_stalled_until_ms);
    if (e->coord.type == COORD_EVENT_TICK) {
        tick_later(COORD, 0, w->coord_instance);
    } else if (e->coord.type == COORD_EVENT_JOURNALED) {
        while (w->on_disk < w->record_count && w->record_seqs[w->on_disk] <= e->coord.journaled.seq)
            record_to_disk();
    }
    if (e->coord.type != COORD_EVENT_TICK)
        TRACE("coord <- %s", coord_event_name(e->coord.type));
    do_coord(coord_step(w->coord, &e->coord), e);
}

static void worker_now(struct sim_event *e)
{
    struct process *p = &w->workers[e->index];
    if (!p->up || p->instance != e->instance)
        return;
    if (p->stalled_until_ms > w->now_ms)
        return sim_push_again(&w->queue, e, p->stalled_until_ms);
    struct worker_event *m = &e->worker;
    m->now_ms = w->now_ms;
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

static void loader_now(struct sim_event *e)
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
    if (m->type == LOADER_EVENT_TICK)
        tick_later(LOADER, e->index, e->instance);
    else
        TRACE("loader %d <- %s", e->index, loader_event_name(m->type));
    do_loader(e->index, loader_step(p->loader, m), e);
}

static void engine_now(struct sim_event *e)
{
    struct process *p = &w->workers[e->index];
    if (p->up && p->instance == e->instance && p->engine.running &&
        p->engine.turn == e->engine_turn)
        op_end(e->index, e->ok);
}

/* ---- Faults ----------------------------------------------------------------------------------- */

static void fault_later(void)
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
    if (w->saved_count == 0)
        return;
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
        if (!w->coord_up)
            return;
        crash_coord();
        restart_later(COORD, 0, below(3 * patience()));
        return;
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
        stalled = chance(0.2)   ? &w->coord_stalled_until_ms
                  : chance(0.6) ? &w->workers[below(w->worker_count)].stalled_until_ms
                                : &w->loaders[below(w->loader_count)].stalled_until_ms;
        *stalled = later(*stalled, until_ms);
        return;
    case HANG_LOADER:
        link = (int)below(w->loader_count);
        w->loaders[link].hung = !w->loaders[link].hung;
        return;
    case FAIL_COMM:
        return comm_fail(w->workers[below(w->worker_count)].engine.generation);
    case DAMAGE:
        return damage();
    case BLACKOUT:
        return blackout();
    case FAULT_COUNT:
        return;
    }
}

static void random_fault(void)
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

static void heal(void)
{
    TRACE("healed");
    w->healed = true;
    w->slow_chance = 0;
    w->silent_chance = 0;
    for (uint32_t i = 0; i < w->loader_count; i++)
        w->loaders[i].hung = false;
}

static void restart(const struct sim_event *e)
{
    if (e->program == COORD) {
        if (!w->coord_up)
            start_coord();
    } else if (!process_of((enum program)e->program, e->index)->up) {
        if (e->program == WORKER)
            start_worker(e->index);
        else
            start_loader(e->index);
    }
}

/* ---- A schedule ------------------------------------------------------------------------------- */

/* Everything is drawn, the rates of what goes wrong included: most schedules know few faults, and
 * those often. */
static void draw(void)
{
    struct bl_plan *plan = &w->config.plan;
    plan->seed = sim_random(&w->chance);
    plan->batch = 1 + below(SIM_BATCH_MAX);
    plan->group = 1 + below(chance(0.5) ? 4 : plan->batch);
    if (plan->group > plan->batch)
        plan->group = plan->batch;
    plan->train_samples = 1 + below(SIM_SAMPLES_MAX);
    plan->validate_samples = chance(0.3) ? 0 : 1 + below(SIM_VALIDATE_MAX);
    plan->steps = 1 + below(SIM_STEPS_MAX);
    plan->checkpoint_every = below(5);
    plan->validate_every = below(5);
    plan->validate_at_start = chance(0.3);
    plan->steps_ahead = 1 + below(3);
    plan->window = 1 + below(SIM_WINDOW_MAX);
    w->worker_count = 1 + below(SIM_WORKERS_MAX);
    w->loader_count = 1 + below(SIM_LOADERS_MAX);
    w->capacity = 1 + below(SIM_CAPACITY_MAX);
    w->config.patience_ms = 60 + below(200);
    w->config.workers_max = 4 * SIM_WORKERS_MAX;
    w->config.loaders_max = 4 * SIM_LOADERS_MAX;
    w->config.workers_min = chance(0.7) ? 1 : 1 + below(w->worker_count);
    w->config.workers_wanted =
        w->config.workers_min + below(w->worker_count - w->config.workers_min + 1);
    w->local = chance(0.4);
    w->config.members_gone = w->local;
    w->bad_chance = chance(0.6) ? 0 : 0.3;
    w->data_may_fail = w->bad_chance > 0 && chance(0.2);
    w->config.max_bad_fraction = w->data_may_fail ? 0.05 : 1;
    w->config.bad_minimum = below(10);
    w->config.sample_count = 2 * SIM_SAMPLES_MAX;
    w->config.train_ids = w->train_ids;
    w->config.validate_ids = w->validate_ids;
    for (uint64_t i = 0; i < SIM_SAMPLES_MAX; i++) {
        w->train_ids[i] = 2 * i;
        w->validate_ids[i] = 2 * i + 1;
    }
    w->delay_ms = below(1 + patience() / 20);
    w->slow_ms = patience() / (1 + below(3));
    w->slow_chance = chance(0.5) ? 0 : 0.02;
    w->silent_chance = chance(0.5) ? 0.2 : 0.8;
    w->duplicate_chance = chance(0.5) ? 0 : 0.1;
    w->write_failure_chance = chance(0.8) ? 0 : 0.2;
    w->fault_every_ms = patience() / 4 + below(3 * patience());
    for (int i = 0; i < FAULT_COUNT; i++)
        w->fault_weight[i] = chance(0.5) ? 0 : 1 + below(8);
    if (chance(0.5))
        w->fault_weight[BLACKOUT] /= 2;
    w->heal_ms = below(30 * patience());
    w->end_ms = w->heal_ms + 400ull * patience();
    w->stop_wanted = chance(0.25);
    for (uint64_t step = 0; step < plan->steps; step++)
        for (uint32_t place = 0; place < plan->batch; place++) {
            uint32_t epoch;
            uint64_t sample;
            bl_plan_sample(plan, step, place, &epoch, &sample);
            w->expected[step] += bl_sample_term(place, w->train_ids[sample]);
        }
}

static void print_options(void)
{
    const struct bl_plan *plan = &w->config.plan;
    TRACE("workers=%u (min %u, wanted %u) loaders=%u capacity=%u batch=%u group=%u window=%u "
          "ahead=%u steps=%llu "
          "samples=%llu validate=%llu/%llu checkpoint=%llu patience=%u delay=%u slow=%u@%.2f "
          "silent=%.1f local=%d stop=%d",
          w->worker_count, w->config.workers_min, w->config.workers_wanted, w->loader_count,
          w->capacity, plan->batch, plan->group, plan->window, plan->steps_ahead,
          (unsigned long long)plan->steps, (unsigned long long)plan->train_samples,
          (unsigned long long)plan->validate_samples, (unsigned long long)plan->validate_every,
          (unsigned long long)plan->checkpoint_every, patience(), w->delay_ms, w->slow_ms,
          w->slow_chance, w->silent_chance, w->local, w->stop_wanted);
    for (int i = 0; i < FAULT_COUNT; i++)
        TRACE("fault %s weight %u", fault_names[i], w->fault_weight[i]);
}

static void handle(struct sim_event *e)
{
    switch (e->what) {
    case SIM_TO_COORD:
        return to_coord_now(e);
    case SIM_TO_WORKER:
    case SIM_TO_LOADER:
        if (w->links[e->link].down_lost)
            return;
        if (e->what == SIM_TO_WORKER)
            return worker_now(e);
        return loader_now(e);
    case SIM_COORD_OWN:
        return coord_own(e);
    case SIM_WORKER_OWN:
        return worker_now(e);
    case SIM_LOADER_OWN:
        return loader_now(e);
    case SIM_ENGINE:
        return engine_now(e);
    case SIM_RESTART:
        return restart(e);
    case SIM_FAULT:
        return random_fault();
    case SIM_HEAL:
        return heal();
    }
}

struct sim_result sim_run(const struct sim_options *options)
{
    w = calloc(1, sizeof *w);
    BL_ASSERT(w != NULL);
    sim_failing(options->seed);
    w->chance = options->seed;
    w->verbose = options->verbose;
    draw();
    print_options();
    truth_init(&w->truth, &w->config.plan);
    restart_later(COORD, 0, below(patience()));
    for (uint32_t i = 0; i < w->worker_count; i++)
        restart_later(WORKER, (int)i, below(patience()));
    for (uint32_t i = 0; i < w->loader_count; i++)
        restart_later(LOADER, (int)i, below(patience()));
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_HEAL;
    sim_push(&w->queue, e, w->heal_ms);
    fault_later();
    if (w->stop_wanted) {
        e = to_coord(COORD_EVENT_STOP, 0);
        e->what = SIM_COORD_OWN;
        e->instance = 1;
        sim_push(&w->queue, e, below(10 * patience()));
    }
    while (!w->over && (e = sim_pop(&w->queue))) {
        w->now_ms = e->at_ms;
        if (w->now_ms > w->end_ms || ++w->result.events > EVENTS_MAX)
            sim_fail(
                SIM_STUCK,
                "not finished %llu ms after everything was mended (%s, step %llu of %llu)",
                (unsigned long long)(w->now_ms - w->heal_ms),
                w->coord_up ? coord_state_name(coord_status(w->coord).state) : "no coordinator",
                (unsigned long long)w->truth.committed, (unsigned long long)w->config.plan.steps);
        handle(e);
        sim_event_done(&w->queue, e);
    }
    struct sim_result result = w->result;
    result.ms = w->now_ms;
    coord_free(&w->coord);
    for (int i = 0; i < SIM_WORKERS_MAX; i++)
        worker_free(&w->workers[i].worker);
    for (int i = 0; i < SIM_LOADERS_MAX; i++)
        loader_free(&w->loaders[i].loader);
    sim_queue_release(&w->queue);
    free(w);
    return result;
}
