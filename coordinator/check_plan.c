/* coordinator/check_plan.c - batches, schedule, memory and disk that the run will need, and what it starts from. */
#include "coordinator/check_parts.h"

#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/models/checkpoint.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/models/safetensors.h"
#include "common/schedule.h"
#include "common/size.h"
#include "proto/keys.h"
#include "proto/socket.h"

void check_batches(struct check *c)
{
    const struct config_train *t = &c->config->train;
    int64_t micro_batch = t->reproducible ? t->grain : t->micro_batch;
    int64_t micro_batches = bl_ceil_div(t->global_batch, micro_batch);
    if (t->global_batch % micro_batch)
        check_note(c, "batches",
                   "the last of a step's %lld micro-batches has %lld samples, the others %lld",
                   (long long)micro_batches, (long long)(t->global_batch % micro_batch),
                   (long long)micro_batch);
    if (c->config->cluster.workers_min > micro_batches)
        check_warning(c, "batches", "a step has %lld micro-batches: of %lld workers some are idle",
                      (long long)micro_batches, (long long)c->config->cluster.workers_min);
    if (!c->dataset)
        return;
    double samples = (double)dataset_epoch(c->config, c->dataset);
    char sources[64] = "";
    if (dataset_source_count(c->dataset) > 1)
        snprintf(sources, sizeof sources, " of %.0f draws from %u sources", samples,
                 dataset_source_count(c->dataset));
    if (samples < (double)t->global_batch)
        check_warning(c, "batches", "a step of %lld samples is more than an epoch of %.0f",
                      (long long)t->global_batch, samples);
    check_ok(c, "batches", "%lld steps of %lld samples in %lld micro-batches: %.2f epochs%s",
             (long long)t->steps, (long long)t->global_batch, (long long)micro_batches,
             (double)t->steps * (double)t->global_batch / samples, sources);
}

static struct schedule schedule_of(const struct config_train *t)
{
    static const enum schedule_kind kinds[] = {[CONFIG_COSINE] = SCHEDULE_COSINE,
                                               [CONFIG_CONSTANT] = SCHEDULE_CONSTANT,
                                               [CONFIG_WSD] = SCHEDULE_WSD};
    return (struct schedule){.kind = kinds[t->schedule],
                             .peak = t->lr,
                             .floor = t->floor,
                             .warmup_steps = t->warmup_steps,
                             .steps = t->steps,
                             .decay_steps = t->decay_steps};
}

void check_schedule(struct check *c)
{
    enum { WIDTH = 64, HEIGHT = 6 };
    const struct config_train *t = &c->config->train;
    struct schedule schedule = schedule_of(t);
    double high = schedule_rate(&schedule, bl_min(t->warmup_steps, t->steps - 1));
    check_ok(c, "schedule", "warm-up over %lld steps to %g, %g at the last",
             (long long)t->warmup_steps, high, schedule_rate(&schedule, t->steps - 1));
    for (int row = HEIGHT; row >= 1; row--) {
        char line[WIDTH + 1] = {0};
        for (int column = 0; column < WIDTH; column++) {
            int64_t step = (int64_t)((double)(t->steps - 1) * column / (WIDTH - 1));
            double filled = high > 0 ? schedule_rate(&schedule, step) / high * HEIGHT : 0;
            line[column] = filled >= row - 0.5 ? '#' : ' ';
        }
        for (int end = WIDTH - 1; end >= 0 && line[end] == ' '; end--)
            line[end] = 0;
        fprintf(c->out, "         %9s |%s\n", row == HEIGHT ? "rate" : "", line);
    }
    char right[32];
    snprintf(right, sizeof right, "%lld", (long long)t->steps);
    fprintf(c->out, "         %9s 0%*s\n", "step", WIDTH, right);
}

