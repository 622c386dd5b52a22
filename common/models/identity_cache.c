/* common/models/identity_cache.c - see identity_cache.h. The file's lines: its form, the stamp, the identity, and the SHA-256 of
 * those three, each with its line break. */
#include "common/models/identity_cache.h"

#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/user_cache.h"

#define FORM "blipren model identity 1"
enum { FILE_BYTES = sizeof FORM + 3 * 65 };

static void add_number(struct bl_sha256 *hash, uint64_t number)
{
    bl_sha256_add(hash, &number, sizeof number);
}

static int64_t nanoseconds(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void identity_stamp_begin(struct identity_stamp *stamp, const char *folder, int kind)
{
    *stamp = (struct identity_stamp){.changed_ns = INT64_MIN};
    bl_sha256_begin(&stamp->hash);
    bl_sha256_add(&stamp->hash, folder, strlen(folder) + 1);
    add_number(&stamp->hash, (uint64_t)kind);
}

void identity_stamp_add(struct identity_stamp *stamp, const char *name, const struct stat *st)
{
    int64_t modified = nanoseconds(st->st_mtim), changed = nanoseconds(st->st_ctim);
    bl_sha256_add(&stamp->hash, name, strlen(name) + 1);
    add_number(&stamp->hash, (uint64_t)st->st_size);
    add_number(&stamp->hash, (uint64_t)modified);
    add_number(&stamp->hash, (uint64_t)changed);
    add_number(&stamp->hash, st->st_ino);
    add_number(&stamp->hash, st->st_dev);
    stamp->changed_ns = modified > stamp->changed_ns ? modified : stamp->changed_ns;
    stamp->changed_ns = changed > stamp->changed_ns ? changed : stamp->changed_ns;
}

void identity_stamp_end(struct identity_stamp *stamp)
{
    bl_sha256_end(&stamp->hash, stamp->digest);
}

/* A folder's file in the cache, and (make) the folder it is in. */
static bool file_of(const char *folder, bool make, char *ret, size_t size)
{
    uint8_t name[32];
    char hex[65], identities[4000];
    bl_sha256(folder, strlen(folder), name);
    bl_hex(name, sizeof name, hex);
    if (!bl_user_cache("blipren/identities", identities, sizeof identities) ||
        (make && bl_folder_make(identities, NULL) < 0))
        return false;
    return bl_path_join(ret, size, identities, hex, NULL) == 0;
}

static void write_text(const struct identity_stamp *stamp, const char *identity,
                       char ret[FILE_BYTES + 1])
{
    uint8_t check[32];
    char hex[65];
    bl_hex(stamp->digest, sizeof stamp->digest, hex);
    int length = snprintf(ret, FILE_BYTES + 1, "%s\n%s\n%s\n", FORM, hex, identity);
    bl_sha256(ret, (size_t)length, check);
    bl_hex(check, sizeof check, hex);
    snprintf(ret + length, (size_t)(FILE_BYTES + 1 - length), "%s\n", hex);
}

bool identity_cache_find(const char *folder, const struct identity_stamp *stamp, char ret_hex[65])
{
    char path[4096], whole[FILE_BYTES + 1];
    bl_autofree char *text = NULL;
    size_t size;
    if (!file_of(folder, false, path, sizeof path) ||
        bl_file_read(path, FILE_BYTES, &text, &size, NULL) < 0 || size != FILE_BYTES)
        return false;
    char identity[65] = {0};
    memcpy(identity, text + sizeof FORM + 65, 64);
    write_text(stamp, identity, whole);
    if (memcmp(text, whole, FILE_BYTES) != 0)
        return false;
    memcpy(ret_hex, identity, sizeof identity);
    return true;
}

void identity_cache_keep(const char *folder, const struct identity_stamp *stamp, int64_t begun_ns,
                         const char *hex)
{
    char path[4096], whole[FILE_BYTES + 1];
    if (stamp->changed_ns > begun_ns - IDENTITY_SETTLED_S * 1000000000ll ||
        !file_of(folder, true, path, sizeof path))
        return;
    write_text(stamp, hex, whole);
    (void)bl_file_write(path, whole, FILE_BYTES, NULL); /* a full disk keeps none */
}
