/* loader/sample.h - one sample as the worker takes it: the image's square of pixels and the
 * caption's ids. What is open here is immutable and used by all threads. */
#pragma once

#include <stdint.h>

#include "common/data/captions.h"
#include "common/config/config.h"
#include "common/data/dataset.h"
#include "common/error.h"
#include "common/data/run.h"
#include "common/tokenizer/tokenizer.h"

struct sample_source;

/* Reads the run folder's configuration and index, the language model's tokenizer and the vision
 * model's preprocessing. Takes up to a second. *ret is the caller's. */
int sample_source_open(const char *run_folder, const uint8_t run[RUN_ID_BYTES],
                       struct sample_source **ret, struct bl_error *err);
/* NULL is fine; sets *source to NULL. */
void sample_source_free(struct sample_source **source);

uint64_t sample_count(const struct sample_source *source);
/* Images are (side, side, 3) u8 RGB. */
uint32_t sample_side(const struct sample_source *source);

struct sample_info {
    uint32_t tokens, prefix, label_first; /* as in proto/blipren.proto, Slot */
    uint64_t image_hash;
};

/* Writes the pixels of sample `id` < sample_count to pixels (side, side, 3), appends the ids of the
 * caption that it has in `epoch`. -BL_ENOMEM: this process is short of memory. Any other failure is
 * the sample's own: err->text says why it cannot be had, and ids are as before. */
int sample_make(const struct sample_source *source, uint64_t id, uint32_t epoch, uint8_t *pixels,
                struct token_ids *ids, struct sample_info *ret, struct bl_error *err);
