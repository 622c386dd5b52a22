/* worker/filler.h - what a worker does under cache.fill: features of images, computed by the tower and kept for the cache, or
 * taken from the cache once the coordinator says that it is whole. */
#pragma once

#include "common/cache/cache.h"
#include "common/data/dataset.h"
#include "worker/batch.h"
#include "worker/model/captioner.h"
#include "worker/rows.h"

struct filler;

/* Hashes the vision folder. config and dataset are borrowed for the filler's life. *ret is the caller's. */
int filler_open(struct ops *ops, const struct config *config, const struct dataset *dataset,
                struct filler **ret, struct bl_error *err);
/* NULL is fine; sets *filler to NULL. */
void filler_free(struct filler **filler);
/* Sets ret's features and pooled to those of the batch's images, rounded to cache.dtype; they live until the next call. */
int filler_take(struct filler *filler, const struct batch *batch, struct micro_batch *ret,
                struct bl_error *err);
