/* common/image/gif.c - the first frame of a GIF file, as PIL shows it: on a canvas of the transparent colour, or of colour 0,
 * through the frame's palette or the file's; without a palette an index is a grey. */
#include <string.h>

#include "common/image/format.h"

enum { CODE_BITS_MAX = 12, CODES_MAX = 1 << CODE_BITS_MAX };

struct frame {
    int64_t x, y, width, height;
    bool interlaced;
    int transparent; /* index, -1: none */
    uint8_t palette[256][3];
};

/* -- header and blocks -- */

static void grey_palette(struct frame *frame)
{
    for (int i = 0; i < 256; i++)
        memset(frame->palette[i], i, 3);
}

/* What the palette does not name is black. flags: its size in the low three bits. */
static bool read_palette(struct bl_cursor *file, uint8_t flags, struct frame *frame)
{
    const size_t size = (size_t)3 << ((flags & 7) + 1);
    const uint8_t *colours;
    if (!bl_cursor_take(file, size, &colours))
        return false;
    memset(frame->palette, 0, sizeof frame->palette);
    memcpy(frame->palette, colours, size);
    bool is_grey = true; /* PIL takes such a palette for none: an index beyond it is a grey too */
    for (size_t i = 0; i < size; i++)
        is_grey &= colours[i] == i / 3;
    if (is_grey)
        grey_palette(frame);
    return true;
}

/* A sub-block; size 0 at the end. */
static bool read_block(struct bl_cursor *file, const uint8_t **ret, uint8_t *ret_size)
{
    return bl_cursor_u8(file, ret_size) && bl_cursor_take(file, *ret_size, ret);
}

static void read_extension(struct bl_cursor *file, struct frame *frame)
{
    uint8_t label = 0, size;
    const uint8_t *block;
    bl_cursor_u8(file, &label);
    for (bool first = true; read_block(file, &block, &size) && size; first = false)
        if (first && label == 0xf9 && size >= 4 && block[0] & 1)
            frame->transparent = block[3];
}

static bool read_descriptor(struct bl_cursor *file, struct frame *frame)
{
    uint16_t place[4];
    uint8_t flags;
    for (int i = 0; i < 4; i++)
        if (!bl_cursor_u16le(file, &place[i]))
            return false;
    if (!bl_cursor_u8(file, &flags))
        return false;
    frame->x = place[0];
    frame->y = place[1];
    frame->width = place[2];
    frame->height = place[3];
    frame->interlaced = flags & 64;
    return !(flags & 128) || read_palette(file, flags, frame);
}

/* Up to the first frame's compressed pixels. */
static bool find_frame(struct bl_cursor *file, struct frame *frame)
{
    uint8_t kind;
    while (bl_cursor_u8(file, &kind) && kind != ';') {
        if (kind == '!')
            read_extension(file, frame);
        else if (kind == ',')
            return read_descriptor(file, frame);
    }
    return false;
}

/* -- LZW -- */

struct lzw {
    struct bl_cursor *file;
    const uint8_t *block; /* of the file: the sub-block at hand, and what is left of it */
    uint8_t left;
    uint32_t bits;
    int bit_count;
    uint16_t prefix[CODES_MAX]; /* of each code: the code before its last byte … */
    uint8_t last[CODES_MAX];    /* … and that byte */
    uint8_t text[CODES_MAX];    /* of one code, backwards */
};

static bool next_code(struct lzw *lzw, int size, uint32_t *ret)
{
    while (lzw->bit_count < size) {
        if (!lzw->left && (!read_block(lzw->file, &lzw->block, &lzw->left) || !lzw->left))
            return false;
        lzw->bits |= (uint32_t)*lzw->block++ << lzw->bit_count;
        lzw->left--;
        lzw->bit_count += 8;
    }
    *ret = lzw->bits & ((1u << size) - 1);
    lzw->bits >>= size;
    lzw->bit_count -= size;
    return true;
}

/* The bytes of a code into lzw->text, last byte first; returns their number. A code that is not there yet is the one before
 * with its own first byte behind it. */
static int expand(struct lzw *lzw, uint32_t code, uint32_t next, uint32_t clear)
{
    int count = 0;
    if (code == next)
        count = 1; /* filled in below */
    for (code = code == next ? lzw->prefix[next] : code; code > clear; code = lzw->prefix[code])
        lzw->text[count++] = lzw->last[code];
    lzw->text[count++] = (uint8_t)code;
    return count;
}

