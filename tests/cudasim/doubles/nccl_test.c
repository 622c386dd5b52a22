/* tests/cudasim/doubles/nccl_test.c - the backend's collectives over the double of NCCL, among threads that play ranks. */
#include "tests/unit/unit.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/random.h"
#include "worker/comm/backend.h"
#include "worker/ops/cuda/cuda.h"

enum { WORLD = 3, COUNT = 1000 };

struct seat {
    struct world *world;
    int rank;
    struct ops *ops;
    struct comm *comm;
    float *floats, *narrow; /* device */
    int64_t *longs, *fixed;
    int rc;
    struct bl_error err;
};

struct world {
    int size;
    int64_t count;
    struct seat seats[WORLD];
};

static void publish(void *context, const char *key, const void *value, size_t size)
{
    struct world *world = context;
    for (int r = 0; r < world->size; r++)
        comm_deliver(world->seats[r].comm, key, value, size);
}

/* Element i of a rank: whole numbers, so that every sum is exact. */
static int64_t value(int rank, int64_t i)
{
    uint32_t x[4];
    bl_draw(3, BL_RANDOM_INIT, (uint64_t)i, (uint64_t)rank, x);
    return (int64_t)(x[0] % 2001) - 1000;
}

static void *alloc(struct ops *ops, const void *host, size_t bytes)
{
    struct bl_error err = {0};
    void *p = NULL;
    assert_ok(ops->alloc(ops, bytes, &p, &err), err);
    ops->copy_in(ops, p, host, bytes);
    return p;
}

static void open_seat(struct world *world, int rank)
{
    struct seat *seat = &world->seats[rank];
    float floats[COUNT];
    int64_t longs[COUNT];
    for (int64_t i = 0; i < world->count; i++) {
        longs[i] = value(rank, i);
        floats[i] = (float)longs[i];
    }
    *seat = (struct seat){.world = world, .rank = rank};
    assert_ok(cuda_open(0, OPS_F32, &seat->ops, &seat->err), seat->err);
    seat->floats = alloc(seat->ops, floats, sizeof floats);
    seat->narrow = alloc(seat->ops, floats, sizeof floats);
    seat->longs = alloc(seat->ops, longs, sizeof longs);
    seat->fixed = alloc(seat->ops, longs, sizeof longs);
    const struct comm_options options = {.rank = rank,
                                         .world = world->size,
                                         .host = "127.0.0.1",
                                         .connect_ms = 60000,
                                         .publish = publish,
                                         .context = world,
                                         .memory = seat->ops->memory,
                                         .collectives = seat->ops->collectives,
                                         .device = seat->ops};
    assert_ok(comm_open(&options, &seat->comm, &seat->err), seat->err);
}

static void close_seat(struct seat *seat)
{
    comm_free(&seat->comm);
    void *const device[] = {seat->floats, seat->narrow, seat->longs, seat->fixed};
    for (int i = 0; i < 4; i++)
        seat->ops->release(seat->ops, device[i]);
    seat->ops->close(seat->ops);
}

static void play_all(struct world *world, void *(*play)(void *))
{
    pthread_t threads[WORLD];
    for (int r = 0; r < world->size; r++)
        open_seat(world, r);
    for (int r = 0; r < world->size; r++)
        assert_int_equal(pthread_create(&threads[r], NULL, play, &world->seats[r]), 0);
    for (int r = 0; r < world->size; r++)
        pthread_join(threads[r], NULL);
}

static void close_all(struct world *world)
{
    for (int r = 0; r < world->size; r++)
        close_seat(&world->seats[r]);
}

static void *play_sums(void *argument)
{
    struct seat *seat = argument;
    const int64_t count = seat->world->count;
    seat->rc = comm_connect(seat->comm, &seat->err);
    if (seat->rc < 0)
        return NULL;
    comm_allreduce(seat->comm, seat->floats, count, COMM_F32);
    comm_allreduce_fixed(seat->comm, seat->narrow, seat->fixed, count);
    comm_allreduce(seat->comm, seat->longs, count, COMM_I64);
    comm_broadcast(seat->comm, seat->longs, 8, seat->world->size - 1);
    seat->rc = comm_wait(seat->comm, &seat->err);
    return NULL;
}

static void every_rank_holds_the_sums(void **state)
{
    static const int64_t counts[] = {1, 64, 193, COUNT};
    for (int size = 1; size <= WORLD; size++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            struct world world = {.size = size, .count = counts[c]};
            play_all(&world, play_sums);
            for (int r = 0; r < size; r++) {
                struct seat *seat = &world.seats[r];
                float floats[COUNT], narrow[COUNT];
                int64_t longs[COUNT];
                assert_ok(seat->rc, seat->err);
                assert_string_equal(comm_name(seat->comm), "nccl");
                seat->ops->copy_out(seat->ops, floats, seat->floats, sizeof floats);
                seat->ops->copy_out(seat->ops, narrow, seat->narrow, sizeof narrow);
                seat->ops->copy_out(seat->ops, longs, seat->longs, sizeof longs);
                for (int64_t i = 0; i < world.count; i++) {
                    int64_t sum = 0;
                    for (int other = 0; other < size; other++)
                        sum += value(other, i);
                    assert_true(floats[i] == (float)sum);
                    assert_true(narrow[i] == (float)((double)sum / COMM_FIXED_SCALE));
                    assert_true(longs[i] == sum);
                }
            }
            close_all(&world);
        }
}

/* The last rank aborts in place of taking part. */
static void *play_one_short(void *argument)
{
    struct seat *seat = argument;
    struct world *world = seat->world;
    seat->rc = comm_connect(seat->comm, &seat->err);
    if (seat->rc < 0)
        return NULL;
    if (seat->rank == world->size - 1)
        for (int r = 0; r < world->size; r++)
            comm_abort(world->seats[r].comm);
    else
        comm_allreduce_fixed(seat->comm, seat->narrow, seat->fixed, world->count);
    seat->rc = comm_wait(seat->comm, &seat->err);
    return NULL;
}

static void an_aborted_collective_fails_on_every_rank(void **state)
{
    for (int times = 0; times < 5; times++) {
        struct world world = {.size = WORLD, .count = COUNT};
        play_all(&world, play_one_short);
        for (int r = 0; r < world.size; r++)
            assert_true(world.seats[r].rc < 0);
        close_all(&world);
    }
}

static int over_nccl(void **state)
{
    return setenv("BLIPREN_COMM", "nccl",
                  1); /* the ranks share a device, where it would not be chosen */
}

UNIT_MAIN(cmocka_unit_test_setup(every_rank_holds_the_sums, over_nccl),
          cmocka_unit_test_setup(an_aborted_collective_fails_on_every_rank, over_nccl))
