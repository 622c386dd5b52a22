/* tests/bench/cluster_bench.c - what many peers cost a coordinator: plays the workers and loaders of a run in one process, each
 * with a TCP connection of its own that speaks ZMTP 3.0. The coordinator is the real one; micro-batches and all-reduce are
 * stubs: what a loader is assigned it has made at once, its worker has computed it at once, and a step is reduced when the last rank has come.
 * The first checkpoint is a copy of one that a real worker wrote (--checkpoint).
 *
 *   cluster_bench --port P --coord PID --workers W --loaders L --hashes FILE --checkpoint FOLDER --run RUN
 *                 [--seconds S] [--micro-batch M] [--batch B] [--rate R] [--sent FOLDER --transfer PROGRAM]
 *
 * --rate: at most so many steps a second. --sent: a checkpoint, which a worker that does not see the run folder sends when it is asked for one,
 * and fetches again (by tests/bench/file_transfer); printed instead: how long the commit of a step takes meanwhile.
 *
 * --hashes: a line for each sample, the first 16 hexadecimal digits of its image's SHA-256, by which loaders prove that they see
 * the images. Prints one line of JSON: processor time of coordinator and driver a step, the coordinator's memory and load
 * at rest, and how long a death takes until it is noticed and until the next step is through. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cluster.h"
#include "common/deadline.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/random.h"
#include "proto/wire.h"

#define JOINING_MAX                                                                                \
    128 /* connections without Welcome at a time: strangers are few (docs/security.md) */
#define STEPS_HELD 8 /* steps of which micro-batches may be here */
#define DEFERRED_MAX 256
#define PATH_BYTES 4096

enum stage { GREETING, HANDSHAKE, HELLO, JOINED, DEAD };

struct bytes {
    uint8_t *data;
    size_t size, room, taken;
};

struct deferred {
    uint64_t step;
    uint32_t micro_batch;
};

struct peer {
    int fd;
    bool is_worker;
    enum stage stage;
    uint64_t incarnation, progress;
    struct bytes in, out;
    bool wants_out;
    /* worker */
    uint64_t generation, state_generation;
    int64_t applied;
    uint32_t rank, world;
    bool member;
    uint32_t left[STEPS_HELD]; /* micro-batches of its share to come */
    uint64_t digest[STEPS_HELD];
    struct deferred deferred[DEFERRED_MAX]; /* Received, of steps after the one at hand */
    uint32_t deferred_count;
};

static struct {
    const char *hashes, *checkpoint, *run, *sent, *transfer;
    int port, coordinator, workers, loaders, seconds, batch, micro_batch, rate;
    uint64_t ahead;
} options = {.seconds = 10, .batch = 1000, .micro_batch = 1};

static struct peer *peers, *ranks[BL_WORKERS_MAX];
static int peer_count, joining, joined, poller;
static uint64_t *hashes, hash_count, epoch;
static uint8_t run_id[16];
static struct bl_plan plan;
static uint32_t patience_ms = 10000, arrived;
static uint64_t steps, messages_in, messages_out, generation_now;
static double formed_at, ended_at;
static bool resting;  /* assignments are left unanswered */
static double due_at; /* the step that all ranks have come to is applied; 0: none has */
static struct {
    struct peer *loader;
    uint64_t generation, worker, step;
    uint32_t micro_batch;
} * rested;
static size_t rested_count, rested_room;

