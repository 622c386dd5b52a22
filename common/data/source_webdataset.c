/* common/data/source_webdataset.c - WebDataset's tar shards. The files of one key are a sample: a name's folders and what is before
 * the first dot of its last part are the key, what is behind that dot is the field, whose case does not matter:
 *
 *   000/17.jpg  000/17.txt  000/17.json      key 000/17, fields jpg, txt, json
 *
 * Columns are the fields of texts (txt, also called text) and the keys of the object in json. Files of a key need not lie beside
 * each other. Names and captions are in memory; images are read from the shards by offset. */
#include "common/data/source_build.h"

#include <ctype.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/tar/tar.h"
#include "common/utf8.h"

enum { FIELDS_MAX = 256 }; /* of a sample; honest ones have ten */

/* Where an image lies in its shard. */
struct image_range {
    uint64_t offset, size;
};

struct store {
    char *folder;
    struct image_range *images; /* of each sample */
    size_t image_count, image_capacity;
};

/* A file in the shard at hand. */
struct member {
    size_t name, field; /* offsets in the shard's names; the field is in small letters */
    size_t key_size;
    uint64_t offset, size;
    size_t position;
};

/* Members [first, first + count) of a shard, in the order of their positions. */
struct group {
    size_t first, count, position;
};

struct shard {
    struct source *source;
    const char *path; /* below the folder */
    struct tar *tar;
    struct bl_bytes names;
    struct member *members;
    size_t member_count, member_capacity;
    struct group *groups;
    size_t group_count, group_capacity;
};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* -- members ---------------------------------------------------------------------------------- */

/* Counts something of the shard by "SHARD/NAME", or "SHARD (WHY)". */
static int pass_over(const struct shard *s, enum source_passed kind, const char *name,
                     const char *why, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    if (asprintf(&text, "%s%s%s%s%s%s", s->path, name ? "/" : "", name ? name : "", why ? " (" : "",
                 why ? why : "", why ? ")" : "") < 0) {
        text = NULL;
        return fail_nomem(err);
    }
    utf8_clean(text);
    return source_pass_over(s->source, kind, text, err);
}

/* The length of the name's key; 0: it has none. */
static size_t key_size(const char *name)
{
    const char *base = source_basename(name), *dot = strchr(base, '.');
    bool special = !strncmp(base, "__", 2); /* __index__.json and the like are no samples */
    return dot && dot > base && !special ? (size_t)(dot - name) : 0;
}

