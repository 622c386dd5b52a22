/* common/tokenizer/added.c - finding added tokens in text: at each place the longest one, from left
 * to right, as the reference's automaton finds them. */
#include "common/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/tokenizer/unicode.h"

int added_set_add(struct added_set *set, const struct added_token *token, struct bl_error *err)
{
    if (set->count == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 16;
        struct added_token *grown = realloc(set->tokens, capacity * sizeof *grown);
        if (!grown)
            return bl_fail(err, BL_ENOMEM, "no memory for added tokens");
        set->tokens = grown;
        set->capacity = capacity;
    }
    struct added_token copy = *token;
    copy.pattern = malloc(token->size);
    if (!copy.pattern)
        return bl_fail(err, BL_ENOMEM, "no memory for added tokens");
    memcpy(copy.pattern, token->pattern, token->size);
    set->tokens[set->count++] = copy;
    return 0;
}

static int compare_added(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    int order = memcmp(x->pattern, y->pattern, x->size < y->size ? x->size : y->size);
    if (order)
        return order;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

void added_set_sort(struct added_set *set)
{
    if (set->count)
        qsort(set->tokens, set->count, sizeof *set->tokens, compare_added);
    size_t index = 0;
    for (int byte = 0; byte <= 256; byte++) {
        while (index < set->count && (uint8_t)set->tokens[index].pattern[0] < byte)
            index++;
        set->first[byte] = index;
    }
}

void added_set_release(struct added_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->tokens[i].pattern);
    free(set->tokens);
    *set = (struct added_set){0};
}

/* First of the sorted tokens [low, high), which share their first `depth` bytes and are longer,
 * whose next byte is at least `byte`. */
static size_t lower_bound(const struct added_set *set, size_t low, size_t high, size_t depth,
                          int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)set->tokens[middle].pattern[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that stands at the start of text, or NULL: the range of tokens that agree with
 * the text so far narrows byte by byte. */
static const struct added_token *longest_at(const struct added_set *set, const char *text,
                                            size_t size)
{
    const struct added_token *best = NULL;
    size_t low = set->first[(uint8_t)text[0]], high = set->first[(uint8_t)text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (set->tokens[low].size == depth)
            best = &set->tokens[low];
        while (low < high && set->tokens[low].size == depth)
            low++;
        if (depth == size)
            break;
        int byte = (uint8_t)text[depth];
        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1);
    }
    return best;
}

/* Classes of the character before, and of the one after a place; 0 at the text's ends. */
static unsigned classes_before(const char *text, size_t at, size_t *ret_start)
{
    uint32_t point = 0;
    size_t start = at;
    while (start && ((uint8_t)text[--start] & 0xC0) == 0x80)
        ;
    *ret_start = start;
    return start < at && utf8_next(text + start, at - start, &point) > 0 ? unicode_classes(point)
                                                                         : 0;
}

static unsigned classes_after(const char *text, size_t size, size_t at, size_t *ret_end)
{
    uint32_t point = 0;
    int length = at < size ? utf8_next(text + at, size - at, &point) : 0;
    *ret_end = at + (size_t)length;
    return length ? unicode_classes(point) : 0;
}

/* What a token found at [*start, *end) takes with it; `from` is where the token before ended.
 * False: it is part of a word and does not count. */
static bool adjust(const struct added_token *token, const char *text, size_t size, size_t from,
                   size_t *start, size_t *end)
{
    size_t next = 0;
    if (token->single_word && (classes_before(text, *start, &next) & UNICODE_WORD ||
                               classes_after(text, size, *end, &next) & UNICODE_WORD))
        return false;
    if (token->lstrip) {
        while (*start > from && classes_before(text, *start, &next) & UNICODE_SPACE)
            *start = next;
        if (*start < from)
            *start = from;
    }
    if (token->rstrip)
        while (classes_after(text, size, *end, &next) & UNICODE_SPACE)
            *end = next;
    return true;
}

int added_set_split(const struct added_set *set, const char *text, size_t size, added_take *take,
                    void *context, struct bl_error *err)
{
    size_t from = 0; /* where the last token, with what it took, ended */
    for (size_t at = 0; set->count && at < size;) {
        const struct added_token *token = longest_at(set, text + at, size - at);
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, end = at + token->size;
        at = end;
        if (!adjust(token, text, size, from, &start, &end))
            continue;
        if (from < start)
            BL_TRY(take(context, -1, text + from, start - from, from, err));
        BL_TRY(take(context, token->id, text + start, end - start, start, err));
        from = end;
    }
    return from < size ? take(context, -1, text + from, size - from, from, err) : 0;
}
