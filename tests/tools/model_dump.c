/* tests/tools/model_dump.c - what the model computes from folders and an input, as a safetensors file.
 *
 *     model_dump OPTIONS.json INPUT.safetensors OUTPUT.safetensors
 *
 * OPTIONS and INPUT are described in model_input.h.
 * OUTPUT   features, routing, projected, hidden (all rows), logits (label rows), nll (labels); grad.NAME of every
 *          trainable tensor, divided by the number of labels, auxiliary losses included; greedy and beam: ids of the
 *          continued prompts, -1 behind the end; attention
 *
 * The comparisons in tests/evidence/parity and tests/unit/model_test.c read it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/models/safetensors.h"
#include "tests/tools/model_input.h"
#include "worker/model/captioner_private.h"

#define OUTPUTS_MAX 1024

/* Everything to be written; names and data are owned. */
struct outputs {
    struct tensor tensors[OUTPUTS_MAX];
    size_t count;
};

static void *add_output(struct outputs *out, const char *name, enum bl_dtype dtype, int rank,
                        const int64_t *dims)
{
    BL_ASSERT_CMP(out->count, <, OUTPUTS_MAX);
    struct tensor *tensor = &out->tensors[out->count++];
    *tensor = (struct tensor){.name = strdup(name), .dtype = dtype, .rank = rank};
    size_t elements = 1;
    for (int i = 0; i < rank; i++) {
        tensor->dims[i] = dims[i];
        elements *= (size_t)dims[i];
    }
    tensor->size_bytes = elements * bl_dtype_bytes(dtype);
    void *data = calloc(1, tensor->size_bytes + 1);
    BL_ASSERT(tensor->name && data);
    tensor->data = data;
    return data;
}

static void release_outputs(struct outputs *out)
{
    for (size_t i = 0; i < out->count; i++) {
        free((void *)(uintptr_t)out->tensors[i].name);
        free((void *)(uintptr_t)out->tensors[i].data);
    }
}

/* Activations of the device as an f32 output. */
static int add_act(struct outputs *out, struct captioner *c, const char *name, const act *x,
                   int rank, const int64_t *dims, struct bl_error *err)
{
    float *host = add_output(out, name, BL_F32, rank, dims);
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= dims[i];
    struct arena_mark mark = arena_mark(&c->arena);
    float *device;
    BL_TRY(arena_f32(&c->arena, count, &device, err));
    c->ops->act_to_f32(c->ops, device, x, count);
    c->ops->copy_out(c->ops, host, device, (size_t)count * sizeof *host);
    arena_release(&c->arena, mark);
    return c->ops->sync(c->ops, err);
}

/* -- output -- */

static int dump_forward(struct captioner *c, const struct micro_batch *mb, struct outputs *out,
                        struct bl_error *err)
{
    struct arena *arena = &c->arena;
    int64_t B = mb->B, K = c->options.queries, D = c->llm_config.hidden,
            d_v = c->vision_config.hidden;
    int64_t V = c->llm_config.vocabulary;
    BL_TRY(arena_reset(arena, err));
    __attribute__((cleanup(layout_release))) struct layout layout = {0};
    BL_TRY(captioner_layout(c, mb, false, &layout, err));
    int64_t R = layout.rows.R, labels = layout.labels;
    struct images images;
    BL_TRY(captioner_images(c, mb, NULL, &images, err));
    BL_TRY(add_act(out, c, "features", images.features, 3,
                   (int64_t[]){B, c->vision_config.tokens, d_v}, err));
    if (images.routing)
        BL_TRY(add_act(out, c, "routing", images.routing, 2, (int64_t[]){B, d_v}, err));
    act *y, *x, *all, *kept, *logits;
    BL_TRY(arena_act(arena, B * K * D, &y, err));
    BL_TRY(captioner_project(c, &images, y, NULL, err));
    BL_TRY(add_act(out, c, "projected", y, 3, (int64_t[]){B, K, D}, err));

    BL_TRY(arena_act(arena, R * D, &x, err));
    BL_TRY(arena_act(arena, R * D, &all, err));
    BL_TRY(arena_act(arena, labels * D, &kept, err));
    BL_TRY(arena_act(arena, labels * V, &logits, err));
    bl_autofree int32_t *host_rows = malloc((size_t)R * sizeof *host_rows);
    BL_ASSERT(host_rows);
    for (int64_t r = 0; r < R; r++)
        host_rows[r] = (int32_t)r;
    struct llm_rows rows = layout.rows;
    rows.kept = R;
    BL_TRY(arena_i32_from(arena, host_rows, R, &rows.keep, err));
    BL_TRY(captioner_inputs(c, x, &layout, y, err));
    BL_TRY(llm_forward(c->llm, arena, all, x, &rows, NULL, SAVE_NOTHING, err));
    c->ops->gather_rows(c->ops, kept, all, layout.rows.keep, labels, D);
    BL_TRY(llm_logits(c->llm, arena, logits, kept, labels, err));
    BL_TRY(add_act(out, c, "logits", logits, 2, (int64_t[]){labels, V}, err));
    llm_final_norm(c->llm, all, all, R);
    return add_act(out, c, "hidden", all, 2, (int64_t[]){R, D}, err);
}

