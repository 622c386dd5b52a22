/* common/image/jpeg.c - JPEG by libjpeg-turbo with PIL's settings (its defaults: accurate integer
 * DCT, smooth chroma upsampling). Four components are CMYK or YCCK, inverted as Adobe writes them;
 * PIL takes every such file to be so. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/limits.h"
#include "common/image/format.h"

struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf stop;
    char text[JMSG_LENGTH_MAX];
    const uint8_t *data;
    size_t size;
    uint8_t *pixels;   /* (height, width, 3), borrowed */
    uint8_t *cmyk_row; /* (width, 4), borrowed; four components only */
    bool damaged;      /* some pixels are made up */
};

/* libjpeg reports by a call that must not return. The jump passes only its frames and guarded(),
 * which owns nothing. */
static _Noreturn void stop_with_message(j_common_ptr common)
{
    struct reader *reader = common->client_data;
    common->err->format_message(common, reader->text);
    longjmp(reader->stop, 1);
}

/* A file that ends early stops, as in PIL. After the other warnings below libjpeg makes up pixels, and PIL takes them: they
 * are told. What is left (stray bytes between segments, odd version numbers) changes nothing. level: -1 warning, 0 and more
 * trace. */
static void judge_damage(j_common_ptr common, int level)
{
    struct reader *reader = common->client_data;
    if (level >= 0)
        return;
    switch (common->err->msg_code) {
    case JWRN_JPEG_EOF:
        stop_with_message(common);
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_BOGUS_PROGRESSION:
        reader->damaged = true;
    }
}

/* A progressive file may hold any number of scans, each a pass over the whole picture. */
static void limit_scans(j_common_ptr common)
{
    struct reader *reader = common->client_data;
    if (reader->jpeg.input_scan_number <= BL_JPEG_SCANS_MAX)
        return;
    snprintf(reader->text, sizeof reader->text, "more than %d scans", BL_JPEG_SCANS_MAX);
    longjmp(reader->stop, 1);
}

static void reader_close(struct reader *reader)
{
    jpeg_destroy_decompress(&reader->jpeg);
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
    struct jpeg_decompress_struct *jpeg = &reader->jpeg;
    jpeg->err = jpeg_std_error(&reader->errors);
    jpeg->client_data = reader;
    reader->errors.error_exit = stop_with_message;
    reader->errors.emit_message = judge_damage;
    reader->progress.progress_monitor = limit_scans;
    jpeg_create_decompress(jpeg);
    jpeg->progress = &reader->progress;
    jpeg_mem_src(jpeg, reader->data, reader->size);
    jpeg_save_markers(jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(jpeg, TRUE);
}

/* As PIL converts: nk (1 - c) with nk = 1 - k in 1/255, the product rounded. Adobe's inverted
 * samples are 255 - c and 255 - k. */
static uint8_t cmyk_channel(int inverted_c, int nk)
{
    int product = (255 - inverted_c) * nk + 128;
    int value = nk - (((product >> 8) + product) >> 8);
    return (uint8_t)(value < 0 ? 0 : value);
}

static void read_pixels(struct reader *reader)
{
    struct jpeg_decompress_struct *jpeg = &reader->jpeg;
    jpeg->out_color_space = reader->cmyk_row ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *out = reader->pixels + (size_t)jpeg->output_scanline * jpeg->output_width * 3;
        JSAMPROW row = reader->cmyk_row ? reader->cmyk_row : out;
        jpeg_read_scanlines(jpeg, &row, 1);
        if (!reader->cmyk_row)
            continue;
        for (size_t x = 0; x < jpeg->output_width; x++)
            for (size_t c = 0; c < 3; c++)
                out[3 * x + c] = cmyk_channel(row[4 * x + c], row[4 * x + 3]);
    }
    jpeg_finish_decompress(jpeg); /* a file without its end mark is truncated */
}

static bool marker_starts(const struct jpeg_marker_struct *marker, const char *text, size_t size)
{
    return marker->data_length >= size && memcmp(marker->data, text, size) == 0;
}

/* EXIF may be cut into several segments, which PIL joins; of XMP packets the last counts. */
static void find_orientation(const struct jpeg_decompress_struct *jpeg, int *ret)
{
    static const char exif_name[] = "Exif\0"; /* 6 bytes with the terminator */
    static const char xmp_name[] = "http://ns.adobe.com/xap/1.0/";
    bl_autobytes struct bl_bytes exif = {0};
    const uint8_t *xmp = NULL;
    size_t xmp_size = 0;
    for (const struct jpeg_marker_struct *m = jpeg->marker_list; m; m = m->next) {
        if (marker_starts(m, exif_name, sizeof exif_name)) {
            bl_bytes_add(&exif, m->data + sizeof exif_name, m->data_length - sizeof exif_name);
        } else if (marker_starts(m, xmp_name, sizeof xmp_name)) {
            xmp = m->data + sizeof xmp_name;
            xmp_size = m->data_length - sizeof xmp_name;
        }
    }
    image_orientation((const uint8_t *)exif.data, exif.size, xmp, xmp_size, ret);
}

static int damaged(const struct reader *reader, struct bl_error *err)
{
    return bl_fail(err, BL_EFORMAT, "expected a complete JPEG image, found: %s", reader->text);
}

static int jpeg_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                       int *ret_orientation, struct bl_error *err)
{
    __attribute__((cleanup(reader_close))) struct reader reader = {.data = data, .size = size};
    if (!guarded(&reader, read_header))
        return damaged(&reader, err);
    int components = reader.jpeg.num_components;
    if (components != 1 && components != 3 && components != 4)
        return bl_fail(err, BL_EFORMAT, "expected a JPEG of 1, 3 or 4 components, found %d",
                       components);
    BL_TRY(image_allocate(ret, reader.jpeg.image_width, reader.jpeg.image_height, max_pixels, err));

    bl_autofree uint8_t *cmyk_row = NULL;
    if (components == 4) {
        cmyk_row = malloc((size_t)ret->width * 4);
        if (!cmyk_row)
            return bl_fail(err, BL_ENOMEM, "no memory for a row of %lld pixels",
                           (long long)ret->width);
    }
    find_orientation(&reader.jpeg, ret_orientation);
    reader.pixels = ret->pixels;
    reader.cmyk_row = cmyk_row;
    if (!guarded(&reader, read_pixels))
        return damaged(&reader, err);
    ret->damaged = reader.damaged;
    return 0;
}

static bool jpeg_recognises(const uint8_t *data, size_t size)
{
    return size >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0;
}

const struct image_format image_format_jpeg = {jpeg_recognises, jpeg_decode};
