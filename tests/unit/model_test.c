/* tests/unit/model_test.c - the captioner against values from transformers and PyTorch (tests/golden/model/make.py),
 * and against itself: however a batch is cut, cached or cut short, the results are the same. */
#include "tests/unit/unit.h"

#include <math.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/random.h"
#include "common/size.h"
#include "common/file.h"
#include "common/models/safetensors.h"
#include "tests/tools/weights.h"
#include "worker/model/captioner_private.h"
#include "worker/model/tower.h"
#include "worker/ops/dry.h"
#include "worker/rehearse.h"

#define IMAGES 3
#define MAX_NEW 10

/* One captioner over the golden models, its input and its expected values. */
struct world {
    struct ops *ops;
    struct captioner *c;
    struct safetensors *input, *expected;
    struct micro_batch mb, prompts;
};

static const char *golden(char path[512], const char *name)
{
    const char *source = getenv("BLIPREN_SOURCE");
    snprintf(path, 512, "%s/tests/golden/model/%s", source ? source : ".", name);
    return path;
}

static const void *data_of(const struct safetensors *file, const char *name)
{
    const struct tensor *tensor = safetensors_find(file, name);
    if (!tensor)
        fail_msg("no tensor %s", name);
    return tensor->data;
}

/* Of cross-attention, in the test under way. */
static enum captioner_cross form;

static int plain_form(void **state)
{
    form = CAPTIONER_CROSS_PLAIN;
    return 0;
}

static int folded_form(void **state)
{
    form = CAPTIONER_CROSS_FOLDED;
    return 0;
}

static struct captioner_options golden_options(enum captioner_projector projector, char vision[512],
                                               char llm[512])
{
    return (struct captioner_options){
        .cross = form,
        .vision = golden(vision, "siglip"),
        .llm = golden(llm, "llama"),
        .width = 12,
        .queries = 3,
        .layers = 2,
        .heads = 3,
        .projector = projector,
        .experts = 3,
        .routing = CAPTIONER_POOLED,
        .bos = CAPTIONER_BOS_AFTER_IMAGE,
        .bos_id = 1,
    };
}

static struct micro_batch batch_of(const struct safetensors *input, const char *ids,
                                   const char *ids_start)
{
    return (struct micro_batch){
        .B = IMAGES,
        .pixels = data_of(input, "pixels"),
        .ids = data_of(input, ids),
        .ids_start = data_of(input, ids_start),
        .labels = data_of(input, "labels"),
        .positions = data_of(input, "positions"),
    };
}

static struct world world_open_with(const struct captioner_options *options, int threads)
{
    struct world w = {0};
    struct bl_error err = {0};
    char path[512];
    bool moe = options->projector == CAPTIONER_MOE;
    assert_ok(safetensors_open(golden(path, "input.safetensors"), &w.input, &err), err);
    assert_ok(safetensors_open(golden(path, moe ? "moe.safetensors" : "normal.safetensors"),
                               &w.expected, &err),
              err);
    assert_ok(ops_cpu_open(OPS_F32, threads, &w.ops, &err), err);
    assert_ok(captioner_open(w.ops, options, &w.c, &err), err);
    assert_ok(weights_load(w.ops, w.c, golden(path, moe ? "moe" : "normal"), &err), err);
    w.mb = batch_of(w.input, "ids", "ids_start");
    w.prompts = batch_of(w.input, "prompt", "prompt_start");
    return w;
}

static struct world world_open(enum captioner_projector projector)
{
    char vision[512], llm[512];
    struct captioner_options options = golden_options(projector, vision, llm);
    return world_open_with(&options, 1);
}

static void world_close(struct world *w)
{
    captioner_free(&w->c);
    ops_free(&w->ops);
    safetensors_free(&w->input);
    safetensors_free(&w->expected);
}

#define AUTO_WORLD __attribute__((cleanup(world_close))) struct world

/* L2 norm of the difference over that of the reference. */
static double relative(const float *found, const float *expected, size_t count)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)found[i] - (double)expected[i];
        difference += d * d;
        norm += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference / norm);
}

static void assert_close(const char *name, const float *found, const float *expected, size_t count,
                         double bar)
{
    double error = relative(found, expected, count);
    if (!(error <= bar))
        fail_msg("%s: expected a relative error of at most %g, found %g", name, bar, error);
}

/* What is expected under `name` against device activations or host floats. */
static void assert_golden(const struct world *w, const char *name, const float *found, double bar)
{
    const struct tensor *tensor = safetensors_find(w->expected, name);
    assert_non_null(tensor);
    assert_close(name, found, tensor->data, tensor->size_bytes / sizeof(float), bar);
}

static void assert_golden_act(const struct world *w, const char *name, const act *found, double bar)
{
    const struct tensor *tensor = safetensors_find(w->expected, name);
    assert_non_null(tensor);
    bl_autofree float *host = malloc(tensor->size_bytes);
    void *device;
    struct bl_error err = {0};
    assert_ok(w->ops->alloc(w->ops, tensor->size_bytes, &device, &err), err);
    w->ops->act_to_f32(w->ops, device, found, (int64_t)(tensor->size_bytes / sizeof(float)));
    w->ops->copy_out(w->ops, host, device, tensor->size_bytes);
    w->ops->release(w->ops, device);
    assert_golden(w, name, host, bar);
}

/* -- against transformers and PyTorch -- */

static void check_forward(enum captioner_projector projector)
{
    AUTO_WORLD w = world_open(projector);
    struct bl_error err = {0};
    struct arena *arena = &w.c->arena;
    __attribute__((cleanup(layout_release))) struct layout layout = {0};
    struct images images;
    act *y, *x, *h, *logits;
    int64_t D = w.c->llm_config.hidden, K = w.c->options.queries;
    assert_ok(captioner_layout(w.c, &w.mb, false, &layout, &err), err);
    assert_ok(captioner_images(w.c, &w.mb, NULL, &images, &err), err);
    assert_golden_act(&w, "features", images.features, 1e-5);
    if (projector == CAPTIONER_MOE)
        assert_golden_act(&w, "routing", images.routing, 1e-5);
    assert_ok(arena_act(arena, IMAGES * K * D, &y, &err), err);
    assert_ok(captioner_project(w.c, &images, y, NULL, &err), err);
    assert_golden_act(&w, "projected", y, 1e-5);
    assert_ok(arena_act(arena, layout.rows.R * D, &x, &err), err);
    assert_ok(arena_act(arena, layout.labels * D, &h, &err), err);
    assert_ok(arena_act(arena, layout.labels * w.c->llm_config.vocabulary, &logits, &err), err);
    assert_ok(captioner_inputs(w.c, x, &layout, y, &err), err);
    assert_ok(llm_forward(w.c->llm, arena, h, x, &layout.rows, NULL, SAVE_NOTHING, &err), err);
    assert_ok(llm_logits(w.c->llm, arena, logits, h, layout.labels, &err), err);
    assert_golden_act(&w, "logits", logits, 1e-5);
}

static void features_queries_and_logits_equal_the_reference(void **state)
{
    check_forward(CAPTIONER_NORMAL);
    check_forward(CAPTIONER_MOE);
}

