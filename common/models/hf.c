/* common/models/hf.c - the JSON of Hugging Face model folders. Defaults are those of transformers'
 * SiglipVisionConfig, ViTConfig and LlamaConfig. */
#include "common/models/hf.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/limits.h"

/* A config.json may list tens of thousands of labels, hence the large limit. */
static int open_config(const char *folder, const char *name, char path[4096], json_t **ret,
                       struct bl_error *err)
{
    BL_TRY(bl_path_join(path, 4096, folder, name, err));
    BL_TRY(bl_json_open(path, BL_JSON_BYTES_MAX, ret, err));
    if (json_is_object(*ret))
        return 0;
    int rc = bl_json_fail(*ret, "an object", err);
    bl_error_file(err, path);
    return rc;
}

static int fail_key(const json_t *object, const char *key, const char *expected,
                    struct bl_error *err)
{
    int rc = bl_json_fail(json_object_get(object, key), expected, err);
    bl_error_remedy(err, "use a model of a kind that is read here: SigLIP or ViT, Llama");
    bl_error_key(err, "%s", key);
    return rc;
}

/* --- Vision. --- */

/* What SiglipVisionConfig and ViTConfig have for keys that config.json leaves out. */
static struct hf_vision vision_defaults(enum hf_vision_kind kind)
{
    bool vit = kind == HF_VIT;
    return (struct hf_vision){.kind = kind,
                              .hidden = 768,
                              .layers = 12,
                              .heads = 12,
                              .intermediate = 3072,
                              .image_size = 224,
                              .patch = 16,
                              .channels = 3,
                              .norm_eps = vit ? 1e-12f : 1e-6f,
                              .activation = vit ? HF_GELU_ERF : HF_GELU_TANH,
                              .qkv_bias = true};
}

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
    return fail_key(json, "hidden_act", "gelu, gelu_pytorch_tanh or gelu_new", err);
}

/* A key that would change what is computed has only this value here. */
static int expect_flag(const json_t *json, const char *key, bool only, struct bl_error *err)
{
    bool value = only;
    BL_TRY(bl_json_bool(json, key, &value, err));
    return value == only ? 0 : fail_key(json, key, only ? "true" : "false", err);
}

static int expect_not_quantized(const json_t *json, struct bl_error *err)
{
    const json_t *found = json_object_get(json, "quantization_config");
    return !found || json_is_null(found)
               ? 0
               : fail_key(json, "quantization_config", "weights in f32, f16 or bf16", err);
}

static int expect_whole_heads(const json_t *json, int64_t hidden, int64_t heads,
                              struct bl_error *err)
{
    if (hidden % heads == 0)
        return 0;
    int rc =
        bl_fail(err, BL_EFORMAT, "expected hidden_size to be a multiple of %lld heads, found %lld",
                (long long)heads, (long long)hidden);
    bl_error_key(err, "num_attention_heads");
    return rc;
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
    if (v->kind == HF_VIT)
        BL_TRY(bl_json_bool(json, "qkv_bias", &v->qkv_bias, err));
    else
        BL_TRY(expect_flag(json, "vision_use_head", true, err));
    BL_TRY(expect_not_quantized(json, err));
    BL_TRY(expect_whole_heads(json, v->hidden, v->heads, err));
    v->grid = v->image_size / v->patch;
    v->tokens = v->grid * v->grid + (v->kind == HF_VIT);
    return 0;
}

/* model_type tells where the tower's keys stand: a SiglipModel nests them (or leaves them out). */
static int read_vision_config(const json_t *json, struct hf_vision *vision, struct bl_error *err)
{
    const char *type = NULL;
    BL_TRY(bl_json_string(json, "model_type", &type, err));
    bool full = type && !strcmp(type, "siglip");
    if (full || (type && !strcmp(type, "siglip_vision_model")))
        *vision = vision_defaults(HF_SIGLIP);
    else if (type && !strcmp(type, "vit"))
        *vision = vision_defaults(HF_VIT);
    else
        return fail_key(json, "model_type", "siglip, siglip_vision_model or vit", err);
    if (!full)
        return read_vision(json, vision, err);
    BL_TRY(expect_not_quantized(json, err));
    const json_t *nested = NULL;
    BL_TRY(bl_json_container(json, "vision_config", JSON_OBJECT, &nested, err));
    return bl_json_within(read_vision(nested, vision, err), "vision_config", err);
}

