/* common/data/dataset_build.c - making a dataset.index: the rules judge captions, images are split. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset_format.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/random.h"
#include "common/data/source.h"
#include "common/utf8.h"

#define EXAMPLES_OF_EACH 5
#define ROWS_AT_ONCE 2048 /* whose captions are judged together: about a tenth of a second */

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* -- sets ------------------------------------------------------------------------------------- */

/* 16-byte digests of captions seen; open addressing, at most three quarters full. */
struct seen {
    uint8_t (*at)[16]; /* all zero: free */
    size_t slots, used;
};

static uint8_t *seen_slot(const struct seen *seen, const uint8_t key[16])
{
    static const uint8_t zero[16];
    uint64_t start;
    memcpy(&start, key, sizeof start);
    for (size_t i = start & (seen->slots - 1);; i = (i + 1) & (seen->slots - 1))
        if (!memcmp(seen->at[i], key, 16) || !memcmp(seen->at[i], zero, 16))
            return seen->at[i];
}

static int seen_grow(struct seen *seen, struct bl_error *err)
{
    struct seen grown = {.slots = seen->slots ? seen->slots * 2 : 1024, .used = seen->used};
    static const uint8_t zero[16];
    grown.at = calloc(grown.slots, sizeof *grown.at);
    if (!grown.at)
        return fail_nomem(err);
    for (size_t i = 0; i < seen->slots; i++)
        if (memcmp(seen->at[i], zero, 16))
            memcpy(seen_slot(&grown, seen->at[i]), seen->at[i], 16);
    free(seen->at);
    *seen = grown;
    return 0;
}

/* *ret_new: the key was not there before. */
static int seen_add(struct seen *seen, const uint8_t key[16], bool *ret_new, struct bl_error *err)
{
    if (seen->used * 4 >= seen->slots * 3)
        BL_TRY(seen_grow(seen, err));
    uint8_t *slot = seen_slot(seen, key);
    *ret_new = memcmp(slot, key, 16) != 0;
    memcpy(slot, key, 16);
    seen->used += *ret_new;
    return 0;
}

/* -- building --------------------------------------------------------------------------------- */

struct build {
    const struct config *config;
    const struct dataset_inputs *inputs;
    struct caption_rules *rules;
    struct dataset_hashes held_out; /* by their folders or sources; sorted */
    struct seen seen;
    struct dataset_judging *judging; /* of the rows at hand */

    struct dataset_header header;
    struct bl_bytes rows, captions, splits[DATASET_SPLIT_COUNT], notes, text;
    uint64_t *lengths;
    size_t length_capacity;
    uint32_t sample_notes[BL_SOURCES_MAX][DATASET_VERDICT_COUNT];
    uint32_t caption_notes[CAPTION_VERDICT_COUNT][BL_CONFIG_LIST_MAX + 1]; /* by rule; 0: none */
};

static int append(struct bl_bytes *bytes, const void *data, size_t size, struct bl_error *err)
{
    return bl_bytes_add(bytes, data, size) ? 0 : fail_nomem(err);
}

static int append_text(struct build *b, const char *text, size_t size, uint64_t *ret,
                       struct bl_error *err)
{
    *ret = b->text.size;
    BL_TRY(append(&b->text, text, size, err));
    return append(&b->text, "", 1, err);
}

/* "metadata.jsonl:3: a.jpg", or "a.jpg" where the image itself stands for the sample. */
static void describe(const struct source_sample *sample, char *ret, size_t size)
{
    if (sample->line)
        snprintf(ret, size, "%.200s:%llu: %.300s", sample->file, (unsigned long long)sample->line,
                 sample->image);
    else
        snprintf(ret, size, "%.300s", sample->image);
}

static int add_note(struct build *b, struct dataset_note *record, const char *line,
                    const char *location, struct bl_error *err)
{
    BL_TRY(append_text(b, line, strlen(line), &record->text, err));
    BL_TRY(append_text(b, location, strlen(location), &record->location, err));
    b->header.example_count++;
    return append(&b->notes, record, sizeof *record, err);
}

/* Keeps the first few samples of each source and verdict as examples. */
static int leave_out(struct build *b, const struct source_part *part,
                     const struct source_sample *sample, enum dataset_verdict verdict,
                     struct bl_error *err)
{
    char line[900];
    struct dataset_note record = {
        .source = (uint16_t)part->of, .verdict = verdict, .rule = FILTERS_NONE};
    b->header.sources[part->of].sample_verdicts[verdict]++;
    if (++b->sample_notes[part->of][verdict] > EXAMPLES_OF_EACH)
        return 0;
    describe(sample, line, sizeof line);
    return add_note(b, &record, line, "", err);
}

