/* worker/ops/dry.c - see dry.h. */
#include "worker/ops/dry.h"

#include <stdlib.h>

#include "common/size.h"

struct block {
    uintptr_t address;
    size_t bytes;
    enum ops_use use;
};

struct ops_dry {
    struct block *blocks;
    size_t count, capacity;
    uintptr_t next; /* address to give out */
    struct ops_usage usage;
    int64_t peak;
    int users;
};

/* -- memory -- */

/* Above what any process can have mapped on a 64-bit machine; room for 2^61 bytes. */
#define FIRST_ADDRESS ((uintptr_t)1 << 60)

struct ops_dry *ops_dry_create(void)
{
    struct ops_dry *dry = calloc(1, sizeof *dry);
    if (!dry)
        return NULL;
    dry->next = FIRST_ADDRESS;
    return ops_dry_share(dry);
}

struct ops_dry *ops_dry_share(struct ops_dry *dry)
{
    dry->users++;
    return dry;
}

static void note_peak(struct ops_dry *dry)
{
    int64_t sum = 0;
    for (int i = 0; i < OPS_USES; i++)
        sum += dry->usage.bytes[i];
    dry->peak = bl_max(dry->peak, sum);
}

void *ops_dry_alloc(struct ops_dry *dry, enum ops_use use, size_t bytes)
{
    if (dry->count == dry->capacity) {
        size_t capacity = dry->capacity ? 2 * dry->capacity : 64;
        struct block *blocks = realloc(dry->blocks, capacity * sizeof *blocks);
        if (!blocks)
            return NULL;
        dry->blocks = blocks;
        dry->capacity = capacity;
    }
    if (bytes > 2 * FIRST_ADDRESS - dry->next)
        return NULL;
    struct block *block = &dry->blocks[dry->count++];
    *block = (struct block){dry->next, bytes, use};
    dry->next += (bytes / 64 + 1) * 64;
    dry->usage.bytes[use] += (int64_t)bytes;
    note_peak(dry);
    return (void *)block->address;
}

void ops_dry_free(struct ops_dry *dry, void *memory)
{
    for (size_t i = dry->count; memory && i-- > 0;)
        if (dry->blocks[i].address == (uintptr_t)memory) {
            dry->usage.bytes[dry->blocks[i].use] -= (int64_t)dry->blocks[i].bytes;
            dry->blocks[i] = dry->blocks[--dry->count];
            return;
        }
    BL_ASSERT(!memory);
}

void ops_dry_borrow(struct ops_dry *dry, int64_t bytes)
{
    dry->usage.bytes[OPS_MATRICES] += bytes;
    note_peak(dry);
}

void ops_dry_destroy(struct ops_dry *dry)
{
    if (!dry || --dry->users > 0)
        return;
    free(dry->blocks);
    free(dry);
}

void ops_dry_usage(const struct ops *ops, struct ops_usage *ret)
{
    *ret = ops->dry->usage;
}

int64_t ops_dry_peak(const struct ops *ops)
{
    return ops->dry->peak;
}

/* -- operations that only compute -- */

