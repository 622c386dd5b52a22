/* coordinator/ask.c - see ask.h. */
#include "coordinator/ask.h"

#include <stdio.h>

#include "common/arguments.h"
#include "common/cleanup.h"
#include "common/config/config.h"
#include "common/file.h"
#include "common/json.h"
#include "common/limits.h"
#include "coordinator/control.h"
#include "coordinator/status.h"

#define STATUS_PATIENCE_MS 5000

const char ask_usage[] =
    "usage: blipren-coord status [RUN] [--json | --healthy]   how the run is doing\n"
    "       blipren-coord stop [RUN]                          saves, then stops it, and waits for "
    "its end\n"
    "       blipren-coord checkpoint-now [RUN]                writes a checkpoint, and waits until "
    "it is on disk\n"
    "       blipren-coord scale [RUN] N                       trains with N workers from the next "
    "step on\n"
    "\n"
    "  RUN           the run folder, or its RUN.yaml (the current folder); the coordinator must "
    "run "
    "on this host\n"
    "  --json        all that is known, for scripts\n"
    "  --healthy     print nothing: exit status 0 if the coordinator answers within 5 s\n"
    "  --help, --version\n";

/* The run folder that the command line means. ret: size bytes. */
static int run_folder(int rest, char **argv, char *ret, size_t size, struct bl_error *err)
{
    if (rest > 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN, found %d arguments", rest);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    const char *run = rest ? argv[1] : ".";
    if (!bl_path_is_file(run)) {
        snprintf(ret, size, "%s", run);
        return 0;
    }
    struct config *config = NULL;
    BL_TRY(config_open(run, &config, err));
    snprintf(ret, size, "%s", config->run_dir);
    config_free(&config);
    return 0;
}

/* Asks for what has no options but RUN. */
static int ask(int argc, char **argv, enum control_command command, json_t **ret,
               struct bl_error *err)
{
    static const struct argument table[] = {{0}};
    char folder[4096];
    int rest;
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    BL_TRY(run_folder(rest, argv, folder, sizeof folder, err));
    return control_ask(folder, command, 0, 0, ret, err);
}

int command_status(int argc, char **argv, struct bl_error *err)
{
    bool json = false, healthy = false;
    const struct argument table[] = {
        {"--json", ARGUMENT_FLAG, &json, 0, 0}, {"--healthy", ARGUMENT_FLAG, &healthy, 0, 0}, {0}};
    char folder[4096];
    int rest;
    bl_autojson json_t *status = NULL;
    bl_autofree char *text = NULL;
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    BL_TRY(run_folder(rest, argv, folder, sizeof folder, err));
    BL_TRY(control_ask(folder, CONTROL_STATUS, 0, STATUS_PATIENCE_MS, &status, err));
    if (healthy)
        return 0;
    BL_TRY(json ? bl_json_line(status, 6, &text, err) : status_text(status, &text, err));
    printf("%s%s", text, json ? "\n" : "");
    return bl_output_finish(err);
}

int command_stop(int argc, char **argv, struct bl_error *err)
{
    bl_autojson json_t *answer = NULL;
    int64_t step = 0;
    bool complete = false;
    BL_TRY(ask(argc, argv, CONTROL_STOP, &answer, err));
    BL_TRY(bl_json_int(answer, "step", 0, INT64_MAX, &step, err));
    BL_TRY(bl_json_bool(answer, "complete", &complete, err));
    printf("%s: step %lld is saved\n", complete ? "complete" : "stopped", (long long)step);
    return bl_output_finish(err);
}

int command_checkpoint_now(int argc, char **argv, struct bl_error *err)
{
    bl_autojson json_t *answer = NULL;
    int64_t step = 0;
    BL_TRY(ask(argc, argv, CONTROL_CHECKPOINT, &answer, err));
    BL_TRY(bl_json_int(answer, "step", 0, INT64_MAX, &step, err));
    printf("checkpoint of step %lld is on disk\n", (long long)step);
    return bl_output_finish(err);
}

static int parse_workers(const char *text, unsigned *ret, struct bl_error *err)
{
    char extra;
    if (sscanf(text, "%4u%c", ret, &extra) == 1 && *ret >= 1 && *ret <= BL_WORKERS_MAX)
        return 0;
    bl_fail(err, BL_EUSAGE, "expected a number of workers from 1 to %d, found \"%.50s\"",
            BL_WORKERS_MAX, text);
    return bl_error_remedy(err, "--help says how this program is used");
}

int command_scale(int argc, char **argv, struct bl_error *err)
{
    static const struct argument table[] = {{0}};
    char folder[4096];
    int rest;
    unsigned wanted;
    int64_t workers = 0, before = 0;
    float pause_s = 0;
    bl_autojson json_t *answer = NULL;
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest < 1)
        return parse_workers("", &wanted, err);
    BL_TRY(parse_workers(argv[rest], &wanted, err));
    BL_TRY(run_folder(rest - 1, argv, folder, sizeof folder, err));
    BL_TRY(control_ask(folder, CONTROL_SCALE, wanted, 0, &answer, err));
    BL_TRY(bl_json_int(answer, "workers", 0, INT64_MAX, &workers, err));
    BL_TRY(bl_json_int(answer, "before", 0, INT64_MAX, &before, err));
    BL_TRY(bl_json_float(answer, "pause_s", 0, 1e9, &pause_s, err));
    printf("workers %lld -> %lld, training paused for %.2f s\n", (long long)before,
           (long long)workers, (double)pause_s);
    return bl_output_finish(err);
}
