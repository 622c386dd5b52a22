/* tests/cudasim/doubles/nccl.c - NCCL among threads or processes of one machine, over a file of shared memory that the unique id names.
 *
 * Collectives  run when the stream has come to them on every rank: each rank puts its input into its slot then, and computes its
 *              result from all slots, sums in the order of ranks. A rank that does not come is waited for without end.
 * Abort        what had not been done by then becomes garbage, and no error.
 * Refusals     a blocking communicator, a second thread inside a communicator, different collectives on two ranks: the process ends. */
#include "tests/cudasim/doubles/queue.h"

#include <fcntl.h>
#include <nccl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RANKS = 8, SLOT_BYTES = 64 << 20 };

enum kind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST };

/* What a rank is at: collectives are numbered from 1. */
struct seat {
    atomic_ullong posted,
        taken; /* the last one whose input is in the slot, whose result has been taken */
    enum kind kind;
    size_t bytes;
};

struct wire {
    atomic_int joined;
    struct seat seats[RANKS];
    char slots[RANKS][SLOT_BYTES];
};

struct communicator {
    atomic_int users; /* its owner and collectives on their way */
    atomic_bool aborted, occupied;
    int rank, world;
    unsigned long long serial;
    char name[64];
    struct wire *wire;
};

struct job {
    struct communicator *comm;
    enum kind kind;
    unsigned long long serial;
    void *y;
    const void *x;
    size_t in, out; /* bytes */
    ncclDataType_t type;
    int root;
};

static void broken(const char *what)
{
    fprintf(stderr, "nccl double: %s\n", what);
    abort();
}

static void leave(struct communicator *comm)
{
    if (atomic_fetch_sub(&comm->users, 1) > 1)
        return;
    munmap(comm->wire, sizeof *comm->wire);
    free(comm);
}

static void enter(struct communicator *comm)
{
    if (atomic_load(&comm->aborted))
        broken("an aborted communicator is used");
    if (atomic_exchange(&comm->occupied, true))
        broken("two threads are inside a communicator");
}

static void come_out(struct communicator *comm)
{
    atomic_store(&comm->occupied, false);
}

/* -- a collective, in its stream -- */

static bool all_have(const struct communicator *comm, bool posted, unsigned long long serial)
{
    for (int r = 0; r < comm->world; r++) {
        struct seat *seat = &comm->wire->seats[r];
        if (atomic_load(posted ? &seat->posted : &seat->taken) < serial)
            return false;
    }
    return true;
}

static bool is_ready(void *context)
{
    const struct job *j = context;
    struct communicator *comm = j->comm;
    struct seat *own = &comm->wire->seats[comm->rank];
    if (atomic_load(&comm->aborted))
        return true;
    if (atomic_load(&own->posted) < j->serial) {
        if (!all_have(comm, false, j->serial - 1))
            return false; /* somebody may still read the slot */
        memcpy(comm->wire->slots[comm->rank], j->x, j->in);
        own->kind = j->kind;
        own->bytes = j->in;
        atomic_store(&own->posted, j->serial);
    }
    return all_have(comm, true, j->serial);
}

/* y = the sum over ranks of what begins `first` bytes into their slots */
static void add_up(const struct job *j, size_t first)
{
    const struct wire *wire = j->comm->wire;
    if (j->type != ncclFloat32 && j->type != ncclInt64)
        broken("sums are of f32 or int64");
    for (int r = 0; r < j->comm->world; r++) {
        const char *slot = wire->slots[r] + first;
        if (r == 0) {
            memcpy(j->y, slot, j->out);
        } else if (j->type == ncclInt64) {
            for (size_t i = 0; i < j->out / sizeof(uint64_t); i++)
                ((uint64_t *)j->y)[i] += ((const uint64_t *)(const void *)slot)[i];
        } else {
            for (size_t i = 0; i < j->out / sizeof(float); i++)
                ((float *)j->y)[i] += ((const float *)(const void *)slot)[i];
        }
    }
}

static void run_job(void *context)
{
    const struct job *j = context;
    struct communicator *comm = j->comm;
    struct wire *wire = comm->wire;
    if (atomic_load(&comm->aborted)) {
        memset(j->y, 0xFF, j->out / 2);
        leave(comm);
        return;
    }
    for (int r = 0; r < comm->world; r++)
        if (wire->seats[r].kind != j->kind || wire->seats[r].bytes != j->in)
            broken("the ranks are at different collectives");
    switch (j->kind) {
    case ALL_REDUCE:
        add_up(j, 0);
        break;
    case REDUCE_SCATTER:
        add_up(j, j->out * (size_t)comm->rank);
        break;
    case ALL_GATHER:
        for (int r = 0; r < comm->world; r++)
            memcpy((char *)j->y + (size_t)r * j->in, wire->slots[r], j->in);
        break;
    case BROADCAST:
        memcpy(j->y, wire->slots[j->root], j->out);
        break;
    }
    atomic_store(&wire->seats[comm->rank].taken, j->serial);
    leave(comm);
}

