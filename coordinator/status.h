/* coordinator/status.h - what `blipren-coord status` prints: the answer to CONTROL_STATUS as text for people.
 *
 * The answer, which --json prints as it is (a null stands for what is not known):
 *   run_folder, host, pid, version, endpoint, security
 *   state            a name of enum coord_state
 *   stopping         a stop was asked for
 *   generation, step, steps, epoch, loss, images_per_s, tokens_per_s, seconds_left
 *   bound_by         "data", "compute", "all-reduce": where a step's time goes
 *   checkpoint       steps in the newest registered one
 *   samples_seen, samples_bad
 *   workers_needed   that have yet to come before training can begin
 *   waiting          null, or who is holding everything up at this moment: peer, for, other, kind, step, micro_batch,
 *                    seconds (since the run made progress)
 *   workers          [name, host, state, doing, waiting, rank, step, data_s, compute_s, reduce_s (of a step, means),
 *                    heard_s, progress_s (ago), left_out], by rank
 *   loaders          [name, host, state, doing, waiting, assignments, capacity, heard_s, progress_s], by name */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "common/error.h"

/* *ret is the caller's (free). -BL_ENOMEM. */
int status_text(const json_t *status, char **ret, struct bl_error *err);
