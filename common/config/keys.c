/* common/config/keys.c - the keys of the file, its sections and lists, each once. */
#include "common/config/parts.h"

#include <math.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/pattern.h"

_Static_assert(sizeof(enum config_schedule) == sizeof(int), "choices are stored through int");

int config_read_text(struct reader *r, const char *path, char **ret)
{
    if (r->event.type != YAML_SCALAR_EVENT)
        return FAIL_HERE(r, path, "expected a text, found %s", config_event_words(&r->event));
    if (config_scalar_is_plain(r) && !config_plain_is_text(config_scalar(r))) {
        FAIL_HERE(r, path, "expected a text, found %.80s",
                  *config_scalar(r) ? config_scalar(r) : "nothing");
        return bl_error_remedy(r->err, "put it in quotes if it is meant as text");
    }
    int rc = config_copy_text(config_scalar(r), ret, r->err);
    return rc < 0 ? config_fail_named(r, config_place_of(r->event.start_mark), path, rc) : 0;
}

int config_fail_list(struct reader *r, const char *path)
{
    return FAIL_HERE(r, path, "expected a list of at most %d", BL_CONFIG_LIST_MAX);
}

static int read_pattern(struct reader *r, const char *path, char **ret)
{
    BL_TRY(config_read_text(r, path, ret));
    bl_auto(pattern) struct pattern *compiled = NULL;
    int rc = pattern_open(*ret, &compiled, r->err);
    return rc < 0 ? config_fail_named(r, config_place_of(r->event.start_mark), path, rc) : 0;
}

