/* proto/socket_state.h - what the parts of a socket share. Private to proto.
 *
 *   context.c  the context, and who may connect     socket.c  making, the loop, sending
 *   watch.c    ZeroMQ's events of a socket: who came, who is gone */
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

/* Takes the messages that wait, of the loop's turn. */
int socket_make(struct wire_context *context, int type, int hwm, wire_receive *receive, void *user,
                struct wire_socket **ret, struct bl_error *err);
int socket_connect(uv_loop_t *loop, struct wire_socket *s, const char *endpoint,
                   struct wire_socket **ret, struct bl_error *err);
/* Opens the monitor; the socket is in the loop and not bound or connected yet, so that no event is missed. */
int socket_watch(struct wire_socket *s, struct wire_context *context, void (*lost)(void *user),
                 struct bl_error *err);
int socket_guard(struct wire_socket *s, struct wire_context *context,
                 const struct wire_guard *guard, struct bl_error *err);
/* Closes monitor and guard. */
void socket_unwatch(struct wire_socket *s);
/* After a turn's messages. */
void socket_check_guard(struct wire_socket *s);
