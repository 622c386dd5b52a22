/* common/config/schema_rows.h - how a row of the schema is written. For schema_*.c alone. */
#pragma once

#include "common/config/config.h"
#include "common/config/schema.h"

#define AT(member) offsetof(struct config, member)
#define LIST(...)                                                                                  \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

/* path, member, then what the type needs, fallback, help, and named extras. */
#define KEY(path_, type_, member, fallback_, help_, ...)                                           \
    {                                                                                              \
        .path = path_, .type = type_, .offset = AT(member), .fallback = fallback_, .help = help_,  \
        __VA_ARGS__                                                                                \
    }
#define BOOL(path, member, fallback, help, ...)                                                    \
    KEY(path, CONFIG_BOOL, member, fallback, help, __VA_ARGS__)
#define INT(path, member, min_, max_, unit_, fallback, help, ...)                                  \
    KEY(path, CONFIG_INT, member, fallback, help, .min = min_, .max = max_, .unit = unit_,         \
        ##__VA_ARGS__)
#define REAL(path, member, min_, max_, unit_, fallback, help, ...)                                 \
    KEY(path, CONFIG_REAL, member, fallback, help, .min = min_, .max = max_, .unit = unit_,        \
        ##__VA_ARGS__)
#define CHOICE(path, member, choices_, fallback, help, ...)                                        \
    KEY(path, CONFIG_CHOICE, member, fallback, help, .choices = choices_, ##__VA_ARGS__)

#define FREE .change = CONFIG_FREE
#define TOLD .change = CONFIG_TOLD
#define INDEX .index = true
#define AUTO .may_auto = true
#define MODEL .hub = HUB_MODEL
#define DATASET .hub = HUB_DATASET