static void scores_equal_the_reference_and_follow_a_shuffle_of_the_images(void **state)
{
    for (int moe = 0; moe < 2; moe++) {
        AUTO_WORLD w = world_open(moe ? CAPTIONER_MOE : CAPTIONER_NORMAL);
        struct bl_error err = {0};
        struct captioner_score scores[IMAGES], shuffled[IMAGES], swapped[IMAGES];
        const int32_t permutation[IMAGES] = {2, 2, 0};
        assert_ok(captioner_evaluate(w.c, &w.mb, scores, permutation, shuffled, &err), err);
        const float *nll = data_of(w.expected, "nll");
        const int32_t tokens[IMAGES] = {7, 1, 12};
        for (int b = 0; b < IMAGES; b++) {
            assert_true(fabs(scores[b].nll / (double)nll[b] - 1) < 1e-5);
            assert_int_equal(scores[b].tokens, tokens[b]);
        }
        size_t bytes =
            (size_t)w.c->vision_config.image_size * (size_t)w.c->vision_config.image_size * 3;
        bl_autofree uint8_t *pixels = malloc(IMAGES * bytes);
        for (int b = 0; b < IMAGES; b++)
            memcpy(pixels + (size_t)b * bytes, w.mb.pixels + (size_t)permutation[b] * bytes, bytes);
        struct micro_batch other = w.mb;
        other.pixels = pixels;
        assert_ok(captioner_evaluate(w.c, &other, swapped, NULL, NULL, &err), err);
        /* An image's place among the rows of a batch may decide last bits. */
        for (int b = 0; b < IMAGES; b++) {
            assert_true(fabs(swapped[b].nll / shuffled[b].nll - 1) < 1e-6);
            assert_int_equal(swapped[b].tokens, shuffled[b].tokens);
            assert_int_equal(swapped[b].correct, shuffled[b].correct);
        }
    }
}

/* The batch's places [first, end) as a batch of its own. start: memory for its starts. */
static struct micro_batch slice(const struct world *w, int first, int end, int32_t *start)
{
    struct micro_batch mb = w->mb;
    int64_t size = w->c->vision_config.image_size;
    for (int b = first; b <= end; b++)
        start[b - first] = mb.ids_start[b] - mb.ids_start[first];
    mb.B = end - first;
    mb.pixels += first * size * size * 3;
    mb.ids += mb.ids_start[first];
    mb.labels += mb.ids_start[first];
    mb.positions += first;
    mb.ids_start = start;
    return mb;
}

/* Adds numbers in [-0.3, 0.3). */
static void shake(float *values, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t words[4];
        bl_draw(seed, BL_RANDOM_INIT, (uint64_t)i, 1, words);
        values[i] += 0.6f * bl_unit_f32(words[0]) - 0.3f;
    }
}

static float *copy_grads(const struct world *w)
{
    const struct captioner_params *params = captioner_params(w->c);
    size_t bytes = (size_t)params->count * sizeof(float);
    float *host = malloc(bytes);
    w->ops->copy_out(w->ops, host, params->grads, bytes);
    w->ops->zero(w->ops, params->grads, bytes);
    return host;
}

static struct captioner_router router_of(const struct captioner_sums *sums)
{
    struct captioner_router router = {.tokens = (double)sums->tokens,
                                      .images = (double)sums->images,
                                      .alpha = 0.01f,
                                      .beta = 0.001f};
    for (int e = 0; e < CAPTIONER_EXPERTS_MAX; e++)
        router.share[e] = (double)sums->share[e] / OPS_FIXED_SCALE / router.images;
    return router;
}

/* The step's gradients, sums over label tokens but for the router's, with the batch cut at the given places. */
static float *gradients(struct world *w, const int *cuts, int count,
                        const struct captioner_pass *pass, struct captioner_sums *ret_sums)
{
    struct bl_error err = {0};
    captioner_step_begin(w->c);
    for (int i = 0; i + 1 < count; i++) {
        int32_t start[IMAGES + 1];
        struct micro_batch mb = slice(w, cuts[i], cuts[i + 1], start);
        assert_ok(captioner_forward_backward(w->c, &mb, pass, &err), err);
    }
    assert_ok(captioner_step_sums(w->c, ret_sums, &err), err);
    struct captioner_router router = router_of(ret_sums);
    assert_ok(captioner_router_backward(w->c, &router, -1, &err), err);
    return copy_grads(w);
}

static const int whole[] = {0, IMAGES};
static const struct captioner_pass plain = {.seed = 1};

static void gradients_of_every_tensor_equal_autograd(void **state)
{
    for (int moe = 0; moe < 2; moe++) {
        AUTO_WORLD w = world_open(moe ? CAPTIONER_MOE : CAPTIONER_NORMAL);
        const struct captioner_params *params = captioner_params(w.c);
        struct captioner_sums sums;
        bl_autofree float *grads = gradients(&w, whole, 2, &plain, &sums);
        assert_int_equal(sums.tokens, 20);
        assert_int_equal(sums.images, IMAGES);
        for (int64_t i = 0; i < params->tensors; i++) {
            const struct captioner_param *param = &params->at[i];
            float *grad = grads + param->offset;
            if (param->offset < params->router_first)
                for (int64_t j = 0; j < param->count; j++)
                    grad[j] /= (float)sums.tokens;
            char name[80];
            snprintf(name, sizeof name, "grad.%s", param->name);
            assert_golden(&w, name, grad, 1e-4);
        }
    }
}

static void captions_equal_the_reference(void **state)
{
    for (int moe = 0; moe < 2; moe++)
        for (int beam = 0; beam < 2; beam++) {
            AUTO_WORLD w = world_open(moe ? CAPTIONER_MOE : CAPTIONER_NORMAL);
            struct bl_error err = {0};
            const struct hf_llm *llm = captioner_llm(w.c);
            struct captioner_generation how = {.max_new = MAX_NEW,
                                               .beams = beam ? 3 : 1,
                                               .top_p = 1,
                                               .eos = llm->eos,
                                               .eos_count = llm->eos_count};
            int32_t ids[IMAGES][MAX_NEW];
            struct captioner_caption captions[IMAGES] = {
                {.ids = ids[0]}, {.ids = ids[1]}, {.ids = ids[2]}};
            const int32_t *expected = data_of(w.expected, beam ? "beam" : "greedy");
            assert_ok(captioner_generate(w.c, &w.prompts, &how, captions, &err), err);
            for (int b = 0; b < IMAGES; b++) {
                int32_t length = 0;
                while (length < MAX_NEW && expected[b * MAX_NEW + length] >= 0)
                    length++;
                assert_int_equal(captions[b].count, length);
                assert_memory_equal(ids[b], expected + b * MAX_NEW, (size_t)length * sizeof **ids);
                assert_int_equal(captions[b].ended, length < MAX_NEW);
            }
        }
}

static void attention_pictures_equal_the_reference(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    struct bl_error err = {0};
    float probs[IMAGES * 3 * 9];
    assert_ok(captioner_attention(w.c, &w.mb, probs, &err), err);
    assert_golden(&w, "attention", probs, 1e-5);
}

