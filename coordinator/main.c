/* coordinator/main.c - blipren-coord: the run's owner, and the subcommands around it. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/arguments.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/program.h"
#include "coordinator/ask.h"
#include "coordinator/check.h"
#include "coordinator/loop.h"
#include "coordinator/pull.h"
#include "proto/keys.h"

static const char usage[] =
    "usage: blipren-coord train RUN.yaml [--local W,L] [options]   trains, or resumes training\n"
    "       blipren-coord embed RUN.yaml [--local W,L] [options]   writes the vision tower's "
    "features "
    "of all images to cache.path\n"
    "       blipren-coord check RUN.yaml [--deep] [--measure]      everything that training would "
    "fail on later\n"
    "       blipren-coord pull RUN.yaml                            downloads what it names on the "
    "Hub\n"
    "       blipren-coord status [RUN]                             how a running one is doing\n"
    "       blipren-coord stop [RUN]                               saves, then stops it\n"
    "       blipren-coord checkpoint-now [RUN]                     writes a checkpoint\n"
    "       blipren-coord scale [RUN] N                            trains with N workers from the "
    "next step on\n"
    "       blipren-coord keygen DIR                               makes the keys of a cluster\n"
    "\n"
    "  --local W,L   start W workers and L loaders on this machine (a worker for each GPU, else 2; "
    "2 "
    "loaders);\n"
    "                their logs go to RUN/logs\n"
    "  --device NAME of these workers: auto, cpu or cuda:N (auto: GPUs in turn, else the CPU)\n"
    "  --cluster     start none: workers and loaders on other hosts join by\n"
    "                `blipren-worker --coord tcp://HOST:PORT` and `blipren-loader --coord "
    "tcp://HOST:PORT`\n"
    "  --take-over   take the run from a coordinator that still holds its folder, but hangs or is "
    "cut "
    "off\n"
    "  --bind ADDR   listen at this address instead of cluster.bind\n"
    "  --keys DIR    the cluster's keys, which keygen made: needed beyond this machine\n"
    "  --insecure    go without them: nothing is encrypted or authenticated\n"
    "  --plan        embed: say how many images and bytes it will be, how long it takes and what "
    "will bound\n"
    "                training from it, and end\n"
    "  --deep        decode all images, not some of them\n"
    "  --measure     time a worker on this machine, to say how many loader threads it needs\n"
    "  --help, --version\n"
    "\n"
    "Ctrl-C saves a checkpoint and stops; the same command resumes from there. docs/config.md "
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

/* One worker for each GPU that `blipren-worker devices`, beside this program, knows; else two. */
static void choose_local(struct coordinator_options *options)
{
    char folder[4096], command[4200], line[512];
    int gpus = 0;
    options->workers = options->loaders = 2;
    ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    if (length < 0 || (options->device && strcmp(options->device, "auto") != 0))
        return;
    folder[length] = 0;
    *strrchr(folder, '/') = 0;
    if (strchr(folder, '\'')) /* the shell's quoting ends there */
        return;
    snprintf(command, sizeof command, "'%s/blipren-worker' devices 2>/dev/null", folder);
    FILE *devices = popen(command, "r");
    if (!devices)
        return;
    while (fgets(line, sizeof line, devices))
        gpus += strncmp(line, "cuda:", 5) == 0;
    pclose(devices);
    if (gpus)
        options->workers = gpus;
}

static int run_cluster(int argc, char **argv, enum bl_kind kind, struct bl_error *err)
{
    struct coordinator_options options = {.kind = kind, .local = true};
    const char *local = NULL;
    bool cluster = false;
    int rest;
    const struct argument table[] = {
        {"--local", ARGUMENT_TEXT, &local, 0, 0},
        {"--cluster", ARGUMENT_FLAG, &cluster, 0, 0},
        {"--device", ARGUMENT_TEXT, &options.device, 0, 0},
        {"--keys", ARGUMENT_TEXT, &options.keys, 0, 0},
        {"--bind", ARGUMENT_TEXT, &options.bind, 0, 0},
        {"--insecure", ARGUMENT_FLAG, &options.insecure, 0, 0},
        {"--take-over", ARGUMENT_FLAG, &options.take_over, 0, 0},
        {"--plan", ARGUMENT_FLAG, &options.plan, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (local)
        BL_TRY(parse_local(local, &options, err));
    else if (!cluster)
        choose_local(&options);
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    if (options.plan && kind != BL_KIND_EMBED) {
        bl_fail(err, BL_EUSAGE, "only embed knows it");
        return bl_error_key(err, "--plan");
    }
    options.local = !cluster;
    options.yaml = argv[1];
    BL_TRY(pull_run(argv[1], true, err));
    return coordinator_run(&options, err);
}

static int command_train(int argc, char **argv, struct bl_error *err)
{
    return run_cluster(argc, argv, BL_KIND_TRAIN, err);
}

static int command_embed(int argc, char **argv, struct bl_error *err)
{
    return run_cluster(argc, argv, BL_KIND_EMBED, err);
}

/* Whether both go to one terminal, file or pipe. */
static bool is_one_stream(FILE *a, FILE *b)
{
    struct stat x, y;
    return fstat(fileno(a), &x) == 0 && fstat(fileno(b), &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

static int command_check(int argc, char **argv, struct bl_error *err)
{
    int rest;
    struct check_options options = {0};
    const struct argument table[] = {
        {"--deep", ARGUMENT_FLAG, &options.deep, 0, 0},
        {"--measure", ARGUMENT_FLAG, &options.measure, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    char programs[4096], worker[4096];
    BL_TRY(program_folder(programs, sizeof programs, err));
    BL_TRY(bl_path_join(worker, sizeof worker, programs, "blipren-worker", err));
    options.yaml = argv[1];
    options.worker = worker;
    int rc = check_run(&options, stdout, err);
    if (rc < 0 && is_one_stream(stdout, stderr))
        err->text[0] = 0; /* whoever reads has it from the page */
    return rc < 0 ? rc : bl_output_finish(err);
}

static int command_pull(int argc, char **argv, struct bl_error *err)
{
    int rest;
    BL_TRY(arguments_read(argc, argv, (const struct argument[]){{0}}, &rest, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    BL_TRY(pull_run(argv[1], false, err));
    return bl_output_finish(err);
}

static int command_keygen(int argc, char **argv, struct bl_error *err)
{
    int rest;
    BL_TRY(arguments_read(argc, argv, (const struct argument[]){{0}}, &rest, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one folder, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    BL_TRY(keys_make(argv[1], err));
    printf("%s/" KEYS_FILE
           ": copy this folder to every host of the cluster, and give it by --keys. "
           "Whoever has it can join.\n",
           argv[1]);
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
        {"embed", usage, command_embed},
        {"check", usage, command_check},
        {"pull", usage, command_pull},
        {"status", ask_usage, command_status},
        {"stop", ask_usage, command_stop},
        {"scale", ask_usage, command_scale},
        {"checkpoint-now", ask_usage, command_checkpoint_now},
        {"keygen", usage, command_keygen},
        {NULL, usage, no_command},
    };
    return program_run("coord", commands, argc, argv);
}
