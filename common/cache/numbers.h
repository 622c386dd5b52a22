/* common/cache/numbers.h - f32 as the elements that a cache stores, and back. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/config/config.h"

/* What keeps a number from being stored. */
enum number_fault { NUMBER_FITS, NUMBER_NOT_FINITE, NUMBER_OVERFLOW };

/* count numbers of `width` a token: to, of cache_type's element. Rounded to the nearest, ties to even. int8: scale
 * (count / width) receives each token's max |x| / 127. Nothing is clipped: the fault of the first number that does not fit
 * is returned, *ret_at is its place. */
enum number_fault numbers_store(enum config_cache_dtype dtype, void *to, float *scale,
                                const float *from, size_t count, size_t width, size_t *ret_at);
/* The other way; exact but for int8, which is element x scale. */
void numbers_load(enum config_cache_dtype dtype, float *to, const void *from, const float *scale,
                  size_t count, size_t width);
