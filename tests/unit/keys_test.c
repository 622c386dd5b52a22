/* tests/unit/keys_test.c - with keys, whoever has them is let in, and nobody else is heard. */
#include "tests/unit/unit.h"

#include <sys/stat.h>
#include <unistd.h>

#include "proto/keys.h"
#include "proto/socket_state.h"
#include "proto/wire.h"
#include "tests/unit/folder.h"

#define WAIT_MS 20000 /* only a failing test waits so long */
#define QUIET_MS 500  /* in which nothing must happen */

static struct {
    uv_loop_t uv;
    uv_timer_t timer;
    struct wire_context *server, *client;
    struct wire_socket *router, *dealer, *pull, *push;
    char control[SOCKET_ENDPOINT_MAX], data[SOCKET_ENDPOINT_MAX];
    int heard;
    size_t size; /* of the last frame heard */
    bool expired;
} net;

static void on_expired(uv_timer_t *timer)
{
    net.expired = true;
}

static void turn(int ms)
{
    net.expired = false;
    uv_timer_start(&net.timer, on_expired, (uint64_t)ms, 0);
    uv_run(&net.uv, UV_RUN_ONCE);
}

#define WAIT_FOR(condition)                                                                        \
    while (!(condition)) {                                                                         \
        turn(WAIT_MS);                                                                             \
        assert_false(net.expired);                                                                 \
    }

/* Long enough for what must not happen. */
static void wait_a_while(void)
{
    uint64_t end_ms = uv_now(&net.uv) + QUIET_MS;
    while (uv_now(&net.uv) < end_ms)
        turn(QUIET_MS);
}

static void on_message(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    net.heard++;
    net.size = zmq_msg_size(&frames->at[frames->count - 1]);
    if (from)
        wire_know(net.router, frames->connection, true);
}

static void on_writable(void *context, struct wire_socket *socket)
{
}

static void on_lost(void *context)
{
}

static int open_net(void **state)
{
    struct bl_error err;
    memset(&net, 0, sizeof net);
    make_folder(state);
    uv_loop_init(&net.uv);
    uv_timer_init(&net.uv, &net.timer);
    assert_ok(keys_make(inside("keys"), &err), err);
    assert_ok(keys_make(inside("others"), &err), err);
    return 0;
}

static int close_net(void **state)
{
    wire_socket_close(&net.router, 0);
    wire_socket_close(&net.dealer, 0);
    wire_socket_close(&net.pull, 0);
    wire_socket_close(&net.push, 0);
    wire_loop_close(&net.uv);
    wire_context_close(&net.client);
    wire_context_close(&net.server);
    return remove_folder(state);
}

static void open_server(const char *keys)
{
    struct bl_error err;
    struct wire_guard guard = {.limits = wire_control_limits()},
                      data = {.limits = wire_data_limits(1 << 20)};
    assert_ok(wire_context_open(keys, &net.server, &err), err);
    assert_ok(wire_router(&net.uv, net.server, "tcp://127.0.0.1:*", &guard, on_message, NULL,
                          &net.router, net.control, &err),
              err);
    assert_ok(wire_pull(&net.uv, net.server, "127.0.0.1", &data, on_message, NULL, &net.pull,
                        net.data, &err),
              err);
}

static void open_client(const char *keys)
{
    struct bl_error err;
    struct wire_id id = wire_id_make(wire_incarnation(), 1);
    assert_ok(wire_context_open(keys, &net.client, &err), err);
    assert_ok(wire_dealer(&net.uv, net.client, net.control, &id, on_message, on_lost, NULL,
                          &net.dealer, &err),
              err);
    assert_ok(wire_push(&net.uv, net.client, net.data, on_writable, NULL, &net.push, &err), err);
}

static void who_has_the_same_keys_is_heard(void **state)
{
    static char large[BL_HEADER_BYTES_MAX];
    open_server(inside("keys"));
    open_client(inside("keys"));
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(net.heard == 1);
    assert_int_equal(wire_met(net.dealer), WIRE_SOCKET);
    assert_int_equal(wire_dealer_send(net.dealer, large, sizeof large), 0);
    WAIT_FOR(net.heard == 2);
    assert_int_equal(net.size, sizeof large);
    struct wire_frames batch = {.count = 1};
    zmq_msg_init_size(&batch.at[0], 7);
    memset(zmq_msg_data(&batch.at[0]), 0, 7);
    while (!wire_push_send(net.push, &batch))
        turn(10);
    WAIT_FOR(net.heard == 3);
    assert_int_equal(net.size, 7);
}

static void expect_other_keys(const char *server, const char *client)
{
    open_server(server ? inside(server) : NULL);
    open_client(client ? inside(client) : NULL);
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(wire_met(net.dealer) == WIRE_OTHER_KEYS);
    wait_a_while();
    assert_int_equal(net.heard, 0);
    assert_int_equal(wire_met(net.dealer), WIRE_OTHER_KEYS);
}

