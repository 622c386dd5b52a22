/* common/config.c - RUN.yaml through libyaml's events into struct config, and back to text. */
#include "common/config.h"

#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/cleanup.h"
#include "common/config_schema.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/pattern.h"

/* Where in the file a value stands; line 0: it is the default. */
struct place {
    size_t line, column;
};

struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    const char *name, *folder;
    struct config *config;
    struct place places[CONFIG_KEYS_MAX];   /* of each key's value */
    struct place sections[CONFIG_KEYS_MAX]; /* of a section, at the index of its first key */
    struct bl_error *err;
};

/* -- errors with their place ------------------------------------------------------------------ */

static int at_place(const struct reader *r, struct place place, int rc)
{
    if (!r->err || !place.line)
        return r->err ? bl_error_file(r->err, r->name) : rc;
    char file[512];
    snprintf(file, sizeof file, "%.480s:%zu:%zu", r->name, place.line, place.column);
    return bl_error_file(r->err, file);
}

static struct place place_of(yaml_mark_t mark)
{
    return (struct place){mark.line + 1, mark.column + 1};
}

/* Failure at the current event, about `key` (NULL: about none). */
#define FAIL_HERE(r, key, ...)                                                                     \
    fail_named(r, place_of((r)->event.start_mark), key, bl_fail((r)->err, BL_ECONFIG, __VA_ARGS__))

static int fail_named(struct reader *r, struct place place, const char *key, int rc)
{
    if (key)
        bl_error_key(r->err, "%s", key);
    return at_place(r, place, rc);
}

/* -- events ----------------------------------------------------------------------------------- */

static const char *event_words(const yaml_event_t *event)
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

