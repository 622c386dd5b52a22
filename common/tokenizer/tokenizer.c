/* common/tokenizer/tokenizer.c - the way from text to ids through the parts of tokenizer_internal.h. */
#include "common/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "common/tokenizer/internal.h"
#include "common/tokenizer/unicode.h"

/* --- Growing text and ids. --- */

int text_append(struct text *text, const char *data, size_t size, struct bl_error *err)
{
    size_t needed;
    if (size == 0)
        return 0;
    if (!bl_add(text->size, size, &needed))
        return bl_fail(err, BL_ENOMEM, "no memory for so long a text");
    if (!text->data || needed > text->capacity) {
        size_t capacity = needed < 64 ? 64 : needed + needed / 2;
        char *grown = realloc(text->data, capacity);
        if (!grown)
            return bl_fail(err, BL_ENOMEM, "no memory for a text of %zu bytes", needed);
        text->data = grown;
        text->capacity = capacity;
    }
    memcpy(text->data + text->size, data, size);
    text->size = needed;
    return 0;
}

int text_append_replaced(struct text *ret, const char *data, size_t size, const char *from,
                         const char *to, struct bl_error *err)
{
    size_t from_size = strlen(from), to_size = strlen(to);
    for (const char *found; (found = memmem(data, size, from, from_size));) {
        size_t before = (size_t)(found - data);
        BL_TRY(text_append(ret, data, before, err));
        BL_TRY(text_append(ret, to, to_size, err));
        data += before + from_size;
        size -= before + from_size;
    }
    return text_append(ret, data, size, err);
}

void text_release(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}

/* --- The byte-level alphabet. --- */

static bool is_printable_latin1(uint32_t point)
{
    return (point >= 0x21 && point <= 0x7E) || (point >= 0xA1 && point <= 0xAC) ||
           (point >= 0xAE && point <= 0xFF);
}

/* The bytes that are not printable, in order: 0x00-0x20, 0x7F-0xA0, 0xAD. */
uint32_t byte_level_point(uint8_t byte)
{
    if (is_printable_latin1(byte))
        return byte;
    return 0x100u + (byte <= 0x20 ? byte : byte <= 0xA0 ? byte - 0x7Fu + 0x21u : 0x43u);
}

int byte_level_byte(uint32_t point)
{
    if (is_printable_latin1(point))
        return (int)point;
    if (point < 0x100 || point > 0x143)
        return -1;
    uint32_t index = point - 0x100;
    return (int)(index <= 0x20 ? index : index <= 0x42 ? index - 0x21 + 0x7F : 0xAD);
}

/* --- Normalizer. --- */

int tokenizer_normalize(const struct tokenizer *tokenizer, const char *text, size_t size,
                        struct text *ret, struct bl_error *err)
{
    if (tokenizer->normal_count == 0)
        return text_append(ret, text, size, err);
    __attribute__((cleanup(text_release))) struct text now = {0}, next = {0};
    BL_TRY(text_append(&now, text, size, err));
    for (int i = 0; i < tokenizer->normal_count; i++) {
        const struct normal_step *step = &tokenizer->normal[i];
        next.size = 0;
        if (step->from) {
            BL_TRY(text_append_replaced(&next, now.data, now.size, step->from, step->to, err));
        } else {
            if (now.size)
                BL_TRY(text_append(&next, step->to, strlen(step->to), err));
            BL_TRY(text_append(&next, now.data, now.size, err));
        }
        struct text kept = now;
        now = next;
        next = kept;
    }
    return text_append(ret, now.data, now.size, err);
}

/* --- Encoding. --- */

/* One encode call: its memory, and where its ids go. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct token_ids *ids;
    struct bpe_scratch scratch;
    struct text normalized;
    struct text pieces[TOKENIZER_STEPS_MAX + 1]; /* what each step of the pre-tokenizer wrote */
    bool at_start;                               /* the piece starts where the text starts */
};

