/* tests/unit/config_test.c - RUN.yaml: what is read, what is refused and with which words. */
#include "tests/unit/unit.h"

#include <sys/stat.h>

#include "common/config/config.h"
#include "common/file.h"

#define HEAD                                                                                       \
    "run_dir: runs/a\n"                                                                            \
    "data: {source: photos}\n"                                                                     \
    "vision: {path: models/vit}\n"                                                                 \
    "llm: {path: /models/llm}\n"
#define MINIMAL HEAD "train: {steps: 100}\n"

static struct config *parsed(const char *yaml)
{
    struct bl_error err = {0};
    struct config *config = NULL;
    assert_ok(config_parse(yaml, strlen(yaml), "run.yaml", "/home", &config, &err), err);
    return config;
}

static void refuses(const char *yaml, size_t size, const char *message)
{
    struct bl_error err = {0};
    struct config *config = NULL;
    char line[1600];
    int rc = config_parse(yaml, size, "run.yaml", "/home", &config, &err);
    if (rc >= 0)
        fail_msg("accepted: %s", yaml);
    assert_int_equal(rc, -BL_ECONFIG);
    assert_null(config);
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line, message);
}

static void a_minimal_file_gets_every_default(void **state)
{
    struct config *c = parsed(MINIMAL);
    assert_string_equal(c->run_dir, "/home/runs/a");
    assert_string_equal(c->llm.path, "/models/llm");
    assert_int_equal(c->seed, 42);
    assert_int_equal(c->precision, CONFIG_BF16);
    assert_int_equal(c->data.captions.count, 1);
    assert_string_equal(c->data.captions.at[0].column, "text");
    assert_string_equal(c->data.captions.at[0].prefix, "");
    assert_true(c->data.deduplicate);
    assert_null(c->data.eos);
    assert_null(c->data.validation_source);
    assert_int_equal(c->qformer.width, 0);
    assert_int_equal(c->train.micro_batch, 8);
    assert_int_equal(c->train.grain, 8);
    assert_int_equal(c->train.warmup_steps, 3);
    assert_int_equal(c->train.decay_steps, 20);
    assert_true(c->train.eps == 1e-8 && c->train.clip == 1 && c->train.lr == 0.0001);
    assert_string_equal(c->cluster.bind, "127.0.0.1");
    config_free(&c);
    assert_null(c);
}

static const char full[] =
    "# a comment\n"
    "run_dir: \"/runs/b\"\n"
    "seed: 9007199254740991\n"
    "precision: f32\n"
    "data:\n"
    "  source: 'photos: of mine'\n"
    "  captions:\n"
    "    - {column: short_caption, prefix: \"Short caption: \"}\n"
    "    - column: caption\n"
    "      prefix: \"Say \\\"it\\\":\\n\"\n"
    "  caption_choice: any\n"
    "  keep: ['^[A-Z]', \"\\\\.$\"]\n"
    "  eos: \"</s>\"\n"
    "  validation: 500\n"
    "vision: {path: /v}\n"
    "llm:\n"
    "  path: /l\n"
    "  bos: after_image\n"
    "qformer: {width: 192, heads: 6, dropout: 0}\n"
    "projector: {kind: moe}\n"
    "train: {steps: 40, global_batch: 4, reproducible: true, grain: 2, lr: 3e-3, warmup_steps: 0,\n"
    "        schedule: wsd}\n";

static void a_full_file_is_read(void **state)
{
    struct config *c = parsed(full);
    assert_int_equal(c->seed, 9007199254740991);
    assert_string_equal(c->data.source, "/home/photos: of mine");
    assert_int_equal(c->data.captions.count, 2);
    assert_string_equal(c->data.captions.at[0].prefix, "Short caption: ");
    assert_string_equal(c->data.captions.at[1].prefix, "Say \"it\":\n");
    assert_string_equal(c->data.keep.at[1], "\\.$");
    assert_string_equal(c->data.eos, "</s>");
    assert_true(c->data.validation == 500);
    assert_int_equal(c->llm.bos, CONFIG_BOS_AFTER_IMAGE);
    assert_int_equal(c->projector.kind, CONFIG_MOE);
    assert_int_equal(c->train.schedule, CONFIG_WSD);
    assert_true(c->train.lr == 0.003);
    assert_int_equal(c->train.warmup_steps, 0);
    assert_int_equal(c->train.micro_batch, 2);
    assert_int_equal(c->train.decay_steps, 8);
    config_free(&c);
}

