/* common/parquet/reader.c - rows of a column from its decoded pages, of which those used last are kept. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/parquet/parquet_parts.h"

struct parquet_reader {
    struct part *parts;
    size_t part_count;
    int64_t row_count;
    struct span *newest, *oldest;
    size_t memory_bytes, memory_max;
    struct value_places places; /* of the page that parquet_reader_place was asked for last */
};

static int open_part(struct parquet_reader *r, const struct part *given, struct bl_error *err)
{
    struct part *part = &r->parts[r->part_count];
    *part = (struct part){.file = given->file, .column = given->column, .first_row = r->row_count};
    part->pages = calloc(part->file->row_group_count + 1, sizeof *part->pages);
    if (!part->pages)
        return bl_fail(err, BL_ENOMEM, "no memory for a reader of %zu row groups",
                       part->file->row_group_count);
    r->part_count++;
    if (__builtin_add_overflow(r->row_count, part->file->row_count, &r->row_count))
        return bl_fail(err, BL_EFORMAT, "expected a count of rows below 2^63 in all files");
    return 0;
}

int reader_open_parts(const struct part *parts, size_t count, size_t cache_bytes,
                      struct parquet_reader **ret, struct bl_error *err)
{
    bl_auto(parquet_reader) struct parquet_reader *reader = calloc(1, sizeof *reader);
    if (!reader || !(reader->parts = calloc(count, sizeof *reader->parts)))
        return bl_fail(err, BL_ENOMEM, "no memory for a reader of %zu files", count);
    reader->memory_max = cache_bytes;
    for (size_t i = 0; i < count; i++)
        BL_TRY(open_part(reader, &parts[i], err));
    *ret = bl_take(&reader);
    return 0;
}

int parquet_reader_open(const struct parquet *file, const struct parquet_column *column,
                        size_t cache_bytes, struct parquet_reader **ret, struct bl_error *err)
{
    BL_ASSERT(column >= file->columns && column < file->columns + file->column_count);
    BL_ASSERT(!column->unreadable);
    struct part part = {.file = file, .column = column};
    return reader_open_parts(&part, 1, cache_bytes, ret, err);
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
    value_places_release(&r->places);
    for (size_t p = 0; p < r->part_count; p++) {
        for (size_t i = 0; i < r->parts[p].file->row_group_count; i++)
            pages_release(&r->parts[p].pages[i]);
        free(r->parts[p].pages);
    }
    free(r->parts);
    free(r);
    *reader = NULL;
}

/* --- Rows. --- */

/* The index of the last item that begins at or before the row: of files and row groups, those without rows come before it. */
#define FIND_ROW(items, count, row)                                                                \
    __extension__({                                                                                \
        size_t low_ = 0, high_ = (count);                                                          \
        while (high_ - low_ > 1) {                                                                 \
            size_t middle_ = low_ + (high_ - low_) / 2;                                            \
            *((items)[middle_].first_row <= (row) ? &low_ : &high_) = middle_;                     \
        }                                                                                          \
        low_;                                                                                      \
    })

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

static int find_span(struct parquet_reader *r, const struct chunk_name *name, struct pages *pages,
                     int64_t group_row, struct span **ret, struct bl_error *err)
{
    BL_TRY(pages_find(name, pages, err));
    size_t place = FIND_ROW(pages->places, pages->count, group_row);
    struct span *span = pages->places[place].span;
    if (span) {
        unlink_span(r, span);
        link_newest(r, span);
    } else {
        BL_TRY(decode(r, name, pages, place, err));
    }
    *ret = pages->places[place].span;
    return 0;
}

/* Where a row is: the chunk's name, its pages, the row inside the row group. */
static struct pages *find_chunk(const struct parquet_reader *r, int64_t row,
                                struct chunk_name *ret_name, int64_t *ret_group_row)
{
    BL_ASSERT_CMP(row, >=, 0);
    BL_ASSERT_CMP(row, <, r->row_count);
    const struct part *part = &r->parts[FIND_ROW(r->parts, r->part_count, row)];
    const struct parquet *file = part->file;
    int64_t file_row = row - part->first_row;
    size_t group = FIND_ROW(file->row_groups, file->row_group_count, file_row);
    *ret_name = (struct chunk_name){.file = file, .column = part->column, .row_group = group};
    *ret_group_row = file_row - file->row_groups[group].first_row;
    return &part->pages[group];
}

int parquet_reader_rows(struct parquet_reader *reader, int64_t row, struct parquet_rows *ret,
                        struct bl_error *err)
{
    struct chunk_name name;
    struct span *span = NULL;
    int64_t group_row;
    struct pages *pages = find_chunk(reader, row, &name, &group_row);
    if (find_span(reader, &name, pages, group_row, &span, err) < 0)
        return bl_error_file(err, name.file->name);
    int64_t skip = group_row - span->place->first_row;
    *ret = (struct parquet_rows){.file = name.file,
                                 .first_row = row,
                                 .row_count = span->row_count - skip,
                                 .values = span->starts ? span->values : span->values + skip,
                                 .starts = span->starts ? span->starts + skip : NULL,
                                 .null_lists = span->null_lists ? span->null_lists + skip : NULL};
    return 0;
}

static int find_places(struct parquet_reader *r, const struct chunk_name *name, struct pages *pages,
                       int64_t group_row, struct bl_error *err)
{
    BL_TRY(pages_find(name, pages, err));
    size_t i = FIND_ROW(pages->places, pages->count, group_row);
    if (r->places.page == &pages->places[i])
        return 0;
    value_places_release(&r->places);
    return value_places_find(name, pages, i, &r->places, err);
}

int parquet_reader_place(struct parquet_reader *reader, int64_t row, struct parquet_place *ret,
                         struct bl_error *err)
{
    struct chunk_name name;
    int64_t group_row;
    struct pages *pages = find_chunk(reader, row, &name, &group_row);
    *ret = (struct parquet_place){0};
    if (name.column->list || name.column->kind != PARQUET_BYTES)
        return 0;
    if (find_places(reader, &name, pages, group_row, err) < 0)
        return bl_error_file(err, name.file->name);
    if (!reader->places.at)
        return 0;
    const struct value_place *at = &reader->places.at[group_row - reader->places.page->first_row];
    *ret = (struct parquet_place){
        .known = true, .null = at->null, .offset = at->offset, .size = at->size};
    return 0;
}
