/* tests/unit/comm_test.c - collectives among threads that play ranks: exact sums, equal bits,
 * abort, a lost peer. */
#include "tests/unit/unit.h"

#include <netinet/in.h>
#include <pthread.h>
#include <unistd.h>

#include "common/random.h"
#include "worker/comm/comm.h"

#define WORLD_MAX 5

struct world {
    int size;
    struct comm *comms[WORLD_MAX];
    int64_t count;
    float *floats[WORLD_MAX];
    int64_t *longs[WORLD_MAX];
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
                for (size_t i = 0; i < n; i++) {
                    uint32_t x[4];
                    bl_draw(7, BL_RANDOM_INIT, i, (uint64_t)r, x);
                    w.floats[r][i] = (float)(int)(x[0] % 2001 - 1000) * 0x1p-4f;
                    w.longs[r][i] = (int64_t)((uint64_t)x[1] << 32 | x[2]) >> 8;
                    sum[i] += w.floats[r][i];
                    whole[i] += w.longs[r][i];
                }
            }
            run_ranks(&w, size, play_sums);
            for (int r = 0; r < size; r++) {
                assert_ok(w.rc[r], w.err[r]);
                assert_memory_equal(w.floats[r], sum, n * sizeof *sum);
                assert_memory_equal(w.longs[r], whole, n * sizeof *whole);
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
    char changed[4096];
    assert_true(size <= sizeof changed);
    memcpy(changed, value, size);
    for (size_t at = 0; strcmp(key, "2") == 0 && at < size; at += size / 2)
        ((struct sockaddr_in *)(void *)(changed + at))->sin_port = htons(1);
    publish(context, key, changed, size);
}

static void who_cannot_be_reached_is_named(void **state)
{
    struct world w = {.count = 0, .publish = publish_unreachable};
    int ranks[2];
    open_world(&w, 3, 1000);
    run_ranks(&w, 3, play_connect);
    for (int r = 0; r < 2; r++) {
        assert_int_equal(w.rc[r], -BL_EPEER);
        assert_int_equal(comm_unreached(w.comms[r], ranks, 2), 1);
        assert_int_equal(ranks[0], 2);
    }
    close_world(&w);
}

UNIT_MAIN(cmocka_unit_test(every_rank_holds_the_exact_sum),
          cmocka_unit_test(abort_wakes_a_waiting_rank),
          cmocka_unit_test(a_rank_that_computes_longer_is_waited_for),
          cmocka_unit_test(a_lost_peer_fails_every_survivor),
          cmocka_unit_test(who_cannot_be_reached_is_named),
          cmocka_unit_test(abort_wakes_a_rank_that_waits_for_its_peers_addresses))