static void the_canonical_text_reads_back_to_itself(void **state)
{
    const char *const files[] = {MINIMAL, full};
    for (size_t i = 0; i < 2; i++) {
        struct config *first = parsed(files[i]), *second = parsed(first->text);
        uint8_t a[32], b[32];
        assert_string_equal(second->text, first->text);
        assert_int_equal(second->train.warmup_steps, first->train.warmup_steps);
        config_digest(first, a);
        config_digest(second, b);
        assert_memory_equal(a, b, 32);
        config_free(&first);
        config_free(&second);
    }
}

#define REFUSES(yaml, message) refuses(yaml, strlen(yaml), message)

static void keys_that_do_not_exist_are_named_with_the_nearest_one(void **state)
{
    REFUSES(HEAD "train: {stpes: 3}\n",
            "run.yaml:5:9: train.stpes: unknown key; did you mean train.steps?");
    REFUSES(HEAD "steps: 3\n", "run.yaml:5:1: steps: unknown key; did you mean train.steps?");
    REFUSES(HEAD "train: {warmup: 3}\n",
            "run.yaml:5:9: train.warmup: unknown key; did you mean train.warmup_steps?");
    REFUSES("rundir: x\n", "run.yaml:1:1: rundir: unknown key; did you mean run_dir?");
    REFUSES("trian:\n  steps: 3\n", "run.yaml:1:1: trian: unknown key; did you mean train?");
    REFUSES("data: {captions: [{colunm: x}]}\n",
            "run.yaml:1:20: data.captions[0].colunm: unknown key; did you mean column?");
    REFUSES("zzzzzzzzzz: 1\n",
            "run.yaml:1:1: zzzzzzzzzz: unknown key; docs/config.md lists all keys");
    REFUSES("\"\": 1\n", "run.yaml:1:1: unknown key; docs/config.md lists all keys");
}

static void missing_and_repeated_keys_are_named(void **state)
{
    REFUSES(HEAD,
            "run.yaml: train.steps: is missing; it takes a whole number of optimizer steps; or "
            "give train.epochs");
    REFUSES(HEAD "train: {steps: 3, epochs: 2}\n",
            "run.yaml:5:27: train.epochs: train.steps is given as well; remove one of them");
    REFUSES(
        HEAD "train: {epochs: 0}\n",
        "run.yaml: train.steps: is missing; it takes a whole number of optimizer steps; or give "
        "train.epochs");
    REFUSES("seed: 1\nseed: 2\n", "run.yaml:2:1: seed: is given twice; the first is on line 1");
    REFUSES("train: {lr: 1}\ndata: {}\ntrain: {eps: 1}\n",
            "run.yaml:3:1: train: is given twice; the first is on line 1");
    REFUSES("data: {captions: [{column: a, column: b}]}\n",
            "run.yaml:1:31: data.captions[0].column: is given twice");
    REFUSES("data: {captions: [{prefix: b}]}\n",
            "run.yaml:1:19: data.captions[0]: column is missing");
    REFUSES("data:\n  captions:\n    - {column: a}\n    - {column: a}\n",
            "run.yaml:4:17: data.captions[1]: column a is given twice with the same prefix");
    REFUSES("data: {captions: []}\n",
            "run.yaml:1:19: data.captions: expected at least one caption column");
}

static void numbers_are_strict(void **state)
{
    static const char *const bad[] = {
        "1_000", "010",        "0x10", "1e3", "3.0",
        "+5",    "10 000",     "ten",  "0",   "-1",
        ".5",    "1000000001", "5k",   "yes", "9999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char yaml[256], message[256];
        snprintf(yaml, sizeof yaml, HEAD "train:\n  steps: %s\n", bad[i]);
        snprintf(message, sizeof message,
                 "run.yaml:6:10: train.steps: expected a whole number from 1 to 1000000000 "
                 "optimizer steps, or auto, found %s",
                 bad[i]);
        refuses(yaml, strlen(yaml), message);
    }
    static const char *const bad_real[] = {"0.1x", "nan", ".inf", "1e999", "2", "-0.1", "1.", "1e"};
    for (size_t i = 0; i < sizeof bad_real / sizeof *bad_real; i++) {
        char yaml[256], message[256];
        snprintf(yaml, sizeof yaml, HEAD "train:\n  floor: %s\n", bad_real[i]);
        snprintf(message, sizeof message,
                 "run.yaml:6:10: train.floor: expected a number from 0 to 1 of the peak, found %s",
                 bad_real[i]);
        refuses(yaml, strlen(yaml), message);
    }
    REFUSES("seed: \"1\"\n", "run.yaml:1:7: seed: expected a whole number from 0 to "
                             "9007199254740991, found \"1\" in quotes; remove the quotes");
    REFUSES("qformer: {width: none}\n", "run.yaml:1:18: qformer.width: expected a whole number "
                                        "from 1 to 65536, or auto, found none");
}

