/* worker/model/qformer.h - the trainable Q-Former: K learned queries that attend to each other and
 * to the image (BLIP-2, Li et al. 2023, section 3.1; as built here: docs/recipe.md, Model). */
#pragma once

#include "worker/model/cross.h"
#include "worker/model/params.h"
#include "worker/model/sequences.h"

struct qformer;

struct qformer_shape {
    int64_t queries, layers, heads;
    int64_t vision_tokens, vision_width; /* N, d_v */
    int64_t width, out_width;            /* d_q, d: out_proj follows where they differ */
    float dropout;
    const struct cross_form *cross; /* NULL: the one with fewer operations */
};

/* Declares the tensors in params, which is borrowed; params_build must follow. *ret is the
 * caller's. */
int qformer_open(struct params *params, const struct qformer_shape *shape, struct qformer **ret,
                 struct bl_error *err);
void qformer_free(struct qformer **qformer);

/* y (B*K, d) from features (B*N, d_v). dropout: NULL for none, else p and site are filled in here.
 * saving: what backward needs (features included) stays in the arena, and the qformer remembers
 * where. */
int qformer_forward(struct qformer *qformer, struct arena *arena, act *y, const act *features,
                    int64_t B, const struct ops_dropout *dropout, enum saving saving,
                    struct bl_error *err);
/* Gradients of all tensors += from d_y (B*K, d) of the last forward that saved. ready is told the
 * offset below which this micro-batch's gradients are final, several times. */
int qformer_backward(struct qformer *qformer, struct arena *arena, const act *d_y,
                     const struct ops_dropout *dropout, void (*ready)(void *ctx, int64_t end),
                     void *ctx, struct bl_error *err);
/* probs (B,K,N) f32 device: the last block's cross-attention in the last forward that saved, mean
 * over heads. */
int qformer_attention(struct qformer *qformer, dev_f32 *probs, struct bl_error *err);
