/* tests/unit/dataset_test.c - the dataset index: what is kept, counted and split, and what a damaged
 * one is refused with. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/data/dataset.h"
#include "common/data/indexing.h"
#include "common/file_hash.h"
#include "tests/unit/data_folder.h"

static int make_folders(void **state)
{
    return make_folder(state) == 0 && bl_folder_make(inside("data"), NULL) == 0 &&
                   bl_folder_make(inside("held"), NULL) == 0
               ? 0
               : -1;
}

/* A configuration over the demo's language model, with extra keys of data. */
static struct config *configure(const char *data)
{
    char lines[2048];
    snprintf(lines, sizeof lines, "  source: data\n%s", data);
    return configure_data(lines);
}

static struct dataset *prepared(const char *data, bool *reused)
{
    struct bl_error err = {0};
    struct dataset *dataset = NULL;
    struct config *config = configure(data);
    assert_ok(dataset_prepare(config, NULL, NULL, &dataset, reused, &err), err);
    config_free(&config);
    return dataset;
}

static void refuses(const char *data, int code, const char *expected)
{
    struct bl_error err = {0};
    struct dataset *dataset = NULL;
    struct config *config = configure(data);
    char line[1600];
    assert_int_equal(dataset_prepare(config, NULL, NULL, &dataset, NULL, &err), -code);
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line, expected);
    config_free(&config);
}

static void put_samples(int count)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (int i = 0; i < count; i++) {
        char name[32], content[32];
        snprintf(name, sizeof name, "data/%d.jpg", i);
        snprintf(content, sizeof content, "image %d", i);
        put(name, content);
        fprintf(out, "{\"file_name\": \"%d.jpg\", \"text\": \"a red circle %d\"}\n", i, i);
    }
    fclose(out);
    put("data/metadata.jsonl", text);
    free(text);
}

static void an_index_holds_images_captions_and_splits(void **state)
{
    put("data/a.jpg", "image a");
    put("data/b.jpg", "image b");
    put("data/metadata.jsonl",
        "{\"file_name\": \"a.jpg\", \"short\": \" two  red circles \", \"long\": [\"x\", \"y\"]}\n"
        "{\"file_name\": \"b.jpg\", \"short\": \" \", \"long\": [\"\", \"one\", \"two\"]}\n");
    struct dataset *d = prepared("  validation: 0\n  captions: [{column: short, prefix: 'Short "
                                 "caption:'}, {column: long}]\n",
                                 NULL);
    assert_int_equal(dataset_samples(d), 2);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 2);
    assert_int_equal(dataset_count(d, DATASET_VALIDATION), 0);
    assert_int_equal(dataset_id(d, DATASET_TRAIN, 1), 1);
    struct dataset_sample sample;
    struct dataset_caption caption;
    dataset_sample(d, 0, &sample);
    assert_string_equal(sample.location.path, inside("data/a.jpg"));
    assert_int_equal(sample.caption_count, 1);
    char hex[65], expected[65];
    bl_hex(sample.hash, 32, hex);
    assert_int_equal(bl_file_sha256(inside("data/a.jpg"), expected, NULL), 0);
    assert_string_equal(hex, expected);
    dataset_caption(d, 0, 0, &caption);
    assert_string_equal(caption.text, "two  red circles");
    assert_int_equal(caption.column, 0);
    dataset_sample(d, 1, &sample);
    assert_int_equal(sample.caption_count, 2);
    dataset_caption(d, 1, 1, &caption);
    assert_string_equal(caption.text, "two");
    assert_int_equal(caption.column, 1);
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_KEPT), 3);
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_EMPTY), 1);
    uint64_t lengths = 0;
    for (uint32_t tokens = 0; tokens <= dataset_longest(d); tokens++)
        lengths += dataset_length(d, tokens);
    assert_int_equal(lengths, 3);
    assert_in_range(dataset_mean_length(d), 1, dataset_longest(d));
    dataset_free(&d);

    d = prepared("  validation: 0\n  caption_choice: any\n  captions: [{column: short}, {column: "
                 "long}]\n",
                 NULL);
    dataset_sample(d, 0, &sample);
    assert_int_equal(sample.caption_count, 3);
    int drawn[3] = {0};
    for (uint64_t epoch = 0; epoch < 60; epoch++) {
        dataset_choose(d, 0, 5, epoch, &caption);
        drawn[caption.column == 0 ? 0 : caption.text[0] == 'x' ? 1 : 2]++;
    }
    assert_true(drawn[0] && drawn[1] && drawn[2]);
    dataset_free(&d);
}

