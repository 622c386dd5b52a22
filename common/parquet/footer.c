/* common/parquet/footer.c - opening a file: its footer holds the schema, the row groups and where their column chunks are.
 *
 * A file: "PAR1", column chunks, page indexes, FileMetaData (Thrift), its length (u32 little-endian), "PAR1". */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/limits.h"
#include "common/parquet/parquet_parts.h"

#define MAGIC_BYTES 4
#define TAIL_BYTES 8
#define LFS_BYTES 64 /* enough to know a pointer of Git LFS by */

void parquet_free(struct parquet **file)
{
    struct parquet *f = *file;
    if (!f)
        return;
    for (size_t i = 0; i < f->column_count; i++)
        free(f->columns[i].path);
    free(f->columns);
    free(f->row_groups);
    free(f->chunks);
    free(f->name);
    if (f->fd >= 0)
        close(f->fd);
    free(f);
    *file = NULL;
}

const char *parquet_name(const struct parquet *file)
{
    return file->name;
}

int64_t parquet_row_count(const struct parquet *file)
{
    return file->row_count;
}

size_t parquet_row_group_count(const struct parquet *file)
{
    return file->row_group_count;
}

size_t parquet_column_count(const struct parquet *file)
{
    return file->column_count;
}

const struct parquet_column *parquet_column_at(const struct parquet *file, size_t i)
{
    return &file->columns[i];
}

/* --- Column chunks and row groups. --- */

struct column_meta {
    int64_t compressed_size, data_offset, dictionary_offset;
};

static void read_column_meta(struct thrift *t, struct column_chunk *chunk, struct column_meta *meta)
{
    struct thrift_struct s = thrift_begin(t, "ColumnMetaData");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            thrift_i32(t, &s, &chunk->type);
            break;
        case 4:
            thrift_i32(t, &s, &chunk->codec);
            break;
        case 5:
            thrift_i64(t, &s, &chunk->value_count);
            break;
        case 7:
            thrift_i64(t, &s, &meta->compressed_size);
            break;
        case 9:
            thrift_i64(t, &s, &meta->data_offset);
            break;
        case 11:
            thrift_i64(t, &s, &meta->dictionary_offset);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 1, "type");
    thrift_require(t, &s, 4, "codec");
    thrift_require(t, &s, 5, "num_values");
    thrift_require(t, &s, 7, "total_compressed_size");
    thrift_require(t, &s, 9, "data_page_offset");
}

/* A part of the file before its footer. */
static void take_range(struct thrift *t, const struct parquet *file, const char *what,
                       int64_t offset, int64_t size, size_t *ret_offset, size_t *ret_size)
{
    int64_t end = (int64_t)(file->size - TAIL_BYTES);
    if (offset < 0 || size < 0 || offset > end || size > end - offset) {
        thrift_fail(t, "%s: expected a range inside the file's %zu bytes, found %lld bytes at %lld",
                    what, file->size, (long long)size, (long long)offset);
        return;
    }
    *ret_offset = (size_t)offset;
    *ret_size = (size_t)size;
}

static void place_chunk(struct thrift *t, const struct parquet *file,
                        const struct column_meta *meta, struct column_chunk *chunk)
{
    /* Writers without a dictionary leave its offset out or 0. */
    int64_t start = meta->data_offset;
    if (meta->dictionary_offset > 0 && meta->dictionary_offset < start)
        start = meta->dictionary_offset;
    take_range(t, file, "ColumnMetaData", start, meta->compressed_size, &chunk->offset,
               &chunk->size);
    if (chunk->value_count < 0)
        thrift_fail(t, "ColumnMetaData: expected at least 0 values, found %lld",
                    (long long)chunk->value_count);
}