static int next(struct reader *r)
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
        if (p->problem && strstr(p->problem, "cannot start any token"))
            bl_error_remedy(r->err, "indent with spaces, and put texts that begin with a special "
                                    "character in quotes");
        return at_place(r, reads ? (struct place){0, 0} : place_of(p->problem_mark),
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

static const char *scalar(const struct reader *r)
{
    return (const char *)r->event.data.scalar.value;
}

static bool scalar_is_plain(const struct reader *r)
{
    return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

/* -- unknown keys ----------------------------------------------------------------------------- */

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

static const char *leaf(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* Whether key stands first in its section. */
static bool starts_section(const struct config_key *key)
{
    size_t length = (size_t)(leaf(key->path) - key->path);
    return key == config_keys || (size_t)(leaf(key[-1].path) - key[-1].path) != length ||
           strncmp(key[-1].path, key->path, length);
}

/* The key that was probably meant, or NULL. A right name in a wrong section counts as one edit. */
static const char *nearest(const char *const *paths, size_t count, const char *path)
{
    const char *found = NULL;
    size_t least = strlen(leaf(path)) / 3 + 2;
    if (strlen(path) >= 128)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t whole = edit_distance(path, paths[i]);
        size_t last = edit_distance(leaf(path), leaf(paths[i])) + 1;
        size_t distance = whole < last ? whole : last;
        if (distance < least) {
            least = distance;
            found = paths[i];
        }
    }
    return found;
}

static int fail_unknown(struct reader *r, const char *path, const char *const *known, size_t count)
{
    const char *meant = nearest(known, count, path);
    FAIL_HERE(r, path, "unknown key");
    if (meant)
        return bl_error_remedy(r->err, "did you mean %s?", meant);
    return bl_error_remedy(r->err, "docs/config.md lists all keys");
}

/* -- values ----------------------------------------------------------------------------------- */

/* What a key takes, in words: "a whole number from 1 to 64 threads, or auto". */
static void expectation(const struct config_key *key, char *ret, size_t size)
{
    static const char *const words[] = {[CONFIG_BOOL] = "true or false",
                                        [CONFIG_TEXT] = "a text",
                                        [CONFIG_PATH] = "a path",
                                        [CONFIG_PATTERNS] = "a list of patterns",
                                        [CONFIG_CAPTIONS] = "a list of {column, prefix}"};
    size_t used = 0;
    switch (key->type) {
    case CONFIG_INT:
    case CONFIG_REAL:
        used += (size_t)snprintf(ret, size, "a %snumber from %.16g to %.16g%s%s",
                                 key->type == CONFIG_INT ? "whole " : "", key->min, key->max,
                                 key->unit ? " " : "", key->unit ? key->unit : "");
        break;
    case CONFIG_CHOICE:
        for (size_t i = 0; key->choices[i]; i++)
            used += (size_t)snprintf(ret + used, size - used, "%s%s",
                                     i == 0                ? ""
                                     : key->choices[i + 1] ? ", "
                                                           : " or ",
                                     key->choices[i]);
        break;
    default:
        used += (size_t)snprintf(ret, size, "%s", words[key->type]);
    }
    if (key->may_auto)
        snprintf(ret + used, size - used, ", or auto");
}

static int fail_value(struct bl_error *err, const struct config_key *key, const char *found)
{
    char expected[256];
    expectation(key, expected, sizeof expected);
    return bl_fail(err, BL_ECONFIG, "expected %s, found %.80s", expected, found);
}

/* Digits as JSON writes numbers: no sign but minus, no leading zero, nothing behind. */
static bool number_grammar(const char *s, bool whole)
{
    if (*s == '-')
        s++;
    if (*s == '0' && s[1] >= '0' && s[1] <= '9')
        return false;
    size_t digits = strspn(s, "0123456789");
    s += digits;
    if (!digits || whole)
        return digits && !*s;
    if (*s == '.') {
        digits = strspn(++s, "0123456789");
        s += digits;
        if (!digits)
            return false;
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '+' || *s == '-')
            s++;
        digits = strspn(s, "0123456789");
        s += digits;
        if (!digits)
            return false;
    }
    return !*s;
}

/* The value is not the caller's mistake of writing nothing, a number or a bool where text is meant.
 */
static bool plain_is_text(const char *s)
{
    static const char *const others[] = {"",     "~",    "null",  "Null",  "NULL", "true",
                                         "True", "TRUE", "false", "False", "FALSE"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(s, others[i]))
            return false;
    return !number_grammar(s, false);
}

static int copy_text(const char *text, char **ret, struct bl_error *err)
{
    *ret = strdup(text);
    return *ret ? 0 : bl_fail(err, BL_ENOMEM, "out of memory");
}

static int resolve_path(const char *text, const char *folder, char **ret, struct bl_error *err)
{
    if (!*text)
        return bl_fail(err, BL_ECONFIG, "expected a path, found an empty text");
    if (*text == '~') {
        bl_fail(err, BL_ECONFIG, "expected a path, found %.80s", text);
        return bl_error_remedy(err, "~ is not expanded here: write the whole path, or ./~ for a "
                                    "folder of that name");
    }
    if (*text == '/')
        return copy_text(text, ret, err);
    if (asprintf(ret, "%s/%s", folder, text) < 0) {
        *ret = NULL;
        return bl_fail(err, BL_ENOMEM, "out of memory");
    }
    return 0;
}

/* Sets a key that is one scalar. plain: not in quotes. */
static int set_scalar(struct config *config, const struct config_key *key, const char *text,
                      bool plain, const char *folder, struct bl_error *err)
{
    void *at = (char *)config + key->offset;
    bool is_text = key->type == CONFIG_TEXT || key->type == CONFIG_PATH;
    if (plain && (!*text || !strcmp(text, "~") || !strcmp(text, "null")))
        return fail_value(err, key, "nothing");
    if (key->may_auto && plain && !strcmp(text, "auto")) {
        if (!is_text)
            *(int64_t *)at = key->auto_value;
        return 0; /* a text is NULL already */
    }
    if (!is_text && !plain) {
        char quoted[96];
        snprintf(quoted, sizeof quoted, "\"%.60s\" in quotes", text);
        fail_value(err, key, quoted);
        return bl_error_remedy(err, "remove the quotes");
    }
    switch (key->type) {
    case CONFIG_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false"))
            return fail_value(err, key, text);
        *(bool *)at = *text == 't';
        return 0;
    case CONFIG_INT: {
        /* 18 digits always fit; every maximum of the table is below that. */
        if (!number_grammar(text, true) || strlen(text) > 18)
            return fail_value(err, key, text);
        int64_t value = strtoll(text, NULL, 10);
        if ((double)value < key->min || (double)value > key->max)
            return fail_value(err, key, text);
        *(int64_t *)at = value;
        return 0;
    }
    case CONFIG_REAL: {
        double value = number_grammar(text, false) ? strtod(text, NULL) : NAN;
        if (!(value >= key->min && value <= key->max))
            return fail_value(err, key, text);
        *(double *)at = value + 0.0; /* -0 becomes 0 */
        return 0;
    }
    case CONFIG_CHOICE:
        for (int i = 0; key->choices[i]; i++)
            if (!strcmp(text, key->choices[i])) {
                *(int *)at = i;
                return 0;
            }
        return fail_value(err, key, text);
    case CONFIG_TEXT:
    case CONFIG_PATH:
        if (plain && !plain_is_text(text)) {
            fail_value(err, key, text);
            return bl_error_remedy(err, "put it in quotes if it is meant as text");
        }
        if (key->type == CONFIG_PATH)
            return resolve_path(text, folder, at, err);
        if (!*text)
            return fail_value(err, key, "an empty text");
        return copy_text(text, at, err);
    default:
        return fail_value(err, key, "a single value");
    }
}
_Static_assert(sizeof(enum config_schedule) == sizeof(int), "choices are stored through int");

/* A text inside a list; `path` like "data.keep[2]". */
static int read_text(struct reader *r, const char *path, char **ret)
{
    if (r->event.type != YAML_SCALAR_EVENT)
        return FAIL_HERE(r, path, "expected a text, found %s", event_words(&r->event));
    if (scalar_is_plain(r) && !plain_is_text(scalar(r))) {
        FAIL_HERE(r, path, "expected a text, found %.80s", *scalar(r) ? scalar(r) : "nothing");
        return bl_error_remedy(r->err, "put it in quotes if it is meant as text");
    }
    int rc = copy_text(scalar(r), ret, r->err);
    return rc < 0 ? fail_named(r, place_of(r->event.start_mark), path, rc) : 0;
}

/* Grows a list by one zeroed element and gives its address, or NULL. */
static void *list_add(void *items, size_t *count, size_t element)
{
    void **list = items;
    if (*count >= BL_CONFIG_LIST_MAX)
        return NULL;
    void *grown = realloc(*list, (*count + 1) * element);
    if (!grown)
        return NULL;
    *list = grown;
    return memset((char *)grown + (*count)++ * element, 0, element);
}

static int fail_list(struct reader *r, const char *path)
{
    return FAIL_HERE(r, path, "expected a list of at most %d", BL_CONFIG_LIST_MAX);
}

static int read_pattern(struct reader *r, const char *path, char **ret)
{
    BL_TRY(read_text(r, path, ret));
    bl_auto(pattern) struct pattern *compiled = NULL;
    int rc = pattern_open(*ret, &compiled, r->err);
    return rc < 0 ? fail_named(r, place_of(r->event.start_mark), path, rc) : 0;
}

static int read_patterns(struct reader *r, const struct config_key *key)
{
    struct config_strings *list = (void *)((char *)r->config + key->offset);
    for (;;) {
        char path[128];
        BL_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        snprintf(path, sizeof path, "%s[%zu]", key->path, list->count);
        char **item = list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return fail_list(r, path);
        BL_TRY(read_pattern(r, path, item));
    }
}

/* One {column, prefix}; the current event is its start. */
static int read_caption(struct reader *r, const char *path, struct config_caption *caption)
{
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return FAIL_HERE(r, path, "expected {column, prefix}, found %s", event_words(&r->event));
    struct place start = place_of(r->event.start_mark);
    for (;;) {
        char inner[192];
        BL_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT)
            break;
        if (r->event.type != YAML_SCALAR_EVENT)
            return FAIL_HERE(r, path, "expected a key, found %s", event_words(&r->event));
        snprintf(inner, sizeof inner, "%s.%.60s", path, scalar(r));
        char **field = !strcmp(scalar(r), "column")   ? &caption->column
                       : !strcmp(scalar(r), "prefix") ? &caption->prefix
                                                      : NULL;
        if (!field)
            return fail_unknown(r, inner, (const char *const[]){"column", "prefix"}, 2);
        if (*field)
            return FAIL_HERE(r, inner, "is given twice");
        BL_TRY(next(r));
        BL_TRY(read_text(r, inner, field));
    }
    if (!caption->column || !*caption->column)
        return fail_named(r, start, path, bl_fail(r->err, BL_ECONFIG, "column is missing"));
    return caption->prefix ? 0 : copy_text("", &caption->prefix, r->err);
}

