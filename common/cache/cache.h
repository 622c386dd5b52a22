/* common/cache/cache.h - the feature cache: what the frozen vision tower gives for each distinct image of a data set, in Arrow
 * files (docs/cache.md has their columns and metadata). A folder holds
 *
 *   features-00003-of-00042.arrow    one shard: the images [3 K, 4 K) in the order of their identities, K = cache.shard_images
 *   run/                             the run that writes it: its index, journal and logs
 *
 * An image's identity is the SHA-256 of its bytes. A shard is a function of the images, the tower and the form alone, whoever
 * writes it, and it is there whole or not at all: which shards are there is all that is known of an unfinished cache.
 *
 * Layout    features (N, d_v) f32 row-major: the tower's tokens; pooled (d_v) f32: its pooled vector. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/cache/numbers.h"
#include "common/config/config.h"
#include "common/error.h"

/* What the features are: of which tower, made how, stored how. Two that are equal have equal features for equal images. */
struct cache_form {
    char tower[65];          /* hf_folder_sha256 of the vision folder, HF_IDENTITY_WEIGHTS */
    char preprocessing[160]; /* size, filter, scaling: in words */
    char precision[8];       /* "f32" or "bf16": of the tower's matmuls */
    enum config_cache_dtype dtype;
    int64_t tokens, width; /* N, d_v */
    bool pooled;           /* the tower has a pooled vector */
    bool alone; /* train.reproducible: each image was computed by itself, whatever came with it */
};
/* tower: its hash where that is known; NULL: the vision folder is hashed, which takes seconds for a large one. */
int cache_form_of(const struct config *config, const char *tower, struct cache_form *ret,
                  struct bl_error *err);
/* Bytes of an image in the cache, its name included; and of its row alone, as it travels (features_pack). */
uint64_t cache_image_bytes(const struct cache_form *form);
size_t cache_row_bytes(const struct cache_form *form);

typedef uint8_t cache_identity[32];

/* -- writing a shard */

struct cache_shard {
    uint32_t index, count;        /* of `count` shards */
    const cache_identity *images; /* (image_count) ascending */
    uint32_t image_count;
    const cache_identity
        *voids; /* (void_count) ascending: images of the shard that are no picture */
    uint32_t void_count;
    const float *features; /* (image_count, N, d_v) */
    const void *stored;    /* or, not NULL: the same as cache.dtype's elements, */
    const float *scale;    /* with int8's scales (image_count, N) */
    const float *pooled;   /* (image_count, d_v); NULL: the form has none */
};
/* -BL_ELIMIT: a feature does not fit cache.dtype; the image is named. */
int cache_write_shard(const char *folder, const struct cache_form *form,
                      const struct cache_shard *shard, struct bl_error *err);

/* -- which shards are there */

/* Looks at a shard that ought to hold these images, each a row or void. *ret_there: it is there, whole (with `verify` also by its
 * checksum) and of that form; a torn one counts as absent, and *ret_why says what is wrong with it (code 0: nothing is
 * there). -BL_ECONFIG: it is whole, and of another form or other images; named with the first difference. */
int cache_look(const char *folder, const struct cache_form *form, uint32_t index, uint32_t count,
               const cache_identity *images, uint32_t image_count, bool verify, bool *ret_there,
               struct bl_error *ret_why, struct bl_error *err);
/* Files of shards that are none of [0, count) of `count`: the first one's name into ret (4096 bytes), "" for none. Removes what
 * an interrupted writer left. */
int cache_tidy(const char *folder, uint32_t count, char *ret, struct bl_error *err);

/* -- reading a finished cache */

struct features;

/* Maps all shards of the folder and reads their identities. *ret NULL: there is no cache. A shard that is missing or torn, or
 * whose form differs from *form, is an error that names it. */
int features_open(const char *folder, const struct cache_form *form, struct features **ret,
                  struct bl_error *err);
/* NULL is fine; sets *cache to NULL. */
void features_free(struct features **cache);
/* Rows, and images that are void. */
uint64_t features_rows(const struct features *cache);
uint64_t features_voids(const struct features *cache);

enum features_found { FEATURES_ABSENT, FEATURES_VOID, FEATURES_ROW };
enum features_found features_find(const struct features *cache, const uint8_t identity[32],
                                  uint64_t *ret_row);
/* features (N, d_v); pooled (d_v), or NULL for not wanted. Any thread. */
void features_read(const struct features *cache, uint64_t row, float *features, float *pooled);

/* A row for a host that does not see the cache: the pooled vector, int8's scales, the features as the cache stores them.
 * ret (cache_row_bytes). Any thread. */
void features_pack(const struct features *cache, uint64_t row, void *ret);
/* packed is aligned to 4 bytes; the rest as in features_read. */
void features_unpack(const struct cache_form *form, const void *packed, float *features,
                     float *pooled);
