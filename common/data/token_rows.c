/* common/data/token_rows.c - see token_rows.h. */
#include "common/data/token_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arrow/arrow.h"
#include "common/cleanup.h"
#include "common/data/captions.h"
#include "common/data/parallel.h"
#include "common/file.h"
#include "common/file_hash.h"
#include "common/models/hf.h"

enum { COLUMN_IMAGE, COLUMN_IDS, COLUMN_LABEL_FIRST, COLUMN_LABEL_END, COLUMNS };
enum { ROWS_OF_BATCH = 1 << 16, ROWS_AT_ONCE = 64, DIGITS = 64 };

static const struct arrow_column columns[COLUMNS] = {
    [COLUMN_IMAGE] = {.name = "image", .type = ARROW_UTF8},
    [COLUMN_IDS] = {.name = "ids", .type = ARROW_I32, .list = true},
    [COLUMN_LABEL_FIRST] = {.name = "label_first", .type = ARROW_I32},
    [COLUMN_LABEL_END] = {.name = "label_end", .type = ARROW_I32},
};

static int path_of(char ret[4096], const char *folder, struct bl_error *err)
{
    return bl_path_join(ret, 4096, folder, "captions.arrow", err);
}

/* -- what the ids depend on ------------------------------------------------------------------- */

int token_key_of(const struct config *config, const struct dataset *dataset, struct token_key *ret,
                 struct bl_error *err)
{
    char path[4096];
    bl_hex(dataset_fingerprint(dataset), 32, ret->data);
    BL_TRY(bl_path_join(path, sizeof path, config->llm.path, "tokenizer.json", err));
    BL_TRY(bl_file_sha256(path, ret->tokenizer, err));
    ret->rules = config_caption_rules(config);
    return ret->rules ? 0 : bl_fail(err, BL_ENOMEM, "no memory for the caption rules");
}

void token_key_release(struct token_key *key)
{
    free(key->rules);
    key->rules = NULL;
}

/* -- writing ---------------------------------------------------------------------------------- */

/* Of rows [first, first + count). */
struct batch {
    const struct dataset *dataset;
    const struct caption_rules *rules;
    const uint64_t *samples; /* (count) whose captions they are */
    const uint32_t *which;   /* (count) */
    size_t count;
    struct token_ids *ids; /* (count) owned */
    int32_t *label_first, *label_end, *offsets, *name_offsets;
    char *names;
};

static void batch_release(struct batch *b)
{
    for (size_t i = 0; b->ids && i < b->count; i++)
        token_ids_release(&b->ids[i]);
    free(b->ids);
    free(b->label_first);
    free(b->label_end);
    free(b->offsets);
    free(b->name_offsets);
    free(b->names);
}

static int encode(struct batch *b, size_t i, struct bl_error *err)
{
    struct dataset_caption caption;
    struct caption_encoded encoded;
    dataset_caption(b->dataset, b->samples[i], b->which[i], &caption);
    const struct caption_text text = dataset_caption_text(&caption);
    BL_TRY(caption_rules_encode(b->rules, &text, &b->ids[i], &encoded, err));
    if (encoded.verdict != CAPTION_KEPT)
        return bl_fail(err, BL_EDATA, "a caption is %s, though it was indexed",
                       caption_verdict_words(encoded.verdict));
    b->label_first[i] = (int32_t)encoded.label_first;
    b->label_end[i] = (int32_t)encoded.label_end;
    return 0;
}

static int encode_some(void *context, struct parallel *run, uint64_t item, struct bl_error *err)
{
    struct batch *b = context;
    size_t first = item * ROWS_AT_ONCE, end = first + ROWS_AT_ONCE;
    for (size_t i = first; i < end && i < b->count; i++)
        BL_TRY(encode(b, i, err));
    return 0;
}

/* Lays the ids out one after the other; the caller's. */
static int32_t *join_ids(struct batch *b)
{
    size_t total = 0;
    for (size_t i = 0; i < b->count; i++)
        total += b->ids[i].count;
    int32_t *all = malloc((total + 1) * sizeof *all);
    for (size_t i = 0; all && i < b->count; i++) {
        memcpy(all + b->offsets[i], b->ids[i].ids, b->ids[i].count * sizeof *all);
        b->offsets[i + 1] = b->offsets[i] + (int32_t)b->ids[i].count;
    }
    return all;
}

