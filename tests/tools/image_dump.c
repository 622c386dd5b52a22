/* tests/tools/image_dump.c - decodes and resizes picture files for comparison with another program.
 *
 *   image_dump MAX_PIXELS FILTER WIDTH HEIGHT FILE…
 *
 * FILTER is PIL's number (2 bilinear, 3 bicubic); WIDTH 0 = do not resize. For each file, in order,
 * writes a line "ok WIDTH HEIGHT" and the raw RGB bytes, or a line "error CODE TEXT". */
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/image/image.h"

static int load(const char *path, int64_t max_pixels, enum image_filter filter, int64_t width,
                int64_t height, struct image *ret, struct bl_error *err)
{
    bl_autofree char *data = NULL;
    size_t size;
    bl_autoimage struct image decoded = {0};
    BL_TRY(bl_file_read(path, BL_IMAGE_FILE_BYTES_MAX, &data, &size, err));
    BL_TRY(image_decode((const uint8_t *)data, size, max_pixels, &decoded, err));
    if (width == 0) {
        *ret = decoded;
        decoded = (struct image){0};
        return 0;
    }
    bl_autoimage struct image resized = {
        .width = width, .height = height, .pixels = malloc((size_t)(width * height * 3))};
    BL_TRY(image_resize(&decoded, width, height, filter, resized.pixels, err));
    *ret = resized;
    resized = (struct image){0};
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: image_dump MAX_PIXELS FILTER WIDTH HEIGHT FILE...\n");
        return 2;
    }
    for (int i = 5; i < argc; i++) {
        bl_autoimage struct image image = {0};
        struct bl_error err;
        if (load(argv[i], atoll(argv[1]), (enum image_filter)atoi(argv[2]), atoll(argv[3]),
                 atoll(argv[4]), &image, &err) < 0) {
            printf("error %s %s\n", bl_error_name(err.code), err.text);
            continue;
        }
        printf("ok %lld %lld\n", (long long)image.width, (long long)image.height);
        fwrite(image.pixels, 3, (size_t)(image.width * image.height), stdout);
    }
    return fflush(stdout) == 0 ? 0 : 5;
}
