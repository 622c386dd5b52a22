/* common/tokenizer/token_ids.h - a growing array of token ids. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Zero-initialise; release when done. */
struct token_ids {
    int32_t *ids;
    size_t count, capacity;
};
int token_ids_add(struct token_ids *ids, int32_t id, struct bl_error *err);
void token_ids_release(struct token_ids *ids);
