/* common/image/png.c - PNG by libpng: palette, grey and 16-bit samples widened or cut to RGB, alpha
 * and transparent colours dropped, gamma and colour profiles ignored, as PIL does. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

#include "common/limits.h"
#include "common/image/format.h"

static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

struct reader {
    png_structp png;
    png_infop info;
    struct bl_cursor file;
    jmp_buf stop;
    char text[128];
    struct image *image; /* borrowed */
};

/* libpng reports by a call that must not return. The jump passes only its frames and guarded(),
 * which owns nothing. */
static _Noreturn void stop_with_message(png_structp png, const char *text)
{
    struct reader *reader = png_get_error_ptr(png);
    snprintf(reader->text, sizeof reader->text, "%s", text);
    longjmp(reader->stop, 1);
}

static void ignore_warning(png_structp png, const char *text)
{
}

static void read_bytes(png_structp png, png_bytep out, size_t size)
{
    struct reader *reader = png_get_io_ptr(png);
    const uint8_t *bytes;
    if (!bl_cursor_take(&reader->file, size, &bytes))
        stop_with_message(png, "the file ends inside the image");
    memcpy(out, bytes, size);
}

static void reader_close(struct reader *reader)
{
    png_destroy_read_struct(&reader->png, &reader->info, NULL);
}

static bool guarded(struct reader *reader, void (*step)(struct reader *))
{
    if (setjmp(reader->stop))
        return false;
    step(reader);
    return true;
}

static void read_header(struct reader *reader)
{
    png_structp png = reader->png;
    png_set_read_fn(png, reader, read_bytes);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* image_allocate is the gate */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE); /* PIL does not look at IDAT's */
    png_read_info(png, reader->info);

    if (png_get_color_type(png, reader->info) == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(png);
    else if (png_get_bit_depth(png, reader->info) < 8)
        png_set_expand_gray_1_2_4_to_8(png);
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
}

/* What follows the last row is not read: the picture is whole. */
static void read_pixels(struct reader *reader)
{
    int passes = png_set_interlace_handling(reader->png);
    png_read_update_info(reader->png, reader->info);
    size_t row_bytes = (size_t)reader->image->width * 3;
    BL_ASSERT_CMP(png_get_rowbytes(reader->png, reader->info), ==, row_bytes);
    for (; passes > 0; passes--)
        for (int64_t y = 0; y < reader->image->height; y++)
            png_read_row(reader->png, reader->image->pixels + (size_t)y * row_bytes, NULL);
}

static int damaged(const struct reader *reader, struct bl_error *err)
{
    return bl_fail(err, BL_EFORMAT, "expected a complete PNG image, found: %s", reader->text);
}

static int png_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                      int *ret_orientation, struct bl_error *err)
{
    __attribute__((cleanup(reader_close))) struct reader reader = {.file = bl_cursor(data, size),
                                                                   .image = ret};
    reader.png =
        png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, stop_with_message, ignore_warning);
    reader.info = reader.png ? png_create_info_struct(reader.png) : NULL;
    if (!reader.info)
        return bl_fail(err, BL_ENOMEM, "no memory to read a PNG file");
    if (!guarded(&reader, read_header))
        return damaged(&reader, err);
    BL_TRY(image_allocate(ret, png_get_image_width(reader.png, reader.info),
                          png_get_image_height(reader.png, reader.info), max_pixels, err));
    png_find_orientation(bl_cursor(data + sizeof signature, size - sizeof signature),
                         ret_orientation);
    return guarded(&reader, read_pixels) ? 0 : damaged(&reader, err);
}

static bool png_recognises(const uint8_t *data, size_t size)
{
    return size >= sizeof signature && memcmp(data, signature, sizeof signature) == 0;
}

const struct image_format image_format_png = {png_recognises, png_decode};
