/* tests/tools/image_speed.c - times decoding and resizing on one core.
 *
 *   image_speed SIZE FILE…
 *
 * Decodes each file and resizes it to SIZE x SIZE (bicubic). Prints one line, reading not counted:
 * seconds of decoding, seconds of resizing, sum of all bytes of the results (so that another program
 * can be seen to have done the same work), seconds of decoding JPEG files by libjpeg-turbo alone, into
 * one buffer for all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jpeglib.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/image/image.h"

/* Processor time: what others on the machine take is not ours. */
static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void stop_on(const char *path, int rc, const struct bl_error *err)
{
    if (rc < 0) {
        fprintf(stderr, "image_speed: %s: %s\n", path, err->text);
        exit(1);
    }
}

/* The loop of libjpeg's own example; errors end the program. */
static double decode_alone(const char *data, size_t size)
{
    static uint8_t *pixels;
    static size_t capacity;
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    if (size < 2 || memcmp(data, "\xff\xd8", 2))
        return 0;
    double start = seconds();
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, (const unsigned char *)data, size);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    size_t row_bytes = (size_t)jpeg.output_width * 3, wanted = row_bytes * jpeg.output_height;
    if (wanted > capacity) {
        free(pixels);
        pixels = malloc(capacity = wanted);
        if (!pixels)
            abort();
    }
    while (jpeg.output_scanline < jpeg.output_height) {
        JSAMPROW row = pixels + jpeg.output_scanline * row_bytes;
        jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
    return seconds() - start;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: image_speed SIZE FILE...\n");
        return 2;
    }
    int64_t side = atoll(argv[1]);
    size_t out_size = (size_t)(side * side * 3);
    bl_autofree uint8_t *out = malloc(out_size);
    double decoding = 0, resizing = 0, alone = 0;
    unsigned long long sum = 0;
    for (int i = 2; i < argc; i++) {
        bl_autofree char *data = NULL;
        size_t size;
        bl_autoimage struct image image = {0};
        struct bl_error err;
        stop_on(argv[i], bl_file_read(argv[i], BL_IMAGE_FILE_BYTES_MAX, &data, &size, &err), &err);
        alone += decode_alone(data, size);
        double start = seconds();
        stop_on(argv[i], image_decode((const uint8_t *)data, size, 100000000, &image, &err), &err);
        double decoded = seconds();
        stop_on(argv[i], image_resize(&image, side, side, IMAGE_BICUBIC, out, &err), &err);
        resizing += seconds() - decoded;
        decoding += decoded - start;
        for (size_t p = 0; p < out_size; p++)
            sum += out[p];
    }
    printf("%.6f %.6f %llu %.6f\n", decoding, resizing, sum, alone);
    return 0;
}
