/* tests/unit/file_test.c - files are whole or absent, and failures name them. */
#include "tests/unit/unit.h"
#include "tests/unit/folder.h"

static void a_written_file_reads_back_and_has_its_hash(void **state)
{
    struct bl_error err;
    bl_folder_make(inside("a/b/c"), &err);
    assert_ok(bl_file_write(inside("a/b/c/x"), "abc", 3, &err), err);
    char *data, hex[65];
    size_t size;
    assert_ok(bl_file_read(inside("a/b/c/x"), 10, &data, &size, &err), err);
    assert_int_equal(size, 3);
    assert_string_equal(data, "abc");
    free(data);
    assert_ok(bl_file_sha256(inside("a/b/c/x"), hex, &err), err);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void a_file_without_commit_leaves_nothing(void **state)
{
    struct bl_error err;
    struct bl_file_writer writer;
    assert_ok(bl_file_writer_open(&writer, inside("half"), &err), err);
    assert_ok(bl_file_writer_write(&writer, "abc", 3, &err), err);
    assert_false(bl_path_is_file(inside("half")));
    assert_true(bl_path_is_file(writer.temporary));
    char *temporary = strdup(writer.temporary);
    bl_file_writer_close(&writer);
    assert_false(bl_path_is_file(temporary));
    free(temporary);
}

static void failures_name_the_file(void **state)
{
    struct bl_error err;
    char *data;
    size_t size;
    assert_int_equal(bl_file_read(inside("none"), 10, &data, &size, &err), -BL_EIO);
    assert_string_equal(err.file, inside("none"));
    assert_int_equal(bl_file_read(folder, 10, &data, &size, &err), -BL_EIO);
    assert_string_equal(err.text, "expected a regular file, found a folder");
    assert_ok(bl_file_write(inside("big"), "12345", 5, &err), err);
    assert_int_equal(bl_file_read(inside("big"), 4, &data, &size, &err), -BL_ELIMIT);
    assert_string_equal(err.text, "expected at most 4 bytes, found 5");
}

UNIT_MAIN(cmocka_unit_test_setup_teardown(a_written_file_reads_back_and_has_its_hash, make_folder,
                                          remove_folder),
          cmocka_unit_test_setup_teardown(a_file_without_commit_leaves_nothing, make_folder,
                                          remove_folder),
          cmocka_unit_test_setup_teardown(failures_name_the_file, make_folder, remove_folder))
