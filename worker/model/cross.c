/* worker/model/cross.c - which form of cross-attention, and what both have in common (cross.h). */
#include "worker/model/cross.h"

#include <stdlib.h>

void cross_operations(const struct cross_shape *shape, double ret[2])
{
    double K = (double)shape->queries, N = (double)shape->vision_tokens, d = (double)shape->width;
    double H = (double)shape->heads;
    ret[0] = 6 * N * d * d + 7 * K * N * d;     /* keys and values; scores and outputs */
    ret[1] = 7 * K * d * d + 6 * H * K * N * d; /* heads' projections; products with v^ */
}

bool cross_folds(const struct cross_shape *shape)
{
    double count[2];
    cross_operations(shape, count);
    /* The folded form's passes over (heads*K, d) cost memory traffic besides: at 0.6 of the operations
     * it is no faster on a CPU (tests/bench/cross_bench). */
    return count[1] < 0.5 * count[0];
}

int cross_open(struct cross *cross, const struct params *params, const struct cross_shape *shape,
               const struct cross_form *form, struct bl_error *err)
{
    *cross = (struct cross){.ops = params->ops, .params = params, .shape = *shape, .form = form};
    if (!form)
        cross->form = cross_folds(shape) ? &cross_folded : &cross_plain;
    return cross->form->open(cross, err);
}

void cross_close(struct cross *cross)
{
    if (cross->normed)
        cross->ops->operand_free(cross->ops, &cross->normed);
    *cross = (struct cross){0};
}

int cross_declare(const struct cross *cross, struct params *params, struct cross_block *block,
                  int64_t weight, int64_t bias, struct bl_error *err)
{
    int64_t d = cross->shape.width;
    params_linear_at(params, &block->query, weight, bias, d, d);
    block->value_bias = bias + 2 * d;
    return cross->form->declare(cross, params, block, weight, bias, err);
}

void cross_block_close(struct cross_block *block)
{
    free(block->key_heads);
    free(block->value_heads);
    *block = (struct cross_block){0};
}

int cross_begin(struct cross *cross, struct arena *arena, const act *v,
                const struct sequences *queries, struct bl_error *err)
{
    cross->B = queries->S;
    cross->v = v;
    cross->queries = *queries;
    return cross->form->begin(cross, arena, err);
}
