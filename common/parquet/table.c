/* common/parquet/table.c - several files as one: of a folder, or of a pattern. */
#include <dirent.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/parquet/parquet_parts.h"

struct parquet_table {
    struct parquet **files;
    size_t count, capacity;
    int64_t row_count;
};

void parquet_table_free(struct parquet_table **table)
{
    struct parquet_table *t = *table;
    if (!t)
        return;
    for (size_t i = 0; i < t->count; i++)
        parquet_free(&t->files[i]);
    free(t->files);
    free(t);
    *table = NULL;
}

int64_t parquet_table_row_count(const struct parquet_table *table)
{
    return table->row_count;
}

size_t parquet_table_file_count(const struct parquet_table *table)
{
    return table->count;
}

const struct parquet *parquet_table_file(const struct parquet_table *table, size_t i)
{
    return table->files[i];
}

static int add_file(struct parquet_table *t, const char *path, struct bl_error *err)
{
    struct parquet *file = NULL;
    if (!bl_grow(&t->files, &t->capacity, t->count + 1, sizeof *t->files))
        return bl_fail(err, BL_ENOMEM, "no memory for %zu files", t->count + 1);
    BL_TRY(parquet_open(path, &file, err));
    t->files[t->count++] = file;
    if (__builtin_add_overflow(t->row_count, file->row_count, &t->row_count))
        return bl_fail(err, BL_EFORMAT, "expected a count of rows below 2^63 in all files");
    return 0;
}

/* Not by the locale: the same order everywhere. */
static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int is_parquet(const struct dirent *entry)
{
    const char *end = strrchr(entry->d_name, '.');
    return end && end != entry->d_name && !strcmp(end, ".parquet");
}

static int add_folder(struct parquet_table *t, const char *folder, struct bl_error *err)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_parquet, NULL), rc = 0;
    if (count < 0)
        return bl_fail_errno(err, "cannot be listed");
    /* By name alone: alphasort would go by the locale. */
    bl_autofree char **names = calloc((size_t)count + 1, sizeof *names);
    for (int i = 0; i < count && names; i++)
        names[i] = entries[i]->d_name;
    if (names)
        qsort(names, (size_t)count, sizeof *names, compare_names);
    else
        rc = bl_fail(err, BL_ENOMEM, "no memory for the names of %d files", count);
    for (int i = 0; i < count && rc == 0; i++) {
        char path[4096];
        rc = bl_path_join(path, sizeof path, folder, names[i], err);
        rc = rc < 0 ? rc : add_file(t, path, err);
    }
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return rc;
}

static int add_pattern(struct parquet_table *t, const char *pattern, struct bl_error *err)
{
    __attribute__((cleanup(globfree))) glob_t found = {0};
    int rc = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (rc == GLOB_NOSPACE)
        return bl_fail(err, BL_ENOMEM, "no memory for the files of the pattern");
    if (found.gl_pathc > 0)
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, compare_names);
    for (size_t i = 0; i < found.gl_pathc; i++)
        BL_TRY(add_file(t, found.gl_pathv[i], err));
    return 0;
}

int parquet_table_open(const char *path, struct parquet_table **ret, struct bl_error *err)
{
    bl_auto(parquet_table) struct parquet_table *table = calloc(1, sizeof *table);
    bool folder = bl_path_is_folder(path),
         pattern = !folder && !bl_path_is_file(path) && strpbrk(path, "*?[");
    if (!table)
        return bl_fail(err, BL_ENOMEM, "no memory for a table");
    if ((folder    ? add_folder(table, path, err)
         : pattern ? add_pattern(table, path, err)
                   : add_file(table, path, err)) < 0)
        return bl_error_file(err, path);
    if (table->count == 0) {
        bl_fail(err, BL_EIO, "expected Parquet files%s, found none",
                folder ? " (*.parquet) in the folder" : " of that pattern");
        return bl_error_file(err, path);
    }
    *ret = bl_take(&table);
    return 0;
}

int parquet_table_reader_open(const struct parquet_table *table, const char *path,
                              size_t cache_bytes, struct parquet_reader **ret, struct bl_error *err)
{
    bl_autofree struct part *parts = calloc(table->count, sizeof *parts);
    if (!parts)
        return bl_fail(err, BL_ENOMEM, "no memory for a reader of %zu files", table->count);
    for (size_t i = 0; i < table->count; i++) {
        parts[i].file = table->files[i];
        BL_TRY(parquet_column_find(table->files[i], path, &parts[i].column, err));
        if (parts[i].column->kind == parts[0].column->kind &&
            parts[i].column->list == parts[0].column->list)
            continue;
        bl_fail(err, BL_EFORMAT, "expected column \"%s\" as %s has it (%s%s), found %s%s", path,
                table->files[0]->name, parts[0].column->list ? "list of " : "",
                parts[0].column->type, parts[i].column->list ? "list of " : "",
                parts[i].column->type);
        return bl_error_file(err, table->files[i]->name);
    }
    return reader_open_parts(parts, table->count, cache_bytes, ret, err);
}
