/* tests/unit/sources_test.c - data.sources: what a list says and is refused with, and the index of several sources: whose
 * samples are whose, how captions are read, and that no image is trained by one and validated by another. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/cleanup.h"
#include "common/config/config.h"
#include "common/data/dataset.h"
#include "common/data/run.h"
#include "tests/unit/data_folder.h"

/* -- the configuration ------------------------------------------------------------------------ */

#define TAIL "vision: {path: v}\nllm: {path: l}\ntrain: {steps: 1}\nrun_dir: r\n"

static struct config *parsed(const char *yaml)
{
    struct bl_error err = {0};
    struct config *config = NULL;
    assert_ok(config_parse(yaml, strlen(yaml), "run.yaml", "/home", &config, &err), err);
    return config;
}

static void refuses(const char *yaml, const char *message)
{
    struct bl_error err = {0};
    struct config *config = NULL;
    char line[1600];
    if (config_parse(yaml, strlen(yaml), "run.yaml", "/home", &config, &err) >= 0)
        fail_msg("accepted: %s", yaml);
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line, message);
}

static void a_source_has_keys_of_its_own_and_inherits_the_others(void **state)
{
    struct config *c =
        parsed("data:\n  sources:\n  - {source: a, weight: 0.5, captions: [{column: x}, {column: "
               "y, join: \"\"}]}\n"
               "  - {source: /b, format: parquet, validation: 3, image_column: img}\n"
               "  - {source: c, validation_source: d}\n"
               "  format: pairs\n  validation: 0.25\n  image_column: url\n  captions: [{column: "
               "z}]\n" TAIL);
    const struct config_source *at = c->data.sources.at;
    assert_int_equal(c->data.sources.count, 3);
    assert_null(c->data.source);
    assert_string_equal(at[0].source, "/home/a");
    assert_string_equal(at[1].source, "/b");
    assert_true(at[0].weight == 0.5 && at[1].weight == 1 && at[2].weight == 1);
    assert_true(at[0].format == CONFIG_PAIRS && at[1].format == CONFIG_PARQUET);
    assert_true(at[0].validation == 0.25 && at[1].validation == 3 && at[2].validation == 0);
    assert_string_equal(at[2].validation_source, "/home/d");
    assert_string_equal(at[0].image_column, "url");
    assert_string_equal(at[1].image_column, "img");
    assert_int_equal(c->data.captions.count, 3);
    assert_string_equal(c->data.captions.at[0].column, "z");
    assert_true(at[0].caption_first == 1 && at[0].caption_count == 2);
    assert_true(at[1].caption_first == 0 && at[1].caption_count == 1);
    assert_string_equal(c->data.captions.at[2].column, "y");
    struct config *again = parsed(c->text);
    assert_string_equal(again->text, c->text);
    assert_int_equal(again->data.captions.count, 3);
    assert_int_equal(again->data.sources.at[0].caption_first, 1);
    config_free(&again);
    config_free(&c);
}

static void one_source_is_a_list_of_one(void **state)
{
    struct config *c = parsed("data: {source: a, validation_source: b, format: pairs}\n" TAIL);
    const struct config_source *one = c->data.sources.at;
    assert_int_equal(c->data.sources.count, 1);
    assert_string_equal(one->source, "/home/a");
    assert_string_equal(one->validation_source, "/home/b");
    assert_true(one->weight == 1 && one->validation == 0 && one->format == CONFIG_PAIRS);
    assert_null(strstr(c->text, "sources:"));
    config_free(&c);
}

static void the_same_source_twice_is_named_and_other_captions_of_it_are_not(void **state)
{
    struct config *c = parsed("data:\n  sources:\n  - {source: a, weight: 0.5}\n  - {source: b}\n"
                              "  - {source: a, captions: [{column: x}]}\n"
                              "  - {source: /tmp}\n  - {source: a, weight: 2}\n"
                              "  - {source: /tmp/../tmp}\n" TAIL);
    char text[600];
    for (size_t i = 0; i < 4; i++)
        assert_false(config_source_repeats(c, i, text, sizeof text));
    assert_true(config_source_repeats(c, 4, text, sizeof text));
    assert_string_equal(text,
                        "data.sources[0] and data.sources[4] are the same source, /home/a; to "
                        "train it more often, give one entry a weight of 2.5 in place of the "
                        "two");
    assert_true(config_source_repeats(c, 5, text, sizeof text));
    config_free(&c);
}

