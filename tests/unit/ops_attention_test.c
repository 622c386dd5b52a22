/* tests/unit/ops_attention_test.c - ragged attention against its formula in double: grouped heads,
 * causal offset, dropout, gradients, RoPE. */
#include "tests/unit/ops.h"

enum { SEQUENCES_MAX = 4 };

struct shape {
    int64_t S, heads, kv_heads, head_dim;
    int32_t q_len[SEQUENCES_MAX], k_len[SEQUENCES_MAX];
    bool causal;
    float dropout;
};

struct input {
    struct shape shape;
    int32_t q_start[SEQUENCES_MAX], k_start[SEQUENCES_MAX];
    int64_t q_rows, k_rows, q_len_max, k_len_max;
    int64_t ld_q, ld_kv, ld_out; /* wider than the heads: the rows lie packed among others */
    float scale;
    const float *q, *k, *v, *d_out;
    double *out, *lse, *probs, *d;  /* expected; d = d_q, d_k, d_v */
    const struct panels_form *form; /* NULL, or how long sequences are multiplied */
};

static const int32_t positions[SEQUENCES_MAX] = {5, 0, 77, 123456};
static const uint64_t seed = 0x123456789ABCDEF;
enum { STEP = 3, SITE = 17 };

static double dropout_factor(float p, int64_t s, uint64_t element)
{
    uint32_t words[4];
    bl_draw(seed, BL_RANDOM_DROPOUT, element / 4 | (uint64_t)SITE << 32,
            (uint32_t)positions[s] | (uint64_t)STEP << 32, words);
    return bl_unit_f32(words[element % 4]) >= p ? 1 / (1 - (double)p) : 0;
}

/* x = (q, k, v) -> out, all with their strides */
static void reference(const void *input, const double *x, double *y)
{
    const struct input *in = input;
    const struct shape *a = &in->shape;
    const double *k = x + in->q_rows * in->ld_q, *v = k + in->k_rows * in->ld_kv;
    const int64_t d = a->head_dim;
    memset(in->probs, 0, (size_t)(a->S * in->q_len_max * in->k_len_max) * sizeof *in->probs);
    for (int64_t s = 0; s < a->S; s++)
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < a->q_len[s]; i++) {
                const int64_t row = in->q_start[s] + i, kv = h / (a->heads / a->kv_heads) * d;
                double p[512], sum = 0, *o = y + row * in->ld_out + h * d;
                int64_t count = a->k_len[s];
                if (a->causal)
                    count = bl_max(0, i + 1 + a->k_len[s] - a->q_len[s]);
                for (int64_t j = 0; j < count; j++) {
                    p[j] = 0;
                    for (int64_t c = 0; c < d; c++)
                        p[j] += x[row * in->ld_q + h * d + c] *
                                k[(in->k_start[s] + j) * in->ld_kv + kv + c];
                    p[j] = exp(p[j] * in->scale);
                    sum += p[j];
                }
                in->lse[row * a->heads + h] = log(sum);
                for (int64_t c = 0; c < d; c++)
                    o[c] = 0;
                for (int64_t j = 0; j < count; j++) {
                    uint64_t element = (uint64_t)((h * a->q_len[s] + i) * a->k_len[s] + j);
                    in->probs[(s * in->q_len_max + i) * in->k_len_max + j] +=
                        p[j] / sum / (double)a->heads;
                    p[j] *= (a->dropout > 0 ? dropout_factor(a->dropout, s, element) : 1) / sum;
                    for (int64_t c = 0; c < d; c++)
                        o[c] += p[j] * v[(in->k_start[s] + j) * in->ld_kv + kv + c];
                }
            }
}

