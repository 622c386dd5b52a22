/* tests/unit/check_test.c - what check prints of a sound run, what it estimates, and that it goes on
 * after an error. Wrong configurations one by one: tests/badinput. */
#include "tests/unit/unit.h"

#include "common/file.h"
#include "common/models/family.h"
#include "coordinator/check.h"
#include "coordinator/estimate.h"

static char folder[64];

static int make_folder(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/blipren-check-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    return bl_folder_remove(folder, NULL);
}

static void put(const char *name, const char *text)
{
    char path[256];
    struct bl_error err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(bl_file_write(path, text, strlen(text), &err), err);
}

/* Checks a run over the demo's models and eight pictures; *ret_page is the caller's. */
static int checked(const char *keys, char **ret_page, struct bl_error *err)
{
    char yaml[1024], path[128];
    const char *source = getenv("BLIPREN_SOURCE");
    for (int i = 0; i < 8; i++) {
        char name[16], text[32];
        snprintf(name, sizeof name, "%d.jpg", i);
        put(name, name);
        snprintf(name, sizeof name, "%d.txt", i);
        snprintf(text, sizeof text, "a red circle %d", i);
        put(name, text);
    }
    snprintf(yaml, sizeof yaml,
             "run_dir: run\nvision: {path: %s/deploy/demo/models/vision}\n"
             "llm: {path: %s/deploy/demo/models/llm}\ndata: {source: ., validation: 2}\n%s",
             source, source, keys);
    put("run.yaml", yaml);
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    size_t size;
    FILE *out = open_memstream(ret_page, &size);
    assert_non_null(out);
    int rc = check_run(path, out, err);
    fclose(out);
    return rc;
}

static void expect(const char *page, const char *line)
{
    if (!strstr(page, line))
        fail_msg("expected \"%s\" in:\n%s", line, page);
}

static void a_sound_run_has_no_error_and_its_schedule_is_drawn(void **state)
{
    struct bl_error err = {0};
    char *page = NULL;
    int rc =
        checked("train: {steps: 100, global_batch: 6, warmup_steps: 20, lr: 0.002, floor: 0}\n",
                &page, &err);
    assert_ok(rc, err);
    expect(page, "\nok       data      6 samples to train, 2 to validate, 0 left out, 0 captions "
                 "dropped (blipren-loader inspect shows why); the longest caption has ");
    expect(page, "\nok       batches   100 steps of 6 samples in 1 micro-batches: 100.00 epochs\n");
    expect(page, "\nok       schedule  warm-up over 20 steps to 0.002, 7.70964e-07 at the last\n"
                 "              rate |            ###########\n"
                 "                   |         #####################\n"
                 "                   |       #############################\n"
                 "                   |      ####################################\n"
                 "                   |   #############################################\n"
                 "                   | ######################################################\n"
                 "              step 0                                                             "
                 "100\n");
    expect(page, "\n0 errors, 0 warnings\n");
    free(page);
}

static void it_goes_on_after_an_error_and_returns_the_first(void **state)
{
    struct bl_error err = {0};
    char *page = NULL;
    assert_int_equal(checked("train: {steps: 9, global_batch: 60}\nqformer: {heads: 7}\n"
                             "cluster: {workers_min: 9}\nprojector: {kind: moe}\n",
                             &page, &err),
                     -BL_ECONFIG);
    assert_string_equal(err.key, "qformer.heads");
    assert_non_null(strstr(err.file, "/run.yaml"));
    expect(page, ": qformer.heads: expected a divisor of the width 128, found 7; choose heads that "
                 "divide the width\n");
    expect(page, "\nnote     batches   the last of a step's 8 micro-batches has 4 samples, the "
                 "others 8\n");
    expect(page, "\nwarning  batches   a step has 8 micro-batches: of 9 workers some are idle\n");
    expect(page, "\nwarning  batches   a step of 60 samples is more than an epoch of 6\n");
    expect(page, "\n1 error, 2 warnings\n");
    free(page);
}

