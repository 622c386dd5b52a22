/* common/config/sources.c - data.sources: a list of sources, each with keys of its own; and the one source of data.source, made
 * such a list of one. */
#include "common/config/parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"

#define AT(member) offsetof(struct config_source, member)
#define WEIGHT_MIN 1e-6
#define WEIGHT_MAX 1000

/* What an entry may have. What it lacks is as data.KEY says; weight is then 1. */
enum { SOURCE, WEIGHT, FORMAT, IMAGE_COLUMN, CAPTIONS, VALIDATION, VALIDATION_SOURCE, KEY_COUNT };
static const struct {
    const char *name;
    enum config_type type;
    size_t offset;
} keys[KEY_COUNT] = {
    [SOURCE] = {"source", CONFIG_PATH, AT(source)},
    [WEIGHT] = {"weight", CONFIG_REAL, AT(weight)},
    [FORMAT] = {"format", CONFIG_CHOICE, AT(format)},
    [IMAGE_COLUMN] = {"image_column", CONFIG_TEXT, AT(image_column)},
    [CAPTIONS] = {"captions", CONFIG_CAPTIONS, AT(captions)},
    [VALIDATION] = {"validation", CONFIG_REAL, AT(validation)},
    [VALIDATION_SOURCE] = {"validation_source", CONFIG_PATH, AT(validation_source)},
};

/* The entry's key as a key of the schema: range and choices are those of data.KEY. */
static struct config_key key_of(int which)
{
    char like[64];
    snprintf(like, sizeof like, "data.%s", keys[which].name);
    int same = config_find_key(like);
    struct config_key key = {
        .type = keys[which].type, .min = WEIGHT_MIN, .max = WEIGHT_MAX, .fallback = ""};
    if (same >= 0)
        key = *config_key_at((size_t)same);
    key.path = "data.sources";
    key.offset = keys[which].offset;
    return key;
}

/* The value of one key; the current event is its start. */
static int read_value(struct reader *r, int which, const char *path, struct config_source *source)
{
    struct place place = config_place_of(r->event.start_mark);
    struct config_key key = key_of(which);
    bool list = which == CAPTIONS;
    if (r->event.type != (list ? YAML_SEQUENCE_START_EVENT : YAML_SCALAR_EVENT))
        return config_fail_named(r, place, path,
                                 config_fail_value(r->err, &key, config_event_words(&r->event)));
    if (list)
        return config_read_captions(r, path, &source->captions);
    int rc = config_set_scalar(r->config, source, &key, config_scalar(r), config_scalar_is_plain(r),
                               r->folder, r->err);
    return rc < 0 ? config_fail_named(r, place, path, rc) : 0;
}

/* An entry none of whose keys is given: what stays so is inherited. */
static const struct config_source unread = {
    .weight = 1, .format = (enum config_format)CONFIG_INHERITED, .validation = -1};

/* An entry that is being read, and which of its keys were given. */
struct entry {
    struct config_source *source;
    bool given[KEY_COUNT];
};

static int set_entry(struct reader *r, const char *inner, size_t known, void *item)
{
    struct entry *entry = item;
    entry->given[known] = true;
    return read_value(r, (int)known, inner, entry->source);
}

/* One entry; the current event is its start. */
static int read_source(struct reader *r, const char *path, void *items, size_t i)
{
    struct config_source *source = (struct config_source *)items + i;
    struct place start = config_place_of(r->event.start_mark);
    struct entry entry = {.source = source};
    const char *known[KEY_COUNT];
    for (int k = 0; k < KEY_COUNT; k++)
        known[k] = keys[k].name;
    *source = unread;
    const struct config_item item = {path, known, KEY_COUNT, set_entry, &entry};
    BL_TRY(config_read_item(r, &item));
    if (!entry.given[SOURCE])
        return config_fail_named(r, start, path, bl_fail(r->err, BL_ECONFIG, "source is missing"));
    if (entry.given[VALIDATION] && entry.given[VALIDATION_SOURCE] && source->validation != 0) {
        bl_fail(r->err, BL_ECONFIG, "both validation and validation_source are given");
        bl_error_remedy(r->err, "remove one of them");
        return config_fail_named(r, start, path, -BL_ECONFIG);
    }
    return 0;
}

int config_read_sources(struct reader *r, const char *path, struct config_sources *ret)
{
    const struct config_list list = {path,           &ret->at,   &ret->count, sizeof *ret->at,
                                     BL_SOURCES_MAX, read_source};
    BL_TRY(config_read_list(r, &list));
    ret->written = ret->count;
    return ret->count ? 0 : FAIL_HERE(r, path, "expected at least one source");
}

static char *copy_of(const char *text)
{
    return text ? strdup(text) : NULL;
}

/* Moves the entry's captions to the end of the run's, where its samples' columns count. */
static int move_captions(struct config_captions *all, struct config_source *source)
{
    source->caption_first = source->captions.count ? all->count : 0;
    source->caption_count = source->captions.count ? source->captions.count : all->written;
    for (size_t i = 0; i < source->captions.count; i++) {
        struct config_caption *caption = config_list_add(&all->at, &all->count, sizeof *caption);
        if (!caption)
            return -1;
        *caption = source->captions.at[i];
        source->captions.at[i] = (struct config_caption){0};
    }
    free(source->captions.at);
    source->captions = (struct config_captions){0};
    return 0;
}

