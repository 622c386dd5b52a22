/* tests/unit/score_test.c - `blipren-worker score` on an untrained captioner over the demo's models: what a line gets, and what
 * becomes of a line that cannot be scored. */
#include "tests/unit/unit.h"

#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "common/data/captions.h"
#include "common/file.h"
#include "worker/checkpoint.h"
#include "worker/commands.h"
#include "worker/inference.h"
#include "worker/options.h"
#include "worker/options_training.h"

#define LINES_MAX 8

static char folder[64], checkpoint[80], pairs[80];

static void read_config(struct config **ret)
{
    char yaml[1000];
    struct bl_error err;
    const char *source = getenv("BLIPREN_SOURCE");
    snprintf(
        yaml, sizeof yaml,
        "run_dir: run\nprecision: f32\ndata: {source: data, captions: [{column: text, prefix: "
        "\"Short caption:\"}]}\n"
        "vision: {path: %s/deploy/demo/models/vision}\nllm: {path: %s/deploy/demo/models/llm}\n"
        "qformer: {queries: 4, layers: 1, heads: 2}\ntrain: {steps: 1}\n",
        source, source);
    assert_ok(config_parse(yaml, strlen(yaml), "run.yaml", folder, ret, &err), err);
}

static void nothing(void *context)
{
}

/* Initial weights as a checkpoint; bad: one of them is NaN. */
static void write_checkpoint(bool bad)
{
    struct bl_error err;
    struct config *config = NULL;
    struct ops *ops = NULL;
    struct captioner *captioner = NULL;
    struct trainer *trainer = NULL;
    struct checkpoint_state metadata = {0};
    struct trainer_snapshot snapshot;
    read_config(&config);
    assert_ok(ops_cpu_open(OPS_F32, 1, &ops, &err), err);
    struct captioner_options model = options_captioner(config, -1);
    assert_ok(captioner_open(ops, &model, &captioner, &err), err);
    struct trainer_options training = options_trainer(config);
    assert_ok(trainer_open(ops, captioner, &training, &trainer, &err), err);
    assert_ok(trainer_fresh(trainer, &err), err);
    if (bad)
        captioner_params(captioner)->values[0] = NAN;
    assert_ok(options_checkpoint_metadata(config, "d", &metadata, &err), err);
    assert_ok(trainer_snapshot(trainer, &snapshot, &err), err);
    assert_ok(checkpoint_write(captioner_params(captioner), &snapshot, &metadata, checkpoint,
                               nothing, NULL, &err),
              err);
    checkpoint_state_release(&metadata);
    trainer_free(&trainer);
    captioner_free(&captioner);
    ops_free(&ops);
    config_free(&config);
}

static int make(bool bad)
{
    strcpy(folder, "/tmp/blipren-score-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(checkpoint, sizeof checkpoint, "%s/step-0", folder);
    snprintf(pairs, sizeof pairs, "%s/pairs.jsonl", folder);
    write_checkpoint(bad);
    char from[600], to[80], *data;
    size_t size;
    snprintf(from, sizeof from, "%s/docs/demo.png", getenv("BLIPREN_SOURCE"));
    snprintf(to, sizeof to, "%s/picture.png", folder);
    return bl_file_read(from, 64 << 20, &data, &size, NULL) < 0 ||
           bl_file_write(to, data, size, NULL) < 0 || (free(data), 0);
}

static int make_sound(void **state)
{
    return make(false);
}

static int make_bad(void **state)
{
    return make(true);
}

static int remove_all(void **state)
{
    return bl_folder_remove(folder, NULL);
}

struct scored {
    int rc, count;
    struct bl_error err;
    json_t *lines[LINES_MAX];
};

/* Runs the command over a list of these lines; what it prints is in ret->lines. */
static void score(const char *list, const char *prefix, struct scored *ret)
{
    char out[80], *text;
    size_t size;
    char *arguments[] = {"score",
                         "--checkpoint",
                         checkpoint,
                         "--pairs",
                         pairs,
                         prefix ? "--prefix" : NULL,
                         (char *)(uintptr_t)prefix,
                         NULL};
    *ret = (struct scored){0};
    assert_ok(bl_file_write(pairs, list, strlen(list), &ret->err), ret->err);
    snprintf(out, sizeof out, "%s/out", folder);
    fflush(stdout);
    int screen = dup(1);
    assert_non_null(freopen(out, "w", stdout));
    ret->rc = command_score(prefix ? 7 : 5, arguments, &ret->err);
    fflush(stdout);
    dup2(screen, 1);
    close(screen);
    struct bl_error err;
    assert_ok(bl_file_read(out, 1 << 20, &text, &size, &err), err);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        assert_true(ret->count < LINES_MAX);
        ret->lines[ret->count] = json_loads(line, 0, NULL);
        assert_non_null(ret->lines[ret->count++]);
    }
    free(text);
}