static void a_begun_run_is_compared_with_its_configuration(void **state)
{
    struct bl_error err = {0};
    char *page = NULL, run[128];
    assert_ok(checked("train: {steps: 9, global_batch: 4}\n", &page, &err), err);
    free(page);
    snprintf(run, sizeof run, "%s/run", folder);
    assert_ok(bl_folder_make(run, &err), err);
    put("run/config.yaml", "run_dir: /r\ndata: {source: /d, validation: 2}\nvision: {path: /v}\n"
                           "llm: {path: /l}\ntrain: {steps: 9, global_batch: 4}\n");
    assert_ok(checked("train: {steps: 90, global_batch: 4}\n", &page, &err), err);
    expect(page, "/run is begun already and goes on\n");
    expect(page, "\nnote     run_dir   train.steps was 9, is 90");
    free(page);
    assert_int_equal(checked("train: {steps: 9, global_batch: 2}\n", &page, &err), -BL_ECONFIG);
    assert_string_equal(err.text, "the run was started with 4, found 2");
    free(page);
}

/* seed.md: with SigLIP so400m and Llama-3.2-1B, 539 M in the Q-Former, 34 M and 135 M in the
 * projectors. */
static void parameters_are_counted_as_the_original_has_them(void **state)
{
    struct config config = {.qformer = {.queries = 32, .layers = 8, .heads = 8}};
    struct hf_vision vision = {.family = &family_siglip, .hidden = 1152};
    struct hf_llm llm = {.family = &family_llama, .hidden = 2048};
    const int64_t qformer = 539613184, expert = 33572864;
    assert_int_equal(estimate_trainable(&config, &vision, &llm), qformer + expert);
    config.projector.kind = CONFIG_MOE;
    config.projector.experts = 4;
    const int64_t router = 2 * 1152 + 1152 * 576 + 576 + 576 * 4 + 4;
    assert_int_equal(estimate_trainable(&config, &vision, &llm), qformer + 4 * expert + router);
}

static void memory_grows_with_what_is_kept(void **state)
{
    struct config config = {.precision = CONFIG_F32,
                            .qformer = {.queries = 32, .layers = 2},
                            .train = {.micro_batch = 8, .grain = 8},
                            .cluster = {.window = 2}};
    struct hf_vision vision = {.family = &family_siglip,
                               .hidden = 64,
                               .layers = 2,
                               .intermediate = 128,
                               .channels = 3,
                               .image_size = 64,
                               .patch = 8,
                               .tokens = 64};
    struct hf_llm llm = {.family = &family_llama,
                         .hidden = 64,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 16,
                         .vocabulary = 500,
                         .intermediate = 128,
                         .positions_max = 99};
    struct estimate base, other;
    estimate_run(&config, &vision, &llm, 30, &base);
    assert_int_equal(base.trainable, base.trainable_parameters * 28);
    assert_int_equal(base.checkpoint, base.trainable_parameters * 12);
    assert_int_equal(base.frozen, base.frozen_parameters * 4);
    estimate_run(&config, &vision, &llm, 60, &other);
    assert_true(other.activations > base.activations && other.trainable == base.trainable);
    config.train.ema = 0.9;
    config.train.reproducible = true;
    estimate_run(&config, &vision, &llm, 30, &other);
    assert_int_equal(other.trainable, base.trainable_parameters * (28 + 8 + 8));
    assert_int_equal(other.checkpoint, base.trainable_parameters * 16);
    config.precision = CONFIG_BF16;
    estimate_run(&config, &vision, &llm, 30, &other);
    assert_int_equal(other.frozen, base.frozen / 2);
    int64_t total, available;
    estimate_memory(&total, &available);
    assert_true(total >= available && available > 0);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(IN_FOLDER(a_sound_run_has_no_error_and_its_schedule_is_drawn),
          IN_FOLDER(it_goes_on_after_an_error_and_returns_the_first),
          IN_FOLDER(a_begun_run_is_compared_with_its_configuration),
          cmocka_unit_test(parameters_are_counted_as_the_original_has_them),
          cmocka_unit_test(memory_grows_with_what_is_kept))
