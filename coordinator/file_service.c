/* coordinator/file_service.c - see file_service.h. */
#include "coordinator/file_service.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/file_hash.h"
#include "common/log.h"
#include "common/models/checkpoint.h"
#include "proto/wire.h"

/* Bytes after which the disk begins to write what was received, and after which that is waited for: the last fsync of a large file must not
 * take long, as others wait. */
#define WRITE_BYTES (UINT64_C(8) << 20)
#define SYNC_BYTES (UINT64_C(64) << 20)
#define PERMITS_MAX 16
#define TIDY_MS 1000

/* Files of the run folder that peers may read. */
struct shared {
    const char *name;
    bool known;
    struct bl_stamp stamp; /* that `sha256` is of */
    uint8_t sha256[32];
};

struct permit {
    uint64_t peer; /* 0: free */
    char checkpoint[256];
    bool over; /* to be removed by the thread */
};

struct file_service {
    struct file_service_options options;
    uv_loop_t uv;
    uv_async_t stop;
    uv_timer_t tidy;
    struct wire_context *context;
    struct wire_socket *router;
    pthread_t thread;
    bool running;
    struct shared shared[2];
    uint8_t piece[BL_PIECE_BYTES_MAX];

    pthread_mutex_t lock;
    struct permit permits[PERMITS_MAX]; /* under the lock */
};

/* -- what may be read and written ---------------------------------------------------------------- */

static struct shared *find_shared(struct file_service *s, const char *name)
{
    for (size_t i = 0; i < sizeof s->shared / sizeof *s->shared; i++)
        if (!strcmp(s->shared[i].name, name))
            return &s->shared[i];
    return NULL;
}

/* RUN/checkpoints/CHECKPOINT and what follows it; the names have no slash and begin with no dot (proto/check.c). */
static int checkpoint_path(const struct file_service *s, const char *checkpoint, const char *more,
                           const char *file, char ret[4096], struct bl_error *err)
{
    int n = snprintf(ret, 4096, "%s/checkpoints/%s%s%s%s", s->options.run_folder, checkpoint, more,
                     file[0] ? "/" : "", file);
    return n > 0 && n < 4096 ? 0 : bl_fail(err, BL_ELIMIT, "the path of a checkpoint is too long");
}

/* Under this name a checkpoint's files are until all of them are there; a start removes it (registry_tidy). */
#define UNFINISHED ".sent"

static bool is_permitted(struct file_service *s, uint64_t peer, const char *checkpoint)
{
    bool found = false;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < PERMITS_MAX; i++)
        found = found || (s->permits[i].peer == peer && !s->permits[i].over &&
                          !strcmp(s->permits[i].checkpoint, checkpoint));
    pthread_mutex_unlock(&s->lock);
    return found;
}

void file_service_permit(struct file_service *s, uint64_t peer, const char *checkpoint)
{
    struct permit *found = NULL;
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < PERMITS_MAX; i++) {
        struct permit *p = &s->permits[i];
        p->over = p->over || p->peer == peer;
        bool again = p->peer == peer && !strcmp(p->checkpoint, checkpoint);
        if (again || (!found && !p->peer))
            found = p; /* asked for once more, it continues with what is there */
    }
    if (found) {
        *found = (struct permit){.peer = peer};
        snprintf(found->checkpoint, sizeof found->checkpoint, "%s", checkpoint);
    }
    pthread_mutex_unlock(&s->lock);
}

void file_service_withdraw(struct file_service *s, uint64_t peer)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < PERMITS_MAX; i++)
        s->permits[i].over = s->permits[i].over || s->permits[i].peer == peer;
    pthread_mutex_unlock(&s->lock);
}

