/* common/models/family_vit.c - the plain Vision Transformer (Dosovitskiy et al. 2021), as ViTModel and
 * inside ViTForImageClassification, whose classifier is ignored. */
#include "common/models/family.h"

static const struct hf_tensor tensors[] = {
    {HF_EMBEDDING,
     HF_BODY,
     "embeddings.patch_embeddings.projection.weight",
     {HF_HIDDEN, HF_CHANNELS, HF_PATCH, HF_PATCH},
     HF_BIAS},
    {HF_POSITION, HF_BODY, "embeddings.position_embeddings", {HF_ONE, HF_TOKENS, HF_HIDDEN}, 0},
    {HF_CLASS_TOKEN, HF_BODY, "embeddings.cls_token", {HF_ONE, HF_ONE, HF_HIDDEN}, 0},
    {HF_NORM1, HF_LAYER, "layernorm_before.weight", {HF_HIDDEN}, HF_BIAS},
    {HF_NORM2, HF_LAYER, "layernorm_after.weight", {HF_HIDDEN}, HF_BIAS},
    {HF_QUERY,
     HF_LAYER,
     "attention.attention.query.weight",
     {HF_HIDDEN, HF_HIDDEN},
     HF_ATTENTION_BIAS},
    {HF_KEY, HF_LAYER, "attention.attention.key.weight", {HF_HIDDEN, HF_HIDDEN}, HF_ATTENTION_BIAS},
    {HF_VALUE,
     HF_LAYER,
     "attention.attention.value.weight",
     {HF_HIDDEN, HF_HIDDEN},
     HF_ATTENTION_BIAS},
    {HF_OUT, HF_LAYER, "attention.output.dense.weight", {HF_HIDDEN, HF_HIDDEN}, HF_BIAS},
    {HF_UP, HF_LAYER, "intermediate.dense.weight", {HF_INTERMEDIATE, HF_HIDDEN}, HF_BIAS},
    {HF_DOWN, HF_LAYER, "output.dense.weight", {HF_HIDDEN, HF_INTERMEDIATE}, HF_BIAS},
    {HF_FINAL_NORM, HF_BODY, "layernorm.weight", {HF_HIDDEN}, HF_BIAS},
};

const struct vision_family family_vit = {
    .name = "ViT",
    .model_types = {"vit"},
    .defaults = {.hidden = 768,
                 .layers = 12,
                 .heads = 12,
                 .intermediate = 3072,
                 .image_size = 224,
                 .patch = 16,
                 .channels = 3,
                 .norm = HF_LAYER_NORM,
                 .norm_eps = 1e-12f,
                 .activation = HF_GELU_ERF,
                 .qkv_bias = true},
    .qkv_bias = "qkv_bias",
    .filter = IMAGE_BILINEAR,
    .names = {"vit.", "encoder.layer.%d.", tensors, sizeof tensors / sizeof *tensors},
};
