/* common/config/schema_cluster.c - keys of the cluster and of what it logs. */
#include "common/config/parts.h"

#include "common/config/schema_rows.h"
#include "common/limits.h"

/* clang-format off */
static const struct config_key keys[] = {
    INT("cluster.workers_min", cluster.workers_min, 1, BL_WORKERS_MAX, "workers", "1",
        "Training waits until this many are there.", FREE),
    REAL("cluster.patience_s", cluster.patience_s, BL_PATIENCE_S_MIN, BL_PATIENCE_S_MAX, "seconds", "10",
        "After this long without a sign of life a peer is lost. All other waiting times follow from it.", FREE),
    KEY("cluster.bind", CONFIG_TEXT, cluster.bind, "127.0.0.1",
        "Address at which the coordinator listens.", FREE),
    INT("cluster.port", cluster.port, 0, 65535, NULL, "0", "Port there; 0 takes a free one.", FREE),
    INT("cluster.files_port", cluster.files_port, 0, 65535, NULL, "0",
        "Port there of the file service, for hosts that do not see the run folder; 0 takes a free one.", FREE),
    KEY("cluster.keys", CONFIG_PATH, cluster.keys, "",
        "Folder with the cluster's keys, which `blipren-coord keygen` makes; an address other than loopback needs it.", FREE),
    BOOL("cluster.insecure", cluster.insecure, "false",
        "Allows an address other than loopback without keys: nothing on the wire is encrypted or authenticated.", FREE),
    INT("cluster.window", cluster.window, 1, BL_WINDOW_MAX, "micro-batches", "4",
        "Micro-batches under way to one worker at a time.", FREE),
    INT("cluster.steps_ahead", cluster.steps_ahead, 1, BL_STEPS_AHEAD_MAX, "optimizer steps", "2",
        "Steps whose data is ordered before the current one is done.", FREE),
    INT("cluster.loader_threads", cluster.loader_threads, 0, BL_THREADS_MAX, "threads", "0",
        "Of each loader that --local starts; 0 takes all cores it may run on. A loader started by hand has --threads.", FREE),
    INT("cluster.loader_capacity", cluster.loader_capacity, 0, BL_LOADER_CAPACITY_MAX, "micro-batches", "0",
        "Micro-batches that each loader of --local holds at most; 0 takes two for each of its threads. A loader started by hand has --capacity.", FREE),

    INT("log.every", log.every, 1, 1000000, "optimizer steps", "10",
        "A line on a screen that is no terminal. metrics.jsonl has every step.", FREE),
};
/* clang-format on */

const struct config_room config_room_cluster = {
    .keys = keys,
    .count = sizeof keys / sizeof *keys,
};
