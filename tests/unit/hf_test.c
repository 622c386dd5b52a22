/* tests/unit/hf_test.c - published, re-saved and nearly empty folders read alike; what would change
 * a result is refused by file and key. */
#include "tests/unit/unit.h"

#include "common/file.h"
#include "common/models/family.h"

static char folder[64];

static int make_folder(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/blipren-hf-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    return bl_folder_remove(folder, NULL);
}

static void put(const char *name, const char *text)
{
    char path[128];
    struct bl_error err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(bl_file_write(path, text, strlen(text), &err), err);
}

/* The error's line must be FOLDER/NAME: MESSAGE. */
static void assert_error(const struct bl_error *err, const char *name, const char *message)
{
    char line[1600], expected[1600];
    struct bl_error bare = *err;
    bare.remedy[0] = 0; /* tests/badinput judges it */
    bl_error_format(&bare, line, sizeof line);
    snprintf(expected, sizeof expected, "%s/%s: %s", folder, name, message);
    assert_string_equal(line, expected);
}

static void a_siglip_folder_takes_the_defaults_for_missing_keys(void **state)
{
    static const char *const same[] = {
        "{\"model_type\":\"siglip\"}",
        "{\"model_type\":\"siglip\",\"vision_config\":{\"model_type\":\"siglip_vision_model\"}}",
        "{\"model_type\":\"siglip_vision_model\",\"torch_dtype\":\"float32\"}",
        "{\"model_type\":\"siglip\",\"hidden_size\":5,\"text_config\":{\"hidden_size\":7}}",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct hf_vision v;
        struct bl_error err;
        put("config.json", same[i]);
        assert_ok(hf_vision_open(folder, &v, &err), err);
        assert_ptr_equal(v.family, &family_siglip);
        assert_int_equal(v.hidden, 768);
        assert_int_equal(v.layers, 12);
        assert_int_equal(v.heads, 12);
        assert_int_equal(v.intermediate, 3072);
        assert_int_equal(v.image_size, 224);
        assert_int_equal(v.patch, 16);
        assert_int_equal(v.channels, 3);
        assert_true(v.norm_eps == 1e-6f);
        assert_int_equal(v.activation, HF_GELU_TANH);
        assert_int_equal(v.grid, 14);
        assert_int_equal(v.tokens, 196);
    }
}

static void a_full_siglip_folder_gives_its_vision_tower(void **state)
{
    struct hf_vision v;
    struct bl_error err;
    put("config.json",
        "{\"model_type\":\"siglip\",\"text_config\":{\"hidden_size\":1},\"vision_config\":{"
        "\"hidden_size\":1152,\"image_size\":384,\"intermediate_size\":4304,\"patch_size\":14,"
        "\"num_attention_heads\":16,\"num_hidden_layers\":27,\"hidden_act\":\"gelu\","
        "\"layer_norm_eps\":1e-5}}");
    assert_ok(hf_vision_open(folder, &v, &err), err);
    assert_int_equal(v.hidden, 1152);
    assert_int_equal(v.intermediate, 4304);
    assert_int_equal(v.layers, 27);
    assert_int_equal(v.grid, 27);
    assert_int_equal(v.tokens, 729);
    assert_int_equal(v.activation, HF_GELU_ERF);
    assert_true(v.norm_eps == 1e-5f);
}

static void a_vit_folder_counts_its_class_token(void **state)
{
    struct hf_vision v;
    struct bl_error err;
    put("config.json", "{\"model_type\":\"vit\",\"hidden_size\":192,\"num_attention_heads\":3,"
                       "\"intermediate_size\":768,\"qkv_bias\":false}");
    assert_ok(hf_vision_open(folder, &v, &err), err);
    assert_ptr_equal(v.family, &family_vit);
    assert_int_equal(v.tokens, 197);
    assert_int_equal(v.activation, HF_GELU_ERF);
    assert_true(v.norm_eps == 1e-12f);
    assert_false(v.qkv_bias);
}

