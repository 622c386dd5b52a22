/* tests/unit/gpu_ahead_test.c - vision towers started ahead of their step on the device that BLIPREN_OPS names, or else cuda:0: gradients and
 * losses are those of steps that have their tower within. On the double of cuBLASLt (BLIPREN_CUDA) to the bit; on a device, where its
 * choice of an algorithm may follow an address' alignment, closely: other images make other gradients altogether. */
#include "tests/unit/gpu.h"

#include <math.h>
#include <string.h>

#include "common/cleanup.h"
#include "worker/model/captioner.h"

enum { IMAGES = 3, TEXT = 4, MICRO_BATCHES = 7 };

struct world {
    struct ops *ops;
    struct captioner *c;
    float *grads; /* of the step, on the host */
    struct captioner_sums sums;
};

/* Of which the last is void, and the images of each are its own. */
static uint8_t *pixels[MICRO_BATCHES];
static const int64_t images[MICRO_BATCHES] = {3, 3, 2, 3, 1, 3, 0};
static int32_t ids[IMAGES * TEXT], starts[IMAGES + 1], positions[IMAGES];
static uint8_t labels[IMAGES * TEXT];

static int64_t pixel_bytes;

static void draw_pixels(int m)
{
    for (int64_t i = 0; i < pixel_bytes; i++)
        pixels[m][i] = (uint8_t)((i + 1) * (m + 3) * 7919 % 251);
}

static void make_micro_batches(const struct captioner *c)
{
    const int64_t side = captioner_vision(c)->image_size;
    pixel_bytes = IMAGES * side * side * 3;
    for (int m = 0; m < MICRO_BATCHES; m++)
        pixels[m] = malloc((size_t)pixel_bytes);
    for (int32_t i = 0; i < IMAGES * TEXT; i++) {
        ids[i] = 5 + i;
        labels[i] = i % TEXT > 0;
    }
    for (int32_t b = 0; b <= IMAGES; b++)
        starts[b] = b * TEXT;
    for (int32_t b = 0; b < IMAGES; b++)
        positions[b] = b;
}

static struct world world_open(enum captioner_projector projector, enum captioner_routing routing,
                               enum ops_precision precision)
{
    struct world w = {0};
    struct bl_error err = {0};
    char vision[512], llm[512];
    const char *source = getenv("BLIPREN_SOURCE");
    snprintf(vision, sizeof vision, "%s/tests/golden/model/siglip", source);
    snprintf(llm, sizeof llm, "%s/tests/golden/model/llama", source);
    const struct captioner_options options = {.vision = vision,
                                              .llm = llm,
                                              .queries = 6,
                                              .layers = 1,
                                              .heads = 4,
                                              .dropout = 0.1f,
                                              .projector = projector,
                                              .routing = routing,
                                              .experts = 4,
                                              .bos_id = -1};
    w.ops = gpu_open(precision);
    assert_non_null(w.ops->open_beside);
    assert_ok(captioner_open(w.ops, &options, &w.c, &err), err);
    assert_ok(captioner_init(w.c, 7, &err), err);
    w.grads = malloc((size_t)captioner_params(w.c)->count * sizeof *w.grads);
    if (!pixels[0])
        make_micro_batches(w.c);
    for (int m = 0; m < MICRO_BATCHES; m++)
        draw_pixels(m);
    return w;
}

static void world_close(struct world *w)
{
    free(w->grads);
    captioner_free(&w->c);
    ops_free(&w->ops);
}

static void add_micro_batch(struct world *w, int m)
{
    struct bl_error err = {0};
    const struct micro_batch mb = {.B = images[m],
                                   .pixels = pixels[m],
                                   .ids = ids,
                                   .ids_start = starts,
                                   .labels = labels,
                                   .positions = positions};
    const struct captioner_pass pass = {.seed = 3, .step = 11, .dropout = true};
    assert_ok(captioner_forward_backward(w->c, &mb, &pass, &err), err);
}

static void look_ahead(struct world *w, int m)
{
    struct bl_error err = {0};
    assert_ok(captioner_look_ahead(w->c, images[m], pixels[m], &err), err);
}

/* The images are there no longer: a micro-batch whose features were not ready would be another. */
static void add_ahead(struct world *w, int m)
{
    memset(pixels[m], 0xCD, (size_t)pixel_bytes);
    add_micro_batch(w, m);
}

static void end_step(struct world *w)
{
    struct bl_error err = {0};
    const struct captioner_params *params = captioner_params(w->c);
    assert_ok(captioner_step_sums(w->c, &w->sums, &err), err);
    w->ops->copy_out(w->ops, w->grads, params->grads, (size_t)params->count * sizeof(float));
    assert_ok(w->ops->sync(w->ops, &err), err);
}

static void begin_step(struct world *w)
{
    const struct captioner_params *params = captioner_params(w->c);
    w->ops->zero(w->ops, params->grads, (size_t)params->count * sizeof(float));
    captioner_step_begin(w->c);
}

static void all_within(struct world *w)
{
    for (int m = 0; m < MICRO_BATCHES; m++)
        add_micro_batch(w, m);
}

