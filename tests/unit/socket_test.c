/* tests/unit/socket_test.c - ZeroMQ sockets inside a libuv loop: nothing is lost, nothing grows, and
 * what is wrong is told. */
#include "tests/unit/unit.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/socket_state.h"
#include "proto/wire.h"

enum { PEERS = 300 };
#define WAIT_MS 20000 /* only a failing test waits so long */

static struct {
    uv_loop_t uv;
    uv_timer_t timer;
    struct wire_context *zmq;
    void *raw, *many[PEERS]; /* raw: sockets that do not keep our rules */
    struct wire_socket *router, *dealer, *pull, *push;
    char control[SOCKET_ENDPOINT_MAX], data[SOCKET_ENDPOINT_MAX];
    struct wire_id id, from; /* the dealer's; the last sender's */
    int at_router, at_dealer, at_pull, lost, writable, turn, most_in_turn;
    size_t last_size;
    bool expired;
    int connection; /* the last sender's */
    int unknown;    /* messages of a connection that nobody told of */
    bool strangers; /* who speaks to the router stays one */
} net;

static void on_expired(uv_timer_t *timer)
{
    net.expired = true;
}

static void one_turn(void)
{
    net.turn = 0;
    uv_timer_start(&net.timer, on_expired, WAIT_MS, 0);
    uv_run(&net.uv, UV_RUN_ONCE);
    if (net.turn > net.most_in_turn)
        net.most_in_turn = net.turn;
    assert_false(net.expired);
}

#define WAIT_FOR(condition)                                                                        \
    while (!(condition))                                                                           \
    one_turn()

/* Messages of the flood are their number; a side checks that they come in order. */
static void take_number(struct wire_frames *frames, int *count)
{
    int number;
    assert_int_equal(frames->count, 1);
    net.last_size = zmq_msg_size(&frames->at[0]);
    if (net.last_size == sizeof number) {
        memcpy(&number, zmq_msg_data(&frames->at[0]), sizeof number);
        assert_int_equal(number, *count);
    }
    ++*count;
    net.turn++;
}

static void on_router(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    net.from = *from;
    net.connection = frames->connection;
    net.unknown += frames->connection < 0;
    if (!net.strangers)
        wire_know(net.router, frames->connection, true);
    take_number(frames, &net.at_router);
}

static void on_dealer(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    assert_null(from);
    take_number(frames, &net.at_dealer);
}

static void on_pull(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    assert_int_equal(frames->count, 2);
    assert_int_equal(zmq_msg_size(&frames->at[0]), 8);
    wire_know(net.pull, frames->connection, true);
    net.at_pull++;
}

static void on_writable(void *context, struct wire_socket *socket)
{
    net.writable++;
}

static void on_lost(void *context)
{
    net.lost++;
}

static int open_net(void **state)
{
    struct bl_error err;
    memset(&net, 0, sizeof net);
    uv_loop_init(&net.uv);
    uv_timer_init(&net.uv, &net.timer);
    net.id = wire_id_make(wire_incarnation(), 1);
    assert_ok(wire_context_open(NULL, &net.zmq, &err), err);
    return 0;
}

static void open_control(void)
{
    struct bl_error err;
    struct wire_guard guard = {.limits = wire_control_limits(), .lost = on_lost};
    assert_ok(wire_router(&net.uv, net.zmq, "tcp://127.0.0.1:*", &guard, on_router, NULL,
                          &net.router, net.control, &err),
              err);
    assert_ok(wire_dealer(&net.uv, net.zmq, net.control, &net.id, on_dealer, on_lost, NULL,
                          &net.dealer, &err),
              err);
}

static void open_data(void)
{
    struct bl_error err;
    struct wire_guard guard = {.limits = wire_data_limits(4 << 20)};
    assert_ok(
        wire_pull(&net.uv, net.zmq, "127.0.0.1", &guard, on_pull, NULL, &net.pull, net.data, &err),
        err);
    assert_ok(wire_push(&net.uv, net.zmq, net.data, on_writable, NULL, &net.push, &err), err);
}

