/* worker/model/sequences.h - where each sample's rows lie, on the device, for ops.h's ragged
 * attention. */
#pragma once

#include <math.h>

#include "worker/model/arena.h"

struct sequences {
    int64_t S, len_max;
    const dev_i32 *start, *len; /* (S) device */
};

/* S samples of `rows` rows each, one after another. */
int sequences_uniform(struct arena *arena, int64_t S, int64_t rows, struct sequences *ret,
                      struct bl_error *err);
/* From host arrays (S), which others may be uploaded with: fills *ret but for its addresses, and the two arrays by whose upload
 * it gets these. */
void sequences_arrays(int64_t S, const int32_t *start, const int32_t *len, struct sequences *ret,
                      struct arena_array arrays[2]);

/* softmax(Q K^T / sqrt(head_dim)) of these sequences. */
static inline struct ops_attention attention_over(const struct sequences *q,
                                                  const struct sequences *k, int64_t heads,
                                                  int64_t kv_heads, int64_t head_dim)
{
    return (struct ops_attention){
        .S = q->S,
        .heads = heads,
        .kv_heads = kv_heads,
        .head_dim = head_dim,
        .q_start = q->start,
        .q_len = q->len,
        .k_start = k->start,
        .k_len = k->len,
        .q_len_max = q->len_max,
        .k_len_max = k->len_max,
        .scale = 1 / sqrtf((float)head_dim),
    };
}
