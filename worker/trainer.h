/* worker/trainer.h - the training step: gradients of micro-batches summed, all-reduced, divided once,
 * clipped and applied.
 *
 * A step        trainer_begin; trainer_micro_batch for each of this rank's micro-batches (grains
 *               when reproducible), in order; trainer_apply. A rank without one in a step takes
 *               part all the same.
 * Invariants    the gradient is one sum over the label tokens of the global batch, divided once
 *               (docs/design.md, 3); state is replicated: after trainer_apply every rank holds the
 *               same bits (4).
 * Reproducible  gradients of grains are added as 64-bit fixed-point integers, here and in the
 *               all-reduce, so that the sum does not depend on how grains are spread
 *               (docs/recipe.md, Reproducible).
 * State         trainer_state and the tensors of trainer_tensors: the weights, the optimizer's, the
 *               average. Whatever keeps, sends or writes the state goes by that list.
 * Threads       one thread, that of the ops. Another may read a snapshot while this one computes, but
 *               not while it changes the state.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/schedule.h"
#include "worker/comm/comm.h"
#include "worker/model/captioner.h"
#include "worker/optimizer.h"

struct trainer_options {
    uint64_t seed;
    int threads; /* that hash the state; 0: all cores */
    bool reproducible;
    int64_t micro_batches; /* of a step, all ranks together: bounds a fixed-point gradient */
    struct schedule schedule;
    enum optimizer_kind optimizer;
    double beta1, beta2, eps, weight_decay;
    bool decay_norms;
    double clip; /* 0: none */
    float ema;   /* decay, 0: none */
    double
        skip_outliers; /* skip a step whose gradient norm lies this many deviations over its mean;
                             0: never */
    int64_t experts;   /* 0: the normal projector; the next two belong to the mixture */
    float balance, router_z;
};

/* The replicated state besides the tensors: saved with them and sent to newcomers. */
struct trainer_state {
    int64_t step;        /* optimizer steps done, skipped ones included */
    int64_t updates;     /* steps that changed the weights: Adam's t */
    int64_t skipped_bad; /* gradient not finite, or no label token */
    int64_t skipped_outliers;
    double norm_mean, norm_square; /* running mean of the norm and of its square, decay 0.99 */
    int64_t norm_count;
};

/* What one step did: the global batch's sums, equal on every rank, and this rank's own waiting. */
struct trainer_report {
    int64_t step;           /* 0-based number of the step applied */
    double nll;             /* nats, summed over the label tokens */
    int64_t tokens, images; /* label tokens; images that were not void */
    struct captioner_source_sums source[CAPTIONER_SOURCES_MAX]; /* of each of the run's sources */
    double norm, rate; /* of the gradient before clipping; learning rate */
    bool skipped;
    /* moe: mean weight of each expert; means over the images; docs/recipe.md, Loss */
    double share[CAPTIONER_EXPERTS_MAX], entropy, balance_loss, router_z_loss;
    double compute_s, reduce_wait_s; /* this rank's own */
};

struct trainer;

/* captioner is borrowed. State is undefined until trainer_fresh, trainer_restart, trainer_resume or
 * trainer_share. *ret is the caller's. */
int trainer_open(struct ops *ops, struct captioner *captioner,
                 const struct trainer_options *options, struct trainer **ret, struct bl_error *err);
void trainer_free(struct trainer **trainer);

/* The weights, the optimizer's tensors, the average when there is one. */
#define TRAINER_TENSORS_MAX (OPTIMIZER_TENSORS_MAX + 2)

struct trainer_tensor {
    struct state_tensor is;
    dev_f32 *data; /* device (params->count) */
};

/* The list, the weights first; whoever asks for it may write to them. Borrowed. */
const struct trainer_tensor *trainer_tensors(struct trainer *trainer, int *ret_count);
const struct trainer_state *trainer_state(const struct trainer *trainer);

/* Initial weights by the seed, step 0. */
int trainer_fresh(struct trainer *trainer, struct bl_error *err);
/* The weights were filled from elsewhere: everything else as at step 0. */
int trainer_restart(struct trainer *trainer, struct bl_error *err);
/* One tensor, which is not the weights, as at step 0. */
void trainer_reset(struct trainer *trainer, int tensor);
/* All tensors were filled from elsewhere: continues from this state. */
int trainer_resume(struct trainer *trainer, const struct trainer_state *state,
                   struct bl_error *err);
/* Rank `root`'s state to everybody. */
int trainer_share(struct trainer *trainer, struct comm *comm, int root, struct bl_error *err);
/* SHA-256 over the replicated state, by pieces hashed in parallel: equal on ranks that agree. */
int trainer_digest(struct trainer *trainer, uint8_t ret[32], struct bl_error *err);

/* A step begins: gradients and sums are zero. */
int trainer_begin(struct trainer *trainer, struct bl_error *err);
/* last: no further micro-batch of this rank follows in this step, so buckets are reduced while backward
 * still runs. */
int trainer_micro_batch(struct trainer *trainer, const struct micro_batch *mb, struct comm *comm,
                        bool last, struct bl_error *err);
/* Reduces the rest, clips, applies (or skips the step). -BL_EPEER: the communicator failed, and
 * nothing was applied. */
int trainer_apply(struct trainer *trainer, struct comm *comm, struct trainer_report *ret,
                  struct bl_error *err);

/* The state as it is now, for a writer beside the training; borrowed. Where the device's memory is the
 * process's, the tensors are the trainer's own, and nothing may change the state (trainer_apply, a
 * restart, a resume, trainer_share) as long as the snapshot is read. Elsewhere they are a copy in host
 * memory, which the next snapshot replaces. */
struct trainer_snapshot {
    struct trainer_state state;
    bool copied;
    int tensor_count;
    struct {
        struct state_tensor is;
        const float *data; /* host (params->count); NULL: all zero */
    } tensors[TRAINER_TENSORS_MAX];
};
int trainer_snapshot(struct trainer *trainer, struct trainer_snapshot *ret, struct bl_error *err);
