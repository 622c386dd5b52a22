/* worker/ops/cuda/nccl.c - collectives among GPUs over NCCL.
 *
 * Thread     one owner thread makes the communicator, queues every collective, polls for errors, and
 *            aborts: NCCL allows no thread inside it while another aborts. Others set flags.
 * Abort      a communicator that was aborted is never used again; what its collectives left behind is
 *            undefined. ncclCommAbort can hang: a watchdog ends the process after ABORT_S, and
 *            whoever watches the process starts it again.
 * Network    NCCL's sockets go through the interface of options.host.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "worker/ops/cuda/cuda.h"

#define ABORT_S 20
#define POLL_NS 100000   /* between two looks at what is under way */
#define PART_MULTIPLE 64 /* elements, so that a rank's part begins where vectors do */

enum nccl_kind { NCCL_REDUCE, NCCL_REDUCE_FIXED, NCCL_BROADCAST };

struct nccl_task {
    struct nccl_task *next;
    enum nccl_kind kind;
    void *data;
    int64_t *fixed; /* what NCCL_REDUCE_FIXED sums into data */
    int64_t count;  /* elements of a reduction, bytes of a broadcast */
    enum comm_type type;
    int root;
    cudaEvent_t ready; /* the data is there */
};

struct nccl {
    struct comm_link link;
    struct cuda *cuda;
    int rank, world, connect_ms;
    ncclUniqueId id;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;

    /* under the lock */
    struct nccl_task *tasks, **tasks_end;
    bool busy, stop, connected, failed;
    char failure[256];

    /* the owner thread's */
    ncclComm_t comm;
    cudaEvent_t done;
};

/* -- the owner thread -- */

static void fail(struct nccl *n, const char *what, const char *why)
{
    pthread_mutex_lock(&n->lock);
    if (!n->failed)
        snprintf(n->failure, sizeof n->failure, "%s: %s", what, why);
    n->failed = true;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
}

static bool has_failed(struct nccl *n)
{
    pthread_mutex_lock(&n->lock);
    bool failed = n->failed;
    pthread_mutex_unlock(&n->lock);
    if (!failed && n->link.aborted(n->link.store)) {
        fail(n, "a collective", "aborted");
        failed = true;
    }
    return failed;
}

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
}

/* Until the communicator has taken in what was asked of it. */
static bool settle(struct nccl *n, ncclResult_t rc, const char *what)
{
    while (rc == ncclSuccess || rc == ncclInProgress) {
        ncclResult_t state = ncclSuccess;
        rc = ncclCommGetAsyncError(n->comm, &state);
        if (rc == ncclSuccess)
            rc = state;
        if (rc == ncclSuccess)
            return true;
        if (rc == ncclInProgress && has_failed(n))
            return false;
        rest();
    }
    fail(n, what, ncclGetErrorString(rc));
    return false;
}

/* Until the device has done it. */
static bool finish(struct nccl *n)
{
    cudaError_t rc = cudaEventRecord(n->done, n->cuda->comm_stream);
    while (rc == cudaSuccess && (rc = cudaEventQuery(n->done)) == cudaErrorNotReady) {
        ncclResult_t state = ncclSuccess;
        if (ncclCommGetAsyncError(n->comm, &state) != ncclSuccess ||
            (state != ncclSuccess && state != ncclInProgress)) {
            fail(n, "a collective", ncclGetErrorString(state));
            return false;
        }
        if (has_failed(n))
            return false;
        rest();
        rc = cudaSuccess;
    }
    if (rc != cudaSuccess)
        fail(n, "a collective", cudaGetErrorString(rc));
    return rc == cudaSuccess;
}

static bool reduce(struct nccl *n, void *data, int64_t count, ncclDataType_t type)
{
    return settle(
        n, ncclAllReduce(data, data, (size_t)count, type, ncclSum, n->comm, n->cuda->comm_stream),
        "a collective");
}

static bool convert(struct nccl *n, float *sums, const int64_t *fixed, int64_t count)
{
    cudaError_t rc = cuda_fixed_get(n->cuda->comm_stream, sums, fixed, count);
    if (rc != cudaSuccess)
        fail(n, "a collective", cudaGetErrorString(rc));
    return rc == cudaSuccess;
}

/* A part for each rank, summed and converted there, then gathered; what does not part evenly is summed everywhere. */
static bool reduce_fixed(struct nccl *n, const struct nccl_task *task)
{
    const cudaStream_t stream = n->cuda->comm_stream;
    float *sums = task->data;
    int64_t *fixed = task->fixed;
    const int64_t part = task->count / n->world / PART_MULTIPLE * PART_MULTIPLE;
    const int64_t own = part * n->rank, end = part * n->world, rest = task->count - end;
    if (part > 0 &&
        !(settle(n,
                 ncclReduceScatter(fixed, fixed + own, (size_t)part, ncclInt64, ncclSum, n->comm,
                                   stream),
                 "a collective") &&
          convert(n, sums + own, fixed + own, part) &&
          settle(n, ncclAllGather(sums + own, sums, (size_t)part, ncclFloat32, n->comm, stream),
                 "a collective")))
        return false;
    return rest == 0 ||
           (reduce(n, fixed + end, rest, ncclInt64) && convert(n, sums + end, fixed + end, rest));
}

