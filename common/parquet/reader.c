/* common/parquet/reader.c - rows of a column from its decoded pages, of which those used last are kept. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/parquet/parquet_parts.h"

struct parquet_reader {
    const struct parquet *file;
    const struct parquet_column *column;
    struct pages *pages; /* a row group each */
    struct span *newest, *oldest;
    size_t memory_bytes, memory_max;
};

int parquet_reader_open(const struct parquet *file, const struct parquet_column *column,
                        size_t cache_bytes, struct parquet_reader **ret, struct bl_error *err)
{
    BL_ASSERT(column >= file->columns && column < file->columns + file->column_count);
    BL_ASSERT(!column->unreadable);
    bl_auto(parquet_reader) struct parquet_reader *reader = calloc(1, sizeof *reader);
    if (!reader || !(reader->pages = calloc(file->row_group_count + 1, sizeof *reader->pages)))
        return bl_fail(err, BL_ENOMEM, "no memory for a reader of %zu row groups",
                       file->row_group_count);
    reader->file = file;
    reader->column = column;
    reader->memory_max = cache_bytes;
    *ret = bl_take(&reader);
    return 0;
}

/* --- The list of decoded pages, newest first. --- */

static void unlink_span(struct parquet_reader *r, struct span *span)
{
    *(span->newer ? &span->newer->older : &r->newest) = span->older;
    *(span->older ? &span->older->newer : &r->oldest) = span->newer;
}

static void link_newest(struct parquet_reader *r, struct span *span)
{
    span->newer = NULL;
    span->older = r->newest;
    *(r->newest ? &r->newest->newer : &r->oldest) = span;
    r->newest = span;
}

static void forget(struct parquet_reader *r, struct span *span)
{
    struct pages *pages = span->pages;
    unlink_span(r, span);
    r->memory_bytes -= span->memory_bytes;
    span->place->span = NULL;
    if (--pages->span_count == 0) {
        r->memory_bytes -= pages->dictionary_bytes;
        pages_forget_dictionary(pages);
    }
    span_let_go(r->file, span);
    span_free(&span);
}

static void keep(struct parquet_reader *r, struct span *span)
{
    link_newest(r, span);
    span->place->span = span;
    span->pages->span_count++;
    r->memory_bytes += span->memory_bytes;
    while (r->memory_bytes > r->memory_max && r->oldest != span)
        forget(r, r->oldest);
}

void parquet_reader_free(struct parquet_reader **reader)
{
    struct parquet_reader *r = *reader;
    if (!r)
        return;
    while (r->newest)
        forget(r, r->newest);
    for (size_t i = 0; r->pages && i < r->file->row_group_count; i++)
        pages_release(&r->pages[i]);
    free(r->pages);
    free(r);
    *reader = NULL;
}

/* --- Rows. --- */

/* The last row group that begins at or before the row: those without rows come before it. */
static size_t find_row_group(const struct parquet *file, int64_t row)
{
    size_t low = 0, high = file->row_group_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (file->row_groups[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static size_t find_place(const struct pages *pages, int64_t row)
{
    size_t low = 0, high = pages->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (pages->places[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int decode(struct parquet_reader *r, const struct chunk_name *name, struct pages *pages,
                  size_t place, struct bl_error *err)
{
    struct span *span = NULL;
    size_t dictionary_before = pages->dictionary_bytes;
    int rc = span_decode(name, pages, place, &span, err);
    r->memory_bytes += pages->dictionary_bytes - dictionary_before;
    if (rc < 0 && pages->span_count == 0) {
        r->memory_bytes -= pages->dictionary_bytes;
        pages_forget_dictionary(pages);
    }
    if (rc == 0)
        keep(r, span);
    return rc;
}

int parquet_reader_rows(struct parquet_reader *reader, int64_t row, struct parquet_rows *ret,
                        struct bl_error *err)
{
    const struct parquet *file = reader->file;
    BL_ASSERT_CMP(row, >=, 0);
    BL_ASSERT_CMP(row, <, file->row_count);
    struct chunk_name name = {
        .file = file, .column = reader->column, .row_group = find_row_group(file, row)};
    struct pages *pages = &reader->pages[name.row_group];
    int64_t group_row = row - file->row_groups[name.row_group].first_row;
    if (pages_find(&name, pages, err) < 0)
        return bl_error_file(err, file->name);
    size_t place = find_place(pages, group_row);
    struct span *span = pages->places[place].span;
    if (span) {
        unlink_span(reader, span);
        link_newest(reader, span);
    } else if (decode(reader, &name, pages, place, err) < 0) {
        return bl_error_file(err, file->name);
    }
    span = pages->places[place].span;
    int64_t skip = group_row - span->place->first_row;
    *ret = (struct parquet_rows){.first_row = row,
                                 .row_count = span->row_count - skip,
                                 .values = span->starts ? span->values : span->values + skip,
                                 .starts = span->starts ? span->starts + skip : NULL,
                                 .null_lists = span->null_lists ? span->null_lists + skip : NULL};
    return 0;
}
