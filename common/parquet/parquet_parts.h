/* common/parquet/parquet_parts.h - what the files of this room share.
 *
 * schema.c     the schema's tree -> columns              footer.c   the file -> schema, row groups, column chunks
 * page.c       a page's header, checksum, decompression  pages.c    a column chunk -> its pages and their rows
 * values.c     a page's bytes -> levels and values       span.c     pages -> rows
 * reader.c     rows of a column, with the cache of decoded pages                 table.c    several files as one
 * places.c     where in the file a row's bytes lie       bytes.c    the file's bytes
 * thrift, codec, runs: the formats inside the format. */
#pragma once

#include "common/file.h"
#include "common/parquet/parquet.h"
#include "common/parquet/thrift.h"

/* Numbers as parquet.thrift gives them. */
enum physical_type {
    TYPE_BOOLEAN,
    TYPE_INT32,
    TYPE_INT64,
    TYPE_INT96,
    TYPE_FLOAT,
    TYPE_DOUBLE,
    TYPE_BYTE_ARRAY,
    TYPE_FIXED_LEN_BYTE_ARRAY,
};
enum encoding {
    ENCODING_PLAIN = 0,
    ENCODING_PLAIN_DICTIONARY =
        2, /* RLE_DICTIONARY by an older name; of a dictionary page: PLAIN */
    ENCODING_RLE = 3,
    ENCODING_DELTA_BINARY_PACKED = 5,
    ENCODING_DELTA_LENGTH_BYTE_ARRAY = 6,
    ENCODING_DELTA_BYTE_ARRAY = 7,
    ENCODING_RLE_DICTIONARY = 8,
    ENCODING_BYTE_STREAM_SPLIT = 9,
};
enum page_type { PAGE_DATA, PAGE_INDEX, PAGE_DICTIONARY, PAGE_DATA_V2 };

/* The part of a column in a row group. Its bytes are inside the file. */
struct column_chunk {
    int32_t type, codec;
    int64_t value_count; /* nulls and empty lists included */
    size_t offset, size; /* from its dictionary page, if it has one, or its first data page on */
    size_t index_offset, index_size; /* of its OffsetIndex; size 0: none */
    const char *unreadable;          /* or NULL */
};

struct row_group {
    int64_t first_row, row_count;
};

struct parquet {
    char *name;            /* for messages */
    int fd;                /* of parquet_open; or -1, and: */
    const uint8_t *memory; /* borrowed, of parquet_parse */
    size_t size;
    struct parquet_column *columns;
    size_t column_count, column_capacity;
    struct row_group *row_groups;
    size_t row_group_count, row_group_capacity;
    struct column_chunk *chunks; /* (row group, column) */
    size_t chunk_count, chunk_capacity;
    int64_t row_count;
};

/* --- bytes.c --- */

/* Zero-initialise; release when done. */
struct file_bytes {
    const uint8_t *data;
    uint8_t *owned; /* what was read; NULL: data is borrowed from memory */
};
void file_bytes_release(struct file_bytes *bytes);
#define file_autobytes __attribute__((cleanup(file_bytes_release)))
/* Bytes inside the size that the file had when it was opened. -BL_EDATA: it was shortened since. */
int file_read(const struct parquet *file, size_t offset, size_t size, uint8_t *ret,
              struct bl_error *err);
int file_bytes_read(const struct parquet *file, size_t offset, size_t size, struct file_bytes *ret,
                    struct bl_error *err);

/* FileMetaData.schema -> file->columns. */
void schema_read(struct thrift *t, const struct thrift_struct *s, struct parquet *file);

/* Room for n items more than the file's arrays hold now; else a failure of t. */
#define thrift_grow(t, items, capacity, count)                                                     \
    (bl_grow(items, capacity, (count) + 1, sizeof **(items)) ||                                    \
     (thrift_fail(t, "out of memory"), false))

/* --- page.c --- */

/* A page as it lies in the file. */
struct page {
    int32_t type;                                     /* enum page_type */
    int32_t value_count;                              /* nulls and empty lists included */
    int32_t encoding;                                 /* of the values */
    int32_t definition_encoding, repetition_encoding; /* of DATA */
    int32_t row_count;                                /* of DATA_V2 */
    int32_t definition_size, repetition_size;         /* of DATA_V2 */
    bool compressed, has_crc;
    uint32_t crc;
    size_t offset, size; /* of its bytes in the file, behind its header */
    size_t full_size;    /* decompressed, levels included */
    size_t end;          /* offset in the file behind it */
};

/* What is in a data page. Parts are borrowed from `owned`, or from the memory that the file is in. */
struct page_body {
    const uint8_t *repetition, *definition, *values;
    size_t repetition_size, definition_size, values_size;
    uint8_t *owned;
    size_t owned_size;
};
void page_body_release(struct page_body *body);
#define page_autobody __attribute__((cleanup(page_body_release)))