static void what_is_left_out_is_counted_with_examples(void **state)
{
    put("data/a.jpg", "same");
    put("data/b.jpg", "same");
    put("data/c.jpg", "other");
    put("data/metadata.jsonl", "{\"file_name\": \"a.jpg\", \"text\": \"a red circle\"}\n"
                               "{\"file_name\": \"b.jpg\", \"text\": \" a red circle\"}\n"
                               "{\"file_name\": \"c.jpg\", \"text\": \"a red circle\"}\n"
                               "{\"file_name\": \"c.jpg\", \"text\": \"circle\"}\n"
                               "{\"file_name\": \"c.jpg\"}\n"
                               "{\"file_name\": \"missing.jpg\", \"text\": \"a blue star\"}\n");
    static const char keys[] = "  validation: 0\n  keep: [red]\n  max_bad_fraction: 0.4\n";
    struct dataset *d = prepared(keys, NULL);
    assert_int_equal(dataset_samples(d), 2);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_KEPT), 2);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NO_IMAGE), 1);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NO_CAPTION), 1);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NOTHING_KEPT), 2);
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_DUPLICATE), 1);
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_NOT_KEPT), 1);
    static const char *const examples[] = {"metadata.jsonl:2: b.jpg: a red circle",
                                           "metadata.jsonl:2: b.jpg",
                                           "metadata.jsonl:4: c.jpg: circle",
                                           "metadata.jsonl:4: c.jpg",
                                           "metadata.jsonl:5: c.jpg",
                                           "metadata.jsonl:6: missing.jpg"};
    assert_int_equal(dataset_example_count(d), 6);
    for (uint32_t i = 0; i < 6; i++) {
        struct dataset_example example;
        dataset_example(d, i, &example);
        assert_string_equal(example.text, examples[i]);
        assert_int_equal(example.is_caption, i == 0 || i == 2);
    }
    dataset_free(&d);

    char expected[512];
    snprintf(expected, sizeof expected,
             "%s: image files of 1 of 6 samples are missing or cannot be read, the first is "
             "metadata.jsonl:6: missing.jpg; 1 more lost for other reasons; put them there, or "
             "allow for more by data.max_bad_fraction (0.05)",
             inside("data"));
    refuses("  validation: 0\n", BL_EDATA, expected);
    snprintf(expected, sizeof expected,
             "%s: no sample is left to train on: of 6, 6 are left out and 0 held out; "
             "blipren-loader inspect shows what was left out and why",
             inside("data"));
    refuses("  keep: [green]\n  max_bad_fraction: 1\n", BL_EDATA, expected);
    snprintf(expected, sizeof expected,
             "%s: no sample is left to train on: of 6, 3 are left out and 3 held out; "
             "blipren-loader inspect shows what was left out and why",
             inside("data"));
    refuses("  validation: 2\n  max_bad_fraction: 1\n", BL_EDATA, expected);
}

/* Five captions of five images, in LIVIS's manner. */
static void put_livis(void)
{
    for (int i = 0; i < 5; i++) {
        char name[32], content[16];
        snprintf(name, sizeof name, "data/%d.jpg", i);
        snprintf(content, sizeof content, "image %d", i);
        put(name, content);
    }
    put("data/metadata.jsonl",
        "{\"file_name\": \"0.jpg\", \"text\": \"The image shows a red circle\", \"gain\": 0.5}\n"
        "{\"file_name\": \"1.jpg\", \"text\": \"A  RED circle\", \"gain\": 1}\n"
        "{\"file_name\": \"2.jpg\", \"text\": \"In this photo a blue star\", \"gain\": NaN, "
        "\"id\": 12345678901234567890}\n"
        "{\"file_name\": \"3.jpg\", \"text\": \"The image shows a star\", \"gain\": 0.1}\n"
        "{\"file_name\": \"4.jpg\", \"text\": \"\u043a\u0440\u0443\u0433\", \"gain\": true}\n");
}

