/* common/image/tiff.c - the first page of a TIFF file by libtiff, which decompresses; samples are put together here as PIL does:
 * grey (white is 0 or not), palette, RGB and CMYK of 1 to 16 bits, in strips or tiles, in one plane or several. 16-bit samples
 * by their high byte, alpha dropped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tiffio.h>

#include "common/cleanup.h"
#include "common/image/format.h"

enum { SAMPLES_MAX = 16 };

/* What libtiff reads from, and the first thing it complains of. */
struct memory {
    const uint8_t *data;
    size_t size, at;
    char text[160];
};

struct page {
    TIFF *tiff;
    uint32_t width, height;
    uint16_t bits, samples, photometric, planar, extra_count;
    uint16_t *extras;             /* what samples behind the colours are; libtiff's */
    uint16_t *red, *green, *blue; /* of a palette; libtiff's */
    int colours;                  /* samples that matter: 1, 3 or 4 */
    bool premultiplied;           /* RGB times the alpha behind it */
};

/* -- libtiff's view of memory -- */

static tmsize_t read_memory(thandle_t handle, void *out, tmsize_t size)
{
    struct memory *m = handle;
    size_t left = m->size - m->at, count = (size_t)size < left ? (size_t)size : left;
    if (count)
        memcpy(out, m->data + m->at, count);
    m->at += count;
    return (tmsize_t)count;
}

static tmsize_t write_memory(thandle_t handle, void *in, tmsize_t size)
{
    return -1;
}

static toff_t seek_memory(thandle_t handle, toff_t offset, int whence)
{
    struct memory *m = handle;
    toff_t from = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? m->at : m->size;
    toff_t at = from + offset;
    m->at = at < m->size ? (size_t)at : m->size;
    return m->at;
}

static int close_memory(thandle_t handle)
{
    return 0;
}

static toff_t size_of_memory(thandle_t handle)
{
    return ((struct memory *)handle)->size;
}

static int keep_message(TIFF *tiff, void *context, const char *module, const char *format,
                        va_list args)
{
    struct memory *m = context;
    if (!m->text[0])
        vsnprintf(m->text, sizeof m->text, format, args);
    return 1;
}

static int ignore_message(TIFF *tiff, void *context, const char *module, const char *format,
                          va_list args)
{
    return 1;
}

static TIFF *open_memory(struct memory *m)
{
    TIFFOpenOptions *options = TIFFOpenOptionsAlloc();
    if (!options)
        return NULL;
    TIFFOpenOptionsSetErrorHandlerExtR(options, keep_message, m);
    TIFFOpenOptionsSetWarningHandlerExtR(options, ignore_message, NULL);
    /* "m": never mapped by libtiff itself */
    TIFF *tiff = TIFFClientOpenExt("picture", "rm", m, read_memory, write_memory, seek_memory,
                                   close_memory, size_of_memory, NULL, NULL, options);
    TIFFOpenOptionsFree(options);
    return tiff;
}

static void close_tiff(TIFF **tiff)
{
    if (*tiff)
        TIFFClose(*tiff);
}

/* -- the page -- */

static int unsupported(const struct page *p, struct bl_error *err)
{
    return bl_fail(err, BL_EFORMAT,
                   "expected a TIFF image of grey, palette, RGB or CMYK samples of 1 to 16 bits, "
                   "found photometric %u, %u samples of %u bits",
                   p->photometric, p->samples, p->bits);
}

