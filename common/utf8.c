/* common/utf8.c - see utf8.h. */
#include "common/utf8.h"

#include <stdbool.h>
#include <string.h>

/* Number of bytes that a lead byte announces, and the range of the byte after it, which excludes
 * overlong forms, surrogates and what lies beyond U+10FFFF (Unicode 15, table 3-7). 0: no lead. */
static int lead_length(uint8_t lead, uint8_t *ret_low, uint8_t *ret_high)
{
    *ret_low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *ret_high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF)
        return 2;
    if (lead >= 0xE0 && lead <= 0xEF)
        return 3;
    if (lead >= 0xF0 && lead <= 0xF4)
        return 4;
    return 0;
}

int utf8_next(const char *text, size_t size, uint32_t *ret_point)
{
    uint8_t lead = (uint8_t)text[0], low, high;
    if (lead < 0x80) {
        *ret_point = lead;
        return 1;
    }
    int length = lead_length(lead, &low, &high);
    if (!length)
        return -1;
    uint32_t point = lead & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        uint8_t byte = (size_t)i < size ? (uint8_t)text[i] : 0;
        if (byte < low || byte > high)
            return -i;
        point = point << 6 | (byte & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    *ret_point = point;
    return length;
}

int utf8_put(uint32_t point, char ret[4])
{
    if (point < 0x80) {
        ret[0] = (char)point;
        return 1;
    }
    int length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, point >>= 6)
        ret[i] = (char)(0x80 | (point & 0x3F));
    ret[0] = (char)(0xF00u >> length | point);
    return length;
}

size_t utf8_valid(const char *text, size_t size)
{
    size_t at = 0;
    uint32_t point;
    for (int n; at < size && (n = utf8_next(text + at, size - at, &point)) > 0;)
        at += (size_t)n;
    return at;
}

/* Whether it would do more to a line than stand in it. */
static bool disturbs(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

static void replace(char *text, bool (*unwanted)(uint32_t point))
{
    size_t size = strlen(text), to = 0;
    uint32_t point = 0;
    for (size_t at = 0; at < size;) {
        int length = utf8_next(text + at, size - at, &point);
        size_t used = (size_t)(length > 0 ? length : -length);
        if (length > 0 && !unwanted(point)) {
            memmove(text + to, text + at, used);
            to += used;
        } else {
            text[to++] = '?';
        }
        at += used;
    }
    text[to] = 0;
}

static bool nothing(uint32_t point)
{
    return false;
}

void utf8_clean(char *text)
{
    replace(text, disturbs);
}

void utf8_repair(char *text)
{
    replace(text, nothing);
}
