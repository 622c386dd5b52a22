/* coordinator/loop.h - the coordinator as a process: sockets, clock, signals, files and children around coordinator/core.h. */
#pragma once

#include <stdbool.h>

#include "common/cluster.h"
#include "common/error.h"

struct coordinator_options {
    enum bl_kind kind;    /* TRAIN or EMBED */
    bool plan;            /* EMBED: says what it would write, and ends */
    const char *yaml;     /* RUN.yaml */
    bool local;           /* start workers and loaders here */
    int workers, loaders; /* of this host */
    const char *bind;     /* --bind: cluster.bind for this start; NULL: as the YAML says */
    const char *device;   /* of its workers: their --device; NULL: auto */
    const char *keys;     /* --keys: cluster.keys for this start; NULL: not given */
    bool insecure;        /* --insecure: cluster.insecure for this start */
    bool take_over;       /* the folder's lock may be held by a coordinator that hangs */
};

/* Trains or embeds, or resumes that, until the run is complete or stopped. 0, or the failure that ended it (-BL_ESTOPPED after a
 * signal, with everything saved). */
int coordinator_run(const struct coordinator_options *options, struct bl_error *err);
