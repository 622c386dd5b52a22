/* tests/unit/gpu_captions_test.c - captions by recordings (ops.h) of the device that BLIPREN_OPS names, or else cuda:0, beside
 * those whose operations are queued one by one: equal to the bit. */
#include "tests/unit/gpu.h"

#include "common/cleanup.h"
#include "worker/model/captioner.h"

enum { IMAGES = 3, PROMPT_MAX = IMAGES + 1, MAX_NEW = 7, MAX_TRACE = 4, DIFFERENT = 4 };

/* -- a device whose recordings are counted -- */

static int64_t recorded, replayed;
static int (*device_record)(struct ops *, struct ops_recording **, ops_queue *, void *,
                            struct bl_error *);
static bool (*device_replay)(struct ops *, const struct ops_recording *);

static int counted_record(struct ops *self, struct ops_recording **ret, ops_queue *queue,
                          void *context, struct bl_error *err)
{
    recorded++;
    return device_record(self, ret, queue, context, err);
}

static bool counted_replay(struct ops *self, const struct ops_recording *recording)
{
    const bool valid = device_replay(self, recording);
    replayed += valid;
    return valid;
}

static int refused_record(struct ops *self, struct ops_recording **ret, ops_queue *queue,
                          void *context, struct bl_error *err)
{
    recorded++;
    return bl_fail(err, BL_EDEVICE, "refused");
}

struct world {
    struct ops *ops;
    struct captioner *c;
    float *features;
    int32_t ids[IMAGES * PROMPT_MAX], ids_start[IMAGES + 1], positions[IMAGES];
};

/* Of the demo, whose heads suit tensor cores, and the smaller ones of model_test. */
static const char *const demo_models[] = {"deploy/demo/models/vision", "deploy/demo/models/llm"},
                         *const small_models[] = {"tests/golden/model/siglip",
                                                  "tests/golden/model/llama"};

/* Random weights between the models, and features that no tower gave. */
static struct world world_open(const char *const models[2], enum ops_precision precision)
{
    struct world w = {0};
    struct bl_error err = {0};
    char vision[512], llm[512];
    const char *source = getenv("BLIPREN_SOURCE");
    snprintf(vision, 512, "%s/%s", source, models[0]);
    snprintf(llm, 512, "%s/%s", source, models[1]);
    const struct captioner_options options = {.vision = vision,
                                              .llm = llm,
                                              .queries = 6,
                                              .layers = 1,
                                              .heads = 4,
                                              .bos_id = -1,
                                              .features_only = true};
    w.ops = gpu_open(precision);
    assert_non_null(w.ops->record);
    device_record = w.ops->record;
    device_replay = w.ops->replay;
    w.ops->record = counted_record;
    w.ops->replay = counted_replay;
    assert_ok(captioner_open(w.ops, &options, &w.c, &err), err);
    assert_ok(captioner_init(w.c, 7, &err), err);
    const struct hf_vision *tower = captioner_vision(w.c);
    const int64_t count = IMAGES * tower->tokens * tower->hidden;
    w.features = malloc((size_t)count * sizeof *w.features);
    for (int64_t i = 0; i < count; i++)
        w.features[i] = (float)((i + 1) * 7919 % 257) / 64 - 2;
    for (int32_t b = 0; b < IMAGES; b++) { /* prompts of different lengths */
        w.positions[b] = b;
        w.ids_start[b + 1] = w.ids_start[b] + b + 1;
    }
    for (int32_t i = 0; i < w.ids_start[IMAGES]; i++)
        w.ids[i] = 5 + 7 * i % 30;
    return w;
}

static void world_close(struct world *w)
{
    captioner_free(&w->c);
    ops_free(&w->ops);
    free(w->features);
}

#define AUTO_WORLD __attribute__((cleanup(world_close))) struct world

struct texts {
    struct captioner_caption captions[IMAGES];
    int32_t ids[IMAGES][MAX_TRACE + MAX_NEW];
};

static struct texts generate(struct world *w, const struct captioner_generation *how)
{
    struct bl_error err = {0};
    struct texts texts = {0};
    const struct micro_batch mb = {.B = IMAGES,
                                   .features = w->features,
                                   .ids = w->ids,
                                   .ids_start = w->ids_start,
                                   .positions = w->positions};
    for (int b = 0; b < IMAGES; b++)
        texts.captions[b].ids = texts.ids[b];
    assert_ok(captioner_generate(w->c, &mb, how, texts.captions, &err), err);
    return texts;
}

static struct texts generate_directly(struct world *w, const struct captioner_generation *how)
{
    const int64_t before = recorded + replayed;
    int (*const record)(struct ops *, struct ops_recording **, ops_queue *, void *,
                        struct bl_error *) = w->ops->record;
    w->ops->record = NULL;
    const struct texts texts = generate(w, how);
    w->ops->record = record;
    assert_int_equal(recorded + replayed, before);
    return texts;
}