static void wrong_lists_are_refused_where_they_are_wrong(void **state)
{
    refuses("data: {sources: []}\n" TAIL,
            "run.yaml:1:18: data.sources: expected at least one source");
    refuses("data: {sources: a}\n" TAIL,
            "run.yaml:1:17: data.sources: expected a list of {source, weight, ...}, found a single "
            "value");
    refuses("data: {sources: [a]}\n" TAIL,
            "run.yaml:1:18: data.sources[0]: expected {source, weight, ...}, found a single value");
    refuses("data: {sources: [{weight: 2}]}\n" TAIL,
            "run.yaml:1:18: data.sources[0]: source is missing");
    refuses("data: {sources: [{source: a, weigth: 2}]}\n" TAIL,
            "run.yaml:1:30: data.sources[0].weigth: unknown key; did you mean weight?");
    refuses("data: {sources: [{source: a, source: b}]}\n" TAIL,
            "run.yaml:1:30: data.sources[0].source: is given twice");
    static const char *const weights[] = {"0", "-1", ".nan", "1001", ".inf", "two", "0.0000001"};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        char yaml[256], expected[256];
        snprintf(yaml, sizeof yaml,
                 "data: {sources: [{source: b}, {source: a, weight: %s}]}\n" TAIL, weights[i]);
        snprintf(expected, sizeof expected,
                 "run.yaml:1:51: data.sources[1].weight: expected a number from 1e-06 to 1000, "
                 "found %s",
                 weights[i]);
        refuses(yaml, expected);
    }
    refuses("data: {source: a, sources: [{source: b}]}\n" TAIL,
            "run.yaml:1:28: data.sources: data.source is given as well; remove one of them");
    refuses("data: {validation_source: a, sources: [{source: b}]}\n" TAIL,
            "run.yaml:1:39: data.sources: data.validation_source is given as well; give it inside "
            "the source whose images it holds");
    refuses("data: {sources: [{source: b, validation: 2, validation_source: c}]}\n" TAIL,
            "run.yaml:1:18: data.sources[0]: both validation and validation_source are given; "
            "remove one of them");
    refuses("data: {sources: [{source: r}]}\n" TAIL,
            "run.yaml:5:10: run_dir: expected a folder of its own, found that of data.sources; "
            "choose another folder");
    refuses("data: {captions: [{column: text}]}\n" TAIL,
            "run.yaml: data.source: is missing; it takes a path");
    char many[1024] = "data: {sources: [{source: a}";
    for (int i = 0; i < 16; i++)
        strcat(many, ", {source: a}");
    strcat(many, "]}\n" TAIL);
    refuses(many, "run.yaml:1:226: data.sources[16]: expected a list of at most 16");
}

static int resume(const char *before_yaml, const char *now_yaml, struct bl_error *err)
{
    char notice[200];
    struct config *before = parsed(before_yaml), *now = parsed(now_yaml);
    int rc = config_may_resume(before, now, notice, sizeof notice, err);
    assert_string_equal(notice, "");
    config_free(&before);
    config_free(&now);
    return rc;
}

static void on_resume_folders_may_move_and_weights_may_not_change(void **state)
{
    struct bl_error err = {0};
    char line[1600];
    assert_ok(resume("data: {sources: [{source: a}, {source: b}]}\n" TAIL,
                     "data: {sources: [{source: c}, {source: d}]}\n" TAIL, &err),
              err);
    assert_int_equal(resume("data: {sources: [{source: a}]}\n" TAIL,
                            "data: {sources: [{source: a, weight: 2}]}\n" TAIL, &err),
                     -BL_ECONFIG);
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line,
                        "data.sources: the run was started with [{weight: 1, format: auto, "
                        "validation: 0.05}], found [{weight: 2, format: auto, validation: 0.05}]; "
                        "set it back, or start another run in a new run_dir");
    assert_int_equal(
        resume("data: {source: a}\n" TAIL, "data: {sources: [{source: a}]}\n" TAIL, &err),
        -BL_ECONFIG);
    assert_string_equal(err.key, "data.sources");
    assert_int_equal(
        resume("data: {sources: [{source: a}]}\n" TAIL, "data: {source: a}\n" TAIL, &err),
        -BL_ECONFIG);
}