static void each_rule_is_counted_by_itself(void **state)
{
    char text[700], rule[100];
    struct dataset_caption caption;
    put_livis();
    static const char keys[] = "  validation: 0\n  deduplicate: all\n  script: Latin\n"
                               "  strip: ['[Tt]he image shows ', '(?i)in this photo ']\n"
                               "  filters: [{column: gain, max: 3}, {column: gain, min: 0.2}]\n";
    struct dataset *d = prepared(keys, NULL);
    assert_int_equal(dataset_samples(d), 1);
    dataset_caption(d, 0, 0, &caption);
    assert_string_equal(caption.text, "A red circle");
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_REPEATED), 1);
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_FILTERED), 2);
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_SCRIPT), 1);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NOTHING_KEPT), 4);
    assert_int_equal(dataset_rule_count(d, DATASET_RULES_FILTERS, 0), 1);
    assert_int_equal(dataset_rule_count(d, DATASET_RULES_FILTERS, 1), 1);
    assert_int_equal(dataset_rule_count(d, DATASET_RULES_STRIP, 0), 1);
    assert_int_equal(dataset_rule_count(d, DATASET_RULES_STRIP, 1), 0);
    assert_true(dataset_stripped_text(d, text, sizeof text));
    assert_string_equal(text,
                        "1 of 5 captions begin with an opening that is taken off (data.strip); the "
                        "first is metadata.jsonl:1: 0.jpg: The image shows a red circle → A red "
                        "circle");
    double share;
    assert_true(dataset_dropped_text(d, CAPTION_FILTERED, text, sizeof text, &share));
    assert_string_equal(text, "2 of 5 captions are dropped: a number beside it is out of bounds or "
                              "missing (data.filters: 1 by [0], 1 by [1]); the first is "
                              "metadata.jsonl:3: 2.jpg: In this photo a blue star");
    struct config *config = configure(keys);
    assert_true(dataset_rule_text(config, DATASET_RULES_FILTERS, 1, rule, sizeof rule));
    assert_string_equal(rule, "data.filters[1] gain from 0.2");
    assert_false(dataset_rule_text(config, DATASET_RULES_FILTERS, 2, rule, sizeof rule));
    assert_true(dataset_rule_text(config, DATASET_RULES_STRIP, 1, rule, sizeof rule));
    assert_string_equal(rule, "data.strip[1] (?i)in this photo ");
    config_free(&config);
    dataset_free(&d);
}

static void traces_are_kept_with_their_captions(void **state)
{
    struct dataset_caption caption;
    put("data/a.jpg", "image a");
    put("data/b.jpg", "image b");
    put("data/c.jpg", "image c");
    put("data/metadata.jsonl",
        "{\"file_name\": \"a.jpg\", \"text\": \"a red circle\", \"why\": \" It is red. \"}\n"
        "{\"file_name\": \"b.jpg\", \"text\": [\"a star\", \"two stars\"], \"why\": [\"one\", "
        "\"two\"]}\n"
        "{\"file_name\": \"c.jpg\", \"text\": \"a blue star\"}\n");
    static const char keys[] = "  validation: 0\n  max_bad_fraction: 0.4\n"
                               "  captions: [{column: text, trace: why, open: \"(\", close: "
                               "\")\"}]\n";
    struct dataset *d = prepared(keys, NULL);
    assert_int_equal(dataset_samples(d), 2);
    dataset_caption(d, 0, 0, &caption);
    assert_string_equal(caption.text, "a red circle");
    assert_string_equal(caption.trace, "It is red.");
    assert_int_equal(caption.trace_size, 10);
    dataset_caption(d, 1, 1, &caption);
    assert_string_equal(caption.text, "two stars");
    assert_string_equal(caption.trace, "two");
    assert_int_equal(dataset_caption_verdicts(d, CAPTION_NO_TRACE), 1);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_UNFIT), 1);
    dataset_free(&d);
}

static void examples_know_their_image(void **state)
{
    struct dataset_example example;
    put_livis();
    struct dataset *d = prepared("  validation: 0\n  drop: [star]\n", NULL);
    dataset_example(d, 0, &example);
    assert_true(example.is_caption && example.has_image);
    assert_int_equal(example.verdict, CAPTION_DROPPED);
    assert_int_equal(example.rule, 0);
    assert_string_equal(example.location.path, inside("data/2.jpg"));
    dataset_example(d, 1, &example);
    assert_false(example.is_caption || example.has_image);
    dataset_free(&d);
}

static void another_rule_makes_another_index(void **state)
{
    static const char *const keys[] = {"", "  strip: [A ]\n", "  script: Latin\n",
                                       "  deduplicate: all\n",
                                       "  filters: [{column: gain, min: 0}]\n"};
    bool reused;
    put_livis();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct dataset *d = prepared(keys[i], &reused);
        assert_false(reused);
        dataset_free(&d);
        d = prepared(keys[i], &reused);
        assert_true(reused);
        dataset_free(&d);
    }
}

