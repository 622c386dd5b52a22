/* common/data/dataset_inputs.c - what a dataset.index is made from: sources, images, tokenizer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset_format.h"
#include "common/file.h"
#include "common/file_hash.h"
#include "common/data/parallel.h"
#include "common/models/hf.h"

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* -- inputs ----------------------------------------------------------------------------------- */

int dataset_inputs_location(const struct dataset_inputs *inputs, uint64_t row, char **ret,
                            struct bl_error *err)
{
    const struct source_part *part = source_set_find(&inputs->set, &row);
    return source_locate(part->source, row, ret, err);
}

/* -- images, by several threads ---------------------------------------------------------------- */

/* Rows that a thread looks at before it takes the next: taking is dearer than looking where there is no file to look at. */
enum { ROWS_AT_ONCE = 64 };

struct located_row {
    char *text; /* of its location */
    uint64_t row;
};

/* Looking at images, then hashing them. */
struct reading {
    struct dataset_inputs *inputs;
    uint64_t bytes_max;
    const struct located_row *located; /* hashing: unique locations, one row of each */
    const struct hash_cache *cache;

    enum dataset_phase phase;
    dataset_progress *progress; /* may be NULL */
    void *ctx;
    uint64_t count, rows_of_item;
};

static bool watch(void *context, uint64_t done)
{
    const struct reading *r = context;
    uint64_t rows = done * r->rows_of_item;
    return !r->progress ||
           r->progress(r->ctx, r->phase, rows < r->count ? rows : r->count, r->count);
}

/* All `count` rows, in so many items. */
static int read_all(struct reading *r, enum dataset_phase phase, uint64_t count, uint64_t items,
                    int (*item)(void *, struct parallel *, uint64_t, struct bl_error *),
                    struct bl_error *err)
{
    r->phase = phase;
    r->count = count;
    r->rows_of_item = count == items ? 1 : ROWS_AT_ONCE;
    return parallel_run(
        &(struct parallel_work){.count = items, .item = item, .watch = watch, .context = r}, err);
}

static int no_image(struct dataset_image *image)
{
    image->stamp = (struct bl_stamp){0};
    image->verdict = DATASET_NO_IMAGE;
    return 0;
}

/* An image that is not there is missing; a passing fault of this host does not make it so. What is at a URL is fetched when it is
 * needed. */
static int look_at_image(const struct reading *r, struct parallel *run, uint64_t row,
                         struct bl_error *err)
{
    const struct location_patience patience = {parallel_wait, run};
    struct dataset_image *image = &r->inputs->images[row];
    bl_autofree char *text = NULL;
    struct location location;
    uint64_t source_row = row;
    const struct source_part *part = source_set_find(&r->inputs->set, &source_row);
    BL_TRY(source_identify(part->source, source_row, &image->is_url, image->hash, err));
    if (image->is_url)
        return 0;
    BL_TRY(dataset_inputs_location(r->inputs, row, &text, err));
    if (!text)
        return no_image(image);
    BL_TRY(location_parse(text, &location, err));
    for (unsigned failures = 0; location_stamp(&location, &image->stamp, err) < 0;) {
        if (location_failure_of(err) != LOCATION_PASSING)
            return no_image(image);
        BL_TRY(location_before_next_try(&location, ++failures, &patience, err));
    }
    bool whole_file = location.kind != LOCATION_CELL; /* else the stamp's size is not the image's */
    image->verdict =
        whole_file && image->stamp.size > r->bytes_max ? DATASET_TOO_LARGE : DATASET_KEPT;
    return 0;
}

static int look_at_images(void *context, struct parallel *run, uint64_t i, struct bl_error *err)
{
    const struct reading *r = context;
    uint64_t first = i * ROWS_AT_ONCE, end = first + ROWS_AT_ONCE;
    for (uint64_t row = first; row < end && row < r->inputs->count; row++)
        BL_TRY(look_at_image(r, run, row, err));
    return 0;
}

