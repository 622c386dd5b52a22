/* worker/model/llm.h - the frozen Llama-family language model: forward over ragged rows or a KV
 * cache, and the gradient of its input. Llama: Touvron et al. 2023; rotary positions: Su et al. 2021;
 * grouped keys and values: Ainslie et al. 2023. */
#pragma once

#include "common/models/hf.h"
#include "worker/model/arena.h"
#include "worker/model/sequences.h"

struct llm;

/* ops and config are borrowed. *ret is the caller's. */
int llm_open(struct ops *ops, const char *folder, const struct hf_llm *config, struct llm **ret,
             struct bl_error *err);
void llm_free(struct llm **llm);

/* The rows of one call. Only the rows in `keep` are followed through the last layer's second half:
 * those whose next token is asked for. */
struct llm_rows {
    int64_t R, kept;
    struct sequences sequences; /* rows of each sequence among the R */
    const dev_i32 *position;    /* (R) device: place in the sequence */
    const dev_i32 *keep;        /* (kept) device: row indices, distinct */
};

/* Keys and values of the tokens so far, for generation. Slot s owns rows [s rows, (s+1) rows) of
 * every layer. */
struct llm_cache {
    int64_t slots, rows;
    act **layers; /* (layers) each (slots*rows, 2*kv_heads*head_dim): keys, then values; the
                     caller's memory */
    struct sequences
        keys; /* where each of this call's sequences lies in a layer, with the rows of this call */
    const dev_i32 *write;  /* (R) device: the layer row for each row of this call */
    const dev_i32 *pieces; /* (R*llm_cache_pieces) device: as llm_find_pieces says */
};
/* Elements of one row of one layer. */
int64_t llm_cache_width(const struct llm *llm);
/* A row's keys and values in pieces of head_dim; and which pieces of R packed rows of queries, keys and values they are: host
 * (R*llm_cache_pieces). */
int64_t llm_cache_pieces(const struct llm *llm);
void llm_find_pieces(const struct llm *llm, int32_t *pieces, int64_t R);

/* embeddings (R, d) of token ids (device) */
void llm_embed(const struct llm *llm, act *y, const dev_i32 *ids, int64_t R);

/* y (kept, d) = last hidden state before the final norm, of the kept rows. x (R, d) is overwritten.
 * cache: NULL, or attention goes over it, after this call's keys and values were written to it.
 * saving: what llm_backward needs stays in the arena until the caller releases it, and the llm
 * remembers where. */
int llm_forward(struct llm *llm, struct arena *arena, act *y, act *x, const struct llm_rows *rows,
                const struct llm_cache *cache, enum saving saving, struct bl_error *err);
/* d_x (R, d) = gradient of the input of the last forward that saved, from d_y (kept, d), which is
 * overwritten. */
int llm_backward(const struct llm *llm, struct arena *arena, act *d_x, act *d_y,
                 const struct llm_rows *rows, struct bl_error *err);

/* h (R, d) = final norm of y: transformers' last_hidden_state. */
void llm_final_norm(const struct llm *llm, act *h, const act *y, int64_t R);
/* nll (R) f32, correct (R) u8 or NULL, d_y (R, d) or NULL: the gradient of the sum of nll. labels
 * (R) device. */
int llm_loss(const struct llm *llm, struct arena *arena, dev_f32 *nll, dev_u8 *correct, act *d_y,
             const act *y, const dev_i32 *labels, int64_t R, struct bl_error *err);
/* logits (R, V) */
int llm_logits(const struct llm *llm, struct arena *arena, act *logits, const act *y, int64_t R,
               struct bl_error *err);
