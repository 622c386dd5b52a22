/* common/cache/cache.c - a folder of shards as one cache. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/array.h"
#include "common/cache/parts.h"
#include "common/cleanup.h"
#include "common/file.h"

/* Where an image is. */
struct entry {
    cache_identity image;
    uint32_t shard, batch, row; /* of the batch */
    bool is_void;
};

struct shard {
    struct arrow *file;
    int features, scale, pooled; /* columns; -1: none */
};

struct features {
    struct cache_form form;
    struct shard *shards;
    uint32_t shard_count;
    struct entry *entries; /* by image */
    size_t entry_count, entry_capacity;
    uint64_t voids;
};

/* "features-00003-of-00042.arrow", to the letter. */
static bool is_shard(const char *name, uint32_t *ret_index, uint32_t *ret_count)
{
    char expected[64];
    if (sscanf(name, "features-%u-of-%u.arrow", ret_index, ret_count) != 2)
        return false;
    snprintf(expected, sizeof expected, "features-%05u-of-%05u.arrow", *ret_index, *ret_count);
    return !strcmp(name, expected);
}

static void close_folder(DIR **folder)
{
    if (*folder)
        closedir(*folder);
}

int cache_tidy(const char *folder, uint32_t count, char *ret, struct bl_error *err)
{
    char path[4096];
    uint32_t index, of;
    ret[0] = 0;
    __attribute__((cleanup(close_folder))) DIR *dir = opendir(folder);
    if (!dir) {
        bl_fail_errno(err, "the folder cannot be listed");
        return bl_error_file(err, folder);
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        BL_TRY(bl_path_join(path, sizeof path, folder, entry->d_name, err));
        if (!strncmp(entry->d_name, "features-", 9) && strstr(entry->d_name, ".arrow.tmp."))
            unlink(path); /* what cannot be removed does no harm */
        else if (is_shard(entry->d_name, &index, &of) && (of != count || index >= count))
            snprintf(ret, 4096, "%s", path);
    }
    return 0;
}

/* How many shards the cache has, by any of their names; 0: there is none. */
static uint32_t count_shards(const char *folder)
{
    uint32_t index, count = 0;
    __attribute__((cleanup(close_folder))) DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (is_shard(entry->d_name, &index, &count))
            return count;
    return 0;
}

static int add_entries(struct features *c, uint32_t shard, const char *path, struct bl_error *err)
{
    const struct arrow *file = c->shards[shard].file;
    bl_autofree cache_identity *images = NULL;
    uint32_t rows, voids, at = 0;
    BL_TRY(cache_read_identities(file, path, &images, &rows, &voids, err));
    if (!bl_grow(&c->entries, &c->entry_capacity, c->entry_count + rows + voids,
                 sizeof *c->entries))
        return bl_fail(err, BL_ENOMEM, "no memory for the cache's identities");
    struct entry *entries = c->entries + c->entry_count;
    for (int batch = 0; batch < arrow_batch_count(file); batch++)
        for (int64_t row = 0; row < arrow_batch_rows(file, batch); row++, at++)
            entries[at] =
                (struct entry){.shard = shard, .batch = (uint32_t)batch, .row = (uint32_t)row};
    for (; at < rows + voids; at++)
        entries[at] = (struct entry){.shard = shard, .is_void = true};
    for (at = 0; at < rows + voids; at++)
        memcpy(entries[at].image, images[at], sizeof *images);
    c->entry_count += rows + voids;
    c->voids += voids;
    return 0;
}

static int open_shard(struct features *c, const char *folder, uint32_t index, struct bl_error *err)
{
    char path[4096];
    struct shard *shard = &c->shards[index];
    cache_shard_path(path, folder, index, c->shard_count);
    if (!bl_path_is_file(path)) {
        bl_fail(err, BL_EFORMAT, "this part of the cache is missing");
        bl_error_remedy(err, "run embed, which makes what is missing");
        return bl_error_file(err, path);
    }
    if (arrow_open(path, &shard->file, err) < 0)
        return bl_error_remedy(err, "run embed, which makes it again");
    BL_TRY(cache_check_form(shard->file, path, &c->form, err));
    shard->features = arrow_column_find(shard->file, CACHE_FEATURES);
    shard->scale = arrow_column_find(shard->file, CACHE_SCALE);
    shard->pooled = arrow_column_find(shard->file, CACHE_POOLED);
    return add_entries(c, index, path, err);
}

static int compare_entries(const void *a, const void *b)
{
    return memcmp(((const struct entry *)a)->image, ((const struct entry *)b)->image,
                  sizeof(cache_identity));
}