/* Row of the picture that comes as the i-th. */
static int64_t row_of(const struct frame *frame, int64_t i)
{
    static const struct {
        int64_t first, step;
    } passes[] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}};
    if (!frame->interlaced)
        return i;
    for (size_t pass = 0; pass < 4; pass++) {
        int64_t rows =
            (frame->height - passes[pass].first + passes[pass].step - 1) / passes[pass].step;
        if (i < rows)
            return passes[pass].first + i * passes[pass].step;
        i -= rows > 0 ? rows : 0;
    }
    return 0;
}

static void put_pixel(const struct frame *frame, struct image *image, int64_t at, uint8_t index)
{
    int64_t x = frame->x + at % frame->width, y = frame->y + row_of(frame, at / frame->width);
    memcpy(image->pixels + 3 * (y * image->width + x), frame->palette[index], 3);
}

/* False: the data ends or is damaged before the last pixel. */
static bool read_pixels(struct lzw *lzw, const struct frame *frame, struct image *image)
{
    const int64_t pixels = frame->width * frame->height;
    uint8_t code_bits;
    if (!bl_cursor_u8(lzw->file, &code_bits) || code_bits < 1 || code_bits >= CODE_BITS_MAX)
        return false;
    const uint32_t clear = 1u << code_bits, end = clear + 1;
    uint32_t next = end + 1, code;
    int size = code_bits + 1;
    bool started = false; /* since the table was cleared */
    for (int64_t at = 0; at < pixels;) {
        if (!next_code(lzw, size, &code) || code == end)
            return false;
        if (code == clear) {
            next = end + 1;
            size = code_bits + 1;
            started = false;
            continue;
        }
        if (started ? code > next || (code == next && next == CODES_MAX) : code > clear)
            return false;
        int count = expand(lzw, code, started ? next : CODES_MAX, clear);
        uint8_t first = lzw->text[count - 1];
        if (started && next < CODES_MAX) {
            if (code == next)
                lzw->text[0] = first;
            lzw->last[next++] = first;
        }
        for (int i = count; i-- > 0 && at < pixels;)
            put_pixel(frame, image, at++, lzw->text[i]);
        started = true;
        if (next < CODES_MAX)
            lzw->prefix[next] = (uint16_t)code;
        if (next == 1u << size && size < CODE_BITS_MAX)
            size++;
    }
    return true;
}

/* -- the format -- */

static int gif_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                      int *ret_orientation, struct bl_error *err)
{
    struct bl_cursor file = bl_cursor(data, size);
    struct frame frame = {.transparent = -1};
    uint16_t width = 0, height = 0;
    uint8_t flags = 0;
    grey_palette(&frame);
    bl_cursor_skip(&file, 6);
    bl_cursor_u16le(&file, &width);
    bl_cursor_u16le(&file, &height);
    bl_cursor_u8(&file, &flags);
    if (!bl_cursor_skip(&file, 2) || (flags & 128 && !read_palette(&file, flags, &frame)) ||
        !find_frame(&file, &frame))
        return bl_fail(err, BL_EFORMAT, "expected an image in the GIF file, found none");
    int64_t right = frame.x + frame.width, below = frame.y + frame.height;
    BL_TRY(image_allocate(ret, (uint64_t)(right > width ? right : width),
                          (uint64_t)(below > height ? below : height), max_pixels, err));
    const uint8_t *ground = frame.palette[frame.transparent < 0 ? 0 : frame.transparent];
    for (int64_t i = 0; i < ret->width * ret->height; i++)
        memcpy(ret->pixels + 3 * i, ground, 3);
    struct lzw lzw = {.file = &file};
    if (read_pixels(&lzw, &frame, ret))
        return 0;
    return bl_fail(err, BL_EFORMAT,
                   "expected a complete GIF image, found: the data ends or is damaged");
}

static bool gif_recognises(const uint8_t *data, size_t size)
{
    return size >= 6 && (memcmp(data, "GIF87a", 6) == 0 || memcmp(data, "GIF89a", 6) == 0);
}

const struct image_format image_format_gif = {gif_recognises, gif_decode};