static int read_captions(struct reader *r, const struct config_key *key)
{
    struct config_captions *list = (void *)((char *)r->config + key->offset);
    for (;;) {
        char path[128];
        BL_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            return list->count ? 0
                               : FAIL_HERE(r, key->path, "expected at least one caption column");
        snprintf(path, sizeof path, "%s[%zu]", key->path, list->count);
        struct config_caption *item = list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return fail_list(r, path);
        BL_TRY(read_caption(r, path, item));
        for (size_t i = 0; i + 1 < list->count; i++)
            if (!strcmp(list->at[i].column, item->column) &&
                !strcmp(list->at[i].prefix, item->prefix))
                return FAIL_HERE(r, path, "column %.60s is given twice with the same prefix",
                                 item->column);
    }
}

static int read_value(struct reader *r, const struct config_key *key)
{
    struct place place = place_of(r->event.start_mark);
    bool list = key->type == CONFIG_PATTERNS || key->type == CONFIG_CAPTIONS;
    yaml_event_type_t wanted = list ? YAML_SEQUENCE_START_EVENT : YAML_SCALAR_EVENT;
    r->places[key - config_keys] = place;
    if (r->event.type != wanted)
        return fail_named(r, place, key->path, fail_value(r->err, key, event_words(&r->event)));
    if (key->type == CONFIG_PATTERNS)
        return read_patterns(r, key);
    if (key->type == CONFIG_CAPTIONS)
        return read_captions(r, key);
    int rc = set_scalar(r->config, key, scalar(r), scalar_is_plain(r), r->folder, r->err);
    return rc < 0 ? fail_named(r, place, key->path, rc) : 0;
}

