/* common/data/filters.h - the rules of RUN.yaml that look at a caption's text and at the numbers beside it: data.strip, keep, drop,
 * script, filters, and what counts as the same caption. Lengths in tokens are captions.h's.
 *
 * A rule is named by a list and its index in it, so that each one's effect can be counted. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/array.h"
#include "common/config/config.h"
#include "common/error.h"

/* Immutable after opening; may be used from many threads. */
struct filters;

/* data is borrowed for the filters' life. *ret is the caller's (filters_free). */
int filters_open(const struct config_data *data, struct filters **ret, struct bl_error *err);
void filters_free(struct filters **filters);

#define FILTERS_NONE UINT32_MAX /* no rule */

/* data.strip: what is left of a caption without white space around it. Where an opening is taken off, *ret_text is in `spare`, which is
 * cleared before; else it is text. *ret_rule: the pattern's index, or FILTERS_NONE. */
int filters_strip(const struct filters *filters, const char *text, size_t size,
                  struct bl_bytes *spare, const char **ret_text, size_t *ret_size,
                  uint32_t *ret_rule, struct bl_error *err);

/* Each returns 0 with *ret_rule: the index of the first rule that drops the caption, or FILTERS_NONE. */
int filters_keep(const struct filters *filters, const char *text, size_t size, uint32_t *ret_rule,
                 struct bl_error *err);
int filters_drop(const struct filters *filters, const char *text, size_t size, uint32_t *ret_rule,
                 struct bl_error *err);
/* Whether data.script_share of the letters are of data.script; a caption without letters is not. */
int filters_script(const struct filters *filters, const char *text, size_t size, bool *ret,
                   struct bl_error *err);

/* data.filters: index of the first whose number (one for each, NAN: none) is out of bounds, or FILTERS_NONE. */
uint32_t filters_numbers(const struct config_filters *filters, const double *numbers);

/* A caption as data.deduplicate: all compares it: NFKC_Casefold of Unicode, white space as one blank between words. Appended to
 * ret; what is no UTF-8 is taken as it is. -BL_ENOMEM. */
int filters_normalize(const char *text, size_t size, struct bl_bytes *ret, struct bl_error *err);

/* Bytes of the white space character (Python's str.isspace) at text, 0 if there is none. */
size_t filters_space(const char *text, size_t size);