static void bools_choices_and_texts_are_strict(void **state)
{
    static const char *const bad[] = {"maybe", "yes", "True", "1", "on"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char yaml[256], message[256];
        snprintf(yaml, sizeof yaml, "train: {reproducible: %s}\n", bad[i]);
        snprintf(message, sizeof message,
                 "run.yaml:1:23: train.reproducible: expected true or false, found %s", bad[i]);
        refuses(yaml, strlen(yaml), message);
    }
    REFUSES("train: {schedule: linear}\n", "run.yaml:1:19: train.schedule: expected cosine, "
                                           "constant or wsd, found linear");
    REFUSES("precision: fp16\n", "run.yaml:1:12: precision: expected bf16 or f32, found fp16");
    REFUSES("run_dir: ~\n", "run.yaml:1:10: run_dir: expected a path, found nothing");
    REFUSES("run_dir:\n", "run.yaml:1:9: run_dir: expected a path, found nothing");
    REFUSES("run_dir: ''\n", "run.yaml:1:10: run_dir: expected a path, found an empty text");
    REFUSES("run_dir: ~/x\n",
            "run.yaml:1:10: run_dir: expected a path, found ~/x; ~ is not expanded here: write the "
            "whole path, or ./~ for a folder of that name");
    REFUSES("data: {eos: 2}\n", "run.yaml:1:13: data.eos: expected a text, or auto, found 2; put "
                                "it in quotes if it is meant as text");
    REFUSES("run_dir: [a]\n", "run.yaml:1:10: run_dir: expected a path, found a list");
    REFUSES("train: 5\n", "run.yaml:1:8: train: expected keys of this section below it, found a "
                          "single value; indent them, or remove the line");
    REFUSES("data:\nseed: 1\n", "run.yaml:1:6: data: expected keys of this section below it, found "
                                "nothing; indent them, or remove the line");
    REFUSES("data: {keep: a}\n",
            "run.yaml:1:14: data.keep: expected a list of patterns, found a single value");
    REFUSES("data: {keep: [3]}\n", "run.yaml:1:15: data.keep[0]: expected a text, found 3; put it "
                                   "in quotes if it is meant as text");
    REFUSES("data: {drop: [a, 'b(']}\n", "run.yaml:1:18: data.drop[1]: not a pattern: missing "
                                         "closing parenthesis at its byte 2");
    REFUSES("data: {captions: text}\n", "run.yaml:1:18: data.captions: expected a list of {column, "
                                        "prefix}, found a single value");
    REFUSES(
        "data: {captions: [text]}\n",
        "run.yaml:1:19: data.captions[0]: expected {column, prefix, ...}, found a single value");
    REFUSES("data: {captions: [{column: a, join: '-'}]}\n",
            "run.yaml:1:37: data.captions[0].join: expected \" \" or \"\", found \"-\"");
    REFUSES("data: {captions: [{column: [a]}]}\n",
            "run.yaml:1:28: data.captions[0].column: expected a text, found a list");
}

static void only_plain_yaml_of_one_document_is_taken(void **state)
{
    REFUSES("", "run.yaml:1:1: expected keys and values, found an empty file");
    REFUSES("# nothing\n", "run.yaml:2:1: expected keys and values, found an empty file");
    REFUSES("- a\n", "run.yaml:1:1: expected keys and values, found a list");
    REFUSES("hello\n", "run.yaml:1:1: expected keys and values, found a single value");
    REFUSES(MINIMAL "---\nseed: 1\n",
            "run.yaml:6:1: expected one YAML document, found a second one");
    REFUSES("seed: &a 1\n", "run.yaml:1:7: the anchor \"a\" is not allowed here; write the value "
                            "itself, in quotes if it begins with & * or !");
    REFUSES("seed: *a\n", "run.yaml:1:7: the anchor \"a\" is not allowed here; write the value "
                          "itself, in quotes if it begins with & * or !");
    REFUSES("seed: !!int 1\n",
            "run.yaml:1:7: the tag \"tag:yaml.org,2002:int\" is not allowed here; write the value "
            "itself, in quotes if it begins with & * or !");
    REFUSES("run_dir: \"a\\0b\"\n", "run.yaml:1:10: a text must not hold the character NUL");
    REFUSES("? [a]\n: b\n", "run.yaml:1:3: expected a key, found a list");
    REFUSES("train:\n\tsteps: 1\n",
            "run.yaml:2:1: no valid YAML: while scanning for the next token, found character that "
            "cannot start any token; indent with spaces, and put texts that begin with a special "
            "character in quotes");
    REFUSES("data: {captions: [{column: a, prefix: b}\n",
            "run.yaml:2:1: no valid YAML: while parsing a flow sequence, did not find expected ',' "
            "or ']'");
    REFUSES("run_dir: Short: x\n",
            "run.yaml:1:15: no valid YAML: mapping values are not allowed in this context; put "
            "texts that hold a colon and a space in quotes");
    REFUSES("run_dir: \xff\n",
            "run.yaml: no valid YAML: invalid leading UTF-8 octet; save it as a text in UTF-8");
}