/* -- the index -------------------------------------------------------------------------------- */

/* Images [first, end) by their contents, each beside its caption. */
static void put_pairs(const char *name, int first, int end)
{
    assert_int_equal(bl_folder_make(inside(name), NULL), 0);
    for (int i = first; i < end; i++) {
        char path[64], text[64];
        snprintf(path, sizeof path, "%s/%d.jpg", name, i);
        snprintf(text, sizeof text, "image %d", i);
        put(path, text);
        snprintf(path, sizeof path, "%s/%d.txt", name, i);
        snprintf(text, sizeof text, "%s has %d circles", name, i);
        put(path, text);
    }
}

static struct dataset *prepared(const char *data, struct bl_plan *plan)
{
    struct bl_error err = {0};
    struct dataset *dataset = NULL;
    struct config *config = configure_data(data);
    assert_ok(dataset_prepare(config, NULL, NULL, &dataset, NULL, &err), err);
    run_plan(config, dataset, plan);
    config_free(&config);
    return dataset;
}

static void samples_of_sources_follow_each_other(void **state)
{
    struct bl_plan plan;
    put_pairs("a", 0, 30);
    put_pairs("b", 100, 110);
    put_pairs("held", 200, 205);
    struct dataset *d = prepared("  sources: [{source: a, weight: 0.5, validation: 4}, {source: b, "
                                 "weight: 2.06, validation_source: held}]\n",
                                 &plan);
    assert_int_equal(dataset_source_count(d), 2);
    assert_int_equal(dataset_source_samples(d, 0, DATASET_TRAIN), 26);
    assert_int_equal(dataset_source_samples(d, 0, DATASET_VALIDATION), 4);
    assert_int_equal(dataset_source_samples(d, 1, DATASET_TRAIN), 10);
    assert_int_equal(dataset_source_samples(d, 1, DATASET_VALIDATION), 5);
    for (uint64_t id = 0; id < dataset_samples(d); id++) {
        struct dataset_sample sample;
        dataset_sample(d, id, &sample);
        assert_int_equal(dataset_source_of(d, id), id >= 30);
        assert_int_equal(!strncmp(sample.location.path, inside("a/"), strlen(inside("a/"))),
                         id < 30);
    }
    assert_int_equal(plan.train_samples, 36);
    assert_int_equal(plan.sources[0].draws, 13);
    assert_int_equal(plan.sources[1].draws, 21);
    assert_int_equal(bl_plan_epoch(&plan), 34);
    assert_int_equal(plan.validate_samples, 9);
    dataset_free(&d);
}

static void each_source_reads_its_own_captions(void **state)
{
    struct bl_plan plan;
    struct dataset_caption caption;
    put_pairs("a", 0, 3);
    assert_int_equal(bl_folder_make(inside("b"), NULL), 0);
    put("b/x.jpg", "picture");
    put("b/metadata.csv", "file_name,alt,text\nx.jpg,from alt,from text\n");
    struct dataset *d = prepared("  validation: 0\n  sources: [{source: a}, {source: b, captions: "
                                 "[{column: alt, prefix: \"Alt:\"}]}]\n",
                                 &plan);
    dataset_caption(d, 0, 0, &caption);
    assert_string_equal(caption.text, "a has 0 circles");
    assert_int_equal(caption.column, 0);
    dataset_caption(d, 3, 0, &caption);
    assert_string_equal(caption.text, "from alt");
    assert_int_equal(caption.column, 1);
    dataset_free(&d);
}

/* Whether an image is in both splits. */
static bool is_torn(const struct dataset *d)
{
    for (uint64_t i = 0; i < dataset_samples(d); i++)
        for (uint64_t j = 0; j < i; j++) {
            struct dataset_sample x, y;
            dataset_sample(d, i, &x);
            dataset_sample(d, j, &y);
            if (!memcmp(x.hash, y.hash, 32) && x.split != y.split)
                return true;
        }
    return false;
}

