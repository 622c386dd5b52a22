/* common/models/hf_parts.h - what the readers of a folder's JSON share; private to them. */
#pragma once

#include "common/cleanup.h"
#include "common/json.h"
#include "common/models/family.h"

/* FOLDER/NAME, which is an object; its path in `path`. *ret is the caller's. */
int hf_config_open(const char *folder, const char *name, char path[4096], json_t **ret,
                   struct bl_error *err);
/* -BL_EFORMAT: the value of `key` is none of what is read here. */
int hf_fail_key(const json_t *object, const char *key, const char *expected, struct bl_error *err);
/* A key that would change what is computed has only this value here. */
int hf_expect_flag(const json_t *json, const char *key, bool only, struct bl_error *err);
int hf_expect_flags(const json_t *json, const struct hf_flag flags[HF_FLAGS_MAX],
                    struct bl_error *err);
int hf_expect_not_quantized(const json_t *json, struct bl_error *err);
int hf_expect_whole_heads(const json_t *json, int64_t hidden, int64_t heads, struct bl_error *err);
