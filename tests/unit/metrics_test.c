/* tests/unit/metrics_test.c - RUN/metrics.jsonl: every line is whole, whatever a full disk left of the last one, and has
 * each measure under its name. */
#include "tests/unit/unit.h"

#include <jansson.h>
#include <math.h>

#include "common/file.h"
#include "coordinator/metrics.h"

static void half_a_line_is_cut_off_when_the_run_goes_on(void **state)
{
    char folder[] = "/tmp/blipren-metrics-XXXXXX", path[80];
    struct metrics *m = NULL;
    struct bl_error err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    const char torn[] = "{\"type\":\"rewind\",\"step\":1}\n{\"type\":\"st";
    assert_ok(bl_file_write(path, torn, strlen(torn), &err), err);
    assert_ok(metrics_open(folder, &m, &err), err);
    assert_ok(metrics_rewind(m, 2, &err), err);
    metrics_close(&m);
    char *text;
    size_t size;
    assert_ok(bl_file_read(path, 1 << 20, &text, &size, &err), err);
    assert_null(strstr(text, "\"st{"));
    assert_null(strstr(text, "\"st\n"));
    int lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++)
        assert_int_equal(line[strlen(line) - 1], '}');
    assert_int_equal(lines, 2);
    free(text);
    assert_ok(bl_folder_remove(folder, &err), err);
}

static char folder[] = "/tmp/blipren-metrics-XXXXXX";

static int open_metrics(void **state)
{
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    return mkdtemp(folder) ? metrics_open(folder, (struct metrics **)state, NULL) : -1;
}

static int close_metrics(void **state)
{
    metrics_close((struct metrics **)state);
    return bl_folder_remove(folder, NULL);
}

/* The file's only line; json_decref. */
static json_t *only_line(const char *name)
{
    char path[80], *text;
    size_t size;
    struct bl_error err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(bl_file_read(path, 1 << 20, &text, &size, &err), err);
    assert_true(size && strchr(text, '\n') == text + size - 1);
    json_t *line = json_loads(text, 0, NULL);
    assert_non_null(line);
    free(text);
    return line;
}

static void assert_number(const json_t *line, const char *key, double expected)
{
    const json_t *value = json_object_get(line, key);
    if (!json_is_number(value) || json_number_value(value) != expected)
        fail_msg("%s: expected %g, found %g", key, expected, json_number_value(value));
}

static void assert_null_value(const json_t *line, const char *key)
{
    if (!json_is_null(json_object_get(line, key)))
        fail_msg("%s: expected null", key);
}

static void assert_numbers(const json_t *line, const char *key, double first, double second)
{
    const json_t *list = json_object_get(line, key);
    assert_int_equal(json_array_size(list), 2);
    assert_true(json_number_value(json_array_get(list, 0)) == first);
    assert_true(json_number_value(json_array_get(list, 1)) == second);
}

static const struct metrics_step measured = {.step = 7,
                                             .epoch = 0.5,
                                             .loss = 2.25,
                                             .rate = 1e-3,
                                             .norm = 0.75,
                                             .tokens = 200,
                                             .images = 16,
                                             .step_s = 1.5,
                                             .data_wait_s = 0.125,
                                             .compute_s = 1.25,
                                             .reduce_wait_s = 0.0625,
                                             .hedged = 3};

static void a_steps_line_has_every_measure_under_its_name(void **state)
{
    struct bl_error err;
    assert_ok(metrics_step(*state, &measured, &err), err);
    json_t *line = only_line("metrics.jsonl");
    assert_string_equal(json_string_value(json_object_get(line, "type")), "step");
    assert_true(json_number_value(json_object_get(line, "time")) > 1.6e9);
    assert_number(line, "step", 7);
    assert_number(line, "epoch", 0.5);
    assert_number(line, "loss_nats", 2.25);
    assert_number(line, "learning_rate", 1e-3);
    assert_number(line, "grad_norm", 0.75);
    assert_number(line, "tokens", 200);
    assert_number(line, "images", 16);
    assert_true(json_is_false(json_object_get(line, "skipped")));
    assert_number(line, "step_s", 1.5);
    assert_number(line, "data_wait_s", 0.125);
    assert_number(line, "compute_s", 1.25);
    assert_number(line, "reduce_wait_s", 0.0625);
    assert_number(line, "hedged", 3);
    assert_null(json_object_get(line, "expert_share")); /* no mixture, no key of it */
    assert_null(json_object_get(line, "balance_loss"));
    json_decref(line);
}

