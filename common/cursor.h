/* common/cursor.h - reading bytes that others wrote, never beyond their end.
 *
 * Each read gives all the bytes asked for, or false; after the first failure every further read
 * fails too, so that a parser may read several fields and test once. A value is never invented:
 * *ret is untouched on failure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bl_cursor {
    const uint8_t *start, *pos; /* borrowed */
    size_t left;                /* bytes from pos on */
    bool failed;
};

static inline struct bl_cursor bl_cursor(const void *data, size_t size)
{
    return (struct bl_cursor){.start = data, .pos = data, .left = size};
}

/* The next `size` bytes, borrowed, and moves behind them. */
static inline bool bl_cursor_take(struct bl_cursor *cursor, size_t size, const uint8_t **ret)
{
    if (cursor->failed || size > cursor->left) {
        cursor->failed = true;
        return false;
    }
    *ret = cursor->pos;
    cursor->pos += size;
    cursor->left -= size;
    return true;
}

static inline bool bl_cursor_skip(struct bl_cursor *cursor, size_t size)
{
    const uint8_t *bytes;
    return bl_cursor_take(cursor, size, &bytes);
}

/* To `offset` bytes behind the start, forward or back. */
static inline bool bl_cursor_seek(struct bl_cursor *cursor, size_t offset)
{
    size_t size = (size_t)(cursor->pos - cursor->start) + cursor->left;
    if (cursor->failed || offset > size) {
        cursor->failed = true;
        return false;
    }
    cursor->pos = cursor->start + offset;
    cursor->left = size - offset;
    return true;
}

static inline bool bl_cursor_u8(struct bl_cursor *cursor, uint8_t *ret)
{
    const uint8_t *b;
    if (!bl_cursor_take(cursor, 1, &b))
        return false;
    *ret = b[0];
    return true;
}

static inline bool bl_cursor_u16be(struct bl_cursor *cursor, uint16_t *ret)
{
    const uint8_t *b;
    if (!bl_cursor_take(cursor, 2, &b))
        return false;
    *ret = (uint16_t)(b[0] << 8 | b[1]);
    return true;
}

static inline bool bl_cursor_u16le(struct bl_cursor *cursor, uint16_t *ret)
{
    if (!bl_cursor_u16be(cursor, ret))
        return false;
    *ret = __builtin_bswap16(*ret);
    return true;
}

static inline bool bl_cursor_u32be(struct bl_cursor *cursor, uint32_t *ret)
{
    const uint8_t *b;
    if (!bl_cursor_take(cursor, 4, &b))
        return false;
    *ret = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    return true;
}

static inline bool bl_cursor_u32le(struct bl_cursor *cursor, uint32_t *ret)
{
    if (!bl_cursor_u32be(cursor, ret))
        return false;
    *ret = __builtin_bswap32(*ret);
    return true;
}
