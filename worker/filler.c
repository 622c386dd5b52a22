/* worker/filler.c - see filler.h. */
#include "worker/filler.h"

#include <stdlib.h>

#include "common/cache/spool.h"
#include "common/cleanup.h"
#include "common/data/run.h"
#include "common/progress.h"
#include "worker/model/tower.h"

struct filler {
    const struct config *config;
    const struct dataset *dataset;
    struct cache_form form;
    struct tower *tower;
    struct spool *spool;      /* NULL: nothing was computed yet, or the cache is whole */
    struct rows rows;         /* of the whole cache */
    struct row_buffer buffer; /* of what the tower gave */
};

int filler_open(struct ops *ops, const struct config *config, const struct dataset *dataset,
                struct filler **ret, struct bl_error *err)
{
    bl_auto(filler) struct filler *f = calloc(1, sizeof *f);
    if (!f)
        return bl_fail(err, BL_ENOMEM, "no memory for a cache to be filled");
    f->config = config;
    f->dataset = dataset;
    BL_TRY(cache_form_of(config, NULL, &f->form, err));
    BL_TRY(tower_open(ops, config->vision.path, f->form.pooled, f->form.alone, &f->tower, err));
    *ret = bl_take(&f);
    return 0;
}

void filler_free(struct filler **filler)
{
    struct filler *f = *filler;
    if (!f)
        return;
    tower_free(&f->tower);
    spool_free(&f->spool);
    rows_close(&f->rows);
    row_buffer_release(&f->buffer);
    free(f);
    *filler = NULL;
}

/* The coordinator says in the run folder that the cache is whole, and loaders may know earlier. */
static int look_for_cache(struct filler *f, const struct batch *b, struct bl_error *err)
{
    if (f->rows.cache || !(b->cached || run_cache_is_whole(f->config->run_dir)))
        return 0;
    spool_free(&f->spool);
    BL_TRY(rows_open(&f->rows, f->config, f->form.tower, f->dataset, err));
    if (f->rows.cache)
        return 0;
    bl_fail(err, BL_EDATA, "expected the run's feature cache, found none");
    bl_error_remedy(err, "mount cache.path at the same path on every host");
    return bl_error_file(err, f->config->cache.path);
}

/* An image that was void when the cache was made may have come back. */
static bool has_all(const struct filler *f, const struct batch *b)
{
    for (int64_t i = 0; i < b->good; i++) {
        struct dataset_sample sample;
        uint64_t row;
        dataset_sample(f->dataset, b->slots[i].sample, &sample);
        if (features_find(f->rows.cache, sample.hash, &row) != FEATURES_ROW)
            return false;
    }
    return true;
}

static int compute(struct filler *f, const struct batch *b, struct bl_error *err)
{
    BL_TRY(row_buffer_reserve(&f->buffer, &f->form, b->good + 1, err));
    if (!f->spool)
        BL_TRY(spool_open(f->config->cache.path, &f->form, &f->spool, err));
    if (b->good)
        BL_TRY(
            tower_encode(f->tower, b->good, b->pixels, f->buffer.features, f->buffer.pooled, err));
    for (int64_t i = 0; i < b->good; i++) {
        struct dataset_sample sample;
        dataset_sample(f->dataset, b->slots[i].sample, &sample);
        BL_TRY(spool_add(f->spool, sample.hash,
                         f->buffer.features + i * f->form.tokens * f->form.width,
                         f->buffer.pooled + i * f->form.width, err));
        bl_progress_add(1);
    }
    return 0;
}

int filler_take(struct filler *f, const struct batch *b, struct micro_batch *ret,
                struct bl_error *err)
{
    BL_TRY(look_for_cache(f, b, err));
    if (b->cached || (f->rows.cache && has_all(f, b)))
        return rows_take(&f->rows, b, ret, err);
    BL_TRY(compute(f, b, err));
    row_buffer_lend(&f->buffer, &f->form, ret);
    return 0;
}
