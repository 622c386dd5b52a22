/* worker/rows.c - see rows.h. */
#include "worker/rows.h"

#include <inttypes.h>
#include <stdlib.h>

int rows_open(struct rows *r, const struct config *config, const char *tower,
              const struct dataset *dataset, struct bl_error *err)
{
    r->dataset = dataset;
    BL_TRY(cache_form_of(config, tower, &r->form, err));
    BL_TRY(features_open(config->cache.path, &r->form, &r->cache, err));
    if (r->cache)
        return 0;
    bl_fail(err, BL_EDATA, "expected the run's feature cache, found none");
    bl_error_remedy(err, "mount cache.path at the same path on every host");
    return bl_error_file(err, config->cache.path);
}

void rows_close(struct rows *r)
{
    features_free(&r->cache);
    free(r->features);
    free(r->pooled);
    *r = (struct rows){0};
}

static int make_room(struct rows *r, int64_t images, struct bl_error *err)
{
    if (images <= r->capacity)
        return 0;
    free(r->features);
    free(r->pooled);
    size_t width = (size_t)(images * r->form.width);
    r->features = calloc(width * (size_t)r->form.tokens, sizeof *r->features);
    r->pooled = calloc(width, sizeof *r->pooled);
    r->capacity = r->features && r->pooled ? images : 0;
    return r->capacity ? 0
                       : bl_fail(err, BL_ENOMEM, "no memory for the features of %" PRId64 " images",
                                 images);
}

int rows_take(struct rows *r, const struct batch *b, struct micro_batch *ret, struct bl_error *err)
{
    BL_TRY(make_room(r, b->good + 1, err));
    for (int64_t i = 0; i < b->good; i++) {
        struct dataset_sample sample;
        uint64_t row;
        dataset_sample(r->dataset, b->slots[i].sample, &sample);
        if (features_find(r->cache, sample.hash, &row) != FEATURES_ROW)
            return bl_fail(err, BL_EDATA,
                           "sample %" PRIu64
                           " was sent without pixels, and has no features in this host's cache",
                           b->slots[i].sample);
        features_read(r->cache, row, r->features + i * r->form.tokens * r->form.width,
                      r->form.pooled ? r->pooled + i * r->form.width : NULL);
    }
    ret->pixels = NULL;
    ret->features = r->features;
    ret->pooled = r->form.pooled ? r->pooled : NULL;
    return 0;
}