static void a_wrong_vision_config_is_named(void **state)
{
    static const struct {
        const char *config, *message;
    } cases[] = {
        {"[]", "expected an object, found a list of 0"},
        {"{", "expected JSON, found at line 1, column 1: string or '}' expected near end of file"},
        {"{}", "model_type: expected siglip, siglip_vision_model or vit, found nothing"},
        {"{\"model_type\":\"clip\"}",
         "model_type: expected siglip, siglip_vision_model or vit, found \"clip\""},
        {"{\"model_type\":3}", "model_type: expected a string, found 3"},
        {"{\"model_type\":\"siglip\",\"vision_config\":[]}",
         "vision_config: expected an object, found a list of 0"},
        {"{\"model_type\":\"siglip\",\"vision_config\":{\"hidden_size\":0}}",
         "vision_config.hidden_size: expected an integer from 1 to 1048576, found 0"},
        {"{\"model_type\":\"vit\",\"num_hidden_layers\":1e3}",
         "num_hidden_layers: expected an integer from 1 to 4096, found 1000"},
        {"{\"model_type\":\"vit\",\"patch_size\":225}",
         "patch_size: expected an integer from 1 to 224, found 225"},
        {"{\"model_type\":\"vit\",\"image_size\":[224,224]}",
         "image_size: expected an integer from 1 to 16384, found a list of 2"},
        {"{\"model_type\":\"vit\",\"num_channels\":1}",
         "num_channels: expected an integer from 3 to 3, found 1"},
        {"{\"model_type\":\"vit\",\"layer_norm_eps\":0}",
         "layer_norm_eps: expected a number from 1e-20 to 1, found 0"},
        {"{\"model_type\":\"vit\",\"hidden_act\":\"quick_gelu\"}",
         "hidden_act: expected gelu, gelu_pytorch_tanh or gelu_new, found \"quick_gelu\""},
        {"{\"model_type\":\"vit\",\"qkv_bias\":1}", "qkv_bias: expected true or false, found 1"},
        {"{\"model_type\":\"siglip_vision_model\",\"vision_use_head\":false}",
         "vision_use_head: expected true, found false"},
        {"{\"model_type\":\"vit\",\"num_attention_heads\":7}",
         "num_attention_heads: expected hidden_size to be a multiple of 7 heads, found 768"},
        {"{\"model_type\":\"vit\",\"quantization_config\":{}}",
         "quantization_config: expected weights in f32, f16 or bf16, found an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hf_vision v;
        struct bl_error err;
        put("config.json", cases[i].config);
        assert_int_equal(hf_vision_open(folder, &v, &err), -BL_EFORMAT);
        assert_error(&err, "config.json", cases[i].message);
    }
}

static void a_published_llama_folder_is_read(void **state)
{
    struct hf_llm m;
    struct bl_error err;
    put("config.json",
        "{\"model_type\":\"llama\",\"hidden_size\":2048,\"num_attention_heads\":32,"
        "\"num_key_value_heads\":8,\"head_dim\":64,\"intermediate_size\":8192,"
        "\"num_hidden_layers\":16,\"vocab_size\":128256,\"max_position_embeddings\":131072,"
        "\"rms_norm_eps\":1e-05,\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\","
        "\"bos_token_id\":128000,\"eos_token_id\":[128001,128008],\"rope_theta\":500000.0,"
        "\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
        "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}}");
    put("generation_config.json", "{\"eos_token_id\":[128001,128008,128009]}");
    assert_ok(hf_llm_open(folder, &m, &err), err);
    assert_int_equal(m.hidden, 2048);
    assert_int_equal(m.heads, 32);
    assert_int_equal(m.kv_heads, 8);
    assert_int_equal(m.head_dim, 64);
    assert_int_equal(m.vocabulary, 128256);
    assert_int_equal(m.positions_max, 131072);
    assert_true(m.tied && !m.attention_bias && !m.mlp_bias);
    assert_true(m.norm_eps == 1e-5f && m.rope_theta == 5e5f && m.rope_factor == 32);
    assert_true(m.rope_low_freq_factor == 1 && m.rope_high_freq_factor == 4);
    assert_int_equal(m.rope_original_positions, 8192);
    assert_int_equal(m.bos, 128000);
    assert_int_equal(m.eos_count, 3);
    assert_int_equal(m.eos[0], 128001);
    assert_int_equal(m.eos[2], 128009);
}

static void a_resaved_llama_folder_keeps_its_rope_in_rope_parameters(void **state)
{
    struct hf_llm m;
    struct bl_error err;
    put("config.json",
        "{\"model_type\":\"llama\",\"dtype\":\"float32\",\"vocab_size\":10,\"hidden_size\":12,"
        "\"num_attention_heads\":3,\"head_dim\":null,\"attention_bias\":true,\"mlp_bias\":true,"
        "\"max_position_embeddings\":64,\"bos_token_id\":null,\"eos_token_id\":null,"
        "\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":20000,\"factor\":2,"
        "\"low_freq_factor\":1,\"high_freq_factor\":4}}");
    assert_ok(hf_llm_open(folder, &m, &err), err);
    assert_int_equal(m.head_dim, 4);
    assert_int_equal(m.kv_heads, 3);
    assert_true(m.rope_theta == 20000 && m.rope_factor == 2);
    assert_int_equal(m.rope_original_positions, 64);
    assert_true(m.attention_bias && m.mlp_bias && !m.tied);
    assert_int_equal(m.bos, -1);
    assert_int_equal(m.eos_count, 0);
}

static void an_empty_llama_config_has_the_library_defaults(void **state)
{
    struct hf_llm m;
    struct bl_error err;
    put("config.json", "{\"model_type\":\"llama\",\"rope_scaling\":null}");
    assert_ok(hf_llm_open(folder, &m, &err), err);
    assert_int_equal(m.hidden, 4096);
    assert_int_equal(m.layers, 32);
    assert_int_equal(m.kv_heads, 32);
    assert_int_equal(m.head_dim, 128);
    assert_int_equal(m.intermediate, 11008);
    assert_int_equal(m.vocabulary, 32000);
    assert_true(m.rope_theta == 10000 && m.rope_factor == 1 && m.norm_eps == 1e-6f);
    assert_int_equal(m.bos, 1);
    assert_int_equal(m.eos_count, 1);
    assert_int_equal(m.eos[0], 2);
}

static void a_wrong_llm_config_is_named(void **state)
{
    static const struct {
        const char *config, *message;
    } cases[] = {
        {"{\"model_type\":\"qwen2\"}", "model_type: expected llama, found \"qwen2\""},
        {"{\"model_type\":\"llama\",\"hidden_act\":\"gelu\"}",
         "hidden_act: expected silu, found \"gelu\""},
        {"{\"model_type\":\"llama\",\"num_key_value_heads\":5}",
         "num_key_value_heads: expected a divisor of num_attention_heads, found 5"},
        {"{\"model_type\":\"llama\",\"num_key_value_heads\":64}",
         "num_key_value_heads: expected an integer from 1 to 32, found 64"},
        {"{\"model_type\":\"llama\",\"hidden_size\":100}",
         "num_attention_heads: expected hidden_size to be a multiple of 32 heads, found 100"},
        {"{\"model_type\":\"llama\",\"head_dim\":63}",
         "head_dim: expected an even width, which RoPE needs, found 63"},
        {"{\"model_type\":\"llama\",\"tie_word_embeddings\":\"yes\"}",
         "tie_word_embeddings: expected true or false, found \"yes\""},
        {"{\"model_type\":\"llama\",\"rope_theta\":-1}",
         "rope_theta: expected a number from 1 to 1e+12, found -1"},
        {"{\"model_type\":\"llama\",\"partial_rotary_factor\":0.5}",
         "partial_rotary_factor: expected a number from 1 to 1, found 0.5"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
         "rope_scaling.type: expected default or llama3, found \"linear\""},
        {"{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"yarn\"}}",
         "rope_parameters.rope_type: expected default or llama3, found \"yarn\""},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}",
         "rope_scaling.low_freq_factor: expected a number, found nothing"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
         "\"low_freq_factor\":4,\"high_freq_factor\":4}}",
         "rope_scaling.high_freq_factor: expected more than low_freq_factor, found 4"},
        {"{\"model_type\":\"llama\",\"vocab_size\":100,\"eos_token_id\":[5,100]}",
         "eos_token_id: expected token ids from 0 to 99, found 100"},
        {"{\"model_type\":\"llama\",\"eos_token_id\":\"</s>\"}",
         "eos_token_id: expected token ids from 0 to 31999, found \"</s>\""},
        {"{\"model_type\":\"llama\",\"bos_token_id\":32000}",
         "bos_token_id: expected an integer from 0 to 31999, found 32000"},
    };
    struct hf_llm m;
    struct bl_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("config.json", cases[i].config);
        assert_int_equal(hf_llm_open(folder, &m, &err), -BL_EFORMAT);
        assert_error(&err, "config.json", cases[i].message);
    }
    put("config.json", "{\"model_type\":\"llama\"}");
    put("generation_config.json", "{\"eos_token_id\":[1,3,4,5,6,7,8,9]}");
    assert_int_equal(hf_llm_open(folder, &m, &err), -BL_ELIMIT);
    assert_error(&err, "generation_config.json",
                 "eos_token_id: expected at most 8 different tokens");
}

