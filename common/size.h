/* common/size.h - arithmetic on sizes that came from a file or the wire: false instead of wrapping
 * round. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool bl_mul(size_t a, size_t b, size_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}
static inline bool bl_add(size_t a, size_t b, size_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}
static inline int64_t bl_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t bl_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t bl_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
