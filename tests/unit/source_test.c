/* tests/unit/source_test.c - image folders and pairs: what is read, and what is refused with file
 * and line. */
#include "tests/unit/unit.h"

#include <math.h>
#include <unistd.h>

#include "common/file.h"
#include "common/data/source.h"

static char folder[64];

static int make_folder(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/blipren-source-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    return bl_folder_remove(folder, NULL);
}

static void put_bytes(const char *name, const char *data, size_t size)
{
    char path[256], parent[256];
    struct bl_error err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    assert_ok(bl_folder_make(parent, &err), err);
    assert_ok(bl_file_write(path, data, size, &err), err);
}

static void put(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

static const char *const text_column[] = {"text"};

static struct source *opened(const char *const *columns, size_t count)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    assert_ok(
        source_open(
            &(struct source_options){.path = folder, .columns = columns, .column_count = count},
            &source, &err),
        err);
    return source;
}

/* The message must be FOLDER + rest. */
static void refuses(enum config_format format, const char *const *columns, size_t count,
                    const char *rest)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    char line[1600], expected[1600];
    assert_true(source_open(&(struct source_options){.path = folder,
                                                     .format = format,
                                                     .columns = columns,
                                                     .column_count = count},
                            &source, &err) < 0);
    assert_null(source);
    err.remedy[0] = 0; /* tests/badinput judges it */
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected, "%s%s", folder, rest);
    assert_string_equal(line, expected);
}

static void expect_sample(const struct source *source, uint64_t id, const char *image,
                          const char *const *captions, const uint32_t *columns, size_t count)
{
    struct source_sample sample;
    assert_int_equal(source_get(source, id, &sample, NULL), 0);
    assert_string_equal(sample.image, image);
    assert_int_equal(sample.candidate_count, count);
    for (size_t i = 0; i < count; i++) {
        struct source_candidate c;
        source_candidate(source, id, i, &c);
        assert_string_equal(c.text, captions[i]);
        assert_int_equal(c.size, strlen(captions[i]));
        assert_int_equal(c.column, columns ? columns[i] : 0);
    }
}
#define ONE(text) (const char *const[]){text}, NULL, 1

static void jsonl_lines_give_captions_in_the_order_of_columns(void **state)
{
    static const char *const columns[] = {"short", "long"};
    put("metadata.jsonl",
        "{\"file_name\": \"a.jpg\", \"long\": [\"one\", \"two \\u00e9\"], \"short\": \"s\"}\n"
        "\n"
        "{\"file_name\": \"deep/er/b.png\", \"long\": null, \"n\": 3}");
    struct source *source = opened(columns, 2);
    assert_int_equal(source_count(source), 2);
    expect_sample(source, 0, "a.jpg", (const char *const[]){"s", "one", "two \xc3\xa9"},
                  (const uint32_t[]){0, 1, 1}, 3);
    expect_sample(source, 1, "deep/er/b.png", NULL, NULL, 0);
    struct source_sample sample;
    assert_int_equal(source_get(source, 1, &sample, NULL), 0);
    assert_string_equal(sample.file, "metadata.jsonl");
    assert_int_equal(sample.line, 3);
    source_free(&source);
}

static void each_folder_has_its_own_metadata(void **state)
{
    put("train/metadata.jsonl", "{\"file_name\": \"a.jpg\", \"text\": \"x\"}\n");
    put("more/metadata.csv", "file_name,text\nsub/b.jpg,y\n");
    struct source *source = opened(text_column, 1);
    assert_int_equal(source_count(source), 2);
    expect_sample(source, 0, "more/sub/b.jpg", ONE("y"));
    expect_sample(source, 1, "train/a.jpg", ONE("x"));
    source_free(&source);
}

