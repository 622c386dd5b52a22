/* common/config/reader.c - YAML's events one by one, and errors that say where in the file they are. */
#include "common/config/parts.h"

#include <string.h>

static int at_place(const struct reader *r, struct place place, int rc)
{
    if (!r->err || !place.line)
        return r->err ? bl_error_file(r->err, r->name) : rc;
    char file[512];
    snprintf(file, sizeof file, "%.480s:%zu:%zu", r->name, place.line, place.column);
    return bl_error_file(r->err, file);
}

struct place config_place_of(yaml_mark_t mark)
{
    return (struct place){mark.line + 1, mark.column + 1};
}

int config_fail_named(struct reader *r, struct place place, const char *key, int rc)
{
    if (key)
        bl_error_key(r->err, "%s", key);
    return at_place(r, place, rc);
}

const char *config_event_words(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.length ? "a single value" : "nothing";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "keys and values";
    case YAML_STREAM_END_EVENT:
        return "an empty file";
    default:
        return "something else";
    }
}

int config_next_event(struct reader *r)
{
    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        const yaml_parser_t *p = &r->parser;
        bool nomem = p->error == YAML_MEMORY_ERROR;
        bool reads = p->error == YAML_READER_ERROR;
        bl_fail(r->err, nomem ? BL_ENOMEM : BL_ECONFIG, "no valid YAML: %s%s%s",
                p->context ? p->context : "", p->context ? ", " : "",
                p->problem ? p->problem : "out of memory");
        if (p->problem && strstr(p->problem, "mapping values are not allowed"))
            bl_error_remedy(r->err, "put texts that hold a colon and a space in quotes");
        if (reads)
            bl_error_remedy(r->err, "save it as a text in UTF-8");
        if (p->problem && strstr(p->problem, "cannot start any token"))
            bl_error_remedy(r->err, "indent with spaces, and put texts that begin with a special "
                                    "character in quotes");
        return at_place(r, reads ? (struct place){0, 0} : config_place_of(p->problem_mark),
                        nomem ? -BL_ENOMEM : -BL_ECONFIG);
    }
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (r->event.type) {
    case YAML_ALIAS_EVENT:
        anchor = r->event.data.alias.anchor;
        break;
    case YAML_SCALAR_EVENT:
        anchor = r->event.data.scalar.anchor;
        tag = r->event.data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->event.data.sequence_start.anchor;
        tag = r->event.data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->event.data.mapping_start.anchor;
        tag = r->event.data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor || tag) {
        FAIL_HERE(r, NULL, "%s \"%.60s\" is not allowed here", anchor ? "the anchor" : "the tag",
                  (const char *)(anchor ? anchor : tag));
        return bl_error_remedy(r->err, "write the value itself, in quotes if it begins with & * "
                                       "or !");
    }
    if (r->event.type == YAML_SCALAR_EVENT &&
        memchr(r->event.data.scalar.value, 0, r->event.data.scalar.length))
        return FAIL_HERE(r, NULL, "a text must not hold the character NUL");
    return 0;
}

const char *config_scalar(const struct reader *r)
{
    return (const char *)r->event.data.scalar.value;
}

bool config_scalar_is_plain(const struct reader *r)
{
    return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

/* Edits (insert, delete, replace, swap neighbours) from a to b; both are shorter than 128. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t rows[3][129], n = strlen(b);
    size_t *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= n; j++)
        above[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
        size_t *spare = before;
        before = above;
        above = row;
        row = spare;
    }
    return above[n];
}

const char *config_leaf(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

bool config_starts_section(size_t index)
{
    if (!index)
        return true;
    const char *path = config_key_at(index)->path, *before = config_key_at(index - 1)->path;
    size_t length = (size_t)(config_leaf(path) - path);
    return (size_t)(config_leaf(before) - before) != length || strncmp(before, path, length);
}

bool config_given(const struct reader *r, const char *path)
{
    return r->places[config_find_key(path)].line != 0;
}

/* The key that was probably meant, or NULL. A right name in a wrong section counts as one edit, and so does one cut short. */
static const char *nearest(const char *const *paths, size_t count, const char *path)
{
    const char *found = NULL;
    size_t least = strlen(config_leaf(path)) / 3 + 2;
    if (strlen(path) >= 128)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t whole = edit_distance(path, paths[i]);
        size_t last = edit_distance(config_leaf(path), config_leaf(paths[i])) + 1;
        size_t distance = whole < last ? whole : last;
        if (*path && !strncmp(path, paths[i], strlen(path)))
            distance = 1;
        if (distance < least) {
            least = distance;
            found = paths[i];
        }
    }
    return found;
}

int config_fail_unknown(struct reader *r, const char *path, const char *const *known, size_t count)
{
    const char *meant = nearest(known, count, path);
    FAIL_HERE(r, path, "unknown key");
    if (meant)
        return bl_error_remedy(r->err, "did you mean %s?", meant);
    return bl_error_remedy(r->err, "docs/config.md lists all keys");
}
