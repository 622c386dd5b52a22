/* common/data/dataset_format.h - the bytes of dataset.index. For dataset*.c alone.
 *
 * Header, then sections in this order, each a multiple of 8 bytes, nothing between or behind:
 *   samples (sample_count), captions (caption_count), ids of train, ids of validation
 *   (split_count[], u64), lengths (length_count, u64), examples (example_count), text (text_bytes).
 * Little-endian. Texts are offsets into the last section and end with NUL. */
#pragma once

#include <stdint.h>

#include "common/array.h"
#include "common/data/dataset.h"
#include "common/data/hash_cache.h"
#include "common/data/source.h"
#include "common/limits.h"
#include "common/tokenizer/tokenizer.h"

#define DATASET_MAGIC "BLINDEX"
#define DATASET_VERSION 5

/* Of one source: its samples follow those of the source before it. */
struct dataset_of {
    uint64_t sample_count, split_count[DATASET_SPLIT_COUNT];
    uint64_t sample_verdicts[DATASET_VERDICT_COUNT];
    struct split_counts splits;
};
struct dataset_header {
    char magic[8];
    uint32_t version, header_bytes;
    uint8_t digest[32];    /* SHA-256 of all bytes behind this field */
    uint8_t made_from[32]; /* what dataset_prepare compares */
    uint8_t fingerprint[32];
    uint64_t sample_count, caption_count, split_count[DATASET_SPLIT_COUNT];
    uint64_t length_count, example_count, text_bytes;
    uint64_t caption_verdicts[CAPTION_VERDICT_COUNT];
    uint64_t rules[DATASET_RULES_COUNT]
                  [BL_CONFIG_LIST_MAX]; /* captions that each rule had an effect on */
    uint64_t source_count;
    struct dataset_of sources[BL_SOURCES_MAX];
    /* what was passed over: how many; the names of some, one text after the other */
    uint64_t passed[SOURCE_PASSED_COUNT], passed_named[SOURCE_PASSED_COUNT],
        passed_names[SOURCE_PASSED_COUNT];
};
struct dataset_row {
    uint64_t location, first_caption;
    uint64_t size; /* the image's stamp when it was hashed */
    int64_t mtime_ns;
    uint8_t hash[32]; /* SHA-256 of its bytes */
    uint32_t caption_count, split;
};
struct dataset_text {
    uint64_t text, trace; /* trace_size 0: none */
    uint32_t size, trace_size, column, tokens;
};
struct dataset_note {
    uint64_t text;
    uint64_t location; /* of the image, where there is one; else the offset of an empty text */
    uint16_t is_caption, source;
    uint32_t verdict;
    uint32_t rule, zero; /* FILTERS_NONE: none */
};
_Static_assert(sizeof(struct dataset_header) % 8 == 0 && sizeof(struct dataset_row) == 72 &&
                   sizeof(struct dataset_text) == 32 && sizeof(struct dataset_note) == 32,
               "the format has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the index is read in place");

/* An index in memory. */
struct dataset {
    struct bl_bytes bytes; /* read or made; empty: borrowed */
    const struct dataset_header *header;
    const struct dataset_row *rows;
    const struct dataset_text *captions;
    const uint64_t *ids[DATASET_SPLIT_COUNT];
    const uint64_t *lengths;
    const struct dataset_note *notes;
    const char *text;
};

/* Checks the bytes, which the dataset then points into (dataset_check.c). */
int dataset_check(struct dataset *d, const void *data, size_t size, struct bl_error *err);
/* The first sample or caption with a verdict, of source `source`, or of any for -1; borrowed. */
const char *dataset_first(const struct dataset *d, int64_t source, bool is_caption,
                          uint32_t verdict);

/* -- what an index is made from (dataset_inputs.c) */

struct dataset_image {
    uint8_t hash[32];
    struct bl_stamp stamp;
    enum dataset_verdict verdict; /* KEPT: it is there */
    bool is_url;                  /* hash is of its URL, and it need not be there */
};

/* Rows are those of the set. */
struct dataset_inputs {
    struct source_set set;
    uint64_t count;
    struct dataset_image *images; /* of each row */
    int32_t eos;
    struct tokenizer *tokenizer;
    uint8_t digest[32]; /* of all this, the images by size and time */
};

int dataset_inputs_open(const struct config *config, dataset_progress *progress, void *ctx,
                        struct dataset_inputs **ret, struct bl_error *err);
void dataset_inputs_free(struct dataset_inputs **inputs);
/* Location of a row's image, as a text that is the caller's; NULL: the row names none. */
int dataset_inputs_location(const struct dataset_inputs *inputs, uint64_t row, char **ret,
                            struct bl_error *err);
/* Hashes all images but those of URLs. The cache finds and keeps hashes. */
int dataset_inputs_hash(struct dataset_inputs *inputs, const struct hash_cache *cache,
                        uint64_t bytes_max, dataset_progress *progress, void *ctx,
                        struct bl_error *err);

/* -- what the rules say of captions (dataset_judging.c) */

struct dataset_judging;

/* A caption that the rules look at. */
struct dataset_judgement {
    size_t text, size; /* as found */
    size_t trace, trace_size;
    char *stripped; /* without an opening that data.strip took off, or NULL */
    size_t stripped_size;
    uint32_t column, tokens;
    uint32_t strip, rule; /* data.strip's pattern; the verdict's rule; FILTERS_NONE: none */
    enum caption_verdict verdict;
    bool failed; /* to be judged */
    uint8_t key
        [16]; /* under data.deduplicate: all, of the prefix and the caption as filters_normalize gives it */
};

/* Judges the captions of rows [first, end) whose images are there. *ret is the caller's. */
int dataset_judging_make(const struct config_data *config, const struct caption_rules *rules,
                         const struct dataset_inputs *inputs, uint64_t first, uint64_t end,
                         struct dataset_judging **ret, struct bl_error *err);
void dataset_judging_free(struct dataset_judging **judging);
/* Those of a row, in the order of its candidates: how many. Borrowed. */
size_t dataset_judgements(const struct dataset_judging *judging, uint64_t row,
                          const struct dataset_judgement **ret);
/* The caption of one, borrowed; or the error that judging it ended with. */
int dataset_judged_caption(const struct dataset_judging *judging,
                           const struct dataset_judgement *judgement, struct caption_text *ret,
                           struct bl_error *err);
/* The same as it was found, for people. */
void dataset_found_caption(const struct dataset_judging *judging,
                           const struct dataset_judgement *judgement, struct caption_text *ret);

/* -- images that are held out for validation (dataset_hold_out.c) */

/* Their hashes. Zero-initialise; free(at). */
struct dataset_hashes {
    uint8_t (*at)[32];
    size_t count, capacity;
};
int dataset_hashes_add(struct dataset_hashes *hashes, const uint8_t hash[32], struct bl_error *err);
void dataset_hashes_sort(struct dataset_hashes *hashes);
bool dataset_hashes_has(const struct dataset_hashes *sorted, const uint8_t hash[32]);
/* Sets the split of the samples that each source's data.validation holds out; the same image has one split in all sources. */
int dataset_hold_out(const struct config *config, const struct dataset_header *header,
                     struct dataset_row *rows, struct bl_error *err);

/* -- the index (dataset_build.c) */

/* Hashes images, then appends a whole index to ret. */
int dataset_build(const struct config *config, struct dataset_inputs *inputs,
                  dataset_progress *progress, void *ctx, struct bl_bytes *ret,
                  struct bl_error *err);