static void captions_lost_without_being_asked_are_judged_like_images(void **state)
{
    char expected[512];
    put("data/a.jpg", "a");
    put("data/metadata.jsonl",
        "{\"file_name\": \"a.jpg\", \"text\": \"a red circle\"}\n"
        "{\"file_name\": \"a.jpg\", \"text\": \"a red circle and a blue star\"}\n"
        "{\"file_name\": \"a.jpg\", \"text\": \"a red circle and a star\"}\n"
        "{\"file_name\": \"a.jpg\", \"text\": \"\"}\n");
    snprintf(
        expected, sizeof expected,
        "%s: captions of 2 of 4 samples are empty, too long or merge with the prefix, the first is "
        "metadata.jsonl:2: a.jpg; 1 more lost for other reasons; raise data.max_tokens, or "
        "allow "
        "for more by data.max_bad_fraction (0.05)",
        inside("data"));
    refuses("  validation: 0\n  max_tokens: 3\n", BL_EDATA, expected);
    struct dataset *d =
        prepared("  validation: 0\n  max_tokens: 3\n  max_bad_fraction: 0.75\n", NULL);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_UNFIT), 2);
    dataset_free(&d);
    d = prepared("  validation: 0\n  drop: [and, ^$]\n  max_bad_fraction: 0.25\n",
                 NULL); /* asked for */
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NOTHING_KEPT), 2);
    dataset_free(&d);
}

static void an_image_is_in_one_split_under_all_its_names(void **state)
{
    static const char *const keys[] = {"  validation: 30\n", "  validation: 0.2\n",
                                       "  validation: 30\nseed: 3\n"};
    put_samples(100);
    for (int i = 0; i < 100; i++) { /* 50 to 99 are copies of 0 to 49 */
        char name[32], content[32];
        snprintf(name, sizeof name, "data/%d.jpg", i);
        snprintf(content, sizeof content, "image %d", i % 50);
        put(name, content);
    }
    uint8_t splits[3][100];
    for (size_t k = 0; k < 3; k++) {
        struct dataset *d = prepared(keys[k], NULL);
        for (uint64_t i = 0; i < 100; i++) {
            struct dataset_sample sample;
            dataset_sample(d, i, &sample);
            splits[k][i] = (uint8_t)sample.split;
        }
        assert_memory_equal(splits[k], splits[k] + 50, 50);
        uint64_t held = dataset_count(d, DATASET_VALIDATION);
        assert_int_equal(held + dataset_count(d, DATASET_TRAIN), 100);
        if (k == 1)
            assert_in_range(held, 6, 40);
        else
            assert_int_equal(held, 60);
        dataset_free(&d);
    }
    assert_memory_not_equal(splits[0], splits[2], 50);
}

static void a_validation_source_keeps_its_images_out_of_training(void **state)
{
    put_samples(4);
    put("held/x.jpg", "image 2");
    put("held/y.jpg", "another");
    put("held/metadata.csv", "file_name,text\nx.jpg,a blue star\ny.jpg,a star\n");
    struct dataset *d = prepared("  validation_source: held\n", NULL);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 3);
    assert_int_equal(dataset_count(d, DATASET_VALIDATION), 2);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_HELD_OUT), 1);
    struct dataset_sample sample;
    dataset_sample(d, dataset_id(d, DATASET_VALIDATION, 0), &sample);
    assert_string_equal(sample.location.path, inside("held/x.jpg"));
    dataset_free(&d);
}

static void put_split(const char *folders)
{
    int number = 0;
    for (const char *at = folders; *at; at += strcspn(at, " "), at += *at == ' ') {
        char name[96], text[48];
        int length = (int)strcspn(at, " ");
        snprintf(name, sizeof name, "data/%.*s/%d.jpg", length, at, number);
        snprintf(text, sizeof text, "%.*s", length, at);
        assert_int_equal(bl_folder_make(inside("data"), NULL), 0);
        char folder_name[96];
        for (int i = 1; i <= length; i++) /* each folder of the path */
            if (i == length || at[i] == '/') {
                snprintf(folder_name, sizeof folder_name, "data/%.*s", i, at);
                assert_int_equal(bl_folder_make(inside(folder_name), NULL), 0);
            }
        put(name, name);
        memcpy(strrchr(name, '.'), ".txt", 5);
        put(name, text);
        number++;
    }
}

