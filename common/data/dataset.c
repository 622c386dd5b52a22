/* common/data/dataset.c - opening, checking and reading a dataset.index. */
#include "common/data/dataset.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset_format.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/utf8.h"

struct dataset {
    struct bl_bytes bytes; /* read or made; empty: borrowed */
    const struct dataset_header *header;
    const struct dataset_row *rows;
    const struct dataset_text *captions;
    const uint64_t *ids[DATASET_SPLIT_COUNT];
    const uint64_t *lengths;
    const struct dataset_note *notes;
    const char *text;
};

static const char *const verdict_words[] = {
#define X(name, words) words,
    DATASET_VERDICTS(X)
#undef X
};

const char *dataset_verdict_words(enum dataset_verdict verdict)
{
    return verdict_words[verdict];
}

const char *dataset_phase_words(enum dataset_phase phase)
{
    static const char *const words[] = {
#define X(name, words) words,
        DATASET_PHASES(X)
#undef X
    };
    return words[phase];
}

/* -- checks ----------------------------------------------------------------------------------- */

static int fail(struct bl_error *err, const char *what)
{
    bl_fail(err, BL_EFORMAT, "the dataset index is damaged: %s", what);
    return bl_error_remedy(err, "remove it; it will be made again");
}

/* Takes a section of count elements off the front; NULL: it is not there. */
static const void *take(const uint8_t **at, size_t *left, uint64_t count, size_t element)
{
    size_t bytes;
    if (!bl_mul(count, element, &bytes) || bytes > *left)
        return NULL;
    const void *section = *at;
    *at += bytes;
    *left -= bytes;
    return section;
}

/* Points at the sections; they must fill the file. */
static int check_sections(struct dataset *d, const uint8_t *data, size_t size, struct bl_error *err)
{
    const struct dataset_header *h = (const void *)data;
    if (size < sizeof *h || memcmp(h->magic, DATASET_MAGIC, sizeof h->magic))
        return fail(err, "it does not begin with " DATASET_MAGIC);
    if (h->version != DATASET_VERSION || h->header_bytes != sizeof *h)
        return fail(err, "another version of this program wrote it");
    d->header = h;
    const uint8_t *at = data + sizeof *h;
    size_t left = size - sizeof *h;
    if (!(d->rows = take(&at, &left, h->sample_count, sizeof *d->rows)) ||
        !(d->captions = take(&at, &left, h->caption_count, sizeof *d->captions)) ||
        !(d->ids[0] = take(&at, &left, h->split_count[0], sizeof *d->ids[0])) ||
        !(d->ids[1] = take(&at, &left, h->split_count[1], sizeof *d->ids[1])) ||
        !(d->lengths = take(&at, &left, h->length_count, sizeof *d->lengths)) ||
        !(d->notes = take(&at, &left, h->example_count, sizeof *d->notes)) ||
        !(d->text = take(&at, &left, h->text_bytes, 1)) || left)
        return fail(err, "its length does not match its header");
    uint8_t digest[32];
    const uint8_t *covered = h->made_from;
    bl_sha256(covered, (size_t)(data + size - covered), digest);
    if (memcmp(digest, h->digest, sizeof digest))
        return fail(err, "its checksum is wrong");
    return 0;
}

/* A text of this size, NUL behind it. */
static bool text_fits(const struct dataset *d, uint64_t at, uint64_t size)
{
    return at < d->header->text_bytes && size < d->header->text_bytes - at && !d->text[at + size];
}

static bool string_fits(const struct dataset *d, uint64_t at)
{
    return at < d->header->text_bytes && memchr(d->text + at, 0, d->header->text_bytes - at);
}

static bool location_fits(const struct dataset *d, uint64_t at)
{
    struct location location;
    return string_fits(d, at) && location_parse(d->text + at, &location, NULL) == 0;
}

