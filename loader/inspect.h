/* loader/inspect.h - `blipren-loader inspect RUN.yaml`: what the caption rules keep and drop, and
 * how captions look as tokens. */
#pragma once

#include <stdio.h>

#include "common/error.h"

/* Prints counts by reason with examples, a histogram of lengths, and samples token by token with
 * marks (prefix, label, EOS). Reads images and captions as training would; writes nothing but html (NULL: none), the page
 * of inspect_page.h. */
int inspect_run(const char *yaml, const char *html, FILE *out, struct bl_error *err);
