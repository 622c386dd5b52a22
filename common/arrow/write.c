/* common/arrow/write.c - Arrow IPC files, whole or not at all. */
#include <stdlib.h>

#include "common/arrow/parts.h"
#include "common/cleanup.h"
#include "common/file.h"

struct arrow_writer {
    struct bl_file_writer file;
    uint64_t offset; /* bytes written */
    int column_count;
    struct arrow_column columns[ARROW_COLUMNS_MAX];
    char **metadata; /* owned; NULL at the end */
    struct arrow_block *blocks;
    size_t block_count, block_capacity;
};

static int no_memory(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "no memory for an Arrow file's metadata");
}

static int put(struct arrow_writer *w, const void *data, size_t size, struct bl_error *err)
{
    w->offset += size;
    return bl_file_writer_write(&w->file, data, size, err);
}

static int pad(struct arrow_writer *w, struct bl_error *err)
{
    static const uint8_t zero[ARROW_ALIGNMENT];
    return put(w, zero, (ARROW_ALIGNMENT - w->offset % ARROW_ALIGNMENT) % ARROW_ALIGNMENT, err);
}

/* Begins a message whose header is the table at *ret_patch's target. */
static bool begin_message(struct bl_bytes *out, uint8_t header_type, int64_t body_bytes,
                          size_t *ret_patch)
{
    static const uint32_t root = 0;
    const struct fb_field fields[MESSAGE_FIELDS] = {
        [MESSAGE_VERSION] = {2, ARROW_VERSION},
        [MESSAGE_HEADER_TYPE] = {1, header_type},
        [MESSAGE_HEADER] = FB_OFFSET,
        [MESSAGE_BODY_LENGTH] = {8, (uint64_t)body_bytes},
    };
    size_t at[MESSAGE_FIELDS], table;
    if (!bl_bytes_add(out, &root, sizeof root) ||
        !fb_add_table(out, fields, MESSAGE_FIELDS, at, &table))
        return false;
    fb_patch(out, 0, table);
    *ret_patch = at[MESSAGE_HEADER];
    return true;
}

/* Writes a message's prefix and metadata, padded so that its body is aligned in the file. */
static int put_message(struct arrow_writer *w, struct bl_bytes *metadata, int64_t body_bytes,
                       struct arrow_block *ret, struct bl_error *err)
{
    uint32_t prefix[2] = {UINT32_MAX, 0};
    size_t before = (size_t)(2 * ARROW_ALIGNMENT - (w->offset + sizeof prefix) % ARROW_ALIGNMENT) %
                    ARROW_ALIGNMENT;
    if (!fb_align(metadata, ARROW_ALIGNMENT, before))
        return no_memory(err);
    prefix[1] = (uint32_t)metadata->size;
    *ret = (struct arrow_block){.offset = (int64_t)w->offset,
                                .metadata_bytes = (int32_t)(sizeof prefix + metadata->size),
                                .body_bytes = body_bytes};
    BL_TRY(put(w, prefix, sizeof prefix, err));
    return put(w, metadata->data, metadata->size, err);
}

static int put_schema(struct arrow_writer *w, struct bl_error *err)
{
    bl_autobytes struct bl_bytes message = {0};
    struct arrow_block block;
    size_t patch, schema;
    if (!begin_message(&message, ARROW_HEADER_SCHEMA, 0, &patch) ||
        !arrow_add_schema(&message, w->columns, w->column_count, (const char *const *)w->metadata,
                          &schema))
        return no_memory(err);
    fb_patch(&message, patch, schema);
    return put_message(w, &message, 0, &block, err);
}

static char **copy_texts(const char *const *texts)
{
    size_t count = 0;
    while (texts && texts[count])
        count++;
    char **copy = calloc(count + 1, sizeof *copy);
    for (size_t i = 0; copy && i < count; i++)
        copy[i] = strdup(texts[i]);
    return copy;
}

int arrow_writer_open(const char *path, const struct arrow_column *columns, int count,
                      const char *const *metadata, struct arrow_writer **ret, struct bl_error *err)
{
    static const char magic[8] = ARROW_MAGIC;
    BL_ASSERT(count >= 1 && count <= ARROW_COLUMNS_MAX);
    bl_auto(arrow_writer) struct arrow_writer *w = calloc(1, sizeof *w);
    if (!w)
        return no_memory(err);
    w->file.fd = -1;
    w->column_count = count;
    memcpy(w->columns, columns, (size_t)count * sizeof *columns);
    w->metadata = copy_texts(metadata);
    if (!w->metadata)
        return no_memory(err);
    BL_TRY(bl_file_writer_open(&w->file, path, err));
    bl_file_writer_hash(&w->file);
    BL_TRY(put(w, magic, sizeof magic, err));
    BL_TRY(put_schema(w, err));
    *ret = bl_take(&w);
    return 0;
}

/* One buffer of a batch, as it is written. */
struct part {
    const void *data;
    size_t size;
};

/* What a batch consists of: nodes and buffers of all columns, in the format's order. */
struct batch {
    struct arrow_node nodes[ARROW_COLUMNS_MAX * ARROW_LEVELS_MAX];
    struct arrow_buffer buffers[2 * ARROW_COLUMNS_MAX * ARROW_LEVELS_MAX];
    struct part parts[2 * ARROW_COLUMNS_MAX * ARROW_LEVELS_MAX];
    uint32_t node_count, buffer_count;
    int64_t body_bytes;
};

static void add_buffer(struct batch *b, const void *data, size_t size)
{
    b->buffers[b->buffer_count] = (struct arrow_buffer){b->body_bytes, (int64_t)size};
    b->parts[b->buffer_count++] = (struct part){data, size};
    b->body_bytes += (int64_t)((size + ARROW_ALIGNMENT - 1) / ARROW_ALIGNMENT * ARROW_ALIGNMENT);
}

