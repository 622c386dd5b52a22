/* worker/model/sequences.c - starts and lengths of samples, uploaded. */
#include "worker/model/sequences.h"

#include <stdlib.h>

#include "common/cleanup.h"

void sequences_arrays(int64_t S, const int32_t *start, const int32_t *len, struct sequences *ret,
                      struct arena_array arrays[2])
{
    *ret = (struct sequences){.S = S};
    for (int64_t s = 0; s < S; s++)
        if (len[s] > ret->len_max)
            ret->len_max = len[s];
    arrays[0] = (struct arena_array){start, S, &ret->start};
    arrays[1] = (struct arena_array){len, S, &ret->len};
}

int sequences_uniform(struct arena *arena, int64_t S, int64_t rows, struct sequences *ret,
                      struct bl_error *err)
{
    struct arena_array arrays[2];
    bl_autofree int32_t *host = malloc((size_t)(2 * S + 1) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld sequences", (long long)S);
    for (int64_t s = 0; s < S; s++) {
        host[s] = (int32_t)(s * rows);
        host[S + s] = (int32_t)rows;
    }
    sequences_arrays(S, host, host + S, ret, arrays);
    return arena_i32s_from(arena, arrays, 2, err);
}
