/* common/parquet/span.c - decoded rows: levels tell which values are null and where lists begin.
 *
 * A column chunk is a sequence of entries, each with a definition and a repetition level. Of a flat column an entry is a row. Of a
 * list it is an element, or an empty or null list (definition below the list's); repetition 0 begins a row. Values that are not
 * null come densely packed in the same order. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/parquet/parquet_parts.h"

void span_free(struct span **span)
{
    struct span *s = *span;
    if (!s)
        return;
    for (size_t i = 0; i < s->body_count; i++) {
        page_body_release(&s->bodies[i]);
        values_memory_release(&s->memories[i]);
    }
    free(s->bodies);
    free(s->memories);
    free(s->values);
    free(s->starts);
    free(s->null_lists);
    free(s);
    *span = NULL;
}

/* --- Size. --- */

static bool is_data(const struct page *page)
{
    return page->type == PAGE_DATA || page->type == PAGE_DATA_V2;
}

/* Data pages and entries of a place. */
static int count_entries(const struct chunk_name *name, const struct span_place *place,
                         size_t *ret_pages, size_t *ret_entries, struct bl_error *err)
{
    const struct column_chunk *chunk = chunk_of(name);
    size_t pages = 0, entries = 0;
    for (size_t offset = place->offset; offset < place->end;) {
        struct page page;
        if (page_read(name->file, chunk, offset, &page, err) < 0)
            return chunk_error(name, offset, err);
        pages += is_data(&page);
        entries += is_data(&page) ? (size_t)page.value_count : 0;
        if (entries > BL_PARQUET_PAGE_VALUES_MAX) {
            bl_fail(err, BL_ELIMIT, "expected pages of at most %d values, found %zu",
                    BL_PARQUET_PAGE_VALUES_MAX, entries);
            bl_error_remedy(err, "write the file again with smaller pages");
            return chunk_error(name, offset, err);
        }
        offset = page.end;
    }
    *ret_pages = pages;
    *ret_entries = entries;
    return 0;
}

static int allocate(struct span *s, bool list, size_t pages, size_t entries, size_t rows,
                    struct bl_error *err)
{
    s->bodies = calloc(pages + 1, sizeof *s->bodies);
    s->memories = calloc(pages + 1, sizeof *s->memories);
    s->values = malloc((entries + 1) * sizeof *s->values);
    s->memory_bytes = sizeof *s + (pages + 1) * (sizeof *s->bodies + sizeof *s->memories) +
                      (entries + 1) * sizeof *s->values;
    if (list) {
        s->starts = malloc((rows + 1) * sizeof *s->starts);
        s->null_lists = malloc(rows + 1);
        s->memory_bytes += (rows + 1) * (sizeof *s->starts + 1);
    }
    if (!s->bodies || !s->memories || !s->values || (list && (!s->starts || !s->null_lists)))
        return bl_fail(err, BL_ENOMEM, "no memory for %zu values of a page", entries);
    return 0;
}

/* --- Entries. --- */

/* Begins rows and drops the entries that are no elements from the definition levels: *ret_count are left. */
static int take_lists(struct span *s, const struct parquet_column *column, int64_t rows,
                      const uint8_t *repetition, uint8_t *definition, size_t count,
                      size_t *ret_count, struct bl_error *err)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        bool element = definition[i] >= column->list_definition;
        if (repetition[i] == 0) {
            if (s->row_count >= rows)
                return bl_fail(err, BL_EFORMAT, "expected %lld rows, found more", (long long)rows);
            s->starts[s->row_count] = (uint32_t)(s->value_count + kept);
            s->null_lists[s->row_count++] = definition[i] < column->list_definition - 1;
        } else if (s->row_count == 0 || !element) {
            return bl_fail(err, BL_EFORMAT, "expected %s, found the middle of a row",
                           element ? "a page to begin with a row"
                                   : "a null or empty list to be all of its row");
        }
        definition[kept] = definition[i];
        kept += element;
    }
    *ret_count = kept;
    return 0;
}

