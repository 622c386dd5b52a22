/* common/data/dataset_judging.c - what the caption rules say of many rows' captions, by several threads. Rows are read in order by the
 * caller's thread; what is judged is copied, since a source lends one row at a time. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset_format.h"
#include "common/data/parallel.h"

enum { CAPTIONS_AT_ONCE = 64 /* of one thread: about 3 ms */ };

struct dataset_judging {
    const struct caption_rules *rules;
    uint64_t first, count; /* rows */
    size_t *starts;        /* (count + 1) of judgements */
    const struct config_data *config;
    struct dataset_judgement *at;
    size_t judged, capacity;
    struct bl_bytes text;
};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "no memory for captions to be judged");
}

/* The column that data.caption_choice: first looks at: the first with a caption that is more than white space. False: there is
 * none. */
static bool first_column(const struct source *source, uint64_t row, uint64_t candidates,
                         uint32_t captions, uint32_t *ret)
{
    for (uint64_t i = 0; i < candidates; i++) {
        struct source_candidate c;
        size_t size;
        source_candidate(source, row, i, &c);
        if (c.column >= captions)
            continue;
        caption_strip(c.text, c.size, &size);
        if (size) {
            *ret = c.column;
            return true;
        }
    }
    return false;
}

/* outside: the rule of data.filters that the row does not meet. */
static int add(struct dataset_judging *j, const struct source_candidate *candidate,
               uint32_t outside, struct bl_error *err)
{
    struct dataset_judgement judgement = {.column = candidate->column,
                                          .text = j->text.size,
                                          .strip = FILTERS_NONE,
                                          .rule = outside,
                                          .verdict = outside == FILTERS_NONE ? CAPTION_KEPT
                                                                             : CAPTION_FILTERED};
    const char *text = caption_strip(candidate->text, candidate->size, &judgement.size);
    if (!bl_grow(&j->at, &j->capacity, j->judged + 1, sizeof *j->at) ||
        !bl_bytes_add(&j->text, text, judgement.size) || !bl_bytes_add(&j->text, "", 1))
        return fail_nomem(err);
    j->at[j->judged++] = judgement;
    return 0;
}

/* Candidate i's place among those of its column in its row. */
static uint64_t place_in_column(const struct source *source, uint64_t row, uint64_t i)
{
    struct source_candidate own, other;
    uint64_t place = 0;
    source_candidate(source, row, i, &own);
    for (uint64_t k = 0; k < i; k++) {
        source_candidate(source, row, k, &other);
        place += other.column == own.column;
    }
    return place;
}

/* Gives the caption added last, candidate i of the row, its trace: of its column's list the one at the same place, or the only
 * one. */
static int add_trace(struct dataset_judging *j, const struct source *source, uint64_t row,
                     uint64_t candidates, uint64_t i, struct bl_error *err)
{
    struct dataset_judgement *judgement = &j->at[j->judged - 1];
    uint32_t column = caption_trace_column(j->config, judgement->column);
    uint64_t count = 0;
    if (!column)
        return 0;
    uint64_t wanted = place_in_column(source, row, i);
    struct source_candidate trace, only = {0}, found = {0};
    for (uint64_t k = 0; k < candidates; k++) {
        source_candidate(source, row, k, &trace);
        if (trace.column != column)
            continue;
        if (count == wanted)
            found = trace;
        only = trace;
        count++;
    }
    if (count == 1)
        found = only;
    judgement->trace = j->text.size;
    const char *text =
        caption_strip(found.text ? found.text : "", found.size, &judgement->trace_size);
    return bl_bytes_add(&j->text, text, judgement->trace_size) && bl_bytes_add(&j->text, "", 1)
               ? 0
               : fail_nomem(err);
}

/* The captions of a row that are looked at: none where all are white space. */
static int add_row(struct dataset_judging *j, const struct source *source, uint64_t row,
                   struct bl_error *err)
{
    struct source_sample sample;
    uint32_t column;
    BL_TRY(source_get(source, row, &sample, err));
    const uint32_t captions = (uint32_t)j->config->captions.count;
    if (!first_column(source, row, sample.candidate_count, captions, &column))
        return 0;
    uint32_t outside = filters_numbers(&j->config->filters, sample.numbers);
    for (uint64_t i = 0; i < sample.candidate_count; i++) {
        struct source_candidate candidate;
        source_candidate(source, row, i, &candidate);
        if (candidate.column < captions &&
            (j->config->caption_choice == CONFIG_CHOICE_ANY || candidate.column == column)) {
            BL_TRY(add(j, &candidate, outside, err));
            BL_TRY(add_trace(j, source, row, sample.candidate_count, i, err));
        }
    }
    return 0;
}

/* What data.deduplicate: all compares. */
static int make_key(const struct dataset_judging *j, const struct caption_text *caption,
                    uint8_t ret[16], struct bl_error *err)
{
    const char *prefix = j->config->captions.at[caption->column].prefix;
    bl_autobytes struct bl_bytes text = {0};
    if (!bl_bytes_add(&text, prefix, strlen(prefix) + 1))
        return fail_nomem(err);
    BL_TRY(filters_normalize(caption->text, caption->size, &text, err));
    crypto_generichash(ret, 16, (const unsigned char *)text.data, text.size, NULL, 0);
    return 0;
}