static void copy_in(struct ops *self, void *device, const void *host, size_t bytes)
{
}
static void copy_out(struct ops *self, void *host, const void *device, size_t bytes)
{
}
static void copy(struct ops *self, void *y, const void *x, size_t bytes)
{
}
static void zero(struct ops *self, void *p, size_t bytes)
{
}
static void act_from_f32(struct ops *self, act *y, const float *x, int64_t count)
{
}
static void act_to_f32(struct ops *self, float *y, const act *x, int64_t count)
{
}
static void layernorm_forward(struct ops *self, act *y, float *saved, const act *x,
                              const float *weight, const float *bias, int64_t R, int64_t D,
                              float eps)
{
}
static void layernorm_backward(struct ops *self, act *d_x, float *d_weight, float *d_bias,
                               const act *d_y, const act *x, const float *saved,
                               const float *weight, int64_t R, int64_t D, bool accumulate)
{
}
static void rmsnorm_forward(struct ops *self, act *y, float *saved, const act *x,
                            const float *weight, int64_t R, int64_t D, float eps)
{
}
static void rmsnorm_backward(struct ops *self, act *d_x, const act *d_y, const act *x,
                             const float *saved, const float *weight, int64_t R, int64_t D,
                             bool accumulate)
{
}
static void add(struct ops *self, act *y, const act *a, const act *b, int64_t count)
{
}
static void activation_backward(struct ops *self, act *d_x, const act *d_y, const act *pre,
                                enum ops_epilogue epilogue, int64_t count)
{
}
static void swiglu_forward(struct ops *self, act *y, const act *x, int64_t R, int64_t D)
{
}
static void swiglu_backward(struct ops *self, act *d_x, const act *d_y, const act *x, int64_t R,
                            int64_t D)
{
}
static void dropout(struct ops *self, act *y, const act *x, const struct ops_dropout *d, int64_t S,
                    int64_t rows, int64_t D)
{
}
static void move_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                      int64_t D)
{
}
static void embed(struct ops *self, act *y, const struct ops_matrix *table, const int32_t *ids,
                  int64_t R)
{
}
static void broadcast_rows(struct ops *self, act *y, const float *param, int64_t S, int64_t rows,
                           int64_t D, bool accumulate)
{
}
static void broadcast_rows_backward(struct ops *self, float *d_param, const act *d_y, int64_t S,
                                    int64_t rows, int64_t D)
{
}
static void mean_rows(struct ops *self, act *y, const act *x, int64_t S, int64_t rows,
                      int64_t first, int64_t D)
{
}
static void rope(struct ops *self, act *x, int64_t ld, const int32_t *position,
                 const float *inv_freq, int64_t R, int64_t heads, int64_t head_dim, int direction)
{
}
static void attention_probs(struct ops *self, float *probs, const act *q, int64_t ld_q,
                            const act *k, int64_t ld_k, const struct ops_attention *a)
{
}
static void affine_forward(struct ops *self, act *y, const act *x, const struct ops_affine *a,
                           int64_t R, int64_t D)
{
}
static void affine_backward(struct ops *self, act *d_x, float *d_shift, float *d_weight,
                            float *d_bias, const act *d_y, const act *x, const struct ops_affine *a,
                            int64_t R, int64_t D, bool accumulate_shift)
{
}
static void softmax_forward(struct ops *self, act *p, act *dropped, float *sums, const act *x,
                            float scale, const struct ops_dropout *d, int64_t S, int64_t rows,
                            int64_t N, int64_t ld)
{
}
static void softmax_drop(struct ops *self, act *dropped, const act *p, const struct ops_dropout *d,
                         int64_t S, int64_t rows, int64_t N, int64_t ld)
{
}
static void softmax_backward(struct ops *self, act *d_x, const act *d_dropped, const float *d_sums,
                             const act *p, float scale, const struct ops_dropout *d, int64_t S,
                             int64_t rows, int64_t N, int64_t ld)
{
}
static void patchify(struct ops *self, act *y, const uint8_t *pixels, int64_t B, int64_t size,
                     int64_t patch, const float scale[3], const float shift[3])
{
}
static void router_softmax(struct ops *self, float *w, float *lse, const act *z, int64_t B,
                           int64_t E)
{
}
static void mix_forward(struct ops *self, act *y, const act *x, const float *w, int64_t B,
                        int64_t E, int64_t rows, int64_t D)
{
}
static void mix_backward(struct ops *self, act *d_x, float *d_w, const act *d_y, const act *x,
                         const float *w, int64_t e, int64_t B, int64_t E, int64_t rows, int64_t D)
{
}
static void router_backward(struct ops *self, act *d_z, const float *d_w, const float *w,
                            const float *lse, const float *P, double tokens, double images,
                            float alpha, float beta, int64_t B, int64_t E)
{
}
static void grad_norm(struct ops *self, double *out, const float *g, int64_t count, double scale)
{
}
static void adamw(struct ops *self, float *p, float *m, float *v, const float *g, int64_t count,
                  double scale, const struct ops_adamw *o)
{
}
static void ema(struct ops *self, float *e, const float *p, int64_t count, float decay)
{
}
static void fixed_add(struct ops *self, int64_t *acc, int64_t *bad, const float *g, int64_t count,
                      float limit)
{
}
static void fixed_get(struct ops *self, float *g, const int64_t *acc, int64_t count)
{
}

void ops_dry_fill(struct ops *table)
{
    table->copy_in = copy_in;
    table->copy_out = copy_out;
    table->copy = copy;
    table->zero = zero;
    table->act_from_f32 = act_from_f32;
    table->act_to_f32 = act_to_f32;
    table->layernorm_forward = layernorm_forward;
    table->layernorm_backward = layernorm_backward;
    table->rmsnorm_forward = rmsnorm_forward;
    table->rmsnorm_backward = rmsnorm_backward;
    table->add = add;
    table->activation_backward = activation_backward;
    table->swiglu_forward = swiglu_forward;
    table->swiglu_backward = swiglu_backward;
    table->dropout = dropout;
    table->gather_rows = table->scatter_rows = move_rows;
    table->embed = embed;
    table->broadcast_rows = broadcast_rows;
    table->broadcast_rows_backward = broadcast_rows_backward;
    table->mean_rows = mean_rows;
    table->rope = rope;
    table->attention_probs = attention_probs;
    table->affine_forward = affine_forward;
    table->affine_backward = affine_backward;
    table->softmax_forward = softmax_forward;
    table->softmax_drop = softmax_drop;
    table->softmax_backward = softmax_backward;
    table->patchify = patchify;
    table->router_softmax = router_softmax;
    table->mix_forward = mix_forward;
    table->mix_backward = mix_backward;
    table->router_backward = router_backward;
    table->grad_norm = grad_norm;
    table->adamw = adamw;
    table->ema = ema;
    table->fixed_add = fixed_add;
    table->fixed_get = fixed_get;
}
