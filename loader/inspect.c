/* loader/inspect.c - see inspect.h. */
#include "loader/inspect.h"

#include "common/data/captions.h"
#include "common/config/config.h"
#include "common/data/dataset.h"
#include "common/data/indexing.h"
#include "common/limits.h"
#include "common/models/hf.h"
#include "common/size.h"
#include "common/tokenizer/tokenizer.h"
#include "common/utf8.h"
#include "loader/inspect_page.h"

struct inspection {
    FILE *out;
    struct config *config;
    struct dataset *dataset;
    struct tokenizer *tokenizer;
    struct caption_rules *rules;
    int32_t eos;
};

static unsigned long long u(uint64_t n)
{
    return n;
}

/* -- counts ----------------------------------------------------------------------------------- */

/* rule: those of this rule, or FILTERS_NONE for those of none. */
static void print_examples(const struct inspection *in, bool is_caption, uint32_t verdict,
                           uint32_t rule)
{
    for (uint32_t i = 0; i < dataset_example_count(in->dataset); i++) {
        struct dataset_example example;
        dataset_example(in->dataset, i, &example);
        if (example.is_caption != is_caption || example.verdict != verdict || example.rule != rule)
            continue;
        char line[1600];
        snprintf(line, sizeof line, "%s", example.text);
        utf8_clean(line);
        fprintf(in->out, "             %s\n", line);
    }
}

static void print_sources(const struct inspection *in)
{
    const struct config_sources *sources = &in->config->data.sources;
    const struct dataset *d = in->dataset;
    for (uint32_t of = 0; of < sources->count; of++) {
        const struct config_source *source = &sources->at[of];
        char repeats[600];
        if (config_source_repeats(in->config, of, repeats, sizeof repeats))
            fprintf(in->out, "warning: %s\n", repeats);
        fprintf(in->out, "source %s\n", source->source);
        if (source->validation_source)
            fprintf(in->out, "validation source %s\n", source->validation_source);
        if (sources->written)
            fprintf(in->out,
                    "  %8llu  train\n  %8llu  validation\n  %8llu  draws of an epoch, weight %g\n",
                    u(dataset_source_samples(d, of, DATASET_TRAIN)),
                    u(dataset_source_samples(d, of, DATASET_VALIDATION)),
                    u(dataset_draws(in->config, d, of)), source->weight);
    }
}

static void print_samples(const struct inspection *in)
{
    const struct dataset *d = in->dataset;
    fprintf(in->out, "samples\n  %8llu  train\n  %8llu  validation\n",
            u(dataset_count(d, DATASET_TRAIN)), u(dataset_count(d, DATASET_VALIDATION)));
    for (uint32_t of = 0; of < dataset_source_count(d); of++) {
        char split[300];
        if (dataset_split_text(d, of, split, sizeof split))
            fprintf(in->out, "            %s\n", split);
    }
    for (int v = DATASET_KEPT + 1; v < DATASET_VERDICT_COUNT; v++) {
        enum dataset_verdict verdict = (enum dataset_verdict)v;
        if (!dataset_sample_verdicts(d, verdict))
            continue;
        fprintf(in->out, "  %8llu  left out: %s\n", u(dataset_sample_verdicts(d, verdict)),
                dataset_verdict_words(verdict));
        print_examples(in, false, verdict, FILTERS_NONE);
    }
}

static void print_passed(const struct inspection *in)
{
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++) {
        uint64_t count = dataset_passed(in->dataset, (enum source_passed)kind);
        const char *name;
        uint32_t i = 0;
        if (!count)
            continue;
        fprintf(in->out, "  %8llu  %s\n", u(count), source_passed_words((enum source_passed)kind));
        for (; (name = dataset_passed_name(in->dataset, (enum source_passed)kind, i)); i++) {
            char line[512];
            snprintf(line, sizeof line, "%s", name);
            utf8_clean(line);
            fprintf(in->out, "             %s\n", line);
        }
        if (i < count)
            fprintf(in->out, "             and %llu more\n", u(count - i));
    }
}

