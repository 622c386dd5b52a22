/* worker/comm/ring.c - collectives round a ring of TCP connections.
 *
 * All-reduce of n elements over W ranks: n is cut into W segments; in W-1 rounds each rank passes a segment on and adds
 * the one it receives (2 (W-1)/W n elements over each wire in all, the known minimum), then W-1 rounds copy the sums
 * round. Adding a piece overlaps with the kernel's receiving the next. Fixed-point sums become f32 in between, where each rank
 * holds one segment of them.
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

enum ring_kind { RING_REDUCE, RING_REDUCE_FIXED, RING_BROADCAST };

struct ring_task {
    struct ring_task *next;
    enum ring_kind kind;
    void *data;          /* of the device, where there is one */
    int64_t *from;       /* what RING_REDUCE_FIXED sums into data; else NULL */
    int64_t count;       /* elements of a reduction, bytes of a broadcast */
    enum comm_type type; /* of what is summed */
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
    uint64_t own[2] = {++ring->serial, (uint64_t)task->count << 2 | task->kind}, other[2] = {0};
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

static struct segment segment_of(int64_t count, size_t element, int world, int index)
{
    index = (index % world + world) % world;
    int64_t from = count * index / world, to = count * (index + 1) / world;
    return (struct segment){(size_t)from * element, (size_t)(to - from) * element};
}

/* W-1 rounds, in the first of which segment `first` of count elements goes out. */
static int pass_segments(struct ring *ring, char *data, int64_t count, size_t element, int first,
                         bool add, enum comm_type type, struct bl_error *err)
{
    const int world = ring->options.world;
    for (int i = 0; i < world - 1; i++) {
        struct segment out = segment_of(count, element, world, first - i);
        struct segment in = segment_of(count, element, world, first - i - 1);
        struct round r = {.out = data + out.offset,
                          .out_size = out.size,
                          .in = data + in.offset,
                          .in_size = in.size,
                          .add = add,
                          .type = type};
        BL_TRY(go_round(ring, &r, err));
    }
    return 0;
}

/* The segment after a rank's own is summed there in the end. */
static int allreduce(struct ring *ring, const struct ring_task *task, char *data,
                     struct bl_error *err)
{
    const int rank = ring->options.rank;
    const size_t element = element_bytes(task->type);
    BL_TRY(pass_segments(ring, data, task->count, element, rank, true, task->type, err));
    return pass_segments(ring, data, task->count, element, rank + 1, false, task->type, err);
}

/* sums may begin where fixed does: a piece is read before anything of it is written. */
static void convert(char *sums, const char *fixed, int64_t count)
{
    enum { PIECE = 1024 };
    int64_t whole[PIECE];
    float narrow[PIECE] = {0};
    for (int64_t at = 0; at < count; at += PIECE) {
        const int64_t some = count - at < PIECE ? count - at : PIECE;
        memcpy(whole, fixed + (size_t)at * sizeof *whole, (size_t)some * sizeof *whole);
        for (int64_t i = 0; i < some; i++)
            narrow[i] = (float)((double)whole[i] / COMM_FIXED_SCALE);
        memcpy(sums + (size_t)at * sizeof *narrow, narrow, (size_t)some * sizeof *narrow);
    }
}

static int allreduce_fixed(struct ring *ring, const struct ring_task *task, char *sums, char *fixed,
                           struct bl_error *err)
{
    const int rank = ring->options.rank, world = ring->options.world;
    BL_TRY(pass_segments(ring, fixed, task->count, sizeof(int64_t), rank, true, COMM_I64, err));
    struct segment whole = segment_of(task->count, sizeof(int64_t), world, rank + 1);
    struct segment own = segment_of(task->count, sizeof(float), world, rank + 1);
    convert(sums + own.offset, fixed + whole.offset, (int64_t)(own.size / sizeof(float)));
    return pass_segments(ring, sums, task->count, sizeof(float), rank + 1, false, COMM_F32, err);
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

/* Its data in host memory; fixed: where its integers are, if it has any. */
static int exchange(struct ring *ring, const struct ring_task *task, char *data, char *fixed,
                    struct bl_error *err)
{
    BL_TRY(compare_serials(ring, task, err));
    switch (task->kind) {
    case RING_REDUCE:
        return allreduce(ring, task, data, err);
    case RING_REDUCE_FIXED:
        return allreduce_fixed(ring, task, data, fixed, err);
    case RING_BROADCAST:
        break;
    }
    return broadcast(ring, task, data, err);
}

static int carry_out(struct ring *ring, const struct ring_task *task, struct bl_error *err)
{
    const struct comm_memory *memory = ring->options.memory;
    const bool is_fixed = task->kind == RING_REDUCE_FIXED;
    if (!memory)
        return exchange(ring, task, task->data, (char *)task->from, err);
    const size_t count = (size_t)task->count;
    const size_t in = task->kind == RING_BROADCAST ? count : count * element_bytes(task->type);
    const size_t out = is_fixed ? count * sizeof(float) : in;
    BL_TRY(staging_of(ring, in, err));
    const void *from = is_fixed ? (const void *)task->from : task->data;
    if (!memory->fetch(ring->options.device, task->mark, ring->staging, from, in))
        return bl_fail(err, BL_EDEVICE, "the compute device failed");
    BL_TRY(exchange(ring, task, ring->staging, ring->staging, err));
    if (!memory->put(ring->options.device, task->data, ring->staging, out))
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
    begin(self, (struct ring_task){.data = data, .count = count, .type = type});
}

static void ring_allreduce_fixed(void *self, float *sums, int64_t *fixed, int64_t count)
{
    begin(self, (struct ring_task){.kind = RING_REDUCE_FIXED,
                                   .data = sums,
                                   .from = fixed,
                                   .count = count,
                                   .type = COMM_I64});
}

static void ring_broadcast(void *self, void *data, size_t bytes, int root)
{
    begin(self, (struct ring_task){
                    .kind = RING_BROADCAST, .data = data, .count = (int64_t)bytes, .root = root});
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
                                      .allreduce_fixed = ring_allreduce_fixed,
                                      .broadcast = ring_broadcast,
                                      .wait = ring_wait,
                                      .abort = ring_abort,
                                      .free = ring_free};
