/* coordinator/ledger.c - see ledger.h. */
#include "coordinator/ledger.h"

#include <stdio.h>
#include <string.h>

void coord_checkpoint_name(struct coord_checkpoint checkpoint, char ret[COORD_CHECKPOINT_NAME_MAX])
{
    snprintf(ret, COORD_CHECKPOINT_NAME_MAX, "step-%06llu-g%llu",
             (unsigned long long)checkpoint.step, (unsigned long long)checkpoint.generation);
}

void coord_ledger_init(struct coord_ledger *ledger)
{
    *ledger = (struct coord_ledger){.validated = -1};
}

static int contradiction(struct bl_error *err, const char *what, uint64_t expected, uint64_t found)
{
    return bl_fail(err, BL_EFORMAT, "%s: expected %llu but found %llu", what,
                   (unsigned long long)expected, (unsigned long long)found);
}

static uint32_t checkpoint_find(const struct coord_ledger *ledger, uint64_t step)
{
    uint32_t i = 0;
    while (i < ledger->checkpoint_count && ledger->checkpoints[i].step < step)
        i++;
    return i;
}

static bool checkpoint_at(const struct coord_ledger *ledger, uint32_t i, uint64_t step)
{
    return i < ledger->checkpoint_count && ledger->checkpoints[i].step == step;
}

static void checkpoint_remove(struct coord_ledger *ledger, uint32_t i)
{
    ledger->checkpoint_count--;
    memmove(&ledger->checkpoints[i], &ledger->checkpoints[i + 1],
            (ledger->checkpoint_count - i) * sizeof *ledger->checkpoints);
}

static void checkpoint_insert(struct coord_ledger *ledger, struct coord_checkpoint checkpoint)
{
    if (ledger->checkpoint_count == BL_CHECKPOINTS_KEPT_MAX)
        checkpoint_remove(ledger, 0);
    uint32_t i = checkpoint_find(ledger, checkpoint.step);
    memmove(&ledger->checkpoints[i + 1], &ledger->checkpoints[i],
            (ledger->checkpoint_count - i) * sizeof *ledger->checkpoints);
    ledger->checkpoints[i] = checkpoint;
    ledger->checkpoint_count++;
}

static int apply_rewind(struct coord_ledger *ledger, const struct coord_record *record,
                        struct bl_error *err)
{
    if (record->step > ledger->committed)
        return contradiction(err, "rewind beyond the commits", ledger->committed, record->step);
    if (record->generation == 0 && record->step != 0)
        return contradiction(err, "rewind without a checkpoint", 0, record->step);
    if (record->generation != 0 &&
        !checkpoint_at(ledger, checkpoint_find(ledger, record->step), record->step))
        return contradiction(err, "rewind to a checkpoint that is not registered",
                             ledger->checkpoint_count, record->step);
    ledger->committed = record->step;
    if (ledger->validated > (int64_t)record->step)
        ledger->validated = (int64_t)record->step;
    ledger->floor = ledger->generation + 1;
    ledger->rewinds++;
    while (ledger->checkpoint_count > 0 &&
           ledger->checkpoints[ledger->checkpoint_count - 1].step > record->step)
        ledger->checkpoint_count--;
    return 0;
}

static int apply_commit(struct coord_ledger *ledger, const struct coord_record *record,
                        struct bl_error *err)
{
    if (record->step != ledger->committed)
        return contradiction(err, "committed step", ledger->committed, record->step);
    if (record->generation < ledger->formed || record->generation < ledger->floor ||
        record->generation > ledger->generation)
        return contradiction(err, "generation of a commit", ledger->generation, record->generation);
    ledger->committed++;
    ledger->formed = record->generation;
    return 0;
}

int coord_ledger_apply(struct coord_ledger *ledger, const struct coord_record *record,
                       struct bl_error *err)
{
    bool begins = record->type == COORD_RECORD_START, any_time = record->type == COORD_RECORD_EPOCH;
    if (!any_time && ledger->started == begins)
        return contradiction(err, "records before START", !ledger->started, ledger->started);
    uint32_t i = checkpoint_find(ledger, record->step);
    switch (record->type) {
    case COORD_RECORD_START:
        ledger->started = true;
        return 0;
    case COORD_RECORD_GENERATION:
        if (record->generation <= ledger->generation)
            return contradiction(err, "next generation", ledger->generation + 1,
                                 record->generation);
        ledger->generation = record->generation;
        ledger->world = record->world;
        ledger->finished = false;
        return 0;
    case COORD_RECORD_REWIND:
        return apply_rewind(ledger, record, err);
    case COORD_RECORD_COMMIT:
        return apply_commit(ledger, record, err);
    case COORD_RECORD_VALIDATED:
        if (record->step > ledger->committed || (int64_t)record->step <= ledger->validated)
            return contradiction(err, "validated step", ledger->committed, record->step);
        ledger->validated = (int64_t)record->step;
        return 0;
    case COORD_RECORD_CHECKPOINT:
        if (record->step > ledger->committed || checkpoint_at(ledger, i, record->step))
            return contradiction(err, "step of a new checkpoint", ledger->committed, record->step);
        checkpoint_insert(ledger, (struct coord_checkpoint){record->step, record->generation});
        return 0;
    case COORD_RECORD_DAMAGED:
    case COORD_RECORD_REMOVED:
        if (!checkpoint_at(ledger, i, record->step))
            return contradiction(err, "step of a registered checkpoint", ledger->committed,
                                 record->step);
        checkpoint_remove(ledger, i);
        return 0;
    case COORD_RECORD_FINISH:
        ledger->finished = true;
        return 0;
    case COORD_RECORD_EPOCH:
        if (record->step <= ledger->epoch)
            return contradiction(err, "next epoch", ledger->epoch + 1, record->step);
        ledger->epoch = record->step;
        return 0;
    case COORD_RECORD_COUNT:
        break;
    }
    return contradiction(err, "type of a record", COORD_RECORD_COUNT, record->type);
}
