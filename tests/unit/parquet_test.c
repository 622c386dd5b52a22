/* What other writers wrote comes from tests/golden/parquet/make.py, which says what row i holds; what none of them writes is made
 * here, byte by byte. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/parquet/parquet.h"
#include "common/parquet/runs.h"
#include "tests/unit/folder.h"

static const char *golden(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/tests/golden/parquet/%s", getenv("BLIPREN_SOURCE"), name);
    return path;
}

static struct parquet *open_golden(const char *name)
{
    struct parquet *file = NULL;
    struct bl_error err = {0};
    assert_ok(parquet_open(golden(name), &file, &err), err);
    return file;
}

static struct parquet_reader *open_reader(const struct parquet *file, const char *path,
                                          size_t cache_bytes)
{
    const struct parquet_column *column = NULL;
    struct parquet_reader *reader = NULL;
    struct bl_error err = {0};
    assert_ok(parquet_column_find(file, path, &column, &err), err);
    assert_ok(parquet_reader_open(file, column, cache_bytes, &reader, &err), err);
    return reader;
}

/* --- The goldens' rows. --- */

static void expect_bytes(const struct parquet_value *value, const char *expected, size_t size)
{
    if (!expected) {
        assert_true(value->null);
        return;
    }
    assert_false(value->null);
    assert_int_equal(value->size, size);
    if (size)
        assert_memory_equal(value->bytes, expected, size);
}

static void expect_caption(const struct parquet_rows *rows, int64_t i, int64_t row)
{
    char text[128] = "";
    for (int64_t k = 0; k <= row % 3; k++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "caption %d", (int)row);
    expect_bytes(&rows->values[i], row % 5 == 0 ? NULL : text, strlen(text));
}

static void expect_id(const struct parquet_rows *rows, int64_t i, int64_t row)
{
    assert_false(rows->values[i].null);
    assert_int_equal(rows->values[i].integer, row * row - 1000);
}

static void expect_image(const struct parquet_rows *rows, int64_t i, int64_t row)
{
    char bytes[8];
    memset(bytes, (int)row, sizeof bytes);
    expect_bytes(&rows->values[i], bytes, (size_t)(row % 7));
}

static void expect_path(const struct parquet_rows *rows, int64_t i, int64_t row)
{
    char path[32];
    snprintf(path, sizeof path, "%d.jpg", (int)row);
    expect_bytes(&rows->values[i], row % 4 == 0 ? NULL : path, strlen(path));
}

static void expect_captions(const struct parquet_rows *rows, int64_t i, int64_t row)
{
    assert_int_equal(rows->null_lists[i], row % 6 == 0);
    assert_int_equal(rows->starts[i + 1] - rows->starts[i], row % 6 == 0 ? 0 : row % 4);
    for (uint32_t k = 0; k < rows->starts[i + 1] - rows->starts[i]; k++) {
        char text[32];
        snprintf(text, sizeof text, "%d-%u", (int)row, k);
        expect_bytes(&rows->values[rows->starts[i] + k], k == 2 ? NULL : text, strlen(text));
    }
}

static const struct {
    const char *path;
    void (*expect)(const struct parquet_rows *rows, int64_t i, int64_t row);
} columns[] = {{"caption", expect_caption},
               {"id", expect_id},
               {"image.bytes", expect_image},
               {"image.path", expect_path},
               {"captions", expect_captions}};
#define COLUMN_COUNT (sizeof columns / sizeof *columns)
#define ROWS 60

static void read_column(const struct parquet *file, size_t c, size_t cache_bytes)
{
    struct parquet_reader *reader = open_reader(file, columns[c].path, cache_bytes);
    struct parquet_rows rows;
    struct bl_error err = {0};
    int64_t row;
    for (row = 0; row < ROWS; row += rows.row_count) {
        assert_ok(parquet_reader_rows(reader, row, &rows, &err), err);
        assert_int_equal(rows.first_row, row);
        for (int64_t i = 0; i < rows.row_count; i++)
            columns[c].expect(&rows, i, row + i);
    }
    assert_int_equal(row, ROWS);
    /* 7 and 60 have no common divisor: every row once, none beside the one before. */
    for (int64_t i = 0; i < ROWS; i++) {
        row = i * 7 % ROWS;
        assert_ok(parquet_reader_rows(reader, row, &rows, &err), err);
        columns[c].expect(&rows, 0, row);
    }
    parquet_reader_free(&reader);
}

