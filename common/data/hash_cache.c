/* common/data/hash_cache.c - see hash_cache.h. The file is records, one after the other, in no order. */
#include "common/data/hash_cache.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

struct record {
    uint8_t key[16]; /* BLAKE2b of the location */
    struct bl_stamp stamp;
    uint8_t hash[32];
    uint8_t check[8]; /* BLAKE2b of what is before it */
};
_Static_assert(sizeof(struct record) == 72, "the format has no padding");

struct hash_cache {
    int fd; /* for adding; -1: it cannot be written */
    char *data;
    const struct record *
        *slots;        /* open addressing, at most half full; the later of two records counts */
    size_t slot_count; /* a power of two */
};

static void hash(const void *data, size_t size, uint8_t *ret, size_t ret_size)
{
    uint8_t full[crypto_generichash_BYTES];
    crypto_generichash(full, sizeof full, data, size, (const uint8_t *)"image hashes 1", 14);
    memcpy(ret, full, ret_size);
}

static void make_record(const char *location, const struct bl_stamp *stamp, const uint8_t image[32],
                        struct record *ret)
{
    hash(location, strlen(location), ret->key, sizeof ret->key);
    ret->stamp = *stamp;
    memcpy(ret->hash, image, sizeof ret->hash);
    hash(ret, offsetof(struct record, check), ret->check, sizeof ret->check);
}

static bool is_whole(const struct record *r)
{
    uint8_t check[sizeof r->check];
    hash(r, offsetof(struct record, check), check, sizeof check);
    return !memcmp(check, r->check, sizeof check);
}

static const struct record **find_slot(const struct hash_cache *cache, const uint8_t key[16])
{
    size_t start;
    memcpy(&start, key, sizeof start);
    for (size_t i = start & (cache->slot_count - 1);; i = (i + 1) & (cache->slot_count - 1))
        if (!cache->slots[i] || !memcmp(cache->slots[i]->key, key, sizeof cache->slots[i]->key))
            return &cache->slots[i];
}

static int index_records(struct hash_cache *cache, size_t count, struct bl_error *err)
{
    const struct record *records = (const void *)cache->data;
    cache->slot_count = 2;
    while (cache->slot_count < 2 * count + 2)
        cache->slot_count *= 2;
    cache->slots = calloc(cache->slot_count, sizeof *cache->slots);
    if (!cache->slots)
        return bl_fail(err, BL_ENOMEM, "no memory for the hashes of %zu images", count);
    for (size_t i = 0; i < count; i++)
        if (is_whole(&records[i]))
            *find_slot(cache, records[i].key) = &records[i];
    return 0;
}

int hash_cache_open(const char *path, struct hash_cache **ret, struct bl_error *err)
{
    bl_auto(hash_cache) struct hash_cache *cache = calloc(1, sizeof *cache);
    size_t size = 0;
    if (!cache)
        return bl_fail(err, BL_ENOMEM, "no memory for the hashes of images");
    cache->fd = -1;
    if (bl_file_read(path, SIZE_MAX - 1, &cache->data, &size, NULL) < 0)
        size = 0;
    BL_TRY(index_records(cache, size / sizeof(struct record), err));
    cache->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    size_t torn = size % sizeof(struct record);
    if (cache->fd >= 0 && torn && ftruncate(cache->fd, (off_t)(size - torn)) < 0) {
        close(cache->fd); /* what is added behind a torn record could not be found */
        cache->fd = -1;
    }
    *ret = bl_take(&cache);
    return 0;
}

void hash_cache_free(struct hash_cache **cache)
{
    if (!*cache)
        return;
    if ((*cache)->fd >= 0)
        close((*cache)->fd);
    free((*cache)->slots);
    free((*cache)->data);
    free(*cache);
    *cache = NULL;
}

bool hash_cache_find(const struct hash_cache *cache, const char *location,
                     const struct bl_stamp *stamp, uint8_t ret[32])
{
    uint8_t key[16];
    hash(location, strlen(location), key, sizeof key);
    const struct record *found = *find_slot(cache, key);
    if (!found || !bl_stamp_equal(&found->stamp, stamp))
        return false;
    memcpy(ret, found->hash, sizeof found->hash);
    return true;
}

void hash_cache_add(const struct hash_cache *cache, const char *location,
                    const struct bl_stamp *stamp, const uint8_t image[32])
{
    struct record record;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (cache->fd < 0 || stamp->mtime_ns == BL_STAMP_CHANGING ||
        stamp->mtime_ns / 1000000000 > now.tv_sec - 2)
        return;
    make_record(location, stamp, image, &record);
    ssize_t written = write(cache->fd, &record, sizeof record);
    (void)written; /* a full disk keeps less */
}