/* "…: The image shows a dog", and where an opening was taken off " → A dog". */
static void describe_caption(const struct build *b, const struct source_sample *sample,
                             const struct dataset_judgement *judgement, char *ret, size_t size)
{
    struct caption_text found;
    describe(sample, ret, size);
    size_t used = strlen(ret);
    dataset_found_caption(b->judging, judgement, &found);
    used += (size_t)snprintf(ret + used, size - used, ": %.*s",
                             found.size < 300 ? (int)found.size : 300, found.text);
    if (judgement->stripped && used < size)
        snprintf(ret + used, size - used, " → %.*s",
                 judgement->stripped_size < 300 ? (int)judgement->stripped_size : 300,
                 judgement->stripped);
}

/* Keeps the first few captions of each verdict and rule as examples: those that are dropped, and those that lost an opening. */
static int note_caption(struct build *b, const struct source_part *part,
                        const struct source_sample *sample, uint64_t at,
                        const struct dataset_judgement *judgement, enum caption_verdict verdict,
                        uint32_t rule, struct bl_error *err)
{
    char line[1600];
    bl_autofree char *location = NULL;
    struct dataset_note record = {
        .is_caption = true, .source = (uint16_t)part->of, .verdict = verdict, .rule = rule};
    enum dataset_rules list = dataset_rules_of(verdict);
    if (rule != FILTERS_NONE)
        b->header.rules[list][rule]++;
    if (++b->caption_notes[verdict][rule == FILTERS_NONE ? 0 : rule + 1] > EXAMPLES_OF_EACH)
        return 0;
    describe_caption(b, sample, judgement, line, sizeof line);
    utf8_repair(line);
    BL_TRY(dataset_inputs_location(b->inputs, at, &location, err));
    return add_note(b, &record, line, location ? location : "", err);
}

static int count_length(struct build *b, uint32_t tokens, struct bl_error *err)
{
    if (!bl_grow(&b->lengths, &b->length_capacity, (size_t)tokens + 1, sizeof *b->lengths))
        return fail_nomem(err);
    while (b->header.length_count <= tokens)
        b->lengths[b->header.length_count++] = 0;
    b->lengths[tokens]++;
    return 0;
}

/* Whether this image, or the whole data set, has had this caption under this prefix. */
static int judge_repetition(struct build *b, const struct dataset_image *image,
                            const struct caption_text *caption,
                            const struct dataset_judgement *judgement,
                            enum caption_verdict *verdict, struct bl_error *err)
{
    enum config_deduplicate how = b->config->data.deduplicate;
    const char *prefix = b->config->data.captions.at[caption->column].prefix;
    crypto_generichash_state state;
    uint8_t key[16];
    bool is_new;
    if (how == CONFIG_REPEAT)
        return 0;
    if (how == CONFIG_UNIQUE) {
        memcpy(key, judgement->key, sizeof key);
    } else {
        crypto_generichash_init(&state, NULL, 0, sizeof key);
        crypto_generichash_update(&state, image->hash, sizeof image->hash);
        crypto_generichash_update(&state, (const unsigned char *)prefix, strlen(prefix) + 1);
        crypto_generichash_update(&state, (const unsigned char *)caption->text, caption->size);
        crypto_generichash_final(&state, key, sizeof key);
    }
    BL_TRY(seen_add(&b->seen, key, &is_new, err));
    if (!is_new)
        *verdict = how == CONFIG_UNIQUE ? CAPTION_REPEATED : CAPTION_DUPLICATE;
    return 0;
}

/* How many of a sample's captions are kept, and how many were dropped by what the user asked for. */
struct tally {
    uint32_t kept, asked;
};

static int add_caption(struct build *b, const struct source_part *part,
                       const struct source_sample *sample, uint64_t at,
                       const struct dataset_judgement *judgement, struct tally *tally,
                       struct bl_error *err)
{
    const struct dataset_image *image = &b->inputs->images[at];
    enum caption_verdict verdict = judgement->verdict;
    struct caption_text caption;
    BL_TRY(dataset_judged_caption(b->judging, judgement, &caption, err));
    if (verdict == CAPTION_KEPT)
        BL_TRY(judge_repetition(b, image, &caption, judgement, &verdict, err));
    b->header.caption_verdicts[verdict]++;
    tally->asked += caption_verdict_is_asked(verdict);
    if (verdict != CAPTION_KEPT)
        return note_caption(b, part, sample, at, judgement, verdict, judgement->rule, err);
    if (judgement->strip != FILTERS_NONE)
        BL_TRY(note_caption(b, part, sample, at, judgement, CAPTION_KEPT, judgement->strip, err));
    struct dataset_text record = {
        .size = (uint32_t)caption.size, .column = caption.column, .tokens = judgement->tokens};
    BL_TRY(append_text(b, caption.text, caption.size, &record.text, err));
    record.trace = record.text + record.size; /* the text's end */
    record.trace_size = (uint32_t)caption.trace_size;
    if (caption.trace_size)
        BL_TRY(append_text(b, caption.trace, caption.trace_size, &record.trace, err));
    BL_TRY(count_length(b, record.tokens, err));
    b->header.caption_count++;
    tally->kept++;
    return append(&b->captions, &record, sizeof record, err);
}

