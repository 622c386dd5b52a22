/* common/data/captions.c - prefix, caption and EOS as token ids, and the rules of a run. */
#include "common/data/captions.h"

#include <stdlib.h>
#include <string.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/limits.h"
#include "common/random.h"

static const struct {
    const char *words, *key;
} verdicts[] = {
#define X(name, words, key) {words, key},
    CAPTION_VERDICTS(X)
#undef X
};

const char *caption_verdict_words(enum caption_verdict verdict)
{
    return verdicts[verdict].words;
}

const char *caption_verdict_key(enum caption_verdict verdict)
{
    return verdicts[verdict].key;
}

bool caption_verdict_is_asked(enum caption_verdict verdict)
{
    return verdict != CAPTION_KEPT && verdict != CAPTION_EMPTY && verdict != CAPTION_TOO_LONG &&
           verdict != CAPTION_BOUNDARY && verdict != CAPTION_NO_TRACE &&
           verdict != CAPTION_TRACE_TOO_LONG;
}

/* -- white space ------------------------------------------------------------------------------ */

const char *caption_strip(const char *text, size_t size, size_t *ret_size)
{
    size_t start = 0, length;
    while ((length = filters_space(text + start, size - start)))
        start += length;
    size_t end = size;
    for (bool more = true; more && end > start;) {
        more = false;
        for (size_t back = 1; back <= 3 && back <= end - start; back++)
            if (filters_space(text + end - back, back) == back) {
                end -= back;
                more = true;
                break;
            }
    }
    *ret_size = end - start;
    return text + start;
}

/* Bytes of a prefix that count: all of them, or with a space to follow up to its trailing white space. */
static size_t prefix_size(struct caption_prefix prefix)
{
    size_t size;
    if (!*prefix.join)
        return strlen(prefix.text);
    const char *inner = caption_strip(prefix.text, strlen(prefix.text), &size);
    return size ? (size_t)(inner - prefix.text) + size : 0;
}

struct caption_prefix caption_prefix_of(const struct config_caption *column, const char *text)
{
    return (struct caption_prefix){text ? text : column->prefix, column->join};
}

/* -- ids -------------------------------------------------------------------------------------- */

int caption_prompt(const struct tokenizer *tokenizer, struct caption_prefix prefix,
                   struct token_ids *ids, struct bl_error *err)
{
    size_t size = prefix_size(prefix);
    return size ? tokenizer_encode(tokenizer, prefix.text, size, false, ids, err) : 0;
}

#define auto_ids __attribute__((cleanup(token_ids_release))) struct token_ids

/* Whether ids from `before` on begin with `start`, and more follows. */
static bool begins(const struct token_ids *ids, size_t before, const struct token_ids *start)
{
    return ids->count - before > start->count &&
           (!start->count ||
            !memcmp(ids->ids + before, start->ids, start->count * sizeof *start->ids));
}

/* Appends what stands before a caption. */
static int add_before(struct bl_bytes *text, struct caption_prefix prefix,
                      struct caption_trace trace, struct bl_error *err)
{
    size_t first = prefix_size(prefix), size;
    bool added = bl_bytes_add(text, prefix.text, first) &&
                 bl_bytes_add(text, prefix.join, first ? strlen(prefix.join) : 0);
    if (added && trace.text) {
        const char *inner = caption_strip(trace.text, trace.size, &size);
        added = bl_bytes_add(text, trace.open, strlen(trace.open)) &&
                bl_bytes_add(text, inner, size) &&
                bl_bytes_add(text, trace.close, strlen(trace.close));
    }
    return added ? 0 : bl_fail(err, BL_ENOMEM, "out of memory");
}

/* Skips the tokens that are the white space at the end of what stands before a caption: a tokenizer may cut it otherwise when
 * something follows. ids from *at on; false: its last token is more than white space. */
