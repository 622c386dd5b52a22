/* loader/outbox.h - the way to the workers: a socket for each, made when first needed, and before it
 * the messages that wait until it takes them. Belongs to the loop's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "proto/socket.h"

/* A data message. The memory is the sender's and stays until it was shipped or withdrawn. */
struct outbox_message {
    struct wire_frames frames;
    struct outbox *outbox; /* where it waits, or NULL */
    struct outbox_message *next;
};

struct outboxes_options {
    uv_loop_t *loop;
    struct wire_context *zmq;
    bool permitted;                  /* workers may be on other machines */
    void (*writable)(void *context); /* outboxes_ship has something to do again */
    void *context;
};

struct outboxes;

/* *ret is the caller's. */
int outboxes_open(const struct outboxes_options *options, struct outboxes **ret,
                  struct bl_error *err);
/* Closes all sockets; the loop must run once more. Waiting messages are their senders'. NULL is fine;
 * sets *outboxes to NULL. */
void outboxes_close(struct outboxes **outboxes);

/* Puts the message behind those that wait for the worker at that endpoint. -BL_EUSAGE: it is none, or
 * on another machine; -BL_EIO: no socket. */
int outboxes_add(struct outboxes *outboxes, const char *endpoint, struct outbox_message *message,
                 uint64_t now_ms, struct bl_error *err);
/* Takes a waiting message back and drops its frames. One that does not wait is fine. */
void outboxes_withdraw(struct outbox_message *message);
/* Ships one message that its worker's socket takes now, and gives it back, its frames empty. NULL:
 * nothing waits, or all sockets are full. */
struct outbox_message *outboxes_ship(struct outboxes *outboxes, uint64_t now_ms);
/* The endpoint of a worker that has taken nothing for after_ms although a message waits for it, so that somebody is told; NULL:
 * none. Each is given out once, until it takes a message again. Borrowed until the next call. */
const char *outboxes_stuck(struct outboxes *outboxes, uint64_t now_ms, uint64_t after_ms);
/* Closes the sockets that were not used for idle_ms: their workers are gone. */
void outboxes_sweep(struct outboxes *outboxes, uint64_t now_ms, uint64_t idle_ms);
