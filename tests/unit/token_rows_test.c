/* tests/unit/token_rows_test.c - captions.arrow: the ids of every caption as the rules make them, and no other run's. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/cleanup.h"
#include "common/data/captions.h"
#include "common/data/token_rows.h"
#include "tests/unit/data_folder.h"

static struct config *configure(const char *data)
{
    char lines[2048];
    snprintf(lines, sizeof lines, "  source: data\n  caption_choice: any\n%s", data);
    return configure_data(lines);
}

#define CAPTIONS "  captions: [{column: short, prefix: \"Short caption:\"}, {column: long}]\n"

static int make_data(void **state)
{
    if (make_folder(state) < 0 || bl_folder_make(inside("data"), NULL) < 0)
        return -1;
    put("data/a.jpg", "image a");
    put("data/b.jpg", "image b");
    put("data/metadata.jsonl",
        "{\"file_name\": \"a.jpg\", \"short\": \"two red circles\", \"long\": [\"x\", \"a blue "
        "star\"]}\n"
        "{\"file_name\": \"b.jpg\", \"short\": \"\", \"long\": \"a circle\"}\n");
    return 0;
}

static struct dataset *prepared(const struct config *config)
{
    struct bl_error err = {0};
    struct dataset *dataset = NULL;
    assert_ok(dataset_prepare(config, NULL, NULL, &dataset, NULL, &err), err);
    return dataset;
}

static struct token_rows *opened(const struct config *config, const struct dataset *dataset,
                                 struct bl_error *why)
{
    struct bl_error err = {0};
    struct token_key key;
    struct token_rows *rows;
    assert_ok(token_key_of(config, dataset, &key, &err), err);
    token_rows_open(folder, &key, dataset_captions(dataset), &rows, why);
    token_key_release(&key);
    return rows;
}

static void every_caption_has_the_ids_that_the_rules_make(void **state)
{
    struct bl_error err = {0};
    struct hf_llm llm;
    int32_t eos;
    bool written;
    struct tokenizer *tokenizer = NULL;
    struct caption_rules *rules = NULL;
    struct config *config = configure(CAPTIONS);
    struct dataset *dataset = prepared(config);
    assert_ok(token_rows_write(folder, config, dataset, &written, &err), err);
    assert_true(written);
    assert_ok(token_rows_write(folder, config, dataset, &written, &err), err);
    assert_false(written);
    struct token_rows *kept = opened(config, dataset, &err);
    assert_non_null(kept);
    assert_ok(tokenizer_open(config->llm.path, &tokenizer, &err), err);
    assert_ok(hf_llm_open(config->llm.path, &llm, &err), err);
    assert_ok(caption_eos(&config->data, tokenizer, &llm, &eos, &err), err);
    assert_ok(caption_rules_open(&config->data, tokenizer, eos, &rules, &err), err);
    assert_int_equal(dataset_captions(dataset), 4);
    for (uint64_t id = 0, row = 0; id < dataset_samples(dataset); id++) {
        struct dataset_sample sample;
        dataset_sample(dataset, id, &sample);
        for (uint32_t i = 0; i < sample.caption_count; i++, row++) {
            struct dataset_caption caption;
            struct caption_encoded encoded;
            struct token_ids ids = {0};
            size_t count, first, end;
            dataset_caption(dataset, id, i, &caption);
            assert_int_equal(caption.row, row);
            const struct caption_text text = dataset_caption_text(&caption);
            assert_ok(caption_rules_encode(rules, &text, &ids, &encoded, &err), err);
            const int32_t *found = token_rows_get(kept, row, &count, &first, &end);
            assert_int_equal(count, ids.count);
            assert_int_equal(first, encoded.label_first);
            assert_int_equal(end, encoded.label_end);
            assert_memory_equal(found, ids.ids, count * sizeof *found);
            token_ids_release(&ids);
        }
    }
    caption_rules_free(&rules);
    tokenizer_free(&tokenizer);
    token_rows_free(&kept);
    dataset_free(&dataset);
    config_free(&config);
}

static void ids_of_other_captions_or_rules_and_torn_ones_are_not_taken(void **state)
{
    static const char *const others[][2] = {
        {"  captions: [{column: long}]\n",
         "its blipren.data is of other captions or rules than this run's"},
        {CAPTIONS "  train_prefix: true\n",
         "its blipren.rules is of other captions or rules than this run's"},
    };
    struct bl_error err = {0}, why;
    struct config *config = configure(CAPTIONS);
    struct dataset *dataset = prepared(config);
    struct token_rows *rows = opened(config, dataset, &why);
    assert_null(rows);
    assert_int_equal(why.code, 0);
    assert_ok(token_rows_write(folder, config, dataset, NULL, &err), err);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct config *other = configure(others[i][0]);
        struct dataset *d = prepared(other);
        assert_null(opened(other, d, &why));
        assert_string_equal(why.text, others[i][1]);
        assert_string_equal(why.file, inside("captions.arrow"));
        dataset_free(&d);
        config_free(&other);
    }
    FILE *file = fopen(inside("captions.arrow"), "r+b"); /* a byte of the values */
    assert_int_equal(fseek(file, 1200, SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, 1200, SEEK_SET), 0);
    fputc(byte ^ 1, file);
    fclose(file);
    assert_null(opened(config, dataset, &why));
    assert_true(why.code != 0);
    dataset_free(&dataset);
    config_free(&config);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_data, remove_folder)

UNIT_MAIN(IN_FOLDER(every_caption_has_the_ids_that_the_rules_make),
          IN_FOLDER(ids_of_other_captions_or_rules_and_torn_ones_are_not_taken))
