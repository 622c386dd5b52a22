/* tests/bench/ops_bench.c - the speed of the operations at the shapes of real steps.
 *
 * usage: ops_bench [THREADS [f32|bf16]]     one JSON line a case: best of several runs, in
 * microseconds and GFLOP/s, beside the matmul library's own speed for the same product with the
 * same threads (it may split the inner sum; we may not).
 */
#include <math.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/ops/cpu/cpu.h"

static struct ops *ops;
static int threads = 2;
static const char *word = "";

static double now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of one call: time on the clock, and processor time of all threads, which others' use of the
 * machine does not stretch. */
struct times {
    double wall_s, cpu_s;
};

/* The best of many runs of about 1 ms within half a second. */
static struct times best_times(void (*f)(const void *), const void *input)
{
    f(input);
    double start = now_s(CLOCK_MONOTONIC);
    f(input);
    const int64_t calls = 1 + (int64_t)(0.001 / (now_s(CLOCK_MONOTONIC) - start + 1e-7));
    struct times best = {INFINITY, INFINITY};
    for (double end = now_s(CLOCK_MONOTONIC) + 0.5; now_s(CLOCK_MONOTONIC) < end;) {
        double cpu = now_s(CLOCK_PROCESS_CPUTIME_ID);
        start = now_s(CLOCK_MONOTONIC);
        for (int64_t i = 0; i < calls; i++)
            f(input);
        best.wall_s = fmin(best.wall_s, (now_s(CLOCK_MONOTONIC) - start) / (double)calls);
        best.cpu_s = fmin(best.cpu_s, (now_s(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (double)calls);
    }
    return best;
}

static void *numbers(int64_t count)
{
    float *x = NULL;
    struct bl_error err;
    if (ops->alloc(ops, (size_t)count * sizeof *x, (void **)&x, &err) < 0)
        exit(1);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)((i * 7919 + 13) % 2048) * 0x1p-10f - 1;
    return x;
}

static void report(const char *name, const char *shape, struct times t, double flop,
                   const struct times *library)
{
    printf("{\"op\": \"%s\", \"shape\": \"%s\", \"threads\": %d, \"us\": %.1f, \"cpu_us\": %.1f, "
           "\"gflops\": %.1f, \"gflops_per_cpu\": %.1f",
           name, shape, threads, t.wall_s * 1e6, t.cpu_s * 1e6, flop / t.wall_s / 1e9,
           flop / t.cpu_s / 1e9);
    if (library)
        printf(", \"library_gflops\": %.1f, \"library_gflops_per_cpu\": %.1f",
               flop / library->wall_s / 1e9, flop / library->cpu_s / 1e9);
    printf("}\n");
    fflush(stdout);
}

/* -- linear layers -- */

struct linear {
    int64_t R, N, K;
    act *x, *y, *d_x;
    float *w, *d_w;
    struct ops_matrix *matrix;
};

static void forward(const void *input)
{
    const struct linear *l = input;
    ops->linear_forward(ops, l->y, NULL, l->x, l->matrix, NULL, l->R, OPS_NONE);
}
static void backward_input(const void *input)
{
    const struct linear *l = input;
    ops->linear_backward_input(ops, l->d_x, l->y, l->matrix, l->R, false);
}
static void backward_weight(const void *input)
{
    const struct linear *l = input;
    ops->linear_backward_weight(ops, l->d_w, NULL, l->y, l->x, l->R, l->N, l->K);
}
static void library_forward(const void *input)
{
    const struct linear *l = input;
    dnnl_sgemm('N', 'T', l->R, l->N, l->K, 1, (float *)l->x, l->K, l->w, l->K, 0, (float *)l->y,
               l->N);
}
static void library_backward_input(const void *input)
{
    const struct linear *l = input;
    dnnl_sgemm('N', 'N', l->R, l->K, l->N, 1, (float *)l->y, l->N, l->w, l->K, 0, (float *)l->d_x,
               l->K);
}
static void library_backward_weight(const void *input)
{
    const struct linear *l = input;
    dnnl_sgemm('T', 'N', l->N, l->K, l->R, 1, (float *)l->y, l->N, (float *)l->x, l->K, 1, l->d_w,
               l->K);
}

static void run(const char *name, const char *shape, double flop, void (*f)(const void *),
                const void *input)
{
    if (strstr(name, word))
        report(name, shape, best_times(f, input), flop, NULL);
}

static void compare(const char *name, const char *shape, double flop, void (*f)(const void *),
                    void (*library)(const void *), const void *input)
{
    if (!strstr(name, word))
        return;
    const struct times ours = best_times(f, input);
    omp_set_num_threads(threads);
    const struct times theirs = best_times(library, input);
    omp_set_num_threads(1);
    report(name, shape, ours, flop, &theirs);
}

static void bench_linear(int64_t R, int64_t N, int64_t K, bool frozen)
{
    struct linear l = {
        R,   N, K, numbers(R * K), numbers(R * N), numbers(R * K), numbers(N * K), numbers(N * K),
        NULL};
    struct bl_error err;
    int rc = frozen ? ops->matrix_frozen(ops, &l.matrix, l.w, BL_F32, N, K, OPS_DATA_STAYS, &err)
                    : ops->matrix_trainable(ops, &l.matrix, l.w, N, K, &err);
    if (rc < 0)
        exit(1);
    ops->matrices_refresh(ops, &l.matrix, 1);
    char shape[80];
    snprintf(shape, sizeof shape, "R %lld N %lld K %lld %s", (long long)R, (long long)N,
             (long long)K, frozen ? "frozen" : "trainable");
    const double flop = 2.0 * (double)R * (double)N * (double)K;
    compare("linear_forward", shape, flop, forward, library_forward, &l);
    compare("linear_backward_input", shape, flop, backward_input, library_backward_input, &l);
    if (!frozen)
        compare("linear_backward_weight", shape, flop, backward_weight, library_backward_weight,
                &l);
    ops->matrix_free(ops, &l.matrix);
    void *memory[] = {l.x, l.y, l.d_x, l.w, l.d_w};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ops->release(ops, memory[i]);
}

/* -- attention -- */

struct attend {
    struct ops_attention a;
    act *q, *k, *v, *out, *d_q, *d_k, *d_v;
    float *saved;
    int64_t ld, ld_kv;
};

static void attention_forward(const void *input)
{
    const struct attend *t = input;
    ops->attention_forward(ops, t->out, t->ld, t->saved, t->q, t->ld, t->k, t->ld_kv, t->v,
                           t->ld_kv, &t->a);
}
static void attention_backward(const void *input)
{
    const struct attend *t = input;
    ops->attention_backward(ops, t->d_q, t->d_k, t->d_v, t->q, t->out, t->ld, t->saved, t->q, t->ld,
                            t->k, t->ld_kv, t->v, t->ld_kv, &t->a);
}

static void bench_attention(int64_t S, int64_t heads, int64_t kv_heads, int64_t d, int32_t q_len,
                            int32_t k_len, bool causal, float p)
{
    int32_t *start = numbers(4 * S), *q_lens = start + S, *k_start = start + 2 * S;
    int32_t *k_lens = start + 3 * S, *positions = numbers(S);
    for (int64_t s = 0; s < S; s++) {
        start[s] = (int32_t)s * q_len;
        q_lens[s] = q_len;
        k_start[s] = (int32_t)s * k_len;
        k_lens[s] = k_len;
        positions[s] = (int32_t)s;
    }
    struct ops_dropout dropout = {p, 1, 2, 3, positions};
    struct attend t = {.a = {.S = S,
                             .heads = heads,
                             .kv_heads = kv_heads,
                             .head_dim = d,
                             .q_start = start,
                             .q_len = q_lens,
                             .k_start = k_start,
                             .k_len = k_lens,
                             .q_len_max = q_len,
                             .k_len_max = k_len,
                             .scale = 1 / sqrtf((float)d),
                             .causal = causal,
                             .dropout = &dropout},
                       .ld = heads * d,
                       .ld_kv = kv_heads * d};
    t.q = numbers(S * q_len * t.ld);
    t.out = numbers(S * q_len * t.ld);
    t.d_q = numbers(S * q_len * t.ld);
    t.saved = numbers(S * q_len * heads);
    t.k = numbers(S * k_len * t.ld_kv);
    t.v = numbers(S * k_len * t.ld_kv);
    t.d_k = numbers(S * k_len * t.ld_kv);
    t.d_v = numbers(S * k_len * t.ld_kv);
    char shape[120];
    snprintf(shape, sizeof shape, "S %lld H %lld/%lld d %lld q %d k %d%s p %g", (long long)S,
             (long long)heads, (long long)kv_heads, (long long)d, q_len, k_len,
             causal ? " causal" : "", p);
    const double flop = 4.0 * (double)(S * heads * d) * q_len * k_len * (causal ? 0.5 : 1);
    run("attention_forward", shape, flop, attention_forward, &t);
    run("attention_backward", shape, 2.5 * flop, attention_backward, &t);
    void *memory[] = {start, positions, t.q, t.out, t.d_q, t.saved, t.k, t.v, t.d_k, t.d_v};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ops->release(ops, memory[i]);
}

/* -- the rest: simple operations on R rows of D, in elements a second -- */

struct rows {
    int64_t R, D;
    act *x, *y, *z;
    float *weight, *bias, *saved;
    int32_t *ids;
    int64_t *fixed;
    struct ops_dropout dropout;
    struct ops_matrix *head;
};

static void layernorm_forward(const void *input)
{
    const struct rows *r = input;
    ops->layernorm_forward(ops, r->y, r->saved, r->x, r->weight, r->bias, r->R, r->D, 1e-5f);
}
static void layernorm_backward(const void *input)
{
    const struct rows *r = input;
    ops->layernorm_backward(ops, r->z, r->weight, r->bias, r->y, r->x, r->saved, r->weight, r->R,
                            r->D, false);
}
static void rmsnorm_forward(const void *input)
{
    const struct rows *r = input;
    ops->rmsnorm_forward(ops, r->y, r->saved, r->x, r->weight, r->R, r->D, 1e-5f);
}
static void add(const void *input)
{
    const struct rows *r = input;
    ops->add(ops, r->y, r->x, r->z, r->R * r->D);
}
static void gelu_backward(const void *input)
{
    const struct rows *r = input;
    ops->activation_backward(ops, r->y, r->z, r->x, OPS_GELU_ERF, r->R * r->D);
}
static void swiglu(const void *input)
{
    const struct rows *r = input;
    ops->swiglu_forward(ops, r->y, r->x, r->R / 2, r->D);
}
static void dropout(const void *input)
{
    const struct rows *r = input;
    ops->dropout(ops, r->y, r->x, &r->dropout, 1, r->R, r->D);
}
static void rope(const void *input)
{
    const struct rows *r = input;
    ops->rope(ops, r->y, r->D, r->ids, r->weight, r->R, r->D / 64, 64, 1);
}
static void adamw(const void *input)
{
    const struct rows *r = input;
    const struct ops_adamw o = {1e-3, 0.9, 0.999, 1e-8, 0.01, 1};
    ops->adamw(ops, (float *)r->y, (float *)r->z, (float *)r->fixed, (float *)r->x, r->R * r->D, 1,
               &o);
}
static void fixed_add(const void *input)
{
    const struct rows *r = input;
    ops->fixed_add(ops, r->fixed, r->fixed, (float *)r->x, r->R * r->D, 0x1p20f);
}
static void head_loss(const void *input)
{
    const struct rows *r = input;
    ops->head_loss(ops, r->saved, NULL, r->y, r->x, r->head, r->ids, r->R);
}

static void bench_rows(int64_t R, int64_t D)
{
    static const struct {
        const char *name;
        void (*f)(const void *);
    } cases[] = {{"layernorm_forward", layernorm_forward},
                 {"layernorm_backward", layernorm_backward},
                 {"rmsnorm_forward", rmsnorm_forward},
                 {"add", add},
                 {"gelu_backward", gelu_backward},
                 {"swiglu", swiglu},
                 {"dropout", dropout},
                 {"rope", rope},
                 {"adamw", adamw},
                 {"fixed_add", fixed_add}};
    struct rows r = {.R = R, .D = D, .dropout = {0.1f, 1, 2, 3, NULL}};
    r.x = numbers(R * D);
    r.y = numbers(R * D);
    r.z = numbers(R * D);
    r.fixed = numbers(2 * R * D);
    r.weight = numbers(D + 64);
    r.bias = numbers(D);
    r.saved = numbers(2 * R);
    r.ids = numbers(R);
    for (int64_t i = 0; i < R; i++)
        r.ids[i] = (int32_t)i;
    r.dropout.positions = r.ids;
    char shape[80];
    snprintf(shape, sizeof shape, "R %lld D %lld (1 operation an element)", (long long)R,
             (long long)D);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ops->zero(ops, r.fixed, (size_t)(2 * R * D) * 4);
        run(cases[i].name, shape, (double)(R * D), cases[i].f, &r);
    }
    void *memory[] = {r.x, r.y, r.z, r.fixed, r.weight, r.bias, r.saved, r.ids};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ops->release(ops, memory[i]);
}

