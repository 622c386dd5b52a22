/* common/models/hf.h - the Hugging Face folders' JSON: config.json of vision and language models,
 * the image processor's settings. Families: family.h. Missing keys take transformers' defaults; what would change a result
 * and is not implemented is refused by key. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/filter.h"

struct vision_family; /* family.h */
struct llm_family;

enum hf_activation { HF_GELU_ERF, HF_GELU_TANH };
enum hf_norm { HF_LAYER_NORM, HF_RMS_NORM };

struct hf_vision {
    const struct vision_family *family;
    int64_t hidden, layers, heads, intermediate; /* intermediate: width of the MLP */
    int64_t image_size, patch, channels;         /* pixels of a side; of a patch's side; 3 */
    enum hf_norm norm;
    float norm_eps;
    enum hf_activation activation;
    bool qkv_bias;
    int64_t grid;           /* patches a side: image_size / patch */
    int64_t leading_tokens; /* rows in front of the patches: 1 for a class token, else 0 */
    int64_t tokens;         /* rows the encoder gives: leading_tokens + grid^2 */
};

struct hf_llm {
    const struct llm_family *family;
    int64_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary, positions_max;
    enum hf_norm norm;
    float norm_eps, rope_theta;
    bool attention_bias, mlp_bias, tied;
    /* RoPE scaling "llama3"; factor 1 when plain. */
    float rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_positions;
    int32_t eos[8]; /* the first is trained, any ends generation */
    int eos_count;
    int32_t bos; /* -1 when absent */
};

/* A pixel p of channel c becomes (p rescale_factor - mean[c]) / std[c]. */
struct hf_preprocess {
    const char *file;      /* its name in the folder; NULL: no file, the family's defaults */
    int64_t width, height; /* pixels that an image is resized to */
    enum image_filter filter;
    float rescale_factor; /* 1/255 */
    float mean[3], std[3];
};

/* Each reads its file inside `folder`. hf_preprocess_open reads what transformers' AutoImageProcessor does: image_processor in
 * processor_config.json, which transformers 5 saves, else preprocessor_config.json. With neither it gives the family's
 * values for image_size. */
int hf_vision_open(const char *folder, struct hf_vision *ret, struct bl_error *err);
int hf_llm_open(const char *folder, struct hf_llm *ret, struct bl_error *err);
int hf_preprocess_open(const char *folder, const struct hf_vision *vision,
                       struct hf_preprocess *ret, struct bl_error *err);

/* Which files of a model folder its identity covers. */
enum hf_identity {
    HF_IDENTITY_WEIGHTS = 1, /* config.json and the weights: checkpoints of format 1 */
    /* All that decide what is computed: also generation_config.json, the image processor's settings, tokenizer.json and the
     * weights' index. */
    HF_IDENTITY_ALL = 2,
    /* Of these all but the weights and their index: what a loader reads. */
    HF_IDENTITY_SETTINGS = 3,
};
/* SHA-256 (64 hex digits) over these files in name order. */
int hf_folder_sha256(const char *folder, enum hf_identity identity, char ret_hex[65],
                     struct bl_error *err);