static void csv_is_read_as_rfc_4180_says(void **state)
{
    put("metadata.csv", "\xef\xbb\xbftext,\"file_name\",rest\r\n"
                        "plain,a.jpg,1\r\n"
                        "\"with, comma and \"\"quotes\"\"\",b.jpg,\r\n"
                        "\"two\nlines\",c.jpg,\"\"\n"
                        "\n"
                        ",d.jpg,x");
    struct source *source = opened(text_column, 1);
    assert_int_equal(source_count(source), 4);
    expect_sample(source, 0, "a.jpg", ONE("plain"));
    expect_sample(source, 1, "b.jpg", ONE("with, comma and \"quotes\""));
    expect_sample(source, 2, "c.jpg", ONE("two\nlines"));
    expect_sample(source, 3, "d.jpg", ONE(""));
    struct source_sample sample;
    assert_int_equal(source_get(source, 3, &sample, NULL), 0);
    assert_int_equal(sample.line, 7);
    source_free(&source);
}

static void pairs_are_images_beside_texts(void **state)
{
    put("000001.jpg", "");
    put("000001.txt", "\xef\xbb\xbfShort caption: a dog\n");
    put("b/000002.WEBP", "");
    put("b/000002.txt", "two");
    put("c.png", "");
    put("notes.txt", "no image");
    put(".hidden.jpg", "");
    struct source *source = opened(text_column, 1);
    assert_int_equal(source_count(source), 3);
    expect_sample(source, 0, "000001.jpg", ONE("Short caption: a dog\n"));
    expect_sample(source, 1, "b/000002.WEBP", ONE("two"));
    expect_sample(source, 2, "c.png", NULL, NULL, 0);
    source_free(&source);
}

static void expect_passed(const struct source *source, enum source_passed kind, uint64_t count,
                          const char *expected)
{
    assert_int_equal(source_passed(source, kind), count);
    const char *first = source_passed_name(source, kind, 0);
    assert_string_equal(first ? first : "", expected);
}

static void what_is_passed_over_is_counted(void **state)
{
    put("a.jfif", "");
    put("a.txt", "one");
    put("a-2.JPE", "");
    put("b.jp2", "");
    put("b.txt", "no picture");
    put("c.psd", "");
    put("notes.txt", "no image");
    put("sub/d.jpg", "");
    char path[256];
    snprintf(path, sizeof path, "%s/sub/gone.jpg", folder);
    assert_int_equal(symlink("nowhere.jpg", path), 0);
    snprintf(path, sizeof path, "%s/sub/up", folder);
    assert_int_equal(symlink("..", path), 0);
    struct source *source = opened(text_column, 1);
    assert_int_equal(source_count(source), 3);
    expect_passed(source, SOURCE_OTHER_TYPES, 2, "b.jp2");
    expect_passed(source, SOURCE_LONE_TEXTS, 2, "b.txt");
    expect_passed(source, SOURCE_DEAD_LINKS, 2, "sub/gone.jpg");
    expect_passed(source, SOURCE_UNUSED_TEXTS, 0, "");
    source_free(&source);
    put("sub/metadata.csv", "file_name,text\nd.jpg,x\n");
    source = opened(text_column, 1);
    assert_int_equal(source_count(source), 1);
    expect_passed(source, SOURCE_UNUSED_TEXTS, 1, "a.txt");
    source_free(&source);
}

static void folders_behind_links_are_read(void **state)
{
    char path[256];
    put("there/a.jpg", "");
    put("there/a.txt", "one");
    put("here/x.md", "");
    snprintf(path, sizeof path, "%s/here/link", folder);
    assert_int_equal(symlink("../there", path), 0);
    struct source *source = opened(text_column, 1);
    assert_int_equal(source_count(source), 2);
    expect_sample(source, 0, "here/link/a.jpg", ONE("one"));
    expect_passed(source, SOURCE_DEAD_LINKS, 0, "");
    source_free(&source);
}

static void the_fingerprint_is_of_what_training_reads(void **state)
{
    uint8_t first[32];
    put("metadata.jsonl", "{\"file_name\": \"a.jpg\", \"text\": \"x\", \"other\": 1}\n");
    struct source *source = opened(text_column, 1);
    memcpy(first, source_fingerprint(source), 32);
    source_free(&source);
    put("metadata.jsonl", "\xef\xbb\xbf{ \"text\": \"x\",  \"file_name\": \"a.jpg\"}");
    source = opened(text_column, 1);
    assert_memory_equal(source_fingerprint(source), first, 32);
    source_free(&source);
    put("metadata.jsonl", "{\"file_name\": \"a.jpg\", \"text\": \"y\"}\n");
    source = opened(text_column, 1);
    assert_memory_not_equal(source_fingerprint(source), first, 32);
    source_free(&source);
}