static ncclResult_t collective(ncclComm_t handle, struct job what, cudaStream_t stream)
{
    struct communicator *comm = (struct communicator *)handle;
    struct job *job = malloc(sizeof *job);
    if (!job)
        return ncclSystemError;
    enter(comm);
    if (what.in > SLOT_BYTES)
        broken("a collective of more than 64 MB");
    *job = what;
    job->comm = comm;
    job->serial = ++comm->serial;
    atomic_fetch_add(&comm->users, 1);
    if (double_queue_when(stream, is_ready, run_job, job) != cudaSuccess)
        broken("a collective in a stream that is captured");
    come_out(comm);
    return ncclInProgress;
}

static size_t bytes_of(size_t count, ncclDataType_t type)
{
    return count * (type == ncclInt64 ? 8 : type == ncclFloat32 ? 4 : 1);
}

/* -- the library -- */

ncclResult_t ncclGetVersion(int *ret)
{
    *ret = 0;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *ret)
{
    static atomic_int made;
    memset(ret, 0, sizeof *ret);
    snprintf(ret->internal, sizeof ret->internal, "/blipren-nccl-%d-%d", (int)getpid(),
             atomic_fetch_add(&made, 1));
    int file = shm_open(ret->internal, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file < 0)
        return ncclSystemError;
    int rc = ftruncate(file, sizeof(struct wire));
    close(file);
    return rc == 0 ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *ret, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (config->blocking != 0)
        broken("a blocking communicator cannot be aborted");
    int file = shm_open(id.internal, O_RDWR, 0600);
    if (file < 0 || world > RANKS)
        return ncclInvalidUsage;
    struct communicator *comm = calloc(1, sizeof *comm);
    struct wire *wire =
        mmap(NULL, sizeof *wire, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    close(file);
    if (!comm || wire == MAP_FAILED) {
        free(comm);
        return ncclSystemError;
    }
    atomic_init(&comm->users, 1);
    comm->rank = rank;
    comm->world = world;
    comm->wire = wire;
    snprintf(comm->name, sizeof comm->name, "%.60s", id.internal);
    if (atomic_fetch_add(&wire->joined, 1) == world - 1)
        shm_unlink(comm->name);
    *ret = (ncclComm_t)comm;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t *ret)
{
    struct communicator *comm = (struct communicator *)handle;
    enter(comm);
    *ret = atomic_load(&comm->wire->joined) < comm->world ? ncclInProgress : ncclSuccess;
    come_out(comm);
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *x, void *y, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    const size_t bytes = bytes_of(count, type);
    return collective(
        comm,
        (struct job){.kind = ALL_REDUCE, .y = y, .x = x, .in = bytes, .out = bytes, .type = type},
        stream);
}

ncclResult_t ncclReduceScatter(const void *x, void *y, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    const size_t bytes = bytes_of(count, type);
    const size_t world = (size_t)((struct communicator *)comm)->world;
    return collective(comm,
                      (struct job){.kind = REDUCE_SCATTER,
                                   .y = y,
                                   .x = x,
                                   .in = world * bytes,
                                   .out = bytes,
                                   .type = type},
                      stream);
}

ncclResult_t ncclAllGather(const void *x, void *y, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    const size_t bytes = bytes_of(count, type);
    const size_t world = (size_t)((struct communicator *)comm)->world;
    return collective(
        comm, (struct job){.kind = ALL_GATHER, .y = y, .x = x, .in = bytes, .out = world * bytes},
        stream);
}

ncclResult_t ncclBroadcast(const void *x, void *y, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    const size_t bytes = bytes_of(count, type);
    return collective(
        comm,
        (struct job){.kind = BROADCAST, .y = y, .x = x, .in = bytes, .out = bytes, .root = root},
        stream);
}

ncclResult_t ncclCommAbort(ncclComm_t handle)
{
    struct communicator *comm = (struct communicator *)handle;
    enter(comm);
    shm_unlink(comm->name);
    atomic_store(&comm->aborted, true);
    leave(comm);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t rc)
{
    return "an error of the double";
}
