/* common/image/bmp.c - Windows and OS/2 bitmaps: 1, 4, 8, 16, 24 and 32 bits, plain, by bit fields or run lengths; alpha is
 * dropped. What PIL does not read is refused. */
#include <string.h>

#include "common/image/format.h"

enum { PLAIN = 0, RLE8 = 1, RLE4 = 2, BITFIELDS = 3 };

struct bitmap {
    uint32_t header_bytes, compression, colours;
    int64_t width, height;
    bool downwards; /* the first row is the top one */
    int bits;
    uint32_t masks[3]; /* red, green, blue; of 16 and 32 bits */
    uint8_t palette[256][3];
    size_t pixels; /* their offset in the file */
};

/* -- header -- */

static bool read_os2_header(struct bl_cursor *file, struct bitmap *b)
{
    uint16_t width, height, planes, bits;
    if (!bl_cursor_u16le(file, &width) || !bl_cursor_u16le(file, &height) ||
        !bl_cursor_u16le(file, &planes) || !bl_cursor_u16le(file, &bits))
        return false;
    b->width = width;
    b->height = height;
    b->bits = bits;
    return true;
}

static bool read_windows_header(struct bl_cursor *file, struct bitmap *b)
{
    uint32_t width, height, size, resolution, important;
    uint16_t planes, bits;
    if (!bl_cursor_u32le(file, &width) || !bl_cursor_u32le(file, &height) ||
        !bl_cursor_u16le(file, &planes) || !bl_cursor_u16le(file, &bits) ||
        !bl_cursor_u32le(file, &b->compression) || !bl_cursor_u32le(file, &size) ||
        !bl_cursor_u32le(file, &resolution) || !bl_cursor_u32le(file, &resolution) ||
        !bl_cursor_u32le(file, &b->colours) || !bl_cursor_u32le(file, &important))
        return false;
    b->downwards = height >> 24 == 0xff;
    b->width = width;
    b->height = b->downwards ? (int64_t)UINT32_MAX + 1 - height : height;
    b->bits = bits;
    return true;
}

/* Behind a header of 40 bytes, inside a longer one. */
static bool read_masks(struct bl_cursor *file, struct bitmap *b)
{
    static const uint32_t plain[][3] = {{0x7c00, 0x3e0, 0x1f}, {0xff0000, 0xff00, 0xff}};
    if (b->compression != BITFIELDS) {
        memcpy(b->masks, plain[b->bits == 32], sizeof b->masks);
        return true;
    }
    for (int i = 0; i < 3; i++)
        if (!bl_cursor_u32le(file, &b->masks[i]))
            return false;
    if (b->bits == 32 && !b->masks[0] && !b->masks[1] && !b->masks[2])
        memcpy(b->masks, plain[1], sizeof b->masks); /* as PIL takes them */
    return true;
}

/* Bits of a mask in a row, and how far they are from the lowest; false: not in a row. */
static bool split_mask(uint32_t mask, int *ret_shift, uint32_t *ret_most)
{
    int shift = 0;
    if (!mask)
        return false;
    for (; !(mask & 1); mask >>= 1)
        shift++;
    *ret_shift = shift;
    *ret_most = mask;
    return (mask & (mask + 1)) == 0;
}

static bool is_supported(const struct bitmap *b)
{
    int shift;
    uint32_t most;
    if (b->compression == RLE8 || b->compression == RLE4)
        return b->bits == (b->compression == RLE8 ? 8 : 4);
    if (b->compression == BITFIELDS ? b->bits < 16 : b->compression != PLAIN)
        return false;
    for (int i = 0; i < 3 && b->bits != 24 && b->bits >= 16; i++)
        if (!split_mask(b->masks[i], &shift, &most))
            return false;
    return b->bits == 1 || b->bits == 4 || b->bits == 8 || b->bits == 16 || b->bits == 24 ||
           b->bits == 32;
}

/* Blue, green, red, and nothing; OS/2 leaves the last out. What the palette does not name is black. */
static bool read_palette(struct bl_cursor *file, struct bitmap *b)
{
    const size_t entry = b->header_bytes == 12 ? 3 : 4;
    const uint8_t *colours;
    uint32_t count = b->colours ? b->colours : 1u << b->bits;
    if (count > 65536 || !bl_cursor_take(file, count * entry, &colours))
        return false;
    for (uint32_t i = 0; i < count && i < 256; i++)
        for (int c = 0; c < 3; c++)
            b->palette[i][c] = colours[i * entry + 2 - (size_t)c];
    return true;
}

static bool read_header(struct bl_cursor *file, struct bitmap *b)
{
    uint32_t pixels;
    if (!bl_cursor_skip(file, 10) || !bl_cursor_u32le(file, &pixels) ||
        !bl_cursor_u32le(file, &b->header_bytes) ||
        !(b->header_bytes == 12 ? read_os2_header(file, b) : read_windows_header(file, b)) ||
        !read_masks(file, b) || !is_supported(b))
        return false;
    b->pixels = pixels;
    size_t behind = 14 + (size_t)b->header_bytes;
    if (behind > (size_t)(file->pos - file->start) && !bl_cursor_seek(file, behind))
        return false;
    if (b->bits <= 8 && !read_palette(file, b))
        return false;
    size_t here = (size_t)(file->pos - file->start);
    if (!pixels || (b->bits <= 8 && pixels == behind))
        b->pixels = here; /* some writers forget the palette */
    return bl_cursor_seek(file, b->pixels);
}

