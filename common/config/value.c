/* common/config/value.c - the value of one key from its text, or what was expected instead. */
#include "common/config/parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/limits.h"

void config_expectation(const struct config_key *key, char *ret, size_t size)
{
    static const char *const words[] = {[CONFIG_BOOL] = "true or false",
                                        [CONFIG_TEXT] = "a text",
                                        [CONFIG_PATH] = "a path",
                                        [CONFIG_PATTERNS] = "a list of patterns",
                                        [CONFIG_CAPTIONS] = "a list of {column, prefix}",
                                        [CONFIG_FILTERS] = "a list of {column, min, max}"};
    size_t used = 0;
    switch (key->type) {
    case CONFIG_INT:
    case CONFIG_REAL:
        used += (size_t)snprintf(ret, size, "a %snumber from %.16g to %.16g%s%s",
                                 key->type == CONFIG_INT ? "whole " : "", key->min, key->max,
                                 key->unit ? " " : "", key->unit ? key->unit : "");
        break;
    case CONFIG_CHOICE:
        for (size_t i = 0; key->choices[i]; i++)
            used += (size_t)snprintf(ret + used, size - used, "%s%s",
                                     i == 0                ? ""
                                     : key->choices[i + 1] ? ", "
                                                           : " or ",
                                     key->choices[i]);
        break;
    default:
        used += (size_t)snprintf(ret, size, "%s", words[key->type]);
    }
    if (key->may_auto)
        snprintf(ret + used, size - used, ", or auto");
}

int config_fail_value(struct bl_error *err, const struct config_key *key, const char *found)
{
    char expected[256];
    config_expectation(key, expected, sizeof expected);
    return bl_fail(err, BL_ECONFIG, "expected %s, found %.80s", expected, found);
}

/* Digits as JSON writes numbers: no sign but minus, no leading zero, nothing behind. */
static bool number_grammar(const char *s, bool whole)
{
    if (*s == '-')
        s++;
    if (*s == '0' && s[1] >= '0' && s[1] <= '9')
        return false;
    size_t digits = strspn(s, "0123456789");
    s += digits;
    if (!digits || whole)
        return digits && !*s;
    if (*s == '.') {
        digits = strspn(++s, "0123456789");
        s += digits;
        if (!digits)
            return false;
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '+' || *s == '-')
            s++;
        digits = strspn(s, "0123456789");
        s += digits;
        if (!digits)
            return false;
    }
    return !*s;
}

bool config_plain_is_text(const char *s)
{
    static const char *const others[] = {"",     "~",    "null",  "Null",  "NULL", "true",
                                         "True", "TRUE", "false", "False", "FALSE"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(s, others[i]))
            return false;
    return !number_grammar(s, false);
}

int config_copy_text(const char *text, char **ret, struct bl_error *err)
{
    *ret = strdup(text);
    return *ret ? 0 : bl_fail(err, BL_ENOMEM, "out of memory");
}

static int resolve_path(const char *text, const char *folder, char **ret, struct bl_error *err)
{
    if (!*text)
        return bl_fail(err, BL_ECONFIG, "expected a path, found an empty text");
    if (*text == '~') {
        bl_fail(err, BL_ECONFIG, "expected a path, found %.80s", text);
        return bl_error_remedy(err, "~ is not expanded here: write the whole path, or ./~ for a "
                                    "folder of that name");
    }
    if (*text == '/')
        return config_copy_text(text, ret, err);
    if (asprintf(ret, "%s/%s", folder, text) < 0) {
        *ret = NULL;
        return bl_fail(err, BL_ENOMEM, "out of memory");
    }
    return 0;
}

bool config_number(const char *text, double *ret)
{
    if (!number_grammar(text, false))
        return false;
    *ret = strtod(text, NULL) + 0.0; /* -0 becomes 0 */
    return isfinite(*ret);
}

/* A path that names a repository of the Hub, and nothing that is there: noted in config->hub; *path becomes its snapshot, or its
 * name where the cache has none. */
static int resolve_repository(struct config *config, const struct config_key *key, const char *text,
                              char **path, struct bl_error *err)
{
    struct hub_id id;
    char snapshot[4096];
    if (key->hub == HUB_NONE || access(*path, F_OK) == 0 || !hub_id_parse(text, key->hub, &id))
        return 0;
    struct config_repository *added =
        config_list_add(&config->hub.at, &config->hub.count, sizeof *added);
    if (!added)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    *added = (struct config_repository){.key = key->path, .id = id};
    free(*path);
    return config_copy_text(hub_find(&id, snapshot, sizeof snapshot) ? snapshot : text, path, err);
}

int config_set_scalar(struct config *config, const struct config_key *key, const char *text,
                      bool plain, const char *folder, struct bl_error *err)
{
    void *at = (char *)config + key->offset;
    bool is_text = key->type == CONFIG_TEXT || key->type == CONFIG_PATH;
    if (plain && (!*text || !strcmp(text, "~") || !strcmp(text, "null")))
        return config_fail_value(err, key, "nothing");
    if (key->may_auto && plain && !strcmp(text, "auto")) {
        if (!is_text)
            *(int64_t *)at = key->auto_value;
        return 0; /* a text is NULL already */
    }
    if (!is_text && !plain) {
        char quoted[96];
        snprintf(quoted, sizeof quoted, "\"%.60s\" in quotes", text);
        config_fail_value(err, key, quoted);
        return bl_error_remedy(err, "remove the quotes");
    }
    switch (key->type) {
    case CONFIG_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false"))
            return config_fail_value(err, key, text);
        *(bool *)at = *text == 't';
        return 0;
    case CONFIG_INT: {
        /* 18 digits always fit; every maximum of the table is below that. */
        if (!number_grammar(text, true) || strlen(text) > 18)
            return config_fail_value(err, key, text);
        int64_t value = strtoll(text, NULL, 10);
        if ((double)value < key->min || (double)value > key->max)
            return config_fail_value(err, key, text);
        *(int64_t *)at = value;
        return 0;
    }
    case CONFIG_REAL: {
        double value = number_grammar(text, false) ? strtod(text, NULL) : NAN;
        if (!(value >= key->min && value <= key->max))
            return config_fail_value(err, key, text);
        *(double *)at = value + 0.0; /* -0 becomes 0 */
        return 0;
    }
    case CONFIG_CHOICE:
        for (int i = 0; key->choices[i]; i++)
            if (!strcmp(text, key->choices[i])) {
                *(int *)at = i;
                return 0;
            }
        return config_fail_value(err, key, text);
    case CONFIG_TEXT:
    case CONFIG_PATH:
        if (plain && !config_plain_is_text(text)) {
            config_fail_value(err, key, text);
            return bl_error_remedy(err, "put it in quotes if it is meant as text");
        }
        if (key->type == CONFIG_PATH) {
            BL_TRY(resolve_path(text, folder, at, err));
            return resolve_repository(config, key, text, at, err);
        }
        if (!*text)
            return config_fail_value(err, key, "an empty text");
        return config_copy_text(text, at, err);
    default:
        return config_fail_value(err, key, "a single value");
    }
}

void *config_list_add(void *items, size_t *count, size_t element)
{
    void **list = items;
    if (*count >= BL_CONFIG_LIST_MAX)
        return NULL;
    void *grown = realloc(*list, (*count + 1) * element);
    if (!grown)
        return NULL;
    *list = grown;
    return memset((char *)grown + (*count)++ * element, 0, element);
}
