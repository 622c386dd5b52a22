/* common/data/source_pairs.c - an image, NAME.jpg or the like, beside NAME.txt, the notebooks' cache. The
 * whole text file is one caption, under the column "text". */
#include "common/data/source_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"

static size_t stem_length(const char *path)
{
    const char *dot = strrchr(source_basename(path), '.');
    return dot ? (size_t)(dot - path) : strlen(path);
}

static int compare_to_path(const void *key, const void *path)
{
    return strcmp(key, *(char *const *)path);
}

static bool listed(const struct source_listing *listing, const char *path)
{
    return listing->count &&
           bsearch(path, listing->paths, listing->count, sizeof *listing->paths, compare_to_path);
}

/* The text file's path beside an image, the caller's. NULL: out of memory. */
static char *text_path(const char *image)
{
    char *path = NULL;
    return asprintf(&path, "%.*s.txt", (int)stem_length(image), image) < 0 ? NULL : path;
}

static bool recognise(const struct source_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++) {
        if (!source_is_image(listing->paths[i]))
            continue;
        bl_autofree char *text = text_path(listing->paths[i]);
        if (text && listed(listing, text))
            return true;
    }
    return false;
}

static int read_text(struct source *source, const char *path, struct bl_error *err)
{
    bl_autofree char *full = NULL, *text = NULL;
    size_t size;
    if (asprintf(&full, "%s/%s", source->folder, path) < 0) {
        full = NULL;
        return bl_fail(err, BL_ENOMEM, "out of memory");
    }
    BL_TRY(bl_file_read(full, BL_CAPTION_BYTES_MAX, &text, &size, err));
    if (source_check_encoding(text, size, err) < 0)
        return bl_error_file(err, full);
    if (memchr(text, 0, size)) {
        bl_fail(err, BL_EFORMAT, "a text must not hold the character NUL");
        return bl_error_file(err, full);
    }
    size_t mark = size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0; /* byte order mark */
    for (size_t i = 0; i < source->column_count; i++)
        if (!strcmp(source->columns[i], "text") &&
            source_add_caption(source, i, text + mark, size - mark, err) < 0)
            return bl_error_file(err, full);
    return 0;
}

static bool is_text(const char *path)
{
    return !strcmp(path + stem_length(path), ".txt");
}

/* The listing is sorted: files of one name with different ends are near each other, but NAME-2.jpg and the like may stand
 * between them. */
static bool has_image(const struct source_listing *listing, size_t text)
{
    const char *path = listing->paths[text];
    size_t stem = stem_length(path);
    for (int step = -1; step <= 1; step += 2)
        for (size_t i = text + (size_t)step;
             i < listing->count && !strncmp(path, listing->paths[i], stem); i += (size_t)step)
            if (source_is_image(listing->paths[i]) && stem_length(listing->paths[i]) == stem)
                return true;
    return false;
}

/* Counts what is neither an image that is read nor its text. */
static int pass_over(struct source *source, const struct source_listing *listing, size_t i,
                     struct bl_error *err)
{
    const char *path = listing->paths[i];
    if (source_is_other_image(path))
        return source_pass_over(source, SOURCE_OTHER_TYPES, path, err);
    if (is_text(path) && !has_image(listing, i))
        return source_pass_over(source, SOURCE_LONE_TEXTS, path, err);
    return 0;
}

int source_pass_over_pairs(struct source *source, const struct source_listing *listing,
                           struct bl_error *err)
{
    for (size_t i = 0; i < listing->count; i++) {
        if (!source_is_image(listing->paths[i]))
            continue;
        bl_autofree char *text = text_path(listing->paths[i]);
        if (!text)
            return bl_fail(err, BL_ENOMEM, "out of memory");
        if (listed(listing, text))
            BL_TRY(source_pass_over(source, SOURCE_UNUSED_TEXTS, text, err));
    }
    return 0;
}

/* An image without a text is a sample without a caption: it is counted where captions are. */
static int read_pairs(struct source *source, const struct source_listing *listing,
                      struct bl_error *err)
{
    source_saw_column(source, "text");
    for (size_t i = 0; i < listing->count; i++) {
        const char *image = listing->paths[i];
        if (!source_is_image(image)) {
            BL_TRY(pass_over(source, listing, i, err));
            continue;
        }
        bl_autofree char *text = text_path(image);
        if (!text)
            return bl_fail(err, BL_ENOMEM, "out of memory");
        BL_TRY(source_add(source, image, image, 0, err));
        if (listed(listing, text))
            BL_TRY(read_text(source, text, err));
    }
    return 0;
}

const struct source_kind source_pairs = {CONFIG_PAIRS, "pairs", "images beside .txt files",
                                         recognise, read_pairs};
