/* common/data/dataset_words.c - what an index says of its captions, for people. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/data/dataset_format.h"
#include "common/utf8.h"

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

const char *dataset_first(const struct dataset *d, int64_t source, bool is_caption,
                          uint32_t verdict)
{
    for (uint64_t i = 0; i < d->header->example_count; i++)
        if (d->notes[i].is_caption == is_caption && d->notes[i].verdict == verdict &&
            (source < 0 || d->notes[i].source == source))
            return d->text + d->notes[i].text;
    return "unknown";
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
             dataset_first(dataset, -1, true, CAPTION_KEPT));
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
             caption_verdict_words(verdict), key, dataset_first(dataset, -1, true, verdict));
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