static int check_rows(const struct dataset *d, struct bl_error *err)
{
    const struct dataset_header *h = d->header;
    uint64_t next = 0;
    for (uint64_t i = 0; i < h->sample_count; i++) {
        const struct dataset_row *row = &d->rows[i];
        if (row->first_caption != next || !row->caption_count ||
            row->caption_count > h->caption_count - next || row->split >= DATASET_SPLIT_COUNT ||
            !location_fits(d, row->location))
            return fail(err, "a sample is wrong");
        next += row->caption_count;
    }
    if (next != h->caption_count)
        return fail(err, "captions belong to no sample");
    for (uint64_t i = 0; i < h->caption_count; i++) {
        const struct dataset_text *caption = &d->captions[i];
        if (!text_fits(d, caption->text, caption->size) ||
            !text_fits(d, caption->trace, caption->trace_size) ||
            caption->column >= BL_CONFIG_LIST_MAX || caption->tokens >= h->length_count)
            return fail(err, "a caption is wrong");
    }
    return 0;
}

/* Each split's ids rise and name samples of that split; together they are all samples. */
static int check_splits(const struct dataset *d, struct bl_error *err)
{
    const struct dataset_header *h = d->header;
    if (h->split_count[0] > h->sample_count ||
        h->split_count[1] != h->sample_count - h->split_count[0])
        return fail(err, "its splits are not all samples");
    for (uint32_t split = 0; split < DATASET_SPLIT_COUNT; split++)
        for (uint64_t i = 0; i < h->split_count[split]; i++) {
            uint64_t id = d->ids[split][i];
            if (id >= h->sample_count || d->rows[id].split != split ||
                (i && id <= d->ids[split][i - 1]))
                return fail(err, "a split names a wrong sample");
        }
    return 0;
}

/* Sources follow each other over all samples. */
static int check_sources(const struct dataset *d, struct bl_error *err)
{
    const struct dataset_header *h = d->header;
    uint64_t next = 0;
    if (h->source_count < 1 || h->source_count > BL_SOURCES_MAX)
        return fail(err, "its number of sources is wrong");
    for (uint64_t of = 0; of < h->source_count; of++) {
        const struct dataset_of *source = &h->sources[of];
        uint64_t split_count[DATASET_SPLIT_COUNT] = {0};
        if (source->sample_count > h->sample_count - next)
            return fail(err, "its sources have more samples than there are");
        for (uint64_t i = 0; i < source->sample_count; i++)
            split_count[d->rows[next + i].split]++;
        if (memcmp(split_count, source->split_count, sizeof split_count))
            return fail(err, "the splits of a source are wrong");
        next += source->sample_count;
    }
    return next == h->sample_count ? 0 : fail(err, "samples belong to no source");
}

static int check_notes(const struct dataset *d, struct bl_error *err)
{
    for (uint64_t i = 0; i < d->header->example_count; i++) {
        const struct dataset_note *note = &d->notes[i];
        uint32_t count = note->is_caption ? CAPTION_VERDICT_COUNT : DATASET_VERDICT_COUNT;
        bool has_image = string_fits(d, note->location) && d->text[note->location];
        if (note->verdict >= count || note->source >= BL_SOURCES_MAX ||
            !string_fits(d, note->text) || !string_fits(d, note->location) ||
            (has_image && !location_fits(d, note->location)) ||
            (note->rule >= BL_CONFIG_LIST_MAX && note->rule != FILTERS_NONE))
            return fail(err, "an example is wrong");
    }
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++)
        if (!string_fits(d, d->header->passed_first[kind]))
            return fail(err, "what was passed over is wrong");
    return d->header->example_count > UINT32_MAX ? fail(err, "too many examples") : 0;
}

static int check(struct dataset *d, const void *data, size_t size, struct bl_error *err)
{
    if ((uintptr_t)data % 8)
        return fail(err, "it is not aligned in memory");
    BL_TRY(check_sections(d, data, size, err));
    BL_TRY(check_rows(d, err));
    BL_TRY(check_splits(d, err));
    BL_TRY(check_sources(d, err));
    return check_notes(d, err);
}

/* -- opening ---------------------------------------------------------------------------------- */

int dataset_parse(const void *data, size_t size, const char *name, struct dataset **ret,
                  struct bl_error *err)
{
    bl_auto(dataset) struct dataset *d = calloc(1, sizeof *d);
    if (!d)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    if (check(d, data, size, err) < 0)
        return bl_error_file(err, name);
    *ret = bl_take(&d);
    return 0;
}

