/* common/models/hf_identity.c - one hash over a model folder's files, kept in the user's cache. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/file_hash.h"
#include "common/hub/hub.h"
#include "common/models/hf.h"
#include "common/models/identity_cache.h"

static bool is_weights(const char *name)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(name);
    return length >= sizeof suffix - 1 && !strcmp(name + length - (sizeof suffix - 1), suffix);
}

static int is_config_or_weights(const struct dirent *entry)
{
    return !strcmp(entry->d_name, "config.json") || is_weights(entry->d_name);
}

/* What the readers of hf_*.c and the tokenizer open. */
static int is_settings(const struct dirent *entry)
{
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "preprocessor_config.json", "processor_config.json",
                                        "tokenizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(entry->d_name, names[i]))
            return 1;
    return 0;
}

/* And safetensors.c. */
static int is_model_file(const struct dirent *entry)
{
    return is_settings(entry) || !strcmp(entry->d_name, "model.safetensors.index.json") ||
           is_weights(entry->d_name);
}

static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* The files in the order of their names. */
struct listing {
    struct dirent **at;
    int count;
};

static void release_listing(struct listing *listing)
{
    for (int i = 0; i < listing->count; i++)
        free(listing->at[i]);
    free(listing->at);
}

static int examine(const char *folder, const char *name, char *ret_path, size_t size,
                   struct stat *ret, struct bl_error *err)
{
    BL_TRY(bl_path_join(ret_path, size, folder, name, err));
    if (stat(ret_path, ret) == 0)
        return 0;
    bl_fail_errno(err, "cannot be examined");
    return bl_error_file(err, ret_path);
}

static int stamp_files(const char *folder, enum hf_identity identity, const struct listing *files,
                       struct identity_stamp *ret, struct bl_error *err)
{
    char path[4096];
    struct stat st;
    int rc = 0;
    identity_stamp_begin(ret, folder, (int)identity);
    for (int i = 0; i < files->count && rc == 0; i++) {
        rc = examine(folder, files->at[i]->d_name, path, sizeof path, &st, err);
        if (rc == 0)
            identity_stamp_add(ret, files->at[i]->d_name, &st);
    }
    identity_stamp_end(ret);
    return rc;
}

/* Each file contributes its name (NUL included), its size (8 bytes, little-endian) and its content,
 * so that no two folders give the same stream. */
static int hash_file(struct bl_sha256 *hash, const char *folder, const char *name,
                     struct bl_error *err)
{
    char path[4096];
    struct stat st;
    BL_TRY(examine(folder, name, path, sizeof path, &st, err));
    uint8_t size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)st.st_size >> (8 * i));
    bl_sha256_add(hash, name, strlen(name) + 1);
    bl_sha256_add(hash, size, sizeof size);
    return bl_sha256_add_file(hash, path, err);
}

static int hash_files(const char *folder, const struct listing *files, char ret_hex[65],
                      struct bl_error *err)
{
    uint8_t bytes[32];
    bl_autosha256 hash = {0};
    bl_sha256_begin(&hash);
    for (int i = 0; i < files->count; i++)
        BL_TRY(hash_file(&hash, folder, files->at[i]->d_name, err));
    bl_sha256_end(&hash, bytes);
    bl_hex(bytes, sizeof bytes, ret_hex);
    return 0;
}

int hf_folder_sha256(const char *folder, enum hf_identity identity, char ret_hex[65],
                     struct bl_error *err)
{
    __attribute__((cleanup(release_listing))) struct listing files = {0};
    struct identity_stamp before, after;
    struct timespec now;
    BL_TRY(hub_refuse_missing(folder, err));
    bl_autofree char *absolute = realpath(folder, NULL);
    int (*const covers[])(const struct dirent *) = {
        [HF_IDENTITY_WEIGHTS] = is_config_or_weights,
        [HF_IDENTITY_ALL] = is_model_file,
        [HF_IDENTITY_SETTINGS] = is_settings,
    };
    int count = scandir(folder, &files.at, covers[identity], compare_entries);
    if (count < 0 || !absolute) {
        bl_fail_errno(err, "the folder cannot be listed");
        bl_error_file(err, folder);
        return -BL_EIO;
    }
    files.count = count;
    BL_TRY(stamp_files(absolute, identity, &files, &before, err));
    if (identity_cache_find(absolute, &before, ret_hex))
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    BL_TRY(hash_files(folder, &files, ret_hex, err));
    BL_TRY(stamp_files(absolute, identity, &files, &after, err));
    if (!memcmp(before.digest, after.digest, sizeof before.digest))
        identity_cache_keep(absolute, &after, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec,
                            ret_hex);
    return 0;
}