static void folders_named_by_a_split_decide_it(void **state)
{
    char text[300];
    put_split("train train/deep val test/more test other");
    put("data/train/copy.jpg", "data/val/2.jpg"); /* the same picture as in val */
    put("data/train/copy.txt", "copied");
    struct dataset *d = prepared("", NULL);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 2);
    assert_int_equal(dataset_count(d, DATASET_VALIDATION), 1);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_SET_ASIDE), 2);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NO_SPLIT), 1);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_HELD_OUT), 1);
    assert_true(dataset_split_text(d, 0, text, sizeof text));
    assert_string_equal(text, "the folders of data.source name splits: train has 3 samples, "
                              "validation 1, test 2 (not used), none of them 1 (not used)");
    dataset_free(&d);
}

static void without_a_train_folder_the_rest_is_trained(void **state)
{
    put_split("2019 2020 test");
    struct dataset *d = prepared("  validation: 0\n", NULL);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 2);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_SET_ASIDE), 1);
    dataset_free(&d);
}

static void a_path_is_of_the_split_that_its_folders_name(void **state)
{
    static const struct {
        const char *path;
        enum split_name split;
    } cases[] = {
        {"a.jpg", SPLIT_NONE},
        {"train.jpg", SPLIT_NONE},
        {"train/a.jpg", SPLIT_TRAIN},
        {"val2014/a.jpg", SPLIT_VALIDATION},
        {"x/my-dev set/a.jpg", SPLIT_VALIDATION},
        {"x/valid/a.jpg", SPLIT_VALIDATION},
        {"trains/a.jpg", SPLIT_NONE},
        {"constraint/a.jpg", SPLIT_NONE},
        {"Train/a.jpg", SPLIT_NONE},
        {"train/test/a.jpg", SPLIT_TEST},
        {"evaluation/train/a.jpg", SPLIT_TEST},
        {"https://host/train/a.jpg", SPLIT_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(split_of_path(cases[i].path), cases[i].split);
    struct source_sample row = {.image = "test/a.jpg", .file = "data/train-00000-of-00002.parquet"};
    assert_int_equal(split_of_sample(&row),
                     SPLIT_TRAIN); /* a name inside a Parquet file is only a name */
    row.file = "metadata.jsonl";
    assert_int_equal(split_of_sample(&row), SPLIT_TEST);
}

static void put_golden(const char *golden)
{
    struct bl_error err = {0};
    char path[512], *data = NULL;
    size_t size;
    snprintf(path, sizeof path, "%s/tests/golden/parquet/%s", getenv("BLIPREN_SOURCE"), golden);
    assert_ok(bl_file_read(path, SIZE_MAX - 1, &data, &size, &err), err);
    assert_ok(bl_file_write(inside("data/a.parquet"), data, size, &err), err);
    free(data);
}

/* Nothing is there, and nothing is asked for; a folder in a URL tells no split. Rows 3 and 7 have no URL, row 6 names a file. */
static void an_image_at_a_url_is_known_by_its_url(void **state)
{
    struct dataset_sample a, again;
    bool reused;
    uint8_t hash[32];
    put_golden("urls.parquet");
    const char *data = "  captions: [{column: short_caption}]\n  validation: 0\n"
                       "  max_bad_fraction: 0.5\n  cache: images\n";
    struct dataset *d = prepared(data, NULL);
    assert_int_equal(dataset_samples(d), 4);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NO_IMAGE), 3);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 4);
    dataset_sample(d, 0, &a);
    dataset_sample(d, 2, &again);
    assert_int_equal(a.location.kind, LOCATION_URL);
    bl_sha256("http://host/val2017/a.jpg", 25, hash);
    assert_memory_equal(a.hash, hash, 32);
    assert_memory_equal(again.hash, hash, 32);
    assert_string_equal(a.location.path, again.location.path);
    assert_memory_equal(a.location.path, folder, strlen(folder));
    dataset_free(&d);
    d = prepared(data, &reused);
    assert_true(reused);
    dataset_free(&d);
}

/* Row i has i % 7 bytes: 8 or 9 of 60 are empty, and so are equal. */
static void images_inside_parquet_files_are_hashed_like_others(void **state)
{
    struct dataset_sample sample;
    uint8_t hash[32];
    put_golden("gzip.parquet");
    struct dataset *d = prepared("  captions: [{column: caption}]\n  validation: 0\n"
                                 "  max_image_bytes: 5\n  max_bad_fraction: 0.5\n",
                                 NULL);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_TOO_LARGE), 8); /* i % 7 == 6 */
    assert_int_equal(dataset_sample_verdicts(d, DATASET_NO_CAPTION),
                     10); /* of the others i % 5 == 0 */
    assert_int_equal(dataset_samples(d), 42);
    dataset_sample(d, 3, &sample); /* row 4 */
    bl_sha256("\4\4\4\4", 4, hash);
    assert_memory_equal(sample.hash, hash, 32);
    assert_int_equal(sample.location.kind, LOCATION_CELL);
    dataset_free(&d);
}

