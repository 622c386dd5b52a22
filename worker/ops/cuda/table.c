/* worker/ops/cuda/table.c - the operations that are one launch of a kernel each: the launcher's failure is
 * recorded, and scratch taken for it. */
#include "worker/ops/cuda/cuda.h"

static void layernorm_forward(struct ops *self, act *y, float *saved, const act *x,
                              const float *weight, const float *bias, int64_t R, int64_t D,
                              float eps)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_layernorm_forward(cuda->launch, y, saved, x, weight, bias, R, D, eps),
            "layernorm_forward");
}

static void layernorm_backward(struct ops *self, act *d_x, float *d_weight, float *d_bias,
                               const act *d_y, const act *x, const float *saved,
                               const float *weight, int64_t R, int64_t D, bool accumulate)
{
    struct cuda *cuda = cuda_of(self);
    void *scratch = cuda_scratch(cuda, CUDA_SCRATCH_INNER, cuda_layernorm_backward_scratch(R, D));
    if (scratch)
        cuda_ok(cuda,
                cuda_layernorm_backward(cuda->launch, d_x, d_weight, d_bias, d_y, x, saved, weight,
                                        R, D, accumulate, scratch),
                "layernorm_backward");
}

static void rmsnorm_forward(struct ops *self, act *y, float *saved, const act *x,
                            const float *weight, int64_t R, int64_t D, float eps)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_rmsnorm_forward(cuda->launch, y, saved, x, weight, R, D, eps),
            "rmsnorm_forward");
}

static void rmsnorm_backward(struct ops *self, act *d_x, const act *d_y, const act *x,
                             const float *saved, const float *weight, int64_t R, int64_t D,
                             bool accumulate)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_rmsnorm_backward(cuda->launch, d_x, d_y, x, saved, weight, R, D, accumulate),
            "rmsnorm_backward");
}

static void add(struct ops *self, act *y, const act *a, const act *b, int64_t count)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_add(cuda->launch, y, a, b, count), "add");
}

static void activation_backward(struct ops *self, act *d_x, const act *d_y, const act *pre,
                                enum ops_epilogue epilogue, int64_t count)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_activation_backward(cuda->launch, d_x, d_y, pre, epilogue, count),
            "activation_backward");
}

static void swiglu_forward(struct ops *self, act *y, const act *x, int64_t R, int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_swiglu_forward(cuda->launch, y, x, R, D), "swiglu_forward");
}

static void swiglu_backward(struct ops *self, act *d_x, const act *d_y, const act *x, int64_t R,
                            int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_swiglu_backward(cuda->launch, d_x, d_y, x, R, D), "swiglu_backward");
}

static void dropout(struct ops *self, act *y, const act *x, const struct ops_dropout *dropout,
                    int64_t S, int64_t rows, int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_dropout(cuda->launch, y, x, dropout, S, rows, D), "dropout");
}

static void affine_forward(struct ops *self, act *y, const act *x, const struct ops_affine *a,
                           int64_t R, int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_affine_forward(cuda->launch, y, x, a, R, D), "affine_forward");
}

static void affine_backward(struct ops *self, act *d_x, float *d_shift, float *d_weight,
                            float *d_bias, const act *d_y, const act *x, const struct ops_affine *a,
                            int64_t R, int64_t D, bool accumulate_shift)
{
    struct cuda *cuda = cuda_of(self);
    void *scratch = cuda_scratch(cuda, CUDA_SCRATCH_INNER, cuda_affine_backward_scratch(R, D));
    if (scratch)
        cuda_ok(cuda,
                cuda_affine_backward(cuda->launch, d_x, d_shift, d_weight, d_bias, d_y, x, a, R, D,
                                     accumulate_shift, scratch),
                "affine_backward");
}

static void gather_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                        int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_gather_rows(cuda->launch, y, x, index, R, D), "gather_rows");
}

static void scatter_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                         int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_scatter_rows(cuda->launch, y, x, index, R, D), "scatter_rows");
}

static void broadcast_rows(struct ops *self, act *y, const float *param, int64_t S, int64_t rows,
                           int64_t D, bool accumulate)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_broadcast_rows(cuda->launch, y, param, S, rows, D, accumulate),
            "broadcast_rows");
}