static int skip_space(const struct tokenizer *tokenizer, const struct token_ids *ids, size_t *at,
                      const char *space, size_t size, bool *ret, struct bl_error *err)
{
    *ret = true;
    while (size && *ret) {
        bl_autofree char *text = NULL;
        if (*at < ids->count)
            BL_TRY(tokenizer_decode(tokenizer, ids->ids + *at, 1, false, &text, err));
        size_t length = text ? strlen(text) : 0;
        *ret = length && length <= size && !memcmp(text, space, length);
        if (*ret) {
            space += length;
            size -= length;
            ++*at;
        }
    }
    return 0;
}

/* Where the caption begins among the ids from `before` on of a whole text, which begins with `context`, up to and with a trace's
 * close; SIZE_MAX: it shares a token with what stands before it. */
static int find_caption(const struct tokenizer *tokenizer, const struct token_ids *ids,
                        size_t before, const char *context, size_t size, size_t *ret,
                        struct bl_error *err)
{
    auto_ids start = {0};
    size_t inner;
    bool found;
    BL_TRY(tokenizer_encode(tokenizer, context, size, false, &start, err));
    if (begins(ids, before, &start)) {
        *ret = start.count;
        return 0;
    }
    const char *text = caption_strip(context, size, &inner);
    inner += (size_t)(text - context);
    start.count = 0;
    BL_TRY(tokenizer_encode(tokenizer, context, inner, false, &start, err));
    size_t at = before + start.count;
    *ret = SIZE_MAX;
    if (!begins(ids, before, &start))
        return 0;
    BL_TRY(skip_space(tokenizer, ids, &at, context + inner, size - inner, &found, err));
    if (found && at < ids->count)
        *ret = at - before;
    return 0;
}

/* With the prompt's ids at hand. *ret_caption_first: of the ids that are appended, how many stand before the caption. */
static int encode_after(const struct tokenizer *tokenizer, struct caption_prefix prefix,
                        const struct token_ids *prompt, struct caption_trace trace,
                        const char *caption, size_t size, int32_t eos, struct token_ids *ids,
                        size_t *ret_caption_first, enum caption_verdict *ret_verdict,
                        struct bl_error *err)
{
    size_t before = ids->count, inner;
    const char *stripped = caption_strip(caption, size, &inner);
    *ret_verdict = CAPTION_EMPTY;
    if (!inner)
        return 0;
    bl_autobytes struct bl_bytes text = {0};
    BL_TRY(add_before(&text, prefix, trace, err));
    size_t context = text.size, caption_first = prompt->count;
    if (!bl_bytes_add(&text, stripped, inner))
        return bl_fail(err, BL_ENOMEM, "out of memory");
    BL_TRY(tokenizer_encode(tokenizer, text.data, text.size, false, ids, err));
    if (trace.text)
        BL_TRY(find_caption(tokenizer, ids, before, text.data, context, &caption_first, err));
    if (!begins(ids, before, prompt) || caption_first == SIZE_MAX) {
        ids->count = before;
        *ret_verdict = CAPTION_BOUNDARY;
        return 0;
    }
    if (!bl_grow(&ids->ids, &ids->capacity, ids->count + 1, sizeof *ids->ids))
        return bl_fail(err, BL_ENOMEM, "out of memory");
    ids->ids[ids->count++] = eos;
    *ret_caption_first = caption_first;
    *ret_verdict = CAPTION_KEPT;
    return 0;
}

int caption_encode(const struct tokenizer *tokenizer, struct caption_prefix prefix,
                   struct caption_trace trace, const char *caption, size_t size, int32_t eos,
                   struct token_ids *ids, size_t *ret_label_first,
                   enum caption_verdict *ret_verdict, struct bl_error *err)
{
    auto_ids prompt = {0};
    BL_TRY(caption_prompt(tokenizer, prefix, &prompt, err));
    *ret_label_first = prompt.count;
    return encode_after(tokenizer, prefix, &prompt, trace, caption, size, eos, ids, ret_label_first,
                        ret_verdict, err);
}