static int add_member(struct shard *s, const struct tar_member *found, struct bl_error *err)
{
    size_t key = key_size(found->name), length = strlen(found->name);
    if (!key)
        return 0;
    if (!found->plain)
        return pass_over(s, SOURCE_ABSENT_BYTES, found->name, NULL, err);
    struct member member = {.name = s->names.size,
                            .field = s->names.size + length + 1,
                            .key_size = key,
                            .offset = found->offset,
                            .size = found->size,
                            .position = s->member_count};
    if (!bl_bytes_add(&s->names, found->name, length + 1) ||
        !bl_bytes_add(&s->names, found->name + key + 1, length - key) ||
        !bl_grow(&s->members, &s->member_capacity, s->member_count + 1, sizeof member))
        return fail_nomem(err);
    for (char *c = s->names.data + member.field; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    s->members[s->member_count++] = member;
    return 0;
}

static int read_headers(struct shard *s, struct bl_error *err)
{
    struct tar_member member;
    for (;;) {
        BL_TRY(tar_next(s->tar, &member, err));
        if (!member.name)
            break;
        BL_TRY(add_member(s, &member, err));
    }
    const char *damage = tar_damage(s->tar);
    return damage ? pass_over(s, SOURCE_TORN_SHARDS, NULL, damage, err) : 0;
}

/* -- samples ---------------------------------------------------------------------------------- */

static int compare_members(const void *a, const void *b, void *names)
{
    const struct member *x = a, *y = b;
    const char *text = names;
    size_t least = x->key_size < y->key_size ? x->key_size : y->key_size;
    int order = memcmp(text + x->name, text + y->name, least);
    if (order == 0)
        order = (x->key_size > y->key_size) - (x->key_size < y->key_size);
    return order ? order : (x->position > y->position) - (x->position < y->position);
}

static int compare_groups(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    return (x->position > y->position) - (x->position < y->position);
}

static bool same_key(const struct shard *s, const struct member *a, const struct member *b)
{
    return a->key_size == b->key_size &&
           !memcmp(s->names.data + a->name, s->names.data + b->name, a->key_size);
}

static const char *field_of(const struct shard *s, const struct member *member)
{
    return s->names.data + member->field;
}

/* The group's member of that field, or NULL. */
static const struct member *find_field(const struct shard *s, const struct group *g,
                                       const char *field)
{
    for (size_t i = 0; i < g->count; i++)
        if (!strcmp(field_of(s, &s->members[g->first + i]), field))
            return &s->members[g->first + i];
    return NULL;
}

/* A key whose field occurs again begins another sample, as it does in WebDataset. */
static int group_members(struct shard *s, struct bl_error *err)
{
    struct group *last = NULL;
    if (s->member_count)
        qsort_r(s->members, s->member_count, sizeof *s->members, compare_members, s->names.data);
    for (size_t i = 0; i < s->member_count; i++) {
        const struct member *m = &s->members[i];
        bool continues = last && same_key(s, &s->members[last->first], m);
        bool again =
            continues && (last->count == FIELDS_MAX || find_field(s, last, field_of(s, m)) != NULL);
        if (again)
            BL_TRY(pass_over(s, SOURCE_REPEATED_KEYS, s->names.data + m->name, NULL, err));
        if (continues && !again) {
            last->count++;
            continue;
        }
        if (!bl_grow(&s->groups, &s->group_capacity, s->group_count + 1, sizeof *s->groups))
            return fail_nomem(err);
        last = &s->groups[s->group_count++];
        *last = (struct group){.first = i, .count = 1, .position = m->position};
    }
    if (s->group_count)
        qsort(s->groups, s->group_count, sizeof *s->groups, compare_groups);
    return 0;
}

/* -- captions --------------------------------------------------------------------------------- */

/* A text or object that cannot be read is counted; its sample is kept without it. */
static int count_bad(const struct shard *s, const struct member *m, struct bl_error *err)
{
    struct bl_error why = *err;
    if (why.code != BL_EFORMAT && why.code != BL_ELIMIT)
        return -why.code;
    return pass_over(s, SOURCE_BAD_TEXTS, s->names.data + m->name, why.text, err);
}

static int add_text(struct shard *s, size_t column, const struct member *m, struct bl_error *err)
{
    const struct tar_member where = {.offset = m->offset, .size = m->size, .plain = true};
    bl_autofree char *text = NULL;
    size_t size = 0;
    int rc = tar_read(s->tar, &where, BL_CAPTION_BYTES_MAX, &text, &size, err);
    if (rc == 0 && memchr(text, 0, size))
        rc = bl_fail(err, BL_EFORMAT, "a text must not hold the character NUL");
    size_t mark = rc == 0 && size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;
    if (rc == 0)
        rc = source_add_caption(s->source, column, text + mark, size - mark, err);
    return rc < 0 ? count_bad(s, m, err) : 0;
}

/* The field that a column is, if it is of a text. */
static const char *text_field(const char *column)
{
    return !strcmp(column, "text") ? "txt" : column;
}

static int read_json(struct shard *s, const struct group *g, json_t **ret, struct bl_error *err)
{
    const struct member *m = find_field(s, g, "json");
    bl_autofree char *text = NULL;
    size_t size = 0;
    *ret = NULL;
    if (!m)
        return 0;
    const struct tar_member where = {.offset = m->offset, .size = m->size, .plain = true};
    int rc = tar_read(s->tar, &where, BL_METADATA_LINE_MAX, &text, &size, err);
    if (rc == 0)
        rc = source_parse_json(text, size, ret, err);
    if (rc == 0 && !json_is_object(*ret)) {
        rc = bl_json_fail(*ret, "an object", err);
        bl_json_free(ret);
    }
    return rc < 0 ? count_bad(s, m, err) : 0;
}

static void saw_columns(struct shard *s, const struct group *g, json_t *json)
{
    const char *key;
    json_t *value;
    for (size_t i = 0; i < g->count; i++) {
        const char *field = field_of(s, &s->members[g->first + i]);
        if (!strcmp(field, "txt"))
            source_saw_column(s->source, "text");
        if (strcmp(field, "json"))
            source_saw_column(s->source, field);
    }
    json_object_foreach(json, key, value) source_saw_column(s->source, key);
}

static int add_captions(struct shard *s, const struct group *g, json_t *json, struct bl_error *err)
{
    struct source *source = s->source;
    for (size_t i = 0; i < source->column_count; i++) {
        const struct member *text = find_field(s, g, text_field(source->columns[i]));
        if (text) {
            BL_TRY(add_text(s, i, text, err));
        } else if (source_add_json_captions(source, i, json_object_get(json, source->columns[i]),
                                            err) < 0) {
            BL_TRY(count_bad(s, find_field(s, g, "json"), err));
        }
    }
    return 0;
}

/* -- images ----------------------------------------------------------------------------------- */

/* data.image_column, or the first of a type that is read; a field such as seg.png is another's. */
static bool is_image(const struct shard *s, const struct member *m)
{
    const char *wanted = s->source->options->image_column, *field = field_of(s, m);
    return wanted ? !strcasecmp(field, wanted)
                  : !strchr(field, '.') && source_is_image(s->names.data + m->name);
}

static int add_image(struct shard *s, const struct member *m, struct bl_error *err)
{
    struct store *store = s->source->store;
    bl_autofree char *name = NULL;
    if (asprintf(&name, "%s/%s", s->path, s->names.data + m->name) < 0) {
        name = NULL;
        return fail_nomem(err);
    }
    utf8_clean(name);
    BL_TRY(source_add_contained(s->source, name, s->path, err));
    if (!bl_grow(&store->images, &store->image_capacity, store->image_count + 1,
                 sizeof *store->images))
        return fail_nomem(err);
    store->images[store->image_count++] = (struct image_range){m->offset, m->size};
    return 0;
}

/* What is of no sample: texts without an image, images that are not read. */
static int pass_over_group(const struct shard *s, const struct group *g, struct bl_error *err)
{
    for (size_t i = 0; i < g->count; i++) {
        const char *name = s->names.data + s->members[g->first + i].name;
        if (source_is_other_image(name))
            return pass_over(s, SOURCE_OTHER_TYPES, name, NULL, err);
    }
    for (size_t i = 0; i < s->source->column_count; i++) {
        const struct member *text = find_field(s, g, text_field(s->source->columns[i]));
        if (!text)
            text = find_field(s, g, "json");
        if (text)
            return pass_over(s, SOURCE_LONE_TEXTS, s->names.data + text->name, NULL, err);
    }
    return 0;
}

static int add_group(struct shard *s, const struct group *g, struct bl_error *err)
{
    const struct member *image = NULL;
    for (size_t i = 0; i < g->count && !image; i++)
        if (is_image(s, &s->members[g->first + i]))
            image = &s->members[g->first + i];
    if (!image)
        return pass_over_group(s, g, err);
    bl_autojson json_t *json = NULL;
    BL_TRY(add_image(s, image, err));
    BL_TRY(read_json(s, g, &json, err));
    saw_columns(s, g, json);
    if (source_add_json_numbers(s->source, json, err) < 0)
        BL_TRY(count_bad(s, find_field(s, g, "json"), err));
    return add_captions(s, g, json, err);
}

static int locate(const struct source *source, uint64_t id, char **ret, struct bl_error *err)
{
    const struct store *store = source->store;
    bl_autofree char *path = NULL;
    if (asprintf(&path, "%s/%s", store->folder, source->text.data + source->rows[id].file) < 0) {
        path = NULL;
        return fail_nomem(err);
    }
    const struct location location = {.kind = LOCATION_RANGE,
                                      .path = path,
                                      .offset = store->images[id].offset,
                                      .length = store->images[id].size};
    return location_format(&location, ret, err);
}

/* -- shards ----------------------------------------------------------------------------------- */

static void shard_release(struct shard *s)
{
    tar_free(&s->tar);
    bl_bytes_release(&s->names);
    free(s->members);
    free(s->groups);
}

static int read_samples(struct shard *s, struct bl_error *err)
{
    BL_TRY(read_headers(s, err));
    BL_TRY(group_members(s, err));
    for (size_t i = 0; i < s->group_count; i++)
        BL_TRY(add_group(s, &s->groups[i], err));
    return 0;
}

static int read_shard(struct source *source, const char *path, struct bl_error *err)
{
    __attribute__((cleanup(shard_release))) struct shard s = {.source = source, .path = path};
    bl_autofree char *full = NULL;
    if (asprintf(&full, "%s/%s", source->folder, path) < 0) {
        full = NULL;
        return fail_nomem(err);
    }
    BL_TRY(tar_open(full, &s.tar, err));
    return read_samples(&s, err) < 0 ? bl_error_file(err, full) : 0;
}

/* The folder's shards, in folders below too. */
static int read_listed(struct source *source, const struct source_listing *listing,
                       struct bl_error *err)
{
    for (size_t i = 0; i < listing->count; i++)
        if (source_is_tar(listing->paths[i]))
            BL_TRY(read_shard(source, listing->paths[i], err));
    return 0;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A shard, or those of a pattern. */
static int read_pattern(struct source *source, const char *pattern, struct bl_error *err)
{
    size_t folder = strlen(source->folder) + 1;
    __attribute__((cleanup(globfree))) glob_t found = {0};
    if (bl_path_is_file(pattern))
        return read_shard(source, pattern + folder, err);
    if (glob(pattern, GLOB_NOSORT, NULL, &found) == GLOB_NOSPACE)
        return fail_nomem(err);
    if (found.gl_pathc)
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, compare_paths);
    for (size_t i = 0; i < found.gl_pathc; i++)
        BL_TRY(read_shard(source, found.gl_pathv[i] + folder, err));
    return 0;
}

static void release(void *store)
{
    struct store *s = store;
    free(s->folder);
    free(s->images);
    free(s);
}

static bool recognise(const struct source_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        if (source_is_tar(listing->paths[i]))
            return true;
    return false;
}

static int open_store(struct source *source, struct bl_error *err)
{
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return fail_nomem(err);
    source->store = s;
    source->access = (struct source_access){.locate = locate, .free = release};
    s->folder = strdup(source->folder);
    return s->folder ? 0 : fail_nomem(err);
}

int source_read_shard(struct source *source, const char *path, const void *data, size_t size,
                      struct bl_error *err)
{
    __attribute__((cleanup(shard_release))) struct shard s = {.source = source, .path = path};
    BL_TRY(open_store(source, err));
    BL_TRY(tar_parse(data, size, &s.tar, err));
    return read_samples(&s, err);
}

static int read_webdataset(struct source *source, const struct source_listing *listing,
                           struct bl_error *err)
{
    BL_TRY(open_store(source, err));
    BL_TRY(listing ? read_listed(source, listing, err)
                   : read_pattern(source, source->options->path, err));
    if (!source->row_count && source_passed(source, SOURCE_TORN_SHARDS))
        return bl_fail(err, BL_EFORMAT, "expected samples, found none whole: %.300s",
                       source_passed_name(source, SOURCE_TORN_SHARDS, 0));
    return 0;
}

const struct source_kind source_webdataset = {CONFIG_WEBDATASET, "webdataset", "tar shards",
                                              recognise, read_webdataset};
