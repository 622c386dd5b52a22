/* common/config/schema.c - the rooms of the schema, joined: every key of RUN.yaml, in the order of docs/config.md. */
#include "common/config/schema.h"

#include <string.h>

#include "common/error.h"

/* A section's keys are in one room, one after the other. */
const struct config_room *const config_rooms[] = {
    &config_room_run,   &config_room_data,  &config_room_model,
    &config_room_cache, &config_room_train, &config_room_cluster,
};
const size_t config_room_count = sizeof config_rooms / sizeof *config_rooms;

const struct config_key *config_key_at(size_t index)
{
    size_t room = 0, left = index;
    while (room < config_room_count && left >= config_rooms[room]->count)
        left -= config_rooms[room++]->count;
    if (room == config_room_count)
        return NULL;
    BL_ASSERT_CMP(index, <, CONFIG_KEYS_MAX);
    return &config_rooms[room]->keys[left];
}

int config_find_key(const char *path)
{
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++)
        if (!strcmp(key->path, path))
            return (int)i;
    return -1;
}
