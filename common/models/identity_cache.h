/* common/models/identity_cache.h - identities of model folders that were hashed before, so that a start does not read gigabytes
 * again that nobody changed. One small file a folder in the user's cache (blipren/identities), written whole or not at all.
 *
 * An identity is taken only if every file has the name, size, times of modification and of change (nanoseconds), inode and
 * device that it had when it was hashed. It relies on the file system: every change of a file's bytes gives it a later time of change,
 * which no program can set. A file that changed less than IDENTITY_SETTLED_S before it was hashed might change again without another
 * time: then nothing is kept. It is a cache: what is damaged is not found, and what cannot be written is not kept. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/hash.h"

#define IDENTITY_SETTLED_S 3

/* What tells one state of a folder's files from the next without reading them. */
struct identity_stamp {
    struct bl_sha256 hash; /* of what was added */
    int64_t changed_ns;    /* latest time of modification or change, since the epoch */
    uint8_t digest[32];    /* once it is complete */
};
/* folder and kind (of identity) are part of it. identity_stamp_end, or bl_sha256_release of its hash, must follow. */
void identity_stamp_begin(struct identity_stamp *stamp, const char *folder, int kind);
void identity_stamp_add(struct identity_stamp *stamp, const char *name, const struct stat *st);
void identity_stamp_end(struct identity_stamp *stamp);

/* The identity that the folder had under this stamp. */
bool identity_cache_find(const char *folder, const struct identity_stamp *stamp, char ret_hex[65]);
/* begun_ns: time of day when hashing began. */
void identity_cache_keep(const char *folder, const struct identity_stamp *stamp, int64_t begun_ns,
                         const char *hex);
