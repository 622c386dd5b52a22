/* tests/unit/tiny.c - see tiny.h. */
#include "tests/unit/unit.h"

#include "tests/unit/tiny.h"

#include <math.h>

#include "common/file.h"
#include "common/random.h"

static const char vision_config[] =
    "{\"model_type\": \"siglip_vision_model\", \"hidden_size\": 32, \"intermediate_size\": 64, "
    "\"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 2, \"image_size\": 32, \"patch_size\": 8, \"num_channels\": 3, "
    "\"layer_norm_eps\": 1e-6, "
    "\"hidden_act\": \"gelu_pytorch_tanh\"}";
static const char llm_config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 24, \"intermediate_size\": 48, "
    "\"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 3, \"num_key_value_heads\": 1, \"head_dim\": 8, \"vocab_size\": 50, "
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "
    "\"hidden_act\": \"silu\", "
    "\"tie_word_embeddings\": true, \"bos_token_id\": 1, \"eos_token_id\": 2}";

struct writer {
    struct tensor tensors[80];
    size_t count;
};

/* A tensor of normal-ish values with standard deviation `deviation` around `mean`. */
static void put(struct writer *w, const char *name, float mean, float deviation, int rank,
                const int64_t *dims)
{
    struct tensor *t = &w->tensors[w->count++];
    size_t count = 1;
    assert_true(w->count <= sizeof w->tensors / sizeof *w->tensors);
    *t = (struct tensor){.name = strdup(name), .dtype = BL_F32, .rank = rank};
    for (int i = 0; i < rank; i++)
        count *= (size_t)(t->dims[i] = dims[i]);
    float *data = malloc(count * sizeof *data);
    for (size_t i = 0; i < count; i++) {
        uint32_t x[4];
        bl_draw(11, BL_RANDOM_INIT, bl_hash_name(name), i, x);
        float sum =
            bl_unit_f32(x[0]) + bl_unit_f32(x[1]) + bl_unit_f32(x[2]) + bl_unit_f32(x[3]) - 2;
        data[i] = mean + deviation * sum * 1.7320508f;
    }
    t->data = data;
    t->size_bytes = count * sizeof *data;
}

static void put_matrix(struct writer *w, const char *prefix, const char *name, int64_t out,
                       int64_t in, bool bias)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    put(w, full, 0, 1 / sqrtf((float)in), 2, (int64_t[]){out, in});
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    if (bias)
        put(w, full, 0, 0.1f, 1, &out);
}

static void put_norm(struct writer *w, const char *prefix, const char *name, int64_t width,
                     bool bias)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    put(w, full, 1, 0.1f, 1, &width);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    if (bias)
        put(w, full, 0, 0.1f, 1, &width);
}

static void finish(struct writer *w, const char *folder, const char *name, const char *config)
{
    char path[256];
    struct bl_error err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(bl_folder_make(path, &err), err);
    snprintf(path, sizeof path, "%s/%s/config.json", folder, name);
    assert_ok(bl_file_write(path, config, strlen(config), &err), err);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", folder, name);
    assert_ok(safetensors_write(path, w->tensors, w->count, NULL, &err), err);
    for (size_t i = 0; i < w->count; i++) {
        free((void *)(uintptr_t)w->tensors[i].name);
        free((void *)(uintptr_t)w->tensors[i].data);
    }
}

static void write_vision(const char *folder)
{
    struct writer w = {0};
    put(&w, "vision_model.embeddings.patch_embedding.weight", 0, 0.1f, 4, (int64_t[]){32, 3, 8, 8});
    put(&w, "vision_model.embeddings.patch_embedding.bias", 0, 0.1f, 1, (int64_t[]){32});
    put(&w, "vision_model.embeddings.position_embedding.weight", 0, 0.5f, 2, (int64_t[]){16, 32});
    for (int i = 0; i < 2; i++) {
        char prefix[96];
        snprintf(prefix, sizeof prefix, "vision_model.encoder.layers.%d.", i);
        put_norm(&w, prefix, "layer_norm1", 32, true);
        put_norm(&w, prefix, "layer_norm2", 32, true);
        put_matrix(&w, prefix, "self_attn.q_proj", 32, 32, true);
        put_matrix(&w, prefix, "self_attn.k_proj", 32, 32, true);
        put_matrix(&w, prefix, "self_attn.v_proj", 32, 32, true);
        put_matrix(&w, prefix, "self_attn.out_proj", 32, 32, true);
        put_matrix(&w, prefix, "mlp.fc1", 64, 32, true);
        put_matrix(&w, prefix, "mlp.fc2", 32, 64, true);
    }
    put_norm(&w, "vision_model.", "post_layernorm", 32, true);
    put(&w, "vision_model.head.probe", 0, 1, 3, (int64_t[]){1, 1, 32});
    put(&w, "vision_model.head.attention.in_proj_weight", 0, 0.2f, 2, (int64_t[]){96, 32});
    put(&w, "vision_model.head.attention.in_proj_bias", 0, 0.1f, 1, (int64_t[]){96});
    put_matrix(&w, "vision_model.head.", "attention.out_proj", 32, 32, true);
    put_norm(&w, "vision_model.head.", "layernorm", 32, true);
    put_matrix(&w, "vision_model.head.", "mlp.fc1", 64, 32, true);
    put_matrix(&w, "vision_model.head.", "mlp.fc2", 32, 64, true);
    finish(&w, folder, "vision", vision_config);
}