/* -- keys ------------------------------------------------------------------------------------- */

static const struct config_key *find_key(const char *path)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (!strcmp(config_keys[i].path, path))
            return &config_keys[i];
    return NULL;
}

/* Index of the first key in section `path`, or -1. */
static int find_section(const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < config_key_count; i++)
        if (!strncmp(config_keys[i].path, path, length) && config_keys[i].path[length] == '.')
            return (int)i;
    return -1;
}

/* The candidates are all keys, and the sections. */
static int fail_unknown_key(struct reader *r, const char *path)
{
    char sections[CONFIG_KEYS_MAX][32];
    const char *known[2 * CONFIG_KEYS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        known[count++] = key->path;
        if (leaf(key->path) == key->path || !starts_section(key))
            continue;
        snprintf(sections[i], sizeof sections[i], "%.*s", (int)(leaf(key->path) - key->path) - 1,
                 key->path);
        known[count++] = sections[i];
    }
    return fail_unknown(r, path, known, count);
}

/* A key must not come twice: says where it stood first. */
static int once(struct reader *r, struct place *place, const char *path)
{
    if (place->line)
        return FAIL_HERE(r, path, "is given twice; the first is on line %zu", place->line);
    *place = place_of(r->event.start_mark);
    return 0;
}

/* The keys of the file (section NULL) or of a section, up to and with the mapping's end. The
 * schema is two levels deep, and so is the recursion. */
