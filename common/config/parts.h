/* common/config/parts.h - what the parts of the configuration share. Private to common/config; config.h is what others see.
 *
 *   schema_*.c  a room's keys, and what holds between them   schema.c   the rooms
 *   reader.c    YAML's events, errors with line and column   keys.c     the file's keys and sections
 *   lists.c     patterns, caption columns, filters           sources.c  data.sources
 *   value.c     one key's value from text                    print.c    a value as text
 *   open.c      defaults, checks                             release.c  giving back
 *   map.c       this host's folders
 *   text.c      all as text; comparison, digests, reference */
#pragma once

#include <stdio.h>
#include <yaml.h>

#include "common/config/config.h"
#include "common/config/schema.h"

/* Where in the file a value stands; line 0: it is the default. */
struct place {
    size_t line, column;
};

/* A file being read: libyaml's parser and its current event. */
struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    const char *name, *folder;
    struct config *config;
    struct place places[CONFIG_KEYS_MAX];   /* of each key's value */
    struct place sections[CONFIG_KEYS_MAX]; /* of a section, at the index of its first key */
    struct bl_error *err;
};

/* ---- reader.c */

/* 1-based, as editors count. */
struct place config_place_of(yaml_mark_t mark);
/* Adds key (NULL: none) and place to the error that was filled in with rc, which it gives back. */
int config_fail_named(struct reader *r, struct place place, const char *key, int rc);
/* What the event is to a person: "a list". */
const char *config_event_words(const yaml_event_t *event);
/* Reads the next event. What the schema never needs (anchors, tags, …) is refused with its place. */
int config_next_event(struct reader *r);
/* The current event's text, and whether it stood there without quotes. */
const char *config_scalar(const struct reader *r);
bool config_scalar_is_plain(const struct reader *r);
/* "steps" of "train.steps". */
const char *config_leaf(const char *path);
/* Whether the key at `index` stands first in its section. */
bool config_starts_section(size_t index);
/* Names the nearest of the `count` known paths, if one is near. */
int config_fail_unknown(struct reader *r, const char *path, const char *const *known, size_t count);
/* Failure at the current event, about `key` (NULL: about none). */
#define FAIL_HERE(r, key, ...)                                                                     \
    config_fail_named(r, config_place_of((r)->event.start_mark), key,                              \
                      bl_fail((r)->err, BL_ECONFIG, __VA_ARGS__))
/* Failure about a key whose value is from the file, or is the default. */
#define FAIL_KEY(r, path, ...)                                                                     \
    config_fail_named(r, (r)->places[config_find_key(path)], path,                                 \
                      bl_fail((r)->err, BL_ECONFIG, __VA_ARGS__))
/* Whether the file gives the key. */
bool config_given(const struct reader *r, const char *path);

/* ---- value.c */

/* What a key takes, in words: "a whole number from 1 to 64 threads, or auto". */
void config_expectation(const struct config_key *key, char *ret, size_t size);
/* Fails with what the key takes and what was found. */
int config_fail_value(struct bl_error *err, const struct config_key *key, const char *found);
/* The value is not the caller's mistake of writing nothing, a number or a bool where text is meant.
 */
bool config_plain_is_text(const char *s);
/* *ret is the caller's (free). */
int config_copy_text(const char *text, char **ret, struct bl_error *err);
/* A finite number in JSON's grammar. */
bool config_number(const char *text, double *ret);
/* Sets a key that is one scalar in the struct at base, by the key's offset. plain: not in quotes. */
int config_set_scalar(struct config *config, void *base, const struct config_key *key,
                      const char *text, bool plain, const char *folder, struct bl_error *err);
/* Grows a list (the address of its pointer) by one zeroed element and gives its address; NULL: no memory, or
 * BL_CONFIG_LIST_MAX elements. */
void *config_list_add(void *items, size_t *count, size_t element);

/* ---- lists.c */

/* The current event as a text inside a list; `path` like "data.keep[2]". *ret is the caller's (free). */
int config_read_text(struct reader *r, const char *path, char **ret);
/* A list; the current event is its start. Each element is zeroed, and read from its first event on. */
struct config_list {
    const char *path;
    void *items; /* the address of the pointer to the first */
    size_t *count, element, most;
    int (*read)(struct reader *r, const char *path, void *items, size_t i);
};
int config_read_list(struct reader *r, const struct config_list *list);
/* One mapping of a list: each of its keys is given to `set`, whose current event is then the value. Its end is read. Keys that
 * are not among the `count` known ones, and repeated ones, are errors. */
struct config_item {
    const char *path; /* "data.filters[2]" */
    const char *const *known;
    size_t count; /* at most 32 */
    int (*set)(struct reader *r, const char *inner, size_t known, void *item);
    void *item;
};
int config_read_item(struct reader *r, const struct config_item *item);
/* The lists that a key may be; the current event is their start. */
int config_read_patterns(struct reader *r, const char *path, struct config_strings *ret);
int config_read_captions(struct reader *r, const char *path, struct config_captions *ret);
int config_read_filters(struct reader *r, const char *path, struct config_filters *ret);

/* ---- sources.c */

#define CONFIG_INHERITED (-1) /* an entry's choice that was not made */
int config_read_sources(struct reader *r, const char *path, struct config_sources *ret);
/* Once all keys are read: the list has what its entries inherit, and data.source is a list of one. */
int config_resolve_sources(struct reader *r);
/* The list as it was written; without places: what may not change on resume. */
void config_print_sources(FILE *out, const struct config *config, bool places);

/* ---- keys.c */

/* The whole document into r->config, with the place of each key. */
int config_read_keys(struct reader *r);

/* ---- print.c */

/* The shortest digits that read back as the same number; a text in double quotes; */
void config_print_real(FILE *out, double value);
void config_print_text(FILE *out, const char *text);
/* a text, a repository by its name, or auto; a list of caption columns; a filter. */
void config_print_path(FILE *out, const char *text, enum hub_kind hub);
void config_print_captions(FILE *out, const struct config_caption *at, size_t count);
void config_print_filter(FILE *out, const struct config_filter *filter);

/* ---- text.c */

/* Sets config->text: every key, written out. */
int config_print(struct config *config, struct bl_error *err);
