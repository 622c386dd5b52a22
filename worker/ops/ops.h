/* worker/ops/ops.h - what the model may ask of a device. ops/cpu and ops/cuda fill the same table.
 *
 * Layout     row-major, outermost first. R = rows (tokens of all sequences together, ragged),
 *            D = width, S = sequences, H = heads. Sizes are int64_t: R*D overflows int at 2^20 tokens
 *            x 2048.
 * Elements   `act` is the device's activation element (f32 on the CPU, bf16 on a GPU): opaque here,
 *            so nobody does arithmetic on it by mistake; step through it with ops_at(). Everything
 *            else says its type.
 * Memory     every pointer to `act` or a dev_ type is device memory (common/device_memory.h), 64-byte aligned unless it is an
 *            ops_at() step, borrowed for the call; only copy_in / copy_out touch host memory. Outputs come first. An output
 *            may be the same pointer as an input only where it says "in place". R = 0 is a no-op
 *            everywhere: a micro-batch may be all void.
 * Order      calls are queued; results are readable after sync(). One ops belongs to one thread. No
 *            call returns a value the host would have to wait for: sums stay on the device until
 *            copied out.
 * Gradients  d_x is written (=), unless `accumulate` says +=; gradients of trainable parameters (f32)
 *            are always added to (+=), so that micro-batches accumulate. Sums run in a fixed tree:
 *            same input, same bits, on one kind of machine, for any number of threads.
 * Errors     the first device failure sticks and comes out of sync(). Wrong shapes are asserts: they
 *            were checked when the model was opened.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/device_memory.h"
#include "common/error.h"
#include "common/models/safetensors.h"

typedef struct bl_act DEVICE_MEMORY act; /* never defined: see Elements */
struct ops;
struct ops_dry;
struct comm_memory; /* worker/comm/backend.h */
struct comm_backend;

enum ops_precision {
    OPS_BF16, /* frozen weights rounded to bf16; matmuls as exact as bf16 x bf16 -> f32 or more so, in what
                 the device is fastest at */
    OPS_F32, /* frozen weights as the file has them, every matmul f32: the reference */
};

/* The data of a frozen matrix. */
enum ops_data {
    OPS_DATA_GOES,      /* may be freed once the matrix is there */
    OPS_DATA_STAYS,     /* outlives the matrix */
    OPS_DATA_LOOKED_UP, /* outlives it; embed() alone reads it, the rows that it is asked for */
};

enum ops_epilogue { OPS_NONE, OPS_GELU_ERF, OPS_GELU_TANH, OPS_SILU };

/* A (N,K) matrix as the device wants it: frozen ones are made once, trainable ones follow their
 * f32 master. */
struct ops_matrix;

/* Dropout of one site: element i of a sample is kept iff its Philox number is >= p, and then scaled
 * by 1/(1-p). Philox counter = {element / 4, site, position, step}, key from seed (common/random.h,
 * BL_RANDOM_DROPOUT); word = element % 4. The element index is logical: row within the sample x
 * width + column (attention: (head x query rows + query) x keys + key), so packing, world size and
 * micro-batch do not matter (invariant 2). A NULL pointer to this struct, or p == 0, means no
 * dropout. */
struct ops_dropout {
    float p;
    uint64_t seed;
    uint32_t step, site;
    const dev_i32 *positions; /* (S) device: each sample's position in the global batch */
};

/* Ragged attention. Sequence s has query rows q_start[s] .. + q_len[s] and key rows k_start[s] .. +
 * k_len[s]. causal: query i of a sequence sees keys j <= i + (k_len - q_len), so that a KV cache
 * needs no other form. */
struct ops_attention {
    int64_t S, heads, kv_heads, head_dim;
    const dev_i32 *q_start, *q_len, *k_start, *k_len; /* (S) device */
    int64_t q_len_max, k_len_max;                     /* host: bounds of the above */
    float scale;
    bool causal;
    const struct ops_dropout *dropout; /* on the probabilities */
};

/* ops affine_forward: what it multiplies and adds. All f32, device. center: NULL, or one (D) for each
 * center_rows rows, with weight and bias alone. */
struct ops_affine {
    const dev_f32 *weight, *shift, *bias;
    int64_t period, G;
    const dev_f32 *center;
    int64_t center_rows;
};

/* ops operand_create */
struct ops_operand;

/* ops record */
struct ops_recording;
/* Queues operations; may fail. */
typedef int ops_queue(void *context, struct bl_error *err);

