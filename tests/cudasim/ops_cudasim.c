/* tests/cudasim/ops_cudasim.c - the GPU kernels as the backend under test (tests/unit/ops.h), on the host
 * shim: a table of operations over worker/ops/cuda/kernels.h in which device memory is the heap, filled
 * with 0xCD, and matmuls are plain loops in f64. Inputs are drawn from the seed BLIPREN_SEED. */
#include "tests/unit/ops.h"

#include "common/limits.h"
#include "worker/ops/cpu/functions.h"
#include "worker/ops/cuda/kernels.h"

struct sim {
    struct ops ops; /* first */
    struct cuda_launch launch;
    cudaError_t failure;
};

struct ops_matrix {
    int64_t N, K;
    const float *master; /* trainable: borrowed */
    act *rows;
};

static struct cuda_launch launch_of(struct ops *self)
{
    return ((struct sim *)self)->launch;
}

static void check(struct ops *self, cudaError_t error)
{
    struct sim *sim = (struct sim *)self;
    if (sim->failure == cudaSuccess)
        sim->failure = error;
}

static void *memory(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 64) / 64 * 64);
    memset(p, 0xCD, bytes);
    return p;
}

static enum bl_dtype act_dtype(const struct ops *self)
{
    return self->act_bytes == 2 ? BL_BF16 : BL_F32;
}

/* -- memory -- */

static void sim_close(struct ops *self)
{
    free(self);
}

static int sim_alloc(struct ops *self, size_t bytes, void **ret, struct bl_error *err)
{
    *ret = memory(bytes);
    return 0;
}

static void sim_release(struct ops *self, void *p)
{
    free(p);
}

static void sim_copy_in(struct ops *self, void *device, const void *host, size_t bytes)
{
    memcpy(device, host, bytes);
}

static void sim_copy_out(struct ops *self, void *host, const void *device, size_t bytes)
{
    memcpy(host, device, bytes);
}

static void sim_zero(struct ops *self, void *p, size_t bytes)
{
    memset(p, 0, bytes);
}

static int sim_sync(struct ops *self, struct bl_error *err)
{
    struct sim *sim = (struct sim *)self;
    if (sim->failure == cudaSuccess)
        return 0;
    return bl_fail(err, BL_EDEVICE, "a launch failed with error %d", (int)sim->failure);
}

static void act_from_f32(struct ops *self, act *y, const float *x, int64_t count)
{
    check(self, cuda_convert(NULL, y, act_dtype(self), x, BL_F32, count));
}

static void act_to_f32(struct ops *self, float *y, const act *x, int64_t count)
{
    check(self, cuda_convert(NULL, y, BL_F32, x, act_dtype(self), count));
}

/* -- linear layers -- */