static void broadcast_rows_backward(struct ops *self, float *d_param, const act *d_y, int64_t S,
                                    int64_t rows, int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_broadcast_rows_backward(cuda->launch, d_param, d_y, S, rows, D),
            "broadcast_rows_backward");
}

static void mean_rows(struct ops *self, act *y, const act *x, int64_t S, int64_t rows,
                      int64_t first, int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_mean_rows(cuda->launch, y, x, S, rows, first, D), "mean_rows");
}

static void rope(struct ops *self, act *x, int64_t ld, const int32_t *position,
                 const float *inv_freq, int64_t R, int64_t heads, int64_t head_dim, int direction)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_rope(cuda->launch, x, ld, position, inv_freq, R, heads, head_dim, direction),
            "rope");
}

static void patchify(struct ops *self, act *y, const uint8_t *pixels, int64_t B, int64_t size,
                     int64_t patch, const float scale[3], const float shift[3])
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_patchify(cuda->launch, y, pixels, B, size, patch, scale, shift), "patchify");
}

static void attention_forward(struct ops *self, act *out, int64_t ld_out, float *saved,
                              const act *q, int64_t ld_q, const act *k, int64_t ld_k, const act *v,
                              int64_t ld_v, const struct ops_attention *a)
{
    if (self->dry)
        return;
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda,
            cuda_attention_forward(cuda->launch, out, ld_out, saved, q, ld_q, k, ld_k, v, ld_v, a),
            "attention_forward");
}

static void attention_backward(struct ops *self, act *d_q, act *d_k, act *d_v, const act *d_out,
                               const act *out, int64_t ld_out, const float *saved, const act *q,
                               int64_t ld_q, const act *k, int64_t ld_k, const act *v, int64_t ld_v,
                               const struct ops_attention *a)
{
    struct cuda *cuda = cuda_of(self);
    void *scratch = cuda_scratch(cuda, CUDA_SCRATCH_INNER, cuda_attention_backward_scratch(a));
    if (scratch)
        cuda_ok(cuda,
                cuda_attention_backward(cuda->launch, d_q, d_k, d_v, d_out, out, ld_out, saved, q,
                                        ld_q, k, ld_k, v, ld_v, a, scratch),
                "attention_backward");
}

static void attention_probs(struct ops *self, float *probs, const act *q, int64_t ld_q,
                            const act *k, int64_t ld_k, const struct ops_attention *a)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_attention_probs(cuda->launch, probs, q, ld_q, k, ld_k, a),
            "attention_probs");
}

static void softmax_forward(struct ops *self, act *p, act *dropped, float *sums, const act *x,
                            float scale, const struct ops_dropout *dropout, int64_t S, int64_t rows,
                            int64_t N, int64_t ld)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda,
            cuda_softmax_forward(cuda->launch, p, dropped, sums, x, scale, dropout, S, rows, N, ld),
            "softmax_forward");
}

static void softmax_drop(struct ops *self, act *dropped, const act *p,
                         const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                         int64_t ld)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_softmax_drop(cuda->launch, dropped, p, dropout, S, rows, N, ld),
            "softmax_drop");
}

static void softmax_backward(struct ops *self, act *d_x, const act *d_dropped, const float *d_sums,
                             const act *p, float scale, const struct ops_dropout *dropout,
                             int64_t S, int64_t rows, int64_t N, int64_t ld)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda,
            cuda_softmax_backward(cuda->launch, d_x, d_dropped, d_sums, p, scale, dropout, S, rows,
                                  N, ld),
            "softmax_backward");
}

static void router_softmax(struct ops *self, float *w, float *lse, const act *z, int64_t B,
                           int64_t E)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_router_softmax(cuda->launch, w, lse, z, B, E), "router_softmax");
}

static void mix_forward(struct ops *self, act *y, const act *x, const float *w, int64_t B,
                        int64_t E, int64_t rows, int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_mix_forward(cuda->launch, y, x, w, B, E, rows, D), "mix_forward");
}