static void die(const char *what)
{
    fprintf(stderr, "cluster_bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void bytes_add(struct bytes *b, const void *data, size_t size)
{
    if (b->size + size > b->room) {
        b->room = 2 * (b->size + size);
        b->data = realloc(b->data, b->room);
        BL_ASSERT(b->data != NULL);
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

/* -- ZMTP -- */

static void watch(struct peer *p, bool out)
{
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = p};
    if (p->wants_out != out)
        epoll_ctl(poller, EPOLL_CTL_MOD, p->fd, &e);
    p->wants_out = out;
}

static void flush_out(struct peer *p)
{
    while (p->out.taken < p->out.size) {
        ssize_t n =
            send(p->fd, p->out.data + p->out.taken, p->out.size - p->out.taken, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return watch(p, true);
        if (n < 0)
            die("the coordinator closed a connection");
        p->out.taken += (size_t)n;
    }
    p->out.size = p->out.taken = 0;
    watch(p, false);
}

static void send_frame(struct peer *p, uint8_t flags, const void *data, size_t size)
{
    uint8_t head[9] = {flags, (uint8_t)size};
    if (p->stage == DEAD)
        return;
    if (size > 255) {
        head[0] |= 2;
        for (int i = 0; i < 8; i++)
            head[1 + i] = (uint8_t)((uint64_t)size >> (56 - 8 * i));
    }
    bytes_add(&p->out, head, size > 255 ? 9 : 2);
    bytes_add(&p->out, data, size);
}

static void send_greeting(struct peer *p)
{
    uint8_t greeting[64] = {0xff, [9] = 0x7f, [10] = 3};
    memcpy(greeting + 12, "NULL", 4);
    bytes_add(&p->out, greeting, sizeof greeting);
}

static void send_ready(struct peer *p)
{
    uint8_t body[64];
    size_t size = 0;
    struct wire_id id = wire_id_make(p->incarnation, 1);
    static const uint8_t type[] = "\x05READY\x0bSocket-Type\0\0\0\x06"
                                  "DEALER\x08Identity\0\0\0\x10";
    memcpy(body, type, sizeof type - 1);
    size = sizeof type - 1;
    memcpy(body + size, id.bytes, sizeof id.bytes);
    send_frame(p, 4, body, size + sizeof id.bytes);
}

/* -- messages out -- */

static void send_envelope(struct peer *p, uint64_t generation, Blipren__Envelope *e)
{
    uint8_t *data;
    size_t size;
    e->version = BL_PROTOCOL_VERSION;
    e->generation = generation;
    e->peer = p->incarnation;
    e->epoch = epoch;
    if (epoch)
        e->run = (ProtobufCBinaryData){sizeof run_id, run_id};
    wire_pack(e, &data, &size);
    send_frame(p, 0, data, size);
    free(data);
    messages_out++;
}

static void say_hello(struct peer *p)
{
    char name[64], endpoint[] = "tcp://127.0.0.1:9";
    snprintf(name, sizeof name, "%s-%d", p->is_worker ? "worker" : "loader", (int)(p - peers));
    Blipren__Hello hello = BLIPREN__HELLO__INIT;
    hello.role = p->is_worker ? BLIPREN__ROLE__ROLE_WORKER : BLIPREN__ROLE__ROLE_LOADER;
    hello.name = name;
    hello.build = "blipren, stub";
    hello.applied_step = -1;
    if (p->is_worker)
        hello.data_endpoint = endpoint;
    else
        hello.capacity = 8;
    WIRE_ENVELOPE(e, HELLO, hello) = &hello;
    send_envelope(p, 0, &e);
}

/* The stub's state after some steps: equal on all ranks. */
static ProtobufCBinaryData state_of(int64_t step)
{
    static uint8_t digest[32];
    memset(digest, 7, sizeof digest);
    memcpy(digest, &step, sizeof step);
    return step < 0 ? (ProtobufCBinaryData){0, NULL} : (ProtobufCBinaryData){sizeof digest, digest};
}

static void say_ended(struct peer *p, uint64_t generation, const Blipren__Welcome *welcome)
{
    uint64_t proof[BL_PROBE_SAMPLES_MAX];
    Blipren__Ended ended = BLIPREN__ENDED__INIT;
    ended.applied_step = p->is_worker ? p->applied : -1;
    ended.state_digest = state_of(ended.applied_step);
    ended.state_generation = p->state_generation;
    ended.needs_files = p->is_worker && options.sent;
    if (welcome && !p->is_worker) {
        ended.n_probe_hash = welcome->n_probe;
        ended.probe_hash = proof;
        for (size_t i = 0; i < welcome->n_probe; i++)
            proof[i] = welcome->probe[i] < hash_count ? hashes[welcome->probe[i]] : 0;
    }
    WIRE_ENVELOPE(e, ENDED, ended) = &ended;
    send_envelope(p, generation, &e);
}

static void say_beat(struct peer *p)
{
    Blipren__Beat beat = BLIPREN__BEAT__INIT;
    beat.phase = "train";
    beat.progress = ++p->progress;
    WIRE_ENVELOPE(e, BEAT, beat) = &beat;
    send_envelope(p, p->generation, &e);
}

static void say_micro_batch(struct peer *p, bool received, uint64_t step, uint32_t micro_batch)
{
    if (received) {
        Blipren__Received m = {PROTOBUF_C_MESSAGE_INIT(&blipren__received__descriptor),
                               BLIPREN__KIND__KIND_TRAIN, step, micro_batch};
        WIRE_ENVELOPE(e, RECEIVED, received) = &m;
        return send_envelope(p, p->generation, &e);
    }
    Blipren__Consumed m = {PROTOBUF_C_MESSAGE_INIT(&blipren__consumed__descriptor),
                           BLIPREN__KIND__KIND_TRAIN, step, micro_batch};
    WIRE_ENVELOPE(e, CONSUMED, consumed) = &m;
    send_envelope(p, p->generation, &e);
}

static struct bl_range share_of(const struct peer *p)
{
    return bl_share(bl_plan_micro_batches(&plan, BL_KIND_TRAIN), p->rank, p->world);
}

static void say_report(struct peer *p, uint64_t step)
{
    struct bl_range share = share_of(p);
    struct bl_range last = bl_plan_indices(&plan, BL_KIND_TRAIN, share.first + share.count - 1);
    Blipren__Range range = BLIPREN__RANGE__INIT, *list = &range;
    range.first = bl_plan_indices(&plan, BL_KIND_TRAIN, share.first).first;
    range.count = last.first + last.count - range.first;
    Blipren__Report report = BLIPREN__REPORT__INIT;
    report.step = step;
    report.nll_sum = report.grad_norm = report.learning_rate = 1;
    report.tokens = report.images = plan.batch;
    report.n_trained = 1;
    report.trained = &list;
    report.sample_digest = p->digest[step % STEPS_HELD];
    WIRE_ENVELOPE(e, REPORT, report) = &report;
    send_envelope(p, p->generation, &e);
}

/* -- the stubbed cluster -- */

/* Of the living generation's micro-batches (STEPS_HELD, micro-batches): which were assigned and which received. A hedged one is
 * assigned twice, and comes twice. */
enum { ASSIGNED = 1, RECEIVED = 2 };
static uint8_t *seen;

static uint8_t *seen_of(uint64_t step, uint32_t micro_batch)
{
    return seen + step % STEPS_HELD * bl_plan_micro_batches(&plan, BL_KIND_TRAIN) + micro_batch;
}

/* And of a step that worker p has still to apply? */
static bool is_first(const struct peer *p, uint64_t step, uint32_t micro_batch, uint8_t what)
{
    if (step < (uint64_t)p->applied)
        return false;
    uint8_t *before = seen_of(step, micro_batch);
    bool first = !(*before & what);
    *before |= what;
    return first;
}

static void begin_step(struct peer *p, uint64_t step)
{
    struct bl_range share = share_of(p);
    memset(seen_of(step, share.first), 0, share.count);
    p->left[step % STEPS_HELD] = share.count;
    p->digest[step % STEPS_HELD] = 0;
}

static void micro_batch_done(struct peer *p, uint64_t step, uint32_t micro_batch);

/* How long commits take: from a step's Reports to the first assignment that waited for its commit. */
#define COMMITS_MAX 100000
static double applied_at[STEPS_HELD], commits[COMMITS_MAX];
static uint32_t commit_count;
static uint64_t assigned_to; /* the highest step that was assigned */

static void note_assigned(uint64_t step)
{
    if (step <= assigned_to)
        return;
    assigned_to = step;
    uint64_t committed = step - 1 - options.ahead;
    if (step > options.ahead && commit_count < COMMITS_MAX &&
        applied_at[committed % STEPS_HELD] > 0)
        commits[commit_count++] = bl_now_s() - applied_at[committed % STEPS_HELD];
}

/* The last rank has come: all apply the step, and compute what they hold of the next. */
static void apply_step(uint32_t world, uint64_t step)
{
    arrived = 0;
    due_at = 0;
    steps++;
    applied_at[step % STEPS_HELD] = bl_now_s();
    for (uint32_t rank = 0; rank < world; rank++) {
        ranks[rank]->applied = (int64_t)step + 1;
        say_report(ranks[rank], step);
        begin_step(ranks[rank], step + STEPS_HELD);
    }
    for (uint32_t rank = 0; rank < world; rank++) {
        struct peer *p = ranks[rank];
        uint32_t held = p->deferred_count;
        p->deferred_count = 0;
        for (uint32_t i = 0; i < held; i++)
            micro_batch_done(p, p->deferred[i].step, p->deferred[i].micro_batch);
    }
}

static void micro_batch_done(struct peer *p, uint64_t step, uint32_t micro_batch)
{
    if (step != (uint64_t)p->applied) {
        BL_ASSERT_CMP(p->deferred_count, <, DEFERRED_MAX);
        p->deferred[p->deferred_count++] = (struct deferred){step, micro_batch};
        return;
    }
    say_micro_batch(p, false, step, micro_batch);
    if (--p->left[step % STEPS_HELD] > 0 || ++arrived < p->world)
        return;
    if (options.rate)
        due_at = applied_at[(step + STEPS_HELD - 1) % STEPS_HELD] + 1.0 / options.rate;
    else
        apply_step(p->world, step);
}

static struct peer *worker_of(uint64_t incarnation)
{
    return &peers[incarnation >> 40]; /* see start_peer */
}

static void complete(struct peer *loader, uint64_t generation, uint64_t worker, uint64_t step,
                     uint32_t micro_batch)
{
    Blipren__Completed m = BLIPREN__COMPLETED__INIT;
    m.kind = BLIPREN__KIND__KIND_TRAIN;
    m.step = step;
    m.micro_batch = micro_batch;
    WIRE_ENVELOPE(e, COMPLETED, completed) = &m;
    send_envelope(loader, generation, &e);
    struct peer *p = worker_of(worker);
    if (!p->member || p->generation != generation || p->stage != JOINED ||
        !is_first(p, step, micro_batch, RECEIVED))
        return;
    say_micro_batch(p, true, step, micro_batch);
    micro_batch_done(p, step, micro_batch);
}

static void take_assignment(struct peer *loader, uint64_t generation, const Blipren__Assignment *m)
{
    struct peer *p = worker_of(m->worker);
    note_assigned(m->step);
    if (p->member && p->generation == generation && is_first(p, m->step, m->micro_batch, ASSIGNED))
        for (size_t i = 0; i < m->n_sample; i++)
            p->digest[m->step % STEPS_HELD] += bl_sample_term(m->first + (uint32_t)i, m->sample[i]);
    if (!resting)
        return complete(loader, generation, m->worker, m->step, m->micro_batch);
    if (rested_count == rested_room) {
        rested_room = 2 * rested_room + 1024;
        void *grown = realloc(rested, rested_room * sizeof *rested);
        BL_ASSERT(grown != NULL);
        rested = grown;
    }
    rested[rested_count].loader = loader;
    rested[rested_count].generation = generation;
    rested[rested_count].worker = m->worker;
    rested[rested_count].step = m->step;
    rested[rested_count++].micro_batch = m->micro_batch;
}

static void end_rest(void)
{
    resting = false;
    for (size_t i = 0; i < rested_count; i++)
        complete(rested[i].loader, rested[i].generation, rested[i].worker, rested[i].step,
                 rested[i].micro_batch);
    rested_count = 0;
}

static void take_form(struct peer *p, uint64_t generation, const Blipren__Form *m)
{
    char key[32];
    p->generation = p->state_generation = generation;
    p->rank = m->rank;
    p->world = m->world;
    p->applied = (int64_t)m->step;
    p->member = true;
    p->deferred_count = 0;
    ranks[p->rank] = p;
    if (generation != generation_now) {
        arrived = 0;
        due_at = 0;
        generation_now = generation;
    }
    for (uint64_t step = m->step; step < m->step + STEPS_HELD; step++)
        begin_step(p, step);
    snprintf(key, sizeof key, "ring/%u", p->rank);
    Blipren__Rendezvous rendezvous = BLIPREN__RENDEZVOUS__INIT;
    rendezvous.key = key;
    rendezvous.value =
        (ProtobufCBinaryData){48, (uint8_t *)"192.0.2.1 50000 0123456789abcdef0123456789abcdef"};
    WIRE_ENVELOPE(e, RENDEZVOUS, rendezvous) = &rendezvous;
    send_envelope(p, generation, &e);
    Blipren__Formed formed = BLIPREN__FORMED__INIT;
    formed.step = m->step;
    formed.state_digest = state_of((int64_t)m->step);
    WIRE_ENVELOPE(f, FORMED, formed) = &formed;
    send_envelope(p, generation, &f);
    formed_at = bl_now_s();
}

/* -- a worker that does not see the run folder -- */

static struct {
    char endpoint[64], token[2 * BL_TOKEN_BYTES + 1], run[33], name[256];
    struct peer *
        sender; /* of the checkpoint, from the moment that it is to send one; NULL: they are copied */
    uint64_t generation, step;
    pid_t process; /* that transfers; 0: none does */
    bool wanted, failed;
} files;

static void note_files(const Blipren__Welcome *m)
{
    snprintf(files.endpoint, sizeof files.endpoint, "tcp://127.0.0.1:%u", m->files_port);
    for (int i = 0; i < BL_TOKEN_BYTES; i++)
        snprintf(files.token + 2 * i, 3, "%02x", m->token.data[i]);
    for (int i = 0; i < 16; i++)
        snprintf(files.run + 2 * i, 3, "%02x", run_id[i]);
}

static void transfer(const char *what)
{
    char peer[20], patience[20];
    snprintf(peer, sizeof peer, "%llx", (unsigned long long)files.sender->incarnation);
    snprintf(patience, sizeof patience, "%u", patience_ms);
    const char *arguments[] = {options.transfer, what, files.endpoint, files.token,
                               files.run,        peer, patience,       files.name,
                               options.sent,     NULL};
    fflush(stdout);
    if (posix_spawn(&files.process, options.transfer, NULL, NULL,
                    (char *const *)(uintptr_t)arguments, environ) != 0)
        die(options.transfer);
}

/* Is it over? */
static bool transferred(void)
{
    int status;
    if (!files.process || waitpid(files.process, &status, WNOHANG) != files.process)
        return false;
    files.process = 0;
    files.failed = status != 0;
    return true;
}

static void say_saved(struct peer *p, uint64_t generation, uint64_t step, const char *folder,
                      bool failed)
{
    Blipren__Saved saved = BLIPREN__SAVED__INIT;
    saved.step = step;
    saved.folder = (char *)(uintptr_t)folder;
    saved.error = failed ? "failed" : "";
    WIRE_ENVELOPE(e, SAVED, saved) = &saved;
    send_envelope(p, generation, &e);
}

static void take_save(struct peer *p, uint64_t generation, const Blipren__Save *m)
{
    if (files.wanted) {
        files.wanted = false;
        files.sender = p;
        files.generation = generation;
        files.step = m->step;
        snprintf(files.name, sizeof files.name, "%s", m->folder);
        return transfer("put");
    }
    char command[3 * PATH_BYTES];
    snprintf(command, sizeof command, "cp -r '%s' '%s/checkpoints/%s'", options.checkpoint,
             options.run, m->folder);
    bool failed = m->step > 0 || system(command) != 0; /* it is of step 0 */
    say_saved(p, generation, m->step, m->folder, failed);
}

static void take(struct peer *p, const Blipren__Envelope *m)
{
    messages_in++;
    switch (m->body_case) {
    case BLIPREN__ENVELOPE__BODY_WELCOME:
        p->stage = JOINED;
        joining--;
        joined++;
        epoch = m->epoch;
        memcpy(run_id, m->run.data, sizeof run_id);
        patience_ms = m->welcome->patience_ms;
        note_files(m->welcome);
        return say_ended(p, 0, m->welcome);
    case BLIPREN__ENVELOPE__BODY_REFUSE:
        fprintf(stderr, "cluster_bench: refused: %s\n", m->refuse->text);
        exit(1);
    case BLIPREN__ENVELOPE__BODY_END:
        if (!p->is_worker)
            return;
        ended_at = bl_now_s();
        p->member = false;
        return say_ended(p, m->generation, NULL);
    case BLIPREN__ENVELOPE__BODY_FORM:
        return take_form(p, m->generation, m->form);
    case BLIPREN__ENVELOPE__BODY_ASSIGNMENT:
        return take_assignment(p, m->generation, m->assignment);
    case BLIPREN__ENVELOPE__BODY_SAVE:
        return take_save(p, m->generation, m->save);
    default:
        return; /* Pulse, Rendezvous */
    }
}

/* -- bytes in -- */

static void take_frame(struct peer *p, uint8_t flags, const uint8_t *data, size_t size)
{
    Blipren__Envelope *m;
    struct bl_error err;
    if (flags & 4) { /* READY */
        if (p->stage == HANDSHAKE) {
            p->stage = HELLO;
            say_hello(p);
        }
        return;
    }
    if (wire_unpack(data, size, &m, &err) < 0) {
        fprintf(stderr, "cluster_bench: %s: %s\n", err.key, err.text);
        exit(1);
    }
    take(p, m);
    wire_envelope_free(&m);
}

/* Everything whole that has come. */
static void parse(struct peer *p)
{
    struct bytes *b = &p->in;
    if (p->stage == GREETING && b->size >= 64) {
        b->taken = 64;
        p->stage = HANDSHAKE;
        send_ready(p);
    }
    while (p->stage > GREETING && b->size - b->taken >= 2) {
        const uint8_t *at = b->data + b->taken;
        bool is_long = at[0] & 2;
        size_t head = is_long ? 9 : 2, size = is_long ? 0 : at[1];
        if (b->size - b->taken < head)
            break;
        for (int i = 0; is_long && i < 8; i++)
            size = size << 8 | at[1 + i];
        if (b->size - b->taken < head + size)
            break;
        take_frame(p, at[0], at + head, size);
        b->taken += head + size;
    }
    memmove(b->data, b->data + b->taken, b->size - b->taken);
    b->size -= b->taken;
    b->taken = 0;
}

static void on_readable(struct peer *p)
{
    static uint8_t buffer[1 << 16];
    ssize_t n = recv(p->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        die("the coordinator closed a connection");
    bytes_add(&p->in, buffer, (size_t)n);
    parse(p);
}

/* -- the driver -- */

static void start_peer(int i)
{
    struct peer *p = &peers[i];
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)options.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *p = (struct peer){.is_worker = i < options.workers,
                       .incarnation = (uint64_t)i << 40 | bl_mix64((uint64_t)i, 1) >> 24 | 1,
                       .applied = -1,
                       .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&at, sizeof at) < 0)
        die("cannot connect with the coordinator");
    fcntl(p->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
    epoll_ctl(poller, EPOLL_CTL_ADD, p->fd, &e);
    joining++;
    send_greeting(p);
}

/* One turn of the loop. */
static void turn(void)
{
    static double beaten_at;
    static int beaten;
    struct epoll_event events[512];
    while (joining < JOINING_MAX && joined + joining < peer_count)
        start_peer(joined + joining);
    int count = epoll_wait(poller, events, 512, 5);
    for (int i = 0; i < count; i++) {
        struct peer *p = events[i].data.ptr;
        if (events[i].events & ~(uint32_t)EPOLLOUT && p->stage != DEAD)
            on_readable(p);
    }
    double period = patience_ms / 6000.0, t = bl_now_s();
    if (due_at > 0 && t >= due_at)
        apply_step(ranks[0]->world, (uint64_t)ranks[0]->applied);
    if (beaten_at == 0)
        beaten_at = t;
    int due = (int)((t - beaten_at) / period * peer_count); /* spread over the period */
    for (int n = 0; beaten < due && n < peer_count; beaten++, n++)
        if (peers[beaten % peer_count].stage == JOINED)
            say_beat(&peers[beaten % peer_count]);
    for (int i = 0; i < peer_count; i++)
        if (peers[i].out.size && peers[i].stage != DEAD)
            flush_out(&peers[i]);
}

static double cpu_of(int pid)
{
    char path[64], line[1024], *at;
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(line, sizeof line, f) || !(at = strrchr(line, ')')))
        die("the coordinator is gone");
    sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    fclose(f);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static double memory_of(int pid)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "VmHWM: %ld", &kib);
    if (f)
        fclose(f);
    return (double)kib / 1024;
}

static void run_for(double seconds)
{
    for (double end = bl_now_s() + seconds; bl_now_s() < end;)
        turn();
}

static void run_steps(uint64_t more)
{
    for (uint64_t end = steps + more; steps < end;)
        turn();
}

/* The last rank goes; *ret_noticed, *ret_trains: seconds until the others get End, until the next step is through. */
static void lose_one(bool silent, double *ret_noticed, double *ret_trains)
{
    uint32_t world = ranks[0]->world;
    struct peer *p = ranks[world - 1];
    double begun = bl_now_s();
    p->stage = DEAD;
    p->member = false;
    if (silent)
        epoll_ctl(poller, EPOLL_CTL_DEL, p->fd, NULL);
    else
        close(p->fd);
    uint64_t lost_in = generation_now;
    while (generation_now == lost_in)
        turn();
    *ret_noticed = ended_at - begun;
    run_steps(1);
    *ret_trains = bl_now_s() - begun;
}

static void read_hashes(void)
{
    FILE *f = fopen(options.hashes, "r");
    char line[64];
    if (!f)
        die(options.hashes);
    hashes = calloc(1 << 20, sizeof *hashes);
    BL_ASSERT(hashes != NULL);
    while (hash_count < 1 << 20 && fgets(line, sizeof line, f))
        hashes[hash_count++] = __builtin_bswap64(strtoull(line, NULL, 16));
    fclose(f);
}

static void parse_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, NULL, 'p'},        {"coord", 1, NULL, 'c'},   {"workers", 1, NULL, 'w'},
        {"loaders", 1, NULL, 'l'},     {"hashes", 1, NULL, 'h'},  {"checkpoint", 1, NULL, 'k'},
        {"run", 1, NULL, 'r'},         {"seconds", 1, NULL, 's'}, {"batch", 1, NULL, 'b'},
        {"micro-batch", 1, NULL, 'm'}, {"rate", 1, NULL, 'R'},    {"sent", 1, NULL, 'S'},
        {"transfer", 1, NULL, 'T'},    {"ahead", 1, NULL, 'a'},   {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        int number = optarg ? atoi(optarg) : 0;
        switch (option) {
        case 'p':
            options.port = number;
            break;
        case 'c':
            options.coordinator = number;
            break;
        case 'w':
            options.workers = number;
            break;
        case 'l':
            options.loaders = number;
            break;
        case 's':
            options.seconds = number;
            break;
        case 'b':
            options.batch = number;
            break;
        case 'm':
            options.micro_batch = number;
            break;
        case 'R':
            options.rate = number;
            break;
        case 'a':
            options.ahead = (uint64_t)number;
            break;
        case 'S':
            options.sent = optarg;
            break;
        case 'T':
            options.transfer = optarg;
            break;
        case 'h':
            options.hashes = optarg;
            break;
        case 'k':
            options.checkpoint = optarg;
            break;
        case 'r':
            options.run = optarg;
            break;
        default:
            exit(2);
        }
    }
    if (!options.port || !options.coordinator || options.workers < 3 ||
        options.workers > BL_WORKERS_MAX || options.loaders < 1 || !options.hashes ||
        !options.checkpoint || !options.run) {
        fprintf(stderr, "cluster_bench: expected --port, --coord, --workers (3 or more), "
                        "--loaders, --hashes, --checkpoint, --run\n");
        exit(2);
    }
}

