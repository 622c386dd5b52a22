/* common/tokenizer/unicode.h - UTF-8, and the character classes that tokenizers split text by. The classes
 * are those of Hugging Face `tokenizers`, whose parts follow different Unicode versions
 * (tests/golden/unicode/make.py), so no system library could answer instead. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum unicode_class {
    UNICODE_LETTER = 1, /* \p{L} of a pre-tokenizer's regular expression */
    UNICODE_NUMBER = 2, /* \p{N} */
    UNICODE_SPACE = 4,  /* \s */
    UNICODE_DIGIT = 8,  /* what the Digits pre-tokenizer splits off */
    UNICODE_WORD = 16,  /* what an added token's single_word must not touch */
};
/* Bits of enum unicode_class. Any number is fine, those beyond Unicode have no class. */
unsigned unicode_classes(uint32_t point);

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Reads the character at text[0..size), size >= 1. Returns its length in bytes, with *ret_point; or
 * minus the number of bytes that stand for one U+FFFD, as Python's and Rust's lossy decoders count
 * them (Unicode 15, section 3.9, "maximal subpart"). */
int utf8_next(const char *text, size_t size, uint32_t *ret_point);
/* Writes a code point up to 0x10FFFF, returns its length. */
int utf8_put(uint32_t point, char ret[4]);
/* Length of the longest start of text that is valid UTF-8. */
size_t utf8_valid(const char *text, size_t size);