static void wrong_lines_are_named(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"file_name\": \"a\"}\n{\"file_name\" 3}\n",
         "/metadata.jsonl:2: no valid JSON: ':' expected near '3'"},
        {"{\"file_name\": \"a\", \"file_name\": \"b\"}",
         "/metadata.jsonl:1: no valid JSON: duplicate object key near '\"file_name\"'"},
        {"[1]", "/metadata.jsonl:1: expected an object, found a list of 1"},
        {"{\"text\": \"a\"}", "/metadata.jsonl:1: file_name: expected a text, found nothing"},
        {"{\"file_name\": 1}", "/metadata.jsonl:1: file_name: expected a text, found 1"},
        {"{\"file_name\": \"../a\"}", "/metadata.jsonl:1: file_name: expected a path that stays "
                                      "below the folder, found \"../a\""},
        {"{\"file_name\": \"b/../../a\"}", "/metadata.jsonl:1: file_name: expected a path that "
                                           "stays below the folder, found \"b/../../a\""},
        {"{\"file_name\": \"/etc/passwd\"}",
         "/metadata.jsonl:1: file_name: expected a path that stays below the folder, found "
         "\"/etc/passwd\""},
        {"{\"file_name\": \"\"}", "/metadata.jsonl:1: file_name: expected a path that stays below "
                                  "the folder, found \"\""},
        {"{\"file_name\": \"a\", \"text\": 5}",
         "/metadata.jsonl:1: text: expected a text or a list of texts, found 5"},
        {"{\"file_name\": \"a\", \"text\": [\"b\", {}]}",
         "/metadata.jsonl:1: text: expected a list of texts, found an object"},
        {"{\"file_name\": \"a\\u0000b\"}",
         "/metadata.jsonl:1: no valid JSON: \\u0000 is not allowed without JSON_ALLOW_NUL near "
         "'\"a\\u0000b\"'"},
        {"", ": expected samples, found none"},
        {"{\"file_name\": \"a\", \"caption\": \"b\"}",
         ": data.captions: no sample has the column \"text\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("metadata.jsonl", cases[i].text);
        refuses(CONFIG_FORMAT_AUTO, text_column, 1, cases[i].message);
    }
}

static void text_that_is_not_utf_8_is_refused_by_file_and_line(void **state)
{
    put("metadata.csv", "file_name,text\na,b\nc,\"a gr\xfcn door\"\n");
    refuses(CONFIG_FORMAT_AUTO, text_column, 1,
            "/metadata.csv:3: expected UTF-8, found the byte 0xfc after \"a gr\"");
    put("metadata.csv", "file_name,other,text\na,gr\xfcn,b\n"); /* nobody reads that column */
    struct source *source = opened(text_column, 1);
    source_free(&source);
    remove_folder(NULL);
    put("a.jpg", "");
    put("a.txt", "\xff"
                 "a");
    refuses(CONFIG_FORMAT_AUTO, text_column, 1,
            "/a.txt: expected UTF-8, found the byte 0xff after \"\"");
    put("a.txt", "\xff\xfe"
                 "a");
    refuses(CONFIG_FORMAT_AUTO, text_column, 1, "/a.txt: expected UTF-8, found UTF-16");
    put("metadata.csv", "\xfe\xff"
                        "f");
    refuses(CONFIG_FORMAT_AUTO, text_column, 1, "/metadata.csv: expected UTF-8, found UTF-16");
}