static int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the commits since the last call. */
static void print_commits(const char *what)
{
    qsort(commits, commit_count, sizeof *commits, compare_seconds);
    BL_ASSERT_CMP(commit_count, >, 0);
    printf("{\"meanwhile\": \"%s\", \"commits\": %u, \"median_ms\": %.1f, \"p99_ms\": %.1f, "
           "\"worst_ms\": %.1f, \"coord_mb\": %.1f, \"coord_cpu_s\": %.2f}\n",
           what, commit_count, 1000 * commits[commit_count / 2],
           1000 * commits[commit_count - 1 - commit_count / 100], 1000 * commits[commit_count - 1],
           memory_of(options.coordinator), cpu_of(options.coordinator));
    commit_count = 0;
}

/* Steps go on while a checkpoint is sent, and then while it is fetched. */
static int measure_transfers(void)
{
    commit_count = 0;
    files.wanted = true;
    while (files.wanted)
        turn();
    print_commits("nothing");
    while (!transferred())
        turn();
    print_commits("put");
    say_saved(files.sender, files.generation, files.step, files.name, files.failed);
    run_for(options.seconds);
    print_commits("verified");
    transfer("get");
    while (!transferred())
        turn();
    print_commits("get");
    return files.failed;
}

int main(int argc, char **argv)
{
    double noticed, trains, noticed_silent, trains_silent;
    parse_options(argc, argv);
    read_hashes();
    plan = (struct bl_plan){.kind = BL_KIND_TRAIN,
                            .batch = (uint32_t)options.batch,
                            .micro_batch = (uint32_t)options.micro_batch};
    peer_count = options.workers + options.loaders;
    peers = calloc((size_t)peer_count, sizeof *peers);
    seen = calloc(STEPS_HELD, (size_t)bl_plan_micro_batches(&plan, BL_KIND_TRAIN));
    poller = epoll_create1(EPOLL_CLOEXEC);
    BL_ASSERT(peers != NULL && seen != NULL && poller >= 0);
    double begun = bl_now_s();
    while (joined < peer_count)
        turn();
    double joined_s = bl_now_s() - begun;
    run_steps(3);
    double first_s = bl_now_s() - begun;
    if (options.sent)
        return measure_transfers();
    uint64_t from = steps, in = messages_in, out = messages_out;
    double cpu = cpu_of(options.coordinator), own = own_cpu(), at = bl_now_s();
    run_for(options.seconds);
    double elapsed = bl_now_s() - at, stepped = (double)(steps - from ? steps - from : 1);
    double step_cpu = (cpu_of(options.coordinator) - cpu) / stepped,
           own_step = (own_cpu() - own) / stepped;
    double step_messages = (double)(messages_in - in + messages_out - out) / stepped;
    resting = true;
    run_for(1);
    cpu = cpu_of(options.coordinator);
    run_for(3);
    double rest_cpu = (cpu_of(options.coordinator) - cpu) / 3;
    end_rest();
    run_steps(2);
    lose_one(false, &noticed, &trains);
    run_steps(2);
    lose_one(true, &noticed_silent, &trains_silent);
    printf(
        "{\"workers\": %d, \"loaders\": %d, \"micro_batches\": %u, \"join_s\": %.2f, "
        "\"first_steps_s\": %.2f, "
        "\"steps_per_s\": %.2f, \"coord_cpu_ms_per_step\": %.2f, \"driver_cpu_ms_per_step\": %.2f, "
        "\"messages_per_step\": %.0f, \"coord_cpu_at_rest\": %.4f, \"coord_mb\": %.1f, "
        "\"closed_noticed_s\": %.3f, \"closed_trains_s\": %.3f, \"silent_noticed_s\": %.3f, "
        "\"silent_trains_s\": %.3f, \"patience_s\": %.1f}\n",
        options.workers, options.loaders, bl_plan_micro_batches(&plan, BL_KIND_TRAIN), joined_s,
        first_s, stepped / elapsed, 1000 * step_cpu, 1000 * own_step, step_messages, rest_cpu,
        memory_of(options.coordinator), noticed, trains, noticed_silent, trains_silent,
        patience_ms / 1000.0);
    return 0;
}
