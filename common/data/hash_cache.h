/* common/data/hash_cache.h - hashes of images that were read before, by location, size and time, in a file that only grows:
 * interrupted hashing continues, and an index that is made again reads no image that has not changed. It is a cache: what is
 * damaged in it is not found, and what cannot be written is not kept. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/file.h"

struct hash_cache;

/* Reads the file, if there is one. *ret is the caller's. -BL_ENOMEM. */
int hash_cache_open(const char *path, struct hash_cache **ret, struct bl_error *err);
/* NULL is fine; sets *cache to NULL. */
void hash_cache_free(struct hash_cache **cache);

/* The hash of a location (its text) that had this stamp. Only what was there at opening is found. From any thread. */
bool hash_cache_find(const struct hash_cache *cache, const char *location,
                     const struct bl_stamp *stamp, uint8_t ret[32]);
/* Adds to the file, at once: killed or not, it is kept. A file that changed within the last two seconds is not added, since
 * it may change again without another time. From any thread. */
void hash_cache_add(const struct hash_cache *cache, const char *location,
                    const struct bl_stamp *stamp, const uint8_t hash[32]);
