/* common/parquet/page.c - a page: a header (Thrift), then its bytes, compressed or not.
 *
 * Data page v1: everything is compressed together: repetition levels and definition levels, each with its length before it and
 * absent if its maximum is 0, then values. v2: levels are never compressed, and the header has their lengths. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/parquet/codec.h"
#include "common/parquet/parquet_parts.h"
#include "common/size.h"

static void read_data_header(struct thrift *t, struct page *page)
{
    struct thrift_struct s = thrift_begin(t, "DataPageHeader");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            thrift_i32(t, &s, &page->value_count);
            break;
        case 2:
            thrift_i32(t, &s, &page->encoding);
            break;
        case 3:
            thrift_i32(t, &s, &page->definition_encoding);
            break;
        case 4:
            thrift_i32(t, &s, &page->repetition_encoding);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 1, "num_values");
    thrift_require(t, &s, 2, "encoding");
    thrift_require(t, &s, 3, "definition_level_encoding");
    thrift_require(t, &s, 4, "repetition_level_encoding");
}

static void read_dictionary_header(struct thrift *t, struct page *page)
{
    struct thrift_struct s = thrift_begin(t, "DictionaryPageHeader");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            thrift_i32(t, &s, &page->value_count);
            break;
        case 2:
            thrift_i32(t, &s, &page->encoding);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 1, "num_values");
    thrift_require(t, &s, 2, "encoding");
}

static void read_data_header_v2(struct thrift *t, struct page *page)
{
    struct thrift_struct s = thrift_begin(t, "DataPageHeaderV2");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            thrift_i32(t, &s, &page->value_count);
            break;
        case 3:
            thrift_i32(t, &s, &page->row_count);
            break;
        case 4:
            thrift_i32(t, &s, &page->encoding);
            break;
        case 5:
            thrift_i32(t, &s, &page->definition_size);
            break;
        case 6:
            thrift_i32(t, &s, &page->repetition_size);
            break;
        case 7:
            thrift_bool(t, &s, &page->compressed);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 1, "num_values");
    thrift_require(t, &s, 3, "num_rows");
    thrift_require(t, &s, 4, "encoding");
    thrift_require(t, &s, 5, "definition_levels_byte_length");
    thrift_require(t, &s, 6, "repetition_levels_byte_length");
}

/* The field of PageHeader that holds the header of a page of that type. */
static int header_field(int32_t type)
{
    return type == PAGE_DATA ? 5 : type == PAGE_INDEX ? 6 : type == PAGE_DICTIONARY ? 7 : 8;
}

static void check_header(struct thrift *t, const struct thrift_struct *s, int32_t full_size,
                         int32_t stored_size, const struct page *page)
{
    thrift_require(t, s, 1, "type");
    thrift_require(t, s, 2, "uncompressed_page_size");
    thrift_require(t, s, 3, "compressed_page_size");
    if (page->type < PAGE_DATA || page->type > PAGE_DATA_V2)
        thrift_fail(t, "PageHeader: expected a page type of 0 to 3, found %d", page->type);
    else if (page->type != PAGE_INDEX)
        thrift_require(t, s, header_field(page->type), "with the header of its type");
    if (full_size < 0 || stored_size < 0 || page->value_count < 0 || page->row_count < 0 ||
        page->definition_size < 0 || page->repetition_size < 0)
        thrift_fail(t, "PageHeader: expected sizes and counts of at least 0");
}

static void read_header(struct thrift *t, struct page *page)
{
    int32_t full_size = 0, stored_size = 0, crc = 0;
    struct thrift_struct s = thrift_begin(t, "PageHeader");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            thrift_i32(t, &s, &page->type);
            break;
        case 2:
            thrift_i32(t, &s, &full_size);
            break;
        case 3:
            thrift_i32(t, &s, &stored_size);
            break;
        case 4:
            thrift_i32(t, &s, &crc);
            break;
        case 5:
            thrift_nested(t, &s);
            read_data_header(t, page);
            break;
        case 7:
            thrift_nested(t, &s);
            read_dictionary_header(t, page);
            break;
        case 8:
            thrift_nested(t, &s);
            read_data_header_v2(t, page);
            break;
        default:
            thrift_skip(t, &s);
        }
    check_header(t, &s, full_size, stored_size, page);
    page->full_size = (size_t)full_size;
    page->size = (size_t)stored_size;
    page->crc = (uint32_t)crc;
    page->has_crc = s.seen >> 4 & 1;
}