/* What the entry does not say is as the section says. */
static int inherit(struct reader *r, struct config_source *source)
{
    struct config_data *data = &r->config->data;
    if ((int)source->format == CONFIG_INHERITED)
        source->format = data->format;
    if (source->validation < 0)
        source->validation = source->validation_source ? 0 : data->validation;
    if (!source->image_column && data->image_column &&
        !(source->image_column = copy_of(data->image_column)))
        return bl_fail(r->err, BL_ENOMEM, "out of memory");
    if (source->validation >= 1 && source->validation != floor(source->validation)) {
        bl_fail(r->err, BL_ECONFIG,
                "expected a fraction below 1 or a whole number of images, found %g",
                source->validation);
        return config_fail_named(r, r->places[config_find_key("data.sources")], "data.sources",
                                 -BL_ECONFIG);
    }
    if (move_captions(&data->captions, source) == 0)
        return 0;
    bl_fail(r->err, BL_ECONFIG, "expected at most %d caption columns in all sources",
            BL_CONFIG_LIST_MAX);
    return config_fail_named(r, r->places[config_find_key("data.sources")], "data.sources",
                             -BL_ECONFIG);
}

/* data.source as a list of one. */
static int list_the_one(struct reader *r)
{
    struct config_data *data = &r->config->data;
    struct config_source *source =
        config_list_add(&data->sources.at, &data->sources.count, sizeof *source);
    if (source)
        *source = unread;
    if (!source || !(source->source = copy_of(data->source)) ||
        (data->validation_source &&
         !(source->validation_source = copy_of(data->validation_source))))
        return bl_fail(r->err, BL_ENOMEM, "out of memory");
    return inherit(r, source);
}

int config_resolve_sources(struct reader *r)
{
    struct config_data *data = &r->config->data;
    data->captions.written = data->captions.count;
    if (!data->sources.written)
        return list_the_one(r);
    const char *other = data->source ? "data.source" : "data.validation_source";
    if (data->source || data->validation_source) {
        bl_fail(r->err, BL_ECONFIG, "%s is given as well", other);
        bl_error_remedy(r->err, data->source ? "remove one of them"
                                             : "give it inside the source whose images it holds");
        return config_fail_named(r, r->places[config_find_key("data.sources")], "data.sources",
                                 -BL_ECONFIG);
    }
    for (size_t i = 0; i < data->sources.count; i++)
        BL_TRY(inherit(r, &data->sources.at[i]));
    return 0;
}

/* -- the same one twice ----------------------------------------------------------------------- */

static bool are_equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Two paths of one folder or file. */
static bool is_same_path(const char *a, const char *b)
{
    struct stat at_a, at_b;
    return strcmp(a, b) == 0 || (stat(a, &at_a) == 0 && stat(b, &at_b) == 0 &&
                                 at_a.st_dev == at_b.st_dev && at_a.st_ino == at_b.st_ino);
}

static bool has_same_captions(const struct config *config, const struct config_source *a,
                              const struct config_source *b)
{
    const struct config_caption *at = config->data.captions.at;
    for (size_t i = 0; i < a->caption_count && a->caption_count == b->caption_count; i++) {
        const struct config_caption *x = &at[a->caption_first + i], *y = &at[b->caption_first + i];
        if (!are_equal(x->column, y->column) || !are_equal(x->prefix, y->prefix) ||
            !are_equal(x->join, y->join) || !are_equal(x->trace, y->trace) ||
            !are_equal(x->open, y->open) || !are_equal(x->close, y->close) ||
            x->labels != y->labels)
            return false;
    }
    return a->caption_count == b->caption_count;
}

bool config_source_repeats(const struct config *config, size_t i, char *ret, size_t size)
{
    const struct config_source *at = config->data.sources.at;
    for (size_t before = 0; before < i; before++) {
        if (!is_same_path(at[before].source, at[i].source) || at[before].format != at[i].format ||
            !are_equal(at[before].image_column, at[i].image_column) ||
            !has_same_captions(config, &at[before], &at[i]))
            continue;
        snprintf(ret, size,
                 "data.sources[%zu] and data.sources[%zu] are the same source, %.300s; to train it "
                 "more often, give one entry a weight of %g in place of the two",
                 before, i, at[i].source, at[before].weight + at[i].weight);
        return true;
    }
    return false;
}

/* -- printing --------------------------------------------------------------------------------- */

static void print_source(FILE *out, const struct config *config, const struct config_source *source,
                         bool places)
{
    const struct config_captions *captions = &config->data.captions;
    fputs("{", out);
    if (places) {
        fputs("source: ", out);
        config_print_path(out, source->source, HUB_DATASET);
        fputs(", ", out);
    }
    fputs("weight: ", out);
    config_print_real(out, source->weight);
    fprintf(out, ", format: %s",
            config_key_at((size_t)config_find_key("data.format"))->choices[source->format]);
    if (source->image_column) {
        fputs(", image_column: ", out);
        config_print_text(out, source->image_column);
    }
    if (source->caption_first) {
        fputs(", captions: ", out);
        config_print_captions(out, captions->at + source->caption_first, source->caption_count);
    }
    if (source->validation_source && places) {
        fputs(", validation_source: ", out);
        config_print_path(out, source->validation_source, HUB_DATASET);
    } else {
        fputs(", validation: ", out);
        config_print_real(out, source->validation);
    }
    fputs("}", out);
}

void config_print_sources(FILE *out, const struct config *config, bool places)
{
    const struct config_sources *list = &config->data.sources;
    putc('[', out);
    for (size_t i = 0; i < list->written; i++) {
        fputs(i ? ", " : "", out);
        print_source(out, config, &list->at[i], places);
    }
    putc(']', out);
}
