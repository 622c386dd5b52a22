/* coordinator/registry.h - RUN/checkpoints: verified, pointed to, pruned. File work only; the core decides what counts. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "coordinator/ledger.h"

/* All files there and all checksums hold? Reads everything: for a worker thread. */
int registry_verify(const char *run_folder, struct coord_checkpoint checkpoint,
                    struct bl_error *err);

/* The hash over its weights, as state.json says it; "" if it says none. 64 digits and a NUL. */
int registry_weights_sha256(const char *run_folder, struct coord_checkpoint checkpoint,
                            char ret_hex[65], struct bl_error *err);

/* Was the checkpoint trained on that data (dataset_fingerprint, in hexadecimal)? -BL_ECONFIG if not. What cannot be read
 * is nobody's to compare: verifying names it. */
int registry_fits_data(const char *run_folder, struct coord_checkpoint checkpoint,
                       const char *fingerprint, struct bl_error *err);

/* RUN/checkpoints/NAME -> the checkpoint's folder: "latest", "best". */
int registry_point(const char *run_folder, const char *name, struct coord_checkpoint checkpoint,
                   struct bl_error *err);

/* Removes such a link. Absent is fine. */
int registry_unpoint(const char *run_folder, const char *name, struct bl_error *err);

/* Removes one checkpoint. Absent is fine. */
int registry_remove(const char *run_folder, struct coord_checkpoint checkpoint,
                    struct bl_error *err);

/* Before the run starts: removes every folder of RUN/checkpoints that is neither the best nor one of the `count` registered
 * ones, what a killed worker left half written included. */
int registry_tidy(const char *run_folder, const struct coord_checkpoint *registered, int count,
                  struct coord_checkpoint best, struct bl_error *err);