static void bench_head(int64_t R, int64_t V, int64_t D)
{
    struct rows r = {.R = R,
                     .D = D,
                     .x = numbers(R * D),
                     .y = numbers(R * D),
                     .saved = numbers(R),
                     .ids = numbers(R)};
    struct bl_error err;
    float *w = numbers(V * D);
    for (int64_t i = 0; i < V * D; i++)
        w[i] *= 0.1f; /* logits as they are in training */
    if (ops->matrix_frozen(ops, &r.head, w, BL_F32, V, D, OPS_DATA_GOES, &err) < 0)
        exit(1);
    ops->release(ops, w);
    for (int64_t i = 0; i < R; i++)
        r.ids[i] = (int32_t)(i * 7919 % V);
    char shape[80];
    snprintf(shape, sizeof shape, "R %lld V %lld D %lld", (long long)R, (long long)V, (long long)D);
    run("head_loss", shape, 4.0 * (double)R * (double)V * (double)D, head_loss, &r);
    ops->matrix_free(ops, &r.head);
    void *memory[] = {r.x, r.y, r.saved, r.ids};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ops->release(ops, memory[i]);
}

/* -- choice of tokens -- */

struct choice {
    int64_t R, V, k;
    float *x, *values;
    double *log_sum;
    int32_t *ids;
};

