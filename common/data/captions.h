/* common/data/captions.h - a caption as the language model is to learn it (docs/recipe.md, Text): one
 * way for the index, the loaders, captioning and scoring.
 *
 * C is the caption without white space at both ends (Python's str.strip). With the join " ", P is the prefix without trailing
 * white space and ids = encode(P + " " + C); with the join "", P is the prefix as it is and ids = encode(P + C). C alone where
 * P is empty; the EOS follows. The ids must begin with encode(P), which is the prompt at generation. BOS stands apart
 * (llm.bos) and is not among them.
 *
 * With a trace, reasoning T without white space at both ends, ids = encode(P + join + open + T + close + C): C must
 * also begin with a token of its own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config/config.h"
#include "common/data/filters.h"
#include "common/error.h"
#include "common/models/hf.h"
#include "common/tokenizer/tokenizer.h"

/* Why a caption is not trained: name, words, key of RUN.yaml that decides it or NULL. */
#define CAPTION_VERDICTS(X)                                                                        \
    X(KEPT, "kept", NULL)                                                                          \
    X(EMPTY, "empty", NULL)                                                                        \
    X(TOO_SHORT, "too short", "data.min_tokens")                                                   \
    X(TOO_LONG, "too long", "data.max_tokens")                                                     \
    X(NOT_KEPT, "lacks a pattern to keep", "data.keep")                                            \
    X(DROPPED, "has a pattern to drop", "data.drop")                                               \
    X(SCRIPT, "too few of its letters are of the script", "data.script")                           \
    X(FILTERED, "a number beside it is out of bounds or missing", "data.filters")                  \
    X(NO_TRACE, "has no trace", NULL)                                                              \
    X(TRACE_TOO_LONG, "its trace is too long", "data.max_trace_tokens")                            \
    X(BOUNDARY, "its first token merges with the prefix", NULL)                                    \
    X(DUPLICATE, "repeats a caption of the same image", "data.deduplicate")                        \
    X(REPEATED, "repeats a caption of the data set", "data.deduplicate")

enum caption_verdict {
#define X(name, words, key) CAPTION_##name,
    CAPTION_VERDICTS(X)
#undef X
        CAPTION_VERDICT_COUNT
};
const char *caption_verdict_words(enum caption_verdict verdict);
const char *caption_verdict_key(enum caption_verdict verdict);
/* Whether it drops what the user asked to be left out; else the caption is lost. */
bool caption_verdict_is_asked(enum caption_verdict verdict);

/* -- without rules: captioning, scoring ------------------------------------------------------- */

/* What lies between white space: Python's str.strip() of UTF-8. Borrowed from text. */
const char *caption_strip(const char *text, size_t size, size_t *ret_size);

/* What comes before a caption. Borrowed. */
struct caption_prefix {
    const char *text, *join;
};
/* That of a column of the configuration; text NULL: the column's own. */
struct caption_prefix caption_prefix_of(const struct config_caption *column, const char *text);

/* Reasoning before a caption, and what stands around it; text NULL: none. Borrowed. */
struct caption_trace {
    const char *text;
    size_t size;
    const char *open, *close;
};

/* Appends the prompt, encode(P), to ids. */
int caption_prompt(const struct tokenizer *tokenizer, struct caption_prefix prefix,
                   struct token_ids *ids, struct bl_error *err);

/* Appends the ids of prefix, trace, caption and eos. *ret_label_first: how many of them stand before the
 * caption. *ret_verdict: KEPT, EMPTY or BOUNDARY; ids are as before unless KEPT. */
int caption_encode(const struct tokenizer *tokenizer, struct caption_prefix prefix,
                   struct caption_trace trace, const char *caption, size_t size, int32_t eos,
                   struct token_ids *ids, size_t *ret_label_first,
                   enum caption_verdict *ret_verdict, struct bl_error *err);

/* The EOS that data.eos means: its token's id, or the first eos_token_id of config.json.
 * -BL_ECONFIG: there is none, or it is outside the tokenizer's vocabulary. */
int caption_eos(const struct config_data *data, const struct tokenizer *tokenizer,
                const struct hf_llm *llm, int32_t *ret, struct bl_error *err);

/* -- the rules of a run ----------------------------------------------------------------------- */

/* Immutable after opening; may be used from many threads. */
struct caption_rules;

/* data and tokenizer are borrowed for the rules' life. *ret is the caller's. */
int caption_rules_open(const struct config_data *data, const struct tokenizer *tokenizer,
                       int32_t eos, struct caption_rules **ret, struct bl_error *err);
void caption_rules_free(struct caption_rules **rules);

struct caption_text {
    const char *text;
    size_t size;
    uint32_t column;   /* index into data.captions */
    const char *trace; /* NULL or of no bytes: none; read only where the column has traces */
    size_t trace_size;
};

/* The columns to read: of the captions, then of their traces. ret (2 x data->captions.count) may be NULL. Returns how many. */
size_t caption_columns(const struct config_data *data, const char **ret);
/* Tokens of the longest trace and caption that the configuration allows, without prefix and EOS. */
int64_t caption_tokens_max(const struct config_data *data);
/* Where among them the traces of a caption's column are; 0: it has none. */
uint32_t caption_trace_column(const struct config_data *data, uint32_t column);

/* data.strip, which comes before every other rule: filters_strip, with white space at both ends dropped. */
int caption_rules_strip(const struct caption_rules *rules, const char *text, size_t size,
                        struct bl_bytes *spare, const char **ret_text, size_t *ret_size,
                        uint32_t *ret_rule, struct bl_error *err);

struct caption_encoded {
    enum caption_verdict verdict; /* KEPT, or why it is not */
    uint32_t rule;                /* index in the list of the verdict's key, or FILTERS_NONE */
    size_t label_first;           /* ids before it are context, */
    size_t label_end;             /* those from it on too; the others are labels */
    size_t prompt, caption_first; /* ids of the prompt; those before the caption, trace included */
};
/* Appends the ids of a caption (without an opening) under its column's prefix, as training sees them. ids are as before unless it
 * is KEPT. */
int caption_rules_encode(const struct caption_rules *rules, const struct caption_text *caption,
                         struct token_ids *ids, struct caption_encoded *ret, struct bl_error *err);

/* Which of `count` kept captions a sample trains in an epoch: drawn by Philox from (seed, epoch,
 * sample), the same everywhere. Validation takes caption 0. count >= 1. */
uint32_t caption_choose(uint64_t seed, uint64_t epoch, uint64_t sample, uint32_t count);