/* One query of a head: adds to in->d. p and d_p have room for its `count` keys. */
static void query_gradient(const struct input *in, const double *x, int64_t s, int64_t h, int64_t i,
                           int64_t count, double *p, double *d_p)
{
    const struct shape *a = &in->shape;
    const int64_t d = a->head_dim, row = in->q_start[s] + i;
    const int64_t q = row * in->ld_q + h * d, k_0 = in->q_rows * in->ld_q;
    const int64_t v_0 = in->k_rows * in->ld_kv;
    const float *d_out = in->d_out + row * in->ld_out + h * d;
    double dot = 0;
    for (int64_t j = 0; j < count; j++) {
        const int64_t k = k_0 + (in->k_start[s] + j) * in->ld_kv + h / (a->heads / a->kv_heads) * d;
        const uint64_t element = (uint64_t)((h * a->q_len[s] + i) * a->k_len[s] + j);
        const double factor = a->dropout > 0 ? dropout_factor(a->dropout, s, element) : 1;
        double score = 0;
        d_p[j] = 0;
        for (int64_t c = 0; c < d; c++) {
            score += x[q + c] * x[k + c];
            d_p[j] += factor * d_out[c] * x[k + v_0 + c];
        }
        p[j] = exp(score * in->scale - in->lse[row * a->heads + h]);
        dot += p[j] * d_p[j];
        for (int64_t c = 0; c < d; c++)
            in->d[k + v_0 + c] += factor * p[j] * d_out[c];
    }
    for (int64_t j = 0; j < count; j++) {
        const int64_t k = k_0 + (in->k_start[s] + j) * in->ld_kv + h / (a->heads / a->kv_heads) * d;
        const double d_s = p[j] * (d_p[j] - dot) * in->scale;
        for (int64_t c = 0; c < d; c++) {
            in->d[q + c] += d_s * x[k + c];
            in->d[k + c] += d_s * x[q + c];
        }
    }
}

/* in->d by the formula of worker/ops/cpu/attention.c, after `reference`: quicker than by differences,
 * which the small cases have shown to be the same. */
static void gradient(const struct input *in, const double *x)
{
    const struct shape *a = &in->shape;
    double p[512], d_p[512];
    for (int64_t s = 0; s < a->S; s++)
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < a->q_len[s]; i++) {
                int64_t count = a->k_len[s];
                if (a->causal)
                    count = bl_max(0, i + 1 + a->k_len[s] - a->q_len[s]);
                query_gradient(in, x, s, h, i, count, p, d_p);
            }
}

/* The device's arrays of a case. */
struct arrays {
    struct ops_dropout dropout;
    struct ops_attention a;
    act *q, *k, *v;
};

static struct arrays arrays_of(struct ops_run *run, const struct input *in)
{
    const struct shape *shape = &in->shape;
    const size_t ints = (size_t)shape->S * sizeof(int32_t);
    const int64_t k_count = in->k_rows * in->ld_kv;
    return (struct arrays){.dropout = {.p = shape->dropout,
                                       .seed = seed,
                                       .step = STEP,
                                       .site = SITE,
                                       .positions = run_bytes(run, positions, sizeof positions)},
                           .a = {.S = shape->S,
                                 .heads = shape->heads,
                                 .kv_heads = shape->kv_heads,
                                 .head_dim = shape->head_dim,
                                 .q_start = run_bytes(run, in->q_start, ints),
                                 .q_len = run_bytes(run, shape->q_len, ints),
                                 .k_start = run_bytes(run, in->k_start, ints),
                                 .k_len = run_bytes(run, shape->k_len, ints),
                                 .q_len_max = in->q_len_max,
                                 .k_len_max = in->k_len_max,
                                 .scale = in->scale,
                                 .causal = shape->causal},
                           .q = run_act(run, in->q, in->q_rows * in->ld_q),
                           .k = run_act(run, in->k, k_count),
                           .v = run_act(run, in->v, k_count)};
}