/* -- two ways, one answer -- */

static void a_batch_in_parts_gives_the_gradient_of_the_whole(void **state)
{
    const int parts[] = {0, 1, 1, 3}; /* the second is empty */
    for (int moe = 0; moe < 2; moe++) {
        AUTO_WORLD w = world_open(moe ? CAPTIONER_MOE : CAPTIONER_NORMAL);
        struct captioner_pass pass = {.seed = 5, .step = 7, .dropout = true};
        struct captioner_sums one, many;
        bl_autofree float *a = gradients(&w, whole, 2, &pass, &one);
        bl_autofree float *b = gradients(&w, parts, 4, &pass, &many);
        assert_close("gradient", b, a, (size_t)captioner_params(w.c)->count, 1e-5);
        assert_true(fabs(one.nll - many.nll) < 1e-4);
        assert_int_equal(one.tokens, many.tokens);
        assert_int_equal(one.images, many.images);
    }
}

static void dropout_belongs_to_the_sample_and_the_step(void **state)
{
    const int parts[] = {0, 1, 3};
    for (int moe = 0; moe < 2; moe++) {
        char vision[512], llm[512];
        struct captioner_options options =
            golden_options(moe ? CAPTIONER_MOE : CAPTIONER_NORMAL, vision, llm);
        options.dropout = 0.2f;
        options.projector_dropout = 0.3f;
        AUTO_WORLD w = world_open_with(&options, 1);
        size_t count = (size_t)captioner_params(w.c)->count;
        struct captioner_pass pass = {.seed = 5, .step = 7, .dropout = true}, later = pass;
        later.step++;
        struct captioner_sums sums;
        bl_autofree float *a = gradients(&w, whole, 2, &pass, &sums);
        bl_autofree float *b = gradients(&w, parts, 3, &pass, &sums);
        bl_autofree float *c = gradients(&w, whole, 2, &later, &sums);
        bl_autofree float *d = gradients(&w, whole, 2, &plain, &sums);
        assert_close("gradient", b, a, count, 1e-5);
        assert_true(relative(c, a, count) > 0.05);
        assert_true(relative(d, a, count) > 0.05);
    }
}

static void the_same_micro_batch_gives_the_same_bits_on_any_number_of_threads(void **state)
{
    struct captioner_sums first, second;
    bl_autofree float *a = NULL;
    size_t count;
    {
        AUTO_WORLD w = world_open(CAPTIONER_MOE);
        count = (size_t)captioner_params(w.c)->count;
        a = gradients(&w, whole, 2, &plain, &first);
    }
    for (int threads = 1; threads <= 3; threads++) {
        char vision[512], llm[512];
        struct captioner_options options = golden_options(CAPTIONER_MOE, vision, llm);
        AUTO_WORLD w = world_open_with(&options, threads);
        bl_autofree float *b = gradients(&w, whole, 2, &plain, &second);
        assert_memory_equal(a, b, count * sizeof *a);
        assert_memory_equal(&first, &second, sizeof first);
    }
}

static void the_router_gradient_is_the_sum_of_its_grains(void **state)
{
    const int parts[] = {0, 2, 2, 3};
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    const struct captioner_params *params = captioner_params(w.c);
    int64_t count = params->count - params->router_first;
    struct bl_error err = {0};
    struct captioner_sums sums;
    bl_autofree float *all = gradients(&w, parts, 4, &plain, &sums);
    struct captioner_router router = router_of(&sums);
    bl_autofree float *sum = calloc((size_t)count, sizeof *sum);
    for (int64_t grain = 0; grain < 3; grain++) {
        assert_ok(captioner_router_backward(w.c, &router, grain, &err), err);
        bl_autofree float *part = copy_grads(&w);
        for (int64_t i = 0; i < count; i++)
            sum[i] += part[params->router_first + i];
    }
    assert_close("router", sum, all + params->router_first, (size_t)count, 1e-5);
}

static void routing_sums_are_those_of_the_weights(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    struct bl_error err = {0};
    float weights[IMAGES * 3];
    struct captioner_sums sums;
    free(gradients(&w, whole, 2, &plain, &sums));
    assert_ok(captioner_routing_weights(w.c, &w.mb, weights, &err), err);
    double entropy = 0;
    for (int e = 0; e < 3; e++) {
        double share = 0;
        for (int b = 0; b < IMAGES; b++) {
            double x = (double)weights[b * 3 + e];
            share += x;
            entropy -= x * log(x);
        }
        assert_true(fabs((double)sums.share[e] / OPS_FIXED_SCALE - share) < 1e-6);
    }
    assert_true(fabs(sums.entropy - entropy) < 1e-5);
    assert_true(sums.lse2 > 0);
}

struct covered {
    int64_t end, calls;
    bool in_order;
};

static void cover(void *ctx, int64_t first, int64_t count)
{
    struct covered *covered = ctx;
    covered->in_order &= first == covered->end && count > 0;
    covered->end = first + count;
    covered->calls++;
}

static void ready_gradients_cover_everything_but_the_router_once_and_in_order(void **state)
{
    for (int moe = 0; moe < 2; moe++)
        for (int end = 0; end <= IMAGES; end += IMAGES) {
            AUTO_WORLD w = world_open(moe ? CAPTIONER_MOE : CAPTIONER_NORMAL);
            struct bl_error err = {0};
            struct covered covered = {.in_order = true};
            struct captioner_pass pass = {.grads_ready = cover, .ctx = &covered};
            int32_t start[IMAGES + 1];
            struct micro_batch mb = slice(&w, 0, end, start);
            captioner_step_begin(w.c);
            assert_ok(captioner_forward_backward(w.c, &mb, &pass, &err), err);
            assert_true(covered.in_order);
            assert_int_equal(covered.end, captioner_params(w.c)->router_first);
            assert_int_equal(covered.calls,
                             5); /* projector; final_ln; two blocks; vis_proj and query */
            struct captioner_sums sums;
            assert_ok(captioner_step_sums(w.c, &sums, &err), err);
            assert_int_equal(sums.images, end);
        }
}

static void cached_features_are_as_good_as_pixels(void **state)
{
    for (int moe = 0; moe < 2; moe++) {
        AUTO_WORLD w = world_open(moe ? CAPTIONER_MOE : CAPTIONER_NORMAL);
        struct bl_error err = {0};
        size_t width = (size_t)captioner_vision(w.c)->hidden,
               count = (size_t)captioner_vision(w.c)->tokens * width;
        bl_autofree float *features = malloc(IMAGES * count * sizeof *features);
        bl_autofree float *pooled = malloc(IMAGES * width * sizeof *pooled);
        assert_ok(captioner_encode(w.c, IMAGES, w.mb.pixels, features, pooled, &err), err);
        struct captioner_sums sums;
        bl_autofree float *a = gradients(&w, whole, 2, &plain, &sums);
        struct micro_batch mb = w.mb;
        mb.pixels = NULL;
        mb.features = features;
        mb.pooled = pooled;
        w.mb = mb;
        captioner_step_begin(w.c);
        assert_ok(captioner_forward_backward(w.c, &mb, &plain, &err), err);
        struct captioner_sums again;
        assert_ok(captioner_step_sums(w.c, &again, &err), err);
        struct captioner_router router = router_of(&again);
        assert_ok(captioner_router_backward(w.c, &router, 0, &err), err);
        bl_autofree float *b = copy_grads(&w);
        assert_memory_equal(a, b, (size_t)captioner_params(w.c)->count * sizeof *a);
    }
}

