/* common/tokenizer/unicode.h - the character classes that tokenizers split text by. They are those of Hugging Face `tokenizers`, whose parts follow different Unicode versions
 * (tests/golden/unicode/make.py), so no system library could answer instead. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/utf8.h"

enum unicode_class {
    UNICODE_LETTER = 1, /* \p{L} of a pre-tokenizer's regular expression */
    UNICODE_NUMBER = 2, /* \p{N} */
    UNICODE_SPACE = 4,  /* \s */
    UNICODE_DIGIT = 8,  /* what the Digits pre-tokenizer splits off */
    UNICODE_WORD = 16,  /* what an added token's single_word must not touch */
};
/* Bits of enum unicode_class. Any number is fine, those beyond Unicode have no class. */
unsigned unicode_classes(uint32_t point);