static void keys_must_fit_together(void **state)
{
    REFUSES(HEAD "train: {steps: 5, global_batch: 4, micro_batch: 5}\n",
            "run.yaml:5:49: train.micro_batch: expected at most train.global_batch (4), found 5");
    REFUSES(HEAD "train: {steps: 5, reproducible: true, micro_batch: 2, grain: 4}\n",
            "run.yaml:5:52: train.micro_batch: expected train.grain (4), since train.reproducible "
            "is true, found 2; give one of the two");
    REFUSES(HEAD "train: {steps: 5, warmup_steps: 6}\n",
            "run.yaml:5:33: train.warmup_steps: expected at most train.steps (5), found 6; "
            "lower it, or leave it out: it then follows train.steps");
    REFUSES(HEAD "train: {steps: 5, warmup_steps: 3, decay_steps: 3, schedule: wsd}\n",
            "run.yaml:5:49: train.decay_steps: expected at most train.steps less "
            "train.warmup_steps (2), found 3; lower it, or leave it out: it then follows "
            "train.steps");
    REFUSES(HEAD "train: {steps: 5}\nqformer: {width: 100, heads: 3}\n",
            "run.yaml:6:30: qformer.heads: expected a divisor of qformer.width (100), found 3");
    REFUSES("data: {source: a, min_tokens: 5, max_tokens: 4}\nrun_dir: b\nvision: {path: a}\n"
            "llm: {path: a}\ntrain: {steps: 1}\n",
            "run.yaml:1:31: data.min_tokens: expected at most data.max_tokens (4), found 5");
    REFUSES("data: {source: a, validation: 1.5}\nrun_dir: b\nvision: {path: a}\n"
            "llm: {path: a}\ntrain: {steps: 1}\n",
            "run.yaml:1:31: data.validation: expected a fraction below 1 or a whole number of "
            "images, found 1.5");
    REFUSES("data: {source: a, validation: 9, validation_source: b}\nrun_dir: b\n"
            "vision: {path: a}\nllm: {path: a}\ntrain: {steps: 1}\n",
            "run.yaml:1:31: data.validation: data.validation_source is given as well; remove one "
            "of them");
}

static int resume(const char *before_yaml, const char *now_yaml, char *notice, size_t size,
                  struct bl_error *err)
{
    struct config *before = parsed(before_yaml), *now = parsed(now_yaml);
    int rc = config_may_resume(before, now, notice, size, err);
    config_free(&before);
    config_free(&now);
    return rc;
}

static void epochs_become_steps_when_the_samples_are_counted(void **state)
{
    struct bl_error err = {0};
    struct config *c = parsed(HEAD "train: {epochs: 2.5, global_batch: 10, schedule: wsd}\n");
    assert_int_equal(c->train.steps, 0);
    assert_ok(config_set_length(c, 101, "run.yaml", &err), err);
    assert_int_equal(c->train.steps, 26);
    assert_int_equal(c->train.warmup_steps, 1);
    assert_int_equal(c->train.decay_steps, 6);
    struct config *again = parsed(c->text); /* what a worker reads */
    assert_int_equal(again->train.steps, 26);
    assert_int_equal(again->train.warmup_steps, 1);
    assert_string_equal(again->text, c->text);
    config_free(&again);
    assert_ok(config_set_length(c, 5, "run.yaml", &err), err); /* it is known */
    assert_int_equal(c->train.steps, 26);
    config_free(&c);
    c = parsed(HEAD "train: {epochs: 1, global_batch: 10, warmup_steps: 20}\n");
    assert_int_equal(config_set_length(c, 100, "run.yaml", &err), -BL_ECONFIG);
    assert_string_equal(err.text, "expected at most train.steps (10), found 20");
    config_free(&c);
}

