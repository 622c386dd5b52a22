/* tests/unit/safetensors_test.c - every way a file can be wrong is named; what the Python library
 * wrote is read, and what we write is what it reads (tests/golden/safetensors/make.py). */
#include "tests/unit/unit.h"

#include <math.h>

#include "common/models/safetensors.h"
#include "tests/unit/folder.h"

static const char *golden(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/tests/golden/safetensors/%s", getenv("BLIPREN_SOURCE"), name);
    return path;
}

/* A file of this header and so many zero bytes of data. Returns its size. */
static size_t build(uint8_t *bytes, const char *header, size_t data_size)
{
    uint64_t length = strlen(header);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    memset(bytes + 8 + length, 0, data_size);
    return 8 + length + data_size;
}

static void write_model(const char *path, const char *header, size_t data_size)
{
    struct bl_error err;
    uint8_t bytes[2048];
    assert_ok(bl_file_write(path, bytes, build(bytes, header, data_size), &err), err);
}

static void a_wrong_header_is_named_with_what_was_expected_and_found(void **state)
{
    static const struct {
        const char *header;
        size_t data_size;
        const char *message;
    } cases[] = {
        {"[]", 0, "x: header: expected an object, found a list of 0"},
        {"{", 0,
         "x: header: expected JSON, found at line 1, column 1: string or '}' expected near end of "
         "file"},
        {"{\"a\":1,\"a\":1}", 0,
         "x: header: expected JSON, found at line 1, column 10: duplicate object key near '\"a\"'"},
        {"{\"__metadata__\":[]}", 0,
         "x: __metadata__: expected an object of strings, found a list of 0"},
        {"{\"__metadata__\":{\"k\":3}}", 0, "x: __metadata__.k: expected a string, found 3"},
        {"{\"a\":1}", 0,
         "x: tensor \"a\": expected an object of dtype, shape and data_offsets, found 1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"stride\":1}}", 4,
         "x: tensor \"a\": unknown key \"stride\""},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "x: tensor \"a\": expected a dtype such as F32, found nothing"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":3,\"data_offsets\":[0,3]}}", 3,
         "x: tensor \"a\": expected a shape of at most 8 sizes, found 3"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
         "x: tensor \"a\": expected a shape of at most 8 sizes, found a list of 9"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1,
         "x: tensor \"a\": expected a size of at least 0 in the shape, found -1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
         "x: tensor \"a\": the shape's sizes multiply to more than 64 bits"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0]}}", 3,
         "x: tensor \"a\": expected data_offsets [begin, end] with begin <= end"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[3,0]}}", 3,
         "x: tensor \"a\": expected data_offsets [begin, end] with begin <= end"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3,
         "x: tensor \"a\": expected 6 bytes for its shape, found 3"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,6]}}", 5,
         "x: tensor \"a\": expected data up to offset 6, found the file's end at 5; the file is "
         "truncated: download it again"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
         7, "x: tensor \"b\": its data overlaps that of tensor \"a\""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[6,10]}}",
         10, "x: tensor \"b\": 2 unused bytes before its data"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 9,
         "x: 5 unused bytes after the last tensor's data"},
        /* The header's length puts the data at an odd place. */
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}   ",
         5,
         "x: tensor \"b\": expected data aligned to 4 bytes, found offset 1; save it again with a "
         "current safetensors library"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        _Alignas(64) uint8_t bytes[1024];
        struct safetensors *file = NULL;
        struct bl_error err;
        char line[1600];
        size_t size = build(bytes, cases[i].header, cases[i].data_size);
        assert_int_equal(safetensors_parse(bytes, size, "x", &file, &err), -BL_EFORMAT);
        assert_null(file);
        bl_error_format(&err, line, sizeof line);
        assert_string_equal(line, cases[i].message);
    }
}

