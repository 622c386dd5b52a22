/* common/image/format.h - what image.c and the file formats share. Private to the image room.
 *
 * A format is one file (image_jpeg.c, image_png.c, image_webp.c) that ends in its table entry. */
#pragma once

#include <stdbool.h>

#include "common/cursor.h"
#include "common/image/image.h"

struct image_format {
    bool (*recognises)(const uint8_t *data, size_t size); /* by the first bytes */
    /* Decodes into *ret (empty before; released by the caller on failure too). *ret_orientation is
     * EXIF's 1 to 8 when the file tells one, untouched otherwise. */
    int (*decode)(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                  int *ret_orientation, struct bl_error *err);
};
extern const struct image_format image_format_jpeg, image_format_png, image_format_webp,
    image_format_gif, image_format_bmp, image_format_tiff, image_format_heif;

/* The one gate for dimensions: refuses (-BL_ELIMIT) what is over max_pixels, then allocates. What a
 * decoder leaves unwritten is black. */
int image_allocate(struct image *image, uint64_t width, uint64_t height, int64_t max_pixels,
                   struct bl_error *err);

/* The orientation that an EXIF block (a TIFF header, "Exif\0\0" before it or not), else an XMP
 * packet tells; either may be NULL. False when neither does. What cannot be read tells nothing: a
 * picture is not refused for its metadata. */
bool image_orientation(const uint8_t *exif, size_t exif_size, const uint8_t *xmp, size_t xmp_size,
                       int *ret);

/* What a PNG file's chunks (behind the signature) tell of its orientation; *ret is untouched where they tell none. */
void png_find_orientation(struct bl_cursor chunks, int *ret);