static int close_net(void **state)
{
    wire_socket_close(&net.router, 0);
    wire_socket_close(&net.dealer, 0);
    wire_socket_close(&net.pull, 0);
    wire_socket_close(&net.push, 0);
    if (net.raw)
        zmq_close(net.raw);
    for (int i = 0; i < PEERS; i++)
        if (net.many[i])
            zmq_close(net.many[i]);
    uv_close((uv_handle_t *)&net.timer, NULL);
    while (uv_loop_close(&net.uv) == UV_EBUSY)
        uv_run(&net.uv, UV_RUN_ONCE);
    wire_context_close(&net.zmq);
    return 0;
}

static void ten_thousand_messages_both_ways_all_arrive_in_order(void **state)
{
    enum { COUNT = 10000 };
    open_control();
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(wire_dealer_send(net.dealer, &i, sizeof i), 0);
    WAIT_FOR(net.at_router > 0);
    assert_memory_equal(net.from.bytes, net.id.bytes, sizeof net.id.bytes);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(wire_router_send(net.router, &net.from, &i, sizeof i), 0);
    WAIT_FOR(net.at_router == COUNT && net.at_dealer == COUNT);
    assert_true(net.most_in_turn <= 2 * SOCKET_MESSAGES_PER_TURN);
    assert_int_equal(wire_socket_dropped(net.router), 0);
}

/* Before the loop takes what they say, and what ZeroMQ says of them. */
static void however_many_come_at_once_each_one_s_connection_is_told(void **state)
{
    const int at_once = 1, zero = 0, number = 0;
    open_control();
    for (int i = 0; i < PEERS; i++) {
        struct wire_id id = wire_id_make(wire_incarnation(), 1);
        net.many[i] = zmq_socket(net.zmq->zmq, ZMQ_DEALER);
        zmq_setsockopt(net.many[i], ZMQ_ROUTING_ID, id.bytes, sizeof id.bytes);
        zmq_setsockopt(net.many[i], ZMQ_IMMEDIATE, &at_once, sizeof at_once);
        zmq_setsockopt(net.many[i], ZMQ_LINGER, &zero, sizeof zero);
        assert_int_equal(zmq_connect(net.many[i], net.control), 0);
    }
    for (int i = 0; i < PEERS; i++) /* it waits until it is connected */
        assert_int_equal(zmq_send(net.many[i], &number, 1, 0), 1);
    WAIT_FOR(net.at_router == PEERS);
    assert_int_equal(net.unknown, 0);
}

/* Every message is answered by the next: the loop sleeps between them and is woken each time. */
static void a_loop_that_sleeps_is_woken_by_each_message(void **state)
{
    open_control();
    for (int i = 0; i < 500; i++) {
        assert_int_equal(wire_dealer_send(net.dealer, &i, sizeof i), 0);
        WAIT_FOR(net.at_router == i + 1);
        assert_int_equal(wire_router_send(net.router, &net.from, &i, sizeof i), 0);
        WAIT_FOR(net.at_dealer == i + 1);
    }
}

static void nobody_of_that_id_is_a_lost_peer(void **state)
{
    struct wire_id other = wire_id_make(5, 5);
    open_control();
    assert_int_equal(wire_router_send(net.router, &other, "x", 1), -BL_EPEER);
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(net.at_router == 1);
    wire_socket_close(&net.dealer, 0);
    while (wire_router_send(net.router, &net.from, "x", 1) == 0)
        uv_run(&net.uv, UV_RUN_NOWAIT);
}

static void a_peer_that_never_reads_cannot_fill_the_memory(void **state)
{
    char text[200] = "";
    int sent = 0;
    open_control();
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(net.at_router == 1);
    while (sent < 1000000 && wire_router_send(net.router, &net.from, text, sizeof text) == 0)
        sent++;
    assert_in_range(sent, 1, 999999);
}

static atomic_int released;

static void release(void *data, void *hint)
{
    atomic_fetch_add(&released, 1);
}