static void an_image_that_one_source_holds_out_is_trained_by_none(void **state)
{
    static const char *const lists[] = {
        "[{source: a, validation: 0.3}, {source: b, validation: 0.3}]",
        "[{source: a, validation: 0}, {source: b, validation: 0.5}]",
        "[{source: a, validation: 12}, {source: b, validation: 3}]",
        "[{source: a, validation: 0.1}, {source: b, validation_source: c}]",
    };
    put_pairs("a", 0, 40);
    put_pairs("b", 20, 60);
    put_pairs("c", 30, 36);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char data[200];
        struct bl_plan plan;
        snprintf(data, sizeof data, "  sources: %s\n", lists[i]);
        struct dataset *d = prepared(data, &plan);
        assert_in_range(dataset_count(d, DATASET_VALIDATION), 3, 60);
        assert_false(is_torn(d));
        dataset_free(&d);
    }
}

static void judged(const char *data, const char *message)
{
    struct bl_error err = {0};
    struct dataset *dataset = NULL;
    struct config *config = configure_data(data);
    char line[1600], *home;
    assert_true(dataset_prepare(config, NULL, NULL, &dataset, NULL, &err) < 0);
    bl_error_format(&err, line, sizeof line);
    while ((home = strstr(line, folder)))
        memmove(home, home + strlen(folder), strlen(home + strlen(folder)) + 1);
    assert_string_equal(line, message);
    config_free(&config);
}

static void a_source_that_gives_nothing_is_named(void **state)
{
    put_pairs("a", 0, 30);
    put_pairs("b", 0, 4);
    assert_int_equal(bl_folder_make(inside("empty"), NULL), 0);
    judged("  sources: [{source: a}, {source: empty}]\n",
           "/empty: data.sources[1].source: expected metadata.jsonl or metadata.csv, images beside "
           ".txt files, captions of COCO or Flickr8k, Parquet files, or tar shards, found none "
           "among 0 files; "
           "put them there, or check the path; docs/config.md, data.format");
    judged("  sources: [{source: a}, {source: b, validation: 0, weight: 0.1}]\n",
           "/b: data.sources[1].weight: an epoch would take none of its 4 training samples; raise "
           "the weight, or remove the source");
    judged("  sources: [{source: a}, {source: b, validation: 4}]\n",
           "/b: data.sources[1]: no sample is left to train on: of 4, 0 are left out and 4 held "
           "out; blipren-loader inspect shows what was left out and why");
    put("b/0.txt", "");
    judged("  sources: [{source: a}, {source: b, validation: 0}]\n",
           "/b: data.sources[1]: 1 of 4 samples have no caption, the first is 0.jpg; check "
           "the columns of data.captions, or allow for more by data.max_bad_fraction (0.05)");
}

static void another_weight_makes_the_index_anew_and_the_same_is_used_again(void **state)
{
    bool reused;
    struct bl_error err = {0};
    put_pairs("a", 0, 30);
    put_pairs("b", 40, 50);
    for (int i = 0; i < 3; i++) {
        struct dataset *d = NULL;
        struct config *config =
            configure_data(i < 2 ? "  sources: [{source: a}, {source: b}]\n"
                                 : "  sources: [{source: a}, {source: b, weight: 3}]\n");
        assert_ok(dataset_prepare(config, NULL, NULL, &d, &reused, &err), err);
        assert_int_equal(reused, i == 1);
        dataset_free(&d);
        config_free(&config);
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(cmocka_unit_test(a_source_has_keys_of_its_own_and_inherits_the_others),
          cmocka_unit_test(one_source_is_a_list_of_one),
          cmocka_unit_test(the_same_source_twice_is_named_and_other_captions_of_it_are_not),
          cmocka_unit_test(wrong_lists_are_refused_where_they_are_wrong),
          cmocka_unit_test(on_resume_folders_may_move_and_weights_may_not_change),
          IN_FOLDER(samples_of_sources_follow_each_other),
          IN_FOLDER(each_source_reads_its_own_captions),
          IN_FOLDER(an_image_that_one_source_holds_out_is_trained_by_none),
          IN_FOLDER(a_source_that_gives_nothing_is_named),
          IN_FOLDER(another_weight_makes_the_index_anew_and_the_same_is_used_again))
