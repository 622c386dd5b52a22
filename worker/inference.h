/* worker/inference.h - a captioner from a checkpoint, for `caption` and `score`, and images for it.
 */
#pragma once

#include <stdbool.h>

#include "common/checkpoint.h"
#include "common/config.h"
#include "common/tokenizer.h"
#include "worker/model/captioner.h"

struct inference_options {
    const char *checkpoint; /* folder */
    const char *vision,
        *llm; /* NULL: where the checkpoint says; elsewhere the content's hash must be the same */
    enum ops_precision precision;
    bool precision_given; /* else the run's */
    int threads;
    bool ema; /* the averaged weights instead of the last ones */
};

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

/* The option --precision, NULL when it was not given. */
int inference_precision(const char *text, struct inference_options *options, struct bl_error *err);