/* The rules of a verdict's list with what each of them did, with examples. */
static void print_rules(const struct inspection *in, enum caption_verdict verdict)
{
    enum dataset_rules list = dataset_rules_of(verdict);
    for (uint32_t i = 0; list < DATASET_RULES_COUNT && i < BL_CONFIG_LIST_MAX; i++) {
        char rule[300];
        if (!dataset_rule_text(in->config, list, i, rule, sizeof rule))
            return;
        fprintf(in->out, "  %8llu    %s\n", u(dataset_rule_count(in->dataset, list, i)), rule);
        print_examples(in, true, verdict, i);
    }
}

static void print_captions(const struct inspection *in)
{
    const struct dataset *d = in->dataset;
    fprintf(in->out, "captions\n  %8llu  kept\n", u(dataset_caption_verdicts(d, CAPTION_KEPT)));
    print_rules(in, CAPTION_KEPT);
    for (int v = CAPTION_KEPT + 1; v < CAPTION_VERDICT_COUNT; v++) {
        enum caption_verdict verdict = (enum caption_verdict)v;
        const char *key = caption_verdict_key(verdict);
        if (!dataset_caption_verdicts(d, verdict))
            continue;
        fprintf(in->out, "  %8llu  dropped: %s%s%s%s\n", u(dataset_caption_verdicts(d, verdict)),
                caption_verdict_words(verdict), key ? " (" : "", key ? key : "", key ? ")" : "");
        print_examples(in, true, verdict, FILTERS_NONE);
        print_rules(in, verdict);
    }
}

/* -- lengths ---------------------------------------------------------------------------------- */

/* Number of kept captions with first to last tokens. */
static uint64_t captions_between(const struct dataset *d, uint32_t first, uint32_t last)
{
    uint64_t count = 0;
    for (uint32_t tokens = first; tokens <= last; tokens++)
        count += dataset_length(d, tokens);
    return count;
}

static uint32_t median_length(const struct dataset *d)
{
    uint64_t half = (captions_between(d, 0, dataset_longest(d)) + 1) / 2, seen = 0;
    uint32_t tokens = 0;
    while ((seen += dataset_length(d, tokens)) < half)
        tokens++;
    return tokens;
}

static void print_lengths(const struct inspection *in)
{
    enum { ROWS = 16, BAR = 40 };
    const struct dataset *d = in->dataset;
    uint32_t longest = dataset_longest(d), shortest = 0;
    if (!longest)
        return;
    while (!dataset_length(d, shortest))
        shortest++;
    uint32_t width = (uint32_t)bl_ceil_div(longest - shortest + 1, ROWS);
    uint64_t most = 1;
    for (uint32_t first = shortest; first <= longest; first += width)
        most =
            (uint64_t)bl_max((int64_t)most, (int64_t)captions_between(d, first, first + width - 1));
    fprintf(in->out, "tokens of a kept caption, prefix and EOS included: median %u, longest %u\n",
            median_length(d), longest);
    for (uint32_t first = shortest; first <= longest; first += width) {
        uint64_t count = captions_between(d, first, first + width - 1);
        fprintf(in->out, "  %5u to %5u  %8llu%s%.*s\n", first, first + width - 1, u(count),
                count ? "  " : "", (int)bl_ceil_div((int64_t)count * BAR, (int64_t)most),
                "########################################");
    }
}

/* -- examples --------------------------------------------------------------------------------- */

static void print_token(const struct inspection *in, const char *mark, int32_t id)
{
    const char *content = tokenizer_content(in->tokenizer, id);
    fprintf(in->out, "    %-6s  %7d  ", mark, id);
    for (const char *c = content ? content : "?"; *c; c++)
        if ((unsigned char)*c < 0x20)
            fprintf(in->out, "\\x%02x", (unsigned char)*c);
        else
            putc(*c, in->out);
    putc('\n', in->out);
}

static void print_bos(const struct inspection *in, enum config_bos place)
{
    size_t count;
    const int32_t *bos = tokenizer_bos(in->tokenizer, &count);
    if (count && in->config->llm.bos == place)
        print_token(in, "BOS", bos[0]);
}

/* What a token is: trained, or context of a kind. */
static const char *mark_of(const struct caption_encoded *encoded, size_t t)
{
    if (t >= encoded->label_first && t < encoded->label_end)
        return "label";
    return t < encoded->prompt ? "prefix" : t < encoded->caption_first ? "trace" : "text";
}

