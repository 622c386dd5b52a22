/* common/arrow/read.c - Arrow IPC files in place: the footer leads to the schema and the batches, and everything is checked
 * before it is used. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/arrow/parts.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/size.h"

struct batch {
    int64_t rows;
    struct arrow_values values[ARROW_COLUMNS_MAX];
};

struct arrow {
    struct bl_map map; /* empty: from memory */
    const uint8_t *data;
    size_t size;
    char name[512];
    struct fb footer; /* checked: reading from it does not fail any more */
    size_t footer_table, schema;
    int column_count, batch_count;
    struct arrow_column columns[ARROW_COLUMNS_MAX];
    struct batch *batches;
};

/* -- the footer */

static int torn(struct bl_error *err, const char *what)
{
    bl_fail(err, BL_EFORMAT, "expected a whole Arrow file, %s", what);
    return bl_error_remedy(err, "remove this file and make it again");
}

static int find_footer(struct arrow *a, struct bl_error *err)
{
    const size_t magic = strlen(ARROW_MAGIC), least = 8 + 4 + magic;
    uint32_t size;
    if (a->size < least || memcmp(a->data, ARROW_MAGIC, magic) != 0)
        return torn(err, a->size < least ? "found its end too early" : "found another beginning");
    if (memcmp(a->data + a->size - magic, ARROW_MAGIC, magic) != 0)
        return torn(err, "found no mark at its end: it is cut off");
    memcpy(&size, a->data + a->size - magic - sizeof size, sizeof size);
    if (size > a->size - least)
        return torn(err, "found a footer larger than the file");
    a->footer = (struct fb){a->data + a->size - magic - sizeof size - size, size, false};
    return 0;
}

static int read_footer(struct arrow *a, struct bl_error *err)
{
    struct fb *fb = &a->footer;
    uint32_t dictionaries;
    a->footer_table = fb_root(fb);
    int64_t version = fb_whole(fb, a->footer_table, FOOTER_VERSION, 2, 0);
    if (!fb->failed && version < ARROW_VERSION - 1)
        return bl_fail(err, BL_EFORMAT, "expected metadata of version 4 or newer, found %" PRId64,
                       version + 1);
    fb_vector(fb, a->footer_table, FOOTER_DICTIONARIES, sizeof(struct arrow_block), &dictionaries);
    if (dictionaries)
        return bl_fail(err, BL_EFORMAT, "expected plain columns, found a dictionary");
    a->schema = fb_table(fb, a->footer_table, FOOTER_SCHEMA);
    return arrow_read_schema(fb, a->schema, a->columns, &a->column_count, err);
}

/* -- a batch */

/* A batch being read: its tables, and what of it was used up. */
struct cursor {
    struct fb fb;
    size_t nodes, buffers; /* positions of the first */
    uint32_t node, buffer; /* the next */
    const uint8_t *body;
    size_t body_bytes;
};

/* Checks and returns the next buffer, which must have at least `bytes`, aligned to `alignment`. */
static const void *take_buffer(struct cursor *c, uint64_t bytes, size_t alignment)
{
    struct arrow_buffer b;
    memcpy(&b, c->fb.data + c->buffers + c->buffer++ * sizeof b, sizeof b);
    bool fits = b.offset >= 0 && b.length >= 0 && (uint64_t)b.offset <= c->body_bytes &&
                (uint64_t)b.length <= c->body_bytes - (uint64_t)b.offset;
    if (!fits || bytes > (uint64_t)b.length || (uint64_t)b.offset % alignment != 0)
        return NULL;
    return c->body + b.offset;
}

/* The offsets of `length` lists or texts; NULL: they do not grow, or are too few. *ret_end: the last. */
static const int32_t *take_offsets(struct cursor *c, int64_t length, int64_t *ret_end)
{
    static const int32_t none[1] = {0};
    *ret_end = 0;
    if (length == 0) { /* a writer may leave them out */
        c->buffer++;
        return none;
    }
    const int32_t *offsets =
        take_buffer(c, ((uint64_t)length + 1) * sizeof *offsets, sizeof *offsets);
    if (!offsets || offsets[0] < 0)
        return NULL;
    for (int64_t i = 0; i < length; i++)
        if (offsets[i + 1] < offsets[i])
            return NULL;
    *ret_end = offsets[length];
    return offsets;
}

