/* worker/checkpoint.c - writing and reading checkpoint folders. */
#include "worker/checkpoint.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"

static const char *const file_stems[] = {
    [CAPTIONER_QFORMER] = "qformer", [CAPTIONER_PROJECTOR] = "projector"};
/* What is kept beside the weights; "" is the weights themselves. */
static const char *const kinds[] = {"", ".moment1", ".moment2", ".ema"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void tensors_of(const struct trainer_snapshot *s, float *ret[KINDS])
{
    ret[0] = s->values;
    ret[1] = s->moment1;
    ret[2] = s->moment2;
    ret[3] = s->ema;
}

static int file_name(char ret[64], int kind, enum captioner_file file)
{
    return snprintf(ret, 64, "%s%s.safetensors", file_stems[file], kinds[kind]);
}

/* Every file of the folder, and their checksums into state. */
static int write_files(const struct captioner_params *params,
                       const struct trainer_snapshot *snapshot, const char *folder,
                       struct checkpoint_state *state, struct bl_error *err)
{
    float *tensors[KINDS];
    tensors_of(snapshot, tensors);
    state->file_count = 0;
    for (int kind = 0; kind < KINDS; kind++)
        for (int file = CAPTIONER_QFORMER; file <= CAPTIONER_PROJECTOR && tensors[kind]; file++) {
            struct checkpoint_file *entry = &state->files[state->file_count++];
            char path[4096];
            file_name(entry->name, kind, file);
            BL_TRY(bl_path_join(path, sizeof path, folder, entry->name, err));
            BL_TRY(captioner_params_write(params, file, path, tensors[kind], NULL, err));
            BL_TRY(bl_file_sha256(path, entry->sha256, err));
        }
    return checkpoint_state_write(folder, state, err);
}

int checkpoint_write(const struct captioner_params *params, const struct trainer_snapshot *snapshot,
                     const struct checkpoint_state *metadata, const char *folder,
                     struct bl_error *err)
{
    char temporary[4096], parent[4096];
    if (snprintf(temporary, sizeof temporary, "%s.tmp.%d", folder, (int)getpid()) >=
        (int)sizeof temporary)
        return bl_fail(err, BL_ELIMIT, "the path %.200s is too long", folder);
    snprintf(parent, sizeof parent, "%s", folder);
    *strrchr(parent, '/') = 0;
    BL_TRY(bl_folder_remove(temporary, err));
    BL_TRY(bl_folder_make(temporary, err));

    struct checkpoint_state state = *metadata;
    state.step = snapshot->state.step;
    state.updates = snapshot->state.updates;
    state.skipped_bad = snapshot->state.skipped_bad;
    state.skipped_outliers = snapshot->state.skipped_outliers;
    state.norm_mean = snapshot->state.norm_mean;
    state.norm_square = snapshot->state.norm_square;
    state.norm_count = snapshot->state.norm_count;
    int rc = write_files(params, snapshot, temporary, &state, err);
    if (rc == 0)
        rc = bl_folder_sync(temporary, err);
    if (rc == 0)
        rc = bl_folder_remove(folder, err);
    if (rc == 0 && rename(temporary, folder) < 0) {
        bl_fail_errno(err, "the checkpoint cannot be put in place");
        rc = bl_error_file(err, folder);
    }
    if (rc < 0) {
        bl_folder_remove(temporary, NULL);
        return rc;
    }
    return bl_folder_sync(parent, err);
}

static int read_files(const struct captioner_params *params, const char *folder,
                      struct trainer_snapshot *snapshot, const struct checkpoint_state *state,
                      struct bl_error *err)
{
    float *tensors[KINDS];
    tensors_of(snapshot, tensors);
    if (snapshot->ema)
        memset(snapshot->ema, 0, (size_t)snapshot->count * sizeof(float));
    bool has_ema = false;
    for (int i = 0; i < state->file_count; i++)
        has_ema |= strstr(state->files[i].name, ".ema.") != NULL;
    for (int kind = 0; kind < KINDS; kind++)
        for (int file = CAPTIONER_QFORMER; file <= CAPTIONER_PROJECTOR && tensors[kind]; file++) {
            char name[64], path[4096];
            file_name(name, tensors[kind] == snapshot->ema && !has_ema ? 0 : kind, file);
            BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
            BL_TRY(captioner_params_read(params, file, path, tensors[kind], err));
        }
    return 0;
}

int checkpoint_read(const struct captioner_params *params, const char *folder,
                    struct trainer_snapshot *snapshot, struct checkpoint_state *ret_state,
                    struct bl_error *err)
{
    struct checkpoint_state state;
    BL_TRY(checkpoint_state_read(folder, &state, err));
    int rc = checkpoint_verify(folder, &state, err);
    if (rc == 0)
        rc = read_files(params, folder, snapshot, &state, err);
    snapshot->state = (struct trainer_state){.step = state.step,
                                             .updates = state.updates,
                                             .skipped_bad = state.skipped_bad,
                                             .skipped_outliers = state.skipped_outliers,
                                             .norm_mean = state.norm_mean,
                                             .norm_square = state.norm_square,
                                             .norm_count = state.norm_count};
    if (rc == 0 && ret_state)
        *ret_state = state;
    else
        checkpoint_state_release(&state);
    return rc;
}

int checkpoint_read_weights(const struct captioner_params *params, const char *folder,
                            float *ret_values, struct bl_error *err)
{
    struct checkpoint_state state;
    BL_TRY(checkpoint_state_read(folder, &state, err));
    int rc = checkpoint_verify(folder, &state, err);
    checkpoint_state_release(&state);
    for (int file = CAPTIONER_QFORMER; file <= CAPTIONER_PROJECTOR && rc == 0; file++) {
        char name[64], path[4096];
        file_name(name, 0, file);
        rc = bl_path_join(path, sizeof path, folder, name, err);
        if (rc == 0)
            rc = captioner_params_read(params, file, path, ret_values, err);
    }
    return rc;
}