static const struct hf_vision siglip_384 = {.family = &family_siglip, .image_size = 384};
static const struct hf_vision vit_224 = {.family = &family_vit, .image_size = 224};

static void without_a_file_the_familys_preprocessing_holds(void **state)
{
    struct hf_preprocess p;
    struct bl_error err;
    assert_ok(hf_preprocess_open(folder, &siglip_384, &p, &err), err);
    assert_int_equal(p.width, 384);
    assert_int_equal(p.height, 384);
    assert_int_equal(p.filter, 3);
    assert_true(p.rescale_factor == 1.0f / 255);
    assert_true(p.mean[0] == 0.5f && p.std[2] == 0.5f);
    assert_null(p.file);
    assert_ok(hf_preprocess_open(folder, &vit_224, &p, &err), err);
    assert_int_equal(p.filter, 2);
    assert_null(p.file);
}

static void the_nested_processor_config_of_transformers_5_comes_first(void **state)
{
    struct hf_preprocess p;
    struct bl_error err;
    put("preprocessor_config.json", "{\"image_mean\":[0.1,0.1,0.1]}");
    put("processor_config.json", "{\"processor_class\":\"X\",\"image_processor\":{"
                                 "\"image_processor_type\":\"SiglipImageProcessor\","
                                 "\"image_mean\":[0.2,0.2,0.2],\"resample\":2}}");
    assert_ok(hf_preprocess_open(folder, &siglip_384, &p, &err), err);
    assert_true(p.mean[0] == 0.2f);
    assert_int_equal(p.filter, 2);
    assert_string_equal(p.file, "processor_config.json");
    put("processor_config.json", "{\"processor_class\":\"SiglipProcessor\"}");
    assert_ok(hf_preprocess_open(folder, &siglip_384, &p, &err), err);
    assert_true(p.mean[0] == 0.1f);
    assert_string_equal(p.file, "preprocessor_config.json");
    put("processor_config.json", "{\"image_processor\":{\"do_pad\":true}}");
    assert_int_equal(hf_preprocess_open(folder, &siglip_384, &p, &err), -BL_EFORMAT);
    assert_error(&err, "processor_config.json",
                 "image_processor.do_pad: expected false, found true");
    put("processor_config.json", "{\"image_processor\":3}");
    assert_int_equal(hf_preprocess_open(folder, &siglip_384, &p, &err), -BL_EFORMAT);
    assert_error(&err, "processor_config.json", "image_processor: expected an object, found 3");
}

