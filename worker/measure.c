/* worker/measure.c - `measure RUN.yaml`: images a second of the vision tower alone, and of a training step from cached features, on
 * this device: what embedding and training from the cache will take. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/arguments.h"
#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/json.h"
#include "common/size.h"
#include "worker/commands.h"
#include "worker/model/captioner.h"
#include "worker/model/tower.h"
#include "worker/ops/ops.h"
#include "worker/options.h"
#include "worker/options_training.h"

const char command_measure_usage[] =
    "usage: blipren-worker measure RUN.yaml [options]\n"
    "\n"
    "  --tokens N    of a text: prefix, caption and EOS (32)\n"
    "  --device auto|cpu|cuda:N  (auto: the first GPU, else the CPU)\n"
    "  --threads N   compute threads (all cores)\n"
    "  --json        one line of JSON\n"
    "\n"
    "Measures for some seconds what this device gives to the run: images a second of the vision "
    "tower alone, as embedding needs\n"
    "it, and of a training step from features in the cache (forward and backward, without the "
    "optimizer).\n";

#define MEASURED_S 1.0 /* of each, after a first time that is not counted */
enum { IMAGES_AT_ONCE = 8 /* as worker/embedder.c has it */ };

static int measure_tower(struct ops *ops, const struct config *config, double *ret_rate,
                         struct bl_error *err)
{
    bl_auto(tower) struct tower *tower = NULL;
    BL_TRY(tower_open(ops, config->vision.path, false, config->train.reproducible, &tower, err));
    const struct hf_vision *v = tower_vision(tower);
    size_t image = (size_t)(v->image_size * v->image_size * v->channels);
    bl_autofree uint8_t *pixels = malloc(IMAGES_AT_ONCE * image);
    bl_autofree float *features =
        calloc((size_t)(IMAGES_AT_ONCE * v->tokens * v->hidden), sizeof *features);
    if (!pixels || !features)
        return bl_fail(err, BL_ENOMEM, "no memory for %d images", IMAGES_AT_ONCE);
    for (size_t i = 0; i < IMAGES_AT_ONCE * image; i++)
        pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    double began = 0;
    for (int64_t done = -IMAGES_AT_ONCE; began == 0 || bl_now_s() - began < MEASURED_S;) {
        BL_TRY(tower_encode(tower, IMAGES_AT_ONCE, pixels, features, NULL, err));
        done += IMAGES_AT_ONCE;
        if (done == 0)
            began = bl_now_s();
        *ret_rate = (double)done / (bl_now_s() - began);
    }
    return 0;
}

/* B images with a text each, all alike; owned. */
struct inputs {
    float *features, *pooled;
    int32_t *ids, *starts, *positions;
    uint8_t *labels;
};

static void inputs_release(struct inputs *in)
{
    free(in->features);
    free(in->pooled);
    free(in->ids);
    free(in->starts);
    free(in->positions);
    free(in->labels);
}

static int make_inputs(const struct hf_vision *v, int64_t B, int64_t tokens, struct inputs *in,
                       struct micro_batch *ret, struct bl_error *err)
{
    size_t texts = (size_t)(B * tokens), numbers = (size_t)(B * v->tokens * v->hidden);
    in->features = calloc(numbers, sizeof *in->features);
    in->pooled = calloc((size_t)(B * v->hidden), sizeof *in->pooled);
    in->ids = calloc(texts, sizeof *in->ids);
    in->starts = calloc((size_t)B + 1, sizeof *in->starts);
    in->positions = calloc((size_t)B, sizeof *in->positions);
    in->labels = malloc(texts);
    if (!in->features || !in->pooled || !in->ids || !in->starts || !in->positions || !in->labels)
        return bl_fail(err, BL_ENOMEM, "no memory for a micro-batch of %lld images", (long long)B);
    for (size_t i = 0; i < numbers; i++)
        in->features[i] = (float)(i % 17) / 8 - 1;
    for (size_t i = 0; i < texts; i++)
        in->labels[i] = 1;
    for (int64_t b = 0; b < B; b++) {
        in->starts[b + 1] = (int32_t)((b + 1) * tokens);
        in->positions[b] = (int32_t)b;
    }
    *ret = (struct micro_batch){.B = B,
                                .features = in->features,
                                .pooled = in->pooled,
                                .ids = in->ids,
                                .ids_start = in->starts,
                                .labels = in->labels,
                                .positions = in->positions};
    return 0;
}

static int measure_step(struct ops *ops, const struct config *config, int64_t tokens,
                        double *ret_rate, struct bl_error *err)
{
    bl_auto(tokenizer) struct tokenizer *tokenizer = NULL;
    bl_auto(captioner) struct captioner *captioner = NULL;
    __attribute__((cleanup(inputs_release))) struct inputs in = {0};
    struct micro_batch mb;
    struct captioner_sums sums;
    BL_TRY(tokenizer_open(config->llm.path, &tokenizer, err));
    struct captioner_options options = options_captioner(config, options_bos(tokenizer));
    options.features_only = true;
    BL_TRY(captioner_open(ops, &options, &captioner, err));
    BL_TRY(captioner_init(captioner, (uint64_t)config->seed, err));
    const struct captioner_pass pass = {.seed = (uint64_t)config->seed, .dropout = true};
    int64_t B = options_micro_batch(config);
    BL_TRY(make_inputs(captioner_vision(captioner), B, tokens, &in, &mb, err));
    double began = 0;
    for (int64_t done = -B; began == 0 || bl_now_s() - began < MEASURED_S;) {
        captioner_step_begin(captioner);
        BL_TRY(captioner_forward_backward(captioner, &mb, &pass, err));
        BL_TRY(captioner_step_sums(captioner, &sums, err));
        done += B;
        if (done == 0)
            began = bl_now_s();
        *ret_rate = (double)done / (bl_now_s() - began);
    }
    return 0;
}

int command_measure(int argc, char **argv, struct bl_error *err)
{
    int64_t threads = 0, tokens = 32;
    const char *device_name = NULL;
    bool json = false;
    int rest;
    const struct argument table[] = {
        {"--tokens", ARGUMENT_WHOLE, &tokens, 1, 1 << 16},
        {"--device", ARGUMENT_TEXT, &device_name, 0, 0},
        {"--threads", ARGUMENT_WHOLE, &threads, 0, 4096},
        {"--json", ARGUMENT_FLAG, &json, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml");
        return bl_error_remedy(err, "--help says how this program is used");
    }
    bl_auto(config) struct config *config = NULL;
    bl_auto(ops) struct ops *ops = NULL;
    struct ops_device device;
    double tower = 0, step = 0;
    BL_TRY(config_open(argv[1], &config, err));
    BL_TRY(ops_device_choose(device_name, &device, err));
    BL_TRY(ops_open(&device, options_precision(config), (int)(threads ? threads : config->threads),
                    &ops, err));
    BL_TRY(measure_tower(ops, config, &tower, err));
    BL_TRY(measure_step(ops, config, tokens, &step, err));
    if (json)
        printf("{\"tower_images_per_s\": %.6g, \"step_images_per_s\": %.6g}\n", tower, step);
    else
        printf("%s\n%10.1f images/s  vision tower alone\n%10.1f images/s  training step from "
               "features, texts of %lld tokens\n",
               ops->name, tower, step, (long long)tokens);
    return 0;
}
