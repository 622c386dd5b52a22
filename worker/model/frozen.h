/* worker/model/frozen.h - frozen weights out of a Hugging Face folder's safetensors. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/models/safetensors.h"
#include "worker/model/arena.h"

/* Where tensors come from and where small ones go. */
struct frozen_source {
    struct ops *ops;
    const struct safetensors *file;
    char prefix[64];         /* in front of every name: "vision_model." */
    struct arena *constants; /* keeps vectors until the model is closed */
};

/* y = x W^T + bias; several tensors of the file may lie under one another in W. */
struct frozen_linear {
    struct ops_matrix *matrix;
    float *bias; /* (N) or NULL */
    int64_t N, K;
};

struct frozen_norm {
    float *weight, *bias; /* (D); bias NULL for RMS norms */
};

/* One tensor of a fused matrix. */
struct frozen_part {
    const char *name; /* without ".weight" / ".bias" */
    int64_t rows;
};

/* PREFIX AT NAME.weight (rows, K) of every part, stacked; PREFIX AT NAME.bias too when has_bias. A
 * Conv2d's weight (rows, channels, patch, patch) counts as (rows, K). Errors name file and tensor.
 * The safetensors must outlive the matrix. */
int frozen_linear_open(const struct frozen_source *source, struct frozen_linear *ret,
                       const char *at, const struct frozen_part *parts, int count, int64_t K,
                       bool has_bias, struct bl_error *err);
void frozen_linear_close(struct ops *ops, struct frozen_linear *linear);
/* y (R,N) = epilogue(x (R,K) W^T + bias) */
void frozen_forward(struct ops *ops, const struct frozen_linear *linear, act *y, const act *x,
                    int64_t R, enum ops_epilogue epilogue);

/* PREFIX AT NAME.weight and, when has_bias, PREFIX AT NAME.bias. */
int frozen_norm_open(const struct frozen_source *source, struct frozen_norm *ret, const char *at,
                     const char *name, int64_t D, bool has_bias, struct bl_error *err);

/* PREFIX NAME with this shape, widened, to host memory of the product of dims. */
int frozen_read(const struct frozen_source *source, const char *name, int rank, const int64_t *dims,
                float *ret, struct bl_error *err);

/* Whether PREFIX NAME is there. */
bool frozen_has(const struct frozen_source *source, const char *name);