/* Most headers are short; what the window cuts off is read again by a larger one. */
static int read_header_at(const struct parquet *file, size_t offset, size_t end, struct page *ret,
                          struct bl_error *err)
{
    size_t most = (size_t)bl_min((int64_t)(end - offset), BL_PARQUET_HEADER_BYTES_MAX);
    for (size_t window = file->memory ? most : 512;; window *= 32) {
        file_autobytes struct file_bytes bytes = {0};
        struct page page = {.compressed = true};
        size_t size = window < most ? window : most;
        BL_TRY(file_bytes_read(file, offset, size, &bytes, err));
        struct thrift t = thrift_open(bytes.data, size);
        read_header(&t, &page);
        if (t.cursor.failed && size < most)
            continue;
        BL_TRY(thrift_result(&t, err));
        page.offset = offset + (size_t)(t.cursor.pos - bytes.data);
        *ret = page;
        return 0;
    }
}

int page_read(const struct parquet *file, const struct column_chunk *chunk, size_t offset,
              struct page *ret, struct bl_error *err)
{
    size_t chunk_end = chunk->offset + chunk->size;
    struct page page;
    if (offset < chunk->offset || offset > chunk_end)
        return bl_fail(err, BL_EFORMAT,
                       "expected a page between bytes %zu and %zu, found its offset to be %zu",
                       chunk->offset, chunk_end, offset);
    BL_TRY(read_header_at(file, offset, chunk_end, &page, err));
    if (page.size > chunk_end - page.offset)
        return bl_fail(err, BL_EFORMAT,
                       "expected a page inside its column chunk, which ends at byte %zu, found %zu "
                       "bytes at %zu",
                       chunk_end, page.size, page.offset);
    page.end = page.offset + page.size;
    *ret = page;
    return 0;
}

/* --- The body. --- */

/* `head` bytes of data as they are, then the rest decompressed: into body->owned. */
static int decompress(const struct column_chunk *chunk, const uint8_t *data, size_t head,
                      size_t size, size_t full_size, struct page_body *body, struct bl_error *err)
{
    BL_TRY(codec_check(chunk->codec, size, full_size, err));
    if (full_size > BL_PARQUET_PAGE_BYTES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected pages of at most %d bytes, found one of %zu",
                       BL_PARQUET_PAGE_BYTES_MAX, full_size);
    body->owned_size = head + full_size;
    body->owned = malloc(body->owned_size ? body->owned_size : 1);
    if (!body->owned)
        return bl_fail(err, BL_ENOMEM, "no memory for a page of %zu bytes", full_size);
    memcpy(body->owned, data, head);
    /* Of nothing some writers write nothing, compressed or not. */
    return full_size ? codec_decompress(chunk->codec, data + head, size, body->owned + head,
                                        full_size, err)
                     : 0;
}

/* Levels of a v1 page: their length, then they. */
static int take_levels(struct bl_cursor *cursor, int max, int encoding, const uint8_t **ret,
                       size_t *ret_size, struct bl_error *err)
{
    uint32_t size;
    if (max == 0)
        return 0;
    if (encoding != ENCODING_RLE)
        return bl_fail(err, BL_EFORMAT,
                       "expected levels encoded as RLE, found encoding %d, which is not read",
                       encoding);
    if (!bl_cursor_u32le(cursor, &size) || !bl_cursor_take(cursor, size, ret))
        return bl_fail(err, BL_EFORMAT, "expected levels inside the page, found the page's end");
    *ret_size = size;
    return 0;
}

