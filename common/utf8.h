/* common/utf8.h - UTF-8 that others wrote. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Reads the character at text[0..size), size >= 1. Returns its length in bytes, with *ret_point; or
 * minus the number of bytes that stand for one U+FFFD, as Python's and Rust's lossy decoders count
 * them (Unicode 15, section 3.9, "maximal subpart"). */
int utf8_next(const char *text, size_t size, uint32_t *ret_point);
/* Writes a code point up to 0x10FFFF, returns its length. */
int utf8_put(uint32_t point, char ret[4]);
/* Length of the longest start of text that is valid UTF-8. */
size_t utf8_valid(const char *text, size_t size);

/* Makes a text fit for a line of a log or a terminal, in place and no longer: what is no UTF-8, control characters (C0, DEL,
 * C1), line separators and bidirectional controls, which would show the rest of a line in another order, become '?'. */
void utf8_clean(char *text);
/* The same, but only what is no UTF-8. */
void utf8_repair(char *text);
