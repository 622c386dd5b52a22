/* coordinator/check_loaders.c - what a thread of a loader makes in a second, and how many a worker needs.
 *
 * The second goes through the calls that loader/sample.c makes of a sample: read, decode and resize, tokenize. The images are
 * spread over the whole data set, so that they come from where training will read them. A worker is timed only when asked for:
 * it opens both models and takes seconds to minutes, and often trains on another kind of machine than the one that checks. */
#include "coordinator/check_parts.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/data/captions.h"
#include "common/image/processor.h"
#include "common/size.h"

#define MEASURED_S 1.0
enum { VAIN_MAX = 100 /* images in a row that could not be used */ };

struct measured {
    uint64_t samples;
    double pixels_s, ids_s; /* spent on them */
};

struct maker {
    struct check *check;
    struct image_processor processor;
    struct caption_rules *rules;
    uint8_t *pixels;
    struct token_ids ids;
};

static void maker_release(struct maker *m)
{
    caption_rules_free(&m->rules);
    free(m->pixels);
    token_ids_release(&m->ids);
}

static int maker_open(struct maker *m, struct bl_error *err)
{
    const struct config *config = m->check->config;
    BL_TRY(image_processor_open(config->vision.path, config->data.max_pixels, &m->processor, err));
    BL_TRY(caption_rules_open(&config->data, m->check->tokenizer, m->check->eos, &m->rules, err));
    size_t side = m->processor.side;
    m->pixels = malloc(side * side * 3);
    return m->pixels ? 0 : bl_fail(err, BL_ENOMEM, "no memory for an image");
}

static int make_pixels(struct maker *m, uint64_t id, struct bl_error *err)
{
    struct dataset_sample sample;
    struct image_facts facts;
    bl_autofree char *data = NULL;
    size_t size = 0;
    dataset_sample(m->check->dataset, id, &sample);
    BL_TRY(location_read(&sample.location, (size_t)m->check->config->data.max_image_bytes, &data,
                         &size, NULL, err));
    return image_processor_run(&m->processor, (const uint8_t *)data, size, m->pixels, &facts, err);
}

static int make_ids(struct maker *m, uint64_t id, struct bl_error *err)
{
    struct dataset_caption caption;
    struct caption_encoded encoded;
    dataset_choose(m->check->dataset, id, (uint64_t)m->check->config->seed, 0, &caption);
    struct caption_text text = dataset_caption_text(&caption);
    m->ids.count = 0;
    return caption_rules_encode(m->rules, &text, &m->ids, &encoded, err);
}

/* Makes one sample and adds it to *ret. */
static int make_one(struct maker *m, uint64_t id, struct measured *ret, struct bl_error *err)
{
    struct check *c = m->check;
    double began = c->now_s(c->clock);
    BL_TRY(make_pixels(m, id, err));
    double half = c->now_s(c->clock);
    BL_TRY(make_ids(m, id, err));
    ret->pixels_s += half - began;
    ret->ids_s += c->now_s(c->clock) - half;
    ret->samples++;
    return 0;
}

/* Images that cannot be used are check_images's to tell of. */
static int measure(struct check *c, struct measured *ret, struct bl_error *err)
{
    __attribute__((cleanup(maker_release))) struct maker maker = {.check = c};
    struct bl_error why;
    uint64_t all = dataset_samples(c->dataset);
    *ret = (struct measured){0};
    BL_TRY(maker_open(&maker, err));
    for (uint64_t i = 0, vain = 0; ret->pixels_s + ret->ids_s < MEASURED_S && vain < VAIN_MAX;
         i++) {
        uint64_t id = i * 2654435761u % all;
        vain = make_one(&maker, id, ret, &why) < 0 ? vain + 1 : 0;
    }
    return 0;
}

/* What is needed of threads that make `rate` a second, for something that takes `wanted` a second. */
static void say_needed(struct check *c, const char *from, double wanted, double rate)
{
    int64_t threads = c->config->cluster.loader_threads;
    if (!threads)
        threads = sysconf(_SC_NPROCESSORS_ONLN);
    check_ok(c, "loaders",
             "a worker on this machine trains %.3g images/s from %s, which takes %.0f loader "
             "thread%s; a loader of %lld feeds %.3g such workers",
             wanted, from, ceil(wanted / rate), wanted > rate ? "s" : "", (long long)threads,
             (double)threads * rate / wanted);
}

static void say_worker(struct check *c, const struct measured *m)
{
    struct estimate_rates worker;
    struct bl_error err;
    int rc = estimate_measure(c->worker, c->yaml, dataset_mean_length(c->dataset),
                              c->config->threads, &worker, &err);
    if (!check_passes(c, "loaders", rc, &err))
        return;
    say_needed(c, "images", 1 / (1 / worker.tower + 1 / worker.step),
               (double)m->samples / (m->pixels_s + m->ids_s));
    if (c->config->cache.path)
        say_needed(c, "the feature cache", worker.step, (double)m->samples / m->ids_s);
}

void check_loaders(struct check *c)
{
    struct measured m;
    struct bl_error err;
    if (c->errors || !c->dataset)
        return;
    if (!check_passes(c, "loaders", measure(c, &m, &err), &err))
        return;
    if (!m.samples) {
        check_note(c, "loaders", "no image can be read yet to measure what a loader makes");
        return;
    }
    double samples = (double)m.samples, rate = samples / (m.pixels_s + m.ids_s);
    check_ok(c, "loaders",
             "one thread of a loader makes %.3g images/s: %.3g ms an image, %.3g ms a caption; "
             "measured with %llu",
             rate, 1000 * m.pixels_s / samples, 1000 * m.ids_s / samples,
             (unsigned long long)m.samples);
    if (c->measure)
        say_worker(c, &m);
    else
        check_note(c, "loaders",
                   "a worker needs a loader thread for every %.3g images/s that it trains: "
                   "blipren-coord check --measure times one here, blipren-worker measure where it "
                   "will run",
                   rate);
}
