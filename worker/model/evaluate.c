/* worker/model/evaluate.c - scores of given texts, routing weights and attention pictures: forward
 * passes only. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "worker/model/captioner_private.h"

/* Per-text sums of what is on the device for every label. */
static int collect(struct captioner *c, const struct layout *layout, const dev_f32 *nll,
                   const dev_u8 *correct, struct captioner_score *scores, struct bl_error *err)
{
    struct ops *ops = c->ops;
    size_t labels = (size_t)layout->labels;
    bl_autofree float *host_nll = calloc(labels + 1, sizeof *host_nll);
    bl_autofree uint8_t *host_correct = calloc(labels + 1, sizeof *host_correct);
    if (!host_nll || !host_correct)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu scores", labels);
    if (labels > 0) {
        ops->copy_out(ops, host_nll, nll, labels * sizeof *host_nll);
        ops->copy_out(ops, host_correct, correct, labels);
    }
    BL_TRY(ops->sync(ops, err));
    int64_t i = 0;
    for (int64_t s = 0; s < layout->S; s++) {
        struct captioner_score score = {.tokens = layout->label_counts[s]};
        for (int64_t end = i + score.tokens; i < end; i++) {
            score.nll += captioner_exact((double)host_nll[i]);
            score.correct += host_correct[i];
        }
        scores[s] = score;
    }
    return 0;
}

static int score_texts(struct captioner *c, const struct layout *layout, const act *y,
                       struct captioner_score *scores, struct bl_error *err)
{
    struct arena *arena = &c->arena;
    int64_t D = c->llm_config.hidden;
    struct arena_mark mark = arena_mark(arena);
    act *x, *h;
    dev_f32 *nll;
    dev_void *correct;
    BL_TRY(arena_act(arena, layout->rows.R * D, &x, err));
    BL_TRY(arena_act(arena, layout->labels * D, &h, err));
    BL_TRY(arena_f32(arena, layout->labels, &nll, err));
    BL_TRY(arena_bytes(arena, (size_t)layout->labels, &correct, err));
    BL_TRY(captioner_inputs(c, x, layout, y, err));
    BL_TRY(llm_forward(c->llm, arena, h, x, &layout->rows, NULL, SAVE_NOTHING, err));
    BL_TRY(llm_loss(c->llm, arena, nll, correct, NULL, h, layout->label_ids, layout->labels, err));
    BL_TRY(collect(c, layout, nll, correct, scores, err));
    arena_release(arena, mark);
    return 0;
}

/* ret (B*K, d): image permutation[b]'s rows in place b */
static int permute_images(struct captioner *c, act *ret, const act *y, const int32_t *permutation,
                          int64_t B, struct bl_error *err)
{
    int64_t width = c->options.queries * c->llm_config.hidden;
    for (int64_t b = 0; b < B; b++)
        BL_ASSERT(permutation[b] >= 0 && permutation[b] < B);
    const dev_i32 *index;
    BL_TRY(arena_i32_from(&c->arena, permutation, B, &index, err));
    c->ops->gather_rows(c->ops, ret, y, index, B, width);
    return 0;
}

int captioner_evaluate(struct captioner *c, const struct micro_batch *mb,
                       struct captioner_score *scores, const int32_t *permutation,
                       struct captioner_score *shuffled, struct bl_error *err)
{
    struct arena *arena = &c->arena;
    int64_t count = mb->B * c->options.queries * c->llm_config.hidden;
    BL_TRY(arena_reset(arena, err));
    __attribute__((cleanup(layout_release))) struct layout layout = {0};
    BL_TRY(captioner_layout(c, mb, false, &layout, err));
    if (mb->text_only)
        return score_texts(c, &layout, NULL, scores, err);
    struct images images;
    act *y, *other;
    BL_TRY(captioner_images(c, mb, NULL, &images, err));
    BL_TRY(arena_act(arena, count, &y, err));
    BL_TRY(captioner_project(c, &images, y, NULL, err));
    BL_TRY(score_texts(c, &layout, y, scores, err));
    if (!shuffled)
        return 0;
    BL_TRY(arena_act(arena, count, &other, err));
    BL_TRY(permute_images(c, other, y, permutation, mb->B, err));
    return score_texts(c, &layout, other, shuffled, err);
}

int captioner_routing_weights(struct captioner *c, const struct micro_batch *mb, float *weights,
                              struct bl_error *err)
{
    BL_ASSERT(captioner_is_moe(c));
    size_t bytes = (size_t)(mb->B * c->options.experts) * sizeof *weights;
    BL_TRY(arena_reset(&c->arena, err));
    struct images images;
    dev_f32 *w;
    BL_TRY(captioner_images(c, mb, NULL, &images, err));
    BL_TRY(arena_f32(&c->arena, mb->B * c->options.experts, &w, err));
    BL_TRY(projector_route(c->projector, &c->arena, w, NULL, images.routing, mb->B, err));
    c->ops->copy_out(c->ops, weights, w, bytes);
    return c->ops->sync(c->ops, err);
}

int captioner_attention(struct captioner *c, const struct micro_batch *mb, float *probs,
                        struct bl_error *err)
{
    struct arena *arena = &c->arena;
    int64_t N = c->vision_config.tokens, G = c->vision_config.grid * c->vision_config.grid;
    int64_t rows = mb->B * c->options.queries;
    BL_TRY(arena_reset(arena, err));
    struct images images;
    act *queries;
    dev_f32 *device;
    BL_TRY(captioner_images(c, mb, NULL, &images, err));
    BL_TRY(arena_act(arena, rows * c->llm_config.hidden, &queries, err));
    BL_TRY(qformer_forward(c->qformer, arena, queries, images.features, mb->B, NULL, SAVE_INPUTS,
                           err));
    BL_TRY(arena_f32(arena, rows * N, &device, err));
    BL_TRY(qformer_attention(c->qformer, device, err));
    bl_autofree float *host = malloc((size_t)(rows * N + 1) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld attention pictures", (long long)rows);
    c->ops->copy_out(c->ops, host, device, (size_t)(rows * N) * sizeof *host);
    BL_TRY(c->ops->sync(c->ops, err));
    for (int64_t r = 0; r < rows; r++)
        memcpy(probs + r * G, host + r * N + (N - G), (size_t)G * sizeof *probs);
    return 0;
}
