/* proto/watch.c - ZeroMQ's events of a socket: what a DEALER met at its endpoint, and who comes to and leaves a socket that
 * listens. See socket.h. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "proto/socket_state.h"

enum wire_met wire_met(const struct wire_socket *s)
{
    return s ? s->met : WIRE_NOBODY;
}

const char *wire_met_words(enum wire_met met)
{
    static const char *const words[] = {"nothing is listening there",
                                        /* or one that has closed before its greeting was read */
                                        "what is listening there does not speak this protocol, or "
                                        "wants keys (--keys)",
                                        "what is listening there does not answer as a coordinator",
                                        "what is listening there does not have the same keys as "
                                        "this program (--keys), or was just ending"};
    return words[met];
}

/* -- a socket that listens -- */

static void on_gone(struct wire_socket *s, int fd)
{
    const char *address = guard_address(s->guard, fd);
    bool failed = s->handshake_failed && !guard_was_cut(s->guard, fd);
    s->handshake_failed = false;
    if (failed)
        bl_log_peer(
            BL_LOG_WARNING, address, "something connected from %s that %s, ignored", address,
            s->has_keys ? "does not have this cluster's keys" : "does not speak this protocol");
    if (guard_gone(s->guard, fd) && s->lost)
        s->lost(s->user);
}

static void on_listener_event(struct wire_socket *s, uint16_t event, int32_t value)
{
    switch (event) {
    case ZMQ_EVENT_ACCEPTED:
        guard_accepted(s->guard, value);
        socket_watch_strangers(s);
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        s->handshake_failed = true;
        break;
    case ZMQ_EVENT_DISCONNECTED: /* follows at once, and names the connection */
        on_gone(s, value);
        break;
    }
}

/* -- a socket that connects -- */

/* Does a failed handshake say that the keys differ? A server drops a client that has another server key without a word. */
static bool keys_differ(const struct wire_socket *s, uint16_t event, int32_t value)
{
    return event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH ||
           (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL && s->has_keys) ||
           (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL &&
            value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH);
}

static void on_dealer_event(struct wire_socket *s, uint16_t event, int32_t value, const char *where)
{
    if (event == ZMQ_EVENT_CONNECTED && s->met == WIRE_NOBODY)
        s->met = WIRE_STRANGER;
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
        s->met = WIRE_SOCKET;
    if (s->met != WIRE_OTHER_KEYS && keys_differ(s, event, value)) {
        s->met = WIRE_OTHER_KEYS;
        bl_log_peer(BL_LOG_WARNING, where, "%s: %s", where, wire_met_words(s->met));
    }
    if (event == ZMQ_EVENT_DISCONNECTED)
        s->lost(s->user);
}

/* -- both -- */

static void on_event(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct wire_socket *s = context;
    uint8_t *data = zmq_msg_data(&frames->at[0]);
    uint16_t event = 0;
    int32_t value = -1;
    char where[SOCKET_ENDPOINT_MAX] = "";
    if (zmq_msg_size(&frames->at[0]) < sizeof event + sizeof value)
        return;
    memcpy(&event, data, sizeof event);
    memcpy(&value, data + sizeof event, sizeof value);
    if (frames->count > 1 && zmq_msg_size(&frames->at[1]) < sizeof where)
        memcpy(where, zmq_msg_data(&frames->at[1]), zmq_msg_size(&frames->at[1]));
    if (s->guard)
        on_listener_event(s, event, value);
    else
        on_dealer_event(s, event, value, where);
}

int socket_watch(struct wire_socket *s, struct wire_context *context, void (*lost)(void *user),
                 struct bl_error *err)
{
    static atomic_uint last; /* ZeroMQ lets go of a name in the background: none is used again */
    char address[64];
    struct wire_socket *monitor;
    snprintf(address, sizeof address, "inproc://monitor-%u", atomic_fetch_add(&last, 1));
    int events = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                 ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    s->has_keys = context->has_keys;
    if (zmq_socket_monitor(s->zmq, address, events) != 0)
        return bl_fail(err, BL_EIO, "a socket cannot be watched: %s", zmq_strerror(errno));
    /* Without a limit: ZeroMQ's own thread would wait for us, and our zmq_close for that thread. */
    BL_TRY(socket_make(context, ZMQ_PAIR, 0, on_event, s, &monitor, err));
    s->lost = lost;
    return socket_connect(s->poll.loop, monitor, address, &s->monitor, err);
}

int socket_guard(struct wire_socket *s, struct wire_context *context,
                 const struct wire_guard *guard, struct bl_error *err)
{
    BL_TRY(guard_new(&guard->limits, &s->guard, err));
    uv_timer_init(s->poll.loop, &s->guard_timer);
    s->guard_timer.data = s;
    s->open_handles++;
    return socket_watch(s, context, guard->lost, err);
}
