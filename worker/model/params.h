/* worker/model/params.h - the trainable tensors: their list, the flat buffers, initial values, and
 * the layers over them. Parts declare their tensors in the order in which backward finishes with
 * them (captioner.h), then the buffers are made once. */
#pragma once

#include "worker/model/captioner.h"

#define TRAINED_NORM_EPS 1e-5f

/* y = (x - mean) rstd weight + bias */
struct trained_norm {
    int64_t weight, bias, D; /* offsets in the flat buffers */
};

/* y = x W^T + bias */
struct trained_linear {
    int64_t weight, bias, N, K;
    struct ops_matrix *matrix;
};

/* How PyTorch starts a tensor. */
struct param_init {
    enum { INIT_CONSTANT, INIT_NORMAL, INIT_UNIFORM } kind;
    float value; /* the constant; or uniform in [-value, value) */
};

struct params {
    struct ops *ops;
    struct captioner_params view; /* what the trainer sees; view.at is `list` */
    struct captioner_param *list;
    struct param_init *init; /* (view.tensors) */
    struct trained_linear **linears;
    int64_t linears_count;
    struct ops_matrix **matrices; /* (linears_count) theirs */
    bool no_memory;               /* while declaring; params_build reports it */
};

/* -- declaring: "at" is a prefix, "name" what follows; both together name the tensor -- */

int64_t params_tensor(struct params *p, enum captioner_file file, const char *at, const char *name,
                      int rank, int64_t rows, int64_t columns, struct param_init init);
/* AT.weight, AT.bias (D) */
void params_norm(struct params *p, enum captioner_file file, const char *at,
                 struct trained_norm *ret, int64_t D);
/* AT.weight (N,K), AT.bias (N) as torch's Linear; *ret must stay where it is. */
void params_linear(struct params *p, enum captioner_file file, const char *at,
                   struct trained_linear *ret, int64_t N, int64_t K);
/* A linear layer over rows of tensors declared before. */
void params_linear_at(struct params *p, struct trained_linear *ret, int64_t weight, int64_t bias,
                      int64_t N, int64_t K);

/* Allocates values and gradients, both zero, and the matmul's copies. */
int params_build(struct params *p, struct bl_error *err);
void params_close(struct params *p);

/* -- values -- */

int params_init(const struct params *p, uint64_t seed, struct bl_error *err);
void params_refresh(const struct params *p);

/* -- layers -- */

/* saved (R,2) or NULL: for norm_backward */
void norm_forward(const struct params *p, const struct trained_norm *norm, act *y, dev_f32 *saved,
                  const act *x, int64_t R);
/* d_x (R,D) = or +=; weight's and bias's gradients += */
void norm_backward(const struct params *p, const struct trained_norm *norm, act *d_x,
                   const act *d_y, const act *x, const dev_f32 *saved, int64_t R, bool accumulate);
/* saved_pre (R,N) or NULL: the value before the epilogue */
void linear_forward(const struct params *p, const struct trained_linear *linear, act *y,
                    act *saved_pre, const act *x, int64_t R, enum ops_epilogue epilogue);
/* d_x (R,K) = (NULL: not wanted); weight's and bias's gradients += */
void linear_backward(const struct params *p, const struct trained_linear *linear, act *d_x,
                     const act *d_y, const act *x, int64_t R);