static int read_keys(struct reader *r, const char *section)
{
    for (;;) {
        BL_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        if (r->event.type != YAML_SCALAR_EVENT)
            return FAIL_HERE(r, section, "expected a key, found %s", event_words(&r->event));
        char path[128];
        snprintf(path, sizeof path, "%s%s%.80s", section ? section : "", section ? "." : "",
                 scalar(r));
        const struct config_key *key = find_key(path);
        int first = key || section ? -1 : find_section(path);
        if (!key && first < 0)
            return fail_unknown_key(r, path);
        BL_TRY(once(r, key ? &r->places[key - config_keys] : &r->sections[first], path));
        BL_TRY(next(r));
        if (key) {
            BL_TRY(read_value(r, key));
            continue;
        }
        if (r->event.type != YAML_MAPPING_START_EVENT) {
            FAIL_HERE(r, path, "expected keys of this section below it, found %s",
                      event_words(&r->event));
            return bl_error_remedy(r->err, "indent them, or remove the line");
        }
        BL_TRY(read_keys(r, path));
    }
}

static int read_document(struct reader *r)
{
    BL_TRY(next(r)); /* start of the stream */
    BL_TRY(next(r)); /* start of the document */
    if (r->event.type != YAML_STREAM_END_EVENT)
        BL_TRY(next(r));
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return FAIL_HERE(r, NULL, "expected keys and values, found %s", event_words(&r->event));
    BL_TRY(read_keys(r, NULL));
    BL_TRY(next(r)); /* end of the document */
    BL_TRY(next(r));
    if (r->event.type != YAML_STREAM_END_EVENT)
        return FAIL_HERE(r, NULL, "expected one YAML document, found a second one");
    return 0;
}

/* -- what the file alone decides --------------------------------------------------------------- */

static int set_default(struct reader *r, const struct config_key *key)
{
    if (!key->fallback) {
        bl_fail(r->err, BL_ECONFIG, "is missing");
        char expected[256];
        expectation(key, expected, sizeof expected);
        bl_error_remedy(r->err, "it takes %s", expected);
        return fail_named(r, (struct place){0, 0}, key->path, -BL_ECONFIG);
    }
    if (key->type == CONFIG_CAPTIONS) {
        struct config_captions *list = (void *)((char *)r->config + key->offset);
        struct config_caption *item = list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return bl_fail(r->err, BL_ENOMEM, "out of memory");
        BL_TRY(copy_text(key->fallback, &item->column, r->err));
        return copy_text("", &item->prefix, r->err);
    }
    if (!*key->fallback)
        return 0;
    return set_scalar(r->config, key, key->fallback, true, r->folder, r->err);
}

/* Failure about a key whose value stands in the file, or is the default. */
#define FAIL_KEY(r, path, ...)                                                                     \
    fail_named(r, (r)->places[find_key(path) - config_keys], path,                                 \
               bl_fail((r)->err, BL_ECONFIG, __VA_ARGS__))

static bool given(const struct reader *r, const char *path)
{
    return r->places[find_key(path) - config_keys].line != 0;
}

/* Relations between keys of one section. */
static int check_data(struct reader *r)
{
    struct config_data *data = &r->config->data;
    if (data->min_tokens > data->max_tokens)
        return FAIL_KEY(r, "data.min_tokens", "expected at most data.max_tokens (%lld), found %lld",
                        (long long)data->max_tokens, (long long)data->min_tokens);
    if (data->validation_source) {
        if (given(r, "data.validation") && data->validation != 0) {
            FAIL_KEY(r, "data.validation", "data.validation_source is given as well");
            return bl_error_remedy(r->err, "remove one of them");
        }
        data->validation = 0;
    }
    if (data->validation >= 1 && data->validation != floor(data->validation))
        return FAIL_KEY(r, "data.validation",
                        "expected a fraction below 1 or a whole number of images, found %g",
                        data->validation);
    return 0;
}

