/* common/pattern.h - a user's PCRE2 pattern, over UTF-8 text, with a bound on the work one match
 * may take. Immutable after opening; may be used from many threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct pattern;

/* -BL_ECONFIG says what is wrong and at which byte. *ret is the caller's (pattern_free). */
int pattern_open(const char *text, struct pattern **ret, struct bl_error *err);
void pattern_free(struct pattern **pattern);

/* Whether the pattern is found anywhere in text; bytes that are no UTF-8 match nothing, what is around them does. -BL_ELIMIT:
 * the match took too long to decide. */
int pattern_find(const struct pattern *pattern, const char *text, size_t size, bool *ret,
                 struct bl_error *err);
/* How many bytes it takes at the very start of text; 0: it does not match there, or nothing. Errors as pattern_find. */
int pattern_at_start(const struct pattern *pattern, const char *text, size_t size, size_t *ret,
                     struct bl_error *err);
