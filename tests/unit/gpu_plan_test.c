/* tests/unit/gpu_plan_test.c - what the dry GPU counts, beside what the backend takes of a device (BLIPREN_CUDA, the shim's). */
#include "tests/unit/unit.h"

#include "worker/model/captioner.h"
#include "worker/ops/dry.h"
#include "worker/rehearse.h"

enum { IMAGES = 4, TOKENS = 8 };

static struct captioner_options demo_options(char vision[512], char llm[512])
{
    const char *source = getenv("BLIPREN_SOURCE");
    snprintf(vision, 512, "%s/deploy/demo/models/vision", source);
    snprintf(llm, 512, "%s/deploy/demo/models/llm", source);
    return (struct captioner_options){.vision = vision,
                                      .llm = llm,
                                      .width = 64,
                                      .queries = 8,
                                      .layers = 2,
                                      .heads = 4,
                                      .dropout = 0.1f,
                                      .projector = CAPTIONER_MOE,
                                      .experts = 4,
                                      .routing = CAPTIONER_MEAN,
                                      .bos = CAPTIONER_BOS_NONE,
                                      .bos_id = -1};
}

static void train_twice(struct ops *ops, const struct captioner_options *options)
{
    struct bl_error err = {0};
    struct captioner *c = NULL;
    assert_ok(captioner_open(ops, options, &c, &err), err);
    assert_ok(rehearse(c, IMAGES, TOKENS, false, &err), err);
    assert_ok(captioner_open_ahead(c, IMAGES, &err), err);
    assert_ok(ops->sync(ops, &err), err);
    captioner_free(&c);
}

static void a_dry_gpu_asks_for_what_a_real_one_takes(void **state)
{
    for (int i = 0; i < 4; i++) {
        enum ops_precision precision = i % 2 ? OPS_BF16 : OPS_F32;
        const bool times = i / 2;
        char vision[512], llm[512];
        struct captioner_options options = demo_options(vision, llm);
        struct bl_error err = {0};
        struct ops_device device;
        struct ops *real = NULL, *dry = NULL;
        int64_t total;
        assert_ok(ops_device_choose("cuda:0", &device, &err), err);
        assert_ok(ops_open(&device, precision, 1, &real, &err), err);
        real->times_products = times;
        train_twice(real, &options);
        int64_t taken = (int64_t)real->peak_bytes(real);
        ops_free(&real);
        assert_ok(ops_dry_open("cuda", precision, 1, &dry, &total, &err), err);
        assert_int_equal(total, 0);
        dry->times_products = times;
        train_twice(dry, &options);
        int64_t counted = ops_dry_peak(dry);
        ops_free(&dry);
        assert_true(taken > 1 << 20);
        assert_true(counted <= taken && taken - counted < taken / 1000); /* taken is rounded up */
        assert_ok(ops_dry_open("cuda:0", precision, 1, &dry, &total, &err), err);
        assert_true(total > taken);
        ops_free(&dry);
    }
}

/* A shorter and smaller micro-batch, a validation and captions fit into what the longest one left. */
static void after_the_longest_micro_batch_nothing_more_is_taken(void **state)
{
    enum { PROMPT = 2 };
    char vision[512], llm[512];
    struct captioner_options options = demo_options(vision, llm);
    struct bl_error err = {0};
    struct ops_device device;
    struct ops *ops = NULL;
    struct captioner *c = NULL;
    assert_ok(ops_device_choose("cuda:0", &device, &err), err);
    assert_ok(ops_open(&device, OPS_BF16, 1, &ops, &err), err);
    ops->times_products = true;
    assert_ok(captioner_open(ops, &options, &c, &err), err);
    assert_ok(rehearse(c, IMAGES, TOKENS, false, &err), err);
    assert_ok(captioner_open_ahead(c, IMAGES, &err), err);
    assert_ok(ops->sync(ops, &err), err);
    const size_t taken = ops->peak_bytes(ops);
    assert_ok(rehearse(c, IMAGES - 1, TOKENS - 1, false, &err), err);
    const int64_t side = captioner_vision(c)->image_size;
    uint8_t *pixels = calloc((size_t)IMAGES, (size_t)(side * side * 3));
    int32_t starts[IMAGES + 1], ids[IMAGES * PROMPT] = {0}, positions[IMAGES] = {0},
                                             found[IMAGES * 4];
    uint8_t labels[IMAGES * PROMPT];
    struct captioner_score scores[IMAGES];
    struct captioner_caption captions[IMAGES] = {{0}};
    memset(labels, 1, sizeof labels);
    for (int32_t b = 0; b <= IMAGES; b++)
        starts[b] = b * PROMPT;
    for (int b = 0; b < IMAGES; b++)
        captions[b].ids = found + 4 * b;
    const struct micro_batch mb = {.B = IMAGES,
                                   .pixels = pixels,
                                   .ids = ids,
                                   .ids_start = starts,
                                   .labels = labels,
                                   .positions = positions};
    const struct captioner_generation greedy = {.beams = 1, .max_new = 4};
    assert_ok(captioner_look_ahead(c, IMAGES - 1, pixels, &err), err);
    assert_ok(captioner_look_ahead(c, IMAGES, pixels, &err), err);
    assert_ok(captioner_evaluate(c, &mb, scores, NULL, NULL, &err), err);
    assert_ok(captioner_generate(c, &mb, &greedy, captions, &err), err);
    assert_ok(ops->sync(ops, &err), err);
    assert_int_equal(ops->peak_bytes(ops), taken);
    free(pixels);
    captioner_free(&c);
    ops_free(&ops);
}

UNIT_MAIN(cmocka_unit_test(after_the_longest_micro_batch_nothing_more_is_taken),
          cmocka_unit_test(a_dry_gpu_asks_for_what_a_real_one_takes))
