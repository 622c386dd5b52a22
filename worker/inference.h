/* worker/inference.h - a captioner from a checkpoint, for `caption` and `score`, and images for it.
 */
#pragma once

#include <stdbool.h>

#include "common/arguments.h"
#include "common/models/checkpoint.h"
#include "common/config/config.h"
#include "common/tokenizer/tokenizer.h"
#include "worker/model/captioner.h"

struct inference_options {
    const char *checkpoint; /* folder */
    /* NULL: where the checkpoint says; elsewhere the content's hash must be the same */
    const char *vision, *llm;
    const char *precision; /* "bf16" or "f32"; NULL: the run's */
    const char *device;    /* ops_device_choose */
    int64_t threads;       /* 0: all cores */
    bool ema;              /* the averaged weights instead of the last ones */
};

/* The rows of an argument table that fill them. */
/* clang-format off */
#define INFERENCE_ARGUMENTS(options) \
    {"--checkpoint", ARGUMENT_TEXT, &(options).checkpoint, 0, 0}, \
    {"--vision", ARGUMENT_TEXT, &(options).vision, 0, 0}, \
    {"--llm", ARGUMENT_TEXT, &(options).llm, 0, 0}, \
    {"--precision", ARGUMENT_TEXT, &(options).precision, 0, 0}, \
    {"--device", ARGUMENT_TEXT, &(options).device, 0, 0}, \
    {"--threads", ARGUMENT_WHOLE, &(options).threads, 0, 4096}, \
    {"--ema", ARGUMENT_FLAG, &(options).ema, 0, 0}
/* clang-format on */

struct inference {
    struct checkpoint_state state;
    struct config *config; /* the run's, with the models' folders replaced by those used */
    struct tokenizer *tokenizer;
    struct ops *ops;
    struct captioner *captioner;
};

/* Verifies the checkpoint, opens the models. inference_release in any case. */
int inference_open(const struct inference_options *options, struct inference *ret,
                   struct bl_error *err);
void inference_release(struct inference *inference);

/* Reads, decodes and resizes one image file into pixels (S,S,3), S = the tower's image_size. Errors
 * name the file. */
int inference_image(const struct inference *inference, const char *path, uint8_t *pixels,
                    struct bl_error *err);
