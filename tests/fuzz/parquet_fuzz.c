/* tests/fuzz/parquet_fuzz.c - the input is a Parquet file; every column is read from end to end, and rows from its middle. */
#include <stdlib.h>
#include <string.h>

#include "common/parquet/parquet.h"
#include "tests/fuzz/fuzz.h"

#define CALLS_MAX 2000 /* of a column: an input of many tiny pages is no slow one */

static void touch_value(const struct parquet_column *column, const struct parquet_value *value)
{
    if (value->null || column->kind != PARQUET_BYTES) {
        fuzz_touch(&value->integer, sizeof value->integer);
        return;
    }
    fuzz_touch(value->bytes, value->size);
}

/* Where a value lies, the same bytes are that its row has. */
static void compare_place(const struct parquet *file, struct parquet_reader *reader, int64_t row)
{
    struct parquet_place place;
    struct parquet_rows rows;
    struct bl_error err = {0};
    if (parquet_reader_place(reader, row, &place, &err) < 0 || !place.known ||
        parquet_reader_rows(reader, row, &rows, &err) < 0)
        return;
    BL_ASSERT(place.null == rows.values[0].null);
    BL_ASSERT(place.null || place.size == rows.values[0].size);
    uint8_t *bytes = place.null ? NULL : malloc((size_t)place.size + 1);
    if (bytes && parquet_read_at(file, &place, bytes, &err) == 0)
        BL_ASSERT(memcmp(bytes, rows.values[0].bytes, place.size) == 0);
    free(bytes);
}

static void touch_rows(const struct parquet_column *column, const struct parquet_rows *rows)
{
    size_t first = 0, end = (size_t)rows->row_count;
    if (rows->row_count < 1)
        __builtin_trap();
    if (column->list) {
        first = rows->starts[0];
        end = rows->starts[rows->row_count];
        fuzz_touch(rows->null_lists, (size_t)rows->row_count);
    }
    /* Values of a page may all be one value of its dictionary, and long: some are enough. */
    for (size_t i = first; i < end && i < first + 500; i++)
        touch_value(column, &rows->values[i]);
    for (size_t i = end > first + 500 ? end - 500 : end; i < end; i++)
        touch_value(column, &rows->values[i]);
}

static void read_column(const struct parquet *file, const struct parquet_column *column)
{
    struct parquet_reader *reader = NULL;
    struct parquet_rows rows;
    struct bl_error err = {0};
    int64_t row = 0, count = parquet_row_count(file);
    if (parquet_reader_open(file, column, 4096, &reader, &err) < 0)
        return;
    for (int i = 0; i < CALLS_MAX && row < count; i++) {
        if (parquet_reader_rows(reader, row, &rows, &err) < 0)
            break;
        touch_rows(column, &rows);
        row += rows.row_count;
    }
    for (int64_t i = 1; count > 0 && i <= 3; i++) {
        if (parquet_reader_rows(reader, count / 4 * i, &rows, &err) == 0)
            touch_rows(column, &rows);
        compare_place(file, reader, count / 4 * i);
    }
    fuzz_touch(&err, sizeof err);
    parquet_reader_free(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct parquet *file = NULL;
    const struct parquet_column *found = NULL;
    struct bl_error err = {0};
    if (parquet_parse(data, size, "fuzz", &file, &err) < 0) {
        fuzz_touch(&err, sizeof err);
        return 0;
    }
    for (size_t i = 0; i < parquet_column_count(file); i++) {
        const struct parquet_column *column = parquet_column_at(file, i);
        parquet_column_find(file, column->path, &found, &err);
        if (!column->unreadable)
            read_column(file, column);
    }
    parquet_free(&file);
    return 0;
}