static void carry_out(struct nccl *n, const struct nccl_task *task)
{
    cudaStream_t stream = n->cuda->comm_stream;
    cudaError_t waits = cudaStreamWaitEvent(stream, task->ready, 0);
    if (waits != cudaSuccess) {
        fail(n, "a collective", cudaGetErrorString(waits));
        return;
    }
    bool queued = false;
    switch (task->kind) {
    case NCCL_REDUCE:
        queued =
            reduce(n, task->data, task->count, task->type == COMM_F32 ? ncclFloat32 : ncclInt64);
        break;
    case NCCL_REDUCE_FIXED:
        queued = reduce_fixed(n, task);
        break;
    case NCCL_BROADCAST:
        queued = settle(n,
                        ncclBroadcast(task->data, task->data, (size_t)task->count, ncclUint8,
                                      task->root, n->comm, stream),
                        "a collective");
        break;
    }
    if (queued)
        finish(n);
}

static void *watchdog(void *argument)
{
    sleep(ABORT_S);
    static const char line[] = "blipren-worker: NCCL does not come back from an abort; leaving\n";
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) {
        /* there is nobody to tell */
    }
    _exit(9);
}

/* Destroys a healthy communicator, aborts one that failed: at once, since what it left on the device holds up whoever waits for
 * the device. */
static void end_communicator(struct nccl *n)
{
    pthread_t dog;
    bool watched = pthread_create(&dog, NULL, watchdog, NULL) == 0;
    if (n->comm)
        ncclCommAbort(n->comm);
    n->comm = NULL;
    if (watched) {
        pthread_cancel(dog);
        pthread_join(dog, NULL);
    }
}

static void make_communicator(struct nccl *n)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    cudaError_t rc = cudaSetDevice(n->cuda->device);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&n->done, cudaEventDisableTiming);
    if (rc != cudaSuccess) {
        fail(n, "NCCL", cudaGetErrorString(rc));
        return;
    }
    ncclResult_t made = ncclCommInitRankConfig(&n->comm, n->world, n->id, n->rank, &config);
    bool good = settle(n, made, "NCCL cannot connect to its peers");
    pthread_mutex_lock(&n->lock);
    n->connected = good;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
}

static void *owner(void *argument)
{
    struct nccl *n = argument;
    make_communicator(n);
    pthread_mutex_lock(&n->lock);
    for (;;) {
        while (!n->stop && !n->tasks)
            pthread_cond_wait(&n->changed, &n->lock);
        struct nccl_task *task = n->tasks;
        if (!task)
            break;
        n->tasks = task->next;
        if (!n->tasks)
            n->tasks_end = &n->tasks;
        n->busy = true;
        bool usable = !n->failed && !n->stop;
        pthread_mutex_unlock(&n->lock);
        if (usable && !has_failed(n))
            carry_out(n, task);
        if (n->comm && has_failed(n))
            end_communicator(n);
        cudaEventDestroy(task->ready);
        free(task);
        pthread_mutex_lock(&n->lock);
        n->busy = false;
        pthread_cond_broadcast(&n->changed);
    }
    pthread_mutex_unlock(&n->lock);
    end_communicator(n);
    return NULL;
}

/* -- the table -- */

static void nccl_free(void *self)
{
    struct nccl *n = self;
    pthread_mutex_lock(&n->lock);
    n->stop = true;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
    if (n->has_thread)
        pthread_join(n->thread, NULL);
    if (n->done)
        cudaEventDestroy(n->done);
    pthread_mutex_destroy(&n->lock);
    pthread_cond_destroy(&n->changed);
    free(n);
}

/* NCCL looks for the interface by name; the address is what this worker was told. */
static void use_interface(const char *host)
{
    struct ifaddrs *list = NULL;
    struct in_addr address;
    if (getenv("NCCL_SOCKET_IFNAME") || inet_pton(AF_INET, host, &address) != 1 ||
        getifaddrs(&list) != 0)
        return;
    for (struct ifaddrs *i = list; i; i = i->ifa_next) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)i->ifa_addr;
        if (in && in->sin_family == AF_INET && in->sin_addr.s_addr == address.s_addr) {
            char name[64];
            snprintf(name, sizeof name, "=%s", i->ifa_name);
            setenv("NCCL_SOCKET_IFNAME", name, 0);
            break;
        }
    }
    freeifaddrs(list);
}

