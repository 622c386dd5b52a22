/* tests/unit/arrow_test.c - Arrow files: what pyarrow wrote is read (tests/golden/arrow/make.py), what we write we read, and
 * what does not fit is refused by name. tests/evidence/arrow is the other direction. */
#include "tests/unit/unit.h"

#include "common/arrow/arrow.h"
#include "common/cleanup.h"
#include "tests/unit/folder.h"

static const char *golden(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/tests/golden/arrow/%s.arrow", getenv("BLIPREN_SOURCE"), name);
    return path;
}

static struct arrow *open_golden(const char *name)
{
    struct bl_error err;
    struct arrow *a = NULL;
    assert_ok(arrow_open(golden(name), &a, &err), err);
    return a;
}

static struct arrow_values values_of(const struct arrow *a, int batch, const char *name)
{
    int column = arrow_column_find(a, name);
    assert_true(column >= 0);
    return arrow_batch_values(a, batch, column);
}

static void what_pyarrow_wrote_is_read(void **state)
{
    static const char *const words[] = {"string",
                                        "int8",
                                        "fixed_size_list<halffloat>[2]",
                                        "fixed_size_list<fixed_size_list<uint16>[2]>[3]",
                                        "fixed_size_list<float>[1]",
                                        "list<int32>"};
    bl_auto(arrow) struct arrow *a = open_golden("good");
    assert_int_equal(arrow_column_count(a), 6);
    for (int i = 0; i < 6; i++) {
        char text[128];
        arrow_column_words(arrow_column_at(a, i), text, sizeof text);
        assert_string_equal(text, words[i]);
    }
    assert_int_equal(arrow_batch_count(a), 2);
    assert_int_equal(arrow_batch_rows(a, 0), 2);
    assert_int_equal(arrow_batch_rows(a, 1), 1);
    struct arrow_values image = values_of(a, 0, "image"), last = values_of(a, 1, "image");
    assert_memory_equal(image.data, "ab", 2);
    assert_int_equal(image.offsets[2] - image.offsets[1], 0);
    assert_memory_equal((const char *)last.data + last.offsets[0], "cde", 3);
    assert_memory_equal(values_of(a, 0, "i8").data, ((int8_t[]){1, -2}), 2);
    assert_memory_equal(values_of(a, 0, "half").data,
                        ((uint16_t[]){0x3800, 0x3c00, 0xc000, 0x7bff}), 8);
    assert_memory_equal(values_of(a, 1, "bits").data, ((uint16_t[]){12, 13, 14, 15, 16, 17}), 12);
    assert_memory_equal(values_of(a, 1, "scale").data, ((float[]){-1e30f}), 4);
    struct arrow_values tokens = values_of(a, 0, "tokens");
    assert_int_equal(tokens.offsets[1], 3);
    assert_int_equal(tokens.offsets[2], 3);
    assert_memory_equal(tokens.data, ((int32_t[]){1, 2, 3}), 12);
    assert_string_equal(arrow_metadata(a, "key"), "value");
    assert_string_equal(arrow_metadata(a, "empty"), "");
    assert_null(arrow_metadata(a, "other"));
    assert_int_equal(arrow_column_find(a, "other"), -1);
    struct bl_error err;
    assert_ok(arrow_verify(a, &err), err); /* has no checksum of ours */
}

static void a_file_without_rows_is_read(void **state)
{
    bl_auto(arrow) struct arrow *a = open_golden("empty");
    int64_t rows = 0;
    for (int i = 0; i < arrow_batch_count(a); i++)
        rows += arrow_batch_rows(a, i);
    assert_int_equal(rows, 0);
}

