/* worker/rehearse.c - see rehearse.h. */
#include "worker/rehearse.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "worker/ops/dry.h"

int rehearse(struct captioner *captioner, int64_t B, int64_t tokens, bool features,
             struct bl_error *err)
{
    const struct hf_vision *vision = captioner_vision(captioner);
    const int64_t side = vision->image_size, texts = B * tokens;
    const size_t image = features ? (size_t)(vision->tokens * vision->hidden) * sizeof(float)
                                  : (size_t)(side * side * 3);
    bl_autofree void *images = calloc((size_t)B, image);
    bl_autofree float *pooled = calloc((size_t)(B * vision->hidden), sizeof *pooled);
    bl_autofree int32_t *ids = calloc((size_t)texts, sizeof *ids);
    bl_autofree uint8_t *labels = malloc((size_t)texts);
    bl_autofree int32_t *starts = malloc((size_t)(B + 1) * sizeof *starts);
    bl_autofree int32_t *positions = calloc((size_t)B, sizeof *positions);
    if (!images || !pooled || !ids || !labels || !starts || !positions)
        return bl_fail(err, BL_ENOMEM, "no memory for a micro-batch");
    memset(labels, 1, (size_t)texts);
    for (int64_t b = 0; b <= B; b++)
        starts[b] = (int32_t)(b * tokens);
    const struct micro_batch mb = {.B = B,
                                   .pixels = features ? NULL : images,
                                   .features = features ? images : NULL,
                                   .pooled = features ? pooled : NULL,
                                   .ids = ids,
                                   .ids_start = starts,
                                   .labels = labels,
                                   .positions = positions};
    const struct captioner_pass pass = {.dropout = true};
    captioner_step_begin(captioner);
    for (int i = 0; i < 2; i++)
        BL_TRY(captioner_forward_backward(captioner, &mb, &pass, err));
    return 0;
}

int rehearse_dry(struct captioner *captioner, const struct captioner_options *options,
                 enum ops_precision precision, int threads, int64_t B, int64_t tokens,
                 struct bl_error *err)
{
    bl_auto(ops) struct ops *dry = NULL;
    bl_auto(captioner) struct captioner *twin = NULL;
    BL_TRY(ops_cpu_dry_open(precision, threads, &dry, err));
    BL_TRY(captioner_open(dry, options, &twin, err));
    BL_TRY(rehearse(twin, B, tokens, options->features_only, err));
    return captioner_reserve(captioner, captioner_micro_batch_bytes(twin), err);
}
