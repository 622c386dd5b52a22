/* common/tokenizer/token_ids.c - a growing array of token ids. */
#include "common/tokenizer/token_ids.h"

#include <stdlib.h>

int token_ids_add(struct token_ids *ids, int32_t id, struct bl_error *err)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? 2 * ids->capacity : 64;
        int32_t *grown = realloc(ids->ids, capacity * sizeof *grown);
        if (!grown)
            return bl_fail(err, BL_ENOMEM, "no memory for %zu tokens", capacity);
        ids->ids = grown;
        ids->capacity = capacity;
    }
    ids->ids[ids->count++] = id;
    return 0;
}

void token_ids_release(struct token_ids *ids)
{
    free(ids->ids);
    *ids = (struct token_ids){0};
}
