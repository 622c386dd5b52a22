/* common/arrow/arrow.h - Arrow IPC files (arrow.apache.org/docs/format/Columnar.html, "IPC File Format"): written whole or not
 * at all, mapped and read in place. Columns without nulls of the types below; what else a file may hold (nulls,
 * compression, dictionaries, other types) is refused by name.
 *
 * Layout    a row of a column is one element, or dims[0] x dims[1] elements in row-major order (a fixed_size_list of
 *           fixed_size_lists), or a list of any number of elements, or a text. Columns are split into batches of rows.
 * Checksum  ours is the SHA-256 of all bytes before the footer, in the footer's metadata: arrow_verify. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* name, bytes of an element, what the format's documents call it */
#define ARROW_TYPES(X)                                                                             \
    X(I8, 1, "int8")                                                                               \
    X(U16, 2, "uint16")                                                                            \
    X(I32, 4, "int32")                                                                             \
    X(F16, 2, "halffloat")                                                                         \
    X(F32, 4, "float")                                                                             \
    X(UTF8, 1, "string")
enum arrow_type {
#define X(name, bytes, words) ARROW_##name,
    ARROW_TYPES(X)
#undef X
        ARROW_TYPE_COUNT
};
size_t arrow_type_bytes(enum arrow_type type);

#define ARROW_COLUMNS_MAX 16
#define ARROW_NAME_MAX 64 /* with its NUL */

struct arrow_column {
    char name[ARROW_NAME_MAX];
    enum arrow_type type;
    int rank;        /* of a row: 0, 1 or 2; UTF8: 0 */
    int32_t dims[2]; /* >= 1 */
    bool list;       /* any number of elements; then rank is 0. Not of UTF8 */
};
/* Elements of a row; 1 of a list or text. */
int64_t arrow_row_elements(const struct arrow_column *column);
bool arrow_column_equal(const struct arrow_column *a, const struct arrow_column *b);
/* "fixed_size_list<fixed_size_list<halffloat>[768]>[196]" */
void arrow_column_words(const struct arrow_column *column, char *ret, size_t size);

/* A column's values in a batch. */
struct arrow_values {
    const void *data; /* elements, little-endian, aligned to their size; bytes of texts */
    const int32_t *
        offsets; /* (rows + 1) of lists and texts: row i is [offsets[i], offsets[i + 1]); else NULL */
};

/* -- writing -- */

struct arrow_writer;

/* metadata: key, value, key, value, …, NULL; or NULL. *ret is the caller's. */
int arrow_writer_open(const char *path, const struct arrow_column *columns, int count,
                      const char *const *metadata, struct arrow_writer **ret, struct bl_error *err);
/* values: one of each column; offsets begin with 0. */
int arrow_writer_batch(struct arrow_writer *writer, int64_t rows, const struct arrow_values *values,
                       struct bl_error *err);
/* The file is complete and on disk. */
int arrow_writer_commit(struct arrow_writer *writer, struct bl_error *err);
/* Without a commit nothing is left. NULL is fine; sets *writer to NULL. */
void arrow_writer_free(struct arrow_writer **writer);

/* -- reading -- */

struct arrow;

/* Maps the file and checks everything but the values. *ret is the caller's. -BL_EFORMAT names the file and what does not
 * fit. */
int arrow_open(const char *path, struct arrow **ret, struct bl_error *err);
/* From memory, aligned to 8 bytes, which must outlive the result. */
int arrow_parse(const void *data, size_t size, const char *name, struct arrow **ret,
                struct bl_error *err);
/* NULL is fine; sets *arrow to NULL. */
void arrow_free(struct arrow **arrow);

int arrow_column_count(const struct arrow *arrow);
const struct arrow_column *arrow_column_at(const struct arrow *arrow, int i);
/* -1: there is none of that name. */
int arrow_column_find(const struct arrow *arrow, const char *name);
/* A value of the schema's metadata, borrowed; NULL: there is none. */
const char *arrow_metadata(const struct arrow *arrow, const char *key);

int arrow_batch_count(const struct arrow *arrow);
int64_t arrow_batch_rows(const struct arrow *arrow, int batch);
/* Borrowed from the file. Offsets lie within the data and grow. */
struct arrow_values arrow_batch_values(const struct arrow *arrow, int batch, int column);

/* Reads the whole file and compares its checksum; a file without one (not written by us) passes. */
int arrow_verify(const struct arrow *arrow, struct bl_error *err);
