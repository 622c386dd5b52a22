/* common/data/source_parquet.c - Parquet files. Rows stay in them and are read when asked for, so that opening a source takes
 * neither time nor memory for captions. Images are in a column of their bytes, or a column says where they are: URLs, or paths
 * below the folder. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/source_build.h"
#include "common/data/url.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/parquet/parquet.h"
#include "common/utf8.h"

#define READER_BYTES (16 << 20) /* decoded pages of a column that is read from end to end */

/* A column that is read mostly in order. */
struct column {
    struct parquet_reader *reader; /* NULL: there is no such column */
    struct parquet_rows rows;      /* those read last; row_count 0: none */
    bool real;                     /* of numbers: else integers */
};

struct store {
    struct parquet_table *table;
    int64_t *first_rows; /* of each file */
    char *bytes;         /* the column of images' bytes, or NULL */
    char *folder;        /* that images' paths start at */
    const char *cache;   /* folder of what URLs are cached in; borrowed from the source */

    pthread_mutex_t lock;  /* source_locate is for any thread */
    struct column located; /* URLs or paths, under the lock */

    struct column names; /* what images are called */
    struct column *captions;
    size_t caption_count;
    struct column *numbers; /* of data.filters */
    double *number;         /* of the sample read last */
    size_t number_count;
    struct bl_bytes name; /* of the sample read last */
    struct source_candidate *candidates;
    size_t candidate_count, candidate_capacity;
};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* -- rows ------------------------------------------------------------------------------------- */

/* The values of a row: one, or a list's. Borrowed until the next call on this column. */
static int read_row(struct column *c, int64_t row, const struct parquet_value **ret,
                    size_t *ret_count, struct bl_error *err)
{
    if (row < c->rows.first_row || row - c->rows.first_row >= c->rows.row_count) {
        struct parquet_rows rows;
        c->rows.row_count = 0;
        BL_TRY(parquet_reader_rows(c->reader, row, &rows, err));
        c->rows = rows;
    }
    int64_t i = row - c->rows.first_row;
    const uint32_t *starts = c->rows.starts;
    *ret = c->rows.values + (starts ? starts[i] : i);
    *ret_count = starts ? starts[i + 1] - starts[i] : 1;
    return 0;
}

/* The file a row is in; *row becomes the row inside it. */
static const struct parquet *file_of(const struct store *s, uint64_t *row)
{
    size_t low = 0, high = parquet_table_file_count(s->table);
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        *(s->first_rows[middle] <= (int64_t)*row ? &low : &high) = middle;
    }
    *row -= (uint64_t)s->first_rows[low];
    return parquet_table_file(s->table, low);
}

static int check_caption(const struct parquet_value *value, struct bl_error *err)
{
    return source_check_caption((const char *)value->bytes, value->size, err);
}

