/* common/arrow/flatbuffer.h - FlatBuffers (google.github.io/flatbuffers/flatbuffers_internals.html), as far as Arrow's
 * metadata needs them: written front to back, read in place. A position is a number of bytes from the buffer's start; 0,
 * where the root's offset lies, stands for "absent". */
#pragma once

#include "common/array.h"

/* -- writing: a table first, then what it refers to, which is patched in -- */

/* A field of a table. bytes: 0 (absent), 1, 2, 4 or 8. An offset is 4 bytes that fb_patch fills in. */
struct fb_field {
    uint8_t bytes;
    uint64_t value;
};
#define FB_OFFSET                                                                                  \
    {                                                                                              \
        4, 0                                                                                       \
    }
#define FB_FIELDS_MAX 8

/* Pads with zeros until size % alignment == before. Every writer below: false = out of memory. */
bool fb_align(struct bl_bytes *out, size_t alignment, size_t before);
/* Appends a table; ret_at[i] (may be NULL) is the position of field i, 0 if absent. The table's own is *ret. */
bool fb_add_table(struct bl_bytes *out, const struct fb_field *fields, int count, size_t *ret_at,
                  size_t *ret);
/* Appends a vector's length, so that the elements behind it are aligned to `alignment`. */
bool fb_add_vector(struct bl_bytes *out, uint32_t count, size_t alignment, size_t *ret);
/* A vector of `count` offsets to patch; the first one is at *ret_first. */
bool fb_add_offsets(struct bl_bytes *out, uint32_t count, size_t *ret, size_t *ret_first);
bool fb_add_string(struct bl_bytes *out, const char *text, size_t *ret);
/* Lets the offset at `at` lead to `target`, which lies behind it. */
void fb_patch(struct bl_bytes *out, size_t at, size_t target);

/* -- reading: bytes that others wrote -- */

/* The first thing that does not fit sets `failed`, which stays; reads then give their fallback. */
struct fb {
    const uint8_t *data; /* borrowed */
    size_t size;
    bool failed;
};

/* Positions of tables; 0: absent, or failed. */
size_t fb_root(struct fb *fb);
size_t fb_table(struct fb *fb, size_t table, int field);
/* A whole number of 1, 2, 4 or 8 bytes, sign extended. */
int64_t fb_whole(struct fb *fb, size_t table, int field, int bytes, int64_t fallback);
/* The first element's position, inside the buffer with all `*ret_count` elements of element_bytes; absent: 0 elements. */
size_t fb_vector(struct fb *fb, size_t table, int field, size_t element_bytes, uint32_t *ret_count);
/* Of a vector of tables or strings: what element i leads to. */
size_t fb_element(struct fb *fb, size_t first, uint32_t i);
/* NUL-terminated, no NUL inside; NULL: absent or failed. Borrowed. */
const char *fb_text(struct fb *fb, size_t table, int field);