static void the_tower_gives_an_image_the_same_features_whatever_comes_with_it(void **state)
{
    char vision[512], llm[512], folder[512];
    struct captioner_options options = golden_options(CAPTIONER_MOE, vision, llm);
    options.images_alone = true;
    AUTO_WORLD w = world_open_with(&options, 1);
    struct bl_error err = {0};
    bl_auto(tower) struct tower *t = NULL;
    assert_ok(tower_open(w.ops, golden(folder, "siglip"), true, true, &t, &err), err);
    size_t width = (size_t)tower_vision(t)->hidden, count = (size_t)tower_vision(t)->tokens * width,
           image = (size_t)(tower_vision(t)->image_size * tower_vision(t)->image_size * 3);
    bl_autofree float *expected = calloc(IMAGES * count, sizeof *expected),
                      *found = calloc(IMAGES * count, sizeof *found);
    float expected_pooled[IMAGES * 64], found_pooled[IMAGES * 64];
    assert_true(width <= 64);
    assert_ok(captioner_encode(w.c, IMAGES, w.mb.pixels, expected, expected_pooled, &err), err);
    for (size_t at_once = 1; at_once <= IMAGES; at_once += IMAGES - 1) {
        memset(found, 0, IMAGES * count * sizeof *found);
        for (size_t i = 0; i < IMAGES; i += at_once)
            assert_ok(tower_encode(t, (int64_t)at_once, w.mb.pixels + i * image, found + i * count,
                                   found_pooled + i * width, &err),
                      err);
        assert_memory_equal(found, expected, IMAGES * count * sizeof *found);
        assert_memory_equal(found_pooled, expected_pooled, IMAGES * width * sizeof *found_pooled);
    }
}

/* -- captions -- */

static struct captioner_generation sampling(float temperature, float top_p)
{
    return (struct captioner_generation){
        .max_new = MAX_NEW, .beams = 1, .temperature = temperature, .top_p = top_p, .seed = 3};
}

static void assert_same_captions(struct world *w, const struct micro_batch *mb,
                                 const struct captioner_generation *how, int32_t ids[][MAX_NEW])
{
    struct bl_error err = {0};
    struct captioner_caption captions[IMAGES];
    for (int b = 0; b < mb->B; b++)
        captions[b] = (struct captioner_caption){.ids = ids[b]};
    assert_ok(captioner_generate(w->c, mb, how, captions, &err), err);
    for (int b = 0; b < mb->B; b++)
        assert_int_equal(captions[b].count, MAX_NEW);
}

static void sampling_at_no_temperature_or_in_a_nucleus_of_one_is_greedy(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    int32_t greedy[IMAGES][MAX_NEW], cold[IMAGES][MAX_NEW], narrow[IMAGES][MAX_NEW];
    struct captioner_generation how = sampling(0, 1), colder = sampling(1e-3f, 1),
                                narrower = sampling(1, 1e-6f);
    assert_same_captions(&w, &w.prompts, &how, greedy);
    assert_same_captions(&w, &w.prompts, &colder, cold);
    assert_same_captions(&w, &w.prompts, &narrower, narrow);
    assert_memory_equal(greedy, cold, sizeof greedy);
    assert_memory_equal(greedy, narrow, sizeof greedy);
}

static void a_sampled_caption_does_not_depend_on_its_neighbours(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    int32_t all[IMAGES][MAX_NEW], one[1][MAX_NEW], other[IMAGES][MAX_NEW], start[IMAGES + 1];
    struct captioner_generation how = sampling(1, 0.95f), reseeded = how;
    reseeded.seed++;
    assert_same_captions(&w, &w.prompts, &how, all);
    assert_same_captions(&w, &w.prompts, &reseeded, other);
    assert_memory_not_equal(all, other, sizeof all);
    w.mb = w.prompts;
    for (int b = 0; b < IMAGES; b++) {
        struct micro_batch mb = slice(&w, b, b + 1, start);
        assert_same_captions(&w, &mb, &how, one);
        assert_memory_equal(one[0], all[b], sizeof one[0]);
    }
}

/* Where id occurs first among count ids; count: nowhere. */
static int first_place(const int32_t *ids, int count, int32_t id)
{
    int i = 0;
    while (i < count && ids[i] != id)
        i++;
    return i;
}

static void behind_a_trace_the_captions_tokens_are_counted_alone(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    struct bl_error err = {0};
    int32_t greedy[IMAGES][MAX_NEW], ids[IMAGES][MAX_NEW];
    struct captioner_generation how = {.max_new = MAX_NEW, .beams = 1, .top_p = 1};
    assert_same_captions(&w, &w.prompts, &how, greedy);
    for (int beams = 1; beams <= 2; beams++) {
        struct captioner_caption captions[IMAGES] = {
            {.ids = ids[0]}, {.ids = ids[1]}, {.ids = ids[2]}};
        const int max_trace = MAX_NEW - 1;
        how = (struct captioner_generation){.max_new = 1,
                                            .max_trace = max_trace,
                                            .close = &greedy[0][1],
                                            .close_count = 1,
                                            .beams = beams,
                                            .top_p = 1};
        assert_ok(captioner_generate(w.c, &w.prompts, &how, captions, &err), err);
        for (int b = 0; b < IMAGES; b++) {
            int at = first_place(ids[b], captions[b].count, greedy[0][1]);
            assert_int_equal(captions[b].count, at == captions[b].count ? max_trace : at + 2);
            if (beams == 1)
                assert_memory_equal(ids[b], greedy[b], (size_t)captions[b].count * sizeof **ids);
        }
        if (beams == 1) /* the trace of the first image ends */
            assert_true(captions[0].count <= 3);
    }
}

static void without_the_image_a_text_is_as_likely_whatever_it_shows(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    struct bl_error err = {0};
    struct captioner_score given[IMAGES], alone[IMAGES], again[IMAGES];
    int32_t start[IMAGES + 1];
    assert_ok(captioner_evaluate(w.c, &w.mb, given, NULL, NULL, &err), err);
    struct micro_batch text = w.mb;
    text.text_only = true;
    assert_ok(captioner_evaluate(w.c, &text, alone, NULL, NULL, &err), err);
    text.pixels = NULL;
    assert_ok(captioner_evaluate(w.c, &text, again, NULL, NULL, &err), err);
    for (int b = 0; b < IMAGES; b++) {
        assert_int_equal(alone[b].tokens, given[b].tokens);
        assert_true(alone[b].nll == again[b].nll && alone[b].nll != given[b].nll);
        struct micro_batch one = slice(&w, b, b + 1, start);
        one.text_only = true;
        assert_ok(captioner_evaluate(w.c, &one, again, NULL, NULL, &err), err);
        assert_true(fabs(again[0].nll / alone[b].nll - 1) < 1e-5);
    }
}

