/* worker/comm/backend.h - what stands behind a communicator: a table of collectives, the rendezvous
 * store it connects by, and the memory that its buffers lie in. comm.c chooses the table.
 *
 *   tcp      worker/comm/ring.h: a ring over TCP on host memory; device memory is staged
 *   nccl     worker/ops/cuda/nccl.c: GPUs among themselves
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a communicator that works on host memory reaches a device's. Any thread may call these. */
struct comm_memory {
    /* A point in the queue of work of `context` (struct ops): all that was queued before it. NULL:
     * it could not be made, and the device's failure is recorded. Called in the thread of the ops. */
    void *(*mark)(void *context);
    void (*forget)(void *context, void *mark);
    /* Waits for the mark, which may be NULL, and copies. false: the device failed. */
    bool (*fetch)(void *context, void *mark, void *host, const dev_void *device, size_t bytes);
    bool (*put)(void *context, dev_void *device, const void *host, size_t bytes);
    /* Host memory that copies quickly; NULL: there is none. */
    void *(*alloc)(void *context, size_t bytes);
    void (*release)(void *context, void *p);
    /* 16 bytes that name the device, equal on two ranks only where they share it. */
    void (*identity)(void *context, uint8_t ret[16]);
};

/* The store of one generation, as backends see it. */
struct comm_store;
void comm_store_set(struct comm_store *store, const char *key, const void *value, size_t size);
/* Waits for the entry; *ret is borrowed for the communicator's life. -BL_EPEER when it does not come
 * in time or the communicator is aborted. */
int comm_store_get(struct comm_store *store, const char *key, const void **ret, size_t *ret_size,
                   struct bl_error *err);

/* Is the entry there? */
bool comm_store_has(struct comm_store *store, const char *key);
/* A rank that published an address and does not answer at it: comm_unreached tells of it. */
void comm_store_note_unreached(struct comm_store *store, int rank);

/* What a backend is given; valid until its free. The functions are those above: a module that is
 * opened at run time cannot name them. */
struct comm_link {
    const struct comm_options *options;
    struct comm_store *store;
    void (*set)(struct comm_store *store, const char *key, const void *value, size_t size);
    int (*get)(struct comm_store *store, const char *key, const void **ret, size_t *ret_size,
               struct bl_error *err);
    /* Has the communicator been aborted? Any thread. */
    bool (*aborted)(struct comm_store *store);
};

/* Each function is that of comm.h with its name. After a failed connect every collective fails. */
struct comm_backend {
    const char *name;
    int (*open)(const struct comm_link *link, void **ret,
                struct bl_error *err); /* makes the object, connects nobody */
    int (*connect)(void *self, struct bl_error *err);
    void (*allreduce)(void *self, dev_void *data, int64_t count, enum comm_type type);
    void (*allreduce_fixed)(void *self, dev_f32 *sums, dev_i64 *fixed, int64_t count);
    void (*broadcast)(void *self, dev_void *data, size_t bytes, int root);
    int (*wait)(void *self, struct bl_error *err);
    void (*abort)(void *self);
    void (*free)(void *self);
};

extern const struct comm_backend comm_tcp;

#ifdef __cplusplus
}
#endif