static void run(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t q_count = in->q_rows * in->ld_q, k_count = in->k_rows * in->ld_kv;
    const int64_t out_count = in->q_rows * in->ld_out, saved_count = in->q_rows * in->shape.heads;
    struct arrays x = arrays_of(run, in);
    struct ops_attention a = x.a;
    act *q = x.q, *k = x.k, *v = x.v;
    a.dropout = &x.dropout;
    act *out = run_act(run, in->d_out, out_count);
    float *saved = run_f32(run, NULL, saved_count);
    ops->attention_forward(ops, out, in->ld_out, saved, q, in->ld_q, k, in->ld_kv, v, in->ld_kv,
                           &a);
    run_expect_act(run, "out", out, in->out, out_count, 32);
    run_expect_f32(run, "saved", saved, in->lse, saved_count, 16);

    /* What stands beside the heads and in rows of no sequence stays as it was. */
    act *d_q = run_act(run, in->q, q_count), *d_k = run_act(run, in->k, k_count);
    act *d_v = run_act(run, in->v, k_count), *d_out = run_act(run, in->d_out, out_count);
    ops->attention_backward(ops, d_q, d_k, d_v, d_out, out, in->ld_out, saved, q, in->ld_q, k,
                            in->ld_kv, v, in->ld_kv, &a);
    run_expect_act(run, "d_q", d_q, in->d, q_count, 64);
    run_expect_act(run, "d_k", d_k, in->d + q_count, k_count, 64);
    run_expect_act(run, "d_v", d_v, in->d + q_count + k_count, k_count, 64);

    const int64_t probs_count = a.S * a.q_len_max * a.k_len_max;
    float *probs = run_f32(run, NULL, probs_count);
    ops->attention_probs(ops, probs, q, in->ld_q, k, in->ld_kv, &a);
    run_expect_f32(run, "probs", probs, in->probs, probs_count, 16);

    act *again = run_act(run, in->d_out, out_count);
    ops->attention_forward(ops, again, in->ld_out, NULL, q, in->ld_q, k, in->ld_kv, v, in->ld_kv,
                           &a);
    run_expect_act(run, "out alone", again, in->out, out_count, 32);
}

/* Without anything saved for gradients, where products may be by panels. */
static void run_alone(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t count = in->q_rows * in->ld_out;
    struct arrays x = arrays_of(run, in);
    act *out = run_act(run, in->d_out, count);
    ops->attention_forward(ops, out, in->ld_out, NULL, x.q, in->ld_q, x.k, in->ld_kv, x.v,
                           in->ld_kv, &x.a);
    /* by what is multiplied: integers of 12 bits, bf16, or f32 */
    const struct ops_backend backend = ops_backend();
    const double error = in->form == backend.bfp   ? 0x1p-11
                         : in->form == backend.amx ? 0x1p-7
                                                   : 0x1p-20;
    run_expect_act(run, "out", out, in->out, count, error / 0x1p-23);
}

/* Rows belong to no sequence between and after the sequences; two columns beside the heads. */
static int64_t place(const int32_t *lengths, int64_t S, int32_t *starts, int64_t *longest)
{
    int32_t row = 0;
    *longest = 1;
    for (int64_t s = 0; s < S; s++) {
        starts[s] = row;
        row += lengths[s] + (int32_t)s;
        *longest = bl_max(*longest, lengths[s]);
    }
    return row + 1;
}

static bool in_sequence(const int32_t *lengths, const int32_t *starts, int64_t S, int64_t row)
{
    for (int64_t s = 0; s < S; s++)
        if (row >= starts[s] && row < starts[s] + lengths[s])
            return true;
    return false;
}

/* Outside of the heads of a sequence's rows the expected value is what was there. */
static void keep_outside(double *expected, const float *before, int64_t rows, int64_t ld,
                         int64_t width, const int32_t *lengths, const int32_t *starts, int64_t S)
{
    for (int64_t i = 0; i < rows * ld; i++)
        if (i % ld >= width || !in_sequence(lengths, starts, S, i / ld))
            expected[i] = before[i];
}

/* spare: columns beside the heads in rows of q, of k and v, of out. stride 0: gradients by the formula.
 */