static void a_caption_is_as_likely_as_its_score_says(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    struct bl_error err = {0};
    for (int beam = 0; beam < 2; beam++) {
        struct captioner_generation how = {.max_new = MAX_NEW, .beams = beam ? 4 : 1, .top_p = 1};
        int32_t ids[IMAGES][MAX_NEW], text[IMAGES * (MAX_NEW + 8)], start[IMAGES + 1] = {0};
        uint8_t labels[IMAGES * (MAX_NEW + 8)];
        struct captioner_caption captions[IMAGES] = {
            {.ids = ids[0]}, {.ids = ids[1]}, {.ids = ids[2]}};
        assert_ok(captioner_generate(w.c, &w.prompts, &how, captions, &err), err);
        int32_t n = 0;
        for (int b = 0; b < IMAGES; b++) {
            for (int32_t i = w.prompts.ids_start[b]; i < w.prompts.ids_start[b + 1]; i++, n++) {
                text[n] = w.prompts.ids[i];
                labels[n] = 0;
            }
            for (int i = 0; i < MAX_NEW; i++, n++) {
                text[n] = ids[b][i];
                labels[n] = 1;
            }
            start[b + 1] = n;
        }
        struct micro_batch mb = w.mb;
        mb.ids = text;
        mb.ids_start = start;
        mb.labels = labels;
        struct captioner_score scores[IMAGES];
        assert_ok(captioner_evaluate(w.c, &mb, scores, NULL, NULL, &err), err);
        for (int b = 0; b < IMAGES; b++) {
            assert_true(fabs(scores[b].nll / (double)captions[b].nll - 1) < 1e-5);
            if (!beam)
                assert_int_equal(scores[b].correct, MAX_NEW);
        }
    }
}

/* -- parameters -- */

static void initial_values_are_those_of_pytorch_and_of_the_seed(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    struct bl_error err = {0};
    const struct captioner_params *params = captioner_params(w.c);
    size_t bytes = (size_t)params->count * sizeof(float);
    bl_autofree float *a = malloc(bytes);
    bl_autofree float *b = malloc(bytes);
    assert_ok(captioner_init(w.c, 2, &err), err);
    w.ops->copy_out(w.ops, b, params->values, bytes);
    assert_ok(captioner_init(w.c, 1, &err), err);
    w.ops->copy_out(w.ops, a, params->values, bytes);
    assert_memory_not_equal(a, b, bytes);
    /* mean of squares: uniform bound^2 / 3, N(0,1) 1 */
    static const struct {
        const char *name;
        double mean_square, slack;
    } cases[] = {
        {"query", 1, 0.5},
        {"vis_proj.weight", 1.0 / 20 / 3, 0.2},
        {"layers.1.self_attn.in_proj_weight", 6.0 / 48 / 3, 0.15},
        {"layers.1.self_attn.in_proj_bias", 0, 0},
        {"layers.0.cross_attn.out_proj.weight", 1.0 / 12 / 3, 0.25},
        {"layers.0.cross_attn.out_proj.bias", 0, 0},
        {"layers.0.mlp.2.weight", 1.0 / 48 / 3, 0.15},
        {"layers.0.ln2.weight", 1, 0},
        {"layers.0.ln2.bias", 0, 0},
        {"experts.2.4.weight", 1.0 / 64 / 3, 0.1},
        {"experts.2.4.bias", 1.0 / 64 / 3, 0.7},
        {"router.1.weight", 1.0 / 20 / 3, 0.25},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct captioner_param *param = NULL;
        for (int64_t t = 0; t < params->tensors && !param; t++)
            if (strcmp(params->at[t].name, cases[i].name) == 0)
                param = &params->at[t];
        assert_non_null(param);
        double sum = 0, bound = sqrt(3 * cases[i].mean_square);
        for (int64_t j = 0; j < param->count; j++) {
            double x = (double)a[param->offset + j];
            sum += x * x;
            if (param->matrix)
                assert_true(fabs(x) <= bound * (1 + 1e-6));
        }
        double found = sum / (double)param->count;
        if (fabs(found - cases[i].mean_square) > cases[i].slack * cases[i].mean_square)
            fail_msg("%s: expected a mean square of %g, found %g", cases[i].name,
                     cases[i].mean_square, found);
    }
}

static void gaps_between_tensors_are_zero_and_tensors_are_aligned(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    const struct captioner_params *params = captioner_params(w.c);
    struct captioner_sums sums;
    bl_autofree float *grads = gradients(&w, whole, 2, &plain, &sums);
    int64_t end = 0;
    for (int64_t i = 0; i <= params->tensors; i++) {
        int64_t next = i < params->tensors ? params->at[i].offset : params->count;
        assert_true(next >= end && next - end < 16 && next % 16 == 0);
        for (; end < next; end++)
            assert_true(grads[end] == 0);
        end = i < params->tensors ? next + params->at[i].count : end;
    }
}

static void remove_folder(void *path)
{
    bl_folder_remove(path, NULL);
}

static void saved_weights_come_back_bit_for_bit(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    struct bl_error err = {0};
    __attribute__((cleanup(remove_folder))) char folder[] = "/tmp/blipren-model-XXXXXX";
    assert_non_null(mkdtemp(folder));
    const struct captioner_params *params = captioner_params(w.c);
    size_t bytes = (size_t)params->count * sizeof(float);
    bl_autofree float *a = malloc(bytes);
    bl_autofree float *b = malloc(bytes);
    assert_ok(captioner_init(w.c, 9, &err), err);
    w.ops->copy_out(w.ops, a, params->values, bytes);
    assert_ok(weights_save(w.ops, w.c, folder, &err), err);
    assert_ok(captioner_init(w.c, 10, &err), err);
    assert_ok(weights_load(w.ops, w.c, folder, &err), err);
    w.ops->copy_out(w.ops, b, params->values, bytes);
    assert_memory_equal(a, b, bytes);
}

static void assert_error(const struct bl_error *err, int code, const char *key, const char *text)
{
    assert_int_equal(err->code, code);
    assert_string_equal(err->key, key);
    assert_string_equal(err->text, text);
}

static void weights_of_another_model_are_refused_by_name(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    struct bl_error err = {0};
    char path[512];
    assert_int_equal(weights_load(w.ops, w.c, golden(path, "normal"), &err), -BL_EFORMAT);
    assert_error(&err, BL_EFORMAT, "tensor \"ln1.bias\"",
                 "found a tensor that the configured model does not have");
    assert_non_null(strstr(err.file, "normal/projector.safetensors"));

    char vision[512], llm[512];
    struct captioner_options options = golden_options(CAPTIONER_NORMAL, vision, llm);
    options.queries = 4;
    struct captioner *c = NULL;
    assert_ok(captioner_open(w.ops, &options, &c, &err), err);
    assert_int_equal(weights_load(w.ops, c, golden(path, "normal"), &err), -BL_EFORMAT);
    assert_string_equal(err.key, "tensor \"query\"");
    captioner_free(&c);
}

/* -- what cannot be -- */

