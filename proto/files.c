/* proto/files.c - see files.h. */
#include "proto/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/file.h"
#include "common/progress.h"
#include "proto/files_state.h"
#include "proto/socket_state.h"
#include "proto/wire.h"

#define LOOK_MS 50 /* between two looks at whether a transfer is still wanted */
/* Connections on which nothing comes, one after the other, until the service counts as out of reach: four patiences. */
#define SILENCES_MAX 6

int files_new(struct wire_context *context, struct files **ret, struct bl_error *err)
{
    struct files *f = calloc(1, sizeof *f);
    pthread_condattr_t monotonic;
    if (!f)
        return bl_fail(err, BL_ENOMEM, "no memory for transfers of files");
    f->context = context;
    f->waiting = true;
    f->folder.lock = -1;
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&f->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret = f;
    return 0;
}

void files_free(struct files **files)
{
    struct files *f = *files;
    if (!f)
        return;
    bl_private_folder_close(&f->folder);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
    *files = NULL;
}

void files_point(struct files *f, const struct files_place *place)
{
    pthread_mutex_lock(&f->lock);
    if (!f->turn || memcmp(f->place.token, place->token, sizeof place->token) != 0)
        f->turn++;
    f->place = *place;
    f->waiting = false;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

void files_wait(struct files *f)
{
    pthread_mutex_lock(&f->lock);
    f->waiting = true;
    pthread_mutex_unlock(&f->lock);
}

void files_stop(struct files *f)
{
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

int files_private(struct files *f, char ret[4096], struct bl_error *err)
{
    pthread_mutex_lock(&f->lock);
    int rc = f->folder.lock < 0 ? bl_private_folder_open(&f->folder, err) : 0;
    if (rc == 0)
        snprintf(ret, 4096, "%s", f->folder.path);
    pthread_mutex_unlock(&f->lock);
    return rc;
}

/* -- a transfer's line to the service ---------------------------------------------------------- */

struct line {
    struct files *files;
    const struct files_need *need; /* NULL: the transfer is needed */
    struct files_place place;      /* where it leads */
    uint64_t turn, heard_ms;
    struct wire_socket *socket; /* NULL: not connected */
    int silences;               /* since the last answer */
    int slow;                   /* of all; how slow the service may be is learned from them */
};

static int fail_stopped(struct bl_error *err)
{
    return bl_fail(err, BL_ESTOPPED, "stopped in the middle of a file's transfer");
}

static bool is_over(const struct line *l)
{
    return l->need && l->need->over && l->need->over(l->need->context);
}

static void line_close(struct line *l)
{
    if (l->socket) {
        zmq_close(l->socket->zmq);
        free(l->socket);
    }
    l->socket = NULL;
}

/* Takes the service's present place; waits while there is no coordinator. */
static int find_place(struct line *l, struct bl_error *err)
{
    struct files *f = l->files;
    bool stopped = false;
    pthread_mutex_lock(&f->lock);
    while (f->waiting && !(stopped = f->stopping || is_over(l))) {
        struct timespec until = bl_deadline(LOOK_MS);
        pthread_cond_timedwait(&f->changed, &f->lock, &until);
    }
    stopped = stopped || f->stopping;
    if (f->turn != l->turn)
        l->silences = 0;
    l->place = f->place;
    l->turn = f->turn;
    pthread_mutex_unlock(&f->lock);
    if (stopped)
        return fail_stopped(err);
    if (l->place.endpoint[0])
        return 0;
    bl_fail(err, BL_EPEER,
            "this host does not see the run folder, and the coordinator sends no "
            "files to hosts that do not");
    return bl_error_remedy(err, "start the coordinator with --cluster, or mount the run folder");
}

/* A new connection in place of the one before. */
static int line_connect(struct line *l, struct bl_error *err)
{
    struct wire_id id;
    line_close(l);
    BL_TRY(find_place(l, err));
    randombytes_buf(id.bytes, sizeof id.bytes);
    id.bytes[0] |= 1; /* ids that begin with a zero byte are ZeroMQ's own */
    BL_TRY(socket_make(l->files->context, ZMQ_DEALER, 4 * BL_PIECES_AHEAD, NULL, NULL, &l->socket,
                       err));
    zmq_setsockopt(l->socket->zmq, ZMQ_ROUTING_ID, id.bytes, sizeof id.bytes);
    l->heard_ms = bl_now_ms();
    if (zmq_connect(l->socket->zmq, l->place.endpoint) == 0)
        return 0;
    bl_fail(err, BL_EIO, "cannot connect: %s", zmq_strerror(zmq_errno()));
    return bl_error_peer(err, l->place.endpoint);
}

/* What cannot be sent now is missed, and asked for again. */
static void line_send(struct line *l, Blipren__Envelope *e)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    e->version = BL_PROTOCOL_VERSION;
    e->peer = l->place.peer;
    e->epoch = l->place.epoch;
    e->run = (ProtobufCBinaryData){sizeof l->place.run, l->place.run};
    wire_pack(e, &data, &size);
    wire_dealer_send(l->socket, data, size);
}

static ProtobufCBinaryData token_of(struct line *l)
{
    return (ProtobufCBinaryData){sizeof l->place.token, l->place.token};
}

static bool has_moved(const struct line *l)
{
    struct files *f = l->files;
    pthread_mutex_lock(&f->lock);
    bool moved = f->waiting || f->turn != l->turn;
    pthread_mutex_unlock(&f->lock);
    return moved;
}

/* A connection that was cut as it began is noticed soon, and an answer that takes long is waited for. */
static uint32_t silence_ms(const struct line *l)
{
    uint32_t ms = (l->place.patience_ms / 6) << (l->slow < 3 ? l->slow : 3);
    return ms < l->place.patience_ms ? ms : l->place.patience_ms;
}

/* Nothing came for long: a new connection, or the service cannot be reached. */
static int after_silence(struct line *l, struct bl_error *err)
{
    l->slow++;
    if (!has_moved(l) && ++l->silences >= SILENCES_MAX) {
        bl_fail(err, BL_EPEER, "the coordinator's file service does not answer");
        bl_error_remedy(err, "open that port of the coordinator's host to this one "
                             "(cluster.files_port sets it), or mount the run folder");
        return bl_error_peer(err, l->place.endpoint);
    }
    return line_connect(l, err);
}

/* One message, if there is one: NULL. A malformed one counts as none. */
static Blipren__Envelope *receive(struct line *l)
{
    Blipren__Envelope *e = NULL;
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    bool more = true, first = true;
    while (more && zmq_msg_recv(&frame, l->socket->zmq, ZMQ_DONTWAIT) >= 0) {
        more = zmq_msg_more(&frame);
        if (first && !more)
            wire_unpack(zmq_msg_data(&frame), zmq_msg_size(&frame), &e, NULL);
        first = false;
    }
    zmq_msg_close(&frame);
    return e;
}

/* Waits for the next answer, which is the caller's. LINE_AGAIN: on a new connection everything is to be asked anew. */
enum { LINE_ANSWER, LINE_AGAIN };
static int line_hear(struct line *l, Blipren__Envelope **ret, struct bl_error *err)
{
    for (;;) {
        zmq_pollitem_t item = {.socket = l->socket->zmq, .events = ZMQ_POLLIN};
        int ready = zmq_poll(&item, 1, LOOK_MS);
        pthread_mutex_lock(&l->files->lock);
        bool stopping = l->files->stopping;
        pthread_mutex_unlock(&l->files->lock);
        if (stopping || is_over(l))
            return fail_stopped(err);
        if (ready > 0 && (*ret = receive(l))) {
            l->heard_ms = bl_now_ms();
            l->silences = 0;
            return LINE_ANSWER;
        }
        if (has_moved(l) || bl_now_ms() - l->heard_ms > silence_ms(l)) {
            BL_TRY(after_silence(l, err));
            return LINE_AGAIN;
        }
    }
}

static void drop_envelope(Blipren__Envelope **e)
{
    if (*e)
        wire_envelope_free(e);
}
#define autoenvelope __attribute__((cleanup(drop_envelope))) Blipren__Envelope

static void drop_line(struct line *l)
{
    line_close(l);
}
#define autoline __attribute__((cleanup(drop_line))) struct line

/* -- fetching ----------------------------------------------------------------------------------- */

/* A file on its way. */
struct get {
    const char *checkpoint, *file, *path;
    struct bl_file_writer writer;
    uint64_t have, asked, size; /* bytes; asked: those whose pieces were asked for, at least one */
    bool size_known;
    uint8_t sha256[32];
    size_t sha256_size; /* 0: a checkpoint's, which its reader verifies by state.json */
};

static void ask_for(struct line *l, const struct get *g, uint64_t offset)
{
    Blipren__Fetch fetch = BLIPREN__FETCH__INIT;
    fetch.token = token_of(l);
    fetch.checkpoint = (char *)(uintptr_t)g->checkpoint;
    fetch.file = (char *)(uintptr_t)g->file;
    fetch.offset = offset;
    WIRE_ENVELOPE(e, FETCH, fetch) = &fetch;
    line_send(l, &e);
}

/* Asks for as many pieces as may be on their way. */
static void ask_ahead(struct line *l, struct get *g)
{
    const uint64_t window = BL_PIECES_AHEAD * BL_PIECE_BYTES_MAX;
    if (g->asked == g->have) {
        ask_for(l, g, g->have); /* its answer says how large the file is */
        g->asked += BL_PIECE_BYTES_MAX;
    }
    for (; g->size_known && g->asked < g->size && g->asked - g->have < window;
         g->asked += BL_PIECE_BYTES_MAX)
        ask_for(l, g, g->asked);
}

static int begin_file(struct get *g, struct bl_error *err)
{
    bl_file_writer_close(&g->writer);
    BL_TRY(bl_file_writer_open(&g->writer, g->path, err));
    g->have = g->asked = 0;
    g->size_known = false;
    return 0;
}

/* Is this the file that the pieces before were of? */
static bool is_same_file(const struct get *g, const Blipren__Piece *p)
{
    return p->size == g->size && p->sha256.len == g->sha256_size &&
           (!p->sha256.len || memcmp(p->sha256.data, g->sha256, p->sha256.len) == 0);
}

static int take_piece(struct get *g, const Blipren__Piece *p, struct bl_error *err)
{
    if (p->error[0]) {
        bl_fail(err, BL_EPEER, "the coordinator cannot send it: %.400s", p->error);
        return bl_error_file(err, g->file);
    }
    if (g->size_known && !is_same_file(g, p))
        return begin_file(g, err); /* another coordinator has made it anew */
    if (!g->size_known && p->sha256.len) {
        memcpy(g->sha256, p->sha256.data, p->sha256.len);
        bl_file_writer_hash(&g->writer);
    }
    g->size = p->size;
    g->size_known = true;
    g->sha256_size = p->sha256.len;
    if (p->offset != g->have)
        return 0; /* asked for twice */
    BL_TRY(bl_file_writer_write(&g->writer, p->data.data, p->data.len, err));
    bl_progress_add(1);
    g->have += p->data.len;
    if (g->asked < g->have)
        g->asked = g->have;
    return 0;
}

static int finish_file(struct get *g, struct bl_error *err)
{
    uint8_t found[32];
    if (g->sha256_size) {
        bl_sha256_end(&g->writer.hash, found);
        if (memcmp(found, g->sha256, sizeof found) != 0) {
            bl_fail(err, BL_EPEER, "checksum mismatch: it was changed while it was sent");
            return bl_error_file(err, g->file);
        }
    }
    return bl_file_writer_place(&g->writer, err);
}

static int get_file(struct line *l, struct get *g, struct bl_error *err)
{
    BL_TRY(begin_file(g, err));
    BL_TRY(line_connect(l, err));
    while (!g->size_known || g->have < g->size) {
        autoenvelope *e = NULL;
        ask_ahead(l, g);
        int rc = line_hear(l, &e, err);
        if (rc < 0)
            return rc;
        if (rc == LINE_AGAIN)
            g->asked = g->have;
        else if (e->body_case == BLIPREN__ENVELOPE__BODY_PIECE &&
                 !strcmp(e->piece->checkpoint, g->checkpoint) && !strcmp(e->piece->file, g->file))
            BL_TRY(take_piece(g, e->piece, err));
    }
    return finish_file(g, err);
}

int files_get(struct files *f, const char *checkpoint, const char *file, const char *path,
              const struct files_need *need, struct bl_error *err)
{
    autoline line = {.files = f, .need = need};
    struct get get = {.checkpoint = checkpoint, .file = file, .path = path, .writer = {.fd = -1}};
    int rc = get_file(&line, &get, err);
    bl_file_writer_close(&get.writer);
    return rc;
}

/* -- sending ------------------------------------------------------------------------------------ */

/* A file, or (file "") the word that all are there. */
struct put {
    const char *checkpoint, *file;
    int fd;
    uint64_t size, kept, sent;
    bool answered;
    uint8_t piece[BL_PIECE_BYTES_MAX];
};

static void send_piece(struct line *l, struct put *p, uint64_t offset, size_t size)
{
    Blipren__Put put = BLIPREN__PUT__INIT;
    put.token = token_of(l);
    put.checkpoint = (char *)(uintptr_t)p->checkpoint;
    put.file = (char *)(uintptr_t)p->file;
    put.offset = offset;
    put.size = p->size;
    put.data = (ProtobufCBinaryData){size, p->piece};
    WIRE_ENVELOPE(e, PUT, put) = &put;
    line_send(l, &e);
}

/* First the question how much is there, then as many pieces as may be on their way. */
static int send_ahead(struct line *l, struct put *p, struct bl_error *err)
{
    const uint64_t window = BL_PIECES_AHEAD * BL_PIECE_BYTES_MAX;
    if (!p->answered)
        return 0;
    while (p->sent < p->size && p->sent - p->kept < window) {
        uint64_t left = p->size - p->sent;
        size_t size = left < sizeof p->piece ? (size_t)left : sizeof p->piece, done = 0;
        BL_TRY(bl_file_read_at(p->fd, p->sent, (char *)p->piece, size, &done, err));
        if (done < size)
            return bl_fail(err, BL_EIO, "it has become shorter");
        send_piece(l, p, p->sent, size);
        p->sent += size;
    }
    return 0;
}

static int take_kept(struct put *p, const Blipren__Kept *kept, struct bl_error *err)
{
    if (kept->error[0])
        return bl_fail(err, BL_EPEER, "the coordinator cannot write it: %.400s", kept->error);
    if (kept->kept > p->size)
        return bl_fail(err, BL_EPEER, "the coordinator has more of it than there is");
    if (!p->answered)
        p->sent = kept->kept;
    p->answered = true;
    p->kept = kept->kept;
    if (p->sent < p->kept)
        p->sent = p->kept;
    bl_progress_add(1);
    return 0;
}

/* What the coordinator was asked to save it for is void once another one has come. */
static int put_one(struct line *l, struct put *p, struct bl_error *err)
{
    uint64_t turn = l->turn;
    p->answered = false;
    send_piece(l, p, 0, 0);
    while (!p->answered || p->kept < p->size) {
        autoenvelope *e = NULL;
        BL_TRY(send_ahead(l, p, err));
        int rc = line_hear(l, &e, err);
        if (rc < 0)
            return rc;
        if (l->turn != turn)
            return bl_fail(err, BL_EPEER, "the coordinator has been started again meanwhile");
        if (rc == LINE_AGAIN) {
            p->answered = false;
            send_piece(l, p, 0, 0);
        } else if (e->body_case == BLIPREN__ENVELOPE__BODY_KEPT &&
                   !strcmp(e->kept->checkpoint, p->checkpoint) && !strcmp(e->kept->file, p->file)) {
            BL_TRY(take_kept(p, e->kept, err));
        }
    }
    return 0;
}

static int put_file(struct line *l, struct put *p, const char *folder, const char *name,
                    struct bl_error *err)
{
    char path[4096];
    struct bl_stamp stamp;
    bl_autofd int fd = -1;
    BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
    BL_TRY(bl_file_open(path, &fd, &stamp, err));
    p->file = name;
    p->fd = fd;
    p->size = stamp.size;
    p->kept = p->sent = 0;
    return put_one(l, p, err) < 0 ? bl_error_file(err, path) : 0;
}

static int put_all(struct line *l, struct put *p, const char *folder, struct bl_error *err)
{
    BL_TRY(line_connect(l, err));
    DIR *d = opendir(folder);
    int rc = d ? 0 : bl_fail_errno(err, "the folder cannot be read");
    for (struct dirent *entry; rc == 0 && (entry = readdir(d));)
        if (entry->d_name[0] != '.')
            rc = put_file(l, p, folder, entry->d_name, err);
    if (d)
        closedir(d);
    if (rc < 0)
        return rc;
    p->file = "";
    p->size = p->kept = p->sent = 0;
    return put_one(l, p, err);
}

int files_put(struct files *f, const char *checkpoint, const char *folder, struct bl_error *err)
{
    autoline line = {.files = f};
    bl_autofree struct put *put = calloc(1, sizeof *put);
    if (!put)
        return bl_fail(err, BL_ENOMEM, "no memory for a piece of a file");
    put->checkpoint = checkpoint;
    return put_all(&line, put, folder, err);
}
