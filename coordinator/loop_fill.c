/* coordinator/loop_fill.c - cache.fill: when every image was met, the cache's shards are made of what workers have kept. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cache/spool.h"
#include "common/cleanup.h"
#include "common/data/token_rows.h"
#include "common/file.h"
#include "common/log.h"
#include "coordinator/loop_state.h"

/* The images of the cache, and one try to make it whole. A try runs on a thread of libuv's pool; nothing but it touches this
 * meanwhile, `running` aside. */
struct fill {
    uv_work_t work;
    struct loop *loop;
    struct cache_form form;
    cache_identity *images; /* (count) ascending */
    uint64_t *ids;          /* (count) a sample of each */
    bool *is_void;          /* (count) it could not be used when the try began */
    uint64_t count;
    uint32_t shards;
    bool running;

    uint64_t found; /* images that are kept or void, as the last try saw it */
    uint64_t torn;
    bool whole;
    int rc;
    struct bl_error error;
};

static const char *folder_of(const struct fill *f)
{
    return f->loop->config->cache.path;
}

static uint32_t images_of(const struct fill *f, uint32_t shard, uint64_t *ret_first)
{
    uint64_t at_once = (uint64_t)f->loop->config->cache.shard_images;
    *ret_first = shard * at_once;
    return (uint32_t)(f->count - *ret_first < at_once ? f->count - *ret_first : at_once);
}

static int is_there(const struct fill *f, uint32_t shard, bool *ret, struct bl_error *err)
{
    struct bl_error why;
    uint64_t first;
    uint32_t count = images_of(f, shard, &first);
    return cache_look(folder_of(f), &f->form, shard, f->shards,
                      (const cache_identity *)f->images + first, count, false, ret, &why, err);
}

/* Makes the shards that are not there, if every image is. */
static int make_shards(struct fill *f, const struct spools *spools, struct bl_error *err)
{
    for (uint32_t shard = 0; shard < f->shards && !f->torn; shard++) {
        uint64_t first;
        uint32_t torn, count = images_of(f, shard, &first);
        bool there;
        BL_TRY(is_there(f, shard, &there, err));
        if (there)
            continue;
        BL_TRY(spools_write_shard(spools, folder_of(f), shard, f->shards,
                                  (const cache_identity *)f->images + first, f->is_void + first,
                                  count, &torn, err));
        f->torn += torn;
    }
    f->whole = !f->torn;
    return 0;
}

static int count_found(struct fill *f, const struct spools *spools, struct bl_error *err)
{
    f->found = 0;
    for (uint32_t shard = 0; shard < f->shards; shard++) {
        uint64_t first;
        uint32_t count = images_of(f, shard, &first);
        bool there;
        BL_TRY(is_there(f, shard, &there, err));
        for (uint32_t i = 0; i < count; i++)
            f->found += there || f->is_void[first + i] || spools_have(spools, f->images[first + i]);
    }
    return 0;
}

static int try_to_fill(struct fill *f, struct bl_error *err)
{
    bl_auto(spools) struct spools *spools = NULL;
    f->torn = 0;
    BL_TRY(spools_open(folder_of(f), &f->form, &spools, err));
    BL_TRY(count_found(f, spools, err));
    if (f->found < f->count)
        return 0;
    BL_TRY(make_shards(f, spools, err));
    if (!f->whole)
        return 0;
    spools_remove(folder_of(f));
    BL_TRY(token_rows_write(folder_of(f), f->loop->config, f->loop->dataset, NULL, err));
    return run_cache_say_whole(f->loop->config->run_dir, true, err);
}

/* What could not be used has no features. */
static void note_voids(struct fill *f)
{
    for (uint64_t i = 0; i < f->count; i++)
        f->is_void[i] = bad_samples_has(f->loop->bad_samples, f->ids[i]);
}

static void say(const struct fill *f)
{
    if (f->whole)
        bl_log(BL_LOG_INFO, "the cache %s is whole: %" PRIu64 " images; training from it",
               folder_of(f), f->count);
    else if (f->torn)
        bl_log(BL_LOG_WARNING, "%" PRIu64 " images of the cache %s are torn; computing them again",
               f->torn, folder_of(f));
    else
        bl_log(BL_LOG_INFO, "cache=%s filled=%" PRIu64 " of %" PRIu64 " images", folder_of(f),
               f->found, f->count);
}

static void fill_work(uv_work_t *work)
{
    struct fill *f = work->data;
    f->rc = try_to_fill(f, &f->error);
}

static void fill_done(uv_work_t *work, int status)
{
    struct fill *f = work->data;
    f->loop->disk_jobs--;
    f->running = false;
    if (f->rc < 0)
        bl_log_error(&f->error); /* training needs no cache; ignoring */
    else
        say(f);
}

void loop_fill_try(struct loop *l)
{
    struct fill *f = l->fill;
    if (!f || f->running || f->whole)
        return;
    note_voids(f);
    f->work.data = f;
    f->running = true;
    l->disk_jobs++;
    uv_queue_work(&l->uv, &f->work, fill_work, fill_done);
}

static int name_images(struct fill *f, const struct dataset *dataset, struct bl_error *err)
{
    BL_TRY(run_images(dataset, &f->ids, &f->count, err));
    f->images = calloc(f->count + 1, sizeof *f->images);
    f->is_void = calloc(f->count + 1, sizeof *f->is_void);
    if (!f->images || !f->is_void)
        return bl_fail(err, BL_ENOMEM, "no memory for the identities of %" PRIu64 " images",
                       f->count);
    for (uint64_t i = 0; i < f->count; i++) {
        struct dataset_sample sample;
        dataset_sample(dataset, f->ids[i], &sample);
        memcpy(f->images[i], sample.hash, sizeof *f->images);
    }
    return 0;
}

int loop_fill_open(struct loop *l, struct bl_error *err)
{
    char foreign[4096];
    struct fill *f = l->fill = calloc(1, sizeof *f);
    if (!f)
        return bl_fail(err, BL_ENOMEM, "no memory for a cache to be filled");
    f->loop = l;
    BL_TRY(run_cache_say_whole(l->config->run_dir, false, err));
    BL_TRY(cache_form_of(l->config, NULL, &f->form, err));
    BL_TRY(name_images(f, l->dataset, err));
    uint64_t at_once = (uint64_t)l->config->cache.shard_images;
    f->shards = (uint32_t)((f->count + at_once - 1) / at_once);
    BL_TRY(bl_folder_make(l->config->cache.path, err));
    BL_TRY(cache_tidy(l->config->cache.path, f->shards, foreign, err));
    if (!foreign[0]) {
        note_voids(f);
        BL_TRY(try_to_fill(f, err));
        if (!f->whole) {
            say(f);
            return 0;
        }
    }
    loop_fill_free(l);
    return loop_find_cache(l, err);
}

int loop_fill_finish(struct loop *l, struct bl_error *err)
{
    struct fill *f = l->fill;
    if (!f || f->running || f->whole)
        return 0;
    note_voids(f);
    BL_TRY(try_to_fill(f, err));
    if (f->whole)
        printf("cache: whole, %" PRIu64 " images in %s\n", f->count, folder_of(f));
    else
        printf("cache: %" PRIu64 " of %" PRIu64 " images are kept in %s; training or embed goes on "
               "with the others\n",
               f->found - (f->found == f->count ? f->torn : 0), f->count, folder_of(f));
    return 0;
}

void loop_fill_free(struct loop *l)
{
    struct fill *f = l->fill;
    if (!f)
        return;
    free(f->images);
    free(f->ids);
    free(f->is_void);
    free(f);
    l->fill = NULL;
}
