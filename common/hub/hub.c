/* common/hub/hub.c - see hub.h. */
#include "common/hub/hub.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"
#include "common/limits.h"
#include "common/user_cache.h"

enum { COMMIT_DIGITS = 40 };

static const char *const prefixes[] = {[HUB_MODEL] = "models--", [HUB_DATASET] = "datasets--"};

/* -- names ------------------------------------------------------------------------------------ */

static bool is_name(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        bool inner = i && i + 1 < size;
        if (!isalnum((unsigned char)text[i]) && text[i] != '_' &&
            !(inner && (text[i] == '-' || text[i] == '.') && text[i] != text[i + 1]))
            return false;
    }
    return size > 0;
}

/* What git and a file system take alike. */
static bool is_revision(const char *text)
{
    if (!*text || *text == '/' || *text == '.' || text[strlen(text) - 1] == '/' ||
        strstr(text, "..") || strstr(text, "//"))
        return false;
    return text[strspn(text,
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/+")] == 0;
}

bool hub_id_parse(const char *text, enum hub_kind kind, struct hub_id *ret)
{
    size_t size = strcspn(text, "@");
    const char *slash = memchr(text, '/', size);
    const char *revision = text[size] ? text + size + 1 : "main";
    if (!slash || size >= sizeof ret->name || strlen(revision) >= sizeof ret->revision ||
        !is_name(text, (size_t)(slash - text)) ||
        !is_name(slash + 1, size - 1 - (size_t)(slash - text)) || !is_revision(revision))
        return false;
    *ret = (struct hub_id){.kind = kind};
    memcpy(ret->name, text, size);
    memcpy(ret->revision, revision, strlen(revision));
    return true;
}

bool hub_is_commit(const char *revision)
{
    return strlen(revision) == COMMIT_DIGITS && revision[strspn(revision, "0123456789abcdef")] == 0;
}

/* -- folders ---------------------------------------------------------------------------------- */

/* A folder that the environment names, "~" being the user's home. */
static bool from_environment(const char *name, const char *below, char *ret, size_t size)
{
    const char *value = getenv(name), *home = getenv("HOME");
    bool at_home = value && value[0] == '~' && (value[1] == '/' || !value[1]) && home;
    if (!value || !*value)
        return false;
    int length = snprintf(ret, size, "%s%s%s", at_home ? home : "", value + at_home, below);
    return (size_t)length < size;
}

bool hub_home(const char *below, char *ret, size_t size)
{
    if (from_environment("HF_HOME", below, ret, size))
        return true;
    if (!bl_user_cache("huggingface", ret, size))
        return false;
    size_t used = strlen(ret);
    return (size_t)snprintf(ret + used, size - used, "%s", below) < size - used;
}

int hub_cache(char *ret, size_t size, struct bl_error *err)
{
    if (from_environment("HF_HUB_CACHE", "", ret, size) ||
        from_environment("HUGGINGFACE_HUB_CACHE", "", ret, size) || hub_home("/hub", ret, size))
        return 0;
    bl_fail(err, BL_ECONFIG, "nothing says where the Hub's cache is");
    return bl_error_remedy(err, "set HF_HOME to a folder");
}

int hub_repository(const struct hub_id *id, char *ret, size_t size, struct bl_error *err)
{
    char cache[3000], name[200];
    BL_TRY(hub_cache(cache, sizeof cache, err));
    const char *slash = strchr(id->name, '/');
    snprintf(name, sizeof name, "%s%.*s--%s", prefixes[id->kind], (int)(slash - id->name), id->name,
             slash + 1);
    return bl_path_join(ret, size, cache, name, err);
}

/* -- snapshots -------------------------------------------------------------------------------- */

static bool has_file(const char *folder, const char *name)
{
    char path[4096];
    return bl_path_join(path, sizeof path, folder, name, NULL) == 0 && bl_path_is_file(path);
}

/* All files that an index of weights names. */
static bool has_shards(const char *folder)
{
    char path[4096];
    bl_autojson json_t *index = NULL;
    const char *tensor;
    json_t *file;
    if (bl_path_join(path, sizeof path, folder, "model.safetensors.index.json", NULL) < 0 ||
        bl_json_open(path, BL_JSON_BYTES_MAX, &index, NULL) < 0)
        return false;
    json_object_foreach(json_object_get(index, "weight_map"), tensor,
                        file) if (!json_is_string(file) ||
                                  !has_file(folder, json_string_value(file))) return false;
    return true;
}

/* Of data sets nobody knows which files are meant to be there. */
static bool is_whole(enum hub_kind kind, const char *folder)
{
    if (kind == HUB_DATASET)
        return bl_path_is_folder(folder);
    return has_file(folder, "config.json") &&
           (has_file(folder, "model.safetensors") || has_shards(folder));
}

static bool read_ref(const char *repository, const char *revision, char ret[COMMIT_DIGITS + 1])
{
    char path[4096];
    bl_autofree char *text = NULL;
    size_t size;
    int length = snprintf(path, sizeof path, "%s/refs/%s", repository, revision);
    if ((size_t)length >= sizeof path || bl_file_read(path, 256, &text, &size, NULL) < 0)
        return false;
    text[strcspn(text, "\r\n")] = 0;
    if (!hub_is_commit(text))
        return false;
    memcpy(ret, text, COMMIT_DIGITS + 1);
    return true;
}

bool hub_find(const struct hub_id *id, char *ret, size_t size)
{
    char repository[3500], commit[COMMIT_DIGITS + 1];
    if (hub_repository(id, repository, sizeof repository, NULL) < 0)
        return false;
    if (hub_is_commit(id->revision))
        memcpy(commit, id->revision, sizeof commit);
    else if (!read_ref(repository, id->revision, commit))
        return false;
    int length = snprintf(ret, size, "%s/snapshots/%s", repository, commit);
    return (size_t)length < size && is_whole(id->kind, ret);
}

bool hub_name(const char *folder, char *ret, size_t size)
{
    char cache[3000], owner[HUB_NAME_MAX], name[HUB_NAME_MAX], commit[COMMIT_DIGITS + 1];
    int end = 0;
    if (hub_cache(cache, sizeof cache, NULL) < 0 || strncmp(folder, cache, strlen(cache)) != 0)
        return false;
    folder += strlen(cache);
    folder += *folder == '/';
    for (size_t i = HUB_MODEL; i <= HUB_DATASET; i++) {
        size_t length = strlen(prefixes[i]);
        const char *middle =
            strncmp(folder, prefixes[i], length) ? NULL : strstr(folder + length, "--");
        if (!middle || (size_t)(middle - folder) - length >= sizeof owner)
            continue;
        snprintf(owner, sizeof owner, "%.*s", (int)((size_t)(middle - folder) - length),
                 folder + length);
        if (sscanf(middle, "--%96[^/]/snapshots/%40[0-9a-f]%n", name, commit, &end) == 2 &&
            !middle[end] && hub_is_commit(commit))
            return (size_t)snprintf(ret, size, "%s/%s@%s", owner, name, commit) < size;
    }
    return false;
}

/* -- the environment -------------------------------------------------------------------------- */

static bool is_set(const char *name)
{
    static const char *const yes[] = {"1", "on", "yes", "true"};
    const char *value = getenv(name);
    for (size_t i = 0; value && i < sizeof yes / sizeof *yes; i++)
        if (!strcasecmp(value, yes[i]))
            return true;
    return false;
}

bool hub_is_offline(void)
{
    return is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE");
}

int hub_refuse_missing(const char *path, struct bl_error *err)
{
    struct hub_id id;
    char cache[3000] = "";
    if (path[0] == '/' || !hub_id_parse(path, HUB_MODEL, &id) || bl_path_is_folder(path) ||
        bl_path_is_file(path))
        return 0;
    (void)hub_cache(cache, sizeof cache, NULL); /* unknown: then the text says less */
    bl_fail(err, BL_EIO,
            "is no file or folder, and is not in the Hub's cache of this host (%.300s)", cache);
    bl_error_remedy(err, "fetch it here with `blipren-coord pull RUN.yaml`, or set HF_HOME to a "
                         "cache that has it; if no repository is meant, check the path");
    return bl_error_file(err, path);
}
