/* common/user_cache.c - see user_cache.h. */
#include "common/user_cache.h"

#include <stdio.h>
#include <stdlib.h>

bool bl_user_cache(const char *name, char *ret, size_t size)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length = -1;
    if (cache && cache[0] == '/')
        length = snprintf(ret, size, "%s/%s", cache, name);
    else if (home && home[0] == '/')
        length = snprintf(ret, size, "%s/.cache/%s", home, name);
    return length >= 0 && (size_t)length < size;
}
