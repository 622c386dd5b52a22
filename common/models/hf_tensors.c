/* common/models/hf_tensors.c - see hf_tensors.h. */
#include "common/models/hf_tensors.h"

#include <stdio.h>
#include <string.h>

/* -- shapes -- */

/* Whether any tensor of the folder carries the prefix of published ones. */
static const char *prefix_of(const struct hf_names *names, const struct safetensors *file)
{
    if (!file)
        return names->prefix;
    for (size_t i = 0; i < safetensors_count(file); i++)
        if (!strncmp(safetensors_at(file, i)->name, names->prefix, strlen(names->prefix)))
            return names->prefix;
    return "";
}

void hf_vision_shapes(const struct hf_vision *config, const struct safetensors *file,
                      struct hf_shapes *ret)
{
    const struct hf_names *names = &config->family->names;
    *ret = (struct hf_shapes){
        .names = names,
        .prefix = prefix_of(names, file),
        .layers = config->layers,
        .sizes = {[HF_ONE] = 1,
                  [HF_HIDDEN] = config->hidden,
                  [HF_THREE_HIDDEN] = 3 * config->hidden,
                  [HF_INTERMEDIATE] = config->intermediate,
                  [HF_QUERIES] = config->hidden,
                  [HF_KEYS] = config->hidden,
                  [HF_TOKENS] = config->tokens,
                  [HF_CHANNELS] = config->channels,
                  [HF_PATCH] = config->patch},
        .biases = {[HF_BIAS] = true, [HF_ATTENTION_BIAS] = config->qkv_bias, [HF_MLP_BIAS] = true},
    };
}

void hf_llm_shapes(const struct hf_llm *config, const struct safetensors *file,
                   struct hf_shapes *ret)
{
    const struct hf_names *names = &config->family->names;
    *ret = (struct hf_shapes){
        .names = names,
        .prefix = prefix_of(names, file),
        .layers = config->layers,
        .sizes = {[HF_ONE] = 1,
                  [HF_HIDDEN] = config->hidden,
                  [HF_THREE_HIDDEN] = 3 * config->hidden,
                  [HF_INTERMEDIATE] = config->intermediate,
                  [HF_QUERIES] = config->heads * config->head_dim,
                  [HF_KEYS] = config->kv_heads * config->head_dim,
                  [HF_VOCABULARY] = config->vocabulary},
        .biases = {[HF_BIAS] = true,
                   [HF_ATTENTION_BIAS] = config->attention_bias,
                   [HF_MLP_BIAS] = config->mlp_bias},
    };
}

void hf_shapes_name(const struct hf_shapes *shapes, const struct hf_tensor *tensor, int64_t layer,
                    char ret[HF_NAME_BYTES])
{
    char at[64] = "";
    if (tensor->scope == HF_LAYER)
        snprintf(at, sizeof at, shapes->names->layer, (int)layer);
    int length = snprintf(ret, HF_NAME_BYTES, "%s%s%s",
                          tensor->scope == HF_TOP ? "" : shapes->prefix, at, tensor->name);
    BL_ASSERT_CMP(length, <, HF_NAME_BYTES); /* the names are ours */
}

bool hf_shapes_bias_name(const struct hf_shapes *shapes, const struct hf_tensor *tensor,
                         int64_t layer, char ret[HF_NAME_BYTES])
{
    static const char weight[] = "weight";
    if (!shapes->biases[tensor->bias])
        return false;
    hf_shapes_name(shapes, tensor, layer, ret);
    char *end = ret + strlen(ret) - (sizeof weight - 1);
    BL_ASSERT(!strcmp(end, weight));
    strcpy(end, "bias");
    return true;
}

int hf_shapes_dims(const struct hf_shapes *shapes, const struct hf_tensor *tensor, int64_t ret[4])
{
    int rank = 0;
    for (; rank < 4 && tensor->shape[rank] != HF_END; rank++)
        ret[rank] = shapes->sizes[tensor->shape[rank]];
    return rank;
}

static const struct tensor *find_role(const struct hf_shapes *shapes,
                                      const struct safetensors *file, enum hf_role role)
{
    char name[HF_NAME_BYTES];
    hf_shapes_name(shapes, hf_tensor_of(shapes->names, role), 0, name);
    return safetensors_find(file, name);
}

bool hf_llm_tied(const struct hf_llm *config, const struct safetensors *file)
{
    struct hf_shapes shapes;
    hf_llm_shapes(config, file, &shapes);
    const struct tensor *embedding = find_role(&shapes, file, HF_EMBEDDING);
    const struct tensor *head = find_role(&shapes, file, HF_HEAD);
    return config->tied && (!embedding || !head || tensor_equal(embedding, head));
}