static int check_model(struct reader *r)
{
    const struct config_qformer *qformer = &r->config->qformer;
    if (qformer->width % qformer->heads)
        return FAIL_KEY(r, "qformer.heads",
                        "expected a divisor of qformer.width (%lld), found %lld",
                        (long long)qformer->width, (long long)qformer->heads);
    return 0;
}

/* Replaces auto. */
static void resolve_train(struct config_train *train)
{
    if (!train->micro_batch)
        train->micro_batch = train->grain              ? train->grain
                             : train->global_batch < 8 ? train->global_batch
                                                       : 8;
    if (!train->grain)
        train->grain = train->micro_batch;
    if (train->warmup_steps < 0)
        train->warmup_steps = (train->steps * 3 + 99) / 100;
    if (train->decay_steps < 0) {
        train->decay_steps = (train->steps + 4) / 5;
        if (train->decay_steps > train->steps - train->warmup_steps)
            train->decay_steps = train->steps - train->warmup_steps;
    }
}

/* After resolve_train. */
static int check_train(struct reader *r)
{
    const struct config_train *train = &r->config->train;
    if (train->micro_batch > train->global_batch)
        return FAIL_KEY(r, "train.micro_batch",
                        "expected at most train.global_batch (%lld), found %lld",
                        (long long)train->global_batch, (long long)train->micro_batch);
    if (train->grain > train->global_batch)
        return FAIL_KEY(r, "train.grain", "expected at most train.global_batch (%lld), found %lld",
                        (long long)train->global_batch, (long long)train->grain);
    if (train->reproducible && train->grain != train->micro_batch) {
        FAIL_KEY(r, "train.micro_batch",
                 "expected train.grain (%lld), since train.reproducible is true, found %lld",
                 (long long)train->grain, (long long)train->micro_batch);
        return bl_error_remedy(r->err, "give one of the two");
    }
    if (train->warmup_steps > train->steps)
        return FAIL_KEY(r, "train.warmup_steps", "expected at most train.steps (%lld), found %lld",
                        (long long)train->steps, (long long)train->warmup_steps);
    if (train->schedule == CONFIG_WSD && train->decay_steps > train->steps - train->warmup_steps)
        return FAIL_KEY(r, "train.decay_steps",
                        "expected at most train.steps less train.warmup_steps (%lld), found %lld",
                        (long long)(train->steps - train->warmup_steps),
                        (long long)train->decay_steps);
    return 0;
}

/* -- text ------------------------------------------------------------------------------------- */

/* The shortest digits that read back as the same number. */
static void print_real(FILE *out, double value)
{
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    fputs(digits, out);
}

/* In double quotes, as YAML and JSON both read it. */
static void print_text(FILE *out, const char *text)
{
    putc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < 0x20 || *c == 0x7f)
            fprintf(out, "\\u%04x", *c);
        else
            putc(*c, out);
    putc('"', out);
}

static bool is_absent(const struct config *config, const struct config_key *key)
{
    return (key->type == CONFIG_TEXT || key->type == CONFIG_PATH) && !key->may_auto &&
           !*(char *const *)((const char *)config + key->offset);
}

/* A key's value as YAML, to the end of its line. */
static void print_value(FILE *out, const struct config *config, const struct config_key *key)
{
    const void *at = (const char *)config + key->offset;
    switch (key->type) {
    case CONFIG_BOOL:
        fputs(*(const bool *)at ? "true" : "false", out);
        break;
    case CONFIG_INT:
        if (key->may_auto && *(const int64_t *)at == key->auto_value)
            fputs("auto", out);
        else
            fprintf(out, "%lld", (long long)*(const int64_t *)at);
        break;
    case CONFIG_REAL:
        print_real(out, *(const double *)at);
        break;
    case CONFIG_CHOICE:
        fputs(key->choices[*(const int *)at], out);
        break;
    case CONFIG_TEXT:
    case CONFIG_PATH:
        if (*(char *const *)at)
            print_text(out, *(char *const *)at);
        else
            fputs("auto", out);
        break;
    case CONFIG_PATTERNS: {
        const struct config_strings *list = at;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", " : "", out);
            print_text(out, list->at[i]);
        }
        putc(']', out);
        break;
    }
    case CONFIG_CAPTIONS: {
        const struct config_captions *list = at;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", {column: " : "{column: ", out);
            print_text(out, list->at[i].column);
            fputs(", prefix: ", out);
            print_text(out, list->at[i].prefix);
            putc('}', out);
        }
        putc(']', out);
        break;
    }
    }
    putc('\n', out);
}