static void what_pyarrow_polars_and_duckdb_wrote_is_read(void **state)
{
    static const char *const names[] = {"plain.parquet", "index.parquet",  "delta.parquet",
                                        "gzip.parquet",  "polars.parquet", "duckdb.parquet"};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        struct parquet *file = open_golden(names[n]);
        assert_int_equal(parquet_row_count(file), ROWS);
        assert_int_equal(parquet_column_count(file), COLUMN_COUNT);
        for (size_t c = 0; c < COLUMN_COUNT; c++) {
            assert_string_equal(parquet_column_at(file, c)->path, columns[c].path);
            assert_int_equal(parquet_column_at(file, c)->list, c == 4);
            read_column(file, c, 0);
            read_column(file, c, 2000);
            read_column(file, c, 1 << 20);
        }
        parquet_free(&file);
    }
}

static void an_empty_file_has_columns_and_no_rows(void **state)
{
    struct parquet *file = open_golden("empty.parquet");
    assert_int_equal(parquet_row_count(file), 0);
    assert_int_equal(parquet_column_count(file), COLUMN_COUNT);
    struct parquet_reader *reader = open_reader(file, "caption", 0);
    parquet_reader_free(&reader);
    parquet_free(&file);
}

static void an_uncompressed_plain_value_is_located_in_the_file(void **state)
{
    bl_autofree char *bytes = NULL;
    size_t size = 0;
    struct bl_error err = {0};
    assert_ok(bl_file_read(golden("plain.parquet"), 1 << 20, &bytes, &size, &err), err);
    struct parquet *plain = open_golden("plain.parquet"), *gzip = open_golden("gzip.parquet");
    struct parquet_reader *reader = open_reader(plain, "image.bytes", 0),
                          *packed = open_reader(gzip, "image.bytes", 0);
    struct parquet_rows rows;
    struct parquet_place place;
    uint8_t found[16];
    for (int64_t row = 1; row < ROWS; row += 7) {
        assert_ok(parquet_reader_rows(reader, row, &rows, &err), err);
        assert_ok(parquet_reader_place(reader, row, &place, &err), err);
        assert_true(place.known && place.null == rows.values[0].null);
        assert_int_equal(place.size, rows.values[0].size);
        assert_true(place.offset + place.size < size);
        assert_memory_equal(bytes + place.offset, rows.values[0].bytes, place.size);
        assert_ok(parquet_read_at(plain, &place, found, &err), err);
        assert_memory_equal(found, rows.values[0].bytes, place.size);
        assert_ok(parquet_reader_place(packed, row, &place, &err), err);
        assert_false(place.known);
    }
    parquet_reader_free(&reader);
    parquet_reader_free(&packed);
    parquet_free(&plain);
    parquet_free(&gzip);
}

/* The signal that a mapping would get ends the process. */
static void a_file_that_is_shortened_while_it_is_open_is_an_error_with_its_name(void **state)
{
    struct bl_error err = {0};
    struct parquet_rows rows;
    struct parquet_place place;
    static const char *const files[] = {"plain.parquet", "index.parquet", "gzip.parquet"};
    for (size_t i = 0; i < 3; i++) {
        bl_autofree char *bytes = NULL;
        struct parquet *file = NULL;
        size_t size = 0;
        char path[256], line[1600], expected[400];
        snprintf(path, sizeof path, "/tmp/blipren-shortened-%d.parquet", (int)getpid());
        assert_ok(bl_file_read(golden(files[i]), 1 << 20, &bytes, &size, &err), err);
        assert_ok(bl_file_write(path, bytes, size, &err), err);
        assert_ok(parquet_open(path, &file, &err), err);
        struct parquet_reader *reader = open_reader(file, "image.bytes", 0);
        assert_int_equal(truncate(path, 3), 0);
        assert_int_equal(parquet_reader_rows(reader, ROWS - 1, &rows, &err), -BL_EDATA);
        err.key[0] = 0;
        bl_error_format(&err, line, sizeof line);
        snprintf(expected, sizeof expected, "%s: expected %zu bytes, as when it was opened, found ",
                 path, size);
        assert_memory_equal(line, expected, strlen(expected));
        assert_int_equal(parquet_reader_place(reader, 0, &place, &err), -BL_EDATA);
        parquet_reader_free(&reader);
        parquet_free(&file);
        assert_int_equal(unlink(path), 0);
    }
}

/* --- Several files. --- */

static void copy_golden(const char *name, const char *to)
{
    bl_autofree char *bytes = NULL;
    size_t size = 0;
    struct bl_error err = {0};
    assert_ok(bl_file_read(golden(name), 1 << 20, &bytes, &size, &err), err);
    assert_ok(bl_file_write(inside(to), bytes, size, &err), err);
}

