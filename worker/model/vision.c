/* worker/model/vision.c - the vision encoder: one pre-norm transformer under each family's names.
 *
 * x = patches W^T + b (+ class token) + positions
 * x += out(attention(norm1(x)));  x += fc2(act(fc1(norm2(x))));  features = final(x)
 * Pooling head: one learned probe attends to the features; h += mlp(norm(h)). */
#include "worker/model/vision.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "worker/model/frozen.h"
#include "worker/model/sequences.h"

struct vision_layer {
    struct frozen_norm norm1, norm2;
    struct frozen_linear qkv, out, fc1, fc2;
};

struct pooling_head {
    dev_f32 *probe; /* (1, D) */
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
    dev_f32 *position; /* (N, D), the class token added to row 0 */
    struct vision_layer *layers;
    struct frozen_norm final;
    int64_t at_once; /* images */
    bool has_head;
    struct pooling_head head;
};

static bool has_class_token(const struct vision *vision)
{
    return vision->config.leading_tokens > 0;
}

static enum ops_epilogue epilogue_of(enum hf_activation activation)
{
    return activation == HF_GELU_ERF ? OPS_GELU_ERF : OPS_GELU_TANH;
}

/* -- opening -- */

static int open_linear(const struct frozen_source *source, struct frozen_linear *ret, int64_t layer,
                       enum hf_role role, struct bl_error *err)
{
    return frozen_linear_open(source, ret, layer, &role, 1, err);
}

static int open_norm(const struct vision *vision, const struct frozen_source *source,
                     struct frozen_norm *ret, int64_t layer, enum hf_role role,
                     struct bl_error *err)
{
    return frozen_norm_open(source, ret, layer, role, vision->config.norm, vision->config.norm_eps,
                            err);
}

static int open_layer(struct vision *vision, const struct frozen_source *source, int64_t index,
                      struct bl_error *err)
{
    static const enum hf_role qkv[] = {HF_QUERY, HF_KEY, HF_VALUE};
    struct vision_layer *layer = &vision->layers[index];
    BL_TRY(open_norm(vision, source, &layer->norm1, index, HF_NORM1, err));
    BL_TRY(frozen_linear_open(source, &layer->qkv, index, qkv, 3, err));
    BL_TRY(open_linear(source, &layer->out, index, HF_OUT, err));
    BL_TRY(open_norm(vision, source, &layer->norm2, index, HF_NORM2, err));
    BL_TRY(open_linear(source, &layer->fc1, index, HF_UP, err));
    return open_linear(source, &layer->fc2, index, HF_DOWN, err);
}

/* Positions of all tokens; a class token is added to its own row, so that one broadcast does
 * both. */
