/* worker/comm/comm.c - the rendezvous store of a generation, and the choice of its backend. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "worker/comm/backend.h"

struct store_entry {
    struct store_entry *next;
    size_t size;
    char key[64];
    uint8_t value[];
};

struct comm_store {
    const struct comm_options *options;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct store_entry *entries;
    int *unreached, unreached_count; /* ranks; of the last comm_connect */
    bool aborted;
};

struct comm {
    struct comm_options options;
    struct comm_store store;
    struct comm_link link;
    const struct comm_backend *backend; /* NULL: not connected, or alone on host memory */
    void *self;                         /* the backend's; both are set under the store's lock */
};

/* -- the store -- */

void comm_store_set(struct comm_store *store, const char *key, const void *value, size_t size)
{
    store->options->publish(store->options->context, key, value, size);
}

static bool is_aborted(struct comm_store *store)
{
    pthread_mutex_lock(&store->lock);
    bool aborted = store->aborted;
    pthread_mutex_unlock(&store->lock);
    return aborted;
}

static const struct store_entry *find(const struct comm_store *store, const char *key)
{
    const struct store_entry *entry = store->entries;
    while (entry && strcmp(entry->key, key) != 0)
        entry = entry->next;
    return entry;
}

bool comm_store_has(struct comm_store *store, const char *key)
{
    pthread_mutex_lock(&store->lock);
    bool there = find(store, key) != NULL;
    pthread_mutex_unlock(&store->lock);
    return there;
}

void comm_store_note_unreached(struct comm_store *store, int rank)
{
    int *ranks = realloc(store->unreached, (size_t)(store->unreached_count + 1) * sizeof *ranks);
    if (!ranks)
        return; /* it is not named */
    store->unreached = ranks;
    store->unreached[store->unreached_count++] = rank;
}

int comm_unreached(const struct comm *comm, int *ret_ranks, int most)
{
    int count = comm->store.unreached_count < most ? comm->store.unreached_count : most;
    for (int i = 0; i < count; i++)
        ret_ranks[i] = comm->store.unreached[i];
    return count;
}

int comm_store_get(struct comm_store *store, const char *key, const void **ret, size_t *ret_size,
                   struct bl_error *err)
{
    struct timespec until = bl_deadline((uint32_t)store->options->connect_ms);
    const struct store_entry *entry;
    int late = 0, rc = 0;
    pthread_mutex_lock(&store->lock);
    while (!(entry = find(store, key)) && !store->aborted && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&store->changed, &store->lock, &until);
    if (store->aborted)
        rc = bl_fail(err, BL_EPEER, "aborted");
    else if (!entry)
        rc = bl_fail(err, BL_EPEER, "a peer did not appear in time");
    pthread_mutex_unlock(&store->lock);
    if (rc == 0) {
        *ret = entry->value;
        *ret_size = entry->size;
    }
    return rc;
}

void comm_deliver(struct comm *comm, const char *key, const void *value, size_t size)
{
    struct store_entry *entry = malloc(sizeof *entry + size);
    BL_ASSERT(entry); /* a few hundred bytes: without them nothing can be reported either */
    snprintf(entry->key, sizeof entry->key, "%s", key);
    entry->size = size;
    memcpy(entry->value, value, size);
    pthread_mutex_lock(&comm->store.lock);
    entry->next = comm->store.entries;
    comm->store.entries = entry;
    pthread_cond_broadcast(&comm->store.changed);
    pthread_mutex_unlock(&comm->store.lock);
}

/* -- opening -- */

int comm_open(const struct comm_options *options, struct comm **ret, struct bl_error *err)
{
    struct comm *comm = calloc(1, sizeof *comm);
    if (!comm)
        return bl_fail(err, BL_ENOMEM, "no memory for a communicator");
    comm->options = *options;
    comm->store.options = &comm->options;
    comm->link = (struct comm_link){&comm->options, &comm->store, comm_store_set, comm_store_get,
                                    is_aborted};
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&comm->store.changed, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&comm->store.lock, NULL);
    *ret = comm;
    return 0;
}

