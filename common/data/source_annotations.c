/* common/data/source_annotations.c - data sets whose captions come in one file of their own, as published:
 *
 *   captions_train2017.json   COCO: images with ids and names, annotations with image ids and captions
 *   captions.txt              Flickr8k, Flickr30k: a line "image,caption", then one for each caption
 *   Flickr8k.token.txt        the same of an older form: NAME#NUMBER, a tab, the caption
 *
 * A sample is an image with all its captions, under the column "caption". The files name images without their folder; an
 * image is the listing's file of that name, where there are several the one in the folder that the captions' file names. */
#include "common/data/source_build.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"

#define COLUMN "caption"
#define FILE_MAX ((size_t)4 << 30)

/* What a caption's file says: a caption of an image. */
struct entry {
    const char *image, *text; /* borrowed */
    size_t image_size, size;
    uint64_t line; /* or the place in the list, from 1 */
};

struct entries {
    struct entry *at;
    size_t count, capacity;
};

/* The listing's images by their last part. */
struct images {
    const char **paths;
    size_t count;
};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

static int add_entry(struct entries *entries, struct entry entry, struct bl_error *err)
{
    if (!bl_grow(&entries->at, &entries->capacity, entries->count + 1, sizeof entry))
        return fail_nomem(err);
    entries->at[entries->count++] = entry;
    return 0;
}

/* -- images ------------------------------------------------------------------------------------ */

static int compare_names(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int order = strcmp(source_basename(x), source_basename(y));
    return order ? order : strcmp(x, y);
}

static int list_images(const struct source_listing *listing, struct images *ret,
                       struct bl_error *err)
{
    ret->paths = calloc(listing->count + 1, sizeof *ret->paths);
    if (!ret->paths)
        return fail_nomem(err);
    for (size_t i = 0; i < listing->count; i++)
        if (source_is_image(listing->paths[i]))
            ret->paths[ret->count++] = listing->paths[i];
    qsort(ret->paths, ret->count, sizeof *ret->paths, compare_names);
    return 0;
}

/* Is the image in a folder that the captions' file names, as val2017/ and captions_val2017.json? */
static bool is_named(const char *image, const char *file)
{
    size_t length = (size_t)(source_basename(image) - image);
    char folder[256];
    if (!length || length > sizeof folder)
        return false;
    memcpy(folder, image, --length);
    folder[length] = 0;
    return strstr(source_basename(file), source_basename(folder)) != NULL;
}

/* *ret: the listing's, or NULL where there is none of that name. */
static int find_image(const struct images *images, const char *name, const char *file,
                      const char **ret, struct bl_error *err)
{
    const char *last = source_basename(name);
    size_t low = 0, high = images->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(source_basename(images->paths[middle]), last) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    size_t found = 0, named = 0;
    const char *at_name = NULL;
    for (;
         low + found < images->count && !strcmp(source_basename(images->paths[low + found]), last);
         found++)
        if (is_named(images->paths[low + found], file) && !named++)
            at_name = images->paths[low + found];
    *ret = named == 1 ? at_name : found ? images->paths[low] : NULL;
    if (found <= 1 || named == 1)
        return 0;
    bl_fail(err, BL_EFORMAT, "expected one image of that name, found %.100s and %.100s",
            images->paths[low], images->paths[low + 1]);
    return bl_error_remedy(err, "move one of them out of the folder");
}

/* Files may be in another order. Equal names keep theirs. */
static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    size_t size = x->image_size < y->image_size ? x->image_size : y->image_size;
    int order = memcmp(x->image, y->image, size);
    if (order == 0)
        order = (x->image_size > y->image_size) - (x->image_size < y->image_size);
    return order ? order : (x->line > y->line) - (x->line < y->line);
}

static bool is_same_image(const struct entry *a, const struct entry *b)
{
    return a->image_size == b->image_size && !memcmp(a->image, b->image, a->image_size);
}

static int add_image(struct source *source, const struct images *images, const char *file,
                     const struct entry *entry, bool counts_lines, struct bl_error *err)
{
    bl_autofree char *name = strndup(entry->image, entry->image_size);
    const char *path;
    if (!name)
        return fail_nomem(err);
    BL_TRY(find_image(images, name, file, &path, err));
    return source_add(source, path ? path : name, file, counts_lines ? entry->line : 0, err);
}