bool check_planned(struct check *c)
{
    struct bl_error err;
    if (!c->vision_there || !c->llm_there || c->errors)
        return c->planned;
    if (!c->planned)
        c->planned = check_passes(c, "memory",
                                  estimate_run(c->worker, c->yaml,
                                               c->dataset ? dataset_longest(c->dataset) : 0,
                                               c->config->threads, &c->estimate, &err),
                                  &err);
    return c->planned;
}

void check_memory(struct check *c)
{
    int64_t total, available;
    if (!c->dataset || !check_planned(c))
        return;
    const struct estimate *e = &c->estimate;
    estimate_memory(&total, &available);
    char text[200];
    snprintf(text, sizeof text, "a worker needs up to %s to train %.1f million numbers",
             check_size_text(e->worker), (double)e->trainable / 1e6);
    if (total && e->worker > total)
        check_wrong(c, "memory", "train.micro_batch",
                    "lower it, or max_tokens or the Q-Former's size, or use a larger machine",
                    "%s; this machine has %s", text, check_size_text(total));
    else if (total && e->worker > available)
        check_warning(c, "memory", "%s; %s are free here now", text, check_size_text(available));
    else
        check_ok(c, "memory", "%s; %s are free here now", text, check_size_text(available));
    for (int i = 0; c->out && i < e->count; i++)
        fprintf(c->out, "         %9s   %s\n", check_size_text(e->lines[i].bytes),
                e->lines[i].what);
}

/* The path itself, or what is nearest above it and exists. */
static void existing_above(const char *path, char *ret, size_t size)
{
    snprintf(ret, size, "%s", path);
    while (access(ret, F_OK) < 0) {
        char *slash = strrchr(ret, '/');
        if (!slash || slash == ret) {
            snprintf(ret, size, "/");
            return;
        }
        *slash = 0;
    }
}

/* Checkpoints that exist together: the first, the last ones, the best, and the one being written. */
static int64_t checkpoints_kept(const struct config_train *t)
{
    int64_t written = t->checkpoint_every ? t->steps / t->checkpoint_every + 2 : 2;
    return bl_min(t->keep_last + t->keep_best + 2, written);
}

void check_address(struct check *c)
{
    char endpoint[SOCKET_ENDPOINT_MAX];
    struct bl_error err;
    const struct config_cluster *cluster = &c->config->cluster;
    snprintf(endpoint, sizeof endpoint, "tcp://%s:%lld", cluster->bind, (long long)cluster->port);
    if (wire_check_endpoint(endpoint, true, &err) < 0)
        check_wrong(c, "cluster", "cluster.bind", "give an address of this machine",
                    "expected an address like 127.0.0.1, found \"%.100s\"", cluster->bind);
    struct keys keys;
    if (cluster->keys && keys_read(cluster->keys, &keys, &err) < 0)
        check_passes(c, "cluster", bl_error_key(&err, "cluster.keys"), &err);
}

void check_disk(struct check *c)
{
    char folder[4096];
    struct statvfs fs;
    existing_above(c->config->run_dir, folder, sizeof folder);
    if (!bl_path_is_folder(folder) || access(folder, W_OK | X_OK) < 0) {
        check_wrong(c, "run_dir", "run_dir", "choose another folder",
                    "%.200s is no folder that can be written to", folder);
        return;
    }
    if (!c->planned || statvfs(folder, &fs) < 0)
        return;
    const struct estimate *e = &c->estimate;
    int64_t there = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
    int64_t kept = checkpoints_kept(&c->config->train);
    const char *each = check_size_text(e->checkpoint);
    if (there < 2 * e->checkpoint)
        check_wrong(c, "disk", "run_dir", "free some space, or choose another folder",
                    "checkpoints of %s are written, and %s are free", each, check_size_text(there));
    else if (there < kept * e->checkpoint)
        check_warning(c, "disk", "up to %lld checkpoints of %s are kept, and %s are free",
                      (long long)kept, each, check_size_text(there));
    else
        check_ok(c, "disk", "up to %lld checkpoints of %s are kept, %s are free", (long long)kept,
                 each, check_size_text(there));
}

