/* common/image/png_text.c - the orientation of a PNG picture: in eXIf, or in the text chunks into which programs wrote EXIF and
 * XMP before PNG had eXIf. As PIL: a later chunk replaces an earlier one, also behind the pixels. */
#include <string.h>

#include <zlib.h>

#include "common/array.h"
#include "common/image/format.h"
#include "common/limits.h"
#include "common/utf8.h"

/* What the chunks hold that may tell an orientation. */
struct found {
    const uint8_t *exif; /* borrowed from the file; NULL: none */
    size_t exif_size;
    struct bl_bytes profile;   /* EXIF as hexadecimal digits, by ImageMagick */
    struct bl_bytes xmp;       /* an XMP packet … */
    struct bl_bytes other_xmp; /* … and one that is no UTF-8 */
};

static void set(struct bl_bytes *bytes, const uint8_t *data, size_t size)
{
    bytes->size = 0;
    bl_bytes_add(bytes, data, size); /* without memory it tells nothing */
}

/* Decompresses; nothing where the data is damaged or too much. */
static void set_inflated(struct bl_bytes *bytes, const uint8_t *data, size_t size)
{
    uint8_t out[4096];
    z_stream stream = {.next_in = (uint8_t *)(uintptr_t)data, .avail_in = (uInt)size};
    int rc = inflateInit(&stream);
    bytes->size = 0;
    while (rc == Z_OK && bytes->size <= BL_PNG_TEXT_MAX) {
        stream.next_out = out;
        stream.avail_out = sizeof out;
        rc = inflate(&stream, Z_NO_FLUSH);
        if (rc == Z_OK || rc == Z_STREAM_END)
            bl_bytes_add(bytes, out, sizeof out - stream.avail_out);
    }
    inflateEnd(&stream);
    if (rc != Z_STREAM_END || bytes->size > BL_PNG_TEXT_MAX)
        bytes->size = 0;
}

static bool is(const char *key, size_t size, const char *name)
{
    return size == strlen(name) && !memcmp(key, name, size);
}

/* The buffer for a text under this key, NULL for keys that tell nothing here. */
static struct bl_bytes *buffer_for(struct found *found, const char *key, size_t size)
{
    return is(key, size, "Raw profile type exif") ? &found->profile
           : is(key, size, "XML:com.adobe.xmp")   ? &found->xmp
                                                  : NULL;
}

/* Bytes up to the next NUL, and past it. False: there is none. */
static bool take_text(struct bl_cursor *chunk, const char **ret, size_t *ret_size)
{
    const uint8_t *nul = chunk->left ? memchr(chunk->pos, 0, chunk->left) : NULL;
    if (!nul)
        return false;
    *ret = (const char *)chunk->pos;
    *ret_size = (size_t)(nul - chunk->pos);
    return bl_cursor_skip(chunk, *ret_size + 1);
}

/* tEXt: key NUL text; zTXt: key NUL 0 compressed text. */
static void read_text(struct found *found, struct bl_cursor chunk, bool compressed)
{
    const char *key;
    size_t size;
    if (!take_text(&chunk, &key, &size))
        return;
    if (!compressed && is(key, size, "exif")) {
        found->exif = chunk.pos;
        found->exif_size = chunk.left;
        return;
    }
    struct bl_bytes *buffer = buffer_for(found, key, size);
    uint8_t method;
    if (!buffer)
        return;
    if (!compressed)
        set(buffer, chunk.pos, chunk.left);
    else if (bl_cursor_u8(&chunk, &method) && method == 0)
        set_inflated(buffer, chunk.pos, chunk.left);
}

/* iTXt: key NUL, compressed?, method, language NUL, translated key NUL, text. */
static void read_international(struct found *found, struct bl_cursor chunk)
{
    const char *key, *unused;
    size_t size, unused_size;
    uint8_t compressed, method;
    struct bl_bytes text = {0};
    if (!take_text(&chunk, &key, &size) || !bl_cursor_u8(&chunk, &compressed) ||
        !bl_cursor_u8(&chunk, &method) || !take_text(&chunk, &unused, &unused_size) ||
        !take_text(&chunk, &unused, &unused_size) || (compressed && method != 0))
        return;
    struct bl_bytes *buffer = buffer_for(found, key, size);
    if (!buffer)
        return;
    if (compressed)
        set_inflated(&text, chunk.pos, chunk.left);
    else
        set(&text, chunk.pos, chunk.left);
    bool valid = utf8_valid(text.data, text.size) == text.size;
    if (valid || buffer == &found->xmp)
        set(valid ? buffer : &found->other_xmp, (const uint8_t *)text.data, text.size);
    bl_bytes_release(&text);
}

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "\nexif\n    1234\n" and then hexadecimal digits in lines, to bytes in place. */
static void decode_profile(struct bl_bytes *profile)
{
    size_t at = 0, used = 0;
    for (int lines = 0; lines < 3 && at < profile->size; at++)
        lines += profile->data[at] == '\n';
    int high = -1;
    for (; at < profile->size; at++) {
        int value = digit(profile->data[at]);
        if (value < 0)
            continue;
        if (high >= 0)
            profile->data[used++] = (char)(high << 4 | value);
        high = high >= 0 ? -1 : value;
    }
    profile->size = used;
}

void png_find_orientation(struct bl_cursor chunks, int *ret)
{
    struct found found = {0};
    const uint8_t *type, *data;
    uint32_t size;
    while (bl_cursor_u32be(&chunks, &size) && bl_cursor_take(&chunks, 4, &type) &&
           bl_cursor_take(&chunks, size, &data) && bl_cursor_skip(&chunks, 4)) {
        struct bl_cursor chunk = bl_cursor(data, size);
        if (!memcmp(type, "eXIf", 4)) {
            found.exif = data;
            found.exif_size = size;
        } else if (!memcmp(type, "tEXt", 4) || !memcmp(type, "zTXt", 4)) {
            read_text(&found, chunk, type[0] == 'z');
        } else if (!memcmp(type, "iTXt", 4)) {
            read_international(&found, chunk);
        }
    }
    if (!found.exif && found.profile.size) {
        decode_profile(&found.profile);
        found.exif = (const uint8_t *)found.profile.data;
        found.exif_size = found.profile.size;
    }
    const struct bl_bytes *xmp = found.xmp.size ? &found.xmp : &found.other_xmp;
    image_orientation(found.exif, found.exif_size, (const uint8_t *)xmp->data, xmp->size, ret);
    bl_bytes_release(&found.profile);
    bl_bytes_release(&found.xmp);
    bl_bytes_release(&found.other_xmp);
}