static void expect_table(const char *path, size_t files)
{
    struct parquet_table *table = NULL;
    struct parquet_reader *reader = NULL;
    struct parquet_rows rows = {0};
    struct bl_error err = {0};
    assert_ok(parquet_table_open(path, &table, &err), err);
    assert_int_equal(parquet_table_file_count(table), files);
    assert_int_equal(parquet_table_row_count(table), 2 * ROWS);
    for (size_t c = 0; c < COLUMN_COUNT; c++) {
        assert_ok(parquet_table_reader_open(table, columns[c].path, 4000, &reader, &err), err);
        for (int64_t row = 0; row < 2 * ROWS; row += rows.row_count) {
            assert_ok(parquet_reader_rows(reader, row, &rows, &err), err);
            assert_int_equal(rows.first_row, row);
            assert_ptr_equal(rows.file, parquet_table_file(table, row < ROWS ? 0 : files - 1));
            for (int64_t i = 0; i < rows.row_count; i++)
                columns[c].expect(&rows, i, (row + i) % ROWS);
        }
        for (int64_t i = 0, row; i < 2 * ROWS; i++) {
            row = i * 7 % (2 * ROWS);
            assert_ok(parquet_reader_rows(reader, row, &rows, &err), err);
            columns[c].expect(&rows, 0, row % ROWS);
        }
        parquet_reader_free(&reader);
    }
    parquet_table_free(&table);
}

static void files_of_a_folder_or_a_pattern_are_one_table(void **state)
{
    copy_golden("plain.parquet", "10.parquet");
    copy_golden("empty.parquet", "2.parquet");
    copy_golden("polars.parquet", "3.parquet");
    copy_golden("others.parquet", "others");
    expect_table(folder, 3);
    expect_table(inside("*.parquet"), 3);
    expect_table(inside("[13]*.parquet"), 2);
}

/* --- What is refused. --- */

#define expect_failure(call, err, format, ...)                                                     \
    do {                                                                                           \
        char line_[1600], expected_[1600];                                                         \
        assert_true((call) < 0);                                                                   \
        bl_error_format(&(err), line_, sizeof line_);                                              \
        snprintf(expected_, sizeof expected_, format, __VA_ARGS__);                                \
        assert_string_equal(line_, expected_);                                                     \
    } while (0)

static void columns_of_other_types_are_listed_and_the_rest_is_read(void **state)
{
    struct parquet *file = open_golden("others.parquet");
    const struct parquet_column *found = NULL;
    struct bl_error err = {0};
    assert_null(parquet_column_at(file, 0)->unreadable);
    assert_string_equal(parquet_column_at(file, 0)->type, "BYTE_ARRAY STRING");
    assert_string_equal(parquet_column_at(file, 1)->unreadable, "lists inside lists are not read");
    assert_string_equal(parquet_column_at(file, 2)->unreadable,
                        "columns of type FIXED_LEN_BYTE_ARRAY are not read");
    const char *name = golden("others.parquet");
    expect_failure(parquet_column_find(file, "matrix", &found, &err), err,
                   "%s: column \"matrix\" (INT64): lists inside lists are not read", name);
    expect_failure(parquet_column_find(file, "captoin", &found, &err), err,
                   "%s: expected a column \"captoin\", found caption, matrix, hash; name one of "
                   "the file's columns",
                   name);
    struct parquet_reader *reader = open_reader(file, "caption", 0);
    struct parquet_rows rows;
    assert_ok(parquet_reader_rows(reader, 1, &rows, &err), err);
    expect_bytes(&rows.values[0], "b", 1);
    parquet_reader_free(&reader);
    parquet_free(&file);
}

static void a_table_names_the_file_that_lacks_the_column(void **state)
{
    struct parquet_table *table = NULL;
    struct parquet_reader *reader = NULL;
    struct bl_error err = {0};
    expect_failure(parquet_table_open(folder, &table, &err), err,
                   "%s: expected Parquet files (*.parquet) in the folder, found none", folder);
    expect_failure(parquet_table_open(inside("*.parq"), &table, &err), err,
                   "%s: expected Parquet files of that pattern, found none", inside("*.parq"));
    copy_golden("plain.parquet", "1.parquet");
    copy_golden("others.parquet", "2.parquet");
    assert_ok(parquet_table_open(folder, &table, &err), err);
    expect_failure(
        parquet_table_reader_open(table, "id", 0, &reader, &err), err,
        "%s: expected a column \"id\", found caption, matrix, hash; name one of the file's columns",
        inside("2.parquet"));
    parquet_table_free(&table);
}

