/* common/models/hf_llm.c - config.json and generation_config.json of a language model's folder. */
#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/limits.h"
#include "common/models/hf_parts.h"

/* The wavelengths beyond original positions / low_freq_factor are stretched by factor. */
static int read_rope_llama3(const json_t *rope, struct hf_llm *llm, struct bl_error *err)
{
    static const char *const required[] = {"factor", "low_freq_factor", "high_freq_factor"};
    for (size_t i = 0; i < sizeof required / sizeof *required; i++)
        if (!json_is_number(json_object_get(rope, required[i])))
            return hf_fail_key(rope, required[i], "a number", err);
    llm->rope_original_positions = llm->positions_max;
    BL_TRY(bl_json_float(rope, "factor", 1, 1e6, &llm->rope_factor, err));
    BL_TRY(bl_json_float(rope, "low_freq_factor", 1e-6, 1e6, &llm->rope_low_freq_factor, err));
    BL_TRY(bl_json_float(rope, "high_freq_factor", 1e-6, 1e6, &llm->rope_high_freq_factor, err));
    BL_TRY(bl_json_int(rope, "original_max_position_embeddings", 1, BL_MODEL_POSITIONS_MAX,
                       &llm->rope_original_positions, err));
    if (llm->rope_high_freq_factor > llm->rope_low_freq_factor)
        return 0;
    return hf_fail_key(rope, "high_freq_factor", "more than low_freq_factor", err);
}

/* Published folders have rope_theta and rope_scaling, re-saved ones rope_parameters with both; the
 * inner value wins. */
static int read_rope(const json_t *json, struct hf_llm *llm, struct bl_error *err)
{
    BL_TRY(bl_json_float(json, "rope_theta", 1, 1e12, &llm->rope_theta, err));
    float partial = 1;
    BL_TRY(bl_json_float(json, "partial_rotary_factor", 1, 1, &partial, err));
    const char *outer = "rope_scaling";
    const json_t *rope = NULL;
    BL_TRY(bl_json_container(json, outer, JSON_OBJECT, &rope, err));
    if (!json_object_size(rope)) {
        outer = "rope_parameters";
        BL_TRY(bl_json_container(json, outer, JSON_OBJECT, &rope, err));
    }
    const char *type = NULL;
    const char *type_key = json_object_get(rope, "rope_type") ? "rope_type" : "type";
    BL_TRY(bl_json_within(bl_json_string(rope, type_key, &type, err), outer, err));
    BL_TRY(bl_json_within(bl_json_float(rope, "rope_theta", 1, 1e12, &llm->rope_theta, err), outer,
                          err));
    BL_TRY(bl_json_within(bl_json_float(rope, "partial_rotary_factor", 1, 1, &partial, err), outer,
                          err));
    if (!type || !strcmp(type, "default"))
        return 0;
    if (!strcmp(type, "llama3"))
        return bl_json_within(read_rope_llama3(rope, llm, err), outer, err);
    return bl_json_within(hf_fail_key(rope, type_key, "default or llama3", err), outer, err);
}

/* Adds an id unless it is there already. */
static int add_eos(const json_t *json, struct hf_llm *llm, struct bl_error *err)
{
    char expected[64];
    snprintf(expected, sizeof expected, "token ids from 0 to %lld", (long long)llm->vocabulary - 1);
    if (!json_is_integer(json) || json_integer_value(json) < 0 ||
        json_integer_value(json) >= llm->vocabulary)
        return bl_json_fail(json, expected, err);
    int32_t id = (int32_t)json_integer_value(json);
    for (int i = 0; i < llm->eos_count; i++)
        if (llm->eos[i] == id)
            return 0;
    const int most = (int)(sizeof llm->eos / sizeof *llm->eos);
    if (llm->eos_count == most)
        return bl_fail(err, BL_ELIMIT, "expected at most %d different tokens", most);
    llm->eos[llm->eos_count++] = id;
    return 0;
}

/* eos_token_id: one id or a list of them. */
static int read_eos(const json_t *json, struct hf_llm *llm, struct bl_error *err)
{
    const json_t *found = json_object_get(json, "eos_token_id");
    int rc = 0;
    if (json_is_array(found))
        for (size_t i = 0; rc >= 0 && i < json_array_size(found); i++)
            rc = add_eos(json_array_get(found, i), llm, err);
    else if (found && !json_is_null(found))
        rc = add_eos(found, llm, err);
    if (rc < 0)
        bl_error_key(err, "eos_token_id");
    return rc;
}

