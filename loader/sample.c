/* loader/sample.c - see sample.h. */
#include "loader/sample.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/cache/cache.h"
#include "common/array.h"
#include "common/cleanup.h"
#include "common/data/token_rows.h"
#include "common/file.h"
#include "common/models/hf.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/image/processor.h"
#include "loader/download/image_cache.h"
#include "loader/download/download.h"

#define PATH_BYTES 4096

struct sample_source {
    const struct path_map *map; /* borrowed; NULL: images are where the index has them */
    struct config *config;
    char vision_sha256[65], llm_sha256[65];
    struct dataset *dataset;
    struct tokenizer *tokenizer;
    struct caption_rules *rules;
    struct image_processor processor;
    struct features *cache; /* NULL: pixels are made */
    size_t row_bytes;       /* of an image in it */
    struct token_rows
        *tokens; /* the captions' ids, beside that cache; NULL: captions are tokenized */
    struct {     /* cache.fill: the cache that has become whole */
        pthread_mutex_t lock;
        bool tried;
        _Atomic(struct features *) cache;
    } fill;
    uint32_t *prefixes; /* ids of each caption column's prefix */
    struct location_patience patience;
    struct download *download; /* NULL: no image is at a URL */
    _Atomic uint8_t *verified; /* bit set over samples: what has the index's stamp has its hash */
};

/* Ids of each column's prompt: generation continues a caption from there. */
static int count_prefixes(struct sample_source *s, struct bl_error *err)
{
    const struct config_captions *captions = &s->config->data.captions;
    struct token_ids ids = {0};
    int rc = 0;
    s->prefixes = calloc(captions->count, sizeof *s->prefixes);
    if (!s->prefixes)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu prefixes", captions->count);
    for (size_t i = 0; i < captions->count && rc == 0; i++) {
        ids.count = 0;
        rc = caption_prompt(s->tokenizer, caption_prefix_of(&captions->at[i], NULL), &ids, err);
        s->prefixes[i] = (uint32_t)ids.count;
    }
    token_ids_release(&ids);
    return rc;
}

static int open_captions(struct sample_source *s, struct bl_error *err)
{
    struct hf_llm llm;
    int32_t eos;
    BL_TRY(tokenizer_open(s->config->llm.path, &s->tokenizer, err));
    BL_TRY(hf_llm_open(s->config->llm.path, &llm, err));
    BL_TRY(caption_eos(&s->config->data, s->tokenizer, &llm, &eos, err));
    BL_TRY(caption_rules_open(&s->config->data, s->tokenizer, eos, &s->rules, err));
    return count_prefixes(s, err);
}

/* Without them captions are tokenized: the coordinator says why there are none. */
static int open_tokens(struct sample_source *s, struct bl_error *err)
{
    struct bl_error why;
    __attribute__((cleanup(token_key_release))) struct token_key key = {.rules = NULL};
    BL_TRY(token_key_of(s->config, s->dataset, &key, err));
    token_rows_open(s->config->cache.path, &key, dataset_captions(s->dataset), &s->tokens, &why);
    return 0;
}

static int open_cache(struct sample_source *s, const char *tower, struct bl_error *err)
{
    struct cache_form form;
    if (!tower[0])
        return 0;
    BL_TRY(cache_form_of(s->config, tower, &form, err));
    BL_TRY(features_open(s->config->cache.path, &form, &s->cache, err));
    s->row_bytes = cache_row_bytes(&form);
    if (s->cache)
        return open_tokens(s, err);
    bl_fail(err, BL_EDATA, "expected the run's feature cache, found none");
    bl_error_remedy(err, "mount cache.path at the same path on every host that has a loader");
    return bl_error_file(err, s->config->cache.path);
}

/* Where the cache cannot be read on this host, pixels are shipped on: workers do not look at them. */
static void open_filled(struct sample_source *s)
{
    struct cache_form form;
    struct features *cache = NULL;
    s->fill.tried = true;
    if (cache_form_of(s->config, NULL, &form, NULL) == 0 &&
        features_open(s->config->cache.path, &form, &cache, NULL) == 0)
        s->fill.cache = cache;
}

bool sample_is_filled(struct sample_source *s)
{
    if (!s->config->cache.fill || s->cache || s->fill.cache)
        return s->fill.cache != NULL;
    if (!run_cache_is_whole(s->config->run_dir))
        return false;
    pthread_mutex_lock(&s->fill.lock);
    if (!s->fill.tried)
        open_filled(s);
    pthread_mutex_unlock(&s->fill.lock);
    return s->fill.cache != NULL;
}

