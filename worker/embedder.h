/* worker/embedder.h - what a worker of an embedding run computes: a micro-batch of images becomes a shard of the feature cache. */
#pragma once

#include "common/cache/cache.h"
#include "common/data/dataset.h"
#include "worker/batch.h"
#include "worker/ops/ops.h"

struct embedder;

/* images: identity order (run_images); they, config and dataset are borrowed for the embedder's life. Hashes the vision folder.
 * *ret is the caller's. */
int embedder_open(struct ops *ops, const struct config *config, const struct dataset *dataset,
                  const uint64_t *images, uint64_t image_count, struct embedder **ret,
                  struct bl_error *err);
/* NULL is fine; sets *embedder to NULL. */
void embedder_free(struct embedder **embedder);
/* Side of the tower's images. */
int64_t embedder_side(const struct embedder *embedder);

/* Computes the micro-batch's features and writes its shard, completely or not at all. */
int embedder_run(struct embedder *embedder, const struct batch *batch, struct bl_error *err);
