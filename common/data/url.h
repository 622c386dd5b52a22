/* common/data/url.h - images that are named by a URL. Its identity, which decides the split, is the URL and not what is found there,
 * so that it is known before anything is fetched, and does not change because something was. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/data/location.h"
#include "common/error.h"

/* Whether a text is a URL of a kind that is fetched: http, https or file. */
bool url_is(const char *text);
/* The location of what is at a URL: white space around it is dropped, and what a URL may not hold is percent-encoded. The file is
 * CACHE/url/ab/cdef…, by the URL's SHA-256 (loader/download/cache.h). *ret is the caller's. */
int url_locate(const char *url, const char *cache, char **ret, struct bl_error *err);
/* SHA-256 of a URL as url_locate writes it. */
int url_identify(const char *url, uint8_t ret[32], struct bl_error *err);
