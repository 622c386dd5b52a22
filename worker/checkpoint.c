/* worker/checkpoint.c - writing and reading checkpoint folders. */
#include "worker/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

enum { FILES = CHECKPOINT_PARTS }; /* of a tensor */
_Static_assert((int)CAPTIONER_QFORMER == (int)CHECKPOINT_QFORMER &&
                   (int)CAPTIONER_PROJECTOR == (int)CHECKPOINT_PROJECTOR,
               "parts are numbered alike");
_Static_assert(FILES *TRAINER_TENSORS_MAX <= CHECKPOINT_FILES_MAX, "a name for every file");
_Static_assert(OPTIMIZER_TENSORS_MAX <= CHECKPOINT_ZERO_MAX, "and for every tensor without one");

/* ---- Writing ------------------------------------------------------------------------------------
 */

/* The files of a folder that is being written: open until all of them hold their bytes. */
struct files {
    const char *folder;
    struct bl_file_writer writers[CHECKPOINT_FILES_MAX];
};

static int write_file(struct files *files, const struct captioner_params *params,
                      enum captioner_file file, const char *tensor, const float *data,
                      struct checkpoint_state *state, struct bl_error *err)
{
    struct checkpoint_file *entry = &state->files[state->file_count];
    struct bl_file_writer *writer = &files->writers[state->file_count];
    char path[4096];
    uint8_t hash[32];
    BL_TRY(checkpoint_file_name(entry->name, sizeof entry->name, (int)file, tensor, err));
    BL_TRY(bl_path_join(path, sizeof path, files->folder, entry->name, err));
    BL_TRY(bl_file_writer_open(writer, path, err));
    bl_file_writer_hash(writer);
    state->file_count++;
    BL_TRY(captioner_params_write(params, file, writer, data, err));
    bl_sha256_end(&writer->hash, hash);
    bl_hex(hash, sizeof hash, entry->sha256);
    return 0;
}

/* All bytes of all files, and their checksums into state: the part that reads the snapshot. */
static int write_tensors(struct files *files, const struct captioner_params *params,
                         const struct trainer_snapshot *snapshot, struct checkpoint_state *state,
                         struct bl_error *err)
{
    state->file_count = 0;
    state->zero_count = 0;
    BL_TRY(captioner_params_sha256(params, snapshot->tensors[0].data, state->weights_sha256, err));
    for (int i = 0; i < snapshot->tensor_count; i++) {
        const char *name = snapshot->tensors[i].is.name;
        if (!snapshot->tensors[i].data) {
            snprintf(state->zero[state->zero_count], sizeof *state->zero, "%s", name);
            state->zero_count++;
            continue;
        }
        for (int file = 0; file < FILES; file++)
            BL_TRY(write_file(files, params, (enum captioner_file)file, name,
                              snapshot->tensors[i].data, state, err));
    }
    return 0;
}

static int commit_files(struct files *files, int count, struct bl_error *err)
{
    for (int i = 0; i < count; i++)
        BL_TRY(bl_file_writer_commit(&files->writers[i], err));
    return 0;
}

static int put_in_place(const char *temporary, const char *folder, struct bl_error *err)
{
    bl_autofree char *parent = bl_path_parent(folder);
    if (!parent)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    BL_TRY(bl_folder_sync(temporary, err));
    BL_TRY(bl_folder_remove(folder, err));
    if (rename(temporary, folder) < 0) {
        bl_fail_errno(err, "the checkpoint cannot be put in place");
        return bl_error_file(err, folder);
    }
    return bl_folder_sync(parent, err);
}

static struct checkpoint_state state_of(const struct trainer_state *s,
                                        const struct checkpoint_state *metadata)
{
    struct checkpoint_state state = *metadata;
    state.step = s->step;
    state.updates = s->updates;
    state.skipped_bad = s->skipped_bad;
    state.skipped_outliers = s->skipped_outliers;
    state.norm_mean = s->norm_mean;
    state.norm_square = s->norm_square;
    state.norm_count = s->norm_count;
    return state;
}

