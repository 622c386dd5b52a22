/* common/arguments.h - reading command lines: one table of options a command, strict values, errors that name the option. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

enum argument_type {
    ARGUMENT_FLAG,   /* bool *: true when given */
    ARGUMENT_TEXT,   /* const char **: borrowed from argv */
    ARGUMENT_WHOLE,  /* int64_t *, within [low, high] */
    ARGUMENT_NUMBER, /* double *, within [low, high] */
    ARGUMENT_MAP,    /* struct path_map *: FROM=TO, any number of times */
};

struct argument {
    const char *name; /* "--threads"; NULL ends the table */
    enum argument_type type;
    void *value;
    double low, high;
};

/* Reads argv[1..argc): options of the table ("--name value" or "--name=value"), "--" ends them. The others are moved to the
 * front of argv from index 1, in order; *ret_rest is their number. -BL_EUSAGE names what is wrong. */
int arguments_read(int argc, char **argv, const struct argument *table, int *ret_rest,
                   struct bl_error *err);