/* Adds a sample's captions; *ret_count are kept. */
static int add_captions(struct build *b, const struct source_part *part, uint64_t at,
                        const struct source_sample *sample, enum dataset_verdict *verdict,
                        uint32_t *ret_count, struct bl_error *err)
{
    const struct dataset_judgement *judgements;
    size_t count = dataset_judgements(b->judging, at, &judgements);
    struct tally tally = {0};
    *verdict = DATASET_NO_CAPTION;
    for (size_t i = 0; i < count; i++)
        if (add_caption(b, part, sample, at, &judgements[i], &tally, err) < 0)
            return source_where(part->source, sample, err);
    *ret_count = tally.kept;
    if (count)
        *verdict = tally.kept ? DATASET_KEPT : tally.asked ? DATASET_NOTHING_KEPT : DATASET_UNFIT;
    return 0;
}

/* What the folders of a source say of a sample: KEPT, for training or *ret_validation, or why it is left out. Without a
 * train folder, what is in no other split is for training. */
static enum dataset_verdict judge_folder(const struct build *b, const struct source_part *part,
                                         const struct source_sample *sample, bool *ret_validation)
{
    const struct config_source *entry = &b->config->data.sources.at[part->of];
    enum split_name split = source_in_folders(part->source) ? split_of_sample(sample) : SPLIT_NONE;
    *ret_validation = split == SPLIT_VALIDATION;
    if (split == SPLIT_TEST || (*ret_validation && entry->validation_source))
        return DATASET_SET_ASIDE;
    return split == SPLIT_NONE && b->header.sources[part->of].splits.at[SPLIT_TRAIN]
               ? DATASET_NO_SPLIT
               : DATASET_KEPT;
}

static int add_sample(struct build *b, uint64_t at, struct bl_error *err)
{
    const struct dataset_image *image = &b->inputs->images[at];
    uint64_t row = at;
    const struct source_part *part = source_set_find(&b->inputs->set, &row);
    struct source_sample sample;
    BL_TRY(source_get(part->source, row, &sample, err));
    bool validation = part->validation;
    enum dataset_verdict folder =
        validation ? DATASET_KEPT : judge_folder(b, part, &sample, &validation);
    if (folder != DATASET_KEPT)
        return leave_out(b, part, &sample, folder, err);
    if (image->verdict != DATASET_KEPT)
        return leave_out(b, part, &sample, image->verdict, err);
    if (!validation && dataset_hashes_has(&b->held_out, image->hash))
        return leave_out(b, part, &sample, DATASET_HELD_OUT, err);
    enum dataset_verdict verdict;
    struct dataset_row record = {.first_caption = b->header.caption_count,
                                 .split = validation ? DATASET_VALIDATION : DATASET_TRAIN};
    BL_TRY(add_captions(b, part, at, &sample, &verdict, &record.caption_count, err));
    if (verdict != DATASET_KEPT)
        return leave_out(b, part, &sample, verdict, err);
    bl_autofree char *location = NULL;
    BL_TRY(dataset_inputs_location(b->inputs, at, &location, err));
    BL_TRY(append_text(b, location, strlen(location), &record.location, err));
    record.size = image->stamp.size;
    record.mtime_ns = image->stamp.mtime_ns;
    memcpy(record.hash, image->hash, sizeof record.hash);
    b->header.sources[part->of].sample_verdicts[DATASET_KEPT]++;
    b->header.sources[part->of].sample_count++;
    b->header.sample_count++;
    return append(&b->rows, &record, sizeof record, err);
}

static void is_for_validation(const struct build *b, uint64_t row, bool *ret)
{
    const struct source_part *part = source_set_find(&b->inputs->set, &row);
    struct source_sample sample;
    *ret = part->validation;
    if (*ret || !b->header.sources[part->of].splits.at[SPLIT_VALIDATION])
        return;
    source_place(part->source, row, &sample);
    *ret = judge_folder(b, part, &sample, ret) == DATASET_KEPT && *ret;
}