static void encryption_and_unknown_codecs_are_refused_by_name(void **state)
{
    struct parquet *file = NULL;
    struct parquet_rows rows;
    struct bl_error err = {0};
    expect_failure(parquet_open(golden("encrypted.parquet"), &file, &err), err,
                   "%s: the file is encrypted; encrypted Parquet files are not read; write it "
                   "again without encryption",
                   golden("encrypted.parquet"));
    file = open_golden("encrypted-column.parquet");
    struct parquet_reader *reader = open_reader(file, "caption", 0);
    expect_failure(
        parquet_reader_rows(reader, 0, &rows, &err), err,
        "%s: row group 0, column \"caption\": it is encrypted; encrypted columns are not read",
        golden("encrypted-column.parquet"));
    parquet_reader_free(&reader);
    reader = open_reader(file, "id", 0);
    assert_ok(parquet_reader_rows(reader, 2, &rows, &err), err);
    assert_int_equal(rows.values[0].integer, -996);
    parquet_reader_free(&reader);
    parquet_free(&file);
    file = open_golden("brotli.parquet");
    reader = open_reader(file, "caption", 0);
    expect_failure(parquet_reader_rows(reader, 0, &rows, &err), err,
                   "%s: row group 0, column \"caption\", page at byte 4: pages compressed by "
                   "BROTLI are not read; write the file "
                   "again with zstd, snappy, gzip or lz4_raw",
                   golden("brotli.parquet"));
    parquet_reader_free(&reader);
    parquet_free(&file);
}

static void a_damaged_page_is_named_and_the_others_are_read(void **state)
{
    bl_autofree char *bytes = NULL;
    size_t size = 0;
    struct bl_error err = {0};
    struct parquet *file = NULL;
    struct parquet_rows rows = {0};
    char line[1600];
    assert_ok(bl_file_read(golden("index.parquet"), 1 << 20, &bytes, &size, &err), err);
    /* "41.jpg" is in the dictionary of the paths of the second row group. */
    char *found = memmem(bytes, size, "41.jpg", 6);
    assert_non_null(found);
    *found ^= 1;
    assert_ok(parquet_parse(bytes, size, "damaged", &file, &err), err);
    struct parquet_reader *reader = open_reader(file, "image.path", 0);
    for (int64_t row = 0; row < 40; row += rows.row_count) {
        assert_ok(parquet_reader_rows(reader, row, &rows, &err), err);
        expect_path(&rows, 0, row);
    }
    assert_int_equal(parquet_reader_rows(reader, 41, &rows, &err), -BL_EFORMAT);
    bl_error_format(&err, line, sizeof line);
    assert_non_null(strstr(line, "damaged: row group 1, column \"image.path\", page at byte "));
    assert_non_null(strstr(line, ": checksum mismatch: expected "));
    assert_ok(parquet_reader_rows(reader, 39, &rows, &err), err);
    expect_path(&rows, 0, 39);
    parquet_reader_free(&reader);
    parquet_free(&file);
}

static void a_file_cut_off_anywhere_is_refused(void **state)
{
    bl_autofree char *bytes = NULL;
    size_t size = 0;
    struct bl_error err = {0};
    struct parquet *file = NULL;
    assert_ok(bl_file_read(golden("delta.parquet"), 1 << 20, &bytes, &size, &err), err);
    for (size_t cut = 0; cut < size; cut++) {
        bl_autofree char *part = malloc(cut ? cut : 1);
        memcpy(part, bytes, cut);
        assert_int_equal(parquet_parse(part, cut, "cut", &file, &err), -BL_EFORMAT);
    }
    expect_failure(parquet_parse(bytes, size - 1, "cut", &file, &err), err, "%s",
                   "cut: expected PAR1 at the end of the file, which is cut off or still being "
                   "written; fetch or write the file again");
    expect_failure(parquet_parse("PK", 2, "zip", &file, &err), err, "%s",
                   "zip: expected a Parquet file, which begins with PAR1");
}

/* --- Files made here: one row group of one column. --- */

enum {
    TYPE_I32 = 5,
    TYPE_I64 = 6,
    TYPE_BINARY = 8,
    TYPE_LIST = 9,
    TYPE_STRUCT = 12
}; /* Thrift's */

/* A Thrift struct being written: its fields in order of their numbers. */
struct writer {
    struct bl_bytes *out;
    int last;
};

static void put_byte(struct bl_bytes *out, uint64_t byte)
{
    uint8_t low = (uint8_t)byte;
    bl_bytes_add(out, &low, 1);
}

static void put_varint(struct bl_bytes *out, uint64_t n)
{
    for (; n > 127; n >>= 7)
        put_byte(out, n | 128);
    put_byte(out, n);
}

static void put_field(struct writer *w, int id, int type)
{
    put_byte(w->out, (uint64_t)((id - w->last) << 4 | type));
    w->last = id;
}

static void put_number(struct writer *w, int id, int type, int64_t n)
{
    put_field(w, id, type);
    put_varint(w->out, (uint64_t)n << 1 ^ (n < 0 ? UINT64_MAX : 0));
}

static void put_end(struct bl_bytes *out)
{
    put_byte(out, 0);
}

static void put_name(struct writer *w, int id, const char *name)
{
    put_field(w, id, TYPE_BINARY);
    put_varint(w->out, strlen(name));
    bl_bytes_add(w->out, name, strlen(name));
}

