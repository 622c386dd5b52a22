/* common/path_map.c - see path_map.h. */
#include "common/path_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

/* A copy of `size` bytes without slashes at the end. */
static char *folder_of(const char *text, size_t size)
{
    while (size && text[size - 1] == '/')
        size--;
    return strndup(text, size);
}

static int expect_absolute(const char *text, size_t size, struct bl_error *err)
{
    if (size && *text == '/')
        return 0;
    bl_fail(err, BL_EUSAGE, "expected absolute paths, found \"%.*s\"", (int)size, text);
    return bl_error_remedy(err, "give FROM as the paths of run.yaml begin, and TO as they do here");
}

/* Where TO begins: behind the first "=/", since a folder's name may hold a '='; else behind the first '='. NULL: there is none. */
static const char *find_to(const char *text)
{
    const char *equals = strstr(text, "=/");
    if (!equals)
        equals = strchr(text, '=');
    return equals ? equals + 1 : NULL;
}

int path_map_add(struct path_map *map, const char *text, struct bl_error *err)
{
    const char *to = find_to(text);
    if (!to)
        return bl_fail(err, BL_EUSAGE, "expected FROM=TO, found \"%.200s\"", text);
    size_t length = (size_t)(to - text) - 1;
    BL_TRY(expect_absolute(text, length, err));
    BL_TRY(expect_absolute(to, strlen(to), err));
    if (map->count == PATH_MAP_MAX)
        return bl_fail(err, BL_EUSAGE, "expected at most %d mappings", PATH_MAP_MAX);
    bl_autofree char *from = folder_of(text, length);
    bl_autofree char *target = folder_of(to, strlen(to));
    if (!from || !target)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    for (size_t i = 0; i < map->count; i++)
        if (!strcmp(map->at[i].from, from))
            return bl_fail(err, BL_EUSAGE, "%s is mapped twice, to %s and to %s",
                           *from ? from : "/", map->at[i].to, target);
    map->at[map->count++] = (struct path_mapping){bl_take(&from), bl_take(&target), false};
    return 0;
}

void path_map_release(struct path_map *map)
{
    for (size_t i = 0; i < map->count; i++) {
        free(map->at[i].from);
        free(map->at[i].to);
    }
    map->count = 0;
}

/* Is it the folder, or below it? */
static bool is_below(const char *path, const char *folder, size_t length)
{
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

int path_map_find(const struct path_map *map, const char *path, char *buffer, size_t size,
                  const char **ret, size_t *ret_mapping, struct bl_error *err)
{
    size_t count = map ? map->count : 0, best = count, longest = 0;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(map->at[i].from);
        if (!is_below(path, map->at[i].from, length) || (best < count && length <= longest))
            continue;
        best = i;
        longest = length;
    }
    *ret_mapping = best;
    *ret = path;
    if (best == count)
        return 0;
    const char *rest = path + longest, *to = map->at[best].to;
    int n = snprintf(buffer, size, "%s%s", to, *to || *rest ? rest : "/");
    *ret = buffer;
    if (n >= 0 && (size_t)n < size)
        return 0;
    return bl_fail(err, BL_ELIMIT, "the path %.100s%.100s is too long", to, rest);
}

int path_map_apply(const struct path_map *map, const char *path, char *buffer, size_t size,
                   const char **ret, struct bl_error *err)
{
    size_t mapping;
    return path_map_find(map, path, buffer, size, ret, &mapping, err);
}

int path_map_replace(struct path_map *map, char **path, struct bl_error *err)
{
    char buffer[4096];
    const char *mapped;
    size_t mapping;
    if (!*path)
        return 0;
    BL_TRY(path_map_find(map, *path, buffer, sizeof buffer, &mapped, &mapping, err));
    if (!map || mapping == map->count)
        return 0;
    char *copy = strdup(mapped);
    if (!copy)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    map->at[mapping].used = true;
    free(*path);
    *path = copy;
    return 0;
}