/* Moves the dense values to where the definition levels have them; the others are null. */
static void spread(struct parquet_value *values, const uint8_t *definition, int max, size_t count,
                   size_t dense)
{
    while (count > dense) {
        count--;
        values[count] =
            definition[count] == max ? values[--dense] : (struct parquet_value){.null = true};
    }
}

/* All values of a page of entries' levels in `levels`, 2 x count bytes. */
static int decode_body(const struct chunk_name *name, const struct page *page, struct pages *pages,
                       int64_t rows, size_t page_index, uint8_t *levels, struct span *s,
                       struct bl_error *err)
{
    const struct parquet_column *column = name->column;
    const struct page_body *body = &s->bodies[page_index];
    size_t count = (size_t)page->value_count, dense = 0;
    uint8_t *definition = levels, *repetition = levels + count;
    memset(levels, 0, 2 * count);
    if (column->definition_max)
        BL_TRY(levels_decode(body->definition, body->definition_size, column->definition_max, count,
                             definition, err));
    if (column->list) {
        BL_TRY(levels_decode(body->repetition, body->repetition_size, 1, count, repetition, err));
        BL_TRY(take_lists(s, column, rows, repetition, definition, count, &count, err));
    } else {
        s->row_count += (int64_t)count;
    }
    for (size_t i = 0; i < count; i++)
        dense += definition[i] == column->definition_max;
    struct parquet_value *values = s->values + s->value_count;
    BL_TRY(values_decode(column, page->encoding, body->values, body->values_size,
                         pages->dictionary_bytes ? &pages->dictionary : NULL, dense, values,
                         &s->memories[page_index], err));
    spread(values, definition, column->definition_max, count, dense);
    s->value_count += count;
    s->memory_bytes += body->owned_size + s->memories[page_index].owned_size;
    return 0;
}

static int decode_page(const struct chunk_name *name, const struct page *page, struct pages *pages,
                       int64_t rows, struct span *s, struct bl_error *err)
{
    bl_autofree uint8_t *levels = malloc(2 * (size_t)page->value_count + 1);
    if (!levels)
        return bl_fail(err, BL_ENOMEM, "no memory for the levels of %d values", page->value_count);
    if (page->encoding == ENCODING_PLAIN_DICTIONARY || page->encoding == ENCODING_RLE_DICTIONARY)
        BL_TRY(pages_read_dictionary(name, pages, err));
    size_t i = s->body_count++;
    BL_TRY(page_body(name->file, page, chunk_of(name), name->column, &s->bodies[i], err));
    return decode_body(name, page, pages, rows, i, levels, s, err);
}

static int decode_pages(const struct chunk_name *name, struct pages *pages, int64_t rows,
                        struct span *s, struct bl_error *err)
{
    for (size_t offset = s->place->offset; offset < s->place->end;) {
        struct page page;
        int rc = page_read(name->file, chunk_of(name), offset, &page, err);
        if (rc == 0 && is_data(&page))
            rc = decode_page(name, &page, pages, rows, s, err);
        if (rc < 0)
            return chunk_error(name, offset, err);
        offset = page.end;
    }
    if (s->row_count == rows)
        return 0;
    bl_fail(err, BL_EFORMAT, "expected %lld rows, found %lld", (long long)rows,
            (long long)s->row_count);
    return chunk_error(name, s->place->offset, err);
}

int span_decode(const struct chunk_name *name, struct pages *pages, size_t place, struct span **ret,
                struct bl_error *err)
{
    bl_auto(span) struct span *s = calloc(1, sizeof *s);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for a page");
    size_t page_count = 0, entries = 0;
    int64_t rows = pages_rows(name, pages, place);
    s->pages = pages;
    s->place = &pages->places[place];
    BL_TRY(count_entries(name, s->place, &page_count, &entries, err));
    if (rows > (int64_t)entries) {
        bl_fail(err, BL_EFORMAT, "expected %lld rows, found %zu values", (long long)rows, entries);
        return chunk_error(name, s->place->offset, err);
    }
    BL_TRY(allocate(s, name->column->list, page_count, entries, (size_t)rows, err));
    BL_TRY(decode_pages(name, pages, rows, s, err));
    if (s->starts)
        s->starts[s->row_count] = (uint32_t)s->value_count;
    *ret = bl_take(&s);
    return 0;
}
