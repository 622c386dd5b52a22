/* common/image/processor.h - an image file's bytes as the processor of pixels that a vision model takes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/image/image.h"

struct image_processor {
    uint32_t side;
    enum image_filter filter;
    int64_t max_pixels;
};

/* From the vision model's config.json and its image processor's settings (hf_preprocess_open). */
int image_processor_open(const char *vision_folder, int64_t max_pixels, struct image_processor *ret,
                         struct bl_error *err);
struct image_facts {
    int64_t width, height; /* the image's own, upright */
    bool damaged;          /* as in struct image */
};
/* pixels (side, side, 3) u8 RGB. */
int image_processor_run(const struct image_processor *processor, const uint8_t *data, size_t size,
                        uint8_t *pixels, struct image_facts *ret, struct bl_error *err);
