/* common/data/source_build.h - what the kinds of source fill. For source*.c alone. */
#pragma once

#include <stdbool.h>

#include "common/array.h"
#include "common/data/source.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/limits.h"

#define SOURCE_OTHERS_MAX 12 /* as many as a message can name */

struct source_row {
    size_t image, file; /* offsets of strings in text */
    uint64_t line;
    size_t first_candidate;
};

struct source_text {
    size_t text, size;
    uint32_t column;
};

/* The folder's files, found once for all kinds: paths below the folder, sorted by bytes. */
struct source_listing {
    const char *folder;
    char **paths;
    size_t count, capacity;
    struct source *source; /* counts what is passed over */
};

/* Fills a listing of which folder and source are set. source_listing_release in any case. */
int source_list(struct source_listing *listing, struct bl_error *err);
void source_listing_release(struct source_listing *listing);

/* How samples are read that stay where they are; all NULL: they are in memory. */
struct source_access {
    int (*get)(const struct source *source, uint64_t id, struct source_sample *ret,
               struct bl_error *err);
    void (*place)(const struct source *source, uint64_t id, struct source_sample *ret);
    int (*identify)(const struct source *source, uint64_t id, bool *ret_is_url, uint8_t ret[32],
                    struct bl_error *err);
    void (*candidate)(const struct source *source, uint64_t i, struct source_candidate *ret);
    int (*locate)(const struct source *source, uint64_t id, char **ret, struct bl_error *err);
    void (*free)(void *store);
};

struct source {
    char *folder, *cache;
    bool is_folder; /* else a file, or several by a pattern */
    struct source_access access;
    void *store; /* of access */
    struct bl_bytes text;
    struct source_row *rows;
    size_t row_count, row_capacity;
    struct source_text *candidates;
    size_t candidate_count, candidate_capacity;
    double *numbers; /* number_count of each row (source_numbers.c) */
    size_t number_count, numbers_filled, number_capacity;
    uint8_t fingerprint[32];
    struct {
        uint64_t count;
        uint32_t named;
        char *names[SOURCE_PASSED_NAMED]; /* the least, in order: folders are listed in none */
    } passed[SOURCE_PASSED_COUNT];

    /* While it is built. */
    const struct source_options *options;
    const char *const *columns;
    size_t column_count;
    bool *column_seen; /* has any line had it? */
    bool *number_seen;
    char others[SOURCE_OTHERS_MAX][64]; /* columns found that nobody asked for */
    size_t other_count;
};

/* A kind recognises its folder, and adds its samples to the source or says how they are read. */
struct source_kind {
    enum config_format format;
    const char *name;
    const char *files; /* what of it a folder holds */
    bool (*recognise)(const struct source_listing *listing);
    int (*read)(struct source *source, const struct source_listing *listing, struct bl_error *err);
};
extern const struct source_kind source_imagefolder, source_annotations, source_pairs,
    source_parquet, source_webdataset;

/* What every kind ends with: that there are samples and that each column asked for was found; the fingerprint of what is in memory. */
int source_finish(struct source *source, const char *kind, struct bl_error *err);
/* A sample; its candidates follow. The image's path is checked to stay below the folder. */
int source_add(struct source *source, const char *image, const char *file, uint64_t line,
               struct bl_error *err);
/* The same of an image in a container, whose name is no path. */
int source_add_contained(struct source *source, const char *image, const char *file,
                         struct bl_error *err);
/* A candidate of the sample added last. */
int source_add_caption(struct source *source, size_t column, const char *text, size_t size,
                       struct bl_error *err);
/* JSON as Python writes it, with NaN and numbers of any size. *ret is the caller's. */
int source_parse_json(const char *text, size_t size, json_t **ret, struct bl_error *err);
/* BL_EFORMAT: what was found under a key is of another JSON type than expected ("a text"). */
int source_fail_type(struct bl_error *err, const char *key, const char *expected,
                     const json_t *found);
/* The candidates under a column: a text, a list of texts, or null. */
int source_add_json_captions(struct source *source, size_t column, const json_t *value,
                             struct bl_error *err);
/* Adds the samples of a metadata.jsonl or metadata.csv at `path` below the folder. */
int source_read_metadata(struct source *source, const char *path, const void *data, size_t size,
                         struct bl_error *err);
/* Adds the samples of a tar shard from memory (fuzzing). */
int source_read_shard(struct source *source, const char *path, const void *data, size_t size,
                      struct bl_error *err);
/* Counts what is passed over. */
int source_pass_over(struct source *source, enum source_passed kind, const char *path,
                     struct bl_error *err);
/* Counts the text files of the same name beside the listing's images. */
int source_pass_over_pairs(struct source *source, const struct source_listing *listing,
                           struct bl_error *err);
/* That a file of text does not begin as UTF-16 does; that a path stays below the folder; that a text may be a caption. */
int source_check_encoding(const char *data, size_t size, struct bl_error *err);
int source_check_path(const char *path, struct bl_error *err);
int source_check_caption(const char *text, size_t size, struct bl_error *err);
/* -- columns of numbers (source_numbers.c). Index i is one of options->numbers. */

int source_numbers_open(struct source *source, struct bl_error *err);
void source_numbers_release(struct source *source);
void source_saw_number(struct source *source, size_t i);
/* That each column asked for was found. */
int source_check_numbers(const struct source *source, struct bl_error *err);
/* Of the sample added last. A JSON object's numbers and booleans; null is none. A CSV field; an empty one is none. */
int source_add_number(struct source *source, size_t i, double value, struct bl_error *err);
int source_add_json_numbers(struct source *source, const json_t *object, struct bl_error *err);
int source_add_text_number(struct source *source, size_t i, const char *text, struct bl_error *err);
/* Those of a sample, number_count; borrowed. */
const double *source_numbers(const struct source *source, uint64_t id);
void source_numbers_digest(const struct source *source, struct bl_sha256 *hash);

/* Remembers that a column was found. */
void source_saw_column(struct source *source, const char *name);
/* That each column asked for was found. */
int source_check_columns(const struct source *source, struct bl_error *err);

/* "FOLDER/FILE:LINE" as the error's file. Returns its code. */
int source_error_at(struct bl_error *err, const char *folder, const char *file, uint64_t line);
const char *source_basename(const char *path); /* the last part */
/* By a path's end, whatever its case. */
bool source_is_other_image(const char *path); /* of a type that is not read */
