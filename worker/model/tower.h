/* worker/model/tower.h - the frozen vision tower by itself: images to features, for the feature cache. It gives what
 * the captioner computes for an image. */
#pragma once

#include <stdbool.h>

#include "worker/model/vision.h"

struct tower;

/* Reads the folder's configuration and weights. ops is borrowed for the tower's life. *ret is the caller's. pooled: also the
 * pooled vector, for which SigLIP's folder must have the pooling head. alone: as in vision_open. */
int tower_open(struct ops *ops, const char *folder, bool pooled, bool alone, struct tower **ret,
               struct bl_error *err);
/* NULL is fine; sets *tower to NULL. */
void tower_free(struct tower **tower);
const struct hf_vision *tower_vision(const struct tower *tower);

/* features (B, N, d_v) and pooled (B, d_v; untouched unless opened with it), f32 in host memory, of pixels (B, S, S, 3) u8. */
int tower_encode(struct tower *tower, int64_t B, const uint8_t *pixels, float *features,
                 float *pooled, struct bl_error *err);
