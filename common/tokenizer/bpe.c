/* common/tokenizer/bpe.c - the vocabulary, and byte pair encoding of one word.
 *
 * A word starts as one symbol a character. Neighbours whose pair is a merge wait in a heap ordered
 * by rank, then by place. What leaves the heap is merged unless its symbols have changed meanwhile:
 * as in the reference that is judged by what the pair at that place would become now, so that a
 * pair of another spelling of the same token still takes the turn. */
#include "common/tokenizer/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/tokenizer/unicode.h"

struct bpe_symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t previous, next;
};

struct bpe_candidate {
    uint64_t order; /* rank << 32 | place */
    int32_t id;
};

/* --- Vocabulary. --- */

static uint64_t hash_bytes(const char *data, size_t size)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < size; i++)
        h = (h ^ (uint8_t)data[i]) * 0x100000001B3u;
    return h ^ h >> 32;
}

/* A power of two at least half as large again as count, so that probing ends soon. */
static size_t slots_for(size_t count)
{
    size_t slots = 8;
    while (slots < count + count / 2 + 1)
        slots *= 2;
    return slots;
}

int vocabulary_init(struct vocabulary *vocabulary, int32_t count, struct bl_error *err)
{
    vocabulary->count = count;
    vocabulary->slot_count = slots_for((size_t)count);
    vocabulary->tokens = calloc((size_t)count + 1, sizeof *vocabulary->tokens);
    vocabulary->slots = malloc(vocabulary->slot_count * sizeof *vocabulary->slots);
    if (!vocabulary->tokens || !vocabulary->slots)
        return bl_fail(err, BL_ENOMEM, "no memory for %d tokens", (int)count);
    memset(vocabulary->slots, 0xFF, vocabulary->slot_count * sizeof *vocabulary->slots);
    return 0;
}

/* The slot of a content, or the empty one where it belongs. */
static size_t find_slot(const struct vocabulary *vocabulary, const char *content, size_t size)
{
    size_t slot = hash_bytes(content, size) & (vocabulary->slot_count - 1);
    for (;; slot = (slot + 1) & (vocabulary->slot_count - 1)) {
        if (vocabulary->slots[slot] < 0)
            return slot;
        const struct token *token = &vocabulary->tokens[vocabulary->slots[slot]];
        if (token->size == size && !memcmp(token->content, content, size))
            return slot;
    }
}

int vocabulary_add(struct vocabulary *vocabulary, const char *content, int32_t id, unsigned flags,
                   struct bl_error *err)
{
    BL_ASSERT(id >= 0 && id < vocabulary->count);
    struct token *token = &vocabulary->tokens[id];
    if (token->content)
        return bl_fail(err, BL_EFORMAT, "expected an id of its own, found %d, which is \"%.80s\"",
                       (int)id, token->content);
    size_t size = strlen(content), slot = find_slot(vocabulary, content, size);
    BL_ASSERT(vocabulary->slots[slot] < 0);
    token->content = strdup(content);
    if (!token->content)
        return bl_fail(err, BL_ENOMEM, "no memory for the vocabulary");
    token->size = size;
    token->flags = flags;
    vocabulary->slots[slot] = id;
    return 0;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *content, size_t size)
{
    return vocabulary->slots[find_slot(vocabulary, content, size)];
}

void vocabulary_release(struct vocabulary *vocabulary)
{
    for (int32_t id = 0; vocabulary->tokens && id < vocabulary->count; id++) {
        free(vocabulary->tokens[id].content);
        free(vocabulary->tokens[id].spelling);
    }
    free(vocabulary->tokens);
    free(vocabulary->slots);
    *vocabulary = (struct vocabulary){0};
}

/* --- Merges. --- */

int bpe_init_merges(struct bpe *bpe, size_t count, struct bl_error *err)
{
    bpe->merge_slots = slots_for(count);
    bpe->merges = malloc(bpe->merge_slots * sizeof *bpe->merges);
    if (!bpe->merges)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu merges", count);
    for (size_t i = 0; i < bpe->merge_slots; i++)
        bpe->merges[i].id = -1;
    return 0;
}

/* The merge of a pair, or the empty entry where it belongs. */
static struct merge *find_merge(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | (uint32_t)right;
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    for (size_t slot = (hash ^ hash >> 32) & (bpe->merge_slots - 1);;
         slot = (slot + 1) & (bpe->merge_slots - 1))
        if (bpe->merges[slot].id < 0 || bpe->merges[slot].pair == pair)
            return &bpe->merges[slot];
}

int bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id,
                  struct bl_error *err)
{
    struct merge *merge = find_merge(bpe, left, right);
    if (merge->id >= 0)
        return bl_fail(err, BL_EFORMAT, "the same pair is already at %u", merge->rank);
    *merge = (struct merge){(uint64_t)left << 32 | (uint32_t)right, rank, id};
    return 0;
}

void bpe_release(struct bpe *bpe)
{
    free(bpe->merges);
    *bpe = (struct bpe){0};
}

/* --- From characters to tokens. --- */

/* The token of a content among those that BPE may produce, or -1. */
static int32_t find_model_token(const struct bpe *bpe, const char *content, size_t size)
{
    int32_t id = vocabulary_find(bpe->vocabulary, content, size);
    return id >= 0 && bpe->vocabulary->tokens[id].flags & TOKEN_MODEL ? id : -1;
}

void bpe_fill_tables(struct bpe *bpe)
{
    char text[8];
    for (uint32_t point = 0; point < BPE_TABLE_POINTS; point++)
        bpe->characters[point] = find_model_token(bpe, text, (size_t)utf8_put(point, text));
    for (int byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->bytes[byte] = find_model_token(bpe, text, 6);
    }
}