static void a_preprocessor_config_is_read(void **state)
{
    struct hf_preprocess p;
    struct bl_error err;
    put("preprocessor_config.json",
        "{\"do_resize\":true,\"image_processor_type\":\"ViTImageProcessor\",\"size\":{\"height\":"
        "384,\"width\":384},\"resample\":2,\"rescale_factor\":0.00392156862745098,"
        "\"image_mean\":[0.1,0.2,0.3],\"image_std\":[1,2,3],\"processor_class\":\"X\"}");
    assert_ok(hf_preprocess_open(folder, &siglip_384, &p, &err), err);
    assert_int_equal(p.filter, 2);
    assert_true(p.mean[2] == 0.3f && p.std[1] == 2 && p.rescale_factor == 1.0f / 255);
    put("preprocessor_config.json",
        "{\"feature_extractor_type\":\"ViTFeatureExtractor\",\"size\":224}");
    assert_ok(hf_preprocess_open(folder, &vit_224, &p, &err), err);
    assert_int_equal(p.height, 224);
    assert_int_equal(p.filter, 2);
    put("preprocessor_config.json", "{\"image_processor_type\":\"SiglipImageProcessor\"}");
    assert_ok(hf_preprocess_open(folder, &vit_224, &p, &err), err);
    assert_int_equal(p.filter, 3);
    put("preprocessor_config.json", "{}");
    assert_ok(hf_preprocess_open(folder, &vit_224, &p, &err), err);
    assert_int_equal(p.filter, 2);
}

