/* tests/unit/source_webdataset_test.c - tar shards as a source. Shards: tests/golden/tar/make.py says what is in them. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/data/source.h"
#include "common/data/split.h"
#include "common/tar/tar.h"
#include "tests/unit/folder.h"

static void read_golden(const char *golden, char **ret, size_t *ret_size)
{
    struct bl_error err = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/tar/%s", getenv("BLIPREN_SOURCE"), golden);
    assert_ok(bl_file_read(path, SIZE_MAX - 1, ret, ret_size, &err), err);
}

/* The first `size` bytes of a shard, SIZE_MAX: all. */
static void copy(const char *golden, const char *name, size_t size)
{
    struct bl_error err = {0};
    char *data = NULL;
    size_t whole;
    read_golden(golden, &data, &whole);
    assert_ok(bl_file_write(inside(name), data, size < whole ? size : whole, &err), err);
    free(data);
}

static int open_with(const char *path, const char *image_column, const char *const *columns,
                     size_t count, struct source **ret, struct bl_error *err)
{
    return source_open(
        &(struct source_options){
            .path = path, .image_column = image_column, .columns = columns, .column_count = count},
        ret, err);
}

static const char *const all_columns[] = {"text", "caption", "list"};

static struct source *opened(const char *path, size_t column_count)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    assert_ok(open_with(path, NULL, all_columns, column_count, &source, &err), err);
    return source;
}

/* The message after the folder's name. */
static void refuses(const char *path, const char *column, const char *rest)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    char line[1600], expected[1600];
    assert_true(open_with(path, NULL, &column, 1, &source, &err) < 0);
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected, "%s%s", folder, rest);
    assert_string_equal(line, expected);
}

/* All candidates of a sample as COLUMN=TEXT, a line each. */
static void expect_captions(const struct source *source, uint64_t id, const char *captions)
{
    struct bl_error err = {0};
    struct source_sample sample;
    bl_autobytes struct bl_bytes found = {0};
    assert_ok(source_get(source, id, &sample, &err), err);
    for (uint64_t i = 0; i < sample.candidate_count; i++) {
        struct source_candidate c;
        char text[256];
        source_candidate(source, id, i, &c);
        snprintf(text, sizeof text, "%u=%.*s\n", c.column, (int)c.size, c.text);
        bl_bytes_add(&found, text, strlen(text));
    }
    bl_bytes_add(&found, "", 1);
    assert_string_equal(found.data, captions);
}

static void expect_image(const struct source *source, uint64_t id, const char *name,
                         const void *bytes, size_t size)
{
    struct bl_error err = {0};
    struct source_sample sample;
    struct location location;
    bl_autofree char *text = NULL, *data = NULL;
    size_t found = 0;
    assert_ok(source_get(source, id, &sample, &err), err);
    assert_string_equal(sample.image, name);
    assert_ok(source_locate(source, id, &text, &err), err);
    assert_ok(location_parse(text, &location, &err), err);
    assert_int_equal(location.kind, LOCATION_RANGE);
    assert_ok(location_read(&location, 1 << 20, &data, &found, NULL, &err), err);
    assert_int_equal(found, size);
    assert_memory_equal(data, bytes, size);
}

static void expect_passed(const struct source *source, enum source_passed kind, uint64_t count,
                          const char *expected)
{
    assert_int_equal(source_passed(source, kind), count);
    const char *first = source_passed_name(source, kind, 0);
    assert_string_equal(first ? first : "", expected);
}

/* Sample k as make.py wrote it, whatever its name's length. */
static void expect_sample(const struct source *source, uint64_t id, int k, const char *shard)
{
    struct source_sample sample;
    char captions[256], bytes[500];
    snprintf(captions, sizeof captions, "0=text %d\n1=caption %d\n2=one %d\n2=two %d\n", k, k, k,
             k);
    memset(bytes, k, sizeof bytes);
    source_place(source, id, &sample);
    assert_string_equal(sample.file, shard);
    expect_captions(source, id, captions);
    expect_image(source, id, sample.image, bytes, (size_t)(100 * k));
}

static void shards_of_every_writer_give_the_same_samples(void **state)
{
    static const char *const shards[] = {"gnu.tar",          "posix.tar",      "ustar.tar",
                                         "v7.tar",           "python-gnu.tar", "python-pax.tar",
                                         "python-ustar.tar", "webdataset.tar"};
    for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
        copy(shards[i], shards[i], SIZE_MAX);
        struct source *source = opened(inside(shards[i]), 3);
        assert_int_equal(source_count(source), 6);
        for (int k = 0; k < 6; k++)
            expect_sample(source, (uint64_t)k, k, shards[i]);
        expect_passed(source, SOURCE_TORN_SHARDS, 0, "");
        source_free(&source);
    }
}

