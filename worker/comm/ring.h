/* worker/comm/ring.h - a communicator over TCP on host memory: each rank has one connection to its right-hand neighbour,
 * rank + 1, and one from its left-hand one. Device memory is staged: a buffer is copied to host memory, summed there, and
 * copied back.
 *
 *   ring.c           collectives, their thread, abort
 *   ring_connect.c   addresses, connections, proof of membership, who cannot be reached
 */
#pragma once

#include <poll.h>
#include <pthread.h>

#include "worker/comm/backend.h"

#define RING_TOKEN_BYTES 16

struct ring_task;

struct ring {
    struct comm_link link;
    struct comm_options options;

    /* ring_connect.c */
    uint8_t token[RING_TOKEN_BYTES]; /* this rank's secret in this generation */
    int listener;                    /* open until the end: whoever probes this rank finds it */
    int left, right;                 /* descriptors, or -1 */
    int wake;                        /* eventfd: abort */

    /* ring.c; by its thread alone */
    char *piece;
    char *staging; /* host memory for device buffers */
    size_t staging_bytes;
    uint64_t serial; /* collectives so far: neighbours compare it */

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct ring_task *first, *last;
    bool is_busy, must_stop;
    struct bl_error failure; /* code 0: none */
};

/* Connects both neighbours. Every rank must do so at about the same time. */
int ring_join(struct ring *ring, struct bl_error *err);