/* The whole content of a file is hashed in pieces; a value of a Parquet file is read. */
static int hash_location(const struct reading *r, const struct location *location,
                         struct dataset_image *image, struct bl_error *err)
{
    bl_autofree char *data = NULL;
    size_t size;
    if (location->kind != LOCATION_CELL)
        return location_sha256(location, image->hash, &image->stamp, err);
    BL_TRY(location_read(location, (size_t)r->bytes_max, &data, &size, &image->stamp, err));
    bl_sha256(data, size, image->hash);
    return 0;
}

/* An image that went away or may not be read counts as missing. */
static int hash_image(void *context, struct parallel *run, uint64_t i, struct bl_error *err)
{
    const struct reading *r = context;
    const struct location_patience patience = {parallel_wait, run};
    const char *text = r->located[i].text;
    struct dataset_image *image = &r->inputs->images[r->located[i].row];
    struct location location;
    BL_TRY(location_parse(text, &location, err));
    if (image->verdict != DATASET_KEPT ||
        hash_cache_find(r->cache, text, &image->stamp, image->hash))
        return 0;
    for (unsigned failures = 0; hash_location(r, &location, image, err) < 0;) {
        if (location_failure_of(err) != LOCATION_PASSING) {
            image->verdict = err->code == BL_ELIMIT ? DATASET_TOO_LARGE : DATASET_NO_IMAGE;
            return 0;
        }
        BL_TRY(location_before_next_try(&location, ++failures, &patience, err));
    }
    hash_cache_add(r->cache, text, &image->stamp, image->hash);
    return 0;
}

