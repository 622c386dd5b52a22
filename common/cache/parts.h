/* common/cache/parts.h - what the parts of the cache share. For common/cache alone. */
#pragma once

#include "common/arrow/arrow.h"
#include "common/cache/cache.h"

/* Columns of a shard, in this order; SCALE of int8 alone, POOLED if the form has it. */
#define CACHE_IMAGE "image"
#define CACHE_FEATURES "features"
#define CACHE_SCALE "scale"
#define CACHE_POOLED "pooled"

size_t cache_element_bytes(enum config_cache_dtype dtype);
/* What is wrong with an image's feature x that cannot be stored. */
int cache_fail_number(enum number_fault fault, enum config_cache_dtype dtype,
                      const uint8_t identity[32], float x, struct bl_error *err);
/* The columns of that form. Returns their number. */
int cache_columns(const struct cache_form *form, struct arrow_column ret[4]);
void cache_shard_path(char ret[4096], const char *folder, uint32_t index, uint32_t count);
/* Are metadata and columns those of the form? -BL_ECONFIG names file and first difference. */
int cache_check_form(const struct arrow *shard, const char *path, const struct cache_form *form,
                     struct bl_error *err);
/* The shard's identities, rows first, then voids: *ret is the caller's (free). -BL_EFORMAT: one is no SHA-256. */
int cache_read_identities(const struct arrow *shard, const char *path, cache_identity **ret,
                          uint32_t *ret_rows, uint32_t *ret_voids, struct bl_error *err);
