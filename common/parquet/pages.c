/* common/parquet/pages.c - where the pages of a column chunk are, which rows they hold, and the chunk's dictionary. */
#include <stdlib.h>
#include <string.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/limits.h"
#include "common/parquet/parquet_parts.h"

const struct column_chunk *chunk_of(const struct chunk_name *name)
{
    const struct parquet *f = name->file;
    return &f->chunks[name->row_group * f->column_count + (size_t)(name->column - f->columns)];
}

static int64_t rows_of(const struct chunk_name *name)
{
    return name->file->row_groups[name->row_group].row_count;
}

int chunk_error(const struct chunk_name *name, size_t page_offset, struct bl_error *err)
{
    return bl_error_key(err, "row group %zu, column \"%.60s\", page at byte %zu", name->row_group,
                        name->column->path, page_offset);
}

int64_t pages_rows(const struct chunk_name *name, const struct pages *pages, size_t i)
{
    int64_t end = i + 1 < pages->count ? pages->places[i + 1].first_row : rows_of(name);
    return end - pages->places[i].first_row;
}

static int add_place(struct pages *pages, struct span_place place, struct bl_error *err)
{
    if (!bl_grow(&pages->places, &pages->capacity, pages->count + 1, sizeof *pages->places))
        return bl_fail(err, BL_ENOMEM, "no memory for the places of %zu pages", pages->count + 1);
    pages->places[pages->count++] = place;
    return 0;
}

/* --- By the OffsetIndex. --- */

static void read_location(struct thrift *t, int64_t *ret_offset, int32_t *ret_size,
                          int64_t *ret_row)
{
    struct thrift_struct s = thrift_begin(t, "PageLocation");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            thrift_i64(t, &s, ret_offset);
            break;
        case 2:
            thrift_i32(t, &s, ret_size);
            break;
        case 3:
            thrift_i64(t, &s, ret_row);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 1, "offset");
    thrift_require(t, &s, 2, "compressed_page_size");
    thrift_require(t, &s, 3, "first_row_index");
}

/* Places lie one behind the other, inside the chunk; their rows go up from 0. */
static int take_location(const struct chunk_name *name, struct pages *pages, int64_t offset,
                         int32_t size, int64_t row, struct bl_error *err)
{
    const struct column_chunk *chunk = chunk_of(name);
    struct span_place *last = pages->count ? &pages->places[pages->count - 1] : NULL;
    int64_t begin = (int64_t)(last ? last->end : chunk->offset),
            end = (int64_t)(chunk->offset + chunk->size);
    if (offset < begin || offset > end || size < 0 || size > end - offset)
        return bl_fail(err, BL_EFORMAT,
                       "expected a page between bytes %lld and %lld, found %d bytes at %lld",
                       (long long)begin, (long long)end, size, (long long)offset);
    if (row < 0 || row >= rows_of(name) || (last ? row < last->first_row : row != 0))
        return bl_fail(err, BL_EFORMAT,
                       "expected pages whose rows go up from 0 to less than %lld, found row %lld",
                       (long long)rows_of(name), (long long)row);
    if (last && row == last->first_row) {
        last->end = (size_t)(offset + size);
        return 0;
    }
    return add_place(pages,
                     (struct span_place){.offset = (size_t)offset,
                                         .end = (size_t)(offset + size),
                                         .first_row = row},
                     err);
}

static int read_locations(const struct chunk_name *name, struct pages *pages, struct bl_error *err)
{
    const struct column_chunk *chunk = chunk_of(name);
    file_autobytes struct file_bytes bytes = {0};
    BL_TRY(file_bytes_read(name->file, chunk->index_offset, chunk->index_size, &bytes, err));
    struct thrift t = thrift_open(bytes.data, chunk->index_size);
    struct thrift_struct s = thrift_begin(&t, "OffsetIndex");
    while (thrift_next(&t, &s)) {
        if (s.id != 1) {
            thrift_skip(&t, &s);
            continue;
        }
        size_t count = thrift_structs(&t, &s);
        for (size_t i = 0; i < count && !t.cursor.failed; i++) {
            int64_t offset = 0, row = 0;
            int32_t size = 0;
            read_location(&t, &offset, &size, &row);
            if (!t.cursor.failed)
                BL_TRY(take_location(name, pages, offset, size, row, err));
        }
    }
    thrift_require(&t, &s, 1, "page_locations");
    return thrift_result(&t, err);
}

static int find_by_index(const struct chunk_name *name, struct pages *pages, struct bl_error *err)
{
    int rc = read_locations(name, pages, err);
    if (rc == 0 && pages->count == 0)
        rc = bl_fail(err, BL_EFORMAT, "expected pages of %lld rows, found none",
                     (long long)rows_of(name));
    if (rc < 0)
        bl_error_key(err, "row group %zu, column \"%.60s\", OffsetIndex at byte %zu",
                     name->row_group, name->column->path, chunk_of(name)->index_offset);
    return rc;
}

/* --- By passing over the headers. --- */

/* How many rows begin in a data page, and whether it begins inside one. */
static int count_rows(const struct chunk_name *name, const struct page *page, int64_t *ret_rows,
                      bool *ret_inside, struct bl_error *err)
{
    *ret_rows =
        page->type == PAGE_DATA_V2 && name->column->list ? page->row_count : page->value_count;
    *ret_inside = page->value_count == 0;
    if (!name->column->list || page->type == PAGE_DATA_V2 || page->value_count == 0)
        return 0;
    page_autobody struct page_body body = {0};
    size_t count = (size_t)page->value_count;
    BL_TRY(page_body(name->file, page, chunk_of(name), name->column, &body, err));
    bl_autofree uint8_t *levels = malloc(count);
    if (!levels)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu levels", count);
    BL_TRY(levels_decode(body.repetition, body.repetition_size, 1, count, levels, err));
    *ret_rows = 0;
    for (size_t i = 0; i < count; i++)
        *ret_rows += levels[i] == 0;
    *ret_inside = levels[0] != 0;
    return 0;
}