/* Removes what nobody may finish any more. */
static void on_tidy(uv_timer_t *timer)
{
    struct file_service *s = timer->data;
    for (int i = 0; i < PERMITS_MAX; i++) {
        char path[4096];
        struct bl_error err;
        pthread_mutex_lock(&s->lock);
        struct permit permit = s->permits[i];
        if (permit.over)
            s->permits[i] = (struct permit){0};
        pthread_mutex_unlock(&s->lock);
        if (permit.over && permit.peer &&
            checkpoint_path(s, permit.checkpoint, UNFINISHED, "", path, &err) == 0 &&
            bl_folder_remove(path, &err) < 0)
            bl_log_error(&err); /* some space less; the next start tidies up */
    }
}

/* -- answers -------------------------------------------------------------------------------------- */

static void answer(struct file_service *s, const struct wire_id *to, Blipren__Envelope *e)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    e->version = BL_PROTOCOL_VERSION;
    e->peer = s->options.incarnation;
    e->run = (ProtobufCBinaryData){sizeof s->options.run, s->options.run};
    wire_pack(e, &data, &size);
    wire_router_send(s->router, to, data, size); /* who reads nothing gets nothing: it asks again */
}

/* One line for a peer, of at most what Piece.error holds. */
static void error_text(struct bl_error *err, char *ret, size_t size)
{
    bl_error_complete(err);
    bl_error_format(err, ret, size);
    wire_text(ret);
}

/* SHA-256 of a file of the run folder; computed again when the file is another one. */
static int hash_shared(struct shared *shared, const char *path, struct bl_stamp stamp,
                       struct bl_error *err)
{
    struct bl_stamp after;
    uint64_t size;
    if (shared->known && bl_stamp_equal(&shared->stamp, &stamp))
        return 0;
    BL_TRY(bl_file_sha256_range(path, 0, UINT64_MAX, shared->sha256, &size, &after, err));
    shared->known = bl_stamp_equal(&stamp, &after);
    shared->stamp = stamp;
    return 0;
}

/* Fills in size, hash and data. */
static int read_piece(struct file_service *s, const Blipren__Fetch *m, Blipren__Piece *ret,
                      struct bl_error *err)
{
    char path[4096];
    struct bl_stamp stamp;
    bl_autofd int fd = -1;
    size_t done;
    struct shared *shared = m->checkpoint[0] ? NULL : find_shared(s, m->file);
    if (m->checkpoint[0] && checkpoint_is_file_name(m->file))
        BL_TRY(checkpoint_path(s, m->checkpoint, "", m->file, path, err));
    else if (shared)
        BL_TRY(bl_path_join(path, sizeof path, s->options.run_folder, m->file, err));
    else
        return bl_fail(err, BL_EPEER, "no such file is sent: %.100s", m->file);
    BL_TRY(bl_file_open(path, &fd, &stamp, err));
    if (shared) {
        BL_TRY(hash_shared(shared, path, stamp, err));
        ret->sha256 = (ProtobufCBinaryData){sizeof shared->sha256, shared->sha256};
    }
    if (m->offset > stamp.size)
        return bl_fail(err, BL_EPEER, "the file ends at %llu", (unsigned long long)stamp.size);
    uint64_t left = stamp.size - m->offset;
    size_t size = left < sizeof s->piece ? (size_t)left : sizeof s->piece;
    BL_TRY(bl_file_read_at(fd, m->offset, (char *)s->piece, size, &done, err));
    ret->offset = m->offset;
    ret->size = stamp.size;
    ret->data = (ProtobufCBinaryData){done, s->piece};
    return 0;
}

static void on_fetch(struct file_service *s, const struct wire_id *from, const Blipren__Fetch *m)
{
    struct bl_error err;
    char text[1000];
    Blipren__Piece piece = BLIPREN__PIECE__INIT;
    piece.checkpoint = m->checkpoint;
    piece.file = m->file;
    if (read_piece(s, m, &piece, &err) < 0) {
        error_text(&err, text, sizeof text);
        piece.error = text;
        piece.sha256 = (ProtobufCBinaryData){0};
    }
    WIRE_ENVELOPE(e, PIECE, piece) = &piece;
    answer(s, from, &e);
}

static int fail_write(const char *path, const char *what, struct bl_error *err)
{
    bl_fail_errno(err, "%s", what);
    return bl_error_file(err, path);
}

