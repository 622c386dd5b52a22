/* worker/model/sequences.c - starts and lengths of samples, uploaded. */
#include "worker/model/sequences.h"

#include <stdlib.h>

#include "common/cleanup.h"

int sequences_from(struct arena *arena, int64_t S, const int32_t *start, const int32_t *len,
                   struct sequences *ret, struct bl_error *err)
{
    struct sequences sequences = {.S = S};
    for (int64_t s = 0; s < S; s++)
        if (len[s] > sequences.len_max)
            sequences.len_max = len[s];
    BL_TRY(arena_i32_from(arena, start, S, &sequences.start, err));
    BL_TRY(arena_i32_from(arena, len, S, &sequences.len, err));
    *ret = sequences;
    return 0;
}

int sequences_uniform(struct arena *arena, int64_t S, int64_t rows, struct sequences *ret,
                      struct bl_error *err)
{
    bl_autofree int32_t *host = malloc((size_t)(2 * S + 1) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld sequences", (long long)S);
    for (int64_t s = 0; s < S; s++) {
        host[s] = (int32_t)(s * rows);
        host[S + s] = (int32_t)rows;
    }
    return sequences_from(arena, S, host, host + S, ret, err);
}