static void assert_same(const struct texts *a, const struct texts *b)
{
    for (int i = 0; i < IMAGES; i++) {
        const struct captioner_caption *x = &a->captions[i], *y = &b->captions[i];
        assert_int_equal(x->count, y->count);
        assert_int_equal(x->ended, y->ended);
        assert_memory_equal(&x->nll, &y->nll, sizeof x->nll);
        assert_memory_equal(a->ids[i], b->ids[i], (size_t)x->count * sizeof *a->ids[i]);
    }
}

static int different_tokens(const struct texts *texts)
{
    bool seen[1024] = {false};
    int count = 0;
    for (int b = 0; b < IMAGES; b++)
        for (int32_t i = 0; i < texts->captions[b].count; i++) {
            count += !seen[texts->ids[b][i]];
            seen[texts->ids[b][i]] = true;
        }
    return count;
}

/* Four times by recordings: the first finds the memory that the next ones will have. */
static void compare(struct world *w, const struct captioner_generation *how)
{
    const struct texts expected = generate_directly(w, how);
    const int64_t before = replayed;
    assert_true(different_tokens(&expected) >= DIFFERENT); /* else yesterday's would do */
    for (int i = 0; i < 4; i++) {
        const int64_t made = recorded;
        const struct texts found = generate(w, how);
        assert_same(&found, &expected);
        if (i == 3)
            assert_int_equal(recorded, made);
    }
    assert_true(replayed - before > MAX_NEW);
}

static void recorded_captions_are_those_of_single_operations(void **state)
{
    for (int i = 0; i < 2; i++) {
        AUTO_WORLD w = world_open(small_models, i ? OPS_BF16 : OPS_F32);
        struct captioner_generation how = {.max_new = MAX_NEW, .beams = 1, .top_p = 1};
        compare(&w, &how);
        how.temperature = 1.5f;
        how.top_p = 0.95f;
        how.seed = 3;
        compare(&w, &how);
        how = (struct captioner_generation){.max_new = MAX_NEW, .beams = 3, .top_p = 1};
        compare(&w, &how);
    }
}

static void so_are_those_of_a_model_whose_heads_suit_tensor_cores(void **state)
{
    AUTO_WORLD w = world_open(demo_models, OPS_BF16);
    const struct captioner_generation how = {.max_new = MAX_NEW, .beams = 1, .top_p = 1};
    compare(&w, &how);
}

static bool end_apart(const struct texts *texts)
{
    for (int b = 1; b < IMAGES; b++)
        if (texts->captions[b].count != texts->captions[0].count)
            return true;
    return false;
}

/* An EOS by which texts end at different times, and say something. */
static int32_t parting_token(struct world *w, struct captioner_generation how)
{
    const struct texts whole = generate_directly(w, &how);
    for (int32_t i = 0; i < IMAGES * MAX_NEW; i++) {
        const int32_t id = whole.ids[i / MAX_NEW][i % MAX_NEW];
        how.eos = &id;
        how.eos_count = 1;
        const struct texts texts = generate_directly(w, &how);
        if (end_apart(&texts) && different_tokens(&texts) >= DIFFERENT)
            return id;
    }
    fail_msg("the texts are too much alike");
    return -1;
}

static void recordings_follow_texts_that_end_at_different_times(void **state)
{
    for (int beams = 1; beams <= 2; beams++) {
        AUTO_WORLD w = world_open(small_models, OPS_F32);
        struct captioner_generation how = {.max_new = MAX_NEW, .beams = beams, .top_p = 1};
        const int32_t eos = parting_token(&w, how);
        how.eos = &eos;
        how.eos_count = 1;
        compare(&w, &how);
    }
}

static void a_trace_is_recorded_too(void **state)
{
    for (int beams = 1; beams <= 2; beams++) {
        AUTO_WORLD w = world_open(small_models, OPS_F32);
        struct captioner_generation how = {.max_new = MAX_NEW, .beams = beams, .top_p = 1};
        const int32_t close = parting_token(&w, how);
        how = (struct captioner_generation){.max_new = MAX_NEW,
                                            .max_trace = MAX_TRACE,
                                            .close = &close,
                                            .close_count = 1,
                                            .beams = beams,
                                            .top_p = 1};
        compare(&w, &how);
    }
}

static void where_the_device_refuses_a_recording_captions_are_the_same(void **state)
{
    AUTO_WORLD w = world_open(small_models, OPS_F32);
    const struct captioner_generation how = {.max_new = MAX_NEW, .beams = 1, .top_p = 1};
    const struct texts expected = generate_directly(&w, &how);
    const int64_t before = recorded;
    w.ops->record = refused_record;
    for (int i = 0; i < 2; i++) {
        const struct texts found = generate(&w, &how);
        assert_same(&found, &expected);
    }
    assert_int_equal(recorded, before + 1); /* it is asked once */
}

UNIT_MAIN(cmocka_unit_test(recorded_captions_are_those_of_single_operations),
          cmocka_unit_test(so_are_those_of_a_model_whose_heads_suit_tensor_cores),
          cmocka_unit_test(recordings_follow_texts_that_end_at_different_times),
          cmocka_unit_test(a_trace_is_recorded_too),
          cmocka_unit_test(where_the_device_refuses_a_recording_captions_are_the_same))