static void read_chunk(struct thrift *t, struct parquet *file)
{
    struct column_chunk chunk = {0};
    struct column_meta meta = {0};
    int64_t index_offset = 0;
    int32_t index_size = 0;
    struct thrift_struct s = thrift_begin(t, "ColumnChunk");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            chunk.unreadable = "its data lie in another file, which is not read";
            thrift_skip(t, &s);
            break;
        case 3:
            thrift_nested(t, &s);
            read_column_meta(t, &chunk, &meta);
            break;
        case 4:
            thrift_i64(t, &s, &index_offset);
            break;
        case 5:
            thrift_i32(t, &s, &index_size);
            break;
        case 8:
            chunk.unreadable = "it is encrypted; encrypted columns are not read";
            thrift_skip(t, &s);
            break;
        default:
            thrift_skip(t, &s);
        }
    if (!chunk.unreadable) {
        thrift_require(t, &s, 3, "meta_data");
        place_chunk(t, file, &meta, &chunk);
        take_range(t, file, "ColumnChunk: OffsetIndex", index_offset, index_size,
                   &chunk.index_offset, &chunk.index_size);
    }
    if (t->cursor.failed ||
        !thrift_grow(t, &file->chunks, &file->chunk_capacity, file->chunk_count))
        return;
    file->chunks[file->chunk_count++] = chunk;
}

static void read_chunks(struct thrift *t, const struct thrift_struct *s, struct parquet *file)
{
    size_t count = thrift_structs(t, s);
    if (!t->cursor.failed && count != file->column_count)
        thrift_fail(t, "RowGroup %zu: expected %zu columns, as the schema has, found %zu",
                    file->row_group_count, file->column_count, count);
    for (size_t i = 0; i < count && !t->cursor.failed; i++)
        read_chunk(t, file);
}

static void read_row_group(struct thrift *t, struct parquet *file)
{
    struct row_group group = {.first_row = file->row_count};
    struct thrift_struct s = thrift_begin(t, "RowGroup");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            read_chunks(t, &s, file);
            break;
        case 3:
            thrift_i64(t, &s, &group.row_count);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 1, "columns");
    thrift_require(t, &s, 3, "num_rows");
    if (group.row_count < 0 ||
        __builtin_add_overflow(file->row_count, group.row_count, &file->row_count))
        thrift_fail(t, "RowGroup %zu: expected a count of rows, found %lld", file->row_group_count,
                    (long long)group.row_count);
    if (t->cursor.failed ||
        !thrift_grow(t, &file->row_groups, &file->row_group_capacity, file->row_group_count))
        return;
    file->row_groups[file->row_group_count++] = group;
}

/* --- The footer. --- */

static void read_row_groups(struct thrift *t, const struct thrift_struct *s, struct parquet *file)
{
    if (!(s->seen >> 2 & 1))
        thrift_fail(t, "FileMetaData: expected the schema before the row groups");
    size_t count = thrift_structs(t, s);
    for (size_t i = 0; i < count && !t->cursor.failed; i++)
        read_row_group(t, file);
}

static void read_file_meta(struct thrift *t, struct parquet *file)
{
    int64_t row_count = 0;
    struct thrift_struct s = thrift_begin(t, "FileMetaData");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 2:
            schema_read(t, &s, file);
            break;
        case 3:
            thrift_i64(t, &s, &row_count);
            break;
        case 4:
            read_row_groups(t, &s, file);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 2, "schema");
    thrift_require(t, &s, 3, "num_rows");
    thrift_require(t, &s, 4, "row_groups");
    if (row_count != file->row_count)
        thrift_fail(t, "FileMetaData: expected %lld rows, as the row groups have, found %lld",
                    (long long)file->row_count, (long long)row_count);
}

/* The file's first and last bytes. */
static int check_marks(const struct parquet *file, const uint8_t *tail, struct bl_error *err)
{
    file_autobytes struct file_bytes head = {0};
    size_t size = file->size < LFS_BYTES ? file->size : LFS_BYTES;
    BL_TRY(file_bytes_read(file, 0, size, &head, err));
    BL_TRY(bl_refuse_lfs_pointer(head.data, size, err));
    if (!tail || memcmp(head.data, "PAR", 3))
        return bl_fail(err, BL_EFORMAT, "expected a Parquet file, which begins with PAR1");
    if (!memcmp(head.data, "PARE", MAGIC_BYTES) || !memcmp(tail + 4, "PARE", MAGIC_BYTES)) {
        bl_fail(err, BL_EFORMAT, "the file is encrypted; encrypted Parquet files are not read");
        return bl_error_remedy(err, "write it again without encryption");
    }
    if (memcmp(tail + 4, "PAR1", MAGIC_BYTES)) {
        bl_fail(err, BL_EFORMAT,
                "expected PAR1 at the end of the file, which is cut off or still being written");
        return bl_error_remedy(err, "fetch or write the file again");
    }
    return 0;
}

