/* common/models/hf_preprocess.c - the image processor's settings in a vision model's folder. */
#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/limits.h"
#include "common/models/hf_parts.h"

/* Image processors whose steps are: resize to `size`, rescale, normalise (other classes crop or
 * pad), and the filter each resizes with unless told. */
static const struct {
    const char *name;
    enum image_filter filter;
} processors[] = {
    {"SiglipImageProcessor", IMAGE_BICUBIC},    {"SiglipImageProcessorFast", IMAGE_BICUBIC},
    {"SiglipImageProcessorPil", IMAGE_BICUBIC}, {"SiglipFeatureExtractor", IMAGE_BICUBIC},
    {"ViTImageProcessor", IMAGE_BILINEAR},      {"ViTImageProcessorFast", IMAGE_BILINEAR},
    {"ViTImageProcessorPil", IMAGE_BILINEAR},   {"ViTFeatureExtractor", IMAGE_BILINEAR},
};

/* The processor's class, under either key. */
static int read_processor(const json_t *json, const char *key, enum image_filter *filter,
                          struct bl_error *err)
{
    const char *name = NULL;
    BL_TRY(bl_json_string(json, key, &name, err));
    if (!name)
        return 0;
    for (size_t i = 0; i < sizeof processors / sizeof *processors; i++)
        if (!strcmp(name, processors[i].name)) {
            *filter = processors[i].filter;
            return 0;
        }
    return hf_fail_key(json, key, "SiglipImageProcessor or ViTImageProcessor", err);
}

/* Every do_… switches a step: these three are ours, any other is refused unless it is off. Colours
 * are always converted. */
static int check_steps(const json_t *json, struct bl_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, key, value)
    {
        if (strncmp(key, "do_", 3) || !strcmp(key, "do_convert_rgb"))
            continue;
        bool ours =
            !strcmp(key, "do_resize") || !strcmp(key, "do_rescale") || !strcmp(key, "do_normalize");
        BL_TRY(hf_expect_flag(json, key, ours, err));
    }
    return 0;
}

/* size: {"height": h, "width": w}, or one side for both. */
static int read_size(const json_t *json, struct hf_preprocess *preprocess, struct bl_error *err)
{
    const json_t *size = json_object_get(json, "size");
    if (json_is_integer(size)) {
        BL_TRY(bl_json_int(json, "size", 1, BL_MODEL_IMAGE_SIZE_MAX, &preprocess->height, err));
        preprocess->width = preprocess->height;
        return 0;
    }
    if (!size || json_is_null(size))
        return 0;
    if (!json_is_integer(json_object_get(size, "height")) ||
        !json_is_integer(json_object_get(size, "width")) || json_object_size(size) != 2)
        return hf_fail_key(json, "size", "height and width alone", err);
    BL_TRY(bl_json_within(
        bl_json_int(size, "height", 1, BL_MODEL_IMAGE_SIZE_MAX, &preprocess->height, err), "size",
        err));
    return bl_json_within(
        bl_json_int(size, "width", 1, BL_MODEL_IMAGE_SIZE_MAX, &preprocess->width, err), "size",
        err);
}

/* Three numbers, one for each channel. */
static int read_channels(const json_t *json, const char *key, double min, float ret[3],
                         struct bl_error *err)
{
    const json_t *list = json_object_get(json, key);
    if (!list || json_is_null(list))
        return 0;
    if (json_array_size(list) != 3)
        return hf_fail_key(json, key, "a list of 3 numbers", err);
    for (size_t i = 0; i < 3; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_number(value) || json_number_value(value) < min ||
            json_number_value(value) > 1000) {
            char expected[64];
            snprintf(expected, sizeof expected, "numbers from %g to 1000", min);
            int rc = bl_json_fail(value, expected, err);
            bl_error_key(err, "%s", key);
            return rc;
        }
        ret[i] = (float)json_number_value(value);
    }
    return 0;
}

static int read_preprocess(const json_t *json, const struct hf_vision *vision,
                           struct hf_preprocess *preprocess, struct bl_error *err)
{
    preprocess->filter = vision->family->filter; /* where no class is named */
    BL_TRY(read_processor(json, "image_processor_type", &preprocess->filter, err));
    BL_TRY(read_processor(json, "feature_extractor_type", &preprocess->filter, err));
    BL_TRY(check_steps(json, err));
    BL_TRY(read_size(json, preprocess, err));
    int64_t filter = preprocess->filter;
    BL_TRY(bl_json_int(json, "resample", IMAGE_BILINEAR, IMAGE_BICUBIC, &filter, err));
    preprocess->filter = (enum image_filter)filter;
    BL_TRY(bl_json_float(json, "rescale_factor", 1e-9, 1, &preprocess->rescale_factor, err));
    BL_TRY(read_channels(json, "image_mean", -1000, preprocess->mean, err));
    return read_channels(json, "image_std", 1e-6, preprocess->std, err);
}

static int read_checked(const json_t *json, const struct hf_vision *vision,
                        struct hf_preprocess *preprocess, struct bl_error *err)
{
    BL_TRY(read_preprocess(json, vision, preprocess, err));
    if (preprocess->width == vision->image_size && preprocess->height == vision->image_size)
        return 0;
    bl_fail(
        err, BL_EFORMAT, "expected the model's image_size of %lld, found height %lld, width %lld",
        (long long)vision->image_size, (long long)preprocess->height, (long long)preprocess->width);
    bl_error_remedy(err, "use the folder as it was published: config.json and this file disagree");
    return bl_error_key(err, "size");
}

/* transformers 5 nests the settings in processor_config.json; before, they had a file of their own. */
static const struct {
    const char *file, *nested;
} places[] = {{"processor_config.json", "image_processor"}, {"preprocessor_config.json", NULL}};

/* *ret is unchanged where this place has no settings. */
static int read_place(const char *folder, size_t place, const struct hf_vision *vision,
                      struct hf_preprocess *ret, struct bl_error *err)
{
    char path[4096];
    const char *nested = places[place].nested;
    bl_autojson json_t *json = NULL;
    BL_TRY(bl_path_join(path, sizeof path, folder, places[place].file, err));
    if (!bl_path_is_file(path))
        return 0;
    BL_TRY(hf_config_open(folder, places[place].file, path, &json, err));
    const json_t *settings = nested ? NULL : json;
    if (nested && bl_json_container(json, nested, JSON_OBJECT, &settings, err) < 0)
        return bl_error_file(err, path);
    if (!settings)
        return 0; /* an older file, about the text alone */
    int rc = read_checked(settings, vision, ret, err);
    if (rc < 0) {
        if (nested)
            bl_json_within(rc, nested, err);
        return bl_error_file(err, path);
    }
    ret->file = places[place].file;
    return 0;
}

int hf_preprocess_open(const char *folder, const struct hf_vision *vision,
                       struct hf_preprocess *ret, struct bl_error *err)
{
    struct hf_preprocess preprocess = {
        .width = vision->image_size,
        .height = vision->image_size,
        .filter = vision->family->filter,
        .rescale_factor = 1.0f / 255,
        .mean = {0.5f, 0.5f, 0.5f},
        .std = {0.5f, 0.5f, 0.5f},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places && !preprocess.file; i++)
        BL_TRY(read_place(folder, i, vision, &preprocess, err));
    *ret = preprocess;
    return 0;
}
