/* coordinator/best.h - which checkpoint has the lowest validation loss: RUN/checkpoints/best.
 *
 * A checkpoint may be on disk before the validation of its state is through, or some validations after it: losses wait for theirs. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "coordinator/ledger.h"

enum { BEST_WAITING_MAX = 16 }; /* more than checkpoints can be on their way to the disk */

struct best {
    struct coord_checkpoint checkpoint; /* generation 0: none */
    double loss;
    struct {
        uint64_t step;
        double loss;
    } waiting[BEST_WAITING_MAX]; /* validations whose checkpoint is not registered, oldest first */
    int waiting_count;
};

void best_init(struct best *best);
/* What an earlier coordinator found: the link, and the loss in metrics.jsonl. Neither there, or no longer whole: none. */
int best_read(const char *run_folder, struct best *ret, struct bl_error *err);
/* Takes note of a validation. */
void best_validated(struct best *best, uint64_t step, double loss);
/* After a validation and after a registration: is there a better checkpoint now? */
bool best_improves(struct best *best, const struct coord_ledger *ledger);
/* The run went back to that step: what came after it does not count. */
void best_rewound(struct best *best, uint64_t step);