int dataset_open(const char *path, struct dataset **ret, struct bl_error *err)
{
    bl_auto(dataset) struct dataset *d = calloc(1, sizeof *d);
    if (!d)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    BL_TRY(bl_file_read(path, SIZE_MAX - 1, &d->bytes.data, &d->bytes.size, err));
    if (check(d, d->bytes.data, d->bytes.size, err) < 0)
        return bl_error_file(err, path);
    *ret = bl_take(&d);
    return 0;
}

void dataset_free(struct dataset **dataset)
{
    if (!*dataset)
        return;
    bl_bytes_release(&(*dataset)->bytes);
    free(*dataset);
    *dataset = NULL;
}

#define auto_inputs __attribute__((cleanup(dataset_inputs_free))) struct dataset_inputs

static int index_path(const struct config *config, char *ret, size_t size, struct bl_error *err)
{
    return bl_path_join(ret, size, config->run_dir, "dataset.index", err);
}

/* The index at path if it is whole and made from these inputs, else NULL. */
static struct dataset *reuse(const char *path, const struct dataset_inputs *inputs)
{
    bl_auto(dataset) struct dataset *d = NULL;
    if (!bl_path_is_file(path) || dataset_open(path, &d, NULL) < 0 ||
        memcmp(d->header->made_from, inputs->digest, 32))
        return NULL;
    return bl_take(&d);
}

/* A dataset in memory. */
static int make(const struct config *config, struct dataset_inputs *inputs,
                dataset_progress *progress, void *ctx, struct dataset **ret, struct bl_error *err)
{
    bl_auto(dataset) struct dataset *d = calloc(1, sizeof *d);
    if (!d)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    BL_TRY(dataset_build(config, inputs, progress, ctx, &d->bytes, err));
    BL_TRY(check(d, d->bytes.data, d->bytes.size, err));
    *ret = bl_take(&d);
    return 0;
}

int dataset_view(const struct config *config, dataset_progress *progress, void *ctx,
                 struct dataset **ret, struct bl_error *err)
{
    char path[4096];
    auto_inputs *inputs = NULL;
    BL_TRY(index_path(config, path, sizeof path, err));
    BL_TRY(dataset_inputs_open(config, progress, ctx, &inputs, err));
    *ret = reuse(path, inputs);
    return *ret ? 0 : make(config, inputs, progress, ctx, ret, err);
}

int dataset_prepare(const struct config *config, dataset_progress *progress, void *ctx,
                    struct dataset **ret, bool *ret_reused, struct bl_error *err)
{
    char path[4096];
    bl_auto(dataset) struct dataset *d = NULL;
    auto_inputs *inputs = NULL;
    BL_TRY(index_path(config, path, sizeof path, err));
    BL_TRY(dataset_inputs_open(config, progress, ctx, &inputs, err));
    d = reuse(path, inputs);
    bool reused = d != NULL;
    if (!reused)
        BL_TRY(make(config, inputs, progress, ctx, &d, err));
    BL_TRY(dataset_judge(config, d, err));
    if (!reused) {
        BL_TRY(bl_folder_make(config->run_dir, err));
        BL_TRY(bl_file_write(path, d->bytes.data, d->bytes.size, err));
    }
    if (ret_reused)
        *ret_reused = reused;
    *ret = bl_take(&d);
    return 0;
}

/* -- judging ---------------------------------------------------------------------------------- */

const char *dataset_rules_key(enum dataset_rules list)
{
    static const char *const keys[] = {
#define X(name, key) key,
        DATASET_RULES(X)
#undef X
    };
    return keys[list];
}

enum dataset_rules dataset_rules_of(enum caption_verdict verdict)
{
    switch (verdict) {
    case CAPTION_KEPT:
        return DATASET_RULES_STRIP;
    case CAPTION_NOT_KEPT:
        return DATASET_RULES_KEEP;
    case CAPTION_DROPPED:
        return DATASET_RULES_DROP;
    case CAPTION_FILTERED:
        return DATASET_RULES_FILTERS;
    default:
        return DATASET_RULES_COUNT;
    }
}

