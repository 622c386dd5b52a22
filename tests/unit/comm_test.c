/* tests/unit/comm_test.c - collectives among threads that play ranks: exact sums, equal bits,
 * abort, a lost peer. */
#include "tests/unit/unit.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/random.h"
#include "worker/comm/comm.h"

#define WORLD_MAX 5

struct world {
    int size;
    struct comm *comms[WORLD_MAX];
    int64_t count;
    float *floats[WORLD_MAX];
    int64_t *longs[WORLD_MAX], *fixed[WORLD_MAX];
    float *narrow[WORLD_MAX]; /* of fixed */
    bool alone[WORLD_MAX];
    int root;
    void (*publish)(void *, const char *, const void *, size_t); /* NULL: to everybody, as it is */
    int rc[WORLD_MAX];
    struct bl_error err[WORLD_MAX];
};
struct seat {
    struct world *world;
    int rank;
};

static void publish(void *context, const char *key, const void *value, size_t size)
{
    struct world *world = context;
    for (int r = 0; r < world->size; r++)
        comm_deliver(world->comms[r], key, value, size);
}

static void open_world(struct world *world, int size, int connect_ms)
{
    struct bl_error err;
    world->size = size;
    for (int r = 0; r < size; r++)
        assert_ok(
            comm_open(&(struct comm_options){.rank = r,
                                             .world = size,
                                             .host = "127.0.0.1",
                                             .connect_ms = connect_ms,
                                             .publish = world->publish ? world->publish : publish,
                                             .context = world},
                      &world->comms[r], &err),
            err);
}

static void run_ranks(struct world *world, int ranks, void *(*play)(void *))
{
    pthread_t threads[WORLD_MAX];
    struct seat seats[WORLD_MAX];
    for (int r = 0; r < ranks; r++) {
        seats[r] = (struct seat){world, r};
        assert_int_equal(pthread_create(&threads[r], NULL, play, &seats[r]), 0);
    }
    for (int r = 0; r < ranks; r++)
        pthread_join(threads[r], NULL);
}

static void close_world(struct world *world)
{
    for (int r = 0; r < world->size; r++) {
        comm_free(&world->comms[r]);
        free(world->floats[r]);
        free(world->longs[r]);
        free(world->fixed[r]);
        free(world->narrow[r]);
    }
}

static void *play_sums(void *argument)
{
    struct seat *seat = argument;
    struct world *w = seat->world;
    struct comm *comm = w->comms[seat->rank];
    struct bl_error *err = &w->err[seat->rank];
    w->rc[seat->rank] = comm_connect(comm, err);
    if (w->rc[seat->rank] < 0)
        return NULL;
    comm_allreduce(comm, w->floats[seat->rank], w->count, COMM_F32);
    comm_allreduce(comm, w->longs[seat->rank], w->count, COMM_I64);
    comm_broadcast(comm, w->floats[seat->rank], (size_t)w->count * 2, w->root);
    w->alone[seat->rank] =
        !comm_allreduce_fixed(comm, w->narrow[seat->rank], w->fixed[seat->rank], w->count);
    w->rc[seat->rank] = comm_wait(comm, err);
    return NULL;
}

