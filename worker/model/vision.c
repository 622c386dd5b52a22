/* worker/model/vision.c - SigLIP's and ViT's encoders: one pre-norm transformer under two sets of
 * names.
 *
 * x = patches W^T + b (+ class token) + positions
 * x += out(attention(norm1(x)));  x += fc2(act(fc1(norm2(x))));  features = final(x)
 * SigLIP's pooling head: one learned probe attends to the features; h += mlp(norm(h)). */
#include "worker/model/vision.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "worker/model/frozen.h"
#include "worker/model/sequences.h"

/* Rows encoded at a time: bounds the scratch, and is enough for the matmuls to run at full speed.
 */
#define ROWS_AT_ONCE 4096

/* Tensor names inside a layer, and around the layers. */
struct vision_names {
    const char *layer; /* printf format of the layer's prefix */
    const char *norm1, *norm2, *q, *k, *v, *out, *fc1, *fc2;
    const char *patch, *final;
};

static const struct vision_names siglip_names = {
    "encoder.layers.%d.",         "layer_norm1",      "layer_norm2",
    "self_attn.q_proj",           "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.out_proj",         "mlp.fc1",          "mlp.fc2",
    "embeddings.patch_embedding", "post_layernorm",
};
static const struct vision_names vit_names = {
    "encoder.layer.%d.",
    "layernorm_before",
    "layernorm_after",
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
    "embeddings.patch_embeddings.projection",
    "layernorm",
};

struct vision_layer {
    struct frozen_norm norm1, norm2;
    struct frozen_linear qkv, out, fc1, fc2;
};

struct pooling_head {
    float *probe; /* (1, D) */
    struct frozen_linear q, kv, out, fc1, fc2;
    struct frozen_norm norm;
};

struct vision {
    struct ops *ops;
    struct hf_vision config;
    float scale[3], shift[3];
    struct safetensors *file;
    struct arena constants;
    struct frozen_linear patch;
    float *position; /* (N, D), the class token added to row 0 */
    struct vision_layer *layers;
    struct frozen_norm final;
    bool has_head;
    struct pooling_head head;
};

static bool has_class_token(const struct vision *vision)
{
    return vision->config.kind == HF_VIT;
}

static enum ops_epilogue epilogue_of(enum hf_activation activation)
{
    switch (activation) {
    case HF_GELU_ERF:
        return OPS_GELU_ERF;
    case HF_GELU_TANH:
        return OPS_GELU_TANH;
    case HF_SILU:
        return OPS_SILU;
    }
    BL_ASSERT(!"an activation of hf.h");
    return OPS_NONE;
}

/* -- opening -- */

static int open_layer(struct vision *vision, const struct frozen_source *source,
                      const struct vision_names *names, int64_t index, struct bl_error *err)
{
    const struct hf_vision *config = &vision->config;
    struct vision_layer *layer = &vision->layers[index];
    int64_t D = config->hidden;
    char at[64];
    snprintf(at, sizeof at, names->layer, (int)index);
    BL_TRY(frozen_norm_open(source, &layer->norm1, at, names->norm1, D, true, err));
    BL_TRY(frozen_linear_open(
        source, &layer->qkv, at,
        (const struct frozen_part[]){{names->q, D}, {names->k, D}, {names->v, D}}, 3, D,
        config->qkv_bias, err));
    BL_TRY(frozen_linear_open(source, &layer->out, at, &(const struct frozen_part){names->out, D},
                              1, D, true, err));
    BL_TRY(frozen_norm_open(source, &layer->norm2, at, names->norm2, D, true, err));
    BL_TRY(frozen_linear_open(source, &layer->fc1, at,
                              &(const struct frozen_part){names->fc1, config->intermediate}, 1, D,
                              true, err));
    return frozen_linear_open(source, &layer->fc2, at, &(const struct frozen_part){names->fc2, D},
                              1, config->intermediate, true, err);
}

/* Positions of all tokens; ViT's class token is added to its own row, so that one broadcast does
 * both. */
static int open_positions(struct vision *vision, const struct frozen_source *source,
                          struct bl_error *err)
{
    int64_t N = vision->config.tokens, D = vision->config.hidden;
    bl_autofree float *position = malloc((size_t)(N * D) * sizeof *position);
    bl_autofree float *class_token = malloc((size_t)D * sizeof *class_token);
    if (!position || !class_token)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld position embeddings", (long long)N);
    if (has_class_token(vision)) {
        BL_TRY(frozen_read(source, "embeddings.position_embeddings", 3, (const int64_t[]){1, N, D},
                           position, err));
        BL_TRY(frozen_read(source, "embeddings.cls_token", 3, (const int64_t[]){1, 1, D},
                           class_token, err));
        for (int64_t i = 0; i < D; i++)
            position[i] += class_token[i];
    } else {
        BL_TRY(frozen_read(source, "embeddings.position_embedding.weight", 2,
                           (const int64_t[]){N, D}, position, err));
    }
    return arena_f32_from(&vision->constants, position, N * D, &vision->position, err);
}