static int read_values(struct cursor *c, const struct arrow_column *column, int64_t rows,
                       struct arrow_values *ret, struct bl_error *err)
{
    int64_t length = rows;
    size_t bytes = arrow_type_bytes(column->type), size;
    *ret = (struct arrow_values){0};
    for (int level = 0; level < arrow_levels(column); level++) {
        bool last = level + 1 == arrow_levels(column);
        struct arrow_node node;
        memcpy(&node, c->fb.data + c->nodes + c->node++ * sizeof node, sizeof node);
        if (node.nulls != 0)
            return bl_fail(err, BL_EFORMAT, "column \"%s\": expected no nulls, found %" PRId64,
                           column->name, node.nulls);
        if (node.length < length || (level == 0 && node.length != length))
            return bl_fail(err, BL_EFORMAT,
                           "column \"%s\": expected %" PRId64 " values, found %" PRId64,
                           column->name, length, node.length);
        c->buffer++; /* which values are null */
        if (last ? column->type == ARROW_UTF8 : column->list) {
            ret->offsets = take_offsets(c, length, &length);
            if (!ret->offsets)
                return bl_fail(err, BL_EFORMAT, "column \"%s\": offsets are missing or do not grow",
                               column->name);
        } else if (!last && __builtin_mul_overflow(length, column->dims[level], &length)) {
            return bl_fail(err, BL_EFORMAT, "column \"%s\": more values than a file can hold",
                           column->name);
        }
        if (last &&
            (!bl_mul((size_t)length, bytes, &size) || !(ret->data = take_buffer(c, size, bytes))))
            return bl_fail(err, BL_EFORMAT, "column \"%s\": its values lie outside of their batch",
                           column->name);
    }
    return 0;
}

/* Finds the message's table; the cursor's body lies within the file. */
static size_t open_message(const struct arrow *a, const struct arrow_block *block,
                           struct cursor *ret)
{
    size_t limit = (size_t)(a->footer.data - a->data), offset = (size_t)block->offset,
           metadata = (size_t)block->metadata_bytes, body = (size_t)block->body_bytes;
    uint32_t prefix[2];
    if (block->offset < 8 || block->metadata_bytes < 8 || block->body_bytes < 0 ||
        offset % 8 != 0 || metadata % 8 != 0 || offset > limit || metadata > limit - offset ||
        body > limit - offset - metadata)
        return 0;
    memcpy(prefix, a->data + offset, sizeof prefix);
    if (prefix[0] != UINT32_MAX || prefix[1] > metadata - 8)
        return 0;
    *ret = (struct cursor){.fb = {a->data + offset + 8, prefix[1], false},
                           .body = a->data + offset + metadata,
                           .body_bytes = body};
    size_t message = fb_root(&ret->fb);
    bool is_batch = fb_whole(&ret->fb, message, MESSAGE_HEADER_TYPE, 1, 0) == ARROW_HEADER_BATCH &&
                    fb_whole(&ret->fb, message, MESSAGE_BODY_LENGTH, 8, 0) == block->body_bytes;
    size_t table = fb_table(&ret->fb, message, MESSAGE_HEADER);
    return is_batch && !ret->fb.failed ? table : 0;
}

static int read_batch(const struct arrow *a, const struct arrow_block *block, struct batch *ret,
                      struct bl_error *err)
{
    struct cursor c;
    uint32_t nodes, buffers, nodes_wanted = 0, buffers_wanted = 0;
    size_t table = open_message(a, block, &c);
    if (!table)
        return torn(err, "found no batch where the footer says that one is");
    for (int i = 0; i < a->column_count; i++) {
        nodes_wanted += (uint32_t)arrow_levels(&a->columns[i]);
        buffers_wanted += (uint32_t)arrow_buffers(&a->columns[i]);
    }
    ret->rows = fb_whole(&c.fb, table, BATCH_LENGTH, 8, 0);
    c.nodes = fb_vector(&c.fb, table, BATCH_NODES, sizeof(struct arrow_node), &nodes);
    c.buffers = fb_vector(&c.fb, table, BATCH_BUFFERS, sizeof(struct arrow_buffer), &buffers);
    if (fb_table(&c.fb, table, BATCH_COMPRESSION))
        return bl_fail(err, BL_EFORMAT, "expected plain values, found compressed ones");
    if (c.fb.failed || ret->rows < 0 || (uint64_t)ret->rows > a->size || nodes != nodes_wanted ||
        buffers != buffers_wanted)
        return torn(err, "found a batch that does not fit its schema");
    for (int i = 0; i < a->column_count; i++)
        BL_TRY(read_values(&c, &a->columns[i], ret->rows, &ret->values[i], err));
    return 0;
}

