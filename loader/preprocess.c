/* loader/preprocess.c - `blipren-loader preprocess`: images as the vision model sees them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/picture/picture.h"
#include "loader/commands.h"
#include "common/image/processor.h"

/* INTO/NAME.png, NAME being the image's without folders. */
static int write_png(const char *into, const char *image, const struct image_processor *processor,
                     uint8_t *pixels, struct bl_error *err)
{
    char path[4096], name[512];
    const char *slash = strrchr(image, '/');
    snprintf(name, sizeof name, "%.500s.png", slash ? slash + 1 : image);
    BL_TRY(bl_path_join(path, sizeof path, into, name, err));
    struct picture picture = {processor->side, processor->side, pixels};
    return picture_write(&picture, path, err);
}

static int preprocess_one(const struct image_processor *processor, const char *image,
                          uint8_t *pixels, int64_t *ret_width, int64_t *ret_height,
                          struct bl_error *err)
{
    bl_autofree char *data = NULL;
    size_t size = 0;
    BL_TRY(bl_file_read(image, BL_IMAGE_FILE_BYTES_MAX, &data, &size, err));
    return image_processor_run(processor, (const uint8_t *)data, size, pixels, ret_width,
                               ret_height, err);
}

static void print_image(const char *image, const struct image_processor *processor,
                        const uint8_t *pixels, size_t size, int64_t width, int64_t height,
                        FILE *out)
{
    uint8_t hash[32];
    char hex[2 * sizeof hash + 1];
    bl_sha256(pixels, size, hash);
    bl_hex(hash, sizeof hash, hex);
    fprintf(out, "%s\t%" PRId64 "\t%" PRId64 "\t%u\t%s\n", image, width, height, processor->side,
            hex);
}

int preprocess_run(const struct preprocess_options *o, char *const *images, int count, FILE *out,
                   struct bl_error *err)
{
    struct image_processor processor;
    int bad = 0;
    BL_TRY(image_processor_open(o->model, o->max_pixels, &processor, err));
    size_t size = (size_t)processor.side * processor.side * 3;
    bl_autofree uint8_t *pixels = malloc(size);
    if (!pixels)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes of pixels", size);
    if (o->into)
        BL_TRY(bl_folder_make(o->into, err));
    for (int i = 0; i < count; i++) {
        struct bl_error why;
        int64_t width, height;
        if (preprocess_one(&processor, images[i], pixels, &width, &height, &why) < 0) {
            fprintf(out, "%s\terror\t%s\n", images[i], why.text);
            bl_error_file(&why, images[i]);
            bl_log_error(&why);
            bad++;
            continue;
        }
        print_image(images[i], &processor, pixels, size, width, height, out);
        if (o->into)
            BL_TRY(write_png(o->into, images[i], &processor, pixels, err));
    }
    if (fflush(out) != 0)
        return bl_fail_errno(err, "output broke off");
    if (!bad)
        return 0;
    bl_fail(err, BL_EDATA, "%d of %d images cannot be read", bad, count);
    return bl_error_remedy(err, "each one's line says why");
}
