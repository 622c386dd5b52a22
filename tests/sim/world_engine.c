/* tests/sim/world_engine.c - the workers' engines: operations one after the other, collectives when all have come. */
#include "tests/sim/world.h"

static void engine_go(int index);

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

struct sim_event *engine_event(enum worker_event_type type)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->worker.type = type;
    return e;
}

static bool is_collective(const struct op *op)
{
    return op->type == OP_FORM || op->type == OP_REDUCE;
}

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
    struct process *p = &w->workers[index];
    uint64_t start_ms = later(w->now_ms, p->stalled_until_ms);
    if (is_collective(&engine->ops[0]))
        start_ms = later(start_ms, p->comm_cut_until_ms);
    sim_push(&w->queue, e, busy_until(p, start_ms + (ok ? work() : 1 + delay())));
}

void comm_fail(uint64_t generation)
{
    struct comm *comm = &w->comms[generation];
    if (generation == 0 || comm->failed || embeds())
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

uint32_t unreached_by(int index, const struct comm *comm, uint32_t *ret_ranks)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < comm->world; rank++) {
        int other = comm->members[rank];
        if (other != index && (is_odd(index, UNREACHED) || is_odd(other, UNREACHED)))
            ret_ranks[count++] = rank;
    }
    return count;
}

/* Does a member keep the others from forming? */
static bool cannot_form(const struct comm *comm)
{
    for (uint32_t rank = 0; rank < comm->world && comm->world > 1; rank++)
        if (is_odd(comm->members[rank], UNREACHED) || is_odd(comm->members[rank], FAILS))
            return true;
    return false;
}

static bool sees(const struct comm *comm, uint32_t rank)
{
    return !w->unseeing[comm->members[rank]];
}

/* M14: a rank that does not see the run folder writes checkpoints, or reads them for all, only where none does, and none reads by itself. */
static void judge_reading(const struct comm *comm, const struct op *op)
{
    for (uint32_t rank = 0; rank < comm->world; rank++) {
        if (sees(comm, rank) && !sees(comm, 0))
            sim_fail(SIM_UNSAFE, "rank 0 does not see the run folder, and rank %u does", rank);
        if (!sees(comm, rank) && op->source < 0 && !op->one_reads)
            sim_fail(SIM_UNSAFE, "rank %u is to read a checkpoint that it does not see", rank);
    }
}

/* Everybody of the generation takes the source's state. */
static void form_complete(struct comm *comm, const struct op *op)
{
    if (cannot_form(comm)) {
        comm->failed = true;
        for (uint32_t rank = 0; rank < comm->world; rank++)
            if (w->odd == UNREACHED || is_odd(comm->members[rank], FAILS))
                schedule_op(comm->members[rank], false);
        return;
    }
    judge_reading(comm, op);
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
    /* Members that were cut off may form a generation long ended; nothing they do in it counts. */
    if (op->generation == w->truth.generation)
        truth_lives(&w->truth, comm->state, op->step, "forming");
    for (uint32_t rank = 0; rank < comm->world; rank++)
        schedule_op(comm->members[rank], true);
}

void form_join(int index)
{
    struct engine *engine = &w->workers[index].engine;
    const struct op *op = &engine->ops[0];
    if (!engine->running || op->type != OP_FORM || engine->joined || engine->decided ||
        engine->rendezvous < op->world || (op->world > 1 && is_odd(index, HANGS)))
        return;
    struct comm *comm = &w->comms[op->generation];
    engine->joined = true;
    comm->members[op->rank] = index;
    if (++comm->joined == comm->world)
        form_complete(comm, op);
}

void reduce_go(uint64_t generation)
{
    struct comm *comm = &w->comms[generation];
    bool hangs = false;
    for (uint32_t rank = 0; rank < comm->world; rank++)
        hangs |= w->workers[comm->members[rank]].hung;
    if (generation == 0 || comm->failed || comm->arrived < comm->world || hangs)
        return;
    comm->arrived = 0;
    comm->reduced =
        truth_reduced(&w->truth, generation, comm->reduce_step, comm->reduce_state,
                      comm->reduce_count, comm->reduce_sum, w->expected[comm->reduce_step]);
    for (uint32_t rank = 0; rank < comm->world; rank++)
        schedule_op(comm->members[rank], true);
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
    comm->reduce_count += engine->indices;
    comm->reduce_sum += engine->sum;
    engine->report.count = engine->trained_count;
    memcpy(engine->report.ranges, engine->trained, sizeof engine->trained);
    engine->report.sum = engine->sum;
    comm->arrived++;
    reduce_go(op->generation);
}

static void clear_trained(struct engine *engine)
{
    engine->trained_count = engine->indices = 0;
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
        if (embeds())
            return schedule_op(index, true); /* by itself */
        if (op->world > 1 && is_odd(index, HANGS) && w->config.plan.seed % 2)
            return; /* not even that */
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

void engine_queue(int index, struct op op)
{
    struct engine *engine = &w->workers[index].engine;
    BL_ASSERT_CMP(engine->count, <, OPS_MAX);
    engine->ops[engine->count++] = op;
    engine_go(index);
}

static void computed(struct engine *engine, const struct held *held)
{
    struct bl_range indices = bl_plan_indices(&w->config.plan, held->kind, held->micro_batch);
    if (engine->step != (int64_t)held->step && held->kind == BL_KIND_VALIDATE)
        sim_fail(SIM_UNSAFE, "validation after %llu steps on a state of %lld",
                 (unsigned long long)held->step, (long long)engine->step);
    if (held->kind == BL_KIND_EMBED)
        w->shards[held->micro_batch] = true;
    if (bl_kind_is_pass(held->kind))
        return;
    engine->trained[engine->trained_count++] = indices;
    engine->indices += indices.count;
    engine->sum += held->content;
}

void op_end(int index, bool ok)
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
        if (embeds()) {
            comm->state = w->truth.fresh;
            comm->step = 0;
        }
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

void engine_abort(int index)
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