/* One AdamW step (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2).
 */
struct ops_adamw {
    double lr, beta1, beta2, eps, weight_decay; /* f64: 1 - 0.999f is 1.3e-5 off */
    int64_t t;                                  /* 1 for the first step: bias correction */
};

/* The table. `self` is always the ops. */
struct ops {
    const char *name; /* "cpu: avx512, f32" for logs and fingerprints */
    enum ops_precision precision;
    size_t act_bytes;
    struct ops_dry *dry;    /* NULL, or it counts memory and computes nothing: worker/ops/dry.h */
    int64_t score_multiple; /* rows of scores are a multiple of so many elements apart */
    int64_t head_dim_max;   /* widest head that attention takes; 0: any */
    int64_t rows_at_once;   /* rows with which products reach full speed; more only take memory */
    /* Set before the first operation: a device that has several algorithms for a product may time them and take the fastest, so
     * that last bits differ from one process to the next. false when opened: the shape alone decides. */
    bool times_products;

    /* For a communicator: how host memory and this device's exchange bytes (NULL: they are one), and
     * the device's own collectives (NULL: it has none). */
    const struct comm_memory *memory;
    const struct comm_backend *collectives;
    /* Bytes of device memory in use, at most so far; NULL: device memory is the process's own. */
    size_t (*peak_bytes)(const struct ops *self);
    /* Of those that nobody uses, at this moment; NULL as that. */
    size_t (*free_bytes)(const struct ops *self);

    void (*close)(struct ops *self); /* through ops_free */

    /* -- memory -- */
    /* 64-byte aligned, not cleared. *ret is released by release(). -BL_ENOMEM says how much was
     * asked. */
    int (*alloc)(struct ops *self, size_t bytes, dev_void **ret, struct bl_error *err);
    /* The same, all bytes zero. NULL: alloc and zero do; see ops_alloc_zero. */
    int (*alloc_zero)(struct ops *self, size_t bytes, dev_void **ret, struct bl_error *err);
    void (*release)(struct ops *self, dev_void *p); /* NULL is fine */
    void (*copy_in)(struct ops *self, dev_void *device, const void *host, size_t bytes);
    void (*copy_out)(struct ops *self, void *host, const dev_void *device,
                     size_t bytes); /* waits */
    void (*copy)(struct ops *self, dev_void *y, const dev_void *x, size_t bytes);
    void (*zero)(struct ops *self, dev_void *p, size_t bytes);
    int (*sync)(struct ops *self, struct bl_error *err);

    /* -- recordings: a run of operations that is queued as one; all three NULL where a device gains nothing by it -- */
    /* *ret = what queue(context) queues, none of which runs, with its arguments as they are: sizes, pointers, numbers; what arrays
     * hold is read at each replay. Allowed are operations on memory that there is, all of which have run before with the same
     * shapes, copy and zero. Not copy_in, copy_out, sync and release (asserts); alloc fails. -BL_EDEVICE: the device refuses it, and
     * goes on as before; else what queue returned. */
    int (*record)(struct ops *self, struct ops_recording **ret, ops_queue *queue, void *context,
                  struct bl_error *err);
    /* Queues it. false: some memory was released since it was recorded, whether it uses it or not, and nothing was queued. */
    bool (*replay)(struct ops *self, const struct ops_recording *recording);
    void (*recording_free)(struct ops *self, struct ops_recording **recording);

    /* -- a second queue, whose operations may run at the same time; both NULL where a device gains nothing by it -- */
    /* *ret = an ops of the same device and thread, for what may wait: where both could run, self's do. Memory and frozen matrices
     * of either may be used by both. times_products is self's. It has no recordings, communicators and queues beside it; the
     * caller frees it (ops_free), before self. */
    int (*open_beside)(struct ops *self, struct ops **ret, struct bl_error *err);
    /* What is queued on self from now on runs after what has been queued on other so far; other's failure is self's. */
    void (*wait_for)(struct ops *self, struct ops *other);

    /* act <-> f32, both device */
    void (*act_from_f32)(struct ops *self, act *y, const dev_f32 *x, int64_t count);
    void (*act_to_f32)(struct ops *self, dev_f32 *y, const act *x, int64_t count);