/* Adds an image when its first caption comes; entry->text NULL: it has none. */
static int add_samples(struct source *source, const struct images *images, const char *file,
                       struct entries *entries, bool counts_lines, struct bl_error *err)
{
    if (entries->count)
        qsort(entries->at, entries->count, sizeof *entries->at, compare_entries);
    for (size_t i = 0; i < entries->count; i++) {
        const struct entry *e = &entries->at[i];
        int rc = i > 0 && is_same_image(e, e - 1)
                     ? 0
                     : add_image(source, images, file, e, counts_lines, err);
        for (size_t c = 0; c < source->column_count && rc == 0 && e->text; c++)
            if (!strcmp(source->columns[c], COLUMN))
                rc = source_add_caption(source, c, e->text, e->size, err);
        if (rc < 0)
            return source_error_at(err, source->folder, file, counts_lines ? e->line : 0);
    }
    return 0;
}

/* -- COCO -------------------------------------------------------------------------------------- */

struct coco_image {
    int64_t id;
    const char *name;
};

static int compare_ids(const void *a, const void *b)
{
    const struct coco_image *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static int fail_item(int rc, const char *list, size_t i, struct bl_error *err)
{
    char at[64];
    snprintf(at, sizeof at, "%s[%zu]", list, i);
    return bl_json_within(rc, at, err);
}

/* A value that must be there. */
static int require(const json_t *object, const char *key, const char *expected,
                   struct bl_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_null(value))
        return 0;
    bl_json_fail(value, expected, err);
    return bl_error_key(err, "%s", key);
}

static int read_image(const json_t *item, struct coco_image *ret, struct bl_error *err)
{
    BL_TRY(require(item, "id", "a whole number", err));
    BL_TRY(require(item, "file_name", "a text", err));
    BL_TRY(bl_json_int(item, "id", INT64_MIN, INT64_MAX, &ret->id, err));
    return bl_json_string(item, "file_name", &ret->name, err);
}

static int read_images(const json_t *list, struct coco_image *images, struct entries *entries,
                       struct bl_error *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        int rc = read_image(json_array_get(list, i), &images[i], err);
        if (rc < 0)
            return fail_item(rc, "images", i, err);
        BL_TRY(add_entry(
            entries, (struct entry){.image = images[i].name, .image_size = strlen(images[i].name)},
            err));
    }
    if (json_array_size(list))
        qsort(images, json_array_size(list), sizeof *images, compare_ids);
    return 0;
}

static int read_annotation(const json_t *item, const struct coco_image *images, size_t count,
                           struct entry *ret, struct bl_error *err)
{
    struct coco_image key;
    BL_TRY(require(item, "image_id", "a whole number", err));
    BL_TRY(require(item, "caption", "a text", err));
    BL_TRY(bl_json_int(item, "image_id", INT64_MIN, INT64_MAX, &key.id, err));
    BL_TRY(bl_json_string(item, "caption", &ret->text, err));
    const struct coco_image *image =
        count ? bsearch(&key, images, count, sizeof *images, compare_ids) : NULL;
    if (!image) {
        bl_fail(err, BL_EFORMAT, "expected the id of an image, found %" PRId64, key.id);
        return bl_error_key(err, "image_id");
    }
    ret->image = image->name;
    ret->image_size = strlen(image->name);
    ret->size = strlen(ret->text);
    return 0;
}

static int read_annotations(const json_t *list, const struct coco_image *images, size_t count,
                            struct entries *entries, struct bl_error *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct entry entry = {.line = i + 1};
        int rc = read_annotation(json_array_get(list, i), images, count, &entry, err);
        if (rc < 0)
            return fail_item(rc, "annotations", i, err);
        BL_TRY(add_entry(entries, entry, err));
    }
    return 0;
}

static int read_coco(struct source *source, const struct images *images, const char *file,
                     const char *path, struct bl_error *err)
{
    bl_autojson json_t *root = NULL;
    const json_t *image_list = NULL, *annotations = NULL;
    BL_TRY(bl_json_open(path, FILE_MAX, &root, err));
    BL_TRY(require(root, "images", "a list", err));
    BL_TRY(require(root, "annotations", "a list", err));
    BL_TRY(bl_json_container(root, "images", JSON_ARRAY, &image_list, err));
    BL_TRY(bl_json_container(root, "annotations", JSON_ARRAY, &annotations, err));
    size_t count = json_array_size(image_list);
    bl_autofree struct coco_image *by_id = calloc(count + 1, sizeof *by_id);
    struct entries entries = {0};
    if (!by_id)
        return fail_nomem(err);
    int rc = read_images(image_list, by_id, &entries, err);
    if (rc == 0)
        rc = read_annotations(annotations, by_id, count, &entries, err);
    if (rc == 0)
        rc = add_samples(source, images, file, &entries, false, err);
    free(entries.at);
    return rc;
}

/* -- Flickr ------------------------------------------------------------------------------------ */

