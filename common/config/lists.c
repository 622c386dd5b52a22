/* common/config/lists.c - the file's lists: patterns, caption columns, filters. */
#include "common/config/parts.h"

#include <math.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/pattern.h"

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

int config_read_list(struct reader *r, const struct config_list *list)
{
    for (;;) {
        char path[192];
        BL_TRY(config_next_event(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        snprintf(path, sizeof path, "%.160s[%zu]", list->path, *list->count);
        if (*list->count >= list->most)
            return FAIL_HERE(r, path, "expected a list of at most %zu", list->most);
        if (!config_list_add(list->items, list->count, list->element))
            return FAIL_HERE(r, path, "out of memory");
        BL_TRY(list->read(r, path, *(void **)list->items, *list->count - 1));
    }
}

static int read_pattern(struct reader *r, const char *path, void *items, size_t i)
{
    char **item = (char **)items + i;
    BL_TRY(config_read_text(r, path, item));
    bl_auto(pattern) struct pattern *compiled = NULL;
    int rc = pattern_open(*item, &compiled, r->err);
    return rc < 0 ? config_fail_named(r, config_place_of(r->event.start_mark), path, rc) : 0;
}

int config_read_patterns(struct reader *r, const char *path, struct config_strings *ret)
{
    const struct config_list list = {
        path, &ret->at, &ret->count, sizeof *ret->at, BL_CONFIG_LIST_MAX, read_pattern};
    return config_read_list(r, &list);
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
        return FAIL_HERE(r, item->path, "expected {%s, %s, ...}, found %s", item->known[0],
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
static int read_caption(struct reader *r, const char *path, void *items, size_t i)
{
    struct config_caption *captions = items, *caption = &captions[i];
    struct place start = config_place_of(r->event.start_mark);
    const struct config_item item = {path, caption_keys, 7, set_caption, caption};
    BL_TRY(config_read_item(r, &item));
    if (!caption->column || !*caption->column)
        return config_fail_named(r, start, path, bl_fail(r->err, BL_ECONFIG, "column is missing"));
    BL_TRY(complete_trace(r, start, path, caption));
    if (!caption->join)
        BL_TRY(config_copy_text(" ", &caption->join, r->err));
    if (!caption->prefix)
        BL_TRY(config_copy_text("", &caption->prefix, r->err));
    for (size_t j = 0; j < i; j++)
        if (!strcmp(captions[j].column, caption->column) &&
            !strcmp(captions[j].prefix, caption->prefix))
            return FAIL_HERE(r, path, "column %.60s is given twice with the same prefix",
                             caption->column);
    return 0;
}

int config_read_captions(struct reader *r, const char *path, struct config_captions *ret)
{
    const struct config_list list = {
        path, &ret->at, &ret->count, sizeof *ret->at, BL_CONFIG_LIST_MAX, read_caption};
    BL_TRY(config_read_list(r, &list));
    return ret->count ? 0 : FAIL_HERE(r, path, "expected at least one caption column");
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

static int read_filter(struct reader *r, const char *path, void *items, size_t i)
{
    struct config_filter *filter = (struct config_filter *)items + i;
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

int config_read_filters(struct reader *r, const char *path, struct config_filters *ret)
{
    const struct config_list list = {
        path, &ret->at, &ret->count, sizeof *ret->at, BL_CONFIG_LIST_MAX, read_filter};
    return config_read_list(r, &list);
}
