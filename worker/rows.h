/* worker/rows.h - the rows of the feature cache that a micro-batch needs, widened to f32 for the captioner: mapped where this
 * host sees the cache, else as they came with the micro-batch. */
#pragma once

#include "common/cache/cache.h"
#include "common/data/dataset.h"
#include "worker/batch.h"
#include "worker/model/captioner.h"

/* Features and pooled vectors of up to `capacity` images, f32. Zero-initialise. */
struct row_buffer {
    float *features, *pooled; /* (capacity, tokens, width) and (capacity, width) */
    int64_t capacity;
};
/* Room for so many images; what it held is lost when it grows. */
int row_buffer_reserve(struct row_buffer *buffer, const struct cache_form *form, int64_t images,
                       struct bl_error *err);
void row_buffer_release(struct row_buffer *buffer);
/* Sets ret's features and pooled to the buffer's, which stays their owner. */
void row_buffer_lend(const struct row_buffer *buffer, const struct cache_form *form,
                     struct micro_batch *ret);

/* Zero-initialise. */
struct rows {
    struct features *cache; /* NULL: it is not on this host */
    const struct dataset *dataset;
    struct cache_form form;
    struct row_buffer buffer;
    void *packed; /* (cache_row_bytes) the row at hand, aligned */
};

/* Opens cache.path, if there is a cache; dataset is borrowed. rows_close in any case. */
int rows_open(struct rows *rows, const struct config *config, const char *tower,
              const struct dataset *dataset, struct bl_error *err);
void rows_close(struct rows *rows);
/* Bytes of an image's row that must come with each micro-batch; 0: they are here. */
size_t rows_wanted(const struct rows *rows);
/* Sets ret's features and pooled to those of the batch's images; they live until the next call. */
int rows_take(struct rows *rows, const struct batch *batch, struct micro_batch *ret,
              struct bl_error *err);