static void write_llm(const char *folder)
{
    struct writer w = {0};
    put(&w, "model.embed_tokens.weight", 0, 1, 2, (int64_t[]){TINY_VOCABULARY, 24});
    for (int i = 0; i < 2; i++) {
        char prefix[96];
        snprintf(prefix, sizeof prefix, "model.layers.%d.", i);
        put_norm(&w, prefix, "input_layernorm", 24, false);
        put_norm(&w, prefix, "post_attention_layernorm", 24, false);
        put_matrix(&w, prefix, "self_attn.q_proj", 24, 24, false);
        put_matrix(&w, prefix, "self_attn.k_proj", 8, 24, false);
        put_matrix(&w, prefix, "self_attn.v_proj", 8, 24, false);
        put_matrix(&w, prefix, "self_attn.o_proj", 24, 24, false);
        put_matrix(&w, prefix, "mlp.gate_proj", 48, 24, false);
        put_matrix(&w, prefix, "mlp.up_proj", 48, 24, false);
        put_matrix(&w, prefix, "mlp.down_proj", 24, 48, false);
    }
    put_norm(&w, "model.", "norm", 24, false);
    finish(&w, folder, "llm", llm_config);
}

void tiny_write_models(const char *folder)
{
    write_vision(folder);
    write_llm(folder);
}

void tiny_batch_make(struct tiny_batch *ret, int first, int count, int step)
{
    size_t image = (size_t)3 * TINY_IMAGE * TINY_IMAGE;
    *ret = (struct tiny_batch){.pixels = malloc(image * (size_t)count),
                               .labels = malloc((size_t)count * 16),
                               .ids = malloc((size_t)count * 16 * sizeof(int32_t)),
                               .ids_start = calloc((size_t)count + 1, sizeof(int32_t)),
                               .positions = calloc((size_t)count, sizeof(int32_t))};
    int64_t B = 0;
    for (int index = first; index < first + count; index++) {
        if (index % 7 == 0)
            continue;
        uint64_t sample = (uint64_t)step * 1000 + (uint64_t)index;
        uint32_t x[4];
        for (size_t i = 0; i < image; i++) {
            bl_draw(3, BL_RANDOM_SAMPLING, sample, i, x);
            ret->pixels[(size_t)B * image + i] = (uint8_t)x[0];
        }
        bl_draw(4, BL_RANDOM_SAMPLING, sample, 0, x);
        int32_t start = ret->ids_start[B], tokens = 4 + (int32_t)(x[0] % 9);
        for (int32_t t = 0; t < tokens; t++) {
            bl_draw(5, BL_RANDOM_SAMPLING, sample, (uint64_t)t, x);
            ret->ids[start + t] = t + 1 == tokens ? 2 : (int32_t)(x[0] % TINY_VOCABULARY);
            ret->labels[start + t] = t >= 2;
        }
        ret->ids_start[B + 1] = start + tokens;
        ret->positions[B++] = index;
    }
    ret->mb = (struct micro_batch){.B = B,
                                   .pixels = ret->pixels,
                                   .ids = ret->ids,
                                   .ids_start = ret->ids_start,
                                   .labels = ret->labels,
                                   .positions = ret->positions};
}

void tiny_batch_release(struct tiny_batch *b)
{
    free(b->pixels);
    free(b->labels);
    free(b->ids);
    free(b->ids_start);
    free(b->positions);
}
