/* tests/tools/step_count.c - what a training step asks of a GPU, part by part.
 *
 *     step_count RUN.yaml IMAGES TOKENS TFLOPS TBYTES
 *
 * Opens the run's model over a device that only counts memory (worker/ops/dry.h), puts a table in front of it that counts
 * operations instead, and does one micro-batch of IMAGES with texts of TOKENS tokens. A line of JSON for each part: operations
 * queued, FLOP (a multiply-add is two), bytes read and written if each operand is once, with activations and matrices in bf16
 * and gradients of weights in f32, as the CUDA backend keeps them; and the seconds that these allow on a device of TFLOPS
 * 10^12 FLOP/s and TBYTES 10^12 bytes/s, where each operation takes the longer of its two. A part is that of the matrix that
 * was multiplied by last. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/config/config.h"
#include "worker/model/captioner.h"
#include "worker/model/vision.h"
#include "worker/ops/dry.h"
#include "worker/options.h"
#include "worker/options_training.h"
#include "worker/rehearse.h"

enum part { TOWER, QFORMER, PROJECTOR, LLM, OPTIMIZER, PARTS };
static const char *const names[PARTS] = {"vision tower", "Q-Former", "projector", "language model",
                                         "optimizer"};
enum { ACT = 2, F32 = 4 };          /* bytes */
enum { CUDA_ROWS_AT_ONCE = 16384 }; /* worker/ops/cuda/open.c */
/* worker/ops/cuda/algorithm.h: products timed for each class, and what rows are rounded up to */
enum { CUDA_TIMED = 8 * (1 + 2), CUDA_CLASS_ROWS = 128, CLASSES_MAX = 512 };

enum form { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };

struct matrix {
    const struct ops_matrix *matrix;
    int64_t N, K;
    enum part part;      /* of a frozen one */
    const float *master; /* of a trainable one, else NULL */
};

/* One count of everything: the table's functions have no place for another. */
static struct {
    struct ops real;
    const struct captioner_params *params; /* once they are there */
    struct matrix *matrices;
    size_t matrix_count;
    int64_t tower_matrices; /* still to come */
    int64_t operand_S, operand_N, operand_D;
    enum part now;
    double flops_s, bytes_s;
    struct {
        int64_t calls;
        double flops, bytes, seconds;
    } parts[PARTS];
    /* Classes of products, for each of which an algorithm is chosen: samples, rows, columns, depth, form, bytes of a result. */
    int64_t classes[CLASSES_MAX][6];
    int64_t class_count;
    double choosing_s;
} count;

static double seconds_of(double flops, double bytes)
{
    double by_flops = flops / count.flops_s, by_bytes = bytes / count.bytes_s;
    return by_flops > by_bytes ? by_flops : by_bytes;
}

static void add_work(double flops, double bytes)
{
    count.parts[count.now].calls++;
    count.parts[count.now].flops += flops;
    count.parts[count.now].bytes += bytes;
    count.parts[count.now].seconds += seconds_of(flops, bytes);
}

/* Activations read or written: so many, so often. */
static void add_moved(int64_t elements, double times)
{
    add_work(0, times * ACT * (double)elements);
}

static int64_t rounded(int64_t rows)
{
    return (rows + CUDA_CLASS_ROWS - 1) / CUDA_CLASS_ROWS * CUDA_CLASS_ROWS;
}

/* The first product of a class, of so many seconds, is timed by several algorithms. */
static void choose_algorithm(const int64_t class[6], double seconds)
{
    for (int64_t i = 0; i < count.class_count; i++)
        if (memcmp(count.classes[i], class, sizeof count.classes[i]) == 0)
            return;
    if (count.class_count == CLASSES_MAX)
        return;
    memcpy(count.classes[count.class_count++], class, sizeof count.classes[0]);
    count.choosing_s += CUDA_TIMED * seconds;
}

/* S products (M,K) (K,N), whose results are read and written as `result` bytes each. */
static void add_product(enum form form, int64_t S, int64_t M, int64_t N, int64_t K, int64_t result)
{
    const double m = (double)M, n = (double)N, k = (double)K, s = (double)S;
    const double flops = 2 * s * m * n * k;
    const double bytes = s * (ACT * (m * k + n * k) + (double)result * m * n);
    const int64_t class[6] = {S, rounded(M), N, rounded(K), form, result};
    choose_algorithm(class, seconds_of(flops, bytes));
    add_work(flops, bytes);
}

