/* worker/ops/cuda/kernels.h - the GPU kernels behind a C interface: every operation of worker/ops/ops.h
 * that is neither a matmul nor a plain copy, and what stands around the matmuls.
 *
 * Arguments  names, order, shapes and meaning are those of ops.h; only what differs is said here.
 *            Pointers are device memory except the structs and patchify's scale and shift, which
 *            are read before the call returns. `act` elements are f32 or bf16 as launch.act says.
 *            Any alignment that suits the element works; 16-byte aligned rows are read in vectors.
 * Scratch    device memory that the caller lends until the launch has run; NAME_scratch() gives its
 *            bytes, never 0. It needs no clearing and holds nothing afterwards.
 * Order      every sum runs over a fixed tree that depends on the shape alone: no atomics on floating
 *            point, so the same input gives the same bits.
 * Errors     cudaGetLastError() after the launch: a bad launch. What goes wrong while a kernel runs
 *            comes out of a later synchronisation, as always with CUDA. R = 0 launches nothing.
 */
#pragma once

#include <cuda_runtime_api.h>

#include "worker/ops/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_act { CUDA_ACT_F32, CUDA_ACT_BF16 };

/* Where a launch goes, and the element type of its `act` pointers. */
struct cuda_launch {
    cudaStream_t stream;
    enum cuda_act act;
};

/* -- conversions -- */
/* y[i] = x[i] between BL_F32, BL_F16 and BL_BF16 (y: f32 or bf16), to nearest, ties to even: frozen
 * matrices, trainable masters, act <-> f32. */
cudaError_t cuda_convert(cudaStream_t stream, void *y, enum bl_dtype y_dtype, const void *x,
                         enum bl_dtype x_dtype, int64_t count);

/* y (count) bf16 = x, to nearest, ties to even, for each of several matrices. */
enum { CUDA_MASTERS_MAX = 128 }; /* what a kernel's arguments have room for, 4 KB */
struct cuda_master {
    void *y;
    const float *x;
    int64_t count;
};
struct cuda_masters {
    int32_t count;
    struct cuda_master at[CUDA_MASTERS_MAX];
};
/* masters: host memory, read before the call returns. */
cudaError_t cuda_follow_masters(cudaStream_t stream, const struct cuda_masters *masters);

/* -- around matmuls -- */
/* y (R,N) = epilogue(x + bias), saved_pre (NULL: not wanted) = x + bias. bias (N) f32, or NULL. y or
 * saved_pre may be x. */
cudaError_t cuda_bias_activation(struct cuda_launch launch, act *y, act *saved_pre, const act *x,
                                 const float *bias, int64_t R, int64_t N,
                                 enum ops_epilogue epilogue);
/* d_bias (N) += column sums of d_y (R,N) */
size_t cuda_column_sums_scratch(int64_t R, int64_t N);
cudaError_t cuda_column_sums(struct cuda_launch launch, float *d_bias, const act *d_y, int64_t R,
                             int64_t N, void *scratch);

/* -- norms -- */
cudaError_t cuda_layernorm_forward(struct cuda_launch launch, act *y, float *saved, const act *x,
                                   const float *weight, const float *bias, int64_t R, int64_t D,
                                   float eps);
/* scratch may be NULL where d_weight is. */
size_t cuda_layernorm_backward_scratch(int64_t R, int64_t D);
cudaError_t cuda_layernorm_backward(struct cuda_launch launch, act *d_x, float *d_weight,
                                    float *d_bias, const act *d_y, const act *x, const float *saved,
                                    const float *weight, int64_t R, int64_t D, bool accumulate,
                                    void *scratch);
cudaError_t cuda_rmsnorm_forward(struct cuda_launch launch, act *y, float *saved, const act *x,
                                 const float *weight, int64_t R, int64_t D, float eps);
cudaError_t cuda_rmsnorm_backward(struct cuda_launch launch, act *d_x, const act *d_y, const act *x,
                                  const float *saved, const float *weight, int64_t R, int64_t D,
                                  bool accumulate);

/* -- element-wise -- */
cudaError_t cuda_add(struct cuda_launch launch, act *y, const act *a, const act *b, int64_t count);
cudaError_t cuda_activation_backward(struct cuda_launch launch, act *d_x, const act *d_y,
                                     const act *pre, enum ops_epilogue epilogue, int64_t count);
cudaError_t cuda_swiglu_forward(struct cuda_launch launch, act *y, const act *x, int64_t R,
                                int64_t D);
cudaError_t cuda_swiglu_backward(struct cuda_launch launch, act *d_x, const act *d_y, const act *x,
                                 int64_t R, int64_t D);
cudaError_t cuda_dropout(struct cuda_launch launch, act *y, const act *x,
                         const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t D);

cudaError_t cuda_affine_forward(struct cuda_launch launch, act *y, const act *x,
                                const struct ops_affine *a, int64_t R, int64_t D);
/* scratch may be NULL where d_weight and d_bias are. */
size_t cuda_affine_backward_scratch(int64_t R, int64_t D);
cudaError_t cuda_affine_backward(struct cuda_launch launch, act *d_x, float *d_shift,
                                 float *d_weight, float *d_bias, const act *d_y, const act *x,
                                 const struct ops_affine *a, int64_t R, int64_t D,
                                 bool accumulate_shift, void *scratch);

/* -- rows -- */
cudaError_t cuda_gather_rows(struct cuda_launch launch, act *y, const act *x, const int32_t *index,
                             int64_t R, int64_t D);
cudaError_t cuda_scatter_rows(struct cuda_launch launch, act *y, const act *x, const int32_t *index,
                              int64_t R, int64_t D);
