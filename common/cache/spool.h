/* common/cache/spool.h - features on their way into a cache that training fills. Training meets images in another order than the
 * cache has them in, so each worker appends what it computes to a file of its own in the cache's folder,
 *
 *   filling-0123456789abcdef.spool    header: magic, SHA-256 of the form, bytes of a record; records: identity, checksum, features
 *                                     as the cache stores them, int8's scales, pooled vector
 *
 * and when all images are there, the coordinator makes the shards from them. What a kill tore is no record, and its image is
 * computed again when it comes again. */
#pragma once

#include "common/cache/cache.h"

/* -- writing: one a process */

struct spool;

/* Knows which images the folder's spools have already. -BL_ECONFIG: one was made with another form; it is named. *ret is the caller's. */
int spool_open(const char *folder, const struct cache_form *form, struct spool **ret,
               struct bl_error *err);
/* NULL is fine; sets *spool to NULL. */
void spool_free(struct spool **spool);
/* Keeps an image's features (N, d_v) and pooled (d_v; read if the form has it), unless they are kept already, and rounds
 * features to what the cache will give. -BL_ELIMIT: one does not fit cache.dtype. */
int spool_add(struct spool *spool, const uint8_t identity[32], float *features, const float *pooled,
              struct bl_error *err);

/* -- making shards of them */

struct spools;

/* Maps all spools of the folder. -BL_ECONFIG: as above. *ret is the caller's. */
int spools_open(const char *folder, const struct cache_form *form, struct spools **ret,
                struct bl_error *err);
void spools_free(struct spools **spools);
/* Whether an image is in one of them; torn records are found to be so when they are read. */
bool spools_have(const struct spools *spools, const uint8_t identity[32]);
/* Writes shard `index` of `count`, which has these images in ascending order. An image that no spool has is void if is_void
 * says so (image_count). *ret_torn: how many are not there whole; then nothing is written. */
int spools_write_shard(const struct spools *spools, const char *folder, uint32_t index,
                       uint32_t count, const cache_identity *images, const bool *is_void,
                       uint32_t image_count, uint32_t *ret_torn, struct bl_error *err);
/* Removes the folder's spools: the cache is whole. */
void spools_remove(const char *folder);
