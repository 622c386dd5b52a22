/* worker/model/vision.h - the frozen vision tower: SigLIP (Zhai et al. 2023) or a plain ViT
 * (Dosovitskiy et al. 2021), inference only. */
#pragma once

#include "common/models/hf.h"
#include "worker/model/arena.h"

struct vision;

/* Reads FOLDER's tensors. pooling_head: SigLIP's attention-pooling head is wanted (and then must be
 * there). alone: one image after the other, so that its features do not depend on those it comes with; else as many at
 * once as the matmuls like, whose sums then depend on how many they are. ops, config and preprocess are borrowed. *ret is the
 * caller's. */
int vision_open(struct ops *ops, const char *folder, const struct hf_vision *config,
                const struct hf_preprocess *preprocess, bool pooling_head, bool alone,
                struct vision **ret, struct bl_error *err);
void vision_free(struct vision **vision);
const struct hf_vision *vision_config(const struct vision *vision);

/* features (B*N, d_v): SigLIP's patches after post_layernorm; ViT's tokens after the final norm,
 * class token first. pooled (B, d_v) or NULL: SigLIP's pooling head (vision opened with it) or
 * ViT's class token. pixels (B, S, S, 3) u8, host, let go when this returns. Scratch comes from `arena` and goes back to it, and the work
 * is queued on its ops: the vision's, or one beside it. */
int vision_forward(const struct vision *vision, struct arena *arena, act *features, act *pooled,
                   const uint8_t *pixels, int64_t B, struct bl_error *err);
/* Of one image's pixels. */
size_t vision_image_bytes(const struct hf_vision *config);
