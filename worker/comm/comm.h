/* worker/comm/comm.h - the collectives of one generation of workers, over TCP or NCCL (backend.h).
 * Who is a member is the coordinator's business.
 *
 * Backend  NCCL where every rank has a GPU of its own and there is more than one rank, else a ring over TCP.
 *          BLIPREN_COMM=tcp or nccl, equal on all ranks, overrides that.
 * Memory   data is memory of options.memory's device, or host memory where that is NULL.
 * Threads  one thread (the engine's) calls open … free; deliver and abort may come from any thread
 *          meanwhile.
 * Order    every rank begins the same collectives in the same order. They run in that order on a
 *          thread of their own, while the caller continues computing; wait() returns when all of them
 *          are done.
 * Bits     each element is summed once, in ring order, and then copied: all ranks hold the same
 *          bits. Integer sums have the same bits for any number of ranks too.
 * Errors   a lost connection to a neighbour, or abort(), fails the collective under way and all later
 *          ones with -BL_EPEER; the buffers are then undefined and the communicator can only be freed.
 *          A peer that is merely silent is waited for: it may be computing, or have failed itself.
 *          Whether it lives the coordinator knows, who then has everyone abort.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/device_memory.h"
#include "common/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct comm;
struct comm_memory;
struct comm_backend;

enum comm_type { COMM_F32, COMM_I64 };

/* Fixed-point sums are multiples of 1 / this; ops.h has the same, as trainer.c asserts. */
#define COMM_FIXED_SCALE 0x1p36

struct comm_options {
    int rank, world;
    const char *host; /* address to bind: the network interface of this worker */
    int connect_ms;   /* until every peer must have appeared in the store */
    /* Publishes an entry of the rendezvous store to every rank, this one included; called inside
     * comm_connect. */
    void (*publish)(void *context, const char *key, const void *value, size_t size);
    void *context;
    /* Of the ops that own the data (ops.h), or NULL: host memory, and no collectives of its own. */
    const struct comm_memory *memory;
    const struct comm_backend *collectives;
    void *device; /* the context of both */
};

/* Only makes the object. *ret is the caller's (comm_free). */
int comm_open(const struct comm_options *options, struct comm **ret, struct bl_error *err);
/* An entry of the store arrived. Copies. Any thread. */
void comm_deliver(struct comm *comm, const char *key, const void *value, size_t size);
/* Blocks until this rank is connected with its neighbours (with all ranks, where NCCL does it). World 1 returns at once. */
int comm_connect(struct comm *comm, struct bl_error *err);
/* After comm_connect failed: the ranks that published an address and do not answer at it, at most `most` of them. Returns how
 * many. Either side of such a pair may be at fault. A rank that published none yet is not among them. */
int comm_unreached(const struct comm *comm, int *ret_ranks, int most);

/* data[count] += that of all other ranks, in place. Returns at once; data stays the communicator's
 * until comm_wait. */
void comm_allreduce(struct comm *comm, dev_void *data, int64_t count, enum comm_type type);
/* sums[count] f32 = the sum over all ranks of fixed[count], in int64, / COMM_FIXED_SCALE; fixed is undefined then. The bits are
 * those of an all-reduce in int64 and a conversion by every rank, but each converts its part of the sums before they are copied to
 * the others: 12 bytes an element travel from each rank, in place of 16 (times (ranks - 1) / ranks).
 * Returns at once, as above. false: there is no other rank, and to convert is left to the caller. */
bool comm_allreduce_fixed(struct comm *comm, dev_f32 *sums, dev_i64 *fixed, int64_t count);
/* data[bytes] of rank `root` to all. Returns at once, as above. */
void comm_broadcast(struct comm *comm, dev_void *data, size_t bytes, int root);
/* Waits for everything begun: the results may then be read by work that is queued afterwards. */
int comm_wait(struct comm *comm, struct bl_error *err);

/* The backend in use, "tcp" or "nccl"; "none" before comm_connect. */
const char *comm_name(const struct comm *comm);

/* Wakes whoever waits here; every collective fails from now on. Any thread, any number of times. */
void comm_abort(struct comm *comm);
/* Aborts, joins the thread, closes the connections. NULL is fine; sets *comm to NULL. */
void comm_free(struct comm **comm);

#ifdef __cplusplus
}
#endif