static void top_k(const void *input)
{
    const struct choice *c = input;
    ops->top_k(ops, c->log_sum, c->values, c->ids, (act *)c->x, c->R, c->V, c->k);
}

static void bench_top_k(int64_t R, int64_t V, int64_t k)
{
    struct choice c = {R, V, k, numbers(R * V), numbers(R * k), numbers(R * 2), numbers(R * k)};
    char shape[80];
    snprintf(shape, sizeof shape, "R %lld V %lld k %lld", (long long)R, (long long)V, (long long)k);
    run("top_k", shape, (double)(R * V), top_k, &c);
    void *memory[] = {c.x, c.values, c.log_sum, c.ids};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ops->release(ops, memory[i]);
}

int main(int argc, char **argv)
{
    struct bl_error err;
    threads = argc > 1 ? atoi(argv[1]) : 2;
    word = argc > 3 ? argv[3] : "";
    enum ops_precision precision = argc > 2 && strcmp(argv[2], "bf16") == 0 ? OPS_BF16 : OPS_F32;
    if (ops_cpu_open(precision, threads, &ops, &err) < 0)
        return 1;
    fprintf(stderr, "%s\n", ops->name);
    /* the demo: Q-Former and LM of width 192, encoder of 128 */
    bench_linear(32, 192, 192, false);
    bench_linear(512, 192, 192, false);
    bench_linear(512, 768, 192, false);
    bench_linear(512, 192, 768, false);
    bench_linear(2048, 384, 128, false);
    bench_linear(2048, 128, 512, true);
    bench_linear(1500, 1024, 192, true);
    /* SigLIP-base, 8 images of 196 patches */
    bench_linear(1568, 768, 768, true);
    bench_linear(1568, 3072, 768, true);
    bench_linear(1568, 768, 3072, true);
    /* SigLIP-so400m/384, 2 images; Llama-3.2-1B, 104 rows; the Q-Former of its width */
    bench_linear(1458, 4304, 1152, true);
    bench_linear(1458, 1152, 4304, true);
    bench_linear(104, 16384, 2048, true);
    bench_linear(104, 2048, 8192, true);
    bench_linear(64, 8192, 2048, false);
    /* SmolLM2-135M and the Q-Former beside it */
    bench_linear(1, 1536, 576, true);
    bench_linear(1, 8192, 2048, true);
    bench_linear(2, 8192, 2048, true);
    bench_linear(8, 1536, 576, true);
    bench_linear(384, 576, 576, true);
    bench_linear(384, 3072, 576, true);
    bench_linear(384, 576, 1536, true);
    bench_linear(256, 2304, 576, false);
    bench_head(384, 49152, 576);
    bench_head(512, 485, 192);
    bench_top_k(8, 49152, 1);
    bench_top_k(8, 49152, 16);
    bench_top_k(1, 128256, 1);

    bench_attention(32, 8, 8, 24, 16, 16, false, 0.1f);
    bench_attention(32, 8, 8, 24, 16, 64, false, 0.1f);
    bench_attention(32, 4, 4, 48, 45, 45, true, 0);
    bench_attention(32, 4, 4, 32, 64, 64, false, 0);
    bench_attention(8, 12, 12, 64, 196, 196, false, 0);
    bench_attention(1, 16, 16, 72, 729, 729, false, 0);
    bench_attention(8, 9, 3, 64, 60, 60, true, 0);
    bench_attention(8, 8, 8, 72, 32, 196, false, 0.1f);
    bench_attention(8, 9, 3, 64, 1, 80, true, 0);

    bench_rows(512, 192);
    bench_rows(1568, 768);
    ops_free(&ops);
    return 0;
}
