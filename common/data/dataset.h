/* common/data/dataset.h - RUN_DIR/dataset.index: what a run trains and validates on. The coordinator
 * makes it once; loaders map it. A sample is an image with at least one caption that the rules
 * keep; ids count from 0.
 *
 * Split: by the SHA-256 of the image's bytes, keyed by the seed, so that no image is in both parts, also
 * under two names. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/data/captions.h"
#include "common/config/config.h"
#include "common/data/location.h"
#include "common/error.h"

struct dataset;

enum dataset_split { DATASET_TRAIN, DATASET_VALIDATION, DATASET_SPLIT_COUNT };

/* Why a sample is left out: name, words. */
#define DATASET_VERDICTS(X)                                                                        \
    X(KEPT, "kept")                                                                                \
    X(NO_IMAGE, "the image file is missing or cannot be read")                                     \
    X(NO_CAPTION, "it has no caption")                                                             \
    X(NOTHING_KEPT, "the rules keep none of its captions")                                         \
    X(HELD_OUT, "its image is in data.validation_source")

enum dataset_verdict {
#define X(name, words) DATASET_##name,
    DATASET_VERDICTS(X)
#undef X
        DATASET_VERDICT_COUNT
};
const char *dataset_verdict_words(enum dataset_verdict verdict);

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
    uint32_t column; /* index into data.captions */
    uint32_t tokens; /* prefix, caption and EOS */
};

/* Says how far the hashing of images is; false stops it with -BL_ESTOPPED. */
typedef bool dataset_progress(void *ctx, uint64_t done, uint64_t total);

/* The run's dataset: RUN_DIR/dataset.index, if it was made from the same keys, sources, images
 * (size and time) and tokenizer, else a new one is made and written there, whole or not at all. It
 * takes about 50 microseconds a caption and 3 ms a megabyte of images. progress may be NULL. *ret
 * is the caller's (dataset_free), *ret_reused may be NULL. -BL_EDATA: nothing is left to train, or
 * more than data.max_bad_fraction of the images are missing; the first one is named. */
int dataset_prepare(const struct config *config, dataset_progress *progress, void *ctx,
                    struct dataset **ret, bool *ret_reused, struct bl_error *err);
/* The same, but nothing is written and nothing is judged: for tools that only look. */
int dataset_view(const struct config *config, dataset_progress *progress, void *ctx,
                 struct dataset **ret, struct bl_error *err);

/* Whether a run can train on it: the two -BL_EDATA of dataset_prepare. */
int dataset_judge(const struct config *config, const struct dataset *dataset, struct bl_error *err);

/* Maps an index that exists; every offset and the checksum are checked. */
int dataset_open(const char *path, struct dataset **ret, struct bl_error *err);
/* From memory (fuzzing, tests): data must outlive the result. */
int dataset_parse(const void *data, size_t size, const char *name, struct dataset **ret,
                  struct bl_error *err);
/* NULL is fine; sets *dataset to NULL. */
void dataset_free(struct dataset **dataset);

/* Of a split: how many samples, and the id of the i-th. */
uint64_t dataset_count(const struct dataset *dataset, enum dataset_split split);
uint64_t dataset_id(const struct dataset *dataset, enum dataset_split split, uint64_t i);

/* Ids run over both splits. Texts are borrowed from the dataset. */
uint64_t dataset_samples(const struct dataset *dataset);
void dataset_sample(const struct dataset *dataset, uint64_t id, struct dataset_sample *ret);
void dataset_caption(const struct dataset *dataset, uint64_t id, uint32_t i,
                     struct dataset_caption *ret);

/* The caption a sample trains in an epoch (caption_choose), or validates with. */
void dataset_choose(const struct dataset *dataset, uint64_t id, uint64_t seed, uint64_t epoch,
                    struct dataset_caption *ret);

/* SHA-256 over images' hashes, splits, prefixes and captions: equal wherever the folder lies. 32
 * bytes. */
const uint8_t *dataset_fingerprint(const struct dataset *dataset);

/* What was looked at and what became of it. Captions: those of the samples with an image, under the
 * columns that data.caption_choice looks at. */
uint64_t dataset_sample_verdicts(const struct dataset *dataset, enum dataset_verdict verdict);
uint64_t dataset_caption_verdicts(const struct dataset *dataset, enum caption_verdict verdict);
/* Number of kept captions with this many tokens (prefix, caption, EOS), at most dataset_longest. */
uint64_t dataset_length(const struct dataset *dataset, uint32_t tokens);
uint32_t dataset_longest(const struct dataset *dataset);

/* Samples and captions left out, the first few of each verdict: "metadata.jsonl:3: a.jpg: …". */
struct dataset_example {
    bool is_caption;
    uint32_t verdict;
    const char *text;
};
uint32_t dataset_example_count(const struct dataset *dataset);
void dataset_example(const struct dataset *dataset, uint32_t i, struct dataset_example *ret);
