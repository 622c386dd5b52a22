/* tests/sim/world.c - a schedule of the imagined cluster: drawn from its seed, run to its end. */
#include "tests/sim/world.h"

#include <stddef.h>

struct world *w;

static const char *const fault_names[] = {
    "crash-worker", "crash-loader", "crash-coord", "break-link", "stall",
    "hang-loader",  "hang-worker",  "fail-comm",   "damage",     "reconnect",
    "blackout",     "cut",          "slow-disk",   "take-over",  "release"};

int worker_index(uint64_t incarnation)
{
    for (uint32_t i = 0; i < w->worker_count; i++)
        if (w->workers[i].up && w->workers[i].incarnation == incarnation)
            return (int)i;
    return -1;
}

bool is_bad(uint64_t sample)
{
    return (double)(bl_mix64(w->config.plan.seed, sample) >> 11) * 0x1p-53 < w->bad_chance;
}

bool is_absent(uint64_t sample)
{
    return is_bad(sample) && bl_mix64(sample, w->config.plan.seed) % 2 == 0;
}

void name_copy(char to[COORD_CHECKPOINT_NAME_MAX], const char *from)
{
    size_t size = strlen(from) + 1;
    BL_ASSERT_CMP(size, <=, COORD_CHECKPOINT_NAME_MAX);
    memcpy(to, from, size);
}

struct bl_digest digest_of(uint64_t number)
{
    struct bl_digest digest = {{0}};
    memcpy(digest.bytes, &number, sizeof number);
    return digest;
}

struct saved *saved_find(struct coord_checkpoint checkpoint)
{
    for (int i = w->saved_count; i-- > 0;)
        if (w->saved[i].checkpoint.step == checkpoint.step &&
            w->saved[i].checkpoint.generation == checkpoint.generation)
            return &w->saved[i];
    return NULL;
}

struct coord_checkpoint checkpoint_named(const char *name)
{
    unsigned long long step = 0, generation = 0;
    int fields = sscanf(name, "step-%llu-g%llu", &step, &generation);
    BL_ASSERT_CMP(fields, ==, 2);
    return (struct coord_checkpoint){step, generation};
}

/* Up to three sources of unequal weights; drawn from the seed alone, so that what else is drawn stays as it was. */
static void draw_sources(struct bl_plan *plan)
{
    uint64_t left = plan->train_samples;
    uint32_t most = (uint32_t)(plan->seed % 4);
    for (uint32_t s = 0; s < most && left > 0; s++) {
        uint64_t samples = s + 1 == most ? left : 1 + bl_mix64(plan->seed, s) % left;
        plan->sources[plan->source_count++] = (struct bl_source){
            .samples = samples, .draws = 1 + bl_mix64(plan->seed, 10 + s) % (2 * samples)};
        left -= samples;
    }
}

/* Workers that send checkpoints to the coordinator and fetch them there (M14). This and what follows by chances of their own, so that the
 * other draws of a seed stay what they are. */
static void draw_unseeing(void)
{
    uint64_t own = bl_mix64(w->config.plan.seed, 21);
    bool some = !w->local && sim_below(&own, 3) == 0;
    for (uint32_t i = 0; i < w->worker_count; i++)
        w->unseeing[i] = some && sim_chance(&own, 0.6);
}

/* A run without steps and without a communicator, whose one pass writes shards (V4). */
static void draw_embedding(struct bl_plan *plan)
{
    uint64_t own = bl_mix64(plan->seed, 20);
    if (sim_below(&own, 8) > 0)
        return;
    plan->kind = BL_KIND_EMBED;
    plan->validate_samples = 1 + sim_below(&own, SIM_VALIDATE_MAX);
    plan->batch = plan->micro_batch = 1 + sim_below(&own, 3);
    plan->steps = plan->checkpoint_every = plan->validate_every = 0;
    plan->validate_at_start = true;
    plan->steps_ahead = 1;
    plan->window = 2;
    if (w->odd != STICKS) /* there is nothing to form */
        w->odd = NOT_ODD;
    memset(w->unseeing, 0, sizeof w->unseeing); /* they would be refused */
}