/* The language model's input for one caption, from first to last position. */
static int print_example(const struct inspection *in, uint64_t id, uint32_t i, struct bl_error *err)
{
    __attribute__((cleanup(token_ids_release))) struct token_ids ids = {0};
    struct dataset_sample sample;
    struct dataset_caption caption;
    struct caption_encoded encoded;
    char image[4096];
    dataset_sample(in->dataset, id, &sample);
    location_describe(&sample.location, image, sizeof image);
    utf8_clean(image);
    dataset_caption(in->dataset, id, i, &caption);
    struct caption_text text = dataset_caption_text(&caption);
    BL_TRY(caption_rules_encode(in->rules, &text, &ids, &encoded, err));
    BL_ASSERT_CMP(encoded.verdict, ==, CAPTION_KEPT); /* the index was made by the same rules */
    fprintf(in->out, "sample %llu, %s, %s\n", u(id),
            sample.split == DATASET_TRAIN ? "train" : "validation", image);
    print_bos(in, CONFIG_BOS_FIRST);
    fprintf(in->out, "    image   %7lld  positions\n", (long long)in->config->qformer.queries);
    print_bos(in, CONFIG_BOS_AFTER_IMAGE);
    for (size_t t = 0; t + 1 < ids.count; t++)
        print_token(in, mark_of(&encoded, t), ids.ids[t]);
    print_token(in, encoded.label_end == ids.count ? "EOS" : "eos", ids.ids[ids.count - 1]);
    return 0;
}

/* The longest caption of all. */
static void find_longest(const struct dataset *d, uint64_t *ret_id, uint32_t *ret_i)
{
    uint32_t most = 0;
    for (uint64_t id = 0; id < dataset_samples(d); id++) {
        struct dataset_sample sample;
        dataset_sample(d, id, &sample);
        for (uint32_t i = 0; i < sample.caption_count; i++) {
            struct dataset_caption caption;
            dataset_caption(d, id, i, &caption);
            if (caption.tokens > most) {
                most = caption.tokens;
                *ret_id = id;
                *ret_i = i;
            }
        }
    }
}

static int print_some(const struct inspection *in, struct bl_error *err)
{
    const struct dataset *d = in->dataset;
    uint64_t longest = 0;
    uint32_t which = 0;
    if (!dataset_samples(d))
        return 0;
    fputs("examples (label and EOS: trained; all else: context): the first of each split, and the "
          "longest\n",
          in->out);
    for (int split = 0; split < DATASET_SPLIT_COUNT; split++)
        if (dataset_count(d, (enum dataset_split)split))
            BL_TRY(print_example(in, dataset_id(d, (enum dataset_split)split, 0), 0, err));
    find_longest(d, &longest, &which);
    bool printed = false;
    for (int split = 0; split < DATASET_SPLIT_COUNT; split++)
        printed |= !which && dataset_count(d, (enum dataset_split)split) &&
                   dataset_id(d, (enum dataset_split)split, 0) == longest;
    return printed ? 0 : print_example(in, longest, which, err);
}

/* -- public ----------------------------------------------------------------------------------- */

static int inspect(struct inspection *in, const char *yaml, struct bl_error *err)
{
    struct indexing indexing = {0};
    struct hf_llm llm;
    BL_TRY(config_open(yaml, &in->config, err));
    BL_TRY(hf_llm_open(in->config->llm.path, &llm, err));
    BL_TRY(tokenizer_open(in->config->llm.path, &in->tokenizer, err));
    if (caption_eos(&in->config->data, in->tokenizer, &llm, &in->eos, err) < 0)
        return bl_error_file(err, yaml);
    BL_TRY(dataset_view(in->config, indexing_show, &indexing, &in->dataset, err));
    BL_TRY(caption_rules_open(&in->config->data, in->tokenizer, in->eos, &in->rules, err));
    print_sources(in);
    print_samples(in);
    print_passed(in);
    print_captions(in);
    print_lengths(in);
    return print_some(in, err);
}

int inspect_run(const char *yaml, const char *html, FILE *out, struct bl_error *err)
{
    struct inspection in = {.out = out};
    int rc = inspect(&in, yaml, err);
    const struct inspected found = {in.config, in.dataset, in.tokenizer, in.rules};
    if (rc == 0 && html)
        rc = inspect_page_write(&found, html, err);
    caption_rules_free(&in.rules);
    tokenizer_free(&in.tokenizer);
    dataset_free(&in.dataset);
    config_free(&in.config);
    return rc;
}