int features_open(const char *folder, const struct cache_form *form, struct features **ret,
                  struct bl_error *err)
{
    *ret = NULL;
    uint32_t count = count_shards(folder);
    if (count == 0)
        return 0;
    bl_auto(features) struct features *c = calloc(1, sizeof *c);
    if (!c)
        return bl_fail(err, BL_ENOMEM, "no memory for a cache");
    c->form = *form;
    c->shards = calloc(count, sizeof *c->shards);
    if (!c->shards)
        return bl_fail(err, BL_ENOMEM, "no memory for a cache of %u files", count);
    c->shard_count = count;
    for (uint32_t i = 0; i < count; i++)
        BL_TRY(open_shard(c, folder, i, err));
    qsort(c->entries, c->entry_count, sizeof *c->entries, compare_entries);
    *ret = bl_take(&c);
    return 0;
}

void features_free(struct features **cache)
{
    struct features *c = *cache;
    if (!c)
        return;
    for (uint32_t i = 0; i < c->shard_count; i++)
        arrow_free(&c->shards[i].file);
    free(c->shards);
    free(c->entries);
    free(c);
    *cache = NULL;
}

uint64_t features_rows(const struct features *c)
{
    return c->entry_count - c->voids;
}

uint64_t features_voids(const struct features *c)
{
    return c->voids;
}

enum features_found features_find(const struct features *c, const uint8_t identity[32],
                                  uint64_t *ret_row)
{
    struct entry key = {0};
    memcpy(key.image, identity, sizeof key.image);
    const struct entry *found =
        bsearch(&key, c->entries, c->entry_count, sizeof key, compare_entries);
    if (!found)
        return FEATURES_ABSENT;
    *ret_row = (uint64_t)(found - c->entries);
    return found->is_void ? FEATURES_VOID : FEATURES_ROW;
}

/* Where the parts of a row are; scale and pooled NULL: the form has none. */
struct row {
    const float *pooled, *scale;
    const void *features;
};

static struct row row_at(const struct features *c, uint64_t row)
{
    const struct entry *entry = &c->entries[row];
    const struct shard *shard = &c->shards[entry->shard];
    size_t tokens = (size_t)c->form.tokens, width = (size_t)c->form.width;
    int batch = (int)entry->batch;
    const void *features = arrow_batch_values(shard->file, batch, shard->features).data;
    struct row ret = {.features = (const char *)features +
                                  entry->row * tokens * width * cache_element_bytes(c->form.dtype)};
    if (shard->scale >= 0)
        ret.scale = (const float *)arrow_batch_values(shard->file, batch, shard->scale).data +
                    entry->row * tokens;
    if (shard->pooled >= 0)
        ret.pooled = (const float *)arrow_batch_values(shard->file, batch, shard->pooled).data +
                     entry->row * width;
    return ret;
}

static void read_row(const struct cache_form *form, const struct row *row, float *features,
                     float *pooled)
{
    size_t width = (size_t)form->width;
    numbers_load(form->dtype, features, row->features, row->scale, (size_t)form->tokens * width,
                 width);
    if (pooled)
        memcpy(pooled, row->pooled, width * sizeof *pooled);
}

void features_read(const struct features *c, uint64_t row, float *features, float *pooled)
{
    const struct row at = row_at(c, row);
    read_row(&c->form, &at, features, pooled);
}

/* Floats of a packed row before its features. */
static size_t pooled_floats(const struct cache_form *form)
{
    return form->pooled ? (size_t)form->width : 0;
}

static size_t scale_floats(const struct cache_form *form)
{
    return form->dtype == CONFIG_CACHE_INT8 ? (size_t)form->tokens : 0;
}

void features_pack(const struct features *c, uint64_t row, void *ret)
{
    const struct row at = row_at(c, row);
    size_t pooled = pooled_floats(&c->form) * sizeof(float),
           scale = scale_floats(&c->form) * sizeof(float);
    if (pooled)
        memcpy(ret, at.pooled, pooled);
    if (scale)
        memcpy((char *)ret + pooled, at.scale, scale);
    memcpy((char *)ret + pooled + scale, at.features, cache_row_bytes(&c->form) - pooled - scale);
}

void features_unpack(const struct cache_form *form, const void *packed, float *features,
                     float *pooled)
{
    const float *floats = packed;
    const struct row at = {.pooled = floats,
                           .scale = floats + pooled_floats(form),
                           .features = floats + pooled_floats(form) + scale_floats(form)};
    read_row(form, &at, features, pooled);
}