static int read_page(struct page *p, struct bl_error *err)
{
    uint16_t format = SAMPLEFORMAT_UINT, compression = 0, inks = INKSET_CMYK;
    p->photometric = UINT16_MAX;
    TIFFGetField(p->tiff, TIFFTAG_IMAGEWIDTH, &p->width);
    TIFFGetField(p->tiff, TIFFTAG_IMAGELENGTH, &p->height);
    TIFFGetFieldDefaulted(p->tiff, TIFFTAG_BITSPERSAMPLE, &p->bits);
    TIFFGetFieldDefaulted(p->tiff, TIFFTAG_SAMPLESPERPIXEL, &p->samples);
    TIFFGetFieldDefaulted(p->tiff, TIFFTAG_PLANARCONFIG, &p->planar);
    TIFFGetFieldDefaulted(p->tiff, TIFFTAG_SAMPLEFORMAT, &format);
    TIFFGetFieldDefaulted(p->tiff, TIFFTAG_EXTRASAMPLES, &p->extra_count, &p->extras);
    TIFFGetFieldDefaulted(p->tiff, TIFFTAG_INKSET, &inks);
    TIFFGetField(p->tiff, TIFFTAG_PHOTOMETRIC, &p->photometric);
    TIFFGetField(p->tiff, TIFFTAG_COMPRESSION, &compression);
    if (p->photometric == PHOTOMETRIC_YCBCR && compression == COMPRESSION_JPEG) {
        TIFFSetField(p->tiff, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
        p->photometric = PHOTOMETRIC_RGB;
    }
    bool whole_bytes = p->bits == 8 || p->bits == 16;
    bool grey =
        p->photometric == PHOTOMETRIC_MINISWHITE || p->photometric == PHOTOMETRIC_MINISBLACK;
    p->colours = p->photometric == PHOTOMETRIC_RGB                                ? 3
                 : p->photometric == PHOTOMETRIC_SEPARATED && inks == INKSET_CMYK ? 4
                 : grey || p->photometric == PHOTOMETRIC_PALETTE                  ? 1
                                                                                  : 0;
    if (!p->colours || p->samples < p->colours || p->samples > SAMPLES_MAX ||
        (format != SAMPLEFORMAT_UINT && format != SAMPLEFORMAT_VOID) ||
        (!whole_bytes &&
         (p->colours > 1 || p->samples > 1 || (p->bits != 1 && p->bits != 2 && p->bits != 4))))
        return unsupported(p, err);
    if (p->photometric == PHOTOMETRIC_PALETTE &&
        (p->bits > 8 || !TIFFGetField(p->tiff, TIFFTAG_COLORMAP, &p->red, &p->green, &p->blue)))
        return unsupported(p, err);
    p->premultiplied = p->colours == 3 && p->samples > 3 && p->extra_count &&
                       p->extras[0] == EXTRASAMPLE_ASSOCALPHA;
    return 0;
}

/* -- samples -- */

/* Sample i of a row, as a byte: high byte, or the raw value of few bits. */
static uint8_t sample_at(const struct page *p, const uint8_t *row, size_t i)
{
    uint16_t wide;
    if (p->bits == 8)
        return row[i];
    if (p->bits == 16) {
        memcpy(&wide, row + 2 * i, sizeof wide); /* libtiff gives the host's order */
        return (uint8_t)(wide >> 8);
    }
    size_t per_byte = 8u / p->bits;
    return row[i / per_byte] >> (8 - p->bits * (i % per_byte + 1)) & ((1 << p->bits) - 1);
}

/* The channels kept of each pixel: colours, and an alpha that they were multiplied by. */
static int channels(const struct page *p)
{
    return p->colours + p->premultiplied;
}

/* A block of `width` x `height` pixels at (x, y), of all planes or of one, into samples (H, W, channels). */
static void take_block(const struct page *p, const uint8_t *block, size_t row_bytes, uint32_t x,
                       uint32_t y, uint32_t width, uint32_t height, int plane, uint8_t *samples)
{
    const int kept = channels(p);
    const bool separate = p->planar == PLANARCONFIG_SEPARATE;
    for (uint32_t v = 0; v < height && y + v < p->height; v++)
        for (uint32_t u = 0; u < width && x + u < p->width; u++) {
            uint8_t *out = samples + ((size_t)(y + v) * p->width + x + u) * (size_t)kept;
            const uint8_t *row = block + v * row_bytes;
            if (separate)
                out[plane] = sample_at(p, row, u);
            else
                for (int c = 0; c < kept; c++)
                    out[c] = sample_at(p, row, (size_t)u * p->samples + (size_t)c);
        }
}

static bool read_plane(const struct page *p, int plane, uint8_t *samples, struct bl_error *err)
{
    const bool tiled = TIFFIsTiled(p->tiff);
    uint32_t width = p->width, height = 0;
    tmsize_t size = tiled ? TIFFTileSize(p->tiff) : TIFFStripSize(p->tiff);
    tmsize_t row_bytes = tiled ? TIFFTileRowSize(p->tiff) : TIFFScanlineSize(p->tiff);
    if (tiled) {
        TIFFGetField(p->tiff, TIFFTAG_TILEWIDTH, &width);
        TIFFGetField(p->tiff, TIFFTAG_TILELENGTH, &height);
    } else {
        TIFFGetFieldDefaulted(p->tiff, TIFFTAG_ROWSPERSTRIP, &height);
        height = height < p->height ? height : p->height;
    }
    if (size <= 0 || row_bytes <= 0 || !width || !height ||
        (uint64_t)row_bytes * height > (uint64_t)size)
        return false;
    bl_autofree uint8_t *block = malloc((size_t)size);
    if (!block)
        return false;
    for (uint32_t y = 0; y < p->height; y += height)
        for (uint32_t x = 0; x < p->width; x += width) {
            tmsize_t wanted = size, got;
            if (!tiled && p->height - y < height)
                wanted = row_bytes * (tmsize_t)(p->height - y);
            got = tiled
                      ? TIFFReadTile(p->tiff, block, x, y, 0, (uint16_t)plane)
                      : TIFFReadEncodedStrip(p->tiff, TIFFComputeStrip(p->tiff, y, (uint16_t)plane),
                                             block, wanted);
            if (got < wanted)
                return false;
            take_block(p, block, (size_t)row_bytes, x, y, width, height, plane, samples);
        }
    return true;
}

/* -- colours -- */

/* a b / 255, rounded. */
static int product(int a, int b)
{
    int t = a * b + 128;
    return (t + (t >> 8)) >> 8;
}

static uint8_t divided(int value, int alpha)
{
    int wide = alpha ? value * 255 / alpha : 0;
    return (uint8_t)(wide > 255 ? 255 : wide);
}

static void to_rgb(const struct page *p, const uint8_t *s, uint8_t *rgb)
{
    const int most = p->bits < 8 ? (1 << p->bits) - 1 : 255;
    for (int c = 0; c < 3; c++)
        switch (p->photometric) {
        case PHOTOMETRIC_MINISWHITE:
            rgb[c] = (uint8_t)(255 - s[0] * 255 / most);
            break;
        case PHOTOMETRIC_MINISBLACK:
            rgb[c] = (uint8_t)(s[0] * 255 / most);
            break;
        case PHOTOMETRIC_PALETTE:
            rgb[c] = (uint8_t)((c == 0 ? p->red : c == 1 ? p->green : p->blue)[s[0]] >> 8);
            break;
        case PHOTOMETRIC_RGB:
            rgb[c] = p->premultiplied ? divided(s[c], s[3]) : s[c];
            break;
        default: /* CMYK */
            rgb[c] = (uint8_t)(255 - s[3] - product(s[c], 255 - s[3]));
        }
}

static void find_orientation(TIFF *tiff, int *ret)
{
    uint16_t orientation = 0;
    uint32_t size = 0;
    void *xmp = NULL;
    if (TIFFGetField(tiff, TIFFTAG_ORIENTATION, &orientation))
        *ret = orientation >= 1 && orientation <= 8 ? orientation : 1;
    else if (TIFFGetField(tiff, TIFFTAG_XMLPACKET, &size, &xmp))
        image_orientation(NULL, 0, xmp, size, ret);
}

static int read_picture(struct page *p, int64_t max_pixels, struct image *ret, bool *ret_whole,
                        struct bl_error *err)
{
    BL_TRY(read_page(p, err));
    BL_TRY(image_allocate(ret, p->width, p->height, max_pixels, err));
    const size_t kept = (size_t)channels(p), pixels = (size_t)p->width * p->height;
    bl_autofree uint8_t *samples = malloc(pixels * kept);
    if (!samples)
        return bl_fail(err, BL_ENOMEM, "no memory for an image of %u x %u pixels", p->width,
                       p->height);
    *ret_whole = true;
    const int planes = p->planar == PLANARCONFIG_SEPARATE ? (int)kept : 1;
    for (int plane = 0; plane < planes && *ret_whole; plane++)
        *ret_whole = read_plane(p, plane, samples, err);
    for (size_t i = 0; i < pixels && *ret_whole; i++)
        to_rgb(p, samples + i * kept, ret->pixels + 3 * i);
    return 0;
}

static int tiff_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                       int *ret_orientation, struct bl_error *err)
{
    struct memory memory = {.data = data, .size = size};
    __attribute__((cleanup(close_tiff))) TIFF *tiff = open_memory(&memory);
    struct page page = {.tiff = tiff};
    bool whole = false;
    if (tiff) {
        find_orientation(tiff, ret_orientation);
        BL_TRY(read_picture(&page, max_pixels, ret, &whole, err));
    }
    if (whole)
        return 0;
    return bl_fail(err, BL_EFORMAT, "expected a complete TIFF image, found: %s",
                   memory.text[0] ? memory.text : "the file ends inside the image");
}

static bool tiff_recognises(const uint8_t *data, size_t size)
{
    return size >= 8 && (memcmp(data, "II*\0", 4) == 0 || memcmp(data, "MM\0*", 4) == 0 ||
                         memcmp(data, "II+\0", 4) == 0 || memcmp(data, "MM\0+", 4) == 0);
}

const struct image_format image_format_tiff = {tiff_recognises, tiff_decode};