static void preprocessing_that_would_change_pixels_is_refused(void **state)
{
    static const struct {
        const char *config, *message;
    } cases[] = {
        {"{\"image_processor_type\":\"CLIPImageProcessor\"}",
         "image_processor_type: expected SiglipImageProcessor or ViTImageProcessor, found "
         "\"CLIPImageProcessor\""},
        {"{\"do_resize\":false}", "do_resize: expected true, found false"},
        {"{\"do_rescale\":false}", "do_rescale: expected true, found false"},
        {"{\"do_normalize\":false}", "do_normalize: expected true, found false"},
        {"{\"do_center_crop\":true}", "do_center_crop: expected false, found true"},
        {"{\"do_pad\":true}", "do_pad: expected false, found true"},
        {"{\"do_sharpen\":true}", "do_sharpen: expected false, found true"},
        {"{\"do_convert_rgb\":null,\"do_thumbnail\":2}",
         "do_thumbnail: expected true or false, found 2"},
        {"{\"do_flip_channel_order\":true}", "do_flip_channel_order: expected false, found true"},
        {"{\"size\":{\"shortest_edge\":224}}",
         "size: expected height and width alone, found an object"},
        {"{\"size\":{\"height\":0,\"width\":1}}",
         "size.height: expected an integer from 1 to 16384, found 0"},
        {"{\"size\":384}",
         "size: expected the model's image_size of 224, found height 384, width 384"},
        {"{\"resample\":1}", "resample: expected an integer from 2 to 3, found 1"},
        {"{\"rescale_factor\":2}", "rescale_factor: expected a number from 1e-09 to 1, found 2"},
        {"{\"image_mean\":[0.5]}", "image_mean: expected a list of 3 numbers, found a list of 1"},
        {"{\"image_std\":[0.5,0.5,0]}", "image_std: expected numbers from 1e-06 to 1000, found 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hf_preprocess p;
        struct bl_error err;
        put("preprocessor_config.json", cases[i].config);
        assert_int_equal(hf_preprocess_open(folder, &vit_224, &p, &err), -BL_EFORMAT);
        assert_error(&err, "preprocessor_config.json", cases[i].message);
    }
}

static void a_folders_hash_depends_on_names_and_contents_alone(void **state)
{
    char first[65], again[65], other[65];
    struct bl_error err;
    put("config.json", "{}");
    put("model.safetensors", "abc");
    assert_ok(hf_folder_sha256(folder, HF_IDENTITY_ALL, first, &err), err);
    put("README.md", "not part of the model");
    assert_ok(hf_folder_sha256(folder, HF_IDENTITY_ALL, again, &err), err);
    assert_string_equal(first, again);
    put("model.safetensors", "abd");
    assert_ok(hf_folder_sha256(folder, HF_IDENTITY_ALL, other, &err), err);
    assert_string_not_equal(first, other);
    static const char *const sides[] = {"preprocessor_config.json", "processor_config.json",
                                        "generation_config.json", "tokenizer.json"};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        put(sides[i], "{}");
        assert_ok(hf_folder_sha256(folder, HF_IDENTITY_ALL, again, &err), err);
        assert_string_not_equal(again, other);
        memcpy(other, again, sizeof other);
    }
    assert_int_equal(hf_folder_sha256("/none", HF_IDENTITY_ALL, other, &err), -BL_EIO);
    assert_string_equal(err.file, "/none");
    assert_string_equal(err.text, "the folder cannot be listed: No such file or directory");
}

