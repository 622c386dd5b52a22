/* proto/files_run.c - the run's files where the run folder is not seen: which are needed, and where they are put. See files.h. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/models/checkpoint.h"
#include "proto/files_state.h"

/* What run_open reads. */
static const char *const run_files[] = {"config.yaml", "dataset.index"};
enum { RUN_FILES = sizeof run_files / sizeof *run_files };

static int token_path(char ret[4096], const char *run_folder, struct bl_error *err)
{
    return bl_path_join(ret, 4096, run_folder, "token", err);
}

int files_write_token(const char *run_folder, const uint8_t token[BL_TOKEN_BYTES],
                      struct bl_error *err)
{
    char path[4096], hex[2 * BL_TOKEN_BYTES + 1];
    bl_hex(token, BL_TOKEN_BYTES, hex);
    BL_TRY(token_path(path, run_folder, err));
    return bl_file_write(path, hex, strlen(hex), err);
}

bool files_token_is(const char *run_folder, const uint8_t token[BL_TOKEN_BYTES])
{
    char path[4096], hex[2 * BL_TOKEN_BYTES + 1];
    bl_autofree char *text = NULL;
    size_t size;
    bl_hex(token, BL_TOKEN_BYTES, hex);
    return token_path(path, run_folder, NULL) == 0 &&
           bl_file_read(path, 2 * BL_TOKEN_BYTES, &text, &size, NULL) == 0 && size == strlen(hex) &&
           memcmp(text, hex, size) == 0;
}

static bool can_write(const char *run_folder)
{
    char path[4096];
    return bl_path_join(path, sizeof path, run_folder, "checkpoints", NULL) == 0 &&
           access(path, W_OK | X_OK) == 0;
}

/* Is there a service, and what is the coordinator's token? A coordinator that has none sees to it that everybody sees the folder. */
static bool has_service(struct files *f, struct files_place *ret)
{
    pthread_mutex_lock(&f->lock);
    *ret = f->place;
    pthread_mutex_unlock(&f->lock);
    return ret->endpoint[0] != 0;
}

static int fetch_run(struct files *f, const struct files_place *place, const char *folder,
                     struct bl_error *err)
{
    char path[4096], hex[2 * RUN_ID_BYTES + 1];
    for (int i = 0; i < RUN_FILES; i++) {
        BL_TRY(bl_path_join(path, sizeof path, folder, run_files[i], err));
        BL_TRY(files_get(f, "", run_files[i], path, NULL, err));
    }
    bl_hex(place->run, RUN_ID_BYTES, hex);
    BL_TRY(bl_path_join(path, sizeof path, folder, "run-id", err));
    return bl_file_write(path, hex, strlen(hex), err);
}

int files_find_run(struct files *f, const char *run_folder, bool writes, char ret_folder[4096],
                   bool *ret_seen, struct bl_error *err)
{
    struct files_place place;
    snprintf(ret_folder, 4096, "%s", run_folder);
    *ret_seen = !has_service(f, &place) ||
                (files_token_is(run_folder, place.token) && (!writes || can_write(run_folder)));
    if (*ret_seen)
        return 0;
    BL_TRY(files_private(f, ret_folder, err));
    return fetch_run(f, &place, ret_folder, err);
}

void files_let_go_of_run(struct files *f)
{
    char path[4096];
    for (int i = 0; i < RUN_FILES && f->folder.lock >= 0; i++)
        if (bl_path_join(path, sizeof path, f->folder.path, run_files[i], NULL) == 0)
            unlink(path);
}

int files_checkpoint_folder(struct files *f, const char *checkpoint, char ret_folder[4096],
                            struct bl_error *err)
{
    char folder[4096];
    BL_TRY(files_private(f, folder, err));
    return bl_path_join(ret_folder, 4096, folder, checkpoint, err);
}

int files_get_checkpoint(struct files *f, const char *checkpoint, char ret_folder[4096],
                         const struct files_need *need, struct bl_error *err)
{
    struct checkpoint_state state;
    char path[4096];
    BL_TRY(files_checkpoint_folder(f, checkpoint, ret_folder, err));
    BL_TRY(bl_folder_remove(ret_folder, err));
    BL_TRY(bl_folder_make(ret_folder, err));
    BL_TRY(bl_path_join(path, sizeof path, ret_folder, "state.json", err));
    BL_TRY(files_get(f, checkpoint, "state.json", path, need, err));
    BL_TRY(checkpoint_state_read(ret_folder, &state, err));
    int rc = 0;
    for (int i = 0; i < state.file_count && rc == 0; i++) {
        rc = bl_path_join(path, sizeof path, ret_folder, state.files[i].name, err);
        if (rc == 0)
            rc = files_get(f, checkpoint, state.files[i].name, path, need, err);
    }
    checkpoint_state_release(&state);
    return rc;
}
