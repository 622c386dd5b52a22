/* worker/ops/cuda/recording.c - recordings are CUDA graphs: what is launched into the stream while it is captured.
 *
 * Capture    of this thread alone: the communicator's goes on with its own stream meanwhile. Its first user ran the same operations
 *            before, so that every product has its algorithm, scratch its size and every kernel is loaded.
 * Failures   while recording are the recording's and not the device's: the graph is dropped, and the caller queues directly.
 * Memory     A graph keeps addresses. Since nobody knows which of them it uses, any release makes all recordings void.
 */
#include <stdlib.h>

#include "worker/ops/cuda/cuda.h"

struct ops_recording {
    cudaGraphExec_t graph;
    uint64_t releases; /* cuda->releases when it was made */
};

static int fails(struct cuda *cuda, cudaError_t rc, struct bl_error *err)
{
    cudaGetLastError(); /* else the next launch reports it */
    return bl_fail(err, BL_EDEVICE, "%s: a recording: %s", cuda->name, cudaGetErrorString(rc));
}

/* *ret = the captured operations. */
static int capture(struct cuda *cuda, cudaGraph_t *ret, ops_queue *queue, void *context,
                   struct bl_error *err)
{
    cudaStream_t stream = cuda->launch.stream;
    const cudaError_t begun = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (begun != cudaSuccess)
        return fails(cuda, begun, err);
    cuda->records = true;
    int rc = queue(context, err);
    cuda->records = false;
    const cudaError_t ended = cudaStreamEndCapture(stream, ret);
    if (rc == 0 && cuda->failure.code) { /* what went wrong first */
        rc = -cuda->failure.code;
        if (err)
            *err = cuda->failure;
    } else if (rc == 0 && ended != cudaSuccess) {
        rc = fails(cuda, ended, err);
    }
    cuda->failure = (struct bl_error){0};
    cudaGetLastError(); /* else the next launch reports it */
    return rc;
}

static int cuda_record(struct ops *self, struct ops_recording **ret, ops_queue *queue,
                       void *context, struct bl_error *err)
{
    struct cuda *cuda = cuda_of(self);
    cudaGraph_t graph = NULL;
    BL_ASSERT(!cuda->records);
    if (cuda->failure.code)
        return bl_fail(err, BL_EDEVICE, "%s: the device has failed", cuda->name);
    struct ops_recording *recording = calloc(1, sizeof *recording);
    if (!recording)
        return bl_fail(err, BL_ENOMEM, "no memory for a recording");
    int rc = capture(cuda, &graph, queue, context, err);
    if (rc == 0) {
        cudaError_t made = cudaGraphInstantiate(&recording->graph, graph, 0);
        if (made != cudaSuccess)
            rc = fails(cuda, made, err);
    }
    if (graph)
        cudaGraphDestroy(graph);
    recording->releases = cuda->releases;
    if (rc < 0)
        free(recording);
    else
        *ret = recording;
    return rc;
}

static bool cuda_replay(struct ops *self, const struct ops_recording *recording)
{
    struct cuda *cuda = cuda_of(self);
    if (recording->releases != cuda->releases)
        return false;
    cuda_ok(cuda, cudaGraphLaunch(recording->graph, cuda->launch.stream), "a recording");
    return true;
}

static void cuda_recording_free(struct ops *self, struct ops_recording **recording)
{
    struct cuda *cuda = cuda_of(self);
    if (!*recording)
        return;
    cuda_ok(cuda, cudaStreamSynchronize(cuda->launch.stream), "the device"); /* it may be running */
    cudaGraphExecDestroy((*recording)->graph);
    free(*recording);
    *recording = NULL;
}

void cuda_fill_recording(struct ops *table)
{
    table->record = cuda_record;
    table->replay = cuda_replay;
    table->recording_free = cuda_recording_free;
}