/* -- matrices -- */

static int note(struct matrix matrix, struct bl_error *err)
{
    struct matrix *grown =
        realloc(count.matrices, (count.matrix_count + 1) * sizeof *count.matrices);
    if (!grown)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    count.matrices = grown;
    count.matrices[count.matrix_count++] = matrix;
    return 0;
}

static int matrix_frozen(struct ops *self, struct ops_matrix **ret, const void *data,
                         enum bl_dtype dtype, int64_t N, int64_t K, enum ops_data stays,
                         struct bl_error *err)
{
    BL_TRY(count.real.matrix_frozen(self, ret, data, dtype, N, K, stays, err));
    enum part part = count.tower_matrices-- > 0 ? TOWER : LLM; /* the tower is opened first */
    return note((struct matrix){*ret, N, K, part, NULL}, err);
}

static int matrix_trainable(struct ops *self, struct ops_matrix **ret, const float *master,
                            int64_t N, int64_t K, struct bl_error *err)
{
    BL_TRY(count.real.matrix_trainable(self, ret, master, N, K, err));
    return note((struct matrix){*ret, N, K, PARTS, master}, err);
}

/* The part of a trainable tensor at an element of the flat buffer that begins at base. */
static enum part part_of(const float *base, const float *at)
{
    for (int64_t i = 0; i < count.params->tensors; i++) {
        const struct captioner_param *p = &count.params->at[i];
        if (at >= base + p->offset && at < base + p->offset + p->count)
            return p->file == CAPTIONER_QFORMER ? QFORMER : PROJECTOR;
    }
    abort();
}

/* The matrix, whose part is the one at work from here on. */
static const struct matrix *use(const struct ops_matrix *wanted)
{
    size_t i = 0;
    while (count.matrices[i].matrix != wanted)
        i++;
    const struct matrix *m = &count.matrices[i];
    count.now = m->master ? part_of(count.params->values, m->master) : m->part;
    return m;
}

static void linear_forward(struct ops *self, act *y, act *saved_pre, const act *x,
                           const struct ops_matrix *w, const float *bias, int64_t R,
                           enum ops_epilogue epilogue)
{
    const struct matrix *m = use(w);
    add_product(FORWARD, 1, R, m->N, m->K, ACT);
    const bool fused = epilogue == OPS_GELU_TANH && !saved_pre;
    if ((epilogue != OPS_NONE || saved_pre) && !fused) /* a kernel of its own behind the product */
        add_moved(R * m->N, saved_pre ? 3 : 2);
}

static void linear_add(struct ops *self, act *y, const act *base, const act *x,
                       const struct ops_matrix *w, const float *bias, int64_t R)
{
    const struct matrix *m = use(w);
    add_product(FORWARD, 1, R, m->N, m->K, 2 * ACT);
}

static void linear_backward_input(struct ops *self, act *d_x, const act *d_y,
                                  const struct ops_matrix *w, int64_t R, bool accumulate)
{
    const struct matrix *m = use(w);
    add_product(BACKWARD_INPUT, 1, R, m->K, m->N, accumulate ? 2 * ACT : ACT);
}

static void linear_backward_weight(struct ops *self, float *d_w, float *d_bias, const act *d_y,
                                   const act *x, int64_t R, int64_t N, int64_t K)
{
    count.now = part_of(count.params->grads, d_w);
    add_product(BACKWARD_WEIGHT, 1, N, K, R, 2 * F32);
    if (d_bias)
        add_moved(R * N, 1);
}

/* The head's logits are computed, and once more where a gradient is wanted; they stay in chunks. */
static void head_loss(struct ops *self, float *nll, uint8_t *correct, act *d_x, const act *x,
                      const struct ops_matrix *w, const int32_t *labels, int64_t R)
{
    const struct matrix *m = use(w);
    add_product(FORWARD, 1, R, m->N, m->K, ACT);
    add_moved(R * m->N, d_x ? 2 : 1);
    if (d_x)
        add_product(BACKWARD_INPUT, 1, R, m->K, m->N, ACT);
}