static void an_index_that_fits_is_used_again(void **state)
{
    bool reused;
    uint8_t first[32];
    put_samples(10);
    struct dataset *d = prepared("  validation: 2\n", &reused);
    memcpy(first, dataset_fingerprint(d), 32);
    assert_false(reused);
    dataset_free(&d);
    d = prepared("  validation: 2\n  max_pixels: 5\n", &reused);
    assert_true(reused);
    dataset_free(&d);
    d = prepared("  validation: 3\n", &reused);
    assert_false(reused);
    assert_memory_not_equal(dataset_fingerprint(d), first, 32);
    dataset_free(&d);
    put("data/3.jpg", "a picture of another size");
    d = prepared("  validation: 3\n", &reused);
    assert_false(reused);
    dataset_free(&d);
    put("run/dataset.index", "damaged");
    d = prepared("  validation: 3\n", &reused);
    assert_false(reused);
    dataset_free(&d);
    d = prepared("  validation: 3\n", &reused);
    assert_true(reused);
    dataset_free(&d);
}

static void the_fingerprint_stays_when_the_folder_moves(void **state)
{
    uint8_t first[32];
    put_samples(10);
    struct dataset *d = prepared("", NULL);
    memcpy(first, dataset_fingerprint(d), 32);
    dataset_free(&d);
    assert_int_equal(rename(inside("data"), inside("moved")), 0);
    assert_int_equal(symlink("moved", inside("data")), 0);
    put("moved/3.jpg", "image 3"); /* another time, the same content */
    d = prepared("", NULL);
    assert_memory_equal(dataset_fingerprint(d), first, 32);
    dataset_free(&d);
    unlink(inside("data"));
}

static bool stop_at_three(void *ctx, enum dataset_phase phase, uint64_t done, uint64_t total)
{
    assert_int_equal(total, 10);
    return phase == DATASET_LOOKING || done < 3;
}

static void making_can_be_stopped_and_leaves_nothing(void **state)
{
    put_samples(10);
    struct bl_error err = {0};
    struct dataset *d = NULL;
    struct config *config = configure("");
    assert_int_equal(dataset_prepare(config, stop_at_three, NULL, &d, NULL, &err), -BL_ESTOPPED);
    assert_false(bl_path_is_file(inside("run/dataset.index")));
    assert_ok(dataset_view(config, NULL, NULL, &d, &err), err);
    assert_int_equal(dataset_samples(d), 10);
    assert_false(bl_path_is_file(inside("run/dataset.index")));
    dataset_free(&d);
    config_free(&config);
}

static void set_time(const char *name, time_t s)
{
    const struct timespec times[2] = {{s, 0}, {s, 0}};
    assert_int_equal(utimensat(AT_FDCWD, inside(name), times, 0), 0);
}

/* Whether sample 0 of a new index is `content`: what its image holds by its hash. */
static bool first_image_is(const char *content)
{
    char expected[65], hex[65];
    struct dataset_sample sample;
    struct dataset *d = prepared("", NULL);
    dataset_sample(d, 0, &sample);
    bl_hex(sample.hash, 32, hex);
    put("content", content);
    assert_int_equal(bl_file_sha256(inside("content"), expected, NULL), 0);
    dataset_free(&d);
    assert_int_equal(unlink(inside("run/dataset.index")), 0);
    return !strcmp(hex, expected);
}

static void an_image_is_hashed_once_until_its_size_or_time_changes(void **state)
{
    put_samples(10);
    set_time("data/0.jpg", 1000000000);
    assert_true(first_image_is("image 0"));
    put("data/0.jpg", "IMAGE 0"); /* behind its back: the same size and time */
    set_time("data/0.jpg", 1000000000);
    assert_true(first_image_is("image 0"));
    set_time("data/0.jpg", 1000000001);
    assert_true(first_image_is("IMAGE 0"));
}

static void what_changed_just_now_is_hashed_again(void **state)
{
    time_t now = time(NULL);
    put_samples(10);
    set_time("data/0.jpg", now);
    assert_true(first_image_is("image 0"));
    put("data/0.jpg", "IMAGE 0");
    set_time("data/0.jpg", now);
    assert_true(first_image_is("IMAGE 0"));
}