int checkpoint_write(const struct captioner_params *params, const struct trainer_snapshot *snapshot,
                     const struct checkpoint_state *metadata, const char *folder,
                     void (*copied)(void *context), void *context, struct bl_error *err)
{
    char temporary[4096];
    struct files files = {.folder = temporary};
    struct checkpoint_state state = state_of(&snapshot->state, metadata);
    int n = snprintf(temporary, sizeof temporary, "%s.tmp.%d", folder, (int)getpid());
    if (n < 0 || n >= (int)sizeof temporary) {
        copied(context);
        return bl_fail(err, BL_ELIMIT, "the path %.200s… is too long", folder);
    }
    for (int i = 0; i < CHECKPOINT_FILES_MAX; i++)
        files.writers[i] = (struct bl_file_writer){.fd = -1};
    int rc = bl_folder_remove(temporary, err);
    if (rc == 0)
        rc = bl_folder_make(temporary, err);
    if (rc == 0)
        rc = write_tensors(&files, params, snapshot, &state, err);
    copied(context);
    if (rc == 0)
        rc = commit_files(&files, state.file_count, err);
    for (int i = 0; i < CHECKPOINT_FILES_MAX; i++)
        bl_file_writer_close(&files.writers[i]);
    if (rc == 0)
        rc = checkpoint_state_write(temporary, &state, err);
    if (rc == 0)
        rc = put_in_place(temporary, folder, err);
    if (rc < 0)
        bl_folder_remove(temporary, NULL); /* only what this call has made */
    return rc;
}

/* ---- Reading ------------------------------------------------------------------------------------
 */

static int read_tensor(const struct captioner_params *params, struct ops *ops, const char *folder,
                       const char *tensor, dev_f32 *device, struct bl_error *err)
{
    for (int file = 0; file < FILES; file++) {
        char name[64], path[4096];
        BL_TRY(checkpoint_file_name(name, sizeof name, file, tensor, err));
        BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
        if (captioner_params_read(params, (enum captioner_file)file, path, ops, device, err) < 0)
            return bl_error_remedy(err, "use another checkpoint");
    }
    return 0;
}

/* Is the tensor to begin as at step 0, by what state.json says? */
static bool begins_anew(const struct checkpoint_state *state, const struct state_tensor *tensor)
{
    char name[64];
    if (tensor->initial == STATE_ZERO)
        return checkpoint_is_zero(state, tensor->name);
    return checkpoint_file_name(name, sizeof name, CHECKPOINT_QFORMER, tensor->name, NULL) == 0 &&
           !checkpoint_has_file(state, name);
}

static int read_tensors(const struct captioner_params *params, struct ops *ops,
                        struct trainer *trainer, const char *folder,
                        const struct checkpoint_state *state, struct bl_error *err)
{
    int count;
    const struct trainer_tensor *tensors = trainer_tensors(trainer, &count);
    for (int i = 0; i < count; i++) {
        if (i > 0 && begins_anew(state, &tensors[i].is))
            trainer_reset(trainer, i);
        else
            BL_TRY(read_tensor(params, ops, folder, tensors[i].is.name, tensors[i].data, err));
    }
    struct trainer_state resumed = {.step = state->step,
                                    .updates = state->updates,
                                    .skipped_bad = state->skipped_bad,
                                    .skipped_outliers = state->skipped_outliers,
                                    .norm_mean = state->norm_mean,
                                    .norm_square = state->norm_square,
                                    .norm_count = state->norm_count};
    return trainer_resume(trainer, &resumed, err);
}

int checkpoint_read(const struct captioner_params *params, struct ops *ops, struct trainer *trainer,
                    const char *folder, struct checkpoint_state *ret_state, struct bl_error *err)
{
    struct checkpoint_state state;
    BL_TRY(checkpoint_state_read(folder, &state, err));
    int rc = checkpoint_verify(folder, &state, err);
    if (rc == 0)
        rc = read_tensors(params, ops, trainer, folder, &state, err);
    if (rc == 0 && ret_state)
        *ret_state = state;
    else
        checkpoint_state_release(&state);
    return rc;
}

int checkpoint_read_weights(const struct captioner_params *params, struct ops *ops,
                            const char *folder, dev_f32 *values, struct bl_error *err)
{
    struct checkpoint_state state;
    BL_TRY(checkpoint_state_read(folder, &state, err));
    int rc = checkpoint_verify(folder, &state, err);
    checkpoint_state_release(&state);
    return rc < 0 ? rc : read_tensor(params, ops, folder, "", values, err);
}