static int print_config(struct config *config, struct bl_error *err)
{
    size_t size;
    FILE *out = open_memstream(&config->text, &size);
    if (!out)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (is_absent(config, key))
            continue;
        size_t section = (size_t)(leaf(key->path) - key->path);
        if (section && starts_section(key))
            fprintf(out, "%.*s:\n", (int)section - 1, key->path);
        fprintf(out, "%s%s: ", section ? "  " : "", leaf(key->path));
        print_value(out, config, key);
    }
    return fclose(out) ? bl_fail(err, BL_ENOMEM, "out of memory") : 0;
}

/* -- public ----------------------------------------------------------------------------------- */

static int read_config(struct reader *r)
{
    BL_TRY(read_document(r));
    for (size_t i = 0; i < config_key_count; i++)
        if (!r->places[i].line)
            BL_TRY(set_default(r, &config_keys[i]));
    BL_TRY(check_data(r));
    BL_TRY(check_model(r));
    BL_TRY(print_config(r->config, r->err));
    resolve_train(&r->config->train);
    return check_train(r);
}

int config_parse(const char *yaml, size_t size, const char *name, const char *folder,
                 struct config **ret, struct bl_error *err)
{
    bl_auto(config) struct config *config = calloc(1, sizeof *config);
    struct reader r = {.name = name, .folder = folder, .config = config, .err = err};
    if (!config || !yaml_parser_initialize(&r.parser)) {
        bl_fail(err, BL_ENOMEM, "out of memory");
        return bl_error_file(err, name);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)yaml, size);
    int rc = read_config(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (rc < 0) {
        bl_error_file(err, name);
        return rc;
    }
    *ret = bl_take(&config);
    return 0;
}

int config_open(const char *path, struct config **ret, struct bl_error *err)
{
    bl_autofree char *yaml = NULL;
    size_t size;
    BL_TRY(bl_file_read(path, BL_CONFIG_BYTES_MAX, &yaml, &size, err));
    bl_autofree char *absolute = realpath(path, NULL);
    if (!absolute) {
        bl_fail_errno(err, "cannot be resolved");
        return bl_error_file(err, path);
    }
    *strrchr(absolute, '/') = 0;
    return config_parse(yaml, size, path, absolute, ret, err);
}

void config_free(struct config **config)
{
    struct config *c = *config;
    if (!c)
        return;
    for (size_t i = 0; i < config_key_count; i++) {
        void *at = (char *)c + config_keys[i].offset;
        switch (config_keys[i].type) {
        case CONFIG_TEXT:
        case CONFIG_PATH:
            free(*(char **)at);
            break;
        case CONFIG_PATTERNS: {
            struct config_strings *list = at;
            for (size_t j = 0; j < list->count; j++)
                free(list->at[j]);
            free(list->at);
            break;
        }
        case CONFIG_CAPTIONS: {
            struct config_captions *list = at;
            for (size_t j = 0; j < list->count; j++) {
                free(list->at[j].column);
                free(list->at[j].prefix);
            }
            free(list->at);
            break;
        }
        default:
            break;
        }
    }
    free(c->text);
    free(c);
    *config = NULL;
}

/* The value as one line of text, the caller's. */
static char *value_text(const struct config *config, const struct config_key *key)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    if (is_absent(config, key))
        fputs("nothing\n", out);
    else
        print_value(out, config, key);
    if (fclose(out) || !size)
        return NULL;
    text[size - 1] = 0;
    return text;
}

