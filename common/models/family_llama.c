/* common/models/family_llama.c - Llama (Touvron et al. 2023), all generations: LlamaForCausalLM and the
 * bare LlamaModel. */
#include "common/models/family.h"

static const struct hf_tensor tensors[] = {
    {HF_EMBEDDING, HF_BODY, "embed_tokens.weight", {HF_VOCABULARY, HF_HIDDEN}, 0},
    {HF_NORM1, HF_LAYER, "input_layernorm.weight", {HF_HIDDEN}, 0},
    {HF_NORM2, HF_LAYER, "post_attention_layernorm.weight", {HF_HIDDEN}, 0},
    {HF_QUERY, HF_LAYER, "self_attn.q_proj.weight", {HF_QUERIES, HF_HIDDEN}, HF_ATTENTION_BIAS},
    {HF_KEY, HF_LAYER, "self_attn.k_proj.weight", {HF_KEYS, HF_HIDDEN}, HF_ATTENTION_BIAS},
    {HF_VALUE, HF_LAYER, "self_attn.v_proj.weight", {HF_KEYS, HF_HIDDEN}, HF_ATTENTION_BIAS},
    {HF_OUT, HF_LAYER, "self_attn.o_proj.weight", {HF_HIDDEN, HF_QUERIES}, HF_ATTENTION_BIAS},
    {HF_GATE, HF_LAYER, "mlp.gate_proj.weight", {HF_INTERMEDIATE, HF_HIDDEN}, HF_MLP_BIAS},
    {HF_UP, HF_LAYER, "mlp.up_proj.weight", {HF_INTERMEDIATE, HF_HIDDEN}, HF_MLP_BIAS},
    {HF_DOWN, HF_LAYER, "mlp.down_proj.weight", {HF_HIDDEN, HF_INTERMEDIATE}, HF_MLP_BIAS},
    {HF_FINAL_NORM, HF_BODY, "norm.weight", {HF_HIDDEN}, 0},
    {HF_HEAD, HF_TOP, "lm_head.weight", {HF_VOCABULARY, HF_HIDDEN}, 0},
};

const struct llm_family family_llama = {
    .name = "Llama",
    .model_types = {"llama"},
    .defaults = {.hidden = 4096,
                 .layers = 32,
                 .heads = 32,
                 .intermediate = 11008,
                 .vocabulary = 32000,
                 .positions_max = 2048,
                 .norm = HF_RMS_NORM,
                 .norm_eps = 1e-6f,
                 .rope_theta = 10000,
                 .rope_factor = 1},
    .norm_eps = "rms_norm_eps",
    .attention_bias = "attention_bias",
    .mlp_bias = "mlp_bias",
    .names = {"model.", "layers.%d.", tensors, sizeof tensors / sizeof *tensors},
};
