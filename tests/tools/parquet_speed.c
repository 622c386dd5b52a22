/* tests/tools/parquet_speed.c - `parquet_speed FILE COLUMN` reads a column from end to end and, from another reader, 1,000 random
 * rows: one line of JSON with rows, bytes of values, milliseconds and the peak of memory. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/parquet/parquet.h"
#include "common/random.h"

#define RANDOM_ROWS 1000
#define CACHE_BYTES (16 << 20)

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Not getrusage's, which a program inherits from the one that started it. */
static double peak_mb(void)
{
    char line[256];
    double kilobytes = 0;
    bl_autofclose FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lf kB", &kilobytes) == 1)
            break;
    return kilobytes / 1024;
}

static int read_all(const struct parquet *file, const struct parquet_column *column,
                    uint64_t *ret_bytes, struct bl_error *err)
{
    bl_auto(parquet_reader) struct parquet_reader *reader = NULL;
    BL_TRY(parquet_reader_open(file, column, 0, &reader, err));
    struct parquet_rows rows;
    for (int64_t row = 0; row < parquet_row_count(file); row += rows.row_count) {
        BL_TRY(parquet_reader_rows(reader, row, &rows, err));
        size_t count =
            rows.starts ? rows.starts[rows.row_count] - rows.starts[0] : (size_t)rows.row_count;
        for (size_t i = 0; i < count; i++)
            *ret_bytes += rows.values[i].size;
    }
    return 0;
}

static int read_random(const struct parquet *file, const struct parquet_column *column,
                       uint64_t *ret_bytes, struct bl_error *err)
{
    bl_auto(parquet_reader) struct parquet_reader *reader = NULL;
    BL_TRY(parquet_reader_open(file, column, CACHE_BYTES, &reader, err));
    for (uint64_t i = 0; i < RANDOM_ROWS; i++) {
        struct parquet_rows rows;
        BL_TRY(parquet_reader_rows(
            reader, (int64_t)(bl_mix64(1, i) % (uint64_t)parquet_row_count(file)), &rows, err));
        *ret_bytes += rows.values[0].size;
    }
    return 0;
}

static int measure(const char *path, const char *name, struct bl_error *err)
{
    bl_auto(parquet) struct parquet *file = NULL;
    const struct parquet_column *column = NULL;
    uint64_t bytes = 0, random_bytes = 0;
    double start = now_ms();
    BL_TRY(parquet_open(path, &file, err));
    double opened = now_ms();
    BL_TRY(parquet_column_find(file, name, &column, err));
    BL_TRY(read_all(file, column, &bytes, err));
    double read = now_ms();
    double peak = peak_mb();
    if (parquet_row_count(file) > 0)
        BL_TRY(read_random(file, column, &random_bytes, err));
    printf("{\"rows\": %" PRId64 ", \"bytes\": %" PRIu64
           ", \"open_ms\": %.2f, \"read_ms\": %.1f, \"random_row_ms\": %.3f, "
           "\"peak_mb\": %.1f}\n",
           parquet_row_count(file), bytes, opened - start, read - opened,
           (now_ms() - read) / RANDOM_ROWS, peak);
    return 0;
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: parquet_speed FILE COLUMN\n");
        return 2;
    }
    if (measure(argv[1], argv[2], &err) == 0)
        return 0;
    char line[1600];
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "parquet_speed: %s\n", line);
    return bl_error_exit_code(err.code);
}