/* A field in quotes, its doubled quotes made single; in place. */
static void unquote(char *text, size_t *size)
{
    if (*size < 2 || text[0] != '"' || text[*size - 1] != '"')
        return;
    size_t written = 0;
    for (size_t i = 1; i + 1 < *size; i++) {
        text[written++] = text[i];
        i += text[i] == '"' && text[i + 1] == '"';
    }
    *size = written;
}

/* "NAME.jpg,caption" or, with a tab, "NAME.jpg#0 caption". */
static int read_line(char *line, size_t size, bool token, struct entry *ret, struct bl_error *err)
{
    char *end = memchr(line, token ? '\t' : ',', size);
    if (!end || end == line)
        return bl_fail(err, BL_EFORMAT, "expected an image's name, %s and a caption",
                       token ? "a tab" : "a comma");
    if (memchr(line, 0, size))
        return bl_fail(err, BL_EFORMAT, "a text must not hold the character NUL");
    ret->image = line;
    ret->image_size = (size_t)(end - line);
    ret->size = size - ret->image_size - 1;
    unquote(end + 1, &ret->size);
    ret->text = end + 1;
    const char *number = token ? memchr(line, '#', ret->image_size) : NULL;
    if (number)
        ret->image_size = (size_t)(number - line);
    return 0;
}

static int read_lines(char *text, size_t size, bool token, struct entries *entries,
                      uint64_t *ret_line, struct bl_error *err)
{
    for (size_t at = 0; at < size; ++*ret_line) {
        char *newline = memchr(text + at, '\n', size - at);
        size_t length = newline ? (size_t)(newline - text) - at : size - at;
        size_t stripped = length && text[at + length - 1] == '\r' ? length - 1 : length;
        struct entry entry = {.line = *ret_line};
        if (stripped && (token || *ret_line > 1)) {
            BL_TRY(read_line(text + at, stripped, token, &entry, err));
            BL_TRY(add_entry(entries, entry, err));
        }
        at += length + 1;
    }
    return 0;
}

static int read_flickr(struct source *source, const struct images *images, const char *file,
                       const char *path, bool token, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size;
    uint64_t line = 1;
    struct entries entries = {0};
    BL_TRY(bl_file_read(path, FILE_MAX, &text, &size, err));
    if (source_check_encoding(text, size, err) < 0)
        return bl_error_file(err, path);
    int rc = read_lines(text, size, token, &entries, &line, err);
    rc = rc < 0 ? source_error_at(err, source->folder, file, line)
                : add_samples(source, images, file, &entries, true, err);
    free(entries.at);
    return rc;
}

/* -- the kind ---------------------------------------------------------------------------------- */

static bool ends_in(const char *text, const char *end)
{
    size_t length = strlen(text), part = strlen(end);
    return length >= part && !strcmp(text + length - part, end);
}

static bool is_coco(const char *path)
{
    const char *name = source_basename(path);
    return !strncmp(name, "captions_", 9) && ends_in(name, ".json");
}

static bool is_token(const char *path)
{
    const char *name = source_basename(path);
    return ends_in(name, ".token.txt") || ends_in(name, ".token");
}

static bool is_captions(const char *path)
{
    return !strcmp(source_basename(path), "captions.txt");
}

static bool recognise(const struct source_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        if (is_coco(listing->paths[i]) || is_token(listing->paths[i]) ||
            is_captions(listing->paths[i]))
            return true;
    return false;
}

static int read_file(struct source *source, const struct images *images, const char *file,
                     struct bl_error *err)
{
    bool coco = is_coco(file), token = is_token(file);
    if (!coco && !token && !is_captions(file))
        return 0;
    bl_autofree char *path = NULL;
    if (asprintf(&path, "%s/%s", source->folder, file) < 0) {
        path = NULL;
        return fail_nomem(err);
    }
    int rc = coco ? read_coco(source, images, file, path, err)
                  : read_flickr(source, images, file, path, token, err);
    return rc < 0 ? source_error_at(err, source->folder, file, 0) : 0;
}

static int read_all(struct source *source, const struct source_listing *listing,
                    struct bl_error *err)
{
    struct images images = {0};
    source_saw_column(source, COLUMN);
    int rc = list_images(listing, &images, err);
    for (size_t i = 0; i < listing->count && rc == 0; i++)
        rc = read_file(source, &images, listing->paths[i], err);
    free(images.paths);
    return rc;
}

const struct source_kind source_annotations = {
    CONFIG_ANNOTATIONS, "annotations",
    "captions_*.json of COCO, or captions.txt or *.token.txt of Flickr8k", recognise, read_all};
