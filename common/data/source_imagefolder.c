/* common/data/source_imagefolder.c - Hugging Face's imagefolder: metadata.jsonl or metadata.csv, each
 * line with a file_name below the metadata's own folder. */
#include "common/data/source_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/captions.h"
#include "common/file.h"
#include "common/json.h"
#include "common/limits.h"
#include "common/utf8.h"

/* The metadata file that is being read. */
struct metadata {
    struct source *source;
    const char *path; /* below the source's folder */
    const char *text; /* its bytes */
    size_t size;
    uint64_t line; /* of the record at hand, from 1 */
};

static int fail_line(const struct metadata *m, struct bl_error *err)
{
    return source_error_at(err, m->source->folder, m->path, m->line);
}

/* Adds the sample of a line: file_name starts at the metadata's folder. */
static int add_image(const struct metadata *m, const char *file_name, struct bl_error *err)
{
    int folder_length = (int)(source_basename(m->path) - m->path);
    bl_autofree char *image = NULL;
    if (*file_name == '/' || asprintf(&image, "%.*s%s", folder_length, m->path, file_name) < 0)
        image = NULL;
    return source_add(m->source, image ? image : file_name, m->path, m->line, err);
}

/* Spreadsheets and editors may write one. */
static size_t byte_order_mark(const char *text, size_t size)
{
    return size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;
}

/* -- metadata.jsonl --------------------------------------------------------------------------- */

static int read_object(const struct metadata *m, json_t *line, struct bl_error *err)
{
    if (!json_is_object(line))
        return bl_json_fail(line, "an object", err);
    const json_t *file_name = json_object_get(line, "file_name");
    if (!json_is_string(file_name))
        return source_fail_type(err, "file_name", "a text", file_name);
    BL_TRY(add_image(m, json_string_value(file_name), err));
    const char *key;
    json_t *value;
    json_object_foreach(line, key, value) source_saw_column(m->source, key);
    for (size_t i = 0; i < m->source->column_count; i++)
        BL_TRY(source_add_json_captions(m->source, i, json_object_get(line, m->source->columns[i]),
                                        err));
    return source_add_json_numbers(m->source, line, err);
}

static bool is_blank(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!strchr(" \t\r", text[i]) || !text[i])
            return false;
    return true;
}

static int read_json_line(const struct metadata *m, const char *text, size_t size,
                          struct bl_error *err)
{
    if (size > BL_METADATA_LINE_MAX)
        return bl_fail(err, BL_ELIMIT, "expected a line of at most %d bytes, found %zu",
                       BL_METADATA_LINE_MAX, size);
    if (is_blank(text, size))
        return 0;
    bl_autojson json_t *line = NULL;
    BL_TRY(source_parse_json(text, size, &line, err));
    return read_object(m, line, err);
}

static int read_jsonl(struct metadata *m, struct bl_error *err)
{
    const char *at = m->text, *end = at + m->size;
    at += byte_order_mark(at, m->size);
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t size = (size_t)((newline ? newline : end) - at);
        m->line++;
        if (read_json_line(m, at, size, err) < 0)
            return fail_line(m, err);
        at += size + 1;
    }
    return 0;
}

/* ---- metadata.csv, RFC 4180 ------------------------------------------------------------------ */

/* One record: its fields' NUL-terminated texts. */
struct record {
    struct bl_bytes text;
    size_t *fields; /* offsets in text */
    size_t count, capacity;
};

static const char *field(const struct record *record, size_t i)
{
    return record->text.data + record->fields[i];
}

static size_t field_size(const struct record *record, size_t i)
{
    size_t end = i + 1 < record->count ? record->fields[i + 1] : record->text.size;
    return end - record->fields[i] - 1;
}

struct csv {
    const char *at, *end;
    uint64_t line; /* at which `at` stands */
};

/* The field in quotes at csv->at, up to and with its closing quote. "" is one quote. */
static int read_quoted(struct csv *csv, struct bl_bytes *text, struct bl_error *err)
{
    for (csv->at++; csv->at < csv->end; csv->at++) {
        if (*csv->at == '"' && (++csv->at == csv->end || *csv->at != '"'))
            return 0;
        if (!*csv->at)
            return bl_fail(err, BL_EFORMAT, "a text must not hold the character NUL");
        csv->line += *csv->at == '\n';
        if (!bl_bytes_add(text, csv->at, 1))
            return bl_fail(err, BL_ENOMEM, "out of memory");
        if (text->size > BL_METADATA_LINE_MAX)
            break;
    }
    return bl_fail(err, BL_EFORMAT, "a quote is opened and not closed");
}

