/* tests/unit/engine_test.c - the computing thread: what each command answers, on the demo's models. */
#include "tests/unit/unit.h"

#include <math.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/data/dataset.h"
#include "common/file.h"
#include "worker/engine.h"
#include "worker/ops/ops.h"

#define SAMPLES 3
#define TOKENS 6

static char folder[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;

struct rig {
    struct config *config;
    struct dataset *dataset;
    struct ops_device device;
    struct engine *engine;
    struct batch batch;
    struct batch_slot slots[SAMPLES];
    int32_t ids[SAMPLES * TOKENS];
    uint8_t *pixels;
};

static void wake(void *context)
{
    pthread_mutex_lock(&lock);
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&lock);
}

static void publish(void *context, uint64_t generation, const char *key, const void *value,
                    size_t size)
{
    engine_deliver(*(struct engine **)context, generation, key, value, size);
}

static struct engine_event next_event(struct rig *rig)
{
    struct engine_event event;
    pthread_mutex_lock(&lock);
    while (!engine_next(rig->engine, &event))
        pthread_cond_wait(&woken, &lock);
    pthread_mutex_unlock(&lock);
    return event;
}

/* The next event, which must be of this kind. */
static struct engine_event expect(struct rig *rig, enum engine_event_kind kind)
{
    struct engine_event event = next_event(rig);
    if (event.kind != kind) {
        char line[1600];
        bl_error_format(&event.error, line, sizeof line);
        fail_msg("expected event %d, found %d: %s", kind, event.kind, line);
    }
    return event;
}

/* llm: a folder of Hugging Face's form. */
static void configure(struct rig *rig, const char *llm)
{
    char yaml[1200];
    struct bl_error err;
    *rig = (struct rig){0};
    snprintf(yaml, sizeof yaml,
             "run_dir: run\nprecision: f32\ndata: {source: data}\n"
             "vision: {path: %s/deploy/demo/models/vision}\nllm: {path: %s}\n"
             "qformer: {queries: 4, layers: 1, heads: 2, dropout: 0}\n"
             "projector: {dropout: 0}\n"
             "train: {steps: 8, global_batch: 3, micro_batch: 3, max_new_tokens: 5, lr: 0.0001,"
             " warmup_steps: 0, validation_captions: 2}\n",
             getenv("BLIPREN_SOURCE"), llm);
    assert_ok(config_parse(yaml, strlen(yaml), "run.yaml", folder, &rig->config, &err), err);
}

static void open_engine(struct rig *rig)
{
    struct bl_error err;
    assert_ok(ops_device_choose("cpu", &rig->device, &err), err);
    struct engine_options options = {.kind = BL_KIND_TRAIN,
                                     .config = rig->config,
                                     .dataset = rig->dataset,
                                     .cache_tower = "",
                                     .data_fingerprint = "d",
                                     .device = &rig->device,
                                     .threads = 1,
                                     .comm_host = "127.0.0.1",
                                     .patience_ms = 60000,
                                     .publish = publish,
                                     .wake = wake,
                                     .context = &rig->engine};
    assert_ok(engine_open(&options, &rig->engine, &err), err);
}

