/* worker/comm/ring.c - collectives round a ring of TCP connections.
 *
 * All-reduce of n elements over W ranks: n is cut into W segments; in W-1 rounds each rank passes a segment on and adds
 * the one it receives (2 (W-1)/W n elements over each wire in all, the known minimum), then W-1 rounds copy the sums
 * round. Adding a piece overlaps with the kernel's receiving the next.
 *
 * Each collective begins with its serial number and size, so that ranks which began different ones find out. */
#include "worker/comm/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/progress.h"

#define LOOK_MS 100                     /* several times a heartbeat */
#define PIECE_BYTES ((size_t)256 << 10) /* stays in a core's cache between receiving and adding */

struct ring_task {
    struct ring_task *next;
    bool reduce;
    void *data;    /* of the device, where there is one */
    int64_t count; /* elements of a reduction, bytes of a broadcast */
    enum comm_type type;
    int root;
    void *mark; /* the device's queue when the task was begun */
};

/* One round: bytes to the right, bytes from the left. */
struct round {
    const char *out;
    size_t out_size, out_done;
    char *in;
    size_t in_size, in_done;
    bool add;       /* what arrives is added to what is there, else it replaces it */
    bool passes_on; /* what arrives goes out: `out` is `in`, and no further than in_done */
    enum comm_type type;
    size_t held; /* bytes in ring->piece, to be added */
};

static size_t element_bytes(enum comm_type type)
{
    return type == COMM_F32 ? 4 : 8;
}

static void add(void *sum, const void *x, size_t bytes, enum comm_type type)
{
    if (type == COMM_F32) {
        float *s = sum;
        const float *a = x;
        for (size_t i = 0; i < bytes / 4; i++)
            s[i] += a[i];
    } else {
        uint64_t *s = sum; /* two's complement sums wrap without undefined behaviour */
        const uint64_t *a = x;
        for (size_t i = 0; i < bytes / 8; i++)
            s[i] += a[i];
    }
}

/* -- bytes -- */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* A peer that closed, or died. */
static int lost(const struct ring *ring, bool right, int error, struct bl_error *err)
{
    const struct comm_options *o = &ring->options;
    int rank = (o->rank + (right ? 1 : o->world - 1)) % o->world;
    return bl_fail(err, BL_EPEER, "lost the connection to rank %d: %s", rank,
                   error ? strerror(error) : "it was closed");
}

static size_t sendable(const struct round *r)
{
    return (r->passes_on ? r->in_done : r->out_size) - r->out_done;
}

