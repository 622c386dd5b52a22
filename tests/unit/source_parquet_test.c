/* tests/unit/source_parquet_test.c - Parquet files as a source: rows, captions, where the images are. Files: tests/golden/parquet. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/array.h"
#include "common/data/source.h"
#include "common/hash.h"
#include "tests/unit/folder.h"

static void copy(const char *golden, const char *name)
{
    struct bl_error err = {0};
    char path[512], *data = NULL;
    size_t size;
    snprintf(path, sizeof path, "%s/tests/golden/parquet/%s", getenv("BLIPREN_SOURCE"), golden);
    assert_ok(bl_file_read(path, SIZE_MAX - 1, &data, &size, &err), err);
    assert_ok(bl_file_write(inside(name), data, size, &err), err);
    free(data);
}

#define CACHE "/cache"
static int open_with(const char *path, const char *image_column, const char *const *columns,
                     size_t count, struct source **ret, struct bl_error *err)
{
    return source_open(&(struct source_options){.path = path,
                                                .image_column = image_column,
                                                .columns = columns,
                                                .column_count = count,
                                                .cache = CACHE},
                       ret, err);
}

static const char *const caption_columns[] = {"captions", "caption"};

static struct source *opened(const char *path)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    assert_ok(open_with(path, NULL, caption_columns, 2, &source, &err), err);
    return source;
}

/* The message after the folder's name. */
static void refuses(const char *path, const char *image_column, const char *column,
                    const char *rest)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    char line[1600], expected[1600];
    assert_true(open_with(path, image_column, &column, 1, &source, &err) < 0);
    err.remedy[0] = 0;
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected, "%s%s", folder, rest);
    assert_string_equal(line, expected);
}

/* All candidates of a sample as COLUMN=TEXT, a line each. */
static void expect_sample(const struct source *source, uint64_t id, const char *image,
                          const char *file, uint64_t line, const char *captions)
{
    struct bl_error err = {0};
    struct source_sample sample;
    bl_autobytes struct bl_bytes found = {0};
    assert_ok(source_get(source, id, &sample, &err), err);
    assert_string_equal(sample.image, image);
    assert_string_equal(sample.file, file);
    assert_int_equal(sample.line, line);
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

/* As tests/golden/parquet/make.py says. */
static void rows_are_samples_with_the_captions_of_flat_and_list_columns(void **state)
{
    copy("plain.parquet", "a.parquet");
    copy("duckdb.parquet", "b.parquet");
    struct source *source = opened(folder);
    assert_int_equal(source_count(source), 120);
    expect_sample(source, 0, "row 1", "a.parquet", 1, "");
    expect_sample(source, 59, "59.jpg", "a.parquet", 60,
                  "0=59-0\n0=59-1\n1=caption 59caption 59caption 59\n");
    expect_sample(source, 60 + 7, "7.jpg", "b.parquet", 8, "0=7-0\n0=7-1\n1=caption 7caption 7\n");
    expect_sample(source, 1, "1.jpg", "a.parquet", 2, "0=1-0\n1=caption 1caption 1\n");
    source_free(&source);
}

static int open_numbers(const char *name, struct source **ret, struct bl_error *err)
{
    static const char *const caption[] = {"caption"};
    return source_open(&(struct source_options){.path = folder,
                                                .columns = caption,
                                                .column_count = 1,
                                                .numbers = &name,
                                                .number_count = 1,
                                                .cache = CACHE},
                       ret, err);
}

static void a_column_of_numbers_is_read_row_by_row(void **state)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    struct source_sample sample;
    char line[1600], expected[1600];
    copy("plain.parquet", "a.parquet");
    copy("delta.parquet", "b.parquet");
    assert_ok(open_numbers("id", &source, &err), err);
    for (uint64_t i = 0; i < 120; i++) {
        assert_ok(source_get(source, i, &sample, &err), err);
        assert_true(sample.numbers[0] == (double)((i % 60) * (i % 60)) - 1000);
    }
    source_free(&source);
    assert_int_equal(open_numbers("captions", &source, &err), -BL_ECONFIG);
    bl_error_format(&err, line, sizeof line);
    snprintf(
        expected, sizeof expected,
        "%s: data.filters[0]: expected column \"captions\" to hold numbers, one a row, found a "
        "list of BYTE_ARRAY STRING; name another column",
        folder);
    assert_string_equal(line, expected);
    assert_int_equal(open_numbers("gain", &source, &err), -BL_ECONFIG);
    assert_string_equal(err.text, "no sample has the column \"gain\"");
}

