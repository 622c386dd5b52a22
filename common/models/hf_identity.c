/* common/models/hf_identity.c - one hash over a model folder's files. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "common/hash.h"
#include "common/models/hf.h"

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

/* What the readers of hf_*.c, safetensors.c and the tokenizer open. */
static int is_model_file(const struct dirent *entry)
{
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "model.safetensors.index.json",
                                        "preprocessor_config.json",
                                        "processor_config.json",
                                        "tokenizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(entry->d_name, names[i]))
            return 1;
    return is_weights(entry->d_name);
}

static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Each file contributes its name (NUL included), its size (8 bytes, little-endian) and its content,
 * so that no two folders give the same stream. */
static int hash_file(struct bl_sha256 *hash, const char *folder, const char *name,
                     struct bl_error *err)
{
    char path[4096];
    struct stat st;
    BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
    if (stat(path, &st) < 0) {
        bl_fail_errno(err, "cannot be examined");
        return bl_error_file(err, path);
    }
    uint8_t size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)st.st_size >> (8 * i));
    bl_sha256_add(hash, name, strlen(name) + 1);
    bl_sha256_add(hash, size, sizeof size);
    return bl_sha256_add_file(hash, path, err);
}

int hf_folder_sha256(const char *folder, enum hf_identity identity, char ret_hex[65],
                     struct bl_error *err)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries,
                        identity == HF_IDENTITY_ALL ? is_model_file : is_config_or_weights,
                        compare_entries);
    if (count < 0) {
        bl_fail_errno(err, "the folder cannot be listed");
        bl_error_file(err, folder);
        return -BL_EIO;
    }
    bl_autosha256 hash = {0};
    bl_sha256_begin(&hash);
    int rc = 0;
    for (int i = 0; i < count; i++) {
        if (rc >= 0)
            rc = hash_file(&hash, folder, entries[i]->d_name, err);
        free(entries[i]);
    }
    free(entries);
    BL_TRY(rc);
    uint8_t bytes[32];
    bl_sha256_end(&hash, bytes);
    bl_hex(bytes, sizeof bytes, ret_hex);
    return 0;
}