static int take_page(const struct chunk_name *name, struct pages *pages, size_t offset,
                     const struct page *page, int64_t *row, struct bl_error *err)
{
    int64_t rows = 0;
    bool inside = false;
    BL_TRY(count_rows(name, page, &rows, &inside, err));
    if (rows > rows_of(name) - *row)
        return bl_fail(err, BL_EFORMAT,
                       "expected %lld more rows of the row group at most, found %lld",
                       (long long)(rows_of(name) - *row), (long long)rows);
    if (!inside)
        BL_TRY(add_place(pages,
                         (struct span_place){.offset = offset, .end = page->end, .first_row = *row},
                         err));
    else if (pages->count)
        pages->places[pages->count - 1].end = page->end;
    else if (page->value_count)
        return bl_fail(err, BL_EFORMAT,
                       "expected the first page to begin with a row, found the middle of one");
    *row += rows;
    return 0;
}

static int find_by_headers(const struct chunk_name *name, struct pages *pages, struct bl_error *err)
{
    const struct column_chunk *chunk = chunk_of(name);
    size_t offset = chunk->offset;
    int64_t row = 0;
    for (int64_t left = chunk->value_count; left > 0;) {
        struct page page;
        int rc = offset < chunk->offset + chunk->size
                     ? page_read(name->file, chunk, offset, &page, err)
                     : bl_fail(err, BL_EFORMAT,
                               "expected pages of %lld more values, found the column chunk's end",
                               (long long)left);
        if (rc < 0)
            return chunk_error(name, offset, err);
        if (page.type == PAGE_DATA || page.type == PAGE_DATA_V2) {
            if (take_page(name, pages, offset, &page, &row, err) < 0)
                return chunk_error(name, offset, err);
            left -= page.value_count;
        }
        offset = page.end;
    }
    if (row == rows_of(name))
        return 0;
    bl_fail(err, BL_EFORMAT, "expected %lld rows in its pages, found %lld",
            (long long)rows_of(name), (long long)row);
    return bl_error_key(err, "row group %zu, column \"%.60s\"", name->row_group,
                        name->column->path);
}

/* Files may have 100,000 row groups of one page each. */
static void give_back_room(struct pages *pages)
{
    struct span_place *exact =
        pages->count ? realloc(pages->places, pages->count * sizeof *exact) : NULL;
    if (!exact)
        return;
    pages->places = exact;
    pages->capacity = pages->count;
}

int pages_find(const struct chunk_name *name, struct pages *pages, struct bl_error *err)
{
    const struct column_chunk *chunk = chunk_of(name);
    if (pages->found || rows_of(name) == 0)
        return 0;
    if (chunk->unreadable || chunk->type != name->column->physical_type) {
        bl_fail(err, BL_EFORMAT, "%s",
                chunk->unreadable ? chunk->unreadable : "expected the type that the schema has");
        return bl_error_key(err, "row group %zu, column \"%.60s\"", name->row_group,
                            name->column->path);
    }
    pages->count = 0;
    BL_TRY(chunk->index_size ? find_by_index(name, pages, err) : find_by_headers(name, pages, err));
    pages->found = true;
    give_back_room(pages);
    return 0;
}

/* --- The dictionary. --- */

static int decode_dictionary(const struct chunk_name *name, const struct page *page,
                             struct pages *pages, struct bl_error *err)
{
    size_t count = (size_t)page->value_count;
    struct values_memory none = {0};
    if (page->encoding != ENCODING_PLAIN && page->encoding != ENCODING_PLAIN_DICTIONARY)
        return bl_fail(err, BL_EFORMAT, "expected a dictionary encoded as PLAIN, found encoding %d",
                       page->encoding);
    if (count > page->full_size)
        return bl_fail(err, BL_EFORMAT,
                       "expected at most %zu values in the dictionary's bytes, found %zu",
                       page->full_size, count);
    BL_TRY(page_body(name->file, page, chunk_of(name), name->column, &pages->dictionary_body, err));
    struct parquet_value *values = malloc((count ? count : 1) * sizeof *values);
    if (!values)
        return bl_fail(err, BL_ENOMEM, "no memory for a dictionary of %zu values", count);
    pages->dictionary = (struct dictionary){.values = values, .count = count};
    const struct page_body *body = &pages->dictionary_body;
    BL_TRY(values_decode(name->column, ENCODING_PLAIN, body->values, body->values_size, NULL, count,
                         values, &none, err));
    pages->dictionary_bytes = count * sizeof *values + body->owned_size + sizeof *body;
    return 0;
}

int pages_read_dictionary(const struct chunk_name *name, struct pages *pages, struct bl_error *err)
{
    const struct column_chunk *chunk = chunk_of(name);
    struct page page;
    if (pages->dictionary_bytes)
        return 0;
    int rc = page_read(name->file, chunk, chunk->offset, &page, err);
    if (rc == 0 && page.type == PAGE_DICTIONARY)
        rc = decode_dictionary(name, &page, pages, err);
    if (rc == 0)
        return 0;
    pages_forget_dictionary(pages);
    return chunk_error(name, chunk->offset, err);
}

void pages_forget_dictionary(struct pages *pages)
{
    free(pages->dictionary.values);
    pages->dictionary = (struct dictionary){0};
    page_body_release(&pages->dictionary_body);
    pages->dictionary_bytes = 0;
}

void pages_release(struct pages *pages)
{
    pages_forget_dictionary(pages);
    free(pages->places);
    *pages = (struct pages){0};
}
