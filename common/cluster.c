/* common/cluster.c - micro-batches, shares, milestones and waiting times: what all three programs compute
 * alike. */
#include "common/cluster.h"

#include "common/error.h"
#include "common/random.h"

struct bl_timing bl_timing_of(uint32_t patience_ms)
{
    return (struct bl_timing){
        .heartbeat_ms = patience_ms / 6,
        .lost_ms = patience_ms,
        .lease_ms = patience_ms,
        .forming_ms = 2 * patience_ms,
        .note_ms = 3 * patience_ms,
        .drain_ms = 4 * patience_ms,
        .stalled_ms = 20 * patience_ms,
    };
}

enum bl_kind bl_plan_pass(const struct bl_plan *plan)
{
    return plan->kind == BL_KIND_EMBED ? BL_KIND_EMBED : BL_KIND_VALIDATE;
}

static uint64_t indices_of(const struct bl_plan *plan, enum bl_kind kind)
{
    return bl_kind_is_pass(kind) ? plan->validate_samples : plan->batch;
}

uint32_t bl_plan_micro_batches(const struct bl_plan *plan, enum bl_kind kind)
{
    return (uint32_t)((indices_of(plan, kind) + plan->micro_batch - 1) / plan->micro_batch);
}

struct bl_range bl_plan_indices(const struct bl_plan *plan, enum bl_kind kind, uint32_t micro_batch)
{
    BL_ASSERT_CMP(micro_batch, <, bl_plan_micro_batches(plan, kind));
    uint64_t first = (uint64_t)micro_batch * plan->micro_batch,
             left = indices_of(plan, kind) - first;
    return (struct bl_range){(uint32_t)first,
                             left < plan->micro_batch ? (uint32_t)left : plan->micro_batch};
}

uint32_t bl_plan_world_max(const struct bl_plan *plan)
{
    return bl_plan_micro_batches(plan, plan->kind);
}

struct bl_range bl_share(uint32_t total, uint32_t rank, uint32_t world)
{
    BL_ASSERT_CMP(rank, <, world);
    uint32_t first = (uint32_t)((uint64_t)rank * total / world);
    uint32_t end = (uint32_t)(((uint64_t)rank + 1) * total / world);
    return (struct bl_range){first, end - first};
}

static bool every(uint64_t period, uint64_t step)
{
    return period > 0 && step % period == 0;
}

bool bl_plan_checkpoints(const struct bl_plan *plan, uint64_t step)
{
    if (plan->kind == BL_KIND_EMBED)
        return false;
    return step == 0 || step == plan->steps || every(plan->checkpoint_every, step);
}

bool bl_plan_snapshots(const struct bl_plan *plan, uint64_t step)
{
    return step > 0 && step < plan->steps && every(plan->checkpoint_every, step);
}

bool bl_plan_validates(const struct bl_plan *plan, uint64_t step)
{
    if (plan->validate_samples == 0)
        return false;
    if (step == 0)
        return plan->validate_at_start;
    return step == plan->steps || every(plan->validate_every, step);
}

uint64_t bl_plan_epoch(const struct bl_plan *plan)
{
    uint64_t draws = 0;
    for (uint32_t s = 0; s < plan->source_count; s++)
        draws += plan->sources[s].draws;
    return plan->source_count ? draws : plan->train_samples;
}

/* Draw k of a source in an epoch: it goes on in the source's own permutations where the epoch before ended. Where an epoch takes
 * whole passes, the order over all sources has shuffled them already. */
static uint64_t draw_sample(const struct bl_plan *plan, uint32_t s, uint64_t epoch, uint64_t k,
                            uint32_t *ret_pass)
{
    const struct bl_source *source = &plan->sources[s];
    uint64_t draw = epoch * source->draws + k, pass = draw / source->samples,
             i = draw % source->samples;
    *ret_pass = (uint32_t)pass;
    if (source->draws % source->samples == 0)
        return i;
    return bl_permute(bl_mix64(plan->seed, s + 1), pass, source->samples, i);
}

void bl_plan_sample(const struct bl_plan *plan, uint64_t step, uint32_t index, uint32_t *ret_pass,
                    uint64_t *ret_index)
{
    uint64_t position = step * plan->batch + index, draws = bl_plan_epoch(plan),
             epoch = position / draws, first = 0;
    uint64_t k = bl_permute(plan->seed, epoch, draws, position % draws);
    *ret_pass = (uint32_t)epoch;
    *ret_index = k;
    for (uint32_t s = 0; s < plan->source_count; s++) {
        if (k < plan->sources[s].draws) {
            *ret_index = first + draw_sample(plan, s, epoch, k, ret_pass);
            return;
        }
        k -= plan->sources[s].draws;
        first += plan->sources[s].samples;
    }
}

uint64_t bl_plan_validation_sample(const struct bl_plan *plan, uint64_t index)
{
    uint64_t first = 0;
    for (uint32_t s = 0; s < plan->source_count; s++) {
        if (index < plan->sources[s].validated)
            return first + index;
        index -= plan->sources[s].validated;
        first += plan->sources[s].validation;
    }
    return first + index;
}

uint64_t bl_plan_choose_validation(struct bl_plan *plan, uint64_t most)
{
    uint64_t all = 0, seen = 0;
    for (uint32_t s = 0; s < plan->source_count; s++)
        all += plan->sources[s].validation;
    if (most == 0 || most > all)
        most = all;
    for (uint32_t s = 0; s < plan->source_count; s++) {
        struct bl_source *source = &plan->sources[s];
        uint64_t before = all ? seen * most / all : 0;
        seen += source->validation;
        source->validated = (all ? seen * most / all : 0) - before;
    }
    return most;
}

const char *bl_stop_text(int code)
{
    if (code == BL_OK)
        return "the run is complete";
    return code == BL_ESTOPPED ? "the run was stopped before its end"
                               : "the run ended with an error";
}

uint64_t bl_sample_term(uint32_t index, uint64_t sample)
{
    return bl_mix64(index, sample);
}