/* Two frames, the second of a megabyte that is not copied. */
static void make_batch(struct wire_frames *frames)
{
    static uint8_t megabyte[1 << 20];
    frames->count = 2;
    zmq_msg_init_size(&frames->at[0], 8);
    memset(zmq_msg_data(&frames->at[0]), 0, 8);
    zmq_msg_init_data(&frames->at[1], megabyte, sizeof megabyte, release, NULL);
}

static void a_full_data_socket_says_when_it_takes_more(void **state)
{
    enum { COUNT = 200 };
    struct wire_frames frames;
    open_data();
    atomic_store(&released, 0);
    make_batch(&frames);
    int refused = 0;
    for (int sent = 0; sent < COUNT;) {
        if (wire_push_send(net.push, &frames)) {
            assert_int_equal(frames.count, 0);
            if (++sent < COUNT)
                make_batch(&frames);
            continue;
        }
        refused++;
        assert_int_equal(frames.count, 2);
        int before = net.writable;
        WAIT_FOR(net.writable > before);
    }
    WAIT_FOR(net.at_pull == COUNT);
    assert_true(refused > 0); /* before the connection stood, at least */
    wire_socket_close(&net.push, 0);
    WAIT_FOR(atomic_load(&released) == COUNT);
}

/* What ZeroMQ's queues and the kernel's take is a few batches, not all that one has. */
static void a_worker_that_never_reads_stops_its_loader(void **state)
{
    struct bl_error err;
    struct wire_frames frames;
    int sent = 0;
    net.raw = zmq_socket(net.zmq->zmq, ZMQ_PULL); /* nobody receives from it */
    int hwm = 2;
    size_t size = sizeof net.data;
    zmq_setsockopt(net.raw, ZMQ_RCVHWM, &hwm, sizeof hwm);
    assert_int_equal(zmq_bind(net.raw, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(net.raw, ZMQ_LAST_ENDPOINT, net.data, &size), 0);
    assert_ok(wire_push(&net.uv, net.zmq, net.data, on_writable, NULL, &net.push, &err), err);
    atomic_store(&released, 0);
    make_batch(&frames);
    for (int quiet = 0; quiet < 20;) {
        if (wire_push_send(net.push, &frames)) {
            assert_true(++sent < 100);
            make_batch(&frames);
            quiet = 0;
        } else {
            quiet++;
            uv_timer_start(&net.timer, on_expired, 10, 0);
            uv_run(&net.uv, UV_RUN_ONCE);
            net.expired = false;
        }
    }
    assert_true(sent > 0);
    wire_frames_close(&frames);
    wire_socket_close(&net.push, 0);
    zmq_close(net.raw);
    net.raw = NULL;
    while (atomic_load(&released) <
           sent + 1) /* sent, dropped or never sent: each is let go of once */
        uv_run(&net.uv, UV_RUN_NOWAIT);
}

static void open_raw_dealer(const struct wire_id *id)
{
    int linger = 0;
    net.raw = zmq_socket(net.zmq->zmq, ZMQ_DEALER);
    zmq_setsockopt(net.raw, ZMQ_LINGER, &linger, sizeof linger);
    if (id)
        zmq_setsockopt(net.raw, ZMQ_ROUTING_ID, id->bytes, sizeof id->bytes);
    assert_int_equal(zmq_connect(net.raw, net.control), 0);
}

/* Also within the millisecond in which ZeroMQ would not look. */
static void room_that_a_reader_has_made_is_seen_at_once(void **state)
{
    enum { WAITING = 8, ROUNDS = 500 };
    struct bl_error err;
    struct wire_guard guard = {.limits = wire_control_limits(), .waiting = WAITING};
    int number = 0;
    assert_ok(wire_router(&net.uv, net.zmq, "tcp://127.0.0.1:*", &guard, on_router, NULL,
                          &net.router, net.control, &err),
              err);
    open_raw_dealer(&net.id);
    assert_int_equal(zmq_send(net.raw, &number, sizeof number, 0), sizeof number);
    WAIT_FOR(net.at_router == 1);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < WAITING; i++)
            assert_int_equal(wire_router_send(net.router, &net.from, &round, sizeof round), 0);
        for (int i = 0; i < WAITING; i++)
            assert_int_equal(zmq_recv(net.raw, &number, sizeof number, 0), sizeof number);
    }
}

