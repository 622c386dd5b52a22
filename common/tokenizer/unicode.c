/* common/tokenizer/unicode.c - character classes. */
#include "common/tokenizer/unicode.h"

#include "common/tokenizer/unicode_table.inc"

unsigned unicode_classes(uint32_t point)
{
    if (point < sizeof ascii_classes / sizeof *ascii_classes)
        return ascii_classes[point];
    size_t low = 0, high = sizeof class_ranges / sizeof *class_ranges;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (class_ranges[middle] >> 8 <= point)
            low = middle;
        else
            high = middle;
    }
    return class_ranges[low] & 0xFF;
}
