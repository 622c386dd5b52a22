/* tests/unit/error_test.c - the printed form of an error, and what outer layers may add. */
#include "tests/unit/unit.h"

#include <errno.h>

#include "common/error.h"

static void an_error_prints_file_key_text_and_remedy_on_one_line(void **state)
{
    struct bl_error err;
    char line[1024];
    assert_int_equal(bl_fail(&err, BL_ECONFIG, "expected %d, found\n%d", 1, 2), -BL_ECONFIG);
    bl_error_key(&err, "train.%s", "steps");
    bl_error_file(&err, "run.yaml");
    bl_error_remedy(&err, "write 1");
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line, "run.yaml: train.steps: expected 1, found?2; write 1");
}

static void a_line_shows_what_it_holds_in_its_order(void **state)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"tab\tbell\a\x7f", "tab?bell??"},
        {"a\xc2\x9b"
         "2Jb\xc2\x85",
         "a?2Jb?"}, /* C1: CSI clears a screen, NEL ends a line */
        {"a\x9b"
         "b",
         "a?b"}, /* the same as a lone byte */
        {"photo\xe2\x80\xaegpj.exe", "photo?gpj.exe"},
        {"\xe2\x81\xa6x\xe2\x81\xa9\xe2\x80\x8f\xd8\x9c\xe2\x80\xa8", "?x????"},
        {"gr\xc3\xbcn \xe2\x80\xa6 \xe7\x8c\xab\xc2\xa0",
         "gr\xc3\xbcn \xe2\x80\xa6 \xe7\x8c\xab\xc2\xa0"},
        {"cut\xe7\x8c", "cut?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bl_error err;
        char line[200];
        bl_fail(&err, BL_EFORMAT, "%s", cases[i].text);
        bl_error_format(&err, line, sizeof line);
        assert_string_equal(line, cases[i].shown);
    }
}

static void an_outer_layer_keeps_what_an_inner_one_said(void **state)
{
    struct bl_error err;
    bl_fail(&err, BL_EFORMAT, "bad");
    assert_int_equal(bl_error_file(&err, "inner"), -BL_EFORMAT);
    bl_error_file(&err, "outer");
    assert_string_equal(err.file, "inner");
}

static void a_system_error_carries_its_reason(void **state)
{
    struct bl_error err;
    errno = ENOENT;
    assert_int_equal(bl_fail_errno(&err, "cannot be opened"), -BL_EIO);
    assert_string_equal(err.text, "cannot be opened: No such file or directory");
    assert_int_equal(bl_error_exit_code(-BL_ECONFIG), 3);
    assert_string_equal(bl_error_name(BL_EPROTO), "PROTO");
    for (int code = BL_OK; code <= BL_ESTOPPED; code++)
        assert_int_equal(bl_error_code(bl_error_name(code)), code);
    assert_int_equal(bl_error_code("of a later version"), BL_EPEER);
    assert_int_equal(bl_error_code(""), BL_OK);
}

static void a_null_error_is_fine(void **state)
{
    assert_int_equal(bl_fail(NULL, BL_EDATA, "x"), -BL_EDATA);
    assert_true(bl_error_file(NULL, "f") < 0);
}

UNIT_MAIN(cmocka_unit_test(an_error_prints_file_key_text_and_remedy_on_one_line),
          cmocka_unit_test(a_line_shows_what_it_holds_in_its_order),
          cmocka_unit_test(an_outer_layer_keeps_what_an_inner_one_said),
          cmocka_unit_test(a_system_error_carries_its_reason),
          cmocka_unit_test(a_null_error_is_fine))
