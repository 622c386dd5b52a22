/* common/data/dataset.c - reading a dataset.index that is open. */
#include "common/data/dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/data/dataset_format.h"
#include "common/limits.h"
#include "common/size.h"

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

void dataset_free(struct dataset **dataset)
{
    if (!*dataset)
        return;
    bl_bytes_release(&(*dataset)->bytes);
    free(*dataset);
    *dataset = NULL;
}

uint64_t dataset_rule_count(const struct dataset *dataset, enum dataset_rules list, uint32_t i)
{
    return dataset->header->rules[list][i];
}

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

uint64_t dataset_passed(const struct dataset *dataset, enum source_passed kind)
{
    return dataset->header->passed[kind];
}

const char *dataset_passed_name(const struct dataset *dataset, enum source_passed kind, uint32_t i)
{
    if (i >= dataset->header->passed_named[kind])
        return NULL;
    const char *name = dataset->text + dataset->header->passed_names[kind];
    for (; i; i--)
        name += strlen(name) + 1;
    return name;
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
