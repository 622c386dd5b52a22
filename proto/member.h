/* proto/member.h - a process that joins a run: what worker and loader share outside their rules. It has a libuv loop with a
 * clock and signals, one connection to the coordinator at a time, a name, and knows the one run it belongs to.
 *
 * All of it belongs to the loop's thread, member_wake apart.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "common/data/run.h"
#include "common/path_map.h"
#include "proto/coordinators.h"
#include "proto/core_member.h"
#include "proto/files.h"
#include "proto/socket.h"
#include "proto/wire.h"

/* What the program does about what happens; each gets its context. None is called once the member is leaving. */
struct member_calls {
    /* What happens to every member: a message of proto/core_member.h's list, of which the member itself has taken note, a lost
     * connection, or a tick, every MEMBER_TICK_MS. */
    void (*event)(void *context, const struct member_event *event);
    /* Any other message of the coordinator, on the newest connection. -BL_EPROTO gives the connection up; another failure ends
     * the process. */
    int (*message)(void *context, const Blipren__Envelope *message, struct bl_error *err);
    /* After member_wake, once for any number of them. */
    void (*woken)(void *context);
};
#define MEMBER_TICK_MS 50
/* Environment variable by which a coordinator gives a child its secret, in hexadecimal. */
#define CHILD_SECRET "BLIPREN_CHILD_SECRET"

struct member_options {
    Blipren__Role role;
    const char
        *coordinator;    /* --coord: its addresses, or a file that names them (coordinators.h) */
    const char *keys;    /* folder of the cluster's keys; NULL: none */
    bool insecure;       /* the coordinator may be on another machine without them */
    unsigned patience_s; /* without a coordinator for so long: leave */
    unsigned
        grace_s; /* asked to leave by a signal: keep working for so long, or to the run's end; 0: leave at once */
    const char *name; /* for people; NULL: host:pid */
    const char *kind; /* of machine, as far as results depend on it; NULL: they do not */
    int parent;       /* process to die with; 0: none */
    struct path_map
        *map; /* where the plan's folders are on this host; NULL: where the plan has them */
    const struct member_calls *calls;
    void *context;
};

/* To be read; written by the functions below. */
struct member {
    struct member_options options;
    uv_loop_t uv;
    uv_async_t wake;
    uv_timer_t tick, grace;
    uv_signal_t signals[RUN_SIGNALS_MAX];
    int signal_count;
    struct wire_context *zmq; /* for the program's other sockets too */
    struct wire_socket *control;
    struct files *files; /* of the run folder, where this host does not see it */
    struct coordinators coordinators;
    char endpoint
        [SOCKET_ENDPOINT_MAX]; /* of the coordinator that it is, or was last, connected to */

    char name[128], build[160];
    uint64_t incarnation, link; /* of this process, of its newest connection */
    bool run_known;             /* then these are the run's, for ever */
    uint8_t run[RUN_ID_BYTES];
    uint64_t epoch;        /* of the coordinator that welcomed it last; 0: none did */
    char run_folder[4096]; /* as this host has it */
    enum bl_kind run_kind;
    char cache_tower[65];                 /* "": the run takes no features from a cache */
    uint32_t patience_ms;                 /* the run's; a guess until Welcome tells it */
    uint64_t probe[BL_PROBE_SAMPLES_MAX]; /* samples that the newest Welcome names */
    uint32_t probe_count;

    bool welcomed; /* by this connection */
    enum wire_met
        met; /* at the coordinator's address by those before it, while there was no Welcome */

    struct bl_error malformed; /* the last malformed message since a Welcome; code 0: none */

    bool leaving;
    struct bl_error error; /* why, code 0: as told */
};

/* Draws its incarnation, opens the loop with its handles and the ZeroMQ context, and says in the log who it is. Options are
 * copied. -BL_EUSAGE: the coordinator's endpoint. In any case member_close is to follow. */
int member_open(struct member *m, const struct member_options *options, struct bl_error *err);
/* What the program's rules need to know. */
struct core_member_config member_config(const struct member *m);
/* Runs the loop until the member leaves. 0, or why it did. */
int member_run(struct member *m, struct bl_error *err);
/* Closes the connection, then whatever handles the loop still has, and the ZeroMQ context. The program's other sockets must
 * be closed before. */
void member_close(struct member *m);

/* Any thread: calls->woken on the loop's. Takes any pointer, so that it can be a callback. */
void member_wake(void *member);

/* A new connection, whose number is `link`, in place of the one before, to the coordinator's next address; what that had not sent
 * yet is dropped. While the file of addresses has none there is no connection, and the rules try again. Another failure ends the
 * process. */
void member_connect(struct member *m, uint64_t link);

/* Fills in who sends, and sends. A connection that is full or lost shows as silence, which the rules deal with. */
void member_send(struct member *m, uint64_t generation, Blipren__Envelope *envelope);
/* Fills in role, name and build, and sends. */
void member_hello(struct member *m, Blipren__Hello *hello);
void member_goodbye(struct member *m, const char *reason);

/* Says that this host does not see the run folder. */
void member_say_unseen(const struct member *m);
/* Warns of mappings that no path of the run needs; once the run is open. */
void member_warn_unused(const struct member *m);

/* Ends the loop. */
void member_leave(struct member *m);
/* Says Goodbye with the error, and leaves with it. The first error counts. */
void member_fail(struct member *m, const struct bl_error *error);
/* The rules' word: leave, with this code (positive BL_E…, 0: as told) unless a better reason is known. */
void member_exit(struct member *m, int code, const char *text);
