/* common/data/source.h - where samples come from: a count, a fingerprint, and from a sample's id its image's location and
 * its caption candidates. The kinds are one table in source_open.c; each is one file, source_KIND.c. Samples of folders are in memory,
 * those of Parquet files are read when asked for. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config/config.h"
#include "common/data/location.h"
#include "common/error.h"
#include "common/limits.h"

struct source;

struct source_candidate {
    const char *text; /* as found: UTF-8, not stripped, perhaps empty, perhaps not terminated */
    size_t size;
    uint32_t column; /* index into the columns asked for */
};

/* What lies in the folder and deserves a line, most of it passed over: name, words behind the count. */
#define SOURCE_PASSED(X)                                                                           \
    X(OTHER_TYPES, "passed over: image files of a type that is not read")                          \
    X(LONE_TEXTS, "passed over: text files without an image of the same name")                     \
    X(UNUSED_TEXTS,                                                                                \
      "passed over: text files beside images, since captions come from a metadata file")           \
    X(DEAD_LINKS, "passed over: links that lead nowhere, or back to a folder they are in")         \
    X(PRINTED_LISTS,                                                                               \
      "captions look like a printed Python list and are taken as one text each: write a list in "  \
      "metadata.jsonl, or name another column in data.captions")                                   \
    X(TORN_SHARDS, "tar shards that are cut off or damaged: what is whole before that is used")    \
    X(REPEATED_KEYS, "keys that occur again in their tar shard: each time they begin a sample")    \
    X(BAD_TEXTS, "captions in tar shards that cannot be read: passed over")                        \
    X(ABSENT_BYTES, "links and sparse files in tar shards: passed over")

enum source_passed {
#define X(name, words) SOURCE_##name,
    SOURCE_PASSED(X)
#undef X
        SOURCE_PASSED_COUNT
};
enum { SOURCE_PASSED_NAMED = 20 };
const char *source_passed_words(enum source_passed kind);

struct source_sample {
    const char *
        image; /* its name: a path below the source's folder, a URL, or what it is called in its container */
    uint64_t candidate_count;
    const char *file; /* path below the folder of the file that named the sample, and the line */
    uint64_t line;    /* or row, from 1; 0: the whole file */
    const double *numbers; /* of source_options.numbers; NAN: the sample has none there */
};

struct source_options {
    const char *path; /* a folder, a Parquet file or tar shard, or a pattern of such files */
    enum config_format format;
    const char *const *columns; /* of captions, in order of preference; while it is opened */
    size_t column_count;
    const char *const *numbers; /* columns of numbers; while it is opened */
    size_t number_count;
    const char *image_column; /* of Parquet and tar; NULL: the usual names */
    const char *cache; /* folder of what URLs are cached in; NULL: no location of it is asked for */
};

/* Reads the folder's metadata, or the footers of Parquet files (not the images). A sample's candidates are in the order of the
 * columns. A path that leaves the folder, a line that cannot be read and a column that
 * no line has are errors with file and line. *ret is the caller's (source_free). */
int source_open(const struct source_options *options, struct source **ret, struct bl_error *err);
/* All that a run reads: the parts of data.sources in their order, each followed by its validation_source if it has one. A row
 * of the set counts over all parts. Zero-initialise. */
struct source_part {
    struct source *source;
    uint32_t of;     /* index in data.sources */
    bool validation; /* it is the validation_source of that */
};
struct source_set {
    struct source_part parts[2 * BL_SOURCES_MAX];
    uint32_t count;
};
/* source_set_release in any case. */
int source_set_open(const struct config_data *data, struct source_set *ret, struct bl_error *err);
void source_set_release(struct source_set *set);
uint64_t source_set_rows(const struct source_set *set);
/* The part of a row; *row becomes the row inside it. */
const struct source_part *source_set_find(const struct source_set *set, uint64_t *row);
/* From the bytes of one metadata.jsonl, metadata.csv or tar shard (fuzzing, tests). */
int source_parse(const char *name, const void *data, size_t size, const char *const *columns,
                 size_t column_count, struct source **ret, struct bl_error *err);
void source_free(struct source **source);

uint64_t source_count(const struct source *source);
const char *source_folder(const struct source *source);
/* The sample and its candidates are borrowed until the next call, which is for one thread at a time. Errors are of Parquet files:
 * damage, and texts that are no caption, with file and row. */
int source_get(const struct source *source, uint64_t id, struct source_sample *ret,
               struct bl_error *err);
/* Whether the source was opened as a folder, so that names in it may tell splits: split.h. */
bool source_in_folders(const struct source *source);
/* Where the sample was found, and of those in memory what source_get gives; of Parquet nothing is read. */
void source_place(const struct source *source, uint64_t id, struct source_sample *ret);
/* Whether the sample's image is at a URL, and the SHA-256 of that (common/data/url.h). For any thread. */
int source_identify(const struct source *source, uint64_t id, bool *ret_is_url, uint8_t ret[32],
                    struct bl_error *err);
/* Where the image's bytes are, as location_parse reads it: *ret is the caller's (free). There need be nothing. NULL: the sample
 * names no image. For any thread. */
int source_locate(const struct source *source, uint64_t id, char **ret, struct bl_error *err);
/* Candidate i of the sample that source_get gave last. */
void source_candidate(const struct source *source, uint64_t id, uint64_t i,
                      struct source_candidate *ret);
/* Names where the sample was found, "FOLDER/metadata.jsonl:3", as the error's file. Returns its code. */
int source_where(const struct source *source, const struct source_sample *sample,
                 struct bl_error *err);
/* How many were passed over, and the i-th of the first SOURCE_PASSED_NAMED: its path below the folder. Borrowed; NULL: there are
 * no more. */
uint64_t source_passed(const struct source *source, enum source_passed kind);
const char *source_passed_name(const struct source *source, enum source_passed kind, uint32_t i);
/* SHA-256 over kind, image names, columns and captions, of Parquet over the files' names, sizes and times; not over the images'
 * content. 32 bytes. */
const uint8_t *source_fingerprint(const struct source *source);

/* Whether a path's end (".jpg") is of an image that is read, of a Parquet file, or of a tar archive, whatever its case. */
bool source_is_image(const char *path);
bool source_is_parquet(const char *path);
bool source_is_tar(const char *path);
