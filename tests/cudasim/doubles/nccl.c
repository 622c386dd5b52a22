/* tests/cudasim/doubles/nccl.c - NCCL with one rank: a sum over one rank is what it was. More ranks are
 * refused, as NCCL refuses two ranks on the one GPU that the shim is. */
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

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
    *ret = malloc(1);
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
    return ncclInProgress;
}

ncclResult_t ncclBroadcast(const void *x, void *y, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    return ncclInProgress;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    free(comm);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t rc)
{
    return "an error of the double";
}
