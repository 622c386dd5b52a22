/* common/models/hf_parts.c - see hf_parts.h. */
#include "common/models/hf_parts.h"

#include "common/file.h"
#include "common/hub/hub.h"
#include "common/limits.h"

/* A config.json may list tens of thousands of labels, hence the large limit. */
int hf_config_open(const char *folder, const char *name, char path[4096], json_t **ret,
                   struct bl_error *err)
{
    BL_TRY(hub_refuse_missing(folder, err));
    BL_TRY(bl_path_join(path, 4096, folder, name, err));
    BL_TRY(bl_json_open(path, BL_JSON_BYTES_MAX, ret, err));
    if (json_is_object(*ret))
        return 0;
    int rc = bl_json_fail(*ret, "an object", err);
    bl_error_file(err, path);
    return rc;
}

int hf_fail_key(const json_t *object, const char *key, const char *expected, struct bl_error *err)
{
    int rc = bl_json_fail(json_object_get(object, key), expected, err);
    bl_error_remedy(err, "use a supported model: %s", family_names());
    bl_error_key(err, "%s", key);
    return rc;
}

int hf_expect_flag(const json_t *json, const char *key, bool only, struct bl_error *err)
{
    bool value = only;
    BL_TRY(bl_json_bool(json, key, &value, err));
    return value == only ? 0 : hf_fail_key(json, key, only ? "true" : "false", err);
}

int hf_expect_flags(const json_t *json, const struct hf_flag flags[HF_FLAGS_MAX],
                    struct bl_error *err)
{
    for (int i = 0; i < HF_FLAGS_MAX && flags[i].key; i++)
        BL_TRY(hf_expect_flag(json, flags[i].key, flags[i].only, err));
    return 0;
}

int hf_expect_not_quantized(const json_t *json, struct bl_error *err)
{
    const json_t *found = json_object_get(json, "quantization_config");
    return !found || json_is_null(found)
               ? 0
               : hf_fail_key(json, "quantization_config", "weights in f32, f16 or bf16", err);
}

int hf_expect_whole_heads(const json_t *json, int64_t hidden, int64_t heads, struct bl_error *err)
{
    if (hidden % heads == 0)
        return 0;
    int rc =
        bl_fail(err, BL_EFORMAT, "expected hidden_size to be a multiple of %lld heads, found %lld",
                (long long)heads, (long long)hidden);
    bl_error_key(err, "num_attention_heads");
    return rc;
}
