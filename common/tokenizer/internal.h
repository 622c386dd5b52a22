/* common/tokenizer/internal.h - the parts of a tokenizer, in the order that text goes through them.
 * Only tokenizer*.c include it.
 *
 *   added tokens    text is cut around tokens that stand written out in it  (tokenizer_added.c)
 *   normalizer      each piece between them is rewritten                    (tokenizer.c)
 *   added tokens    again, those that are looked for in rewritten text
 *   pre-tokenizer   each piece is cut into words                            (tokenizer_split.c)
 *   BPE             each word becomes ids                                   (tokenizer_bpe.c)
 *   template        ids go around the whole (BOS and the like)              (tokenizer.c)
 *   decoder         ids become text                                         (tokenizer_decode.c)
 *
 * tokenizer_json.c fills them from the file; afterwards nothing changes them. */
#pragma once

#include "common/limits.h"
#include "common/tokenizer/tokenizer.h"

/* --- Growing text. Zero-initialise, release when done. --- */
struct text {
    char *data;
    size_t size, capacity;
};
int text_append(struct text *text, const char *data, size_t size, struct bl_error *err);
/* text with each `from` (not empty) replaced by `to`, appended to `ret`. */
int text_append_replaced(struct text *ret, const char *data, size_t size, const char *from,
                         const char *to, struct bl_error *err);
void text_release(struct text *text);

/* --- Vocabulary: content of each id and id of each content. --- */
enum token_flag {
    TOKEN_MODEL = 1,  /* BPE may produce it */
    TOKEN_ADDED = 2,  /* is looked for in the text */
    TOKEN_SPECIAL = 4 /* skipped by a decode that skips special tokens */
};
struct token {
    char *content; /* NULL: no such id */
    size_t size;
    unsigned flags;
    char *spelling; /* what decode starts from, NULL: content (see parse_added) */
};
struct vocabulary {
    struct token *tokens; /* by id */
    int32_t count;        /* largest id + 1 */
    int32_t *slots;       /* open addressing by content, -1 = empty */
    size_t slot_count;    /* a power of two, more than the number of tokens */
};
/* Room for ids [0, count). */
int vocabulary_init(struct vocabulary *vocabulary, int32_t count, struct bl_error *err);
/* Content (copied) and id must be new. */
int vocabulary_add(struct vocabulary *vocabulary, const char *content, int32_t id, unsigned flags,
                   struct bl_error *err);
/* -1 when absent. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *content, size_t size);
void vocabulary_release(struct vocabulary *vocabulary);

/* --- BPE. --- */

/* Two neighbours that become one; those of lower rank first. */
struct merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank;
    int32_t id; /* what they become */
};
/* Characters up to here have their tokens in a table: the byte-level alphabet ends at U+0143. */
#define BPE_TABLE_POINTS 0x180
struct bpe {
    const struct vocabulary *vocabulary; /* borrowed */
    struct merge *merges;                /* open addressing by pair, id -1 = empty */
    size_t merge_slots;                  /* a power of two, more than the number of merges */
    int32_t characters[BPE_TABLE_POINTS];
    int32_t bytes[256];    /* byte fallback: token of <0xNN>, or -1 */
    int32_t unknown;       /* -1: what is unknown is left out */
    bool fuse_unknown;     /* a run of unknown characters is one token */
    bool byte_fallback;    /* unknown characters become their bytes' tokens */
    bool whole_word_first; /* "ignore_merges": a word that is a token stays whole */
};
/* Room for so many merges. */
int bpe_init_merges(struct bpe *bpe, size_t count, struct bl_error *err);
/* The pair must be new. */
int bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id,
                  struct bl_error *err);
/* Fills the tables of characters and bytes once the vocabulary is there. */
void bpe_fill_tables(struct bpe *bpe);
void bpe_release(struct bpe *bpe);

/* Working memory of one encode call. Zero-initialise, release when done. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t capacity, symbol_count, heap_count;
};
void bpe_scratch_release(struct bpe_scratch *scratch);
/* Appends the ids of one word (valid UTF-8). Time O(size log size). */
int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t size,
               struct token_ids *ids, struct bl_error *err);

/* --- Added tokens. --- */
struct added_token {
    char *pattern; /* what is looked for */
    size_t size;
    int32_t id;
    size_t order; /* of equal patterns the lowest wins */
    bool lstrip, rstrip, single_word;
};
/* Sorted by pattern; tokens starting with byte b are [first[b], first[b + 1]). */
struct added_set {
    struct added_token *tokens;
    size_t count, capacity;
    size_t first[257];
};
/* token->pattern is copied. added_set_sort() comes last. */
int added_set_add(struct added_set *set, const struct added_token *token, struct bl_error *err);
void added_set_sort(struct added_set *set);
void added_set_release(struct added_set *set);
/* Cuts text around the set's tokens: calls take() for each part in order, with id -1 for what lies
 * between. at: the part's place in text. Stops at the first failure. */
typedef int added_take(void *context, int32_t id, const char *part, size_t size, size_t at,
                       struct bl_error *err);
int added_set_split(const struct added_set *set, const char *text, size_t size, added_take *take,
                    void *context, struct bl_error *err);

/* --- Normalizer. --- */
struct normal_step {
    char *from; /* NULL: prepend `to`; else replace each `from` by it */
    char *to;
};

/* --- Pre-tokenizer. --- */
enum split_kind {
    SPLIT_DIGITS,       /* each digit is a word */
    SPLIT_DIGIT_RUNS,   /* each run of digits is one */
    SPLIT_GPT2,         /* GPT-2's regular expression */
    SPLIT_LLAMA3,       /* Llama 3's */
    SPLIT_PREFIX_SPACE, /* a word without a space in front gets one */
    SPLIT_METASPACE     /* spaces become a mark, which starts a word */
};
enum metaspace_prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
struct split_step {
    enum split_kind kind;
    /* Metaspace only. */
    char mark[5];
    enum metaspace_prepend prepend;
    bool split;
};
/* Length of the first word of text[0..size), size >= 1, for the kinds that only cut. */
size_t split_next(enum split_kind kind, const char *text, size_t size);

/* --- Decoder. --- */
enum decode_kind {
    DECODE_BYTE_LEVEL,
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_REPLACE,
    DECODE_STRIP,
    DECODE_METASPACE
};
struct decode_step {
    enum decode_kind kind;
    char *from, *to;         /* replace; strip and metaspace: the character `from` */
    int64_t start;           /* strip: at most so many at each token's start */
    bool drop_mark_of_first; /* metaspace: the first token's marks vanish */
};

#define TOKENIZER_STEPS_MAX 16
struct tokenizer {
    struct vocabulary vocabulary;
    struct bpe bpe;
    struct added_set added_before, added_after; /* looked for before and after the normalizer */
    struct normal_step normal[TOKENIZER_STEPS_MAX];
    int normal_count;
    struct split_step split[TOKENIZER_STEPS_MAX];
    int split_count;
    bool byte_level; /* words are written in the byte-level alphabet */
    struct token_ids prefix, suffix;
    struct decode_step decode[TOKENIZER_STEPS_MAX];
    int decode_count;
};

/* The normalizer's work on a text, appended to ret. */
int tokenizer_normalize(const struct tokenizer *tokenizer, const char *text, size_t size,
                        struct text *ret, struct bl_error *err);

/* The byte-level alphabet gives each byte a printable character: itself where it is one in
 * Latin-1, else the next of U+0100, U+0101, … in the order of bytes (GPT-2). */
uint32_t byte_level_point(uint8_t byte);
/* The byte of a character, -1 when it is not in the alphabet. */
int byte_level_byte(uint32_t point);
