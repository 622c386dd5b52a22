/* common/models/hf_tensors.c - one walk over the tensors of a folder, which either checks or counts. */
#include "common/models/hf_tensors.h"

#include <stdio.h>

/* file NULL: only count. */
struct walk {
    const struct safetensors *file;
    const char *prefix;
    int64_t numbers;
    struct bl_error *err;
};

/* The tensor PREFIX + LAYER's name + name. */
static int visit(struct walk *w, const char *at, const char *name, int rank, const int64_t *dims)
{
    int64_t numbers = 1;
    for (int i = 0; i < rank; i++)
        numbers *= dims[i];
    w->numbers += numbers;
    if (!w->file)
        return 0;
    char full[256];
    const struct tensor *tensor;
    snprintf(full, sizeof full, "%s%s%s", w->prefix, at, name);
    BL_TRY(safetensors_expect(w->file, full, rank, dims, &tensor, w->err));
    if (tensor->dtype == BL_F32 || tensor->dtype == BL_F16 || tensor->dtype == BL_BF16)
        return 0;
    bl_fail(w->err, BL_EFORMAT, "expected F32, F16 or BF16, found %s",
            bl_dtype_name(tensor->dtype));
    bl_error_key(w->err, "tensor \"%s\"", full);
    return bl_error_file(w->err, tensor->file);
}
#define VISIT(w, at, name, ...)                                                                    \
    BL_TRY(visit(w, at, name, (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),     \
                 (const int64_t[]){__VA_ARGS__}))

/* NAME.weight (rows, columns) and, where wanted, NAME.bias (rows). columns 0: a norm. */
static int visit_linear(struct walk *w, const char *at, const char *name, int64_t rows,
                        int64_t columns, bool bias)
{
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    if (columns)
        VISIT(w, at, full, rows, columns);
    else
        VISIT(w, at, full, rows);
    if (!bias)
        return 0;
    snprintf(full, sizeof full, "%s.bias", name);
    VISIT(w, at, full, rows);
    return 0;
}

static bool has(const struct safetensors *file, const char *prefix, const char *name)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return file && safetensors_find(file, full);
}

/* -- vision ----------------------------------------------------------------------------------- */

static int walk_siglip_layer(struct walk *w, const struct hf_vision *c, const char *at)
{
    static const char *const attention[] = {"self_attn.q_proj", "self_attn.k_proj",
                                            "self_attn.v_proj"};
    BL_TRY(visit_linear(w, at, "layer_norm1", c->hidden, 0, true));
    BL_TRY(visit_linear(w, at, "layer_norm2", c->hidden, 0, true));
    for (int i = 0; i < 3; i++)
        BL_TRY(visit_linear(w, at, attention[i], c->hidden, c->hidden, c->qkv_bias));
    BL_TRY(visit_linear(w, at, "self_attn.out_proj", c->hidden, c->hidden, true));
    BL_TRY(visit_linear(w, at, "mlp.fc1", c->intermediate, c->hidden, true));
    return visit_linear(w, at, "mlp.fc2", c->hidden, c->intermediate, true);
}

static int walk_vit_layer(struct walk *w, const struct hf_vision *c, const char *at)
{
    static const char *const attention[] = {"attention.attention.query", "attention.attention.key",
                                            "attention.attention.value"};
    BL_TRY(visit_linear(w, at, "layernorm_before", c->hidden, 0, true));
    BL_TRY(visit_linear(w, at, "layernorm_after", c->hidden, 0, true));
    for (int i = 0; i < 3; i++)
        BL_TRY(visit_linear(w, at, attention[i], c->hidden, c->hidden, c->qkv_bias));
    BL_TRY(visit_linear(w, at, "attention.output.dense", c->hidden, c->hidden, true));
    BL_TRY(visit_linear(w, at, "intermediate.dense", c->intermediate, c->hidden, true));
    return visit_linear(w, at, "output.dense", c->hidden, c->intermediate, true);
}

static int walk_head(struct walk *w, const struct hf_vision *c)
{
    VISIT(w, "head.", "probe", 1, 1, c->hidden);
    VISIT(w, "head.", "attention.in_proj_weight", 3 * c->hidden, c->hidden);
    VISIT(w, "head.", "attention.in_proj_bias", 3 * c->hidden);
    BL_TRY(visit_linear(w, "head.", "attention.out_proj", c->hidden, c->hidden, true));
    BL_TRY(visit_linear(w, "head.", "layernorm", c->hidden, 0, true));
    BL_TRY(visit_linear(w, "head.", "mlp.fc1", c->intermediate, c->hidden, true));
    return visit_linear(w, "head.", "mlp.fc2", c->hidden, c->intermediate, true);
}