static int read_llm_tokens(const json_t *json, struct hf_llm *llm, struct bl_error *err)
{
    const int64_t last = llm->vocabulary - 1;
    if (!json_object_get(json, "eos_token_id") && last >= 2)
        llm->eos[llm->eos_count++] = 2; /* LlamaConfig's default */
    BL_TRY(read_eos(json, llm, err));
    int64_t bos = json_is_null(json_object_get(json, "bos_token_id")) || last < 1 ? -1 : 1;
    BL_TRY(bl_json_int(json, "bos_token_id", 0, last, &bos, err));
    llm->bos = (int32_t)bos;
    return 0;
}

static int read_llm_config(const json_t *json, struct hf_llm *llm, struct bl_error *err)
{
    const char *type = NULL, *activation = "silu";
    BL_TRY(bl_json_string(json, "model_type", &type, err));
    const struct llm_family *family = llm_family_find(type);
    if (!family)
        return hf_fail_key(json, "model_type", llm_family_types(), err);
    BL_TRY(bl_json_string(json, "hidden_act", &activation, err));
    if (strcmp(activation, "silu") && strcmp(activation, "swish"))
        return hf_fail_key(json, "hidden_act", "silu", err);

    *llm = family->defaults;
    llm->family = family;
    BL_TRY(bl_json_int(json, "hidden_size", 1, BL_MODEL_WIDTH_MAX, &llm->hidden, err));
    BL_TRY(bl_json_int(json, "num_hidden_layers", 1, BL_MODEL_LAYERS_MAX, &llm->layers, err));
    BL_TRY(bl_json_int(json, "num_attention_heads", 1, BL_MODEL_WIDTH_MAX, &llm->heads, err));
    llm->kv_heads = llm->heads;
    BL_TRY(bl_json_int(json, "num_key_value_heads", 1, llm->heads, &llm->kv_heads, err));
    if (llm->heads % llm->kv_heads)
        return hf_fail_key(json, "num_key_value_heads", "a divisor of num_attention_heads", err);
    if (!json_is_integer(json_object_get(json, "head_dim")))
        BL_TRY(hf_expect_whole_heads(json, llm->hidden, llm->heads, err));
    llm->head_dim = llm->hidden / llm->heads;
    BL_TRY(bl_json_int(json, "head_dim", 2, BL_MODEL_WIDTH_MAX, &llm->head_dim, err));
    if (llm->head_dim % 2)
        return hf_fail_key(json, "head_dim", "an even width, which RoPE needs", err);
    BL_TRY(bl_json_int(json, "intermediate_size", 1, BL_MODEL_WIDTH_MAX, &llm->intermediate, err));
    BL_TRY(bl_json_int(json, "vocab_size", 1, BL_MODEL_VOCABULARY_MAX, &llm->vocabulary, err));
    BL_TRY(bl_json_int(json, "max_position_embeddings", 1, BL_MODEL_POSITIONS_MAX,
                       &llm->positions_max, err));
    BL_TRY(bl_json_float(json, family->norm_eps, 1e-20, 1, &llm->norm_eps, err));
    if (family->attention_bias)
        BL_TRY(bl_json_bool(json, family->attention_bias, &llm->attention_bias, err));
    if (family->mlp_bias)
        BL_TRY(bl_json_bool(json, family->mlp_bias, &llm->mlp_bias, err));
    BL_TRY(hf_expect_flags(json, family->flags, err));
    BL_TRY(bl_json_bool(json, "tie_word_embeddings", &llm->tied, err));
    BL_TRY(hf_expect_not_quantized(json, err));
    BL_TRY(read_rope(json, llm, err));
    return read_llm_tokens(json, llm, err);
}

/* generation_config.json may name more tokens that end a text; it need not exist. */
static int read_generation_config(const char *folder, struct hf_llm *llm, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, folder, "generation_config.json", err));
    if (!bl_path_is_file(path))
        return 0;
    bl_autojson json_t *json = NULL;
    BL_TRY(hf_config_open(folder, "generation_config.json", path, &json, err));
    int rc = read_eos(json, llm, err);
    if (rc < 0)
        bl_error_file(err, path);
    return rc;
}

int hf_llm_open(const char *folder, struct hf_llm *ret, struct bl_error *err)
{
    char path[4096];
    bl_autojson json_t *json = NULL;
    struct hf_llm llm = {0};
    BL_TRY(hf_config_open(folder, "config.json", path, &json, err));
    int rc = read_llm_config(json, &llm, err);
    if (rc < 0) {
        bl_error_file(err, path);
        return rc;
    }
    BL_TRY(read_generation_config(folder, &llm, err));
    *ret = llm;
    return 0;
}
