/* common/limits.h - every limit of the product, with its reason. */
#pragma once

/* Wire. */
#define BL_PROTOCOL_VERSION 1
#define BL_HEADER_BYTES_MAX                                                                        \
    (256 << 10) /* one message: a header of BL_MICRO_BATCH_SLOTS_MAX slots */
#define BL_HEADER_MEMORY_MAX (16 << 20) /* what unpacking it may allocate: at worst 60 times that */
#define BL_FRAME_BYTES_MAX (1 << 30) /* one raw frame: a micro-batch of pixels or a state shard */
#define BL_FRAMES_MAX 8              /* frames of one message */

/* Files that travel to and from hosts that do not see the run folder. */
#define BL_TOKEN_BYTES 16
#define BL_PIECE_BYTES_MAX                                                                         \
    (128 << 10)           /* half of a message: the coordinator holds no more of a file */
#define BL_PIECES_AHEAD 4 /* asked for before the first came: half a megabyte a peer */
#define BL_SENT_FILE_BYTES_MAX (UINT64_C(1) << 40)

/* Strangers: connections to a socket that listens before it is known whose they are. Together they cost 32 MB at most. */
#define BL_STRANGERS_MAX 512 /* connections: 50 KB of ZeroMQ's buffers each */
#define BL_HELLO_BYTES_MAX                                                                         \
    (4 << 10) /* one message of a stranger: texts of 1 KB, an address, a digest */
#define BL_STRANGER_BYTES_MAX (64 << 10)  /* what each may have sent */
#define BL_STRANGERS_BYTES_MAX (16 << 20) /* and all of them together, besides one honest message */
#define BL_KERNEL_BYTES_MAX (8 << 20)     /* what the kernel receives ahead: net.ipv4.tcp_rmem */
#define BL_DESCRIPTORS_WANTED 65536 /* the soft limit is raised to this, if the hard one allows */

/* Run: what RUN.yaml allows, what the wire check accepts and what the rules hold. */
#define BL_WORKERS_MAX 1024
#define BL_LOADERS_MAX 4096
#define BL_ENTRY_BYTES_MAX 1024    /* of a rendezvous: an address with its token, NCCL's id */
#define BL_BEAT_WAITING_MAX 512    /* bytes kept of what a peer says it waits for: a path */
#define BL_PROBE_SAMPLES_MAX 16    /* images by which a loader proves that it sees the data */
#define BL_LOCAL_WORKERS_MAX 64    /* of --local */
#define BL_LOCAL_LOADERS_MAX 256   /* of --local */
#define BL_THREADS_MAX 1024        /* of one process */
#define BL_LOADER_CAPACITY_MAX 256 /* assignments a loader may hold: some seconds of work */
#define BL_STEPS_MAX 1000000000    /* optimizer steps of a run */
#define BL_STEPS_AHEAD_MAX 64
#define BL_CHECKPOINTS_KEPT_MAX 1024 /* on record: how far back a damaged one can be replaced */
#define BL_VALIDATION_CAPTIONS_MAX 1024
#define BL_PATIENCE_MS_MIN 60 /* heartbeats of 10 ms: a loop's timers are no finer */
#define BL_PATIENCE_S_MIN 0.5 /* of RUN.yaml: a busy machine may well be silent for 60 ms */
#define BL_PATIENCE_S_MAX 86400
#define BL_WINDOW_MAX 256             /* micro-batches a worker may hold */
#define BL_MICRO_BATCH_SLOTS_MAX 4096 /* samples of one micro-batch */
#define BL_GLOBAL_BATCH_MAX (1 << 20)

/* Files. */
#define BL_JSON_BYTES_MAX (64 << 20)          /* tokenizer.json of 256k entries is about 35 MB */
#define BL_SAFETENSORS_HEADER_MAX (100 << 20) /* the format's own limit */
#define BL_TENSOR_DIMS_MAX 8
#define BL_CONFIG_BYTES_MAX (1 << 20)
#define BL_PATTERN_MATCH_LIMIT 1000000 /* PCRE2 steps: about 0.05 s, far beyond an honest match */
#define BL_SOURCES_MAX 16      /* of data.sources: no more than a loader can prove that it sees */
#define BL_CONFIG_LIST_MAX 256 /* caption columns, or patterns, of a configuration */
#define BL_IMAGE_FILE_BYTES_MAX (512 << 20) /* what data.max_image_bytes allows: held in memory */
#define BL_PNG_TEXT_MAX (1 << 20)           /* bytes of a text chunk, decompressed: PIL's limit */
#define BL_LIST_BYTES_MAX (1 << 30)         /* of images or captions, a line each */
#define BL_IMAGE_SIDE_MAX 65535 /* JPEG's own; keeps width x height x channels in 64 bits */
#define BL_JPEG_SCANS_MAX 100   /* encoders write about 10; each costs a pass over the picture */
#define BL_CAPTION_BYTES_MAX (1 << 20)
#define BL_METADATA_LINE_MAX (16 << 20) /* one line of metadata.jsonl, one record of a CSV */
#define BL_CSV_FIELDS_MAX 4096          /* of one record */
#define BL_URL_BYTES_MAX 8192           /* servers refuse longer ones */
#define BL_SAMPLES_MAX (1 << 28)        /* about 20 GB of index */
#define BL_FOLDER_DEPTH_MAX 32
#define BL_PARQUET_DEPTH_MAX 64  /* nested nodes of a schema; levels fit a byte */
#define BL_PARQUET_PATH_MAX 1024 /* bytes of a column's path */
#define BL_PARQUET_HEADER_BYTES_MAX                                                                \
    (16 << 20) /* a page's header: its statistics may hold two long values */
#define BL_PARQUET_PAGE_BYTES_MAX                                                                  \
    (1 << 30) /* decompressed; writers cut pages at 1 MB or one value */
#define BL_PARQUET_PAGE_VALUES_MAX                                                                 \
    (1 << 24) /* writers cut pages at 20,000 rows; 290 MB when decoded */

/* Models: far beyond any that exists, and the products of two or three of them stay in 64 bits. */
#define BL_MODEL_WIDTH_MAX (1 << 20)
#define BL_MODEL_LAYERS_MAX 4096
#define BL_MODEL_VOCABULARY_MAX (1 << 24)
#define BL_MODEL_POSITIONS_MAX (1 << 30)
#define BL_MODEL_IMAGE_SIZE_MAX (1 << 14)

#define BL_EXPERTS_MAX 64 /* of a mixture: what projector.experts allows */

/* Text. */
#define BL_TEXT_BYTES_MAX (4 << 20) /* one string to tokenize; places in it fit 32 bits */
#define BL_TOKENS_MAX (1 << 20)     /* ids of one string */
#define BL_CAPTION_TOKENS_MAX                                                                      \
    (1 << 14) /* ids of one caption: beyond any caption, and a wire slot stays small */

/* Device. */
#define BL_OPS_WIDE_MAX                                                                            \
    (1 << 20) /* elements of a 16-bit matrix kept as f32: 4 MB, what a core's caches hold */
#define BL_OPS_LOGITS_BYTES (64 << 20) /* logits at hand at a time: 128 rows of 128k entries */
