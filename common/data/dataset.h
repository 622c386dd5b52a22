/* common/data/dataset.h - RUN_DIR/dataset.index: what a run trains and validates on. The coordinator
 * makes it once; loaders and workers read it. A sample is an image with at least one caption that the rules
 * keep; ids count from 0.
 *
 * Split: of each source by its folders train, validation and test where there are such (split.h); else by the SHA-256 of the
 * image's bytes, keyed by the seed. No image is in both parts, also under two names, also where two sources have it: what one
 * holds out, none trains. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/data/captions.h"
#include "common/config/config.h"
#include "common/data/location.h"
#include "common/data/source.h"
#include "common/data/split.h"
#include "common/error.h"

struct dataset;

enum dataset_split { DATASET_TRAIN, DATASET_VALIDATION, DATASET_SPLIT_COUNT };

/* Why a sample is left out: name, words. */
#define DATASET_VERDICTS(X)                                                                        \
    X(KEPT, "kept")                                                                                \
    X(NO_IMAGE, "the image file is missing or cannot be read")                                     \
    X(TOO_LARGE, "the image file is larger than data.max_image_bytes")                             \
    X(NO_CAPTION, "it has no caption")                                                             \
    X(UNFIT, "its captions are empty, too long or merge with the prefix")                          \
    X(NOTHING_KEPT, "the rules keep none of its captions")                                         \
    X(HELD_OUT, "its image is in the validation set")                                              \
    X(SET_ASIDE, "it is in a folder of a split that is not used (test, or validation beside "      \
                 "data.validation_source)")                                                        \
    X(NO_SPLIT, "it is in none of the folders train, validation and test, which others are in")

enum dataset_verdict {
#define X(name, words) DATASET_##name,
    DATASET_VERDICTS(X)
#undef X
        DATASET_VERDICT_COUNT
};
const char *dataset_verdict_words(enum dataset_verdict verdict);

/* Lists of rules whose effects are counted one by one: name, key. */
#define DATASET_RULES(X)                                                                           \
    X(STRIP, "data.strip")                                                                         \
    X(KEEP, "data.keep")                                                                           \
    X(DROP, "data.drop")                                                                           \
    X(FILTERS, "data.filters")

enum dataset_rules {
#define X(name, key) DATASET_RULES_##name,
    DATASET_RULES(X)
#undef X
        DATASET_RULES_COUNT
};
const char *dataset_rules_key(enum dataset_rules list);
/* The list that a verdict is of, or DATASET_RULES_COUNT. */
enum dataset_rules dataset_rules_of(enum caption_verdict verdict);

struct dataset_sample {
    struct location location; /* borrowed from the dataset */
    struct bl_stamp stamp;    /* what the image had when it was hashed */
    const uint8_t *hash;      /* SHA-256 of the image's bytes, 32 bytes */
    enum dataset_split split;
    uint32_t caption_count; /* at least 1 */
};
struct dataset_caption {
    const char *text; /* without white space at both ends; NUL-terminated */
    size_t size;
    uint32_t column;   /* index into data.captions */
    uint32_t tokens;   /* prefix, trace, caption and EOS */
    const char *trace; /* NUL-terminated; of no bytes: none */
    size_t trace_size;
    uint64_t row; /* among the captions of all samples */
};
/* As the caption rules take it. Borrowed from the dataset. */
struct caption_text dataset_caption_text(const struct dataset_caption *caption);

/* What takes time in the making of an index, and then in its check: name, words. */
#define DATASET_PHASES(X)                                                                          \
    X(LOOKING, "looking at images")                                                                \
    X(HASHING, "hashing images")                                                                   \
    X(JUDGING, "tokenizing captions")                                                              \
    X(DECODING, "decoding images")

enum dataset_phase {
#define X(name, words) DATASET_##name,
    DATASET_PHASES(X)
#undef X
};
const char *dataset_phase_words(enum dataset_phase phase);

/* Says how far a phase is, on the caller's thread, some times a second; false stops it with -BL_ESTOPPED. */
typedef bool dataset_progress(void *ctx, enum dataset_phase phase, uint64_t done, uint64_t total);

/* The run's dataset: RUN_DIR/dataset.index, if it was made from the same keys, sources, images
 * (size and time) and tokenizer, else a new one is made and written there, whole or not at all. It
 * takes about 50 microseconds a caption and 3 ms a megabyte of images on each core; hashes are kept
 * in RUN_DIR/image-hashes (hash_cache.h), so that interrupted hashing continues. progress may be
 * NULL. *ret is the caller's (dataset_free), *ret_reused may be NULL. -BL_EDATA: see dataset_judge.
 * -BL_EIO: an image could not be read for a passing fault of this host, which is no reason to continue
 * without it. */
int dataset_prepare(const struct config *config, dataset_progress *progress, void *ctx,
                    struct dataset **ret, bool *ret_reused, struct bl_error *err);
/* The same, but no index is written and nothing is judged: for tools that only look. Images' hashes are
 * kept. */
int dataset_view(const struct config *config, dataset_progress *progress, void *ctx,
                 struct dataset **ret, struct bl_error *err);

/* Whether a run can train on each source. -BL_EDATA: nothing is left to train on, or drawn from it; or more than data.max_bad_fraction of the samples are
 * lost, which is: left out though nobody asked for it (no image, no caption, captions that do not fit). What
 * data.keep, drop, min_tokens and deduplicate leave out is asked for. The largest loss and its first sample are named. */
