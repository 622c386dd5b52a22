/* worker/rows.h - the rows of the feature cache that a micro-batch needs: mapped, and widened to f32 for the captioner. */
#pragma once

#include "common/cache/cache.h"
#include "common/data/dataset.h"
#include "worker/batch.h"
#include "worker/model/captioner.h"

/* Zero-initialise. */
struct rows {
    struct features *cache; /* NULL: none */
    const struct dataset *dataset;
    struct cache_form form;
    float *features, *pooled; /* of `capacity` images */
    int64_t capacity;
};

/* Opens cache.path; dataset is borrowed. rows_close in any case. */
int rows_open(struct rows *rows, const struct config *config, const char *tower,
              const struct dataset *dataset, struct bl_error *err);
void rows_close(struct rows *rows);
/* Sets ret's features and pooled to those of the batch's images; they live until the next call. */
int rows_take(struct rows *rows, const struct batch *batch, struct micro_batch *ret,
              struct bl_error *err);
