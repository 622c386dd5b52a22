/* common/user_cache.h - where a user's programs keep what can be made again: the XDG base directory rules. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* "CACHE/name" into ret (size bytes), CACHE being $XDG_CACHE_HOME or $HOME/.cache. False: neither is set to an absolute path, or
 * it does not fit. Nothing is made. */
bool bl_user_cache(const char *name, char *ret, size_t size);