/* sha256("config.json" NUL, 2 as 8 bytes, "{}") by coreutils. */
static void a_folders_hash_is_over_name_size_and_content(void **state)
{
    char hex[65];
    struct bl_error err;
    put("config.json", "{}");
    assert_ok(hf_folder_sha256(folder, HF_IDENTITY_ALL, hex, &err), err);
    assert_string_equal(hex, "cff4c2cc9554e2866e23a365b8771afc941babe1ed5d2e92a148d739a34ba693");
}

/* What checkpoints of format 1 that were trained on the demo's models hold. */
static void a_checkpoint_of_format_1_knows_its_models(void **state)
{
    static const struct {
        const char *model, *sha256;
    } known[] = {
        {"vision", "4375ec06e00b4c3670f45fb4dcf5c84b435c099bc3893cbfcb1082e4be7b5234"},
        {"llm", "3a3f81ac1f18ba4d1778a905a082f40098e0e8a3437fd796c91f10f9a2c2851c"},
    };
    char hex[65], path[512];
    struct bl_error err;
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/deploy/demo/models/%s", getenv("BLIPREN_SOURCE"),
                 known[i].model);
        assert_ok(hf_folder_sha256(path, HF_IDENTITY_WEIGHTS, hex, &err), err);
        assert_string_equal(hex, known[i].sha256);
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(IN_FOLDER(a_siglip_folder_takes_the_defaults_for_missing_keys),
          IN_FOLDER(a_full_siglip_folder_gives_its_vision_tower),
          IN_FOLDER(a_vit_folder_counts_its_class_token), IN_FOLDER(a_wrong_vision_config_is_named),
          IN_FOLDER(a_published_llama_folder_is_read),
          IN_FOLDER(a_resaved_llama_folder_keeps_its_rope_in_rope_parameters),
          IN_FOLDER(an_empty_llama_config_has_the_library_defaults),
          IN_FOLDER(a_wrong_llm_config_is_named),
          IN_FOLDER(without_a_file_the_familys_preprocessing_holds),
          IN_FOLDER(the_nested_processor_config_of_transformers_5_comes_first),
          IN_FOLDER(a_preprocessor_config_is_read),
          IN_FOLDER(preprocessing_that_would_change_pixels_is_refused),
          IN_FOLDER(a_folders_hash_depends_on_names_and_contents_alone),
          IN_FOLDER(a_folders_hash_is_over_name_size_and_content),
          cmocka_unit_test(a_checkpoint_of_format_1_knows_its_models))