static void damaged_hashes_are_not_used(void **state)
{
    struct bl_error err;
    bl_autofree char *data = NULL;
    size_t size;
    put_samples(10);
    for (int i = 1; i < 10; i++) { /* too new to be kept, however long this takes */
        char name[32];
        snprintf(name, sizeof name, "data/%d.jpg", i);
        set_time(name, time(NULL) + 3600);
    }
    set_time("data/0.jpg", 1000000000);
    assert_true(first_image_is("image 0"));
    put("data/0.jpg", "IMAGE 0");
    set_time("data/0.jpg", 1000000000);
    assert_ok(bl_file_read(inside("run/image-hashes"), 1 << 20, &data, &size, &err), err);
    assert_int_equal(size, 72);
    for (size_t i = 0; i < size; i += 7) {
        data[i] ^= 1;
        assert_ok(bl_file_write(inside("run/image-hashes"), data, size, &err), err);
        assert_true(first_image_is("IMAGE 0"));
        data[i] ^= 1;
    }
    bl_autofree char *torn = malloc(size + 30);
    memcpy(torn, data, size);
    memset(torn + size, 0, 30);
    assert_ok(bl_file_write(inside("run/image-hashes"), torn, size + 30, &err), err);
    assert_true(first_image_is("image 0")); /* a whole record before a torn one */
    put("data/0.jpg", "IMAGE 0");
    set_time("data/0.jpg", 1000000002);
    assert_true(first_image_is("IMAGE 0")); /* added where the torn one was */
    free(bl_take(&torn));
    assert_ok(bl_file_read(inside("run/image-hashes"), 1 << 20, &torn, &size, &err), err);
    assert_int_equal(size, 2 * 72);
}

static struct rlimit files; /* as it was at the start */

/* Takes all descriptors away before images are hashed, and gives them back while they are. */
static bool take_files_away(void *ctx, enum dataset_phase phase, uint64_t done, uint64_t total)
{
    int *calls = ctx;
    const struct rlimit none = {3, files.rlim_max};
    if (phase == DATASET_LOOKING)
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    else if (phase == DATASET_HASHING && ++*calls == 3) {
        assert_int_equal(done, 0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    }
    return true;
}

static void a_hosts_passing_fault_makes_no_image_missing(void **state)
{
    int calls = 0;
    struct bl_error err;
    struct dataset *d = NULL;
    put_samples(10);
    struct config *config = configure("  validation: 0\n");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    assert_ok(dataset_prepare(config, take_files_away, &calls, &d, NULL, &err), err);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 10);
    dataset_free(&d);
    config_free(&config);
}

static void files_larger_than_allowed_are_left_out(void **state)
{
    put_samples(10);
    put("data/3.jpg", "twelve bytes");
    struct dataset *d =
        prepared("  validation: 0\n  max_image_bytes: 11\n  max_bad_fraction: 0.1\n", NULL);
    assert_int_equal(dataset_sample_verdicts(d, DATASET_TOO_LARGE), 1);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 9);
    dataset_free(&d);
    d = prepared("  validation: 0\n  max_image_bytes: 12\n", NULL);
    assert_int_equal(dataset_count(d, DATASET_TRAIN), 10);
    dataset_free(&d);
}

struct seen_phases {
    uint64_t last[DATASET_JUDGING + 1];
};

static bool note_phase(void *ctx, enum dataset_phase phase, uint64_t done, uint64_t total)
{
    struct seen_phases *seen = ctx;
    assert_int_equal(total, 10);
    seen->last[phase] = done;
    return true;
}

static void progress_is_told_of_all_that_takes_time(void **state)
{
    struct seen_phases seen = {0};
    struct bl_error err;
    struct dataset *d = NULL;
    char text[100];
    put_samples(10);
    struct config *config = configure("");
    assert_ok(dataset_view(config, note_phase, &seen, &d, &err), err);
    for (int phase = 0; phase <= DATASET_JUDGING; phase++)
        assert_int_equal(seen.last[phase], 10);
    dataset_free(&d);
    config_free(&config);
    indexing_text(DATASET_HASHING, 1200, 20000, 4.2, text, sizeof text);
    assert_string_equal(text, "hashing images: 1200 of 20000 (6%), about 1:06 left");
    indexing_text(DATASET_JUDGING, 0, 20000, 0, text, sizeof text);
    assert_string_equal(text, "tokenizing captions: 0 of 20000 (0%)");
}

