/* worker/loop.h - the worker as a process: sockets, clock, signals and the engine around worker/core.h. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "common/path_map.h"

struct worker_options {
    const char *coordinator; /* its addresses, or a file of them (proto/coordinators.h) */
    const char *name;        /* for people; NULL: host:pid */
    const char *host;        /* address of this worker's sockets */
    const char *keys;        /* folder of the cluster's keys; NULL: none */
    bool insecure;           /* host may be another address than loopback without them */
    const char *device;      /* ops_device_choose */
    int threads;             /* 0: all cores */
    int parent;              /* exits when this process does; 0: none */
    struct path_map *map;    /* where the plan's folders are on this host; borrowed */
    unsigned patience_s;     /* exits after this long without a coordinator */
    unsigned grace_s;        /* keeps working for at most this long after a signal */
};

/* Runs until the coordinator says stop. 0, or the failure that ended it. */
int worker_run(const struct worker_options *options, struct bl_error *err);
