/* common/models/family.h - a model family's description: what its config.json means and which tensors
 * a folder of it holds. It feeds the folder reader (hf.h), the check of a folder's tensors
 * (hf_tensors.h) and the model (worker/model).
 *
 * A new family that differs in names, shapes, biases, norms' eps, activation or tying is one file
 * family_NAME.c and one row in families.c. */
#pragma once

#include "common/models/hf.h"

/* What a tensor is to the model. Every family has those of a layer; a vision tower without a class
 * token or a pooling head leaves theirs out. */
enum hf_role {
    HF_EMBEDDING,   /* of patches (a convolution's kernel) or of tokens */
    HF_POSITION,    /* learned position embeddings */
    HF_CLASS_TOKEN, /* a learned row in front of the patches */
    HF_FINAL_NORM,
    HF_HEAD, /* vocabulary */
    /* of a layer */
    HF_NORM1,
    HF_QUERY,
    HF_KEY,
    HF_VALUE,
    HF_OUT,
    HF_NORM2,
    HF_GATE,
    HF_UP,
    HF_DOWN,
    /* of an attention-pooling head */
    HF_POOL_PROBE,
    HF_POOL_IN, /* query, key and value under one another */
    HF_POOL_OUT,
    HF_POOL_NORM,
    HF_POOL_UP,
    HF_POOL_DOWN,
};

/* One size of a shape, as a configuration gives it. */
enum hf_size {
    HF_END, /* the shape ends */
    HF_ONE,
    HF_HIDDEN,
    HF_THREE_HIDDEN,
    HF_INTERMEDIATE,
    HF_QUERIES, /* width of all query heads */
    HF_KEYS,    /* width of all key (or value) heads */
    HF_VOCABULARY,
    HF_TOKENS,
    HF_CHANNELS,
    HF_PATCH,
    HF_SIZE_COUNT
};

/* When a weight has a bias (the same name with "bias" for "weight", its first size long). */
enum hf_bias {
    HF_NO_BIAS,
    HF_BIAS,
    HF_ATTENTION_BIAS, /* when the configuration says so */
    HF_MLP_BIAS,
    HF_BIAS_COUNT
};

/* The prefix of a tensor's name. */
enum hf_scope {
    HF_BODY,    /* the family's prefix, where the folder has it */
    HF_LAYER,   /* the prefix and the layer's name */
    HF_POOLING, /* the prefix; needed only with the pooling head */
    HF_TOP,     /* nothing */
};

struct hf_tensor {
    enum hf_role role;
    enum hf_scope scope;
    const char *name;
    enum hf_size shape[4];
    enum hf_bias bias;
};

/* A boolean key of config.json that would change what is computed: only this value is read here. */
struct hf_flag {
    const char *key; /* NULL: none */
    bool only;
};

/* The tensors of a family. */
struct hf_names {
    const char *prefix; /* published folders have it, re-saved ones may not: "vision_model." */
    const char *layer;  /* a layer's name, a printf format of its index: "encoder.layers.%d." */
    const struct hf_tensor *tensors;
    int count;
};

enum { HF_MODEL_TYPES_MAX = 3, HF_FLAGS_MAX = 4 };

struct vision_family {
    const char *name;                            /* for people */
    const char *model_types[HF_MODEL_TYPES_MAX]; /* config.json's model_type */
    const char *combined; /* a model_type with other towers, which nests this one's keys; or NULL */
    const char *nested;   /* the key of the nested configuration */
    struct hf_vision defaults; /* what transformers takes for keys that are left out */
    const char *qkv_bias;      /* key, or NULL */
    struct hf_flag flags[HF_FLAGS_MAX];
    enum image_filter filter; /* of its image processor */
    struct hf_names names;
};

struct llm_family {
    const char *name;
    const char *model_types[HF_MODEL_TYPES_MAX];
    struct hf_llm defaults;
    const char *norm_eps;                  /* key */
    const char *attention_bias, *mlp_bias; /* keys, or NULL: defaults hold */
    struct hf_flag flags[HF_FLAGS_MAX];
    struct hf_names names;
};

extern const struct vision_family family_siglip, family_vit;
extern const struct llm_family family_llama;

/* By config.json's model_type (NULL is fine); NULL: none. *ret_nested: the tower is one of several. */
const struct vision_family *vision_family_find(const char *model_type, bool *ret_nested);
const struct llm_family *llm_family_find(const char *model_type);
/* "siglip, siglip_vision_model or vit": the model types that are read. Borrowed. */
const char *vision_family_types(void);
const char *llm_family_types(void);
/* "SigLIP or ViT, Llama": what is read, for remedies. */
const char *family_names(void);

/* The tensor of this role, NULL when the family has none. */
const struct hf_tensor *hf_tensor_of(const struct hf_names *names, enum hf_role role);