    /* -- linear layers: y (R,N) = epilogue(x (R,K) W^T + bias) -- */
    /* W (N,K) from host memory of dtype f32, f16 or bf16, which the CPU may read in place where it stays. */
    int (*matrix_frozen)(struct ops *self, struct ops_matrix **ret, const void *data,
                         enum bl_dtype dtype, int64_t N, int64_t K, enum ops_data stays,
                         struct bl_error *err);
    /* Follows f32 master (N,K) on the device, borrowed for the matrix's life; call matrices_refresh
     * after it changed. */
    int (*matrix_trainable)(struct ops *self, struct ops_matrix **ret, const dev_f32 *master,
                            int64_t N, int64_t K, struct bl_error *err);
    /* Of `count` trainable ones, together. */
    void (*matrices_refresh)(struct ops *self, struct ops_matrix *const *matrices, int64_t count);
    void (*matrix_free)(struct ops *self, struct ops_matrix **matrix);

    /* bias (N) f32 or NULL. saved_pre (R,N), or NULL: the value before the epilogue, for its
     * backward. */
    void (*linear_forward)(struct ops *self, act *y, act *saved_pre, const act *x,
                           const struct ops_matrix *w, const dev_f32 *bias, int64_t R,
                           enum ops_epilogue epilogue);
    /* y (R,N) = base (R,N) + x (R,K) W^T + bias; y is not base */
    void (*linear_add)(struct ops *self, act *y, const act *base, const act *x,
                       const struct ops_matrix *w, const dev_f32 *bias, int64_t R);
    /* d_x (R,K) = or += d_y (R,N) W */
    void (*linear_backward_input)(struct ops *self, act *d_x, const act *d_y,
                                  const struct ops_matrix *w, int64_t R, bool accumulate);
    /* d_w (N,K) += d_y^T x;  d_bias (N) += column sums of d_y (NULL: none) */
    void (*linear_backward_weight)(struct ops *self, dev_f32 *d_w, dev_f32 *d_bias, const act *d_y,
                                   const act *x, int64_t R, int64_t N, int64_t K);

    /* -- norms over the last axis -- */
    /* y = (x - mean) rstd weight + bias; weight and bias both NULL: y = (x - mean) rstd. saved (R,2)
     * f32: mean, rstd, for backward; NULL = inference. In place. */
    void (*layernorm_forward)(struct ops *self, act *y, dev_f32 *saved, const act *x,
                              const dev_f32 *weight, const dev_f32 *bias, int64_t R, int64_t D,
                              float eps);
    /* d_x = or +=; d_weight, d_bias (D) += (both NULL: frozen, or there are none) */
    void (*layernorm_backward)(struct ops *self, act *d_x, dev_f32 *d_weight, dev_f32 *d_bias,
                               const act *d_y, const act *x, const dev_f32 *saved,
                               const dev_f32 *weight, int64_t R, int64_t D, bool accumulate);
    /* y = x rstd weight, rstd = (mean x^2 + eps)^-1/2 (Zhang & Sennrich 2019). saved (R) f32: rstd,
     * or NULL. */
    void (*rmsnorm_forward)(struct ops *self, act *y, dev_f32 *saved, const act *x,
                            const dev_f32 *weight, int64_t R, int64_t D, float eps);
    void (*rmsnorm_backward)(struct ops *self, act *d_x, const act *d_y, const act *x,
                             const dev_f32 *saved, const dev_f32 *weight, int64_t R, int64_t D,
                             bool accumulate);

    /* -- element-wise -- */
    void (*add)(struct ops *self, act *y, const act *a, const act *b, int64_t count); /* in place */
    /* d_x = d_y f'(pre), in place on d_y. */
    void (*activation_backward)(struct ops *self, act *d_x, const act *d_y, const act *pre,
                                enum ops_epilogue epilogue, int64_t count);
    /* y (R,D) = silu(gate) * up; gate at x[r*2D], up at x[r*2D + D]: the two halves of one packed
     * row (R,2D) */
    void (*swiglu_forward)(struct ops *self, act *y, const act *x, int64_t R, int64_t D);
    void (*swiglu_backward)(struct ops *self, act *d_x, const act *d_y, const act *x, int64_t R,
                            int64_t D);
    /* y (S*rows, D) = dropout(x); the same call on the gradient is its backward. In place. */
    void (*dropout)(struct ops *self, act *y, const act *x, const struct ops_dropout *dropout,
                    int64_t S, int64_t rows, int64_t D);

