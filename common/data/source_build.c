/* common/data/source_build.c - a source's samples: adding them, and giving them out. */
#include "common/data/source_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "common/tar/tar.h"
#include "common/utf8.h"

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* -- names ------------------------------------------------------------------------------------ */

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
    uint32_t *named = &source->passed[kind].named, at;
    char **names = source->passed[kind].names;
    source->passed[kind].count++;
    for (at = *named; at && strcmp(names[at - 1], path) > 0; at--)
        ;
    if (at == SOURCE_PASSED_NAMED)
        return 0;
    char *copy = strdup(path);
    if (!copy)
        return fail_nomem(err);
    if (*named == SOURCE_PASSED_NAMED)
        free(names[--*named]);
    memmove(names + at + 1, names + at, (*named - at) * sizeof *names);
    names[at] = copy;
    ++*named;
    return 0;
}

uint64_t source_passed(const struct source *source, enum source_passed kind)
{
    return source->passed[kind].count;
}

const char *source_passed_name(const struct source *source, enum source_passed kind, uint32_t i)
{
    return i < source->passed[kind].named ? source->passed[kind].names[i] : NULL;
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

int source_finish(struct source *source, const char *kind, struct bl_error *err)
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

/* -- giving out ------------------------------------------------------------------------------- */

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
        for (uint32_t k = 0; k < s->passed[i].named; k++)
            free(s->passed[i].names[k]);
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
