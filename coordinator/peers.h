/* coordinator/peers.h - who is connected: the wire's ids, the core's link numbers and what each said of itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/cluster.h"
#include "common/error.h"
#include "common/limits.h"
#include "proto/socket.h"

/* Seconds of a step that a worker spends in each part: means over its last reports. */
struct peer_times {
    int steps; /* reports in the means, as far as it matters */
    double data_s, compute_s, reduce_s;
};

struct peer {
    struct wire_id id;               /* of the connection */
    int connection;                  /* the same, as a socket knows it (wire_know) */
    char address[GUARD_ADDRESS_MAX]; /* its host's */
    uint64_t link;                   /* number of the connection, never used twice */
    uint64_t incarnation;
    enum bl_role role;
    char name[128], endpoint[SOCKET_ENDPOINT_MAX];
    char build[512];                              /* of its Hello */
    uint64_t secret;                              /* of its Hello: whose child it is; 0: nobody's */
    char phase[32], waiting[BL_BEAT_WAITING_MAX]; /* of its last Beat */
    bool rows;        /* of its Ended: a worker to which loaders ship the cache's rows */
    bool needs_files; /* of its Ended: it does not see the run folder */
    struct peer_times times;
    bool unreachable;                 /* a message could not be sent to it */
    struct peer *next_id, *next_link; /* chains of the two tables */
};

struct peers;

int peers_new(struct peers **ret, struct bl_error *err);
void peers_free(struct peers **peers);
/* The peer of a connection; NULL: unknown. */
struct peer *peers_of_id(struct peers *peers, const struct wire_id *id);
/* A new peer, with the next link number. Never NULL. */
struct peer *peers_add(struct peers *peers, const struct wire_id *id);
/* NULL: unknown. */
struct peer *peers_of_link(struct peers *peers, uint64_t link);
/* The connection's newest peer with that incarnation, that secret; NULL: unknown. */
struct peer *peers_of_incarnation(struct peers *peers, uint64_t incarnation);
struct peer *peers_of_secret(struct peers *peers, uint64_t secret);
/* Calls visit for every peer; visit must not add or remove. */
void peers_each(struct peers *peers, void (*visit)(void *context, struct peer *peer),
                void *context);
void peers_remove(struct peers *peers, struct peer *peer);
