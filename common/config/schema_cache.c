/* common/config/schema_cache.c - keys of the feature cache. */
#include "common/config/parts.h"

#include "common/config/schema_rows.h"
#include "common/limits.h"

/* clang-format off */
static const struct config_key keys[] = {
    CHOICE("cache.dtype", cache.dtype, LIST("f16", "f32", "bf16", "int8"), "f16",
        "Of the features in the cache. f32 trains to the same bits as the images do, the others to within their rounding; int8 has a scale for each token. f16 refuses features beyond 65504.", FREE),
    INT("cache.shard_images", cache.shard_images, 1, BL_MICRO_BATCH_SLOTS_MAX, "images", "64",
        "Images in each file of the cache. One worker writes a file whole, so this is also what an interruption loses.", FREE),
    KEY("cache.path", CONFIG_PATH, cache.path, "",
        "Folder of the feature cache that blipren-coord embed writes; train uses it once it is complete. Workers and loaders see it at the same path.", FREE),
    BOOL("cache.fill", cache.fill, "false",
        "Training computes the features that the cache lacks, keeps them, and trains from the cache once every image was met. What it trains from is rounded to cache.dtype from the first step on, so that the weights are those of a run from the finished cache.", FREE),
};
/* clang-format on */

static int check_cache(struct reader *r)
{
    if (!r->config->cache.fill || r->config->cache.path)
        return 0;
    FAIL_KEY(r, "cache.fill", "expected cache.path, the folder to be filled, found none");
    return bl_error_remedy(r->err, "set cache.path");
}

const struct config_room config_room_cache = {
    .keys = keys,
    .count = sizeof keys / sizeof *keys,
    .check = check_cache,
};
