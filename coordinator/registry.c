/* coordinator/registry.c - see registry.h. */
#include "coordinator/registry.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/models/checkpoint.h"
#include "common/file.h"

static int path_of(char *ret, size_t size, const char *run_folder,
                   struct coord_checkpoint checkpoint, struct bl_error *err)
{
    char name[COORD_CHECKPOINT_NAME_MAX], inside[COORD_CHECKPOINT_NAME_MAX + 16];
    coord_checkpoint_name(checkpoint, name);
    snprintf(inside, sizeof inside, "checkpoints/%s", name);
    return bl_path_join(ret, size, run_folder, inside, err);
}

static int link_path(char *ret, size_t size, const char *run_folder, const char *name,
                     struct bl_error *err)
{
    char folder[4096];
    BL_TRY(bl_path_join(folder, sizeof folder, run_folder, "checkpoints", err));
    return bl_path_join(ret, size, folder, name, err);
}

int registry_verify(const char *run_folder, struct coord_checkpoint checkpoint,
                    struct bl_error *err)
{
    char path[4096];
    struct checkpoint_state state;
    BL_TRY(path_of(path, sizeof path, run_folder, checkpoint, err));
    BL_TRY(checkpoint_state_read(path, &state, err));
    int rc = checkpoint_verify(path, &state, err);
    if (rc == 0 && state.step != (int64_t)checkpoint.step) {
        bl_fail(err, BL_EFORMAT, "expected the state after %llu steps, found %lld",
                (unsigned long long)checkpoint.step, (long long)state.step);
        rc = bl_error_file(err, path);
    }
    checkpoint_state_release(&state);
    return rc;
}

int registry_weights_sha256(const char *run_folder, struct coord_checkpoint checkpoint,
                            char ret_hex[65], struct bl_error *err)
{
    char path[4096];
    struct checkpoint_state state;
    BL_TRY(path_of(path, sizeof path, run_folder, checkpoint, err));
    BL_TRY(checkpoint_state_read(path, &state, err));
    memcpy(ret_hex, state.weights_sha256, sizeof state.weights_sha256);
    checkpoint_state_release(&state);
    return 0;
}

int registry_fits_data(const char *run_folder, struct coord_checkpoint checkpoint,
                       const char *fingerprint, struct bl_error *err)
{
    char path[4096];
    struct checkpoint_state state;
    BL_TRY(path_of(path, sizeof path, run_folder, checkpoint, err));
    if (checkpoint_state_read(path, &state, NULL) < 0)
        return 0;
    bool fits = !strcmp(state.data_fingerprint, fingerprint);
    checkpoint_state_release(&state);
    if (fits)
        return 0;
    bl_fail(err, BL_ECONFIG, "the run was trained on other images, captions or tokens so far");
    bl_error_remedy(err, "put them back, or start another run in a new run_dir");
    return bl_error_key(err, "data.source");
}

int registry_point(const char *run_folder, const char *name, struct coord_checkpoint checkpoint,
                   struct bl_error *err)
{
    char target[COORD_CHECKPOINT_NAME_MAX], path[4096], temporary[4100];
    coord_checkpoint_name(checkpoint, target);
    BL_TRY(link_path(path, sizeof path, run_folder, name, err));
    snprintf(temporary, sizeof temporary, "%s.new", path);
    unlink(temporary);
    if (symlink(target, temporary) == 0 && rename(temporary, path) == 0)
        return 0;
    bl_fail_errno(err, "the link cannot be set");
    return bl_error_file(err, path);
}

int registry_unpoint(const char *run_folder, const char *name, struct bl_error *err)
{
    char path[4096];
    BL_TRY(link_path(path, sizeof path, run_folder, name, err));
    if (unlink(path) == 0 || errno == ENOENT)
        return 0;
    bl_fail_errno(err, "the link cannot be removed");
    return bl_error_file(err, path);
}

int registry_remove(const char *run_folder, struct coord_checkpoint checkpoint,
                    struct bl_error *err)
{
    char path[4096];
    BL_TRY(path_of(path, sizeof path, run_folder, checkpoint, err));
    return bl_folder_remove(path, err);
}

static bool is_kept(const char *name, const struct coord_checkpoint *keep, int count)
{
    char kept[COORD_CHECKPOINT_NAME_MAX];
    for (int i = 0; i < count; i++) {
        coord_checkpoint_name(keep[i], kept);
        if (!strcmp(name, kept))
            return true;
    }
    return false;
}

int registry_tidy(const char *run_folder, const struct coord_checkpoint *keep, int count,
                  struct coord_checkpoint best, struct bl_error *err)
{
    char folder[4096], path[4096];
    BL_TRY(bl_path_join(folder, sizeof folder, run_folder, "checkpoints", err));
    DIR *d = opendir(folder);
    if (!d) {
        bl_fail_errno(err, "the folder cannot be read");
        return bl_error_file(err, folder);
    }
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(d));) {
        if (strncmp(entry->d_name, "step-", 5) || is_kept(entry->d_name, keep, count) ||
            is_kept(entry->d_name, &best, 1))
            continue;
        rc = bl_path_join(path, sizeof path, folder, entry->d_name, err);
        if (rc == 0)
            rc = bl_folder_remove(path, err);
    }
    closedir(d);
    return rc;
}