/* -- pixels -- */

/* A field of a pixel as 0 to 255. */
static uint8_t scale(uint32_t pixel, uint32_t mask)
{
    int shift = 0;
    uint32_t most = 1;
    split_mask(mask, &shift, &most);
    uint64_t value = (pixel & mask) >> shift;
    return (uint8_t)(value * 255 / most);
}

static void convert_pixel(const struct bitmap *b, const uint8_t *row, int64_t x, uint8_t *rgb)
{
    if (b->bits <= 8) {
        int per_byte = 8 / b->bits, at = (int)(x % per_byte);
        int index = row[x / per_byte] >> (8 - b->bits * (at + 1)) & ((1 << b->bits) - 1);
        memcpy(rgb, b->palette[index], 3);
    } else if (b->bits == 24) {
        for (int c = 0; c < 3; c++)
            rgb[c] = row[3 * x + 2 - c];
    } else {
        uint32_t pixel = 0;
        for (int i = b->bits / 8; i-- > 0;)
            pixel = pixel << 8 | row[b->bits / 8 * x + i];
        for (int c = 0; c < 3; c++)
            rgb[c] = scale(pixel, b->masks[c]);
    }
}

/* Row y from the file's start on the picture. */
static uint8_t *row_at(const struct bitmap *b, const struct image *image, int64_t y)
{
    return image->pixels + 3 * image->width * (b->downwards ? y : image->height - 1 - y);
}

static bool read_rows(struct bl_cursor *file, const struct bitmap *b, struct image *image)
{
    const size_t row_bytes = (size_t)((b->width * b->bits + 31) / 32 * 4);
    const uint8_t *row;
    for (int64_t y = 0; y < b->height; y++) {
        /* the last row's padding may be missing */
        size_t wanted = y + 1 < b->height ? row_bytes : (size_t)((b->width * b->bits + 7) / 8);
        if (!bl_cursor_take(file, wanted, &row))
            return false;
        for (int64_t x = 0; x < b->width; x++)
            convert_pixel(b, row, x, row_at(b, image, y) + 3 * x);
    }
    return true;
}

/* Pixels by run lengths, in the order of the file: `at` counts them over all rows. */
struct runs {
    struct bl_cursor *file;
    const struct bitmap *b;
    struct image *image;
    int64_t at, total;
};

static void put(struct runs *r, uint8_t index)
{
    if (r->at < r->total) {
        uint8_t *row = row_at(r->b, r->image, r->at / r->b->width);
        memcpy(row + 3 * (r->at % r->b->width), r->b->palette[index], 3);
    }
    r->at++;
}

static uint8_t nibble(const uint8_t *bytes, int i)
{
    return i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
}

/* `count` pixels as they are, padded to an even offset in the file. */
static bool put_literal(struct runs *r, int count)
{
    const bool four = r->b->compression == RLE4;
    const uint8_t *bytes;
    if (!bl_cursor_take(r->file, (size_t)(four ? (count + 1) / 2 : count), &bytes))
        return false;
    for (int i = 0; i < count; i++)
        put(r, four ? nibble(bytes, i) : bytes[i]);
    if ((r->file->pos - r->file->start) % 2)
        bl_cursor_skip(r->file, 1);
    return true;
}

static bool read_runs(struct runs *r)
{
    const int64_t width = r->b->width;
    int64_t x = 0; /* where PIL takes the row to be */
    while (r->at < r->total) {
        uint8_t count, value, right, up;
        if (!bl_cursor_u8(r->file, &count) || !bl_cursor_u8(r->file, &value))
            return false;
        if (count) {
            int64_t fit = x + count > width ? (width > x ? width - x : 0) : count;
            const uint8_t two[1] = {value};
            for (int64_t i = 0; i < fit; i++)
                put(r, r->b->compression == RLE4 ? nibble(two, (int)(i % 2)) : value);
            x += fit;
        } else if (value == 0) {
            while (r->at % width)
                put(r, 0);
            x = 0;
        } else if (value == 1) {
            return false;
        } else if (value == 2) {
            if (!bl_cursor_u8(r->file, &right) || !bl_cursor_u8(r->file, &up))
                return false;
            for (int64_t i = right + (int64_t)up * width; i > 0 && r->at < r->total; i--)
                put(r, 0);
            x = r->at % width;
        } else {
            if (!put_literal(r, value))
                return false;
            x += value;
        }
    }
    return true;
}

/* -- the format -- */

static int bmp_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                      int *ret_orientation, struct bl_error *err)
{
    struct bl_cursor file = bl_cursor(data, size);
    struct bitmap b = {0};
    if (!read_header(&file, &b))
        return bl_fail(err, BL_EFORMAT, "expected a supported kind of BMP image, found another");
    BL_TRY(image_allocate(ret, (uint64_t)b.width, (uint64_t)b.height, max_pixels, err));
    struct runs runs = {&file, &b, ret, 0, b.width * b.height};
    if (b.compression == RLE8 || b.compression == RLE4 ? read_runs(&runs)
                                                       : read_rows(&file, &b, ret))
        return 0;
    return bl_fail(err, BL_EFORMAT,
                   "expected a complete BMP image, found: the file ends inside the image");
}

static bool bmp_recognises(const uint8_t *data, size_t size)
{
    return size >= 18 && memcmp(data, "BM", 2) == 0 && data[15] == 0 && data[16] == 0 &&
           data[17] == 0;
}

const struct image_format image_format_bmp = {bmp_recognises, bmp_decode};
