/* common/data/dataset_inputs.c - what a dataset.index is made from: sources, images, tokenizer. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset_format.h"
#include "common/file.h"
#include "common/models/hf.h"
#include "common/limits.h"

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* -- inputs ----------------------------------------------------------------------------------- */

const struct source *dataset_inputs_source(const struct dataset_inputs *inputs, uint64_t *row)
{
    uint64_t first = source_count(inputs->sources[0]);
    if (*row < first)
        return inputs->sources[0];
    *row -= first;
    return inputs->sources[1];
}

int dataset_inputs_location(const struct dataset_inputs *inputs, uint64_t row, char **ret,
                            struct bl_error *err)
{
    const struct source *source = dataset_inputs_source(inputs, &row);
    return source_locate(source, row, ret, err);
}

static int open_sources(const struct config *config, struct dataset_inputs *inputs,
                        struct bl_error *err)
{
    const struct config_data *data = &config->data;
    const char *const folders[2] = {data->source, data->validation_source};
    bl_autofree const char **columns = calloc(data->captions.count, sizeof *columns);
    if (!columns)
        return fail_nomem(err);
    for (size_t i = 0; i < data->captions.count; i++)
        columns[i] = data->captions.at[i].column;
    for (int i = 0; i < 2 && folders[i]; i++) {
        int rc = source_open(folders[i], data->format, columns, data->captions.count,
                             &inputs->sources[i], err);
        if (rc < 0 && err && !strcmp(err->file, folders[i])) /* the folder, not a line in it */
            bl_error_key(err, i ? "data.validation_source" : "data.source");
        BL_TRY(rc);
        inputs->count += source_count(inputs->sources[i]);
    }
    return 0;
}

/* An image that is not there, or larger than any image, is missing; a host's passing fault is none of these. */
static int look_at_image(const struct dataset_inputs *inputs, uint64_t row,
                         struct dataset_image *image, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    struct location location;
    struct bl_error unseen;
    BL_TRY(dataset_inputs_location(inputs, row, &text, err));
    BL_TRY(location_parse(text, &location, err));
    image->there = location_stamp(&location, &image->stamp, &unseen) == 0 &&
                   image->stamp.size <= BL_IMAGE_FILE_BYTES_MAX;
    return 0;
}

static int look_at_images(struct dataset_inputs *inputs, struct bl_error *err)
{
    inputs->images = calloc(inputs->count, sizeof *inputs->images);
    if (!inputs->images)
        return fail_nomem(err);
    for (uint64_t row = 0; row < inputs->count; row++)
        BL_TRY(look_at_image(inputs, row, &inputs->images[row], err));
    return 0;
}

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

static void update(crypto_hash_sha256_state *state, const void *data, size_t size)
{
    crypto_hash_sha256_update(state, data, size);
}

static void digest_inputs(const struct config *config, struct dataset_inputs *inputs,
                          const char *tokenizer_hex)
{
    crypto_hash_sha256_state state;
    uint8_t keys[32];
    uint32_t version = DATASET_VERSION;
    crypto_hash_sha256_init(&state);
    config_data_digest(config, keys);
    update(&state, &version, sizeof version);
    update(&state, keys, sizeof keys);
    update(&state, tokenizer_hex, 64);
    update(&state, &inputs->eos, sizeof inputs->eos);
    for (int i = 0; i < 2 && inputs->sources[i]; i++) {
        const char *folder = source_folder(inputs->sources[i]);
        update(&state, folder, strlen(folder) + 1);
        update(&state, source_fingerprint(inputs->sources[i]), 32);
    }
    for (uint64_t row = 0; row < inputs->count; row++) {
        const struct dataset_image *image = &inputs->images[row];
        const uint64_t seen[3] = {image->there, image->stamp.size, (uint64_t)image->stamp.mtime_ns};
        update(&state, seen, sizeof seen);
    }
    crypto_hash_sha256_final(&state, inputs->digest);
}

int dataset_inputs_open(const struct config *config, struct dataset_inputs **ret,
                        struct bl_error *err)
{
    __attribute__((cleanup(dataset_inputs_free))) struct dataset_inputs *inputs =
        calloc(1, sizeof *inputs);
    char tokenizer_hex[65];
    if (!inputs)
        return fail_nomem(err);
    BL_TRY(open_tokenizer(config, inputs, tokenizer_hex, err));
    BL_TRY(open_sources(config, inputs, err));
    BL_TRY(look_at_images(inputs, err));
    digest_inputs(config, inputs, tokenizer_hex);
    *ret = bl_take(&inputs);
    return 0;
}

void dataset_inputs_free(struct dataset_inputs **inputs)
{
    struct dataset_inputs *i = *inputs;
    if (!i)
        return;
    source_free(&i->sources[0]);
    source_free(&i->sources[1]);
    tokenizer_free(&i->tokenizer);
    free(i->images);
    free(i);
    *inputs = NULL;
}

/* -- hashing images --------------------------------------------------------------------------- */

struct located_row {
    char *location;
    uint64_t row;
};

static int compare_located(const void *a, const void *b)
{
    const struct located_row *x = a, *y = b;
    int by_location = strcmp(x->location, y->location);
    return by_location ? by_location : (x->row > y->row) - (x->row < y->row);
}

/* An image that went away or cannot be read counts as missing. */
static int hash_image(const char *text, struct dataset_image *image, struct bl_error *err)
{
    struct location location;
    struct bl_error unread;
    bl_autofree char *data = NULL;
    size_t size = 0;
    BL_TRY(location_parse(text, &location, err));
    int rc =
        location_read(&location, BL_IMAGE_FILE_BYTES_MAX, &data, &size, &image->stamp, &unread);
    if (rc == -BL_ENOMEM)
        return fail_nomem(err);
    image->there = rc == 0;
    if (image->there)
        crypto_hash_sha256(image->hash, (const uint8_t *)data, size);
    return 0;
}

/* Hashes what is at each location once, however many rows name it. */
static int hash_located(struct dataset_inputs *inputs, const struct located_row *located,
                        dataset_progress *progress, void *ctx, struct bl_error *err)
{
    for (uint64_t i = 0; i < inputs->count; i++) {
        struct dataset_image *image = &inputs->images[located[i].row];
        if (progress && !progress(ctx, i, inputs->count))
            return bl_fail(err, BL_ESTOPPED, "stopped while images were read");
        if (i && !strcmp(located[i].location, located[i - 1].location))
            *image = inputs->images[located[i - 1].row];
        else if (image->there)
            BL_TRY(hash_image(located[i].location, image, err));
    }
    if (progress && !progress(ctx, inputs->count, inputs->count))
        return bl_fail(err, BL_ESTOPPED, "stopped after images were read");
    return 0;
}

int dataset_inputs_hash(struct dataset_inputs *inputs, dataset_progress *progress, void *ctx,
                        struct bl_error *err)
{
    struct located_row *located = calloc(inputs->count, sizeof *located);
    if (!located)
        return fail_nomem(err);
    int rc = 0;
    for (uint64_t row = 0; row < inputs->count && rc == 0; row++) {
        located[row].row = row;
        rc = dataset_inputs_location(inputs, row, &located[row].location, err);
    }
    if (rc == 0) {
        qsort(located, inputs->count, sizeof *located, compare_located);
        rc = hash_located(inputs, located, progress, ctx, err);
    }
    for (uint64_t row = 0; row < inputs->count; row++)
        free(located[row].location);
    free(located);
    return rc;
}
