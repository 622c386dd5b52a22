/* proto/open.c - the four kinds of sockets: two that listen, ROUTER and PULL, and two that connect, DEALER and PUSH. See socket.h. */
#include <stdio.h>
#include <sys/resource.h>

#include "proto/socket_state.h"

/* Control messages are small; a peer with so many waiting does not read any more. */
#define CONTROL_HWM 10000
/* Batches are large, and credit bounds them already: two keep the wire busy. */
#define DATA_HWM 2
#define HANDSHAKE_MS 10000
#define BACKLOG 512         /* a large cluster starts at once */
#define KEEPALIVE_IDLE_S 60 /* a host that is gone without a word */

/* Strangers leave most descriptors to those who belong to the run. */
static uint32_t strangers_max(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur / 4 > BL_STRANGERS_MAX)
        return BL_STRANGERS_MAX;
    return (uint32_t)limit.rlim_cur / 4;
}

struct guard_limits wire_control_limits(void)
{
    return (struct guard_limits){.strangers = strangers_max(),
                                 .each = BL_STRANGER_BYTES_MAX,
                                 .together = BL_STRANGERS_MAX * (uint64_t)BL_STRANGER_BYTES_MAX,
                                 .incomplete = 8 * BL_HEADER_BYTES_MAX + BL_KERNEL_BYTES_MAX};
}

struct guard_limits wire_data_limits(uint64_t bytes_max)
{
    uint64_t bytes = bytes_max + BL_STRANGER_BYTES_MAX;
    return (struct guard_limits){.strangers = strangers_max(),
                                 .each = bytes,
                                 .together = bytes + BL_STRANGERS_BYTES_MAX,
                                 .incomplete = bytes + BL_KERNEL_BYTES_MAX};
}

/* Listens, guarded from the first connection on. */
static int bind_socket(struct wire_context *context, struct wire_socket *s, const char *endpoint,
                       const struct wire_guard *guard, char ret_endpoint[SOCKET_ENDPOINT_MAX],
                       struct bl_error *err)
{
    size_t size = SOCKET_ENDPOINT_MAX;
    socket_set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    socket_set(s, ZMQ_BACKLOG, BACKLOG);
    socket_set(s, ZMQ_TCP_KEEPALIVE, 1);
    socket_set(s, ZMQ_TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S);
    BL_TRY(socket_guard(s, context, guard, err));
    if (zmq_bind(s->zmq, endpoint) != 0)
        return socket_fail("listen", endpoint, err);
    if (zmq_getsockopt(s->zmq, ZMQ_LAST_ENDPOINT, ret_endpoint, &size) != 0)
        return socket_fail("learn the port", endpoint, err);
    return 0;
}

/* A socket of that type in the loop, listening. */
static int listen_socket(uv_loop_t *loop, struct wire_context *context, struct wire_socket *s,
                         const char *endpoint, const struct wire_guard *guard,
                         struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
                         struct bl_error *err)
{
    BL_TRY(socket_into_loop(loop, s, err));
    int rc = bind_socket(context, s, endpoint, guard, ret_endpoint, err);
    if (rc < 0)
        wire_socket_close(&s, 0);
    *ret = s;
    return rc;
}

int wire_router(uv_loop_t *loop, struct wire_context *context, const char *endpoint,
                const struct wire_guard *guard, wire_receive *receive, void *user,
                struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
                struct bl_error *err)
{
    struct wire_socket *s;
    int waiting = guard->waiting ? guard->waiting : CONTROL_HWM;
    BL_TRY(socket_make(context, ZMQ_ROUTER, waiting, receive, user, &s, err));
    socket_set(s, ZMQ_ROUTER_MANDATORY, 1);
    return listen_socket(loop, context, s, endpoint, guard, ret, ret_endpoint, err);
}

int wire_pull(uv_loop_t *loop, struct wire_context *context, const char *host,
              const struct wire_guard *guard, wire_receive *receive, void *user,
              struct wire_socket **ret, char ret_endpoint[SOCKET_ENDPOINT_MAX],
              struct bl_error *err)
{
    struct wire_socket *s;
    char endpoint[SOCKET_ENDPOINT_MAX];
    snprintf(endpoint, sizeof endpoint, "tcp://%s:*", host);
    BL_TRY(socket_make(context, ZMQ_PULL, DATA_HWM, receive, user, &s, err));
    return listen_socket(loop, context, s, endpoint, guard, ret, ret_endpoint, err);
}

int wire_push(uv_loop_t *loop, struct wire_context *context, const char *endpoint,
              wire_writable *writable, void *user, struct wire_socket **ret, struct bl_error *err)
{
    struct wire_socket *s;
    BL_TRY(socket_make(context, ZMQ_PUSH, DATA_HWM, NULL, user, &s, err));
    socket_set(s, ZMQ_IMMEDIATE, 1); /* nothing is queued for a worker that is not there */
    s->writable = writable;
    return socket_connect(loop, s, endpoint, ret, err);
}

int wire_dealer(uv_loop_t *loop, struct wire_context *context, const char *endpoint,
                const struct wire_id *id, wire_receive *receive, void (*lost)(void *user),
                void *user, struct wire_socket **ret, struct bl_error *err)
{
    struct wire_socket *s;
    BL_TRY(socket_make(context, ZMQ_DEALER, CONTROL_HWM, receive, user, &s, err));
    zmq_setsockopt(s->zmq, ZMQ_ROUTING_ID, id->bytes, sizeof id->bytes);
    BL_TRY(socket_into_loop(loop, s, err));
    /* Watched before it connects, so that no event is missed. */
    int rc = lost ? socket_watch(s, context, lost, err) : 0;
    if (rc == 0 && zmq_connect(s->zmq, endpoint) != 0)
        rc = socket_fail("connect", endpoint, err);
    if (rc < 0)
        wire_socket_close(&s, 0);
    *ret = s;
    return rc;
}
