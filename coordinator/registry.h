/* coordinator/registry.h - RUN/checkpoints: verified, pointed to, pruned. File work only; the core decides what counts. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "coordinator/core.h"

/* All files there and all checksums hold? Reads everything: for a worker thread. */
int registry_verify(const char *run_folder, struct coord_checkpoint checkpoint,
                    struct bl_error *err);

/* RUN/checkpoints/NAME -> the checkpoint's folder: "latest", "best". */
int registry_point(const char *run_folder, const char *name, struct coord_checkpoint checkpoint,
                   struct bl_error *err);

/* Removes every folder of RUN/checkpoints that is none of the `count` to keep, half-written ones included. */
int registry_prune(const char *run_folder, const struct coord_checkpoint *keep, int count,
                   struct bl_error *err);