int dataset_judge(const struct config *config, const struct dataset *dataset, struct bl_error *err);

/* Reads an index that exists; every offset and the checksum are checked. It is in memory from then on, not mapped: on a
 * shared folder the file may be cut or lost meanwhile. */
int dataset_open(const char *path, struct dataset **ret, struct bl_error *err);
/* From memory (fuzzing, tests): data must outlive the result. */
int dataset_parse(const void *data, size_t size, const char *name, struct dataset **ret,
                  struct bl_error *err);
/* NULL is fine; sets *dataset to NULL. */
void dataset_free(struct dataset **dataset);

/* Of a split: how many samples, and the id of the i-th. */
uint64_t dataset_count(const struct dataset *dataset, enum dataset_split split);
uint64_t dataset_id(const struct dataset *dataset, enum dataset_split split, uint64_t i);

/* The sources, in the order of data.sources: at least one. Ids, and those of each split, run through the first source's samples,
 * then the second's. */
uint32_t dataset_source_count(const struct dataset *dataset);
uint64_t dataset_source_samples(const struct dataset *dataset, uint32_t source,
                                enum dataset_split split);
/* Which source a sample is of. */
uint32_t dataset_source_of(const struct dataset *dataset, uint64_t id);
/* Draws of an epoch from a source: its weight times its training samples, rounded; and from all. */
uint64_t dataset_draws(const struct config *config, const struct dataset *dataset, uint32_t source);
uint64_t dataset_epoch(const struct config *config, const struct dataset *dataset);

/* Ids run over both splits. Texts are borrowed from the dataset. */
uint64_t dataset_samples(const struct dataset *dataset);
uint64_t dataset_captions(const struct dataset *dataset);
void dataset_sample(const struct dataset *dataset, uint64_t id, struct dataset_sample *ret);
void dataset_caption(const struct dataset *dataset, uint64_t id, uint32_t i,
                     struct dataset_caption *ret);

/* The caption a sample trains in an epoch (caption_choose), or validates with. */
void dataset_choose(const struct dataset *dataset, uint64_t id, uint64_t seed, uint64_t epoch,
                    struct dataset_caption *ret);

/* SHA-256 over images' hashes, splits, prefixes and captions: equal wherever the folder lies. 32
 * bytes. */
const uint8_t *dataset_fingerprint(const struct dataset *dataset);

/* What was looked at and what became of it, of all sources or of one. Captions: those of the samples with an image, under the
 * columns that data.caption_choice looks at. */
uint64_t dataset_sample_verdicts(const struct dataset *dataset, enum dataset_verdict verdict);
uint64_t dataset_source_verdicts(const struct dataset *dataset, uint32_t source,
                                 enum dataset_verdict verdict);
uint64_t dataset_caption_verdicts(const struct dataset *dataset, enum caption_verdict verdict);
/* "data.drop[1] watermark", "data.filters[0] gain from 0.2", for people; false: there is no such rule. */
bool dataset_rule_text(const struct config *config, enum dataset_rules list, uint32_t i, char *ret,
                       size_t size);
/* Captions that rule i of a list dropped, or (STRIP) took an opening off. */
uint64_t dataset_rule_count(const struct dataset *dataset, enum dataset_rules list, uint32_t i);
/* "23 of 100 captions begin with an opening that is taken off (data.strip); the first is …", for people. False: none does. */
bool dataset_stripped_text(const struct dataset *dataset, char *ret, size_t size);
/* "97 of 100 captions are dropped: too long (data.max_tokens); the first is metadata.jsonl:3: a.jpg: …", for people; *ret_share:
 * of all captions that were looked at. False where none was dropped for that reason. */
bool dataset_dropped_text(const struct dataset *dataset, enum caption_verdict verdict, char *ret,
                          size_t size, double *ret_share);
/* Which folders of a source decide its split, for people; false where none does. */
bool dataset_split_text(const struct dataset *dataset, uint32_t source, char *ret, size_t size);
/* What lay in the sources and was passed over: how many, and the i-th of those that are named (SOURCE_PASSED_NAMED of each source
 * at most), its path below its source. Borrowed; NULL: there are no more. */
uint64_t dataset_passed(const struct dataset *dataset, enum source_passed kind);
const char *dataset_passed_name(const struct dataset *dataset, enum source_passed kind, uint32_t i);
/* Number of kept captions with this many tokens (prefix, caption, EOS), at most dataset_longest. */
uint64_t dataset_length(const struct dataset *dataset, uint32_t tokens);
uint32_t dataset_longest(const struct dataset *dataset);
/* Their mean, rounded up; at least 1. */
uint32_t dataset_mean_length(const struct dataset *dataset);

/* Samples and captions left out, the first few of each verdict and rule: "metadata.jsonl:3: a.jpg: …"; and captions that lost an
 * opening: "…: The image shows a dog → A dog". */
struct dataset_example {
    bool is_caption;
    uint32_t verdict; /* CAPTION_KEPT: an opening was taken off */
    uint32_t rule;    /* index in the verdict's list (STRIP of CAPTION_KEPT), or FILTERS_NONE */
    const char *text;
    bool has_image; /* location is where it is; borrowed */
    struct location location;
};
uint32_t dataset_example_count(const struct dataset *dataset);
void dataset_example(const struct dataset *dataset, uint32_t i, struct dataset_example *ret);
