/* worker/model/projector.h - from the Q-Former's outputs to the LLM's input space: a residual MLP,
 * or experts mixed by a router that looks at the image as a whole (docs/recipe.md, Model and Loss). */
#pragma once

#include "worker/model/arena.h"
#include "worker/model/params.h"

struct projector;

struct projector_shape {
    enum captioner_projector kind;
    int64_t queries, width;        /* K, d */
    int64_t experts, vision_width; /* moe: E, d_v */
    float dropout;
};

/* Declares the experts' or the MLP's tensors in params, which is borrowed; params_build must
 * follow. *ret is the caller's. */
int projector_open(struct params *params, const struct projector_shape *shape,
                   struct projector **ret, struct bl_error *err);
/* Declares the router's tensors, which must be the last of all. */
void projector_declare_router(struct projector *projector);
void projector_free(struct projector **projector);

/* moe: w (B,E), lse (B) f32 from routing vectors c (B, d_v). */
int projector_route(const struct projector *projector, struct arena *arena, dev_f32 *w,
                    dev_f32 *lse, const act *c, int64_t B, struct bl_error *err);
/* y (B*K, d) from x (B*K, d), which is kept by reference when saved; w (B,E): moe only. */
int projector_forward(struct projector *projector, struct arena *arena, act *y, const act *x,
                      const dev_f32 *w, int64_t B, const struct ops_dropout *dropout, bool save,
                      struct bl_error *err);
/* d_x (B*K, d) = from d_y of the last forward that saved; weights' gradients +=; moe: d_w (B,E) =.
 */
int projector_backward(struct projector *projector, struct arena *arena, act *d_x, dev_f32 *d_w,
                       const act *d_y, const struct ops_dropout *dropout, struct bl_error *err);
/* moe: the router's gradients += from d_z (B,E), the gradient of its logits at routing vectors c
 * (B, d_v). */
int projector_route_backward(const struct projector *projector, struct arena *arena, const act *d_z,
                             const act *c, int64_t B, struct bl_error *err);
