/* tests/unit/ops_rows_test.c - moving, repeating and averaging rows; embedding; patches. Inputs are
 * small integers times a power of two, so that sums are exact and the expected bits are known. */
#include "tests/unit/ops.h"

#include "worker/ops/cpu/functions.h"

struct input {
    int64_t S, rows, D;
};

static float *integers(uint64_t seed, int64_t count)
{
    float *x = random_f32(seed, count);
    for (int64_t i = 0; i < count; i++)
        x[i] = floorf(x[i] * 64);
    return x;
}

static void run_moves(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t R = in->S, D = in->D, all = 2 * R + 1;
    float *x = integers(1, all * D);
    int32_t *index = (int32_t *)integers(2, R);
    double *gathered = zeros(R * D), *scattered = doubles(x, all * D);
    for (int64_t r = 0; r < R; r++) {
        index[r] = (int32_t)(2 * (R - r) - r % 2); /* distinct */
        for (int64_t i = 0; i < D; i++) {
            gathered[r * D + i] = x[index[r] * D + i];
            scattered[index[r] * D + i] = x[r * D + i];
        }
    }
    act *from = run_act(run, x, all * D), *to = run_act(run, x, all * D);
    act *y = run_act(run, NULL, R * D);
    int32_t *places = run_bytes(run, index, (size_t)R * sizeof *index);
    ops->gather_rows(ops, y, from, places, R, D);
    run_expect_act(run, "gather", y, gathered, R * D, 0);
    ops->scatter_rows(ops, to, from, places, R, D);
    run_expect_act(run, "scatter", to, scattered, all * D, 0);
    arrays_free();
}

static void run_params(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t S = in->S, rows = in->rows, D = in->D, count = S * rows * D;
    float *x = integers(1, count), *param = integers(2, rows * D);
    double *sum = doubles(param, rows * D), *plus = doubles(x, count), *alone = zeros(count);
    double *mean = zeros(S * D);
    const int64_t first = rows > 1;
    for (int64_t i = 0; i < count; i++) {
        sum[i % (rows * D)] += x[i];
        alone[i] = param[i % (rows * D)];
        plus[i] += alone[i];
        if (i / D % rows >= first)
            mean[i / (rows * D) * D + i % D] += x[i] / (double)(rows - first);
    }
    act *y = run_act(run, NULL, count), *old = run_act(run, x, count);
    float *p = run_f32(run, param, rows * D);
    ops->broadcast_rows(ops, y, p, S, rows, D, false);
    run_expect_act(run, "broadcast", y, alone, count, 0);
    ops->broadcast_rows_backward(ops, p, old, S, rows, D);
    run_expect_f32(run, "d_param", p, sum, rows * D, 0);
    act *m = run_act(run, NULL, S * D);
    ops->mean_rows(ops, m, old, S, rows, first, D);
    run_expect_act(run, "mean", m, mean, S * D, 1);
    ops->broadcast_rows(ops, old, run_f32(run, param, rows * D), S, rows, D, true);
    run_expect_act(run, "broadcast +=", old, plus, count, 0);
    arrays_free();
}

static const struct input shapes[] = {{0, 2, 3},    {1, 1, 1},   {7, 3, 31},
                                      {257, 2, 33}, {5, 64, 65}, {3, 9, 264}};

static void rows_go_where_the_index_says(void **state)
{
    for (int64_t i = 0; i < COUNT(shapes); i++)
        ops_each((struct cpu_options){.precision = OPS_F32}, run_moves, &shapes[i]);
}

static void a_parameter_is_repeated_and_its_gradient_is_the_sum(void **state)
{
    for (int64_t i = 0; i < COUNT(shapes); i++)
        ops_each((struct cpu_options){.precision = OPS_F32}, run_params, &shapes[i]);
}

