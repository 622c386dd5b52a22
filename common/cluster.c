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

void bl_plan_sample(const struct bl_plan *plan, uint64_t step, uint32_t index, uint32_t *ret_epoch,
                    uint64_t *ret_index)
{
    uint64_t position = step * plan->batch + index, epoch = position / plan->train_samples;
    *ret_epoch = (uint32_t)epoch;
    *ret_index = bl_permute(plan->seed, epoch, plan->train_samples, position % plan->train_samples);
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
