/* tests/cudasim/doubles/nccl.c - NCCL with one rank: a sum over one rank is what it was, once the stream
 * gets there. What an aborted communicator had not done by then is garbage, and no error. More ranks are
 * refused, as NCCL refuses two ranks on the one GPU that the shim is. */
#include "tests/cudasim/doubles/queue.h"

#include <nccl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct communicator {
    atomic_int users; /* its owner and collectives on their way */
    atomic_bool aborted;
};

struct job {
    struct communicator *comm;
    void *y;
    const void *x;
    size_t bytes;
};

static void leave(struct communicator *comm)
{
    if (atomic_fetch_sub(&comm->users, 1) == 1)
        free(comm);
}

static void run_job(void *context)
{
    const struct job *j = context;
    if (atomic_load(&j->comm->aborted))
        memset(j->y, 0xFF, j->bytes / 2);
    else
        memmove(j->y, j->x, j->bytes);
    leave(j->comm);
}

static ncclResult_t collective(ncclComm_t comm, void *y, const void *x, size_t bytes,
                               cudaStream_t stream)
{
    struct job *job = malloc(sizeof *job);
    if (!job)
        return ncclSystemError;
    *job = (struct job){(struct communicator *)comm, y, x, bytes};
    atomic_fetch_add(&job->comm->users, 1);
    double_queue(stream, run_job, job);
    return ncclInProgress;
}

ncclResult_t ncclGetVersion(int *ret)
{
    *ret = 0;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *ret)
{
    memset(ret, 1, sizeof *ret);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *ret, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (world > 1)
        return ncclInvalidUsage;
    struct communicator *comm = calloc(1, sizeof *comm);
    if (!comm)
        return ncclSystemError;
    comm->users = 1;
    *ret = (ncclComm_t)comm;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *ret)
{
    *ret = ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *x, void *y, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    return collective(comm, y, x, count * (type == ncclInt64 ? 8 : 4), stream);
}

ncclResult_t ncclBroadcast(const void *x, void *y, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    return collective(comm, y, x, count, stream);
}

ncclResult_t ncclCommAbort(ncclComm_t handle)
{
    struct communicator *comm = (struct communicator *)handle;
    atomic_store(&comm->aborted, true);
    leave(comm);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t rc)
{
    return "an error of the double";
}