static void run_embed(struct ops_run *run, const void *input)
{
    enum { V = 37, D_MAX = 40, R = 5 };
    const int D = *(const int *)input;
    static const int32_t ids[R] = {36, 0, 5, 5, 17};
    static const enum bl_dtype dtypes[] = {BL_F32, BL_F16, BL_BF16};
    struct ops *ops = run_ops(run);
    struct bl_error err;
    float *table = random_f32(1, V * D);
    uint16_t half[V * D_MAX];
    double y[R * D_MAX];
    for (int t = 0; t < COUNT(dtypes); t++) {
        for (int i = 0; i < V * D; i++)
            half[i] = dtypes[t] == BL_BF16 ? f32_to_bf16(table[i])
                                           : (uint16_t)(f32_to_bits(table[i]) >> 8 & 0xBBFF);
        for (int i = 0; i < R * D; i++) {
            int at = ids[i / D] * D + i % D;
            y[i] = dtypes[t] == BL_F32    ? table[at]
                   : dtypes[t] == BL_BF16 ? bf16_to_f32(half[at])
                                          : f16_to_f32(half[at]);
            if (ops->precision == OPS_BF16)
                y[i] = bf16_to_f32(f32_to_bf16((float)y[i]));
        }
        struct ops_matrix *w = NULL;
        const void *data = dtypes[t] == BL_F32 ? (const void *)table : half;
        assert_ok(ops->matrix_frozen(ops, &w, data, dtypes[t], V, D, OPS_DATA_STAYS, &err), err);
        act *out = run_act(run, NULL, R * D);
        ops->embed(ops, out, w, run_bytes(run, ids, sizeof ids), R);
        run_expect_act(run, "embedding", out, y, R * D, 0);
        ops->matrix_free(ops, &w);
    }
    arrays_free();
}

static void embeddings_are_rows_of_a_matrix_of_any_form(void **state)
{
    static const int widths[] = {33, 40};
    for (int i = 0; i < 8; i++)
        ops_each((struct cpu_options){.precision = i % 2 ? OPS_BF16 : OPS_F32,
                                      .wide_max = i / 2 % 2 * 1000000,
                                      .form = i % 4 == 3 ? ops_backend().bfp : NULL},
                 run_embed, &widths[i / 4]);
}

static void run_patchify(struct ops_run *run, const void *input)
{
    enum { B = 2, SIZE = 17, PATCH = 5, GRID = SIZE / PATCH, ROW = 3 * PATCH * PATCH };
    static const float scale[3] = {1 / 127.5f, 0.5f, 2}, shift[3] = {-1, 0.25f, 3};
    struct ops *ops = run_ops(run);
    uint8_t pixels[B * SIZE * SIZE * 3];
    double y[B * GRID * GRID * ROW];
    for (int i = 0; i < COUNT(pixels); i++)
        pixels[i] = (uint8_t)(i * 31 + i / 7);
    for (int i = 0; i < COUNT(y); i++) {
        int b = i / (GRID * GRID * ROW), gy = i / ROW / GRID % GRID, gx = i / ROW % GRID;
        int c = i % ROW / (PATCH * PATCH), py = i % ROW / PATCH % PATCH, px = i % PATCH;
        int at = ((b * SIZE + gy * PATCH + py) * SIZE + gx * PATCH + px) * 3 + c;
        y[i] = pixels[at] * (double)scale[c] + shift[c];
    }
    act *out = run_act(run, NULL, COUNT(y));
    ops->patchify(ops, out, run_bytes(run, pixels, sizeof pixels), B, SIZE, PATCH, scale, shift);
    run_expect_act(run, "patches", out, y, COUNT(y), 2);
}

static void patches_lie_channel_first_and_the_remainder_is_left_out(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_patchify, NULL);
}

/* More than is cleared by one thread, and neither whole vectors nor whole pieces of it. */
static void run_zero(struct ops_run *run, const void *input)
{
    enum { BYTES = (17 << 20) + 12345, BEHIND = 64 };
    struct ops *ops = run_ops(run);
    uint8_t *x = malloc(BYTES + BEHIND);
    assert_non_null(x);
    memset(x, 7, BYTES + BEHIND);
    uint8_t *device = run_bytes(run, x, BYTES + BEHIND);
    ops->zero(ops, device, BYTES);
    memset(x, 0, BYTES);
    run_expect_bytes(run, "zero", device, x, BYTES + BEHIND);
    free(x);
}

static void much_memory_is_cleared_to_its_last_byte(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_zero, NULL);
}

UNIT_MAIN(cmocka_unit_test(rows_go_where_the_index_says),
          cmocka_unit_test(much_memory_is_cleared_to_its_last_byte),
          cmocka_unit_test(a_parameter_is_repeated_and_its_gradient_is_the_sum),
          cmocka_unit_test(embeddings_are_rows_of_a_matrix_of_any_form),
          cmocka_unit_test(patches_lie_channel_first_and_the_remainder_is_left_out))
