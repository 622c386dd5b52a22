/* proto/socket_state.h - what the parts of a socket share. Private to proto.
 *
 *   open.c     the four kinds of sockets
 *   watch.c    ZeroMQ's events of a socket: who came, who is gone
 *   socket.c   making, the loop, sending, closing
 *   context.c  the context, and who may connect
 *
 * Each calls only those below it. */
#pragma once

#include <pthread.h>

#include "proto/keys.h"
#include "proto/socket.h"

struct wire_context {
    void *zmq;
    bool has_keys; /* then all of these are there: */
    struct keys keys;
    uint8_t public_bytes[32];
    void *zap; /* answers ZeroMQ's questions, in the thread */
    pthread_t thread;
};

struct wire_socket {
    void *zmq;
    bool is_router, wants_write, closing;
    int open_handles;
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    wire_receive *receive;
    wire_writable *writable;
    void *user;
    uint64_t dropped;

    struct wire_socket *monitor; /* brings ZeroMQ's events of this socket */
    bool has_keys;
    void (*lost)(void *user);
    enum wire_met met;   /* as the monitor says */
    struct guard *guard; /* of a socket that listens; NULL: anybody is welcome */
    uv_timer_t guard_timer;
    bool handshake_failed; /* of the connection whose end is told next */
};

/* ---- socket.c */

/* A socket with the options all of ours share, not in the loop yet. receive takes the messages that wait, of the loop's turn. */
int socket_make(struct wire_context *context, int type, int hwm, wire_receive *receive, void *user,
                struct wire_socket **ret, struct bl_error *err);
/* An option of ZeroMQ's that is an int. */
void socket_set(struct wire_socket *s, int option, int value);
/* A failure frees the socket. */
int socket_into_loop(uv_loop_t *loop, struct wire_socket *s, struct bl_error *err);
/* Connects, then enters the loop; a failure frees the socket. */
int socket_connect(uv_loop_t *loop, struct wire_socket *s, const char *endpoint,
                   struct wire_socket **ret, struct bl_error *err);
/* ZeroMQ's last error; what: that which could not be done, "listen". */
int socket_fail(const char *what, const char *endpoint, struct bl_error *err);
/* The guard is asked again and again while there are strangers. */
void socket_watch_strangers(struct wire_socket *s);

/* ---- watch.c */

/* Opens the monitor; the socket is in the loop and not bound or connected yet, so that no event is missed. */
int socket_watch(struct wire_socket *s, struct wire_context *context, void (*lost)(void *user),
                 struct bl_error *err);
int socket_guard(struct wire_socket *s, struct wire_context *context,
                 const struct wire_guard *guard, struct bl_error *err);
