/* proto/socket.h - ZeroMQ sockets inside a libuv loop.
 *
 * Use      one bl_wire per loop; sockets are opened on it and call back on the loop's thread, at
 *          most BL_WIRE_TURN messages per socket and turn, so that timers stay on time. Everything
 *          here belongs to that thread. A callback may open and close any socket, itself included.
 * Why so   ZMQ_FD signals only when a socket that was seen empty becomes readable, and any send
 *          swallows the signal. So a uv_poll merely wakes the loop, a uv_prepare asks every socket
 *          for its events (and forbids the loop to sleep while there are any), and a uv_check
 *          drains them.
 * Bounds   ZeroMQ's own queues, per peer, sized at opening; a full one is an error that the caller
 *          sees, never a wait. They bound messages, not bytes: credits are the protocol's part. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>
#include <zmq.h>

#include "common/error.h"
#include "common/limits.h"
#include "proto/endpoint.h"

#define BL_WIRE_TURN 64

struct bl_wire;
struct bl_zsocket;

/* A ZeroMQ context in a loop. *ret is the caller's (bl_wire_close). */
int bl_wire_open(uv_loop_t *loop, struct bl_wire **ret, struct bl_error *err);
/* Closes what is open, and the context in the last uv close callback: the loop must run on until
 * its handles are gone. That callback waits for lingering messages. NULL is fine; sets *wire to
 * NULL. */
void bl_wire_close(struct bl_wire **wire);

/* A received message: its frames without a routing frame. Lives for the callback; a frame may be
 * moved out with zmq_msg_move. */
struct bl_message {
    uint64_t peer, link; /* ROUTER: the sender's incarnation and its connection's number; else 0 */
    int count;           /* frames that came; only the first BL_FRAMES_MAX are kept */
    zmq_msg_t frame[BL_FRAMES_MAX];
};

enum bl_zsocket_kind {
    BL_ZSOCKET_COORDINATOR, /* ROUTER, binds */
    BL_ZSOCKET_PEER,        /* DEALER, connects; its routing id is incarnation and link */
    BL_ZSOCKET_DATA_IN,     /* PULL, binds */
    BL_ZSOCKET_DATA_OUT,    /* PUSH, connects; holds nothing for a worker that is not there */
};

struct bl_zsocket_options {
    enum bl_zsocket_kind kind;
    const char *endpoint;           /* borrowed for the call */
    bool insecure;                  /* beyond loopback is meant */
    uint32_t heartbeat_ms, lost_ms; /* of the transport: a silent connection is closed */
    uint64_t peer, link;            /* PEER: own incarnation and the number of this connection */
    /* Callbacks; those that are NULL are not called. */
    void (*message)(void *context, struct bl_message *message);
    void (*connected)(void *context); /* PEER, DATA_OUT */
    void (*disconnected)(
        void *context);              /* PEER, DATA_OUT: the connection is lost: close this socket
                                            and make one with a new link, or it reconnects as it is.
                                            COORDINATOR: somebody's is: send everyone a Pulse, the
                                            lost one answers -BL_EPEER. */
    void (*writable)(void *context); /* DATA_OUT, after bl_zsocket_want_write */
    void *context;
};

/* -BL_ECONFIG: beyond loopback without insecure; -BL_EIO: the address is taken or not ours. */
int bl_zsocket_open(struct bl_wire *wire, const struct bl_zsocket_options *options,
                    struct bl_zsocket **ret, struct bl_error *err);
/* Unsent messages get linger_ms more while the context closes (0: they are dropped). No callback
 * follows. NULL is fine; sets *socket to NULL. */
void bl_zsocket_close(struct bl_zsocket **socket, int linger_ms);
/* Where it is bound, with the real port; or what it connects to. */
const char *bl_zsocket_endpoint(const struct bl_zsocket *socket);

/* All sends return at once. The frames are taken (emptied) unless -BL_ELIMIT is returned.
 * -BL_ELIMIT: the queue to that peer is full. On control sockets it holds more than an honest peer
 * ever leaves unread: treat that peer as lost. On data sockets wait for `writable`.
 * -BL_EPEER: that peer's connection is gone (COORDINATOR), or broke in mid-message (DATA_OUT). */
int bl_zsocket_send(struct bl_zsocket *socket, zmq_msg_t *frame);
int bl_zsocket_send_to(struct bl_zsocket *socket, uint64_t peer, uint64_t link, zmq_msg_t *frame);
int bl_zsocket_send_frames(struct bl_zsocket *socket, zmq_msg_t *frames, int count);
/* Calls `writable` each turn in which the socket would take a message, until told otherwise. */
void bl_zsocket_want_write(struct bl_zsocket *socket, bool want);

/* A random incarnation, not 0. */
uint64_t bl_wire_incarnation(void);
