/* tests/unit/folder.h - a folder of the test's own: made, named into, removed with all in it. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "common/file.h"

static char folder[64];

/* Setup and teardown. */
static inline int make_folder(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/blipren-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state)
{
    return bl_folder_remove(folder, NULL);
}

/* "FOLDER/name"; four of them live at a time. */
static inline const char *inside(const char *name)
{
    static char path[4][256];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", folder, name);
    return path[at];
}