int hf_vision_open(const char *folder, struct hf_vision *ret, struct bl_error *err)
{
    char path[4096];
    bl_autojson json_t *json = NULL;
    struct hf_vision vision = {0};
    BL_TRY(open_config(folder, "config.json", path, &json, err));
    int rc = read_vision_config(json, &vision, err);
    if (rc < 0) {
        bl_error_file(err, path);
        return rc;
    }
    *ret = vision;
    return 0;
}

/* --- Language model. --- */

/* The wavelengths beyond original positions / low_freq_factor are stretched by factor. */
static int read_rope_llama3(const json_t *rope, struct hf_llm *llm, struct bl_error *err)
{
    static const char *const required[] = {"factor", "low_freq_factor", "high_freq_factor"};
    for (size_t i = 0; i < sizeof required / sizeof *required; i++)
        if (!json_is_number(json_object_get(rope, required[i])))
            return fail_key(rope, required[i], "a number", err);
    llm->rope_original_positions = llm->positions_max;
    BL_TRY(bl_json_float(rope, "factor", 1, 1e6, &llm->rope_factor, err));
    BL_TRY(bl_json_float(rope, "low_freq_factor", 1e-6, 1e6, &llm->rope_low_freq_factor, err));
    BL_TRY(bl_json_float(rope, "high_freq_factor", 1e-6, 1e6, &llm->rope_high_freq_factor, err));
    BL_TRY(bl_json_int(rope, "original_max_position_embeddings", 1, BL_MODEL_POSITIONS_MAX,
                       &llm->rope_original_positions, err));
    if (llm->rope_high_freq_factor > llm->rope_low_freq_factor)
        return 0;
    return fail_key(rope, "high_freq_factor", "more than low_freq_factor", err);
}

/* Published folders have rope_theta and rope_scaling, re-saved ones rope_parameters with both; what
 * stands inside wins. */
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
    return bl_json_within(fail_key(rope, type_key, "default or llama3", err), outer, err);
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
    if (!type || strcmp(type, "llama"))
        return fail_key(json, "model_type", "llama", err);
    BL_TRY(bl_json_string(json, "hidden_act", &activation, err));
    if (strcmp(activation, "silu") && strcmp(activation, "swish"))
        return fail_key(json, "hidden_act", "silu", err);

    *llm = (struct hf_llm){.hidden = 4096,
                           .layers = 32,
                           .heads = 32,
                           .intermediate = 11008,
                           .vocabulary = 32000,
                           .positions_max = 2048,
                           .norm_eps = 1e-6f,
                           .rope_theta = 10000,
                           .rope_factor = 1};
    BL_TRY(bl_json_int(json, "hidden_size", 1, BL_MODEL_WIDTH_MAX, &llm->hidden, err));
    BL_TRY(bl_json_int(json, "num_hidden_layers", 1, BL_MODEL_LAYERS_MAX, &llm->layers, err));
    BL_TRY(bl_json_int(json, "num_attention_heads", 1, BL_MODEL_WIDTH_MAX, &llm->heads, err));
    llm->kv_heads = llm->heads;
    BL_TRY(bl_json_int(json, "num_key_value_heads", 1, llm->heads, &llm->kv_heads, err));
    if (llm->heads % llm->kv_heads)
        return fail_key(json, "num_key_value_heads", "a divisor of num_attention_heads", err);
    if (!json_is_integer(json_object_get(json, "head_dim")))
        BL_TRY(expect_whole_heads(json, llm->hidden, llm->heads, err));
    llm->head_dim = llm->hidden / llm->heads;
    BL_TRY(bl_json_int(json, "head_dim", 2, BL_MODEL_WIDTH_MAX, &llm->head_dim, err));
    if (llm->head_dim % 2)
        return fail_key(json, "head_dim", "an even width, which RoPE needs", err);
    BL_TRY(bl_json_int(json, "intermediate_size", 1, BL_MODEL_WIDTH_MAX, &llm->intermediate, err));
    BL_TRY(bl_json_int(json, "vocab_size", 1, BL_MODEL_VOCABULARY_MAX, &llm->vocabulary, err));
    BL_TRY(bl_json_int(json, "max_position_embeddings", 1, BL_MODEL_POSITIONS_MAX,
                       &llm->positions_max, err));
    BL_TRY(bl_json_float(json, "rms_norm_eps", 1e-20, 1, &llm->norm_eps, err));
    BL_TRY(bl_json_bool(json, "attention_bias", &llm->attention_bias, err));
    BL_TRY(bl_json_bool(json, "mlp_bias", &llm->mlp_bias, err));
    BL_TRY(bl_json_bool(json, "tie_word_embeddings", &llm->tied, err));
    BL_TRY(expect_not_quantized(json, err));
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
    BL_TRY(open_config(folder, "generation_config.json", path, &json, err));
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
    BL_TRY(open_config(folder, "config.json", path, &json, err));
    int rc = read_llm_config(json, &llm, err);
    if (rc < 0) {
        bl_error_file(err, path);
        return rc;
    }
    BL_TRY(read_generation_config(folder, &llm, err));
    *ret = llm;
    return 0;
}