/* A list of that many structs, which follow. */
static void put_list(struct writer *w, int id, size_t count)
{
    put_field(w, id, TYPE_LIST);
    put_byte(w->out, count << 4 | TYPE_STRUCT);
}

struct made {
    int type;       /* the format's: 1 INT32, 6 BYTE_ARRAY … */
    int repetition; /* 0 required, 1 optional, 2 repeated */
    int codec;
    int64_t value_count, row_count;
    const struct bl_bytes *pages;
    int64_t data_offset;
};

static void put_page(struct bl_bytes *out, int type, int encoding, int value_count,
                     const void *data, size_t size)
{
    struct writer w = {out, 0}, inner = {out, 0};
    put_number(&w, 1, TYPE_I32, type);
    put_number(&w, 2, TYPE_I32, (int64_t)size);
    put_number(&w, 3, TYPE_I32, (int64_t)size);
    put_field(&w, type == 0 ? 5 : 7, TYPE_STRUCT);
    put_number(&inner, 1, TYPE_I32, value_count);
    put_number(&inner, 2, TYPE_I32, encoding);
    for (int levels = 3; type == 0 && levels <= 4; levels++)
        put_number(&inner, levels, TYPE_I32, 3);
    put_end(out);
    put_end(out);
    bl_bytes_add(out, data, size);
}

static void put_column(struct bl_bytes *out, const struct made *made)
{
    struct writer chunk = {out, 0}, meta = {out, 0};
    put_number(&chunk, 2, TYPE_I64, 0);
    put_field(&chunk, 3, TYPE_STRUCT);
    put_number(&meta, 1, TYPE_I32, made->type);
    put_number(&meta, 4, TYPE_I32, made->codec);
    put_number(&meta, 5, TYPE_I64, made->value_count);
    put_number(&meta, 7, TYPE_I64, (int64_t)made->pages->size);
    put_number(&meta, 9, TYPE_I64, made->data_offset ? made->data_offset : 4);
    put_end(out);
    put_end(out);
}

static void put_footer(struct bl_bytes *out, const struct made *made)
{
    struct writer file = {out, 0}, root = {out, 0}, leaf = {out, 0}, group = {out, 0};
    put_list(&file, 2, 2);
    put_name(&root, 4, "schema");
    put_number(&root, 5, TYPE_I32, 1);
    put_end(out);
    put_number(&leaf, 1, TYPE_I32, made->type);
    put_number(&leaf, 3, TYPE_I32, made->repetition);
    put_name(&leaf, 4, "c");
    put_end(out);
    put_number(&file, 3, TYPE_I64, made->row_count);
    put_list(&file, 4, 1);
    put_list(&group, 1, 1);
    put_column(out, made);
    put_number(&group, 3, TYPE_I64, made->row_count);
    put_end(out);
    put_end(out);
}

static void put_file(struct bl_bytes *out, const struct made *made)
{
    bl_bytes_add(out, "PAR1", 4);
    bl_bytes_add(out, made->pages->data, made->pages->size);
    size_t start = out->size;
    put_footer(out, made);
    uint32_t size = (uint32_t)(out->size - start);
    bl_bytes_add(out, &size, 4);
    bl_bytes_add(out, "PAR1", 4);
}

/* Reads row 0 of the file; its error's line, or "". */
static const char *read_made(const struct made *made)
{
    static char line[1600];
    bl_autobytes struct bl_bytes bytes = {0};
    struct parquet *file = NULL;
    struct parquet_reader *reader = NULL;
    struct parquet_rows rows;
    struct bl_error err = {0};
    put_file(&bytes, made);
    int rc = parquet_parse(bytes.data, bytes.size, "made", &file, &err);
    if (rc == 0) {
        reader = open_reader(file, "c", 0);
        rc = parquet_reader_rows(reader, 0, &rows, &err);
    }
    line[0] = 0;
    if (rc < 0)
        bl_error_format(&err, line, sizeof line);
    parquet_reader_free(&reader);
    parquet_free(&file);
    return line;
}

static void a_table_names_the_file_whose_column_is_of_another_kind(void **state)
{
    static const uint8_t page[] = {7, 0, 0, 0};
    bl_autobytes struct bl_bytes pages = {0}, numbers = {0}, texts = {0};
    struct parquet_table *table = NULL;
    struct parquet_reader *reader = NULL;
    struct bl_error err = {0};
    put_page(&pages, 0, 0, 1, page, sizeof page);
    put_file(&numbers,
             &(struct made){.type = 1, .value_count = 1, .row_count = 1, .pages = &pages});
    put_file(&texts,
             &(struct made){
                 .type = 6, .repetition = 2, .value_count = 1, .row_count = 1, .pages = &pages});
    assert_ok(bl_file_write(inside("1.parquet"), numbers.data, numbers.size, &err), err);
    assert_ok(bl_file_write(inside("2.parquet"), texts.data, texts.size, &err), err);
    assert_ok(parquet_table_open(folder, &table, &err), err);
    expect_failure(parquet_table_reader_open(table, "c", 0, &reader, &err), err,
                   "%s: expected column \"c\" as %s has it (INT32), found list of BYTE_ARRAY",
                   inside("2.parquet"), inside("1.parquet"));
    parquet_table_free(&table);
}