static void long_names_are_whole(void **state)
{
    char name[512] = "python-pax.tar/deep/\xc3\xa9", bytes[500];
    memset(name + strlen(name), 'x', 350);
    strcat(name, ".jpg");
    memset(bytes, 5, sizeof bytes);
    copy("python-pax.tar", "python-pax.tar", SIZE_MAX);
    struct source *source = opened(inside("python-pax.tar"), 3);
    expect_image(source, 5, name, bytes, 500);
    source_free(&source);
}

static void a_folder_and_a_pattern_are_sources_whose_shards_are_in_order(void **state)
{
    struct bl_error err = {0};
    assert_ok(bl_folder_make(inside("sub"), &err), err);
    copy("gnu.tar", "sub/b.tar", SIZE_MAX);
    copy("posix.tar", "a-1.tar", SIZE_MAX);
    copy("ustar.tar", "a-0.tar", SIZE_MAX);
    struct source *all = opened(folder, 3), *two = opened(inside("a-?.tar"), 3);
    assert_int_equal(source_count(all), 18);
    expect_sample(all, 0, 0, "a-0.tar");
    expect_sample(all, 7, 1, "a-1.tar");
    expect_sample(all, 17, 5, "sub/b.tar");
    assert_int_equal(source_count(two), 12);
    expect_sample(two, 11, 5, "a-1.tar");
    assert_string_equal(source_folder(two), folder);
    source_free(&all);
    source_free(&two);
}

static void files_of_a_key_are_a_sample_wherever_they_lie_in_the_shard(void **state)
{
    copy("odd.tar", "odd.tar", SIZE_MAX);
    struct source *source = opened(folder, 1);
    expect_image(source, 0, "odd.tar/b.jpg", "B", 1);
    expect_captions(source, 0, "0=text b\n");
    expect_image(source, 1, "odd.tar/a.d/a.JPEG", "A", 1);
    expect_captions(source, 1, "0=text a\n");
    source_free(&source);
}

static void what_is_odd_in_a_shard_is_counted_and_named(void **state)
{
    copy("odd.tar", "odd.tar", SIZE_MAX);
    struct source *source = opened(folder, 2);
    assert_int_equal(source_count(source), 7);
    expect_image(source, 2, "odd.tar/c.png", "C", 1);
    expect_captions(source, 2, "");
    expect_captions(source, 3, ""); /* e: no UTF-8 */
    expect_captions(source, 4, ""); /* f: broken JSON */
    expect_image(source, 5, "odd.tar/b.jpg", "B again", 7);
    expect_captions(source, 5, "0=text b again\n");
    expect_image(source, 6, "odd.tar/../../up.jpg", "U", 1);
    expect_passed(source, SOURCE_LONE_TEXTS, 1, "odd.tar/d.txt");
    expect_passed(source, SOURCE_REPEATED_KEYS, 1, "odd.tar/b.jpg");
    expect_passed(source, SOURCE_ABSENT_BYTES, 2, "odd.tar/g.jpg");
    expect_passed(source, SOURCE_OTHER_TYPES, 1, "odd.tar/i.jp2");
    expect_passed(source, SOURCE_BAD_TEXTS, 2,
                  "odd.tar/e.txt (expected UTF-8, found the byte 0xff after \"no \")");
    source_free(&source);
}

static void the_image_may_be_named_by_its_ending(void **state)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    copy("odd.tar", "odd.tar", SIZE_MAX);
    assert_ok(open_with(folder, "seg.png", all_columns, 1, &source, &err), err);
    assert_int_equal(source_count(source), 1);
    expect_image(source, 0, "odd.tar/a.d/a.seg.png", "mask", 4);
    source_free(&source);
}

/* Shorter and shorter: between blocks, and a byte before and after. */
static void a_shard_cut_off_anywhere_gives_what_is_whole_and_is_named(void **state)
{
    struct bl_error err = {0};
    struct bl_stamp whole = {0};
    uint64_t before = 6;
    copy("python-pax.tar", "a.tar", SIZE_MAX);
    assert_ok(bl_file_stamp(inside("a.tar"), &whole, &err), err);
    for (size_t size = whole.size - 1; size > 0; size--) {
        struct source *source = NULL;
        if (size % 512 > 1 && size % 512 != 511)
            continue;
        assert_int_equal(truncate(inside("a.tar"), (off_t)size), 0);
        uint64_t count = 0;
        if (open_with(folder, NULL, all_columns, 3, &source, &err) == 0)
            count = source_count(source);
        assert_true(count <= before);
        before = count;
        for (int k = 0; k + 1 < (int)count; k++)
            expect_sample(source, (uint64_t)k, k, "a.tar");
        bool marked = count == 6; /* the end's mark may be whole */
        assert_true(!count || marked || source_passed(source, SOURCE_TORN_SHARDS) == 1);
        source_free(&source);
    }
    assert_int_equal(before, 0);
}

