/* coordinator/check_data.c - is there something to train on, with labels that end, within what the LLM has positions for? */
#include "coordinator/check_parts.h"

#include "common/data/captions.h"
#include "common/data/indexing.h"
#include "common/cleanup.h"

/* What a look at the first captions of training says about labels and EOS. */
struct labels {
    uint64_t captions, with_eos_inside, fewest, most;
};

static int look_at_caption(struct check *c, const struct caption_rules *rules, uint64_t id,
                           uint32_t i, struct labels *labels, struct bl_error *err)
{
    __attribute__((cleanup(token_ids_release))) struct token_ids ids = {0};
    struct dataset_caption caption;
    struct caption_encoded encoded;
    dataset_caption(c->dataset, id, i, &caption);
    struct caption_text text = dataset_caption_text(&caption);
    BL_TRY(caption_rules_encode(rules, &text, &ids, &encoded, err));
    size_t first = encoded.label_first, count = encoded.label_end - first;
    if (encoded.verdict != CAPTION_KEPT || ids.count != caption.tokens ||
        ids.ids[ids.count - 1] != c->eos || first >= encoded.label_end) {
        bl_fail(err, BL_EDATA, "sample %llu has no label or no EOS", (unsigned long long)id);
        return bl_error_file(err,
                             c->config->data.sources.at[dataset_source_of(c->dataset, id)].source);
    }
    labels->captions++;
    labels->fewest = labels->captions == 1 || count < labels->fewest ? count : labels->fewest;
    labels->most = count > labels->most ? count : labels->most;
    for (size_t t = first; t + 1 < ids.count; t++)
        if (ids.ids[t] == c->eos) {
            labels->with_eos_inside++;
            break;
        }
    return 0;
}

static void check_labels(struct check *c)
{
    enum { LOOKED_AT = 2000 };
    bl_auto(caption_rules) struct caption_rules *rules = NULL;
    struct bl_error err;
    struct labels labels = {0};
    if (!check_passes(c, "labels",
                      caption_rules_open(&c->config->data, c->tokenizer, c->eos, &rules, &err),
                      &err))
        return;
    uint64_t count = dataset_count(c->dataset, DATASET_TRAIN);
    for (uint64_t s = 0; s < count && s < LOOKED_AT; s++) {
        struct dataset_sample sample;
        uint64_t id = dataset_id(c->dataset, DATASET_TRAIN, s);
        dataset_sample(c->dataset, id, &sample);
        for (uint32_t i = 0; i < sample.caption_count; i++)
            if (!check_passes(c, "labels", look_at_caption(c, rules, id, i, &labels, &err), &err))
                return;
    }
    if (labels.with_eos_inside)
        check_warning(c, "labels", "%llu of %llu captions hold the EOS token before their end",
                      (unsigned long long)labels.with_eos_inside,
                      (unsigned long long)labels.captions);
    check_ok(c, "labels",
             "%llu to %llu tokens a caption are trained, EOS included; looked at %llu captions",
             (unsigned long long)labels.fewest, (unsigned long long)labels.most,
             (unsigned long long)labels.captions);
}

/* Captions that the rules drop, kind by kind; samples that lose all of theirs are dataset_judge's. */
static void check_dropped(struct check *c)
{
    char text[900];
    double share;
    if (dataset_stripped_text(c->dataset, text, sizeof text))
        check_note(c, "data", "%s", text);
    for (int v = CAPTION_KEPT + 1; v < CAPTION_VERDICT_COUNT; v++) {
        if (!dataset_dropped_text(c->dataset, (enum caption_verdict)v, text, sizeof text, &share))
            continue;
        if (share > c->config->data.max_bad_fraction)
            check_warning(c, "data", "%s", text);
        else
            check_note(c, "data", "%s", text);
    }
}

static void check_passed(struct check *c)
{
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++) {
        uint64_t count = dataset_passed(c->dataset, (enum source_passed)kind);
        if (count)
            check_warning(c, "data", "%llu %s; the first is %.300s", (unsigned long long)count,
                          source_passed_words((enum source_passed)kind),
                          dataset_passed_name(c->dataset, (enum source_passed)kind, 0));
    }
}

