/* coordinator/best.c - see best.h. */
#include "coordinator/best.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

void best_init(struct best *best)
{
    *best = (struct best){0};
}

/* The checkpoint that RUN/checkpoints/best points to; generation 0: none. */
static int read_link(const char *run_folder, struct coord_checkpoint *ret, struct bl_error *err)
{
    char path[4096], target[COORD_CHECKPOINT_NAME_MAX], name[COORD_CHECKPOINT_NAME_MAX];
    struct coord_checkpoint found = {0};
    *ret = found;
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "checkpoints/best", err));
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0 || !bl_path_is_folder(path))
        return 0;
    target[length] = 0;
    if (sscanf(target, "step-%" SCNu64 "-g%" SCNu64, &found.step, &found.generation) != 2)
        return 0;
    coord_checkpoint_name(found, name);
    if (!strcmp(name, target))
        *ret = found;
    return 0;
}

/* The loss of a line of metrics.jsonl that is of that step's validation; else NAN. */
static double loss_of_line(const char *line, size_t size, uint64_t step)
{
    json_t *o = json_loadb(line, size, 0, NULL); /* a torn last line is none */
    const char *type = json_string_value(json_object_get(o, "type"));
    json_t *loss = json_object_get(o, "loss_nats");
    bool is_it = type && !strcmp(type, "validation") && json_is_number(loss) &&
                 json_integer_value(json_object_get(o, "step")) == (json_int_t)step;
    double found = is_it ? json_number_value(loss) : NAN;
    json_decref(o);
    return found;
}

static int read_loss(const char *run_folder, uint64_t step, double *ret, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "metrics.jsonl", err));
    bl_autofclose FILE *file = fopen(path, "re");
    bl_autofree char *line = NULL;
    size_t room = 0;
    *ret = NAN;
    for (ssize_t size; file && (size = getline(&line, &room, file)) > 0;) {
        if (!strstr(line, "\"validation\""))
            continue;
        double loss = loss_of_line(line, (size_t)size, step);
        if (isfinite(loss))
            *ret = loss; /* a later line of a step replaces an earlier one */
    }
    return 0;
}

int best_read(const char *run_folder, struct best *ret, struct bl_error *err)
{
    struct coord_checkpoint checkpoint;
    double loss = NAN;
    best_init(ret);
    BL_TRY(read_link(run_folder, &checkpoint, err));
    if (checkpoint.generation)
        BL_TRY(read_loss(run_folder, checkpoint.step, &loss, err));
    if (isfinite(loss)) {
        ret->checkpoint = checkpoint;
        ret->loss = loss;
    }
    return 0;
}

static void forget(struct best *best, int i)
{
    best->waiting_count--;
    memmove(&best->waiting[i], &best->waiting[i + 1],
            (size_t)(best->waiting_count - i) * sizeof best->waiting[0]);
}

void best_validated(struct best *best, uint64_t step, double loss)
{
    if (!isfinite(loss))
        return;
    if (best->waiting_count == BEST_WAITING_MAX)
        forget(best, 0); /* of a state that was not saved */
    best->waiting[best->waiting_count].step = step;
    best->waiting[best->waiting_count++].loss = loss;
}

static const struct coord_checkpoint *checkpoint_of(const struct coord_ledger *ledger,
                                                    uint64_t step)
{
    for (uint32_t i = ledger->checkpoint_count; i-- > 0;)
        if (ledger->checkpoints[i].step == step)
            return &ledger->checkpoints[i];
    return NULL;
}

bool best_improves(struct best *best, const struct coord_ledger *ledger)
{
    bool improves = false;
    for (int i = 0; i < best->waiting_count;) {
        const struct coord_checkpoint *checkpoint = checkpoint_of(ledger, best->waiting[i].step);
        if (!checkpoint) {
            i++;
            continue;
        }
        if (!best->checkpoint.generation || best->waiting[i].loss < best->loss) {
            best->checkpoint = *checkpoint;
            best->loss = best->waiting[i].loss;
            improves = true;
        }
        forget(best, i);
    }
    return improves;
}

void best_rewound(struct best *best, uint64_t step)
{
    if (best->checkpoint.step > step)
        best->checkpoint = (struct coord_checkpoint){0};
    while (best->waiting_count && best->waiting[best->waiting_count - 1].step > step)
        best->waiting_count--;
}
