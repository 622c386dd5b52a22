/* common/models/hf_identity.c - one hash over a model folder's files. */
#include <dirent.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "common/models/hf.h"

static int is_model_file(const struct dirent *entry)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(entry->d_name);
    return !strcmp(entry->d_name, "config.json") ||
           (length >= sizeof suffix - 1 &&
            !strcmp(entry->d_name + length - (sizeof suffix - 1), suffix));
}

static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Each file contributes its name (NUL included), its size (8 bytes, little-endian) and its content,
 * so that no two folders give the same stream. */
static int hash_file(crypto_hash_sha256_state *state, const char *folder, const char *name,
                     struct bl_error *err)
{
    char path[4096];
    bl_automap struct bl_map map = {0};
    BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
    BL_TRY(bl_map_open(path, &map, err));
    uint8_t size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)map.size >> (8 * i));
    crypto_hash_sha256_update(state, (const uint8_t *)name, strlen(name) + 1);
    crypto_hash_sha256_update(state, size, sizeof size);
    crypto_hash_sha256_update(state, map.data, map.size);
    return 0;
}

int hf_folder_sha256(const char *folder, char ret_hex[65], struct bl_error *err)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_model_file, compare_entries);
    if (count < 0) {
        bl_fail_errno(err, "the folder cannot be listed");
        bl_error_file(err, folder);
        return -BL_EIO;
    }
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    int rc = 0;
    for (int i = 0; i < count; i++) {
        if (rc >= 0)
            rc = hash_file(&state, folder, entries[i]->d_name, err);
        free(entries[i]);
    }
    free(entries);
    BL_TRY(rc);
    uint8_t hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(&state, hash);
    bl_hex(hash, sizeof hash, ret_hex);
    return 0;
}