static int add_candidates(struct store *s, size_t column, int64_t row, struct bl_error *err)
{
    const struct parquet_value *values;
    size_t count;
    BL_TRY(read_row(&s->captions[column], row, &values, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (values[i].null)
            continue;
        BL_TRY(check_caption(&values[i], err));
        if (!bl_grow(&s->candidates, &s->candidate_capacity, s->candidate_count + 1,
                     sizeof *s->candidates))
            return fail_nomem(err);
        s->candidates[s->candidate_count++] = (struct source_candidate){
            (const char *)values[i].bytes, values[i].size, (uint32_t)column};
    }
    return 0;
}

/* What messages call the image: its path or URL, else its row. */
static int read_name(struct store *s, uint64_t row, uint64_t line, struct bl_error *err)
{
    const struct parquet_value *value = NULL;
    size_t count;
    char number[40];
    if (s->names.reader)
        BL_TRY(read_row(&s->names, (int64_t)row, &value, &count, err));
    bool named = value && !value->null && value->size;
    snprintf(number, sizeof number, "row %llu", (unsigned long long)line);
    s->name.size = 0;
    if (!bl_bytes_add(&s->name, named ? (const char *)value->bytes : number,
                      named ? value->size : strlen(number)) ||
        !bl_bytes_add(&s->name, "", 1))
        return fail_nomem(err);
    utf8_clean(s->name.data);
    return 0;
}

static void place(const struct source *source, uint64_t id, struct source_sample *ret)
{
    const struct parquet *file = file_of(source->store, &id);
    *ret = (struct source_sample){
        .image = "", .file = parquet_name(file) + strlen(source->folder) + 1, .line = id + 1};
}

/* The number of a row; NAN where it is null. */
static int read_number(struct column *c, int64_t row, double *ret, struct bl_error *err)
{
    const struct parquet_value *value;
    size_t count;
    BL_TRY(read_row(c, row, &value, &count, err));
    *ret = value->null ? NAN : c->real ? value->real : (double)value->integer;
    return 0;
}

static int get(const struct source *source, uint64_t id, struct source_sample *ret,
               struct bl_error *err)
{
    struct store *s = source->store;
    place(source, id, ret);
    s->candidate_count = 0;
    BL_TRY(read_name(s, id, ret->line, err));
    ret->image = s->name.data;
    for (size_t i = 0; i < s->caption_count; i++)
        if (add_candidates(s, i, (int64_t)id, err) < 0)
            return source_where(source, ret, err);
    for (size_t i = 0; i < s->number_count; i++)
        if (read_number(&s->numbers[i], (int64_t)id, &s->number[i], err) < 0)
            return source_where(source, ret, err);
    ret->numbers = s->number;
    ret->candidate_count = s->candidate_count;
    return 0;
}

static void candidate(const struct source *source, uint64_t i, struct source_candidate *ret)
{
    const struct store *s = source->store;
    BL_ASSERT_CMP(i, <, s->candidate_count);
    *ret = s->candidates[i];
}

/* -- where images are -------------------------------------------------------------------------- */

static int locate_bytes(const struct store *s, uint64_t row, char **ret, struct bl_error *err)
{
    const struct parquet *file = file_of(s, &row);
    struct location location = {.kind = LOCATION_CELL,
                                .path = parquet_name(file),
                                .row = row,
                                .column = s->bytes,
                                .column_length = strlen(s->bytes)};
    return location_format(&location, ret, err);
}

/* A URL, or a path below the folder. */
static int locate_name(const struct store *s, const char *name, char **ret, struct bl_error *err)
{
    if (url_is(name))
        return url_locate(name, s->cache, ret, err);
    BL_TRY(source_check_path(name, err));
    bl_autofree char *path = NULL;
    if (asprintf(&path, "%s/%s", s->folder, name) < 0) {
        path = NULL;
        return fail_nomem(err);
    }
    struct location location = {.kind = LOCATION_FILE, .path = path};
    return location_format(&location, ret, err);
}

/* A copy of the row's URL or path, the caller's; NULL: the row has none. */
static int copy_name(struct store *s, uint64_t row, char **ret, struct bl_error *err)
{
    const struct parquet_value *value;
    size_t count;
    *ret = NULL;
    pthread_mutex_lock(&s->lock);
    int rc = read_row(&s->located, (int64_t)row, &value, &count, err);
    if (rc == 0 && !value->null && value->size &&
        !(*ret = strndup((const char *)value->bytes, value->size)))
        rc = fail_nomem(err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int identify(const struct source *source, uint64_t id, bool *ret_is_url, uint8_t ret[32],
                    struct bl_error *err)
{
    struct store *s = source->store;
    bl_autofree char *name = NULL;
    if (s->bytes)
        return 0;
    BL_TRY(copy_name(s, id, &name, err));
    *ret_is_url = name && url_is(name);
    return *ret_is_url ? url_identify(name, ret, err) : 0;
}

static int locate(const struct source *source, uint64_t id, char **ret, struct bl_error *err)
{
    struct store *s = source->store;
    bl_autofree char *name = NULL;
    if (s->bytes)
        return locate_bytes(s, id, ret, err);
    BL_TRY(copy_name(s, id, &name, err));
    *ret = NULL;
    if (!name || locate_name(s, name, ret, err) == 0)
        return 0;
    const struct parquet *file = file_of(s, &id);
    return source_error_at(err, source->folder, parquet_name(file) + strlen(source->folder) + 1,
                           id + 1);
}

/* -- opening ---------------------------------------------------------------------------------- */

static void release(void *store)
{
    struct store *s = store;
    parquet_reader_free(&s->located.reader);
    parquet_reader_free(&s->names.reader);
    for (size_t i = 0; i < s->caption_count; i++)
        parquet_reader_free(&s->captions[i].reader);
    for (size_t i = 0; i < s->number_count; i++)
        parquet_reader_free(&s->numbers[i].reader);
    pthread_mutex_destroy(&s->lock);
    parquet_table_free(&s->table);
    bl_bytes_release(&s->name);
    free(s->first_rows);
    free(s->bytes);
    free(s->folder);
    free(s->captions);
    free(s->numbers);
    free(s->number);
    free(s->candidates);
    free(s);
}

/* A flat or list column of the first file, or NULL. */
static const struct parquet_column *find(const struct store *s, const char *path)
{
    const struct parquet *file = parquet_table_file(s->table, 0);
    for (size_t i = 0; i < parquet_column_count(file); i++)
        if (!strcmp(parquet_column_at(file, i)->path, path))
            return parquet_column_at(file, i);
    return NULL;
}

static int open_column(const struct store *s, const char *path, struct column *ret,
                       struct bl_error *err)
{
    return parquet_table_reader_open(s->table, path, READER_BYTES, &ret->reader, err);
}

static int fail_column(const struct source *source, const char *path,
                       const struct parquet_column *found, const char *expected, const char *key,
                       struct bl_error *err)
{
    bl_fail(err, BL_ECONFIG, "expected column \"%.60s\" to hold %s, found %s%s", path, expected,
            found->list ? "a list of " : "", found->type);
    bl_error_key(err, "%s", key);
    bl_error_remedy(err, "name another column");
    return bl_error_file(err, source->folder);
}

/* A column called `path`, as Hugging Face's image type has it: with bytes and path inside. */
static bool is_struct(const struct store *s, const char *path, char ret_bytes[64],
                      char ret_name[64])
{
    snprintf(ret_bytes, 64, "%.50s.bytes", path);
    snprintf(ret_name, 64, "%.50s.path", path);
    return find(s, ret_bytes) != NULL;
}

/* Opens what column `path` holds: bytes, alone or with their path, or texts that say where the image is. */
static int open_images(const struct source *source, struct store *s, const char *path,
                       struct bl_error *err)
{
    char bytes[64], name[64];
    bool inside = is_struct(s, path, bytes, name);
    const struct parquet_column *column = find(s, inside ? bytes : path);
    if (column->kind != PARQUET_BYTES || column->list || column->unreadable)
        return fail_column(source, path, column, "images, URLs or paths, one a row",
                           "data.image_column", err);
    if (!inside && strcmp(column->type, "BYTE_ARRAY")) { /* a text */
        BL_TRY(open_column(s, path, &s->names, err));
        return open_column(s, path, &s->located, err);
    }
    if (inside && find(s, name) && find(s, name)->kind == PARQUET_BYTES && !find(s, name)->list)
        BL_TRY(open_column(s, name, &s->names, err));
    s->bytes = strdup(column->path);
    return s->bytes ? 0 : fail_nomem(err);
}

/* data.image_column, or the first there is of the names that data sets use. */
static int choose_images(const struct source *source, struct store *s, const char *wanted,
                         struct bl_error *err)
{
    static const char *const usual[] = {"image", "img",       "jpg",      "url",
                                        "URL",   "image_url", "file_name"};
    char bytes[64], name[64], names[300] = "";
    size_t used = 0;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        const char *path = wanted ? wanted : usual[i];
        if (find(s, path) || is_struct(s, path, bytes, name))
            return open_images(source, s, path, err);
    }
    const struct parquet *file = parquet_table_file(s->table, 0);
    for (size_t i = 0; i < parquet_column_count(file) && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%.100s", i ? ", " : "",
                                 parquet_column_at(file, i)->path);
    if (wanted)
        bl_fail(err, BL_ECONFIG, "expected a column \"%.60s\", found %s", wanted, names);
    else
        bl_fail(err, BL_ECONFIG,
                "expected images in a column image, img, jpg, url, URL, image_url or file_name, "
                "found %s",
                names);
    bl_error_key(err, "data.image_column");
    bl_error_remedy(err, "name the column of images, of their URLs or of their paths");
    return bl_error_file(err, source->folder);
}

static int open_captions(struct source *source, struct store *s, struct bl_error *err)
{
    const struct parquet *file = parquet_table_file(s->table, 0);
    for (size_t i = 0; i < parquet_column_count(file); i++)
        source_saw_column(source, parquet_column_at(file, i)->path);
    BL_TRY(source_check_columns(source, err));
    s->captions = calloc(source->column_count, sizeof *s->captions);
    if (!s->captions)
        return fail_nomem(err);
    for (size_t i = 0; i < source->column_count; i++) {
        const struct parquet_column *column = find(s, source->columns[i]);
        if (column->kind != PARQUET_BYTES || column->unreadable)
            return fail_column(source, column->path, column, "texts or lists of texts",
                               "data.captions", err);
        s->caption_count++;
        BL_TRY(open_column(s, column->path, &s->captions[i], err));
    }
    return 0;
}

/* Columns of integers, reals or booleans. */
static int open_numbers(const struct source *source, struct store *s,
                        const struct source_options *options, struct bl_error *err)
{
    s->numbers = calloc(options->number_count + 1, sizeof *s->numbers);
    s->number = calloc(options->number_count + 1, sizeof *s->number);
    if (!s->numbers || !s->number)
        return fail_nomem(err);
    for (size_t i = 0; i < options->number_count; i++) {
        char key[40];
        const struct parquet_column *column = find(s, options->numbers[i]);
        snprintf(key, sizeof key, "data.filters[%zu]", i);
        if (!column)
            return source_check_numbers(source, err); /* says that it is missing */
        source->number_seen[i] = true;
        if (column->kind == PARQUET_BYTES || column->list || column->unreadable)
            return fail_column(source, column->path, column, "numbers, one a row", key, err);
        s->number_count++;
        s->numbers[i].real = column->kind == PARQUET_REAL;
        BL_TRY(open_column(s, column->path, &s->numbers[i], err));
    }
    return 0;
}

static int count_rows(struct source *source, struct store *s, struct bl_error *err)
{
    size_t files = parquet_table_file_count(s->table);
    int64_t rows = 0;
    s->first_rows = calloc(files, sizeof *s->first_rows);
    if (!s->first_rows)
        return fail_nomem(err);
    for (size_t i = 0; i < files; i++) {
        s->first_rows[i] = rows;
        rows += parquet_row_count(parquet_table_file(s->table, i));
    }
    if (rows > BL_SAMPLES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected at most %d samples, found %lld", BL_SAMPLES_MAX,
                       (long long)rows);
    source->row_count = (size_t)rows;
    return 0;
}

/* A file that is written anew is another source: captions are not read for this. */
static int fingerprint(struct source *source, const struct store *s, struct bl_error *err)
{
    struct bl_sha256 hash;
    int rc = 0;
    bl_sha256_begin(&hash);
    bl_sha256_add(&hash, "parquet", 8);
    for (size_t i = 0; i < parquet_table_file_count(s->table) && rc == 0; i++) {
        const char *path = parquet_name(parquet_table_file(s->table, i));
        const char *name = path + strlen(source->folder) + 1;
        struct bl_stamp stamp = {0};
        rc = bl_file_stamp(path, &stamp, err);
        bl_sha256_add(&hash, name, strlen(name) + 1);
        bl_sha256_add(&hash, &stamp, sizeof stamp);
    }
    bl_sha256_end(&hash, source->fingerprint);
    return rc;
}

/* Of the folder itself, not of folders in it: parquet_table_open. */
static bool recognise(const struct source_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        if (source_is_parquet(listing->paths[i]) && !strchr(listing->paths[i], '/'))
            return true;
    return false;
}

static int read_parquet(struct source *source, const struct source_listing *listing,
                        struct bl_error *err)
{
    const struct source_options *options = source->options;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return fail_nomem(err);
    pthread_mutex_init(&s->lock, NULL);
    source->store = s;
    source->access = (struct source_access){.place = place,
                                            .get = get,
                                            .identify = identify,
                                            .candidate = candidate,
                                            .locate = locate,
                                            .free = release};
    s->cache = source->cache;
    s->folder = strdup(source->folder);
    if (!s->folder)
        return fail_nomem(err);
    BL_TRY(parquet_table_open(options->path, &s->table, err));
    BL_TRY(count_rows(source, s, err));
    BL_TRY(choose_images(source, s, options->image_column, err));
    BL_TRY(open_captions(source, s, err));
    BL_TRY(open_numbers(source, s, options, err));
    return fingerprint(source, s, err);
}

const struct source_kind source_parquet = {CONFIG_PARQUET, "parquet", "Parquet files", recognise,
                                           read_parquet};