/* The page at that offset of the file, inside the chunk: its header. Its bytes are not touched. */
int page_read(const struct parquet *file, const struct column_chunk *chunk, size_t offset,
              struct page *ret, struct bl_error *err);
/* Compares the checksum, if the page has one, and decompresses. *ret is the caller's (page_body_release). */
int page_body(const struct parquet *file, const struct page *page, const struct column_chunk *chunk,
              const struct parquet_column *column, struct page_body *ret, struct bl_error *err);

/* --- values.c --- */

struct dictionary {
    struct parquet_value *values;
    size_t count;
};

/* Bytes of values that are neither the page's nor the dictionary's. Zero-initialise; release when done. */
struct values_memory {
    uint8_t *owned;
    size_t owned_size;
};
void values_memory_release(struct values_memory *memory);

/* count values, none of them null. Their bytes are borrowed from data, from the dictionary (NULL: there is none), or from *memory. */
int values_decode(const struct parquet_column *column, int encoding, const uint8_t *data,
                  size_t size, const struct dictionary *dictionary, size_t count,
                  struct parquet_value *ret, struct values_memory *memory, struct bl_error *err);
/* count levels of 0 to max, which is at most 255. */
int levels_decode(const uint8_t *data, size_t size, int max, size_t count, uint8_t *ret,
                  struct bl_error *err);

/* --- pages.c --- */

/* Pages of a chunk that begin and end between rows: as a rule one. Without an OffsetIndex a page may begin inside a row (of a
 * list column); it belongs to the pages before it then. */
struct span_place {
    size_t offset, end; /* in the file */
    int64_t first_row;  /* in the row group */
    struct span *span;  /* decoded, while the reader keeps it */
};

/* A column chunk as a reader knows it: everything is found when first needed. */
struct pages {
    struct span_place *places;
    size_t count, capacity;
    bool found;
    size_t
        span_count; /* of places that are decoded: the dictionary is kept as long as there are any */
    struct dictionary dictionary;
    struct page_body dictionary_body;
    size_t dictionary_bytes; /* memory it takes; 0: not read, or there is none */
};

/* Which chunk: for finding it and for messages. */
struct chunk_name {
    const struct parquet *file;
    const struct parquet_column *column;
    size_t row_group;
};
const struct column_chunk *chunk_of(const struct chunk_name *name);
/* Adds row group, column and page to an error. Returns its code. */
int chunk_error(const struct chunk_name *name, size_t page_offset, struct bl_error *err);

/* Finds the places, by the OffsetIndex or by passing over the headers. */
int pages_find(const struct chunk_name *name, struct pages *pages, struct bl_error *err);
/* Rows of place i. */
int64_t pages_rows(const struct chunk_name *name, const struct pages *pages, size_t i);
/* Reads the chunk's dictionary page, if it has one. */
int pages_read_dictionary(const struct chunk_name *name, struct pages *pages, struct bl_error *err);
void pages_forget_dictionary(struct pages *pages);
void pages_release(struct pages *pages);

/* --- span.c --- */

/* Decoded rows. Values borrow their bytes from bodies and memories, and from the chunk's dictionary. */
struct span {
    struct span *newer, *older; /* the reader's list */
    struct pages *pages;
    struct span_place *place;
    size_t memory_bytes;
    struct parquet_value *values;
    uint32_t *starts; /* lists */
    bool *null_lists; /* lists */
    size_t value_count;
    int64_t row_count;
    struct page_body *bodies;
    struct values_memory *memories;
    size_t body_count; /* of both */
};

int span_decode(const struct chunk_name *name, struct pages *pages, size_t place, struct span **ret,
                struct bl_error *err);
void span_free(struct span **span);

/* --- places.c --- */

/* Where a value's bytes lie in the file. */
struct value_place {
    uint64_t offset;
    uint32_t size;
    bool null;
};
/* Of a page of flat values: all places, if they lie there as they are. Zero-initialise; release when done. */
struct value_places {
    const struct span_place *page; /* NULL: none is known */
    struct value_place *at;        /* NULL: the values do not lie there */
};
int value_places_find(const struct chunk_name *name, const struct pages *pages, size_t place,
                      struct value_places *ret, struct bl_error *err);
void value_places_release(struct value_places *places);

/* --- reader.c --- */

/* A file of those that a reader goes through. */
struct part {
    const struct parquet *file;
    const struct parquet_column *column;
    int64_t first_row;   /* of the reader */
    struct pages *pages; /* a row group each */
};
/* The parts' files and columns are given; the rest is filled in. */
int reader_open_parts(const struct part *parts, size_t count, size_t cache_bytes,
                      struct parquet_reader **ret, struct bl_error *err);
