/* common/parquet/codec.h - decompression: each codec by its own library. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define CODEC_UNCOMPRESSED 0

/* data (size bytes) -> ret, exactly ret_size bytes. `codec` is the format's CompressionCodec; those that are not read are refused
 * by name. */
int codec_decompress(int codec, const uint8_t *data, size_t size, uint8_t *ret, size_t ret_size,
                     struct bl_error *err);
/* That the codec is read, and that `size` bytes can honestly expand to full_size: before memory is allocated for them. */
int codec_check(int codec, size_t size, size_t full_size, struct bl_error *err);
