/* coordinator/main.c - blipren-coord: the run's owner, and the subcommands around it. */
#include <stdio.h>

#include "common/arguments.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/program.h"
#include "coordinator/check.h"
#include "coordinator/loop.h"

static const char usage[] =
    "usage: blipren-coord train RUN.yaml [--local W,L] [options]   trains, or goes on training\n"
    "       blipren-coord check RUN.yaml [--deep]                  everything that training would "
    "fail on later\n"
    "\n"
    "  --local W,L   start W workers and L loaders on this machine (2,2); their logs go to "
    "RUN/logs\n"
    "  --cluster     start none: workers and loaders on other hosts join by\n"
    "                `blipren-worker --coord tcp://HOST:PORT` and `blipren-loader --coord "
    "tcp://HOST:PORT`\n"
    "  --insecure    allow addresses beyond this machine: nothing is encrypted or authenticated\n"
    "  --deep        decode all images, not some of them\n"
    "  --help, --version\n"
    "\n"
    "Ctrl-C saves a checkpoint and stops; the same command goes on from there. docs/config.md "
    "lists the keys of RUN.yaml.\n";

static int parse_local(const char *text, struct coordinator_options *options, struct bl_error *err)
{
    char extra;
    if (sscanf(text, "%d,%d%c", &options->workers, &options->loaders, &extra) == 2 &&
        options->workers >= 1 && options->loaders >= 1 &&
        options->workers <= BL_LOCAL_WORKERS_MAX && options->loaders <= BL_LOCAL_LOADERS_MAX)
        return 0;
    bl_fail(err, BL_EUSAGE,
            "expected workers and loaders like 2,2, from 1,1 to %d,%d, found \"%.50s\"",
            BL_LOCAL_WORKERS_MAX, BL_LOCAL_LOADERS_MAX, text);
    return bl_error_key(err, "--local");
}

static int command_train(int argc, char **argv, struct bl_error *err)
{
    struct coordinator_options options = {.local = true};
    const char *local = "2,2";
    bool cluster = false;
    int rest;
    const struct argument table[] = {
        {"--local", ARGUMENT_TEXT, &local, 0, 0},
        {"--cluster", ARGUMENT_FLAG, &cluster, 0, 0},
        {"--insecure", ARGUMENT_FLAG, &options.insecure, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    BL_TRY(parse_local(local, &options, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    options.local = !cluster;
    options.yaml = argv[1];
    return coordinator_run(&options, err);
}

static int command_check(int argc, char **argv, struct bl_error *err)
{
    int rest;
    bool deep = false;
    const struct argument table[] = {{"--deep", ARGUMENT_FLAG, &deep, 0, 0}, {0}};
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    char programs[4096], worker[4096];
    BL_TRY(program_folder(programs, sizeof programs, err));
    BL_TRY(bl_path_join(worker, sizeof worker, programs, "blipren-worker", err));
    BL_TRY(check_run(argv[1], deep, worker, stdout, err));
    return bl_output_finish(err);
}

static int no_command(int argc, char **argv, struct bl_error *err)
{
    bl_fail(err, BL_EUSAGE, argc > 1 ? "unknown command %.50s" : "expected a command",
            argc > 1 ? argv[1] : "");
    return bl_error_remedy(err, "--help lists the commands");
}

int main(int argc, char **argv)
{
    static const struct command commands[] = {
        {"train", usage, command_train},
        {"check", usage, command_check},
        {NULL, usage, no_command},
    };
    return program_run("coord", commands, argc, argv);
}
