/* common/config/open.c - RUN.yaml into struct config: its keys, defaults for the others, checks. */
#include "common/config/parts.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"

_Static_assert(sizeof(enum config_schedule) == sizeof(int), "choices are stored through int");

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
