/* coordinator/check_start.c - where the run starts: its address, a run folder that was begun, a checkpoint's weights. */
#include "coordinator/check_parts.h"

#include <stdio.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/models/checkpoint.h"
#include "common/models/safetensors.h"
#include "proto/keys.h"
#include "proto/socket.h"

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

/* A resumed run has weights of its own. */
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