/* table (N,D) of dtype f32, f16 or bf16 */
cudaError_t cuda_embed(struct cuda_launch launch, act *y, const void *table, enum bl_dtype dtype,
                       const int32_t *ids, int64_t R, int64_t D);
cudaError_t cuda_broadcast_rows(struct cuda_launch launch, act *y, const float *param, int64_t S,
                                int64_t rows, int64_t D, bool accumulate);
cudaError_t cuda_broadcast_rows_backward(struct cuda_launch launch, float *d_param, const act *d_y,
                                         int64_t S, int64_t rows, int64_t D);
cudaError_t cuda_mean_rows(struct cuda_launch launch, act *y, const act *x, int64_t S, int64_t rows,
                           int64_t first, int64_t D);
cudaError_t cuda_rope(struct cuda_launch launch, act *x, int64_t ld, const int32_t *position,
                      const float *inv_freq, int64_t R, int64_t heads, int64_t head_dim,
                      int direction);
cudaError_t cuda_patchify(struct cuda_launch launch, act *y, const uint8_t *pixels, int64_t B,
                          int64_t size, int64_t patch, const float scale[3], const float shift[3]);

/* -- attention: any head_dim up to CUDA_HEAD_DIM_MAX -- */
#define CUDA_HEAD_DIM_MAX 256
cudaError_t cuda_attention_forward(struct cuda_launch launch, act *out, int64_t ld_out,
                                   float *saved, const act *q, int64_t ld_q, const act *k,
                                   int64_t ld_k, const act *v, int64_t ld_v,
                                   const struct ops_attention *a);
size_t cuda_attention_backward_scratch(const struct ops_attention *a);
cudaError_t cuda_attention_backward(struct cuda_launch launch, act *d_q, act *d_k, act *d_v,
                                    const act *d_out, const act *out, int64_t ld_out,
                                    const float *saved, const act *q, int64_t ld_q, const act *k,
                                    int64_t ld_k, const act *v, int64_t ld_v,
                                    const struct ops_attention *a, void *scratch);
cudaError_t cuda_attention_probs(struct cuda_launch launch, float *probs, const act *q,
                                 int64_t ld_q, const act *k, int64_t ld_k,
                                 const struct ops_attention *a);

/* -- attention over shared keys -- */
cudaError_t cuda_softmax_forward(struct cuda_launch launch, act *p, act *dropped, float *sums,
                                 const act *x, float scale, const struct ops_dropout *dropout,
                                 int64_t S, int64_t rows, int64_t N, int64_t ld);
cudaError_t cuda_softmax_drop(struct cuda_launch launch, act *dropped, const act *p,
                              const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                              int64_t ld);
cudaError_t cuda_softmax_backward(struct cuda_launch launch, act *d_x, const act *d_dropped,
                                  const float *d_sums, const act *p, float scale,
                                  const struct ops_dropout *dropout, int64_t S, int64_t rows,
                                  int64_t N, int64_t ld);

/* -- mixture of experts -- */
cudaError_t cuda_router_softmax(struct cuda_launch launch, float *w, float *lse, const act *z,
                                int64_t B, int64_t E);
cudaError_t cuda_mix_forward(struct cuda_launch launch, act *y, const act *x, const float *w,
                             int64_t B, int64_t E, int64_t rows, int64_t D);
size_t cuda_mix_backward_scratch(int64_t B, int64_t rows, int64_t D);
cudaError_t cuda_mix_backward(struct cuda_launch launch, act *d_x, float *d_w, const act *d_y,
                              const act *x, const float *w, int64_t e, int64_t B, int64_t E,
                              int64_t rows, int64_t D, void *scratch);
cudaError_t cuda_router_backward(struct cuda_launch launch, act *d_z, const float *d_w,
                                 const float *w, const float *lse, const float *P, double tokens,
                                 double images, float alpha, float beta, int64_t B, int64_t E);

/* -- loss: the part of head_loss between its two matmuls, for a chunk of R rows -- */
/* logits (R,V) f32, V columns apart. nll (R), correct (R) or NULL as head_loss. d_logits (NULL: not
 * wanted): softmax - onehot(label), rows ld_d elements apart, either elsewhere or in place: d_logits
 * == logits with rows that begin where those of the logits do, which is ld_d = V in f32 and 2 V in
 * bf16. A label outside [0, V) gives NaN. */
cudaError_t cuda_softmax_cross_entropy(struct cuda_launch launch, float *nll, uint8_t *correct,
                                       act *d_logits, int64_t ld_d, const float *logits,
                                       const int32_t *labels, int64_t R, int64_t V);

/* -- choice of tokens -- */
size_t cuda_top_k_scratch(int64_t R, int64_t V, int64_t k);
cudaError_t cuda_top_k(struct cuda_launch launch, double *log_sum, float *values, int32_t *ids,
                       const act *x, int64_t R, int64_t V, int64_t k, void *scratch);

/* -- optimizer -- */
size_t cuda_grad_norm_scratch(int64_t count);
cudaError_t cuda_grad_norm(cudaStream_t stream, double *out, const float *g, int64_t count,
                           double scale, void *scratch);
cudaError_t cuda_adamw(cudaStream_t stream, float *p, float *m, float *v, const float *g,
                       int64_t count, double scale, const struct ops_adamw *o);
cudaError_t cuda_ema(cudaStream_t stream, float *ema, const float *p, int64_t count, float decay);
cudaError_t cuda_fixed_add(cudaStream_t stream, int64_t *acc, int64_t *bad, const float *g,
                           int64_t count, float limit);
cudaError_t cuda_fixed_get(cudaStream_t stream, float *g, const int64_t *acc, int64_t count);

#ifdef __cplusplus
}
#endif
