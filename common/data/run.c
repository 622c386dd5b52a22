/* common/data/run.c - see run.h. */
#include "common/data/run.h"

#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

int run_id(const char *run_folder, bool make, uint8_t ret[RUN_ID_BYTES], struct bl_error *err)
{
    char path[4096], hex[2 * RUN_ID_BYTES + 2];
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "run-id", err));
    if (make && !bl_path_is_file(path)) {
        uint8_t fresh[RUN_ID_BYTES];
        randombytes_buf(fresh, sizeof fresh);
        bl_hex(fresh, sizeof fresh, hex);
        BL_TRY(bl_file_write(path, hex, 2 * RUN_ID_BYTES, err));
    }
    bl_autofree char *text = NULL;
    size_t size, read;
    BL_TRY(bl_file_read(path, 64, &text, &size, err));
    if (sodium_hex2bin(ret, RUN_ID_BYTES, text, size, "\n", &read, NULL) != 0 ||
        read != RUN_ID_BYTES) {
        bl_fail(err, BL_EFORMAT, "expected %d hexadecimal digits", 2 * RUN_ID_BYTES);
        return bl_error_file(err, path);
    }
    return 0;
}

void run_plan(const struct config *c, const struct dataset *dataset, struct bl_plan *ret)
{
    *ret = (struct bl_plan){
        .kind = BL_KIND_TRAIN,
        .seed = (uint64_t)c->seed,
        .train_samples = dataset_count(dataset, DATASET_TRAIN),
        .batch = (uint32_t)c->train.global_batch,
        .micro_batch = (uint32_t)(c->train.reproducible ? c->train.grain : c->train.micro_batch),
        .steps = (uint64_t)c->train.steps,
        .checkpoint_every = (uint64_t)c->train.checkpoint_every,
        .validate_every = (uint64_t)c->train.validate_every,
        .validate_at_start = c->train.validate_at_start,
        .steps_ahead = (uint32_t)c->cluster.steps_ahead,
        .window = (uint32_t)c->cluster.window};
    if (ret->micro_batch > ret->batch)
        ret->micro_batch = ret->batch;
    ret->source_count = dataset_source_count(dataset);
    for (uint32_t s = 0; s < ret->source_count; s++)
        ret->sources[s] = (struct bl_source){
            .samples = dataset_source_samples(dataset, s, DATASET_TRAIN),
            .draws = dataset_draws(c, dataset, s),
            .validation = dataset_source_samples(dataset, s, DATASET_VALIDATION)};
    ret->validate_samples =
        bl_plan_choose_validation(ret, (uint64_t)c->train.validation_max_images);
}

struct image {
    uint8_t hash[32];
    uint64_t id;
};

static int compare_images(const void *a, const void *b)
{
    const struct image *x = a, *y = b;
    int order = memcmp(x->hash, y->hash, sizeof x->hash);
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

int run_images(const struct dataset *dataset, uint64_t **ret_ids, uint64_t *ret_count,
               struct bl_error *err)
{
    uint64_t samples = dataset_samples(dataset), count = 0;
    bl_autofree struct image *images = calloc(samples + 1, sizeof *images);
    bl_autofree uint64_t *ids = calloc(samples + 1, sizeof *ids);
    if (!images || !ids)
        return bl_fail(err, BL_ENOMEM, "no memory for the identities of %llu samples",
                       (unsigned long long)samples);
    for (uint64_t id = 0; id < samples; id++) {
        struct dataset_sample sample;
        dataset_sample(dataset, id, &sample);
        memcpy(images[id].hash, sample.hash, sizeof images[id].hash);
        images[id].id = id;
    }
    qsort(images, samples, sizeof *images, compare_images);
    for (uint64_t i = 0; i < samples; i++)
        if (i == 0 || memcmp(images[i].hash, images[i - 1].hash, sizeof images[i].hash) != 0)
            ids[count++] = images[i].id;
    *ret_ids = bl_take(&ids);
    *ret_count = count;
    return 0;
}

void run_embed_plan(const struct config *c, uint64_t images, struct bl_plan *ret)
{
    *ret = (struct bl_plan){.kind = BL_KIND_EMBED,
                            .seed = (uint64_t)c->seed,
                            .train_samples = images,
                            .validate_samples = images,
                            .batch = (uint32_t)c->cache.shard_images,
                            .micro_batch = (uint32_t)c->cache.shard_images,
                            .validate_at_start = true,
                            .steps_ahead = 1,
                            .window = 2}; /* a shard that is computed, and the next */
}

bool run_cache_is_whole(const char *run_folder)
{
    char path[4096];
    return bl_path_join(path, sizeof path, run_folder, "cache-whole", NULL) == 0 &&
           access(path, F_OK) == 0;
}

int run_cache_say_whole(const char *run_folder, bool whole, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "cache-whole", err));
    if (whole)
        return bl_file_write(path, "", 0, err);
    unlink(path); /* or there is none */
    return 0;
}

/* Images may lie outside of the folders that the configuration names. */
static int note_images(struct path_map *map, const struct dataset *dataset, struct bl_error *err)
{
    bool all = true;
    for (size_t i = 0; i < map->count; i++)
        all = all && map->at[i].used;
    for (uint64_t id = 0; !all && id < dataset_samples(dataset); id++) {
        struct dataset_sample sample;
        char buffer[4096];
        const char *path;
        size_t mapping;
        dataset_sample(dataset, id, &sample);
        BL_TRY(
            path_map_find(map, sample.location.path, buffer, sizeof buffer, &path, &mapping, err));
        if (mapping < map->count)
            map->at[mapping].used = true;
    }
    return 0;
}

int run_open(const char *run_folder, const uint8_t expected[RUN_ID_BYTES], struct path_map *map,
             struct config **ret_config, struct dataset **ret_dataset, struct bl_error *err)
{
    uint8_t found[RUN_ID_BYTES];
    char path[4096];
    if (run_id(run_folder, false, found, err) < 0)
        return bl_error_remedy(err, "mount the run folder at the same path on every host");
    if (memcmp(found, expected, sizeof found) != 0) {
        bl_fail(err, BL_EPEER,
                "this is not the run folder that the coordinator sees under this path");
        bl_error_remedy(err, "mount the same folder at the same path on every host");
        return bl_error_file(err, run_folder);
    }
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "config.yaml", err));
    BL_TRY(config_open(path, ret_config, err));
    if (map)
        BL_TRY(config_map_paths(*ret_config, map, err));
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "dataset.index", err));
    BL_TRY(dataset_open(path, ret_dataset, err));
    if (map)
        BL_TRY(note_images(map, *ret_dataset, err));
    if (dataset_source_count(*ret_dataset) == (*ret_config)->data.sources.count)
        return 0;
    bl_fail(err, BL_EFORMAT, "expected the %zu sources of config.yaml, found %u",
            (*ret_config)->data.sources.count, dataset_source_count(*ret_dataset));
    bl_error_remedy(err, "start the coordinator again, which makes it anew");
    return bl_error_file(err, path);
}

int run_signals(int ret[RUN_SIGNALS_MAX])
{
    int count = 0;
    struct sigaction hangup;
    signal(SIGPIPE, SIG_IGN);
    ret[count++] = SIGINT;
    ret[count++] = SIGTERM;
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
        ret[count++] = SIGHUP;
    return count;
}

void run_die_with_parent(int parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
}