static int read_patterns(struct reader *r, const struct config_key *key)
{
    struct config_strings *list = (void *)((char *)r->config + key->offset);
    for (;;) {
        char path[128];
        BL_TRY(config_next_event(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        snprintf(path, sizeof path, "%s[%zu]", key->path, list->count);
        char **item = config_list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return config_fail_list(r, path);
        BL_TRY(read_pattern(r, path, item));
    }
}

/* The index of the current event's key among the known ones, or `count`. */
static size_t find_known(const struct reader *r, const struct config_item *item)
{
    size_t i = 0;
    while (i < item->count && strcmp(config_scalar(r), item->known[i]))
        i++;
    return i;
}

int config_read_item(struct reader *r, const struct config_item *item)
{
    uint32_t seen = 0;
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return FAIL_HERE(r, item->path, "expected {%s, %s}, found %s", item->known[0],
                         item->known[1], config_event_words(&r->event));
    for (;;) {
        char inner[192];
        BL_TRY(config_next_event(r));
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        if (r->event.type != YAML_SCALAR_EVENT)
            return FAIL_HERE(r, item->path, "expected a key, found %s",
                             config_event_words(&r->event));
        snprintf(inner, sizeof inner, "%s.%.60s", item->path, config_scalar(r));
        size_t known = find_known(r, item);
        if (known == item->count)
            return config_fail_unknown(r, inner, item->known, item->count);
        if (seen >> known & 1)
            return FAIL_HERE(r, inner, "is given twice");
        seen |= 1u << known;
        BL_TRY(config_next_event(r));
        BL_TRY(item->set(r, inner, known, item->item));
    }
}

static const char *const caption_keys[] = {"column", "prefix", "join",  "trace",
                                           "open",   "close",  "labels"};
enum { CAPTION_JOIN = 2, CAPTION_LABELS = 6 };

static int set_labels(struct reader *r, const char *inner, enum config_labels *ret)
{
    static const char *const names[] = {"both", "trace", "caption"};
    for (int i = 0; r->event.type == YAML_SCALAR_EVENT && i < 3; i++)
        if (!strcmp(config_scalar(r), names[i])) {
            *ret = (enum config_labels)i;
            return 0;
        }
    return FAIL_HERE(r, inner, "expected both, trace or caption, found %.60s",
                     r->event.type == YAML_SCALAR_EVENT ? config_scalar(r)
                                                        : config_event_words(&r->event));
}

static int set_caption(struct reader *r, const char *inner, size_t known, void *item)
{
    struct config_caption *caption = item;
    char **const fields[] = {&caption->column, &caption->prefix, &caption->join,
                             &caption->trace,  &caption->open,   &caption->close};
    if (known == CAPTION_LABELS)
        return set_labels(r, inner, &caption->labels);
    BL_TRY(config_read_text(r, inner, fields[known]));
    if (known == CAPTION_JOIN && strcmp(caption->join, " ") && *caption->join)
        return FAIL_HERE(r, inner, "expected \" \" or \"\", found \"%.20s\"", caption->join);
    return 0;
}

/* What stands around a trace; without one there is nothing to stand around. */
static int complete_trace(struct reader *r, struct place start, const char *path,
                          struct config_caption *caption)
{
    const char *wrong = NULL;
    if (!caption->trace) {
        if (caption->open || caption->close || caption->labels != CONFIG_LABELS_BOTH)
            wrong = "open, close and labels are for a caption with a trace, which is missing";
    } else {
        if (!caption->open)
            BL_TRY(config_copy_text("<think>\n", &caption->open, r->err));
        if (!caption->close)
            BL_TRY(config_copy_text("\n</think>\n\n", &caption->close, r->err));
        if (!*caption->trace || !strcmp(caption->trace, caption->column))
            wrong = "expected trace to be another column than the caption's";
        else if (strspn(caption->close, " \n\r\t") == strlen(caption->close))
            wrong = "expected close to hold more than white space";
    }
    return wrong ? config_fail_named(r, start, path, bl_fail(r->err, BL_ECONFIG, "%s", wrong)) : 0;
}

/* One {column, prefix, join, …}; the current event is its start. */
static int read_caption(struct reader *r, const char *path, struct config_caption *caption)
{
    struct place start = config_place_of(r->event.start_mark);
    const struct config_item item = {path, caption_keys, 7, set_caption, caption};
    BL_TRY(config_read_item(r, &item));
    if (!caption->column || !*caption->column)
        return config_fail_named(r, start, path, bl_fail(r->err, BL_ECONFIG, "column is missing"));
    BL_TRY(complete_trace(r, start, path, caption));
    if (!caption->join)
        BL_TRY(config_copy_text(" ", &caption->join, r->err));
    return caption->prefix ? 0 : config_copy_text("", &caption->prefix, r->err);
}

static int read_captions(struct reader *r, const struct config_key *key)
{
    struct config_captions *list = (void *)((char *)r->config + key->offset);
    for (;;) {
        char path[128];
        BL_TRY(config_next_event(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            return list->count ? 0
                               : FAIL_HERE(r, key->path, "expected at least one caption column");
        snprintf(path, sizeof path, "%s[%zu]", key->path, list->count);
        struct config_caption *item = config_list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return config_fail_list(r, path);
        BL_TRY(read_caption(r, path, item));
        for (size_t i = 0; i + 1 < list->count; i++)
            if (!strcmp(list->at[i].column, item->column) &&
                !strcmp(list->at[i].prefix, item->prefix))
                return FAIL_HERE(r, path, "column %.60s is given twice with the same prefix",
                                 item->column);
    }
}

static const char *const filter_keys[] = {"column", "min", "max"};

static int set_filter(struct reader *r, const char *inner, size_t known, void *item)
{
    struct config_filter *filter = item;
    if (known == 0)
        return config_read_text(r, inner, &filter->column);
    if (r->event.type != YAML_SCALAR_EVENT || !config_scalar_is_plain(r) ||
        !config_number(config_scalar(r), known == 1 ? &filter->min : &filter->max))
        return FAIL_HERE(r, inner, "expected a number, found %.80s",
                         r->event.type == YAML_SCALAR_EVENT && *config_scalar(r)
                             ? config_scalar(r)
                             : config_event_words(&r->event));
    return 0;
}

static int read_filter(struct reader *r, const char *path, struct config_filter *filter)
{
    struct place start = config_place_of(r->event.start_mark);
    const struct config_item item = {path, filter_keys, 3, set_filter, filter};
    filter->min = -INFINITY;
    filter->max = INFINITY;
    BL_TRY(config_read_item(r, &item));
    const char *wrong = !filter->column || !*filter->column        ? "column is missing"
                        : isinf(filter->min) && isinf(filter->max) ? "expected min, max or both"
                        : filter->min > filter->max                ? "min is above max"
                                                                   : NULL;
    return wrong ? config_fail_named(r, start, path, bl_fail(r->err, BL_ECONFIG, "%s", wrong)) : 0;
}

static int read_filters(struct reader *r, const struct config_key *key)
{
    struct config_filters *list = (void *)((char *)r->config + key->offset);
    for (;;) {
        char path[128];
        BL_TRY(config_next_event(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        snprintf(path, sizeof path, "%s[%zu]", key->path, list->count);
        struct config_filter *item = config_list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return config_fail_list(r, path);
        BL_TRY(read_filter(r, path, item));
    }
}

static int read_value(struct reader *r, size_t index)
{
    const struct config_key *key = config_key_at(index);
    struct place place = config_place_of(r->event.start_mark);
    bool list =
        key->type == CONFIG_PATTERNS || key->type == CONFIG_CAPTIONS || key->type == CONFIG_FILTERS;
    yaml_event_type_t wanted = list ? YAML_SEQUENCE_START_EVENT : YAML_SCALAR_EVENT;
    r->places[index] = place;
    if (r->event.type != wanted)
        return config_fail_named(r, place, key->path,
                                 config_fail_value(r->err, key, config_event_words(&r->event)));
    if (key->type == CONFIG_PATTERNS)
        return read_patterns(r, key);
    if (key->type == CONFIG_CAPTIONS)
        return read_captions(r, key);
    if (key->type == CONFIG_FILTERS)
        return read_filters(r, key);
    int rc = config_set_scalar(r->config, key, config_scalar(r), config_scalar_is_plain(r),
                               r->folder, r->err);
    return rc < 0 ? config_fail_named(r, place, key->path, rc) : 0;
}

/* Index of the first key in section `path`, or -1. */
static int find_section(const char *path)
{
    size_t length = strlen(path);
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++)
        if (!strncmp(key->path, path, length) && key->path[length] == '.')
            return (int)i;
    return -1;
}

/* The candidates are all keys, and the sections. */
static int fail_unknown_key(struct reader *r, const char *path)
{
    char sections[CONFIG_KEYS_MAX][32];
    const char *known[2 * CONFIG_KEYS_MAX];
    size_t count = 0;
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        known[count++] = key->path;
        if (config_leaf(key->path) == key->path || !config_starts_section(i))
            continue;
        snprintf(sections[i], sizeof sections[i], "%.*s",
                 (int)(config_leaf(key->path) - key->path) - 1, key->path);
        known[count++] = sections[i];
    }
    return config_fail_unknown(r, path, known, count);
}

/* A key must not come twice: says where it stood first. */
static int once(struct reader *r, struct place *place, const char *path)
{
    if (place->line)
        return FAIL_HERE(r, path, "is given twice; the first is on line %zu", place->line);
    *place = config_place_of(r->event.start_mark);
    return 0;
}

/* The keys of the file (section NULL) or of a section, up to and with the mapping's end. The
 * schema is two levels deep, and so is the recursion. */
static int read_keys(struct reader *r, const char *section)
{
    for (;;) {
        BL_TRY(config_next_event(r));
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        if (r->event.type != YAML_SCALAR_EVENT)
            return FAIL_HERE(r, section, "expected a key, found %s", config_event_words(&r->event));
        char path[128];
        snprintf(path, sizeof path, "%s%s%.80s", section ? section : "", section ? "." : "",
                 config_scalar(r));
        int key = config_find_key(path);
        int first = key >= 0 || section ? -1 : find_section(path);
        if (key < 0 && first < 0)
            return fail_unknown_key(r, path);
        BL_TRY(once(r, key >= 0 ? &r->places[key] : &r->sections[first], path));
        BL_TRY(config_next_event(r));
        if (key >= 0) {
            BL_TRY(read_value(r, (size_t)key));
            continue;
        }
        if (r->event.type != YAML_MAPPING_START_EVENT) {
            FAIL_HERE(r, path, "expected keys of this section below it, found %s",
                      config_event_words(&r->event));
            return bl_error_remedy(r->err, "indent them, or remove the line");
        }
        BL_TRY(read_keys(r, path));
    }
}

int config_read_keys(struct reader *r)
{
    BL_TRY(config_next_event(r)); /* start of the stream */
    BL_TRY(config_next_event(r)); /* start of the document */
    if (r->event.type != YAML_STREAM_END_EVENT)
        BL_TRY(config_next_event(r));
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return FAIL_HERE(r, NULL, "expected keys and values, found %s",
                         config_event_words(&r->event));
    BL_TRY(read_keys(r, NULL));
    BL_TRY(config_next_event(r)); /* end of the document */
    BL_TRY(config_next_event(r));
    if (r->event.type != YAML_STREAM_END_EVENT)
        return FAIL_HERE(r, NULL, "expected one YAML document, found a second one");
    return 0;
}
