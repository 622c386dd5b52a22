/* tests/tools/model_input.h - a captioner and a batch as the oracle's scripts hand them over.
 *
 * OPTIONS.json        vision, llm, weights (folders; without weights they are left to the caller), dropout,
 *                     projector normal|moe, experts, routing pooled|mean|first, width,
 *                     queries, layers, heads, bos first|after_image|none, bos_id, precision f32|bf16, device (cpu), threads, max_new,
 *                     beams, cross fewer|plain|folded (form of cross-attention), recompute
 * INPUT.safetensors   pixels (B,S,S,3) U8; ids, ids_start (B+1) I32, labels U8: the texts of all images together;
 *                     prompt, prompt_start: what captions begin with; positions (B) I32 */
#pragma once

#include <jansson.h>

#include "common/models/safetensors.h"
#include "worker/model/captioner.h"

struct model_input {
    json_t *json;
    struct safetensors *file;
    struct ops *ops;
    struct captioner *c; /* weights loaded */
    struct micro_batch texts, prompts;
    int64_t max_new, beams;
    int64_t experts; /* 0: the normal projector */
};

/* *ret starts as zeros, and is closed after a failure, too. */
int model_input_open(const char *options_path, const char *input_path, struct model_input *ret,
                     struct bl_error *err);
void model_input_close(struct model_input *input);