int caption_eos(const struct config_data *data, const struct tokenizer *tokenizer,
                const struct hf_llm *llm, int32_t *ret, struct bl_error *err)
{
    int32_t eos = data->eos            ? tokenizer_find(tokenizer, data->eos)
                  : llm->eos_count > 0 ? llm->eos[0]
                                       : -1;
    if (eos < 0) {
        if (data->eos)
            bl_fail(err, BL_ECONFIG, "the tokenizer has no token \"%.60s\"", data->eos);
        else
            bl_fail(err, BL_ECONFIG, "config.json of the language model has no eos_token_id");
        bl_error_remedy(err, "name the token that is to end a caption");
        return bl_error_key(err, "data.eos");
    }
    if (eos >= tokenizer_vocabulary_size(tokenizer) || !tokenizer_content(tokenizer, eos)) {
        bl_fail(err, BL_ECONFIG,
                "config.json's eos_token_id %d is not in the tokenizer's "
                "vocabulary of %d",
                eos, tokenizer_vocabulary_size(tokenizer));
        bl_error_remedy(err, "name the token that is to end a caption");
        return bl_error_key(err, "data.eos");
    }
    *ret = eos;
    return 0;
}

/* -- rules ------------------------------------------------------------------------------------ */

struct caption_rules {
    const struct config_data *data;
    const struct tokenizer *tokenizer;
    int32_t eos;
    struct token_ids *prompts; /* of each column */
    struct filters *filters;
};

int caption_rules_open(const struct config_data *data, const struct tokenizer *tokenizer,
                       int32_t eos, struct caption_rules **ret, struct bl_error *err)
{
    bl_auto(caption_rules) struct caption_rules *rules = calloc(1, sizeof *rules);
    if (!rules)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    rules->data = data;
    rules->tokenizer = tokenizer;
    rules->eos = eos;
    rules->prompts = calloc(data->captions.count, sizeof *rules->prompts);
    if (!rules->prompts)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    for (size_t i = 0; i < data->captions.count; i++)
        BL_TRY(caption_prompt(tokenizer, caption_prefix_of(&data->captions.at[i], NULL),
                              &rules->prompts[i], err));
    BL_TRY(filters_open(data, &rules->filters, err));
    *ret = bl_take(&rules);
    return 0;
}

void caption_rules_free(struct caption_rules **rules)
{
    struct caption_rules *r = *rules;
    if (!r)
        return;
    for (size_t i = 0; r->prompts && i < r->data->captions.count; i++)
        token_ids_release(&r->prompts[i]);
    free(r->prompts);
    filters_free(&r->filters);
    free(r);
    *rules = NULL;
}

int caption_rules_strip(const struct caption_rules *rules, const char *text, size_t size,
                        struct bl_bytes *spare, const char **ret_text, size_t *ret_size,
                        uint32_t *ret_rule, struct bl_error *err)
{
    text = caption_strip(text, size, &size);
    return filters_strip(rules->filters, text, size, spare, ret_text, ret_size, ret_rule, err);
}

/* What the rules say of the text alone. */
static int judge_text(const struct caption_rules *rules, const char *text, size_t size,
                      struct caption_encoded *ret, struct bl_error *err)
{
    bool of_script;
    ret->verdict = CAPTION_NOT_KEPT;
    BL_TRY(filters_keep(rules->filters, text, size, &ret->rule, err));
    if (ret->rule != FILTERS_NONE)
        return 0;
    ret->verdict = CAPTION_DROPPED;
    BL_TRY(filters_drop(rules->filters, text, size, &ret->rule, err));
    if (ret->rule != FILTERS_NONE)
        return 0;
    BL_TRY(filters_script(rules->filters, text, size, &of_script, err));
    ret->verdict = of_script ? CAPTION_KEPT : CAPTION_SCRIPT;
    return 0;
}