static void wrong_records_are_named(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"text\na\n", "/metadata.csv:1: expected a column file_name, found \"text\""},
        {"file_name,text,text\n", "/metadata.csv:1: column \"text\" is given twice"},
        {"file_name,text\na,b\nc\n",
         "/metadata.csv:3: expected 2 fields as in the first line, found 1"},
        {"file_name,text\na,\"b\n\nc", "/metadata.csv:2: a quote is opened and not closed"},
        {"file_name,text\na,\"b\"c\n", "/metadata.csv:2: expected a comma after the closing quote"},
        {"file_name,text\na,b\"c\"\n", "/metadata.csv:2: found a quote in the middle of a field"},
        {"file_name,text\n\"x\n\",1\n../y,2\n",
         "/metadata.csv:4: file_name: expected a path that stays below the folder, found "
         "\"../y\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("metadata.csv", cases[i].text);
        refuses(CONFIG_FORMAT_AUTO, text_column, 1, cases[i].message);
    }
    put_bytes("metadata.csv", "file_name,text\na,\"b\"\0\n", 21);
    refuses(CONFIG_FORMAT_AUTO, text_column, 1,
            "/metadata.csv:2: expected a comma after the closing quote");
}

static void wrong_folders_are_named(void **state)
{
    refuses(
        CONFIG_FORMAT_AUTO, text_column, 1,
        ": expected metadata.jsonl or metadata.csv, images beside .txt files, captions of COCO or "
        "Flickr8k, Parquet files, or tar shards, "
        "found none "
        "among 0 files");
    put("a.jpg", "");
    refuses(CONFIG_IMAGEFOLDER, text_column, 1,
            ": expected metadata.jsonl or metadata.csv, found none among 1 files");
    refuses(CONFIG_PAIRS, text_column, 1,
            ": expected images beside .txt files, found none among 1 files");
    put("sub/metadata.csv", "file_name,text\n");
    put("sub/metadata.jsonl", "");
    refuses(CONFIG_FORMAT_AUTO, text_column, 1,
            "/sub/metadata.csv: found metadata.jsonl beside it");
    put("a.txt", "x\0y");
    put_bytes("a.txt", "x\0y", 3);
    refuses(CONFIG_PAIRS, text_column, 1, "/a.txt: a text must not hold the character NUL");
    static const char *const other[] = {"caption"};
    put("a.txt", "x");
    refuses(CONFIG_PAIRS, other, 1, ": data.captions: no sample has the column \"caption\"");
    remove_folder(NULL);
    refuses(CONFIG_FORMAT_AUTO, text_column, 1,
            ": cannot be opened as a folder: No such file or directory");
}

/* As json.dumps of Python writes them; no rule reads numbers. */
static void numbers_that_are_no_json_do_not_matter(void **state)
{
    put("metadata.jsonl", "{\"file_name\": \"a.jpg\", \"n\": NaN, \"m\": [-Infinity, "
                          "12345678901234567890123, 1.5e999, -2e999],"
                          " \"text\": \"NaN \\\"5 of 12345678901234567890\"}\n");
    struct source *source = opened(text_column, 1);
    expect_sample(source, 0, "a.jpg", ONE("NaN \"5 of 12345678901234567890"));
    source_free(&source);
}

/* Opens the folder with columns of numbers. */
static int open_numbers(const char *const *names, size_t count, struct source **ret,
                        struct bl_error *err)
{
    return source_open(&(struct source_options){.path = folder,
                                                .columns = text_column,
                                                .column_count = 1,
                                                .numbers = names,
                                                .number_count = count},
                       ret, err);
}

static void expect_numbers(const struct source *source, uint64_t id, double first, double second)
{
    struct source_sample sample;
    const double expected[] = {first, second};
    assert_int_equal(source_get(source, id, &sample, NULL), 0);
    for (int i = 0; i < 2; i++)
        if (isnan(expected[i]) ? !isnan(sample.numbers[i]) : sample.numbers[i] != expected[i])
            fail_msg("sample %d, number %d: expected %g, found %g", (int)id, i, expected[i],
                     sample.numbers[i]);
}

