/* common/hub/pull.h - downloads a repository of the Hub into the local cache (hub.h), as huggingface_hub would have it there.
 *
 * Of a model: config.json and the other .json files of its folder, its tokenizer's files and its safetensors, in shards or not; no other
 * formats of the same weights and nothing of subfolders. Of a data set: its Parquet files alone if it has any, else its tar files
 * alone, else all but what documents it.
 *
 * A blob is whole or absent: it grows as ETAG.incomplete, where an interrupted download continues, and gets its name once its bytes
 * have the hash that the Hub gives. The snapshot's links come when all blobs are there, the reference last. Processes that pull the same
 * blob wait for each other by flock on huggingface_hub's lock file.
 *
 * The environment decides as it does for huggingface_hub: HF_ENDPOINT, HF_TOKEN or the token's file ($HF_TOKEN_PATH, $HF_HOME/token),
 * HF_HUB_OFFLINE. The token goes to the endpoint's host alone. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hub/hub.h"

struct hub_progress {
    const struct hub_id *id;
    const char *file; /* under way */
    int files_done, files;
    uint64_t bytes_done, bytes; /* of all files; what was there already counts */
    uint64_t fetched;           /* bytes that came over the network */
};

struct hub_pull_options {
    void (*progress)(void *context, const struct hub_progress *progress); /* often */
    void (*say)(void *context, const char *line);                         /* why it waits */
    void *context;
};

struct hub_pulled {
    char folder[4096]; /* the snapshot */
    int files;
    uint64_t bytes, fetched;
};

/* Offline: what is in the cache. Passing failures are tried again a few times. -BL_EIO: no such repository or revision, no access (and
 * how to get it), no connection, a full disk; -BL_EFORMAT: bytes of another hash, or a repository without what is read here. */
int hub_pull(const struct hub_id *id, const struct hub_pull_options *options,
             struct hub_pulled *ret, struct bl_error *err);