/* --- Preprocessing. --- */

/* Image processors whose steps are: resize to `size`, rescale, normalise (other classes crop or
 * pad), and the filter each resizes with unless told. */
static const struct {
    const char *name;
    int resample;
} processors[] = {
    {"SiglipImageProcessor", 3},   {"SiglipImageProcessorFast", 3}, {"SiglipImageProcessorPil", 3},
    {"SiglipFeatureExtractor", 3}, {"ViTImageProcessor", 2},        {"ViTImageProcessorFast", 2},
    {"ViTImageProcessorPil", 2},   {"ViTFeatureExtractor", 2},
};

/* The processor's class, under either key. */
static int read_processor(const json_t *json, const char *key, int *resample, struct bl_error *err)
{
    const char *name = NULL;
    BL_TRY(bl_json_string(json, key, &name, err));
    if (!name)
        return 0;
    for (size_t i = 0; i < sizeof processors / sizeof *processors; i++)
        if (!strcmp(name, processors[i].name)) {
            *resample = processors[i].resample;
            return 0;
        }
    return fail_key(json, key, "SiglipImageProcessor or ViTImageProcessor", err);
}

/* Every do_… switches a step: these three are ours, any other is refused unless it is off. Colours
 * are always converted. */
static int check_steps(const json_t *json, struct bl_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, key, value)
    {
        if (strncmp(key, "do_", 3) || !strcmp(key, "do_convert_rgb"))
            continue;
        bool ours =
            !strcmp(key, "do_resize") || !strcmp(key, "do_rescale") || !strcmp(key, "do_normalize");
        BL_TRY(expect_flag(json, key, ours, err));
    }
    return 0;
}

/* size: {"height": h, "width": w}, or one side for both. */
static int read_size(const json_t *json, struct hf_preprocess *preprocess, struct bl_error *err)
{
    const json_t *size = json_object_get(json, "size");
    if (json_is_integer(size)) {
        BL_TRY(bl_json_int(json, "size", 1, BL_MODEL_IMAGE_SIZE_MAX, &preprocess->height, err));
        preprocess->width = preprocess->height;
        return 0;
    }
    if (!size || json_is_null(size))
        return 0;
    if (!json_is_integer(json_object_get(size, "height")) ||
        !json_is_integer(json_object_get(size, "width")) || json_object_size(size) != 2)
        return fail_key(json, "size", "height and width alone", err);
    BL_TRY(bl_json_within(
        bl_json_int(size, "height", 1, BL_MODEL_IMAGE_SIZE_MAX, &preprocess->height, err), "size",
        err));
    return bl_json_within(
        bl_json_int(size, "width", 1, BL_MODEL_IMAGE_SIZE_MAX, &preprocess->width, err), "size",
        err);
}

/* Three numbers, one for each channel. */
static int read_channels(const json_t *json, const char *key, double min, float ret[3],
                         struct bl_error *err)
{
    const json_t *list = json_object_get(json, key);
    if (!list || json_is_null(list))
        return 0;
    if (json_array_size(list) != 3)
        return fail_key(json, key, "a list of 3 numbers", err);
    for (size_t i = 0; i < 3; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_number(value) || json_number_value(value) < min ||
            json_number_value(value) > 1000) {
            char expected[64];
            snprintf(expected, sizeof expected, "numbers from %g to 1000", min);
            int rc = bl_json_fail(value, expected, err);
            bl_error_key(err, "%s", key);
            return rc;
        }
        ret[i] = (float)json_number_value(value);
    }
    return 0;
}

