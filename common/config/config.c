/* common/config/config.c - RUN.yaml into struct config: defaults, open and free. */
#include "common/config/parts.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"

static int set_default(struct reader *r, const struct config_key *key)
{
    if (!key->fallback) {
        bl_fail(r->err, BL_ECONFIG, "is missing");
        char expected[256];
        config_expectation(key, expected, sizeof expected);
        bl_error_remedy(r->err, "it takes %s", expected);
        return config_fail_named(r, (struct place){0, 0}, key->path, -BL_ECONFIG);
    }
    if (key->type == CONFIG_CAPTIONS) {
        struct config_captions *list = (void *)((char *)r->config + key->offset);
        struct config_caption *item = config_list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return bl_fail(r->err, BL_ENOMEM, "out of memory");
        BL_TRY(config_copy_text(key->fallback, &item->column, r->err));
        BL_TRY(config_copy_text("", &item->prefix, r->err));
        return config_copy_text(" ", &item->join, r->err);
    }
    if (!*key->fallback)
        return 0;
    return config_set_scalar(r->config, r->config, key, key->fallback, true, r->folder, r->err);
}

/* data.source is required, unless there is a list of sources. */
static bool stands_in(const struct reader *r, const struct config_key *key)
{
    return r->config->data.sources.written && !strcmp(key->path, "data.source");
}

static int read_config(struct reader *r)
{
    const struct config_key *key;
    BL_TRY(config_read_keys(r));
    for (size_t i = 0; (key = config_key_at(i)); i++)
        if (!r->places[i].line && !stands_in(r, key))
            BL_TRY(set_default(r, key));
    for (size_t i = 0; i < config_room_count; i++)
        if (config_rooms[i]->check)
            BL_TRY(config_rooms[i]->check(r));
    BL_TRY(config_print(r->config, r->err));
    for (size_t i = 0; i < config_room_count; i++)
        if (config_rooms[i]->resolve)
            BL_TRY(config_rooms[i]->resolve(r));
    return 0;
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

void config_release_captions(struct config_captions *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->at[i].column);
        free(list->at[i].prefix);
        free(list->at[i].join);
        free(list->at[i].trace);
        free(list->at[i].open);
        free(list->at[i].close);
    }
    free(list->at);
}

void config_free(struct config **config)
{
    struct config *c = *config;
    if (!c)
        return;
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        void *at = (char *)c + key->offset;
        switch (key->type) {
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
        case CONFIG_CAPTIONS:
            config_release_captions(at);
            break;
        case CONFIG_SOURCES:
            config_release_sources(at);
            break;
        case CONFIG_FILTERS: {
            struct config_filters *list = at;
            for (size_t j = 0; j < list->count; j++)
                free(list->at[j].column);
            free(list->at);
            break;
        }
        default:
            break;
        }
    }
    free(c->vision.plan_path);
    free(c->llm.plan_path);
    free(c->hub.at);
    free(c->text);
    free(c);
    *config = NULL;
}

/* A snapshot of the Hub was found by its name, and is not where the plan says. */
static int map_path(struct path_map *map, char **path, enum hub_kind hub, struct bl_error *err)
{
    char name[HUB_NAME_MAX + HUB_REVISION_MAX];
    if (!*path || (hub != HUB_NONE && hub_name(*path, name, sizeof name)))
        return 0;
    return path_map_replace(map, path, err);
}

static int map_model(struct path_map *map, char **path, char **plan_path, struct bl_error *err)
{
    bl_autofree char *before = strdup(*path);
    if (!before)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    BL_TRY(map_path(map, path, HUB_MODEL, err));
    if (strcmp(before, *path) != 0)
        *plan_path = bl_take(&before);
    return 0;
}

int config_map_paths(struct config *c, struct path_map *map, struct bl_error *err)
{
    struct config_sources *sources = &c->data.sources;
    BL_TRY(map_model(map, &c->vision.path, &c->vision.plan_path, err));
    BL_TRY(map_model(map, &c->llm.path, &c->llm.plan_path, err));
    BL_TRY(map_path(map, &c->run_dir, HUB_NONE, err));
    BL_TRY(map_path(map, &c->data.cache, HUB_NONE, err));
    BL_TRY(map_path(map, &c->cache.path, HUB_NONE, err));
    BL_TRY(map_path(map, &c->train.init_from, HUB_NONE, err));
    BL_TRY(map_path(map, &c->data.source, HUB_DATASET, err));
    BL_TRY(map_path(map, &c->data.validation_source, HUB_DATASET, err));
    for (size_t i = 0; i < sources->count; i++) {
        BL_TRY(map_path(map, &sources->at[i].source, HUB_DATASET, err));
        BL_TRY(map_path(map, &sources->at[i].validation_source, HUB_DATASET, err));
    }
    return 0;
}
