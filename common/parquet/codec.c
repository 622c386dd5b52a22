/* common/parquet/codec.c - one function a codec, and the table that names them. */
#include "common/parquet/codec.h"

#include <limits.h>
#include <lz4.h>
#include <snappy-c.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

static bool copy(const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size)
{
    if (size != ret_size)
        return false;
    memcpy(ret, data, size);
    return true;
}

static bool snappy(const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size)
{
    size_t length = ret_size;
    return snappy_uncompress((const char *)data, size, (char *)ret, &length) == SNAPPY_OK &&
           length == ret_size;
}

/* Also several members one after the other, as gzip allows. */
static bool inflate_members(z_stream *stream)
{
    int rc;
    do {
        rc = inflate(stream, Z_FINISH);
        if (rc != Z_STREAM_END || stream->avail_in == 0)
            break;
        rc = inflateReset(stream);
    } while (rc == Z_OK);
    return rc == Z_STREAM_END && stream->avail_out == 0;
}

static bool gzip(const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size)
{
    z_stream stream = {.next_in = (uint8_t *)(uintptr_t)data,
                       .avail_in = (uInt)size,
                       .next_out = ret,
                       .avail_out = (uInt)ret_size};
    const int any_header = 32; /* gzip's, or zlib's as some writers have it */
    if (inflateInit2(&stream, MAX_WBITS + any_header) != Z_OK)
        return false;
    bool whole = inflate_members(&stream);
    inflateEnd(&stream);
    return whole;
}

static bool zstd(const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size)
{
    return ZSTD_decompress(ret, ret_size, data, size) == ret_size;
}

static bool lz4_raw(const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size)
{
    return LZ4_decompress_safe((const char *)data, (char *)ret, (int)size, (int)ret_size) ==
           (int)ret_size;
}

/* expansion: the most that a byte can become, from the format of each. */
static const struct {
    const char *name;
    bool (*decompress)(const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size);
    size_t expansion;
} codecs[] = {
    [CODEC_UNCOMPRESSED] = {"UNCOMPRESSED", copy, 1},
    [1] = {"SNAPPY", snappy, 22}, /* a copy of 64 bytes takes 3 */
    [2] = {"GZIP", gzip, 1033},   /* a copy of 258 bytes takes 2 bits */
    [3] = {"LZO", NULL, 0},
    [4] = {"BROTLI", NULL, 0},
    [5] = {"LZ4 (Hadoop's)", NULL, 0},
    [6] = {"ZSTD", zstd, 128 << 10 >> 2}, /* a block of 128 KiB takes 4 */
    [7] = {"LZ4_RAW", lz4_raw, 256},      /* a length grows by 255 per byte */
};
#define CODEC_COUNT ((int)(sizeof codecs / sizeof *codecs))

int codec_check(int codec, size_t size, size_t full_size, struct bl_error *err)
{
    if (codec < 0 || codec >= CODEC_COUNT)
        return bl_fail(err, BL_EFORMAT, "expected a compression codec of 0 to %d, found %d",
                       CODEC_COUNT - 1, codec);
    if (!codecs[codec].decompress) {
        bl_fail(err, BL_EFORMAT, "pages compressed by %s are not read", codecs[codec].name);
        return bl_error_remedy(err, "write the file again with zstd, snappy, gzip or lz4_raw");
    }
    if (size > INT_MAX || full_size > INT_MAX || full_size / codecs[codec].expansion > size + 64)
        return bl_fail(err, BL_EFORMAT,
                       "expected at most %zu bytes from one byte of %s, found %zu bytes that claim "
                       "to become %zu",
                       codecs[codec].expansion, codecs[codec].name, size, full_size);
    return 0;
}

int codec_decompress(int codec, const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size,
                     struct bl_error *err)
{
    if (!codecs[codec].decompress(data, size, ret, ret_size))
        return bl_fail(err, BL_EFORMAT,
                       "expected %zu bytes of %s that become %zu, found other data", size,
                       codecs[codec].name, ret_size);
    return 0;
}