static int write_all(int fd, const uint8_t *data, size_t size, uint64_t offset)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, data + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR)
            return -1;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Sees to it that the disk keeps up with what is received. */
static int keep_up(int fd, uint64_t before, uint64_t now, uint64_t size)
{
    if (now == size || now / SYNC_BYTES != before / SYNC_BYTES)
        return fsync(fd);
    uint64_t begun = before / WRITE_BYTES * WRITE_BYTES;
    if (now - begun >= WRITE_BYTES) /* where that is not supported fsync does it all */
        sync_file_range(fd, (off_t)begun, (off_t)(now - begun), SYNC_FILE_RANGE_WRITE);
    return 0;
}

/* Appends a piece; *ret_kept is how much of the file is there then. One that does not continue it is not written. */
static int write_piece(const char *path, const Blipren__Put *m, uint64_t *ret_kept,
                       struct bl_error *err)
{
    struct stat st;
    bl_autofd int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_write(path, "cannot be opened", err);
    uint64_t there = (uint64_t)st.st_size;
    *ret_kept = there;
    if (m->offset != there || !m->data.len)
        return 0;
    uint64_t now = there + m->data.len;
    if (write_all(fd, m->data.data, m->data.len, there) < 0)
        return fail_write(path, "cannot be written", err);
    if (keep_up(fd, there, now, m->size) < 0)
        return fail_write(path, "cannot be synced to disk", err);
    *ret_kept = now;
    return 0;
}

/* All files are there, each synced with its last piece. */
static int put_in_place(struct file_service *s, const char *checkpoint, struct bl_error *err)
{
    char from[4096], to[4096];
    BL_TRY(checkpoint_path(s, checkpoint, UNFINISHED, "", from, err));
    BL_TRY(checkpoint_path(s, checkpoint, "", "", to, err));
    if (!bl_path_is_folder(from) && bl_path_is_folder(to))
        return 0; /* asked twice */
    BL_TRY(bl_folder_sync(from, err));
    BL_TRY(bl_folder_remove(to, err));
    if (rename(from, to) < 0)
        return fail_write(to, "the checkpoint cannot be put in place", err);
    bl_autofree char *parent = bl_path_parent(to);
    return parent ? bl_folder_sync(parent, err) : bl_fail(err, BL_ENOMEM, "no memory for a path");
}

static int take_piece(struct file_service *s, uint64_t peer, const Blipren__Put *m,
                      uint64_t *ret_kept, struct bl_error *err)
{
    char folder[4096], path[4096];
    if (!is_permitted(s, peer, m->checkpoint))
        return bl_fail(err, BL_EPEER, "nobody has asked for that checkpoint");
    if (!m->file[0])
        return put_in_place(s, m->checkpoint, err);
    if (!checkpoint_is_file_name(m->file))
        return bl_fail(err, BL_EPEER, "a checkpoint has no file %.100s", m->file);
    BL_TRY(checkpoint_path(s, m->checkpoint, UNFINISHED, "", folder, err));
    BL_TRY(checkpoint_path(s, m->checkpoint, UNFINISHED, m->file, path, err));
    if (mkdir(folder, 0777) < 0 && errno != EEXIST)
        return fail_write(folder, "the folder cannot be made", err);
    return write_piece(path, m, ret_kept, err);
}

static void on_put(struct file_service *s, const struct wire_id *from, uint64_t peer,
                   const Blipren__Put *m)
{
    struct bl_error err;
    char text[1000];
    uint64_t there = 0;
    Blipren__Kept kept = BLIPREN__KEPT__INIT;
    kept.checkpoint = m->checkpoint;
    kept.file = m->file;
    if (take_piece(s, peer, m, &there, &err) < 0) {
        error_text(&err, text, sizeof text);
        kept.error = text;
    }
    kept.kept = there;
    WIRE_ENVELOPE(e, KEPT, kept) = &kept;
    answer(s, from, &e);
}

/* -- questions ------------------------------------------------------------------------------------ */

