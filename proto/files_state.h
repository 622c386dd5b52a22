/* proto/files_state.h - what files.c and files_run.c share. Private to them. */
#pragma once

#include <pthread.h>

#include "common/private_folder.h"
#include "proto/files.h"

struct files {
    struct wire_context *context;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* of the monotonic clock */
    /* under the lock: */
    struct files_place place;
    uint64_t turn; /* of the place; 0: none yet */
    bool waiting, stopping;
    struct bl_private_folder folder; /* lock -1: not made yet */
};

/* The private folder, made the first time. */
int files_private(struct files *files, char ret[4096], struct bl_error *err);
