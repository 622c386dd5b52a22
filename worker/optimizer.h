/* worker/optimizer.h - what an optimizer keeps beside the weights, and how it changes them. A new one is a file that fills
 * struct optimizer, and a row of optimizer.c: whatever keeps, copies, sends or writes its tensors goes by its list. */
#pragma once

#include <stdint.h>

#include "worker/ops/ops.h"

#define OPTIMIZER_TENSORS_MAX 4

enum state_initial {
    STATE_ZERO,   /* and zero until the first update; not written to a checkpoint while it is */
    STATE_WEIGHTS /* a copy of the weights */
};

/* A tensor of the training state: f32, of the weights' layout. */
struct state_tensor {
    const char *
        name; /* of its files: qformer.NAME.safetensors, projector.NAME.safetensors; "" = the weights */
    enum state_initial initial;
};

/* Of neighbouring parameter tensors in one step. */
struct optimizer_update {
    double scale; /* the gradient is multiplied by it */
    double rate, beta1, beta2, eps, weight_decay;
    int64_t t; /* 1 for the first update */
};

struct optimizer {
    int tensor_count;
    struct state_tensor tensors[OPTIMIZER_TENSORS_MAX];
    /* values, each of tensors and grads: device (count), values and tensors changed in place. Gaps between tensors hold zeros in
     * all of them, and must go on doing so. */
    void (*update)(struct ops *ops, dev_f32 *values, dev_f32 *const *tensors, const dev_f32 *grads,
                   int64_t count, const struct optimizer_update *update);
};

enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_COUNT };
extern const struct optimizer *const optimizers[OPTIMIZER_COUNT];

extern const struct optimizer optimizer_adamw; /* optimizer_adamw.c */