static void mix_backward(struct ops *self, act *d_x, float *d_w, const act *d_y, const act *x,
                         const float *w, int64_t e, int64_t B, int64_t E, int64_t rows, int64_t D)
{
    struct cuda *cuda = cuda_of(self);
    void *scratch = cuda_scratch(cuda, CUDA_SCRATCH_INNER, cuda_mix_backward_scratch(B, rows, D));
    if (scratch)
        cuda_ok(cuda,
                cuda_mix_backward(cuda->launch, d_x, d_w, d_y, x, w, e, B, E, rows, D, scratch),
                "mix_backward");
}

static void router_backward(struct ops *self, act *d_z, const float *d_w, const float *w,
                            const float *lse, const float *P, double tokens, double images,
                            float alpha, float beta, int64_t B, int64_t E)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(
        cuda,
        cuda_router_backward(cuda->launch, d_z, d_w, w, lse, P, tokens, images, alpha, beta, B, E),
        "router_backward");
}

static void top_k(struct ops *self, double *log_sum, float *values, int32_t *ids, const act *x,
                  int64_t R, int64_t V, int64_t k)
{
    struct cuda *cuda = cuda_of(self);
    BL_ASSERT(k >= 1 && k <= V);
    void *scratch = cuda_scratch(cuda, CUDA_SCRATCH_INNER, cuda_top_k_scratch(R, V, k));
    if (scratch)
        cuda_ok(cuda, cuda_top_k(cuda->launch, log_sum, values, ids, x, R, V, k, scratch), "top_k");
}

static void grad_norm(struct ops *self, double *out, const float *g, int64_t count, double scale)
{
    struct cuda *cuda = cuda_of(self);
    void *scratch = cuda_scratch(cuda, CUDA_SCRATCH_INNER, cuda_grad_norm_scratch(count));
    if (scratch)
        cuda_ok(cuda, cuda_grad_norm(cuda->launch.stream, out, g, count, scale, scratch),
                "grad_norm");
}

static void adamw(struct ops *self, float *p, float *m, float *v, const float *g, int64_t count,
                  double scale, const struct ops_adamw *o)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_adamw(cuda->launch.stream, p, m, v, g, count, scale, o), "adamw");
}

static void ema(struct ops *self, float *ema, const float *p, int64_t count, float decay)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_ema(cuda->launch.stream, ema, p, count, decay), "ema");
}

static void fixed_add(struct ops *self, int64_t *acc, int64_t *bad, const float *g, int64_t count,
                      float limit)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_fixed_add(cuda->launch.stream, acc, bad, g, count, limit), "fixed_add");
}

static void fixed_get(struct ops *self, float *g, const int64_t *acc, int64_t count)
{
    struct cuda *cuda = cuda_of(self);
    cuda_ok(cuda, cuda_fixed_get(cuda->launch.stream, g, acc, count), "fixed_get");
}

void cuda_fill_table(struct ops *table)
{
    table->layernorm_forward = layernorm_forward;
    table->layernorm_backward = layernorm_backward;
    table->rmsnorm_forward = rmsnorm_forward;
    table->rmsnorm_backward = rmsnorm_backward;
    table->add = add;
    table->activation_backward = activation_backward;
    table->swiglu_forward = swiglu_forward;
    table->swiglu_backward = swiglu_backward;
    table->dropout = dropout;
    table->affine_forward = affine_forward;
    table->affine_backward = affine_backward;
    table->gather_rows = gather_rows;
    table->scatter_rows = scatter_rows;
    table->broadcast_rows = broadcast_rows;
    table->broadcast_rows_backward = broadcast_rows_backward;
    table->mean_rows = mean_rows;
    table->rope = rope;
    table->patchify = patchify;
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_probs = attention_probs;
    table->softmax_forward = softmax_forward;
    table->softmax_drop = softmax_drop;
    table->softmax_backward = softmax_backward;
    table->router_softmax = router_softmax;
    table->mix_forward = mix_forward;
    table->mix_backward = mix_backward;
    table->router_backward = router_backward;
    table->top_k = top_k;
    table->grad_norm = grad_norm;
    table->adamw = adamw;
    table->ema = ema;
    table->fixed_add = fixed_add;
    table->fixed_get = fixed_get;
}

void cuda_fill_scratch(struct ops *table)
{
    table->layernorm_backward = layernorm_backward;
    table->affine_backward = affine_backward;
    table->mix_backward = mix_backward;
    table->grad_norm = grad_norm;
}
