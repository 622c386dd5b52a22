/* tests/unit/gpu_recording_test.c - recordings of operations (ops.h) on the device that BLIPREN_OPS names, or else cuda:0. */
#include "tests/unit/gpu.h"

enum { COUNT = 1000, BYTES = COUNT * sizeof(float) };

struct world {
    struct ops *ops;
    float *x, *y; /* (COUNT) on the device */
    void *spare;
    int rc; /* of what a recording asks for */
};

static void *device_memory(struct ops *ops)
{
    void *p;
    struct bl_error err;
    assert_ok(ops->alloc(ops, BYTES, &p, &err), err);
    return p;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->ops = gpu_open(OPS_F32);
    w->x = device_memory(w->ops);
    w->y = device_memory(w->ops);
    w->spare = device_memory(w->ops);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    w->ops->release(w->ops, w->x);
    w->ops->release(w->ops, w->y);
    w->ops->release(w->ops, w->spare);
    ops_free(&w->ops);
    free(w);
    return 0;
}

/* y = x + x */
static int queue_sum(void *context, struct bl_error *err)
{
    struct world *w = context;
    w->ops->add(w->ops, (act *)w->y, (const act *)w->x, (const act *)w->x, COUNT);
    return 0;
}

static int queue_memory(void *context, struct bl_error *err)
{
    struct world *w = context;
    void *p;
    queue_sum(w, err);
    w->rc = w->ops->alloc(w->ops, BYTES, &p, err);
    return w->rc;
}

static void fill(struct world *w, float value)
{
    float host[COUNT];
    for (int i = 0; i < COUNT; i++)
        host[i] = value + (float)i;
    w->ops->copy_in(w->ops, w->x, host, BYTES);
}

static void assert_sum_of(struct world *w, float value)
{
    float host[COUNT];
    struct bl_error err;
    w->ops->copy_out(w->ops, host, w->y, BYTES);
    assert_ok(w->ops->sync(w->ops, &err), err);
    for (int i = 0; i < COUNT; i++)
        assert_float_equal(host[i], 2 * (value + (float)i), 0);
}

static struct ops_recording *recorded_sum(struct world *w)
{
    struct ops_recording *recording;
    struct bl_error err;
    assert_ok(w->ops->record(w->ops, &recording, queue_sum, w, &err), err);
    return recording;
}

static void a_recording_computes_from_what_arrays_hold_when_it_is_replayed(void **state)
{
    struct world *w = *state;
    fill(w, 1);
    queue_sum(w, NULL);
    fill(w, 100);
    struct ops_recording *recording = recorded_sum(w);
    assert_sum_of(w, 1); /* to record is not to run */
    for (int i = 0; i < 5; i++) {
        fill(w, (float)(10 * i));
        assert_true(w->ops->replay(w->ops, recording));
        assert_sum_of(w, (float)(10 * i));
    }
    w->ops->recording_free(w->ops, &recording);
    assert_null(recording);
}

static void once_memory_is_released_no_earlier_recording_is_replayed(void **state)
{
    struct world *w = *state;
    fill(w, 1);
    queue_sum(w, NULL);
    struct ops_recording *before = recorded_sum(w);
    w->ops->release(w->ops, w->spare);
    w->spare = NULL;
    fill(w, 5);
    assert_false(w->ops->replay(w->ops, before));
    assert_sum_of(w, 1); /* nothing was queued */
    struct ops_recording *after = recorded_sum(w);
    assert_true(w->ops->replay(w->ops, after));
    assert_sum_of(w, 5);
    w->ops->recording_free(w->ops, &before);
    w->ops->recording_free(w->ops, &after);
}

static void a_recording_that_asks_for_memory_fails_and_the_device_goes_on(void **state)
{
    struct world *w = *state;
    struct ops_recording *recording = NULL;
    struct bl_error err = {0};
    fill(w, 3);
    queue_sum(w, NULL);
    assert_true(w->ops->record(w->ops, &recording, queue_memory, w, &err) < 0);
    assert_true(w->rc < 0);
    assert_null(recording);
    assert_non_null(strstr(err.text, "recording"));
    fill(w, 4);
    queue_sum(w, NULL);
    assert_sum_of(w, 4);
}

UNIT_MAIN(
    cmocka_unit_test_setup_teardown(a_recording_computes_from_what_arrays_hold_when_it_is_replayed,
                                    setup, teardown),
    cmocka_unit_test_setup_teardown(once_memory_is_released_no_earlier_recording_is_replayed, setup,
                                    teardown),
    cmocka_unit_test_setup_teardown(a_recording_that_asks_for_memory_fails_and_the_device_goes_on,
                                    setup, teardown))