static void options_that_do_not_fit_are_refused_by_key(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    char vision[512], llm[512];
    struct captioner_options good = golden_options(CAPTIONER_MOE, vision, llm), bad;
    static const struct {
        const char *key, *text;
    } expected[] = {
        {"qformer.heads", "expected a divisor of the Q-Former's width"},
        {"qformer.queries", "expected at least 1"},
        {"qformer.layers", "expected at least 1"},
        {"projector.experts", "expected 2 to 64 experts"},
        {"qformer.dropout", "expected a share from 0 to below 1"},
        {"projector.dropout", "expected a share from 0 to below 1"},
        {"llm.bos", "the tokenizer's BOS is outside the language model's vocabulary"},
    };
    for (int i = 0; i < 7; i++) {
        struct captioner *c = NULL;
        struct bl_error err = {0};
        bad = good;
        bad.heads = i == 0 ? 5 : bad.heads;
        bad.queries = i == 1 ? 0 : bad.queries;
        bad.layers = i == 2 ? 0 : bad.layers;
        bad.experts = i == 3 ? 1 : bad.experts;
        bad.dropout = i == 4 ? 1 : bad.dropout;
        bad.bos_id = i == 6 ? 40 : bad.bos_id;
        bad.projector_dropout = i == 5 ? NAN : bad.projector_dropout;
        assert_int_equal(captioner_open(w.ops, &bad, &c, &err), -BL_ECONFIG);
        assert_error(&err, BL_ECONFIG, expected[i].key, expected[i].text);
        assert_null(c);
    }
}

/* A copy of a golden folder with config.json and the tensors that keep() wants. */
static void copy_folder(const char *to, const char *from, bool (*keep)(const char *name))
{
    struct bl_error err = {0};
    char path[512];
    assert_ok(bl_folder_make(to, &err), err);
    snprintf(path, sizeof path, "%s/config.json", from);
    char *config;
    size_t size;
    assert_ok(bl_file_read(path, 1 << 20, &config, &size, &err), err);
    snprintf(path, sizeof path, "%s/config.json", to);
    assert_ok(bl_file_write(path, config, size, &err), err);
    free(config);
    bl_auto(safetensors) struct safetensors *source = NULL;
    assert_ok(safetensors_open(from, &source, &err), err);
    struct tensor kept[128];
    size_t count = 0;
    for (size_t i = 0; i < safetensors_count(source); i++)
        if (keep(safetensors_at(source, i)->name))
            kept[count++] = *safetensors_at(source, i);
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    assert_ok(safetensors_write(path, kept, count, NULL, &err), err);
}

static bool without_head(const char *name)
{
    return strncmp(name, "head.", 5) != 0;
}
static bool without_down(const char *name)
{
    return strcmp(name, "model.layers.1.mlp.down_proj.weight") != 0;
}

static void
a_missing_tensor_is_named_and_the_pooling_head_is_needed_by_pooled_routing_alone(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    __attribute__((cleanup(remove_folder))) char folder[] = "/tmp/blipren-model-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char vision[512], llm[512], tower[600], language[600];
    struct captioner_options options = golden_options(CAPTIONER_MOE, vision, llm);
    snprintf(tower, sizeof tower, "%s/tower", folder);
    snprintf(language, sizeof language, "%s/language", folder);
    copy_folder(tower, vision, without_head);
    copy_folder(language, llm, without_down);

    struct captioner *c = NULL;
    struct bl_error err = {0};
    options.vision = tower;
    assert_int_equal(captioner_open(w.ops, &options, &c, &err), -BL_EFORMAT);
    assert_string_equal(err.key, "tensor \"head.attention.in_proj_weight\"");
    assert_non_null(strstr(err.file, "tower"));
    options.routing = CAPTIONER_MEAN;
    assert_ok(captioner_open(w.ops, &options, &c, &err), err);
    captioner_free(&c);
    options.llm = language;
    assert_int_equal(captioner_open(w.ops, &options, &c, &err), -BL_EFORMAT);
    assert_string_equal(err.key, "tensor \"model.layers.1.mlp.down_proj.weight\"");
    assert_non_null(strstr(err.file, "language"));
}

static void ids_and_lengths_that_the_language_model_does_not_know_are_refused(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_NORMAL);
    struct captioner_score score;
    int32_t ids[64] = {5, 40, 6}, start[2] = {0, 3};
    uint8_t labels[64] = {0};
    struct micro_batch mb = w.mb;
    mb.B = 1;
    mb.ids = ids;
    mb.ids_start = start;
    mb.labels = labels;
    struct bl_error err = {0};
    assert_int_equal(captioner_evaluate(w.c, &mb, &score, NULL, NULL, &err), -BL_EDATA);
    assert_string_equal(err.text, "text 0: token 40 is outside the vocabulary of 40");
    ids[1] = -1;
    assert_int_equal(captioner_evaluate(w.c, &mb, &score, NULL, NULL, &err), -BL_EDATA);
    assert_string_equal(err.text, "text 0: token -1 is outside the vocabulary of 40");
    ids[1] = 7;
    start[1] = 61;
    assert_int_equal(captioner_evaluate(w.c, &mb, &score, NULL, NULL, &err), -BL_EDATA);
    assert_string_equal(err.text, "text 0: 61 tokens and 4 more exceed the language model's 64");
    start[1] = 60;
    assert_ok(captioner_evaluate(w.c, &mb, &score, NULL, NULL, &err), err);
    start[0] = 1;
    assert_int_equal(captioner_evaluate(w.c, &mb, &score, NULL, NULL, &err), -BL_EDATA);
    assert_string_equal(err.text, "text 0: expected starts that grow from 0, found 60 after 1");
}

/* -- memory -- */

static int (*real_alloc)(struct ops *self, size_t bytes, void **ret, struct bl_error *err);
static int allocations_left, allocations;
static size_t allocated; /* bytes */

static int counted_alloc(struct ops *self, size_t bytes, void **ret, struct bl_error *err)
{
    allocations++;
    allocated += bytes;
    if (allocations_left-- == 0)
        return bl_fail(err, BL_ENOMEM, "no memory: the test says so");
    return real_alloc(self, bytes, ret, err);
}

static void a_warm_step_asks_the_device_for_no_memory(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    struct captioner_sums sums;
    free(gradients(&w, whole, 2, &plain, &sums));
    free(gradients(&w, whole, 2, &plain, &sums));
    real_alloc = w.ops->alloc;
    w.ops->alloc = counted_alloc;
    allocations = 0;
    allocations_left = -1;
    free(gradients(&w, whole, 2, &plain, &sums));
    assert_int_equal(allocations, 0);
}

/* Sizes of the device's arrays in use, by address. */
static struct {
    void *memory;
    size_t bytes;
} arrays[256];
static int64_t array_bytes;
static void (*real_release)(struct ops *self, void *p);

static int measured_alloc(struct ops *self, size_t bytes, void **ret, struct bl_error *err)
{
    int rc = real_alloc(self, bytes, ret, err);
    size_t i = 0;
    while (arrays[i].memory)
        assert_true(++i < sizeof arrays / sizeof *arrays);
    arrays[i].memory = *ret;
    arrays[i].bytes = bytes;
    array_bytes += (int64_t)bytes;
    return rc;
}

