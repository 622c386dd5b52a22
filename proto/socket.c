/* proto/socket.c - see socket.h. */
#include "proto/socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

/* Control messages are small; a peer with so many waiting does not read any more. */
#define CONTROL_HWM 10000
/* Batches are large, and credit bounds them already: two keep the wire busy. */
#define DATA_HWM 2
#define RECONNECT_MAX_MS 2000

struct wire_socket {
    void *zmq;
    bool is_router, wants_write, closing;
    int open_handles;
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    wire_receive *receive;
    wire_writable *writable;
    void *user;
    uint64_t dropped;
    struct wire_socket *monitor; /* brings ZeroMQ's events of this socket */
    enum wire_met met;           /* as the monitor says */
    void (*lost)(void *user);
};

void wire_frames_close(struct wire_frames *frames)
{
    for (int i = 0; i < frames->count; i++)
        zmq_msg_close(&frames->at[i]);
    frames->count = 0;
}

void wire_frames_move(struct wire_frames *to, struct wire_frames *from)
{
    to->count = from->count;
    for (int i = 0; i < from->count; i++) {
        zmq_msg_init(&to->at[i]);
        zmq_msg_move(&to->at[i], &from->at[i]);
    }
    wire_frames_close(from);
}

int wire_context_open(void **ret, struct bl_error *err)
{
    void *context = zmq_ctx_new();
    if (!context)
        return bl_fail(err, BL_ENOMEM, "no ZeroMQ context can be made: %s", zmq_strerror(errno));
    /* A loader has one for each worker; ZeroMQ's own limit is 1023. */
    zmq_ctx_set(context, ZMQ_MAX_SOCKETS, 2 * BL_WORKERS_MAX);
    *ret = context;
    return 0;
}

void wire_context_close(void **context)
{
    if (*context)
        zmq_ctx_term(*context);
    *context = NULL;
}

static void close_handle(uv_handle_t *handle, void *argument)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void wire_loop_close(uv_loop_t *loop)
{
    uv_walk(loop, close_handle, NULL);
    while (uv_loop_close(loop) == UV_EBUSY)
        uv_run(loop, UV_RUN_ONCE);
}

/* -- the loop -- */

static int events_of(struct wire_socket *s)
{
    int events = 0;
    size_t size = sizeof events;
    zmq_getsockopt(s->zmq, ZMQ_EVENTS, &events, &size);
    return events;
}

static bool is_ready(struct wire_socket *s)
{
    int events = events_of(s);
    return (s->receive && (events & ZMQ_POLLIN)) || (s->wants_write && (events & ZMQ_POLLOUT));
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    /* only wakes the loop: on_check does the work */
}

static void on_idle(uv_idle_t *idle)
{
    /* only keeps the loop from sleeping */
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct wire_socket *s = prepare->data;
    if (is_ready(s))
        uv_idle_start(&s->idle, on_idle);
    else
        uv_idle_stop(&s->idle);
}

/* One whole message; false when there is none. */
static bool receive_one(struct wire_socket *s, struct wire_id *from, bool *ret_valid,
                        struct wire_frames *frames)
{
    frames->count = 0;
    *ret_valid = true;
    bool identity = s->is_router;
    for (int more = 1; more;) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, s->zmq, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&frame);
            return false;
        }
        more = zmq_msg_more(&frame);
        if (identity) {
            identity = false;
            *ret_valid = zmq_msg_size(&frame) == sizeof from->bytes;
            if (*ret_valid)
                memcpy(from->bytes, zmq_msg_data(&frame), sizeof from->bytes);
        } else if (frames->count < BL_FRAMES_MAX) {
            zmq_msg_init(&frames->at[frames->count]);
            zmq_msg_move(&frames->at[frames->count++], &frame);
        } else {
            *ret_valid = false;
        }
        zmq_msg_close(&frame);
    }
    return true;
}

