/* tests/unit/loader_commands_test.c - what `blipren-loader tokenize` and `preprocess` print. */
#include "tests/unit/unit.h"

#include <sodium.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/tokenizer/tokenizer.h"
#include "loader/commands.h"
#include "common/image/image.h"
#include "common/json.h"

static const char *in_source(const char *name)
{
    static char path[4][512];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", getenv("BLIPREN_SOURCE"), name);
    return path[at];
}

/* -- tokenize --------------------------------------------------------------------------------- */

/* What the command makes of the input; the caller's. */
static char *tokenized(struct tokenize_options options, const char *input, int *ret_rc,
                       struct bl_error *err)
{
    char *text = NULL;
    size_t size;
    FILE *in = fmemopen((void *)(uintptr_t)input, strlen(input), "r");
    FILE *out = open_memstream(&text, &size);
    options.model = in_source("deploy/demo/models/llm");
    *ret_rc = tokenize_run(&options, in, out, err);
    fclose(in);
    fclose(out);
    return text;
}

static void ids_of_lines_decode_to_the_same_lines(void **state)
{
    static const char text[] = "a red circle\ntwo  BLUE squares, grün\nlast line without an end";
    struct bl_error err;
    int rc;
    bl_autofree char *ids = tokenized((struct tokenize_options){0}, text, &rc, &err);
    assert_ok(rc, err);
    bl_autofree char *again = tokenized((struct tokenize_options){.decode = true}, ids, &rc, &err);
    assert_ok(rc, err);
    assert_int_equal(strlen(again), sizeof text);
    assert_memory_equal(again, text, sizeof text - 1);
}

static void ids_are_those_of_the_tokenizer(void **state)
{
    struct bl_error err;
    struct tokenizer *tokenizer;
    struct token_ids ids = {0};
    char expected[200] = "", tokens[400] = "";
    FILE *numbers = fmemopen(expected, sizeof expected, "w");
    FILE *lines = fmemopen(tokens, sizeof tokens, "w");
    int rc;
    assert_ok(tokenizer_open(in_source("deploy/demo/models/llm"), &tokenizer, &err), err);
    assert_ok(tokenizer_encode(tokenizer, "a red circle", 12, false, &ids, &err), err);
    assert_true(ids.count >= 3);
    for (size_t i = 0; i < ids.count; i++) {
        fprintf(numbers, "%s%d", i ? " " : "", ids.ids[i]);
        fprintf(lines, "%d\t%s\n", ids.ids[i], tokenizer_content(tokenizer, ids.ids[i]));
    }
    fputs("\n", numbers);
    fputs("\n", lines);
    fclose(numbers);
    fclose(lines);
    bl_autofree char *printed =
        tokenized((struct tokenize_options){0}, "a red circle\n", &rc, &err);
    assert_ok(rc, err);
    assert_string_equal(printed, expected);
    bl_autofree char *listed =
        tokenized((struct tokenize_options){.tokens = true}, "a red circle\n", &rc, &err);
    assert_ok(rc, err);
    assert_string_equal(listed, tokens);
    token_ids_release(&ids);
    tokenizer_free(&tokenizer);
}

static void a_line_that_is_no_list_of_ids_is_named(void **state)
{
    static const char *const wrong[] = {"1 2\n3 x", "1\n-4", "1\n2,3", "1\n99999999999"};
    static const char *const found[] = {"x", "-4", "2,3", "99999999999"};
    for (int i = 0; i < 4; i++) {
        struct bl_error err;
        char expected[100];
        int rc;
        bl_autofree char *text =
            tokenized((struct tokenize_options){.decode = true}, wrong[i], &rc, &err);
        assert_int_equal(rc, -BL_EFORMAT);
        assert_true(strlen(text) <= 3); /* the first line's text at most */
        snprintf(expected, sizeof expected, "expected ids below 480 between spaces, found \"%s\"",
                 found[i]);
        assert_string_equal(err.key, "line 2");
        assert_string_equal(err.text, expected);
    }
}

/* -- preprocess ------------------------------------------------------------------------------- */