/* Small integers times 2^-4: every float sum is exact in any order, so equality is of bits. */
static void every_rank_holds_the_exact_sum(void **state)
{
    static const int64_t counts[] = {0, 1, 2, 3, 1000, 262144, 1000003};
    for (int size = 1; size <= WORLD_MAX; size++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            struct world w = {.count = counts[c], .root = size / 2};
            open_world(&w, size, 60000);
            size_t n = (size_t)w.count;
            float *sum = calloc(n + 1, sizeof *sum);
            int64_t *whole = calloc(n + 1, sizeof *whole);
            for (int r = 0; r < size; r++) {
                w.floats[r] = malloc((n + 1) * sizeof(float));
                w.longs[r] = malloc((n + 1) * sizeof(int64_t));
                w.fixed[r] = malloc((n + 1) * sizeof(int64_t));
                w.narrow[r] = calloc(n + 1, sizeof(float));
                for (size_t i = 0; i < n; i++) {
                    uint32_t x[4];
                    bl_draw(7, BL_RANDOM_INIT, i, (uint64_t)r, x);
                    w.floats[r][i] = (float)(int)(x[0] % 2001 - 1000) * 0x1p-4f;
                    w.longs[r][i] = (int64_t)((uint64_t)x[1] << 32 | x[2]) >> 8;
                    sum[i] += w.floats[r][i];
                    w.fixed[r][i] = w.longs[r][i];
                    whole[i] += w.longs[r][i];
                }
            }
            run_ranks(&w, size, play_sums);
            for (int r = 0; r < size; r++) {
                assert_ok(w.rc[r], w.err[r]);
                assert_memory_equal(w.floats[r], sum, n * sizeof *sum);
                assert_memory_equal(w.longs[r], whole, n * sizeof *whole);
                assert_int_equal(w.alone[r], size == 1);
                for (size_t i = 0; i < n && size > 1; i++)
                    assert_true(w.narrow[r][i] == (float)((double)whole[i] / COMM_FIXED_SCALE));
            }
            free(sum);
            free(whole);
            close_world(&w);
        }
}

/* Rank 0 of two connects and then never takes part; rank 1 waits until somebody aborts it. */
static void *play_one_sided(void *argument)
{
    struct seat *seat = argument;
    struct world *w = seat->world;
    struct comm *comm = w->comms[seat->rank];
    w->rc[seat->rank] = comm_connect(comm, &w->err[seat->rank]);
    if (seat->rank == 0) {
        usleep(100000);
        comm_abort(w->comms[1]);
        return NULL;
    }
    comm_allreduce(comm, w->floats[1], w->count, COMM_F32);
    w->rc[1] = comm_wait(comm, &w->err[1]);
    return NULL;
}

static void abort_wakes_a_waiting_rank(void **state)
{
    struct world w = {.count = 1000};
    open_world(&w, 2, 60000);
    w.floats[1] = calloc(1000, sizeof(float));
    run_ranks(&w, 2, play_one_sided);
    assert_ok(w.rc[0], w.err[0]);
    assert_int_equal(w.rc[1], -BL_EPEER);
    assert_non_null(strstr(w.err[1].text, "rank 1 of 2: a collective failed: aborted"));
    comm_allreduce(w.comms[1], w.floats[1], 10, COMM_F32);
    assert_int_equal(comm_wait(w.comms[1], &w.err[1]), -BL_EPEER);
    close_world(&w);
}

/* Rank 0 of two has more to compute than rank 1, for longer than anything about connecting may take. */
static void *play_uneven(void *argument)
{
    struct seat *seat = argument;
    struct world *w = seat->world;
    struct comm *comm = w->comms[seat->rank];
    w->rc[seat->rank] = comm_connect(comm, &w->err[seat->rank]);
    if (seat->rank == 0)
        usleep(1500000);
    comm_allreduce(comm, w->floats[seat->rank], w->count, COMM_F32);
    w->rc[seat->rank] = comm_wait(comm, &w->err[seat->rank]);
    return NULL;
}

static void a_rank_that_computes_longer_is_waited_for(void **state)
{
    struct world w = {.count = 1000};
    open_world(&w, 2, 5000);
    for (int r = 0; r < 2; r++)
        w.floats[r] = calloc(1000, sizeof(float));
    run_ranks(&w, 2, play_uneven);
    assert_ok(w.rc[0], w.err[0]);
    assert_ok(w.rc[1], w.err[1]);
    close_world(&w);
}

/* Rank 2 leaves. Whoever sees it fails, and the coordinator would end the generation for the others, who may wait for nobody but
 * each other. */
static void *play_leaving(void *argument)
{
    struct seat *seat = argument;
    struct world *w = seat->world;
    w->rc[seat->rank] = comm_connect(w->comms[seat->rank], &w->err[seat->rank]);
    if (seat->rank == 2) {
        comm_free(&w->comms[2]);
        return NULL;
    }
    comm_allreduce(w->comms[seat->rank], w->floats[seat->rank], w->count, COMM_F32);
    w->rc[seat->rank] = comm_wait(w->comms[seat->rank], &w->err[seat->rank]);
    comm_abort(w->comms[1 - seat->rank]);
    return NULL;
}

