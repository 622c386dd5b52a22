/* tests/sim/truth.c - what must hold whatever happens (docs/protocol.md, S1 - S6), judged from outside: from what engines
 * really added up and what really is on disk, never from what a core believes. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/random.h"
#include "tests/sim/sim.h"

static uint64_t failing_seed;

void sim_failing(uint64_t seed)
{
    failing_seed = seed;
}

void sim_fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "simulate: %s: ",
            code == SIM_STUCK    ? "stuck"
            : code == SIM_UNSAFE ? "unsafe"
                                 : "assert");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\nsimulate: seed=%llu; repeat: simulate --schedules 1 --seed %llu --verbose\n",
            (unsigned long long)failing_seed, (unsigned long long)failing_seed);
    va_end(args);
    fflush(stdout);
    fflush(stderr);
    _exit(code);
}

void truth_init(struct truth *truth, const struct bl_plan *plan)
{
    truth->plan = plan;
    truth->fresh = bl_mix64(plan->seed, 77);
    truth->node_count = 0;
    truth->generation = truth->committed = 0;
    truth->states[0] = truth->fresh;
    truth->validating = UINT64_MAX;
}

static const struct truth_node *node_of(const struct truth *truth, uint64_t digest)
{
    for (uint32_t i = truth->node_count; i-- > 0;)
        if (truth->nodes[i].digest == digest)
            return &truth->nodes[i];
    return NULL;
}

uint64_t truth_reduced(struct truth *truth, uint64_t generation, uint64_t step, uint64_t state,
                       uint32_t count, uint64_t sum, uint64_t expected)
{
    if (count != truth->plan->batch || sum != expected)
        sim_fail(
            SIM_UNSAFE,
            "step %llu of generation %llu trained %u of %u batch indices, terms %llx, not %llx",
            (unsigned long long)step, (unsigned long long)generation, count, truth->plan->batch,
            (unsigned long long)sum, (unsigned long long)expected);
    for (uint32_t i = 0; i < truth->node_count; i++)
        if (truth->nodes[i].generation == generation && truth->nodes[i].step == step)
            sim_fail(SIM_UNSAFE, "generation %llu reduced step %llu twice",
                     (unsigned long long)generation, (unsigned long long)step);
    BL_ASSERT_CMP(truth->node_count, <, TRUTH_NODES_MAX);
    /* The generation is part of it: without `reproducible`, a step done again has other bits. */
    uint64_t digest = bl_mix64(bl_mix64(state, step), bl_mix64(generation, sum));
    truth->nodes[truth->node_count++] = (struct truth_node){digest, state, generation, step};
    return digest;
}

/* The state after `step` steps in the history of `state`, which has `steps` of them. */
static uint64_t ancestor(const struct truth *truth, uint64_t state, uint64_t steps, uint64_t step)
{
    for (; steps > step; steps--) {
        const struct truth_node *node = node_of(truth, state);
        if (!node || node->step != steps - 1)
            sim_fail(SIM_UNSAFE, "a state said to have %llu steps has another history",
                     (unsigned long long)steps);
        state = node->parent;
    }
    if (step == 0 && state != truth->fresh)
        sim_fail(SIM_UNSAFE, "a state that does not begin with the fresh one");
    return state;
}

void truth_lives(const struct truth *truth, uint64_t state, uint64_t step, const char *where)
{
    uint64_t common = step < truth->committed ? step : truth->committed;
    ancestor(truth, state, step, 0);
    if (ancestor(truth, state, step, common) != truth->states[common])
        sim_fail(SIM_UNSAFE, "%s: the state after %llu steps is not of the lineage that lives",
                 where, (unsigned long long)step);
}

static void truth_commit(struct truth *truth, const struct coord_record *record, uint64_t formed)
{
    if (record->step != truth->committed)
        sim_fail(SIM_UNSAFE, "step %llu is committed after %llu", (unsigned long long)record->step,
                 (unsigned long long)truth->committed);
    const struct truth_node *node = NULL;
    if (record->via_survivors) {
        uint64_t state = formed;
        for (node = node_of(truth, state); node && node->step > record->step;
             node = node_of(truth, state))
            state = node->parent;
    } else {
        for (uint32_t i = 0; i < truth->node_count; i++)
            if (truth->nodes[i].generation == record->generation &&
                truth->nodes[i].step == record->step)
                node = &truth->nodes[i];
    }
    if (!node || node->step != record->step)
        sim_fail(SIM_UNSAFE, "step %llu is committed and nobody applied it",
                 (unsigned long long)record->step);
    if (node->parent != truth->states[truth->committed])
        sim_fail(SIM_UNSAFE, "step %llu is committed upon another state than the committed one",
                 (unsigned long long)record->step);
    truth->states[++truth->committed] = node->digest;
}

void truth_record(struct truth *truth, const struct coord_record *record, uint64_t saved,
                  uint64_t formed)
{
    switch (record->type) {
    case COORD_RECORD_COMMIT:
        truth_commit(truth, record, formed);
        break;
    case COORD_RECORD_REWIND:
        if (record->step > truth->committed)
            sim_fail(SIM_UNSAFE, "rewind beyond what is committed");
        if (record->generation != 0)
            truth_lives(truth, saved, record->step, "rewind");
        truth->committed = record->step;
        truth->generation = 0; /* until the one that loads the checkpoint is planned */
        truth->validating = UINT64_MAX;
        break;
    case COORD_RECORD_GENERATION:
        truth->generation = record->generation;
        break;
    case COORD_RECORD_CHECKPOINT:
        if (record->step > truth->committed)
            sim_fail(SIM_UNSAFE, "a checkpoint beyond what is committed");
        truth_lives(truth, saved, record->step, "checkpoint");
        break;
    case COORD_RECORD_VALIDATED:
        for (uint32_t micro_batch = 0;
             micro_batch < bl_plan_micro_batches(truth->plan, BL_KIND_VALIDATE); micro_batch++)
            if (truth->validating != record->step || !truth->accepted[micro_batch])
                sim_fail(SIM_UNSAFE, "validation after %llu steps lacks micro-batch %u",
                         (unsigned long long)record->step, micro_batch);
        break;
    default:
        break;
    }
}

void truth_accepted(struct truth *truth, uint64_t step, uint32_t micro_batch)
{
    if (truth->validating != step) {
        truth->validating = step;
        memset(truth->accepted, 0, sizeof truth->accepted);
    }
    if (truth->accepted[micro_batch])
        sim_fail(SIM_UNSAFE, "validation micro-batch %u after %llu steps counts twice", micro_batch,
                 (unsigned long long)step);
    truth->accepted[micro_batch] = true;
}
