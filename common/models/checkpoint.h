/* common/models/checkpoint.h - a checkpoint folder's state.json: what is needed to resume, and the
 * checksums of the files beside it.
 *
 *   qformer.safetensors, projector.safetensors    the weights, by the notebooks' names
 *   qformer.T.safetensors, projector.T.safetensors
 *                                                 the same of every other tensor T of the training
 *                                                 state: the optimizer's (moment1, moment2), and ema,
 *                                                 averaged weights, if the run keeps them
 *   state.json                                    files: SHA-256 of each file; zero: the tensors that
 *                                                 have no file because they are zero; weights_sha256:
 *                                                 over the weights alone, the same for equal weights
 *                                                 (docs/recipe.md, Checkpoint); sha256: of state.json
 *                                                 itself without this key
 *
 * The folder appears whole (worker/checkpoint.c). A damaged file is refused by name. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/models/hf.h"

#define CHECKPOINT_FILES_MAX 32
#define CHECKPOINT_ZERO_MAX 8
#define CHECKPOINT_PATH_MAX 4096

struct checkpoint_file {
    char name[64], sha256[65];
};

struct checkpoint_state {
    /* as struct trainer_state (worker/trainer.h) */
    int64_t step, updates, skipped_bad, skipped_outliers;
    double norm_mean, norm_square;
    int64_t norm_count;
    char data_fingerprint[65];       /* 64 hexadecimal digits, as the other hashes */
    enum hf_identity model_identity; /* that of vision_sha256 and llm_sha256 */
    char vision_path[CHECKPOINT_PATH_MAX], vision_sha256[65];
    char llm_path[CHECKPOINT_PATH_MAX], llm_sha256[65];
    char weights_sha256[65]; /* "" in a checkpoint that says none */
    char device[512];        /* what computed it, as ops_device_kind says; "" likewise */
    int zero_count;
    char zero[CHECKPOINT_ZERO_MAX][32]; /* names of tensors */
    char *config;                       /* the effective configuration, canonical text; owned */
    int file_count;
    struct checkpoint_file files[CHECKPOINT_FILES_MAX];
};

/* A tensor's files: the part of the model that they hold. */
enum checkpoint_part { CHECKPOINT_QFORMER, CHECKPOINT_PROJECTOR, CHECKPOINT_PARTS };
/* The name of one: "qformer.safetensors", "projector.moment1.safetensors". tensor "": the weights. */
int checkpoint_file_name(char *ret, size_t size, int part, const char *tensor,
                         struct bl_error *err);
/* Is it the name of a file that a checkpoint may have: of a tensor, or state.json? */
bool checkpoint_is_file_name(const char *name);

void checkpoint_state_release(struct checkpoint_state *state);
/* Writes FOLDER/state.json, whole or not at all. */
int checkpoint_state_write(const char *folder, const struct checkpoint_state *state,
                           struct bl_error *err);
/* Reads it and checks its own checksum; *ret is the caller's (checkpoint_state_release). */
int checkpoint_state_read(const char *folder, struct checkpoint_state *ret, struct bl_error *err);
bool checkpoint_is_zero(const struct checkpoint_state *state, const char *tensor);
bool checkpoint_has_file(const struct checkpoint_state *state, const char *name);
/* Compares every file with its checksum; -BL_EFORMAT names the damaged one. */
int checkpoint_verify(const char *folder, const struct checkpoint_state *state,
                      struct bl_error *err);