static double element(const struct ops *self, const act *x, int64_t i)
{
    return self->act_bytes == 2 ? bf16_to_f32(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

static void set_element(const struct ops *self, act *x, int64_t i, double value)
{
    if (self->act_bytes == 2)
        ((uint16_t *)x)[i] = f32_to_bf16((float)value);
    else
        ((float *)x)[i] = (float)value;
}

static struct ops_matrix *new_matrix(struct ops *self, int64_t N, int64_t K)
{
    struct ops_matrix *matrix = calloc(1, sizeof *matrix);
    matrix->N = N;
    matrix->K = K;
    matrix->rows = memory((size_t)(N * K) * self->act_bytes);
    return matrix;
}

static int matrix_frozen(struct ops *self, struct ops_matrix **ret, const void *data,
                         enum bl_dtype dtype, int64_t N, int64_t K, enum ops_data stays,
                         struct bl_error *err)
{
    *ret = new_matrix(self, N, K);
    check(self, cuda_convert(NULL, (*ret)->rows, act_dtype(self), data, dtype, N * K));
    return 0;
}

static void matrices_refresh(struct ops *self, struct ops_matrix *const *matrices, int64_t count)
{
    struct cuda_masters list = {.count = (int32_t)count};
    for (int64_t i = 0; i < count; i++)
        list.at[i] = (struct cuda_master){matrices[i]->rows, matrices[i]->master,
                                          matrices[i]->N * matrices[i]->K};
    if (self->act_bytes == 2)
        check(self, cuda_follow_masters(NULL, &list));
    for (int64_t i = 0; i < count && self->act_bytes == 4; i++)
        act_from_f32(self, matrices[i]->rows, matrices[i]->master, matrices[i]->N * matrices[i]->K);
}

static int matrix_trainable(struct ops *self, struct ops_matrix **ret, const float *master,
                            int64_t N, int64_t K, struct bl_error *err)
{
    *ret = new_matrix(self, N, K);
    (*ret)->master = master;
    matrices_refresh(self, ret, 1);
    return 0;
}

static void matrix_free(struct ops *self, struct ops_matrix **matrix)
{
    if (*matrix)
        free((*matrix)->rows);
    free(*matrix);
    *matrix = NULL;
}

static void linear_forward(struct ops *self, act *y, act *saved_pre, const act *x,
                           const struct ops_matrix *w, const float *bias, int64_t R,
                           enum ops_epilogue epilogue)
{
    for (int64_t r = 0; r < R; r++)
        for (int64_t n = 0; n < w->N; n++) {
            double sum = 0;
            for (int64_t k = 0; k < w->K; k++)
                sum += element(self, x, r * w->K + k) * element(self, w->rows, n * w->K + k);
            set_element(self, y, r * w->N + n, sum);
        }
    check(self, cuda_bias_activation(launch_of(self), y, saved_pre, y, bias, R, w->N, epilogue));
}

static void linear_add(struct ops *self, act *y, const act *base, const act *x,
                       const struct ops_matrix *w, const float *bias, int64_t R)
{
    self->linear_forward(self, y, NULL, x, w, bias, R, OPS_NONE);
    self->add(self, y, y, base, R * w->N);
}

static void linear_backward_input(struct ops *self, act *d_x, const act *d_y,
                                  const struct ops_matrix *w, int64_t R, bool accumulate)
{
    for (int64_t r = 0; r < R; r++)
        for (int64_t k = 0; k < w->K; k++) {
            double sum = accumulate ? element(self, d_x, r * w->K + k) : 0;
            for (int64_t n = 0; n < w->N; n++)
                sum += element(self, d_y, r * w->N + n) * element(self, w->rows, n * w->K + k);
            set_element(self, d_x, r * w->K + k, sum);
        }
}

static void linear_backward_weight(struct ops *self, float *d_w, float *d_bias, const act *d_y,
                                   const act *x, int64_t R, int64_t N, int64_t K)
{
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            double sum = d_w[n * K + k];
            for (int64_t r = 0; r < R; r++)
                sum += element(self, d_y, r * N + n) * element(self, x, r * K + k);
            d_w[n * K + k] = (float)sum;
        }
    void *scratch = memory(cuda_column_sums_scratch(R, N));
    if (d_bias)
        check(self, cuda_column_sums(launch_of(self), d_bias, d_y, R, N, scratch));
    free(scratch);
}

/* -- products of attention over shared keys -- */

struct ops_operand {
    int64_t S, N, D;
    const act *x;
};

static int operand_create(struct ops *self, struct ops_operand **ret, int64_t N, int64_t D,
                          struct bl_error *err)
{
    *ret = calloc(1, sizeof **ret);
    (*ret)->N = N;
    (*ret)->D = D;
    return 0;
}

static void operand_free(struct ops *self, struct ops_operand **operand)
{
    free(*operand);
    *operand = NULL;
}

static void operand_set(struct ops *self, struct ops_operand *operand, const act *x, int64_t S)
{
    operand->x = x;
    operand->S = S;
}

static void product_transposed(struct ops *self, act *y, const act *a, const struct ops_operand *x,
                               int64_t M)
{
    const int64_t N = x->N, D = x->D, ld = ops_score_ld(self, N);
    for (int64_t row = 0; row < x->S * M; row++)
        for (int64_t n = 0; n < N; n++) {
            double sum = 0;
            for (int64_t i = 0; i < D; i++)
                sum +=
                    element(self, a, row * D + i) * element(self, x->x, (row / M * N + n) * D + i);
            set_element(self, y, row * ld + n, sum);
        }
}

static void product(struct ops *self, act *y, const act *a, const struct ops_operand *x, int64_t M)
{
    const int64_t N = x->N, D = x->D, ld = ops_score_ld(self, N);
    for (int64_t row = 0; row < x->S * M; row++)
        for (int64_t i = 0; i < D; i++) {
            double sum = 0;
            for (int64_t n = 0; n < N; n++)
                sum +=
                    element(self, a, row * ld + n) * element(self, x->x, (row / M * N + n) * D + i);
            set_element(self, y, row * D + i, sum);
        }
}

static void product_backward(struct ops *self, float *d_x, const act *a, const act *b,
                             const struct ops_operand *x, int64_t M)
{
    const int64_t N = x->N, D = x->D, ld = ops_score_ld(self, N);
    for (int64_t at = 0; at < x->S * N * D; at++) {
        const int64_t first = at / (N * D) * M, n = at / D % N;
        double sum = d_x[at];
        for (int64_t row = first; row < first + M; row++)
            sum += element(self, a, row * ld + n) * element(self, b, row * D + at % D);
        d_x[at] = (float)sum;
    }
}

/* -- norms -- */

static void layernorm_forward(struct ops *self, act *y, float *saved, const act *x,
                              const float *weight, const float *bias, int64_t R, int64_t D,
                              float eps)
{
    check(self, cuda_layernorm_forward(launch_of(self), y, saved, x, weight, bias, R, D, eps));
}

static void layernorm_backward(struct ops *self, act *d_x, float *d_weight, float *d_bias,
                               const act *d_y, const act *x, const float *saved,
                               const float *weight, int64_t R, int64_t D, bool accumulate)
{
    void *scratch = memory(cuda_layernorm_backward_scratch(R, D));
    check(self, cuda_layernorm_backward(launch_of(self), d_x, d_weight, d_bias, d_y, x, saved,
                                        weight, R, D, accumulate, scratch));
    free(scratch);
}

static void rmsnorm_forward(struct ops *self, act *y, float *saved, const act *x,
                            const float *weight, int64_t R, int64_t D, float eps)
{
    check(self, cuda_rmsnorm_forward(launch_of(self), y, saved, x, weight, R, D, eps));
}

static void rmsnorm_backward(struct ops *self, act *d_x, const act *d_y, const act *x,
                             const float *saved, const float *weight, int64_t R, int64_t D,
                             bool accumulate)
{
    check(self,
          cuda_rmsnorm_backward(launch_of(self), d_x, d_y, x, saved, weight, R, D, accumulate));
}

/* -- element-wise -- */

static void add(struct ops *self, act *y, const act *a, const act *b, int64_t count)
{
    check(self, cuda_add(launch_of(self), y, a, b, count));
}

static void activation_backward(struct ops *self, act *d_x, const act *d_y, const act *pre,
                                enum ops_epilogue epilogue, int64_t count)
{
    check(self, cuda_activation_backward(launch_of(self), d_x, d_y, pre, epilogue, count));
}

static void swiglu_forward(struct ops *self, act *y, const act *x, int64_t R, int64_t D)
{
    check(self, cuda_swiglu_forward(launch_of(self), y, x, R, D));
}

static void swiglu_backward(struct ops *self, act *d_x, const act *d_y, const act *x, int64_t R,
                            int64_t D)
{
    check(self, cuda_swiglu_backward(launch_of(self), d_x, d_y, x, R, D));
}

static void dropout(struct ops *self, act *y, const act *x, const struct ops_dropout *dropout,
                    int64_t S, int64_t rows, int64_t D)
{
    check(self, cuda_dropout(launch_of(self), y, x, dropout, S, rows, D));
}

static void affine_forward(struct ops *self, act *y, const act *x, const struct ops_affine *a,
                           int64_t R, int64_t D)
{
    check(self, cuda_affine_forward(launch_of(self), y, x, a, R, D));
}

static void affine_backward(struct ops *self, act *d_x, float *d_shift, float *d_weight,
                            float *d_bias, const act *d_y, const act *x, const struct ops_affine *a,
                            int64_t R, int64_t D, bool accumulate_shift)
{
    void *scratch = memory(cuda_affine_backward_scratch(R, D));
    check(self, cuda_affine_backward(launch_of(self), d_x, d_shift, d_weight, d_bias, d_y, x, a, R,
                                     D, accumulate_shift, scratch));
    free(scratch);
}

/* -- rows -- */

static void gather_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                        int64_t D)
{
    check(self, cuda_gather_rows(launch_of(self), y, x, index, R, D));
}

