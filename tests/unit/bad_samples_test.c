/* tests/unit/bad_samples_test.c - the list of samples that could not be used: each once, whatever its file is called. */
#include "tests/unit/unit.h"

#include "common/cleanup.h"
#include "coordinator/bad_samples.h"
#include "tests/unit/folder.h"

static struct bad_samples *opened(void)
{
    struct bl_error err;
    struct bad_samples *list = NULL;
    assert_ok(bad_samples_open(folder, BAD_SAMPLES_FILE, 10, &list, &err), err);
    return list;
}

static void a_sample_is_listed_once_under_any_name(void **state)
{
    struct bl_error err;
    bl_autofree char *text = NULL;
    size_t size;
    struct bad_samples *list = opened();
    assert_ok(bad_samples_add(list, 3, "/a/gr\xfcn.jpg", "no picture\xff", &err), err);
    assert_ok(bad_samples_add(list, 3, "/a/gr\xfcn.jpg", "no picture", &err), err);
    bad_samples_close(&list);
    list = opened();
    assert_int_equal(bad_samples_count(list), 1);
    assert_ok(bad_samples_add(list, 3, "/a/gr\xfcn.jpg", "no picture", &err), err);
    assert_ok(bad_samples_add(list, 4, "/a/b.jpg", "empty", &err), err);
    assert_ok(bad_samples_add(list, 10, "/a/c.jpg", "no such sample", &err), err);
    assert_int_equal(bad_samples_count(list), 2);
    bad_samples_close(&list);
    assert_ok(bl_file_read(inside("bad_samples.jsonl"), 4096, &text, &size, &err), err);
    assert_string_equal(text,
                        "{\"sample\":3,\"file_name\":\"/a/gr?n.jpg\",\"reason\":\"no picture?\"}\n"
                        "{\"sample\":4,\"file_name\":\"/a/b.jpg\",\"reason\":\"empty\"}\n");
}

UNIT_MAIN(cmocka_unit_test_setup_teardown(a_sample_is_listed_once_under_any_name, make_folder,
                                          remove_folder))