static int collect_held_out(struct build *b, struct bl_error *err)
{
    for (uint64_t row = 0; row < b->inputs->count; row++) {
        bool validation;
        if (b->inputs->images[row].verdict != DATASET_KEPT)
            continue;
        is_for_validation(b, row, &validation);
        if (validation)
            BL_TRY(dataset_hashes_add(&b->held_out, b->inputs->images[row].hash, err));
    }
    dataset_hashes_sort(&b->held_out);
    return 0;
}

static int split(struct build *b, struct bl_error *err)
{
    struct dataset_row *rows = (void *)b->rows.data;
    BL_TRY(dataset_hold_out(b->config, &b->header, rows, err));
    uint32_t of = 0;
    uint64_t end = b->header.sources[0].sample_count;
    for (uint64_t i = 0; i < b->header.sample_count; i++) {
        while (i >= end)
            end += b->header.sources[++of].sample_count;
        b->header.sources[of].split_count[rows[i].split]++;
        b->header.split_count[rows[i].split]++;
        BL_TRY(append(&b->splits[rows[i].split], &i, sizeof i, err));
    }
    return 0;
}

/* -- writing ---------------------------------------------------------------------------------- */

static void digest_content(struct build *b)
{
    struct bl_sha256 hash;
    const struct dataset_row *rows = (const void *)b->rows.data;
    const struct dataset_text *captions = (const void *)b->captions.data;
    bl_sha256_begin(&hash);
    for (uint32_t of = 1; of < b->header.source_count; of++) /* of one source nothing */
        bl_sha256_add(&hash, &b->header.sources[of].sample_count, sizeof(uint64_t));
    for (uint64_t i = 0; i < b->header.sample_count; i++) {
        bl_sha256_add(&hash, rows[i].hash, sizeof rows[i].hash);
        bl_sha256_add(&hash, &rows[i].split, sizeof rows[i].split);
        bl_sha256_add(&hash, &rows[i].caption_count, sizeof rows[i].caption_count);
        for (uint64_t j = 0; j < rows[i].caption_count; j++) {
            const struct dataset_text *c = &captions[rows[i].first_caption + j];
            const char *prefix = b->config->data.captions.at[c->column].prefix;
            bl_sha256_add(&hash, prefix, strlen(prefix) + 1);
            if (!*b->config->data.captions.at[c->column].join)
                bl_sha256_add(&hash, "join", 4);
            bl_sha256_add(&hash, b->text.data + c->text, c->size + 1);
            if (c->trace_size)
                bl_sha256_add(&hash, b->text.data + c->trace, c->trace_size + 1);
            bl_sha256_add(&hash, &c->tokens,
                          sizeof c->tokens); /* another tokenizer shows in them */
        }
    }
    bl_sha256_end(&hash, b->header.fingerprint);
}

/* The index, in the memory of its last section, the text, which is most of it: of 10 million samples that is gigabytes, and a second copy would
 * be a third of all that is needed to make the index. The other sections go once they are in their place. */
static int join_sections(struct build *b, struct bl_bytes *ret, struct bl_error *err)
{
    struct bl_bytes lengths = {(char *)b->lengths, b->header.length_count * sizeof *b->lengths, 0};
    struct bl_bytes *const sections[] = {&b->rows,      &b->captions, &b->splits[0],
                                         &b->splits[1], &lengths,     &b->notes};
    enum { COUNT = sizeof sections / sizeof *sections };
    size_t at = sizeof b->header, before = at;
    for (size_t i = 0; i < COUNT; i++)
        before += sections[i]->size;
    char *all = realloc(b->text.data, before + b->text.size);
    if (!all)
        return fail_nomem(err);
    *ret = (struct bl_bytes){all, before + b->text.size, before + b->text.size};
    b->text.data = NULL; /* from here on it is ret's */
    b->lengths = NULL;   /* a section as the others */
    memmove(all + before, all, b->text.size);
    memcpy(all, &b->header, sizeof b->header);
    for (size_t i = 0; i < COUNT; i++) {
        if (sections[i]->size)
            memcpy(all + at, sections[i]->data, sections[i]->size);
        at += sections[i]->size;
        bl_bytes_release(sections[i]);
    }
    return 0;
}

