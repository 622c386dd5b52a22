/* common/json.h - JSON that others wrote, read strictly by jansson: no duplicate keys, nothing
 * after the value, and every value fetched with its type and range checked. A failure is
 * -BL_EFORMAT with the key and "expected …, found …"; the caller adds the file. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* *ret is the caller's (bl_json_free). A syntax error gives line and column. */
int bl_json_parse(const char *text, size_t size, json_t **ret, struct bl_error *err);
/* The same from a file of at most max_bytes; errors name the file. */
int bl_json_open(const char *path, size_t max_bytes, json_t **ret, struct bl_error *err);
void bl_json_free(json_t **json);
#define bl_autojson __attribute__((cleanup(bl_json_free)))

/* One value of an object. Absent or null: *value keeps what it holds, the default. */
int bl_json_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *value,
                struct bl_error *err);
int bl_json_float(const json_t *object, const char *key, double min, double max, float *value,
                  struct bl_error *err);
int bl_json_bool(const json_t *object, const char *key, bool *value, struct bl_error *err);
/* Borrowed from the object. */
int bl_json_string(const json_t *object, const char *key, const char **value, struct bl_error *err);
/* Borrowed; JSON_OBJECT or JSON_ARRAY. */
int bl_json_container(const json_t *object, const char *key, json_type type, const json_t **value,
                      struct bl_error *err);

/* Values for JSON that we write: something stands for whatever they are given, so that no field is silently missing. NULL only
 * when memory is out. */
json_t *bl_json_number(double x);       /* null for what is not finite: JSON has no NaN */
json_t *bl_json_text(const char *text); /* '?' for each part that is no UTF-8 */
/* Adds a field; the value is taken over. -BL_ENOMEM. */
int bl_json_put(json_t *object, const char *key, json_t *value, struct bl_error *err);
/* The object on one line, reals with so many digits. *ret is the caller's (free). -BL_ENOMEM; object NULL is that too. */
int bl_json_line(const json_t *object, int digits, char **ret, struct bl_error *err);

/* -BL_EFORMAT with "expected EXPECTED, found …" describing the value (NULL: nothing). */
int bl_json_fail(const json_t *value, const char *expected, struct bl_error *err);
/* Turns the failing key "width" into "size.width"; returns rc, so that
 * `return bl_json_within(call(…, err), "size", err);` passes both on. */
int bl_json_within(int rc, const char *outer, struct bl_error *err);
