/* tests/unit/tiny.h - Hugging Face folders of tiny random models, written on the spot, and micro-batches for them. */
#pragma once

#include "worker/model/captioner.h"

#define TINY_IMAGE 32
#define TINY_VOCABULARY 50

/* Writes FOLDER/vision (SigLIP) and FOLDER/llm (Llama), f32. */
void tiny_write_models(const char *folder);

/* A micro-batch of batch indices [first, first + count) of a fictitious data set: the same batch index has the same image and text in
 * whatever micro-batch it stands. Batch indices divisible by 7 are void. Released by tiny_batch_release. */
struct tiny_batch {
    struct micro_batch mb;
    uint8_t *pixels, *labels;
    int32_t *ids, *ids_start, *positions;
};
void tiny_batch_make(struct tiny_batch *ret, int first, int count, int step);
void tiny_batch_release(struct tiny_batch *batch);
