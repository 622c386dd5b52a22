/* deploy/demo/reading.h - what a caption claims, and whether a scene bears it out.
 * A caption is read strictly: it may hold only words that the demo's captions know, every shape
 * must come with its count and colour, one object in the singular, more in the plural. Whatever
 * else is unreadable, so that a negation, an alternative or a count of five cannot pass as a right
 * answer. */
#pragma once

#include "deploy/demo/scene.h"

enum { READING_GROUPS_MAX = 8, READING_BYTES_MAX = 4096, UNSAID = -1 };

struct claim {
    int count, colour, shape;
    int size; /* or UNSAID */
};

struct reading {
    int claim_count;
    struct claim claims[READING_GROUPS_MAX];
    int relation; /* of the group of colour `subject`, seen from that of colour `object`; or UNSAID
                   */
    int subject, object;
    int texture, tone; /* or UNSAID */
};

/* Reads a caption. False if it is unreadable; *ret_reading is then undefined. */
bool reading_parse(struct reading *ret_reading, const char *caption);

/* Whether the claimed (count, colour, shape) are the scene's groups: all of them, nothing else, in
 * any order. */
bool reading_groups_right(const struct reading *reading, const struct scene *scene);

enum verdict { SAYS_NOTHING, SAYS_RIGHT, SAYS_WRONG };

/* The sizes that are named; SAYS_NOTHING if none is. A size counts for the group of its claim's
 * colour. */
enum verdict reading_sizes(const struct reading *reading, const struct scene *scene);
enum verdict reading_relation(const struct reading *reading, const struct scene *scene);
/* Texture and tone, both of which a caption must name if it names one. */
enum verdict reading_background(const struct reading *reading, const struct scene *scene);