static void a_message_of_too_many_frames_is_cut_and_counted(void **state)
{
    open_control();
    struct wire_id id = wire_id_make(9, 9);
    open_raw_dealer(&id);
    for (int i = 0; i < 100; i++)
        zmq_send(net.raw, "x", 1, i < 99 ? ZMQ_SNDMORE : 0);
    zmq_send(net.raw, "after", 5, 0);
    WAIT_FOR(net.at_router == 1);
    assert_int_equal(wire_socket_dropped(net.router), 1);
}

static void a_peer_with_a_strange_routing_id_is_not_heard(void **state)
{
    open_control();
    open_raw_dealer(NULL);
    zmq_send(net.raw, "x", 1, 0);
    WAIT_FOR(wire_socket_dropped(net.router) == 1);
    assert_int_equal(net.at_router, 0);
}

static void a_frame_over_the_limit_ends_the_connection_and_not_the_loop(void **state)
{
    static char large[BL_HEADER_BYTES_MAX + 1];
    open_control();
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(net.at_router == 1);
    assert_int_equal(wire_dealer_send(net.dealer, large, sizeof large - 1), 0);
    WAIT_FOR(net.at_router == 2);
    assert_int_equal(net.last_size, sizeof large - 1);
    assert_int_equal(wire_dealer_send(net.dealer, large, sizeof large), 0);
    WAIT_FOR(net.lost == 2);
    assert_int_equal(wire_dealer_send(net.dealer, "again", 5), 0);
    WAIT_FOR(net.at_router == 3);
    assert_int_equal(net.last_size, 5);
}

static void a_lost_connection_is_told_at_both_ends(void **state)
{
    open_control();
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(net.at_router == 1);
    assert_int_equal(net.lost, 0);
    wire_socket_close(&net.router, 0);
    WAIT_FOR(net.lost == 1);
    wire_socket_close(&net.dealer, 0);
    open_control();
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(net.at_router == 2);
    wire_socket_close(&net.dealer, 0);
    WAIT_FOR(net.lost == 2);
}

/* -- strangers: connections of plain TCP, which speak ZMTP as far as each test says -- */

static int connect_stranger(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)atoi(strrchr(net.control, ':') + 1))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Shakes hands as a DEALER. ZeroMQ takes nothing more before it has answered. */
static void shake_hands(int fd)
{
    static const char ready[] = "\4\x39\5READY\x0bSocket-Type\0\0\0\6DEALER\x08Identity\0\0\0\x10"
                                "0123456789abcdef";
    uint8_t greeting[64] = {0xff, [9] = 0x7f, 3};
    memcpy(greeting + 12, "NULL", 4);
    assert_int_equal(send(fd, greeting, sizeof greeting, 0), sizeof greeting);
    assert_int_equal(send(fd, ready, sizeof ready - 1, 0), sizeof ready - 1);
    uint8_t answer[64 + 2];
    assert_int_equal(recv(fd, answer, sizeof answer, MSG_WAITALL), sizeof answer);
    assert_true(recv(fd, greeting, answer[65] & 63, MSG_WAITALL) > 0);
}

