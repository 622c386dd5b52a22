/* loader/loop.h - the loader as a process: sockets, clock, signals and threads around loader/core.h. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/path_map.h"

struct loader_options {
    const char *coordinator; /* its addresses, or a file of them (proto/coordinators.h) */
    const char *name;        /* for people; NULL: host:pid */
    const char *keys;        /* folder of the cluster's keys; NULL: none */
    bool insecure;           /* coordinator and workers may be on other machines without them */
    int threads;             /* that make micro-batches, one each; 0: all cores */
    int capacity;            /* micro-batches it may hold; 0: two for each thread */
    int parent;              /* process to die with; 0: none */
    struct path_map *map;    /* where the plan's folders are on this host; borrowed */
    unsigned patience_s;     /* without a coordinator for so long: leave */
    unsigned grace_s;        /* keeps working for at most this long after a signal */
};

/* Runs until the coordinator says stop. 0, or the failure that ended it. */
int loader_run(const struct loader_options *options, struct bl_error *err);
