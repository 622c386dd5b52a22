/* common/data/dataset_losses.c - whether enough is left to train on, and what to do about what is not. */
#include <stdio.h>

#include "common/data/dataset_format.h"

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
            dataset_first(d, source - d->header->sources, false, most->verdict), more);
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
