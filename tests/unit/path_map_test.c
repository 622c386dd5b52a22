/* tests/unit/path_map_test.c - where a plan's folders are on another host. */
#include "common/path_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"

static const char *mapped(const struct path_map *map, const char *path)
{
    static char buffer[256];
    const char *ret;
    assert_int_equal(path_map_apply(map, path, buffer, sizeof buffer, &ret, NULL), 0);
    return ret;
}

static void the_longest_prefix_of_whole_components_counts(void **state)
{
    struct path_map map = {0};
    assert_int_equal(path_map_add(&map, "/data=/mnt/disk", NULL), 0);
    assert_int_equal(path_map_add(&map, "/data/photos/=/home/me/photos/", NULL), 0);
    assert_string_equal(mapped(&map, "/data/x.jpg"), "/mnt/disk/x.jpg");
    assert_string_equal(mapped(&map, "/data"), "/mnt/disk");
    assert_string_equal(mapped(&map, "/data/photos/a/b.jpg"), "/home/me/photos/a/b.jpg");
    assert_string_equal(mapped(&map, "/data/photos"), "/home/me/photos");
    assert_string_equal(mapped(&map, "/data/photos2/b.jpg"), "/mnt/disk/photos2/b.jpg");
    assert_string_equal(mapped(&map, "/database/b.jpg"), "/database/b.jpg");
    assert_string_equal(mapped(NULL, "/data/x.jpg"), "/data/x.jpg");
    path_map_release(&map);
}

static void a_mapped_path_is_not_mapped_again(void **state)
{
    struct path_map map = {0};
    assert_int_equal(path_map_add(&map, "/a=/b", NULL), 0);
    assert_int_equal(path_map_add(&map, "/b=/a", NULL), 0);
    assert_string_equal(mapped(&map, "/a/x"), "/b/x");
    assert_string_equal(mapped(&map, "/b/x"), "/a/x");
    path_map_release(&map);
}

static void the_root_can_be_mapped_and_be_mapped_to(void **state)
{
    struct path_map map = {0};
    assert_int_equal(path_map_add(&map, "/=/mnt", NULL), 0);
    assert_int_equal(path_map_add(&map, "/deep=/", NULL), 0);
    assert_string_equal(mapped(&map, "/x"), "/mnt/x");
    assert_string_equal(mapped(&map, "/"), "/mnt/");
    assert_string_equal(mapped(&map, "/deep/x"), "/x");
    assert_string_equal(mapped(&map, "/deep"), "/");
    path_map_release(&map);
}

static void a_folder_s_name_may_hold_an_equals_sign(void **state)
{
    struct path_map map = {0};
    assert_int_equal(path_map_add(&map, "/a=1/b=/c=2", NULL), 0);
    assert_string_equal(mapped(&map, "/a=1/b/x"), "/c=2/x");
    path_map_release(&map);
}

static void expect_refusal(struct path_map *map, const char *text, const char *expected)
{
    struct bl_error err;
    assert_int_equal(path_map_add(map, text, &err), -BL_EUSAGE);
    assert_string_equal(err.text, expected);
}

static void wrong_mappings_are_refused(void **state)
{
    struct path_map map = {0};
    expect_refusal(&map, "/data", "expected FROM=TO, found \"/data\"");
    expect_refusal(&map, "data=/mnt", "expected absolute paths, found \"data\"");
    expect_refusal(&map, "/data=mnt", "expected absolute paths, found \"mnt\"");
    expect_refusal(&map, "/data=", "expected absolute paths, found \"\"");
    expect_refusal(&map, "=/data", "expected absolute paths, found \"\"");
    assert_int_equal(path_map_add(&map, "/data=/a", NULL), 0);
    expect_refusal(&map, "/data/=/b", "/data is mapped twice, to /a and to /b");
    char *many = NULL;
    for (int i = 1; i < PATH_MAP_MAX; i++) {
        assert_true(asprintf(&many, "/%d=/x", i) > 0);
        assert_int_equal(path_map_add(&map, many, NULL), 0);
        free(many);
    }
    expect_refusal(&map, "/more=/x", "expected at most 64 mappings");
    path_map_release(&map);
}

static void a_path_that_becomes_too_long_is_refused(void **state)
{
    struct path_map map = {0};
    struct bl_error err;
    char buffer[16];
    const char *ret;
    assert_int_equal(path_map_add(&map, "/a=/a-long-folder", NULL), 0);
    assert_int_equal(path_map_apply(&map, "/a/x", buffer, sizeof buffer, &ret, &err), -BL_ELIMIT);
    assert_string_equal(err.text, "the path /a-long-folder/x is too long");
    path_map_release(&map);
}

static void what_was_replaced_is_noted(void **state)
{
    struct path_map map = {0};
    char *path = strdup("/data/x"), *none = NULL;
    assert_int_equal(path_map_add(&map, "/data=/mnt", NULL), 0);
    assert_int_equal(path_map_add(&map, "/other=/mnt", NULL), 0);
    assert_int_equal(path_map_replace(&map, &path, NULL), 0);
    assert_int_equal(path_map_replace(&map, &none, NULL), 0);
    assert_string_equal(path, "/mnt/x");
    assert_true(map.at[0].used);
    assert_false(map.at[1].used);
    assert_null(none);
    free(path);
    path_map_release(&map);
}

UNIT_MAIN(cmocka_unit_test(the_longest_prefix_of_whole_components_counts),
          cmocka_unit_test(a_mapped_path_is_not_mapped_again),
          cmocka_unit_test(the_root_can_be_mapped_and_be_mapped_to),
          cmocka_unit_test(a_folder_s_name_may_hold_an_equals_sign),
          cmocka_unit_test(wrong_mappings_are_refused),
          cmocka_unit_test(a_path_that_becomes_too_long_is_refused),
          cmocka_unit_test(what_was_replaced_is_noted))