void bpe_scratch_release(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

/* A word of so many bytes has at most as many symbols; each symbol but the last enters the heap
 * once, and each of fewer merges brings at most two more. */
static int reserve(struct bpe_scratch *scratch, size_t size, struct bl_error *err)
{
    if (size <= scratch->capacity)
        return 0;
    size_t capacity = size < 64 ? 64 : size;
    bpe_scratch_release(scratch);
    scratch->symbols = malloc(capacity * sizeof *scratch->symbols);
    scratch->heap = malloc(3 * capacity * sizeof *scratch->heap);
    if (!scratch->symbols || !scratch->heap)
        return bl_fail(err, BL_ENOMEM, "no memory for a word of %zu bytes", size);
    scratch->capacity = capacity;
    return 0;
}

static void add_symbol(struct bpe_scratch *scratch, int32_t id)
{
    int32_t place = (int32_t)scratch->symbol_count++;
    scratch->symbols[place] = (struct bpe_symbol){id, place - 1, -1};
    if (place)
        scratch->symbols[place - 1].next = place;
}

/* The tokens of a character's bytes; false unless each byte has one. */
static bool add_bytes(const struct bpe *bpe, struct bpe_scratch *scratch, const char *character,
                      int length)
{
    for (int i = 0; i < length; i++)
        if (bpe->bytes[(uint8_t)character[i]] < 0)
            return false;
    for (int i = 0; i < length; i++)
        add_symbol(scratch, bpe->bytes[(uint8_t)character[i]]);
    return true;
}

/* One symbol a character. A run of unknown characters is written when a known one or the word's
 * end follows; characters that fall back to bytes do not end it. */
static void add_characters(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word,
                           size_t size)
{
    bool unknown_waits = false;
    uint32_t point = 0;
    scratch->symbol_count = 0;
    for (size_t at = 0; at < size;) {
        int length = utf8_next(word + at, size - at, &point);
        BL_ASSERT(length > 0);
        int32_t id = point < BPE_TABLE_POINTS ? bpe->characters[point]
                                              : find_model_token(bpe, word + at, (size_t)length);
        if (id >= 0) {
            if (unknown_waits)
                add_symbol(scratch, bpe->unknown);
            unknown_waits = false;
            add_symbol(scratch, id);
        } else if (!bpe->byte_fallback || !add_bytes(bpe, scratch, word + at, length)) {
            if (unknown_waits && !bpe->fuse_unknown)
                add_symbol(scratch, bpe->unknown);
            unknown_waits = bpe->unknown >= 0;
        }
        at += (size_t)length;
    }
    if (unknown_waits)
        add_symbol(scratch, bpe->unknown);
}

/* --- Merging. --- */

static void heap_push(struct bpe_scratch *scratch, struct bpe_candidate candidate)
{
    struct bpe_candidate *heap = scratch->heap;
    size_t at = scratch->heap_count++;
    for (; at && candidate.order < heap[(at - 1) / 2].order; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = candidate;
}

static struct bpe_candidate heap_pop(struct bpe_scratch *scratch)
{
    struct bpe_candidate *heap = scratch->heap, top = heap[0];
    size_t count = --scratch->heap_count, at = 0;
    struct bpe_candidate moved = heap[count];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1].order < heap[child].order)
            child++;
        if (moved.order <= heap[child].order)
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
    return top;
}

/* Puts the pair that starts at a place on the heap, if it is a merge. */
static void push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t place)
{
    const struct bpe_symbol *left = &scratch->symbols[place];
    const struct merge *merge = find_merge(bpe, left->id, scratch->symbols[left->next].id);
    if (merge->id >= 0)
        heap_push(scratch,
                  (struct bpe_candidate){(uint64_t)merge->rank << 32 | (uint32_t)place, merge->id});
}

static void merge_symbols(const struct bpe *bpe, struct bpe_scratch *scratch)
{
    struct bpe_symbol *symbols = scratch->symbols;
    scratch->heap_count = 0;
    for (size_t i = 0; i + 1 < scratch->symbol_count; i++)
        push_pair(bpe, scratch, (int32_t)i);
    while (scratch->heap_count) {
        struct bpe_candidate top = heap_pop(scratch);
        int32_t place = (int32_t)(uint32_t)top.order;
        struct bpe_symbol *left = &symbols[place];
        if (left->id < 0 || left->next < 0)
            continue;
        struct bpe_symbol *right = &symbols[left->next];
        if (find_merge(bpe, left->id, right->id)->id != top.id)
            continue;
        left->id = top.id;
        left->next = right->next;
        right->id = -1;
        if (left->previous >= 0)
            push_pair(bpe, scratch, left->previous);
        if (left->next >= 0) {
            symbols[left->next].previous = place;
            push_pair(bpe, scratch, place);
        }
    }
}

int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t size,
               struct token_ids *ids, struct bl_error *err)
{
    if (bpe->whole_word_first) {
        int32_t id = find_model_token(bpe, word, size);
        if (id >= 0)
            return token_ids_add(ids, id, err);
    }
    BL_TRY(reserve(scratch, size, err));
    add_characters(bpe, scratch, word, size);
    merge_symbols(bpe, scratch);
    for (size_t i = 0; i < scratch->symbol_count; i++)
        if (scratch->symbols[i].id >= 0)
            BL_TRY(token_ids_add(ids, scratch->symbols[i].id, err));
    return 0;
}