static int walk_vision(struct walk *w, const struct hf_vision *c, bool head)
{
    bool siglip = c->kind == HF_SIGLIP;
    const char *patch =
        siglip ? "embeddings.patch_embedding" : "embeddings.patch_embeddings.projection";
    char at[64];
    snprintf(at, sizeof at, "%s.weight", patch);
    const char *prefix = siglip ? "vision_model." : "vit.";
    w->prefix = has(w->file, prefix, at) ? prefix : "";
    VISIT(w, "", at, c->hidden, c->channels, c->patch, c->patch);
    snprintf(at, sizeof at, "%s.bias", patch);
    VISIT(w, "", at, c->hidden);
    if (siglip) {
        VISIT(w, "", "embeddings.position_embedding.weight", c->tokens, c->hidden);
    } else {
        VISIT(w, "", "embeddings.position_embeddings", 1, c->tokens, c->hidden);
        VISIT(w, "", "embeddings.cls_token", 1, 1, c->hidden);
    }
    for (int64_t i = 0; i < c->layers; i++) {
        snprintf(at, sizeof at, siglip ? "encoder.layers.%d." : "encoder.layer.%d.", (int)i);
        BL_TRY(siglip ? walk_siglip_layer(w, c, at) : walk_vit_layer(w, c, at));
    }
    BL_TRY(visit_linear(w, "", siglip ? "post_layernorm" : "layernorm", c->hidden, 0, true));
    return siglip && head ? walk_head(w, c) : 0;
}

int hf_vision_check(const struct hf_vision *config, bool head, const struct safetensors *file,
                    struct bl_error *err)
{
    struct walk walk = {.file = file, .err = err};
    return walk_vision(&walk, config, head);
}

int64_t hf_vision_parameters(const struct hf_vision *config, bool head)
{
    struct walk walk = {0};
    walk_vision(&walk, config, head);
    return walk.numbers;
}

/* -- language model --------------------------------------------------------------------------- */

static int walk_llm_layer(struct walk *w, const struct hf_llm *c, const char *at)
{
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    BL_TRY(visit_linear(w, at, "input_layernorm", c->hidden, 0, false));
    BL_TRY(visit_linear(w, at, "post_attention_layernorm", c->hidden, 0, false));
    BL_TRY(visit_linear(w, at, "self_attn.q_proj", q, c->hidden, c->attention_bias));
    BL_TRY(visit_linear(w, at, "self_attn.k_proj", kv, c->hidden, c->attention_bias));
    BL_TRY(visit_linear(w, at, "self_attn.v_proj", kv, c->hidden, c->attention_bias));
    BL_TRY(visit_linear(w, at, "self_attn.o_proj", c->hidden, q, c->attention_bias));
    BL_TRY(visit_linear(w, at, "mlp.gate_proj", c->intermediate, c->hidden, c->mlp_bias));
    BL_TRY(visit_linear(w, at, "mlp.up_proj", c->intermediate, c->hidden, c->mlp_bias));
    return visit_linear(w, at, "mlp.down_proj", c->hidden, c->intermediate, c->mlp_bias);
}

static int walk_llm(struct walk *w, const struct hf_llm *c)
{
    const char *body = has(w->file, "model.", "norm.weight") ? "model." : "";
    /* A tied matrix lies under either name. */
    bool under_head =
        c->tied && has(w->file, "", "lm_head.weight") && !has(w->file, body, "embed_tokens.weight");
    w->prefix = body;
    if (!under_head)
        VISIT(w, "", "embed_tokens.weight", c->vocabulary, c->hidden);
    for (int64_t i = 0; i < c->layers; i++) {
        char at[64];
        snprintf(at, sizeof at, "layers.%d.", (int)i);
        BL_TRY(walk_llm_layer(w, c, at));
    }
    BL_TRY(visit_linear(w, "", "norm", c->hidden, 0, false));
    w->prefix = "";
    if (under_head || !c->tied)
        VISIT(w, "", "lm_head.weight", c->vocabulary, c->hidden);
    return 0;
}

int hf_llm_check(const struct hf_llm *config, const struct safetensors *file, struct bl_error *err)
{
    struct walk walk = {.file = file, .err = err};
    return walk_llm(&walk, config);
}

int64_t hf_llm_parameters(const struct hf_llm *config)
{
    struct walk walk = {0};
    walk_llm(&walk, config);
    return walk.numbers;
}