/* The head is a torch MultiheadAttention: query, key and value weights packed in one (3D, D). */
static int open_head_attention(struct vision *vision, const struct frozen_source *source,
                               struct bl_error *err)
{
    int64_t D = vision->config.hidden;
    struct pooling_head *head = &vision->head;
    bl_autofree float *w = malloc((size_t)(3 * D * D) * sizeof *w);
    bl_autofree float *b = malloc((size_t)(3 * D) * sizeof *b);
    if (!w || !b)
        return bl_fail(err, BL_ENOMEM, "no memory for the pooling head");
    BL_TRY(frozen_read(source, "head.attention.in_proj_weight", 2, (const int64_t[]){3 * D, D}, w,
                       err));
    BL_TRY(frozen_read(source, "head.attention.in_proj_bias", 1, (const int64_t[]){3 * D}, b, err));
    head->q = (struct frozen_linear){.N = D, .K = D};
    head->kv = (struct frozen_linear){.N = 2 * D, .K = D};
    struct ops *ops = vision->ops;
    BL_TRY(ops->matrix_frozen(ops, &head->q.matrix, w, BL_F32, D, D, false, err));
    BL_TRY(ops->matrix_frozen(ops, &head->kv.matrix, w + D * D, BL_F32, 2 * D, D, false, err));
    BL_TRY(arena_f32_from(&vision->constants, b, D, &head->q.bias, err));
    BL_TRY(arena_f32_from(&vision->constants, b + D, 2 * D, &head->kv.bias, err));
    BL_TRY(frozen_read(source, "head.probe", 3, (const int64_t[]){1, 1, D}, b, err));
    return arena_f32_from(&vision->constants, b, D, &head->probe, err);
}

static int open_head(struct vision *vision, const struct frozen_source *source,
                     struct bl_error *err)
{
    int64_t D = vision->config.hidden, intermediate = vision->config.intermediate;
    struct pooling_head *head = &vision->head;
    BL_TRY(open_head_attention(vision, source, err));
    BL_TRY(frozen_linear_open(source, &head->out, "head.",
                              &(const struct frozen_part){"attention.out_proj", D}, 1, D, true,
                              err));
    BL_TRY(frozen_norm_open(source, &head->norm, "head.", "layernorm", D, true, err));
    BL_TRY(frozen_linear_open(source, &head->fc1, "head.",
                              &(const struct frozen_part){"mlp.fc1", intermediate}, 1, D, true,
                              err));
    return frozen_linear_open(source, &head->fc2, "head.",
                              &(const struct frozen_part){"mlp.fc2", D}, 1, intermediate, true,
                              err);
}

static int open_tensors(struct vision *vision, struct bl_error *err)
{
    const struct hf_vision *config = &vision->config;
    bool siglip = config->kind == HF_SIGLIP;
    const struct vision_names *names = siglip ? &siglip_names : &vit_names;
    struct frozen_source source = {
        .ops = vision->ops, .file = vision->file, .constants = &vision->constants};
    /* Published folders carry the prefix, re-saved ones may not; a missing tensor is then named
     * without it. */
    snprintf(source.prefix, sizeof source.prefix, siglip ? "vision_model." : "vit.");
    char first[128];
    snprintf(first, sizeof first, "%s.weight", names->patch);
    if (!frozen_has(&source, first))
        source.prefix[0] = '\0';

    int64_t D = config->hidden;
    BL_TRY(frozen_linear_open(&source, &vision->patch, "",
                              &(const struct frozen_part){names->patch, D}, 1,
                              config->channels * config->patch * config->patch, true, err));
    BL_TRY(open_positions(vision, &source, err));
    for (int64_t i = 0; i < config->layers; i++)
        BL_TRY(open_layer(vision, &source, names, i, err));
    BL_TRY(frozen_norm_open(&source, &vision->final, "", names->final, D, true, err));
    if (vision->has_head)
        BL_TRY(open_head(vision, &source, err));
    return 0;
}

