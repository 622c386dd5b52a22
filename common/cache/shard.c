/* common/cache/shard.c - one file of the cache: its columns and metadata, written and looked at. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cache/parts.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/models/hf_tensors.h"

#define IDENTITY_DIGITS 64

static const struct {
    const char *name;
    enum arrow_type type;
} dtypes[] = {
    [CONFIG_CACHE_F16] = {"f16", ARROW_F16},
    [CONFIG_CACHE_F32] = {"f32", ARROW_F32},
    [CONFIG_CACHE_BF16] = {"bf16", ARROW_U16},
    [CONFIG_CACHE_INT8] = {"int8", ARROW_I8},
};

/* ViT's class token, or SigLIP's pooling head, which a folder may lack. */
static int find_pooled(const char *folder, const struct hf_vision *vision, bool *ret,
                       struct bl_error *err)
{
    bl_auto(safetensors) struct safetensors *file = NULL;
    struct hf_shapes shapes;
    char name[HF_NAME_BYTES];
    const struct hf_tensor *probe = hf_tensor_of(&vision->family->names, HF_POOL_PROBE);
    *ret = vision->leading_tokens > 0;
    if (!probe)
        return 0;
    BL_TRY(safetensors_open(folder, &file, err));
    hf_vision_shapes(vision, file, &shapes);
    hf_shapes_name(&shapes, probe, 0, name);
    *ret = *ret || safetensors_find(file, name);
    return 0;
}

int cache_form_of(const struct config *config, const char *tower, struct cache_form *ret,
                  struct bl_error *err)
{
    struct hf_vision vision;
    struct hf_preprocess p;
    *ret = (struct cache_form){.dtype = config->cache.dtype};
    BL_TRY(hf_vision_open(config->vision.path, &vision, err));
    BL_TRY(hf_preprocess_open(config->vision.path, &vision, &p, err));
    if (tower)
        snprintf(ret->tower, sizeof ret->tower, "%s", tower);
    else
        BL_TRY(hf_folder_sha256(config->vision.path, HF_IDENTITY_WEIGHTS, ret->tower, err));
    snprintf(ret->preprocessing, sizeof ret->preprocessing,
             "%lldx%lld %s x%.9g mean %.9g,%.9g,%.9g std %.9g,%.9g,%.9g", (long long)p.width,
             (long long)p.height, p.filter == IMAGE_BICUBIC ? "bicubic" : "bilinear",
             (double)p.rescale_factor, (double)p.mean[0], (double)p.mean[1], (double)p.mean[2],
             (double)p.std[0], (double)p.std[1], (double)p.std[2]);
    snprintf(ret->precision, sizeof ret->precision, "%s",
             config->precision == CONFIG_F32 ? "f32" : "bf16");
    ret->alone = config->train.reproducible;
    ret->tokens = vision.tokens;
    ret->width = vision.hidden;
    return find_pooled(config->vision.path, &vision, &ret->pooled, err);
}

int cache_columns(const struct cache_form *form, struct arrow_column ret[4])
{
    int count = 0;
    int32_t tokens = (int32_t)form->tokens, width = (int32_t)form->width;
    ret[count++] = (struct arrow_column){.name = CACHE_IMAGE, .type = ARROW_UTF8};
    ret[count++] = (struct arrow_column){.name = CACHE_FEATURES,
                                         .type = dtypes[form->dtype].type,
                                         .rank = 2,
                                         .dims = {tokens, width}};
    if (form->dtype == CONFIG_CACHE_INT8)
        ret[count++] = (struct arrow_column){
            .name = CACHE_SCALE, .type = ARROW_F32, .rank = 1, .dims = {tokens}};
    if (form->pooled)
        ret[count++] = (struct arrow_column){
            .name = CACHE_POOLED, .type = ARROW_F32, .rank = 1, .dims = {width}};
    return count;
}

size_t cache_row_bytes(const struct cache_form *form)
{
    struct arrow_column columns[4];
    size_t bytes = 0;
    int count = cache_columns(form, columns);
    for (int i = 1; i < count; i++)
        bytes += (size_t)arrow_row_elements(&columns[i]) * arrow_type_bytes(columns[i].type);
    return bytes;
}

uint64_t cache_image_bytes(const struct cache_form *form)
{
    return IDENTITY_DIGITS + sizeof(int32_t) + cache_row_bytes(form);
}

void cache_shard_path(char ret[4096], const char *folder, uint32_t index, uint32_t count)
{
    snprintf(ret, 4096, "%s/features-%05u-of-%05u.arrow", folder, index, count);
}

/* -- writing */

/* What a shard's columns are written from; owned. */
struct stored {
    char *names; /* (image_count, 64) */
    int32_t *offsets;
    void *features;
    float *scale;
};

static void stored_release(struct stored *s)
{
    free(s->names);
    free(s->offsets);
    free(s->features);
    free(s->scale);
}

size_t cache_element_bytes(enum config_cache_dtype dtype)
{
    return arrow_type_bytes(dtypes[dtype].type);
}