static int split_v1(const struct page *page, const struct parquet_column *column,
                    const uint8_t *data, struct page_body *body, struct bl_error *err)
{
    struct bl_cursor cursor = bl_cursor(data, page->full_size);
    if (page->type == PAGE_DATA) {
        BL_TRY(take_levels(&cursor, column->repetition_max, page->repetition_encoding,
                           &body->repetition, &body->repetition_size, err));
        BL_TRY(take_levels(&cursor, column->definition_max, page->definition_encoding,
                           &body->definition, &body->definition_size, err));
    }
    body->values = cursor.pos;
    body->values_size = cursor.left;
    return 0;
}

/* Both take the page's bytes: what of them is not compressed stays borrowed. */
static int open_v1(const struct page *page, const struct column_chunk *chunk,
                   const struct parquet_column *column, const uint8_t *data, struct page_body *body,
                   struct bl_error *err)
{
    if (chunk->codec == CODEC_UNCOMPRESSED) {
        if (page->size != page->full_size)
            return bl_fail(
                err, BL_EFORMAT,
                "expected the same size twice of an uncompressed page, found %zu and %zu",
                page->size, page->full_size);
        return split_v1(page, column, data, body, err);
    }
    BL_TRY(decompress(chunk, data, 0, page->size, page->full_size, body, err));
    return split_v1(page, column, body->owned, body, err);
}

static int open_v2(const struct page *page, const struct column_chunk *chunk, const uint8_t *data,
                   struct page_body *body, struct bl_error *err)
{
    body->repetition_size = (size_t)page->repetition_size;
    body->definition_size = (size_t)page->definition_size;
    size_t levels_size = body->repetition_size + body->definition_size;
    if (levels_size > page->size || levels_size > page->full_size)
        return bl_fail(err, BL_EFORMAT,
                       "expected levels inside the page's %zu bytes, found %zu bytes of them",
                       page->size, levels_size);
    size_t stored_size = page->size - levels_size;
    body->values_size = page->full_size - levels_size;
    if (page->compressed && chunk->codec != CODEC_UNCOMPRESSED) {
        BL_TRY(decompress(chunk, data, levels_size, stored_size, body->values_size, body, err));
        data = body->owned;
    } else if (stored_size != body->values_size) {
        return bl_fail(err, BL_EFORMAT,
                       "expected the same size twice of an uncompressed page, found %zu and %zu",
                       page->size, page->full_size);
    }
    body->repetition = data;
    body->definition = data + body->repetition_size;
    body->values = data + levels_size;
    return 0;
}

void page_body_release(struct page_body *body)
{
    free(body->owned);
    *body = (struct page_body){0};
}

int page_body(const struct parquet *file, const struct page *page, const struct column_chunk *chunk,
              const struct parquet_column *column, struct page_body *ret, struct bl_error *err)
{
    page_autobody struct page_body body = {0};
    file_autobytes struct file_bytes bytes = {0};
    if (page->size > BL_PARQUET_PAGE_BYTES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected pages of at most %d bytes, found one of %zu",
                       BL_PARQUET_PAGE_BYTES_MAX, page->size);
    BL_TRY(file_bytes_read(file, page->offset, page->size, &bytes, err));
    if (page->has_crc) {
        uint32_t crc = (uint32_t)crc32_z(0, bytes.data, page->size);
        if (crc != page->crc)
            return bl_fail(err, BL_EFORMAT, "checksum mismatch: expected %08x, found %08x",
                           page->crc, crc);
    }
    if (page->type == PAGE_DATA_V2)
        BL_TRY(open_v2(page, chunk, bytes.data, &body, err));
    else
        BL_TRY(open_v1(page, chunk, column, bytes.data, &body, err));
    if (!body.owned && bytes.owned) { /* nothing was compressed */
        body.owned = bl_take(&bytes.owned);
        body.owned_size = page->size;
    }
    *ret = body;
    body.owned = NULL;
    return 0;
}
