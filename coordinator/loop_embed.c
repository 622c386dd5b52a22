/* coordinator/loop_embed.c - a run of kind EMBED: its folder inside the cache's, which shards are there already, how far it is. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/cache/spool.h"
#include "common/cleanup.h"
#include "common/data/token_rows.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/size.h"
#include "coordinator/loop_state.h"
#include "coordinator/progress.h"

int loop_embed_choose_folder(struct loop *l, struct bl_error *err)
{
    char folder[4096];
    struct config *c = l->config;
    if (!c->cache.path) {
        bl_fail(err, BL_ECONFIG,
                "expected the folder that the features are to be written to, found none");
        bl_error_remedy(err, "set cache.path");
        bl_error_key(err, "cache.path");
        return bl_error_file(err, l->options->yaml);
    }
    BL_TRY(bl_path_join(folder, sizeof folder, c->cache.path, "run", err));
    free(c->run_dir);
    c->run_dir = strdup(folder);
    return c->run_dir ? 0 : bl_fail(err, BL_ENOMEM, "no memory for a path");
}

/* A run folder is the same run as long as its peers would read the same from it. What was embedded from another configuration or
 * other data is not resumed; shards that match still count. */
int loop_embed_begin_anew(struct loop *l, struct bl_error *err)
{
    char path[4096], hex[65];
    uint8_t hash[32];
    bl_autosha256 sha = {0};
    bl_autofree char *before = NULL;
    size_t size = 0;
    bl_sha256_begin(&sha);
    bl_sha256_add(&sha, l->config->text, strlen(l->config->text));
    bl_sha256_add(&sha, dataset_fingerprint(l->dataset), 32);
    bl_sha256_end(&sha, hash);
    bl_hex(hash, sizeof hash, hex);
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "made-for", err));
    if (bl_path_is_file(path))
        BL_TRY(bl_file_read(path, 64, &before, &size, err));
    if (before && !strcmp(before, hex))
        return 0;
    char id[4096];
    BL_TRY(bl_path_join(id, sizeof id, l->config->run_dir, "run-id", err));
    unlink(id);
    journal_forget(l->config->run_dir);
    return bl_file_write(path, hex, strlen(hex), err);
}

/* Identities of the shard's images. */
static void name_images(const struct loop *l, struct bl_range indices, cache_identity *ret)
{
    for (uint32_t i = 0; i < indices.count; i++) {
        struct dataset_sample sample;
        dataset_sample(l->dataset, l->validate_ids[indices.first + i], &sample);
        memcpy(ret[i], sample.hash, sizeof *ret);
    }
}

/* Which shards are there; a torn one is made again, one of another cache is refused. */
static int find_shards(struct loop *l, const struct cache_form *form, struct bl_error *err)
{
    const char *folder = l->config->cache.path;
    uint32_t shards = bl_plan_micro_batches(&l->plan, BL_KIND_EMBED);
    char foreign[4096], line[1600];
    bl_autofree cache_identity *images = calloc(l->plan.micro_batch, sizeof *images);
    l->embed.done = calloc(shards, 1);
    if (!images || !l->embed.done)
        return bl_fail(err, BL_ENOMEM, "no memory for %u shards", shards);
    BL_TRY(cache_tidy(folder, shards, foreign, err));
    if (foreign[0]) {
        bl_fail(err, BL_ECONFIG, "a cache of other images, or with another cache.shard_images");
        bl_error_remedy(err, "remove that cache or set another cache.path");
        return bl_error_file(err, foreign);
    }
    for (uint32_t i = 0; i < shards; i++) {
        struct bl_range indices = bl_plan_indices(&l->plan, BL_KIND_EMBED, i);
        struct bl_error why;
        bool there;
        name_images(l, indices, images);
        BL_TRY(cache_look(folder, form, i, shards, (const cache_identity *)images, indices.count,
                          true, &there, &why, err));
        l->embed.done[i] = there;
        l->embed.images += there ? indices.count : 0;
        if (!why.code)
            continue;
        bl_error_format(&why, line, sizeof line);
        bl_log(BL_LOG_WARNING, "%s; making it again", line);
    }
    l->embed.found = l->embed.images;
    return 0;
}

