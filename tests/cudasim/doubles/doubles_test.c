/* tests/cudasim/doubles/doubles_test.c - the doubles are as unforgiving as a device: what they would let pass, no
 * test of the CUDA backend would find. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cuda_runtime_api.h>

enum { COUNT = 1024, BYTES = COUNT * sizeof(int), TRIES = 200 };

struct rig {
    cudaStream_t stream, other;
    cudaEvent_t event;
    int *device, *more, *pinned;
};

static int open_rig(void **state)
{
    static struct rig rig;
    cudaStreamCreateWithPriority(&rig.stream, cudaStreamNonBlocking, 0);
    cudaStreamCreateWithPriority(&rig.other, cudaStreamNonBlocking, 0);
    cudaEventCreateWithFlags(&rig.event, cudaEventDisableTiming);
    cudaMalloc((void **)&rig.device, BYTES);
    cudaMalloc((void **)&rig.more, BYTES);
    cudaMallocHost((void **)&rig.pinned, BYTES);
    *state = &rig;
    return 0;
}

static int close_rig(void **state)
{
    struct rig *rig = *state;
    cudaStreamDestroy(rig->stream);
    cudaStreamDestroy(rig->other);
    cudaEventDestroy(rig->event);
    cudaFree(rig->device);
    cudaFree(rig->more);
    cudaFreeHost(rig->pinned);
    return 0;
}

/* Runs f in a child without its messages; true if that ended it. */
static bool dies_of(void (*f)(struct rig *), struct rig *rig)
{
    const pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        signal(SIGSEGV, SIG_DFL); /* cmocka's */
        signal(SIGABRT, SIG_DFL);
        f(rig);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status);
}

static void read_device(struct rig *rig)
{
    *(volatile int *)rig->device;
}

static void write_device(struct rig *rig)
{
    *(volatile int *)rig->device = 1;
}

static void release_too_early(struct rig *rig)
{
    for (int i = 0; i < TRIES; i++) {
        int *pinned;
        cudaMallocHost((void **)&pinned, BYTES);
        cudaMemcpyAsync(rig->device, pinned, BYTES, cudaMemcpyHostToDevice, rig->stream);
        cudaFreeHost(pinned);
    }
}

static void say_the_wrong_direction(struct rig *rig)
{
    cudaMemcpyAsync(rig->device, rig->pinned, BYTES, cudaMemcpyDeviceToHost, rig->stream);
}

static void the_host_may_not_touch_device_memory(void **state)
{
    assert_true(dies_of(read_device, *state));
    assert_true(dies_of(write_device, *state));
    assert_true(dies_of(say_the_wrong_direction, *state));
    assert_true(dies_of(release_too_early, *state));
}

static void pageable_memory_is_read_at_the_call_and_pinned_memory_later(void **state)
{
    struct rig *rig = *state;
    int stale = 0, right = 0;
    for (int i = 0; i < TRIES; i++) {
        int pageable[COUNT], back[COUNT];
        pageable[0] = i;
        cudaMemcpyAsync(rig->device, pageable, BYTES, cudaMemcpyHostToDevice, rig->stream);
        pageable[0] = -1;
        cudaMemcpyAsync(back, rig->device, BYTES, cudaMemcpyDeviceToHost, rig->stream);
        right += back[0] == i; /* it has arrived: pageable copies wait */
        rig->pinned[0] = i;
        cudaMemcpyAsync(rig->device, rig->pinned, BYTES, cudaMemcpyHostToDevice, rig->stream);
        rig->pinned[0] = -1;
        cudaMemcpyAsync(back, rig->device, BYTES, cudaMemcpyDeviceToHost, rig->stream);
        stale += back[0] == -1;
    }
    assert_int_equal(right, TRIES);
    assert_true(stale > TRIES / 2);
}