bool dataset_rule_text(const struct config *config, enum dataset_rules list, uint32_t i, char *ret,
                       size_t size)
{
    const struct config_data *data = &config->data;
    const struct config_strings *const patterns[DATASET_RULES_COUNT] = {
        [DATASET_RULES_STRIP] = &data->strip,
        [DATASET_RULES_KEEP] = &data->keep,
        [DATASET_RULES_DROP] = &data->drop};
    int used = snprintf(ret, size, "%s[%u] ", dataset_rules_key(list), i);
    char *rest = ret + used;
    size_t left = size - (size_t)used;
    if (patterns[list] && i < patterns[list]->count) {
        snprintf(rest, left, "%s", patterns[list]->at[i]);
        utf8_clean(rest);
        return true;
    }
    if (patterns[list] || i >= data->filters.count)
        return false;
    const struct config_filter *filter = &data->filters.at[i];
    used = snprintf(rest, left, "%.100s", filter->column);
    if (isfinite(filter->min))
        used += snprintf(rest + used, left - (size_t)used, " from %g", filter->min);
    if (isfinite(filter->max))
        snprintf(rest + used, left - (size_t)used, " to %g", filter->max);
    utf8_clean(rest);
    return true;
}

uint64_t dataset_rule_count(const struct dataset *dataset, enum dataset_rules list, uint32_t i)
{
    return dataset->header->rules[list][i];
}

/* "data.drop: 3 by [0], 9 by [2]", or the key alone where one rule did it all. */
static void rules_text(const struct dataset *d, enum dataset_rules list, char *ret, size_t size)
{
    size_t used = (size_t)snprintf(ret, size, "%s", dataset_rules_key(list));
    uint32_t effective = 0;
    for (uint32_t i = 0; i < BL_CONFIG_LIST_MAX; i++)
        effective += d->header->rules[list][i] != 0;
    for (uint32_t i = 0; effective > 1 && i < BL_CONFIG_LIST_MAX && used < size; i++)
        if (d->header->rules[list][i]) {
            used += (size_t)snprintf(ret + used, size - used, "%s%llu by [%u]",
                                     strchr(ret, ':') ? ", " : ": ",
                                     (unsigned long long)d->header->rules[list][i], i);
        }
}

/* source: of which, or -1 for any. */
static const char *first_of(const struct dataset *d, int64_t source, bool is_caption,
                            uint32_t verdict)
{
    for (uint64_t i = 0; i < d->header->example_count; i++)
        if (d->notes[i].is_caption == is_caption && d->notes[i].verdict == verdict &&
            (source < 0 || d->notes[i].source == source))
            return d->text + d->notes[i].text;
    return "unknown";
}

/* What to do about captions that do not fit: what most of them suffer from. */
static const char *remedy_for_captions(const struct dataset_header *h)
{
    uint64_t empty = h->caption_verdicts[CAPTION_EMPTY];
    uint64_t long_ = h->caption_verdicts[CAPTION_TOO_LONG];
    uint64_t merged = h->caption_verdicts[CAPTION_BOUNDARY];
    if (long_ >= merged && long_ >= empty)
        return "raise data.max_tokens";
    if (merged >= empty)
        return "let data.captions[].prefix end with a line break (\"...\\n\") and set its join to "
               "\"\"";
    return "check the columns of data.captions";
}

/* Samples left out that nobody asked to leave out, and what to do about them. */
static const struct loss {
    enum dataset_verdict verdict;
    const char *text;   /* of so many of so many samples */
    const char *remedy; /* NULL: remedy_for_captions */
} losses[] = {
    {DATASET_NO_IMAGE, "image files of %llu of %llu samples are missing or cannot be read",
     "put them there"},
    {DATASET_TOO_LARGE, "image files of %llu of %llu samples are larger than data.max_image_bytes",
     "raise it"},
    {DATASET_NO_CAPTION, "%llu of %llu samples have no caption",
     "check the columns of data.captions"},
    {DATASET_UNFIT, "captions of %llu of %llu samples are empty, too long or merge with the prefix",
     NULL},
};