/* As many samples as the micro-batch has. What images hold does not matter: their pixels come with the batch. */
static void make_dataset(struct rig *rig)
{
    struct bl_error err;
    char path[128];
    snprintf(path, sizeof path, "%s/data", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    for (int i = 0; i < SAMPLES; i++) {
        snprintf(path, sizeof path, "%s/data/%d.jpg", folder, i);
        assert_ok(bl_file_write(path, path, strlen(path), &err), err);
        snprintf(path, sizeof path, "%s/data/%d.txt", folder, i);
        assert_ok(bl_file_write(path, "a ball", 6, &err), err);
    }
    assert_ok(dataset_prepare(rig->config, NULL, NULL, &rig->dataset, NULL, &err), err);
}

/* A micro-batch of noise; its first token is the prefix. */
static void make_batch(struct rig *rig)
{
    int64_t side, vocabulary;
    engine_fits(rig->engine, &side, &vocabulary);
    assert_int_equal(side, 64);
    assert_true(vocabulary > 100);
    size_t bytes = (size_t)(SAMPLES * side * side * 3);
    rig->pixels = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        rig->pixels[i] = (uint8_t)(i * 2654435761U >> 24);
    for (int i = 0; i < SAMPLES; i++) {
        rig->slots[i] = (struct batch_slot){.sample = (uint64_t)i,
                                            .image_hash = (uint64_t)i,
                                            .index = i,
                                            .tokens = TOKENS,
                                            .prefix = 1,
                                            .label_first = 1,
                                            .label_end = TOKENS};
        for (int t = 0; t < TOKENS; t++)
            rig->ids[i * TOKENS + t] = 10 + 7 * i + t;
    }
    rig->batch = (struct batch){.kind = BATCH_TRAIN,
                                .count = SAMPLES,
                                .good = SAMPLES,
                                .slots = rig->slots,
                                .pixels = rig->pixels,
                                .ids = rig->ids};
}

static int open_rig(void **state)
{
    static struct rig rig;
    char llm[600];
    snprintf(llm, sizeof llm, "%s/deploy/demo/models/llm", getenv("BLIPREN_SOURCE"));
    strcpy(folder, "/tmp/blipren-engine-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    configure(&rig, llm);
    make_dataset(&rig);
    open_engine(&rig);
    expect(&rig, ENGINE_OPENED);
    make_batch(&rig);
    *state = &rig;
    return 0;
}

static int close_rig(void **state)
{
    struct rig *rig = *state;
    engine_close(&rig->engine);
    free(rig->pixels);
    dataset_free(&rig->dataset);
    config_free(&rig->config);
    return bl_folder_remove(folder, NULL);
}

static struct engine_event form(struct rig *rig, uint64_t generation, const char *checkpoint)
{
    engine_form(rig->engine, generation,
                &(struct engine_forming){.world = 1, .source = -1, .checkpoint = checkpoint});
    struct engine_event formed = expect(rig, ENGINE_FORMED);
    assert_int_equal(formed.generation, generation);
    return formed;
}

static struct engine_event take_step(struct rig *rig, uint64_t generation, uint64_t step)
{
    rig->batch.step = step;
    engine_compute(rig->engine, generation, 2, &rig->batch, true, NULL);
    engine_reduce(rig->engine, generation, step);
    assert_int_equal(expect(rig, ENGINE_COMPUTED).slot, 2);
    return expect(rig, ENGINE_APPLIED);
}

static void a_step_is_computed_reduced_and_applied(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(form(rig, 1, "").step, 0);
    struct engine_event first = take_step(rig, 1, 0), second = take_step(rig, 1, 1);
    assert_int_equal(first.step, 0);
    assert_int_equal(first.report.tokens, SAMPLES * (TOKENS - 1));
    assert_int_equal(first.report.images, SAMPLES);
    assert_true(isfinite(first.report.nll) && first.report.norm > 0);
    assert_int_equal(second.step, 1);
    assert_true(second.report.nll < first.report.nll); /* the same batch again: it learned */
}

static void an_abort_tells_the_state_and_a_checkpoint_brings_it_back(void **state)
{
    struct rig *rig = *state;
    char path[128];
    struct engine_event fresh = form(rig, 1, "");
    take_step(rig, 1, 0);
    engine_snapshot(rig->engine, 1, 1);
    assert_int_equal(expect(rig, ENGINE_SNAPPED).step, 1);
    snprintf(path, sizeof path, "%s/step-1", folder);
    engine_write(rig->engine, path);
    struct engine_event written = expect(rig, ENGINE_WRITTEN);
    assert_int_equal(written.error.code, 0);
    assert_int_equal(written.step, 1);
    engine_abort(rig->engine, 1);
    struct engine_event aborted = expect(rig, ENGINE_ABORTED);
    assert_int_equal(aborted.applied_step, 1);
    assert_memory_not_equal(aborted.digest, fresh.digest, 32);

    take_step(rig, form(rig, 2, "").generation, 0); /* elsewhere meanwhile */
    struct engine_event formed = form(rig, 3, path);
    assert_int_equal(formed.step, 1);
    assert_memory_equal(formed.digest, aborted.digest, 32);
    assert_memory_equal(form(rig, 4, "").digest, fresh.digest, 32);
}

/* Had one of them run, the thread would have met a step that is not its own, and stopped with an assertion. */
static void commands_of_a_generation_that_is_over_answer_nothing(void **state)
{
    struct rig *rig = *state;
    form(rig, 1, "");
    engine_abort(rig->engine, 5);
    rig->batch.step = 77;
    engine_compute(rig->engine, 5, 0, &rig->batch, true, NULL);
    engine_reduce(rig->engine, 4, 77);
    engine_form(rig->engine, 5,
                &(struct engine_forming){.world = 1, .source = -1, .checkpoint = ""});
    struct engine_event aborted = expect(rig, ENGINE_ABORTED);
    assert_int_equal(aborted.generation, 5);
    assert_int_equal(aborted.applied_step, 0);
    form(rig, 6, "");
}

static void wait_until_it_waits_for(struct rig *rig, const char *whom)
{
    const char *phase, *waiting = "";
    while (strcmp(waiting, whom) != 0) {
        engine_phase(rig->engine, &phase, &waiting);
        usleep(1000);
    }
}

static void an_update_waits_for_the_snapshot_that_needs_the_state(void **state)
{
    struct rig *rig = *state;
    struct engine_event event;
    form(rig, 1, "");
    engine_snapshot(rig->engine, 1, 0);
    expect(rig, ENGINE_SNAPPED);
    engine_compute(rig->engine, 1, 0, &rig->batch, true, NULL);
    engine_reduce(rig->engine, 1, 0);
    expect(rig, ENGINE_COMPUTED); /* gradients do not change the state */
    wait_until_it_waits_for(rig, "checkpoint");
    assert_false(engine_next(rig->engine, &event));
    engine_discard(rig->engine);
    assert_int_equal(expect(rig, ENGINE_APPLIED).step, 0);
}

/* Whoever waits for a writer that is slow must still leave a generation that ended. */
static void an_abort_ends_the_wait_for_a_snapshot(void **state)
{
    struct rig *rig = *state;
    struct engine_event formed = form(rig, 1, "");
    engine_snapshot(rig->engine, 1, 0);
    expect(rig, ENGINE_SNAPPED);
    engine_compute(rig->engine, 1, 0, &rig->batch, true, NULL);
    engine_reduce(rig->engine, 1, 0);
    expect(rig, ENGINE_COMPUTED);
    wait_until_it_waits_for(rig, "checkpoint");
    engine_abort(rig->engine, 1);
    expect(rig, ENGINE_FAILED);
    struct engine_event aborted = expect(rig, ENGINE_ABORTED);
    assert_int_equal(aborted.applied_step, 0); /* never half a step */
    assert_memory_equal(aborted.digest, formed.digest, 32);
    engine_discard(rig->engine);
}

static void a_validation_scores_and_captions_and_changes_nothing(void **state)
{
    struct rig *rig = *state;
    struct engine_event formed = form(rig, 1, "");
    rig->batch.kind = BATCH_VALIDATE;
    engine_compute(rig->engine, 1, 0, &rig->batch, false, NULL);
    struct engine_event event = expect(rig, ENGINE_COMPUTED);
    const struct engine_validation *v = &event.validation;
    assert_int_equal(v->images, SAMPLES);
    assert_int_equal(v->tokens, SAMPLES * (TOKENS - 1));
    assert_int_equal(v->shuffled_tokens, v->tokens);
    assert_true(v->nll > 0 && v->paired_nll == v->nll && v->shuffled_nll != v->nll);
    assert_int_equal(v->caption_count, 2); /* train.validation_captions */
    assert_int_equal(v->captions[1].sample, 1);
    engine_event_release(&event);
    engine_abort(rig->engine, 1);
    assert_memory_equal(expect(rig, ENGINE_ABORTED).digest, formed.digest, 32);
}

/* Of images that are all one, none can be exchanged for another. */
static void equal_images_are_not_shuffled(void **state)
{
    struct rig *rig = *state;
    form(rig, 1, "");
    rig->batch.kind = BATCH_VALIDATE;
    for (int i = 0; i < SAMPLES; i++)
        rig->slots[i].image_hash = 9;
    engine_compute(rig->engine, 1, 0, &rig->batch, false, NULL);
    struct engine_event event = expect(rig, ENGINE_COMPUTED);
    assert_int_equal(event.validation.shuffled_tokens, 0);
    assert_true(event.validation.shuffled_nll == 0 && event.validation.paired_nll == 0);
    engine_event_release(&event);
}

static void a_missing_model_breaks_it_and_is_named(void **state)
{
    struct rig rig;
    strcpy(folder, "/tmp/blipren-engine-XXXXXX");
    configure(&rig, "/nowhere/llm");
    open_engine(&rig);
    struct engine_event event = expect(&rig, ENGINE_BROKEN);
    assert_non_null(strstr(event.error.file, "/nowhere/llm"));
    engine_close(&rig.engine);
    config_free(&rig.config);
}

static void a_damaged_checkpoint_breaks_it_and_is_named(void **state)
{
    struct rig *rig = *state;
    engine_form(
        rig->engine, 1,
        &(struct engine_forming){.world = 1, .source = -1, .checkpoint = "/nowhere/step-9"});
    struct engine_event event = expect(rig, ENGINE_BROKEN);
    assert_non_null(strstr(event.error.file, "/nowhere/step-9"));
}

#define ON_RIG(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)

UNIT_MAIN(ON_RIG(a_step_is_computed_reduced_and_applied),
          ON_RIG(an_abort_tells_the_state_and_a_checkpoint_brings_it_back),
          ON_RIG(commands_of_a_generation_that_is_over_answer_nothing),
          ON_RIG(an_update_waits_for_the_snapshot_that_needs_the_state),
          ON_RIG(an_abort_ends_the_wait_for_a_snapshot),
          ON_RIG(a_validation_scores_and_captions_and_changes_nothing),
          ON_RIG(equal_images_are_not_shuffled),
          cmocka_unit_test(a_missing_model_breaks_it_and_is_named),
          ON_RIG(a_damaged_checkpoint_breaks_it_and_is_named))