static void a_changed_configuration_is_refused_by_key_unless_it_may_change(void **state)
{
    char notice[512], line[1024];
    struct bl_error err = {0};
    assert_ok(
        resume(MINIMAL "log: {every: 1}\n", MINIMAL "threads: 3\n", notice, sizeof notice, &err),
        err);
    assert_string_equal(notice, "");
    assert_int_equal(resume(MINIMAL, MINIMAL "seed: 7\n", notice, sizeof notice, &err),
                     -BL_ECONFIG);
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line, "seed: the run was started with 42, found 7; set it back, or start "
                              "another run in a new run_dir");
    assert_ok(resume(MINIMAL, HEAD "train: {steps: 200}\n", notice, sizeof notice, &err), err);
    assert_string_equal(notice,
                        "train.steps was 100, is 200, train.warmup_steps was 3, is 6, "
                        "train.decay_steps was 20, is 40: the learning rate follows the new "
                        "schedule from here on");
    assert_ok(
        resume(MINIMAL, HEAD "train: {steps: 100, micro_batch: 4}\n", notice, sizeof notice, &err),
        err);
    assert_int_equal(resume(HEAD "train: {steps: 100, reproducible: true}\n",
                            HEAD "train: {steps: 100, reproducible: true, micro_batch: 4}\n",
                            notice, sizeof notice, &err),
                     -BL_ECONFIG);
    assert_string_equal(err.key, "train.grain");
}

static void digests_see_what_they_are_for(void **state)
{
    struct config *base = parsed(MINIMAL), *free_key = parsed(MINIMAL "log: {every: 3}\n"),
                  *fixed = parsed(MINIMAL "precision: f32\n"), *seed = parsed(MINIMAL "seed: 1\n");
    uint8_t a[32], b[32];
    config_digest(base, a);
    config_digest(free_key, b);
    assert_memory_equal(a, b, 32);
    config_digest(fixed, b);
    assert_memory_not_equal(a, b, 32);
    config_data_digest(base, a);
    config_data_digest(fixed, b);
    assert_memory_equal(a, b, 32);
    config_data_digest(seed, b);
    assert_memory_not_equal(a, b, 32);
    config_free(&base);
    config_free(&free_key);
    config_free(&fixed);
    config_free(&seed);
}

static void relative_paths_start_at_the_files_folder(void **state)
{
    char folder[] = "/tmp/blipren-config-XXXXXX", path[64], expected[80];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    snprintf(expected, sizeof expected, "%s/runs/a", folder);
    struct bl_error err = {0};
    struct config *c = NULL;
    assert_ok(bl_file_write(path, MINIMAL, strlen(MINIMAL), &err), err);
    assert_ok(config_open(path, &c, &err), err);
    assert_string_equal(c->run_dir, expected);
    config_free(&c);
    assert_ok(bl_folder_remove(folder, &err), err);
    assert_int_equal(config_open(path, &c, &err), -BL_EIO);
    assert_string_equal(err.file, path);
}

static void the_reference_page_is_the_tables(void **state)
{
    char path[4096], *page = NULL, *stored = NULL;
    size_t size, stored_size;
    struct bl_error err = {0};
    FILE *out = open_memstream(&page, &size);
    assert_non_null(out);
    assert_int_equal(config_print_reference(out), 0);
    fclose(out);
    snprintf(path, sizeof path, "%s/docs/config.md", getenv("BLIPREN_SOURCE"));
    if (getenv("BLIPREN_REWRITE"))
        assert_ok(bl_file_write(path, page, size, &err), err);
    assert_ok(bl_file_read(path, 1 << 20, &stored, &stored_size, &err), err);
    if (strcmp(page, stored))
        fail_msg("docs/config.md is old: BLIPREN_REWRITE=1 BLIPREN_SOURCE=. config_test writes it");
    free(page);
    free(stored);
}

UNIT_MAIN(cmocka_unit_test(a_minimal_file_gets_every_default),
          cmocka_unit_test(a_full_file_is_read),
          cmocka_unit_test(the_canonical_text_reads_back_to_itself),
          cmocka_unit_test(keys_that_do_not_exist_are_named_with_the_nearest_one),
          cmocka_unit_test(missing_and_repeated_keys_are_named),
          cmocka_unit_test(numbers_are_strict),
          cmocka_unit_test(bools_choices_and_texts_are_strict),
          cmocka_unit_test(only_plain_yaml_of_one_document_is_taken),
          cmocka_unit_test(keys_must_fit_together),
          cmocka_unit_test(epochs_become_steps_when_the_samples_are_counted),
          cmocka_unit_test(a_changed_configuration_is_refused_by_key_unless_it_may_change),
          cmocka_unit_test(digests_see_what_they_are_for),
          cmocka_unit_test(relative_paths_start_at_the_files_folder),
          cmocka_unit_test(the_reference_page_is_the_tables))