/* Room for what is missing, or an error that says how much there is. */
static int check_room(const struct loop *l, uint64_t image_bytes, uint64_t *ret_free,
                      struct bl_error *err)
{
    struct statvfs fs;
    const char *folder = l->config->cache.path;
    uint64_t needed = (l->embed.total - l->embed.found) * image_bytes;
    if (statvfs(folder, &fs) < 0) {
        bl_fail_errno(err, "its file system cannot be asked for room");
        return bl_error_file(err, folder);
    }
    *ret_free = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (*ret_free >= needed)
        return 0;
    bl_fail(err, BL_ELIMIT, "expected room for %.3g GB, found %.3g GB free", (double)needed / 1e9,
            (double)*ret_free / 1e9);
    bl_error_remedy(err, "free some, choose a smaller cache.dtype, or another cache.path");
    return bl_error_file(err, folder);
}

int loop_embed_prepare(struct loop *l, struct bl_error *err)
{
    struct cache_form form;
    uint64_t free_bytes = 0;
    free(l->validate_ids);
    l->validate_ids = NULL;
    BL_TRY(cache_form_of(l->config, NULL, &form, err));
    BL_TRY(run_images(l->dataset, &l->validate_ids, &l->embed.total, err));
    if (l->embed.total > UINT32_MAX / 2)
        return bl_fail(err, BL_ELIMIT, "more images than a cache holds");
    run_embed_plan(l->config, l->embed.total, &l->plan);
    BL_TRY(find_shards(l, &form, err));
    if (check_room(l, cache_image_bytes(&form), &free_bytes, err) < 0 && !l->options->plan)
        return -err->code;
    if (l->options->plan)
        BL_TRY(loop_embed_show_plan(l, cache_image_bytes(&form), free_bytes, err));
    bl_log(BL_LOG_INFO, "cache=%s images=%" PRIu64 " there=%" PRIu64 " shards=%u bytes=%" PRIu64,
           l->config->cache.path, l->embed.total, l->embed.found,
           bl_plan_micro_batches(&l->plan, BL_KIND_EMBED),
           l->embed.total * cache_image_bytes(&form));
    return 0;
}

void loop_embed_view(const struct loop *l, struct progress_view *view)
{
    double seconds = (double)(uv_now(&l->uv) - l->embed.first_ms) / 1000,
           made = (double)(l->embed.images - l->embed.found);
    view->embeds = true;
    view->step = (int64_t)l->embed.images;
    view->steps = (int64_t)l->embed.total;
    view->images_per_s = l->embed.first_ms && seconds > 0 ? made / seconds : 0;
    view->seconds_left = view->images_per_s > 0
                             ? (double)(l->embed.total - l->embed.images) / view->images_per_s
                             : -1;
}

int loop_embed_finish(const struct loop *l, struct bl_error *err)
{
    struct cache_form form;
    char foreign[4096];
    bl_auto(features) struct features *cache = NULL;
    BL_TRY(cache_tidy(l->config->cache.path, bl_plan_micro_batches(&l->plan, BL_KIND_EMBED),
                      foreign, err)); /* of workers that were killed */
    BL_TRY(cache_form_of(l->config, NULL, &form, err));
    BL_TRY(features_open(l->config->cache.path, &form, &cache, err));
    BL_ASSERT(cache != NULL);
    spools_remove(l->config->cache.path); /* of a training that filled it */
    BL_TRY(token_rows_write(l->config->cache.path, l->config, l->dataset, NULL, err));
    printf("complete: %" PRIu64 " images in %s, %" PRIu64 " void\n", features_rows(cache),
           l->config->cache.path, features_voids(cache));
    return 0;
}
