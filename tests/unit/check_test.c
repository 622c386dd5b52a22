/* tests/unit/check_test.c - what check prints of a sound run, what it estimates, and that it goes on
 * after an error. Wrong configurations one by one: tests/badinput. */
#include "tests/unit/unit.h"

#include "common/cleanup.h"
#include "common/file.h"
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

/* A picture of its own content: a byte behind its end differs. */
static void put_picture(const char *name, char mark)
{
    char path[512];
    struct bl_error err = {0};
    bl_autofree char *data = NULL;
    size_t size;
    snprintf(path, sizeof path, "%s/tests/golden/image/rgb.jpg", getenv("BLIPREN_SOURCE"));
    assert_ok(bl_file_read(path, 1 << 24, &data, &size, &err), err);
    data[size] = mark;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(bl_file_write(path, data, size + 1, &err), err);
}

/* A clock that each look at it moves on by a 64th of a second. */
static double read_clock(void *none)
{
    static int looks;
    return looks++ / 64.0;
}

static bool measure;
static int bad_pictures; /* of the eight */
static const char *min_side = "", *sources = "source: .";

/* Checks a run over the demo's models and eight pictures; *ret_page is the caller's. */
static int checked(const char *keys, char **ret_page, struct bl_error *err)
{
    char yaml[1024], path[128];
    const char *source = getenv("BLIPREN_SOURCE");
    for (int i = 0; i < 8; i++) {
        char name[16], text[32];
        snprintf(name, sizeof name, "%d.jpg", i);
        if (i < bad_pictures)
            put(name, name);
        else
            put_picture(name, (char)i);
        snprintf(name, sizeof name, "%d.txt", i);
        snprintf(text, sizeof text, "a red circle %d", i);
        put(name, text);
    }
    snprintf(yaml, sizeof yaml,
             "run_dir: run\nvision: {path: %s/deploy/demo/models/vision}\n"
             "llm: {path: %s/deploy/demo/models/llm}\ndata: {%s, validation: 2%s}\n%s",
             source, source, sources, min_side, keys);
    put("run.yaml", yaml);
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    size_t size;
    FILE *out = open_memstream(ret_page, &size);
    assert_non_null(out);
    const struct check_options options = {
        .yaml = path, .worker = getenv("BLIPREN_WORKER"), .measure = measure, .now_s = read_clock};
    int rc = check_run(&options, out, err);
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

static void what_a_loader_makes_in_a_second_and_a_worker_needs_is_said(void **state)
{
    struct bl_error err = {0};
    char *page = NULL;
    const char *keys = "train: {steps: 9, global_batch: 6}\ncluster: {loader_threads: 3}\n"
                       "cache: {path: none-yet}\n";
    assert_ok(checked(keys, &page, &err), err);
    expect(page, "\nok       loaders   one thread of a loader makes 32 images/s: 15.6 ms an image, "
                 "15.6 ms a caption; measured with 32\n"
                 "note     loaders   a worker needs a loader thread for every 32 images/s that it "
                 "trains: ");
    free(page);
    measure = true;
    int rc = checked(keys, &page, &err);
    measure = false;
    assert_ok(rc, err);
    expect(page, "\nok       loaders   a worker on this machine trains ");
    expect(page, " images/s from images, which takes ");
    expect(page, " images/s from the feature cache, which takes ");
    expect(page, "; a loader of 3 feeds ");
    free(page);
}

static void images_that_are_too_small_are_counted(void **state)
{
    struct bl_error err = {0};
    char *page = NULL;
    assert_ok(checked("train: {steps: 9, global_batch: 6}\n", &page, &err), err);
    assert_null(strstr(page, "min_side"));
    free(page);
    min_side = ", min_side: 5000";
    int rc = checked("train: {steps: 9, global_batch: 6}\n", &page, &err);
    min_side = "";
    assert_ok(rc, err);
    expect(page,
           "\nnote     images    8 of 8 decoded are smaller than data.min_side (5000), and void "
           "in training; the first is ");
    free(page);
}

static void a_source_that_is_listed_twice_is_named(void **state)
{
    struct bl_error err = {0};
    char *page = NULL;
    sources = "sources: [{source: .}, {source: ., weight: 2}]";
    int rc = checked("train: {steps: 9, global_batch: 6}\n", &page, &err);
    sources = "source: .";
    assert_int_equal(rc, -BL_EDATA); /* all that the second one has is repeated */
    expect(page, "\nwarning  data      data.sources[0] and data.sources[1] are the same source, ");
    expect(page, "; to train it more often, give one entry a weight of 3 in place of the two\n");
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
    expect(page, "/run holds a run, which will resume\n");
    expect(page, "\nnote     run_dir   train.steps was 9, is 90");
    free(page);
    assert_int_equal(checked("train: {steps: 9, global_batch: 2}\n", &page, &err), -BL_ECONFIG);
    assert_string_equal(err.text, "the run was started with 4, found 2");
    free(page);
}

static void the_plan_grows_with_what_is_kept(void **state)
{
    struct bl_error err = {0};
    char *page = NULL, path[128];
    struct estimate base, other;
    const char *worker = getenv("BLIPREN_WORKER");
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    assert_ok(checked("precision: f32\ntrain: {steps: 9, global_batch: 4, micro_batch: 4}\n", &page,
                      &err),
              err);
    free(page);
    assert_ok(estimate_run(worker, path, 20, 1, &base, &err), err);
    assert_ok(estimate_run(worker, path, 40, 1, &other, &err), err);
    assert_true(base.count > 5 && base.worker > 4 * base.checkpoint / 3);
    assert_int_equal(base.checkpoint / 12 * 12, base.checkpoint);
    assert_true(other.worker > base.worker && other.trainable == base.trainable);
    assert_ok(
        checked("precision: f32\ntrain: {steps: 9, global_batch: 4, micro_batch: 4, ema: 0.9}\n",
                &page, &err),
        err);
    free(page);
    assert_ok(estimate_run(worker, path, 20, 1, &other, &err), err);
    assert_int_equal(other.checkpoint, base.checkpoint / 3 * 4);
    int64_t total, available;
    estimate_memory(&total, &available);
    assert_true(total >= available && available > 0);
}

static void a_worker_program_that_is_missing_is_named(void **state)
{
    struct bl_error err = {0};
    struct estimate estimate;
    assert_int_equal(estimate_run("/none/blipren-worker", "run.yaml", 20, 1, &estimate, &err),
                     -BL_EIO);
    assert_string_equal(err.file, "/none/blipren-worker");
    assert_string_equal(err.text, "cannot be started: No such file or directory");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

static void pictures_that_are_none_are_found_before_training(void **state)
{
    struct bl_error err = {0};
    char *page = NULL;
    bad_pictures = 2;
    assert_int_equal(checked("train: {steps: 10}\n", &page, &err), -BL_EDATA);
    expect(page, "error    images    ");
    expect(page,
           "/0.jpg: 2 of 8 images decoded are bad; the first: expected a supported image "
           "format, found a file that starts with the bytes 30 2e 6a 70 67; replace them, for "
           "example by JPEG files, or allow for more by data.max_bad_fraction (0.05)\n");
    free(page);
    bad_pictures = 0;
}

UNIT_MAIN(IN_FOLDER(pictures_that_are_none_are_found_before_training),
          IN_FOLDER(a_sound_run_has_no_error_and_its_schedule_is_drawn),
          IN_FOLDER(it_goes_on_after_an_error_and_returns_the_first),
          IN_FOLDER(images_that_are_too_small_are_counted),
          IN_FOLDER(a_source_that_is_listed_twice_is_named),
          IN_FOLDER(what_a_loader_makes_in_a_second_and_a_worker_needs_is_said),
          IN_FOLDER(a_begun_run_is_compared_with_its_configuration),
          IN_FOLDER(the_plan_grows_with_what_is_kept),
          cmocka_unit_test(a_worker_program_that_is_missing_is_named))