static void scatter_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                         int64_t D)
{
    check(self, cuda_scatter_rows(launch_of(self), y, x, index, R, D));
}

static void embed(struct ops *self, act *y, const struct ops_matrix *table, const int32_t *ids,
                  int64_t R)
{
    check(self, cuda_embed(launch_of(self), y, table->rows, act_dtype(self), ids, R, table->K));
}

static void broadcast_rows(struct ops *self, act *y, const float *param, int64_t S, int64_t rows,
                           int64_t D, bool accumulate)
{
    check(self, cuda_broadcast_rows(launch_of(self), y, param, S, rows, D, accumulate));
}

static void broadcast_rows_backward(struct ops *self, float *d_param, const act *d_y, int64_t S,
                                    int64_t rows, int64_t D)
{
    check(self, cuda_broadcast_rows_backward(launch_of(self), d_param, d_y, S, rows, D));
}

static void mean_rows(struct ops *self, act *y, const act *x, int64_t S, int64_t rows,
                      int64_t first, int64_t D)
{
    check(self, cuda_mean_rows(launch_of(self), y, x, S, rows, first, D));
}

static void rope(struct ops *self, act *x, int64_t ld, const int32_t *position,
                 const float *inv_freq, int64_t R, int64_t heads, int64_t head_dim, int direction)
{
    check(self,
          cuda_rope(launch_of(self), x, ld, position, inv_freq, R, heads, head_dim, direction));
}