static int look_at_all(const struct config *config, struct dataset_inputs *inputs,
                       dataset_progress *progress, void *ctx, struct bl_error *err)
{
    struct reading r = {.inputs = inputs,
                        .bytes_max = (uint64_t)config->data.max_image_bytes,
                        .progress = progress,
                        .ctx = ctx};
    inputs->images = calloc(inputs->count, sizeof *inputs->images);
    if (!inputs->images)
        return fail_nomem(err);
    uint64_t blocks = (inputs->count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    return read_all(&r, DATASET_LOOKING, inputs->count, blocks, look_at_images, err);
}

static int compare_located(const void *a, const void *b)
{
    const struct located_row *x = a, *y = b;
    int by_location = strcmp(x->text, y->text);
    return by_location ? by_location : (x->row > y->row) - (x->row < y->row);
}

static int compare_rows(const void *a, const void *b)
{
    const struct located_row *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

/* Hashes what is at each location once, however many rows name it; in the order of rows, in which they lie in a container. */
static int hash_located(struct reading *r, struct located_row *located, uint64_t count,
                        struct bl_error *err)
{
    uint64_t unique = 0;
    if (!count)
        return 0;
    bl_autofree struct located_row *once = calloc(count, sizeof *once);
    if (!once)
        return fail_nomem(err);
    qsort(located, count, sizeof *located, compare_located);
    for (uint64_t i = 0; i < count; i++)
        if (!i || strcmp(located[i].text, located[i - 1].text))
            once[unique++] = located[i];
    qsort(once, unique, sizeof *once, compare_rows);
    r->located = once;
    BL_TRY(read_all(r, DATASET_HASHING, unique, unique, hash_image, err));
    struct dataset_image *images = r->inputs->images;
    for (uint64_t i = 1; i < count; i++)
        if (!strcmp(located[i].text, located[i - 1].text))
            images[located[i].row] = images[located[i - 1].row];
    return 0;
}

/* Those rows whose images are to be hashed. */
static int locate_rows(const struct dataset_inputs *inputs, struct located_row *located,
                       uint64_t *count, struct bl_error *err)
{
    for (uint64_t row = 0; row < inputs->count; row++) {
        const struct dataset_image *image = &inputs->images[row];
        if (image->is_url || image->verdict != DATASET_KEPT)
            continue;
        BL_TRY(dataset_inputs_location(inputs, row, &located[*count].text, err));
        located[(*count)++].row = row;
    }
    return 0;
}

int dataset_inputs_hash(struct dataset_inputs *inputs, const struct hash_cache *cache,
                        uint64_t bytes_max, dataset_progress *progress, void *ctx,
                        struct bl_error *err)
{
    struct reading r = {
        .inputs = inputs, .bytes_max = bytes_max, .cache = cache, .progress = progress, .ctx = ctx};
    struct located_row *located = calloc(inputs->count, sizeof *located);
    uint64_t count = 0;
    if (!located)
        return fail_nomem(err);
    int rc = locate_rows(inputs, located, &count, err);
    if (rc == 0)
        rc = hash_located(&r, located, count, err);
    for (uint64_t i = 0; i < count; i++)
        free(located[i].text);
    free(located);
    return rc;
}

/* -- all inputs --------------------------------------------------------------------------------- */

static int open_tokenizer(const struct config *config, struct dataset_inputs *inputs,
                          char ret_hex[65], struct bl_error *err)
{
    char path[4096];
    struct hf_llm llm;
    BL_TRY(bl_path_join(path, sizeof path, config->llm.path, "tokenizer.json", err));
    BL_TRY(bl_file_sha256(path, ret_hex, err));
    BL_TRY(tokenizer_open(config->llm.path, &inputs->tokenizer, err));
    BL_TRY(hf_llm_open(config->llm.path, &llm, err));
    return caption_eos(&config->data, inputs->tokenizer, &llm, &inputs->eos, err);
}

static void digest_inputs(const struct config *config, struct dataset_inputs *inputs,
                          const char *tokenizer_hex)
{
    struct bl_sha256 hash;
    uint8_t keys[32];
    uint32_t version = DATASET_VERSION;
    bl_sha256_begin(&hash);
    config_data_digest(config, keys);
    bl_sha256_add(&hash, &version, sizeof version);
    bl_sha256_add(&hash, keys, sizeof keys);
    bl_sha256_add(&hash, tokenizer_hex, 64);
    bl_sha256_add(&hash, &inputs->eos, sizeof inputs->eos);
    for (uint32_t i = 0; i < inputs->set.count; i++) {
        const struct source *source = inputs->set.parts[i].source;
        const char *folder = source_folder(source);
        bl_sha256_add(&hash, folder, strlen(folder) + 1);
        bl_sha256_add(&hash, source_fingerprint(source), 32);
        for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++) {
            const char *name;
            uint64_t count = source_passed(source, (enum source_passed)kind);
            bl_sha256_add(&hash, &count, sizeof count);
            for (uint32_t k = 0; (name = source_passed_name(source, (enum source_passed)kind, k));
                 k++)
                bl_sha256_add(&hash, name, strlen(name) + 1);
        }
    }
    bool urls = false;
    for (uint64_t row = 0; row < inputs->count; row++) {
        const struct dataset_image *image = &inputs->images[row];
        urls |= image->is_url;
        const uint64_t seen[3] = {image->verdict, image->stamp.size,
                                  (uint64_t)image->stamp.mtime_ns};
        bl_sha256_add(&hash, seen, sizeof seen);
    }
    if (urls) /* their locations name it */
        bl_sha256_add(&hash, config->data.cache, strlen(config->data.cache) + 1);
    bl_sha256_end(&hash, inputs->digest);
}

int dataset_inputs_open(const struct config *config, dataset_progress *progress, void *ctx,
                        struct dataset_inputs **ret, struct bl_error *err)
{
    __attribute__((cleanup(dataset_inputs_free))) struct dataset_inputs *inputs =
        calloc(1, sizeof *inputs);
    char tokenizer_hex[65];
    if (!inputs)
        return fail_nomem(err);
    BL_TRY(open_tokenizer(config, inputs, tokenizer_hex, err));
    BL_TRY(source_set_open(&config->data, &inputs->set, err));
    inputs->count = source_set_rows(&inputs->set);
    BL_TRY(look_at_all(config, inputs, progress, ctx, err));
    digest_inputs(config, inputs, tokenizer_hex);
    *ret = bl_take(&inputs);
    return 0;
}

void dataset_inputs_free(struct dataset_inputs **inputs)
{
    struct dataset_inputs *i = *inputs;
    if (!i)
        return;
    source_set_release(&i->set);
    tokenizer_free(&i->tokenizer);
    free(i->images);
    free(i);
    *inputs = NULL;
}