int cache_fail_number(enum number_fault fault, enum config_cache_dtype dtype,
                      const uint8_t identity[32], float x, struct bl_error *err)
{
    char hex[65];
    bl_hex(identity, sizeof(cache_identity), hex);
    if (fault == NUMBER_NOT_FINITE)
        return bl_fail(err, BL_EDATA, "image %.16s…: a feature is not finite", hex);
    bl_fail(err, BL_ELIMIT, "image %.16s…: the feature %g is too large for %s", hex, (double)x,
            dtypes[dtype].name);
    bl_error_remedy(err, "choose bf16 or f32");
    return bl_error_key(err, "cache.dtype");
}

static int name_images(const struct cache_shard *shard, struct stored *s, struct bl_error *err)
{
    size_t images = shard->image_count;
    s->names = malloc(images * IDENTITY_DIGITS + 1);
    s->offsets = calloc(images + 1, sizeof *s->offsets);
    if (!s->names || !s->offsets)
        return bl_fail(err, BL_ENOMEM, "no memory for the identities of %zu images", images);
    for (size_t i = 0; i < images; i++) {
        bl_hex(shard->images[i], sizeof *shard->images, s->names + i * IDENTITY_DIGITS);
        s->offsets[i + 1] = (int32_t)((i + 1) * IDENTITY_DIGITS);
    }
    return 0;
}

static int store(const struct cache_form *form, const struct cache_shard *shard, struct stored *s,
                 struct bl_error *err)
{
    size_t images = shard->image_count, tokens = images * (size_t)form->tokens,
           count = tokens * (size_t)form->width, at;
    s->features = malloc(count * cache_element_bytes(form->dtype) + 1);
    s->scale = calloc(tokens + 1, sizeof *s->scale);
    if (!s->features || !s->scale)
        return bl_fail(err, BL_ENOMEM, "no memory for the features of %zu images", images);
    enum number_fault fault = numbers_store(form->dtype, s->features, s->scale, shard->features,
                                            count, (size_t)form->width, &at);
    return fault == NUMBER_FITS
               ? 0
               : cache_fail_number(fault, form->dtype,
                                   shard->images[at / (size_t)(form->tokens * form->width)],
                                   shard->features[at], err);
}

/* The void images' identities, one after the other with a space between. */
static char *void_words(const struct cache_shard *shard)
{
    char *words = calloc((size_t)shard->void_count + 1, IDENTITY_DIGITS + 1);
    for (uint32_t i = 0; words && i < shard->void_count; i++) {
        char *word = words + (size_t)i * (IDENTITY_DIGITS + 1);
        if (i)
            word[-1] = ' ';
        bl_hex(shard->voids[i], sizeof *shard->voids, word);
    }
    return words;
}

int cache_write_shard(const char *folder, const struct cache_form *form,
                      const struct cache_shard *shard, struct bl_error *err)
{
    char path[4096];
    bl_autofree char *voids = void_words(shard);
    __attribute__((cleanup(stored_release))) struct stored stored = {0};
    bl_auto(arrow_writer) struct arrow_writer *writer = NULL;
    if (!voids)
        return bl_fail(err, BL_ENOMEM, "no memory for a shard");
    BL_TRY(name_images(shard, &stored, err));
    if (!shard->stored)
        BL_TRY(store(form, shard, &stored, err));
    const char *const metadata[] = {"blipren.cache",
                                    "1",
                                    "blipren.tower",
                                    form->tower,
                                    "blipren.preprocessing",
                                    form->preprocessing,
                                    "blipren.precision",
                                    form->precision,
                                    "blipren.dtype",
                                    dtypes[form->dtype].name,
                                    "blipren.images",
                                    form->alone ? "alone" : "together",
                                    "blipren.void",
                                    voids,
                                    NULL};
    struct arrow_column columns[4];
    struct arrow_values values[4] = {{stored.names, stored.offsets},
                                     {shard->stored ? shard->stored : stored.features, NULL}};
    int count = cache_columns(form, columns), last = 2;
    if (form->dtype == CONFIG_CACHE_INT8)
        values[last++].data = shard->stored ? shard->scale : stored.scale;
    if (form->pooled)
        values[last++].data = shard->pooled;
    cache_shard_path(path, folder, shard->index, shard->count);
    BL_TRY(arrow_writer_open(path, columns, count, metadata, &writer, err));
    BL_TRY(arrow_writer_batch(writer, shard->image_count, values, err));
    return arrow_writer_commit(writer, err);
}

/* -- looking at a shard */

static int other_form(const char *path, const char *what, const char *expected, const char *found,
                      struct bl_error *err)
{
    bl_fail(err, BL_ECONFIG, "a cache of other features: expected %s %.150s, found %.150s", what,
            expected, found);
    bl_error_remedy(err, "remove that cache or set another cache.path, then run embed");
    return bl_error_file(err, path);
}

