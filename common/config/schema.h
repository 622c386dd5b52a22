/* common/config/schema.h - rows and rooms of the schema. For common/config alone; others see config.h.
 *
 * A new key is a row in its room's file (schema_*.c) and a member of struct config; a new room is such a file and a line of
 * schema.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/hub/hub.h"

enum config_type {
    CONFIG_BOOL,     /* bool: true or false, nothing else */
    CONFIG_INT,      /* int64_t: decimal digits */
    CONFIG_REAL,     /* double: JSON's number grammar */
    CONFIG_CHOICE,   /* enum: one of `choices`, the index is the value */
    CONFIG_TEXT,     /* char * */
    CONFIG_PATH,     /* char *, absolute */
    CONFIG_PATTERNS, /* struct config_strings of PCRE2 patterns */
    CONFIG_CAPTIONS, /* struct config_captions */
    CONFIG_FILTERS,  /* struct config_filters */
};

/* On resume the key … */
enum config_change {
    CONFIG_FIXED, /* must be as it was */
    CONFIG_TOLD,  /* may change, and the user is told what that means */
    CONFIG_FREE,  /* may change */
};

struct config_key {
    const char *path; /* "train.steps" */
    enum config_type type;
    size_t offset; /* in struct config */
    double min, max;
    const char *unit;           /* of a number, or NULL */
    const char *const *choices; /* NULL-terminated */
    const char *fallback; /* as one would write it; NULL: required; "": absent or an empty list */
    bool may_auto;        /* the word auto is allowed, and stored as auto_value or NULL */
    int auto_value;
    enum config_change change;
    enum hub_kind hub; /* of a path: it may name a repository of the Hub */
    bool index;        /* part of what a dataset.index is made from */
    const char *help;
};

struct reader;

/* Sections that belong together: their keys, and what holds between them. */
struct config_room {
    const struct config_key *keys;
    size_t count;
    /* Relations between keys as the file gives them. NULL: there are none. */
    int (*check)(struct reader *r);
    /* Replaces `auto` where the file alone decides it, and checks what follows from that. NULL: nothing. */
    int (*resolve)(struct reader *r);
};

extern const struct config_room config_room_run, config_room_data, config_room_model,
    config_room_cache, config_room_train, config_room_cluster;

extern const struct config_room *const config_rooms[];
extern const size_t config_room_count;

#define CONFIG_KEYS_MAX 160 /* more than all rooms have */

/* The key at `index` of all rooms' keys, in their order; NULL past the last. */
const struct config_key *config_key_at(size_t index);
/* Its index, or -1: there is none. */
int config_find_key(const char *path);