static void measured_release(struct ops *self, void *p)
{
    size_t i = 0;
    while (p && arrays[i].memory != p)
        assert_true(++i < sizeof arrays / sizeof *arrays);
    if (p) {
        array_bytes -= (int64_t)arrays[i].bytes;
        arrays[i].memory = NULL;
    }
    real_release(self, p);
}

/* Two micro-batches over the given device; the captioner is freed. */
static void train_twice(struct ops *ops, const struct captioner_options *options,
                        const struct micro_batch *mb, int64_t (*in_use)(const struct ops *ops),
                        int64_t *ret)
{
    struct bl_error err = {0};
    struct captioner *c = NULL;
    assert_ok(captioner_open(ops, options, &c, &err), err);
    captioner_step_begin(c);
    for (int i = 0; i < 2; i++)
        assert_ok(captioner_forward_backward(c, mb, &plain, &err), err);
    *ret = in_use(ops);
    captioner_free(&c);
    assert_int_equal(in_use(ops), 0);
}

static int64_t measured(const struct ops *ops)
{
    return array_bytes;
}

static int64_t counted(const struct ops *ops)
{
    struct ops_usage usage;
    ops_dry_usage(ops, &usage);
    return usage.bytes[OPS_ARRAYS];
}

static void a_dry_run_asks_for_what_a_real_one_takes(void **state)
{
    for (int i = 0; i < 2; i++) {
        enum captioner_projector kind = i ? CAPTIONER_MOE : CAPTIONER_NORMAL;
        AUTO_WORLD w = world_open(kind);
        struct bl_error err = {0};
        char vision[512], llm[512];
        struct captioner_options options = golden_options(kind, vision, llm);
        struct ops *real = NULL, *dry = NULL;
        int64_t real_bytes, dry_bytes;
        assert_ok(ops_cpu_open(OPS_F32, 1, &real, &err), err);
        real_alloc = real->alloc;
        real_release = real->release;
        real->alloc = measured_alloc;
        real->alloc_zero = NULL; /* by alloc, which is measured */
        real->release = measured_release;
        train_twice(real, &options, &w.mb, measured, &real_bytes);
        ops_free(&real);
        assert_ok(ops_cpu_dry_open(OPS_F32, 1, &dry, &err), err);
        train_twice(dry, &options, &w.mb, counted, &dry_bytes);
        ops_free(&dry);
        assert_true(dry_bytes > 0);
        assert_int_equal(dry_bytes, real_bytes);
    }
}

/* Lists of a step's losses still grow, which are small. */
static void after_a_dry_rehearsal_the_first_micro_batch_takes_what_is_reserved(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    struct bl_error err = {0};
    char vision[512], llm[512];
    struct captioner_options options = golden_options(CAPTIONER_MOE, vision, llm);
    struct captioner *c = NULL;
    int64_t longest = 0;
    for (int64_t b = 0; b < w.mb.B; b++)
        longest = bl_max(longest, w.mb.ids_start[b + 1] - w.mb.ids_start[b]);
    assert_ok(captioner_open(w.ops, &options, &c, &err), err);
    assert_ok(rehearse_dry(c, &options, OPS_F32, 1, w.mb.B, longest, &err), err);
    const size_t reserved = captioner_micro_batch_bytes(c);
    real_alloc = w.ops->alloc;
    w.ops->alloc = counted_alloc;
    allocations_left = -1;
    allocated = 0;
    captioner_step_begin(c);
    assert_ok(captioner_forward_backward(c, &w.mb, &plain, &err), err);
    assert_true(allocated < reserved / 16);
    assert_int_equal(captioner_micro_batch_bytes(c), reserved);
    w.ops->alloc = real_alloc;
    captioner_free(&c);
}

static void a_dry_run_counts_pages_of_a_file_while_a_matrix_reads_them(void **state)
{
    struct bl_error err = {0};
    struct ops *dry = NULL;
    struct ops_matrix *kept = NULL, *copied = NULL, *table = NULL;
    struct ops_usage usage;
    assert_ok(ops_cpu_dry_open(OPS_F32, 1, &dry, &err), err);
    for (int i = 0; i < 2; i++) {
        assert_ok(dry->matrix_frozen(dry, &kept, NULL, BL_F32, 64, 32, OPS_DATA_STAYS, &err), err);
        assert_ok(dry->matrix_frozen(dry, &copied, NULL, BL_F32, 64, 32, OPS_DATA_GOES, &err), err);
        assert_ok(dry->matrix_frozen(dry, &table, NULL, BL_F32, 64, 32, OPS_DATA_LOOKED_UP, &err),
                  err);
        ops_dry_usage(dry, &usage);
        assert_int_equal(usage.bytes[OPS_MATRICES], 2 * 64 * 32 * 4);
        dry->matrix_free(dry, &kept);
        dry->matrix_free(dry, &copied);
        dry->matrix_free(dry, &table);
        ops_dry_usage(dry, &usage);
        assert_int_equal(usage.bytes[OPS_MATRICES], 0);
    }
    ops_free(&dry);
}

/* Opens, loads, trains and captions once; 0 or the first failure. */
static int live(struct ops *ops, const struct captioner_options *options, const struct world *w,
                struct bl_error *err)
{
    bl_auto(captioner) struct captioner *c = NULL;
    char path[512];
    BL_TRY(captioner_open(ops, options, &c, err));
    BL_TRY(weights_load(ops, c, golden(path, "moe"), err));
    captioner_step_begin(c);
    BL_TRY(captioner_forward_backward(c, &w->mb, &plain, err));
    struct captioner_sums sums;
    BL_TRY(captioner_step_sums(c, &sums, err));
    struct captioner_router router = router_of(&sums);
    BL_TRY(captioner_router_backward(c, &router, -1, err));
    struct captioner_generation how = {.max_new = MAX_NEW, .beams = 2, .top_p = 1};
    int32_t ids[IMAGES][MAX_NEW];
    struct captioner_caption captions[IMAGES] = {{.ids = ids[0]}, {.ids = ids[1]}, {.ids = ids[2]}};
    return captioner_generate(c, &w->prompts, &how, captions, err);
}

static void the_nth_allocation_may_fail_and_nothing_is_lost(void **state)
{
    AUTO_WORLD w = world_open(CAPTIONER_MOE);
    char vision[512], llm[512];
    struct captioner_options options = golden_options(CAPTIONER_MOE, vision, llm);
    real_alloc = w.ops->alloc;
    w.ops->alloc = counted_alloc;
    int n = 0;
    for (;; n++) {
        struct bl_error err = {0};
        allocations_left = n;
        int rc = live(w.ops, &options, &w, &err);
        if (rc == 0)
            break;
        assert_int_equal(rc, -BL_ENOMEM);
        assert_string_equal(err.text, "no memory: the test says so");
    }
    assert_true(n > 5);
    w.ops->alloc = real_alloc;
}

/* Both forms of cross-attention compute the same, dropout included: gradients of the whole model with
 * values that are random everywhere, key biases included, whose gradient only rounding makes not zero. */
