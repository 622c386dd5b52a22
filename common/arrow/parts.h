/* common/arrow/parts.h - what writing and reading of Arrow files share. For common/arrow alone.
 *
 * A file: "ARROW1" and two zeros; the schema and each batch as a message; an end mark; the footer; its size; "ARROW1".
 * A message: 0xffffffff, the size of its metadata (a FlatBuffer, padded), the metadata, its body.
 * A column is a chain of levels: its lists from the outermost on, then its elements. Every level has a node (length, nulls)
 * and its buffers: of nulls (empty here), of offsets where it is a list or a text, of data where it has elements. */
#pragma once

#include "common/arrow/arrow.h"
#include "common/arrow/flatbuffer.h"

#define ARROW_MAGIC "ARROW1"
#define ARROW_VERSION 4 /* MetadataVersion V5 */
#define ARROW_ALIGNMENT 64
#define ARROW_CHECKSUM_KEY "blipren.sha256"
#define ARROW_LEVELS_MAX 3

enum { ARROW_HEADER_SCHEMA = 1, ARROW_HEADER_BATCH = 3 };
/* Fields of the format's tables, Message.fbs, Schema.fbs and File.fbs. */
enum { MESSAGE_VERSION, MESSAGE_HEADER_TYPE, MESSAGE_HEADER, MESSAGE_BODY_LENGTH, MESSAGE_FIELDS };
enum { SCHEMA_ENDIANNESS, SCHEMA_COLUMNS, SCHEMA_METADATA, SCHEMA_FIELDS };
enum {
    COLUMN_NAME,
    COLUMN_NULLABLE,
    COLUMN_TYPE_TYPE,
    COLUMN_TYPE,
    COLUMN_DICTIONARY,
    COLUMN_CHILDREN,
    COLUMN_FIELDS
};
enum { BATCH_LENGTH, BATCH_NODES, BATCH_BUFFERS, BATCH_COMPRESSION, BATCH_FIELDS };
enum {
    FOOTER_VERSION,
    FOOTER_SCHEMA,
    FOOTER_DICTIONARIES,
    FOOTER_BATCHES,
    FOOTER_METADATA,
    FOOTER_FIELDS
};
enum { PAIR_KEY, PAIR_VALUE, PAIR_FIELDS };

struct arrow_node {
    int64_t length, nulls;
};
struct arrow_buffer {
    int64_t offset, length; /* in the message's body */
};
struct arrow_block {
    int64_t offset; /* of the message in the file */
    int32_t metadata_bytes, zero;
    int64_t body_bytes;
};
_Static_assert(sizeof(struct arrow_node) == 16 && sizeof(struct arrow_buffer) == 16 &&
                   sizeof(struct arrow_block) == 24,
               "as the format has them");

/* Levels of a column: its lists, and its elements. */
int arrow_levels(const struct arrow_column *column);
/* Buffers of all its levels. */
int arrow_buffers(const struct arrow_column *column);

/* -- schema.c */

/* The schema's table, and everything below it. */
bool arrow_add_schema(struct bl_bytes *out, const struct arrow_column *columns, int count,
                      const char *const *metadata, size_t *ret);
/* A vector of key and value. */
bool arrow_add_metadata(struct bl_bytes *out, const char *const *metadata, size_t *ret);
/* The other way; -BL_EFORMAT names the column. */
int arrow_read_schema(struct fb *fb, size_t schema, struct arrow_column *ret, int *ret_count,
                      struct bl_error *err);
/* A value of a vector of pairs (field `field` of `table`); NULL: there is none. */
const char *arrow_find_metadata(struct fb *fb, size_t table, int field, const char *key);