/* The folders decide the split where some are named by it. */
static void check_split(struct check *c)
{
    char text[300];
    for (uint32_t of = 0; of < dataset_source_count(c->dataset); of++)
        if (dataset_split_text(c->dataset, of, text, sizeof text))
            check_ok(c, "data", "%s", text);
}

static bool wants_validation(const struct config_sources *sources)
{
    for (size_t i = 0; i < sources->count; i++)
        if (sources->at[i].validation > 0 || sources->at[i].validation_source)
            return true;
    return false;
}

/* What each source of a list gives. */
static void check_sources(struct check *c)
{
    const struct config_sources *sources = &c->config->data.sources;
    for (uint32_t of = 0; of < sources->written; of++)
        check_ok(c, "data",
                 "data.sources[%u], weight %g: an epoch takes %llu draws of its %llu samples to "
                 "train; %llu to validate; %.300s",
                 of, sources->at[of].weight,
                 (unsigned long long)dataset_draws(c->config, c->dataset, of),
                 (unsigned long long)dataset_source_samples(c->dataset, of, DATASET_TRAIN),
                 (unsigned long long)dataset_source_samples(c->dataset, of, DATASET_VALIDATION),
                 sources->at[of].source);
}

/* Of the second one nothing may be left, which is an error further on. */
static void check_repeated_sources(struct check *c)
{
    char text[600];
    for (size_t i = 0; i < c->config->data.sources.written; i++)
        if (config_source_repeats(c->config, i, text, sizeof text))
            check_warning(c, "data", "%s", text);
}

void check_data(struct check *c)
{
    struct indexing indexing = {0};
    struct bl_error err;
    if (c->eos < 0)
        return; /* the tokenizer's or the model's error was said */
    check_repeated_sources(c);
    if (!check_passes(c, "data",
                      dataset_view(c->config, indexing_show, &indexing, &c->dataset, &err), &err))
        return;
    check_split(c);
    check_passed(c);
    check_dropped(c);
    if (!check_passes(c, "data", dataset_judge(c->config, c->dataset, &err), &err)) {
        dataset_free(&c->dataset);
        return;
    }
    uint64_t left_out = 0, dropped = 0;
    for (int v = DATASET_KEPT + 1; v < DATASET_VERDICT_COUNT; v++)
        left_out += dataset_sample_verdicts(c->dataset, (enum dataset_verdict)v);
    for (int v = CAPTION_KEPT + 1; v < CAPTION_VERDICT_COUNT; v++)
        dropped += dataset_caption_verdicts(c->dataset, (enum caption_verdict)v);
    check_sources(c);
    if (wants_validation(&c->config->data.sources) &&
        !dataset_count(c->dataset, DATASET_VALIDATION))
        check_warning(c, "data", "no image is held out for validation");
    check_ok(c, "data",
             "%llu samples to train, %llu to validate, %llu left out, %llu captions dropped "
             "(blipren-loader inspect shows why); the longest caption has %u tokens",
             (unsigned long long)dataset_count(c->dataset, DATASET_TRAIN),
             (unsigned long long)dataset_count(c->dataset, DATASET_VALIDATION),
             (unsigned long long)left_out, (unsigned long long)dropped,
             dataset_longest(c->dataset));
    check_labels(c);
    check_passes(
        c, "batches",
        config_set_length(c->unfinished, dataset_epoch(c->config, c->dataset), c->yaml, &err),
        &err);
}

void check_positions(struct check *c)
{
    if (!c->dataset)
        return;
    int64_t image = c->config->qformer.queries + 1;
    int64_t longest = image + dataset_longest(c->dataset);
    if (longest > c->llm.positions_max)
        check_wrong(c, "positions", "data.max_tokens", "lower it, or use fewer queries",
                    "the longest caption needs %lld positions with its image, the model has %lld",
                    (long long)longest, (long long)c->llm.positions_max);
    else if (image + c->config->train.max_new_tokens > c->llm.positions_max)
        check_warning(
            c, "positions",
            "train.max_new_tokens: %lld with the image is more than the model's %lld positions",
            (long long)c->config->train.max_new_tokens, (long long)c->llm.positions_max);
}
