/* common/tokenizer/tokenizer.h - text to token ids and back, as Hugging Face `tokenizers` does from a
 * tokenizer.json. Kinds: byte-level BPE (GPT-2, SmolLM2, Llama 3 pre-tokenizers) and Llama-style
 * BPE (SentencePiece marks by Prepend/Replace, byte fallback, fuse_unk). Anything else in the file
 * that would change ids is refused by name (`truncation` and `padding` are not read: they belong to
 * a call, and transformers resets them too). A tokenizer is immutable after opening and may be used
 * from many threads at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/tokenizer/token_ids.h"

struct tokenizer;

/* Reads FOLDER/tokenizer.json. *ret is the caller's (tokenizer_free). */
int tokenizer_open(const char *folder, struct tokenizer **ret, struct bl_error *err);
/* The same from a buffer of `size` bytes (fuzzing, tests); `name` is the file's name in messages.
 */
int tokenizer_parse(const char *json, size_t size, const char *name, struct tokenizer **ret,
                    struct bl_error *err);
void tokenizer_free(struct tokenizer **tokenizer);

/* Appends the ids of text[0..size) to ids. Invalid UTF-8 is read as U+FFFD, as Python's
 * errors="replace" does. special: run the post-processor (adds BOS and the like), as
 * encode(add_special_tokens=True). Special tokens written out in the text are recognised either
 * way, as the oracle does. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, bool special,
                     struct token_ids *ids, struct bl_error *err);

/* The text of ids as UTF-8, NUL-terminated, the caller's (free); invalid byte sequences become
 * U+FFFD as the oracle's decode does. skip_special leaves out special tokens - but as in the oracle
 * not those that a normalizer changes (`normalized` in Llama-style files). Ids outside the
 * vocabulary are skipped. */
int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                     bool skip_special, char **ret_text, struct bl_error *err);
/* The same with its size: a text may hold NUL bytes, which are tokens too. */
int tokenizer_decode_sized(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                           bool skip_special, char **ret_text, size_t *ret_size,
                           struct bl_error *err);

/* One more than the largest id. */
int32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer);
/* Id of a token's exact content, -1 when absent. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content);
/* Content of an id as in the file (byte-level alphabet and marks included), or NULL.
 * Borrowed. */
const char *tokenizer_content(const struct tokenizer *tokenizer, int32_t id);
/* Ids that the post-processor puts in front of a single text (BOS); count may be 0. Borrowed. */
const int32_t *tokenizer_bos(const struct tokenizer *tokenizer, size_t *ret_count);
