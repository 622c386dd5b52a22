/* proto/context.c - a program's ZeroMQ context, and with keys the handler that ZeroMQ asks about every connection (RFC 27, ZAP): in
 * a thread of its own, so that a busy loop keeps nobody waiting at the door. See socket.h. */
#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proto/socket_state.h"

/* Frames of a request. */
enum {
    ZAP_VERSION,
    ZAP_ID,
    ZAP_DOMAIN,
    ZAP_ADDRESS,
    ZAP_ROUTING,
    ZAP_MECHANISM,
    ZAP_KEY,
    ZAP_FRAMES
};

/* One whole request; what it has beyond ZAP_FRAMES is dropped. false: the context is being closed. */
static bool receive_request(void *zap, zmq_msg_t frames[ZAP_FRAMES], int *ret_count)
{
    *ret_count = 0;
    for (int more = 1; more;) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        while (zmq_msg_recv(&frame, zap, 0) < 0)
            if (errno != EINTR)
                return false;
        more = zmq_msg_more(&frame);
        if (*ret_count < ZAP_FRAMES)
            zmq_msg_move(&frames[(*ret_count)++], &frame);
        zmq_msg_close(&frame);
    }
    return true;
}

static bool frame_is(zmq_msg_t *frame, const void *data, size_t size)
{
    return zmq_msg_size(frame) == size && sodium_memcmp(zmq_msg_data(frame), data, size) == 0;
}

/* By its key alone: what a peer says of itself proves nothing. */
static bool is_ours(const struct wire_context *c, zmq_msg_t frames[ZAP_FRAMES], int count)
{
    return count == ZAP_FRAMES && frame_is(&frames[ZAP_VERSION], "1.0", 3) &&
           frame_is(&frames[ZAP_MECHANISM], "CURVE", 5) &&
           frame_is(&frames[ZAP_KEY], c->public_bytes, sizeof c->public_bytes);
}

static void answer(void *zap, zmq_msg_t *id, bool allowed)
{
    const char *rest[] = {allowed ? "200" : "400", allowed ? "" : "not of this cluster",
                          allowed ? "cluster" : "", ""};
    zmq_send(zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_msg_send(id, zap, ZMQ_SNDMORE);
    for (int i = 0; i < 4; i++)
        zmq_send(zap, rest[i], strlen(rest[i]), i < 3 ? ZMQ_SNDMORE : 0);
}

static void log_denied(zmq_msg_t *frame)
{
    char address[GUARD_ADDRESS_MAX];
    size_t size = zmq_msg_size(frame);
    snprintf(address, sizeof address, "%.*s", (int)(size < sizeof address ? size : 0),
             (const char *)zmq_msg_data(frame));
    bl_log_peer(BL_LOG_WARNING, address,
                "connection from %s refused: its key is not this cluster's", address);
}

static void *answer_all(void *context)
{
    struct wire_context *c = context;
    zmq_msg_t frames[ZAP_FRAMES];
    int count;
    for (bool open = true; open;) {
        for (int i = 0; i < ZAP_FRAMES; i++)
            zmq_msg_init(&frames[i]);
        open = receive_request(c->zap, frames, &count);
        if (open) {
            bool allowed = is_ours(c, frames, count);
            if (!allowed)
                log_denied(&frames[ZAP_ADDRESS]);
            answer(c->zap, &frames[ZAP_ID], allowed);
        }
        for (int i = 0; i < ZAP_FRAMES; i++)
            zmq_msg_close(&frames[i]);
    }
    zmq_close(c->zap);
    return NULL;
}

/* Before any socket listens: ZeroMQ takes everybody whom nobody denies. */
static int start_handler(struct wire_context *c, const char *folder, struct bl_error *err)
{
    int linger = 0;
    BL_TRY(keys_read(folder, &c->keys, err));
    zmq_z85_decode(c->public_bytes, c->keys.public_key);
    c->zap = zmq_socket(c->zmq, ZMQ_REP);
    if (!c->zap || zmq_setsockopt(c->zap, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_bind(c->zap, "inproc://zeromq.zap.01") != 0)
        return bl_fail(err, BL_EIO, "connections cannot be authenticated: %s", zmq_strerror(errno));
    if (pthread_create(&c->thread, NULL, answer_all, c) != 0)
        return bl_fail(err, BL_ENOMEM, "no thread that authenticates connections");
    c->has_keys = true;
    return 0;
}

int wire_context_open(const char *keys, struct wire_context **ret, struct bl_error *err)
{
    struct wire_context *c = calloc(1, sizeof *c);
    if (!c)
        return bl_fail(err, BL_ENOMEM, "no memory for sockets");
    *ret = c;
    c->zmq = zmq_ctx_new();
    if (!c->zmq)
        return bl_fail(err, BL_ENOMEM, "no ZeroMQ context can be made: %s", zmq_strerror(errno));
    /* A loader has one for each worker; ZeroMQ's own limit is 1023. */
    zmq_ctx_set(c->zmq, ZMQ_MAX_SOCKETS, 2 * BL_WORKERS_MAX);
    return keys ? start_handler(c, keys, err) : 0;
}

bool wire_has_keys(const struct wire_context *c)
{
    return c->has_keys;
}

void wire_context_close(struct wire_context **context)
{
    struct wire_context *c = *context;
    *context = NULL;
    if (!c)
        return;
    if (c->has_keys) {
        zmq_ctx_shutdown(c->zmq);
        pthread_join(c->thread, NULL);
    } else if (c->zap) {
        zmq_close(c->zap);
    }
    if (c->zmq)
        zmq_ctx_term(c->zmq);
    sodium_memzero(&c->keys, sizeof c->keys);
    free(c);
}
