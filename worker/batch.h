/* worker/batch.h - a micro-batch of slots as it came from a loader. A loader is another process, maybe of
 * another version: nothing it says is believed before it was held against the plan and the models.
 */
#pragma once

#include <stdint.h>

#include "common/cluster.h"
#include "common/data/dataset.h"
#include "common/error.h"
#include "proto/socket.h"

enum batch_kind {
    BATCH_TRAIN = BL_KIND_TRAIN,
    BATCH_VALIDATE = BL_KIND_VALIDATE,
    BATCH_EMBED = BL_KIND_EMBED
};

struct batch_slot {
    uint64_t sample, image_hash;
    int32_t index; /* in the step's global batch, or in the validation set */
    int32_t tokens, prefix, label_first, label_end;
};

struct batch {
    enum batch_kind kind;
    uint64_t generation, step, worker;
    uint32_t micro_batch, first,
        count;                /* batch indices [first, first + count), void slots included */
    int64_t good;             /* slots that are not void: */
    struct batch_slot *slots; /* (good) */
    bool cached;              /* no pixels: features come from the cache */
    const uint8_t *pixels;    /* (good, side, side, 3) in `frames`; none if cached */
    const uint8_t
        *rows;    /* (good, batch_rules.row_bytes) there instead, where the worker has no cache */
    int32_t *ids; /* the slots' ids, one after the other */
    uint64_t digest;  /* sum of bl_sample_term(batch index, sample) over all count slots */
    char loader[128]; /* its name; "": it does not say */
    struct wire_frames frames;
};

/* What a batch must fit. */
struct batch_rules {
    const uint8_t *run; /* (RUN_ID_BYTES) */
    const struct bl_plan *plan;
    int64_t image_side, vocabulary;
    bool cached;      /* it has no pixels: the features are here … */
    bool fill;        /* … or may be, from some micro-batch on */
    size_t row_bytes; /* bytes of an image's row, which come with it; 0: none do */
};

/* Reads a data message. On success its frames have moved into *ret, which is the caller's. -BL_EPROTO says what is
 * wrong; its peer is the loader's name, if the message has one. */
int batch_read(const struct batch_rules *rules, struct wire_frames *frames, struct batch **ret,
               struct bl_error *err);

/* Are its samples those that the plan has at its batch indices (S1)? Asked before it is kept, so that a loader's mistake is
 * blamed on the loader: what a worker has trained is blamed on the worker. images: of an embedding run (run_images), else NULL.
 * -BL_EPROTO, as above. */
int batch_check_samples(const struct batch *batch, const struct bl_plan *plan,
                        const struct dataset *dataset, const uint64_t *images,
                        struct bl_error *err);

/* NULL is fine; sets *batch to NULL. */
void batch_free(struct batch **batch);
