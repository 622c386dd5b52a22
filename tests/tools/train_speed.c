/* tests/tools/train_speed.c - whole training steps of one micro-batch, over and over.
 *
 *     train_speed OPTIONS.json INPUT.safetensors WARMUP STEPS [cached|within|fixed]     (model_input.h)
 *
 * A step is what a worker does: pixels through the vision tower, where the device can beside the step before (cached: from features
 * computed once; within: as part of its own step; fixed: that too), forward, backward, clipping, AdamW; products by the fastest
 * algorithm, which the first step finds (fixed: by that which the shape alone decides). Prints a JSON line: the loss of every step in nats per token, those
 * of the warm-up included; seconds of each of STEPS, the device's peak memory, the seconds until the first step. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "tests/tools/model_input.h"
#include "worker/trainer.h"

struct bench {
    struct model_input input;
    struct trainer *trainer;
    struct comm *comm;
    struct micro_batch mb;
    float *features, *pooled;
};

static void bench_close(struct bench *b)
{
    comm_free(&b->comm);
    trainer_free(&b->trainer);
    model_input_close(&b->input);
    free(b->features);
    free(b->pooled);
}

static int encode_once(struct bench *b, struct bl_error *err)
{
    const struct hf_vision *v = captioner_vision(b->input.c);
    int64_t B = b->mb.B;
    b->features = calloc((size_t)(B * v->tokens * v->hidden), sizeof *b->features);
    b->pooled = calloc((size_t)(B * v->hidden), sizeof *b->pooled);
    BL_ASSERT(b->features && b->pooled);
    BL_TRY(captioner_encode(b->input.c, B, b->mb.pixels, b->features, b->pooled, err));
    b->mb.pixels = NULL;
    b->mb.features = b->features;
    b->mb.pooled = b->pooled;
    return 0;
}

enum form { AHEAD, CACHED, WITHIN, FIXED, FORMS };
static const char *const forms[] = {"", "cached", "within", "fixed"};

static int open_bench(struct bench *b, char **argv, enum form form, struct bl_error *err)
{
    BL_TRY(model_input_open(argv[1], argv[2], &b->input, err));
    b->input.ops->times_products = form != FIXED;
    const struct trainer_options options = {
        .seed = 1,
        .micro_batches = 1,
        .schedule = {.kind = SCHEDULE_CONSTANT, .peak = 1e-4, .steps = 1000000},
        .beta1 = 0.9f,
        .beta2 = 0.999f,
        .eps = 1e-8f,
        .weight_decay = 0.01f,
        .clip = 1,
        .experts = b->input.experts,
        .balance = 0.01f,
        .router_z = 0.001f};
    b->mb = b->input.texts;
    BL_TRY(comm_open(&(const struct comm_options){.world = 1}, &b->comm, err));
    BL_TRY(comm_connect(b->comm, err));
    BL_TRY(trainer_open(b->input.ops, b->input.c, &options, &b->trainer, err));
    BL_TRY(trainer_fresh(b->trainer, err));
    if (form == AHEAD && b->input.ops->open_beside)
        BL_TRY(captioner_open_ahead(b->input.c, b->mb.B, err));
    return form == CACHED ? encode_once(b, err) : 0;
}

static int step(struct bench *b, struct trainer_report *report, struct bl_error *err)
{
    BL_TRY(trainer_begin(b->trainer, err));
    BL_TRY(trainer_micro_batch(b->trainer, &b->mb, b->comm, true, err));
    if (captioner_looks_ahead(b->input.c))
        BL_TRY(captioner_look_ahead(b->input.c, b->mb.B, b->mb.pixels, err));
    return trainer_apply(b->trainer, b->comm, report, err);
}

static int run(char **argv, enum form form, struct bl_error *err)
{
    __attribute__((cleanup(bench_close))) struct bench b = {0};
    double start = bl_now_s();
    BL_TRY(open_bench(&b, argv, form, err));
    int warmup = atoi(argv[3]), steps = atoi(argv[4]);
    double opened = bl_now_s() - start;
    struct trainer_report report = {0};
    bl_autofree double *seconds = calloc((size_t)(warmup + steps) + 1, sizeof *seconds);
    BL_ASSERT(seconds);
    printf("{\"losses\": [");
    for (int i = 0; i < warmup + steps; i++) {
        double before = bl_now_s();
        BL_TRY(step(&b, &report, err));
        seconds[i] = bl_now_s() - before;
        printf("%s%.9g", i ? ", " : "", report.nll / (double)report.tokens);
    }
    printf("], \"step_s\": [");
    for (int i = warmup; i < warmup + steps; i++)
        printf("%s%.6f", i > warmup ? ", " : "", seconds[i]);
    const struct ops *ops = b.input.ops;
    printf("], \"images\": %lld, \"tokens\": %lld, \"norm\": %.6f, \"peak_mb\": %.0f, \"open_s\": "
           "%.1f, "
           "\"device\": \"%s\"}\n",
           (long long)report.images, (long long)report.tokens, report.norm,
           ops->peak_bytes ? (double)ops->peak_bytes(ops) / (1 << 20) : 0, opened, ops->name);
    return 0;
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    int form = 0;
    while (form < FORMS && strcmp(forms[form], argc == 6 ? argv[5] : "") != 0)
        form++;
    if (argc < 5 || argc > 6 || form == FORMS)
        bl_fail(&err, BL_EUSAGE,
                "usage: train_speed OPTIONS.json INPUT.safetensors WARMUP STEPS "
                "[cached|within|fixed]");
    else
        run(argv, (enum form)form, &err);
    if (!err.code)
        return 0;
    char line[1600];
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "train_speed: %s\n", line);
    return bl_error_exit_code(err.code);
}