static int strip(const struct dataset_judging *j, struct dataset_judgement *judgement,
                 struct bl_error *err)
{
    bl_autobytes struct bl_bytes spare = {0};
    const char *text;
    size_t size;
    BL_TRY(caption_rules_strip(j->rules, j->text.data + judgement->text, judgement->size, &spare,
                               &text, &size, &judgement->strip, err));
    if (judgement->strip == FILTERS_NONE)
        return 0;
    free(judgement->stripped);
    judgement->stripped = strndup(text, size);
    judgement->stripped_size = size;
    return judgement->stripped ? 0 : fail_nomem(err);
}

static struct caption_text text_of(const struct dataset_judging *j,
                                   const struct dataset_judgement *judgement)
{
    struct caption_text ret = {.text = j->text.data + judgement->text,
                               .size = judgement->size,
                               .column = judgement->column,
                               .trace = j->text.data + judgement->trace,
                               .trace_size = judgement->trace_size};
    if (judgement->stripped) {
        ret.text = judgement->stripped;
        ret.size = judgement->stripped_size;
    }
    return ret;
}

static int judge(const struct dataset_judging *j, struct dataset_judgement *judgement,
                 struct token_ids *ids, struct bl_error *err)
{
    struct caption_encoded encoded;
    if (judgement->verdict == CAPTION_FILTERED)
        return 0;
    ids->count = 0;
    BL_TRY(strip(j, judgement, err));
    const struct caption_text caption = text_of(j, judgement);
    BL_TRY(caption_rules_encode(j->rules, &caption, ids, &encoded, err));
    judgement->tokens = (uint32_t)ids->count;
    judgement->verdict = encoded.verdict;
    judgement->rule = encoded.rule;
    return encoded.verdict == CAPTION_KEPT && j->config->deduplicate == CONFIG_UNIQUE
               ? make_key(j, &caption, judgement->key, err)
               : 0;
}

/* An error is kept with its caption: dataset_judgements names the row. */
static int judge_some(void *context, struct parallel *run, uint64_t item, struct bl_error *err)
{
    struct dataset_judging *j = context;
    size_t first = item * CAPTIONS_AT_ONCE, end = first + CAPTIONS_AT_ONCE;
    __attribute__((cleanup(token_ids_release))) struct token_ids ids = {0};
    for (size_t i = first; i < end && i < j->judged; i++)
        j->at[i].failed = judge(j, &j->at[i], &ids, err) < 0;
    return 0;
}

int dataset_judging_make(const struct config_data *config, const struct caption_rules *rules,
                         const struct dataset_inputs *inputs, uint64_t first, uint64_t end,
                         struct dataset_judging **ret, struct bl_error *err)
{
    bl_auto(dataset_judging) struct dataset_judging *j = calloc(1, sizeof *j);
    if (!j || !(j->starts = calloc(end - first + 1, sizeof *j->starts)))
        return fail_nomem(err);
    j->rules = rules;
    j->config = config;
    j->first = first;
    j->count = end - first;
    for (uint64_t at = first; at < end; at++) {
        uint64_t row = at;
        const struct source *source = dataset_inputs_source(inputs, &row);
        if (inputs->images[at].verdict == DATASET_KEPT)
            BL_TRY(add_row(j, source, row, err));
        j->starts[at - first + 1] = j->judged;
    }
    const struct parallel_work work = {.count =
                                           (j->judged + CAPTIONS_AT_ONCE - 1) / CAPTIONS_AT_ONCE,
                                       .item = judge_some,
                                       .context = j};
    BL_TRY(parallel_run(&work, err));
    *ret = bl_take(&j);
    return 0;
}

size_t dataset_judgements(const struct dataset_judging *j, uint64_t row,
                          const struct dataset_judgement **ret)
{
    BL_ASSERT(row >= j->first && row - j->first < j->count);
    size_t start = j->starts[row - j->first];
    *ret = j->at + start;
    return j->starts[row - j->first + 1] - start;
}

int dataset_judged_caption(const struct dataset_judging *j,
                           const struct dataset_judgement *judgement, struct caption_text *ret,
                           struct bl_error *err)
{
    __attribute__((cleanup(token_ids_release))) struct token_ids ids = {0};
    struct dataset_judgement again = *judgement;
    *ret = text_of(j, judgement);
    if (!judgement->failed)
        return 0;
    again.stripped = NULL;
    int rc = judge(j, &again, &ids, err);
    free(again.stripped);
    return rc;
}

void dataset_found_caption(const struct dataset_judging *j,
                           const struct dataset_judgement *judgement, struct caption_text *ret)
{
    *ret = text_of(j, judgement);
    ret->text = j->text.data + judgement->text;
    ret->size = judgement->size;
}

void dataset_judging_free(struct dataset_judging **judging)
{
    struct dataset_judging *j = *judging;
    if (!j)
        return;
    for (size_t i = 0; i < j->judged; i++)
        free(j->at[i].stripped);
    free(j->starts);
    free(j->at);
    bl_bytes_release(&j->text);
    free(j);
    *judging = NULL;
}