enum hf_role hf_llm_embedding(const struct hf_llm *config, const struct hf_shapes *shapes,
                              const struct safetensors *file)
{
    if (!config->tied || !file || find_role(shapes, file, HF_EMBEDDING))
        return HF_EMBEDDING;
    return find_role(shapes, file, HF_HEAD) ? HF_HEAD : HF_EMBEDDING;
}

/* -- judging a folder -- */

int hf_tensor_expect(const struct safetensors *file, const char *name, int rank,
                     const int64_t *dims, const struct tensor **ret, struct bl_error *err)
{
    const struct tensor *tensor;
    BL_TRY(safetensors_expect(file, name, rank, dims, &tensor, err));
    if (tensor->dtype == BL_F32 || tensor->dtype == BL_F16 || tensor->dtype == BL_BF16) {
        *ret = tensor;
        return 0;
    }
    bl_fail(err, BL_EFORMAT, "expected F32, F16 or BF16, found %s", tensor->dtype_name);
    bl_error_key(err, "tensor \"%s\"", name);
    return bl_error_file(err, tensor->file);
}

/* A folder, and what is asked of it. */
struct inquiry {
    struct hf_shapes shapes;
    const struct safetensors *file;
    enum hf_asked asked;
};

static int expect_finite(const struct tensor *tensor, struct bl_error *err)
{
    size_t at;
    float value;
    if (tensor_is_finite(tensor, &at))
        return 0;
    BL_TRY(tensor_to_f32(tensor, at, 1, &value, err));
    bl_fail(err, BL_EFORMAT, "expected finite values, found %g at element %zu", (double)value, at);
    bl_error_key(err, "tensor \"%s\"", tensor->name);
    bl_error_remedy(err,
                    "download the weights again; if they are the same, this model cannot be used");
    return bl_error_file(err, tensor->file);
}

static int expect_one(const struct inquiry *q, const char *name, int rank, const int64_t *dims,
                      struct bl_error *err)
{
    const struct tensor *found;
    BL_TRY(hf_tensor_expect(q->file, name, rank, dims, &found, err));
    return q->asked == HF_VALUES ? expect_finite(found, err) : 0;
}

static int expect(const struct inquiry *q, const struct hf_tensor *tensor, int64_t layer,
                  struct bl_error *err)
{
    char name[HF_NAME_BYTES];
    int64_t dims[4];
    int rank = hf_shapes_dims(&q->shapes, tensor, dims);
    hf_shapes_name(&q->shapes, tensor, layer, name);
    BL_TRY(expect_one(q, name, rank, dims, err));
    if (!hf_shapes_bias_name(&q->shapes, tensor, layer, name))
        return 0;
    return expect_one(q, name, 1, dims, err);
}

/* All tensors of a scope. */
static int expect_scope(const struct inquiry *q, enum hf_scope scope, int64_t layer,
                        struct bl_error *err)
{
    for (int i = 0; i < q->shapes.names->count; i++) {
        const struct hf_tensor *tensor = &q->shapes.names->tensors[i];
        if (tensor->scope == scope)
            BL_TRY(expect(q, tensor, layer, err));
    }
    return 0;
}

int hf_vision_check(const struct hf_vision *config, bool head, const struct safetensors *file,
                    enum hf_asked asked, struct bl_error *err)
{
    struct inquiry q = {.file = file, .asked = asked};
    hf_vision_shapes(config, file, &q.shapes);
    BL_TRY(expect_scope(&q, HF_BODY, 0, err));
    for (int64_t i = 0; i < config->layers; i++)
        BL_TRY(expect_scope(&q, HF_LAYER, i, err));
    return head ? expect_scope(&q, HF_POOLING, 0, err) : 0;
}

int hf_llm_check(const struct hf_llm *config, const struct safetensors *file, enum hf_asked asked,
                 struct bl_error *err)
{
    struct inquiry q = {.file = file, .asked = asked};
    hf_llm_shapes(config, file, &q.shapes);
    const enum hf_role embedding = hf_llm_embedding(config, &q.shapes, file);
    const bool tied = hf_llm_tied(config, file);
    for (int i = 0; i < q.shapes.names->count; i++) {
        const struct hf_tensor *tensor = &q.shapes.names->tensors[i];
        bool unneeded = (tensor->role == HF_HEAD && tied && embedding != HF_HEAD) ||
                        (tensor->role == HF_EMBEDDING && embedding != HF_EMBEDDING);
        if (tensor->scope != HF_LAYER && !unneeded)
            BL_TRY(expect(&q, tensor, 0, err));
    }
    for (int64_t i = 0; i < config->layers; i++)
        BL_TRY(expect_scope(&q, HF_LAYER, i, err));
    return 0;
}