static void streams_know_of_each_other_by_events_alone(void **state)
{
    struct rig *rig = *state;
    int wrong[2] = {0, 0};
    for (int with = 0; with < 2; with++)
        for (int i = 0; i < TRIES; i++) {
            int source[COUNT], back[COUNT];
            source[0] = i;
            cudaMemsetAsync(rig->more, 0xFF, BYTES, rig->other);
            cudaStreamSynchronize(rig->other);
            cudaMemcpyAsync(rig->device, source, BYTES, cudaMemcpyHostToDevice, rig->stream);
            cudaEventRecord(rig->event, rig->stream);
            if (with)
                cudaStreamWaitEvent(rig->other, rig->event, 0);
            cudaMemcpyAsync(rig->more, rig->device, BYTES, cudaMemcpyDeviceToDevice, rig->other);
            cudaMemcpyAsync(back, rig->more, BYTES, cudaMemcpyDeviceToHost, rig->other);
            wrong[with] += back[0] != i;
            cudaStreamSynchronize(rig->stream);
        }
    assert_true(wrong[0] > TRIES / 10);
    assert_int_equal(wrong[1], 0);
}

static void an_event_is_done_when_the_device_got_there(void **state)
{
    struct rig *rig = *state;
    int early = 0;
    assert_int_equal(cudaEventQuery(rig->event), cudaSuccess); /* never recorded */
    for (int i = 0; i < TRIES; i++) {
        cudaMemsetAsync(rig->device, 0, BYTES, rig->stream);
        cudaEventRecord(rig->event, rig->stream);
        early += cudaEventQuery(rig->event) == cudaErrorNotReady;
        while (cudaEventQuery(rig->event) == cudaErrorNotReady) {
        }
        assert_int_equal(cudaEventSynchronize(rig->event), cudaSuccess);
    }
    assert_true(early > TRIES / 4);
}

/* -- graphs -- */