    /* y (R,D) = weight (x + shift[r] center[r / center_rows]) + shift[r] bias[g(r)]: weight (D) or NULL
     * for 1; shift (R) f32 and bias (G,D) both NULL for none; g(r) = r / period % G, R a multiple of
     * period * G. In place. */
    void (*affine_forward)(struct ops *self, act *y, const act *x, const struct ops_affine *a,
                           int64_t R, int64_t D);
    /* d_x = weight d_y, in place on d_y (NULL: not wanted); d_shift[r] = or += <d_y, weight center +
     * bias[g(r)]>; d_weight += sum_r (x + shift[r] center) d_y; d_bias[g] += sum over its rows of
     * shift[r] d_y. center has no gradient. What a->weight or a->bias lacks has none: NULL. x NULL
     * where there is no weight. */
    void (*affine_backward)(struct ops *self, act *d_x, dev_f32 *d_shift, dev_f32 *d_weight,
                            dev_f32 *d_bias, const act *d_y, const act *x,
                            const struct ops_affine *a, int64_t R, int64_t D,
                            bool accumulate_shift);

    /* -- rows -- */
    /* y[i] = x[index[i]];  y[index[i]] = x[i] (indices distinct). index (R) i32 device; rows of D.
     */
    void (*gather_rows)(struct ops *self, act *y, const act *x, const dev_i32 *index, int64_t R,
                        int64_t D);
    void (*scatter_rows)(struct ops *self, act *y, const act *x, const dev_i32 *index, int64_t R,
                         int64_t D);
    /* y[i] (R,D) = row ids[i] of the frozen matrix (N,D): token embeddings */
    void (*embed)(struct ops *self, act *y, const struct ops_matrix *table, const dev_i32 *ids,
                  int64_t R);
    /* y (S*rows, D) = or += param (rows, D) f32, repeated for every sample; and its backward
     * d_param += */
    void (*broadcast_rows)(struct ops *self, act *y, const dev_f32 *param, int64_t S, int64_t rows,
                           int64_t D, bool accumulate);
    void (*broadcast_rows_backward)(struct ops *self, dev_f32 *d_param, const act *d_y, int64_t S,
                                    int64_t rows, int64_t D);
    /* y (S,D) = mean of rows [first, rows) of each sample of x (S*rows, D) */
    void (*mean_rows)(struct ops *self, act *y, const act *x, int64_t S, int64_t rows,
                      int64_t first, int64_t D);

    /* -- attention -- */
    /* In place rotation of x's heads (R rows, `heads` of head_dim at x[r*ld]): rotate-half RoPE (Su
     * et al. 2021) by angles position[r] * inv_freq[i], i < head_dim/2. direction +1 forward, -1
     * its backward. inv_freq f32 device. */
    void (*rope)(struct ops *self, act *x, int64_t ld, const dev_i32 *position,
                 const dev_f32 *inv_freq, int64_t R, int64_t heads, int64_t head_dim,
                 int direction);
    /* out (Rq, heads*head_dim) with row strides ld* in elements; query head h uses key/value head h
     * / (heads/kv_heads). saved (Rq, heads) f32: log-sum-exp of the scaled scores, NULL =
     * inference. */
    void (*attention_forward)(struct ops *self, act *out, int64_t ld_out, dev_f32 *saved,
                              const act *q, int64_t ld_q, const act *k, int64_t ld_k, const act *v,
                              int64_t ld_v, const struct ops_attention *a);
    /* d_q, d_k, d_v have the strides of q, k, v and are written (rows of no sequence stay
     * untouched). */
    void (*attention_backward)(struct ops *self, act *d_q, act *d_k, act *d_v, const act *d_out,
                               const act *out, int64_t ld_out, const dev_f32 *saved, const act *q,
                               int64_t ld_q, const act *k, int64_t ld_k, const act *v, int64_t ld_v,
                               const struct ops_attention *a);
    /* probs (S, q_len_max, k_len_max) f32 = softmax probabilities, mean over heads, zero beyond a
     * sequence. */
    void (*attention_probs)(struct ops *self, dev_f32 *probs, const act *q, int64_t ld_q,
                            const act *k, int64_t ld_k, const struct ops_attention *a);