static void other_keys_are_noticed_and_not_heard(void **state)
{
    expect_other_keys("keys", "others");
}

static void no_keys_are_noticed_and_not_heard(void **state)
{
    expect_other_keys("keys", NULL);
}

static void keys_where_the_other_side_has_none_are_noticed(void **state)
{
    expect_other_keys(NULL, "keys");
}

/* The cluster's public key is no secret that lets anybody in: the client's own must be the cluster's too. */
static void who_knows_the_public_key_alone_is_denied(void **state)
{
    struct bl_error err;
    struct keys ours, others;
    int linger = 0;
    open_server(inside("keys"));
    assert_ok(keys_read(inside("keys"), &ours, &err), err);
    assert_ok(keys_read(inside("others"), &others, &err), err);
    assert_ok(wire_context_open(NULL, &net.client, &err), err);
    void *raw = zmq_socket(net.client->zmq, ZMQ_DEALER);
    zmq_setsockopt(raw, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(raw, ZMQ_ROUTING_ID, "0123456789abcdef", 16);
    zmq_setsockopt(raw, ZMQ_CURVE_SERVERKEY, ours.public_key, KEYS_TEXT_SIZE);
    zmq_setsockopt(raw, ZMQ_CURVE_PUBLICKEY, others.public_key, KEYS_TEXT_SIZE);
    zmq_setsockopt(raw, ZMQ_CURVE_SECRETKEY, others.secret_key, KEYS_TEXT_SIZE);
    assert_int_equal(zmq_connect(raw, net.control), 0);
    assert_int_equal(zmq_send(raw, "hello", 5, 0), 5);
    wait_a_while();
    assert_int_equal(net.heard, 0);
    zmq_close(raw);
}

/* -- the file -- */

static void expect_failure(enum bl_error_code code, const char *words)
{
    struct bl_error err;
    struct keys keys;
    char line[1600];
    assert_int_equal(keys_read(inside("keys"), &keys, &err), -(int)code);
    bl_error_format(&err, line, sizeof line);
    assert_non_null(strstr(line, "keys/cluster.key: "));
    if (!strstr(line, words))
        fail_msg("expected \"%s\" in \"%s\"", words, line);
}

static void a_key_that_others_may_read_is_refused(void **state)
{
    struct bl_error err;
    struct keys keys;
    assert_ok(keys_read(inside("keys"), &keys, &err), err);
    chmod(inside("keys/cluster.key"), 0640);
    expect_failure(BL_EUSAGE, "expected mode 0600, found 0640");
    chmod(inside("keys/cluster.key"), 0400);
    assert_ok(keys_read(inside("keys"), &keys, &err), err);
}

static void a_folder_without_a_key_says_how_one_is_made(void **state)
{
    unlink(inside("keys/cluster.key"));
    expect_failure(BL_EIO, "No such file or directory; make one by `blipren-coord keygen DIR`");
}

static void a_spoilt_key_is_refused(void **state)
{
    struct bl_error err;
    char *text;
    size_t size;
    assert_ok(bl_file_read(inside("keys/cluster.key"), 4096, &text, &size, &err), err);
    for (size_t i = strstr(text, "public") - text; i < size; i++) {
        char was = text[i];
        text[i] = was == 'a' ? 'b' : 'a';
        assert_ok(bl_file_write(inside("keys/cluster.key"), text, size, &err), err);
        chmod(inside("keys/cluster.key"), 0600);
        struct keys keys;
        /* the last bits of a secret are not used: its public key is the same */
        if (keys_read(inside("keys"), &keys, &err) < 0)
            assert_int_equal(err.code, BL_EFORMAT);
        else
            assert_true(i >= size - 2 - KEYS_TEXT_SIZE);
        text[i] = was;
    }
    free(text);
}

static void a_key_is_not_overwritten(void **state)
{
    struct bl_error err;
    assert_int_equal(keys_make(inside("keys"), &err), -BL_EUSAGE);
    struct stat made;
    assert_int_equal(stat(inside("keys"), &made), 0);
    assert_int_equal(made.st_mode & 07777, 0700);
}

#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, open_net, close_net)

UNIT_MAIN(NET_TEST(who_has_the_same_keys_is_heard), NET_TEST(other_keys_are_noticed_and_not_heard),
          NET_TEST(no_keys_are_noticed_and_not_heard),
          NET_TEST(keys_where_the_other_side_has_none_are_noticed),
          NET_TEST(who_knows_the_public_key_alone_is_denied),
          NET_TEST(a_key_that_others_may_read_is_refused),
          NET_TEST(a_folder_without_a_key_says_how_one_is_made), NET_TEST(a_spoilt_key_is_refused),
          NET_TEST(a_key_is_not_overwritten))
