/* worker/rows.c - see rows.h. */
#include "worker/rows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

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
    r->packed = malloc(cache_row_bytes(&r->form));
    return r->packed ? 0 : bl_fail(err, BL_ENOMEM, "no memory for a row of the feature cache");
}

void rows_close(struct rows *r)
{
    features_free(&r->cache);
    row_buffer_release(&r->buffer);
    free(r->packed);
    *r = (struct rows){0};
}

size_t rows_wanted(const struct rows *r)
{
    return r->packed ? cache_row_bytes(&r->form) : 0;
}

/* The i-th image's, from the cache of this host. */
static int read_mapped(const struct rows *r, const struct batch *b, int64_t i, float *features,
                       float *pooled, struct bl_error *err)
{
    struct dataset_sample sample;
    uint64_t row;
    dataset_sample(r->dataset, b->slots[i].sample, &sample);
    if (features_find(r->cache, sample.hash, &row) != FEATURES_ROW)
        return bl_fail(err, BL_EDATA,
                       "sample %" PRIu64
                       " was sent without pixels, and has no features in this host's cache",
                       b->slots[i].sample);
    features_read(r->cache, row, features, pooled);
    return 0;
}

/* The i-th image's, as it came: a frame may lie anywhere in ZeroMQ's buffer, a float may not. */
static void read_shipped(const struct rows *r, const struct batch *b, int64_t i, float *features,
                         float *pooled)
{
    size_t bytes = cache_row_bytes(&r->form);
    memcpy(r->packed, b->rows + (size_t)i * bytes, bytes);
    features_unpack(&r->form, r->packed, features, pooled);
}

int rows_take(struct rows *r, const struct batch *b, struct micro_batch *ret, struct bl_error *err)
{
    BL_TRY(row_buffer_reserve(&r->buffer, &r->form, b->good + 1, err));
    for (int64_t i = 0; i < b->good; i++) {
        float *features = r->buffer.features + i * r->form.tokens * r->form.width;
        float *pooled = r->form.pooled ? r->buffer.pooled + i * r->form.width : NULL;
        if (r->cache)
            BL_TRY(read_mapped(r, b, i, features, pooled, err));
        else
            read_shipped(r, b, i, features, pooled);
    }
    row_buffer_lend(&r->buffer, &r->form, ret);
    return 0;
}