    /* -- attention over shared keys, in parts (worker/model/cross_folded.c) -- */
    /* Matrices of scores have rows of N elements, ld >= N apart: ops_score_ld(). What is behind a row is
     * written 0 by these three, and never read. */
    /* p (S*rows, N) = softmax(scale x) over the last axis, in place; dropped = dropout(p); sums (S*rows)
     * f32 = row sums of dropped, before anything is rounded to act. */
    void (*softmax_forward)(struct ops *self, act *p, act *dropped, dev_f32 *sums, const act *x,
                            float scale, const struct ops_dropout *dropout, int64_t S, int64_t rows,
                            int64_t N, int64_t ld);
    /* dropped = dropout(p) again */
    void (*softmax_drop)(struct ops *self, act *dropped, const act *p,
                         const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                         int64_t ld);
    /* From d_dropped (S*rows, N) and d_sums (S*rows): g = dropout(d_dropped + d_sums[r]),
     * d_x = scale p (g - sum_j p g), in place on d_dropped. */
    void (*softmax_backward)(struct ops *self, act *d_x, const act *d_dropped,
                             const dev_f32 *d_sums, const act *p, float scale,
                             const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                             int64_t ld);
    /* An operand is x (S,N,D), a matrix of activations for each of S samples that several products
     * share. *ret is the caller's, and empty. */
    int (*operand_create)(struct ops *self, struct ops_operand **ret, int64_t N, int64_t D,
                          struct bl_error *err);
    void (*operand_free)(struct ops *self, struct ops_operand **operand);
    /* x is borrowed while the operand is used. */
    void (*operand_set)(struct ops *self, struct ops_operand *operand, const act *x, int64_t S);
    /* y (S,M,N), rows ops_score_ld(N) apart, = a (S,M,D) x^T for each sample */
    void (*product_transposed)(struct ops *self, act *y, const act *a, const struct ops_operand *x,
                               int64_t M);
    /* y (S,M,D) = a (S,M,N) x for each sample; a's rows like those */
    void (*product)(struct ops *self, act *y, const act *a, const struct ops_operand *x, int64_t M);
    /* d_x (S,N,D) f32 += a^T b for each sample; a (S,M,N), b (S,M,D): the operand's gradient by either
     * product. */
    void (*product_backward)(struct ops *self, dev_f32 *d_x, const act *a, const act *b,
                             const struct ops_operand *x, int64_t M);

    /* -- images -- */
    /* y (B*g*g, 3*patch*patch) = patches of pixels (B,size,size,3) u8, channel first inside a patch
     * (the order of a Conv2d weight), value x * scale[c] + shift[c]; g = size / patch, a remainder
     * at the right and bottom is left out. */
    void (*patchify)(struct ops *self, act *y, const dev_u8 *pixels, int64_t B, int64_t size,
                     int64_t patch, const float scale[3], const float shift[3]);

    /* -- mixture of experts -- */
    /* w (B,E) f32 = softmax(z (B,E)); lse (B) f32 = logsumexp(z), NULL: not wanted. */
    void (*router_softmax)(struct ops *self, dev_f32 *w, dev_f32 *lse, const act *z, int64_t B,
                           int64_t E);
    /* y (B*rows, D) = sum_e w[b,e] x[e]; x (E, B*rows, D) */
    void (*mix_forward)(struct ops *self, act *y, const act *x, const dev_f32 *w, int64_t B,
                        int64_t E, int64_t rows, int64_t D);
    /* Of expert e: d_x = w[b,e] d_y;  d_w[b,e] = <d_y, x> over the image's rows; all (B*rows, D) */
    void (*mix_backward)(struct ops *self, act *d_x, dev_f32 *d_w, const act *d_y, const act *x,
                         const dev_f32 *w, int64_t e, int64_t B, int64_t E, int64_t rows,
                         int64_t D);
    /* The router's gradient at the end of a step (recipe.md, Loss). d_w (B,E): the cross entropy's
     * sum gradient at w; P (E) f32: mean weight over the global batch of `images` images. g = d_w /
     * tokens + alpha E 2 P_e / images;   d_z = w (g - sum_e w g) + 2 beta / images * lse * w d_z is
     * final: it is not divided again. */
    void (*router_backward)(struct ops *self, act *d_z, const dev_f32 *d_w, const dev_f32 *w,
                            const dev_f32 *lse, const dev_f32 *P, double tokens, double images,
                            float alpha, float beta, int64_t B, int64_t E);

