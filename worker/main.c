/* worker/main.c - blipren-worker: the process that trains, and the subcommands that use what was trained. */
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/arguments.h"
#include "common/program.h"
#include "worker/commands.h"
#include "worker/loop.h"

static const char usage[] =
    "usage: blipren-worker --coord tcp://HOST:PORT [options]     joins a run and trains\n"
    "       blipren-worker caption --checkpoint DIR IMAGE...     captions images\n"
    "       blipren-worker score --checkpoint DIR --pairs LIST   log-likelihood of given captions\n"
    "       blipren-worker plan RUN.yaml                         how much memory a worker of the "
    "run needs\n"
    "       blipren-worker measure RUN.yaml                      images/s of embedding and of "
    "training here\n"
    "       blipren-worker devices                               devices that --device accepts "
    "here\n"
    "\n"
    "  --coord URL      where the coordinator listens; several with commas, or a file that has "
    "them\n"
    "  --host ADDRESS   this worker's own network address (127.0.0.1)\n"
    "  --keys DIR       the cluster's keys (a copy of what `blipren-coord keygen` makes): required "
    "between hosts\n"
    "  --insecure       run without keys: nothing is encrypted or authenticated\n"
    "  --map FROM=TO    folder FROM of run.yaml is TO on this host; may be given several times\n"
    "  --device NAME    auto, cpu or cuda:N (auto: the GPU numbered LOCAL_RANK, else "
    "the "
    "CPU)\n"
    "  --threads N      compute threads (all cores)\n"
    "  --name TEXT      its name in the coordinator's log (host:pid)\n"
    "  --patience S     exit after this many seconds without a coordinator (60)\n"
    "  --grace S        after SIGTERM, keep working for up to this many seconds or until the run "
    "ends (0)\n"
    "  --parent PID     exit when that process exits\n"
    "  --help, --version\n"
    "Each subcommand has its own --help.\n";

static int command_train(int argc, char **argv, struct bl_error *err)
{
    __attribute__((cleanup(path_map_release))) struct path_map map = {0};
    struct worker_options options = {.host = "127.0.0.1", .map = &map};
    int64_t threads = 0, parent = 0, patience_s = 60, grace_s = 0;
    int rest;
    const struct argument table[] = {
        {"--coord", ARGUMENT_TEXT, &options.coordinator, 0, 0},
        {"--host", ARGUMENT_TEXT, &options.host, 0, 0},
        {"--keys", ARGUMENT_TEXT, &options.keys, 0, 0},
        {"--insecure", ARGUMENT_FLAG, &options.insecure, 0, 0},
        {"--device", ARGUMENT_TEXT, &options.device, 0, 0},
        {"--map", ARGUMENT_MAP, &map, 0, 0},
        {"--threads", ARGUMENT_WHOLE, &threads, 0, 4096},
        {"--name", ARGUMENT_TEXT, &options.name, 0, 0},
        {"--patience", ARGUMENT_WHOLE, &patience_s, 1, 1000000},
        {"--grace", ARGUMENT_WHOLE, &grace_s, 0, 1000000},
        {"--parent", ARGUMENT_WHOLE, &parent, 0, 1 << 30},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest || !options.coordinator) {
        bl_fail(err, BL_EUSAGE, rest ? "unexpected argument %.100s" : "expected --coord",
                rest ? argv[1] : "");
        return bl_error_remedy(err, "--help says how this program is used");
    }
    options.threads = (int)threads;
    options.parent = (int)parent;
    options.patience_s = (unsigned)patience_s;
    options.grace_s = (unsigned)grace_s;
    return worker_run(&options, err);
}

/* libgomp reads its wait policy when it is loaded, and its default, spinning, starves whatever shares the cores. */
static void wait_passively(char **argv)
{
    if (getenv("OMP_WAIT_POLICY"))
        return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);
}

/* Freed memory goes back to the system: by default the allocator keeps ever larger pieces for
 * reuse, and a worker's memory would depend on the order in which it needed them. */
enum { RETURNED_BYTES = 1 << 20 };

int main(int argc, char **argv)
{
    mallopt(M_MMAP_THRESHOLD, RETURNED_BYTES);
    static const struct command commands[] = {
        {"caption", command_caption_usage, command_caption},
        {"score", command_score_usage, command_score},
        {"plan", command_plan_usage, command_plan},
        {"measure", command_measure_usage, command_measure},
        {"devices", command_devices_usage, command_devices},
        {NULL, usage, command_train},
    };
    wait_passively(argv);
    return program_run("worker", commands, argc, argv);
}
