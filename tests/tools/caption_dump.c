/* tests/tools/caption_dump.c - `caption_dump RUN.yaml`: a line of JSON for each caption of the run's data set, in order: its text,
 * the ids that a worker trains on, and which of them are labels. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset.h"
#include "common/models/hf.h"

struct dump {
    struct config *config;
    struct dataset *dataset;
    struct tokenizer *tokenizer;
    struct caption_rules *rules;
};

static int dump_caption(const struct dump *d, uint64_t id, uint32_t i, struct bl_error *err)
{
    __attribute__((cleanup(token_ids_release))) struct token_ids ids = {0};
    struct dataset_caption caption;
    struct caption_encoded encoded;
    dataset_caption(d->dataset, id, i, &caption);
    const struct caption_text text = dataset_caption_text(&caption);
    BL_TRY(caption_rules_encode(d->rules, &text, &ids, &encoded, err));
    json_t *line =
        json_pack("{s:s%, s:I, s:I}", "caption", caption.text, caption.size, "label_first",
                  (json_int_t)encoded.label_first, "label_end", (json_int_t)encoded.label_end);
    json_t *list = json_array();
    for (size_t t = 0; t < ids.count; t++)
        json_array_append_new(list, json_integer(ids.ids[t]));
    json_object_set_new(line, "ids", list);
    json_dumpf(line, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(line);
    return 0;
}

static int dump_all(struct dump *d, const char *yaml, struct bl_error *err)
{
    struct hf_llm llm;
    int32_t eos;
    BL_TRY(config_open(yaml, &d->config, err));
    BL_TRY(hf_llm_open(d->config->llm.path, &llm, err));
    BL_TRY(tokenizer_open(d->config->llm.path, &d->tokenizer, err));
    BL_TRY(caption_eos(&d->config->data, d->tokenizer, &llm, &eos, err));
    BL_TRY(dataset_view(d->config, NULL, NULL, &d->dataset, err));
    BL_TRY(caption_rules_open(&d->config->data, d->tokenizer, eos, &d->rules, err));
    for (uint64_t id = 0; id < dataset_samples(d->dataset); id++) {
        struct dataset_sample sample;
        dataset_sample(d->dataset, id, &sample);
        for (uint32_t i = 0; i < sample.caption_count; i++)
            BL_TRY(dump_caption(d, id, i, err));
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct dump d = {0};
    struct bl_error err;
    char line[1600];
    int rc =
        argc == 2 ? dump_all(&d, argv[1], &err) : bl_fail(&err, BL_EUSAGE, "expected RUN.yaml");
    caption_rules_free(&d.rules);
    tokenizer_free(&d.tokenizer);
    dataset_free(&d.dataset);
    config_free(&d.config);
    if (rc == 0)
        return 0;
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "%s\n", line);
    return 1;
}