static void patchify(struct ops *self, act *y, const uint8_t *pixels, int64_t B, int64_t size,
                     int64_t patch, const float scale[3], const float shift[3])
{
    check(self, cuda_patchify(launch_of(self), y, pixels, B, size, patch, scale, shift));
}

/* -- attention -- */

static void attention_forward(struct ops *self, act *out, int64_t ld_out, float *saved,
                              const act *q, int64_t ld_q, const act *k, int64_t ld_k, const act *v,
                              int64_t ld_v, const struct ops_attention *a)
{
    check(self, cuda_attention_forward(launch_of(self), out, ld_out, saved, q, ld_q, k, ld_k, v,
                                       ld_v, a));
}

static void attention_backward(struct ops *self, act *d_q, act *d_k, act *d_v, const act *d_out,
                               const act *out, int64_t ld_out, const float *saved, const act *q,
                               int64_t ld_q, const act *k, int64_t ld_k, const act *v, int64_t ld_v,
                               const struct ops_attention *a)
{
    void *scratch = memory(cuda_attention_backward_scratch(a));
    check(self, cuda_attention_backward(launch_of(self), d_q, d_k, d_v, d_out, out, ld_out, saved,
                                        q, ld_q, k, ld_k, v, ld_v, a, scratch));
    free(scratch);
}

static void attention_probs(struct ops *self, float *probs, const act *q, int64_t ld_q,
                            const act *k, int64_t ld_k, const struct ops_attention *a)
{
    check(self, cuda_attention_probs(launch_of(self), probs, q, ld_q, k, ld_k, a));
}

/* -- attention over shared keys -- */

static void softmax_forward(struct ops *self, act *p, act *dropped, float *sums, const act *x,
                            float scale, const struct ops_dropout *dropout, int64_t S, int64_t rows,
                            int64_t N, int64_t ld)
{
    check(self, cuda_softmax_forward(launch_of(self), p, dropped, sums, x, scale, dropout, S, rows,
                                     N, ld));
}

static void softmax_drop(struct ops *self, act *dropped, const act *p,
                         const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                         int64_t ld)
{
    check(self, cuda_softmax_drop(launch_of(self), dropped, p, dropout, S, rows, N, ld));
}