static void a_lost_peer_fails_every_survivor(void **state)
{
    struct world w = {.count = 3000000};
    open_world(&w, 3, 60000);
    for (int r = 0; r < 3; r++)
        w.floats[r] = calloc((size_t)w.count, sizeof(float));
    run_ranks(&w, 3, play_leaving);
    assert_int_equal(w.rc[0], -BL_EPEER);
    assert_int_equal(w.rc[1], -BL_EPEER);
    close_world(&w);
}

static void *play_connect(void *argument)
{
    struct seat *seat = argument;
    seat->world->rc[seat->rank] =
        comm_connect(seat->world->comms[seat->rank], &seat->world->err[seat->rank]);
    return NULL;
}

static void *abort_soon(void *argument)
{
    usleep(50000);
    comm_abort(argument);
    return NULL;
}

static void abort_wakes_a_rank_that_waits_for_its_peers_addresses(void **state)
{
    struct world w = {.count = 0};
    open_world(&w, 2, 60000);
    pthread_t aborter;
    pthread_create(&aborter, NULL, abort_soon, w.comms[0]);
    run_ranks(&w, 1, play_connect);
    pthread_join(aborter, NULL);
    assert_int_equal(w.rc[0], -BL_EPEER);
    close_world(&w);
}

/* Rank 2 says that it listens where nobody does, as behind a firewall. */
static void publish_unreachable(void *context, const char *key, const void *value, size_t size)
{
    char changed[256], host[64], port[16], token[64];
    snprintf(changed, sizeof changed, "%.*s", (int)size, (const char *)value);
    assert_int_equal(sscanf(changed, "%63s %15s %63s", host, port, token), 3);
    if (strcmp(key, "ring/2") == 0)
        snprintf(changed, sizeof changed, "%s 1 %s", host, token);
    publish(context, key, changed, strlen(changed));
}

static void who_cannot_be_reached_is_named(void **state)
{
    struct world w = {.count = 0, .publish = publish_unreachable};
    int ranks[2];
    open_world(&w, 3, 1000);
    run_ranks(&w, 3, play_connect);
    assert_int_equal(w.rc[1], -BL_EPEER); /* its right-hand neighbour */
    assert_int_equal(comm_unreached(w.comms[1], ranks, 2), 1);
    assert_int_equal(ranks[0], 2);
    for (int r = 0; r < 3; r += 2) /* whoever else fails blames nobody that can be reached */
        for (int i = comm_unreached(w.comms[r], ranks, 2); i-- > 0;)
            assert_int_equal(ranks[i], 2);
    close_world(&w);
}

/* Strangers at the port of each rank: one leaves at once, one resets, one stays silent, one talks, one shows a wrong token.
 * Also while sums are made. */
static const char wrong_hello[28] = "BLIPring\1\0\0\0................";

static int visit(uint16_t port, const char *text, size_t size, bool resets)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    if (size > 0)
        assert_int_equal(send(fd, text, size, MSG_NOSIGNAL), (ssize_t)size);
    if (resets)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    return fd;
}

static void publish_to_strangers(void *context, const char *key, const void *value, size_t size)
{
    unsigned port;
    assert_int_equal(sscanf((const char *)value, "%*s %u", &port), 1);
    for (int i = 0; i < 40; i++)
        close(visit((uint16_t)port, "", 0, i % 2 == 0));
    for (int i = 0; i < 20; i++) /* never closed: as a stranger would */
        visit((uint16_t)port, wrong_hello, i % sizeof wrong_hello, false);
    for (int i = 0; i < 5; i++)
        visit((uint16_t)port, wrong_hello, sizeof wrong_hello, false);
    publish(context, key, value, size);
}

