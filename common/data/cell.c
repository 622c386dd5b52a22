/* common/data/cell.c - see cell.h. A value that lies in the file as it is is read from there alone. A reader belongs to one call at a time; those that nobody uses wait in a list. */
#include "common/data/cell.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/parquet/parquet.h"

enum { IDLE_MAX = 64 };
#define READER_BYTES (4 << 20) /* decoded pages: an image's own, and its neighbours' */

struct cell_reader {
    char *path, *column;
    struct bl_stamp stamp; /* the file's when it was opened */
    struct parquet *file;
    struct parquet_reader *reader;
    struct cell_reader *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cell_reader *idle; /* newest first; under the lock */
static int idle_count;

static void cell_reader_free(struct cell_reader **reader)
{
    struct cell_reader *r = *reader;
    if (!r)
        return;
    parquet_reader_free(&r->reader);
    parquet_free(&r->file);
    free(r->path);
    free(r->column);
    free(r);
    *reader = NULL;
}

static bool fits(const struct cell_reader *r, const struct location *l,
                 const struct bl_stamp *stamp)
{
    return !strcmp(r->path, l->path) && strlen(r->column) == l->column_length &&
           !memcmp(r->column, l->column, l->column_length) && bl_stamp_equal(&r->stamp, stamp);
}

static struct cell_reader *take_idle(const struct location *l, const struct bl_stamp *stamp)
{
    pthread_mutex_lock(&lock);
    struct cell_reader **at = &idle;
    while (*at && !fits(*at, l, stamp))
        at = &(*at)->next;
    struct cell_reader *found = *at;
    if (found) {
        *at = found->next;
        idle_count--;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* Puts a reader in front; the one that waited longest makes room. */
static void give_back(struct cell_reader *r)
{
    struct cell_reader *oldest = NULL;
    pthread_mutex_lock(&lock);
    r->next = idle;
    idle = r;
    if (++idle_count > IDLE_MAX) {
        struct cell_reader **at = &idle;
        while ((*at)->next)
            at = &(*at)->next;
        oldest = bl_take(at);
        idle_count--;
    }
    pthread_mutex_unlock(&lock);
    cell_reader_free(&oldest);
}

static int open_reader(const struct location *l, const struct bl_stamp *stamp,
                       struct cell_reader **ret, struct bl_error *err)
{
    bl_auto(cell_reader) struct cell_reader *r = calloc(1, sizeof *r);
    const struct parquet_column *column;
    if (!r || !(r->path = strdup(l->path)) || !(r->column = strndup(l->column, l->column_length)))
        return bl_fail(err, BL_ENOMEM, "no memory for a Parquet file's reader");
    r->stamp = *stamp;
    BL_TRY(parquet_open(r->path, &r->file, err));
    BL_TRY(parquet_column_find(r->file, r->column, &column, err));
    if (column->kind != PARQUET_BYTES || column->list) {
        bl_fail(err, BL_EFORMAT, "expected one image a row in column \"%s\", found %s%s", r->column,
                column->list ? "a list of " : "", column->type);
        return bl_error_file(err, l->path);
    }
    BL_TRY(parquet_reader_open(r->file, column, READER_BYTES, &r->reader, err));
    *ret = bl_take(&r);
    return 0;
}

static int copy_value(struct cell_reader *r, const struct location *l, size_t max_bytes,
                      char **ret_data, size_t *ret_size, struct bl_error *err)
{
    struct parquet_rows rows;
    int64_t row_count = parquet_row_count(r->file);
    if (l->row >= (uint64_t)row_count)
        return bl_fail(err, BL_EFORMAT, "expected row %" PRIu64 ", found %" PRId64 " rows",
                       l->row + 1, row_count);
    struct parquet_place place;
    BL_TRY(parquet_reader_place(r->reader, (int64_t)l->row, &place, err));
    if (!place.known) {
        BL_TRY(parquet_reader_rows(r->reader, (int64_t)l->row, &rows, err));
        place.null = rows.values[0].null;
        place.size = rows.values[0].size;
    }
    if (place.null)
        return bl_fail(err, BL_EFORMAT, "row %" PRIu64 " has no image", l->row + 1);
    if (place.size > max_bytes)
        return bl_fail(err, BL_ELIMIT, "expected at most %zu bytes, found %u", max_bytes,
                       place.size);
    bl_autofree char *data = malloc((size_t)place.size + 1);
    if (!data)
        return bl_fail(err, BL_ENOMEM, "no memory for %u bytes", place.size);
    if (place.known)
        BL_TRY(parquet_read_at(r->file, &place, data, err));
    else
        memcpy(data, rows.values[0].bytes, place.size);
    data[place.size] = 0;
    *ret_data = bl_take(&data);
    *ret_size = place.size;
    return 0;
}

int cell_read(const struct location *l, size_t max_bytes, char **ret_data, size_t *ret_size,
              struct bl_stamp *ret_stamp, struct bl_error *err)
{
    struct bl_stamp stamp;
    BL_TRY(bl_file_stamp(l->path, &stamp, err));
    bl_auto(cell_reader) struct cell_reader *r = take_idle(l, &stamp);
    if (!r)
        BL_TRY(open_reader(l, &stamp, &r, err));
    if (copy_value(r, l, max_bytes, ret_data, ret_size, err) < 0)
        return bl_error_file(err, l->path);
    give_back(bl_take(&r));
    if (ret_stamp)
        *ret_stamp = stamp;
    return 0;
}
