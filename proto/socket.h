/* proto/socket.h - ZeroMQ sockets inside a libuv loop.
 *
 * A ZeroMQ descriptor only signals the change from empty to ready, and sending swallows the signal. So each socket is asked
 * before every wait of the loop (uv_prepare: anything ready keeps the loop from sleeping) and drained after it (uv_check), at
 * most SOCKET_MESSAGES_PER_TURN messages a turn so that timers stay on time.
 *
 * All of it belongs to the loop's thread. Nothing blocks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>
#include <zmq.h>

#include "common/error.h"
#include "common/limits.h"
#include "proto/guard.h"

#define SOCKET_MESSAGES_PER_TURN 64
#define SOCKET_ENDPOINT_MAX 256

/* One message: its frames, without a ROUTER's routing id. Frames beyond BL_FRAMES_MAX are dropped and counted. */
struct wire_frames {
    int count;
    int connection; /* by which it came, for wire_know and wire_cut */
    zmq_msg_t at[BL_FRAMES_MAX];
};
void wire_frames_close(struct wire_frames *frames);
/* Moves the frames out of *from, which is then empty. */
void wire_frames_move(struct wire_frames *to, struct wire_frames *from);

/* A peer as a ROUTER sees it. */
#define WIRE_ID_BYTES 16
struct wire_id {
    uint8_t bytes[WIRE_ID_BYTES];
};

struct wire_socket;

/* A message came. from is NULL except on a ROUTER. What is not moved out of frames is closed afterwards. */
typedef void wire_receive(void *context, const struct wire_id *from, struct wire_frames *frames);
/* A PUSH that refused a message (socket_push gave false) takes one again. */
typedef void wire_writable(void *context, struct wire_socket *socket);

/* A program's ZeroMQ context. keys is the folder of proto/keys.h: all its sockets are then encrypted, and talk to nobody without
 * the same key; NULL: anybody can connect, and listen. *ret is the caller's, also after a failure; close it after all its
 * sockets. */
struct wire_context;
int wire_context_open(const char *keys, struct wire_context **ret, struct bl_error *err);
bool wire_has_keys(const struct wire_context *context);
/* NULL is fine. */
void wire_context_close(struct wire_context **context);
/* Closes whatever handles the loop still has, then the loop: runs until their callbacks are done. */
void wire_loop_close(uv_loop_t *loop);

/* Is the address of "tcp://ADDRESS:PORT" on this machine alone: 127.0.0.0/8, localhost, lo? */
bool wire_is_loopback(const char *endpoint);
/* Checks the form "tcp://ADDRESS:PORT", and refuses an address beyond loopback unless `permitted`: by keys, or by the user. */
int wire_check_endpoint(const char *endpoint, bool permitted, struct bl_error *err);

/* What a socket that listens takes from strangers, and who is told of a known connection that broke. */
struct wire_guard {
    struct guard_limits limits;
    void (*lost)(void *user); /* NULL: nobody */
    int waiting;              /* ROUTER: messages that may wait for one peer; 0: thousands */
};
/* Of control connections. */
struct guard_limits wire_control_limits(void);
/* Of data connections, on which a stranger's first message is already a micro-batch: bytes_max bytes may be on their way. */
struct guard_limits wire_data_limits(uint64_t bytes_max);

/* The coordinator's side. endpoint may end in ":*" or ":0" for any free port; the one taken is copied to ret_endpoint. */
int wire_router(uv_loop_t *loop, struct wire_context *context, const char *endpoint,
                const struct wire_guard *guard, wire_receive *receive, void *user,
                struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
                struct bl_error *err);
/* A peer's side. lost is called whenever an established connection breaks, at either end (it then connects again by itself;
 * messages may be missing); NULL: nobody is told. id must be new for each socket: a ROUTER ignores a second peer of the same id. */
int wire_dealer(uv_loop_t *loop, struct wire_context *context, const char *endpoint,
                const struct wire_id *id, wire_receive *receive, void (*lost)(void *user),
                void *user, struct wire_socket **ret, struct bl_error *err);
/* The worker's side of batches, on any free port of `host`. */
int wire_pull(uv_loop_t *loop, struct wire_context *context, const char *host,
              const struct wire_guard *guard, wire_receive *receive, void *user,
              struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
              struct bl_error *err);
/* The loader's side. */
int wire_push(uv_loop_t *loop, struct wire_context *context, const char *endpoint,
              wire_writable *writable, void *user, struct wire_socket **ret, struct bl_error *err);
/* Other limits for a socket that listens. */
void wire_allow(struct wire_socket *socket, const struct guard_limits *limits);
/* It is known whose this connection of a socket that listens is, or no more: strangers may do little. */
void wire_know(struct wire_socket *socket, int connection, bool known);
/* Closes a connection of a socket that listens. What ZeroMQ has read of it already still comes. */
void wire_cut(struct wire_socket *socket, int connection);
/* Whom a DEALER with `lost` has met so far at its endpoint. NULL is fine. */
enum wire_met {
    WIRE_NOBODY,
    WIRE_STRANGER,   /* that does not speak ZMTP */
    WIRE_SOCKET,     /* of ZeroMQ */
    WIRE_OTHER_KEYS, /* the same, and one of both sides has keys that the other has not: with keys, a
                        handshake that is cut off, as also by a coordinator that ends */
};
enum wire_met wire_met(const struct wire_socket *socket);
/* For an error: why there is no coordinator. */
const char *wire_met_words(enum wire_met met);
/* Where a message came from: its sender's address, or "?". */
const char *wire_address(struct wire_frames *frames);
/* Closes at once; what is queued has linger_ms to leave in the background. NULL is fine; sets *socket to NULL. The loop
 * must run once more before it is closed. */
void wire_socket_close(struct wire_socket **socket, int linger_ms);

/* -BL_EPEER: nobody of that id is connected, or it lets thousands of messages pile up: it is lost. */
int wire_router_send(struct wire_socket *socket, const struct wire_id *to, const void *data,
                     size_t size);
int wire_dealer_send(struct wire_socket *socket, const void *data, size_t size);
/* True: the message is on its way and the frames are empty. False: the socket is full, frames are as before, and `writable`
 * will be called. */
bool wire_push_send(struct wire_socket *socket, struct wire_frames *frames);

/* Messages dropped because of their form. */
uint64_t wire_socket_dropped(const struct wire_socket *socket);
