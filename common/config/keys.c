/* common/config/keys.c - the keys of the file and its sections, each once. */
#include "common/config/parts.h"

#include <string.h>

static int read_value(struct reader *r, size_t index)
{
    const struct config_key *key = config_key_at(index);
    struct place place = config_place_of(r->event.start_mark);
    bool list = key->type == CONFIG_PATTERNS || key->type == CONFIG_CAPTIONS ||
                key->type == CONFIG_SOURCES || key->type == CONFIG_FILTERS;
    yaml_event_type_t wanted = list ? YAML_SEQUENCE_START_EVENT : YAML_SCALAR_EVENT;
    r->places[index] = place;
    if (r->event.type != wanted)
        return config_fail_named(r, place, key->path,
                                 config_fail_value(r->err, key, config_event_words(&r->event)));
    if (key->type == CONFIG_PATTERNS)
        return config_read_patterns(r, key->path, (void *)((char *)r->config + key->offset));
    if (key->type == CONFIG_CAPTIONS)
        return config_read_captions(r, key->path, &r->config->data.captions);
    if (key->type == CONFIG_SOURCES)
        return config_read_sources(r, key->path, &r->config->data.sources);
    if (key->type == CONFIG_FILTERS)
        return config_read_filters(r, key->path, &r->config->data.filters);
    int rc = config_set_scalar(r->config, r->config, key, config_scalar(r),
                               config_scalar_is_plain(r), r->folder, r->err);
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
