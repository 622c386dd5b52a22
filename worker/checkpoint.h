/* worker/checkpoint.h - a checkpoint folder from a snapshot, and back (common/models/checkpoint.h says
 * what is in it). */
#pragma once

#include "common/models/checkpoint.h"
#include "worker/trainer.h"

/* Writes `folder` whole or not at all: under a temporary name, every file synced, then renamed. The
 * counters come from the snapshot, the paths, hashes and configuration from `metadata`. An older
 * folder of the same name is replaced. Any thread. */
int checkpoint_write(const struct captioner_params *params, const struct trainer_snapshot *snapshot,
                     const struct checkpoint_state *metadata, const char *folder,
                     struct bl_error *err);

/* Reads and verifies everything into `snapshot`, made by trainer_snapshot_make. EMA absent: the
 * weights. ret_state, or NULL, is the caller's
 * (checkpoint_state_release). */
int checkpoint_read(const struct captioner_params *params, const char *folder,
                    struct trainer_snapshot *snapshot, struct checkpoint_state *ret_state,
                    struct bl_error *err);

/* The weights alone (params->count floats), verified: what train.init_from takes. The folder need
 * not hold moments. */
int checkpoint_read_weights(const struct captioner_params *params, const char *folder,
                            float *ret_values, struct bl_error *err);