static int open_positions(struct vision *vision, const struct frozen_source *source,
                          struct bl_error *err)
{
    int64_t N = vision->config.tokens, D = vision->config.hidden;
    bl_autofree float *position = malloc((size_t)(N * D) * sizeof *position);
    bl_autofree float *class_token = malloc((size_t)D * sizeof *class_token);
    if (!position || !class_token)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld position embeddings", (long long)N);
    BL_TRY(frozen_read(source, HF_POSITION, position, err));
    if (has_class_token(vision)) {
        BL_TRY(frozen_read(source, HF_CLASS_TOKEN, class_token, err));
        for (int64_t i = 0; i < D; i++)
            position[i] += class_token[i];
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
    BL_TRY(frozen_read(source, HF_POOL_IN, w, err));
    BL_TRY(frozen_read_bias(source, HF_POOL_IN, b, err));
    head->q = (struct frozen_linear){.N = D, .K = D};
    head->kv = (struct frozen_linear){.N = 2 * D, .K = D};
    struct ops *ops = vision->ops;
    BL_TRY(ops->matrix_frozen(ops, &head->q.matrix, w, BL_F32, D, D, OPS_DATA_GOES, err));
    BL_TRY(
        ops->matrix_frozen(ops, &head->kv.matrix, w + D * D, BL_F32, 2 * D, D, OPS_DATA_GOES, err));
    BL_TRY(arena_f32_from(&vision->constants, b, D, &head->q.bias, err));
    BL_TRY(arena_f32_from(&vision->constants, b + D, 2 * D, &head->kv.bias, err));
    BL_TRY(frozen_read(source, HF_POOL_PROBE, b, err));
    return arena_f32_from(&vision->constants, b, D, &head->probe, err);
}

static int open_head(struct vision *vision, const struct frozen_source *source,
                     struct bl_error *err)
{
    struct pooling_head *head = &vision->head;
    BL_TRY(open_head_attention(vision, source, err));
    BL_TRY(open_linear(source, &head->out, 0, HF_POOL_OUT, err));
    BL_TRY(open_norm(vision, source, &head->norm, 0, HF_POOL_NORM, err));
    BL_TRY(open_linear(source, &head->fc1, 0, HF_POOL_UP, err));
    return open_linear(source, &head->fc2, 0, HF_POOL_DOWN, err);
}

static int open_tensors(struct vision *vision, struct bl_error *err)
{
    struct hf_shapes shapes;
    hf_vision_shapes(&vision->config, vision->file, &shapes);
    struct frozen_source source = {.ops = vision->ops,
                                   .file = vision->file,
                                   .shapes = &shapes,
                                   .constants = &vision->constants};
    BL_TRY(open_linear(&source, &vision->patch, 0, HF_EMBEDDING, err));
    BL_TRY(open_positions(vision, &source, err));
    for (int64_t i = 0; i < vision->config.layers; i++)
        BL_TRY(open_layer(vision, &source, i, err));
    BL_TRY(open_norm(vision, &source, &vision->final, 0, HF_FINAL_NORM, err));
    return vision->has_head ? open_head(vision, &source, err) : 0;
}

int vision_open(struct ops *ops, const char *folder, const struct hf_vision *config,
                const struct hf_preprocess *preprocess, bool pooling_head, bool alone,
                struct vision **ret, struct bl_error *err)
{
    bl_auto(vision) struct vision *vision = calloc(1, sizeof *vision);
    if (!vision)
        return bl_fail(err, BL_ENOMEM, "no memory for a vision tower");
    vision->ops = ops;
    vision->config = *config;
    vision->constants.ops = ops;
    vision->at_once = alone ? 1 : bl_max(1, ops->rows_at_once / config->tokens);
    vision->has_head = pooling_head && hf_tensor_of(&config->family->names, HF_POOL_PROBE);
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

const struct hf_vision *vision_config(const struct vision *vision)
{
    return &vision->config;
}

/* -- forward -- */

/* x (B*N, D) = embedded patches, class token, positions */
static int embed(const struct vision *vision, struct arena *arena, act *x, const dev_u8 *pixels,
                 int64_t B, struct bl_error *err)
{
    struct ops *ops = arena->ops;
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
        rows[i] = (int32_t)(i / G * N + config->leading_tokens + i % G);
    const dev_i32 *index;
    BL_TRY(arena_i32_from(arena, rows, B * G, &index, err));
    ops->zero(ops, x, (size_t)(B * N * D) * ops->act_bytes);
    ops->scatter_rows(ops, x, embedded, index, B * G, D);
    ops->broadcast_rows(ops, x, vision->position, B, N, D, true);
    return 0;
}

static int encode(const struct vision *vision, struct arena *arena, act *x,
                  const struct sequences *images, struct bl_error *err)
{
    struct ops *ops = arena->ops;
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
        frozen_norm_forward(ops, &layer->norm1, a, NULL, x, R);
        frozen_forward(ops, &layer->qkv, qkv, a, R, OPS_NONE);
        ops->attention_forward(ops, a, D, NULL, qkv, 3 * D, ops_at(ops, qkv, D), 3 * D,
                               ops_at(ops, qkv, 2 * D), 3 * D, &attention);
        act *between = qkv; /* x after attention: its queries are no longer needed */
        frozen_add(ops, &layer->out, between, x, a, R);
        frozen_norm_forward(ops, &layer->norm2, a, NULL, between, R);
        frozen_forward(ops, &layer->fc1, h, a, R, activation);
        frozen_add(ops, &layer->fc2, x, between, h, R);
    }
    frozen_norm_forward(ops, &vision->final, x, NULL, x, R);
    return 0;
}

/* h = out(attention(probe, features, features));  pooled = h + mlp(norm(h)) */
static int pool_by_head(const struct vision *vision, struct arena *arena, act *pooled,
                        const act *features, const struct sequences *images, struct bl_error *err)
{
    struct ops *ops = arena->ops;
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
    frozen_norm_forward(ops, &head->norm, q, NULL, pooled, B);
    frozen_forward(ops, &head->fc1, h, q, B, epilogue_of(config->activation));
    frozen_forward(ops, &head->fc2, q, h, B, OPS_NONE);
    ops->add(ops, pooled, pooled, q, B * D);
    return 0;
}

/* pooled (B, D) = row 0 of each image */
static void pool_by_class_token(const struct vision *vision, struct ops *ops, act *pooled,
                                const act *features, const struct sequences *images)
{
    ops->gather_rows(ops, pooled, features, images->start, images->S, vision->config.hidden);
}

static int forward_some(const struct vision *vision, struct arena *arena, act *features,
                        act *pooled, const dev_u8 *pixels, int64_t B, struct bl_error *err)
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
    if (vision->has_head)
        return pool_by_head(vision, arena, pooled, features, &images, err);
    pool_by_class_token(vision, arena->ops, pooled, features, &images);
    return 0;
}

size_t vision_image_bytes(const struct hf_vision *config)
{
    return (size_t)(config->image_size * config->image_size * config->channels);
}

int vision_forward(const struct vision *vision, struct arena *arena, act *features, act *pooled,
                   const uint8_t *pixels, int64_t B, struct bl_error *err)
{
    struct ops *ops = arena->ops;
    const int64_t N = vision->config.tokens, D = vision->config.hidden;
    const size_t image = vision_image_bytes(&vision->config);
    struct arena_mark mark = arena_mark(arena);
    dev_void *device;
    BL_TRY(arena_bytes(arena, (size_t)B * image, &device, err));
    ops->copy_in(ops, device, pixels, (size_t)B * image);
    struct arena_mark some = arena_mark(arena);
    for (int64_t b = 0; b < B; b += vision->at_once) {
        BL_TRY(forward_some(vision, arena, ops_at(ops, features, b * N * D),
                            pooled ? ops_at(ops, pooled, b * D) : NULL,
                            (const dev_u8 *)device + (size_t)b * image,
                            bl_min(vision->at_once, B - b), err));
        arena_release(arena, some);
    }
    arena_release(arena, mark);
    return 0;
}