static int send_some(struct ring *ring, struct round *r, struct bl_error *err)
{
    ssize_t sent = send(ring->right, r->out + r->out_done, sendable(r), MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        return lost(ring, true, errno, err);
    r->out_done += sent > 0 ? (size_t)sent : 0;
    return 0;
}

static int receive_some(struct ring *ring, struct round *r, struct bl_error *err)
{
    size_t left = r->in_size - r->in_done, piece = smaller(left, PIECE_BYTES);
    char *to = r->add ? ring->piece + r->held : r->in + r->in_done;
    ssize_t got = recv(ring->left, to, r->add ? piece - r->held : piece, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0)
        return lost(ring, false, got < 0 ? errno : 0, err);
    r->held += (size_t)got;
    if (r->add && r->held < piece)
        return 0;
    if (r->add)
        add(r->in + r->in_done, ring->piece, piece, r->type);
    if (r->in_done / BL_PROGRESS_BYTES != (r->in_done + r->held) / BL_PROGRESS_BYTES)
        bl_progress_add(1);
    r->in_done += r->held;
    r->held = 0;
    return 0;
}

static int go_round(struct ring *ring, struct round *r, struct bl_error *err)
{
    while (r->out_done < r->out_size || r->in_done < r->in_size) {
        struct pollfd polled[3] = {
            {ring->wake, POLLIN, 0},
            {sendable(r) > 0 ? ring->right : -1, POLLOUT, 0},
            {r->in_done < r->in_size ? ring->left : -1, POLLIN, 0},
        };
        bl_progress_look();
        /* Again and again: a peer may have much to compute first, and whether it lives the coordinator knows. */
        if (poll(polled, 3, LOOK_MS) < 0 && errno != EINTR)
            return bl_fail(err, BL_EPEER, "poll: %s", strerror(errno));
        if (polled[0].revents)
            return bl_fail(err, BL_EPEER, "aborted");
        if (polled[1].revents)
            BL_TRY(send_some(ring, r, err));
        if (polled[2].revents)
            BL_TRY(receive_some(ring, r, err));
    }
    return 0;
}

/* -- collectives -- */

static int compare_serials(struct ring *ring, const struct ring_task *task, struct bl_error *err)
{
    uint64_t own[2] = {++ring->serial, (uint64_t)task->count}, other[2] = {0};
    struct round r = {.out = (const char *)own,
                      .out_size = sizeof own,
                      .in = (char *)other,
                      .in_size = sizeof other};
    BL_TRY(go_round(ring, &r, err));
    if (memcmp(own, other, sizeof own) != 0)
        return bl_fail(err, BL_EPEER, "the ranks started different collectives");
    return 0;
}

struct segment {
    size_t offset, size;
};

static struct segment segment_of(const struct ring_task *task, int world, int index)
{
    index = (index % world + world) % world;
    int64_t from = task->count * index / world, to = task->count * (index + 1) / world;
    size_t bytes = element_bytes(task->type);
    return (struct segment){(size_t)from * bytes, (size_t)(to - from) * bytes};
}

static int allreduce(struct ring *ring, const struct ring_task *task, char *data,
                     struct bl_error *err)
{
    int world = ring->options.world, rank = ring->options.rank;
    for (int i = 0; i < 2 * (world - 1); i++) {
        bool sums = i < world - 1;
        int first = sums ? rank - i : rank - (i - world + 1) + 1;
        struct segment out = segment_of(task, world, first);
        struct segment in = segment_of(task, world, first - 1);
        struct round r = {.out = data + out.offset,
                          .out_size = out.size,
                          .in = data + in.offset,
                          .in_size = in.size,
                          .add = sums,
                          .type = task->type};
        BL_TRY(go_round(ring, &r, err));
    }
    return 0;
}

/* Bytes walk round the ring from the root; every rank but the last passes them on as they come. */
static int broadcast(struct ring *ring, const struct ring_task *task, char *data,
                     struct bl_error *err)
{
    int world = ring->options.world, rank = ring->options.rank;
    bool is_root = rank == task->root, is_last = (rank + 1) % world == task->root;
    size_t bytes = (size_t)task->count;
    struct round r = {.out = data,
                      .out_size = is_last ? 0 : bytes,
                      .in = data,
                      .in_size = is_root ? 0 : bytes,
                      .passes_on = !is_root && !is_last};
    return go_round(ring, &r, err);
}

/* -- staging -- */

static int staging_of(struct ring *ring, size_t bytes, struct bl_error *err)
{
    const struct comm_memory *memory = ring->options.memory;
    if (bytes <= ring->staging_bytes)
        return 0;
    memory->release(ring->options.device, ring->staging);
    ring->staging_bytes = 0;
    ring->staging = memory->alloc(ring->options.device, bytes);
    if (!ring->staging)
        return bl_fail(err, BL_ENOMEM, "no pinned memory to stage a collective");
    ring->staging_bytes = bytes;
    return 0;
}

static int carry_out(struct ring *ring, const struct ring_task *task, struct bl_error *err)
{
    const struct comm_memory *memory = ring->options.memory;
    size_t bytes = (size_t)task->count * (task->reduce ? element_bytes(task->type) : 1);
    char *data = task->data;
    if (memory) {
        BL_TRY(staging_of(ring, bytes, err));
        data = ring->staging;
        if (!memory->fetch(ring->options.device, task->mark, data, task->data, bytes))
            return bl_fail(err, BL_EDEVICE, "the compute device failed");
    }
    BL_TRY(compare_serials(ring, task, err));
    BL_TRY((task->reduce ? allreduce : broadcast)(ring, task, data, err));
    if (memory && !memory->put(ring->options.device, task->data, data, bytes))
        return bl_fail(err, BL_EDEVICE, "the compute device failed");
    return 0;
}

/* -- the thread -- */

static void forget(const struct ring *ring, struct ring_task *task)
{
    if (ring->options.memory)
        ring->options.memory->forget(ring->options.device, task->mark);
    free(task);
}

static void *run(void *argument)
{
    struct ring *ring = argument;
    pthread_setname_np(pthread_self(), "blipren-ring");
    pthread_mutex_lock(&ring->lock);
    for (;;) {
        while (!ring->must_stop && !ring->first)
            pthread_cond_wait(&ring->changed, &ring->lock);
        if (ring->must_stop)
            break;
        struct ring_task *task = ring->first;
        ring->first = task->next;
        ring->is_busy = true;
        bool usable = ring->failure.code == 0;
        pthread_mutex_unlock(&ring->lock);
        struct bl_error err = {0};
        if (usable)
            carry_out(ring, task, &err);
        forget(ring, task);
        pthread_mutex_lock(&ring->lock);
        if (ring->failure.code == 0)
            ring->failure = err;
        ring->is_busy = false;
        pthread_cond_broadcast(&ring->changed);
    }
    pthread_mutex_unlock(&ring->lock);
    return NULL;
}

static void begin(struct ring *ring, struct ring_task begun)
{
    struct ring_task *task = malloc(sizeof *task);
    BL_ASSERT(task); /* a few bytes: without them nothing can be reported either */
    *task = begun;
    task->mark = ring->options.memory ? ring->options.memory->mark(ring->options.device) : NULL;
    pthread_mutex_lock(&ring->lock);
    if (ring->first)
        ring->last->next = task;
    else
        ring->first = task;
    ring->last = task;
    pthread_cond_broadcast(&ring->changed);
    pthread_mutex_unlock(&ring->lock);
}

/* -- the table -- */

static void ring_free(void *self)
{
    struct ring *ring = self;
    pthread_mutex_lock(&ring->lock);
    ring->must_stop = true;
    pthread_cond_broadcast(&ring->changed);
    pthread_mutex_unlock(&ring->lock);
    if (ring->has_thread)
        pthread_join(ring->thread, NULL);
    for (struct ring_task *task = ring->first, *next; task; task = next) {
        next = task->next;
        forget(ring, task);
    }
    int descriptors[] = {ring->listener, ring->left, ring->right, ring->wake};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    if (ring->options.memory)
        ring->options.memory->release(ring->options.device, ring->staging);
    pthread_cond_destroy(&ring->changed);
    pthread_mutex_destroy(&ring->lock);
    free(ring->piece);
    free(ring);
}

static int start(struct ring *ring, struct bl_error *err)
{
    ring->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ring->piece = malloc(PIECE_BYTES);
    if (ring->wake < 0 || !ring->piece)
        return bl_fail(err, BL_ENOMEM, "no memory for a communicator");
    if (pthread_create(&ring->thread, NULL, run, ring) != 0)
        return bl_fail(err, BL_ENOMEM, "cannot start a thread");
    ring->has_thread = true;
    return 0;
}

static int ring_open(const struct comm_link *link, void **ret, struct bl_error *err)
{
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return bl_fail(err, BL_ENOMEM, "no memory for a communicator");
    ring->link = *link;
    ring->options = *link->options;
    ring->listener = ring->left = ring->right = ring->wake = -1;
    pthread_mutex_init(&ring->lock, NULL);
    pthread_cond_init(&ring->changed, NULL);
    int rc = start(ring, err);
    if (rc < 0)
        ring_free(ring);
    else
        *ret = ring;
    return rc;
}

static int ring_connect(void *self, struct bl_error *err)
{
    struct ring *ring = self;
    const struct comm_options *o = &ring->options;
    struct bl_error why;
    if (ring_join(ring, &why) == 0)
        return 0;
    return bl_fail(err, BL_EPEER, "rank %d of %d cannot connect to its peers: %s", o->rank,
                   o->world, why.text);
}

static void ring_allreduce(void *self, void *data, int64_t count, enum comm_type type)
{
    begin(self, (struct ring_task){.reduce = true, .data = data, .count = count, .type = type});
}

static void ring_broadcast(void *self, void *data, size_t bytes, int root)
{
    begin(self, (struct ring_task){.data = data, .count = (int64_t)bytes, .root = root});
}

static int ring_wait(void *self, struct bl_error *err)
{
    struct ring *ring = self;
    pthread_mutex_lock(&ring->lock);
    while (ring->first || ring->is_busy)
        pthread_cond_wait(&ring->changed, &ring->lock);
    struct bl_error failure = ring->failure;
    pthread_mutex_unlock(&ring->lock);
    if (failure.code == 0)
        return 0;
    return bl_fail(err, BL_EPEER, "rank %d of %d: a collective failed: %s", ring->options.rank,
                   ring->options.world, failure.text);
}

static void ring_abort(void *self)
{
    struct ring *ring = self;
    pthread_mutex_lock(&ring->lock);
    if (ring->failure.code == 0)
        bl_fail(&ring->failure, BL_EPEER, "aborted");
    pthread_mutex_unlock(&ring->lock);
    eventfd_write(ring->wake, 1);
}

const struct comm_backend comm_tcp = {.name = "tcp",
                                      .open = ring_open,
                                      .connect = ring_connect,
                                      .allreduce = ring_allreduce,
                                      .broadcast = ring_broadcast,
                                      .wait = ring_wait,
                                      .abort = ring_abort,
                                      .free = ring_free};
