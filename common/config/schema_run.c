/* common/config/schema_run.c - keys of the run itself, which are in no section. */
#include "common/config/parts.h"

#include "common/config/schema_rows.h"
#include "common/limits.h"

/* clang-format off */
static const struct config_key keys[] = {
    KEY("run_dir", CONFIG_PATH, run_dir, NULL,
        "Folder of the run: checkpoints, metrics, journal, dataset.index. Made when absent; started again on the same folder, the run resumes.", FREE),
    INT("seed", seed, 0, 9007199254740991.0, NULL, "42",
        "Decides the order of samples, dropout, initial weights, the split and which of several captions is drawn.", INDEX),
    CHOICE("precision", precision, LIST("bf16", "f32"), "bf16",
        "Of frozen weights and matmuls. f32 keeps frozen weights as the files have them. Trainable weights, gradients and moments are f32 either way."),
    INT("threads", threads, 0, BL_THREADS_MAX, "threads", "0",
        "Of one worker; 0 takes all cores it may run on. No result depends on it.", FREE),
};
/* clang-format on */

const struct config_room config_room_run = {
    .keys = keys,
    .count = sizeof keys / sizeof *keys,
};