static cudaGraphExec_t instantiate(cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t made;
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    assert_int_equal(cudaGraphInstantiate(&made, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    return made;
}

/* The first number of device memory, by way of the stream. */
static int first_of(const int *device, cudaStream_t stream)
{
    int back[COUNT];
    cudaMemcpyAsync(back, device, BYTES, cudaMemcpyDeviceToHost, stream);
    return back[0];
}

static cudaGraphExec_t copies_from_pinned(struct rig *rig)
{
    cudaStreamBeginCapture(rig->stream, cudaStreamCaptureModeThreadLocal);
    cudaMemcpyAsync(rig->device, rig->pinned, BYTES, cudaMemcpyHostToDevice, rig->stream);
    cudaMemcpyAsync(rig->more, rig->device, BYTES, cudaMemcpyDeviceToDevice, rig->stream);
    return instantiate(rig->stream);
}

static void what_is_captured_runs_at_each_launch_with_what_memory_holds_then(void **state)
{
    struct rig *rig = *state;
    cudaMemsetAsync(rig->more, 0, BYTES, rig->stream);
    rig->pinned[0] = -1;
    cudaGraphExec_t graph = copies_from_pinned(rig);
    assert_int_equal(first_of(rig->more, rig->stream), 0);
    int late = 0;
    for (int i = 1; i <= TRIES; i++) {
        rig->pinned[0] = i;
        assert_int_equal(cudaGraphLaunch(graph, rig->stream), cudaSuccess);
        rig->pinned[0] = -i;
        const int found = first_of(rig->more, rig->stream);
        assert_true(found == i || found == -i);
        late += found == -i;
    }
    assert_true(late > TRIES / 4); /* a launch waits for nothing */
    assert_int_equal(cudaGraphExecDestroy(graph), cudaSuccess);
}

static cudaError_t synchronise(struct rig *rig)
{
    return cudaStreamSynchronize(rig->stream);
}

static cudaError_t synchronise_another(struct rig *rig)
{
    return cudaStreamSynchronize(rig->other);
}

static cudaError_t allocate(struct rig *rig)
{
    void *p;
    return cudaMalloc(&p, BYTES);
}

static cudaError_t release(struct rig *rig)
{
    return cudaFree(rig->more);
}

static cudaError_t allocate_pinned(struct rig *rig)
{
    void *p;
    return cudaMallocHost(&p, BYTES);
}

static cudaError_t release_pinned(struct rig *rig)
{
    return cudaFreeHost(rig->pinned);
}

static cudaError_t record_event(struct rig *rig)
{
    return cudaEventRecord(rig->event, rig->stream);
}

static cudaError_t wait_for_event(struct rig *rig)
{
    return cudaStreamWaitEvent(rig->stream, rig->event, 0);
}

static cudaError_t ask_event(struct rig *rig)
{
    return cudaEventQuery(rig->event);
}

static cudaError_t synchronise_event(struct rig *rig)
{
    return cudaEventSynchronize(rig->event);
}

static cudaError_t copy_from_pageable(struct rig *rig)
{
    static int pageable[COUNT];
    return cudaMemcpyAsync(rig->device, pageable, BYTES, cudaMemcpyHostToDevice, rig->stream);
}

static cudaError_t copy_to_pageable(struct rig *rig)
{
    static int pageable[COUNT];
    return cudaMemcpyAsync(pageable, rig->device, BYTES, cudaMemcpyDeviceToHost, rig->stream);
}

static void what_a_capture_forbids_fails_and_makes_it_invalid(void **state)
{
    static cudaError_t (*const forbidden[])(struct rig *) = {
        synchronise,     synchronise_another, allocate,           release,
        allocate_pinned, release_pinned,      record_event,       wait_for_event,
        ask_event,       synchronise_event,   copy_from_pageable, copy_to_pageable};
    struct rig *rig = *state;
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
        cudaGraph_t graph;
        cudaStreamBeginCapture(rig->stream, cudaStreamCaptureModeThreadLocal);
        assert_int_equal(cudaMemsetAsync(rig->device, 0, BYTES, rig->stream), cudaSuccess);
        assert_int_equal(forbidden[i](rig), cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaGetLastError(), cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaMemsetAsync(rig->device, 0, BYTES, rig->stream),
                         cudaErrorStreamCaptureInvalidated);
        assert_int_equal(cudaStreamEndCapture(rig->stream, &graph),
                         cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
        assert_int_equal(cudaGetLastError(), cudaErrorStreamCaptureInvalidated);
        assert_int_equal(cudaStreamSynchronize(rig->stream), cudaSuccess); /* it is over */
    }
}

static void launch_after_a_release(struct rig *rig)
{
    cudaGraphExec_t graph = copies_from_pinned(rig);
    cudaFree(rig->more);
    cudaGraphLaunch(graph, rig->stream);
}

static void launch_after_a_release_of_pinned_memory(struct rig *rig)
{
    cudaGraphExec_t graph = copies_from_pinned(rig);
    cudaFreeHost(rig->pinned);
    cudaGraphLaunch(graph, rig->stream);
}

static void destroy_what_runs(struct rig *rig)
{
    cudaGraphExec_t graph = copies_from_pinned(rig);
    for (int i = 0; i < TRIES; i++)
        cudaGraphLaunch(graph, rig->stream);
    cudaGraphExecDestroy(graph);
}

static void launch_and_release_what_came_later(struct rig *rig)
{
    void *later;
    cudaGraphExec_t graph = copies_from_pinned(rig);
    cudaMalloc(&later, BYTES);
    cudaFree(later);
    cudaGraphLaunch(graph, rig->stream);
    cudaStreamSynchronize(rig->stream);
    cudaGraphExecDestroy(graph);
}

static void a_graph_may_not_outlive_its_memory_nor_end_while_it_runs(void **state)
{
    assert_true(dies_of(launch_after_a_release, *state));
    assert_true(dies_of(launch_after_a_release_of_pinned_memory, *state));
    assert_true(dies_of(destroy_what_runs, *state));
    assert_false(dies_of(launch_and_release_what_came_later, *state));
}

UNIT_MAIN(
    cmocka_unit_test_setup_teardown(the_host_may_not_touch_device_memory, open_rig, close_rig),
    cmocka_unit_test_setup_teardown(pageable_memory_is_read_at_the_call_and_pinned_memory_later,
                                    open_rig, close_rig),
    cmocka_unit_test_setup_teardown(streams_know_of_each_other_by_events_alone, open_rig,
                                    close_rig),
    cmocka_unit_test_setup_teardown(an_event_is_done_when_the_device_got_there, open_rig,
                                    close_rig),
    cmocka_unit_test_setup_teardown(
        what_is_captured_runs_at_each_launch_with_what_memory_holds_then, open_rig, close_rig),
    cmocka_unit_test_setup_teardown(what_a_capture_forbids_fails_and_makes_it_invalid, open_rig,
                                    close_rig),
    cmocka_unit_test_setup_teardown(a_graph_may_not_outlive_its_memory_nor_end_while_it_runs,
                                    open_rig, close_rig))
