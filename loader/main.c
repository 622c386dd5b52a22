/* loader/main.c - blipren-loader: the process that makes batches. */
#include <stdio.h>
#include <string.h>

#include "common/arguments.h"
#include "common/limits.h"
#include "common/log.h"
#include "loader/inspect.h"
#include "loader/loop.h"

static const char usage[] =
    "usage: blipren-loader --coord tcp://HOST:PORT [options]   joins a run and makes its batches\n"
    "       blipren-loader inspect RUN.yaml                    what the caption rules keep, drop "
    "and train\n"
    "\n"
    "  --coord URL     where the coordinator listens\n"
    "  --insecure      allow addresses beyond this machine: nothing is encrypted or authenticated\n"
    "  --threads N     images decoded at the same time (all cores)\n"
    "  --capacity N    groups it holds at most (two for each thread)\n"
    "  --name TEXT     what it is called in the coordinator's log (host:pid)\n"
    "  --patience S    leave after so many seconds without a coordinator (60)\n"
    "  --parent PID    die with that process\n"
    "  --help, --version\n";

static int command_load(int argc, char **argv, struct bl_error *err)
{
    struct loader_options options = {0};
    int64_t threads = 0, capacity = 0, parent = 0, patience_s = 60;
    int rest;
    const struct argument table[] = {
        {"--coord", ARGUMENT_TEXT, &options.endpoint, 0, 0},
        {"--name", ARGUMENT_TEXT, &options.name, 0, 0},
        {"--insecure", ARGUMENT_FLAG, &options.insecure, 0, 0},
        {"--threads", ARGUMENT_WHOLE, &threads, 0, 1024},
        {"--capacity", ARGUMENT_WHOLE, &capacity, 0, BL_LOADER_CAPACITY_MAX},
        {"--patience", ARGUMENT_WHOLE, &patience_s, 1, 1000000},
        {"--parent", ARGUMENT_WHOLE, &parent, 0, 1 << 30},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest || !options.endpoint) {
        bl_fail(err, BL_EUSAGE, rest ? "unexpected argument %.100s" : "expected --coord",
                rest ? argv[1] : "");
        return bl_error_remedy(err, "--help says how this program is used");
    }
    options.threads = (int)threads;
    options.capacity = (int)capacity;
    options.parent = (int)parent;
    options.patience_s = (unsigned)patience_s;
    options.insecure |= parent != 0; /* a coordinator that starts us was told already */
    return loader_run(&options, err);
}

static int command_inspect(int argc, char **argv, struct bl_error *err)
{
    int rest;
    BL_TRY(arguments_read(argc, argv, (const struct argument[]){{0}}, &rest, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    return inspect_run(argv[1], stdout, err);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        if (!strcmp(argv[i], "--version")) {
            puts("blipren-loader " BLIPREN_VERSION);
            return 0;
        }
    }
    struct bl_error err;
    bl_log_identity("loader", "%s", "");
    bool inspects = argc > 1 && !strcmp(argv[1], "inspect");
    int rc = inspects ? command_inspect(argc - 1, argv + 1, &err) : command_load(argc, argv, &err);
    if (rc < 0)
        bl_log_error(&err);
    return rc < 0 ? bl_error_exit_code(rc) : 0;
}
