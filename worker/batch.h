/* worker/batch.h - a group of slots as it came from a loader: borrowed frames and what the header
 * said of each slot. */
#pragma once

#include <stdint.h>

enum batch_kind { BATCH_TRAIN = 1, BATCH_VALIDATE = 2 }; /* the wire's numbers */

struct batch_slot {
    uint64_t sample, image_hash;
    int32_t place; /* in the step's global batch, or in the validation set */
    int32_t tokens, prefix, label_first;
};

struct batch {
    enum batch_kind kind;
    uint64_t generation, step;
    uint32_t group, first, count;         /* places [first, first + count), void slots included */
    int64_t good;                         /* slots that are not void: */
    struct batch_slot *slots;             /* (good) owned */
    const uint8_t *pixels;                /* (good, side, side, 3) in `frames` */
    const int32_t *ids;                   /* the slots' ids, one after the other, in `frames` */
    uint64_t digest;                      /* sum of bl_mix64(place, sample) over all count slots */
    void *frames;                         /* what holds the memory … */
    void (*release_frames)(void *frames); /* … and lets it go */
};

/* NULL is fine; sets *batch to NULL. */
void batch_free(struct batch **batch);
