/* common/private_folder.c - see private_folder.h. */
#include "common/private_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/file.h"
#include "common/user_cache.h"

#define PREFIX "blipren-private-"

static void parent_of_all(char *ret, size_t size)
{
    const char *temporary = getenv("TMPDIR");
    if (temporary && temporary[0] == '/')
        snprintf(ret, size, "%s", temporary);
    else if (!bl_user_cache("blipren", ret, size) || bl_folder_make(ret, NULL) < 0)
        snprintf(ret, size, "/tmp");
}

/* Locked: its process lives. -1: it does. */
static int try_lock(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Who makes one locks it at once; in between it is empty, and to lose it then is an error that can be tried again. */
static void remove_left(const char *parent)
{
    char path[4096];
    DIR *d = opendir(parent);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (strncmp(entry->d_name, PREFIX, sizeof PREFIX - 1) != 0 ||
            bl_path_join(path, sizeof path, parent, entry->d_name, NULL) < 0)
            continue;
        int lock = try_lock(path);
        if (lock < 0)
            continue;
        bl_folder_remove(path, NULL); /* another user's cannot be removed */
        close(lock);
    }
    if (d)
        closedir(d);
}

int bl_private_folder_open(struct bl_private_folder *folder, struct bl_error *err)
{
    char parent[4096];
    parent_of_all(parent, sizeof parent);
    remove_left(parent);
    BL_TRY(bl_path_join(folder->path, sizeof folder->path, parent, PREFIX "XXXXXX", err));
    if (!mkdtemp(folder->path)) {
        bl_fail_errno(err, "no folder can be made there");
        bl_error_remedy(err, "set TMPDIR to a folder that can be written to");
        return bl_error_file(err, parent);
    }
    folder->lock = try_lock(folder->path);
    if (folder->lock >= 0)
        return 0;
    bl_fail(err, BL_EIO, "another process has taken it");
    return bl_error_file(err, folder->path);
}

void bl_private_folder_close(struct bl_private_folder *folder)
{
    if (folder->lock < 0)
        return;
    bl_folder_remove(folder->path, NULL); /* what is left, the next process removes */
    close(folder->lock);
    folder->lock = -1;
}