/* Two halves of the batch as two micro-batches: gradients accumulate, and the router sees all images. */
static int dump_gradients(struct captioner *c, const struct micro_batch *mb, struct outputs *out,
                          struct bl_error *err)
{
    const struct captioner_params *params = captioner_params(c);
    struct ops *ops = c->ops;
    struct captioner_pass pass = {0};
    captioner_step_begin(c);
    ops->zero(ops, params->grads, (size_t)params->count * sizeof(float));
    int64_t half = mb->B / 2, size = c->vision_config.image_size;
    bl_autofree int32_t *start = malloc((size_t)(mb->B + 1) * sizeof *start);
    BL_ASSERT(start);
    for (int64_t b = half; b <= mb->B; b++)
        start[b - half] = mb->ids_start[b] - mb->ids_start[half];
    struct micro_batch first = *mb, second = *mb;
    first.B = half;
    second.B = mb->B - half;
    second.pixels += half * size * size * 3;
    second.ids += mb->ids_start[half];
    second.labels += mb->ids_start[half];
    second.ids_start = start;
    second.positions += half;
    BL_TRY(captioner_forward_backward(c, &first, &pass, err));
    BL_TRY(captioner_forward_backward(c, &second, &pass, err));
    struct captioner_sums sums;
    BL_TRY(captioner_step_sums(c, &sums, err));
    struct captioner_router router = {.tokens = (double)sums.tokens,
                                      .images = (double)sums.images,
                                      .alpha = 0.01f,
                                      .beta = 0.001f};
    for (int e = 0; e < CAPTIONER_EXPERTS_MAX; e++)
        router.share[e] = (double)sums.share[e] / OPS_FIXED_SCALE / (double)sums.images;
    for (int64_t grain = 0; grain < 2; grain++)
        BL_TRY(captioner_router_backward(c, &router, grain, err));

    bl_autofree float *host = malloc((size_t)params->count * sizeof *host);
    BL_ASSERT(host);
    ops->copy_out(ops, host, params->grads, (size_t)params->count * sizeof *host);
    BL_TRY(ops->sync(ops, err));
    for (int64_t i = 0; i < params->tensors; i++) {
        const struct captioner_param *param = &params->at[i];
        char name[80];
        snprintf(name, sizeof name, "grad.%s", param->name);
        float *grad = add_output(out, name, BL_F32, param->rank, param->dims);
        float scale = param->offset >= params->router_first ? 1 : 1 / (float)sums.tokens;
        for (int64_t j = 0; j < param->count; j++)
            grad[j] = host[param->offset + j] * scale;
    }
    return 0;
}

static int dump_scores(struct captioner *c, const struct micro_batch *mb, struct outputs *out,
                       struct bl_error *err)
{
    bl_autofree struct captioner_score *scores = calloc((size_t)mb->B + 1, sizeof *scores);
    BL_ASSERT(scores);
    BL_TRY(captioner_evaluate(c, mb, scores, NULL, NULL, err));
    float *nll = add_output(out, "nll", BL_F32, 1, &mb->B);
    float *correct = add_output(out, "correct", BL_F32, 1, &mb->B);
    for (int64_t b = 0; b < mb->B; b++) {
        nll[b] = (float)scores[b].nll;
        correct[b] = (float)scores[b].correct;
    }
    int64_t G = c->vision_config.grid * c->vision_config.grid;
    float *probs =
        add_output(out, "attention", BL_F32, 3, (int64_t[]){mb->B, c->options.queries, G});
    return captioner_attention(c, mb, probs, err);
}

static int dump_captions(struct captioner *c, const struct model_input *input, struct outputs *out,
                         struct bl_error *err)
{
    const struct micro_batch *prompts = &input->prompts;
    int64_t max_new = input->max_new, beams = input->beams;
    if (max_new == 0)
        return 0;
    const struct hf_llm *llm = captioner_llm(c);
    bl_autofree struct captioner_caption *captions =
        calloc((size_t)prompts->B + 1, sizeof *captions);
    BL_ASSERT(captions);
    for (int beam = 0; beam < 2; beam++) {
        struct captioner_generation how = {.max_new = (int32_t)max_new,
                                           .beams = beam ? (int32_t)beams : 1,
                                           .top_p = 1,
                                           .eos = llm->eos,
                                           .eos_count = llm->eos_count};
        int32_t *ids =
            add_output(out, beam ? "beam" : "greedy", BL_I32, 2, (int64_t[]){prompts->B, max_new});
        float *nll = add_output(out, beam ? "beam_nll" : "greedy_nll", BL_F32, 1, &prompts->B);
        for (int64_t b = 0; b < prompts->B; b++)
            captions[b].ids = ids + b * max_new;
        BL_TRY(captioner_generate(c, prompts, &how, captions, err));
        for (int64_t b = 0; b < prompts->B; b++) {
            nll[b] = captions[b].nll;
            for (int64_t i = captions[b].count; i < max_new; i++)
                captions[b].ids[i] = -1;
        }
    }
    return 0;
}

static int dump(const char *options_path, const char *input_path, const char *output_path,
                struct bl_error *err)
{
    __attribute__((cleanup(model_input_close))) struct model_input input = {0};
    __attribute__((cleanup(release_outputs))) struct outputs out = {.count = 0};
    BL_TRY(model_input_open(options_path, input_path, &input, err));
    BL_TRY(dump_forward(input.c, &input.texts, &out, err));
    BL_TRY(dump_gradients(input.c, &input.texts, &out, err));
    BL_TRY(dump_scores(input.c, &input.texts, &out, err));
    BL_TRY(dump_captions(input.c, &input, &out, err));
    return safetensors_write(output_path, out.tensors, out.count, NULL, err);
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    if (argc != 4)
        bl_fail(&err, BL_EUSAGE,
                "usage: model_dump OPTIONS.json INPUT.safetensors OUTPUT.safetensors");
    else
        dump(argv[1], argv[2], argv[3], &err);
    if (!err.code)
        return 0;
    char line[1600];
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "model_dump: %s\n", line);
    return bl_error_exit_code(err.code);
}
