/* common/tokenizer/decode.c - from ids to text: the tokens' contents go through the decoder's steps
 * and are joined. */
#include "common/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/tokenizer/unicode.h"

/* A list of strings: piece i is text[ends[i - 1], ends[i]). */
struct pieces {
    struct text text;
    size_t *ends;
    size_t count, capacity;
};

static void pieces_release(struct pieces *pieces)
{
    text_release(&pieces->text);
    free(pieces->ends);
    *pieces = (struct pieces){0};
}

static void pieces_clear(struct pieces *pieces)
{
    pieces->text.size = pieces->count = 0;
}

/* What was appended to the text since the last piece becomes one. */
static int end_piece(struct pieces *pieces, struct bl_error *err)
{
    if (pieces->count == pieces->capacity) {
        size_t capacity = pieces->capacity ? 2 * pieces->capacity : 64;
        size_t *grown = realloc(pieces->ends, capacity * sizeof *grown);
        if (!grown)
            return bl_fail(err, BL_ENOMEM, "no memory for %zu tokens", capacity);
        pieces->ends = grown;
        pieces->capacity = capacity;
    }
    pieces->ends[pieces->count++] = pieces->text.size;
    return 0;
}

static int add_piece(struct pieces *pieces, const char *data, size_t size, struct bl_error *err)
{
    BL_TRY(text_append(&pieces->text, data, size, err));
    return end_piece(pieces, err);
}

static const char *piece_at(const struct pieces *pieces, size_t index, size_t *ret_size)
{
    size_t start = index ? pieces->ends[index - 1] : 0;
    *ret_size = pieces->ends[index] - start;
    return pieces->text.size ? pieces->text.data + start : "";
}

/* --- The steps: each reads `from` and fills `to`, which is empty. --- */

static int append_lossy(struct text *ret, const char *bytes, size_t size, struct bl_error *err)
{
    uint32_t point;
    for (size_t at = 0; at < size;) {
        int length = utf8_next(bytes + at, size - at, &point);
        if (length > 0)
            BL_TRY(text_append(ret, bytes + at, (size_t)length, err));
        else
            BL_TRY(text_append(ret, UTF8_REPLACEMENT, strlen(UTF8_REPLACEMENT), err));
        at += (size_t)abs(length);
    }
    return 0;
}

/* A token in the byte-level alphabet as its bytes; any other as it stands. */
static int append_token_bytes(struct text *bytes, const char *token, size_t size,
                              struct bl_error *err)
{
    size_t before = bytes->size;
    for (size_t at = 0; at < size;) {
        uint32_t point = 0;
        at += (size_t)utf8_next(token + at, size - at, &point);
        int byte = byte_level_byte(point);
        if (byte < 0) {
            bytes->size = before;
            return text_append(bytes, token, size, err);
        }
        BL_TRY(text_append(bytes, &(char){(char)byte}, 1, err));
    }
    return 0;
}

/* All tokens' bytes together are one UTF-8 text. */
static int decode_byte_level(const struct pieces *from, struct pieces *to, struct bl_error *err)
{
    __attribute__((cleanup(text_release))) struct text bytes = {0};
    for (size_t i = 0; i < from->count; i++) {
        size_t size;
        const char *token = piece_at(from, i, &size);
        BL_TRY(append_token_bytes(&bytes, token, size, err));
    }
    BL_TRY(append_lossy(&to->text, bytes.data, bytes.size, err));
    return end_piece(to, err);
}

/* The byte of "<0xNN>", or -1. */
static int fallback_byte(const char *token, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    if (size != 6 || memcmp(token, "<0x", 3) || token[5] != '>')
        return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char lower = token[i] >= 'A' && token[i] <= 'F' ? (char)(token[i] - 'A' + 'a') : token[i];
        const char *digit = lower ? strchr(digits, lower) : NULL;
        if (!digit)
            return -1;
        value = value * 16 + (int)(digit - digits);
    }
    return value;
}

/* A run of byte tokens: their text, or U+FFFD for each when they are no UTF-8. */
static int flush_bytes(struct text *bytes, struct pieces *to, struct bl_error *err)
{
    if (bytes->size && utf8_valid(bytes->data, bytes->size) == bytes->size)
        BL_TRY(add_piece(to, bytes->data, bytes->size, err));
    else
        for (size_t i = 0; i < bytes->size; i++)
            BL_TRY(add_piece(to, UTF8_REPLACEMENT, strlen(UTF8_REPLACEMENT), err));
    bytes->size = 0;
    return 0;
}