/* JSON has no NaN; readers that meet the word stop. */
static void what_is_not_known_is_null(void **state)
{
    struct bl_error err;
    struct metrics_step m = measured;
    m.loss = m.step_s = NAN;
    m.norm = INFINITY;
    m.skipped = true;
    assert_ok(metrics_step(*state, &m, &err), err);
    json_t *line = only_line("metrics.jsonl");
    assert_null_value(line, "loss_nats");
    assert_null_value(line, "step_s");
    assert_null_value(line, "grad_norm");
    assert_true(json_is_true(json_object_get(line, "skipped")));
    json_decref(line);
}

static void a_mixtures_line_has_its_experts(void **state)
{
    struct bl_error err;
    struct metrics_step m = measured;
    m.experts = 2;
    m.share = (double[]){0.25, 0.75};
    m.entropy = 0.5;
    m.balance_loss = 0.0125;
    m.router_z_loss = 0.001;
    assert_ok(metrics_step(*state, &m, &err), err);
    json_t *line = only_line("metrics.jsonl");
    assert_numbers(line, "expert_share", 0.25, 0.75);
    assert_number(line, "router_entropy_nats", 0.5);
    assert_number(line, "balance_loss", 0.0125);
    assert_number(line, "router_z_loss", 0.001);
    json_decref(line);
}

static void a_validations_line_says_what_the_image_is_worth(void **state)
{
    struct bl_error err;
    const struct metrics_validation m = {.step = 60,
                                         .tokens = 500,
                                         .images = 40,
                                         .loss = 2.5,
                                         .accuracy = 0.375,
                                         .paired_loss = 2.25,
                                         .shuffled_loss = 3,
                                         .captions = 4,
                                         .ended = 3,
                                         .experts = 2,
                                         .weight = (double[]){0.5, 0.5}};
    assert_ok(metrics_validation(*state, &m, &err), err);
    json_t *line = only_line("metrics.jsonl");
    assert_string_equal(json_string_value(json_object_get(line, "type")), "validation");
    assert_number(line, "step", 60);
    assert_number(line, "tokens", 500);
    assert_number(line, "images", 40);
    assert_number(line, "loss_nats", 2.5);
    assert_number(line, "token_accuracy", 0.375);
    assert_number(line, "paired_loss_nats", 2.25);
    assert_number(line, "shuffled_loss_nats", 3);
    assert_number(line, "image_matters_nats", 0.75);
    assert_number(line, "captions", 4);
    assert_number(line, "captions_ended", 3);
    assert_numbers(line, "expert_weight", 0.5, 0.5);
    json_decref(line);
}

static void a_caption_of_several_lines_is_one_line_of_the_file(void **state)
{
    struct bl_error err;
    const char *caption = "A \"dog\"\non a beach.\t\xc3\xa9";
    assert_ok(metrics_caption(*state, 60, "a\nb.jpg", "A dog.", caption, 1, &err), err);
    json_t *line = only_line("val_predictions.jsonl");
    assert_number(line, "step", 60);
    assert_string_equal(json_string_value(json_object_get(line, "file_name")), "a\nb.jpg");
    assert_string_equal(json_string_value(json_object_get(line, "reference")), "A dog.");
    assert_string_equal(json_string_value(json_object_get(line, "caption")), caption);
    assert_true(json_is_true(json_object_get(line, "ended")));
    json_decref(line);
}

#define ON_METRICS(test) cmocka_unit_test_setup_teardown(test, open_metrics, close_metrics)

UNIT_MAIN(cmocka_unit_test(half_a_line_is_cut_off_when_the_run_goes_on),
          ON_METRICS(a_steps_line_has_every_measure_under_its_name),
          ON_METRICS(what_is_not_known_is_null), ON_METRICS(a_mixtures_line_has_its_experts),
          ON_METRICS(a_validations_line_says_what_the_image_is_worth),
          ON_METRICS(a_caption_of_several_lines_is_one_line_of_the_file))
