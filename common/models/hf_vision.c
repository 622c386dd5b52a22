/* common/models/hf_vision.c - config.json of a vision model's folder. */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/models/hf_parts.h"

static const struct {
    const char *name;
    enum hf_activation activation;
} vision_activations[] = {
    {"gelu", HF_GELU_ERF},
    {"gelu_pytorch_tanh", HF_GELU_TANH},
    {"gelu_new", HF_GELU_TANH},
};

static int read_vision_activation(const json_t *json, enum hf_activation *ret, struct bl_error *err)
{
    const char *name = NULL;
    BL_TRY(bl_json_string(json, "hidden_act", &name, err));
    if (!name)
        return 0;
    for (size_t i = 0; i < sizeof vision_activations / sizeof *vision_activations; i++)
        if (!strcmp(name, vision_activations[i].name)) {
            *ret = vision_activations[i].activation;
            return 0;
        }
    return hf_fail_key(json, "hidden_act", "gelu, gelu_pytorch_tanh or gelu_new", err);
}

static int read_vision(const json_t *json, struct hf_vision *vision, struct bl_error *err)
{
    struct hf_vision *v = vision;
    BL_TRY(bl_json_int(json, "hidden_size", 1, BL_MODEL_WIDTH_MAX, &v->hidden, err));
    BL_TRY(bl_json_int(json, "num_hidden_layers", 1, BL_MODEL_LAYERS_MAX, &v->layers, err));
    BL_TRY(bl_json_int(json, "num_attention_heads", 1, BL_MODEL_WIDTH_MAX, &v->heads, err));
    BL_TRY(bl_json_int(json, "intermediate_size", 1, BL_MODEL_WIDTH_MAX, &v->intermediate, err));
    BL_TRY(bl_json_int(json, "image_size", 1, BL_MODEL_IMAGE_SIZE_MAX, &v->image_size, err));
    BL_TRY(bl_json_int(json, "patch_size", 1, v->image_size, &v->patch, err));
    BL_TRY(bl_json_int(json, "num_channels", 3, 3, &v->channels, err));
    BL_TRY(bl_json_float(json, "layer_norm_eps", 1e-20, 1, &v->norm_eps, err));
    BL_TRY(read_vision_activation(json, &v->activation, err));
    if (v->family->qkv_bias)
        BL_TRY(bl_json_bool(json, v->family->qkv_bias, &v->qkv_bias, err));
    BL_TRY(hf_expect_flags(json, v->family->flags, err));
    BL_TRY(hf_expect_not_quantized(json, err));
    BL_TRY(hf_expect_whole_heads(json, v->hidden, v->heads, err));
    v->grid = v->image_size / v->patch;
    v->leading_tokens = hf_tensor_of(&v->family->names, HF_CLASS_TOKEN) ? 1 : 0;
    v->tokens = v->leading_tokens + v->grid * v->grid;
    return 0;
}

/* model_type tells where the tower's keys stand: a SiglipModel nests them (or leaves them out). */
static int read_vision_config(const json_t *json, struct hf_vision *vision, struct bl_error *err)
{
    const char *type = NULL;
    bool is_nested = false;
    BL_TRY(bl_json_string(json, "model_type", &type, err));
    const struct vision_family *family = vision_family_find(type, &is_nested);
    if (!family)
        return hf_fail_key(json, "model_type", vision_family_types(), err);
    *vision = family->defaults;
    vision->family = family;
    if (!is_nested)
        return read_vision(json, vision, err);
    BL_TRY(hf_expect_not_quantized(json, err));
    const json_t *nested = NULL;
    BL_TRY(bl_json_container(json, family->nested, JSON_OBJECT, &nested, err));
    return bl_json_within(read_vision(nested, vision, err), family->nested, err);
}

int hf_vision_open(const char *folder, struct hf_vision *ret, struct bl_error *err)
{
    char path[4096];
    bl_autojson json_t *json = NULL;
    struct hf_vision vision = {0};
    BL_TRY(hf_config_open(folder, "config.json", path, &json, err));
    int rc = read_vision_config(json, &vision, err);
    if (rc < 0) {
        bl_error_file(err, path);
        return rc;
    }
    *ret = vision;
    return 0;
}
