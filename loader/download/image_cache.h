/* loader/download/image_cache.h - a folder of images from URLs, shared by any number of processes and runs, on one host or several.
 *
 *   CACHE/image/ab/cdef…   an image, by the first 20 bytes of its content's SHA-256: the same image at two URLs is there once
 *   CACHE/url/ab/cdef…     of a URL, by its SHA-256 (common/data/url.h): a link to the image, or to "failed: REASON", which is nowhere
 *   CACHE/part/cdef…       what is being fetched, by the URL's SHA-256
 *   CACHE/lock             its first byte is locked for changes of the total, one behind it for a URL that is being fetched; the
 *                          kernel unlocks when a process dies
 *   CACHE/total            bytes of all images, 8 bytes; at least that much, after a process has died
 *
 * An image is complete or absent: it is renamed to its place. No fsync: its name is its checksum, and a reader compares once.
 * Eviction removes the images that were not used for longest until a tenth of the limit is free. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define IMAGE_CACHE_REASON_MAX 160

struct image_cache;

/* Makes the folder, and removes what dead processes left in part/. limit_bytes 0: there is none. *ret is the caller's. */
int image_cache_open(const char *folder, uint64_t limit_bytes, struct image_cache **ret,
                     struct bl_error *err);
void image_cache_free(struct image_cache **cache);

enum image_cache_state { IMAGE_CACHE_ABSENT, IMAGE_CACHE_HERE, IMAGE_CACHE_FAILED };
/* What is known of a URL, by its path CACHE/url/…; ret_reason is of IMAGE_CACHE_FAILED. An image that is here was used now. Any thread. */
enum image_cache_state image_cache_find(const char *url_path,
                                        char ret_reason[IMAGE_CACHE_REASON_MAX]);
/* Whether these are the bytes that were kept; if not, the image is removed. Any thread. */
bool image_cache_verify(const char *url_path, const void *data, size_t size);

/* Locks the fetching of a URL, if no other process fetches it. Within a process the caller sees to it. */
bool image_cache_lock(const struct image_cache *cache, const char *url_path);
void image_cache_unlock(const struct image_cache *cache, const char *url_path);

/* Under the lock. A new file for a URL's bytes, opened to be read and written; *ret_path is the caller's. */
int image_cache_part_open(const struct image_cache *cache, const char *url_path, int *ret_fd,
                          char **ret_path, struct bl_error *err);
/* Under the lock: makes a part of these bytes the URL's image; others may be evicted. The part is gone afterwards, whatever
 * happens. */
int image_cache_keep(struct image_cache *cache, const char *url_path, const char *part,
                     const uint8_t hash[32], uint64_t size, struct bl_error *err);
/* Under the lock: the URL has no image, for this reason. */
int image_cache_fail(const struct image_cache *cache, const char *url_path, const char *reason,
                     struct bl_error *err);
