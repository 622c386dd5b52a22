/* common/image/webp.c - WebP by libwebp: lossy, lossless, and of an animation the first frame on a
 * black canvas; alpha is dropped. */
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "common/image/format.h"

static void demuxer_close(WebPDemuxer **demuxer)
{
    WebPDemuxDelete(*demuxer);
}

static const char *status_text(VP8StatusCode status)
{
    switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
        return "no memory";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "an unsupported feature";
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return "the file ends inside the image";
    default:
        return "damaged data";
    }
}

/* Decodes the frame straight to its place on the canvas. */
static int decode_frame(const WebPIterator *frame, struct image *canvas, struct bl_error *err)
{
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return bl_fail(err, BL_EFORMAT, "libwebp is of another version than its header");
    VP8StatusCode status =
        WebPGetFeatures(frame->fragment.bytes, frame->fragment.size, &config.input);
    if (status != VP8_STATUS_OK)
        return bl_fail(err, BL_EFORMAT, "expected a complete WebP image, found: %s",
                       status_text(status));
    if (frame->x_offset < 0 || frame->y_offset < 0 ||
        config.input.width > canvas->width - frame->x_offset ||
        config.input.height > canvas->height - frame->y_offset)
        return bl_fail(err, BL_EFORMAT,
                       "expected a frame inside the WebP canvas of %lld x %lld, found %d x %d at "
                       "%d, %d",
                       (long long)canvas->width, (long long)canvas->height, config.input.width,
                       config.input.height, frame->x_offset, frame->y_offset);
    size_t stride = (size_t)canvas->width * 3;
    size_t offset = (size_t)frame->y_offset * stride + (size_t)frame->x_offset * 3;
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = canvas->pixels + offset;
    config.output.u.RGBA.stride = (int)stride;
    config.output.u.RGBA.size = (size_t)canvas->height * stride - offset;
    status = WebPDecode(frame->fragment.bytes, frame->fragment.size, &config);
    WebPFreeDecBuffer(&config.output);
    if (status == VP8_STATUS_OK)
        return 0;
    return bl_fail(err, status == VP8_STATUS_OUT_OF_MEMORY ? BL_ENOMEM : BL_EFORMAT,
                   "expected a complete WebP image, found: %s", status_text(status));
}

static bool find_chunk(const WebPDemuxer *demuxer, const char *name, WebPData *ret)
{
    WebPChunkIterator chunk;
    bool found = WebPDemuxGetChunk(demuxer, name, 1, &chunk);
    if (found)
        *ret = chunk.chunk; /* borrowed from the file */
    WebPDemuxReleaseChunkIterator(&chunk);
    return found;
}

static int webp_decode(const uint8_t *data, size_t size, int64_t max_pixels, struct image *ret,
                       int *ret_orientation, struct bl_error *err)
{
    WebPData file = {data, size}, exif = {0}, xmp = {0};
    __attribute__((cleanup(demuxer_close))) WebPDemuxer *demuxer = WebPDemux(&file);
    if (!demuxer)
        return bl_fail(err, BL_EFORMAT,
                       "expected a complete WebP image, found a damaged or truncated container");
    BL_TRY(image_allocate(ret, WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH),
                          WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT), max_pixels, err));
    find_chunk(demuxer, "EXIF", &exif);
    find_chunk(demuxer, "XMP ", &xmp);
    image_orientation(exif.bytes, exif.size, xmp.bytes, xmp.size, ret_orientation);

    WebPIterator frame;
    if (!WebPDemuxGetFrame(demuxer, 1, &frame))
        return bl_fail(err, BL_EFORMAT, "expected a WebP image, found a container without one");
    int rc = decode_frame(&frame, ret, err);
    WebPDemuxReleaseIterator(&frame);
    return rc;
}

static bool webp_recognises(const uint8_t *data, size_t size)
{
    return size >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0;
}

const struct image_format image_format_webp = {webp_recognises, webp_decode};