static void squares_are_those_of_training(void **state)
{
    struct bl_error err;
    char folder[] = "/tmp/blipren-squares-XXXXXX", png[128], expected[700], hex[65];
    bl_autofree char *data = NULL, *printed = NULL;
    bl_autoimage struct image image = {0}, square = {0};
    static uint8_t pixels[64 * 64 * 3];
    uint8_t hash[32];
    size_t size;
    assert_non_null(mkdtemp(folder));
    char *images[] = {(char *)(uintptr_t)in_source("tests/golden/image/rgb.jpg"),
                      (char *)(uintptr_t)in_source("README.md")};
    struct preprocess_options options = {
        .model = in_source("deploy/demo/models/vision"), .into = folder, .max_pixels = 1000};
    FILE *out = open_memstream(&printed, &size);
    assert_int_equal(preprocess_run(&options, images, 2, out, &err), -BL_EDATA);
    fclose(out);
    assert_string_equal(err.text, "1 of 2 images cannot be read");

    assert_ok(bl_file_read(images[0], 1 << 20, &data, &size, &err), err);
    assert_ok(image_decode((uint8_t *)data, size, 1000, &image, &err), err);
    assert_ok(image_resize(&image, 64, 64, IMAGE_BICUBIC, pixels, &err), err);
    crypto_hash_sha256(hash, pixels, sizeof pixels);
    bl_hex(hash, sizeof hash, hex);
    snprintf(png, sizeof png, "%s/rgb.jpg.png", folder);
    snprintf(expected, sizeof expected,
             "%s\t23\t17\t64\t%s\t%s\n%s\terror\texpected a supported image", images[0], hex, png,
             images[1]);
    assert_memory_equal(printed, expected, strlen(expected));
    bl_autofree char *file = NULL;
    assert_ok(bl_file_read(png, 1 << 20, &file, &size, &err), err);
    assert_ok(image_decode((uint8_t *)file, size, 64 * 64, &square, &err), err);
    assert_memory_equal(square.pixels, pixels, sizeof pixels);
    assert_ok(bl_folder_remove(folder, &err), err);
}

static void two_images_of_one_name_are_both_written(void **state)
{
    struct bl_error err;
    char folder[] = "/tmp/blipren-squares-XXXXXX", other[128], path[128];
    bl_autofree char *data = NULL, *printed = NULL;
    size_t size;
    assert_non_null(mkdtemp(folder));
    snprintf(other, sizeof other, "%s/a\tb", folder);
    assert_ok(bl_folder_make(other, &err), err);
    snprintf(other, sizeof other, "%s/a\tb/rgb.jpg", folder);
    char *images[] = {(char *)(uintptr_t)in_source("tests/golden/image/rgb.jpg"), other, other};
    assert_ok(bl_file_read(images[0], 1 << 20, &data, &size, &err), err);
    assert_ok(bl_file_write(other, data, size, &err), err);
    struct preprocess_options options = {.model = in_source("deploy/demo/models/vision"),
                                         .into = folder,
                                         .json = true,
                                         .max_pixels = 1000};
    FILE *out = open_memstream(&printed, &size);
    assert_ok(preprocess_run(&options, images, 3, out, &err), err);
    fclose(out);
    char *line = printed;
    for (int i = 0; i < 3; i++, line = strchr(line, '\n') + 1) {
        json_t *object = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        assert_string_equal(json_string_value(json_object_get(object, "file_name")), images[i]);
        snprintf(path, sizeof path, i ? "%s/rgb.jpg-%d.png" : "%s/rgb.jpg.png", folder, i + 1);
        assert_string_equal(json_string_value(json_object_get(object, "png")), path);
        assert_true(bl_path_is_file(path));
        json_decref(object);
    }
    assert_ok(bl_folder_remove(folder, &err), err);
}

UNIT_MAIN(cmocka_unit_test(ids_of_lines_decode_to_the_same_lines),
          cmocka_unit_test(ids_are_those_of_the_tokenizer),
          cmocka_unit_test(a_line_that_is_no_list_of_ids_is_named),
          cmocka_unit_test(two_images_of_one_name_are_both_written),
          cmocka_unit_test(squares_are_those_of_training))