/* Everything is drawn, the rates of what goes wrong included: most schedules know few faults, and
 * those often. */
static void draw(void)
{
    struct bl_plan *plan = &w->config.plan;
    plan->kind = BL_KIND_TRAIN;
    plan->seed = sim_random(&w->chance);
    plan->batch = 1 + below(SIM_BATCH_MAX);
    plan->micro_batch = 1 + below(chance(0.5) ? 4 : plan->batch);
    if (plan->micro_batch > plan->batch)
        plan->micro_batch = plan->batch;
    plan->train_samples = 1 + below(SIM_SAMPLES_MAX);
    draw_sources(plan);
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
    w->tail = (enum tail)below(3);
    w->finding = w->local ? ONE_ADDRESS : (enum finding)below(3);
    w->slow_ms = patience() / (1 + below(3));
    w->slow_chance = chance(0.5) ? 0 : 0.02;
    w->silent_chance = chance(0.5) ? 0.2 : 0.8;
    w->duplicate_chance = chance(0.5) ? 0 : 0.1;
    w->write_failure_chance = chance(0.8) ? 0 : 0.2;
    w->blind_loader = w->loader_count > 1 && chance(0.2) ? (int)below(w->loader_count) : -1;
    w->fault_every_ms = patience() / 4 + below(3 * patience());
    for (int i = 0; i < FAULT_COUNT; i++)
        w->fault_weight[i] = chance(0.5) ? 0 : 1 + below(8);
    if (chance(0.5))
        w->fault_weight[BLACKOUT] /= 2;
    if (w->finding == ONE_ADDRESS)
        w->fault_weight[TAKE_OVER] = 0;
    if (w->blind_loader >= 0) { /* else it might be alone, and so believed */
        w->tail = UNIFORM;
        w->slow_chance = 0;
        w->finding = ONE_ADDRESS;
        for (int i = 0; i < FAULT_COUNT; i++)
            if (i != CRASH_WORKER && i != FAIL_COMM && i != BLACKOUT)
                w->fault_weight[i] = 0;
    }
    w->heal_ms = below(30 * patience());
    w->end_ms = w->heal_ms + 400ull * patience();
    w->stop_wanted = chance(0.25);
    w->fsync_ms = chance(0.7) ? 3 : 1 + below(patience() / 2);
    w->long_chance = chance(0.7) ? 0 : 0.03;
    w->odd_worker = (int)below(w->worker_count);
    if (w->worker_count > w->config.workers_min && chance(0.3))
        w->odd = (enum odd)(1 + below(5));
    w->lies_left = 2;
    w->keep_last = below(4); /* 0: nothing is ever removed */
    draw_unseeing();
    draw_embedding(plan);
    for (uint64_t step = 0; step < plan->steps; step++)
        for (uint32_t index = 0; index < plan->batch; index++) {
            uint32_t epoch;
            uint64_t sample;
            bl_plan_sample(plan, step, index, &epoch, &sample);
            w->expected[step] += bl_sample_term(index, w->train_ids[sample]);
        }
}

static void print_options(void)
{
    const struct bl_plan *plan = &w->config.plan;
    TRACE("workers=%u (min %u, wanted %u) loaders=%u capacity=%u batch=%u micro-batch=%u window=%u "
          "ahead=%u steps=%llu "
          "samples=%llu validate=%llu/%llu checkpoint=%llu patience=%u delay=%u slow=%u@%.2f "
          "silent=%.1f local=%d stop=%d fsync=%u long=%.2f odd=%d: %d tail=%d finding=%d embeds=%d",
          w->worker_count, w->config.workers_min, w->config.workers_wanted, w->loader_count,
          w->capacity, plan->batch, plan->micro_batch, plan->window, plan->steps_ahead,
          (unsigned long long)plan->steps, (unsigned long long)plan->train_samples,
          (unsigned long long)plan->validate_samples, (unsigned long long)plan->validate_every,
          (unsigned long long)plan->checkpoint_every, patience(), w->delay_ms, w->slow_ms,
          w->slow_chance, w->silent_chance, w->local, w->stop_wanted, w->fsync_ms, w->long_chance,
          w->odd_worker, (int)w->odd, (int)w->tail, (int)w->finding, embeds());
    for (uint32_t i = 0; i < w->worker_count; i++)
        if (w->unseeing[i])
            TRACE("worker %u does not see the run folder", i);
    for (int i = 0; i < FAULT_COUNT; i++)
        TRACE("fault %s weight %u", fault_names[i], w->fault_weight[i]);
}