/* -- attention -- */

/* Products of queries and keys: `products` of them, of which causality leaves half and what a sequence has before. */
static void add_attention(const struct ops_attention *a, double products, double times)
{
    double pairs = (double)a->q_len_max * (double)a->k_len_max;
    if (a->causal)
        pairs -= (double)a->q_len_max * (double)(a->q_len_max - 1) / 2;
    double width = (double)(a->heads * a->head_dim), keys = (double)(a->kv_heads * a->head_dim);
    double elements = (double)a->q_len_max * 2 * width + (double)a->k_len_max * 2 * keys;
    add_work(products * 2 * (double)a->S * pairs * width, times * ACT * (double)a->S * elements);
}

static void attention_forward(struct ops *self, act *out, int64_t ld_out, float *saved,
                              const act *q, int64_t ld_q, const act *k, int64_t ld_k, const act *v,
                              int64_t ld_v, const struct ops_attention *a)
{
    add_attention(a, 2, 1);
}

static void attention_backward(struct ops *self, act *d_q, act *d_k, act *d_v, const act *d_out,
                               const act *out, int64_t ld_out, const float *saved, const act *q,
                               int64_t ld_q, const act *k, int64_t ld_k, const act *v, int64_t ld_v,
                               const struct ops_attention *a)
{
    add_attention(a, 5, 2.5);
}

/* Operands of folded cross-attention: their sizes, since a product is given one alone. */
static int operand_create(struct ops *self, struct ops_operand **ret, int64_t N, int64_t D,
                          struct bl_error *err)
{
    count.operand_N = N;
    count.operand_D = D;
    return count.real.operand_create(self, ret, N, D, err);
}

static void operand_set(struct ops *self, struct ops_operand *operand, const act *x, int64_t S)
{
    count.operand_S = S;
}

static void product_transposed(struct ops *self, act *y, const act *a, const struct ops_operand *x,
                               int64_t M)
{
    add_product(FORWARD, count.operand_S, M, count.operand_N, count.operand_D, ACT);
}

static void product(struct ops *self, act *y, const act *a, const struct ops_operand *x, int64_t M)
{
    add_product(BACKWARD_INPUT, count.operand_S, M, count.operand_D, count.operand_N, ACT);
}

static void product_backward(struct ops *self, float *d_x, const act *a, const act *b,
                             const struct ops_operand *x, int64_t M)
{
    add_product(BACKWARD_WEIGHT, count.operand_S, count.operand_N, count.operand_D, M, 2 * F32);
}

static void softmax_forward(struct ops *self, act *p, act *dropped, float *sums, const act *x,
                            float scale, const struct ops_dropout *d, int64_t S, int64_t rows,
                            int64_t N, int64_t ld)
{
    add_moved(S * rows * ld, dropped && dropped != p ? 3 : 2);
}

static void softmax_drop(struct ops *self, act *dropped, const act *p, const struct ops_dropout *d,
                         int64_t S, int64_t rows, int64_t N, int64_t ld)
{
    add_moved(S * rows * ld, 2);
}

static void softmax_backward(struct ops *self, act *d_x, const act *d_dropped, const float *d_sums,
                             const act *p, float scale, const struct ops_dropout *d, int64_t S,
                             int64_t rows, int64_t N, int64_t ld)
{
    add_moved(S * rows * ld, 3);
}

/* -- what moves memory -- */

static void layernorm_forward(struct ops *self, act *y, float *saved, const act *x,
                              const float *weight, const float *bias, int64_t R, int64_t D,
                              float eps)
{
    add_moved(R * D, 2);
}

static void layernorm_backward(struct ops *self, act *d_x, float *d_weight, float *d_bias,
                               const act *d_y, const act *x, const float *saved,
                               const float *weight, int64_t R, int64_t D, bool accumulate)
{
    add_moved(R * D, 3 + (accumulate ? 1 : 0) + (d_weight ? 2 : 0));
}

static void rmsnorm_forward(struct ops *self, act *y, float *saved, const act *x,
                            const float *weight, int64_t R, int64_t D, float eps)
{
    add_moved(R * D, 2);
}

