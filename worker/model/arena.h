/* worker/model/arena.h - device memory of one micro-batch: taken from one end, given back all at
 * once.
 *
 * While an arena is cold it grows by chunks; arena_reset then joins them into one, so that a warm
 * arena never asks the device for memory. Work is queued in order, so what is released may be taken
 * again at once. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "worker/ops/ops.h"

struct arena_chunk {
    dev_u8 *base;
    size_t size;
};

/* What of a forward pass through blocks stays in the arena for the backward pass. */
enum saving {
    SAVE_NOTHING, /* none follows */
    SAVE_ALL,
    SAVE_INPUTS, /* of each block: backward computes all but the last again (Chen et al., "Training deep nets with sublinear memory cost", 2016) */
};

/* Zero-initialise and set ops. */
struct arena {
    struct ops *ops;
    struct arena_chunk *chunks;
    int count, current; /* chunk `current` is being filled, those behind it are empty */
    size_t used;        /* bytes of it */
    size_t taken, peak; /* bytes in use, and the most they ever were */
};

struct arena_mark {
    int current;
    size_t used, taken;
};

/* Memory for `bytes` in one piece, before anything was taken; on a CPU nothing of it is touched. -BL_ENOMEM */
int arena_reserve(struct arena *arena, size_t bytes, struct bl_error *err);
/* Everything taken is given back; several chunks become one, of the size that was needed.
 * -BL_ENOMEM leaves an empty, usable arena. */
int arena_reset(struct arena *arena, struct bl_error *err);
/* Hands all memory to the device. */
void arena_close(struct arena *arena);

/* What is taken after a mark is given back by release. */
struct arena_mark arena_mark(const struct arena *arena);
void arena_release(struct arena *arena, struct arena_mark mark);

/* 64-byte aligned, not cleared; count may be 0. */
int arena_bytes(struct arena *arena, size_t bytes, dev_void **ret, struct bl_error *err);
int arena_act(struct arena *arena, int64_t count, act **ret, struct bl_error *err);
int arena_f32(struct arena *arena, int64_t count, dev_f32 **ret, struct bl_error *err);
/* A host array, and where the address of its copy goes. */
struct arena_array {
    const int32_t *host;
    int64_t count;
    const dev_i32 **ret;
};
/* Device copies of host arrays. Several go in one copy: a GPU takes as long for some numbers as for thousands. */
int arena_i32s_from(struct arena *arena, const struct arena_array *arrays, int count,
                    struct bl_error *err);
int arena_i32_from(struct arena *arena, const int32_t *host, int64_t count, const dev_i32 **ret,
                   struct bl_error *err);
int arena_f32_from(struct arena *arena, const float *host, int64_t count, dev_f32 **ret,
                   struct bl_error *err);
