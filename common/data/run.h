/* common/data/run.h - what the three programs must agree on of a run folder.
 *
 *   RUN/config.yaml     the effective configuration          RUN/dataset.index   what is trained on
 *   RUN/run-id          32 hexadecimal digits: whoever reads the id its coordinator says sees the same folder
 *   RUN/image-hashes    hashes of the images read so far (hash_cache.h)
 *   RUN/cache-whole     under cache.fill: the cache is whole by now
 *   RUN/checkpoints/    RUN/journal    RUN/metrics.jsonl    RUN/logs/
 */
#pragma once

#include "common/cluster.h"
#include "common/config/config.h"
#include "common/data/dataset.h"

#define RUN_ID_BYTES 16

/* Reads RUN/run-id, or (make) draws one where there is none. */
int run_id(const char *run_folder, bool make, uint8_t ret[RUN_ID_BYTES], struct bl_error *err);

/* The run's plan. Validation takes train.validation_max_images samples, 0 = all: of each source the first, as many as its part
 * of the split is. */
void run_plan(const struct config *config, const struct dataset *dataset, struct bl_plan *ret);

/* A data set's distinct images in the order of their identities (SHA-256), each by the first of its samples, of both splits:
 * *ret_ids (*ret_count) is the caller's (free). */
int run_images(const struct dataset *dataset, uint64_t **ret_ids, uint64_t *ret_count,
               struct bl_error *err);
/* The plan of embedding that many images. */
void run_embed_plan(const struct config *config, uint64_t images, struct bl_plan *ret);

/* Under cache.fill: the coordinator says to everybody that the cache is whole. */
bool run_cache_is_whole(const char *run_folder);
int run_cache_say_whole(const char *run_folder, bool whole, struct bl_error *err);

/* Opens RUN/config.yaml and RUN/dataset.index, after comparing the folder's id with `expected`. The configuration has this
 * host's paths; those of the data set's images stay the plan's. map notes what of it was used; NULL: nothing is mapped.
 * *ret_config and *ret_dataset are the caller's. */
int run_open(const char *run_folder, const uint8_t expected[RUN_ID_BYTES], struct path_map *map,
             struct config **ret_config, struct dataset **ret_dataset, struct bl_error *err);

/* Signals that ask a daemon to end: SIGINT, SIGTERM, and SIGHUP, unless whoever started it has it ignored (nohup). From
 * here on nobody dies of a reader that is gone: a log's loss is no reason to lose work. Returns how many. */
#define RUN_SIGNALS_MAX 3
int run_signals(int ret[RUN_SIGNALS_MAX]);

/* The calling process dies when its parent does. parent: the number it was told, so that a parent lost already is noticed
 * too (the process then leaves at once). */
void run_die_with_parent(int parent);
