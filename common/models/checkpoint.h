/* common/models/checkpoint.h - a checkpoint folder's state.json: what is needed to go on, and the
 * checksums of the files beside it.
 *
 *   qformer.safetensors, projector.safetensors              the weights, by the notebooks' names
 *   *.moment1.safetensors, *.moment2.safetensors            Adam's moments
 *   *.ema.safetensors                                       averaged weights, if the run keeps them
 *   state.json
 *
 * The folder appears whole (worker/checkpoint.c); state.json carries the SHA-256 of every file and
 * of itself, so that a damaged one is refused by name. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define CHECKPOINT_FILES_MAX 8

struct checkpoint_file {
    char name[64], sha256[65];
};

struct checkpoint_state {
    /* as struct trainer_state (worker/trainer.h) */
    int64_t step, updates, skipped_bad, skipped_outliers;
    double norm_mean, norm_square;
    int64_t norm_count;
    char data_fingerprint[65]; /* 64 hexadecimal digits, as the other hashes */
    char vision_path[1024], vision_sha256[65];
    char llm_path[1024], llm_sha256[65];
    char *config; /* the effective configuration, canonical text; owned */
    int file_count;
    struct checkpoint_file files[CHECKPOINT_FILES_MAX];
};

void checkpoint_state_release(struct checkpoint_state *state);
/* Writes FOLDER/state.json, whole or not at all. */
int checkpoint_state_write(const char *folder, const struct checkpoint_state *state,
                           struct bl_error *err);
/* Reads it and checks its own checksum; *ret is the caller's (checkpoint_state_release). */
int checkpoint_state_read(const char *folder, struct checkpoint_state *ret, struct bl_error *err);
/* Compares every file with its checksum; -BL_EFORMAT names the damaged one. */
int checkpoint_verify(const char *folder, const struct checkpoint_state *state,
                      struct bl_error *err);
