/* common/data/source_list.c - the files below a folder, links followed. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/data/source_build.h"

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

void source_listing_release(struct source_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        free(listing->paths[i]);
    free(listing->paths);
}

/* A folder that is being listed, and those around it. */
struct level {
    const struct level *outer;
    int depth;
    dev_t device;
    ino_t inode;
};

static int list_folder(struct source_listing *listing, const char *below, const struct level *outer,
                       struct bl_error *err);

static int fail_listing(const char *path, const char *what, struct bl_error *err)
{
    bl_fail_errno(err, "%s", what);
    return bl_error_file(err, path);
}

static int add_path(struct source_listing *listing, const char *path, struct bl_error *err)
{
    if (listing->count >= BL_SAMPLES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected at most %d files", BL_SAMPLES_MAX);
    if (!bl_grow(&listing->paths, &listing->capacity, listing->count + 1, sizeof *listing->paths))
        return fail_nomem(err);
    char *copy = strdup(path);
    if (!copy)
        return fail_nomem(err);
    listing->paths[listing->count++] = copy;
    return 0;
}

/* Adds a file, or what is in a folder; links are followed. */
static int list_entry(struct source_listing *listing, const char *path, const struct level *level,
                      struct bl_error *err)
{
    bl_autofree char *full = NULL;
    struct stat st;
    if (asprintf(&full, "%s/%s", listing->folder, path) < 0) {
        full = NULL;
        return fail_nomem(err);
    }
    if (stat(full, &st) < 0) {
        if (errno != ENOENT && errno != ELOOP)
            return fail_listing(full, "cannot be examined", err);
        if (lstat(full, &st) < 0)
            return errno == ENOENT ? 0 /* gone since the folder was read */
                                   : fail_listing(full, "cannot be examined", err);
        return source_pass_over(listing->source, SOURCE_DEAD_LINKS, path, err);
    }
    if (S_ISDIR(st.st_mode)) {
        for (const struct level *l = level; l; l = l->outer)
            if (l->device == st.st_dev && l->inode == st.st_ino)
                return source_pass_over(listing->source, SOURCE_DEAD_LINKS, path, err);
        return list_folder(listing, path, level, err);
    }
    return S_ISREG(st.st_mode) ? add_path(listing, path, err) : 0;
}

static void closedir_at(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static int list_folder(struct source_listing *listing, const char *below, const struct level *outer,
                       struct bl_error *err)
{
    struct level level = {.outer = outer, .depth = outer ? outer->depth + 1 : 1};
    struct stat st;
    if (level.depth > BL_FOLDER_DEPTH_MAX)
        return bl_fail(err, BL_ELIMIT, "folders are nested more than %d deep", BL_FOLDER_DEPTH_MAX);
    bl_autofree char *full = NULL;
    if (asprintf(&full, "%s/%s", listing->folder, below) < 0) {
        full = NULL;
        return fail_nomem(err);
    }
    const char *name = *below ? full : listing->folder;
    __attribute__((cleanup(closedir_at))) DIR *dir = opendir(full);
    if (!dir)
        return fail_listing(name, "cannot be opened as a folder", err);
    if (fstat(dirfd(dir), &st) < 0)
        return fail_listing(name, "cannot be examined", err);
    level.device = st.st_dev;
    level.inode = st.st_ino;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(dir)); errno = 0) {
        bl_autofree char *path = NULL;
        if (entry->d_name[0] == '.')
            continue;
        if (asprintf(&path, "%s%s%s", below, *below ? "/" : "", entry->d_name) < 0) {
            path = NULL;
            return fail_nomem(err);
        }
        BL_TRY(list_entry(listing, path, &level, err));
    }
    return errno ? fail_listing(name, "cannot be listed", err) : 0;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int source_list(struct source_listing *listing, struct bl_error *err)
{
    BL_TRY(list_folder(listing, "", NULL, err));
    if (listing->count)
        qsort(listing->paths, listing->count, sizeof *listing->paths, compare_paths);
    return 0;
}