static int judge_losses(const struct config *config, const struct dataset *d,
                        const struct dataset_of *source, uint64_t all, struct bl_error *err)
{
    const uint64_t *counts = source->sample_verdicts;
    const struct loss *most = &losses[0];
    uint64_t lost = 0;
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        lost += counts[losses[i].verdict];
        if (counts[losses[i].verdict] > counts[most->verdict])
            most = &losses[i];
    }
    if ((double)lost <= config->data.max_bad_fraction * (double)all)
        return 0;
    char text[160], more[80] = "";
    snprintf(text, sizeof text, most->text, (unsigned long long)counts[most->verdict],
             (unsigned long long)all);
    if (lost > counts[most->verdict])
        snprintf(more, sizeof more, "; %llu more lost for other reasons",
                 (unsigned long long)(lost - counts[most->verdict]));
    bl_fail(err, BL_EDATA, "%s, the first is %.300s%s", text,
            first_of(d, source - d->header->sources, false, most->verdict), more);
    bl_error_remedy(err, "%s, or allow for more by data.max_bad_fraction (%g)",
                    most->remedy ? most->remedy : remedy_for_captions(d->header),
                    config->data.max_bad_fraction);
    return -BL_EDATA;
}

/* What of a list of sources is wrong. */
static int name_source(const struct config *config, uint32_t of, const char *key,
                       struct bl_error *err)
{
    if (config->data.sources.written)
        bl_error_key(err, "data.sources[%u]%s", of, key);
    return bl_error_file(err, config->data.sources.at[of].source);
}

static int judge_source(const struct config *config, const struct dataset *d, uint32_t of,
                        struct bl_error *err)
{
    const struct dataset_of *source = &d->header->sources[of];
    uint64_t all = 0;
    for (int i = 0; i < DATASET_VERDICT_COUNT; i++)
        if (i != DATASET_SET_ASIDE && i != DATASET_NO_SPLIT)
            all += source->sample_verdicts[i];
    if (judge_losses(config, d, source, all, err) < 0)
        return name_source(config, of, "", err);
    if (!source->split_count[DATASET_TRAIN]) {
        bl_fail(err, BL_EDATA,
                "no sample is left to train on: of %llu, %llu are left out and %llu held out",
                (unsigned long long)all, (unsigned long long)(all - source->sample_count),
                (unsigned long long)source->sample_count);
        bl_error_remedy(err, "blipren-loader inspect shows what was left out and why");
        return name_source(config, of, "", err);
    }
    if (dataset_draws(config, d, of))
        return 0;
    bl_fail(err, BL_EDATA, "an epoch would take none of its %llu training samples",
            (unsigned long long)source->split_count[DATASET_TRAIN]);
    bl_error_remedy(err, "raise the weight, or remove the source");
    return name_source(config, of, ".weight", err);
}

int dataset_judge(const struct config *config, const struct dataset *dataset, struct bl_error *err)
{
    for (uint32_t of = 0; of < dataset->header->source_count; of++)
        BL_TRY(judge_source(config, dataset, of, err));
    return 0;
}

/* -- reading ---------------------------------------------------------------------------------- */

uint64_t dataset_count(const struct dataset *dataset, enum dataset_split split)
{
    return dataset->header->split_count[split];
}

uint64_t dataset_id(const struct dataset *dataset, enum dataset_split split, uint64_t i)
{
    BL_ASSERT_CMP(i, <, dataset->header->split_count[split]);
    return dataset->ids[split][i];
}

uint32_t dataset_source_count(const struct dataset *dataset)
{
    return (uint32_t)dataset->header->source_count;
}

uint64_t dataset_source_samples(const struct dataset *dataset, uint32_t source,
                                enum dataset_split split)
{
    BL_ASSERT_CMP(source, <, dataset->header->source_count);
    return dataset->header->sources[source].split_count[split];
}

uint64_t dataset_source_verdicts(const struct dataset *dataset, uint32_t source,
                                 enum dataset_verdict verdict)
{
    BL_ASSERT_CMP(source, <, dataset->header->source_count);
    return dataset->header->sources[source].sample_verdicts[verdict];
}

