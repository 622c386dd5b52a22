/* worker/model/ahead.h - the vision tower of the next micro-batch, in a second queue of the device beside the step at hand. The tower is
 * frozen, so that its features are the same there. Two micro-batches' features are kept: those in use, and those to come. */
#pragma once

#include "worker/model/vision.h"

struct ahead;

/* For micro-batches of up to B images. The tower runs once before this returns, while the device does nothing else: all memory is
 * taken then, and every product has its algorithm. pooled: the tower's pooled vectors are wanted, too. ops, whose open_beside is
 * not NULL, and vision are borrowed; *ret is the caller's. -BL_ENOMEM: the device lacks the memory, or has less than
 * AHEAD_SPARE_BYTES besides, which its libraries may want later. */
int ahead_open(struct ops *ops, const struct vision *vision, bool pooled, int64_t B,
               struct ahead **ret, struct bl_error *err);
void ahead_free(struct ahead **ahead);

#define AHEAD_SPARE_BYTES ((size_t)1 << 30)

/* Queues the tower of B images behind what ops had queued when ahead_take was called last, beside what it has queued since. pixels:
 * (B,S,S,3) u8 on the host, let go when this returns; their address is what the images are known by. */
int ahead_start(struct ahead *ahead, const uint8_t *pixels, int64_t B, struct bl_error *err);
/* Called before a micro-batch is queued on ops. true where its tower was the one started last: *ret_features (B*N, d_v) and *ret_pooled
 * (B, d_v), NULL unless wanted, may be read by what is queued on ops until the next call. What was started is forgotten. */
bool ahead_take(struct ahead *ahead, const uint8_t *pixels, int64_t B, act **ret_features,
                act **ret_pooled);
/* Nobody will take what was started. */
void ahead_forget(struct ahead *ahead);
