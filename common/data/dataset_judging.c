/* common/data/dataset_judging.c - what the caption rules say of many rows' captions, by several threads. Rows are read in order by the
 * caller's thread; what is judged is copied, since a source lends one row at a time. */
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
                         uint32_t *ret)
{
    for (uint64_t i = 0; i < candidates; i++) {
        struct source_candidate c;
        size_t size;
        source_candidate(source, row, i, &c);
        caption_strip(c.text, c.size, &size);
        if (size) {
            *ret = c.column;
            return true;
        }
    }
    return false;
}

static int add(struct dataset_judging *j, const struct source_candidate *candidate,
               struct bl_error *err)
{
    struct dataset_judgement judgement = {.column = candidate->column, .text = j->text.size};
    const char *text = caption_strip(candidate->text, candidate->size, &judgement.size);
    if (!bl_grow(&j->at, &j->capacity, j->judged + 1, sizeof *j->at) ||
        !bl_bytes_add(&j->text, text, judgement.size) || !bl_bytes_add(&j->text, "", 1))
        return fail_nomem(err);
    j->at[j->judged++] = judgement;
    return 0;
}

/* The captions of a row that are looked at: none where all are white space. */
static int add_row(struct dataset_judging *j, const struct config_data *config,
                   const struct source_part *part, uint64_t row, struct bl_error *err)
{
    const struct source *source = part->source;
    struct source_sample sample;
    uint32_t column;
    BL_TRY(source_get(source, row, &sample, err));
    if (!first_column(source, row, sample.candidate_count, &column))
        return 0;
    for (uint64_t i = 0; i < sample.candidate_count; i++) {
        struct source_candidate candidate;
        source_candidate(source, row, i, &candidate);
        bool wanted = config->caption_choice == CONFIG_CHOICE_ANY || candidate.column == column;
        candidate.column += (uint32_t)config->sources.at[part->of].caption_first;
        if (wanted)
            BL_TRY(add(j, &candidate, err));
    }
    return 0;
}

static int judge(const struct dataset_judging *j, struct dataset_judgement *judgement,
                 struct token_ids *ids, struct bl_error *err)
{
    struct caption_text caption = {j->text.data + judgement->text, judgement->size,
                                   judgement->column};
    size_t label_first;
    ids->count = 0;
    BL_TRY(caption_rules_encode(j->rules, &caption, ids, &label_first, &judgement->verdict, err));
    judgement->tokens = (uint32_t)ids->count;
    return 0;
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
    j->first = first;
    j->count = end - first;
    for (uint64_t at = first; at < end; at++) {
        uint64_t row = at;
        const struct source_part *part = source_set_find(&inputs->set, &row);
        if (inputs->images[at].verdict == DATASET_KEPT)
            BL_TRY(add_row(j, config, part, row, err));
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
    *ret =
        (struct caption_text){j->text.data + judgement->text, judgement->size, judgement->column};
    return judgement->failed ? judge(j, &again, &ids, err) : 0;
}

void dataset_judging_free(struct dataset_judging **judging)
{
    struct dataset_judging *j = *judging;
    if (!j)
        return;
    free(j->starts);
    free(j->at);
    bl_bytes_release(&j->text);
    free(j);
    *judging = NULL;
}
