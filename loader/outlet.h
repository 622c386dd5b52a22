/* loader/outlet.h - the way to the workers: a socket for each, made when first needed, and before it
 * the parcels that wait until it takes them. Belongs to the loop's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "proto/socket.h"

/* A data message. The memory is the sender's and stays until it was shipped or withdrawn. */
struct parcel {
    struct wire_frames frames;
    struct outlet *outlet; /* where it waits, or NULL */
    struct parcel *next;
};

struct outlets_options {
    uv_loop_t *loop;
    void *zmq;
    bool insecure;                   /* workers may be on other machines */
    void (*writable)(void *context); /* outlets_ship has something to do again */
    void *context;
};

struct outlets;

/* *ret is the caller's. */
int outlets_open(const struct outlets_options *options, struct outlets **ret, struct bl_error *err);
/* Closes all sockets; the loop must run once more. Waiting parcels are their senders'. NULL is fine;
 * sets *outlets to NULL. */
void outlets_close(struct outlets **outlets);

/* Puts the parcel behind those that wait for the worker at that endpoint. -BL_EUSAGE: it is none, or
 * on another machine; -BL_EIO: no socket. */
int outlets_add(struct outlets *outlets, const char *endpoint, struct parcel *parcel,
                uint64_t now_ms, struct bl_error *err);
/* Takes a waiting parcel back and drops its frames. One that does not wait is fine. */
void outlets_withdraw(struct parcel *parcel);
/* Ships one parcel that its worker's socket takes now, and gives it back, its frames empty. NULL:
 * nothing waits, or all sockets are full. */
struct parcel *outlets_ship(struct outlets *outlets, uint64_t now_ms);
/* Closes the sockets that were not used for idle_ms: their workers are gone. */
void outlets_sweep(struct outlets *outlets, uint64_t now_ms, uint64_t idle_ms);
