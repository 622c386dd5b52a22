/* worker/ops/cpu/operand.c - products of activations that share a side: each sample's (N,D) is the matrix
 * of a linear layer, so that it is packed once for all products (matrix.h).
 */
#include "worker/ops/cpu/matrix.h"

#include <stdlib.h>

struct ops_operand {
    int64_t N, D, S, capacity;
    struct ops_matrix **samples; /* (capacity) */
};

static int operand_create(struct ops *self, struct ops_operand **ret, int64_t N, int64_t D,
                          struct bl_error *err)
{
    struct ops_operand *operand = calloc(1, sizeof *operand);
    if (!operand)
        return bl_fail(err, BL_ENOMEM, "no memory for an operand");
    operand->N = N;
    operand->D = D;
    *ret = operand;
    return 0;
}

static void operand_free(struct ops *self, struct ops_operand **operand)
{
    struct ops_operand *o = *operand;
    for (int64_t s = 0; o && s < o->capacity; s++)
        self->matrix_free(self, &o->samples[s]);
    if (o)
        free(o->samples);
    free(o);
    *operand = NULL;
}

/* Matrices for S samples at least. */
static int grow(struct ops *self, struct ops_operand *o, const float *x, int64_t S,
                struct bl_error *err)
{
    if (S <= o->capacity)
        return 0;
    void *samples = realloc(o->samples, (size_t)S * sizeof(struct ops_matrix *));
    if (!samples)
        return bl_fail(err, BL_ENOMEM, "no memory for an operand of %lld samples", (long long)S);
    o->samples = samples;
    for (; o->capacity < S; o->capacity++)
        BL_TRY(self->matrix_trainable(self, &o->samples[o->capacity], x, o->N, o->D, err));
    return 0;
}

static void operand_set(struct ops *self, struct ops_operand *o, const act *x_, int64_t S)
{
    const float *x = cpu_const_f32(x_);
    struct bl_error err;
    o->S = 0;
    if (grow(self, o, x, S, &err) < 0) {
        cpu_failed(cpu_of(self), &err);
        return;
    }
    o->S = S;
    for (int64_t s = 0; s < S; s++)
        o->samples[s]->rows = x + s * o->N * o->D;
    self->matrices_refresh(self, o->samples, S);
}

static void product_transposed(struct ops *self, act *y, const act *a, const struct ops_operand *x,
                               int64_t M)
{
    for (int64_t s = 0; s < x->S; s++)
        self->linear_forward(self, ops_at(self, y, s * M * x->N), NULL,
                             ops_at(self, a, s * M * x->D), x->samples[s], NULL, M, OPS_NONE);
}

static void product(struct ops *self, act *y, const act *a, const struct ops_operand *x, int64_t M)
{
    for (int64_t s = 0; s < x->S; s++)
        self->linear_backward_input(self, ops_at(self, y, s * M * x->D),
                                    ops_at(self, a, s * M * x->N), x->samples[s], M, false);
}

static void product_backward(struct ops *self, float *d_x, const act *a, const act *b,
                             const struct ops_operand *x, int64_t M)
{
    for (int64_t s = 0; s < x->S; s++)
        self->linear_backward_weight(self, d_x + s * x->N * x->D, NULL,
                                     ops_at(self, a, s * M * x->N), ops_at(self, b, s * M * x->D),
                                     M, x->N, x->D);
}

void CPU_VARIANT(cpu_fill_operand)(struct ops *table)
{
    table->operand_create = operand_create;
    table->operand_free = operand_free;
    table->operand_set = operand_set;
    table->product_transposed = product_transposed;
    table->product = product;
    table->product_backward = product_backward;
}