/* Has every rank a GPU of its own? All ranks read the same entries, so they agree. */
static int has_own_devices(struct comm *comm, bool *ret, struct bl_error *err)
{
    const struct comm_options *o = &comm->options;
    uint8_t none[16] = {0}, own[16] = {0};
    char key[64];
    if (o->collectives)
        o->memory->identity(o->device, own);
    snprintf(key, sizeof key, "device/%d", o->rank);
    comm_store_set(&comm->store, key, own, sizeof own);
    bl_autofree const uint8_t **all = calloc((size_t)o->world, sizeof *all);
    if (!all)
        return bl_fail(err, BL_ENOMEM, "no memory for %d ranks", o->world);
    *ret = true;
    for (int r = 0; r < o->world; r++) {
        const void *entry;
        size_t size;
        snprintf(key, sizeof key, "device/%d", r);
        BL_TRY(comm_store_get(&comm->store, key, &entry, &size, err));
        if (size != sizeof none)
            return bl_fail(err, BL_EPEER, "expected %zu bytes of %s, found %zu", sizeof none, key,
                           size);
        all[r] = entry;
        *ret = *ret && memcmp(all[r], none, sizeof none) != 0;
        for (int other = 0; other < r; other++)
            *ret = *ret && memcmp(all[r], all[other], sizeof none) != 0;
    }
    return 0;
}

static int choose(struct comm *comm, const struct comm_backend **ret, struct bl_error *err)
{
    const struct comm_options *o = &comm->options;
    const char *wanted = getenv("BLIPREN_COMM");
    bool nccl = false;
    if (wanted && *wanted) {
        nccl = strcmp(wanted, "nccl") == 0;
        if (!nccl && strcmp(wanted, "tcp") != 0)
            return bl_fail(err, BL_EUSAGE, "BLIPREN_COMM: expected tcp or nccl, found \"%.50s\"",
                           wanted);
        if (nccl && !o->collectives)
            return bl_fail(err, BL_EUSAGE, "BLIPREN_COMM=nccl needs a GPU on every rank");
    } else if (o->world > 1 && o->memory) {
        BL_TRY(has_own_devices(comm, &nccl, err));
    }
    *ret = nccl ? o->collectives : o->world > 1 ? &comm_tcp : NULL;
    return 0;
}

/* Known to abort from now on. */
static int install(struct comm *comm, const struct comm_backend *backend, struct bl_error *err)
{
    void *self = NULL;
    BL_TRY(backend->open(&comm->link, &self, err));
    pthread_mutex_lock(&comm->store.lock);
    comm->backend = backend;
    comm->self = self;
    if (comm->store.aborted)
        backend->abort(self);
    pthread_mutex_unlock(&comm->store.lock);
    return backend->connect(self, err);
}

int comm_connect(struct comm *comm, struct bl_error *err)
{
    const struct comm_backend *backend = NULL;
    int rc = choose(comm, &backend, err);
    if (rc == 0 && backend)
        rc = install(comm, backend, err);
    if (rc < 0)
        comm_abort(comm); /* whatever is begun on it fails */
    return rc;
}

const char *comm_name(const struct comm *comm)
{
    return comm->backend ? comm->backend->name : "none";
}

/* -- collectives -- */

void comm_allreduce(struct comm *comm, void *data, int64_t count, enum comm_type type)
{
    if (comm->backend && count > 0)
        comm->backend->allreduce(comm->self, data, count, type);
}

bool comm_allreduce_fixed(struct comm *comm, float *sums, int64_t *fixed, int64_t count)
{
    if (comm->backend && count > 0)
        comm->backend->allreduce_fixed(comm->self, sums, fixed, count);
    return comm->backend != NULL;
}

void comm_broadcast(struct comm *comm, void *data, size_t bytes, int root)
{
    if (comm->backend && bytes > 0)
        comm->backend->broadcast(comm->self, data, bytes, root);
}

int comm_wait(struct comm *comm, struct bl_error *err)
{
    if (comm->backend)
        return comm->backend->wait(comm->self, err);
    return is_aborted(&comm->store) ? bl_fail(err, BL_EPEER, "rank %d of %d: aborted",
                                              comm->options.rank, comm->options.world)
                                    : 0;
}

void comm_abort(struct comm *comm)
{
    pthread_mutex_lock(&comm->store.lock);
    comm->store.aborted = true;
    if (comm->backend)
        comm->backend->abort(comm->self);
    pthread_cond_broadcast(&comm->store.changed);
    pthread_mutex_unlock(&comm->store.lock);
}

void comm_free(struct comm **comm)
{
    struct comm *c = *comm;
    if (!c)
        return;
    comm_abort(c);
    if (c->backend)
        c->backend->free(c->self);
    for (struct store_entry *entry = c->store.entries, *next; entry; entry = next) {
        next = entry->next;
        free(entry);
    }
    free(c->store.unreached);
    pthread_mutex_destroy(&c->store.lock);
    pthread_cond_destroy(&c->store.changed);
    free(c);
    *comm = NULL;
}