static void a_file_and_a_pattern_are_sources_too(void **state)
{
    copy("index.parquet", "x-1.parquet");
    copy("delta.parquet", "x-2.parquet");
    struct source *one = opened(inside("x-2.parquet")), *both = opened(inside("x-?.parquet"));
    assert_int_equal(source_count(one), 60);
    assert_int_equal(source_count(both), 120);
    assert_string_equal(source_folder(one), folder);
    assert_string_equal(source_folder(both), folder);
    expect_sample(one, 7, "7.jpg", "x-2.parquet", 8, "0=7-0\n0=7-1\n1=caption 7caption 7\n");
    expect_sample(both, 67, "7.jpg", "x-2.parquet", 8, "0=7-0\n0=7-1\n1=caption 7caption 7\n");
    source_free(&one);
    source_free(&both);
}

/* Value i % 7 times the byte i. */
static void images_inside_are_read_by_their_location(void **state)
{
    static const char *const files[] = {"plain.parquet", "gzip.parquet", "polars.parquet"};
    for (size_t f = 0; f < 3; f++) {
        copy(files[f], files[f]);
        struct source *source = opened(inside(files[f]));
        for (uint64_t k = 0; k < 120; k++) {
            uint64_t id = k * 37 % 60;
            struct bl_error err = {0};
            struct location location;
            struct bl_stamp looked, read;
            char *text = NULL, *data = NULL;
            uint8_t hash[32], expected[32], bytes[8];
            size_t size = 0;
            assert_ok(source_locate(source, id, &text, &err), err);
            assert_ok(location_parse(text, &location, &err), err);
            assert_int_equal(location.kind, LOCATION_CELL);
            assert_ok(location_stamp(&location, &looked, &err), err);
            assert_ok(location_read(&location, 7, &data, &size, &read, &err), err);
            memset(bytes, (int)id, sizeof bytes);
            assert_int_equal(size, id % 7);
            assert_memory_equal(data, bytes, size);
            assert_true(bl_stamp_equal(&looked, &read));
            assert_ok(location_sha256(&location, hash, &read, &err), err);
            bl_sha256(bytes, id % 7, expected);
            assert_memory_equal(hash, expected, 32);
            free(data);
            if (id % 7 == 6)
                assert_int_equal(location_read(&location, 5, &data, &size, &read, &err),
                                 -BL_ELIMIT);
            free(text);
        }
        source_free(&source);
    }
}