int cache_check_form(const struct arrow *shard, const char *path, const struct cache_form *form,
                     struct bl_error *err)
{
    const char *const wanted[][3] = {
        {"blipren.cache", "version", "1"},
        {"blipren.tower", "the vision tower", form->tower},
        {"blipren.preprocessing", "preprocessing", form->preprocessing},
        {"blipren.precision", "precision", form->precision},
        {"blipren.dtype", "cache.dtype", dtypes[form->dtype].name},
        /* the last: only a reproducible run minds */
        {"blipren.images", "images computed", "alone"},
    };
    size_t count_wanted = sizeof wanted / sizeof *wanted - !form->alone;
    struct arrow_column columns[4];
    char expected[160], found[160];
    for (size_t i = 0; i < count_wanted; i++) {
        const char *value = arrow_metadata(shard, wanted[i][0]);
        if (!value || strcmp(value, wanted[i][2]) != 0)
            return other_form(path, wanted[i][1], wanted[i][2], value ? value : "none", err);
    }
    int count = cache_columns(form, columns);
    for (int i = 0; i < count; i++) {
        int at = arrow_column_find(shard, columns[i].name);
        if (at >= 0 && arrow_column_equal(arrow_column_at(shard, at), &columns[i]))
            continue;
        arrow_column_words(&columns[i], expected, sizeof expected);
        snprintf(found, sizeof found, "none");
        if (at >= 0)
            arrow_column_words(arrow_column_at(shard, at), found, sizeof found);
        return other_form(path, columns[i].name, expected, found, err);
    }
    return 0;
}

static bool parse_identity(const char *text, size_t size, cache_identity ret)
{
    return size == IDENTITY_DIGITS && sodium_hex2bin(ret, 32, text, size, NULL, NULL, NULL) == 0;
}

static int bad_identity(const char *path, struct bl_error *err)
{
    bl_fail(err, BL_EFORMAT, "expected images by their SHA-256, found another name");
    return bl_error_file(err, path);
}

int cache_read_identities(const struct arrow *shard, const char *path, cache_identity **ret,
                          uint32_t *ret_rows, uint32_t *ret_voids, struct bl_error *err)
{
    const char *voids = arrow_metadata(shard, "blipren.void");
    size_t void_bytes = voids ? strlen(voids) : 0, rows = 0, at = 0,
           void_count = (void_bytes + 1) / (IDENTITY_DIGITS + 1);
    int column = arrow_column_find(shard, CACHE_IMAGE);
    for (int batch = 0; batch < arrow_batch_count(shard); batch++)
        rows += (size_t)arrow_batch_rows(shard, batch);
    bl_autofree cache_identity *images = calloc(rows + void_count + 1, sizeof *images);
    if (!images)
        return bl_fail(err, BL_ENOMEM, "no memory for the identities of %zu images", rows);
    for (int batch = 0; batch < arrow_batch_count(shard); batch++) {
        struct arrow_values names = arrow_batch_values(shard, batch, column);
        for (int64_t i = 0; i < arrow_batch_rows(shard, batch); i++)
            if (!parse_identity((const char *)names.data + names.offsets[i],
                                (size_t)(names.offsets[i + 1] - names.offsets[i]), images[at++]))
                return bad_identity(path, err);
    }
    for (size_t i = 0; i < void_count; i++)
        if (!parse_identity(voids + i * (IDENTITY_DIGITS + 1),
                            strcspn(voids + i * (IDENTITY_DIGITS + 1), " "), images[at++]))
            return bad_identity(path, err);
    *ret = bl_take(&images);
    *ret_rows = (uint32_t)rows;
    *ret_voids = (uint32_t)void_count;
    return 0;
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(cache_identity));
}

/* Are the images, each a row or void, these? */
static int check_images(const struct arrow *shard, const char *path, const cache_identity *images,
                        uint32_t image_count, struct bl_error *err)
{
    bl_autofree cache_identity *found = NULL;
    uint32_t rows, voids;
    BL_TRY(cache_read_identities(shard, path, &found, &rows, &voids, err));
    qsort(found, rows + voids, sizeof *found, compare);
    if (rows + voids == image_count && memcmp(found, images, image_count * sizeof *found) == 0)
        return 0;
    bl_fail(err, BL_ECONFIG, "a cache of other images than this run's");
    bl_error_remedy(err, "remove that cache or set another cache.path, then run embed");
    return bl_error_file(err, path);
}

int cache_look(const char *folder, const struct cache_form *form, uint32_t index, uint32_t count,
               const cache_identity *images, uint32_t image_count, bool verify, bool *ret_there,
               struct bl_error *ret_why, struct bl_error *err)
{
    char path[4096];
    bl_auto(arrow) struct arrow *shard = NULL;
    *ret_why = (struct bl_error){0};
    *ret_there = false;
    cache_shard_path(path, folder, index, count);
    if (!bl_path_is_file(path))
        return 0;
    if (arrow_open(path, &shard, ret_why) < 0 || (verify && arrow_verify(shard, ret_why) < 0))
        return 0;
    BL_TRY(cache_check_form(shard, path, form, err));
    BL_TRY(check_images(shard, path, images, image_count, err));
    *ret_there = true;
    return 0;
}
