/* common/data/source_open.c - the table of source kinds: which one a path is of, and reading it. */
#include "common/data/source.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hub/hub.h"
#include "common/data/source_build.h"

/* In the order in which auto tries them. */
static const struct source_kind *const kinds[] = {
    &source_imagefolder, &source_pairs, &source_annotations, &source_parquet, &source_webdataset};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

static const struct source_kind *choose(enum config_format format,
                                        const struct source_listing *listing)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (format == CONFIG_FORMAT_AUTO ? kinds[i]->recognise(listing)
                                         : format == kinds[i]->format)
            return kinds[i];
    return NULL;
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
    BL_TRY(source_list(listing, err));
    const struct source_kind *kind = choose(source->options->format, listing);
    if (!kind || !kind->recognise(listing))
        return fail_kind(kind, listing->count, err);
    BL_TRY(kind->read(source, listing, err));
    return source_finish(source, kind->name, err);
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
    return source_finish(source, kind->name, err);
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
    source_listing_release(&listing);
    if (rc < 0)
        return bl_error_file(err, options->path);
    *ret = bl_take(&source);
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
    BL_TRY(source_finish(source, shard ? source_webdataset.name : source_imagefolder.name, err));
    *ret = bl_take(&source);
    return 0;
}
