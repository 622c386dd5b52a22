/* common/parquet/places.c - where in the file the values of a page lie, without reading them: images of a row group are often one
 * page of many megabytes, of which one is wanted.
 *
 * A page of flat byte arrays that is neither compressed nor encoded: levels, then each value that is not null as its length (u32
 * little-endian) and its bytes. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/parquet/codec.h"
#include "common/parquet/parquet_parts.h"

enum { WINDOW_BYTES = 4096 };

void value_places_release(struct value_places *places)
{
    free(places->at);
    *places = (struct value_places){0};
}

/* The place's data page, if it is one that values lie in verbatim. */
static int find_page(const struct chunk_name *name, const struct span_place *place,
                     struct page *ret, bool *ret_verbatim, struct bl_error *err)
{
    const struct column_chunk *chunk = chunk_of(name);
    int data_pages = 0;
    *ret_verbatim = false;
    for (size_t offset = place->offset; offset < place->end;) {
        struct page page;
        if (page_read(name->file, chunk, offset, &page, err) < 0)
            return chunk_error(name, offset, err);
        if (page.type == PAGE_DATA || page.type == PAGE_DATA_V2) {
            bool plain = chunk->codec == CODEC_UNCOMPRESSED && page.encoding == ENCODING_PLAIN;
            *ret_verbatim = ++data_pages == 1 && plain && !page.has_crc &&
                            page.size == page.full_size &&
                            page.value_count <= BL_PARQUET_PAGE_VALUES_MAX;
            *ret = page;
        }
        offset = page.end;
    }
    return 0;
}

/* The size of a page's definition levels; *at moves from the page's beginning to theirs. */
static int find_levels(const struct chunk_name *name, const struct page *page, size_t *at,
                       uint32_t *ret_size, struct bl_error *err)
{
    file_autobytes struct file_bytes bytes = {0};
    if (page->type == PAGE_DATA_V2) {
        *at += (size_t)page->repetition_size; /* of a flat column 0 */
        *ret_size = (uint32_t)page->definition_size;
        return 0;
    }
    if (!name->column->definition_max)
        return 0;
    if (page->size < sizeof *ret_size)
        return bl_fail(err, BL_EFORMAT, "expected levels inside the page, found the page's end");
    BL_TRY(file_bytes_read(name->file, *at, sizeof *ret_size, &bytes, err));
    struct bl_cursor cursor = bl_cursor(bytes.data, sizeof *ret_size);
    bl_cursor_u32le(&cursor, ret_size);
    *at += sizeof *ret_size;
    return 0;
}

/* The page's definition levels, which tell nulls; NULL: it has none. *ret_values is the offset behind them. */
static int read_levels(const struct chunk_name *name, const struct page *page, uint8_t **ret,
                       size_t *ret_values, struct bl_error *err)
{
    file_autobytes struct file_bytes bytes = {0};
    size_t count = (size_t)page->value_count, at = page->offset, end = page->offset + page->size;
    uint32_t size = 0;
    BL_TRY(find_levels(name, page, &at, &size, err));
    if (at > end || size > end - at)
        return bl_fail(err, BL_EFORMAT, "expected levels inside the page, found the page's end");
    *ret_values = at + size;
    if (!name->column->definition_max)
        return 0;
    bl_autofree uint8_t *levels = malloc(count + 1);
    if (!levels)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu levels", count);
    BL_TRY(file_bytes_read(name->file, at, size, &bytes, err));
    BL_TRY(levels_decode(bytes.data, size, name->column->definition_max, count, levels, err));
    *ret = bl_take(&levels);
    return 0;
}

/* What was read last of the file, so that short values do not cost a call each; between long ones only lengths are read. */
struct window {
    const struct parquet *file;
    size_t offset, size, end; /* of what is in bytes; of the page */
    uint8_t bytes[WINDOW_BYTES];
};

static int read_length(struct window *w, size_t at, uint32_t *ret, struct bl_error *err)
{
    if (at > w->end || w->end - at < sizeof *ret)
        return bl_fail(err, BL_EFORMAT, "expected a value's length, found the page's end");
    if (!w->size || at < w->offset || at - w->offset + sizeof *ret > w->size) {
        bool far = w->size && at - w->offset > WINDOW_BYTES;
        size_t wanted = far ? sizeof *ret : WINDOW_BYTES;
        w->offset = at;
        w->size = w->end - at < wanted ? w->end - at : wanted;
        BL_TRY(file_read(w->file, at, w->size, w->bytes, err));
    }
    struct bl_cursor cursor = bl_cursor(w->bytes + (at - w->offset), sizeof *ret);
    bl_cursor_u32le(&cursor, ret);
    return 0;
}

static int walk(const struct chunk_name *name, const struct page *page, const uint8_t *levels,
                size_t at, struct value_place *ret, struct bl_error *err)
{
    struct window w = {.file = name->file, .end = page->offset + page->size};
    for (size_t i = 0; i < (size_t)page->value_count; i++) {
        uint32_t size = 0;
        if (levels && levels[i] != name->column->definition_max) {
            ret[i] = (struct value_place){.null = true};
            continue;
        }
        BL_TRY(read_length(&w, at, &size, err));
        at += sizeof size;
        if (size > w.end - at)
            return bl_fail(err, BL_EFORMAT, "expected a value of %u bytes, found the page's end",
                           size);
        ret[i] = (struct value_place){.offset = at, .size = size};
        at += size;
    }
    return 0;
}

int value_places_find(const struct chunk_name *name, const struct pages *pages, size_t place,
                      struct value_places *ret, struct bl_error *err)
{
    const struct span_place *span = &pages->places[place];
    bl_autofree struct value_place *at = NULL;
    bl_autofree uint8_t *levels = NULL;
    struct page page = {0};
    size_t values = 0;
    bool verbatim;
    BL_TRY(find_page(name, span, &page, &verbatim, err));
    if (verbatim && page.value_count == pages_rows(name, pages, place)) {
        at = malloc(((size_t)page.value_count + 1) * sizeof *at);
        if (!at)
            return bl_fail(err, BL_ENOMEM, "no memory for %d places of values", page.value_count);
        if (read_levels(name, &page, &levels, &values, err) < 0 ||
            walk(name, &page, levels, values, at, err) < 0)
            return chunk_error(name, span->offset, err);
    }
    *ret = (struct value_places){.page = span, .at = bl_take(&at)};
    return 0;
}