static struct input make_input(struct shape shape, int64_t stride, const int64_t spare[3])
{
    struct input in = {.shape = shape, .scale = 1 / sqrtf((float)shape.head_dim)};
    const int64_t S = shape.S, q_width = shape.heads * shape.head_dim;
    const int64_t kv_width = shape.kv_heads * shape.head_dim;
    in.q_rows = place(shape.q_len, S, in.q_start, &in.q_len_max);
    in.k_rows = place(shape.k_len, S, in.k_start, &in.k_len_max);
    in.ld_q = q_width + spare[0];
    in.ld_kv = kv_width + spare[1];
    in.ld_out = q_width + spare[2];
    const int64_t q_count = in.q_rows * in.ld_q, k_count = in.k_rows * in.ld_kv;
    const int64_t out_count = in.q_rows * in.ld_out, all = q_count + 2 * k_count;
    in.q = random_f32(1, q_count);
    in.k = random_f32(2, k_count);
    in.v = random_f32(3, k_count);
    in.d_out = random_f32(4, out_count);
    in.probs = zeros(S * in.q_len_max * in.k_len_max);
    in.lse = zeros(in.q_rows * shape.heads);
    for (int64_t i = 0; i < in.q_rows * shape.heads; i++)
        in.lse[i] = NAN;
    in.out = zeros(out_count);
    in.d = zeros(all);
    const double *x = concat(3, in.q, q_count, in.k, k_count, in.v, k_count);
    double *weight = doubles(in.d_out, out_count);
    if (stride > 0)
        central_differences(in.d, reference, &in, x, all, weight, out_count, stride);
    reference(&in, x, in.out);
    if (stride == 0)
        gradient(&in, x);
    keep_outside(in.out, in.d_out, in.q_rows, in.ld_out, q_width, shape.q_len, in.q_start, S);
    keep_outside(in.d, in.q, in.q_rows, in.ld_q, q_width, shape.q_len, in.q_start, S);
    keep_outside(in.d + q_count, in.k, in.k_rows, in.ld_kv, kv_width, shape.k_len, in.k_start, S);
    keep_outside(in.d + q_count + k_count, in.v, in.k_rows, in.ld_kv, kv_width, shape.k_len,
                 in.k_start, S);
    return in;
}

static void check_rows(struct shape shape, int64_t stride, const int64_t spare[3])
{
    struct input in = make_input(shape, stride, spare);
    ops_each((struct cpu_options){.precision = OPS_F32}, run, &in);
    arrays_free();
}

static void check(struct shape shape, int64_t stride)
{
    check_rows(shape, stride, (const int64_t[]){2, 2, 1});
}

/* Rows at multiples of 8 elements, as GPUs like them. */
static void check_even(struct shape shape)
{
    check_rows(shape, 0, (const int64_t[]){16, 8, 8});
}

static void attention_and_its_gradients_follow_the_formula(void **state)
{
    /* one row, no rows, odd heads */
    check((struct shape){1, 1, 1, 1, {1}, {1}, false, 0}, 1);
    check((struct shape){0, 1, 1, 4, {0}, {0}, false, 0}, 1);
    check((struct shape){3, 2, 2, 5, {3, 0, 7}, {4, 3, 5}, false, 0}, 1);
    /* grouped queries, causal, with a cache of earlier keys, and queries that see no key */
    check((struct shape){2, 4, 2, 3, {5, 6}, {5, 6}, true, 0}, 1);
    check((struct shape){3, 3, 1, 8, {1, 4, 5}, {9, 4, 3}, true, 0}, 1);
    /* longer than a block of queries */
    check((struct shape){2, 1, 1, 16, {70, 12}, {33, 80}, false, 0}, 7);
    check((struct shape){1, 2, 1, 4, {150}, {150}, true, 0}, 7);
    check((struct shape){1, 1, 1, 72, {9}, {20}, false, 0}, 7);
    check((struct shape){2, 2, 1, 5, {3, 7}, {4, 5}, true, 0}, 0);
}

/* Heads of the usual sizes, of which whole tiles are computed at a time. */
static void heads_of_every_size_follow_the_formula_where_rows_are_even(void **state)
{
    check_even((struct shape){1, 1, 1, 8, {1}, {1}, false, 0});
    check_even((struct shape){3, 2, 1, 16, {3, 0, 17}, {9, 5, 65}, false, 0});
    check_even((struct shape){2, 4, 2, 64, {65, 7}, {65, 129}, true, 0});
    check_even((struct shape){2, 2, 2, 72, {67, 1}, {131, 64}, false, 0});
    check_even((struct shape){2, 1, 1, 80, {64, 9}, {63, 4}, true, 0});
    check_even((struct shape){1, 2, 1, 128, {33}, {150}, false, 0});
    check_even((struct shape){1, 2, 2, 256, {32}, {70}, false, 0.1f});
    check_even((struct shape){2, 2, 1, 32, {37, 4}, {37, 66}, true, 0.2f});
}

