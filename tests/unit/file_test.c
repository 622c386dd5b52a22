/* tests/unit/file_test.c - files are whole or absent, and failures name them. */
#include "tests/unit/unit.h"

#include <fcntl.h>

#include "common/file_hash.h"
#include "common/progress.h"
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

static int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void a_folder_too_deep_to_remove_costs_no_descriptor(void **state)
{
    struct bl_error err;
    char path[256] = "deep";
    for (int i = 0; i < 20; i++)
        strcat(path, "/d");
    assert_ok(bl_folder_make(inside(path), &err), err);
    int before = open_descriptors();
    assert_int_equal(bl_folder_remove(inside("deep"), &err), -BL_EIO);
    assert_int_equal(open_descriptors(), before);
    assert_ok(bl_folder_remove(inside("deep/d/d/d/d/d"), &err), err);
    assert_ok(bl_folder_remove(inside("deep"), &err), err);
}

static void bytes_are_hashed_as_they_are_written_and_files_together(void **state)
{
    struct bl_error err;
    uint8_t hash[32];
    char written[65], read[2][65];
    bl_autowriter struct bl_file_writer writer = {.fd = -1};
    char *data = calloc(1, 3 << 20);
    memset(data, 'x', 3 << 20);
    assert_ok(bl_file_writer_open(&writer, inside("hashed"), &err), err);
    bl_file_writer_hash(&writer);
    assert_ok(bl_file_writer_write(&writer, data, 5, &err), err);
    assert_ok(bl_file_writer_write(&writer, data, (3 << 20) - 5, &err), err);
    bl_sha256_end(&writer.hash, hash);
    assert_ok(bl_file_writer_commit(&writer, &err), err);
    bl_hex(hash, sizeof hash, written);
    assert_ok(bl_file_write(inside("abc"), "abc", 3, &err), err);
    char *first = strdup(inside("hashed")), *second = strdup(inside("abc"));
    const char *paths[] = {first, second, "/none"};
    uint64_t before = bl_progress();
    assert_ok(bl_files_sha256(paths, 2, read, &err), err);
    assert_true(bl_progress() >= before + 4); /* three MiB and a small file */
    assert_string_equal(read[0], written);
    assert_string_equal(read[1],
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    char three[3][65];
    assert_int_equal(bl_files_sha256(paths, 3, three, &err), -BL_EIO);
    assert_string_equal(err.file, "/none");
    free(first);
    free(second);
    free(data);
}

/* Whoever watches this process must not believe that it hangs. */
static void syncing_a_large_file_is_progress(void **state)
{
    enum { MEGABYTES = 40 };
    struct bl_error err;
    bl_autowriter struct bl_file_writer writer = {.fd = -1};
    char *piece = calloc(1, 1 << 20);
    assert_non_null(piece);
    assert_ok(bl_file_writer_open(&writer, inside("large"), &err), err);
    for (int i = 0; i < MEGABYTES; i++)
        assert_ok(bl_file_writer_write(&writer, piece, 1 << 20, &err), err);
    free(piece);
    uint64_t before = bl_progress();
    assert_ok(bl_file_writer_commit(&writer, &err), err);
    assert_true(bl_progress() - before >= MEGABYTES / 16);
    assert_true(bl_path_is_file(inside("large")));
}

UNIT_MAIN(cmocka_unit_test_setup_teardown(syncing_a_large_file_is_progress, make_folder,
                                          remove_folder),
          cmocka_unit_test_setup_teardown(a_folder_too_deep_to_remove_costs_no_descriptor,
                                          make_folder, remove_folder),
          cmocka_unit_test_setup_teardown(bytes_are_hashed_as_they_are_written_and_files_together,
                                          make_folder, remove_folder),
          cmocka_unit_test_setup_teardown(a_written_file_reads_back_and_has_its_hash, make_folder,
                                          remove_folder),
          cmocka_unit_test_setup_teardown(a_file_without_commit_leaves_nothing, make_folder,
                                          remove_folder),
          cmocka_unit_test_setup_teardown(failures_name_the_file, make_folder, remove_folder))