static int read_preprocess(const json_t *json, const struct hf_vision *vision,
                           struct hf_preprocess *preprocess, struct bl_error *err)
{
    preprocess->resample = vision->kind == HF_VIT ? 2 : 3; /* where no class is named */
    BL_TRY(read_processor(json, "image_processor_type", &preprocess->resample, err));
    BL_TRY(read_processor(json, "feature_extractor_type", &preprocess->resample, err));
    BL_TRY(check_steps(json, err));
    BL_TRY(read_size(json, preprocess, err));
    int64_t resample = preprocess->resample;
    BL_TRY(bl_json_int(json, "resample", 2, 3, &resample, err));
    preprocess->resample = (int)resample;
    BL_TRY(bl_json_float(json, "rescale_factor", 1e-9, 1, &preprocess->rescale_factor, err));
    BL_TRY(read_channels(json, "image_mean", -1000, preprocess->mean, err));
    return read_channels(json, "image_std", 1e-6, preprocess->std, err);
}

int hf_preprocess_open(const char *folder, const struct hf_vision *vision,
                       struct hf_preprocess *ret, struct bl_error *err)
{
    struct hf_preprocess preprocess = {
        .width = vision->image_size,
        .height = vision->image_size,
        .resample = 3,
        .rescale_factor = 1.0f / 255,
        .mean = {0.5f, 0.5f, 0.5f},
        .std = {0.5f, 0.5f, 0.5f},
    };
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, folder, "preprocessor_config.json", err));
    if (bl_path_is_file(path)) {
        bl_autojson json_t *json = NULL;
        BL_TRY(open_config(folder, "preprocessor_config.json", path, &json, err));
        int rc = read_preprocess(json, vision, &preprocess, err);
        if (rc >= 0 &&
            (preprocess.width != vision->image_size || preprocess.height != vision->image_size)) {
            rc = bl_fail(err, BL_EFORMAT,
                         "expected the model's image_size of %lld, found height %lld, width %lld",
                         (long long)vision->image_size, (long long)preprocess.height,
                         (long long)preprocess.width);
            bl_error_key(err, "size");
        }
        if (rc < 0) {
            bl_error_file(err, path);
            return rc;
        }
    }
    *ret = preprocess;
    return 0;
}

/* --- Identity. --- */

static int is_model_file(const struct dirent *entry)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(entry->d_name);
    return !strcmp(entry->d_name, "config.json") ||
           (length >= sizeof suffix - 1 &&
            !strcmp(entry->d_name + length - (sizeof suffix - 1), suffix));
}

static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Each file contributes its name (NUL included), its size (8 bytes, little-endian) and its content,
 * so that no two folders give the same stream. */
static int hash_file(struct bl_sha256 *hash, const char *folder, const char *name,
                     struct bl_error *err)
{
    char path[4096];
    struct stat st;
    BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
    if (stat(path, &st) < 0) {
        bl_fail_errno(err, "cannot be examined");
        return bl_error_file(err, path);
    }
    uint8_t size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)st.st_size >> (8 * i));
    bl_sha256_add(hash, name, strlen(name) + 1);
    bl_sha256_add(hash, size, sizeof size);
    return bl_sha256_add_file(hash, path, err);
}

int hf_folder_sha256(const char *folder, char ret_hex[65], struct bl_error *err)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_model_file, compare_entries);
    if (count < 0) {
        bl_fail_errno(err, "the folder cannot be listed");
        bl_error_file(err, folder);
        return -BL_EIO;
    }
    bl_autosha256 hash = {0};
    bl_sha256_begin(&hash);
    int rc = 0;
    for (int i = 0; i < count; i++) {
        if (rc >= 0)
            rc = hash_file(&hash, folder, entries[i]->d_name, err);
        free(entries[i]);
    }
    free(entries);
    BL_TRY(rc);
    uint8_t bytes[32];
    bl_sha256_end(&hash, bytes);
    bl_hex(bytes, sizeof bytes, ret_hex);
    return 0;
}