uint32_t dataset_source_of(const struct dataset *dataset, uint64_t id)
{
    uint32_t source = 0;
    BL_ASSERT_CMP(id, <, dataset->header->sample_count);
    for (; id >= dataset->header->sources[source].sample_count; source++)
        id -= dataset->header->sources[source].sample_count;
    return source;
}

uint64_t dataset_draws(const struct config *config, const struct dataset *dataset, uint32_t source)
{
    uint64_t samples = dataset_source_samples(dataset, source, DATASET_TRAIN);
    return (uint64_t)llround(config->data.sources.at[source].weight * (double)samples);
}

uint64_t dataset_epoch(const struct config *config, const struct dataset *dataset)
{
    uint64_t draws = 0;
    for (uint32_t source = 0; source < dataset_source_count(dataset); source++)
        draws += dataset_draws(config, dataset, source);
    return draws;
}

uint64_t dataset_samples(const struct dataset *dataset)
{
    return dataset->header->sample_count;
}

uint64_t dataset_captions(const struct dataset *dataset)
{
    return dataset->header->caption_count;
}

void dataset_sample(const struct dataset *dataset, uint64_t id, struct dataset_sample *ret)
{
    BL_ASSERT_CMP(id, <, dataset->header->sample_count);
    const struct dataset_row *row = &dataset->rows[id];
    *ret = (struct dataset_sample){.stamp = {row->size, row->mtime_ns},
                                   .hash = row->hash,
                                   .split = (enum dataset_split)row->split,
                                   .caption_count = row->caption_count};
    int rc = location_parse(dataset->text + row->location, &ret->location, NULL);
    BL_ASSERT_CMP(rc, ==, 0); /* checked when the index was opened */
}

void dataset_caption(const struct dataset *dataset, uint64_t id, uint32_t i,
                     struct dataset_caption *ret)
{
    BL_ASSERT_CMP(id, <, dataset->header->sample_count);
    BL_ASSERT_CMP(i, <, dataset->rows[id].caption_count);
    uint64_t row = dataset->rows[id].first_caption + i;
    const struct dataset_text *c = &dataset->captions[row];
    *ret = (struct dataset_caption){dataset->text + c->text,  c->size,       c->column, c->tokens,
                                    dataset->text + c->trace, c->trace_size, row};
}

struct caption_text dataset_caption_text(const struct dataset_caption *caption)
{
    return (struct caption_text){.text = caption->text,
                                 .size = caption->size,
                                 .column = caption->column,
                                 .trace = caption->trace,
                                 .trace_size = caption->trace_size};
}

void dataset_choose(const struct dataset *dataset, uint64_t id, uint64_t seed, uint64_t epoch,
                    struct dataset_caption *ret)
{
    struct dataset_sample sample;
    dataset_sample(dataset, id, &sample);
    uint32_t i =
        sample.split == DATASET_TRAIN ? caption_choose(seed, epoch, id, sample.caption_count) : 0;
    dataset_caption(dataset, id, i, ret);
}

const uint8_t *dataset_fingerprint(const struct dataset *dataset)
{
    return dataset->header->fingerprint;
}

uint64_t dataset_sample_verdicts(const struct dataset *dataset, enum dataset_verdict verdict)
{
    uint64_t count = 0;
    for (uint32_t source = 0; source < dataset_source_count(dataset); source++)
        count += dataset_source_verdicts(dataset, source, verdict);
    return count;
}

uint64_t dataset_caption_verdicts(const struct dataset *dataset, enum caption_verdict verdict)
{
    return dataset->header->caption_verdicts[verdict];
}

uint64_t dataset_length(const struct dataset *dataset, uint32_t tokens)
{
    return tokens < dataset->header->length_count ? dataset->lengths[tokens] : 0;
}

uint32_t dataset_longest(const struct dataset *dataset)
{
    return dataset->header->length_count ? (uint32_t)dataset->header->length_count - 1 : 0;
}