static void encoding_release(struct encoding *encoding)
{
    bpe_scratch_release(&encoding->scratch);
    text_release(&encoding->normalized);
    for (int i = 0; i <= TOKENIZER_STEPS_MAX; i++)
        text_release(&encoding->pieces[i]);
}

/* A word that the pre-tokenizer is done with. */
static int encode_word(struct encoding *encoding, const char *word, size_t size,
                       struct bl_error *err)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (tokenizer->byte_level) {
        struct text *mapped = &encoding->pieces[TOKENIZER_STEPS_MAX];
        mapped->size = 0;
        for (size_t i = 0; i < size; i++) {
            char character[4];
            int length = utf8_put(byte_level_point((uint8_t)word[i]), character);
            BL_TRY(text_append(mapped, character, (size_t)length, err));
        }
        word = mapped->data;
        size = mapped->size;
    }
    return bpe_encode(&tokenizer->bpe, &encoding->scratch, word, size, encoding->ids, err);
}

static int split_piece(struct encoding *encoding, int step_index, const char *piece, size_t size,
                       bool at_start, struct bl_error *err);

/* Spaces become the mark, one comes in front where the scheme says so; then each mark starts a
 * word, unless the piece stays whole. */
static int split_metaspace(struct encoding *encoding, int step_index, const char *piece,
                           size_t size, bool at_start, struct bl_error *err)
{
    const struct split_step *step = &encoding->tokenizer->split[step_index];
    struct text *marked = &encoding->pieces[step_index];
    size_t mark_size = strlen(step->mark);
    bool has_mark = *piece == ' ' || (size >= mark_size && !memcmp(piece, step->mark, mark_size));
    marked->size = 0;
    if (!has_mark &&
        (step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && at_start)))
        BL_TRY(text_append(marked, step->mark, mark_size, err));
    BL_TRY(text_append_replaced(marked, piece, size, " ", step->mark, err));
    for (size_t start = 0, end; start < marked->size; start = end) {
        const char *next = step->split ? memmem(marked->data + start + 1, marked->size - start - 1,
                                                step->mark, mark_size)
                                       : NULL;
        end = next ? (size_t)(next - marked->data) : marked->size;
        BL_TRY(split_piece(encoding, step_index + 1, marked->data + start, end - start,
                           at_start && start == 0, err));
    }
    return 0;
}

/* Cuts a non-empty piece by the pre-tokenizer's steps from step_index on, and encodes the words. */
static int split_piece(struct encoding *encoding, int step_index, const char *piece, size_t size,
                       bool at_start, struct bl_error *err)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (step_index == tokenizer->split_count)
        return encode_word(encoding, piece, size, err);
    enum split_kind kind = tokenizer->split[step_index].kind;
    if (kind == SPLIT_METASPACE)
        return split_metaspace(encoding, step_index, piece, size, at_start, err);
    if (kind == SPLIT_PREFIX_SPACE) {
        struct text *prefixed = &encoding->pieces[step_index];
        prefixed->size = 0;
        if (*piece != ' ')
            BL_TRY(text_append(prefixed, " ", 1, err));
        BL_TRY(text_append(prefixed, piece, size, err));
        return split_piece(encoding, step_index + 1, prefixed->data, prefixed->size, at_start, err);
    }
    for (size_t start = 0; start < size;) {
        size_t length = split_next(kind, piece + start, size - start);
        BL_ASSERT(length > 0 && length <= size - start);
        BL_TRY(split_piece(encoding, step_index + 1, piece + start, length, at_start && start == 0,
                           err));
        start += length;
    }
    return 0;
}

/* A part of normalized text. */
static int take_normalized(void *context, int32_t id, const char *part, size_t size, size_t at,
                           struct bl_error *err)
{
    struct encoding *encoding = context;
    if (id >= 0)
        return token_ids_add(encoding->ids, id, err);
    return split_piece(encoding, 0, part, size, encoding->at_start && at == 0, err);
}