static void strangers_at_the_port_change_nothing(void **state)
{
    struct world w = {.count = 300000, .publish = publish_to_strangers};
    open_world(&w, 3, 20000);
    for (int r = 0; r < 3; r++) {
        w.floats[r] = calloc((size_t)w.count, sizeof(float));
        w.longs[r] = calloc((size_t)w.count, sizeof(int64_t));
        w.fixed[r] = calloc((size_t)w.count, sizeof(int64_t));
        w.narrow[r] = calloc((size_t)w.count, sizeof(float));
    }
    run_ranks(&w, 3, play_sums);
    for (int r = 0; r < 3; r++)
        assert_ok(w.rc[r], w.err[r]);
    close_world(&w);
}

/* Rank 1 takes another's token for rank 0's: as if somebody else listened at rank 0's address. */
static void publish_wrong_token(void *context, const char *key, const void *value, size_t size)
{
    struct world *world = context;
    char changed[256];
    assert_true(size < sizeof changed);
    memcpy(changed, value, size);
    if (strcmp(key, "ring/0") == 0)
        changed[size - 1] = changed[size - 1] == '0' ? '1' : '0';
    comm_deliver(world->comms[0], key, value, size);
    comm_deliver(world->comms[1], key, changed, size);
}

static void a_neighbour_proves_that_it_is_a_member(void **state)
{
    struct world w = {.count = 0, .publish = publish_wrong_token};
    open_world(&w, 2, 1000);
    run_ranks(&w, 2, play_connect);
    assert_int_equal(w.rc[0], -BL_EPEER);
    assert_int_equal(w.rc[1], -BL_EPEER);
    close_world(&w);
}

/* Rank 1 published an address and never connects. */
static void *play_connect_aborted(void *argument)
{
    pthread_t aborter;
    struct seat *seat = argument;
    pthread_create(&aborter, NULL, abort_soon, seat->world->comms[0]);
    play_connect(argument);
    pthread_join(aborter, NULL);
    return NULL;
}

static void abort_wakes_a_rank_that_waits_for_its_neighbour(void **state)
{
    static const char nobody[] = "192.0.2.1 9 00000000000000000000000000000000";
    struct world w = {.count = 0};
    open_world(&w, 2, 3600000);
    comm_deliver(w.comms[0], "ring/1", nobody, sizeof nobody - 1);
    run_ranks(&w, 1, play_connect_aborted);
    assert_int_equal(w.rc[0], -BL_EPEER);
    close_world(&w);
}

/* Rank 1 sums one element more than rank 0. */
static void *play_unequal(void *argument)
{
    struct seat *seat = argument;
    struct world *w = seat->world;
    w->rc[seat->rank] = comm_connect(w->comms[seat->rank], &w->err[seat->rank]);
    comm_allreduce(w->comms[seat->rank], w->floats[seat->rank], w->count + seat->rank, COMM_F32);
    w->rc[seat->rank] = comm_wait(w->comms[seat->rank], &w->err[seat->rank]);
    return NULL;
}

static void different_collectives_are_noticed(void **state)
{
    struct world w = {.count = 1000};
    open_world(&w, 2, 20000);
    for (int r = 0; r < 2; r++)
        w.floats[r] = calloc((size_t)w.count + 1, sizeof(float));
    run_ranks(&w, 2, play_unequal);
    for (int r = 0; r < 2; r++) {
        assert_int_equal(w.rc[r], -BL_EPEER);
        assert_non_null(strstr(w.err[r].text, "different collectives"));
    }
    close_world(&w);
}

UNIT_MAIN(cmocka_unit_test(every_rank_holds_the_exact_sum),
          cmocka_unit_test(abort_wakes_a_waiting_rank),
          cmocka_unit_test(a_rank_that_computes_longer_is_waited_for),
          cmocka_unit_test(a_lost_peer_fails_every_survivor),
          cmocka_unit_test(who_cannot_be_reached_is_named),
          cmocka_unit_test(strangers_at_the_port_change_nothing),
          cmocka_unit_test(a_neighbour_proves_that_it_is_a_member),
          cmocka_unit_test(abort_wakes_a_rank_that_waits_for_its_neighbour),
          cmocka_unit_test(different_collectives_are_noticed),
          cmocka_unit_test(abort_wakes_a_rank_that_waits_for_its_peers_addresses))