int vision_open(struct ops *ops, const char *folder, const struct hf_vision *config,
                const struct hf_preprocess *preprocess, bool pooling_head, struct vision **ret,
                struct bl_error *err)
{
    bl_auto(vision) struct vision *vision = calloc(1, sizeof *vision);
    if (!vision)
        return bl_fail(err, BL_ENOMEM, "no memory for a vision tower");
    vision->ops = ops;
    vision->config = *config;
    vision->constants.ops = ops;
    vision->has_head = pooling_head && config->kind == HF_SIGLIP;
    for (int c = 0; c < 3; c++) {
        vision->scale[c] = preprocess->rescale_factor / preprocess->std[c];
        vision->shift[c] = -preprocess->mean[c] / preprocess->std[c];
    }
    vision->layers = calloc((size_t)config->layers, sizeof *vision->layers);
    if (!vision->layers)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld layers", (long long)config->layers);
    BL_TRY(safetensors_open(folder, &vision->file, err));
    if (open_tensors(vision, err) < 0)
        return bl_error_file(err, folder);
    *ret = bl_take(&vision);
    return 0;
}

void vision_free(struct vision **vision)
{
    struct vision *v = *vision;
    if (!v)
        return;
    frozen_linear_close(v->ops, &v->patch);
    for (int64_t i = 0; v->layers && i < v->config.layers; i++) {
        struct vision_layer *layer = &v->layers[i];
        frozen_linear_close(v->ops, &layer->qkv);
        frozen_linear_close(v->ops, &layer->out);
        frozen_linear_close(v->ops, &layer->fc1);
        frozen_linear_close(v->ops, &layer->fc2);
    }
    struct pooling_head *head = &v->head;
    frozen_linear_close(v->ops, &head->q);
    frozen_linear_close(v->ops, &head->kv);
    frozen_linear_close(v->ops, &head->out);
    frozen_linear_close(v->ops, &head->fc1);
    frozen_linear_close(v->ops, &head->fc2);
    arena_close(&v->constants);
    safetensors_free(&v->file);
    free(v->layers);
    free(v);
    *vision = NULL;
}

/* -- forward -- */

/* x (B*N, D) = embedded patches, class token, positions */
static int embed(const struct vision *vision, struct arena *arena, act *x, const uint8_t *pixels,
                 int64_t B, struct bl_error *err)
{
    struct ops *ops = vision->ops;
    const struct hf_vision *config = &vision->config;
    int64_t N = config->tokens, D = config->hidden, G = config->grid * config->grid;
    act *patches;
    BL_TRY(arena_act(arena, B * G * vision->patch.K, &patches, err));
    ops->patchify(ops, patches, pixels, B, config->image_size, config->patch, vision->scale,
                  vision->shift);
    if (!has_class_token(vision)) {
        frozen_forward(ops, &vision->patch, x, patches, B * G, OPS_NONE);
        ops->broadcast_rows(ops, x, vision->position, B, N, D, true);
        return 0;
    }
    act *embedded;
    BL_TRY(arena_act(arena, B * G * D, &embedded, err));
    frozen_forward(ops, &vision->patch, embedded, patches, B * G, OPS_NONE);
    bl_autofree int32_t *rows = malloc((size_t)(B * G + 1) * sizeof *rows);
    if (!rows)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld patches", (long long)(B * G));
    for (int64_t i = 0; i < B * G; i++)
        rows[i] = (int32_t)(i / G * N + 1 + i % G);
    const int32_t *index;
    BL_TRY(arena_i32_from(arena, rows, B * G, &index, err));
    ops->zero(ops, x, (size_t)(B * N * D) * ops->act_bytes);
    ops->scatter_rows(ops, x, embedded, index, B * G, D);
    ops->broadcast_rows(ops, x, vision->position, B, N, D, true);
    return 0;
}

static int encode(const struct vision *vision, struct arena *arena, act *x,
                  const struct sequences *images, struct bl_error *err)
{
    struct ops *ops = vision->ops;
    const struct hf_vision *config = &vision->config;
    int64_t R = images->S * config->tokens, D = config->hidden;
    enum ops_epilogue activation = epilogue_of(config->activation);
    struct ops_attention attention =
        attention_over(images, images, config->heads, config->heads, D / config->heads);
    act *a, *qkv, *h;
    BL_TRY(arena_act(arena, R * D, &a, err));
    BL_TRY(arena_act(arena, R * 3 * D, &qkv, err));
    BL_TRY(arena_act(arena, R * config->intermediate, &h, err));
    for (int64_t i = 0; i < config->layers; i++) {
        const struct vision_layer *layer = &vision->layers[i];
        ops->layernorm_forward(ops, a, NULL, x, layer->norm1.weight, layer->norm1.bias, R, D,
                               config->norm_eps);
        frozen_forward(ops, &layer->qkv, qkv, a, R, OPS_NONE);
        ops->attention_forward(ops, a, D, NULL, qkv, 3 * D, ops_at(ops, qkv, D), 3 * D,
                               ops_at(ops, qkv, 2 * D), 3 * D, &attention);
        frozen_forward(ops, &layer->out, qkv, a, R, OPS_NONE);
        ops->add(ops, x, x, qkv, R * D);
        ops->layernorm_forward(ops, a, NULL, x, layer->norm2.weight, layer->norm2.bias, R, D,
                               config->norm_eps);
        frozen_forward(ops, &layer->fc1, h, a, R, activation);
        frozen_forward(ops, &layer->fc2, a, h, R, OPS_NONE);
        ops->add(ops, x, x, a, R * D);
    }
    ops->layernorm_forward(ops, x, NULL, x, vision->final.weight, vision->final.bias, R, D,
                           config->norm_eps);
    return 0;
}

