/* tests/bench/cross_bench.c - the Q-Former, forward and backward, with either form of cross-attention.
 *
 *     cross_bench [ROUNDS]
 *
 * For the demo's shape, SigLIP-base/16-224 with a width of 576 and SigLIP-so400m/14-384 with a width of
 * 2048, in f32 and bf16: processor seconds of each form in turn on one thread (medians), the counted operations of
 * cross-attention, and which form the model takes. Random values and features, dropout 0.1. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/random.h"
#include "worker/model/qformer.h"

struct shape {
    const char *name;
    int64_t B;
    struct qformer_shape qformer;
};

static const struct shape shapes[] = {
    {"demo", 16, {12, 2, 4, 64, 48, 96, 64, 0.1f, NULL}},
    {"base/224, width 576", 8, {32, 8, 8, 196, 768, 576, 576, 0.1f, NULL}},
    {"so400m/384, width 2048", 2, {32, 8, 8, 729, 1152, 2048, 2048, 0.1f, NULL}},
};

struct rig {
    struct ops *ops;
    struct params params;
    struct qformer *qformer;
    struct arena arena;
    act *features, *d_y;
    int32_t *positions;
};

static void must(int rc, const struct bl_error *err)
{
    if (rc < 0) {
        fprintf(stderr, "cross_bench: %s\n", err->text);
        exit(1);
    }
}

static act *random_act(struct rig *rig, int64_t count, uint64_t seed)
{
    struct bl_error err = {0};
    float *host = malloc((size_t)count * sizeof *host);
    void *device, *y;
    for (int64_t i = 0; i < count; i++) {
        uint32_t words[4];
        bl_draw(seed, BL_RANDOM_INIT, (uint64_t)i, 2, words);
        host[i] = 2 * bl_unit_f32(words[0]) - 1;
    }
    must(rig->ops->alloc(rig->ops, (size_t)count * sizeof *host, &device, &err), &err);
    must(rig->ops->alloc(rig->ops, (size_t)count * rig->ops->act_bytes, &y, &err), &err);
    rig->ops->copy_in(rig->ops, device, host, (size_t)count * sizeof *host);
    rig->ops->act_from_f32(rig->ops, y, device, count);
    rig->ops->release(rig->ops, device);
    free(host);
    return y;
}

static void rig_open(struct rig *rig, const struct shape *shape, const struct cross_form *form,
                     enum ops_precision precision)
{
    struct bl_error err = {0};
    struct qformer_shape q = shape->qformer;
    void *positions;
    q.cross = form;
    *rig = (struct rig){0};
    must(ops_cpu_open(precision, 1, &rig->ops, &err), &err);
    rig->params.ops = rig->arena.ops = rig->ops;
    must(qformer_open(&rig->params, &q, &rig->qformer, &err), &err);
    must(params_build(&rig->params, &err), &err);
    must(params_init(&rig->params, 1, &err), &err);
    params_refresh(&rig->params);
    rig->features = random_act(rig, shape->B * q.vision_tokens * q.vision_width, 3);
    rig->d_y = random_act(rig, shape->B * q.queries * q.out_width, 4);
    must(rig->ops->alloc(rig->ops, (size_t)shape->B * sizeof *rig->positions, &positions, &err),
         &err);
    rig->positions = positions;
    rig->ops->zero(rig->ops, positions, (size_t)shape->B * sizeof *rig->positions);
}

static void rig_close(struct rig *rig)
{
    arena_close(&rig->arena);
    rig->ops->release(rig->ops, rig->features);
    rig->ops->release(rig->ops, rig->d_y);
    rig->ops->release(rig->ops, rig->positions);
    params_close(&rig->params);
    qformer_free(&rig->qformer);
    ops_free(&rig->ops);
}

static void ready(void *ctx, int64_t end)
{
}

static double step(struct rig *rig, const struct shape *shape)
{
    struct bl_error err = {0};
    struct timespec a, b;
    act *y;
    const struct ops_dropout dropout = {.seed = 5, .step = 7, .positions = rig->positions};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    must(arena_reset(&rig->arena, &err), &err);
    must(arena_act(&rig->arena, shape->B * shape->qformer.queries * shape->qformer.out_width, &y,
                   &err),
         &err);
    must(qformer_forward(rig->qformer, &rig->arena, y, rig->features, shape->B, &dropout, SAVE_ALL,
                         &err),
         &err);
    must(qformer_backward(rig->qformer, &rig->arena, rig->d_y, &dropout, ready, NULL, &err), &err);
    must(rig->ops->sync(rig->ops, &err), &err);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static void measure(const struct shape *shape, enum ops_precision precision, int rounds)
{
    struct rig rigs[2];
    double *seconds[2];
    const struct cross_form *const forms[] = {&cross_plain, &cross_folded};
    const struct qformer_shape *q = &shape->qformer;
    const struct cross_shape cross = {q->queries, q->heads, q->vision_tokens, q->width};
    for (int i = 0; i < 2; i++) {
        rig_open(&rigs[i], shape, forms[i], precision);
        seconds[i] = calloc((size_t)rounds, sizeof *seconds[i]);
        step(&rigs[i], shape); /* warm */
    }
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < 2; i++)
            seconds[i][r] = step(&rigs[i], shape);
    for (int i = 0; i < 2; i++) {
        qsort(seconds[i], (size_t)rounds, sizeof *seconds[i], ascending);
        rig_close(&rigs[i]);
    }
    double plain = seconds[0][rounds / 2], folded = seconds[1][rounds / 2];
    double count[2];
    cross_operations(&cross, count);
    printf("%-24s %s B=%-3lld plain %8.4f s %8.1f GFLOP   folded %8.4f s %8.1f GFLOP   %.2fx, "
           "takes %s\n",
           shape->name, precision == OPS_F32 ? "f32 " : "bf16", (long long)shape->B, plain,
           count[0] * 2e-9 * (double)(shape->B * q->layers), folded,
           count[1] * 2e-9 * (double)(shape->B * q->layers), plain / folded,
           cross_folds(&cross) ? "folded" : "plain");
    for (int i = 0; i < 2; i++)
        free(seconds[i]);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 5;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            measure(&shapes[i], bf16 ? OPS_BF16 : OPS_F32, rounds);
    return 0;
}
