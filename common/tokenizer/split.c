/* common/tokenizer/split.c - where one word ends, by hand for the regular expressions that are
 * known. A general engine would have its own Unicode version and split newer characters elsewhere.
 *
 * GPT-2:    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Llama 3:  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 *           | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * In both the alternatives cover every character, so words follow each other without gaps. */
#include "common/tokenizer/internal.h"

#include "common/tokenizer/unicode.h"

/* A character of valid UTF-8; size 0 at the text's end. */
struct character {
    uint32_t point;
    unsigned classes;
    size_t size;
};

static struct character character_at(const char *text, size_t size, size_t at)
{
    struct character c = {0};
    if (at < size) {
        c.size = (size_t)utf8_next(text + at, size - at, &c.point);
        c.classes = unicode_classes(c.point);
    }
    return c;
}

#define NEITHER (UNICODE_LETTER | UNICODE_NUMBER | UNICODE_SPACE)

static bool is_other(struct character c)
{
    return c.size && !(c.classes & NEITHER);
}

static bool is_newline(struct character c)
{
    return c.size && (c.point == '\r' || c.point == '\n');
}

/* The end of the run of characters from `at` on that have one of the classes. */
static size_t run_of(unsigned classes, const char *text, size_t size, size_t at)
{
    for (struct character c; (c = character_at(text, size, at)).classes & classes;)
        at += c.size;
    return at;
}

/* The end of the run of characters that are no letter, number or space. */
static size_t run_of_others(const char *text, size_t size, size_t at)
{
    for (struct character c; is_other(c = character_at(text, size, at));)
        at += c.size;
    return at;
}

/* 's 't 're 've 'm 'll 'd at the start: its length, or 0. Without regard to case the long s
 * (U+017F) is an s. */
static size_t contraction(const char *text, size_t size, bool any_case)
{
    if (size < 2 || text[0] != '\'')
        return 0;
    char letters[2] = {text[1], size > 2 ? text[2] : 0};
    for (int i = 0; any_case && i < 2; i++)
        if (letters[i] >= 'A' && letters[i] <= 'Z')
            letters[i] = (char)(letters[i] - 'A' + 'a');
    if (letters[0] == 's' || letters[0] == 't' || letters[0] == 'm' || letters[0] == 'd')
        return 2;
    if ((letters[0] == 'r' && letters[1] == 'e') || (letters[0] == 'v' && letters[1] == 'e') ||
        (letters[0] == 'l' && letters[1] == 'l'))
        return 3;
    return any_case && character_at(text, size, 1).point == 0x17F ? 3 : 0;
}

/* \s+(?!\S)|\s+ on a text that starts with a space: the run, less its last character when a word
 * follows it and something is left. */
static size_t whitespace(const char *text, size_t size)
{
    size_t end = 0, last = 0;
    for (struct character c; (c = character_at(text, size, end)).classes & UNICODE_SPACE;) {
        last = end;
        end += c.size;
    }
    return end == size || last == 0 ? end : last;
}

static size_t gpt2_next(const char *text, size_t size)
{
    size_t length = contraction(text, size, false);
    if (length)
        return length;
    size_t at = text[0] == ' ';
    struct character c = character_at(text, size, at);
    if (c.classes & UNICODE_LETTER)
        return run_of(UNICODE_LETTER, text, size, at);
    if (c.classes & UNICODE_NUMBER)
        return run_of(UNICODE_NUMBER, text, size, at);
    if (is_other(c))
        return run_of_others(text, size, at);
    return whitespace(text, size);
}

/* \s*[\r\n]+ at the start: to the last line break of the run of spaces, or 0. */
static size_t lines(const char *text, size_t size)
{
    size_t at = 0, end = 0;
    for (struct character c; (c = character_at(text, size, at)).classes & UNICODE_SPACE;) {
        at += c.size;
        if (is_newline(c))
            end = at;
    }
    return end;
}

static size_t llama3_next(const char *text, size_t size)
{
    size_t length = contraction(text, size, true);
    if (length)
        return length;
    struct character first = character_at(text, size, 0);
    struct character second = character_at(text, size, first.size);
    if (first.classes & UNICODE_LETTER)
        return run_of(UNICODE_LETTER, text, size, 0);
    if (second.classes & UNICODE_LETTER && !(first.classes & UNICODE_NUMBER) && !is_newline(first))
        return run_of(UNICODE_LETTER, text, size, first.size);
    if (first.classes & UNICODE_NUMBER) {
        size_t at = first.size;
        for (int i = 1; i < 3 && character_at(text, size, at).classes & UNICODE_NUMBER; i++)
            at += character_at(text, size, at).size;
        return at;
    }
    if (is_other(first) || (first.point == ' ' && is_other(second))) {
        size_t at = run_of_others(text, size, first.point == ' ');
        while (is_newline(character_at(text, size, at)))
            at++;
        return at;
    }
    length = lines(text, size);
    return length ? length : whitespace(text, size);
}

/* Digits apart from everything else; each alone, or together. */
static size_t digits_next(const char *text, size_t size, bool alone)
{
    struct character c = character_at(text, size, 0);
    if (c.classes & UNICODE_DIGIT)
        return alone ? c.size : run_of(UNICODE_DIGIT, text, size, 0);
    size_t at = 0;
    for (; c.size && !(c.classes & UNICODE_DIGIT); c = character_at(text, size, at))
        at += c.size;
    return at;
}

size_t split_next(enum split_kind kind, const char *text, size_t size)
{
    switch (kind) {
    case SPLIT_DIGITS:
        return digits_next(text, size, true);
    case SPLIT_DIGIT_RUNS:
        return digits_next(text, size, false);
    case SPLIT_GPT2:
        return gpt2_next(text, size);
    case SPLIT_LLAMA3:
        return llama3_next(text, size);
    default:
        return size;
    }
}