static void rmsnorm_backward(struct ops *self, act *d_x, const act *d_y, const act *x,
                             const float *saved, const float *weight, int64_t R, int64_t D,
                             bool accumulate)
{
    add_moved(R * D, accumulate ? 4 : 3);
}

static void add(struct ops *self, act *y, const act *a, const act *b, int64_t elements)
{
    add_moved(elements, 3);
}

static void activation_backward(struct ops *self, act *d_x, const act *d_y, const act *pre,
                                enum ops_epilogue epilogue, int64_t elements)
{
    add_moved(elements, 3);
}

static void swiglu_forward(struct ops *self, act *y, const act *x, int64_t R, int64_t D)
{
    add_moved(R * D, 3);
}

static void swiglu_backward(struct ops *self, act *d_x, const act *d_y, const act *x, int64_t R,
                            int64_t D)
{
    add_moved(R * D, 5);
}

static void dropout(struct ops *self, act *y, const act *x, const struct ops_dropout *d, int64_t S,
                    int64_t rows, int64_t D)
{
    add_moved(S * rows * D, 2);
}

static void affine_forward(struct ops *self, act *y, const act *x, const struct ops_affine *a,
                           int64_t R, int64_t D)
{
    add_moved(R * D, 2);
}

static void affine_backward(struct ops *self, act *d_x, float *d_shift, float *d_weight,
                            float *d_bias, const act *d_y, const act *x, const struct ops_affine *a,
                            int64_t R, int64_t D, bool accumulate_shift)
{
    add_moved(R * D, x ? 3 : 2);
}

static void move_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                      int64_t D)
{
    add_moved(R * D, 2);
}

static void embed(struct ops *self, act *y, const struct ops_matrix *table, const int32_t *ids,
                  int64_t R)
{
    add_moved(R * use(table)->K, 2);
}

static void broadcast_rows(struct ops *self, act *y, const float *param, int64_t S, int64_t rows,
                           int64_t D, bool accumulate)
{
    add_moved(S * rows * D, accumulate ? 2 : 1);
}

static void broadcast_rows_backward(struct ops *self, float *d_param, const act *d_y, int64_t S,
                                    int64_t rows, int64_t D)
{
    add_moved(S * rows * D, 1);
}

static void mean_rows(struct ops *self, act *y, const act *x, int64_t S, int64_t rows,
                      int64_t first, int64_t D)
{
    add_moved(S * rows * D, 1);
}

static void rope(struct ops *self, act *x, int64_t ld, const int32_t *position,
                 const float *inv_freq, int64_t R, int64_t heads, int64_t head_dim, int direction)
{
    add_moved(R * heads * head_dim, 2);
}

static void patchify(struct ops *self, act *y, const uint8_t *pixels, int64_t B, int64_t size,
                     int64_t patch, const float scale[3], const float shift[3])
{
    count.now = TOWER;
    add_moved(B * size * size * 3, 1.5);
}

static void mix_forward(struct ops *self, act *y, const act *x, const float *w, int64_t B,
                        int64_t E, int64_t rows, int64_t D)
{
    add_moved(B * rows * D, (double)E + 1);
}

static void mix_backward(struct ops *self, act *d_x, float *d_w, const act *d_y, const act *x,
                         const float *w, int64_t e, int64_t B, int64_t E, int64_t rows, int64_t D)
{
    add_moved(B * rows * D, 3);
}

static void put_in_front(struct ops *ops)
{
    count.real = *ops;
    ops->rows_at_once = CUDA_ROWS_AT_ONCE;
    ops->matrix_frozen = matrix_frozen;
    ops->matrix_trainable = matrix_trainable;
    ops->linear_forward = linear_forward;
    ops->linear_add = linear_add;
    ops->linear_backward_input = linear_backward_input;
    ops->linear_backward_weight = linear_backward_weight;
    ops->head_loss = head_loss;
    ops->attention_forward = attention_forward;
    ops->attention_backward = attention_backward;
    ops->operand_create = operand_create;
    ops->operand_set = operand_set;
    ops->product_transposed = product_transposed;
    ops->product = product;
    ops->product_backward = product_backward;
    ops->softmax_forward = softmax_forward;
    ops->softmax_drop = softmax_drop;
    ops->softmax_backward = softmax_backward;
    ops->layernorm_forward = layernorm_forward;
    ops->layernorm_backward = layernorm_backward;
    ops->rmsnorm_forward = rmsnorm_forward;
    ops->rmsnorm_backward = rmsnorm_backward;
    ops->add = add;
    ops->activation_backward = activation_backward;
    ops->swiglu_forward = swiglu_forward;
    ops->swiglu_backward = swiglu_backward;
    ops->dropout = dropout;
    ops->affine_forward = affine_forward;
    ops->affine_backward = affine_backward;
    ops->gather_rows = ops->scatter_rows = move_rows;
    ops->embed = embed;
    ops->broadcast_rows = broadcast_rows;
    ops->broadcast_rows_backward = broadcast_rows_backward;
    ops->mean_rows = mean_rows;
    ops->rope = rope;
    ops->patchify = patchify;
    ops->mix_forward = mix_forward;
    ops->mix_backward = mix_backward;
}

