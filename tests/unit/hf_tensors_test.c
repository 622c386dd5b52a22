/* tests/unit/hf_tensors_test.c - a folder's tensors are all looked for, and a missing one is named.
 */
#include "tests/unit/unit.h"

#include "common/file.h"
#include "common/models/hf_tensors.h"

static const char *demo(const char *model)
{
    static char path[2][512];
    char *at = path[model[0] == 'l'];
    snprintf(at, sizeof path[0], "%s/deploy/demo/models/%s", getenv("BLIPREN_SOURCE"), model);
    return at;
}

static struct safetensors *opened(const char *path)
{
    struct bl_error err = {0};
    struct safetensors *file = NULL;
    assert_ok(safetensors_open(path, &file, &err), err);
    return file;
}

static void the_demos_folders_are_complete(void **state)
{
    struct bl_error err = {0};
    struct hf_vision vision;
    struct hf_llm llm;
    struct safetensors *file = opened(demo("vision"));
    assert_ok(hf_vision_open(demo("vision"), &vision, &err), err);
    assert_ok(hf_vision_check(&vision, true, file, HF_SHAPES, &err), err);
    safetensors_free(&file);
    file = opened(demo("llm"));
    assert_ok(hf_llm_open(demo("llm"), &llm, &err), err);
    assert_ok(hf_llm_check(&llm, file, HF_SHAPES, &err), err);
    safetensors_free(&file);
}

/* Writes the demo's model without tensor `left_out`, or with it in another type. */
static void write_without(const char *path, const char *model, const char *left_out, bool retype)
{
    struct safetensors *file = opened(demo(model));
    struct tensor tensors[256];
    struct bl_error err = {0};
    size_t count = 0;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        struct tensor tensor = *safetensors_at(file, i);
        bool named = !strcmp(tensor.name, left_out);
        if (named && retype)
            tensor.dtype = BL_I16;
        if (!named || retype)
            tensors[count++] = tensor;
    }
    assert_ok(safetensors_write(path, tensors, count, NULL, &err), err);
    safetensors_free(&file);
}