    /* -- head and loss -- */
    /* nll (R) f32 = -log softmax(x W^T)[label]; correct (R) u8 = label is the arg max (NULL: not
     * wanted); d_x (R,D) = gradient of the SUM of nll (NULL: not wanted). Chunked: the (R,
     * vocabulary) logits are never whole. */
    void (*head_loss)(struct ops *self, dev_f32 *nll, dev_u8 *correct, act *d_x, const act *x,
                      const struct ops_matrix *w, const dev_i32 *labels, int64_t R);
    /* The k highest of each row of logits x (R,V), highest first, equals by lower id: values (R,k) f32,
     * ids (R,k); log_sum (R) f64 = log sum_j e^x[r,j], so that log_sum minus a logit is within 1e-6
     * relative. k from 1 to V. A logit that is not a number counts as -infinity among the highest, and
     * makes log_sum not a number. The three results need only their elements' alignment. */
    void (*top_k)(struct ops *self, dev_f64 *log_sum, dev_f32 *values, dev_i32 *ids, const act *x,
                  int64_t R, int64_t V, int64_t k);

    /* -- optimizer, all f32 unless said -- */
    /* out[0] (f64) += sum of squares of g * scale; out[1] += number of values that are not finite
     */
    void (*grad_norm)(struct ops *self, dev_f64 *out, const dev_f32 *g, int64_t count,
                      double scale);
    /* p, m, v updated from g * scale. */
    void (*adamw)(struct ops *self, dev_f32 *p, dev_f32 *m, dev_f32 *v, const dev_f32 *g,
                  int64_t count, double scale, const struct ops_adamw *o);
    /* ema = decay ema + (1 - decay) p */
    void (*ema)(struct ops *self, dev_f32 *ema, const dev_f32 *p, int64_t count, float decay);
    /* acc (i64) += round(g * 2^36); *bad (i64) += number of values not finite or >= limit in
     * absolute value */
    void (*fixed_add)(struct ops *self, dev_i64 *acc, dev_i64 *bad, const dev_f32 *g, int64_t count,
                      float limit);
    /* g = acc * 2^-36 */
    void (*fixed_get)(struct ops *self, dev_f32 *g, const dev_i64 *acc, int64_t count);
};

/* Elements from one row of N scores to the next. */
static inline int64_t ops_score_ld(const struct ops *ops, int64_t N)
{
    return (N + ops->score_multiple - 1) / ops->score_multiple * ops->score_multiple;
}

#define OPS_FIXED_SCALE 0x1p36

/* The CPU backend with this many OpenMP threads (0 = all cores); called in the thread that will
 * compute. */
int ops_cpu_open(enum ops_precision precision, int threads, struct ops **ret, struct bl_error *err);
/* Everything of this machine that decides the last bits of the CPU backend's results: instruction
 * sets (our kernels', the matmul library's), the library's version, the caches by which it cuts.
 * Equal texts, equal bits. */
void ops_cpu_kind(char *ret, size_t size);
/* Cleared memory; where the device has it already, without writing to it. */
static inline int ops_alloc_zero(struct ops *ops, size_t bytes, dev_void **ret,
                                 struct bl_error *err)
{
    if (ops->alloc_zero)
        return ops->alloc_zero(ops, bytes, ret, err);
    int rc = ops->alloc(ops, bytes, ret, err);
    if (rc == 0)
        ops->zero(ops, *ret, bytes);
    return rc;
}

/* A device chosen by name. */
struct ops_device {
    const struct ops_plugin *plugin; /* NULL: the CPU */
    int index;                       /* of the plugin's devices */
    /* Where the CPU stands in for a GPU that "auto" looked for: why, in one line; else "". */
    char fallback[256];
};

/* text: "cpu", "cuda:N", or "auto" or NULL: the GPU of this process's local rank (LOCAL_RANK or
 * SLURM_LOCALID, else 0) where there is one, else the CPU. "cuda:N" fails with -BL_EDEVICE where there
 * is no such GPU. */
int ops_device_choose(const char *text, struct ops_device *ret, struct bl_error *err);
/* GPUs that "auto" could take here; 0 where the backend or the driver is missing. */
int ops_device_count(void);
/* What decides the last bits of this device's results; begins with "cuda: " on a GPU. Equal texts,
 * equal bits. */
void ops_device_kind(const struct ops_device *device, char *ret, size_t size);
/* threads: of the CPU backend, as above. Called in the thread that will compute. */
int ops_open(const struct ops_device *device, enum ops_precision precision, int threads,
             struct ops **ret, struct bl_error *err);
/* NULL is fine; sets *ops to NULL. */
void ops_free(struct ops **ops);

/* The address `count` elements further. */
static inline act *ops_at(const struct ops *ops, const act *p, int64_t count)
{
    return (act *)(uintptr_t)((const dev_u8 *)p + count * (int64_t)ops->act_bytes);
}
