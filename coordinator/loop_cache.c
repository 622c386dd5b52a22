/* coordinator/loop_cache.c - a run that trains from a cache: does it fit, and does it hold the captions' ids? */
#include <inttypes.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/data/token_rows.h"
#include "common/log.h"
#include "coordinator/loop_state.h"

/* Is each image of the run in the cache? */
static int check_cache(const struct loop *l, const struct features *cache, struct bl_error *err)
{
    uint64_t *ids = NULL, count, row, absent = 0;
    BL_TRY(run_images(l->dataset, &ids, &count, err));
    for (uint64_t i = 0; i < count; i++) {
        struct dataset_sample sample;
        dataset_sample(l->dataset, ids[i], &sample);
        absent += features_find(cache, sample.hash, &row) == FEATURES_ABSENT;
    }
    free(ids);
    if (!absent)
        return 0;
    bl_fail(err, BL_ECONFIG, "%" PRIu64 " of the run's %" PRIu64 " images are not in this cache",
            absent, count);
    bl_error_remedy(err, "run embed with another cache.path, or remove cache.path");
    return bl_error_file(err, l->config->cache.path);
}

/* Whether loaders will find the captions' ids beside the cache. */
static void note_tokens(const struct loop *l)
{
    struct bl_error why = {0}, err;
    char line[1600];
    bl_auto(token_rows) struct token_rows *rows = NULL;
    __attribute__((cleanup(token_key_release))) struct token_key key = {.rules = NULL};
    if (token_key_of(l->config, l->dataset, &key, &err) < 0)
        return; /* loaders will say so */
    token_rows_open(l->config->cache.path, &key, dataset_captions(l->dataset), &rows, &why);
    bl_error_format(&why, line, sizeof line);
    if (rows)
        bl_log(BL_LOG_INFO, "token ids of %" PRIu64 " captions come from %s/captions.arrow",
               dataset_captions(l->dataset), l->config->cache.path);
    else
        bl_log(BL_LOG_INFO, "%s%scaptions are tokenized", why.code ? line : "",
               why.code ? "; " : "no captions.arrow: ");
}

int loop_find_cache(struct loop *l, struct bl_error *err)
{
    struct cache_form form;
    bl_auto(features) struct features *cache = NULL;
    if (!l->config->cache.path)
        return 0;
    BL_TRY(cache_form_of(l->config, NULL, &form, err));
    BL_TRY(features_open(l->config->cache.path, &form, &cache, err));
    if (!cache) {
        bl_log(BL_LOG_INFO, "no cache in %s: training from the images", l->config->cache.path);
        return 0;
    }
    BL_TRY(check_cache(l, cache, err));
    snprintf(l->cache_tower, sizeof l->cache_tower, "%s", form.tower);
    note_tokens(l);
    bl_log(BL_LOG_INFO, "training from the cache %s: %" PRIu64 " images, %" PRIu64 " void",
           l->config->cache.path, features_rows(cache), features_voids(cache));
    return 0;
}
