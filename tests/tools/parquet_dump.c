/* tests/tools/parquet_dump.c - everything in a Parquet file, as lines of JSON, for comparing it with what others read:
 *
 *   parquet_dump FILE [RANDOM_ROWS SEED] [COLUMN]
 *
 *   {"rows": 3, "row_groups": 1, "columns": [{"path": "a", "type": "BYTE_ARRAY STRING", "list": false, "unreadable": null}, …]}
 *   {"column": "a", "values": ["6162", null, …]}              from end to end, with no more than a page in memory
 *   {"column": "a", "random": [[1, null, []], [0, "6162", [4]], …]}   row, value, where in the file its bytes lie verbatim
 *
 * and an {"column": "a", "error": "…"} where a column could not be read. Bytes are hexadecimal, reals the hexadecimal bits of a
 * double, lists arrays. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/parquet/parquet.h"
#include "common/random.h"

static void put_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < ' ')
            printf("\\u%04x", *text);
        else
            putchar(*text);
    putchar('"');
}

static void put_value(enum parquet_kind kind, const struct parquet_value *value)
{
    if (value->null) {
        printf("null");
    } else if (kind == PARQUET_INTEGER) {
        printf("%" PRId64, value->integer);
    } else if (kind == PARQUET_REAL) {
        printf("\"%016" PRIx64 "\"", (uint64_t)value->integer);
    } else {
        putchar('"');
        for (uint32_t i = 0; i < value->size; i++)
            printf("%02x", value->bytes[i]);
        putchar('"');
    }
}

static void put_row(const struct parquet_column *column, const struct parquet_rows *rows, int64_t i)
{
    if (!column->list) {
        put_value(column->kind, &rows->values[i]);
    } else if (rows->null_lists[i]) {
        printf("null");
    } else {
        putchar('[');
        for (uint32_t v = rows->starts[i]; v < rows->starts[i + 1]; v++) {
            printf("%s", v > rows->starts[i] ? "," : "");
            put_value(column->kind, &rows->values[v]);
        }
        putchar(']');
    }
}

static int put_offset(struct parquet_reader *reader, int64_t row, struct bl_error *err)
{
    struct parquet_place place;
    BL_TRY(parquet_reader_place(reader, row, &place, err));
    if (place.known && !place.null)
        printf("[%" PRIu64 "]", place.offset);
    else
        printf("[]");
    return 0;
}

static int dump_values(const struct parquet *file, const struct parquet_column *column,
                       struct bl_error *err)
{
    bl_auto(parquet_reader) struct parquet_reader *reader = NULL;
    BL_TRY(parquet_reader_open(file, column, 0, &reader, err));
    struct parquet_rows rows;
    for (int64_t row = 0; row < parquet_row_count(file); row += rows.row_count) {
        BL_TRY(parquet_reader_rows(reader, row, &rows, err));
        for (int64_t i = 0; i < rows.row_count; i++) {
            printf("%s", row + i ? "," : "");
            put_row(column, &rows, i);
        }
    }
    return 0;
}

static int dump_random(const struct parquet *file, const struct parquet_column *column, int count,
                       uint64_t seed, struct bl_error *err)
{
    bl_auto(parquet_reader) struct parquet_reader *reader = NULL;
    const size_t cache_bytes = 1 << 20;
    BL_TRY(parquet_reader_open(file, column, cache_bytes, &reader, err));
    for (int i = 0; i < count && parquet_row_count(file) > 0; i++) {
        struct parquet_rows rows;
        int64_t row = (int64_t)(bl_mix64(seed, (uint64_t)i) % (uint64_t)parquet_row_count(file));
        BL_TRY(parquet_reader_rows(reader, row, &rows, err));
        printf("%s[%" PRId64 ",", i ? "," : "", row);
        put_row(column, &rows, 0);
        putchar(',');
        BL_TRY(put_offset(reader, row, err));
        putchar(']');
    }
    return 0;
}

static void dump_head(const struct parquet *file)
{
    printf("{\"rows\":%" PRId64 ",\"row_groups\":%zu,\"columns\":[", parquet_row_count(file),
           parquet_row_group_count(file));
    for (size_t i = 0; i < parquet_column_count(file); i++) {
        const struct parquet_column *column = parquet_column_at(file, i);
        printf("%s{\"path\":", i ? "," : "");
        put_text(column->path);
        printf(",\"type\":\"%s\",\"list\":%s,\"unreadable\":", column->type,
               column->list ? "true" : "false");
        if (column->unreadable)
            put_text(column->unreadable);
        else
            printf("null");
        putchar('}');
    }
    printf("]}\n");
}

static void put_column(const struct parquet_column *column, const char *what)
{
    printf("{\"column\":");
    put_text(column->path);
    printf(",\"%s\":[", what);
}

/* Ends the column's line; a failure is a line of its own. */
static int finish(const struct parquet_column *column, int rc, const struct bl_error *err)
{
    printf("]}\n");
    if (rc == 0)
        return 0;
    char line[1600];
    bl_error_format(err, line, sizeof line);
    printf("{\"column\":");
    put_text(column->path);
    printf(",\"error\":");
    put_text(line);
    printf("}\n");
    return bl_error_exit_code(err->code);
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    bl_auto(parquet) struct parquet *file = NULL;
    if (argc < 2 || parquet_open(argv[1], &file, &err) < 0) {
        char line[1600] = "usage: parquet_dump FILE [RANDOM_ROWS SEED] [COLUMN]";
        if (argc >= 2)
            bl_error_format(&err, line, sizeof line);
        fprintf(stderr, "%s\n", line);
        return argc < 2 ? 2 : bl_error_exit_code(err.code);
    }
    int random_rows = argc > 3 ? atoi(argv[2]) : 0, status = 0;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    const char *only = argc == 3 ? argv[2] : argc > 4 ? argv[4] : NULL;
    dump_head(file);
    for (size_t i = 0; i < parquet_column_count(file); i++) {
        const struct parquet_column *column = parquet_column_at(file, i);
        if (column->unreadable || (only && strcmp(only, column->path)))
            continue;
        put_column(column, "values");
        status |= finish(column, dump_values(file, column, &err), &err);
        put_column(column, "random");
        status |= finish(column, dump_random(file, column, random_rows, seed, &err), &err);
    }
    return status;
}