/* Rank 0's id, through the store. */
static int share_id(struct nccl *n, struct bl_error *err)
{
    static const char key[] = "nccl-id";
    if (n->rank == 0) {
        ncclResult_t rc = ncclGetUniqueId(&n->id);
        if (rc != ncclSuccess)
            return bl_fail(err, BL_EPEER, "NCCL makes no id: %s", ncclGetErrorString(rc));
        n->link.set(n->link.store, key, &n->id, sizeof n->id);
        return 0;
    }
    const void *entry;
    size_t size;
    BL_TRY(n->link.get(n->link.store, key, &entry, &size, err));
    if (size != sizeof n->id)
        return bl_fail(err, BL_EPEER, "expected an NCCL id of %zu bytes, found %zu", sizeof n->id,
                       size);
    memcpy(&n->id, entry, size);
    return 0;
}

/* Waits for the owner thread's communicator, until the time for connecting is over. */
static bool is_connected(struct nccl *n)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += n->connect_ms / 1000 + 1;
    int late = 0;
    pthread_mutex_lock(&n->lock);
    while (!n->connected && !n->failed && !late)
        late = pthread_cond_timedwait(&n->changed, &n->lock, &until);
    bool connected = n->connected;
    pthread_mutex_unlock(&n->lock);
    if (!connected)
        fail(n, "NCCL cannot connect to its peers", "a peer did not appear in time");
    return connected;
}

static int nccl_open(const struct comm_link *link, void **ret, struct bl_error *err)
{
    const struct comm_options *o = link->options;
    struct nccl *n = calloc(1, sizeof *n);
    if (!n)
        return bl_fail(err, BL_ENOMEM, "no memory for a communicator");
    n->link = *link;
    n->cuda = cuda_of(o->device);
    n->rank = o->rank;
    n->world = o->world;
    n->connect_ms = o->connect_ms;
    n->tasks_end = &n->tasks;
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->changed, NULL);
    use_interface(o->host);
    *ret = n;
    return 0;
}

static int nccl_connect(void *self, struct bl_error *err)
{
    struct nccl *n = self;
    BL_TRY(share_id(n, err));
    if (pthread_create(&n->thread, NULL, owner, n) != 0)
        return bl_fail(err, BL_ENOMEM, "no thread for a communicator");
    n->has_thread = true;
    if (is_connected(n))
        return 0;
    return bl_fail(err, BL_EPEER, "rank %d of %d: %s", n->rank, n->world, n->failure);
}

static void begin(struct nccl *n, struct nccl_task what)
{
    if (!n->has_thread)
        return; /* connecting failed, and wait says so */
    struct nccl_task *task = malloc(sizeof *task);
    BL_ASSERT(task); /* a few hundred bytes: without them nothing can be reported either */
    *task = what;
    cuda_ok(n->cuda, cudaEventCreateWithFlags(&task->ready, cudaEventDisableTiming), "an event");
    cuda_ok(n->cuda, cudaEventRecord(task->ready, n->cuda->launch.stream), "an event");
    pthread_mutex_lock(&n->lock);
    *n->tasks_end = task;
    n->tasks_end = &task->next;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
}

static void nccl_allreduce(void *self, void *data, int64_t count, enum comm_type type)
{
    begin(self, (struct nccl_task){.data = data, .count = count, .type = type});
}

static void nccl_allreduce_fixed(void *self, float *sums, int64_t *fixed, int64_t count)
{
    begin(self, (struct nccl_task){
                    .kind = NCCL_REDUCE_FIXED, .data = sums, .fixed = fixed, .count = count});
}

static void nccl_broadcast(void *self, void *data, size_t bytes, int root)
{
    begin(self, (struct nccl_task){
                    .kind = NCCL_BROADCAST, .data = data, .count = (int64_t)bytes, .root = root});
}

static int nccl_wait(void *self, struct bl_error *err)
{
    struct nccl *n = self;
    int rc = 0;
    pthread_mutex_lock(&n->lock);
    while (n->tasks || n->busy)
        pthread_cond_wait(&n->changed, &n->lock);
    if (n->failed)
        rc = bl_fail(err, BL_EPEER, "rank %d of %d: %s", n->rank, n->world, n->failure);
    pthread_mutex_unlock(&n->lock);
    return rc;
}

/* The owner thread sees the flag while it polls; called with the store's lock held. */
static void nccl_abort(void *self)
{
    fail(self, "a collective", "aborted");
}

const struct comm_backend cuda_nccl = {.name = "nccl",
                                       .open = nccl_open,
                                       .connect = nccl_connect,
                                       .allreduce = nccl_allreduce,
                                       .allreduce_fixed = nccl_allreduce_fixed,
                                       .broadcast = nccl_broadcast,
                                       .wait = nccl_wait,
                                       .abort = nccl_abort,
                                       .free = nccl_free};