static int write_batch(struct arrow_writer *writer, const struct dataset *dataset,
                       const struct caption_rules *rules, const uint64_t *samples,
                       const uint32_t *which, size_t count, struct bl_error *err)
{
    __attribute__((cleanup(batch_release))) struct batch b = {
        .dataset = dataset, .rules = rules, .samples = samples, .which = which, .count = count};
    b.ids = calloc(count, sizeof *b.ids);
    b.label_first = calloc(count, sizeof *b.label_first);
    b.label_end = calloc(count, sizeof *b.label_end);
    b.offsets = calloc(count + 1, sizeof *b.offsets);
    b.name_offsets = calloc(count + 1, sizeof *b.name_offsets);
    b.names = malloc(count * DIGITS + 1);
    if (!b.ids || !b.label_first || !b.label_end || !b.offsets || !b.name_offsets || !b.names)
        return bl_fail(err, BL_ENOMEM, "no memory for the ids of %zu captions", count);
    BL_TRY(parallel_run(&(struct parallel_work){.count = (count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE,
                                                .item = encode_some,
                                                .context = &b},
                        err));
    for (size_t i = 0; i < count; i++) {
        struct dataset_sample sample;
        dataset_sample(dataset, samples[i], &sample);
        bl_hex(sample.hash, 32, b.names + i * DIGITS);
        b.name_offsets[i + 1] = (int32_t)((i + 1) * DIGITS);
    }
    bl_autofree int32_t *ids = join_ids(&b);
    if (!ids)
        return bl_fail(err, BL_ENOMEM, "no memory for the ids of %zu captions", count);
    const struct arrow_values values[COLUMNS] = {[COLUMN_IMAGE] = {b.names, b.name_offsets},
                                                 [COLUMN_IDS] = {ids, b.offsets},
                                                 [COLUMN_LABEL_FIRST] = {b.label_first, NULL},
                                                 [COLUMN_LABEL_END] = {b.label_end, NULL}};
    return arrow_writer_batch(writer, (int64_t)count, values, err);
}

static int write_rows(struct arrow_writer *writer, const struct dataset *dataset,
                      const struct caption_rules *rules, struct bl_error *err)
{
    bl_autofree uint64_t *samples = calloc(ROWS_OF_BATCH, sizeof *samples);
    bl_autofree uint32_t *which = calloc(ROWS_OF_BATCH, sizeof *which);
    size_t count = 0;
    if (!samples || !which)
        return bl_fail(err, BL_ENOMEM, "no memory for a batch of captions");
    for (uint64_t id = 0; id < dataset_samples(dataset); id++) {
        struct dataset_sample sample;
        dataset_sample(dataset, id, &sample);
        for (uint32_t i = 0; i < sample.caption_count; i++) {
            samples[count] = id;
            which[count++] = i;
            if (count < ROWS_OF_BATCH)
                continue;
            BL_TRY(write_batch(writer, dataset, rules, samples, which, count, err));
            count = 0;
        }
    }
    return count ? write_batch(writer, dataset, rules, samples, which, count, err) : 0;
}

static int write_file(const char *path, const struct config *config, const struct dataset *dataset,
                      const struct token_key *key, struct bl_error *err)
{
    struct hf_llm llm;
    int32_t eos;
    bl_auto(tokenizer) struct tokenizer *tokenizer = NULL;
    bl_auto(caption_rules) struct caption_rules *rules = NULL;
    bl_auto(arrow_writer) struct arrow_writer *writer = NULL;
    const char *const metadata[] = {"blipren.captions",
                                    "1",
                                    "blipren.data",
                                    key->data,
                                    "blipren.tokenizer",
                                    key->tokenizer,
                                    "blipren.rules",
                                    key->rules,
                                    NULL};
    BL_TRY(tokenizer_open(config->llm.path, &tokenizer, err));
    BL_TRY(hf_llm_open(config->llm.path, &llm, err));
    BL_TRY(caption_eos(&config->data, tokenizer, &llm, &eos, err));
    BL_TRY(caption_rules_open(&config->data, tokenizer, eos, &rules, err));
    BL_TRY(arrow_writer_open(path, columns, COLUMNS, metadata, &writer, err));
    BL_TRY(write_rows(writer, dataset, rules, err));
    return arrow_writer_commit(writer, err);
}

int token_rows_write(const char *folder, const struct config *config, const struct dataset *dataset,
                     bool *ret_written, struct bl_error *err)
{
    char path[4096];
    struct bl_error why;
    bl_auto(token_rows) struct token_rows *there = NULL;
    __attribute__((cleanup(token_key_release))) struct token_key key = {.rules = NULL};
    BL_TRY(path_of(path, folder, err));
    BL_TRY(token_key_of(config, dataset, &key, err));
    token_rows_open(folder, &key, dataset_captions(dataset), &there, &why);
    if (ret_written)
        *ret_written = !there;
    return there ? 0 : write_file(path, config, dataset, &key, err);
}

/* -- reading ---------------------------------------------------------------------------------- */

struct token_rows {
    struct arrow *file;
    uint64_t rows_of_batch; /* of each but the last */
};

static int check_key(const struct arrow *file, const struct token_key *key, struct bl_error *err)
{
    const char *const wanted[][2] = {{"blipren.captions", "1"},
                                     {"blipren.data", key->data},
                                     {"blipren.tokenizer", key->tokenizer},
                                     {"blipren.rules", key->rules}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const char *found = arrow_metadata(file, wanted[i][0]);
        if (!found || strcmp(found, wanted[i][1]) != 0)
            return bl_fail(err, BL_ECONFIG, "its %s is of other captions or rules than this run's",
                           wanted[i][0]);
    }
    for (int i = 0; i < COLUMNS; i++)
        if (arrow_column_count(file) != COLUMNS ||
            !arrow_column_equal(arrow_column_at(file, i), &columns[i]))
            return bl_fail(err, BL_EFORMAT,
                           "expected the columns image, ids, label_first, label_end");
    return 0;
}

/* Each caption has a row of at least one id, the first label within, and all batches but the last are of one size. */
static int check_rows(struct token_rows *r, uint64_t captions, struct bl_error *err)
{
    uint64_t rows = 0;
    int batches = arrow_batch_count(r->file);
    r->rows_of_batch = batches ? (uint64_t)arrow_batch_rows(r->file, 0) : 1;
    for (int batch = 0; batch < batches; batch++) {
        uint64_t count = (uint64_t)arrow_batch_rows(r->file, batch);
        const int32_t *offsets = arrow_batch_values(r->file, batch, COLUMN_IDS).offsets,
                      *label_first = arrow_batch_values(r->file, batch, COLUMN_LABEL_FIRST).data,
                      *label_end = arrow_batch_values(r->file, batch, COLUMN_LABEL_END).data;
        if (count < 1 || count > r->rows_of_batch ||
            (batch + 1 < batches && count != r->rows_of_batch))
            return bl_fail(err, BL_EFORMAT, "its batches are of other sizes");
        for (uint64_t i = 0; i < count; i++)
            if (label_first[i] < 0 || label_first[i] >= label_end[i] ||
                label_end[i] > offsets[i + 1] - offsets[i])
                return bl_fail(err, BL_EFORMAT, "a caption without labels");
        rows += count;
    }
    return rows == captions ? 0
                            : bl_fail(err, BL_EFORMAT, "expected %llu captions, found %llu",
                                      (unsigned long long)captions, (unsigned long long)rows);
}

void token_rows_open(const char *folder, const struct token_key *key, uint64_t captions,
                     struct token_rows **ret, struct bl_error *ret_why)
{
    char path[4096];
    bl_auto(token_rows) struct token_rows *r = calloc(1, sizeof *r);
    *ret = NULL;
    *ret_why = (struct bl_error){0};
    if (!r || path_of(path, folder, NULL) < 0 || !bl_path_is_file(path))
        return;
    if (arrow_open(path, &r->file, ret_why) < 0 || arrow_verify(r->file, ret_why) < 0)
        return;
    if (check_key(r->file, key, ret_why) < 0 || check_rows(r, captions, ret_why) < 0) {
        bl_error_file(ret_why, path);
        return;
    }
    *ret = bl_take(&r);
}

void token_rows_free(struct token_rows **rows)
{
    if (!*rows)
        return;
    arrow_free(&(*rows)->file);
    free(*rows);
    *rows = NULL;
}

const int32_t *token_rows_get(const struct token_rows *r, uint64_t caption, size_t *ret_count,
                              size_t *ret_label_first, size_t *ret_label_end)
{
    int batch = (int)(caption / r->rows_of_batch);
    uint64_t row = caption % r->rows_of_batch;
    struct arrow_values ids = arrow_batch_values(r->file, batch, COLUMN_IDS),
                        first = arrow_batch_values(r->file, batch, COLUMN_LABEL_FIRST),
                        end = arrow_batch_values(r->file, batch, COLUMN_LABEL_END);
    *ret_count = (size_t)(ids.offsets[row + 1] - ids.offsets[row]);
    *ret_label_first = (size_t)((const int32_t *)first.data)[row];
    *ret_label_end = (size_t)((const int32_t *)end.data)[row];
    return (const int32_t *)ids.data + ids.offsets[row];
}
