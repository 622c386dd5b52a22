/* common/data/token_rows.h - CACHE/captions.arrow: the token ids of a run's captions, beside the features of its images. One row
 * a caption, in the order of the dataset's:
 *
 *   image         string       identity of its image
 *   ids           list<int32>  prefix, trace, caption and EOS as the language model is to learn them
 *   label_first   int32        the first id that is a label; those before it are context
 *   label_end     int32        and one past the last
 *
 * Metadata names what the ids depend on: blipren.data (the dataset's fingerprint), blipren.tokenizer (SHA-256 of tokenizer.json),
 * blipren.rules (the keys of RUN.yaml). The file is whole or absent; one of other captions or rules is written anew. */
#pragma once

#include "common/config/config.h"
#include "common/data/dataset.h"
#include "common/error.h"

/* What a file must be made of to be the run's. */
struct token_key {
    char data[65], tokenizer[65];
    char *rules; /* owned */
};
/* Hashes tokenizer.json. token_key_release in any case. */
int token_key_of(const struct config *config, const struct dataset *dataset, struct token_key *ret,
                 struct bl_error *err);
void token_key_release(struct token_key *key);

/* Writes the folder's file by several threads, unless it is there and the run's; *ret_written, if not NULL, tells. About 50
 * microseconds a caption on each core. */
int token_rows_write(const char *folder, const struct config *config, const struct dataset *dataset,
                     bool *ret_written, struct bl_error *err);

struct token_rows;

/* *ret NULL: there is none, it is of other captions or rules, or it cannot be read; *ret_why says so (code 0: there is none).
 * *ret is the caller's. */
void token_rows_open(const char *folder, const struct token_key *key, uint64_t captions,
                     struct token_rows **ret, struct bl_error *ret_why);
/* NULL is fine; sets *rows to NULL. */
void token_rows_free(struct token_rows **rows);
/* The ids of a caption (dataset_caption's row): (*ret_count), borrowed. Any thread. */
const int32_t *token_rows_get(const struct token_rows *rows, uint64_t caption, size_t *ret_count,
                              size_t *ret_label_first, size_t *ret_label_end);