static bool has_urls(const struct sample_source *s)
{
    struct dataset_sample sample;
    for (uint64_t id = 0; id < sample_count(s); id++) {
        dataset_sample(s->dataset, id, &sample);
        if (sample.location.kind == LOCATION_URL)
            return true;
    }
    return false;
}

static int open_download(struct sample_source *s, struct bl_error *err)
{
    const struct download_options options = download_options_of(&s->config->data);
    return download_open(&options, &s->download, err);
}

int sample_source_open(const char *run_folder, const uint8_t run[RUN_ID_BYTES],
                       struct path_map *map, const char *cache_tower,
                       const struct location_patience *patience, struct sample_source **ret,
                       struct bl_error *err)
{
    bl_auto(sample_source) struct sample_source *s = calloc(1, sizeof *s);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for the run's data");
    s->patience = *patience;
    pthread_mutex_init(&s->fill.lock, NULL);
    s->map = map;
    BL_TRY(run_open(run_folder, run, map, &s->config, &s->dataset, err));
    s->verified = calloc(sample_count(s) / 8 + 1, sizeof *s->verified);
    if (!s->verified)
        return bl_fail(err, BL_ENOMEM, "no memory for %llu samples",
                       (unsigned long long)sample_count(s));
    BL_TRY(open_captions(s, err));
    if (has_urls(s))
        BL_TRY(open_download(s, err));
    BL_TRY(image_processor_open(s->config->vision.path, s->config->data.max_pixels, &s->processor,
                                err));
    BL_TRY(hf_folder_sha256(s->config->vision.path, HF_IDENTITY_SETTINGS, s->vision_sha256, err));
    BL_TRY(hf_folder_sha256(s->config->llm.path, HF_IDENTITY_SETTINGS, s->llm_sha256, err));
    BL_TRY(open_cache(s, cache_tower, err));
    *ret = bl_take(&s);
    return 0;
}

void sample_source_free(struct sample_source **source)
{
    struct sample_source *s = *source;
    if (!s)
        return;
    struct features *filled = s->fill.cache;
    features_free(&filled);
    pthread_mutex_destroy(&s->fill.lock);
    features_free(&s->cache);
    token_rows_free(&s->tokens);
    download_free(&s->download);
    free(s->verified);
    free(s->prefixes);
    caption_rules_free(&s->rules);
    tokenizer_free(&s->tokenizer);
    dataset_free(&s->dataset);
    config_free(&s->config);
    free(s);
    *source = NULL;
}

uint64_t sample_count(const struct sample_source *s)
{
    return dataset_samples(s->dataset);
}

uint32_t sample_side(const struct sample_source *s)
{
    return s->processor.side;
}

void sample_models(const struct sample_source *s, const char **ret_vision, const char **ret_llm)
{
    *ret_vision = s->vision_sha256;
    *ret_llm = s->llm_sha256;
}

bool sample_is_cached(const struct sample_source *s)
{
    return s->cache != NULL;
}

size_t sample_image_bytes(const struct sample_source *s, bool rows)
{
    size_t side = s->processor.side;
    if (s->cache)
        return rows ? s->row_bytes : 0;
    return side * side * 3;
}

/* A sample as this host is to read it; its path may be in buffer. */
static int find_sample(const struct sample_source *s, uint64_t id, char buffer[PATH_BYTES],
                       struct dataset_sample *ret, struct bl_error *err)
{
    dataset_sample(s->dataset, id, ret);
    return path_map_apply(s->map, ret->location.path, buffer, PATH_BYTES, &ret->location.path, err);
}

/* -- image bytes ------------------------------------------------------------------------------ */

static bool is_verified(const struct sample_source *s, uint64_t id)
{
    return atomic_load_explicit(&s->verified[id / 8], memory_order_relaxed) >> id % 8 & 1;
}

static void set_verified(const struct sample_source *s, uint64_t id)
{
    atomic_fetch_or_explicit(&s->verified[id / 8], (uint8_t)(1u << id % 8), memory_order_relaxed);
}

int sample_want(const struct sample_source *s, uint64_t id, struct bl_error *err)
{
    struct dataset_sample sample;
    char path[PATH_BYTES];
    BL_TRY(find_sample(s, id, path, &sample, err));
    return sample.location.kind == LOCATION_URL && !s->cache
               ? download_want(s->download, &sample.location, err)
               : 0;
}

void sample_describe(const struct sample_source *s, uint64_t id, char *ret, size_t size)
{
    struct dataset_sample sample;
    char path[PATH_BYTES];
    find_sample(s, id, path, &sample, NULL); /* one that is too long is cut here too */
    location_describe(&sample.location, ret, size);
}