static void softmax_backward(struct ops *self, act *d_x, const act *d_dropped, const float *d_sums,
                             const act *p, float scale, const struct ops_dropout *dropout,
                             int64_t S, int64_t rows, int64_t N, int64_t ld)
{
    check(self, cuda_softmax_backward(launch_of(self), d_x, d_dropped, d_sums, p, scale, dropout, S,
                                      rows, N, ld));
}

/* -- mixture of experts -- */

static void router_softmax(struct ops *self, float *w, float *lse, const act *z, int64_t B,
                           int64_t E)
{
    check(self, cuda_router_softmax(launch_of(self), w, lse, z, B, E));
}

static void mix_forward(struct ops *self, act *y, const act *x, const float *w, int64_t B,
                        int64_t E, int64_t rows, int64_t D)
{
    check(self, cuda_mix_forward(launch_of(self), y, x, w, B, E, rows, D));
}

static void mix_backward(struct ops *self, act *d_x, float *d_w, const act *d_y, const act *x,
                         const float *w, int64_t e, int64_t B, int64_t E, int64_t rows, int64_t D)
{
    void *scratch = memory(cuda_mix_backward_scratch(B, rows, D));
    check(self, cuda_mix_backward(launch_of(self), d_x, d_w, d_y, x, w, e, B, E, rows, D, scratch));
    free(scratch);
}

static void router_backward(struct ops *self, act *d_z, const float *d_w, const float *w,
                            const float *lse, const float *P, double tokens, double images,
                            float alpha, float beta, int64_t B, int64_t E)
{
    check(self, cuda_router_backward(launch_of(self), d_z, d_w, w, lse, P, tokens, images, alpha,
                                     beta, B, E));
}

/* -- head and loss -- */

/* The gradient goes where the logits are, as on a GPU. */
static void head_loss(struct ops *self, float *nll, uint8_t *correct, act *d_x, const act *x,
                      const struct ops_matrix *w, const int32_t *labels, int64_t R)
{
    const int64_t V = w->N, D = w->K, ld_d = V * 4 / (int64_t)self->act_bytes;
    float *logits = memory((size_t)(R * V) * sizeof *logits);
    for (int64_t r = 0; r < R; r++)
        for (int64_t n = 0; n < V; n++) {
            double sum = 0;
            for (int64_t k = 0; k < D; k++)
                sum += element(self, x, r * D + k) * element(self, w->rows, n * D + k);
            logits[r * V + n] = (float)sum;
        }
    act *d_logits = d_x ? (act *)logits : NULL;
    check(self, cuda_softmax_cross_entropy(launch_of(self), nll, correct, d_logits, ld_d, logits,
                                           labels, R, V));
    for (int64_t r = 0; d_x && r < R; r++)
        for (int64_t k = 0; k < D; k++) {
            double sum = 0;
            for (int64_t n = 0; n < V; n++)
                sum += element(self, d_logits, r * ld_d + n) * element(self, w->rows, n * D + k);
            set_element(self, d_x, r * D + k, sum);
        }
    free(logits);
}

static void top_k(struct ops *self, double *log_sum, float *values, int32_t *ids, const act *x,
                  int64_t R, int64_t V, int64_t k)
{
    void *scratch = memory(cuda_top_k_scratch(R, V, k));
    check(self, cuda_top_k(launch_of(self), log_sum, values, ids, x, R, V, k, scratch));
    free(scratch);
}

/* -- optimizer -- */

static void grad_norm(struct ops *self, double *out, const float *g, int64_t count, double scale)
{
    void *scratch = memory(cuda_grad_norm_scratch(count));
    check(self, cuda_grad_norm(NULL, out, g, count, scale, scratch));
    free(scratch);
}

static void adamw(struct ops *self, float *p, float *m, float *v, const float *g, int64_t count,
                  double scale, const struct ops_adamw *o)
{
    check(self, cuda_adamw(NULL, p, m, v, g, count, scale, o));
}

static void ema(struct ops *self, float *ema, const float *p, int64_t count, float decay)
{
    check(self, cuda_ema(NULL, ema, p, count, decay));
}

static void fixed_add(struct ops *self, int64_t *acc, int64_t *bad, const float *g, int64_t count,
                      float limit)
{
    check(self, cuda_fixed_add(NULL, acc, bad, g, count, limit));
}

