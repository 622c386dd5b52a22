/* tests/fuzz/parquet_fuzz.c - the input is a Parquet file; every column is read from end to end, and rows from its middle. */
#include "common/parquet/parquet.h"
#include "tests/fuzz/fuzz.h"

#define CALLS_MAX 2000 /* of a column: an input of many tiny pages is no slow one */

static void touch_value(const struct parquet *file, const struct parquet_column *column,
                        const struct parquet_value *value)
{
    uint64_t offset = 0;
    if (value->null || column->kind != PARQUET_BYTES) {
        fuzz_touch(&value->integer, sizeof value->integer);
        return;
    }
    fuzz_touch(value->bytes, value->size);
    if (parquet_value_offset(file, value, &offset))
        fuzz_touch(&offset, sizeof offset);
}

static void touch_rows(const struct parquet *file, const struct parquet_column *column,
                       const struct parquet_rows *rows)
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
        touch_value(file, column, &rows->values[i]);
    for (size_t i = end > first + 500 ? end - 500 : end; i < end; i++)
        touch_value(file, column, &rows->values[i]);
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
        touch_rows(file, column, &rows);
        row += rows.row_count;
    }
    for (int64_t i = 1; count > 0 && i <= 3; i++)
        if (parquet_reader_rows(reader, count / 4 * i, &rows, &err) == 0)
            touch_rows(file, column, &rows);
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
