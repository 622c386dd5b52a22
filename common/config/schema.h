/* common/config/schema.h - a row of the schema table. For config*.c alone; others see config.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum config_type {
    CONFIG_BOOL,     /* bool: true or false, nothing else */
    CONFIG_INT,      /* int64_t: decimal digits */
    CONFIG_REAL,     /* double: JSON's number grammar */
    CONFIG_CHOICE,   /* enum: one of `choices`, the index is the value */
    CONFIG_TEXT,     /* char * */
    CONFIG_PATH,     /* char *, absolute */
    CONFIG_PATTERNS, /* struct config_strings of PCRE2 patterns */
    CONFIG_CAPTIONS, /* struct config_captions */
    CONFIG_SOURCES,  /* struct config_sources */
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
    bool index; /* part of what a dataset.index is made from */
    const char *help;
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;
#define CONFIG_KEYS_MAX 96 /* more than the table has; config_schema.c asserts it */