static void null_metadata_and_a_type_that_nothing_uses_do_not_matter(void **state)
{
    static const char header[] = "{\"__metadata__\":null,"
                                 "\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]},"
                                 "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]}}";
    _Alignas(64) uint8_t bytes[1024];
    struct safetensors *file = NULL;
    struct bl_error err;
    float value;
    size_t size = build(bytes, header, 5);
    assert_ok(safetensors_parse(bytes, size, "x", &file, &err), err);
    assert_int_equal(safetensors_count(file), 2);
    const struct tensor *a = safetensors_find(file, "a");
    assert_int_equal(a->dtype, BL_OTHER);
    assert_int_equal(a->size_bytes, 2);
    assert_int_equal(tensor_to_f32(a, 0, 1, &value, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected dtype F32, F16 or BF16, found F4");
    safetensors_free(&file);
}

static void a_header_length_beyond_the_file_or_the_limit_is_refused(void **state)
{
    struct safetensors *file = NULL;
    struct bl_error err;
    uint64_t words[2] = {9, 0};
    assert_int_equal(safetensors_parse(words, 7, "x", &file, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected a safetensors file, found 7 bytes");
    assert_int_equal(safetensors_parse(words, 16, "x", &file, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected a header of 9 bytes, found the file's end after 8");
    words[0] = UINT64_MAX;
    assert_int_equal(safetensors_parse(words, 16, "x", &file, &err), -BL_EFORMAT);
    assert_string_equal(
        err.text, "expected a safetensors file with a header of at most 104857600 bytes, found "
                  "18446744073709551615");
}

static void what_the_python_library_wrote_is_read(void **state)
{
    struct safetensors *file = NULL;
    struct bl_error err;
    assert_ok(safetensors_open(golden("reference.safetensors"), &file, &err), err);
    assert_int_equal(safetensors_count(file), 4);
    assert_string_equal(safetensors_at(file, 0)->name, "empty");
    assert_string_equal(safetensors_at(file, 3)->name, "i64");
    assert_null(safetensors_find(file, "f3"));

    const struct tensor *tensor = NULL;
    float values[7];
    assert_ok(safetensors_expect(file, "f32", 2, (int64_t[]){2, -1}, &tensor, &err), err);
    assert_ok(tensor_to_f32(tensor, 1, 5, values, &err), err);
    assert_memory_equal(values, ((float[]){-2, 3.25f, 0, 1e-40f, -7}), 5 * sizeof(float));
    assert_ok(safetensors_expect(file, "f16", 1, (int64_t[]){7}, &tensor, &err), err);
    assert_ok(tensor_to_f32(tensor, 0, 7, values, &err), err);
    assert_memory_equal(values, ((float[]){1, -0.5f, 65504, 0x1p-24f, 0x3FFp-24f, INFINITY, -0.0f}),
                        28);
    assert_ok(safetensors_expect(file, "empty", 2, (int64_t[]){0, 4}, &tensor, &err), err);
    assert_int_equal(tensor->size_bytes, 0);
    assert_ok(safetensors_expect(file, "i64", 0, NULL, &tensor, &err), err);
    assert_int_equal(*(const int64_t *)tensor->data, 7);
    assert_int_equal(tensor_to_f32(tensor, 0, 1, values, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected dtype F32, F16 or BF16, found I64");
    assert_string_equal(err.key, "tensor \"i64\"");
    safetensors_free(&file);
    assert_null(file);
}

static void a_missing_or_misshapen_tensor_is_named(void **state)
{
    struct safetensors *file = NULL;
    struct bl_error err;
    char line[1600], expected[4500];
    assert_ok(safetensors_open(golden("reference.safetensors"), &file, &err), err);
    const struct tensor *tensor = NULL;
    assert_int_equal(safetensors_expect(file, "f32", 2, (int64_t[]){3, 2}, &tensor, &err),
                     -BL_EFORMAT);
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected, "%s: tensor \"f32\": expected shape [3, 2], found [2, 3]",
             golden("reference.safetensors"));
    assert_string_equal(line, expected);
    assert_int_equal(safetensors_expect(file, "w", 1, (int64_t[]){-1}, &tensor, &err), -BL_EFORMAT);
    assert_string_equal(err.key, "tensor \"w\"");
    assert_string_equal(err.text, "expected shape [any], found no such tensor");
    safetensors_free(&file);
}

static void every_half_widens_to_its_value(void **state)
{
    static uint16_t halves[65536];
    static float values[65536];
    struct bl_error err;
    for (int i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    struct tensor tensor = {
        .name = "h", .dtype = BL_F16, .data = halves, .size_bytes = sizeof halves, .file = "x"};
    assert_ok(tensor_to_f32(&tensor, 0, 65536, values, &err), err);
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double expected = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        if (exponent == 31)
            expected = fraction ? NAN : INFINITY;
        assert_int_equal(!!signbit(values[i]), i >> 15);
        if (isnan(expected))
            assert_true(isnan(values[i]));
        else
            assert_true(fabs(values[i]) == expected);
    }
}

static void a_bf16_is_the_upper_half_of_a_float(void **state)
{
    const uint16_t raw[] = {0x3F80, 0xC020, 0x0001, 0x7F80};
    struct tensor tensor = {
        .name = "b", .dtype = BL_BF16, .data = raw, .size_bytes = sizeof raw, .file = "x"};
    float values[3];
    struct bl_error err;
    assert_ok(tensor_to_f32(&tensor, 1, 3, values, &err), err);
    assert_memory_equal(values, ((float[]){-2.5f, 0x1p-133f, INFINITY}), sizeof values);
}

static void what_we_write_is_what_the_python_library_reads(void **state)
{
    const float a[] = {0.5f}, b[] = {1, 2, 3, 4};
    const uint16_t half[] = {0x3C00, 0x4000, 0x4200};
    const uint8_t flag[] = {255};
    const struct tensor tensors[] = {
        {"flag", BL_U8, 1, {1}, flag, sizeof flag, NULL, NULL},
        {"b", BL_F32, 2, {2, 2}, b, sizeof b, NULL, NULL},
        {"half", BL_F16, 1, {3}, half, sizeof half, NULL, NULL},
        {"a", BL_F32, 1, {1}, a, sizeof a, NULL, NULL},
    };
    struct bl_error err;
    assert_ok(safetensors_write(inside("w.safetensors"), tensors, 4,
                                (const char *const[]){"step", "3", NULL, NULL}, &err),
              err);
    char *written, *expected;
    size_t written_size, expected_size;
    assert_ok(bl_file_read(inside("w.safetensors"), 4096, &written, &written_size, &err), err);
    assert_ok(bl_file_read(golden("written.safetensors"), 4096, &expected, &expected_size, &err),
              err);
    assert_int_equal(written_size, expected_size);
    assert_memory_equal(written, expected, expected_size);
    free(written);
    free(expected);

    struct safetensors *file = NULL;
    assert_ok(safetensors_open(inside("w.safetensors"), &file, &err), err);
    assert_int_equal((uintptr_t)safetensors_find(file, "b")->data % 64, 0);
    safetensors_free(&file);
}

/* What this process holds of files, in bytes. */
static long resident_file_bytes(void)
{
    char line[256];
    long kb = -1;
    FILE *status = fopen("/proc/self/status", "r");
    assert_non_null(status);
    while (kb < 0 && fgets(line, sizeof line, status))
        sscanf(line, "RssFile: %ld kB", &kb);
    fclose(status);
    assert_true(kb >= 0);
    return kb * 1024;
}

static void what_is_let_go_leaves_memory_and_reads_the_same_again(void **state)
{
    enum { COUNT_OF_FLOATS = 4 << 20 };
    const size_t size = COUNT_OF_FLOATS * sizeof(float);
    float *values = malloc(size), *again = malloc(size);
    for (int i = 0; i < COUNT_OF_FLOATS; i++)
        values[i] = (float)i;
    const struct tensor tensor = {"x", BL_F32, 1, {COUNT_OF_FLOATS}, values, size, NULL, NULL};
    struct bl_error err;
    struct safetensors *file = NULL;
    assert_ok(safetensors_write(inside("big.safetensors"), &tensor, 1, NULL, &err), err);
    assert_ok(safetensors_open(inside("big.safetensors"), &file, &err), err);
    for (int i = 0; i < 2; i++) {
        memcpy(again, safetensors_find(file, "x")->data, size);
        assert_memory_equal(again, values, size);
        const long before = resident_file_bytes();
        safetensors_let_go(file);
        assert_true(resident_file_bytes() <= before - (long)size / 2);
    }
    safetensors_free(&file);
    free(values);
    free(again);
}

static void a_file_of_no_tensors_reads_back(void **state)
{
    struct bl_error err;
    struct safetensors *file = NULL;
    assert_ok(safetensors_write(inside("none.safetensors"), NULL, 0, NULL, &err), err);
    assert_ok(safetensors_open(inside("none.safetensors"), &file, &err), err);
    assert_int_equal(safetensors_count(file), 0);
    assert_null(safetensors_find(file, "a"));
    safetensors_free(&file);
}

static const char one_a[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
static const char one_b[] = "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";

static void put_index(const char *weight_map)
{
    char text[512];
    struct bl_error err;
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":6},\"weight_map\":%s}", weight_map);
    assert_ok(bl_file_write(inside("model.safetensors.index.json"), text, strlen(text), &err), err);
}

static void shards_are_read_as_one(void **state)
{
    struct bl_error err;
    struct safetensors *file = NULL;
    write_model(inside("1.safetensors"), one_a, 4);
    write_model(inside("2.safetensors"), one_b, 2);
    put_index("{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\"}");
    assert_ok(safetensors_open(folder, &file, &err), err);
    assert_int_equal(safetensors_count(file), 2);
    assert_string_equal(safetensors_find(file, "a")->file, inside("1.safetensors"));
    assert_string_equal(safetensors_find(file, "b")->file, inside("2.safetensors"));
    safetensors_free(&file);
    /* A single file, where there is one, comes first. */
    write_model(inside("model.safetensors"), one_b, 2);
    assert_ok(safetensors_open(folder, &file, &err), err);
    assert_int_equal(safetensors_count(file), 1);
    safetensors_free(&file);
}

static void a_wrong_index_is_named(void **state)
{
    struct bl_error err;
    struct safetensors *file = NULL;
    char line[1600], expected[512];
    write_model(inside("1.safetensors"), one_a, 4);
    write_model(inside("2.safetensors"), one_b, 2);
    write_model(inside("3.safetensors"), one_a, 4);
    static const struct {
        const char *weight_map, *message;
    } cases[] = {
        {"[]", "weight_map: expected an object, found a list of 0"},
        {"{\"a\":1}", "tensor \"a\": expected the name of a file beside the index, found 1"},
        {"{\"a\":\"../1\"}",
         "tensor \"a\": expected the name of a file beside the index, found \"../1\""},
        {"{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}",
         "tensor \"b\": expected in 1.safetensors, which does not have it"},
        {"{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\"}",
         "tensor \"a\": expected in 2.safetensors, which does not have it"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_index(cases[i].weight_map);
        assert_int_equal(safetensors_open(folder, &file, &err), -BL_EFORMAT);
        bl_error_format(&err, line, sizeof line);
        snprintf(expected, sizeof expected, "%s: %s", inside("model.safetensors.index.json"),
                 cases[i].message);
        assert_string_equal(line, expected);
    }
    put_index("{\"a\":\"1.safetensors\",\"x\":\"3.safetensors\"}");
    assert_int_equal(safetensors_open(folder, &file, &err), -BL_EFORMAT);
    snprintf(expected, sizeof expected, "is in two files, %s and %s", inside("1.safetensors"),
             inside("3.safetensors"));
    assert_string_equal(err.text, expected);
    put_index("{\"a\":\"4.safetensors\"}");
    assert_int_equal(safetensors_open(folder, &file, &err), -BL_EIO);
    assert_string_equal(err.file, inside("4.safetensors"));
}

static void a_folder_without_weights_is_named(void **state)
{
    struct bl_error err;
    struct safetensors *file = NULL;
    assert_int_equal(safetensors_open(folder, &file, &err), -BL_EIO);
    assert_string_equal(err.file, folder);
    assert_string_equal(err.text,
                        "expected model.safetensors or model.safetensors.index.json in the folder");
    assert_int_equal(safetensors_open(inside("none"), &file, &err), -BL_EIO);
    assert_string_equal(err.text, "cannot be opened: No such file or directory");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(cmocka_unit_test(null_metadata_and_a_type_that_nothing_uses_do_not_matter),
          cmocka_unit_test(a_wrong_header_is_named_with_what_was_expected_and_found),
          cmocka_unit_test(a_header_length_beyond_the_file_or_the_limit_is_refused),
          cmocka_unit_test(what_the_python_library_wrote_is_read),
          cmocka_unit_test(a_missing_or_misshapen_tensor_is_named),
          cmocka_unit_test(every_half_widens_to_its_value),
          cmocka_unit_test(a_bf16_is_the_upper_half_of_a_float),
          IN_FOLDER(what_we_write_is_what_the_python_library_reads),
          IN_FOLDER(what_is_let_go_leaves_memory_and_reads_the_same_again),
          IN_FOLDER(a_file_of_no_tensors_reads_back), IN_FOLDER(shards_are_read_as_one),
          IN_FOLDER(a_wrong_index_is_named), IN_FOLDER(a_folder_without_weights_is_named))
