/* common/data/source_json.c - captions in JSON as Python writes it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/source_build.h"

/* An integer of too many digits for 64 bits becomes the same number with an exponent; other numbers stay. */
static void shorten_integer(char *text, size_t length)
{
    enum { FIT = 18, KEPT = 14 };
    char exponent[8];
    if (length <= FIT || strcspn(text, ".eE") < length || length > 300)
        return;
    memset(text + KEPT, ' ', length - KEPT);
    int used = snprintf(exponent, sizeof exponent, "e%zu", length - KEPT);
    memcpy(text + KEPT, exponent, (size_t)used);
}

/* Python writes NaN and Infinity, which are no JSON, and integers of any size. Puts an empty list, no value, in the place
 * of the first two and of numbers as large, outside of strings. */
static void blank_numbers(char *text, size_t size)
{
    static const char *const names[] = {"NaN", "Infinity", "-Infinity"};
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        size_t length = 0, digits = 0;
        if (text[i] == '"' || quoted) {
            quoted ^= text[i] == '"';
            i += quoted && text[i] == '\\'; /* what follows is escaped */
            continue;
        }
        if (text[i] >= '0' && text[i] <= '9' && isinf(strtod(text + i, NULL)))
            length = strspn(text + i, "0123456789.eE+-");
        else if (text[i] >= '0' && text[i] <= '9')
            digits = strspn(text + i, "0123456789.eE+-");
        for (size_t n = 0; n < sizeof names / sizeof *names; n++)
            if (!strncmp(text + i, names[n], strlen(names[n])))
                length = strlen(names[n]);
        if (digits)
            shorten_integer(text + i, digits);
        if (length) {
            size_t sign = i && text[i - 1] == '-';
            memset(text + i - sign, ' ', length + sign);
            memcpy(text + i, "[]", length < 2 ? 1 : 2);
        }
        length += digits;
        i += length ? length - 1 : 0;
    }
}

int source_parse_json(const char *text, size_t size, json_t **ret, struct bl_error *err)
{
    json_error_t json_err, other_err;
    bl_autojson json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &json_err);
    if (!json) {
        bl_autofree char *copy = strndup(text, size);
        if (!copy)
            return bl_fail(err, BL_ENOMEM, "out of memory");
        blank_numbers(copy, strlen(copy));
        json = json_loadb(copy, strlen(copy), JSON_REJECT_DUPLICATES, &other_err);
        if (strlen(copy) < size)
            bl_json_free(&json); /* NUL: no JSON either way */
    }
    if (!json)
        return bl_fail(err, BL_EFORMAT, "no valid JSON: %s", json_err.text);
    *ret = bl_take(&json);
    return 0;
}

int source_fail_type(struct bl_error *err, const char *key, const char *expected,
                     const json_t *found)
{
    bl_json_fail(found, expected, err);
    return bl_error_key(err, "%.100s", key);
}

int source_add_json_captions(struct source *source, size_t column, const json_t *value,
                             struct bl_error *err)
{
    const char *name = source->columns[column];
    if (!value || json_is_null(value))
        return 0;
    if (json_is_string(value))
        return source_add_caption(source, column, json_string_value(value),
                                  json_string_length(value), err);
    if (!json_is_array(value))
        return source_fail_type(err, name, "a text or a list of texts", value);
    size_t i;
    const json_t *item;
    json_array_foreach(value, i, item)
    {
        if (!json_is_string(item))
            return source_fail_type(err, name, "a list of texts", item);
        BL_TRY(source_add_caption(source, column, json_string_value(item), json_string_length(item),
                                  err));
    }
    return 0;
}
