/* worker/model/frozen.h - frozen weights out of a Hugging Face folder's safetensors, found by what they
 * are to the model (common/models/family.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/models/hf_tensors.h"
#include "worker/model/arena.h"

/* Where tensors come from and where small ones go. */
struct frozen_source {
    struct ops *ops;
    const struct safetensors *file;
    const struct hf_shapes *shapes;
    struct arena *constants; /* keeps vectors until the model is closed */
};

/* y = x W^T + bias; several tensors of the file may lie under one another in W. */
struct frozen_linear {
    struct ops_matrix *matrix;
    dev_f32 *bias; /* (N) or NULL */
    int64_t N, K;
};

struct frozen_norm {
    enum hf_norm kind;
    dev_f32 *weight, *bias; /* (D); bias NULL for RMS norms */
    int64_t D;
    float eps;
};

/* The weights (N_i, K) of these roles, stacked, and their biases, when the family has any. A Conv2d's
 * weight (rows, channels, patch, patch) counts as (rows, K). layer: the index, where roles are of a
 * layer. Errors name file and tensor. The safetensors must outlive the matrix. */
int frozen_linear_open(const struct frozen_source *source, struct frozen_linear *ret, int64_t layer,
                       const enum hf_role *roles, int count, struct bl_error *err);
/* A table of rows for ops->embed; multiplied: it is a linear layer too. */
int frozen_table_open(const struct frozen_source *source, struct frozen_linear *ret,
                      enum hf_role role, bool multiplied, struct bl_error *err);
void frozen_linear_close(struct ops *ops, struct frozen_linear *linear);
/* y (R,N) = epilogue(x (R,K) W^T + bias) */
void frozen_forward(struct ops *ops, const struct frozen_linear *linear, act *y, const act *x,
                    int64_t R, enum ops_epilogue epilogue);
/* y (R,N) = base (R,N) + x (R,K) W^T + bias; y is not base */
void frozen_add(struct ops *ops, const struct frozen_linear *linear, act *y, const act *base,
                const act *x, int64_t R);

int frozen_norm_open(const struct frozen_source *source, struct frozen_norm *ret, int64_t layer,
                     enum hf_role role, enum hf_norm kind, float eps, struct bl_error *err);
/* f32 numbers that backward needs of R rows. */
int64_t frozen_norm_saved(const struct frozen_norm *norm, int64_t R);
/* y (R,D) = norm(x). saved: frozen_norm_saved numbers, or NULL for inference. In place. */
void frozen_norm_forward(struct ops *ops, const struct frozen_norm *norm, act *y, dev_f32 *saved,
                         const act *x, int64_t R);
/* d_x (R,D) = or += the gradient at x */
void frozen_norm_backward(struct ops *ops, const struct frozen_norm *norm, act *d_x, const act *d_y,
                          const act *x, const dev_f32 *saved, int64_t R, bool accumulate);

/* The tensor of this role, widened, to host memory of the product of its shape. */
int frozen_read(const struct frozen_source *source, enum hf_role role, float *ret,
                struct bl_error *err);
/* The bias of a role that has one, widened. */
int frozen_read_bias(const struct frozen_source *source, enum hf_role role, float *ret,
                     struct bl_error *err);
