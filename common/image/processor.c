/* common/image/processor.c - see processor.h. */
#include "common/image/processor.h"

#include "common/models/hf.h"

int image_processor_open(const char *vision_folder, int64_t max_pixels, struct image_processor *ret,
                         struct bl_error *err)
{
    struct hf_vision vision;
    struct hf_preprocess p;
    BL_TRY(hf_vision_open(vision_folder, &vision, err));
    BL_TRY(hf_preprocess_open(vision_folder, &vision, &p, err));
    *ret = (struct image_processor){(uint32_t)p.width, p.filter, max_pixels};
    return 0;
}

int image_processor_run(const struct image_processor *processor, const uint8_t *data, size_t size,
                        uint8_t *pixels, struct image_facts *ret, struct bl_error *err)
{
    bl_autoimage struct image image = {0};
    BL_TRY(image_decode(data, size, processor->max_pixels, &image, err));
    *ret = (struct image_facts){image.width, image.height, image.damaged};
    return image_resize(&image, processor->side, processor->side, processor->filter, pixels, err);
}