static int read_batches(struct arrow *a, struct bl_error *err)
{
    uint32_t count;
    size_t first =
        fb_vector(&a->footer, a->footer_table, FOOTER_BATCHES, sizeof(struct arrow_block), &count);
    if (a->footer.failed)
        return torn(err, "found a damaged footer");
    a->batches = calloc((size_t)count + 1, sizeof *a->batches);
    if (!a->batches)
        return bl_fail(err, BL_ENOMEM, "no memory for %u batches", count);
    a->batch_count = (int)count;
    for (uint32_t i = 0; i < count; i++) {
        struct arrow_block block;
        memcpy(&block, a->footer.data + first + i * sizeof block, sizeof block);
        BL_TRY(read_batch(a, &block, &a->batches[i], err));
    }
    return 0;
}

/* -- the file */

static int read_all(struct arrow *a, struct bl_error *err)
{
    BL_TRY(find_footer(a, err));
    BL_TRY(read_footer(a, err));
    return read_batches(a, err);
}

static int parse(struct arrow *a, const void *data, size_t size, const char *name,
                 struct bl_error *err)
{
    BL_ASSERT((uintptr_t)data % 8 == 0);
    a->data = data;
    a->size = size;
    snprintf(a->name, sizeof a->name, "%s", name);
    return read_all(a, err) < 0 ? bl_error_file(err, name) : 0;
}

int arrow_parse(const void *data, size_t size, const char *name, struct arrow **ret,
                struct bl_error *err)
{
    bl_auto(arrow) struct arrow *a = calloc(1, sizeof *a);
    if (!a)
        return bl_fail(err, BL_ENOMEM, "no memory for an Arrow file");
    BL_TRY(parse(a, data, size, name, err));
    *ret = bl_take(&a);
    return 0;
}

int arrow_open(const char *path, struct arrow **ret, struct bl_error *err)
{
    bl_auto(arrow) struct arrow *a = calloc(1, sizeof *a);
    if (!a)
        return bl_fail(err, BL_ENOMEM, "no memory for an Arrow file");
    BL_TRY(bl_map_open(path, &a->map, err));
    BL_TRY(parse(a, a->map.data, a->map.size, path, err));
    *ret = bl_take(&a);
    return 0;
}

void arrow_free(struct arrow **arrow)
{
    struct arrow *a = *arrow;
    if (!a)
        return;
    bl_map_close(&a->map);
    free(a->batches);
    free(a);
    *arrow = NULL;
}

int arrow_column_count(const struct arrow *a)
{
    return a->column_count;
}

const struct arrow_column *arrow_column_at(const struct arrow *a, int i)
{
    return &a->columns[i];
}

int arrow_column_find(const struct arrow *a, const char *name)
{
    for (int i = 0; i < a->column_count; i++)
        if (!strcmp(a->columns[i].name, name))
            return i;
    return -1;
}

const char *arrow_metadata(const struct arrow *a, const char *key)
{
    struct fb fb = a->footer;
    return arrow_find_metadata(&fb, a->schema, SCHEMA_METADATA, key);
}

int arrow_batch_count(const struct arrow *a)
{
    return a->batch_count;
}

int64_t arrow_batch_rows(const struct arrow *a, int batch)
{
    return a->batches[batch].rows;
}

struct arrow_values arrow_batch_values(const struct arrow *a, int batch, int column)
{
    return a->batches[batch].values[column];
}

int arrow_verify(const struct arrow *a, struct bl_error *err)
{
    struct fb fb = a->footer;
    const char *expected =
        arrow_find_metadata(&fb, a->footer_table, FOOTER_METADATA, ARROW_CHECKSUM_KEY);
    uint8_t hash[32];
    char found[65];
    if (!expected)
        return 0;
    bl_sha256(a->data, (size_t)(a->footer.data - a->data), hash);
    bl_hex(hash, sizeof hash, found);
    if (!strcmp(expected, found))
        return 0;
    bl_fail(err, BL_EFORMAT, "checksum mismatch: expected %.16s…, found %.16s…", expected, found);
    bl_error_remedy(err, "remove this file and make it again");
    return bl_error_file(err, a->name);
}