static int assemble(struct build *b, struct bl_bytes *ret, struct bl_error *err)
{
    struct dataset_header *h = &b->header;
    memcpy(h->magic, DATASET_MAGIC, sizeof h->magic);
    h->version = DATASET_VERSION;
    h->header_bytes = sizeof *h;
    memcpy(h->made_from, b->inputs->digest, sizeof h->made_from);
    digest_content(b);
    while (b->text.size % 8)
        BL_TRY(append(&b->text, "", 1, err));
    h->text_bytes = b->text.size;
    BL_ASSERT(!ret->data);
    BL_TRY(join_sections(b, ret, err));
    struct dataset_header *written = (void *)ret->data;
    const char *covered = (const char *)written->made_from;
    bl_sha256(covered, (size_t)(ret->data + ret->size - covered), written->digest);
    return 0;
}

/* They are named as the source that has them names them. */
static int note_passed_in(struct build *b, const struct source *source, enum source_passed kind,
                          struct bl_error *err)
{
    const char *name;
    uint64_t at;
    b->header.passed[kind] += source_passed(source, kind);
    for (uint32_t i = 0; (name = source_passed_name(source, kind, i)); i++) {
        BL_TRY(append_text(b, name, strlen(name), &at, err));
        if (!b->header.passed_named[kind]++)
            b->header.passed_names[kind] = at;
    }
    return 0;
}

static int note_passed(struct build *b, struct bl_error *err)
{
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++)
        for (uint32_t i = 0; i < b->inputs->set.count; i++)
            BL_TRY(
                note_passed_in(b, b->inputs->set.parts[i].source, (enum source_passed)kind, err));
    return 0;
}

/* The rows from `first` on: their captions are judged together. */
static int add_rows(struct build *b, uint64_t first, struct bl_error *err)
{
    uint64_t end = first + ROWS_AT_ONCE;
    end = end < b->inputs->count ? end : b->inputs->count;
    dataset_judging_free(&b->judging);
    BL_TRY(
        dataset_judging_make(&b->config->data, b->rules, b->inputs, first, end, &b->judging, err));
    for (uint64_t row = first; row < end; row++)
        BL_TRY(add_sample(b, row, err));
    return 0;
}

static int build_all(struct build *b, dataset_progress *progress, void *ctx, struct bl_bytes *ret,
                     struct bl_error *err)
{
    BL_TRY(
        caption_rules_open(&b->config->data, b->inputs->tokenizer, b->inputs->eos, &b->rules, err));
    b->header.source_count = b->config->data.sources.count;
    for (uint32_t i = 0; i < b->inputs->set.count; i++) {
        const struct source_part *part = &b->inputs->set.parts[i];
        if (!part->validation)
            split_count(part->source, &b->header.sources[part->of].splits);
    }
    BL_TRY(collect_held_out(b, err));
    for (uint64_t first = 0; first < b->inputs->count; first += ROWS_AT_ONCE) {
        if (progress && !progress(ctx, DATASET_JUDGING, first, b->inputs->count))
            return bl_fail(err, BL_ESTOPPED, "stopped on request");
        BL_TRY(add_rows(b, first, err));
    }
    if (progress)
        progress(ctx, DATASET_JUDGING, b->inputs->count, b->inputs->count);
    BL_TRY(split(b, err));
    BL_TRY(note_passed(b, err));
    return assemble(b, ret, err);
}

static int hash_images(const struct config *config, struct dataset_inputs *inputs,
                       dataset_progress *progress, void *ctx, struct bl_error *err)
{
    char path[4096];
    bl_auto(hash_cache) struct hash_cache *cache = NULL;
    BL_TRY(bl_path_join(path, sizeof path, config->run_dir, "image-hashes", err));
    bl_folder_make(config->run_dir, NULL); /* where it cannot be made, hashes are not kept */
    BL_TRY(hash_cache_open(path, &cache, err));
    return dataset_inputs_hash(inputs, cache, (uint64_t)config->data.max_image_bytes, progress, ctx,
                               err);
}

int dataset_build(const struct config *config, struct dataset_inputs *inputs,
                  dataset_progress *progress, void *ctx, struct bl_bytes *ret, struct bl_error *err)
{
    BL_TRY(hash_images(config, inputs, progress, ctx, err));
    struct build b = {.config = config, .inputs = inputs};
    int rc = build_all(&b, progress, ctx, ret, err);
    caption_rules_free(&b.rules);
    dataset_judging_free(&b.judging);
    free(b.held_out.at);
    free(b.seen.at);
    free(b.lengths);
    struct bl_bytes *const sections[] = {&b.rows,      &b.captions, &b.splits[0],
                                         &b.splits[1], &b.notes,    &b.text};
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        bl_bytes_release(sections[i]);
    return rc;
}
