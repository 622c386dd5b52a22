/* common/data/source.c - the table of source kinds and what they share. */
#include "common/data/source.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/hub/hub.h"
#include "common/limits.h"
#include "common/data/captions.h"
#include "common/data/source_build.h"
#include "common/tar/tar.h"
#include "common/utf8.h"

/* In the order in which auto tries them. */
static const struct source_kind *const kinds[] = {
    &source_imagefolder, &source_pairs, &source_annotations, &source_parquet, &source_webdataset};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

const char *source_basename(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool ends_with(const char *path, const char *const *ends)
{
    const char *dot = strrchr(source_basename(path), '.');
    for (; dot && *ends; ends++)
        if (!strcasecmp(dot, *ends))
            return true;
    return false;
}

#define HEIF_ENDS ".avif", ".heic", ".heif"

bool source_is_image(const char *path)
{
    static const char *const ends[] = {".jpg",    ".jpeg", ".jpe", ".jfif", ".png",
                                       ".webp",   ".gif",  ".bmp", ".tif",  ".tiff",
#ifdef BLIPREN_HEIF
                                       HEIF_ENDS,
#endif
                                       NULL};
    return ends_with(path, ends);
}

bool source_is_parquet(const char *path)
{
    return ends_with(path, (const char *const[]){".parquet", NULL});
}

bool source_is_tar(const char *path)
{
    return tar_is_archive(path) || tar_is_compressed(path);
}

bool source_is_other_image(const char *path)
{
    static const char *const ends[] = {".jp2",    ".jxl", ".psd", ".svg",
                                       ".ico",    ".tga", ".ppm", ".pgm",
#ifndef BLIPREN_HEIF
                                       HEIF_ENDS,
#endif
                                       NULL};
    return ends_with(path, ends);
}

int source_error_at(struct bl_error *err, const char *folder, const char *file, uint64_t line)
{
    char where[512];
    if (line)
        snprintf(where, sizeof where, "%s/%s:%llu", folder, file, (unsigned long long)line);
    else
        snprintf(where, sizeof where, "%s/%s", folder, file);
    if (err && err->code == BL_EFORMAT)
        bl_error_remedy(err, line ? "correct that line" : "correct that file");
    return bl_error_file(err, where);
}

const char *source_passed_words(enum source_passed kind)
{
    static const char *const words[] = {
#define X(name, words) words,
        SOURCE_PASSED(X)
#undef X
    };
    return words[kind];
}

int source_pass_over(struct source *source, enum source_passed kind, const char *path,
                     struct bl_error *err)
{
    char **first = &source->passed[kind].first;
    source->passed[kind].count++;
    if (*first && strcmp(*first, path) <= 0)
        return 0; /* folders are listed in no order */
    free(*first);
    *first = strdup(path);
    return *first ? 0 : fail_nomem(err);
}

uint64_t source_passed(const struct source *source, enum source_passed kind, const char **ret_first)
{
    *ret_first = source->passed[kind].first ? source->passed[kind].first : "";
    return source->passed[kind].count;
}

/* -- listing ---------------------------------------------------------------------------------- */

static void listing_release(struct source_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        free(listing->paths[i]);
    free(listing->paths);
}

/* A folder that is being listed, and those around it. */
struct level {
    const struct level *outer;
    int depth;
    dev_t device;
    ino_t inode;
};

static int list_folder(struct source_listing *listing, const char *below, const struct level *outer,
                       struct bl_error *err);

static int fail_listing(const char *path, const char *what, struct bl_error *err)
{
    bl_fail_errno(err, "%s", what);
    return bl_error_file(err, path);
}

static int add_path(struct source_listing *listing, const char *path, struct bl_error *err)
{
    if (listing->count >= BL_SAMPLES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected at most %d files", BL_SAMPLES_MAX);
    if (!bl_grow(&listing->paths, &listing->capacity, listing->count + 1, sizeof *listing->paths))
        return fail_nomem(err);
    char *copy = strdup(path);
    if (!copy)
        return fail_nomem(err);
    listing->paths[listing->count++] = copy;
    return 0;
}

/* Adds a file, or what is in a folder; links are followed. */
static int list_entry(struct source_listing *listing, const char *path, const struct level *level,
                      struct bl_error *err)
{
    bl_autofree char *full = NULL;
    struct stat st;
    if (asprintf(&full, "%s/%s", listing->folder, path) < 0) {
        full = NULL;
        return fail_nomem(err);
    }
    if (stat(full, &st) < 0) {
        if (errno != ENOENT && errno != ELOOP)
            return fail_listing(full, "cannot be examined", err);
        if (lstat(full, &st) < 0)
            return errno == ENOENT ? 0 /* gone since the folder was read */
                                   : fail_listing(full, "cannot be examined", err);
        return source_pass_over(listing->source, SOURCE_DEAD_LINKS, path, err);
    }
    if (S_ISDIR(st.st_mode)) {
        for (const struct level *l = level; l; l = l->outer)
            if (l->device == st.st_dev && l->inode == st.st_ino)
                return source_pass_over(listing->source, SOURCE_DEAD_LINKS, path, err);
        return list_folder(listing, path, level, err);
    }
    return S_ISREG(st.st_mode) ? add_path(listing, path, err) : 0;
}

static void closedir_at(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static int list_folder(struct source_listing *listing, const char *below, const struct level *outer,
                       struct bl_error *err)
{
    struct level level = {.outer = outer, .depth = outer ? outer->depth + 1 : 1};
    struct stat st;
    if (level.depth > BL_FOLDER_DEPTH_MAX)
        return bl_fail(err, BL_ELIMIT, "folders are nested more than %d deep", BL_FOLDER_DEPTH_MAX);
    bl_autofree char *full = NULL;
    if (asprintf(&full, "%s/%s", listing->folder, below) < 0) {
        full = NULL;
        return fail_nomem(err);
    }
    const char *name = *below ? full : listing->folder;
    __attribute__((cleanup(closedir_at))) DIR *dir = opendir(full);
    if (!dir)
        return fail_listing(name, "cannot be opened as a folder", err);
    if (fstat(dirfd(dir), &st) < 0)
        return fail_listing(name, "cannot be examined", err);
    level.device = st.st_dev;
    level.inode = st.st_ino;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(dir)); errno = 0) {
        bl_autofree char *path = NULL;
        if (entry->d_name[0] == '.')
            continue;
        if (asprintf(&path, "%s%s%s", below, *below ? "/" : "", entry->d_name) < 0) {
            path = NULL;
            return fail_nomem(err);
        }
        BL_TRY(list_entry(listing, path, &level, err));
    }
    return errno ? fail_listing(name, "cannot be listed", err) : 0;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* -- building --------------------------------------------------------------------------------- */

/* Adds a NUL-terminated copy to the source's text and gives its offset. */
static int add_text(struct source *source, const char *text, size_t size, size_t *ret,
                    struct bl_error *err)
{
    *ret = source->text.size;
    return bl_bytes_add(&source->text, text, size) && bl_bytes_add(&source->text, "", 1)
               ? 0
               : fail_nomem(err);
}

/* A relative path none of whose parts is "..". */
static bool stays_below(const char *path)
{
    if (!*path || *path == '/')
        return false;
    for (const char *part = path; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (!strncmp(part, "..", 2) && (part[2] == '/' || !part[2]))
            return false;
    }
    return true;
}

int source_check_path(const char *path, struct bl_error *err)
{
    if (stays_below(path))
        return 0;
    bl_fail(err, BL_EFORMAT, "expected a path that stays below the folder, found \"%.100s\"", path);
    return bl_error_key(err, "file_name");
}

static int add_row(struct source *source, const char *image, const char *file, uint64_t line,
                   struct bl_error *err)
{
    if (source->row_count >= BL_SAMPLES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected at most %d samples", BL_SAMPLES_MAX);
    struct source_row row = {.line = line, .first_candidate = source->candidate_count};
    BL_TRY(add_text(source, image, strlen(image), &row.image, err));
    /* Samples of one file share its name. */
    const struct source_row *last = source->row_count ? &source->rows[source->row_count - 1] : NULL;
    if (last && !strcmp(source->text.data + last->file, file))
        row.file = last->file;
    else
        BL_TRY(add_text(source, file, strlen(file), &row.file, err));
    if (!bl_grow(&source->rows, &source->row_capacity, source->row_count + 1, sizeof row))
        return fail_nomem(err);
    source->rows[source->row_count++] = row;
    return 0;
}

int source_check_encoding(const char *data, size_t size, struct bl_error *err)
{
    if (size < 2 || (memcmp(data, "\xff\xfe", 2) != 0 && memcmp(data, "\xfe\xff", 2) != 0))
        return 0;
    bl_fail(err, BL_EFORMAT, "expected UTF-8, found UTF-16");
    return bl_error_remedy(err, "convert the file, for example with iconv -f UTF-16 -t UTF-8");
}

int source_add(struct source *source, const char *image, const char *file, uint64_t line,
               struct bl_error *err)
{
    BL_TRY(source_check_path(image, err));
    return add_row(source, image, file, line, err);
}

int source_add_contained(struct source *source, const char *image, const char *file,
                         struct bl_error *err)
{
    return add_row(source, image, file, 0, err);
}

int source_check_caption(const char *text, size_t size, struct bl_error *err)
{
    if (size > BL_CAPTION_BYTES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected a caption of at most %d bytes, found %zu",
                       BL_CAPTION_BYTES_MAX, size);
    size_t valid = utf8_valid(text, size);
    if (valid == size)
        return 0;
    bl_fail(err, BL_EFORMAT, "expected UTF-8, found the byte 0x%02x after \"%.*s\"",
            (unsigned char)text[valid], valid < 40 ? (int)valid : 40,
            text + (valid < 40 ? 0 : valid - 40));
    return bl_error_remedy(err,
                           "convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8");
}

int source_add_caption(struct source *source, size_t column, const char *text, size_t size,
                       struct bl_error *err)
{
    BL_ASSERT_CMP(source->row_count, >, 0);
    BL_TRY(source_check_caption(text, size, err));
    struct source_text candidate = {.size = size, .column = (uint32_t)column};
    BL_TRY(add_text(source, text, size, &candidate.text, err));
    if (!bl_grow(&source->candidates, &source->candidate_capacity, source->candidate_count + 1,
                 sizeof candidate))
        return fail_nomem(err);
    source->candidates[source->candidate_count++] = candidate;
    return 0;
}

void source_saw_column(struct source *source, const char *name)
{
    bool wanted = false;
    for (size_t i = 0; i < source->column_count; i++)
        if (!strcmp(source->columns[i], name))
            wanted = source->column_seen[i] = true;
    for (size_t i = 0; i < source->other_count; i++)
        if (!strncmp(source->others[i], name, sizeof source->others[i] - 1))
            return;
    if (!wanted && source->other_count < SOURCE_OTHERS_MAX)
        snprintf(source->others[source->other_count++], sizeof source->others[0], "%s", name);
}

int source_check_columns(const struct source *source, struct bl_error *err)
{
    for (size_t i = 0; i < source->column_count; i++) {
        if (source->column_seen[i])
            continue;
        char others[sizeof source->others + 2 * SOURCE_OTHERS_MAX] = "";
        size_t used = 0;
        for (size_t j = 0; j < source->other_count; j++)
            used += (size_t)snprintf(others + used, sizeof others - used, "%s%s", j ? ", " : "",
                                     source->others[j]);
        bl_fail(err, BL_ECONFIG, "no sample has the column \"%.60s\"", source->columns[i]);
        bl_error_key(err, "data.captions");
        if (used)
            bl_error_remedy(err, "there are %.200s", others);
        return bl_error_file(err, source->options->path);
    }
    return 0;
}

/* One past the last candidate of a sample. */
static size_t candidates_end(const struct source *source, uint64_t id)
{
    return id + 1 < source->row_count ? source->rows[id + 1].first_candidate
                                      : source->candidate_count;
}

/* A sample in memory. */
static void get_added(const struct source *source, uint64_t id, struct source_sample *ret)
{
    const struct source_row *row = &source->rows[id];
    *ret = (struct source_sample){
        .image = source->text.data + row->image,
        .candidate_count = candidates_end(source, id) - row->first_candidate,
        .file = source->text.data + row->file,
        .line = row->line,
        .numbers = source_numbers(source, id),
    };
}

static void fingerprint(struct source *source, const char *kind)
{
    struct bl_sha256 hash;
    bl_sha256_begin(&hash);
    bl_sha256_add(&hash, kind, strlen(kind) + 1);
    for (size_t i = 0; i < source->row_count; i++) {
        struct source_sample sample;
        get_added(source, i, &sample);
        bl_sha256_add(&hash, sample.image, strlen(sample.image) + 1);
        for (uint64_t j = 0; j < sample.candidate_count; j++) {
            struct source_candidate c;
            source_candidate(source, i, j, &c);
            const char *column = source->columns[c.column];
            bl_sha256_add(&hash, column, strlen(column) + 1);
            bl_sha256_add(&hash, c.text, c.size + 1);
        }
        bl_sha256_add(&hash, "\n", 1);
    }
    source_numbers_digest(source, &hash);
    bl_sha256_end(&hash, source->fingerprint);
}

/* -- public ----------------------------------------------------------------------------------- */

static const struct source_kind *choose(enum config_format format,
                                        const struct source_listing *listing)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (format == CONFIG_FORMAT_AUTO ? kinds[i]->recognise(listing)
                                         : format == kinds[i]->format)
            return kinds[i];
    return NULL;
}

/* What every kind ends with. */
static int finish(struct source *source, const char *kind, struct bl_error *err)
{
    if (!source->row_count) {
        bl_fail(err, BL_EFORMAT, "expected samples, found none");
        bl_error_remedy(err, "put images and their captions there; docs/config.md says how");
        return bl_error_file(err, source->folder);
    }
    if (source->access.get)
        return 0; /* has its own way */
    BL_TRY(source_check_columns(source, err));
    BL_TRY(source_check_numbers(source, err));
    fingerprint(source, kind);
    return 0;
}

static int fail_kind(const struct source_kind *kind, size_t files, struct bl_error *err)
{
    bl_fail(err, BL_EFORMAT, "expected %s, found none among %zu files",
            kind ? kind->files
                 : "metadata.jsonl or metadata.csv, images beside .txt files, captions of COCO or "
                   "Flickr8k, Parquet files, or tar shards",
            files);
    return bl_error_remedy(err, "put them there, or check the path; docs/config.md, data.format");
}

static int read_folder(struct source *source, struct source_listing *listing, struct bl_error *err)
{
    BL_TRY(list_folder(listing, "", NULL, err));
    if (listing->count)
        qsort(listing->paths, listing->count, sizeof *listing->paths, compare_paths);
    const struct source_kind *kind = choose(source->options->format, listing);
    if (!kind || !kind->recognise(listing))
        return fail_kind(kind, listing->count, err);
    BL_TRY(kind->read(source, listing, err));
    return finish(source, kind->name, err);
}

/* The kinds whose source may be a file, or a pattern. NULL: it is of none. */
static const struct source_kind *kind_of_files(const struct source_options *options)
{
    bool automatic = options->format == CONFIG_FORMAT_AUTO;
    if (options->format == CONFIG_PARQUET || (automatic && source_is_parquet(options->path)))
        return &source_parquet;
    if (options->format == CONFIG_WEBDATASET || (automatic && source_is_tar(options->path)))
        return &source_webdataset;
    return NULL;
}

static int read_files(struct source *source, struct bl_error *err)
{
    const char *path = source->options->path;
    const struct source_kind *kind = kind_of_files(source->options);
    if (!kind) {
        bl_fail(err, BL_EFORMAT, "expected a folder, Parquet files or tar shards, found %s",
                bl_path_is_file(path) ? "another file" : "nothing");
        return bl_error_remedy(err, "name the folder that images and captions are in");
    }
    BL_TRY(kind->read(source, NULL, err));
    return finish(source, kind->name, err);
}

/* Whether the path is of files and no folder. */
static bool names_files(const char *path)
{
    return !bl_path_is_folder(path) && (bl_path_is_file(path) || strpbrk(path, "*?["));
}

/* The folder that a file, or a pattern's part without wildcards, is in; the caller's. NULL: out of memory. */
static char *folder_of(const char *path)
{
    if (!names_files(path))
        return strdup(path);
    size_t length = bl_path_is_file(path) ? strlen(path) : strcspn(path, "*?[");
    while (length && path[length - 1] != '/')
        length--;
    return length > 1 ? strndup(path, length - 1) : strdup(length ? "/" : ".");
}

static int new_source(const struct source_options *options, struct source **ret,
                      struct bl_error *err)
{
    bl_auto(source) struct source *source = calloc(1, sizeof *source);
    if (!source)
        return fail_nomem(err);
    source->options = options;
    source->columns = options->columns;
    source->column_count = options->column_count;
    BL_TRY(source_numbers_open(source, err));
    source->folder = folder_of(options->path);
    source->is_folder = !names_files(options->path);
    source->cache = options->cache ? strdup(options->cache) : NULL;
    source->column_seen = calloc(options->column_count + 1, sizeof *source->column_seen);
    if (!source->folder || !source->column_seen || (options->cache && !source->cache))
        return fail_nomem(err);
    *ret = bl_take(&source);
    return 0;
}

int source_open(const struct source_options *options, struct source **ret, struct bl_error *err)
{
    bl_auto(source) struct source *source = NULL;
    BL_TRY(hub_refuse_missing(options->path, err));
    BL_TRY(new_source(options, &source, err));
    struct source_listing listing = {.folder = source->folder, .source = source};
    int rc =
        names_files(options->path) ? read_files(source, err) : read_folder(source, &listing, err);
    listing_release(&listing);
    if (rc < 0)
        return bl_error_file(err, options->path);
    *ret = bl_take(&source);
    return 0;
}

int source_open_data(const struct config_data *data, struct source *ret[2], struct bl_error *err)
{
    const char *const paths[2] = {data->source, data->validation_source};
    bl_autofree const char **columns = calloc(2 * data->captions.count, sizeof *columns);
    if (!columns)
        return fail_nomem(err);
    size_t column_count = caption_columns(data, columns);
    bl_autofree const char **numbers = calloc(data->filters.count + 1, sizeof *numbers);
    if (!numbers)
        return fail_nomem(err);
    for (size_t i = 0; i < data->filters.count; i++)
        numbers[i] = data->filters.at[i].column;
    for (int i = 0; i < 2 && paths[i]; i++) {
        const struct source_options options = {.path = paths[i],
                                               .format = data->format,
                                               .columns = columns,
                                               .column_count = column_count,
                                               .numbers = numbers,
                                               .number_count = data->filters.count,
                                               .image_column = data->image_column,
                                               .cache = data->cache};
        int rc = source_open(&options, &ret[i], err);
        if (rc < 0 && err && !strcmp(err->file, paths[i])) /* the source, not a line in it */
            bl_error_key(err, i ? "data.validation_source" : "data.source");
        BL_TRY(rc);
    }
    return 0;
}

int source_parse(const char *name, const void *data, size_t size, const char *const *columns,
                 size_t column_count, struct source **ret, struct bl_error *err)
{
    bl_auto(source) struct source *source = NULL;
    const struct source_options options = {
        .path = ".", .columns = columns, .column_count = column_count};
    BL_TRY(new_source(&options, &source, err));
    bool shard = source_is_tar(name);
    BL_TRY(shard ? source_read_shard(source, name, data, size, err)
                 : source_read_metadata(source, name, data, size, err));
    BL_TRY(finish(source, shard ? source_webdataset.name : source_imagefolder.name, err));
    *ret = bl_take(&source);
    return 0;
}

void source_free(struct source **source)
{
    struct source *s = *source;
    if (!s)
        return;
    if (s->store)
        s->access.free(s->store);
    free(s->folder);
    free(s->cache);
    free(s->column_seen);
    source_numbers_release(s);
    for (int i = 0; i < SOURCE_PASSED_COUNT; i++)
        free(s->passed[i].first);
    free(s->text.data);
    free(s->rows);
    free(s->candidates);
    free(s);
    *source = NULL;
}

uint64_t source_count(const struct source *source)
{
    return source->row_count;
}

const char *source_folder(const struct source *source)
{
    return source->folder;
}

int source_get(const struct source *source, uint64_t id, struct source_sample *ret,
               struct bl_error *err)
{
    BL_ASSERT_CMP(id, <, source->row_count);
    if (source->access.get)
        return source->access.get(source, id, ret, err);
    get_added(source, id, ret);
    return 0;
}

bool source_in_folders(const struct source *source)
{
    return source->is_folder;
}

void source_place(const struct source *source, uint64_t id, struct source_sample *ret)
{
    BL_ASSERT_CMP(id, <, source->row_count);
    if (source->access.place)
        source->access.place(source, id, ret);
    else
        get_added(source, id, ret);
}

int source_identify(const struct source *source, uint64_t id, bool *ret_is_url, uint8_t ret[32],
                    struct bl_error *err)
{
    BL_ASSERT_CMP(id, <, source->row_count);
    *ret_is_url = false;
    return source->access.identify ? source->access.identify(source, id, ret_is_url, ret, err) : 0;
}

int source_locate(const struct source *source, uint64_t id, char **ret, struct bl_error *err)
{
    BL_ASSERT_CMP(id, <, source->row_count);
    if (source->access.locate)
        return source->access.locate(source, id, ret, err);
    const struct source_row *row = &source->rows[id];
    bl_autofree char *path = NULL;
    if (asprintf(&path, "%s/%s", source->folder, source->text.data + row->image) < 0) {
        path = NULL;
        return fail_nomem(err);
    }
    struct location location = {.kind = LOCATION_FILE, .path = path};
    return location_format(&location, ret, err);
}

void source_candidate(const struct source *source, uint64_t id, uint64_t i,
                      struct source_candidate *ret)
{
    BL_ASSERT_CMP(id, <, source->row_count);
    if (source->access.candidate) {
        source->access.candidate(source, i, ret);
        return;
    }
    BL_ASSERT_CMP(i, <, candidates_end(source, id) - source->rows[id].first_candidate);
    const struct source_text *c = &source->candidates[source->rows[id].first_candidate + i];
    *ret = (struct source_candidate){source->text.data + c->text, c->size, c->column};
}

int source_where(const struct source *source, const struct source_sample *sample,
                 struct bl_error *err)
{
    return source_error_at(err, source->folder, sample->file, sample->line);
}

const uint8_t *source_fingerprint(const struct source *source)
{
    return source->fingerprint;
}
