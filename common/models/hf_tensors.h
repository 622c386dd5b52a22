/* common/models/hf_tensors.h - the tensors of a Hugging Face folder as its family's description
 * (family.h) and its configuration give them: names, shapes, which there must be. A folder is judged
 * by them before a device is opened, and the model finds its weights by them. */
#pragma once

#include <stdbool.h>

#include "common/models/family.h"
#include "common/models/safetensors.h"

enum { HF_NAME_BYTES = 256 };

/* A model's tensors in one folder. */
struct hf_shapes {
    const struct hf_names *names;
    const char *prefix; /* in front of names, as this folder has them */
    int64_t layers;
    int64_t sizes[HF_SIZE_COUNT];
    bool biases[HF_BIAS_COUNT]; /* which conditions of a bias hold */
};

/* file NULL: names carry the prefix of published folders. *ret borrows from config's family. */
void hf_vision_shapes(const struct hf_vision *config, const struct safetensors *file,
                      struct hf_shapes *ret);
void hf_llm_shapes(const struct hf_llm *config, const struct safetensors *file,
                   struct hf_shapes *ret);

/* The tensor's name in the folder; layer: its index, for those of a layer. */
void hf_shapes_name(const struct hf_shapes *shapes, const struct hf_tensor *tensor, int64_t layer,
                    char ret[HF_NAME_BYTES]);
/* The name of its bias: the weight's, ending in "bias" for "weight". False: it has none. */
bool hf_shapes_bias_name(const struct hf_shapes *shapes, const struct hf_tensor *tensor,
                         int64_t layer, char ret[HF_NAME_BYTES]);
/* Its sizes; returns their number. */
int hf_shapes_dims(const struct hf_shapes *shapes, const struct hf_tensor *tensor, int64_t ret[4]);

/* Whether head and embedding are one matrix: config.json says so, and the folder does not hold two that differ. transformers
 * then uses both too. */
bool hf_llm_tied(const struct hf_llm *config, const struct safetensors *file);
/* Where the token embedding is: HF_EMBEDDING, or HF_HEAD when it is tied and the folder has it under
 * the head's name alone. file NULL: HF_EMBEDDING. */
enum hf_role hf_llm_embedding(const struct hf_llm *config, const struct hf_shapes *shapes,
                              const struct safetensors *file);

/* What is asked of the tensors that a model uses. */
enum hf_asked {
    HF_SHAPES, /* they are there, of the right shape, and F32, F16 or BF16 */
    HF_VALUES, /* and every value is finite; reads them all */
};

/* -BL_EFORMAT names the file and the tensor that is not so. head: an attention-pooling head is needed too, where the family
 * has one. */
int hf_vision_check(const struct hf_vision *config, bool head, const struct safetensors *file,
                    enum hf_asked asked, struct bl_error *err);
int hf_llm_check(const struct hf_llm *config, const struct safetensors *file, enum hf_asked asked,
                 struct bl_error *err);

/* The tensor itself, checked like that. dims -1: any. */
int hf_tensor_expect(const struct safetensors *file, const char *name, int rank,
                     const int64_t *dims, const struct tensor **ret, struct bl_error *err);