static void folded_cross_attention_gives_the_gradients_of_the_plain_one(void **state)
{
    float *grads[2];
    struct world w[2];
    for (int i = 0; i < 2; i++) {
        char vision[512], llm[512];
        form = i ? CAPTIONER_CROSS_FOLDED : CAPTIONER_CROSS_PLAIN;
        struct captioner_options options = golden_options(CAPTIONER_NORMAL, vision, llm);
        options.dropout = 0.2f;
        w[i] = world_open_with(&options, 2);
        const struct captioner_params *params = captioner_params(w[i].c);
        for (int64_t t = 0; t < params->tensors; t++)
            shake(params->values + params->at[t].offset, params->at[t].count, (uint64_t)t);
        captioner_params_changed(w[i].c);
        struct captioner_pass pass = {.seed = 5, .step = 7, .dropout = true};
        struct captioner_sums sums;
        grads[i] = gradients(&w[i], whole, 2, &pass, &sums);
    }
    const struct captioner_params *params = captioner_params(w[0].c);
    for (int64_t t = 0; t < params->tensors; t++) {
        const struct captioner_param *at = &params->at[t];
        assert_close(at->name, grads[1] + at->offset, grads[0] + at->offset, (size_t)at->count,
                     2e-5);
    }
    for (int i = 0; i < 2; i++) {
        free(grads[i]);
        world_close(&w[i]);
    }
}

/* With dropout, in micro-batches of which one is void; and less memory is taken for it. */
static void blocks_that_are_computed_again_give_the_same_bits(void **state)
{
    static const int cuts[] = {0, 2, 2, IMAGES};
    static const struct captioner_pass dropping = {.seed = 5, .step = 3, .dropout = true};
    for (int projector = CAPTIONER_NORMAL; projector <= CAPTIONER_MOE; projector++) {
        char vision[512], llm[512];
        struct captioner_options options = golden_options(projector, vision, llm);
        options.dropout = options.projector_dropout = 0.25f;
        AUTO_WORLD kept = world_open_with(&options, 1);
        options.recompute = true;
        AUTO_WORLD again = world_open_with(&options, 1);
        struct captioner_sums sums;
        bl_autofree float *expected = gradients(&kept, cuts, 4, &dropping, &sums);
        bl_autofree float *found = gradients(&again, cuts, 4, &dropping, &sums);
        const size_t bytes = (size_t)captioner_params(kept.c)->count * sizeof *found;
        assert_memory_equal(found, expected, bytes);
        assert_true(captioner_micro_batch_bytes(again.c) < captioner_micro_batch_bytes(kept.c));
    }
}

static void heads_wider_than_the_device_takes_are_refused_by_key(void **state)
{
    static const struct {
        int64_t most, found;
        const char *key, *remedy;
    } cases[] = {
        {11, 12, "qformer.heads", "raise qformer.heads, or use --device cpu"},
        {9, 10, "num_attention_heads", "use --device cpu, or another vision model"},
    };
    char vision[512], llm[512], text[128];
    struct captioner_options options = golden_options(CAPTIONER_NORMAL, vision, llm);
    struct captioner *c = NULL;
    struct ops *ops;
    struct bl_error err;
    options.heads = 1;
    assert_ok(ops_cpu_open(OPS_F32, 1, &ops, &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ops->head_dim_max = cases[i].most;
        assert_int_equal(captioner_open(ops, &options, &c, &err), -BL_ECONFIG);
        snprintf(text, sizeof text, "expected attention heads of at most %d values on %s, found %d",
                 (int)cases[i].most, ops->name, (int)cases[i].found);
        assert_string_equal(err.text, text);
        assert_string_equal(err.key, cases[i].key);
        assert_string_equal(err.remedy, cases[i].remedy);
    }
    ops->head_dim_max = 12;
    assert_ok(captioner_open(ops, &options, &c, &err), err);
    captioner_free(&c);
    ops_free(&ops);
}

#define IN_BOTH_FORMS(test)                                                                        \
    {#test, test, plain_form, NULL, NULL},                                                         \
    {                                                                                              \
#test " (folded)", test, folded_form, NULL, NULL                                           \
    }

UNIT_MAIN(cmocka_unit_test(heads_wider_than_the_device_takes_are_refused_by_key),
          cmocka_unit_test(folded_cross_attention_gives_the_gradients_of_the_plain_one),
          IN_BOTH_FORMS(blocks_that_are_computed_again_give_the_same_bits),
          IN_BOTH_FORMS(features_queries_and_logits_equal_the_reference),
          IN_BOTH_FORMS(scores_equal_the_reference_and_follow_a_shuffle_of_the_images),
          IN_BOTH_FORMS(gradients_of_every_tensor_equal_autograd),
          IN_BOTH_FORMS(captions_equal_the_reference),
          IN_BOTH_FORMS(attention_pictures_equal_the_reference),
          IN_BOTH_FORMS(a_batch_in_parts_gives_the_gradient_of_the_whole),
          IN_BOTH_FORMS(dropout_belongs_to_the_sample_and_the_step),
          IN_BOTH_FORMS(the_same_micro_batch_gives_the_same_bits_on_any_number_of_threads),
          cmocka_unit_test(the_router_gradient_is_the_sum_of_its_grains),
          cmocka_unit_test(routing_sums_are_those_of_the_weights),
          IN_BOTH_FORMS(ready_gradients_cover_everything_but_the_router_once_and_in_order),
          cmocka_unit_test(cached_features_are_as_good_as_pixels),
          cmocka_unit_test(the_tower_gives_an_image_the_same_features_whatever_comes_with_it),
          cmocka_unit_test(sampling_at_no_temperature_or_in_a_nucleus_of_one_is_greedy),
          cmocka_unit_test(a_sampled_caption_does_not_depend_on_its_neighbours),
          cmocka_unit_test(a_caption_is_as_likely_as_its_score_says),
          cmocka_unit_test(behind_a_trace_the_captions_tokens_are_counted_alone),
          cmocka_unit_test(without_the_image_a_text_is_as_likely_whatever_it_shows),
          cmocka_unit_test(initial_values_are_those_of_pytorch_and_of_the_seed),
          cmocka_unit_test(gaps_between_tensors_are_zero_and_tensors_are_aligned),
          cmocka_unit_test(saved_weights_come_back_bit_for_bit),
          cmocka_unit_test(weights_of_another_model_are_refused_by_name),
          cmocka_unit_test(options_that_do_not_fit_are_refused_by_key),
          cmocka_unit_test(
              a_missing_tensor_is_named_and_the_pooling_head_is_needed_by_pooled_routing_alone),
          cmocka_unit_test(a_dry_run_asks_for_what_a_real_one_takes),
          cmocka_unit_test(after_a_dry_rehearsal_the_first_micro_batch_takes_what_is_reserved),
          cmocka_unit_test(a_dry_run_counts_pages_of_a_file_while_a_matrix_reads_them),
          cmocka_unit_test(ids_and_lengths_that_the_language_model_does_not_know_are_refused),
          IN_BOTH_FORMS(a_warm_step_asks_the_device_for_no_memory),
          IN_BOTH_FORMS(the_nth_allocation_may_fail_and_nothing_is_lost))
