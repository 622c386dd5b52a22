/* common/program.h - what the main functions share: choosing a subcommand, --help, --version, the failure's line and exit
 * status. */
#pragma once

#include <stddef.h>

#include "common/error.h"

struct command {
    const char *name;  /* argv[1] chooses it; NULL ends the table: what runs when none is chosen */
    const char *usage; /* what its --help prints */
    /* argv[0] is the command's name, or the program's where none was chosen. 0, or the failure; without a text it was told
     * already. */
    int (*run)(int argc, char **argv, struct bl_error *err);
};

/* Where the sibling programs are: beside this one. */
int program_folder(char *ret, size_t size, struct bl_error *err);

/* Runs "blipren-NAME" and gives its exit status. --help and --version count anywhere on the line. */
int program_run(const char *name, const struct command *commands, int argc, char **argv);
