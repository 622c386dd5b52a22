/* worker/model/arena.c - a bump allocator over the device's memory. */
#include "worker/model/arena.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"

#define CHUNK_BYTES_MIN (1 << 20) /* so that small things share a chunk */

/* What lies behind begins at 64 bytes. */
static size_t padded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int add_chunk(struct arena *arena, size_t size, struct bl_error *err)
{
    struct arena_chunk *chunks =
        realloc(arena->chunks, ((size_t)arena->count + 1) * sizeof *arena->chunks);
    if (!chunks)
        return bl_fail(err, BL_ENOMEM, "no memory for an arena's list of chunks");
    arena->chunks = chunks;
    dev_void *base;
    BL_TRY(arena->ops->alloc(arena->ops, size, &base, err));
    arena->chunks[arena->count++] = (struct arena_chunk){base, size};
    return 0;
}

static size_t total_size(const struct arena *arena)
{
    size_t total = 0;
    for (int i = 0; i < arena->count; i++)
        total += arena->chunks[i].size;
    return total;
}

static void release_chunks(struct arena *arena)
{
    for (int i = 0; i < arena->count; i++)
        arena->ops->release(arena->ops, arena->chunks[i].base);
    arena->count = arena->current = 0;
    arena->used = arena->taken = 0;
}

int arena_reserve(struct arena *arena, size_t bytes, struct bl_error *err)
{
    BL_ASSERT(arena->count == 0);
    BL_TRY(add_chunk(arena, bytes, err));
    arena->peak = bytes;
    return 0;
}

int arena_reset(struct arena *arena, struct bl_error *err)
{
    arena->current = 0;
    arena->used = arena->taken = 0;
    if (arena->count < 2)
        return 0;
    release_chunks(arena);
    return add_chunk(arena, arena->peak, err);
}

void arena_close(struct arena *arena)
{
    release_chunks(arena);
    free(arena->chunks);
    arena->chunks = NULL;
}

struct arena_mark arena_mark(const struct arena *arena)
{
    return (struct arena_mark){arena->current, arena->used, arena->taken};
}

void arena_release(struct arena *arena, struct arena_mark mark)
{
    arena->current = mark.current;
    arena->used = mark.used;
    arena->taken = mark.taken;
}

int arena_bytes(struct arena *arena, size_t bytes, dev_void **ret, struct bl_error *err)
{
    bytes = padded(bytes);
    while (arena->current < arena->count &&
           bytes > arena->chunks[arena->current].size - arena->used) {
        arena->current++;
        arena->used = 0;
    }
    if (arena->current == arena->count) {
        int64_t size = bl_max((int64_t)bytes, (int64_t)total_size(arena) / 4);
        BL_TRY(add_chunk(arena, (size_t)bl_max(size, CHUNK_BYTES_MIN), err));
    }
    *ret = arena->chunks[arena->current].base + arena->used;
    arena->used += bytes;
    arena->taken += bytes;
    if (arena->taken > arena->peak)
        arena->peak = arena->taken;
    return 0;
}

int arena_act(struct arena *arena, int64_t count, act **ret, struct bl_error *err)
{
    dev_void *p;
    BL_TRY(arena_bytes(arena, (size_t)count * arena->ops->act_bytes, &p, err));
    *ret = p;
    return 0;
}

int arena_f32(struct arena *arena, int64_t count, dev_f32 **ret, struct bl_error *err)
{
    dev_void *p;
    BL_TRY(arena_bytes(arena, (size_t)count * sizeof(float), &p, err));
    *ret = p;
    return 0;
}

static size_t array_bytes(const struct arena_array *array)
{
    return (size_t)array->count * sizeof *array->host;
}

int arena_i32s_from(struct arena *arena, const struct arena_array *arrays, int count,
                    struct bl_error *err)
{
    size_t bytes = 0, at = 0;
    for (int i = 0; i < count; i++)
        bytes += padded(array_bytes(&arrays[i]));
    bl_autofree char *host = calloc(bytes + 1, 1);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes of indices", bytes);
    dev_void *device;
    BL_TRY(arena_bytes(arena, bytes, &device, err));
    for (int i = 0; i < count; i++) {
        const struct arena_array *array = &arrays[i];
        if (array->count > 0)
            memcpy(host + at, array->host, array_bytes(array));
        *array->ret = (const dev_i32 *)((const dev_u8 *)device + at);
        at += padded(array_bytes(array));
    }
    arena->ops->copy_in(arena->ops, device, host, bytes);
    return 0;
}

int arena_i32_from(struct arena *arena, const int32_t *host, int64_t count, const dev_i32 **ret,
                   struct bl_error *err)
{
    dev_void *p;
    BL_TRY(arena_bytes(arena, (size_t)count * sizeof *host, &p, err));
    arena->ops->copy_in(arena->ops, p, host, (size_t)count * sizeof *host);
    *ret = p;
    return 0;
}

int arena_f32_from(struct arena *arena, const float *host, int64_t count, dev_f32 **ret,
                   struct bl_error *err)
{
    BL_TRY(arena_f32(arena, count, ret, err));
    arena->ops->copy_in(arena->ops, *ret, host, (size_t)count * sizeof *host);
    return 0;
}
