/* common/image/heif.c - AVIF and HEIC by libheif, which turns and mirrors as the container says; alpha is dropped. */
#include <string.h>

#include <libheif/heif.h>

#include "common/image/format.h"

static void context_end(struct heif_context **context)
{
    if (*context)
        heif_context_free(*context);
}

static void handle_end(struct heif_image_handle **handle)
{
    if (*handle)
        heif_image_handle_release(*handle);
}

static void image_end(struct heif_image **image)
{
    if (*image)
        heif_image_release(*image);
}

static int fail(struct heif_error error, struct bl_error *err)
{
    return bl_fail(err, error.code == heif_error_Memory_allocation_error ? BL_ENOMEM : BL_EFORMAT,
                   "expected a complete AVIF or HEIC image, found: %s", error.message);
}

static int heif_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                       int *ret_orientation, struct bl_error *err)
{
    __attribute__((cleanup(context_end))) struct heif_context *context = heif_context_alloc();
    __attribute__((cleanup(handle_end))) struct heif_image_handle *handle = NULL;
    __attribute__((cleanup(image_end))) struct heif_image *picture = NULL;
    if (!context)
        return bl_fail(err, BL_ENOMEM, "no memory to read an image");
    struct heif_error error = heif_context_read_from_memory_without_copy(context, data, size, NULL);
    if (error.code == heif_error_Ok)
        error = heif_context_get_primary_image_handle(context, &handle);
    if (error.code != heif_error_Ok)
        return fail(error, err);
    BL_TRY(image_allocate(ret, (uint64_t)heif_image_handle_get_width(handle),
                          (uint64_t)heif_image_handle_get_height(handle), max_pixels, err));
    error =
        heif_decode_image(handle, &picture, heif_colorspace_RGB, heif_chroma_interleaved_RGB, NULL);
    if (error.code != heif_error_Ok)
        return fail(error, err);
    int stride = 0;
    const uint8_t *rows = heif_image_get_plane_readonly(picture, heif_channel_interleaved, &stride);
    if (!rows || heif_image_get_width(picture, heif_channel_interleaved) != ret->width ||
        heif_image_get_height(picture, heif_channel_interleaved) != ret->height)
        return bl_fail(
            err, BL_EFORMAT,
            "expected an AVIF or HEIC image of the size that its container gives, found another "
            "size");
    for (int64_t y = 0; y < ret->height; y++)
        memcpy(ret->pixels + 3 * y * ret->width, rows + y * stride, (size_t)(3 * ret->width));
    return 0;
}

static bool heif_recognises(const uint8_t *data, size_t size)
{
    enum heif_filetype_result result =
        size >= 12 ? heif_check_filetype(data, (int)(size < 4096 ? size : 4096)) : heif_filetype_no;
    return result == heif_filetype_yes_supported || result == heif_filetype_yes_unsupported;
}

const struct image_format image_format_heif = {heif_recognises, heif_decode};