/* What is too long or too short of prompt, trace, caption and EOS: `first` ids stand before the caption. */
static enum caption_verdict judge_lengths(const struct caption_rules *rules, size_t prompt,
                                          size_t first, size_t count)
{
    int64_t trace = (int64_t)(first - prompt), caption = (int64_t)(count - first - 1);
    if (caption < rules->data->min_tokens)
        return CAPTION_TOO_SHORT;
    if (caption > rules->data->max_tokens)
        return CAPTION_TOO_LONG;
    return trace > rules->data->max_trace_tokens || (trace && count > BL_CAPTION_TOKENS_MAX)
               ? CAPTION_TRACE_TOO_LONG
               : CAPTION_KEPT;
}

/* Which of the ids are labels: the caption begins at `first`. */
static void choose_labels(const struct caption_rules *rules, const struct config_caption *column,
                          size_t prompt, size_t first, size_t count, struct caption_encoded *ret)
{
    ret->label_first = rules->data->train_prefix                 ? 0
                       : column->labels == CONFIG_LABELS_CAPTION ? first
                                                                 : prompt;
    ret->label_end = column->labels == CONFIG_LABELS_TRACE ? first : count;
    ret->prompt = prompt;
    ret->caption_first = first;
}

int caption_rules_encode(const struct caption_rules *rules, const struct caption_text *caption,
                         struct token_ids *ids, struct caption_encoded *ret, struct bl_error *err)
{
    BL_ASSERT_CMP(caption->column, <, rules->data->captions.count);
    const struct config_caption *column = &rules->data->captions.at[caption->column];
    const struct token_ids *prompt = &rules->prompts[caption->column];
    struct caption_trace trace = {NULL, 0, column->open, column->close};
    size_t before = ids->count, first = prompt->count, size;
    const char *text = caption_strip(caption->text, caption->size, &size);
    *ret = (struct caption_encoded){.verdict = CAPTION_EMPTY, .rule = FILTERS_NONE};
    if (!size)
        return 0;
    BL_TRY(judge_text(rules, text, size, ret, err));
    if (ret->verdict != CAPTION_KEPT)
        return 0;
    if (column->trace) {
        trace.text =
            caption_strip(caption->trace ? caption->trace : "", caption->trace_size, &trace.size);
        ret->verdict = CAPTION_NO_TRACE;
        if (!trace.size)
            return 0;
    }
    BL_TRY(encode_after(rules->tokenizer, caption_prefix_of(column, NULL), prompt, trace, text,
                        size, rules->eos, ids, &first, &ret->verdict, err));
    if (ret->verdict != CAPTION_KEPT)
        return 0;
    size_t count = ids->count - before;
    ret->verdict = judge_lengths(rules, prompt->count, first, count);
    if (ret->verdict != CAPTION_KEPT)
        ids->count = before;
    choose_labels(rules, column, prompt->count, first, count, ret);
    return 0;
}

size_t caption_columns(const struct config_data *data, const char **ret)
{
    size_t count = data->captions.count;
    for (size_t i = 0; i < data->captions.count; i++) {
        if (ret)
            ret[i] = data->captions.at[i].column;
        if (ret && data->captions.at[i].trace)
            ret[count] = data->captions.at[i].trace;
        count += data->captions.at[i].trace != NULL;
    }
    return count;
}

int64_t caption_tokens_max(const struct config_data *data)
{
    bool traces = caption_columns(data, NULL) > data->captions.count;
    return data->max_tokens + (traces ? data->max_trace_tokens : 0);
}

uint32_t caption_trace_column(const struct config_data *data, uint32_t column)
{
    uint32_t at = (uint32_t)data->captions.count;
    for (uint32_t i = 0; i < column; i++)
        at += data->captions.at[i].trace != NULL;
    return data->captions.at[column].trace ? at : 0;
}

uint32_t caption_choose(uint64_t seed, uint64_t epoch, uint64_t sample, uint32_t count)
{
    uint32_t words[4];
    BL_ASSERT_CMP(count, >=, 1);
    if (count == 1)
        return 0;
    bl_draw(seed, BL_RANDOM_CAPTION, epoch, sample, words);
    return (uint32_t)((uint64_t)words[0] * count >> 32);
}
