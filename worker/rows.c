/* worker/rows.c - see rows.h. */
#include "worker/rows.h"

#include <inttypes.h>
#include <stdlib.h>

int row_buffer_reserve(struct row_buffer *b, const struct cache_form *form, int64_t images,
                       struct bl_error *err)
{
    if (images <= b->capacity)
        return 0;
    row_buffer_release(b);
    size_t width = (size_t)(images * form->width);
    b->features = calloc(width * (size_t)form->tokens, sizeof *b->features);
    b->pooled = calloc(width, sizeof *b->pooled);
    b->capacity = b->features && b->pooled ? images : 0;
    return b->capacity ? 0
                       : bl_fail(err, BL_ENOMEM, "no memory for the features of %" PRId64 " images",
                                 images);
}

void row_buffer_release(struct row_buffer *b)
{
    free(b->features);
    free(b->pooled);
    *b = (struct row_buffer){0};
}

void row_buffer_lend(const struct row_buffer *b, const struct cache_form *form,
                     struct micro_batch *ret)
{
    ret->pixels = NULL;
    ret->features = b->features;
    ret->pooled = form->pooled ? b->pooled : NULL;
}

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
    row_buffer_release(&r->buffer);
    *r = (struct rows){0};
}

int rows_take(struct rows *r, const struct batch *b, struct micro_batch *ret, struct bl_error *err)
{
    BL_TRY(row_buffer_reserve(&r->buffer, &r->form, b->good + 1, err));
    for (int64_t i = 0; i < b->good; i++) {
        struct dataset_sample sample;
        uint64_t row;
        dataset_sample(r->dataset, b->slots[i].sample, &sample);
        if (features_find(r->cache, sample.hash, &row) != FEATURES_ROW)
            return bl_fail(err, BL_EDATA,
                           "sample %" PRIu64
                           " was sent without pixels, and has no features in this host's cache",
                           b->slots[i].sample);
        features_read(r->cache, row, r->buffer.features + i * r->form.tokens * r->form.width,
                      r->form.pooled ? r->buffer.pooled + i * r->form.width : NULL);
    }
    row_buffer_lend(&r->buffer, &r->form, ret);
    return 0;
}