/* Each started while the one before it is under way. */
static void all_ahead(struct world *w)
{
    add_micro_batch(w, 0);
    for (int m = 1; m < MICRO_BATCHES; m++) {
        look_ahead(w, m);
        add_ahead(w, m);
    }
}

/* One is given up, another does not follow. */
static void some_ahead(struct world *w)
{
    add_micro_batch(w, 0);
    look_ahead(w, 1);
    add_ahead(w, 1);
    look_ahead(w, 5);
    captioner_forget_ahead(w->c);
    look_ahead(w, 6); /* void */
    look_ahead(w, 5);
    add_micro_batch(w, 2); /* which is not 5 */
    look_ahead(w, 3);
    add_ahead(w, 3);
    add_micro_batch(w, 4);
    look_ahead(w, 5);
    add_ahead(w, 5);
    look_ahead(w, 6);
    add_micro_batch(w, 6);
}

/* A step by a captioner whose memory is warm: nothing waits for the device. */
static struct world step_of(void (*micro_batches)(struct world *w), bool ahead,
                            enum captioner_projector projector, enum captioner_routing routing,
                            enum ops_precision precision)
{
    struct world w = world_open(projector, routing, precision);
    struct bl_error err = {0};
    if (ahead)
        assert_ok(captioner_open_ahead(w.c, IMAGES, &err), err);
    begin_step(&w);
    all_within(&w);
    begin_step(&w);
    micro_batches(&w);
    end_step(&w);
    return w;
}

static void assert_same(const struct world *found, const struct world *expected)
{
    const int64_t count = captioner_params(expected->c)->count;
    const double bar = expected->ops->precision == OPS_F32 ? 1e-5 : 2e-2;
    double difference = 0, square = 0;
    for (int64_t i = 0; i < count; i++) {
        const double e = (double)expected->grads[i], d = (double)found->grads[i] - e;
        difference += d * d;
        square += e * e;
    }
    assert_true(square > 0 && expected->sums.nll > 0);
    assert_true(difference <= bar * bar * square);
    assert_true(fabs(found->sums.nll - expected->sums.nll) <= bar * expected->sums.nll);
    if (!getenv("BLIPREN_CUDA"))
        return;
    assert_true(found->sums.nll == expected->sums.nll);
    assert_memory_equal(found->sums.share, expected->sums.share, sizeof found->sums.share);
    assert_memory_equal(found->grads, expected->grads, (size_t)count * sizeof *found->grads);
}

static void compare(void (*micro_batches)(struct world *w), enum captioner_projector projector,
                    enum captioner_routing routing, enum ops_precision precision)
{
    struct world within = step_of(all_within, false, projector, routing, precision);
    struct world ahead = step_of(micro_batches, true, projector, routing, precision);
    assert_same(&ahead, &within);
    world_close(&within);
    world_close(&ahead);
}

static void steps_are_the_same_with_their_towers_ahead(void **state)
{
    compare(all_ahead, CAPTIONER_NORMAL, CAPTIONER_MEAN, OPS_F32);
    compare(all_ahead, CAPTIONER_NORMAL, CAPTIONER_MEAN, OPS_BF16);
}

static void what_does_not_follow_is_not_taken(void **state)
{
    compare(some_ahead, CAPTIONER_NORMAL, CAPTIONER_MEAN, OPS_BF16);
}

static void the_router_sees_the_same(void **state)
{
    compare(all_ahead, CAPTIONER_MOE, CAPTIONER_MEAN, OPS_BF16);
    compare(all_ahead, CAPTIONER_MOE, CAPTIONER_POOLED, OPS_BF16);
}

static size_t no_free_bytes(const struct ops *self)
{
    return 0;
}

static int no_alloc(struct ops *self, size_t bytes, dev_void **ret, struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "full");
}

/* Neither where something cannot be had, nor where all could and too little is left. */
static void without_room_a_step_keeps_its_tower(void **state)
{
    struct world within = step_of(all_within, false, CAPTIONER_NORMAL, CAPTIONER_MEAN, OPS_BF16);
    struct world w = world_open(CAPTIONER_NORMAL, CAPTIONER_MEAN, OPS_BF16);
    const struct ops device = *w.ops;
    struct bl_error err = {0};
    begin_step(&w);
    all_within(&w);
    w.ops->alloc = no_alloc;
    assert_int_equal(captioner_open_ahead(w.c, IMAGES, &err), -BL_ENOMEM);
    *w.ops = device;
    w.ops->free_bytes = no_free_bytes;
    assert_int_equal(captioner_open_ahead(w.c, IMAGES, &err), -BL_ENOMEM);
    assert_false(captioner_looks_ahead(w.c));
    begin_step(&w);
    all_within(&w);
    end_step(&w);
    assert_same(&w, &within);
    world_close(&within);
    world_close(&w);
}

UNIT_MAIN(cmocka_unit_test(steps_are_the_same_with_their_towers_ahead),
          cmocka_unit_test(what_does_not_follow_is_not_taken),
          cmocka_unit_test(without_room_a_step_keeps_its_tower),
          cmocka_unit_test(the_router_sees_the_same))