static void dropout_on_the_probabilities_is_a_function_of_the_sample(void **state)
{
    check((struct shape){3, 2, 1, 5, {3, 1, 7}, {4, 3, 5}, false, 0.25f}, 1);
    check((struct shape){2, 2, 2, 4, {67, 5}, {41, 7}, false, 0.1f}, 5);
    check((struct shape){1, 2, 1, 4, {70}, {90}, true, 0.5f}, 5);
    check((struct shape){1, 2, 1, 4, {70}, {90}, true, 0.5f}, 0);
}

static void long_sequences_may_be_multiplied_by_panels(void **state)
{
    static const struct shape shapes[] = {
        {2, 2, 1, 72, {100, 33}, {301, 128}, false, 0},
        {1, 2, 2, 40, {48}, {400}, false, 0},
        {3, 1, 1, 130, {40, 31, 50}, {129, 200, 20}, false, 0}, /* too short but for the first */
    };
    const struct ops_backend backend = ops_backend();
    const struct panels_form *forms[] = {backend.bfp, backend.amx, backend.amx_f32};
    for (int64_t i = 0; i < COUNT(shapes) * COUNT(forms); i++) {
        struct input in = make_input(shapes[i % COUNT(shapes)], 0, (const int64_t[]){2, 2, 1});
        in.form = forms[i / COUNT(shapes)];
        if (in.form)
            ops_each(
                (struct cpu_options){.precision = in.form == backend.amx_f32 ? OPS_F32 : OPS_BF16,
                                     .form = in.form},
                run_alone, &in);
        arrays_free();
    }
}

/* -- RoPE -- */

static void run_rope(struct ops_run *run, const void *input)
{
    enum { R = 5, HEADS = 3, DIM = 140, LD = HEADS * DIM + 2 };
    static const int32_t position[R] = {0, 1, 17, 2047, 130000};
    struct ops *ops = run_ops(run);
    float inv_freq[DIM / 2], *x = random_f32(1, R * LD);
    double *y = doubles(x, R * LD), *before = doubles(x, R * LD);
    for (int i = 0; i < DIM / 2; i++)
        inv_freq[i] = (float)pow(10000, -2.0 * i / DIM);
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < DIM / 2; i++) {
                int a = r * LD + h * DIM + i, b = a + DIM / 2;
                double angle = (float)position[r] * inv_freq[i]; /* f32, as the models do */
                y[a] = x[a] * cos(angle) - x[b] * sin(angle);
                y[b] = x[b] * cos(angle) + x[a] * sin(angle);
            }
    act *rows = run_act(run, x, R * LD);
    int32_t *places = run_bytes(run, position, sizeof position);
    float *frequencies = run_f32(run, inv_freq, DIM / 2);
    ops->rope(ops, rows, LD, places, frequencies, R, HEADS, DIM, 1);
    run_expect_act(run, "rope", rows, y, R * LD, 4);
    ops->rope(ops, rows, LD, places, frequencies, R, HEADS, DIM, -1);
    run_expect_act(run, "rope back", rows, before, R * LD, 4);
    arrays_free();
}

static void rope_turns_by_the_angle_and_back(void **state)
{
    ops_each((struct cpu_options){.precision = OPS_F32}, run_rope, NULL);
}

UNIT_MAIN(cmocka_unit_test(attention_and_its_gradients_follow_the_formula),
          cmocka_unit_test(heads_of_every_size_follow_the_formula_where_rows_are_even),
          cmocka_unit_test(dropout_on_the_probabilities_is_a_function_of_the_sample),
          cmocka_unit_test(long_sequences_may_be_multiplied_by_panels),
          cmocka_unit_test(rope_turns_by_the_angle_and_back))
