/* common/json.c - strict reading of JSON and of its values. */
#include "common/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/utf8.h"

void bl_json_free(json_t **json)
{
    json_decref(*json);
    *json = NULL;
}

int bl_json_parse(const char *text, size_t size, json_t **ret, struct bl_error *err)
{
    json_error_t error;
    BL_TRY(bl_refuse_lfs_pointer(text, size, err));
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!json && json_error_code(&error) == json_error_out_of_memory)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes of JSON", size);
    if (!json)
        return bl_fail(err, BL_EFORMAT, "expected JSON, found at line %d, column %d: %s",
                       error.line, error.column, error.text);
    *ret = json;
    return 0;
}

int bl_json_open(const char *path, size_t max_bytes, json_t **ret, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size = 0;
    BL_TRY(bl_file_read(path, max_bytes, &text, &size, err));
    int rc = bl_json_parse(text, size, ret, err);
    if (rc < 0)
        bl_error_file(err, path);
    return rc;
}

int bl_json_fail(const json_t *value, const char *expected, struct bl_error *err)
{
    char found[128] = "nothing";
    if (json_is_object(value))
        snprintf(found, sizeof found, "an object");
    else if (json_is_array(value))
        snprintf(found, sizeof found, "a list of %zu", json_array_size(value));
    else if (json_is_string(value))
        snprintf(found, sizeof found, "\"%.80s\"", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(found, sizeof found, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(found, sizeof found, "%.9g", json_real_value(value));
    else if (value)
        snprintf(found, sizeof found, "%s",
                 json_is_true(value)    ? "true"
                 : json_is_false(value) ? "false"
                                        : "null");
    return bl_fail(err, BL_EFORMAT, "expected %s, found %s", expected, found);
}

static int fail_at(const json_t *value, const char *key, const char *expected, struct bl_error *err)
{
    int rc = bl_json_fail(value, expected, err);
    bl_error_key(err, "%s", key);
    return rc;
}

int bl_json_within(int rc, const char *outer, struct bl_error *err)
{
    if (rc < 0 && err) {
        char inner[sizeof err->key];
        memcpy(inner, err->key, sizeof inner);
        snprintf(err->key, sizeof err->key, "%.60s%s%.60s", outer, inner[0] ? "." : "", inner);
    }
    return rc;
}

int bl_json_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *value,
                struct bl_error *err)
{
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found))
        return 0;
    if (!json_is_integer(found) || json_integer_value(found) < min ||
        json_integer_value(found) > max) {
        char expected[96];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)min,
                 (long long)max);
        return fail_at(found, key, expected, err);
    }
    *value = json_integer_value(found);
    return 0;
}

int bl_json_float(const json_t *object, const char *key, double min, double max, float *value,
                  struct bl_error *err)
{
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found))
        return 0;
    if (!json_is_number(found) || json_number_value(found) < min ||
        json_number_value(found) > max) {
        char expected[96];
        snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
        return fail_at(found, key, expected, err);
    }
    *value = (float)json_number_value(found);
    return 0;
}

int bl_json_bool(const json_t *object, const char *key, bool *value, struct bl_error *err)
{
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found))
        return 0;
    if (!json_is_boolean(found))
        return fail_at(found, key, "true or false", err);
    *value = json_is_true(found);
    return 0;
}

int bl_json_string(const json_t *object, const char *key, const char **value, struct bl_error *err)
{
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found))
        return 0;
    if (!json_is_string(found))
        return fail_at(found, key, "a string", err);
    *value = json_string_value(found);
    return 0;
}

int bl_json_container(const json_t *object, const char *key, json_type type, const json_t **value,
                      struct bl_error *err)
{
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found))
        return 0;
    if (json_typeof(found) != type)
        return fail_at(found, key, type == JSON_OBJECT ? "an object" : "a list", err);
    *value = found;
    return 0;
}

json_t *bl_json_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

json_t *bl_json_text(const char *text)
{
    json_t *plain = json_string(text);
    if (plain)
        return plain;
    bl_autofree char *copy = strdup(text);
    if (!copy)
        return NULL;
    utf8_repair(copy);
    return json_string(copy);
}

int bl_json_put(json_t *object, const char *key, json_t *value, struct bl_error *err)
{
    return json_object_set_new(object, key, value) == 0
               ? 0
               : bl_fail(err, BL_ENOMEM, "no memory for the JSON field %s", key);
}

int bl_json_line(const json_t *object, int digits, char **ret, struct bl_error *err)
{
    *ret = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(digits)) : NULL;
    return *ret ? 0 : bl_fail(err, BL_ENOMEM, "no memory for a line of JSON");
}
