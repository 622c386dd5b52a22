/* common/private_folder.h - a folder of this process alone, for files of a moment: in $TMPDIR if that is set, else in the user's
 * cache, else in /tmp; mode 0700. What killed processes left is removed by the next one. */
#pragma once

#include "common/error.h"

struct bl_private_folder {
    char path[4096];
    int lock; /* held for as long as the process lives */
};

/* Begin with {.lock = -1}. -BL_EIO names the folder that cannot be made. */
int bl_private_folder_open(struct bl_private_folder *folder, struct bl_error *err);
/* Removes it and what is in it. */
void bl_private_folder_close(struct bl_private_folder *folder);
