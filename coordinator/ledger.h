/* coordinator/ledger.h - what the journal says: checkpoints, records, and the ledger, which is the fold of the records and
 * nothing else. The live core changes its durable state through the same function, once a record is on disk, so that a
 * replayed journal and a running coordinator cannot disagree (docs/protocol.md, J1). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/limits.h"

/* A checkpoint is the state after `step` steps, saved in `generation` (0 = none: fresh state). */
struct coord_checkpoint {
    uint64_t step, generation;
};
/* Its folder's name inside the run's checkpoints folder, "step-000100-g3": unique in the run, so
 * that a rank 0 believed dead can never write over another's. */
#define COORD_CHECKPOINT_NAME_MAX 64
void coord_checkpoint_name(struct coord_checkpoint checkpoint, char ret[COORD_CHECKPOINT_NAME_MAX]);

/* name, effect on the ledger */
#define COORD_RECORDS(X)                                                                           \
    X(START, "the run begins")                                                                     \
    X(GENERATION, "a generation is planned")                                                       \
    X(REWIND, "no state survived: back to a checkpoint, later commits are annulled")               \
    X(COMMIT, "a step is part of the living lineage")                                              \
    X(VALIDATED, "the validation after that many steps is complete")                               \
    X(CHECKPOINT, "a checkpoint is complete on disk")                                              \
    X(DAMAGED, "a registered checkpoint failed its checksums")                                     \
    X(REMOVED, "a registered checkpoint is older than what is kept")                               \
    X(FINISH, "every process was told to leave")                                                   \
    X(EPOCH, "a coordinator started: what came before is another's")
enum coord_record_type {
#define X(name, effect) COORD_RECORD_##name,
    COORD_RECORDS(X)
#undef X
        COORD_RECORD_COUNT
};

/* One entry of the journal. Fields that a type does not name are 0. */
struct coord_record {
    enum coord_record_type type;
    uint64_t
        generation; /* GENERATION, COMMIT; of the checkpoint: REWIND, CHECKPOINT, DAMAGED, REMOVED */
    uint64_t step;  /* COMMIT: 0-based step; EPOCH: its number; otherwise steps done */
    /* COMMIT: of the batch indices trained; START: of what the plan cannot change */
    uint64_t digest;
    uint32_t world;     /* GENERATION */
    uint32_t code;      /* FINISH: 0 or BL_E… */
    bool via_survivors; /* COMMIT: known from a survivor's state, not from everyone's report */
};

/* What the journal says: the fold of its records, and nothing else. */
struct coord_ledger {
    bool started;
    uint64_t
        epoch; /* of the coordinator whose records are the latest; 0: of a version without epochs */
    uint64_t generation; /* highest planned */
    uint32_t world;      /* of that */
    uint64_t formed;     /* highest generation known to have been formed: older states are dead */
    uint64_t floor;      /* states of generations below it were annulled by a rewind */
    uint64_t committed;  /* steps of the living lineage */
    int64_t validated;   /* highest steps-done whose validation is complete; -1 = none */
    uint64_t rewinds;
    bool finished;
    uint32_t checkpoint_count; /* ascending steps */
    struct coord_checkpoint checkpoints[BL_CHECKPOINTS_KEPT_MAX];
};
void coord_ledger_init(struct coord_ledger *ledger);
/* Applies one record; -BL_EFORMAT names what contradicts what came before. */
int coord_ledger_apply(struct coord_ledger *ledger, const struct coord_record *record,
                       struct bl_error *err);
