/* worker/model/cross.h - the Q-Former's cross-attention: K queries of each image look at its N vision
 * tokens, once in every block.
 *
 * With v^ = (v - mean) rstd, which is the same in every block, g and b the weight and bias of ln2, and
 * head h's rows of the projections:
 *
 *   plain (cross_plain.c)    k = W_k (g v^ + b) + b_k, values likewise: N rows a block;
 *                            o_h = drop(softmax(q_h k_h^T / sqrt(d_h))) v_h
 *   folded (cross_folded.c)  u_h = g (q_h W_k,h), K rows;  P_h = drop(softmax(u_h v~^T / sqrt(d_h)));
 *                            c_h = P_h v~, r_h = row sums of P_h;
 *                            o_h = W_v,h (g (c_h + r_h m) + r_h b) + r_h b_v,h
 *                            with v~ = v^ - m, m the mean of an image's v^
 *
 * Both compute the same: W_k b, b_k and what m takes away add the same to every key's score, so the softmax
 * cancels them, and the key bias has no gradient. Without m, products in bf16 round what all tokens have in
 * common, which in real towers is most of a token: the key matrix's gradient was four times as wrong as the
 * plain form's (tests/evidence/algebra). The folded form multiplies K rows by the projections where the
 * plain one multiplies N, and pays for it with attention over the whole width. It is taken where it has
 * clearly fewer operations (cross_folds). */
#pragma once

#include "worker/model/arena.h"
#include "worker/model/params.h"
#include "worker/model/sequences.h"

struct cross_shape {
    int64_t queries, heads, vision_tokens, width;
};

/* One block's layers. */
struct cross_block {
    struct trained_norm norm;           /* ln2, of queries and vision tokens */
    struct trained_linear query;        /* (d,d) */
    struct trained_linear key_value;    /* plain: (2d,d) */
    struct trained_linear *key_heads;   /* folded: (heads), each (d_h,d) */
    struct trained_linear *value_heads; /* folded: likewise */
    int64_t value_bias;                 /* offset of (d) */
};

/* What backward needs of one block's forward. */
struct cross_saved {
    act *query;     /* plain (B*K,d); folded (heads, B*K, d_h) */
    act *key_value; /* plain (B*N,2d) */
    dev_f32 *lse;   /* plain (B*K,heads) */
    act *p, *c;     /* folded (B, heads*K, ops_score_ld(N)): softmax; (B, heads*K, d): without m */
    dev_f32 *sums;  /* folded (B, heads*K): r */
};

/* Attention of one micro-batch, and what its blocks share. */
struct cross {
    struct ops *ops; /* the params' own are gone when it is closed */
    const struct params *params;
    struct cross_shape shape;
    const struct cross_form *form;

    /* of the micro-batch (cross_begin) */
    int64_t B;
    const act *v; /* (B*N,d), before any norm */
    struct sequences queries;
    /* plain */
    struct sequences tokens;
    /* folded */
    struct ops_operand *normed; /* v~ (B,N,d) */
    dev_f32 *mean;              /* m (B,d) */
    dev_f32 *norm;              /* (B*N,2) */
    dev_f32 *d_normed;          /* (B*N,d): gradient of v~, and of v^, summed over the blocks */
    /* Where the row that comes i-th in one order is in another, for gather_rows. Orders: merged
     * (B,K,heads), image (B,heads,K), head (heads,B,K). */
    const dev_i32 *head_from_merged, *merged_from_head, *head_from_image, *image_from_head,
        *image_from_merged, *merged_from_image;
};

struct cross_form {
    const char *name;
    /* Once: what lasts longer than a micro-batch. */
    int (*open)(struct cross *cross, struct bl_error *err);
    /* A block's layers for keys and values, over its in_proj_weight (3d,d) and in_proj_bias (3d). */
    int (*declare)(const struct cross *cross, struct params *params, struct cross_block *block,
                   int64_t weight, int64_t bias, struct bl_error *err);
    /* What the blocks of a micro-batch share, forward. */
    int (*begin)(struct cross *cross, struct arena *arena, struct bl_error *err);
    /* A block's buffers. */
    int (*take)(const struct cross *cross, struct arena *arena, struct cross_saved *ret,
                struct bl_error *err);
    /* y (B*K,d), before the output projection, from x = ln2(queries) (B*K,d). dropout NULL: none. */
    int (*forward)(const struct cross *cross, struct arena *arena, const struct cross_block *block,
                   act *y, const act *x, const struct cross_saved *saved,
                   const struct ops_dropout *dropout, struct bl_error *err);
    /* What the blocks share, backward. */
    int (*begin_backward)(struct cross *cross, struct arena *arena, struct bl_error *err);
    /* d_x (B*K,d) = gradient at x from d_y (B*K,d); parameters' gradients +=, the norm's by the vision
     * tokens included. d_v (B*N,d), the gradient at v, = or += now, or all of it in end_backward. */
    int (*backward)(const struct cross *cross, struct arena *arena, const struct cross_block *block,
                    act *d_x, act *d_v, bool accumulate_v, const act *d_y, const act *y,
                    const act *x, const struct cross_saved *saved,
                    const struct ops_dropout *dropout, struct bl_error *err);
    int (*end_backward)(const struct cross *cross, struct arena *arena, act *d_v,
                        struct bl_error *err);
    /* probs (B,K,N) f32 device: a block's probabilities in the last forward, mean over heads. */
    int (*probs)(const struct cross *cross, dev_f32 *probs, const struct cross_saved *saved,
                 struct bl_error *err);
};
extern const struct cross_form cross_plain, cross_folded;

/* Multiplications of one block and image, forward and backward, that the forms do not share: plain,
 * folded. */
void cross_operations(const struct cross_shape *shape, double ret[2]);
/* Whether the folded form has clearly fewer operations, forward and backward, than the plain one. */
bool cross_folds(const struct cross_shape *shape);

/* form NULL: by cross_folds. params is borrowed. cross_close releases it. */
int cross_open(struct cross *cross, const struct params *params, const struct cross_shape *shape,
               const struct cross_form *form, struct bl_error *err);
void cross_close(struct cross *cross);

/* The layers of one block over in_proj_weight and in_proj_bias at these offsets in the flat buffers;
 * block->norm is the caller's to declare. cross_block_close releases it. */
int cross_declare(const struct cross *cross, struct params *params, struct cross_block *block,
                  int64_t weight, int64_t bias, struct bl_error *err);
void cross_block_close(struct cross_block *block);

/* Before the blocks' forward: v (B*N,d) as vis_proj gives it, which stays as long as what is saved; B queries' sequences of K
 * rows. */
int cross_begin(struct cross *cross, struct arena *arena, const act *v,
                const struct sequences *queries, struct bl_error *err);
