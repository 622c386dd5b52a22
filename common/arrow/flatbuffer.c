/* common/arrow/flatbuffer.c - see flatbuffer.h. */
#include "common/arrow/flatbuffer.h"

#include "common/error.h"

/* -- writing -- */

bool fb_align(struct bl_bytes *out, size_t alignment, size_t before)
{
    static const uint8_t zero[64];
    BL_ASSERT(alignment <= sizeof zero && before < alignment);
    return bl_bytes_add(out, zero, (alignment + before - out->size % alignment) % alignment);
}

static size_t round_up(size_t size, size_t alignment)
{
    return (size + alignment - 1) / alignment * alignment;
}

/* Where each field lies inside the table, behind its 4 bytes of offset to the vtable. Returns the table's size. */
static size_t lay_out(const struct fb_field *fields, int count, uint16_t *offsets)
{
    size_t size = 4;
    for (int i = 0; i < count; i++) {
        if (fields[i].bytes) {
            size = round_up(size, fields[i].bytes);
            offsets[i] = (uint16_t)size;
            size += fields[i].bytes;
        } else {
            offsets[i] = 0;
        }
    }
    return size;
}

bool fb_add_table(struct bl_bytes *out, const struct fb_field *fields, int count, size_t *ret_at,
                  size_t *ret)
{
    uint16_t vtable[2 + FB_FIELDS_MAX] = {0};
    uint8_t table[4 + 8 * FB_FIELDS_MAX + 8] = {0};
    BL_ASSERT_CMP(count, <=, FB_FIELDS_MAX);
    size_t size = lay_out(fields, count, vtable + 2), vtable_size = 4 + 2 * (size_t)count;
    vtable[0] = (uint16_t)vtable_size;
    vtable[1] = (uint16_t)size;
    int32_t back = (int32_t)vtable_size;
    memcpy(table, &back, sizeof back);
    for (int i = 0; i < count; i++)
        if (fields[i].bytes)
            memcpy(table + vtable[2 + i], &fields[i].value, fields[i].bytes);
    if (!fb_align(out, 8, (16 - vtable_size % 8) % 8) || !bl_bytes_add(out, vtable, vtable_size))
        return false;
    *ret = out->size;
    for (int i = 0; ret_at && i < count; i++)
        ret_at[i] = fields[i].bytes ? *ret + vtable[2 + i] : 0;
    return bl_bytes_add(out, table, size);
}

bool fb_add_vector(struct bl_bytes *out, uint32_t count, size_t alignment, size_t *ret)
{
    if (!fb_align(out, alignment, alignment > 4 ? alignment - 4 : 0))
        return false;
    *ret = out->size;
    return bl_bytes_add(out, &count, sizeof count);
}

bool fb_add_offsets(struct bl_bytes *out, uint32_t count, size_t *ret, size_t *ret_first)
{
    static const uint32_t none = 0;
    if (!fb_add_vector(out, count, 4, ret))
        return false;
    *ret_first = out->size;
    for (uint32_t i = 0; i < count; i++)
        if (!bl_bytes_add(out, &none, sizeof none))
            return false;
    return true;
}

bool fb_add_string(struct bl_bytes *out, const char *text, size_t *ret)
{
    size_t length = strlen(text);
    return fb_add_vector(out, (uint32_t)length, 4, ret) && bl_bytes_add(out, text, length + 1);
}

void fb_patch(struct bl_bytes *out, size_t at, size_t target)
{
    uint32_t offset = (uint32_t)(target - at);
    BL_ASSERT(at < target && at + sizeof offset <= out->size);
    memcpy(out->data + at, &offset, sizeof offset);
}

/* -- reading -- */

static bool fits(struct fb *fb, size_t at, size_t bytes)
{
    if (fb->failed || at > fb->size || bytes > fb->size - at)
        fb->failed = true;
    return !fb->failed;
}

/* `bytes` (at most 8) little-endian bytes, not sign extended. */
static uint64_t load(struct fb *fb, size_t at, size_t bytes)
{
    uint64_t value = 0;
    if (fits(fb, at, bytes))
        memcpy(&value, fb->data + at, bytes);
    return fb->failed ? 0 : value;
}

/* What the offset at `at` leads to, with at least `bytes` there. */
static size_t follow(struct fb *fb, size_t at, size_t bytes)
{
    size_t target = at + load(fb, at, 4);
    return !fb->failed && target > at && fits(fb, target, bytes) ? target : (fb->failed = true, 0);
}

size_t fb_root(struct fb *fb)
{
    return follow(fb, 0, 4);
}

/* Position of a field of `bytes`; 0: absent. */
static size_t field_at(struct fb *fb, size_t table, int field, size_t bytes)
{
    if (table == 0)
        return 0;
    int64_t vtable = (int64_t)table - (int32_t)load(fb, table, 4);
    if (fb->failed || vtable < 0 || !fits(fb, (size_t)vtable, 4)) {
        fb->failed = true;
        return 0;
    }
    size_t entry = 4 + 2 * (size_t)field, vtable_size = load(fb, (size_t)vtable, 2),
           table_size = load(fb, (size_t)vtable + 2, 2);
    if (!fits(fb, (size_t)vtable, vtable_size) || entry + 2 > vtable_size)
        return 0;
    size_t offset = load(fb, (size_t)vtable + entry, 2);
    if (offset == 0)
        return 0;
    if (offset < 4 || offset + bytes > table_size || !fits(fb, table, offset + bytes)) {
        fb->failed = true;
        return 0;
    }
    return table + offset;
}

size_t fb_table(struct fb *fb, size_t table, int field)
{
    size_t at = field_at(fb, table, field, 4);
    return at ? follow(fb, at, 4) : 0;
}

int64_t fb_whole(struct fb *fb, size_t table, int field, int bytes, int64_t fallback)
{
    size_t at = field_at(fb, table, field, (size_t)bytes);
    if (at == 0)
        return fallback;
    int unused = 64 - 8 * bytes;
    return (int64_t)(load(fb, at, (size_t)bytes) << unused) >> unused;
}

size_t fb_vector(struct fb *fb, size_t table, int field, size_t element_bytes, uint32_t *ret_count)
{
    *ret_count = 0;
    size_t at = field_at(fb, table, field, 4);
    size_t vector = at ? follow(fb, at, 4) : 0;
    if (vector == 0)
        return 0;
    uint64_t count = load(fb, vector, 4);
    if (!fits(fb, vector + 4, count * element_bytes))
        return 0;
    *ret_count = (uint32_t)count;
    return vector + 4;
}

size_t fb_element(struct fb *fb, size_t first, uint32_t i)
{
    return follow(fb, first + 4 * (size_t)i, 4);
}

const char *fb_text(struct fb *fb, size_t table, int field)
{
    uint32_t length;
    size_t at = fb_vector(fb, table, field, 1, &length);
    if (at == 0)
        return NULL;
    const char *text = (const char *)fb->data + at;
    if (fits(fb, at, (size_t)length + 1) && text[length] == 0 && strlen(text) == length)
        return text;
    fb->failed = true;
    return NULL;
}
