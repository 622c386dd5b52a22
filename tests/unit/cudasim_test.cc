/* tests/unit/cudasim_test.cc - the host shim is as strict as a GPU: what it would forgive, no test of a
 * kernel would find. */
extern "C" {
#include "tests/unit/unit.h"
}

#include <sys/wait.h>
#include <unistd.h>

#include "worker/ops/cuda/mma.cuh"

/* Runs f in a child without its messages; true if it was aborted. */
template <typename F> static bool aborts(F f)
{
    const pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        f();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

/* y[i] = x of the thread `i + 1`, through shared memory */
static void neighbours(int *y, bool barrier)
{
    CU_SHARED(int, x, [64]);
    const int i = (int)threadIdx.x;
    x[i] = i;
    if (barrier)
        __syncthreads();
    y[i] = x[(i + 1) % 64];
}

static void a_missing_barrier_gives_wrong_results(void **)
{
    int y[64];
    for (int with = 0; with < 2; with++) {
        bool right = true;
        CU_LAUNCH(neighbours, 1, 64, 0, nullptr, y, with == 1);
        for (int i = 0; i < 64; i++)
            right = right && y[i] == (i + 1) % 64;
        assert_int_equal(right, with);
    }
}

static void divergent()
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}

static void exited_lane()
{
    if (threadIdx.x == 7)
        return;
    __shfl_xor_sync(0xFFFFFFFFu, 1, 1);
}

static void half_a_warp()
{
    if (threadIdx.x < 16)
        __syncwarp();
    else
        __syncthreads();
}

static void waits_that_a_gpu_leaves_undefined_end_the_process(void **)
{
    assert_true(aborts([] { CU_LAUNCH(divergent, 1, 64, 0, nullptr); }));
    assert_true(aborts([] { CU_LAUNCH(exited_lane, 1, 32, 0, nullptr); }));
    assert_true(aborts([] { CU_LAUNCH(half_a_warp, 1, 32, 0, nullptr); }));
    assert_true(aborts([] { CU_LAUNCH(divergent, 1, 2048, 0, nullptr); }));
    assert_false(aborts([] {
        int y[64];
        CU_LAUNCH(neighbours, 1, 64, 0, nullptr, y, true);
    }));
}

/* seen (3): shared memory as it begins, a copy before and after it was waited for */
static void copy_four(uint32_t *seen, const uint32_t *from)
{
    CU_SHARED(uint32_t, to, [4]);
    seen[0] = to[0];
    to[0] = 5;
    copy_async(to, from, true);
    copy_commit();
    seen[1] = to[0];
    copy_wait();
    seen[2] = to[3];
}

static void shared_memory_begins_as_rubbish_and_copies_arrive_when_waited_for(void **)
{
    alignas(16) const uint32_t from[4] = {1, 2, 3, 4};
    uint32_t seen[3];
    CU_LAUNCH(copy_four, 1, 1, 0, nullptr, seen, from);
    assert_int_equal(seen[0], 0xCDCDCDCD);
    assert_int_equal(seen[1], 0xCDCDCDCD);
    assert_int_equal(seen[2], 4);
}

/* c (16,8) = a (16,16) b: b (16,8) as it lies, or b (8,16) turned */
static void product(float *c, const bf16 *a, const bf16 *b, bool turned)
{
    CU_SHARED(bf16, tile, [16][16]);
    CU_SHARED(bf16, other, [16][16]);
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += 32)
        tile[i / 16][i % 16] = a[i];
    for (int i = lane; i < 128; i += 32)
        other[turned ? i / 16 : i / 8][turned ? i % 16 : i % 8] = b[i];
    __syncwarp();
    uint32_t x[4], y[4];
    float sum[4] = {};
    load_matrices(x, &tile[lane % 16][lane / 16 * 8]);
    if (turned)
        load_matrices(y, &other[lane % 8][lane / 8 % 2 * 8]);
    else
        load_matrices_turned(y, &other[lane % 16][0]);
    multiply_add(sum, x, y[0], y[1]);
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

static void fragments_of_matrices_multiply_as_the_matrices_do(void **)
{
    bf16 a[256], b[128];
    for (int i = 0; i < 256; i++)
        a[i] = from_f32<bf16>((float)(i * 7 % 13 - 6));
    for (int i = 0; i < 128; i++)
        b[i] = from_f32<bf16>((float)(i * 5 % 11 - 5));
    for (int turned = 0; turned < 2; turned++) {
        float c[128];
        CU_LAUNCH(product, 1, 32, 0, nullptr, c, a, b, turned == 1);
        for (int i = 0; i < 128; i++) {
            float sum = 0;
            for (int k = 0; k < 16; k++)
                sum +=
                    to_f32(a[i / 8 * 16 + k]) * to_f32(b[turned ? i % 8 * 16 + k : k * 8 + i % 8]);
            assert_true(c[i] == sum);
        }
    }
}

UNIT_MAIN(cmocka_unit_test(a_missing_barrier_gives_wrong_results),
          cmocka_unit_test(waits_that_a_gpu_leaves_undefined_end_the_process),
          cmocka_unit_test(shared_memory_begins_as_rubbish_and_copies_arrive_when_waited_for),
          cmocka_unit_test(fragments_of_matrices_multiply_as_the_matrices_do))