uint32_t dataset_mean_length(const struct dataset *d)
{
    uint64_t captions = 0, tokens = 0;
    for (uint32_t length = 0; length <= dataset_longest(d); length++) {
        captions += dataset_length(d, length);
        tokens += length * dataset_length(d, length);
    }
    return captions ? (uint32_t)bl_max((tokens + captions - 1) / captions, 1) : 1;
}

static uint64_t all_captions(const struct dataset *d)
{
    uint64_t all = 0;
    for (int v = 0; v < CAPTION_VERDICT_COUNT; v++)
        all += d->header->caption_verdicts[v];
    return all;
}

bool dataset_stripped_text(const struct dataset *dataset, char *ret, size_t size)
{
    char rules[160];
    uint64_t count = 0;
    for (uint32_t i = 0; i < BL_CONFIG_LIST_MAX; i++)
        count += dataset->header->rules[DATASET_RULES_STRIP][i];
    rules_text(dataset, DATASET_RULES_STRIP, rules, sizeof rules);
    snprintf(ret, size,
             "%llu of %llu captions begin with an opening that is taken off (%s); the first is "
             "%.300s",
             (unsigned long long)count, (unsigned long long)all_captions(dataset), rules,
             first_of(dataset, -1, true, CAPTION_KEPT));
    return count > 0;
}

bool dataset_dropped_text(const struct dataset *dataset, enum caption_verdict verdict, char *ret,
                          size_t size, double *ret_share)
{
    const uint64_t *counts = dataset->header->caption_verdicts;
    const char *key = caption_verdict_key(verdict);
    char rules[160];
    uint64_t all = all_captions(dataset);
    if (!counts[verdict])
        return false;
    *ret_share = (double)counts[verdict] / (double)all;
    if (!key)
        key = verdict == CAPTION_BOUNDARY
                  ? "end data.captions[].prefix with a line break, with join: \"\""
                  : "data.captions";
    if (dataset_rules_of(verdict) != DATASET_RULES_COUNT) {
        rules_text(dataset, dataset_rules_of(verdict), rules, sizeof rules);
        key = rules;
    }
    snprintf(ret, size, "%llu of %llu captions are dropped: %s (%s); the first is %.300s",
             (unsigned long long)counts[verdict], (unsigned long long)all,
             caption_verdict_words(verdict), key, first_of(dataset, -1, true, verdict));
    return true;
}

bool dataset_split_text(const struct dataset *dataset, uint32_t source, char *ret, size_t size)
{
    const uint64_t *at = dataset->header->sources[source].splits.at;
    char key[32] = "data.source";
    if (!at[SPLIT_TRAIN] && !at[SPLIT_VALIDATION] && !at[SPLIT_TEST])
        return false;
    if (dataset_source_count(dataset) > 1)
        snprintf(key, sizeof key, "data.sources[%u]", source);
    snprintf(ret, size,
             "the folders of %s name splits: train has %llu samples, validation %llu, test "
             "%llu (not used), none of them %llu%s",
             key, (unsigned long long)at[SPLIT_TRAIN], (unsigned long long)at[SPLIT_VALIDATION],
             (unsigned long long)at[SPLIT_TEST], (unsigned long long)at[SPLIT_NONE],
             !at[SPLIT_NONE]   ? ""
             : at[SPLIT_TRAIN] ? " (not used)"
                               : " (trained on)");
    return true;
}

uint64_t dataset_passed(const struct dataset *dataset, enum source_passed kind,
                        const char **ret_first)
{
    *ret_first = dataset->text + dataset->header->passed_first[kind];
    return dataset->header->passed[kind];
}

uint32_t dataset_example_count(const struct dataset *dataset)
{
    return (uint32_t)dataset->header->example_count;
}

void dataset_example(const struct dataset *dataset, uint32_t i, struct dataset_example *ret)
{
    BL_ASSERT_CMP(i, <, dataset->header->example_count);
    const struct dataset_note *note = &dataset->notes[i];
    *ret = (struct dataset_example){.is_caption = note->is_caption != 0,
                                    .verdict = note->verdict,
                                    .rule = note->rule,
                                    .text = dataset->text + note->text};
    ret->has_image = location_parse(dataset->text + note->location, &ret->location, NULL) == 0;
}