static void columns_of_numbers_are_read_beside_captions(void **state)
{
    static const char *const names[] = {"gain", "n"};
    struct bl_error err = {0};
    struct source *source = NULL;
    put("a/metadata.jsonl",
        "{\"file_name\": \"a.jpg\", \"text\": \"x\", \"gain\": -0.25, \"n\": 3}\n"
        "{\"file_name\": \"a.jpg\", \"text\": \"x\", \"n\": true}\n"
        "{\"file_name\": \"a.jpg\", \"text\": \"x\", \"gain\": NaN, \"n\": 4}\n"
        "{\"file_name\": \"a.jpg\", \"text\": \"x\", \"gain\": null, \"n\": "
        "123456789012345678901234}\n");
    put("b/metadata.csv", "file_name,n,text,gain\na.jpg, 7,x,1e-3\na.jpg,,x,nan\n");
    assert_ok(open_numbers(names, 2, &source, &err), err);
    expect_numbers(source, 0, -0.25, 3);
    expect_numbers(source, 1, NAN, 1);
    expect_numbers(source, 2, NAN, 4);
    expect_numbers(source, 3, NAN, 12345678901234e10);
    expect_numbers(source, 4, 1e-3, 7);
    expect_numbers(source, 5, NAN, NAN);
    source_free(&source);
}

static void what_is_no_number_is_named(void **state)
{
    static const char *const names[] = {"gain"};
    char line[1600], expected[1600];
    struct bl_error err = {0};
    struct source *source = NULL;
    put("metadata.jsonl", "{\"file_name\": \"a.jpg\", \"text\": \"x\", \"gain\": \"high\"}\n");
    assert_true(open_numbers(names, 1, &source, &err) < 0);
    err.remedy[0] = 0;
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected,
             "%s/metadata.jsonl:1: gain: expected a number, found \"high\"", folder);
    assert_string_equal(line, expected);
    remove_folder(NULL);
    put("metadata.csv", "file_name,text,gain\na.jpg,x,0.5 nats\n");
    assert_true(open_numbers(names, 1, &source, &err) < 0);
    err.remedy[0] = 0;
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected,
             "%s/metadata.csv:2: gain: expected a number, found \"0.5 nats\"", folder);
    assert_string_equal(line, expected);
    remove_folder(NULL);
    put("metadata.csv", "file_name,text\na.jpg,x\n");
    assert_true(open_numbers(names, 1, &source, &err) < 0);
    err.remedy[0] = 0;
    bl_error_format(&err, line, sizeof line);
    snprintf(expected, sizeof expected, "%s: data.filters[0]: no sample has the column \"gain\"",
             folder);
    assert_string_equal(line, expected);
}

