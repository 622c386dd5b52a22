/* loader/sample.h - one sample as the worker takes it: the image's square of pixels and the
 * caption's ids. What is open here is used by all threads at once.
 *
 * Whose fault a failure is (location_failure_of tells from the error):
 *   LOCATION_BAD         the bytes are no picture, or too large: every host finds the same, the sample is void.
 *   LOCATION_UNREADABLE  the index knew the image, and here it is not there, not permitted, or other bytes than were
 *                        indexed; or a server says for good that it has none. That may be this host's mount or network: the
 *                        sample is void only when another loader agrees.
 *   LOCATION_PASSING     the host's for half a minute (EIO, EMFILE, ESTALE, no memory, ...), tried again with growing
 *                        pauses; or a server's, for data.download_patience_s. It says nothing about the sample: this
 *                        process ends with the error, which names the file or the URL. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/data/captions.h"
#include "common/config/config.h"
#include "common/data/dataset.h"
#include "common/error.h"
#include "common/data/run.h"
#include "common/tokenizer/tokenizer.h"

struct sample_source;

/* Reads the run folder's configuration and index, the language model's tokenizer and the vision
 * model's preprocessing, or (cache_tower not "") the identities of the run's feature cache, of the tower with that hash. Takes up
 * to a second. map says where the plan's folders are on this host; it is borrowed, and not changed afterwards; NULL: where the
 * plan has them. patience waits on the threads that call the functions below. *ret is the
 * caller's. */
int sample_source_open(const char *run_folder, const uint8_t run[RUN_ID_BYTES],
                       struct path_map *map, const char *cache_tower,
                       const struct location_patience *patience, struct sample_source **ret,
                       struct bl_error *err);
/* NULL is fine; sets *source to NULL. */
void sample_source_free(struct sample_source **source);

uint64_t sample_count(const struct sample_source *source);
/* Images are (side, side, 3) u8 RGB. */
uint32_t sample_side(const struct sample_source *source);
/* Of the settings and tokenizers of this host's models (HF_IDENTITY_SETTINGS): 64 digits each. */
void sample_models(const struct sample_source *source, const char **ret_vision,
                   const char **ret_llm);
/* Whether features come from the run's cache. */
bool sample_is_cached(const struct sample_source *source);
/* Bytes of an image as it is shipped: its pixels; of a cached run its row in the cache (rows), or nothing: the worker has it. */
size_t sample_image_bytes(const struct sample_source *source, bool rows);

/* Under cache.fill: whether the cache is whole by now, so that the worker has the features. Opens it, the first time it is. Any
 * thread. */
bool sample_is_filled(struct sample_source *source);

/* Where its image is, for people: location_describe. */
void sample_describe(const struct sample_source *source, uint64_t id, char *ret, size_t size);

struct sample_info {
    uint32_t tokens, prefix, label_first, label_end; /* as in proto/data.proto, Slot */
    uint64_t image_hash;
    bool damaged; /* some of its pixels are made up (struct image) */
};

/* Writes the image of sample `id` < sample_count (sample_image_bytes): its pixels (side, side, 3) or its row in the cache;
 * NULL: the cache is to have it. Appends the ids of the caption that it has in `epoch`. The image's bytes are compared with the index by their SHA-256; once
 * they were equal, a file of the indexed size and time is taken to be the same. A failure leaves ids as
 * before; *err, which must not be NULL, says whose it is (above). -BL_ESTOPPED: wait returned false. */
int sample_make(const struct sample_source *source, uint64_t id, uint32_t epoch, uint8_t *image,
                struct token_ids *ids, struct sample_info *ret, struct bl_error *err);

/* Whether a failure of sample_make is a rule's that leaves the sample out (data.min_side). */
bool sample_is_left_out(const struct bl_error *err);

/* The sample will be made: what is at a URL is fetched from now on. Returns at once. */
int sample_want(const struct sample_source *source, uint64_t id, struct bl_error *err);

/* Of a sample that is known to be void: the reason as -BL_EDATA where its image is at a URL, so that what has once failed for good
 * stays void, whatever its server says to another loader later. 0: it may be read again, and the same will be found. */
int sample_missing(const struct sample_source *source, uint64_t id, struct bl_error *err);

/* Proof that this host sees the run's images: reads those of `count` samples and gives the first 8 bytes
 * of each content's SHA-256, as sample_info.image_hash has it, for the coordinator to compare with its
 * index. What is at a URL needs no proof, and is not fetched. 0: it could not be read here, or there is no such sample; *ret_error says why the first of them
 * could not (code 0: all were read). The only failure is -BL_ESTOPPED. */
int sample_probe(const struct sample_source *source, const uint64_t *ids, size_t count,
                 uint64_t *ret_hashes, struct bl_error *ret_error, struct bl_error *err);
