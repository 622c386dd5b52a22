/* common/config/map.c - this host's folders in place of the plan's. */
#include "common/config/config.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

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
