/* coordinator/check_disk.c - what disk the run's checkpoints will need. */
#include "coordinator/check_parts.h"

#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/file.h"
#include "common/size.h"

/* The path itself, or what is nearest above it and exists. */
static void existing_above(const char *path, char *ret, size_t size)
{
    snprintf(ret, size, "%s", path);
    while (access(ret, F_OK) < 0) {
        char *slash = strrchr(ret, '/');
        if (!slash || slash == ret) {
            snprintf(ret, size, "/");
            return;
        }
        *slash = 0;
    }
}

/* Checkpoints that exist together: the first, the last ones, the best, and the one being written. */
static int64_t checkpoints_kept(const struct config_train *t)
{
    int64_t written = t->checkpoint_every ? t->steps / t->checkpoint_every + 2 : 2;
    return bl_min(t->keep_last + t->keep_best + 2, written);
}

void check_disk(struct check *c)
{
    char folder[4096];
    struct statvfs fs;
    existing_above(c->config->run_dir, folder, sizeof folder);
    if (!bl_path_is_folder(folder) || access(folder, W_OK | X_OK) < 0) {
        check_wrong(c, "run_dir", "run_dir", "choose another folder",
                    "%.200s is no folder that can be written to", folder);
        return;
    }
    if (!c->planned || statvfs(folder, &fs) < 0)
        return;
    const struct estimate *e = &c->estimate;
    int64_t there = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
    int64_t kept = checkpoints_kept(&c->config->train);
    const char *each = check_size_text(e->checkpoint);
    if (there < 2 * e->checkpoint)
        check_wrong(c, "disk", "run_dir", "free some space, or choose another folder",
                    "checkpoints of %s are written, and %s are free", each, check_size_text(there));
    else if (there < kept * e->checkpoint)
        check_warning(c, "disk", "up to %lld checkpoints of %s are kept, and %s are free",
                      (long long)kept, each, check_size_text(there));
    else
        check_ok(c, "disk", "up to %lld checkpoints of %s are kept, %s are free", (long long)kept,
                 each, check_size_text(there));
}
