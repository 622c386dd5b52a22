/* worker/optimizer_adamw.c - AdamW (docs/recipe.md, Optimizer): two moments. */
#include "worker/optimizer.h"

static void update(struct ops *ops, dev_f32 *values, dev_f32 *const *tensors, const dev_f32 *grads,
                   int64_t count, const struct optimizer_update *u)
{
    const struct ops_adamw adamw = {.lr = u->rate,
                                    .beta1 = u->beta1,
                                    .beta2 = u->beta2,
                                    .eps = u->eps,
                                    .weight_decay = u->weight_decay,
                                    .t = u->t};
    ops->adamw(ops, values, tensors[0], tensors[1], grads, count, u->scale, &adamw);
}

const struct optimizer optimizer_adamw = {
    .tensor_count = 2,
    .tensors = {{"moment1", STATE_ZERO}, {"moment2", STATE_ZERO}},
    .update = update,
};