static void a_row_may_go_on_in_the_next_page(void **state)
{
    /* Rows [1, 2, 3], [], [4]; pages of 1, 2 | 3, no element | 4. Levels: a length, then packed runs of 8. */
    static const uint8_t first[] = {2, 0, 0, 0, 3, 2, 2, 0, 0, 0, 3, 3, 1, 0, 0, 0, 2, 0, 0, 0};
    static const uint8_t second[] = {2, 0, 0, 0, 3, 1, 2, 0, 0, 0, 3, 1, 3, 0, 0, 0};
    static const uint8_t third[] = {2, 0, 0, 0, 3, 0, 2, 0, 0, 0, 3, 1, 4, 0, 0, 0};
    bl_autobytes struct bl_bytes pages = {0}, bytes = {0};
    put_page(&pages, 0, 0, 2, first, sizeof first);
    put_page(&pages, 0, 0, 2, second, sizeof second);
    put_page(&pages, 0, 0, 1, third, sizeof third);
    put_file(&bytes,
             &(struct made){
                 .type = 1, .repetition = 2, .value_count = 5, .row_count = 3, .pages = &pages});
    struct parquet *file = NULL;
    struct bl_error err = {0};
    assert_ok(parquet_parse(bytes.data, bytes.size, "made", &file, &err), err);
    struct parquet_reader *reader = open_reader(file, "c", 0);
    struct parquet_rows rows;
    assert_ok(parquet_reader_rows(reader, 0, &rows, &err), err);
    assert_int_equal(rows.row_count, 2);
    assert_int_equal(rows.starts[0], 0);
    assert_int_equal(rows.starts[1], 3);
    assert_int_equal(rows.starts[2], 3);
    assert_false(rows.null_lists[1]);
    for (int i = 0; i < 3; i++)
        assert_int_equal(rows.values[i].integer, i + 1);
    assert_ok(parquet_reader_rows(reader, 2, &rows, &err), err);
    assert_int_equal(rows.row_count, 1);
    assert_int_equal(rows.values[rows.starts[0]].integer, 4);
    parquet_reader_free(&reader);
    parquet_free(&file);
}