static void add_values(struct batch *b, const struct arrow_column *column, int64_t rows,
                       const struct arrow_values *values)
{
    int64_t length = rows;
    for (int level = 0; level < arrow_levels(column); level++) {
        bool last = level + 1 == arrow_levels(column);
        b->nodes[b->node_count++] = (struct arrow_node){length, 0};
        add_buffer(b, NULL, 0);
        if (last ? column->type == ARROW_UTF8 : column->list) {
            add_buffer(b, values->offsets, (size_t)(length + 1) * sizeof *values->offsets);
            length = values->offsets[length];
        } else if (!last) {
            length *= column->dims[level];
        }
        if (last)
            add_buffer(b, values->data, (size_t)length * arrow_type_bytes(column->type));
    }
}

/* The batch's message, without its body. */
static bool describe_batch(struct bl_bytes *out, const struct batch *b, int64_t rows)
{
    const struct fb_field fields[BATCH_FIELDS] = {[BATCH_LENGTH] = {8, (uint64_t)rows},
                                                  [BATCH_NODES] = FB_OFFSET,
                                                  [BATCH_BUFFERS] = FB_OFFSET};
    size_t patch, table, vector, at[BATCH_FIELDS];
    if (!begin_message(out, ARROW_HEADER_BATCH, b->body_bytes, &patch) ||
        !fb_add_table(out, fields, BATCH_FIELDS, at, &table))
        return false;
    fb_patch(out, patch, table);
    if (!fb_add_vector(out, b->node_count, 8, &vector) ||
        !bl_bytes_add(out, b->nodes, b->node_count * sizeof *b->nodes))
        return false;
    fb_patch(out, at[BATCH_NODES], vector);
    if (!fb_add_vector(out, b->buffer_count, 8, &vector) ||
        !bl_bytes_add(out, b->buffers, b->buffer_count * sizeof *b->buffers))
        return false;
    fb_patch(out, at[BATCH_BUFFERS], vector);
    return true;
}

int arrow_writer_batch(struct arrow_writer *w, int64_t rows, const struct arrow_values *values,
                       struct bl_error *err)
{
    bl_autobytes struct bl_bytes message = {0};
    struct batch batch = {0};
    for (int i = 0; i < w->column_count; i++)
        add_values(&batch, &w->columns[i], rows, &values[i]);
    if (!describe_batch(&message, &batch, rows) ||
        !bl_grow(&w->blocks, &w->block_capacity, w->block_count + 1, sizeof *w->blocks))
        return no_memory(err);
    BL_TRY(put_message(w, &message, batch.body_bytes, &w->blocks[w->block_count], err));
    w->block_count++;
    for (uint32_t i = 0; i < batch.buffer_count; i++) {
        BL_TRY(put(w, batch.parts[i].data, batch.parts[i].size, err));
        BL_TRY(pad(w, err));
    }
    return 0;
}

static bool describe_file(struct bl_bytes *out, const struct arrow_writer *w, const char *checksum)
{
    static const uint32_t root = 0;
    const struct fb_field fields[FOOTER_FIELDS] = {
        [FOOTER_VERSION] = {2, ARROW_VERSION}, [FOOTER_SCHEMA] = FB_OFFSET,
        [FOOTER_DICTIONARIES] = FB_OFFSET,     [FOOTER_BATCHES] = FB_OFFSET,
        [FOOTER_METADATA] = FB_OFFSET,
    };
    const char *const pairs[] = {ARROW_CHECKSUM_KEY, checksum, NULL};
    size_t at[FOOTER_FIELDS], table, target;
    if (!bl_bytes_add(out, &root, sizeof root) ||
        !fb_add_table(out, fields, FOOTER_FIELDS, at, &table))
        return false;
    fb_patch(out, 0, table);
    if (!arrow_add_schema(out, w->columns, w->column_count, (const char *const *)w->metadata,
                          &target))
        return false;
    fb_patch(out, at[FOOTER_SCHEMA], target);
    if (!fb_add_vector(out, 0, 8, &target))
        return false;
    fb_patch(out, at[FOOTER_DICTIONARIES], target);
    if (!fb_add_vector(out, (uint32_t)w->block_count, 8, &target) ||
        !bl_bytes_add(out, w->blocks, w->block_count * sizeof *w->blocks))
        return false;
    fb_patch(out, at[FOOTER_BATCHES], target);
    if (!arrow_add_metadata(out, pairs, &target))
        return false;
    fb_patch(out, at[FOOTER_METADATA], target);
    return true;
}

int arrow_writer_commit(struct arrow_writer *w, struct bl_error *err)
{
    static const uint32_t end[2] = {UINT32_MAX, 0};
    bl_autobytes struct bl_bytes footer = {0};
    uint8_t hash[32];
    char checksum[65];
    BL_TRY(put(w, end, sizeof end, err));
    bl_sha256_end(&w->file.hash, hash);
    bl_hex(hash, sizeof hash, checksum);
    if (!describe_file(&footer, w, checksum))
        return no_memory(err);
    uint32_t size = (uint32_t)footer.size;
    BL_TRY(put(w, footer.data, footer.size, err));
    BL_TRY(put(w, &size, sizeof size, err));
    BL_TRY(put(w, ARROW_MAGIC, strlen(ARROW_MAGIC), err));
    return bl_file_writer_commit(&w->file, err);
}

void arrow_writer_free(struct arrow_writer **writer)
{
    struct arrow_writer *w = *writer;
    if (!w)
        return;
    bl_file_writer_close(&w->file);
    for (char **text = w->metadata; text && *text; text++)
        free(*text);
    free(w->metadata);
    free(w->blocks);
    free(w);
    *writer = NULL;
}
