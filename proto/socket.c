/* proto/socket.c - a ZeroMQ socket: made, in the loop, read and sent on, closed. See socket.h. */
#include "proto/socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proto/socket_state.h"

/* What one peer's messages may take of the coordinator's memory before it reads them: the rest waits at the sender. */
#define CONTROL_RECEIVE_HWM 8
#define RECONNECT_MAX_MS 2000

void wire_frames_close(struct wire_frames *frames)
{
    for (int i = 0; i < frames->count; i++)
        zmq_msg_close(&frames->at[i]);
    frames->count = 0;
}

void wire_frames_move(struct wire_frames *to, struct wire_frames *from)
{
    to->count = from->count;
    to->connection = from->connection;
    for (int i = 0; i < from->count; i++) {
        zmq_msg_init(&to->at[i]);
        zmq_msg_move(&to->at[i], &from->at[i]);
    }
    wire_frames_close(from);
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
    frames->connection = -1;
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
        if (frames->connection < 0)
            frames->connection = zmq_msg_get(&frame, ZMQ_SRCFD);
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

const char *wire_address(struct wire_frames *frames)
{
    const char *address = frames->count ? zmq_msg_gets(&frames->at[0], "Peer-Address") : NULL;
    return address ? address : "?";
}

static void on_timer(uv_timer_t *timer)
{
    /* only wakes the loop: on_check does the work once the messages that wait are read */
}

void socket_watch_strangers(struct wire_socket *s)
{
    if (!guard_has_strangers(s->guard))
        uv_timer_stop(&s->guard_timer);
    else if (!uv_is_active((uv_handle_t *)&s->guard_timer))
        uv_timer_start(&s->guard_timer, on_timer, GUARD_CHECK_MS, GUARD_CHECK_MS);
}

static void drop_malformed(struct wire_socket *s, struct wire_frames *frames)
{
    const char *address = wire_address(frames);
    s->dropped++;
    bl_log_peer(BL_LOG_WARNING, address, "malformed message from %s, ignored", address);
    wire_cut(s, frames->connection);
}

static bool take_message(struct wire_socket *s);

/* Who came is told before what they say can be read, but on a socket of its own: where many come at once, that one may be
 * behind. */
static bool is_connected(struct wire_socket *s, struct wire_frames *frames)
{
    const char *address = wire_address(frames);
    if (guard_heard(s->guard, frames->connection, address))
        return true;
    while (take_message(s->monitor))
        ;
    return guard_heard(s->guard, frames->connection, address);
}

/* Takes the next message that waits; false: there is none. */
static bool take_message(struct wire_socket *s)
{
    struct wire_frames frames;
    struct wire_id from;
    bool valid;
    if (!receive_one(s, &from, &valid, &frames))
        return false;
    if (s->guard && !is_connected(s, &frames))
        frames.connection = -1;
    if (valid)
        s->receive(s->user, s->is_router ? &from : NULL, &frames);
    else
        drop_malformed(s, &frames);
    wire_frames_close(&frames);
    return true;
}

static void on_check(uv_check_t *check)
{
    struct wire_socket *s = check->data;
    for (int i = 0; s->receive && i < SOCKET_MESSAGES_PER_TURN && !s->closing; i++)
        if (!take_message(s))
            break;
    if (!s->closing && s->wants_write && (events_of(s) & ZMQ_POLLOUT)) {
        s->wants_write = false;
        s->writable(s->user, s);
    }
    if (!s->closing && s->guard) {
        guard_check(s->guard, uv_now(s->poll.loop));
        socket_watch_strangers(s);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct wire_socket *s = handle->data;
    if (--s->open_handles > 0)
        return;
    guard_free(&s->guard);
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
    if (s->guard)
        uv_close((uv_handle_t *)&s->guard_timer, on_closed);
    *socket = NULL;
}

int socket_into_loop(uv_loop_t *loop, struct wire_socket *s, struct bl_error *err)
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

void socket_set(struct wire_socket *s, int option, int value)
{
    int rc = zmq_setsockopt(s->zmq, option, &value, sizeof value);
    BL_ASSERT_CMP(rc, ==, 0);
}

/* What ZeroMQ adds to an encrypted frame, and a little. */
#define CURVE_BYTES 64

/* The same key at both ends: who has the server's is a client too. */
static void set_keys(const struct wire_context *context, struct wire_socket *s, bool is_server)
{
    const struct keys *keys = &context->keys;
    if (is_server) {
        socket_set(s, ZMQ_CURVE_SERVER, 1);
        zmq_setsockopt(s->zmq, ZMQ_ZAP_DOMAIN, "blipren", 7);
    } else {
        zmq_setsockopt(s->zmq, ZMQ_CURVE_SERVERKEY, keys->public_key, KEYS_TEXT_SIZE);
        zmq_setsockopt(s->zmq, ZMQ_CURVE_PUBLICKEY, keys->public_key, KEYS_TEXT_SIZE);
    }
    zmq_setsockopt(s->zmq, ZMQ_CURVE_SECRETKEY, keys->secret_key, KEYS_TEXT_SIZE);
}

int socket_make(struct wire_context *context, int type, int hwm, wire_receive *receive, void *user,
                struct wire_socket **ret, struct bl_error *err)
{
    struct wire_socket *s = calloc(1, sizeof *s);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for a socket");
    s->zmq = zmq_socket(context->zmq, type);
    if (!s->zmq) {
        free(s);
        return bl_fail(err, BL_EIO, "a socket cannot be made: %s", zmq_strerror(errno));
    }
    s->is_router = type == ZMQ_ROUTER;
    s->receive = receive;
    s->user = user;
    int64_t bytes = type == ZMQ_PULL ? BL_FRAME_BYTES_MAX : BL_HEADER_BYTES_MAX;
    if (context->has_keys && type != ZMQ_PAIR) {
        set_keys(context, s, type == ZMQ_ROUTER || type == ZMQ_PULL);
        bytes += CURVE_BYTES;
    }
    zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &bytes, sizeof bytes);
    socket_set(s, ZMQ_LINGER, 0);
    socket_set(s, ZMQ_SNDHWM, hwm);
    socket_set(s, ZMQ_RCVHWM, type == ZMQ_ROUTER ? CONTROL_RECEIVE_HWM : hwm);
    socket_set(s, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    *ret = s;
    return 0;
}

int socket_fail(const char *what, const char *endpoint, struct bl_error *err)
{
    bl_fail(err, BL_EIO, "cannot %s: %s", what, zmq_strerror(errno));
    bl_error_remedy(err, "choose another address or port");
    return bl_error_peer(err, endpoint);
}

static int abandon(struct wire_socket *s, const char *what, const char *endpoint,
                   struct bl_error *err)
{
    int rc = socket_fail(what, endpoint, err);
    zmq_close(s->zmq);
    free(s);
    return rc;
}

int socket_connect(uv_loop_t *loop, struct wire_socket *s, const char *endpoint,
                   struct wire_socket **ret, struct bl_error *err)
{
    if (zmq_connect(s->zmq, endpoint) != 0)
        return abandon(s, "connect", endpoint, err);
    BL_TRY(socket_into_loop(loop, s, err));
    *ret = s;
    return 0;
}

/* -- who is connected -- */

void wire_know(struct wire_socket *s, int connection, bool known)
{
    if (s->guard)
        guard_know(s->guard, connection, known);
}

void wire_cut(struct wire_socket *s, int connection)
{
    if (s->guard)
        guard_cut(s->guard, connection);
}

void wire_allow(struct wire_socket *s, const struct guard_limits *limits)
{
    guard_allow(s->guard, limits);
}

/* -- sending -- */

/* ZeroMQ looks at most once a millisecond at what its thread has sent meanwhile. So where it says that there is no room, it is made to
 * look, and asked once more. */
static int send_frame(struct wire_socket *s, const void *data, size_t size, int flags)
{
    if (zmq_send(s->zmq, data, size, flags | ZMQ_DONTWAIT) >= 0)
        return 0;
    if (zmq_errno() != EAGAIN)
        return -BL_EPEER;
    events_of(s);
    return zmq_send(s->zmq, data, size, flags | ZMQ_DONTWAIT) < 0 ? -BL_EPEER : 0;
}

int wire_router_send(struct wire_socket *s, const struct wire_id *to, const void *data, size_t size)
{
    if (send_frame(s, to->bytes, sizeof to->bytes, ZMQ_SNDMORE) < 0)
        return -BL_EPEER;
    return send_frame(s, data, size, 0);
}

int wire_dealer_send(struct wire_socket *s, const void *data, size_t size)
{
    return send_frame(s, data, size, 0);
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