static int read_field(struct csv *csv, struct bl_bytes *text, struct bl_error *err)
{
    if (csv->at < csv->end && *csv->at == '"') {
        BL_TRY(read_quoted(csv, text, err));
        if (csv->at < csv->end && (!*csv->at || !strchr(",\r\n", *csv->at)))
            return bl_fail(err, BL_EFORMAT, "expected a comma after the closing quote");
        return 0;
    }
    const char *start = csv->at;
    while (csv->at < csv->end && *csv->at && !strchr(",\r\n\"", *csv->at))
        csv->at++;
    if (csv->at < csv->end && *csv->at == '"') {
        bl_fail(err, BL_EFORMAT, "found a quote in the middle of a field");
        return bl_error_remedy(err, "put the whole field in quotes and double the quotes in it");
    }
    if (csv->at < csv->end && !*csv->at)
        return bl_fail(err, BL_EFORMAT, "a text must not hold the character NUL");
    return bl_bytes_add(text, start, (size_t)(csv->at - start))
               ? 0
               : bl_fail(err, BL_ENOMEM, "out of memory");
}

static int read_record(struct csv *csv, struct record *record, struct bl_error *err)
{
    record->text.size = record->count = 0;
    for (;;) {
        if (record->count >= BL_CSV_FIELDS_MAX || record->text.size > BL_METADATA_LINE_MAX)
            return bl_fail(err, BL_ELIMIT, "expected at most %d fields of %d bytes together",
                           BL_CSV_FIELDS_MAX, BL_METADATA_LINE_MAX);
        if (!bl_grow(&record->fields, &record->capacity, record->count + 1, sizeof *record->fields))
            return bl_fail(err, BL_ENOMEM, "out of memory");
        record->fields[record->count++] = record->text.size;
        BL_TRY(read_field(csv, &record->text, err));
        if (!bl_bytes_add(&record->text, "", 1))
            return bl_fail(err, BL_ENOMEM, "out of memory");
        if (csv->at == csv->end)
            return 0;
        if (*csv->at++ == ',')
            continue;
        /* \r\n, \n or a lone \r end a record */
        if (csv->at[-1] == '\r' && csv->at < csv->end && *csv->at == '\n')
            csv->at++;
        csv->line++;
        return 0;
    }
}

/* Which field holds what. */
struct header {
    size_t count, file_name;
    size_t *columns; /* of each wanted column, then of each column of numbers; == count: absent */
};

static int fail_header(const struct record *record, struct bl_error *err)
{
    char names[200] = "";
    for (size_t i = 0; i < record->count; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%.60s", i ? ", " : "",
                 field(record, i));
    utf8_clean(names);
    bl_fail(err, BL_EFORMAT, "expected a column file_name, found \"%s\"", names);
    return strpbrk(names, ";\t") ? bl_error_remedy(err, "separate the columns by commas")
                                 : -BL_EFORMAT;
}

static int read_header(struct metadata *m, const struct record *record, struct header *header,
                       struct bl_error *err)
{
    header->count = header->file_name = record->count;
    size_t wanted = m->source->column_count, numbers = m->source->number_count;
    for (size_t i = 0; i < wanted + numbers; i++)
        header->columns[i] = record->count;
    for (size_t i = 0; i < record->count; i++) {
        const char *name = field(record, i);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(field(record, j), name))
                return bl_fail(err, BL_EFORMAT, "column \"%.60s\" is given twice", name);
        if (!strcmp(name, "file_name"))
            header->file_name = i;
        source_saw_column(m->source, name);
        for (size_t j = 0; j < wanted; j++)
            if (!strcmp(m->source->columns[j], name))
                header->columns[j] = i;
        for (size_t j = 0; j < numbers; j++)
            if (!strcmp(m->source->options->numbers[j], name)) {
                header->columns[wanted + j] = i;
                source_saw_number(m->source, j);
            }
    }
    return header->file_name < record->count ? 0 : fail_header(record, err);
}

/* ['a', 'b'], as pandas writes a list into CSV. */
static bool is_printed_list(const char *text)
{
    size_t size;
    const char *inner = caption_strip(text, strlen(text), &size);
    return size >= 4 && inner[0] == '[' && inner[size - 1] == ']' && inner[1] == inner[size - 2] &&
           (inner[1] == '\'' || inner[1] == '"');
}