/* A part of the text as it came. */
static int take_original(void *context, int32_t id, const char *part, size_t size, size_t at,
                         struct bl_error *err)
{
    struct encoding *encoding = context;
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (id >= 0)
        return token_ids_add(encoding->ids, id, err);
    encoding->at_start = at == 0;
    encoding->normalized.size = 0;
    BL_TRY(tokenizer_normalize(tokenizer, part, size, &encoding->normalized, err));
    return added_set_split(&tokenizer->added_after, encoding->normalized.data,
                           encoding->normalized.size, take_normalized, encoding, err);
}

/* Text with U+FFFD for what is no UTF-8. */
static int append_valid(struct text *ret, const char *text, size_t size, struct bl_error *err)
{
    for (size_t at = 0; at < size;) {
        size_t valid = utf8_valid(text + at, size - at);
        uint32_t point;
        BL_TRY(text_append(ret, text + at, valid, err));
        at += valid;
        if (at < size) {
            at += (size_t)-utf8_next(text + at, size - at, &point);
            BL_TRY(text_append(ret, UTF8_REPLACEMENT, strlen(UTF8_REPLACEMENT), err));
        }
    }
    return 0;
}

static int append_ids(struct token_ids *ids, const struct token_ids *more, struct bl_error *err)
{
    for (size_t i = 0; i < more->count; i++)
        BL_TRY(token_ids_add(ids, more->ids[i], err));
    return 0;
}

static int encode(const struct tokenizer *tokenizer, const char *text, size_t size, bool special,
                  struct token_ids *ids, struct bl_error *err)
{
    __attribute__((cleanup(text_release))) struct text valid = {0};
    __attribute__((cleanup(encoding_release))) struct encoding encoding = {.tokenizer = tokenizer,
                                                                           .ids = ids};
    if (utf8_valid(text, size) < size) {
        BL_TRY(append_valid(&valid, text, size, err));
        text = valid.data;
        size = valid.size;
    }
    if (special)
        BL_TRY(append_ids(ids, &tokenizer->prefix, err));
    BL_TRY(added_set_split(&tokenizer->added_before, text, size, take_original, &encoding, err));
    return special ? append_ids(ids, &tokenizer->suffix, err) : 0;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, bool special,
                     struct token_ids *ids, struct bl_error *err)
{
    if (size > BL_TEXT_BYTES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected a text of at most %d bytes, found %zu",
                       BL_TEXT_BYTES_MAX, size);
    size_t before = ids->count;
    int rc = encode(tokenizer, text, size, special, ids, err);
    if (rc >= 0 && ids->count - before > BL_TOKENS_MAX)
        rc = bl_fail(err, BL_ELIMIT, "expected a text of at most %d tokens, found %zu",
                     BL_TOKENS_MAX, ids->count - before);
    if (rc < 0)
        ids->count = before;
    return rc;
}

/* --- Looking. --- */

int32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocabulary.count;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content)
{
    return vocabulary_find(&tokenizer->vocabulary, content, strlen(content));
}

const char *tokenizer_content(const struct tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocabulary.count ? tokenizer->vocabulary.tokens[id].content
                                                       : NULL;
}

const int32_t *tokenizer_bos(const struct tokenizer *tokenizer, size_t *ret_count)
{
    *ret_count = tokenizer->prefix.count;
    return tokenizer->prefix.ids;
}

void tokenizer_free(struct tokenizer **tokenizer)
{
    struct tokenizer *t = *tokenizer;
    if (!t)
        return;
    vocabulary_release(&t->vocabulary);
    bpe_release(&t->bpe);
    added_set_release(&t->added_before);
    added_set_release(&t->added_after);
    for (int i = 0; i < t->normal_count; i++) {
        free(t->normal[i].from);
        free(t->normal[i].to);
    }
    for (int i = 0; i < t->decode_count; i++) {
        free(t->decode[i].from);
        free(t->decode[i].to);
    }
    token_ids_release(&t->prefix);
    token_ids_release(&t->suffix);
    free(t);
    *tokenizer = NULL;
}