/* Grain means nothing unless gradients are rounded in it. */
static bool compared(const struct config_key *key, const struct config *config)
{
    return strcmp(key->path, "train.grain") || config->train.reproducible;
}

int config_may_resume(const struct config *before, const struct config *now, char *notice,
                      size_t notice_size, struct bl_error *err)
{
    size_t used = 0;
    notice[0] = 0;
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->change == CONFIG_FREE || !compared(key, now))
            continue;
        bl_autofree char *was = value_text(before, key);
        bl_autofree char *is = value_text(now, key);
        if (!was || !is)
            return bl_fail(err, BL_ENOMEM, "out of memory");
        if (!strcmp(was, is))
            continue;
        if (key->change == CONFIG_FIXED) {
            bl_fail(err, BL_ECONFIG, "the run was started with %.150s, found %.150s", was, is);
            bl_error_key(err, "%s", key->path);
            return bl_error_remedy(err, "set it back, or start another run in a new run_dir");
        }
        if (used < notice_size)
            used += (size_t)snprintf(notice + used, notice_size - used, "%s%s was %.40s, is %.40s",
                                     used ? ", " : "", key->path, was, is);
    }
    if (used && used < notice_size)
        snprintf(notice + used, notice_size - used,
                 ": the learning rate follows the new schedule from here on");
    return 0;
}

/* SHA-256 over the lines of some keys. */
static void digest(const struct config *config, bool (*wanted)(const struct config_key *),
                   uint8_t ret[32])
{
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (!wanted(key) || !compared(key, config))
            continue;
        bl_autofree char *text = value_text(config, key);
        BL_ASSERT(text); /* a line of text could not be allocated: nothing sensible is left to do */
        crypto_hash_sha256_update(&state, (const unsigned char *)key->path, strlen(key->path) + 1);
        crypto_hash_sha256_update(&state, (const unsigned char *)text, strlen(text) + 1);
    }
    crypto_hash_sha256_final(&state, ret);
}

static bool is_fixed(const struct config_key *key)
{
    return key->change == CONFIG_FIXED;
}

static bool is_index(const struct config_key *key)
{
    return key->index;
}

void config_digest(const struct config *config, uint8_t ret[32])
{
    digest(config, is_fixed, ret);
}

void config_data_digest(const struct config *config, uint8_t ret[32])
{
    digest(config, is_index, ret);
}

int config_print_reference(FILE *out)
{
    static const char *const change[] = {
        [CONFIG_FIXED] = "no", [CONFIG_TOLD] = "yes, with a notice", [CONFIG_FREE] = "yes"};
    fputs("# RUN.yaml\n\n"
          "Printed from the schema table (common/config_schema.c); a test compares the two.\n\n"
          "One YAML document of keys and sections. Unknown and repeated keys, values of another "
          "type and numbers outside their range are errors with line and column. Numbers are "
          "decimal, bools are `true` or `false`; anchors, aliases and tags are refused. Relative "
          "paths start at the file's folder. The last column says whether a run folder may be "
          "resumed with another value; what the folders hold is compared by hash.\n",
          out);
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        char expected[256];
        size_t section = (size_t)(leaf(key->path) - key->path);
        if (starts_section(key))
            fprintf(out,
                    "\n## %.*s\n\n| key | takes | default | changes on resume | |\n"
                    "| --- | --- | --- | --- | --- |\n",
                    section ? (int)section - 1 : 7, section ? key->path : "The run");
        expectation(key, expected, sizeof expected);
        fprintf(out, "| `%s` | %s | %s%s%s | %s | %s |\n", key->path, expected,
                key->fallback && *key->fallback ? "`" : "",
                !key->fallback   ? "required"
                : *key->fallback ? key->fallback
                                 : "none",
                key->fallback && *key->fallback ? "`" : "", change[key->change], key->help);
    }
    return ferror(out) ? -BL_EIO : 0;
}