static int read_row(const struct metadata *m, const struct record *record,
                    const struct header *header, struct bl_error *err)
{
    if (record->count != header->count)
        return bl_fail(err, BL_EFORMAT, "expected %zu fields as in the first line, found %zu",
                       header->count, record->count);
    BL_TRY(add_image(m, field(record, header->file_name), err));
    for (size_t i = 0; i < m->source->column_count; i++) {
        size_t at = header->columns[i];
        if (at == header->count)
            continue;
        BL_TRY(source_add_caption(m->source, i, field(record, at), field_size(record, at), err));
        if (is_printed_list(field(record, at)))
            BL_TRY(source_pass_over(m->source, SOURCE_PRINTED_LISTS,
                                    field(record, header->file_name), err));
    }
    for (size_t i = 0; i < m->source->number_count; i++) {
        size_t at = header->columns[m->source->column_count + i];
        if (at < header->count)
            BL_TRY(source_add_text_number(m->source, i, field(record, at), err));
    }
    return 0;
}

static int read_records(struct metadata *m, struct record *record, struct header *header,
                        struct bl_error *err)
{
    struct csv csv = {m->text, m->text + m->size, 1};
    csv.at += byte_order_mark(csv.at, m->size);
    bool first = true;
    while (csv.at < csv.end) {
        m->line = csv.line;
        BL_TRY(read_record(&csv, record, err));
        if (record->count == 1 && !*field(record, 0))
            continue; /* an empty line */
        BL_TRY(first ? read_header(m, record, header, err) : read_row(m, record, header, err));
        first = false;
    }
    return 0;
}

static int read_csv(struct metadata *m, struct bl_error *err)
{
    struct record record = {0};
    struct header header = {
        .columns = calloc(m->source->column_count + m->source->number_count + 1, sizeof(size_t))};
    int rc = header.columns ? read_records(m, &record, &header, err)
                            : bl_fail(err, BL_ENOMEM, "out of memory");
    free(header.columns);
    free(record.text.data);
    free(record.fields);
    return rc < 0 ? fail_line(m, err) : 0;
}

/* -- the kind --------------------------------------------------------------------------------- */

static bool is_jsonl(const char *path)
{
    return !strcmp(source_basename(path), "metadata.jsonl");
}

static bool is_csv(const char *path)
{
    return !strcmp(source_basename(path), "metadata.csv");
}

static bool recognise(const struct source_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        if (is_jsonl(listing->paths[i]) || is_csv(listing->paths[i]))
            return true;
    return false;
}

/* The listing is sorted, so a folder's metadata.csv stands before its metadata.jsonl. */
static bool has_both(const struct source_listing *listing, size_t i)
{
    const char *csv = listing->paths[i];
    size_t folder = (size_t)(source_basename(csv) - csv);
    for (size_t j = i + 1; j < listing->count && !strncmp(csv, listing->paths[j], folder); j++)
        if (is_jsonl(listing->paths[j]) &&
            (size_t)(source_basename(listing->paths[j]) - listing->paths[j]) == folder)
            return true;
    return false;
}

int source_read_metadata(struct source *source, const char *path, const void *data, size_t size,
                         struct bl_error *err)
{
    struct metadata m = {.source = source, .path = path, .text = size ? data : "", .size = size};
    return is_csv(path) ? read_csv(&m, err) : read_jsonl(&m, err);
}

static int read_imagefolder(struct source *source, const struct source_listing *listing,
                            struct bl_error *err)
{
    for (size_t i = 0; i < listing->count; i++) {
        const char *path = listing->paths[i];
        if (!is_jsonl(path) && !is_csv(path))
            continue;
        if (is_csv(path) && has_both(listing, i)) {
            bl_fail(err, BL_EFORMAT, "found metadata.jsonl beside it");
            bl_error_remedy(err, "keep one of them");
            return source_error_at(err, source->folder, path, 0);
        }
        bl_autofree char *full = NULL;
        if (asprintf(&full, "%s/%s", source->folder, path) < 0) {
            full = NULL;
            return bl_fail(err, BL_ENOMEM, "out of memory");
        }
        bl_autofree char *text = NULL;
        size_t size;
        BL_TRY(bl_file_read(full, SIZE_MAX - 1, &text, &size, err));
        if (source_check_encoding(text, size, err) < 0)
            return bl_error_file(err, full);
        BL_TRY(source_read_metadata(source, path, text, size, err));
    }
    return source_pass_over_pairs(source, listing, err);
}

const struct source_kind source_imagefolder = {CONFIG_IMAGEFOLDER, "imagefolder",
                                               "metadata.jsonl or metadata.csv", recognise,
                                               read_imagefolder};
