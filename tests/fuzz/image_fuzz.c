/* tests/fuzz/image_fuzz.c - any bytes, as an image file: refused, or decoded and resized. */

#include "common/error.h"
#include "common/image/image.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_PIXELS = 1 << 18 }; /* a few bytes may rightly be a picture of any size */

/* Branches on every byte, so that a tool that tracks unwritten ones sees them. */
static void touch(const uint8_t *bytes, size_t size)
{
    size_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    BL_ASSERT_CMP(sum, <=, 255 * size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bl_error err;
    bl_autoimage struct image image = {0};
    if (image_decode(data, size, MAX_PIXELS, &image, &err) < 0) {
        BL_ASSERT(image.pixels == NULL && err.text[0] != '\0');
        return 0;
    }
    BL_ASSERT_CMP(image.width * image.height, <=, MAX_PIXELS);
    touch(image.pixels, (size_t)(image.width * image.height * 3));

    uint8_t out[13 * 21 * 3];
    BL_ASSERT(image_resize(&image, 13, 21, IMAGE_BICUBIC, out, &err) == 0);
    touch(out, sizeof out);
    return 0;
}