/* Its latest checkpoint may have no more steps than are asked for now. */
static int compare_steps(const struct check *c, struct bl_error *err)
{
    char path[4096];
    struct checkpoint_state state;
    BL_TRY(bl_path_join(path, sizeof path, c->config->run_dir, "checkpoints/latest", err));
    if (checkpoint_state_read(path, &state, err) < 0)
        return 0; /* none yet; or damaged, then training uses the one before and says so */
    int64_t done = state.step;
    checkpoint_state_release(&state);
    if (done <= c->config->train.steps)
        return 0;
    bl_fail(err, BL_ECONFIG, "the run has done %lld steps already, more than the %lld asked for",
            (long long)done, (long long)c->config->train.steps);
    bl_error_remedy(err, "ask for more, or choose another run_dir");
    bl_error_key(err, "train.steps");
    return bl_error_file(err, c->yaml);
}

void check_resume(struct check *c)
{
    char path[4096], notice[600];
    struct bl_error err;
    bl_auto(config) struct config *before = NULL;
    if (!check_passes(c, "run_dir",
                      bl_path_join(path, sizeof path, c->config->run_dir, "config.yaml", &err),
                      &err) ||
        !bl_path_is_file(path) ||
        !check_passes(c, "run_dir", config_open(path, &before, &err), &err))
        return;
    int rc = config_may_resume(before, c->config, notice, sizeof notice, &err);
    if (rc < 0)
        bl_error_file(&err, c->yaml);
    if (!check_passes(c, "run_dir", rc, &err))
        return;
    if (!check_passes(c, "run_dir", compare_steps(c, &err), &err))
        return;
    check_ok(c, "run_dir", "%s holds a run, which will resume", c->config->run_dir);
    if (notice[0])
        check_note(c, "run_dir", "%s", notice);
}

/* A checkpoint's files as its state.json knows them; *ret_weights: how many numbers the weights are. */
static int open_checkpoint(const char *folder, int64_t *ret_weights, struct bl_error *err)
{
    static const char *const names[] = {"qformer.safetensors", "projector.safetensors"};
    struct checkpoint_state state;
    BL_TRY(checkpoint_state_read(folder, &state, err));
    int rc = checkpoint_verify(folder, &state, err);
    checkpoint_state_release(&state);
    *ret_weights = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        char path[4096];
        bl_auto(safetensors) struct safetensors *file = NULL;
        BL_TRY(bl_path_join(path, sizeof path, folder, names[i], err));
        BL_TRY(safetensors_open(path, &file, err));
        for (size_t t = 0; t < safetensors_count(file); t++) {
            const struct tensor *tensor = safetensors_at(file, t);
            *ret_weights += (int64_t)(tensor->size_bytes / bl_dtype_bytes(tensor->dtype));
        }
    }
    return rc;
}

/* A run that goes on has weights of its own. */
static bool is_begun(const struct config *config)
{
    char path[4096];
    return bl_path_join(path, sizeof path, config->run_dir, "journal", NULL) == 0 &&
           bl_path_is_file(path);
}

void check_init(struct check *c)
{
    struct bl_error err;
    int64_t found = 0, expected;
    const char *folder = c->config->train.init_from;
    if (!folder || is_begun(c->config))
        return;
    int rc = open_checkpoint(folder, &found, &err);
    if (rc < 0)
        bl_error_key(&err, "train.init_from");
    if (!check_passes(c, "init_from", rc, &err))
        return;
    expected = check_planned(c) ? c->estimate.trainable : found;
    if (found != expected)
        check_wrong(
            c, "init_from", "train.init_from",
            "give qformer and projector as that checkpoint was trained, or leave the key out",
            "%.200s holds %lld weights, and this run has %lld", folder, (long long)found,
            (long long)expected);
    else
        check_ok(c, "init_from", "%s", folder);
}