static void what_is_missing_is_named(void **state)
{
    char folder[] = "/tmp/blipren-tensors-XXXXXX", path[64], line[1600], expected[512];
    struct bl_error err = {0};
    struct hf_vision vision;
    struct hf_llm llm;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(hf_vision_open(demo("vision"), &vision, &err), err);
    assert_ok(hf_llm_open(demo("llm"), &llm, &err), err);

    write_without(path, "llm", "model.layers.3.mlp.up_proj.weight", false);
    struct safetensors *file = opened(path);
    assert_int_equal(hf_llm_check(&llm, file, HF_SHAPES, &err), -BL_EFORMAT);
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected,
             "%s: tensor \"model.layers.3.mlp.up_proj.weight\": expected shape [384, 128], found "
             "no such tensor",
             path);
    assert_string_equal(line, expected);
    safetensors_free(&file);

    write_without(path, "llm", "lm_head.weight", true);
    file = opened(path);
    assert_int_equal(hf_llm_check(&llm, file, HF_SHAPES, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected F32, F16 or BF16, found I16");
    safetensors_free(&file);

    static const char probe[] = "head.probe";
    write_without(path, "vision", probe, false);
    file = opened(path);
    assert_ok(hf_vision_check(&vision, false, file, HF_SHAPES, &err), err);
    assert_int_equal(hf_vision_check(&vision, true, file, HF_SHAPES, &err), -BL_EFORMAT);
    assert_non_null(strstr(err.key, probe));
    safetensors_free(&file);
    vision.hidden = 64;
    file = opened(demo("vision"));
    assert_int_equal(hf_vision_check(&vision, true, file, HF_SHAPES, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected shape [64, 3, 8, 8], found [128, 3, 8, 8]");
    safetensors_free(&file);
    assert_ok(bl_folder_remove(folder, &err), err);
}

static void expect_roles(const struct hf_names *names, enum hf_role first, enum hf_role last)
{
    for (enum hf_role role = first; role <= last; role++)
        assert_non_null(hf_tensor_of(names, role));
}

/* What the model opens without asking whether it is there. */
static void every_familys_description_is_whole(void **state)
{
    static const struct vision_family *const towers[] = {&family_siglip, &family_vit};
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++) {
        const struct hf_names *names = &towers[i]->names;
        expect_roles(names, HF_NORM1, HF_NORM2);
        expect_roles(names, HF_UP, HF_DOWN);
        assert_non_null(hf_tensor_of(names, HF_EMBEDDING));
        assert_non_null(hf_tensor_of(names, HF_POSITION));
        assert_non_null(hf_tensor_of(names, HF_FINAL_NORM));
        if (hf_tensor_of(names, HF_POOL_PROBE))
            expect_roles(names, HF_POOL_PROBE, HF_POOL_DOWN);
        else
            assert_non_null(hf_tensor_of(names, HF_CLASS_TOKEN));
    }
    expect_roles(&family_llama.names, HF_NORM1, HF_DOWN);
    expect_roles(&family_llama.names, HF_FINAL_NORM, HF_HEAD);
}

static void names_carry_the_prefix_only_where_the_folder_has_it(void **state)
{
    struct bl_error err = {0};
    struct hf_vision vision;
    struct hf_shapes shapes;
    char name[HF_NAME_BYTES];
    struct safetensors *file = opened(demo("vision")); /* saved again, without it */
    assert_ok(hf_vision_open(demo("vision"), &vision, &err), err);
    const struct hf_tensor *tensor = hf_tensor_of(&family_siglip.names, HF_QUERY);
    hf_vision_shapes(&vision, file, &shapes);
    hf_shapes_name(&shapes, tensor, 2, name);
    assert_string_equal(name, "encoder.layers.2.self_attn.q_proj.weight");
    hf_vision_shapes(&vision, NULL, &shapes);
    assert_true(hf_shapes_bias_name(&shapes, tensor, 11, name));
    assert_string_equal(name, "vision_model.encoder.layers.11.self_attn.q_proj.bias");
    assert_false(
        hf_shapes_bias_name(&shapes, hf_tensor_of(&family_siglip.names, HF_POOL_PROBE), 0, name));
    safetensors_free(&file);
}

/* Writes the demo's language model with its tensor `name` replaced, or as one more. */
static void write_with(const char *path, const struct tensor *changed)
{
    struct safetensors *file = opened(demo("llm"));
    struct tensor tensors[256];
    struct bl_error err = {0};
    size_t count = 0;
    for (size_t i = 0; i < safetensors_count(file); i++)
        if (strcmp(safetensors_at(file, i)->name, changed->name))
            tensors[count++] = *safetensors_at(file, i);
    tensors[count++] = *changed;
    assert_ok(safetensors_write(path, tensors, count, NULL, &err), err);
    safetensors_free(&file);
}

static void a_tensor_with_a_value_that_is_not_finite_is_named(void **state)
{
    char folder[] = "/tmp/blipren-tensors-XXXXXX", path[64];
    struct bl_error err = {0};
    struct hf_llm llm;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(hf_llm_open(demo("llm"), &llm, &err), err);
    static const struct {
        enum bl_dtype dtype;
        uint32_t bits;
        const char *says;
    } cases[] = {
        {BL_F32, 0x7FC00000, "expected finite values, found nan at element 100"},
        {BL_F32, 0xFF800000, "expected finite values, found -inf at element 100"},
        {BL_BF16, 0x7F80, "expected finite values, found inf at element 100"},
        {BL_F16, 0x7C00, "expected finite values, found inf at element 100"},
        {BL_F16, 0x7B80, NULL}, /* large */
        {BL_BF16, 0x7F7F, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t wide[128] = {0};
        uint16_t narrow[128] = {0};
        wide[100] = cases[i].bits;
        narrow[100] = (uint16_t)cases[i].bits;
        bool f32 = cases[i].dtype == BL_F32;
        struct tensor norm = {.name = "model.norm.weight",
                              .dtype = cases[i].dtype,
                              .rank = 1,
                              .dims = {128},
                              .data = f32 ? wide : (void *)narrow,
                              .size_bytes = f32 ? 512 : 256};
        write_with(path, &norm);
        struct safetensors *file = opened(path);
        assert_ok(hf_llm_check(&llm, file, HF_SHAPES, &err), err);
        int rc = hf_llm_check(&llm, file, HF_VALUES, &err);
        assert_int_equal(rc, cases[i].says ? -BL_EFORMAT : 0);
        if (cases[i].says) {
            assert_string_equal(err.text, cases[i].says);
            assert_string_equal(err.key, "tensor \"model.norm.weight\"");
        }
        safetensors_free(&file);
    }
    assert_ok(bl_folder_remove(folder, &err), err);
}

/* As transformers: `tie_word_embeddings` does not hold for a folder with two matrices that differ. */
static void two_different_matrices_are_not_tied(void **state)
{
    char folder[] = "/tmp/blipren-tensors-XXXXXX", path[64];
    struct bl_error err = {0};
    struct hf_llm llm;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(hf_llm_open(demo("llm"), &llm, &err), err);
    llm.tied = true;
    struct safetensors *file = opened(demo("llm"));
    assert_false(hf_llm_tied(&llm, file)); /* the demo's head is its own */
    struct tensor head = *safetensors_find(file, "model.embed_tokens.weight");
    head.name = "lm_head.weight";
    write_with(path, &head);
    struct safetensors *same = opened(path);
    assert_true(hf_llm_tied(&llm, same));
    llm.tied = false;
    assert_false(hf_llm_tied(&llm, same));
    safetensors_free(&same);
    safetensors_free(&file);
    assert_ok(bl_folder_remove(folder, &err), err);
}

UNIT_MAIN(cmocka_unit_test(every_familys_description_is_whole),
          cmocka_unit_test(names_carry_the_prefix_only_where_the_folder_has_it),
          cmocka_unit_test(the_demos_folders_are_complete),
          cmocka_unit_test(what_is_missing_is_named),
          cmocka_unit_test(a_tensor_with_a_value_that_is_not_finite_is_named),
          cmocka_unit_test(two_different_matrices_are_not_tied))
