/* common/array.h - arrays that grow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"

/* Makes room for `need` elements in the array that `items` points at; doubles, so that adding is
 * O(1) on average. False: out of memory, the array is as before. */
static inline bool bl_grow(void *items, size_t *capacity, size_t need, size_t element)
{
    if (need <= *capacity)
        return true;
    size_t wanted = *capacity < 8 ? 8 : *capacity, bytes;
    while (wanted < need)
        if (!bl_mul(wanted, 2, &wanted))
            return false;
    void *old;
    memcpy(&old, items, sizeof old);
    void *grown = bl_mul(wanted, element, &bytes) ? realloc(old, bytes) : NULL;
    if (!grown)
        return false;
    memcpy(items, &grown, sizeof grown);
    *capacity = wanted;
    return true;
}

/* Bytes that are only added to. Zero-initialise; release when done. */
struct bl_bytes {
    char *data;
    size_t size, capacity;
};
static inline bool bl_bytes_add(struct bl_bytes *bytes, const void *data, size_t size)
{
    size_t need;
    if (!bl_add(bytes->size, size, &need) ||
        !bl_grow(&bytes->data, &bytes->capacity, need ? need : 1, 1))
        return false;
    if (size)
        memcpy(bytes->data + bytes->size, data, size);
    bytes->size = need;
    return true;
}
static inline void bl_bytes_release(struct bl_bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bl_bytes){0};
}
#define bl_autobytes __attribute__((cleanup(bl_bytes_release)))