static int decode_byte_fallback(const struct pieces *from, struct pieces *to, struct bl_error *err)
{
    __attribute__((cleanup(text_release))) struct text bytes = {0};
    for (size_t i = 0; i < from->count; i++) {
        size_t size;
        const char *token = piece_at(from, i, &size);
        int byte = fallback_byte(token, size);
        if (byte >= 0) {
            BL_TRY(text_append(&bytes, &(char){(char)byte}, 1, err));
            continue;
        }
        BL_TRY(flush_bytes(&bytes, to, err));
        BL_TRY(add_piece(to, token, size, err));
    }
    return flush_bytes(&bytes, to, err);
}

static int decode_replace(const struct decode_step *step, const struct pieces *from,
                          struct pieces *to, struct bl_error *err)
{
    for (size_t i = 0; i < from->count; i++) {
        size_t size;
        const char *token = piece_at(from, i, &size);
        BL_TRY(text_append_replaced(&to->text, token, size, step->from, step->to, err));
        BL_TRY(end_piece(to, err));
    }
    return 0;
}

/* At most `start` of the character at each token's start vanish. */
static int decode_strip(const struct decode_step *step, const struct pieces *from,
                        struct pieces *to, struct bl_error *err)
{
    size_t width = strlen(step->from);
    for (size_t i = 0; i < from->count; i++) {
        size_t size;
        const char *token = piece_at(from, i, &size);
        for (int64_t n = 0; n < step->start && size >= width && !memcmp(token, step->from, width);
             n++) {
            token += width;
            size -= width;
        }
        BL_TRY(add_piece(to, token, size, err));
    }
    return 0;
}

static int decode_metaspace(const struct decode_step *step, const struct pieces *from,
                            struct pieces *to, struct bl_error *err)
{
    for (size_t i = 0; i < from->count; i++) {
        size_t size;
        const char *token = piece_at(from, i, &size);
        BL_TRY(text_append_replaced(&to->text, token, size, step->from,
                                    i == 0 && step->drop_mark_of_first ? "" : " ", err));
        BL_TRY(end_piece(to, err));
    }
    return 0;
}

static int run_step(const struct decode_step *step, const struct pieces *from, struct pieces *to,
                    struct bl_error *err)
{
    switch (step->kind) {
    case DECODE_BYTE_LEVEL:
        return decode_byte_level(from, to, err);
    case DECODE_BYTE_FALLBACK:
        return decode_byte_fallback(from, to, err);
    case DECODE_FUSE:
        return add_piece(to, from->text.data, from->text.size, err);
    case DECODE_REPLACE:
        return decode_replace(step, from, to, err);
    case DECODE_STRIP:
        return decode_strip(step, from, to, err);
    case DECODE_METASPACE:
        return decode_metaspace(step, from, to, err);
    }
    BL_ASSERT(!"a kind of decoder");
    return 0;
}

static bool is_special(const struct vocabulary *vocabulary, const struct token *token)
{
    if (!token->spelling)
        return token->flags & TOKEN_SPECIAL;
    int32_t id = vocabulary_find(vocabulary, token->spelling, strlen(token->spelling));
    return id >= 0 && vocabulary->tokens[id].flags & TOKEN_SPECIAL;
}

/* The tokens of the ids; without a decoder they are joined by spaces. */
static int collect(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                   bool skip_special, struct pieces *ret, struct bl_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->vocabulary.count)
            continue;
        const struct token *token = &tokenizer->vocabulary.tokens[ids[i]];
        if (!token->content || (skip_special && is_special(&tokenizer->vocabulary, token)))
            continue;
        if (tokenizer->decode_count == 0 && ret->count)
            BL_TRY(text_append(&ret->text, " ", 1, err));
        const char *spelling = token->spelling ? token->spelling : token->content;
        BL_TRY(add_piece(ret, spelling, strlen(spelling), err));
    }
    return 0;
}

int tokenizer_decode_sized(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                           bool skip_special, char **ret_text, size_t *ret_size,
                           struct bl_error *err)
{
    __attribute__((cleanup(pieces_release))) struct pieces now = {0}, next = {0};
    BL_TRY(collect(tokenizer, ids, count, skip_special, &now, err));
    for (int i = 0; i < tokenizer->decode_count; i++) {
        pieces_clear(&next);
        BL_TRY(run_step(&tokenizer->decode[i], &now, &next, err));
        struct pieces kept = now;
        now = next;
        next = kept;
    }
    BL_TRY(text_append(&now.text, "", 1, err)); /* the NUL */
    *ret_size = now.text.size - 1;
    *ret_text = bl_take(&now.text.data);
    return 0;
}

int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                     bool skip_special, char **ret_text, struct bl_error *err)
{
    size_t size;
    return tokenizer_decode_sized(tokenizer, ids, count, skip_special, ret_text, &size, err);
}
