/* common/arguments.c - see arguments.h. */
#include "common/arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/path_map.h"

static int wrong(struct bl_error *err, const char *name, const char *expected, const char *found)
{
    bl_fail(err, BL_EUSAGE, "expected %s, found \"%.100s\"", expected, found);
    return bl_error_key(err, "%s", name);
}

static int take_whole(const struct argument *a, const char *text, struct bl_error *err)
{
    char *end;
    errno = 0;
    long long x = strtoll(text, &end, 10);
    if (!*text || *end || errno)
        return wrong(err, a->name, "a whole number", text);
    if ((double)x < a->low || (double)x > a->high) {
        bl_fail(err, BL_EUSAGE, "expected a number from %.0f to %.0f, found %lld", a->low, a->high,
                x);
        return bl_error_key(err, "%s", a->name);
    }
    *(int64_t *)a->value = x;
    return 0;
}

static int take_number(const struct argument *a, const char *text, struct bl_error *err)
{
    char *end;
    double x = strtod(text, &end);
    if (!*text || *end)
        return wrong(err, a->name, "a number", text);
    if (!(x >= a->low && x <= a->high)) {
        bl_fail(err, BL_EUSAGE, "expected a number from %g to %g, found %g", a->low, a->high, x);
        return bl_error_key(err, "%s", a->name);
    }
    *(double *)a->value = x;
    return 0;
}

static int take(const struct argument *a, const char *text, struct bl_error *err)
{
    switch (a->type) {
    case ARGUMENT_WHOLE:
        return take_whole(a, text, err);
    case ARGUMENT_NUMBER:
        return take_number(a, text, err);
    case ARGUMENT_MAP:
        return path_map_add(a->value, text, err) < 0 ? bl_error_key(err, "%s", a->name) : 0;
    default:
        *(const char **)a->value = text;
        return 0;
    }
}

/* The table's entry for "--name" or "--name=value". */
static const struct argument *find(const struct argument *table, const char *text,
                                   const char **ret_value)
{
    size_t length = strcspn(text, "=");
    *ret_value = text[length] ? text + length + 1 : NULL;
    for (; table->name; table++)
        if (strlen(table->name) == length && !strncmp(table->name, text, length))
            return table;
    return NULL;
}

int arguments_read(int argc, char **argv, const struct argument *table, int *ret_rest,
                   struct bl_error *err)
{
    int rest = 0;
    bool options = true;
    for (int i = 1; i < argc; i++) {
        const char *value;
        if (!options || argv[i][0] != '-' || !argv[i][1]) {
            argv[1 + rest++] = argv[i];
            continue;
        }
        if (!strcmp(argv[i], "--")) {
            options = false;
            continue;
        }
        const struct argument *a = find(table, argv[i], &value);
        if (!a) {
            bl_fail(err, BL_EUSAGE, "unknown option %.100s", argv[i]);
            return bl_error_remedy(err, "--help lists the options");
        }
        if (a->type == ARGUMENT_FLAG) {
            if (value)
                return wrong(err, a->name, "no value", value);
            *(bool *)a->value = true;
            continue;
        }
        if (!value && i + 1 < argc)
            value = argv[++i];
        if (!value) {
            bl_fail(err, BL_EUSAGE, "expected a value");
            return bl_error_key(err, "%s", a->name);
        }
        BL_TRY(take(a, value, err));
    }
    *ret_rest = rest;
    return 0;
}
