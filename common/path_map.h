/* common/path_map.h - where the folders of a plan are on this host: what --map FROM=TO says. A path that is FROM, or lies below it,
 * is TO, or lies below that. Of several mappings that fit the one with the longest FROM counts; each path is mapped once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

#define PATH_MAP_MAX 64 /* mappings of one program */

struct path_mapping {
    char *from, *to; /* absolute, without a slash at the end; "" is the root; owned */
    bool used;       /* some path was mapped by it */
};
/* Begin with {0}. */
struct path_map {
    struct path_mapping at[PATH_MAP_MAX];
    size_t count;
};

/* Adds "FROM=TO". -BL_EUSAGE: no '=', a path that is not absolute, or another mapping of FROM. */
int path_map_add(struct path_map *map, const char *text, struct bl_error *err);
void path_map_release(struct path_map *map);

/* The path on this host: `path` itself, or the mapped one in buffer (size bytes). *ret_mapping: which of map->at it was, or
 * map->count; the caller keeps `used`. map may be NULL: nothing is mapped. -BL_ELIMIT: it does not fit. Any thread. */
int path_map_find(const struct path_map *map, const char *path, char *buffer, size_t size,
                  const char **ret, size_t *ret_mapping, struct bl_error *err);
/* The same for who need not know which mapping it was. */
int path_map_apply(const struct path_map *map, const char *path, char *buffer, size_t size,
                   const char **ret, struct bl_error *err);
/* Maps an owned text, and notes which mapping was used. NULL stays NULL. */
int path_map_replace(struct path_map *map, char **path, struct bl_error *err);