static void a_wrong_page_is_named_with_what_was_expected_and_found(void **state)
{
    static const struct {
        int type, repetition, encoding, value_count, size;
        uint8_t data[24];
        const char *message;
    } cases[] = {
        {6, 0, 0, 1, 5, {1, 0, 0, 0, 'a'}, ""},
        {6, 0, 0, 1, 5, {2, 0, 0, 0, 'a'}, "expected 1 values, found the page's end in value 0"},
        {1, 0, 0, 1, 3, {1, 2, 3}, "expected 1 values, found the page's end in value 0"},
        {6, 1, 0, 1, 3, {1, 0, 0}, "expected levels inside the page, found the page's end"},
        {6,
         1,
         0,
         1,
         5,
         {1, 0, 0, 0, 2},
         "expected runs of 1 more values, found the end of their bytes"},
        {6,
         1,
         0,
         1,
         4,
         {0, 0, 0, 0},
         "expected runs of 1 more values, found the end of their bytes"},
        {6, 1, 0, 1, 6, {2, 0, 0, 0, 2, 2}, "expected levels of 0 to 1, found 2"},
        {6,
         0,
         8,
         1,
         3,
         {1, 2, 0},
         "expected a dictionary page before a page of indices into it, found none"},
        {6,
         0,
         5,
         1,
         1,
         {0},
         "BYTE_ARRAY values encoded as DELTA_BINARY_PACKED are not read; write the file again with "
         "the writer's default "
         "encodings"},
        {1,
         0,
         4,
         1,
         1,
         {0},
         "INT32 values encoded as BIT_PACKED are not read; write the file again with the writer's "
         "default encodings"},
        {1, 0, 77, 1, 1, {0}, "expected an encoding of 0 to 9, found 77"},
        {1,
         0,
         5,
         1,
         4,
         {7, 1, 1, 0},
         "expected the head of DELTA_BINARY_PACKED integers, found other bytes"},
        {1, 0, 5, 1, 4, {8, 1, 2, 0}, "expected 1 DELTA_BINARY_PACKED integers, found 2"},
        {6, 0, 6, 1, 5, {8, 1, 1, 1, 0}, "expected value 0 inside the page, found a length of -1"},
        {6,
         0,
         7,
         1,
         9,
         {8, 1, 1, 4, 8, 1, 1, 0, 0},
         "expected value 0 to share at most the 0 bytes of the one before, found 2"},
        {1,
         2,
         0,
         1,
         12,
         {2, 0, 0, 0, 2, 1, 2, 0, 0, 0, 2, 1},
         "expected the first page to begin with a row, found the middle of one"},
        {1,
         2,
         0,
         2,
         12,
         {2, 0, 0, 0, 3, 2, 2, 0, 0, 0, 4, 0},
         "expected a null or empty list to be all of its row, found the middle of a row"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl_autobytes struct bl_bytes pages = {0};
        char expected[1600] = "";
        put_page(&pages, 0, cases[i].encoding, cases[i].value_count, cases[i].data,
                 (size_t)cases[i].size);
        if (cases[i].message[0])
            snprintf(expected, sizeof expected,
                     "made: row group 0, column \"c\", page at byte 4: %s", cases[i].message);
        assert_string_equal(read_made(&(struct made){.type = cases[i].type,
                                                     .repetition = cases[i].repetition,
                                                     .value_count = cases[i].value_count,
                                                     .row_count = 1,
                                                     .pages = &pages}),
                            expected);
    }
}

static void an_index_beyond_the_dictionary_is_refused(void **state)
{
    static const uint8_t dictionary[] = {1, 0, 0, 0, 'a', 1, 0, 0, 0, 'b'}, page[] = {2, 2, 2};
    bl_autobytes struct bl_bytes pages = {0};
    put_page(&pages, 2, 0, 2, dictionary, sizeof dictionary);
    size_t page_offset = 4 + pages.size;
    put_page(&pages, 0, 8, 1, page, sizeof page);
    char expected[256];
    snprintf(expected, sizeof expected,
             "made: row group 0, column \"c\", page at byte %zu: expected indices below the "
             "dictionary's 2 values, found 2",
             page_offset);
    assert_string_equal(
        read_made(&(struct made){.type = 6, .value_count = 1, .row_count = 1, .pages = &pages}),
        expected);
}

static void a_chunk_that_contradicts_its_pages_is_refused(void **state)
{
    static const uint8_t page[] = {1, 0, 0, 0, 'a'};
    bl_autobytes struct bl_bytes pages = {0};
    put_page(&pages, 0, 0, 1, page, sizeof page);
    struct made made = {.type = 6, .value_count = 1, .row_count = 1, .pages = &pages};
    assert_string_equal(read_made(&made), "");
    made.row_count = 2;
    assert_string_equal(read_made(&made),
                        "made: row group 0, column \"c\": expected 2 rows in its pages, found 1");
    made.value_count = 2;
    assert_string_equal(
        read_made(&made),
        "made: row group 0, column \"c\", page at byte 26: expected pages of 1 more values, "
        "found the column chunk's end");
    made.value_count = made.row_count = 1;
    made.codec = 3;
    assert_string_equal(read_made(&made), "made: row group 0, column \"c\", page at byte 4: pages "
                                          "compressed by LZO are not read; write "
                                          "the file again with zstd, snappy, gzip or lz4_raw");
    made.codec = 1;
    assert_string_equal(read_made(&made), "made: row group 0, column \"c\", page at byte 4: "
                                          "expected 5 bytes of SNAPPY that become 5, "
                                          "found other data");
    made.codec = 0;
    made.data_offset = 1000;
    assert_string_equal(
        read_made(&made),
        "made: footer: ColumnMetaData: expected a range inside the file's 81 bytes, found 22 bytes "
        "at 1000");
}

static void a_wrong_footer_is_named_with_what_was_expected_and_found(void **state)
{
    static const struct {
        uint8_t footer[40];
        int size;
        const char *message;
    } cases[] = {
        {{0}, 1, "FileMetaData: expected the field schema, found none"},
        {{0x15, 2}, 2, "FileMetaData: field 1 is cut off at the end of the 2 bytes"},
        {{0x15, 2, 0x05, 2, 2, 0}, 6, "FileMetaData: field 1 is there twice"},
        {{0x25, 2, 0}, 3, "FileMetaData: field 2: expected a list, found Thrift type 5"},
        {{0x29, 0x15, 0, 0},
         4,
         "FileMetaData: field 2: expected a list of structs, found one of Thrift type 5"},
        {{0x29, 0x0c, 0}, 3, "FileMetaData: expected a schema of at least 1 element"},
        {{0x29, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f},
         7,
         "FileMetaData: field 2 is cut off at the end of the 7 bytes"},
        {{0x29, 0x1c, 0x48, 1, 'r', 0x15, 2, 0, 0},
         9,
         "FileMetaData: the schema has fewer elements than its nodes have children"},
        {{0x29, 0x2c, 0x48, 1, 'r', 0, 0x48, 1, 'x', 0, 0},
         11,
         "FileMetaData: the schema has 1 elements that no node has as children"},
        {{0x29, 0x1c, 0}, 3, "SchemaElement: expected the field name, found none"},
        {{0x29, 0x1c, 0x35, 6, 0x18, 1, 'r', 0, 0},
         9,
         "SchemaElement: expected a repetition type of 0 to 2, found 3"},
        {{0x1b, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x55},
         7,
         "FileMetaData: field 1 is cut off at the end of the 7 bytes"},
        {{0x1f, 0}, 2, "FileMetaData: field 1: expected a Thrift type of 1 to 13, found 15"},
        {{0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c,
          0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c, 0x1c},
         20,
         "FileMetaData: expected structs at most 16 deep"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl_autobytes struct bl_bytes bytes = {0};
        uint32_t size = (uint32_t)cases[i].size;
        struct parquet *file = NULL;
        struct bl_error err = {0};
        bl_bytes_add(&bytes, "PAR1", 4);
        bl_bytes_add(&bytes, cases[i].footer, size);
        bl_bytes_add(&bytes, &size, 4);
        bl_bytes_add(&bytes, "PAR1", 4);
        expect_failure(parquet_parse(bytes.data, bytes.size, "made", &file, &err), err,
                       "made: footer: %s", cases[i].message);
    }
}

/* --- Runs and differences. --- */

static void packed_runs_of_every_width_are_read(void **state)
{
    for (int width = 0; width <= 32; width++) {
        uint8_t bytes[1 + 32 * 2] = {2 << 1 | 1}; /* 16 values */
        uint32_t expected[16], found[16];
        for (size_t i = 0; i < 16; i++) {
            expected[i] =
                width ? (uint32_t)(0x9e3779b97f4a7c15u * (i + 1) >> 32) >> (32 - width) : 0;
            for (int bit = 0; bit < width; bit++)
                if (expected[i] >> bit & 1)
                    bytes[1 + (i * (size_t)width + (size_t)bit) / 8] |=
                        (uint8_t)(1 << (i * (size_t)width + (size_t)bit) % 8);
        }
        struct bl_error err = {0};
        struct runs runs = runs_open(bytes, 1 + 2 * (size_t)width, width);
        assert_ok(runs_read(&runs, found, 5, &err), err);
        assert_ok(runs_read(&runs, found + 5, 11, &err), err);
        assert_memory_equal(found, expected, sizeof expected);
        assert_int_equal(runs_read(&runs, found, 1, &err), -BL_EFORMAT);
    }
}

static void differences_wrap_round_at_64_bits(void **state)
{
    /* Blocks of 8 in 1 miniblock; 3 values: INT64_MAX, then twice a difference of 1 + 0 and 1 + 1. */
    static const uint8_t bytes[] = {8,    1,    3,    0xfe, 0xff, 0xff, 0xff, 0xff, 0xff,
                                    0xff, 0xff, 0xff, 1,    2,    1,    2,    99};
    struct bl_cursor cursor = bl_cursor(bytes, sizeof bytes);
    struct bl_error err = {0};
    int64_t found[3];
    assert_ok(delta_read(&cursor, 3, found, &err), err);
    assert_true(found[0] == INT64_MAX && found[1] == INT64_MIN && found[2] == INT64_MIN + 2);
    assert_int_equal(cursor.left, 1);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(cmocka_unit_test(what_pyarrow_polars_and_duckdb_wrote_is_read),
          cmocka_unit_test(an_empty_file_has_columns_and_no_rows),
          cmocka_unit_test(an_uncompressed_plain_value_is_located_in_the_file),
          cmocka_unit_test(a_file_that_is_shortened_while_it_is_open_is_an_error_with_its_name),
          IN_FOLDER(files_of_a_folder_or_a_pattern_are_one_table),
          IN_FOLDER(a_table_names_the_file_that_lacks_the_column),
          IN_FOLDER(a_table_names_the_file_whose_column_is_of_another_kind),
          cmocka_unit_test(columns_of_other_types_are_listed_and_the_rest_is_read),
          cmocka_unit_test(encryption_and_unknown_codecs_are_refused_by_name),
          cmocka_unit_test(a_damaged_page_is_named_and_the_others_are_read),
          cmocka_unit_test(a_file_cut_off_anywhere_is_refused),
          cmocka_unit_test(a_row_may_go_on_in_the_next_page),
          cmocka_unit_test(a_wrong_page_is_named_with_what_was_expected_and_found),
          cmocka_unit_test(an_index_beyond_the_dictionary_is_refused),
          cmocka_unit_test(a_chunk_that_contradicts_its_pages_is_refused),
          cmocka_unit_test(a_wrong_footer_is_named_with_what_was_expected_and_found),
          cmocka_unit_test(packed_runs_of_every_width_are_read),
          cmocka_unit_test(differences_wrap_round_at_64_bits))