static void a_damaged_header_ends_its_shard_there(void **state)
{
    struct bl_error err = {0};
    char *data = NULL;
    size_t size;
    read_golden("python-ustar.tar", &data, &size);
    char *header = strstr(data + 512, "deep/2.jpg");
    for (char *at = data; !header && at < data + size; at += 512)
        header = !strncmp(at, "deep/2.jpg", 10) ? at : NULL;
    assert_non_null(header);
    header[0] ^= 1;
    assert_ok(bl_file_write(inside("a.tar"), data, size, &err), err);
    assert_ok(bl_file_write(inside("b.tar"), data, size, &err), err);
    struct source *source = opened(folder, 3);
    assert_int_equal(source_count(source), 4);
    assert_int_equal(source_passed(source, SOURCE_TORN_SHARDS), 2);
    for (uint32_t i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "%c.tar (is damaged after byte ", 'a' + (char)i);
        assert_non_null(strstr(source_passed_name(source, SOURCE_TORN_SHARDS, i), name));
    }
    assert_null(source_passed_name(source, SOURCE_TORN_SHARDS, 2));
    source_free(&source);
    free(data);
}

static void what_is_no_shard_is_refused_with_what_to_do(void **state)
{
    struct bl_error err = {0};
    assert_ok(bl_file_write(inside("a.tar.gz"), "\x1f\x8b\x08 and so on", 13, &err), err);
    refuses(folder, "text",
            "/a.tar.gz: expected a tar archive that is not compressed, whose images can be read in "
            "any order, found one compressed by gzip; decompress it (gunzip)");
    assert_ok(bl_file_write(inside("b.tar"), "<html>", 6, &err), err);
    char path[256];
    snprintf(path, sizeof path, "%s", inside("b.tar"));
    err = (struct bl_error){0};
    struct source *source = NULL;
    assert_true(open_with(path, NULL, all_columns, 1, &source, &err) < 0);
    assert_string_equal(err.text, "expected samples, found none whole: b.tar (is damaged after "
                                  "byte 0 (Unrecognized archive format))");
    copy("gnu.tar", "c.tar", SIZE_MAX);
    refuses(inside("c.tar"), "txet",
            "/c.tar: data.captions: no sample has the column \"txet\"; there are jpg, text, txt, "
            "caption, "
            "list, n, key");
}

static void names_of_shards_tell_splits(void **state)
{
    struct split_counts counts;
    copy("gnu.tar", "train-0.tar", SIZE_MAX);
    copy("posix.tar", "val-0.tar", SIZE_MAX);
    struct source *source = opened(folder, 3);
    split_count(source, &counts);
    assert_int_equal(counts.at[SPLIT_TRAIN], 6);
    assert_int_equal(counts.at[SPLIT_VALIDATION], 6);
    source_free(&source);
}

static void a_shard_that_is_written_anew_is_another_source(void **state)
{
    copy("gnu.tar", "a.tar", SIZE_MAX);
    struct source *before = opened(folder, 3);
    copy("odd.tar", "a.tar", SIZE_MAX);
    struct source *after = opened(folder, 1);
    assert_memory_not_equal(source_fingerprint(before), source_fingerprint(after), 32);
    source_free(&before);
    source_free(&after);
}

static void an_image_of_a_shard_that_was_shortened_is_an_error_with_its_name(void **state)
{
    struct bl_error err = {0};
    struct location location;
    bl_autofree char *text = NULL, *data = NULL;
    char expected[256];
    size_t size;
    copy("gnu.tar", "a.tar", SIZE_MAX);
    struct source *source = opened(folder, 3);
    assert_ok(source_locate(source, 5, &text, &err), err);
    assert_int_equal(truncate(inside("a.tar"), 4096), 0);
    assert_ok(location_parse(text, &location, &err), err);
    assert_int_equal(location_read(&location, 1 << 20, &data, &size, NULL, &err), -BL_EDATA);
    snprintf(expected, sizeof expected, "%s/a.tar", folder);
    assert_string_equal(err.file, expected);
    source_free(&source);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(IN_FOLDER(shards_of_every_writer_give_the_same_samples), IN_FOLDER(long_names_are_whole),
          IN_FOLDER(a_folder_and_a_pattern_are_sources_whose_shards_are_in_order),
          IN_FOLDER(files_of_a_key_are_a_sample_wherever_they_lie_in_the_shard),
          IN_FOLDER(what_is_odd_in_a_shard_is_counted_and_named),
          IN_FOLDER(the_image_may_be_named_by_its_ending),
          IN_FOLDER(a_shard_cut_off_anywhere_gives_what_is_whole_and_is_named),
          IN_FOLDER(a_damaged_header_ends_its_shard_there),
          IN_FOLDER(what_is_no_shard_is_refused_with_what_to_do),
          IN_FOLDER(names_of_shards_tell_splits),
          IN_FOLDER(a_shard_that_is_written_anew_is_another_source),
          IN_FOLDER(an_image_of_a_shard_that_was_shortened_is_an_error_with_its_name))