int sample_missing(const struct sample_source *s, uint64_t id, struct bl_error *err)
{
    struct dataset_sample sample;
    char reason[IMAGE_CACHE_REASON_MAX], path[PATH_BYTES];
    BL_TRY(find_sample(s, id, path, &sample, err));
    if (sample.location.kind != LOCATION_URL)
        return 0;
    bool known = image_cache_find(sample.location.path, reason) == IMAGE_CACHE_FAILED;
    return bl_fail(err, BL_EDATA, "%s", known ? reason : "other loaders could not fetch it");
}

/* What is at a URL: fetched where it is not in the cache. Another process may evict it before it is read, and what a host wrote
 * before it lost power may be torn. */
static int read_url(const struct sample_source *s, uint64_t id, const struct location *location,
                    char **ret_data, size_t *ret_size, struct bl_error *err)
{
    enum { TRIES = 10 };
    size_t most = (size_t)s->config->data.max_image_bytes;
    for (int tries = 1;; tries++) {
        bl_autofree char *data = NULL;
        BL_TRY(download_get(s->download, location, &s->patience, err));
        int rc = location_read(location, most, &data, ret_size, NULL, err);
        if (rc < 0 && (err->os_error != ENOENT || tries == TRIES))
            return rc;
        if (rc == 0 &&
            (is_verified(s, id) || image_cache_verify(location->path, data, *ret_size))) {
            set_verified(s, id);
            *ret_data = bl_take(&data);
            return 0;
        }
        if (tries == TRIES)
            return bl_fail(err, BL_EDATA, "the cache loses the image again and again");
    }
}

/* The image's bytes, which must be those that were indexed: the split, and what counts as the same
 * image, were decided by their hash. */
static int read_image(const struct sample_source *s, uint64_t id,
                      const struct dataset_sample *sample, char **ret_data, size_t *ret_size,
                      struct bl_error *err)
{
    uint8_t hash[32];
    struct bl_stamp stamp;
    bl_autofree char *data = NULL;
    size_t size;
    if (sample->location.kind == LOCATION_URL)
        return read_url(s, id, &sample->location, ret_data, ret_size, err);
    BL_TRY(location_read(&sample->location, (size_t)s->config->data.max_image_bytes, &data, &size,
                         &stamp, err));
    bool as_indexed = bl_stamp_equal(&stamp, &sample->stamp);
    if (!as_indexed || !is_verified(s, id)) {
        bl_sha256(data, size, hash);
        if (memcmp(hash, sample->hash, sizeof hash) != 0)
            return bl_fail(err, BL_EDATA, "the image has changed since the run's index was made");
        if (as_indexed)
            set_verified(s, id);
    }
    *ret_data = bl_take(&data);
    *ret_size = size;
    return 0;
}

/* -- a sample --------------------------------------------------------------------------------- */

bool sample_is_left_out(const struct bl_error *err)
{
    return !strcmp(err->key, "data.min_side");
}

/* Its row in the cache; NULL: it only must be there. */
static int take_row(const struct features *cache, const struct dataset_sample *sample, uint8_t *row,
                    struct bl_error *err)
{
    uint64_t at;
    enum features_found found = features_find(cache, sample->hash, &at);
    if (found == FEATURES_VOID)
        return bl_fail(err, BL_EFORMAT, "the feature cache has it as no picture");
    if (found == FEATURES_ABSENT)
        return bl_fail(err, BL_EDATA, "the feature cache does not have it");
    if (row)
        features_pack(cache, at, row);
    return 0;
}

static int make_pixels(const struct sample_source *s, uint64_t id,
                       const struct dataset_sample *sample, uint8_t *pixels, bool *ret_damaged,
                       struct bl_error *err)
{
    bl_autofree char *data = NULL;
    struct image_facts facts;
    size_t size = 0;
    BL_TRY(read_image(s, id, sample, &data, &size, err));
    BL_TRY(image_processor_run(&s->processor, (const uint8_t *)data, size, pixels, &facts, err));
    *ret_damaged = facts.damaged;
    const int64_t width = facts.width, height = facts.height, least = s->config->data.min_side;
    if (width >= least && height >= least)
        return 0;
    bl_fail(err, BL_EFORMAT, "%lld x %lld pixels, less than data.min_side (%lld)", (long long)width,
            (long long)height, (long long)least);
    return bl_error_key(err, "data.min_side");
}