static bool is_closed(int fd)
{
    char bytes[4096];
    ssize_t n;
    while ((n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
        ;
    return n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

/* Sends that again and again, 100 MB at most; how much was taken before the connection was closed. */
static size_t pour(int fd, const void *data, size_t size)
{
    size_t sent = 0;
    while (sent < (100 << 20) && !is_closed(fd)) {
        ssize_t n = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        uv_timer_start(&net.timer, on_expired, 1, 0);
        uv_run(&net.uv, UV_RUN_ONCE);
    }
    net.expired = false;
    return sent;
}

/* Frames of 40,000 bytes or of one; more follow each. */
static size_t pour_frames(int fd, bool large)
{
    static uint8_t bytes[9 + 40000];
    memset(bytes, 1, sizeof bytes);
    if (large)
        memcpy(bytes, (uint8_t[]){3, 0, 0, 0, 0, 0, 0, 40000 >> 8, 40000 & 255}, 9);
    return pour(fd, bytes, large ? sizeof bytes : sizeof bytes / 3 * 3);
}

static void a_stranger_whose_message_never_ends_is_closed(void **state)
{
    net.strangers = true;
    open_control();
    for (int large = 0; large < 2; large++) {
        int fd = connect_stranger();
        shake_hands(fd);
        assert_in_range(pour_frames(fd, large), 1, 16 << 20);
        assert_true(is_closed(fd));
        close(fd);
    }
    assert_int_equal(net.at_router, 0);
}

static void a_peer_whose_message_never_ends_is_closed(void **state)
{
    open_control();
    int fd = connect_stranger();
    shake_hands(fd);
    assert_int_equal(send(fd, "\0\5hello", 7, 0), 7);
    WAIT_FOR(net.at_router == 1);
    assert_true(pour_frames(fd, true) > wire_control_limits().each);
    assert_true(is_closed(fd));
    close(fd);
}
static void of_too_many_strangers_the_oldest_are_closed(void **state)
{
    enum { MORE = 20 };
    int fds[BL_STRANGERS_MAX + MORE];
    int count = (int)wire_control_limits().strangers + MORE;
    net.strangers = true;
    open_control();
    wire_socket_close(&net.dealer, 0); /* it would come back again and again */
    for (int i = 0; i < count; i++)
        fds[i] = connect_stranger();
    for (int i = 0; i < MORE; i++)
        WAIT_FOR(is_closed(fds[i]));
    for (int i = MORE; i < count; i++)
        assert_false(is_closed(fds[i]));
    for (int i = 0; i < count; i++)
        close(fds[i]);
}

static void a_connection_that_is_cut_is_closed(void **state)
{
    open_control();
    int fd = connect_stranger();
    shake_hands(fd);
    assert_int_equal(send(fd, "\0\5hello", 7, 0), 7);
    WAIT_FOR(net.at_router == 1);
    wire_cut(net.router, net.connection);
    WAIT_FOR(is_closed(fd));
    close(fd);
}

/* A callback may close the socket that calls it. */
static void close_dealer(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    net.at_dealer++;
    wire_socket_close(&net.dealer, 0);
}

static void a_socket_may_be_closed_by_its_own_callback(void **state)
{
    struct bl_error err;
    open_control();
    wire_socket_close(&net.dealer, 0);
    struct wire_id id = wire_id_make(3, 2);
    assert_ok(wire_dealer(&net.uv, net.zmq, net.control, &id, close_dealer, NULL, NULL, &net.dealer,
                          &err),
              err);
    assert_int_equal(wire_dealer_send(net.dealer, "hello", 5), 0);
    WAIT_FOR(net.at_router == 1);
    for (int i = 0; i < 10; i++)
        wire_router_send(net.router, &net.from, "x", 1);
    WAIT_FOR(net.at_dealer == 1);
    for (int i = 0; i < 20; i++)
        uv_run(&net.uv, UV_RUN_NOWAIT);
    assert_int_equal(net.at_dealer, 1);
}

static void an_address_in_use_is_named(void **state)
{
    struct bl_error err;
    char line[1600], expected[400], endpoint[SOCKET_ENDPOINT_MAX];
    open_control();
    struct wire_socket *second = NULL;
    struct wire_guard guard = {.limits = wire_control_limits()};
    assert_int_equal(wire_router(&net.uv, net.zmq, net.control, &guard, on_router, NULL, &second,
                                 endpoint, &err),
                     -BL_EIO);
    assert_null(second);
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected,
             "%s: cannot listen: Address already in use; choose another address or port",
             net.control);
    assert_non_null(strstr(line, expected));
}

static void endpoints_are_checked_by_the_letter(void **state)
{
    static const struct {
        const char *endpoint;
        bool valid, loopback;
    } cases[] = {
        {"tcp://127.0.0.1:5555", true, true},
        {"tcp://127.8.9.10:*", true, true},
        {"tcp://localhost:0", true, true},
        {"tcp://lo:5555", true, true},
        {"tcp://node-17.cluster:5555", true, false},
        {"tcp://10.0.0.1:65535", true, false},
        {"tcp://*:5555", true, false},
        {"tcp://127.evil.example:5555", true, false},
        {"tcp://127.0.0.1.evil.example:5555", true, false},
        {"tcp://127.0.0.999:5555", true, false},
        {"tcp://localhost.evil.example:5555", true, false},
        {"tcp://127.0.0.1;evil.example:5555", false, false},
        {"tcp://127.0.0.1:65536", false, false},
        {"tcp://127.0.0.1:", false, false},
        {"tcp://127.0.0.1", false, false},
        {"tcp://:5555", false, false},
        {"tcp://127.0.0.1:55x", false, false},
        {"tcp://127.0.0.1:-1", false, false},
        {"tcp://[::1]:5555", false, false},
        {"ipc:///tmp/x", false, false},
        {"inproc://x:1", false, false},
        {"127.0.0.1:5555", false, false},
        {"", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bl_error err;
        int rc = wire_check_endpoint(cases[i].endpoint, true, &err);
        if ((rc == 0) != cases[i].valid || wire_is_loopback(cases[i].endpoint) != cases[i].loopback)
            fail_msg("%s: rc %d, loopback %d", cases[i].endpoint, rc,
                     wire_is_loopback(cases[i].endpoint));
        rc = wire_check_endpoint(cases[i].endpoint, false, &err);
        assert_int_equal(rc == 0, cases[i].loopback);
    }
}

static void beyond_loopback_needs_keys_or_consent(void **state)
{
    struct bl_error err;
    char line[1600];
    assert_int_equal(wire_check_endpoint("tcp://10.0.0.1:5555", false, &err), -BL_EUSAGE);
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line,
                        "tcp://10.0.0.1:5555 is not on this machine alone, and there are no keys; "
                        "give --keys DIR, a copy of the folder that `blipren-coord keygen DIR` "
                        "makes, or --insecure on a network you trust");
}

#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, open_net, close_net)

UNIT_MAIN(NET_TEST(ten_thousand_messages_both_ways_all_arrive_in_order),
          NET_TEST(a_loop_that_sleeps_is_woken_by_each_message),
          NET_TEST(however_many_come_at_once_each_one_s_connection_is_told),
          NET_TEST(nobody_of_that_id_is_a_lost_peer),
          NET_TEST(a_peer_that_never_reads_cannot_fill_the_memory),
          NET_TEST(a_full_data_socket_says_when_it_takes_more),
          NET_TEST(a_worker_that_never_reads_stops_its_loader),
          NET_TEST(room_that_a_reader_has_made_is_seen_at_once),
          NET_TEST(a_message_of_too_many_frames_is_cut_and_counted),
          NET_TEST(a_peer_with_a_strange_routing_id_is_not_heard),
          NET_TEST(a_frame_over_the_limit_ends_the_connection_and_not_the_loop),
          NET_TEST(a_lost_connection_is_told_at_both_ends),
          NET_TEST(a_stranger_whose_message_never_ends_is_closed),
          NET_TEST(a_peer_whose_message_never_ends_is_closed),
          NET_TEST(of_too_many_strangers_the_oldest_are_closed),
          NET_TEST(a_connection_that_is_cut_is_closed),
          NET_TEST(a_socket_may_be_closed_by_its_own_callback),
          NET_TEST(an_address_in_use_is_named),
          cmocka_unit_test(endpoints_are_checked_by_the_letter),
          cmocka_unit_test(beyond_loopback_needs_keys_or_consent))