static void a_printed_list_in_csv_is_counted(void **state)
{
    put("metadata.csv",
        "file_name,text\na.jpg,[x]\nb.jpg,\"['a', 'b']\"\nc.jpg,\" [\"\"a\"\"]\"\n");
    struct source *source = opened(text_column, 1);
    expect_passed(source, SOURCE_PRINTED_LISTS, 2, "b.jpg");
    source_free(&source);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

/* -- captions in files of their own ------------------------------------------------------------ */

static const char *const caption_column[] = {"caption"};

static void assert_sample(const struct source *source, uint64_t id, const char *image,
                          const char *captions)
{
    struct bl_error err = {0};
    struct source_sample sample;
    char found[300] = "";
    assert_ok(source_get(source, id, &sample, &err), err);
    assert_string_equal(sample.image, image);
    for (uint64_t i = 0; i < sample.candidate_count; i++) {
        struct source_candidate c;
        source_candidate(source, id, i, &c);
        assert_int_equal(c.size, strlen(c.text));
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s|", c.text);
    }
    assert_string_equal(found, captions);
}

static void cocos_annotations_are_grouped_by_image(void **state)
{
    put("train2017/000000000009.jpg", "");
    put("val2017/000000000009.jpg", "");
    put("val2017/sub/7.jpg", "");
    put("annotations/captions_train2017.json",
        "{\"info\": {}, \"images\": [{\"id\": 9, \"file_name\": \"000000000009.jpg\", \"height\": "
        "1},"
        " {\"id\": -4, \"file_name\": \"gone.jpg\"}, {\"id\": 7, \"file_name\": \"x/7.jpg\"}],"
        " \"annotations\": [{\"image_id\": 7, \"id\": 1, \"caption\": \"b\"},"
        " {\"image_id\": 9, \"id\": 2, \"caption\": \"one\"},"
        " {\"image_id\": 7, \"id\": 3, \"caption\": \"a\"}]}");
    put("annotations/captions_val2017.json",
        "{\"images\": [{\"id\": 1, \"file_name\": \"000000000009.jpg\"}],"
        " \"annotations\": [{\"image_id\": 1, \"caption\": \"two\"}]}");
    put("annotations/instances_val2017.json", "not read");
    struct source *source = opened(caption_column, 1);
    assert_int_equal(source_count(source), 4);
    assert_sample(source, 0, "train2017/000000000009.jpg", "one|");
    assert_sample(source, 1, "gone.jpg", "");
    assert_sample(source, 2, "val2017/sub/7.jpg", "b|a|");
    assert_sample(source, 3, "val2017/000000000009.jpg", "two|");
    source_free(&source);
}

static void flickrs_captions_are_grouped_by_image(void **state)
{
    put("Images/a.jpg", "");
    put("captions.txt", "image,caption\r\nb.jpg,Two dogs\na.jpg,\"A man , a \"\"plan\"\"\"\r\n"
                        "b.jpg,one more\n");
    struct source *source = opened(caption_column, 1);
    assert_int_equal(source_count(source), 2);
    assert_sample(source, 0, "Images/a.jpg", "A man , a \"plan\"|");
    assert_sample(source, 1, "b.jpg", "Two dogs|one more|");
    source_free(&source);
}

static void flickrs_token_file_is_read(void **state)
{
    put("Flickr8k_Dataset/a.jpg", "");
    put("Flickr8k.token.txt", "a.jpg#0\tA child , \"in\" pink .\na.jpg#1\tAnother");
    struct source *source = opened(caption_column, 1);
    assert_int_equal(source_count(source), 1);
    assert_sample(source, 0, "Flickr8k_Dataset/a.jpg", "A child , \"in\" pink .|Another|");
    source_free(&source);
}

static void wrong_annotations_are_named(void **state)
{
    static const struct {
        const char *name, *text, *says;
    } cases[] = {
        {"captions_x.json", "[]", "/captions_x.json: images: expected a list, found nothing"},
        {"captions_x.json", "{\"images\": [{\"id\": 1}], \"annotations\": []}",
         "/captions_x.json: images[0].file_name: expected a text, found nothing"},
        {"captions_x.json",
         "{\"images\": [], \"annotations\": [{\"image_id\": 3, \"caption\": \"\"}]}",
         "/captions_x.json: annotations[0].image_id: expected the id of an image, found 3"},
        {"captions.txt", "image,caption\na.jpg,x\nno comma\n",
         "/captions.txt:3: expected an image's name, a comma and a caption"},
        {"a.token.txt", "a.jpg#0 A child\n",
         "/a.token.txt:1: expected an image's name, a tab and a caption"},
        {"captions.txt", "image,caption\n../a.jpg,x\n",
         "/captions.txt:2: file_name: expected a path that stays below the folder, found "
         "\"../a.jpg\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(bl_folder_remove(folder, NULL), 0);
        put(cases[i].name, cases[i].text);
        refuses(CONFIG_ANNOTATIONS, caption_column, 1, cases[i].says);
    }
}

UNIT_MAIN(IN_FOLDER(cocos_annotations_are_grouped_by_image),
          IN_FOLDER(flickrs_captions_are_grouped_by_image), IN_FOLDER(flickrs_token_file_is_read),
          IN_FOLDER(wrong_annotations_are_named),
          IN_FOLDER(jsonl_lines_give_captions_in_the_order_of_columns),
          IN_FOLDER(each_folder_has_its_own_metadata), IN_FOLDER(csv_is_read_as_rfc_4180_says),
          IN_FOLDER(pairs_are_images_beside_texts), IN_FOLDER(what_is_passed_over_is_counted),
          IN_FOLDER(numbers_that_are_no_json_do_not_matter),
          IN_FOLDER(columns_of_numbers_are_read_beside_captions),
          IN_FOLDER(what_is_no_number_is_named), IN_FOLDER(a_printed_list_in_csv_is_counted),
          IN_FOLDER(folders_behind_links_are_read),
          IN_FOLDER(the_fingerprint_is_of_what_training_reads), IN_FOLDER(wrong_lines_are_named),
          IN_FOLDER(text_that_is_not_utf_8_is_refused_by_file_and_line),
          IN_FOLDER(wrong_records_are_named), IN_FOLDER(wrong_folders_are_named))