static int read_footer(struct parquet *file, struct bl_error *err)
{
    file_autobytes struct file_bytes tail = {0}, footer = {0};
    size_t size = file->size;
    uint32_t footer_size = 0;
    if (size < MAGIC_BYTES + TAIL_BYTES)
        return check_marks(file, NULL, err);
    BL_TRY(file_bytes_read(file, size - TAIL_BYTES, TAIL_BYTES, &tail, err));
    BL_TRY(check_marks(file, tail.data, err));
    struct bl_cursor cursor = bl_cursor(tail.data, TAIL_BYTES);
    bl_cursor_u32le(&cursor, &footer_size);
    if (footer_size > size - MAGIC_BYTES - TAIL_BYTES)
        return bl_fail(err, BL_EFORMAT,
                       "expected a footer inside the file's %zu bytes, found one of %u", size,
                       footer_size);
    BL_TRY(file_bytes_read(file, size - TAIL_BYTES - footer_size, footer_size, &footer, err));
    struct thrift t = thrift_open(footer.data, footer_size);
    read_file_meta(&t, file);
    if (thrift_result(&t, err) < 0)
        return bl_error_key(err, "footer");
    return 0;
}

/* Takes over the descriptor. */
static int open_file(int fd, const void *memory, size_t size, const char *name,
                     struct parquet **ret, struct bl_error *err)
{
    bl_auto(parquet) struct parquet *file = calloc(1, sizeof *file);
    if (!file) {
        bl_cleanup_fd_(&fd);
        return bl_fail(err, BL_ENOMEM, "no memory for a Parquet file's footer");
    }
    file->fd = fd;
    file->memory = memory;
    file->size = size;
    if (!(file->name = strdup(name)))
        return bl_fail(err, BL_ENOMEM, "no memory for a Parquet file's footer");
    if (read_footer(file, err) < 0)
        return bl_error_file(err, name);
    *ret = bl_take(&file);
    return 0;
}

int parquet_parse(const void *data, size_t size, const char *name, struct parquet **ret,
                  struct bl_error *err)
{
    return open_file(-1, data, size, name, ret, err);
}

int parquet_open(const char *path, struct parquet **ret, struct bl_error *err)
{
    struct bl_stamp stamp = {0};
    int fd = -1;
    BL_TRY(bl_file_open(path, &fd, &stamp, err));
    return open_file(fd, NULL, (size_t)stamp.size, path, ret, err);
}

int parquet_column_find(const struct parquet *file, const char *path,
                        const struct parquet_column **ret, struct bl_error *err)
{
    const struct parquet_column *found = NULL;
    for (size_t i = 0; i < file->column_count; i++) {
        if (strcmp(file->columns[i].path, path))
            continue;
        if (found) {
            bl_fail(err, BL_EFORMAT, "column \"%s\" is there twice", path);
            return bl_error_file(err, file->name);
        }
        found = &file->columns[i];
    }
    if (!found) {
        char names[256] = "";
        for (size_t i = 0, used = 0; i < file->column_count && used < sizeof names; i++)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                     file->columns[i].path);
        bl_fail(err, BL_EFORMAT, "expected a column \"%s\", found %s", path,
                names[0] ? names : "no columns");
        bl_error_remedy(err, "name one of the file's columns");
    } else if (found->unreadable) {
        bl_fail(err, BL_EFORMAT, "column \"%s\" (%s): %s", path, found->type, found->unreadable);
    } else {
        *ret = found;
        return 0;
    }
    return bl_error_file(err, file->name);
}