/* It waits for the end of a cut between its coordinator and the peer. */
static bool is_cut_down(const struct sim_event *e)
{
    const struct link *l = &w->links[e->link];
    uint64_t until_ms = later(process_of(l->program, l->index)->down_cut_until_ms,
                              w->coords[l->address].down_cut_until_ms);
    if (until_ms > w->now_ms)
        sim_push_again(&w->queue, e, until_ms);
    return until_ms > w->now_ms;
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
        if (is_cut_down(e))
            return;
        if (e->what == SIM_TO_WORKER)
            return worker_now(e);
        return loader_now(e);
    case SIM_COORD_OWN:
        return coord_own(e);
    case SIM_CLAIMED:
        return coord_claimed(e);
    case SIM_SYNCED:
        return coord_synced(e);
    case SIM_LOOKED:
        return coord_looked(e);
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

/* By chances of its own, so that the other draws of a seed stay what they are. */
static void ask_for_checkpoints(uint64_t seed)
{
    uint64_t own = bl_mix64(seed, 8);
    if (embeds())
        return; /* there are none */
    for (uint32_t i = sim_below(&own, 4); i > 0; i--) {
        struct sim_event *e = to_coord(COORD_EVENT_CHECKPOINT, 0);
        e->what = SIM_COORD_OWN;
        e->instance = 1;
        sim_push(&w->queue, e, sim_below(&own, 10 * patience()));
    }
}

static const char *newest_state(void)
{
    for (int i = 0; i < COORDS; i++)
        if (w->coords[i].up && !is_fenced(&w->coords[i]))
            return coord_state_name(coord_status(w->coords[i].core).state);
    return "no coordinator";
}

struct sim_result sim_run(const struct sim_options *options)
{
    static struct world the_world;
    w = &the_world;
    memset(w, 0, offsetof(struct world, saved));
    for (int i = 0; i < COORDS; i++) {
        w->coords[i].records = w->records[i];
        w->coords[i].seqs = w->seqs[i];
    }
    sim_failing(options->seed);
    w->chance = options->seed;
    w->verbose = options->verbose;
    draw();
    print_options();
    truth_init(&w->truth, &w->config.plan);
    w->journal = -1;
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
    ask_for_checkpoints(options->seed);
    while (!w->over && (e = sim_pop(&w->queue))) {
        w->now_ms = e->at_ms;
        if (w->now_ms > w->end_ms || ++w->result.events > EVENTS_MAX)
            sim_fail(SIM_STUCK,
                     "not finished %llu ms after everything was mended (%s, step %llu of %llu)",
                     (unsigned long long)(w->now_ms - w->heal_ms), newest_state(),
                     (unsigned long long)w->truth.committed,
                     (unsigned long long)w->config.plan.steps);
        handle(e);
        sim_event_done(&w->queue, e);
    }
    for (int i = 0; i < COORDS; i++)
        coord_end(&w->coords[i]);
    struct sim_result result = w->result;
    result.ms = w->now_ms;
    for (int i = 0; i < SIM_WORKERS_MAX; i++)
        worker_free(&w->workers[i].worker);
    for (int i = 0; i < SIM_LOADERS_MAX; i++)
        loader_free(&w->loaders[i].loader);
    sim_queue_release(&w->queue);
    return result;
}
