/* common/limits.h - every limit of the product, with its reason. */
#pragma once

/* Wire. */
#define BL_PROTOCOL_VERSION 1
#define BL_HEADER_BYTES_MAX                                                                        \
    (64 * 1024)                      /* a protobuf header frame: amplification stays under 4 MB */
#define BL_FRAME_BYTES_MAX (1 << 30) /* one raw frame: a micro-batch of pixels or a state shard */
#define BL_FRAMES_MAX 8              /* frames of one message */

/* Run. */
#define BL_WORKERS_MAX 1024
#define BL_LOADERS_MAX 4096
#define BL_GROUP_SLOTS_MAX 4096 /* samples of one micro-batch */
#define BL_GLOBAL_BATCH_MAX (1 << 20)

/* Files. */
#define BL_JSON_BYTES_MAX (64 << 20)          /* tokenizer.json of 256k entries is about 35 MB */
#define BL_SAFETENSORS_HEADER_MAX (100 << 20) /* the format's own limit */
#define BL_TENSOR_DIMS_MAX 8
#define BL_CONFIG_BYTES_MAX (1 << 20)
#define BL_IMAGE_FILE_BYTES_MAX (512 << 20)
#define BL_IMAGE_SIDE_MAX 65535 /* JPEG's own; keeps width x height x channels in 64 bits */
#define BL_CAPTION_BYTES_MAX (1 << 20)

/* Models: far beyond any that exists, and the products of two or three of them stay in 64 bits. */
#define BL_MODEL_WIDTH_MAX (1 << 20)
#define BL_MODEL_LAYERS_MAX 4096
#define BL_MODEL_VOCABULARY_MAX (1 << 24)
#define BL_MODEL_POSITIONS_MAX (1 << 30)
#define BL_MODEL_IMAGE_SIZE_MAX (1 << 14)

/* Text. */
#define BL_TEXT_BYTES_MAX (4 << 20) /* one string to tokenize; places in it fit 32 bits */
#define BL_TOKENS_MAX (1 << 20)     /* ids of one string */