/* h = out(attention(probe, features, features));  pooled = h + mlp(norm(h)) */
static int pool_by_head(const struct vision *vision, struct arena *arena, act *pooled,
                        const act *features, const struct sequences *images, struct bl_error *err)
{
    struct ops *ops = vision->ops;
    const struct hf_vision *config = &vision->config;
    const struct pooling_head *head = &vision->head;
    int64_t B = images->S, N = config->tokens, D = config->hidden;
    struct sequences probes;
    BL_TRY(sequences_uniform(arena, B, 1, &probes, err));
    act *probe, *q, *kv, *h;
    BL_TRY(arena_act(arena, B * D, &probe, err));
    BL_TRY(arena_act(arena, B * D, &q, err));
    BL_TRY(arena_act(arena, B * N * 2 * D, &kv, err));
    BL_TRY(arena_act(arena, B * config->intermediate, &h, err));
    ops->broadcast_rows(ops, probe, head->probe, B, 1, D, false);
    frozen_forward(ops, &head->q, q, probe, B, OPS_NONE);
    frozen_forward(ops, &head->kv, kv, features, B * N, OPS_NONE);
    struct ops_attention attention =
        attention_over(&probes, images, config->heads, config->heads, D / config->heads);
    ops->attention_forward(ops, probe, D, NULL, q, D, kv, 2 * D, ops_at(ops, kv, D), 2 * D,
                           &attention);
    frozen_forward(ops, &head->out, pooled, probe, B, OPS_NONE);
    ops->layernorm_forward(ops, q, NULL, pooled, head->norm.weight, head->norm.bias, B, D,
                           config->norm_eps);
    frozen_forward(ops, &head->fc1, h, q, B, epilogue_of(config->activation));
    frozen_forward(ops, &head->fc2, q, h, B, OPS_NONE);
    ops->add(ops, pooled, pooled, q, B * D);
    return 0;
}

/* pooled (B, D) = row 0 of each image */
static void pool_by_class_token(const struct vision *vision, act *pooled, const act *features,
                                const struct sequences *images)
{
    vision->ops->gather_rows(vision->ops, pooled, features, images->start, images->S,
                             vision->config.hidden);
}

static int forward_some(const struct vision *vision, struct arena *arena, act *features,
                        act *pooled, const uint8_t *pixels, int64_t B, struct bl_error *err)
{
    struct sequences images;
    BL_TRY(sequences_uniform(arena, B, vision->config.tokens, &images, err));
    struct arena_mark mark = arena_mark(arena);
    BL_TRY(embed(vision, arena, features, pixels, B, err));
    arena_release(arena, mark);
    BL_TRY(encode(vision, arena, features, &images, err));
    arena_release(arena, mark);
    if (!pooled)
        return 0;
    if (vision->config.kind == HF_SIGLIP)
        return pool_by_head(vision, arena, pooled, features, &images, err);
    pool_by_class_token(vision, pooled, features, &images);
    return 0;
}

int vision_forward(const struct vision *vision, struct arena *arena, act *features, act *pooled,
                   const uint8_t *pixels, int64_t B, struct bl_error *err)
{
    struct ops *ops = vision->ops;
    const struct hf_vision *config = &vision->config;
    int64_t D = config->hidden,
            image_bytes = config->image_size * config->image_size * config->channels;
    int64_t at_once = bl_max(1, ROWS_AT_ONCE / config->tokens);
    for (int64_t b = 0; b < B; b += at_once) {
        struct arena_mark mark = arena_mark(arena);
        BL_TRY(forward_some(vision, arena, ops_at(ops, features, b * config->tokens * D),
                            pooled ? ops_at(ops, pooled, b * D) : NULL, pixels + b * image_bytes,
                            bl_min(at_once, B - b), err));
        arena_release(arena, mark);
    }
    return 0;
}