static void on_check(uv_check_t *check)
{
    struct wire_socket *s = check->data;
    for (int i = 0; s->receive && i < SOCKET_MESSAGES_PER_TURN && !s->closing; i++) {
        struct wire_frames frames;
        struct wire_id from;
        bool valid;
        if (!receive_one(s, &from, &valid, &frames))
            break;
        if (valid) {
            s->receive(s->user, s->is_router ? &from : NULL, &frames);
        } else {
            s->dropped++;
            bl_log(BL_LOG_WARNING, "malformed message from %s, ignored", wire_address(&frames));
        }
        wire_frames_close(&frames);
    }
    if (!s->closing && s->wants_write && (events_of(s) & ZMQ_POLLOUT)) {
        s->wants_write = false;
        s->writable(s->user, s);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct wire_socket *s = handle->data;
    if (--s->open_handles == 0)
        free(s);
}

void wire_socket_close(struct wire_socket **socket, int linger_ms)
{
    struct wire_socket *s = *socket;
    if (!s)
        return;
    if (s->monitor)
        zmq_socket_monitor(s->zmq, NULL, 0);
    wire_socket_close(&s->monitor, 0);
    s->closing = true;
    uv_poll_stop(&s->poll);
    zmq_setsockopt(s->zmq, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_close(s->zmq);
    uv_close((uv_handle_t *)&s->poll, on_closed);
    uv_close((uv_handle_t *)&s->prepare, on_closed);
    uv_close((uv_handle_t *)&s->check, on_closed);
    uv_close((uv_handle_t *)&s->idle, on_closed);
    *socket = NULL;
}

static int into_loop(uv_loop_t *loop, struct wire_socket *s, struct bl_error *err)
{
    int fd = -1;
    size_t size = sizeof fd;
    if (zmq_getsockopt(s->zmq, ZMQ_FD, &fd, &size) != 0 || uv_poll_init(loop, &s->poll, fd) != 0) {
        zmq_close(s->zmq);
        free(s);
        return bl_fail(err, BL_EIO, "a socket cannot be watched");
    }
    uv_prepare_init(loop, &s->prepare);
    uv_check_init(loop, &s->check);
    uv_idle_init(loop, &s->idle);
    s->poll.data = s->prepare.data = s->check.data = s->idle.data = s;
    s->open_handles = 4;
    uv_poll_start(&s->poll, UV_READABLE, on_poll);
    uv_prepare_start(&s->prepare, on_prepare);
    uv_check_start(&s->check, on_check);
    return 0;
}

static void set_int(void *zmq, int option, int value)
{
    int rc = zmq_setsockopt(zmq, option, &value, sizeof value);
    BL_ASSERT_CMP(rc, ==, 0);
}

/* A socket with the options all of ours share. */
static int make_socket(void *context, int type, int hwm, wire_receive *receive, void *user,
                       struct wire_socket **ret, struct bl_error *err)
{
    struct wire_socket *s = calloc(1, sizeof *s);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for a socket");
    s->zmq = zmq_socket(context, type);
    if (!s->zmq) {
        free(s);
        return bl_fail(err, BL_EIO, "a socket cannot be made: %s", zmq_strerror(errno));
    }
    s->is_router = type == ZMQ_ROUTER;
    s->receive = receive;
    s->user = user;
    int64_t bytes = type == ZMQ_PULL ? BL_FRAME_BYTES_MAX : BL_HEADER_BYTES_MAX;
    zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &bytes, sizeof bytes);
    set_int(s->zmq, ZMQ_LINGER, 0);
    set_int(s->zmq, ZMQ_SNDHWM, hwm);
    set_int(s->zmq, ZMQ_RCVHWM, hwm);
    set_int(s->zmq, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    *ret = s;
    return 0;
}

static int fail_endpoint(const char *what, const char *endpoint, struct bl_error *err)
{
    bl_fail(err, BL_EIO, "cannot %s: %s", what, zmq_strerror(errno));
    bl_error_remedy(err, "choose another address or port");
    return bl_error_peer(err, endpoint);
}

static int abandon(struct wire_socket *s, const char *what, const char *endpoint,
                   struct bl_error *err)
{
    int rc = fail_endpoint(what, endpoint, err);
    zmq_close(s->zmq);
    free(s);
    return rc;
}

static int bind_socket(uv_loop_t *loop, struct wire_socket *s, const char *endpoint,
                       struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
                       struct bl_error *err)
{
    if (zmq_bind(s->zmq, endpoint) != 0)
        return abandon(s, "listen", endpoint, err);
    size_t size = SOCKET_ENDPOINT_MAX;
    if (zmq_getsockopt(s->zmq, ZMQ_LAST_ENDPOINT, ret_endpoint, &size) != 0)
        return abandon(s, "learn the port", endpoint, err);
    BL_TRY(into_loop(loop, s, err));
    *ret = s;
    return 0;
}

static int connect_socket(uv_loop_t *loop, struct wire_socket *s, const char *endpoint,
                          struct wire_socket **ret, struct bl_error *err)
{
    if (zmq_connect(s->zmq, endpoint) != 0)
        return abandon(s, "connect", endpoint, err);
    BL_TRY(into_loop(loop, s, err));
    *ret = s;
    return 0;
}

int wire_router(uv_loop_t *loop, void *context, const char *endpoint, wire_receive *receive,
                void *user, struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
                struct bl_error *err)
{
    struct wire_socket *s;
    BL_TRY(make_socket(context, ZMQ_ROUTER, CONTROL_HWM, receive, user, &s, err));
    set_int(s->zmq, ZMQ_ROUTER_MANDATORY, 1);
    return bind_socket(loop, s, endpoint, ret, ret_endpoint, err);
}

int wire_pull(uv_loop_t *loop, void *context, const char *host, wire_receive *receive, void *user,
              struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
              struct bl_error *err)
{
    struct wire_socket *s;
    char endpoint[SOCKET_ENDPOINT_MAX];
    snprintf(endpoint, sizeof endpoint, "tcp://%s:*", host);
    BL_TRY(make_socket(context, ZMQ_PULL, DATA_HWM, receive, user, &s, err));
    return bind_socket(loop, s, endpoint, ret, ret_endpoint, err);
}

int wire_push(uv_loop_t *loop, void *context, const char *endpoint, wire_writable *writable,
              void *user, struct wire_socket **ret, struct bl_error *err)
{
    struct wire_socket *s;
    BL_TRY(make_socket(context, ZMQ_PUSH, DATA_HWM, NULL, user, &s, err));
    set_int(s->zmq, ZMQ_IMMEDIATE, 1); /* nothing is queued for a worker that is not there */
    s->writable = writable;
    return connect_socket(loop, s, endpoint, ret, err);
}

static void on_event(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct wire_socket *s = context;
    uint16_t event = 0;
    if (zmq_msg_size(&frames->at[0]) >= sizeof event)
        memcpy(&event, zmq_msg_data(&frames->at[0]), sizeof event);
    if (s->is_router && (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL ||
                         event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL))
        bl_log(BL_LOG_WARNING, "something connected that does not speak this protocol, ignored");
    if (event == ZMQ_EVENT_CONNECTED && s->met == WIRE_NOBODY)
        s->met = WIRE_STRANGER;
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
        s->met = WIRE_SOCKET;
    if (event == ZMQ_EVENT_DISCONNECTED)
        s->lost(s->user);
}

enum wire_met wire_met(const struct wire_socket *s)
{
    return s ? s->met : WIRE_NOBODY;
}

const char *wire_met_words(enum wire_met met)
{
    static const char *const words[] = {"nobody listens there",
                                        "what listens there does not speak this protocol",
                                        "what listens there does not answer as a coordinator"};
    return words[met];
}

const char *wire_address(struct wire_frames *frames)
{
    const char *address = frames->count ? zmq_msg_gets(&frames->at[0], "Peer-Address") : NULL;
    return address ? address : "?";
}

int wire_watch(struct wire_socket *s, void *context, void (*lost)(void *user), struct bl_error *err)
{
    char address[64];
    struct wire_socket *monitor;
    snprintf(address, sizeof address, "inproc://monitor-%p", (void *)s);
    int events = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                 ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
    if (zmq_socket_monitor(s->zmq, address, events) != 0)
        return bl_fail(err, BL_EIO, "a socket cannot be watched: %s", zmq_strerror(errno));
    BL_TRY(make_socket(context, ZMQ_PAIR, CONTROL_HWM, on_event, s, &monitor, err));
    s->lost = lost;
    return connect_socket(s->poll.loop, monitor, address, &s->monitor, err);
}

int wire_dealer(uv_loop_t *loop, void *context, const char *endpoint, const struct wire_id *id,
                wire_receive *receive, void (*lost)(void *user), void *user,
                struct wire_socket **ret, struct bl_error *err)
{
    struct wire_socket *s;
    BL_TRY(make_socket(context, ZMQ_DEALER, CONTROL_HWM, receive, user, &s, err));
    zmq_setsockopt(s->zmq, ZMQ_ROUTING_ID, id->bytes, sizeof id->bytes);
    BL_TRY(into_loop(loop, s, err));
    /* Watched before it connects, so that no event is missed. */
    int rc = lost ? wire_watch(s, context, lost, err) : 0;
    if (rc == 0 && zmq_connect(s->zmq, endpoint) != 0)
        rc = fail_endpoint("connect", endpoint, err);
    if (rc < 0)
        wire_socket_close(&s, 0);
    *ret = s;
    return rc;
}

/* -- sending -- */

int wire_router_send(struct wire_socket *s, const struct wire_id *to, const void *data, size_t size)
{
    if (zmq_send(s->zmq, to->bytes, sizeof to->bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return -BL_EPEER;
    return zmq_send(s->zmq, data, size, ZMQ_DONTWAIT) < 0 ? -BL_EPEER : 0;
}

int wire_dealer_send(struct wire_socket *s, const void *data, size_t size)
{
    return zmq_send(s->zmq, data, size, ZMQ_DONTWAIT) < 0 ? -BL_EPEER : 0;
}

bool wire_push_send(struct wire_socket *s, struct wire_frames *frames)
{
    int more = frames->count - 1;
    for (int i = 0; i < frames->count; i++) {
        if (zmq_msg_send(&frames->at[i], s->zmq, ZMQ_DONTWAIT | (i < more ? ZMQ_SNDMORE : 0)) >= 0)
            continue;
        if (i == 0) {
            s->wants_write = true;
            return false;
        }
        /* The connection broke in mid-message: ZeroMQ drops what it took of it, and what follows up
         * to the last frame. For the sender that is a message lost on its way. */
        zmq_msg_close(&frames->at[i]);
    }
    frames->count = 0;
    return true;
}

uint64_t wire_socket_dropped(const struct wire_socket *s)
{
    return s->dropped;
}