/* Bytes that are compared in a time that does not tell how many are right. */
static bool is_token(const struct file_service *s, const ProtobufCBinaryData *token)
{
    uint8_t different = 0;
    for (size_t i = 0; i < BL_TOKEN_BYTES; i++)
        different |= token->data[i] ^ s->options.token[i];
    return !different;
}

/* A connection is a stranger's until it shows the token. */
static void on_message(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct file_service *s = context;
    Blipren__Envelope *e = NULL;
    struct bl_error err;
    if (wire_unpack_frames(frames, &e, &err) < 0) {
        bl_log_peer(BL_LOG_WARNING, wire_address(frames),
                    "malformed message to the file service from %s, ignored: %s",
                    wire_address(frames), err.text);
        return wire_cut(s->router, frames->connection);
    }
    bool fetch = e->body_case == BLIPREN__ENVELOPE__BODY_FETCH;
    bool put = e->body_case == BLIPREN__ENVELOPE__BODY_PUT;
    if ((fetch && is_token(s, &e->fetch->token)) || (put && is_token(s, &e->put->token))) {
        wire_know(s->router, frames->connection, true);
        if (fetch)
            on_fetch(s, from, e->fetch);
        else
            on_put(s, from, e->peer, e->put);
    } else {
        bl_log_peer(BL_LOG_WARNING, wire_address(frames),
                    "%s asks the file service for what is not its to ask; connection closed",
                    wire_address(frames));
        wire_cut(s->router, frames->connection);
    }
    wire_envelope_free(&e);
}

/* -- the thread ----------------------------------------------------------------------------------- */

static void on_stop(uv_async_t *async)
{
    uv_stop(async->loop);
}

static void *serve(void *argument)
{
    struct file_service *s = argument;
    uv_run(&s->uv, UV_RUN_DEFAULT);
    return NULL;
}

static int listen_for_peers(struct file_service *s, uint16_t *ret_port, struct bl_error *err)
{
    char endpoint[SOCKET_ENDPOINT_MAX];
    struct wire_guard guard = {.limits = wire_control_limits(), .waiting = 2 * BL_PIECES_AHEAD};
    BL_TRY(wire_context_open(s->options.keys, &s->context, err));
    BL_TRY(wire_router(&s->uv, s->context, s->options.endpoint, &guard, on_message, s, &s->router,
                       endpoint, err));
    *ret_port = (uint16_t)strtoul(strrchr(endpoint, ':') + 1, NULL, 10);
    return 0;
}

int file_service_open(const struct file_service_options *options, struct file_service **ret,
                      uint16_t *ret_port, struct bl_error *err)
{
    struct file_service *s = calloc(1, sizeof *s);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for a file service");
    *ret = s;
    s->options = *options;
    s->shared[0].name = "config.yaml";
    s->shared[1].name = "dataset.index";
    pthread_mutex_init(&s->lock, NULL);
    uv_loop_init(&s->uv);
    uv_async_init(&s->uv, &s->stop, on_stop);
    uv_timer_init(&s->uv, &s->tidy);
    s->stop.data = s->tidy.data = s;
    uv_timer_start(&s->tidy, on_tidy, TIDY_MS, TIDY_MS);
    BL_TRY(listen_for_peers(s, ret_port, err));
    s->running = pthread_create(&s->thread, NULL, serve, s) == 0;
    return s->running ? 0 : bl_fail(err, BL_ENOMEM, "no thread for the file service");
}

void file_service_close(struct file_service **service)
{
    struct file_service *s = *service;
    if (!s)
        return;
    if (s->running) {
        uv_async_send(&s->stop);
        pthread_join(s->thread, NULL);
    }
    for (int i = 0; i < PERMITS_MAX; i++) /* nobody will finish these */
        s->permits[i].over = true;
    on_tidy(&s->tidy);
    wire_socket_close(&s->router, 0);
    wire_loop_close(&s->uv);
    wire_context_close(&s->context);
    pthread_mutex_destroy(&s->lock);
    free(s);
    *service = NULL;
}