static void what_is_not_read_is_refused_by_name(void **state)
{
    static const char *const cases[][2] = {
        {"nulls", "column \"x\": expected no nulls, found 1"},
        {"compressed", "expected plain values, found compressed ones"},
        {"dictionary", "expected plain columns, found a dictionary"},
        {"int64", "column \"x\": expected int8, uint16, int32, halffloat or float, a list or "
                  "fixed_size_list of these, or string; found another type"},
        {"texts", "column \"x\": expected int8, uint16, int32, halffloat or float, a list or "
                  "fixed_size_list of these, or string; found another type"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bl_error err;
        struct arrow *a = NULL;
        assert_int_equal(arrow_open(golden(cases[i][0]), &a, &err), -BL_EFORMAT);
        assert_string_equal(err.text, cases[i][1]);
        assert_string_equal(err.file, golden(cases[i][0]));
    }
}

static const struct arrow_column columns[] = {
    {"image", ARROW_UTF8, 0, {0}, false},
    {"features", ARROW_F16, 2, {2, 3}, false},
    {"tokens", ARROW_I32, 0, {0}, true},
};

static void write_file(const char *path)
{
    static const char *const metadata[] = {"blipren.dtype", "f16", NULL};
    const struct arrow_values batch[] = {
        {"onetwo", (int32_t[]){0, 3, 6}},
        {(uint16_t[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, NULL},
        {(int32_t[]){-1, 70000}, (int32_t[]){0, 0, 2}},
    };
    struct bl_error err;
    bl_auto(arrow_writer) struct arrow_writer *w = NULL;
    assert_ok(arrow_writer_open(path, columns, 3, metadata, &w, &err), err);
    assert_ok(arrow_writer_batch(w, 2, batch, &err), err);
    assert_ok(arrow_writer_batch(w, 1, batch, &err), err);
    assert_ok(arrow_writer_commit(w, &err), err);
}

static void what_is_written_is_read(void **state)
{
    struct bl_error err;
    bl_auto(arrow) struct arrow *a = NULL;
    write_file(inside("a.arrow"));
    assert_ok(arrow_open(inside("a.arrow"), &a, &err), err);
    assert_ok(arrow_verify(a, &err), err);
    assert_int_equal(arrow_column_count(a), 3);
    for (int i = 0; i < 3; i++)
        assert_true(arrow_column_equal(arrow_column_at(a, i), &columns[i]));
    assert_int_equal(arrow_row_elements(&columns[1]), 6);
    assert_int_equal(arrow_batch_count(a), 2);
    assert_int_equal(arrow_batch_rows(a, 1), 1);
    assert_int_equal(((const uint16_t *)values_of(a, 0, "features").data)[11], 12);
    assert_int_equal((uintptr_t)values_of(a, 1, "features").data % 64, 0);
    assert_int_equal(((const int32_t *)values_of(a, 0, "tokens").data)[1], 70000);
    assert_string_equal(arrow_metadata(a, "blipren.dtype"), "f16");
}

static void a_writer_that_does_not_commit_leaves_nothing(void **state)
{
    struct bl_error err;
    struct arrow_writer *w = NULL;
    assert_ok(arrow_writer_open(inside("none.arrow"), columns, 3, NULL, &w, &err), err);
    arrow_writer_free(&w);
    assert_null(w);
    assert_false(bl_path_is_file(inside("none.arrow")));
}

static void a_torn_file_is_refused_by_name_wherever_it_is_torn(void **state)
{
    struct bl_error err;
    bl_autofree char *data = NULL;
    size_t size;
    write_file(inside("whole.arrow"));
    assert_ok(bl_file_read(inside("whole.arrow"), 1 << 20, &data, &size, &err), err);
    for (size_t cut = 0; cut < size; cut++) {
        struct arrow *a = NULL;
        bl_autofree uint8_t *part = malloc(cut ? cut : 1);
        memcpy(part, data, cut);
        assert_int_equal(arrow_parse(part, cut, "torn.arrow", &a, &err), -BL_EFORMAT);
        assert_string_equal(err.file, "torn.arrow");
        assert_non_null(strstr(err.text, "expected a whole Arrow file, found"));
        assert_string_equal(err.remedy, "remove this file and make it again");
    }
}

static void a_changed_byte_is_noticed(void **state)
{
    struct bl_error err;
    bl_autofree char *data = NULL;
    size_t size;
    write_file(inside("whole.arrow"));
    assert_ok(bl_file_read(inside("whole.arrow"), 1 << 20, &data, &size, &err), err);
    uint32_t footer;
    memcpy(&footer, data + size - 10, sizeof footer);
    for (size_t i = 0; i < size; i++) {
        struct arrow *a = NULL;
        data[i] ^= 4;
        int rc = arrow_parse(data, size, "x", &a, &err);
        if (rc == 0 && i < size - 10 - footer) { /* the footer has no checksum */
            assert_int_equal(arrow_verify(a, &err), -BL_EFORMAT);
            assert_non_null(strstr(err.text, "checksum mismatch"));
        }
        arrow_free(&a);
        data[i] ^= 4;
    }
}

UNIT_MAIN(cmocka_unit_test(what_pyarrow_wrote_is_read),
          cmocka_unit_test(a_file_without_rows_is_read),
          cmocka_unit_test(what_is_not_read_is_refused_by_name),
          cmocka_unit_test_setup_teardown(what_is_written_is_read, make_folder, remove_folder),
          cmocka_unit_test_setup_teardown(a_writer_that_does_not_commit_leaves_nothing, make_folder,
                                          remove_folder),
          cmocka_unit_test_setup_teardown(a_torn_file_is_refused_by_name_wherever_it_is_torn,
                                          make_folder, remove_folder),
          cmocka_unit_test_setup_teardown(a_changed_byte_is_noticed, make_folder, remove_folder))
