/* common/parquet/parquet.h - reading Apache Parquet files: strings, binary, integers and reals, flat, in structs, or in one list.
 *
 * Table     one file, or the files of a folder or pattern one after the other, of which a reader needs the same column in each.
 * File      never read whole; immutable once open, so any number of threads may have readers of it. Not mapped: one that is
 *           shortened meanwhile is an error (-BL_EDATA), no signal.
 * Column    a leaf of the schema, named by its path without the names that only lists need: "caption", "image.bytes", "captions"
 *           for list<string>, "turns.text" for list<struct<text>>. A column of another type or of lists in lists is listed with
 *           the reason why it is not read; the rest of the file is.
 * Reader    one column, for one thread; keeps decoded pages up to a limit of bytes. A row is found through the file's OffsetIndex,
 *           or else through the page headers of its row group, once.
 * Errors    -BL_EFORMAT and the like with file, row group, column and page. Checksums of pages are compared where there are any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct parquet;
struct parquet_table;
struct parquet_reader;

enum parquet_kind { PARQUET_BYTES, PARQUET_INTEGER, PARQUET_REAL };

/* Borrowed from the file. */
struct parquet_column {
    char *path;
    char type[64];          /* physical and logical, as "BYTE_ARRAY STRING" */
    const char *unreadable; /* why it cannot be read, or NULL */
    enum parquet_kind kind; /* of its values; booleans are integers 0 and 1 */
    bool list;              /* each row is a list of values */
    bool is_unsigned;       /* integers: INT32 is widened without its sign; INT64 keeps its bits */
    int physical_type;      /* the format's Type */
    int definition_max;     /* level of a value that is not null */
    int repetition_max;     /* 1: list */
    int list_definition; /* level from which on a list has an element; one less is an empty list */
};

/* A value is null if an optional node above it is. bytes are borrowed, and not terminated. */
struct parquet_value {
    union {
        const uint8_t *bytes;
        int64_t integer;
        double real;
    };
    uint32_t size; /* of bytes; 0 for other kinds */
    bool null;
};

/* Consecutive rows. Of a flat column row i is values[i]. Of a list it is values[starts[i]] up to, without, values[starts[i + 1]];
 * null_lists[i] tells a null list from an empty one. */
struct parquet_rows {
    const struct parquet *file; /* whose rows they are */
    int64_t first_row, row_count;
    const struct parquet_value *values;
    const uint32_t *starts; /* row_count + 1; NULL of a flat column */
    const bool *null_lists; /* row_count; NULL of a flat column */
};

/* Opens the file and reads its footer. Encrypted files are refused. *ret is the caller's (parquet_free). */
int parquet_open(const char *path, struct parquet **ret, struct bl_error *err);
/* From memory (fuzzing, tests): `data` must outlive the result. */
int parquet_parse(const void *data, size_t size, const char *name, struct parquet **ret,
                  struct bl_error *err);
void parquet_free(struct parquet **file);

/* The path it was opened by, or parquet_parse's name. */
const char *parquet_name(const struct parquet *file);
int64_t parquet_row_count(const struct parquet *file);
size_t parquet_row_group_count(const struct parquet *file);
size_t parquet_column_count(const struct parquet *file);
const struct parquet_column *parquet_column_at(const struct parquet *file, size_t i);
/* The readable column of that path, borrowed. Absent, unreadable and ambiguous ones are errors. */
int parquet_column_find(const struct parquet *file, const char *path,
                        const struct parquet_column **ret, struct bl_error *err);

/* A reader of a readable column of this file, which must outlive it. It keeps decoded pages of about cache_bytes, at least the one
 * last asked for. *ret is the caller's (parquet_reader_free). */
int parquet_reader_open(const struct parquet *file, const struct parquet_column *column,
                        size_t cache_bytes, struct parquet_reader **ret, struct bl_error *err);
void parquet_reader_free(struct parquet_reader **reader);
/* The rows from `row`, in [0, row count), to the end of its page: at least one. Borrowed until the next call on this reader. To
 * read a column from end to end, ask next for row + row_count. */
int parquet_reader_rows(struct parquet_reader *reader, int64_t row, struct parquet_rows *ret,
                        struct bl_error *err);

/* A file, all *.parquet files of a folder (not of folders in it), or all files of a pattern with *, ? or [, in the order of their
 * names, opened. *ret is the caller's (parquet_table_free). */
int parquet_table_open(const char *path, struct parquet_table **ret, struct bl_error *err);
void parquet_table_free(struct parquet_table **table);
int64_t parquet_table_row_count(const struct parquet_table *table);
size_t parquet_table_file_count(const struct parquet_table *table);
const struct parquet *parquet_table_file(const struct parquet_table *table, size_t i);
/* A reader over all files: row 0 is the first one's first. A file whose column of that path is absent or of another kind is an
 * error. */
int parquet_table_reader_open(const struct parquet_table *table, const char *path,
                              size_t cache_bytes, struct parquet_reader **ret,
                              struct bl_error *err);

/* Where in its file the bytes of a row's value lie verbatim: in an uncompressed page without a checksum, in plain encoding, of a
 * flat column of kind PARQUET_BYTES. known false: they do not. Pages are passed over from length to length, not read. */
struct parquet_place {
    bool known, null;
    uint64_t offset;
    uint32_t size;
};
int parquet_reader_place(struct parquet_reader *reader, int64_t row, struct parquet_place *ret,
                         struct bl_error *err);
/* The bytes at a place that was told of a row of this file, for any thread: `size` bytes into ret. -BL_EDATA as above. */
int parquet_read_at(const struct parquet *file, const struct parquet_place *place, void *ret,
                    struct bl_error *err);