/* -- a step -- */

/* The tower's matrices, told by opening it alone. */
static int count_tower(struct ops *ops, const struct captioner_options *options,
                       struct bl_error *err)
{
    struct hf_vision config;
    struct hf_preprocess preprocess;
    bl_auto(vision) struct vision *vision = NULL;
    BL_TRY(hf_vision_open(options->vision, &config, err));
    BL_TRY(hf_preprocess_open(options->vision, &config, &preprocess, err));
    BL_TRY(vision_open(ops, options->vision, &config, &preprocess,
                       options->projector == CAPTIONER_MOE && options->routing == CAPTIONER_POOLED,
                       options->images_alone, &vision, err));
    count.tower_matrices = (int64_t)count.matrix_count;
    count.matrix_count = 0;
    return 0;
}

/* A rehearsal does its micro-batch twice. */
static void count_one_of_two(void)
{
    for (int i = 0; i < PARTS; i++) {
        count.parts[i].calls /= 2;
        count.parts[i].flops /= 2;
        count.parts[i].bytes /= 2;
        count.parts[i].seconds /= 2;
    }
}

/* Once a step: the norm reads gradients; AdamW reads them, values and both moments and writes the last three; matrices are
 * made anew, in bf16. */
static void count_optimizer(void)
{
    double values = (double)count.params->count;
    count.now = OPTIMIZER;
    add_work(0, values * F32);
    add_work(0, values * 7 * F32);
    add_work(0, values * (F32 + ACT));
}

static void print(void)
{
    for (int i = 0; i < PARTS; i++)
        printf("{\"part\": \"%s\", \"operations\": %lld, \"flop\": %.0f, \"bytes\": %.0f, "
               "\"seconds\": %.6f}\n",
               names[i], (long long)count.parts[i].calls, count.parts[i].flops,
               count.parts[i].bytes, count.parts[i].seconds);
    printf("{\"part\": \"parameters\", \"count\": %lld, \"classes\": %lld, \"choosing_s\": %.3f}\n",
           (long long)count.params->count, (long long)count.class_count, count.choosing_s);
}

static int run(char **argv, struct bl_error *err)
{
    bl_auto(config) struct config *config = NULL;
    bl_auto(ops) struct ops *ops = NULL;
    bl_auto(captioner) struct captioner *captioner = NULL;
    count.flops_s = 1e12 * atof(argv[4]);
    count.bytes_s = 1e12 * atof(argv[5]);
    BL_TRY(config_open(argv[1], &config, err));
    BL_TRY(ops_cpu_dry_open(OPS_BF16, 1, &ops, err));
    struct captioner_options options = options_captioner(config, 0);
    put_in_front(ops);
    BL_TRY(count_tower(ops, &options, err));
    BL_TRY(captioner_open(ops, &options, &captioner, err));
    count.params = captioner_params(captioner);
    BL_TRY(rehearse(captioner, atoll(argv[2]), atoll(argv[3]), false, err));
    count_one_of_two();
    count_optimizer();
    print();
    free(count.matrices);
    return 0;
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    if (argc != 6)
        bl_fail(&err, BL_EUSAGE, "usage: step_count RUN.yaml IMAGES TOKENS TFLOPS TBYTES");
    else
        run(argv, &err);
    if (!err.code)
        return 0;
    char line[1600];
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "step_count: %s\n", line);
    return bl_error_exit_code(err.code);
}