static void a_damaged_index_is_refused_by_name(void **state)
{
    put_samples(10);
    struct dataset *d = prepared("", NULL);
    dataset_free(&d);
    char *data;
    size_t size;
    struct bl_error err = {0};
    const char *path = inside("run/dataset.index");
    assert_ok(bl_file_read(path, 1 << 20, &data, &size, &err), err);
    for (size_t i = 0; i < size; i += 1 + size / 97) {
        data[i] ^= 0x20;
        assert_ok(bl_file_write(path, data, size, &err), err);
        assert_int_equal(dataset_open(path, &d, &err), -BL_EFORMAT);
        assert_string_equal(err.file, path);
        data[i] ^= 0x20;
    }
    data[size / 2] ^= 1;
    assert_ok(bl_file_write(path, data, size, &err), err);
    dataset_open(path, &d, &err);
    assert_string_equal(err.text, "the dataset index is damaged: its checksum is wrong");
    assert_string_equal(err.remedy, "remove it; it will be made again");
    data[size / 2] ^= 1;
    for (size_t cut = 0; cut < size; cut += 1 + size / 31) {
        assert_int_equal(dataset_parse(data, cut, "cut", &d, &err), -BL_EFORMAT);
        assert_string_equal(err.file, "cut");
    }
    free(data);
}

/* Else the fuzzer would start from bytes that are refused at their first word. */
static void the_fuzzers_seed_is_an_index_of_this_version(void **state)
{
    char path[512];
    struct bl_error err = {0};
    struct dataset *d = NULL;
    snprintf(path, sizeof path, "%s/tests/fuzz/corpus/dataset/seed-two", getenv("BLIPREN_SOURCE"));
    assert_ok(dataset_open(path, &d, &err), err);
    assert_int_equal(dataset_samples(d), 3);
    assert_int_equal(dataset_example_count(d), 1);
    assert_int_equal(dataset_passed(d, SOURCE_OTHER_TYPES), 2);
    assert_string_equal(dataset_passed_name(d, SOURCE_OTHER_TYPES, 1), "b.tar");
    assert_null(dataset_passed_name(d, SOURCE_OTHER_TYPES, 2));
    dataset_free(&d);
}

static void an_index_may_be_cut_while_it_is_open(void **state)
{
    struct bl_error err;
    struct dataset *d;
    struct dataset_sample sample;
    put_samples(100);
    d = prepared("", NULL);
    dataset_free(&d);
    assert_ok(dataset_open(inside("run/dataset.index"), &d, &err), err);
    assert_int_equal(truncate(inside("run/dataset.index"), 0), 0);
    dataset_sample(d, 99, &sample);
    assert_string_equal(sample.location.path, inside("data/99.jpg"));
    dataset_free(&d);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folders, remove_folder)

UNIT_MAIN(cmocka_unit_test(the_fuzzers_seed_is_an_index_of_this_version),
          IN_FOLDER(an_index_holds_images_captions_and_splits),
          IN_FOLDER(what_is_left_out_is_counted_with_examples),
          IN_FOLDER(each_rule_is_counted_by_itself), IN_FOLDER(examples_know_their_image),
          IN_FOLDER(traces_are_kept_with_their_captions),
          IN_FOLDER(another_rule_makes_another_index),
          IN_FOLDER(captions_lost_without_being_asked_are_judged_like_images),
          IN_FOLDER(an_image_is_in_one_split_under_all_its_names),
          IN_FOLDER(a_validation_source_keeps_its_images_out_of_training),
          IN_FOLDER(folders_named_by_a_split_decide_it),
          IN_FOLDER(without_a_train_folder_the_rest_is_trained),
          cmocka_unit_test(a_path_is_of_the_split_that_its_folders_name),
          IN_FOLDER(an_image_at_a_url_is_known_by_its_url),
          IN_FOLDER(images_inside_parquet_files_are_hashed_like_others),
          IN_FOLDER(an_index_that_fits_is_used_again),
          IN_FOLDER(the_fingerprint_stays_when_the_folder_moves),
          IN_FOLDER(making_can_be_stopped_and_leaves_nothing),
          IN_FOLDER(an_image_is_hashed_once_until_its_size_or_time_changes),
          IN_FOLDER(what_changed_just_now_is_hashed_again), IN_FOLDER(damaged_hashes_are_not_used),
          IN_FOLDER(a_hosts_passing_fault_makes_no_image_missing),
          IN_FOLDER(files_larger_than_allowed_are_left_out),
          IN_FOLDER(progress_is_told_of_all_that_takes_time),
          IN_FOLDER(a_damaged_index_is_refused_by_name),
          IN_FOLDER(an_index_may_be_cut_while_it_is_open))