/* The ids that were kept beside the cache. */
static int take_ids(const struct token_rows *rows, uint64_t row, struct token_ids *ids,
                    struct caption_encoded *ret, struct bl_error *err)
{
    size_t count;
    const int32_t *kept = token_rows_get(rows, row, &count, &ret->label_first, &ret->label_end);
    if (!bl_grow(&ids->ids, &ids->capacity, ids->count + count, sizeof *ids->ids))
        return bl_fail(err, BL_ENOMEM, "no memory for %zu ids", count);
    memcpy(ids->ids + ids->count, kept, count * sizeof *kept);
    ids->count += count;
    return 0;
}

static int make_ids(const struct sample_source *s, uint64_t id, uint32_t epoch,
                    struct token_ids *ids, struct sample_info *ret, struct bl_error *err)
{
    struct dataset_caption caption;
    struct caption_encoded encoded = {.verdict = CAPTION_KEPT};
    size_t before = ids->count;
    dataset_choose(s->dataset, id, (uint64_t)s->config->seed, epoch, &caption);
    struct caption_text text = dataset_caption_text(&caption);
    if (s->tokens)
        BL_TRY(take_ids(s->tokens, caption.row, ids, &encoded, err));
    else
        BL_TRY(caption_rules_encode(s->rules, &text, ids, &encoded, err));
    if (encoded.verdict != CAPTION_KEPT)
        return bl_fail(err, BL_EDATA, "its caption is %s, though it was indexed",
                       caption_verdict_words(encoded.verdict));
    ret->tokens = (uint32_t)(ids->count - before);
    ret->label_first = (uint32_t)encoded.label_first;
    ret->label_end = encoded.label_end == ret->tokens ? 0 : (uint32_t)encoded.label_end;
    ret->prefix = s->prefixes[caption.column];
    return 0;
}

static int make_image(const struct sample_source *s, uint64_t id,
                      const struct dataset_sample *sample, uint8_t *image, bool *ret_damaged,
                      struct bl_error *err)
{
    const struct features *cache = s->cache || image ? s->cache : s->fill.cache;
    *ret_damaged = false;
    return cache ? take_row(cache, sample, image, err)
                 : make_pixels(s, id, sample, image, ret_damaged, err);
}

int sample_make(const struct sample_source *s, uint64_t id, uint32_t epoch, uint8_t *image,
                struct token_ids *ids, struct sample_info *ret, struct bl_error *err)
{
    struct dataset_sample sample;
    struct sample_info info;
    char path[PATH_BYTES];
    size_t before = ids->count;
    BL_TRY(find_sample(s, id, path, &sample, err));
    for (unsigned failures = 0;;) {
        int rc = make_image(s, id, &sample, image, &info.damaged, err);
        if (rc == 0)
            rc = make_ids(s, id, epoch, ids, &info, err);
        if (rc == 0)
            break;
        ids->count = before;
        if (sample.location.kind == LOCATION_URL && location_failure_of(err) == LOCATION_PASSING)
            return rc; /* was tried for long enough */
        BL_TRY(location_before_next_try(&sample.location, ++failures, &s->patience, err));
    }
    memcpy(&info.image_hash, sample.hash, sizeof info.image_hash);
    *ret = info;
    return 0;
}

/* -- proof ------------------------------------------------------------------------------------ */

static int probe_one(const struct sample_source *s, uint64_t id, uint64_t *ret,
                     struct bl_error *err)
{
    uint8_t hash[32];
    struct dataset_sample sample;
    struct bl_stamp stamp;
    char path[PATH_BYTES];
    if (id >= sample_count(s))
        return bl_fail(err, BL_EDATA, "expected samples below %llu, found %llu",
                       (unsigned long long)sample_count(s), (unsigned long long)id);
    BL_TRY(find_sample(s, id, path, &sample, err));
    if (sample.location.kind == LOCATION_URL) {
        memcpy(ret, sample.hash, sizeof *ret);
        return 0;
    }
    for (unsigned failures = 0; location_sha256(&sample.location, hash, &stamp, err) < 0;)
        BL_TRY(location_before_next_try(&sample.location, ++failures, &s->patience, err));
    memcpy(ret, hash, sizeof *ret);
    return 0;
}

int sample_probe(const struct sample_source *s, const uint64_t *ids, size_t count,
                 uint64_t *ret_hashes, struct bl_error *ret_error, struct bl_error *err)
{
    *ret_error = (struct bl_error){0};
    for (size_t i = 0; i < count; i++) {
        struct bl_error why;
        ret_hashes[i] = 0;
        int rc = probe_one(s, ids[i], &ret_hashes[i], &why);
        if (rc == -BL_ESTOPPED)
            return bl_fail(err, BL_ESTOPPED, "%s", why.text);
        if (rc < 0 && !ret_error->code)
            *ret_error = why;
    }
    return 0;
}