static void release(struct scored *s)
{
    for (int i = 0; i < s->count; i++)
        json_decref(s->lines[i]);
}

static double number(const struct scored *s, int line, const char *key)
{
    const json_t *value = json_object_get(s->lines[line], key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static const char *text_of(const struct scored *s, int line, const char *key)
{
    return json_string_value(json_object_get(s->lines[line], key));
}

/* The caption's loss as the captioner has it, put together here. */
static struct captioner_score expected_score(const char *prefix, const char *caption)
{
    struct bl_error err;
    struct inference in = {0};
    struct token_ids ids = {0};
    struct captioner_score found;
    char path[80];
    int32_t eos[8];
    int eos_count;
    const struct inference_options open = {.checkpoint = checkpoint, .threads = 1, .device = "cpu"};
    assert_ok(inference_open(&open, &in, &err), err);
    int64_t side = captioner_vision(in.captioner)->image_size;
    uint8_t *pixels = malloc((size_t)(side * side * 3)), labels[64] = {0};
    snprintf(path, sizeof path, "%s/picture.png", folder);
    assert_ok(inference_image(&in, path, pixels, &err), err);
    assert_ok(
        options_eos(in.config, captioner_llm(in.captioner), in.tokenizer, eos, &eos_count, &err),
        err);
    char text[200];
    snprintf(text, sizeof text, "%s %s", prefix, caption);
    assert_ok(tokenizer_encode(in.tokenizer, prefix, strlen(prefix), false, &ids, &err), err);
    size_t first = ids.count;
    ids.count = 0;
    assert_ok(tokenizer_encode(in.tokenizer, text, strlen(text), false, &ids, &err), err);
    int32_t all[64];
    memcpy(all, ids.ids, ids.count * sizeof *all);
    all[ids.count] = eos[0];
    memset(labels + first, 1, ids.count + 1 - first);
    const struct micro_batch mb = {.B = 1,
                                   .pixels = pixels,
                                   .ids = all,
                                   .ids_start = (int32_t[]){0, (int32_t)ids.count + 1},
                                   .labels = labels,
                                   .positions = (int32_t[]){0}};
    assert_ok(captioner_evaluate(in.captioner, &mb, &found, NULL, NULL, &err), err);
    free(pixels);
    token_ids_release(&ids);
    inference_release(&in);
    return found;
}

static void a_line_gets_the_loss_of_its_caption_and_eos_and_keeps_what_it_had(void **state)
{
    struct scored s;
    struct captioner_score expected = expected_score("Short caption:", "A red circle.");
    score("{\"file_name\": \"picture.png\", \"caption\": \" A red circle. \", \"id\": 7}\n", NULL,
          &s);
    assert_ok(s.rc, s.err);
    assert_int_equal(s.count, 1);
    assert_int_equal(number(&s, 0, "tokens"), expected.tokens);
    assert_true(fabs(number(&s, 0, "nll") - expected.nll) < 1e-6 * expected.nll);
    assert_int_equal(number(&s, 0, "id"), 7);
    assert_string_equal(text_of(&s, 0, "caption"), " A red circle. ");
    release(&s);
}

static void a_lines_prefix_comes_before_the_options_and_that_before_the_runs(void **state)
{
    struct scored s, other;
    double own = expected_score("Name it:", "A red circle.").nll;
    double option = expected_score("Long caption:", "A red circle.").nll;
    double run = expected_score("Short caption:", "A red circle.").nll;
    const char *list = "{\"file_name\": \"picture.png\", \"caption\": \"A red circle.\", "
                       "\"prefix\": \"Name it:\"}\n"
                       "{\"file_name\": \"picture.png\", \"caption\": \"A red circle.\"}\n";
    assert_true(fabs(own - option) > 1e-3 && fabs(option - run) > 1e-3);
    score(list, "Long caption:", &s);
    score(list, NULL, &other);
    assert_true(fabs(number(&s, 0, "nll") - own) < 1e-6 * own);
    assert_true(fabs(number(&s, 1, "nll") - option) < 1e-6 * option);
    assert_true(fabs(number(&other, 0, "nll") - own) < 1e-6 * own);
    assert_true(fabs(number(&other, 1, "nll") - run) < 1e-6 * run);
    release(&s);
    release(&other);
}

static void a_line_that_cannot_be_scored_gets_its_error_and_the_others_their_loss(void **state)
{
    struct scored s;
    score("{\"file_name\": \"absent.png\", \"caption\": \"A red circle.\"}\n"
          "\n"
          "{\"file_name\": \"picture.png\", \"caption\": \" \"}\n"
          "{\"file_name\": \"picture.png\", \"caption\": \"A red circle.\"}\n",
          NULL, &s);
    assert_int_equal(s.rc, -BL_EDATA);
    assert_string_equal(s.err.text, "2 of 3 lines could not be scored");
    assert_int_equal(s.count, 3);
    for (int i = 0; i < 2; i++) {
        assert_non_null(text_of(&s, i, "error"));
        assert_null(json_object_get(s.lines[i], "nll"));
    }
    assert_non_null(strstr(text_of(&s, 0, "error"), "absent.png"));
    assert_null(json_object_get(s.lines[2], "error"));
    assert_true(number(&s, 2, "nll") > 0);
    release(&s);
}

static void a_line_of_another_form_ends_the_command_with_its_number(void **state)
{
    static const char *const wrong[] = {"[1]\n", "{\"file_name\": \"picture.png\"}\n",
                                        "{\"caption\": 3, \"file_name\": \"picture.png\"}\n",
                                        "no JSON\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct scored s;
        char list[300];
        snprintf(list, sizeof list,
                 "{\"file_name\": \"picture.png\", \"caption\": \"A red circle.\"}\n%s", wrong[i]);
        score(list, NULL, &s);
        assert_int_equal(s.rc, -BL_EFORMAT);
        assert_string_equal(s.err.key, "line 2");
        assert_string_equal(s.err.file, pairs);
        release(&s);
    }
}

static void an_empty_list_is_an_error(void **state)
{
    struct scored s;
    score("\n\n", NULL, &s);
    assert_int_equal(s.rc, -BL_EDATA);
    assert_int_equal(s.count, 0);
}

static void weights_that_are_not_finite_give_an_error_and_no_number(void **state)
{
    struct scored s;
    score("{\"file_name\": \"picture.png\", \"caption\": \"A red circle.\"}\n", NULL, &s);
    assert_int_equal(s.rc, -BL_EDATA);
    assert_int_equal(s.count, 1);
    assert_non_null(strstr(text_of(&s, 0, "error"), "not finite"));
    assert_null(json_object_get(s.lines[0], "nll"));
    release(&s);
}

#define ON_CHECKPOINT(test, setup) cmocka_unit_test_setup_teardown(test, setup, remove_all)

UNIT_MAIN(ON_CHECKPOINT(a_line_gets_the_loss_of_its_caption_and_eos_and_keeps_what_it_had,
                        make_sound),
          ON_CHECKPOINT(a_lines_prefix_comes_before_the_options_and_that_before_the_runs,
                        make_sound),
          ON_CHECKPOINT(a_line_that_cannot_be_scored_gets_its_error_and_the_others_their_loss,
                        make_sound),
          ON_CHECKPOINT(a_line_of_another_form_ends_the_command_with_its_number, make_sound),
          ON_CHECKPOINT(an_empty_list_is_an_error, make_sound),
          ON_CHECKPOINT(weights_that_are_not_finite_give_an_error_and_no_number, make_bad))