static void fixed_get(struct ops *self, float *g, const int64_t *acc, int64_t count)
{
    check(self, cuda_fixed_get(NULL, g, acc, count));
}

static int open_sim(struct cpu_options options, int variant, int repeat, struct ops **ret,
                    struct bl_error *err)
{
    static const struct ops table = {.close = sim_close,
                                     .alloc = sim_alloc,
                                     .release = sim_release,
                                     .copy_in = sim_copy_in,
                                     .copy_out = sim_copy_out,
                                     .copy = sim_copy_in,
                                     .zero = sim_zero,
                                     .sync = sim_sync,
                                     .act_from_f32 = act_from_f32,
                                     .act_to_f32 = act_to_f32,
                                     .matrix_frozen = matrix_frozen,
                                     .matrix_trainable = matrix_trainable,
                                     .matrices_refresh = matrices_refresh,
                                     .matrix_free = matrix_free,
                                     .linear_forward = linear_forward,
                                     .linear_add = linear_add,
                                     .linear_backward_input = linear_backward_input,
                                     .linear_backward_weight = linear_backward_weight,
                                     .layernorm_forward = layernorm_forward,
                                     .layernorm_backward = layernorm_backward,
                                     .rmsnorm_forward = rmsnorm_forward,
                                     .rmsnorm_backward = rmsnorm_backward,
                                     .add = add,
                                     .activation_backward = activation_backward,
                                     .swiglu_forward = swiglu_forward,
                                     .swiglu_backward = swiglu_backward,
                                     .dropout = dropout,
                                     .affine_forward = affine_forward,
                                     .affine_backward = affine_backward,
                                     .gather_rows = gather_rows,
                                     .scatter_rows = scatter_rows,
                                     .embed = embed,
                                     .broadcast_rows = broadcast_rows,
                                     .broadcast_rows_backward = broadcast_rows_backward,
                                     .mean_rows = mean_rows,
                                     .rope = rope,
                                     .patchify = patchify,
                                     .attention_forward = attention_forward,
                                     .attention_backward = attention_backward,
                                     .attention_probs = attention_probs,
                                     .operand_create = operand_create,
                                     .operand_free = operand_free,
                                     .operand_set = operand_set,
                                     .product_transposed = product_transposed,
                                     .product = product,
                                     .product_backward = product_backward,
                                     .softmax_forward = softmax_forward,
                                     .softmax_drop = softmax_drop,
                                     .softmax_backward = softmax_backward,
                                     .router_softmax = router_softmax,
                                     .mix_forward = mix_forward,
                                     .mix_backward = mix_backward,
                                     .router_backward = router_backward,
                                     .head_loss = head_loss,
                                     .top_k = top_k,
                                     .grad_norm = grad_norm,
                                     .adamw = adamw,
                                     .ema = ema,
                                     .fixed_add = fixed_add,
                                     .fixed_get = fixed_get};
    struct sim *sim = calloc(1, sizeof *sim);
    sim->ops = table;
    /* References of the bf16 precision have rounded weights. */
    const bool narrow = variant == 1 || options.precision == OPS_BF16;
    sim->ops.name = narrow ? "cudasim: bf16" : "cudasim: f32";
    sim->ops.precision = narrow ? OPS_BF16 : OPS_F32;
    sim->ops.act_bytes = narrow ? 2 : 4;
    sim->ops.score_multiple = narrow ? 8 : 4;
    sim->launch.act = narrow ? CUDA_ACT_BF16 : CUDA_ACT_F32;
    cudasim_seed((unsigned long long)repeat);
    *ret = &sim->ops;
    return 0;
}

struct ops_backend ops_backend(void)
{
    const char *seed = getenv("BLIPREN_SEED");
    return (struct ops_backend){.variants = 2,
                                .repeats = 2,
                                .short_values = true,
                                .seed = seed ? strtoull(seed, NULL, 10) : 0,
                                .open = open_sim};
}

void ops_free(struct ops **ops)
{
    if (*ops)
        (*ops)->close(*ops);
    *ops = NULL;
}
