/* worker/embedder.c - see embedder.h. */
#include "worker/embedder.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/progress.h"
#include "common/size.h"
#include "worker/model/tower.h"

/* Images that are encoded between two signs of progress. */
#define IMAGES_AT_ONCE 8

struct embedder {
    const struct config *config;
    const struct dataset *dataset;
    const uint64_t *images;
    uint64_t image_count;
    struct cache_form form;
    struct tower *tower;
    /* of a shard: */
    float *features, *pooled;
    cache_identity *rows, *voids;
};

int embedder_open(struct ops *ops, const struct config *config, const struct dataset *dataset,
                  const uint64_t *images, uint64_t image_count, struct embedder **ret,
                  struct bl_error *err)
{
    bl_auto(embedder) struct embedder *e = calloc(1, sizeof *e);
    if (!e)
        return bl_fail(err, BL_ENOMEM, "no memory for an embedder");
    e->config = config;
    e->dataset = dataset;
    e->images = images;
    e->image_count = image_count;
    BL_TRY(cache_form_of(config, NULL, &e->form, err));
    BL_TRY(tower_open(ops, config->vision.path, e->form.pooled, e->form.alone, &e->tower, err));
    size_t shard = (size_t)config->cache.shard_images, width = (size_t)e->form.width;
    e->features = calloc(shard * (size_t)e->form.tokens * width, sizeof *e->features);
    e->pooled = calloc(shard * width, sizeof *e->pooled);
    e->rows = calloc(shard, sizeof *e->rows);
    e->voids = calloc(shard, sizeof *e->voids);
    if (!e->features || !e->pooled || !e->rows || !e->voids) {
        bl_fail(err, BL_ENOMEM, "no memory for the features of %zu images", shard);
        return bl_error_remedy(err, "lower cache.shard_images");
    }
    *ret = bl_take(&e);
    return 0;
}

void embedder_free(struct embedder **embedder)
{
    struct embedder *e = *embedder;
    if (!e)
        return;
    tower_free(&e->tower);
    free(e->features);
    free(e->pooled);
    free(e->rows);
    free(e->voids);
    free(e);
    *embedder = NULL;
}

int64_t embedder_side(const struct embedder *e)
{
    return tower_vision(e->tower)->image_size;
}

static int encode(struct embedder *e, const struct batch *b, struct bl_error *err)
{
    int64_t side = embedder_side(e), image = side * side * 3,
            features = e->form.tokens * e->form.width;
    for (int64_t i = 0; i < b->good; i += IMAGES_AT_ONCE) {
        BL_TRY(tower_encode(e->tower, bl_min(IMAGES_AT_ONCE, b->good - i), b->pixels + i * image,
                            e->features + i * features, e->pooled + i * e->form.width, err));
        bl_progress_add(1);
    }
    return 0;
}

/* The identities of the shard's images, which are rows where the batch has pixels of them, and void elsewhere. */
static void name_images(struct embedder *e, const struct batch *b, struct cache_shard *shard)
{
    int64_t row = 0;
    for (uint32_t index = b->first; index < b->first + b->count; index++) {
        struct dataset_sample sample;
        dataset_sample(e->dataset, e->images[index], &sample);
        bool good = row < b->good && b->slots[row].index == (int32_t)index;
        uint8_t *to = good ? e->rows[row] : e->voids[shard->void_count];
        memcpy(to, sample.hash, sizeof *e->rows);
        row += good;
        shard->void_count += !good;
    }
    shard->image_count = (uint32_t)row;
}

int embedder_run(struct embedder *e, const struct batch *b, struct bl_error *err)
{
    uint64_t at_once = (uint64_t)e->config->cache.shard_images;
    struct cache_shard shard = {.index = b->micro_batch,
                                .count = (uint32_t)((e->image_count + at_once - 1) / at_once),
                                .images = (const cache_identity *)e->rows,
                                .voids = (const cache_identity *)e->voids,
                                .features = e->features,
                                .pooled = e->pooled};
    BL_TRY(encode(e, b, err));
    name_images(e, b, &shard);
    return cache_write_shard(e->config->cache.path, &e->form, &shard, err);
}
