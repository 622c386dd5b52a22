/* common/image/image.h - an image file's bytes to the u8 RGB square a vision encoder takes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/filter.h"

/* Decoded picture, rows top to bottom, 3 bytes a pixel, no padding: (height, width, 3) u8 RGB. */
struct image {
    int64_t width, height;
    uint8_t *pixels; /* owned; image_release frees */
    bool damaged;    /* part of the file's data is damaged: some pixels are made up, as PIL's are */
};
/* Frees the pixels and empties *image. An empty one is fine. */
void image_release(struct image *image);
#define bl_autoimage __attribute__((cleanup(image_release)))

/* Whether the first bytes of a file (16 are enough) are of a format that is read. */
bool image_recognised(const uint8_t *data, size_t size);

/* Decodes JPEG (CMYK/YCCK, grey), PNG (palette, grey, 16-bit, alpha, interlaced), WebP and GIF (of an animated one the first
 * frame), BMP, TIFF (the first page), and AVIF and HEIC in a build with libheif, told apart by their first bytes, to what PIL's exif_transpose and convert("RGB") give: alpha dropped; 16-bit samples by their high
 * byte. Refuses (-BL_ELIMIT) a picture of more than max_pixels before any pixel is allocated;
 * -BL_EFORMAT names what is corrupt or truncated where PIL refuses it too. A failed call leaves *ret untouched.
 * Thread-safe. */
int image_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                 struct bl_error *err);

/* out (out_height, out_width, 3) u8 = image resized as Pillow 13's Image.resize does it
 * (antialiased, separable, 8 bits between the passes, 22-bit fixed-point weights), bit for bit.
 * out_width and out_height are 1 to BL_IMAGE_SIDE_MAX. The caller owns out. Thread-safe. */
int image_resize(const struct image *image, int64_t out_width, int64_t out_height,
                 enum image_filter filter, uint8_t *out, struct bl_error *err);