static void a_file_written_anew_is_read_anew(void **state)
{
    struct bl_error err = {0};
    struct location location;
    char *data = NULL;
    size_t size = 0;
    char text[256];
    copy("plain.parquet", "a.parquet");
    snprintf(text, sizeof text, "cell:59+11:image.bytes%s/a.parquet", folder);
    assert_ok(location_parse(text, &location, &err), err);
    assert_ok(location_read(&location, 100, &data, &size, NULL, &err), err);
    free(data);
    copy("urls.parquet", "a.parquet");
    assert_int_equal(location_read(&location, 100, &data, &size, NULL, &err), -BL_EFORMAT);
    assert_string_equal(err.text,
                        "expected a column \"image.bytes\", found url, caption, short_caption");
    snprintf(text, sizeof text, "cell:7+3:url%s/a.parquet", folder);
    assert_ok(location_parse(text, &location, &err), err);
    assert_int_equal(location_read(&location, 100, &data, &size, NULL, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected row 8, found 7 rows");
    location.row = 2;
    assert_int_equal(location_read(&location, 100, &data, &size, NULL, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "row 3 has no image");
}

static void expect_url(const struct source *source, uint64_t id, const char *url)
{
    struct bl_error err = {0};
    char *text = NULL, hex[65], expected[512];
    uint8_t hash[32], identity[32];
    struct location location;
    bl_sha256(url, strlen(url), hash);
    bl_hex(hash, 32, hex);
    snprintf(expected, sizeof expected, "url:%s " CACHE "/url/%.2s/%s", url, hex, hex + 2);
    assert_ok(source_locate(source, id, &text, &err), err);
    assert_string_equal(text, expected);
    assert_ok(location_parse(text, &location, &err), err);
    bool is_url;
    assert_ok(source_identify(source, id, &is_url, identity, &err), err);
    assert_true(is_url);
    assert_memory_equal(identity, hash, 32);
    free(text);
}

static void a_column_of_urls_and_paths_says_where_images_are(void **state)
{
    static const char *const columns[] = {"short_caption", "caption"};
    struct bl_error err = {0};
    struct source *source = NULL;
    char *text = NULL, expected[256];
    copy("urls.parquet", "u.parquet");
    assert_ok(open_with(inside("u.parquet"), NULL, columns, 2, &source, &err), err);
    assert_int_equal(source_count(source), 7);
    expect_sample(source, 3, "http://host/val2017/a.jpg", "u.parquet", 4, "0=again a\n");
    expect_sample(source, 2, "row 3", "u.parquet", 3, "0=c\n1=long c\n");
    expect_url(source, 0, "http://host/val2017/a.jpg");
    expect_url(source, 1, "HTTPS://host/b%20c%C3%A9.jpg?x=%20");
    expect_url(source, 3, "http://host/val2017/a.jpg");
    expect_url(source, 4, "file:///x.jpg");
    assert_ok(source_locate(source, 5, &text, &err), err);
    snprintf(expected, sizeof expected, "%s/in/d.jpg", folder);
    assert_string_equal(text, expected);
    free(text);
    for (uint64_t id = 2; id <= 6; id += 4) {
        assert_ok(source_locate(source, id, &text, &err), err);
        assert_null(text);
    }
    source_free(&source);
}

static void wrong_columns_are_named(void **state)
{
    copy("plain.parquet", "a.parquet");
    refuses(folder, NULL, "text", ": data.captions: no sample has the column \"text\"");
    refuses(folder, "picture", "caption",
            ": data.image_column: expected a column \"picture\", found caption, id, image.bytes, "
            "image.path, captions");
    refuses(
        folder, "captions", "caption",
        ": data.image_column: expected column \"captions\" to hold images, URLs or paths, one a "
        "row, found a list of BYTE_ARRAY STRING");
    refuses(folder, NULL, "id",
            ": data.captions: expected column \"id\" to hold texts or lists of texts, found INT32");
    copy("others.parquet", "a.parquet");
    refuses(
        folder, NULL, "caption",
        ": data.image_column: expected images in a column image, img, jpg, url, URL, image_url or "
        "file_name, found caption, matrix, hash");
    struct bl_error err = {0};
    assert_ok(bl_file_write(inside("a.parquet"), "PAR1", 4, &err), err);
    refuses(folder, NULL, "caption", "/a.parquet: expected a Parquet file, which begins with PAR1");
    assert_ok(bl_file_write(inside("a.txt"), "x", 1, &err), err);
    refuses(inside("a.txt"), NULL, "caption",
            "/a.txt: expected a folder, Parquet files or tar shards, found another file");
    refuses(inside("b-*.parquet"), NULL, "caption",
            "/b-*.parquet: expected Parquet files of that pattern, found none");
}

static void a_file_that_changes_changes_the_fingerprint(void **state)
{
    uint8_t first[32];
    copy("plain.parquet", "a.parquet");
    struct source *source = opened(folder);
    memcpy(first, source_fingerprint(source), 32);
    source_free(&source);
    source = opened(inside("a.parquet"));
    assert_memory_equal(first, source_fingerprint(source), 32);
    source_free(&source);
    copy("gzip.parquet", "a.parquet");
    source = opened(folder);
    assert_memory_not_equal(first, source_fingerprint(source), 32);
    source_free(&source);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(IN_FOLDER(rows_are_samples_with_the_captions_of_flat_and_list_columns),
          IN_FOLDER(a_column_of_numbers_is_read_row_by_row),
          IN_FOLDER(a_file_and_a_pattern_are_sources_too),
          IN_FOLDER(images_inside_are_read_by_their_location),
          IN_FOLDER(a_file_written_anew_is_read_anew),
          IN_FOLDER(a_column_of_urls_and_paths_says_where_images_are),
          IN_FOLDER(wrong_columns_are_named),
          IN_FOLDER(a_file_that_changes_changes_the_fingerprint))
