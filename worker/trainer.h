/* worker/trainer.h - the training step: gradients of groups summed, all-reduced, divided once,
 * clipped and applied.
 *
 * A step        trainer_begin; trainer_group for each of this rank's groups (micro-batches; grains
 *               when reproducible), in order; trainer_apply. A rank without a group in a step takes
 *               part all the same.
 * Invariants    the gradient is one sum over the label tokens of the global batch, divided once
 *               (docs/design.md, 3); state is replicated: after trainer_apply every rank holds the
 *               same bits (4).
 * Reproducible  group gradients are added as 64-bit fixed-point integers, here and in the
 *               all-reduce, so that the sum does not depend on how groups are spread
 *               (docs/recipe.md, Reproducible).
 * Threads       one thread, that of the ops. Snapshots are host memory and may be written by another.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/schedule.h"
#include "worker/comm/comm.h"
#include "worker/model/captioner.h"

struct trainer_options {
    uint64_t seed;
    bool reproducible;
    int64_t groups; /* of a step, all ranks together: bounds a fixed-point gradient */
    struct schedule schedule;
    float beta1, beta2, eps, weight_decay;
    bool decay_norms;
    float clip;          /* 0: none */
    float ema;           /* decay, 0: none */
    float skip_outliers; /* skip a step whose gradient norm lies this many deviations over its mean;
                            0: never */
    int64_t experts;     /* 0: the normal projector; the next two belong to the mixture */
    float balance, router_z;
};

/* What is replicated besides the tensors: saved with them and sent to newcomers. */
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
    double norm, rate;      /* of the gradient before clipping; learning rate */
    bool skipped;
    /* moe: mean weight of each expert; means over the images; docs/recipe.md, Loss */
    double share[CAPTIONER_EXPERTS_MAX], entropy, balance_loss, router_z_loss;
    double compute_s, reduce_wait_s; /* this rank's own */
};

struct trainer;

/* captioner is borrowed. State is undefined until trainer_fresh, trainer_restore or trainer_share.
 * *ret is the caller's. */
int trainer_open(struct ops *ops, struct captioner *captioner,
                 const struct trainer_options *options, struct trainer **ret, struct bl_error *err);
void trainer_free(struct trainer **trainer);

/* Initial weights by the seed, step 0. */
int trainer_fresh(struct trainer *trainer, struct bl_error *err);
/* After trainer_fresh: weights (count, host) in place of the initial ones. */
int trainer_start_from(struct trainer *trainer, const float *values, struct bl_error *err);
const struct trainer_state *trainer_state(const struct trainer *trainer);
/* Rank `root`'s state to everybody. */
int trainer_share(struct trainer *trainer, struct comm *comm, int root, struct bl_error *err);
/* BLAKE2b-256 over the replicated state: equal on ranks that agree. */
int trainer_digest(struct trainer *trainer, uint8_t ret[32], struct bl_error *err);

/* A step begins: gradients and sums are zero. */
int trainer_begin(struct trainer *trainer, struct bl_error *err);
/* last: no further group of this rank follows in this step, so buckets are reduced while backward
 * still runs. */
int trainer_group(struct trainer *trainer, const struct micro_batch *mb, struct comm *comm,
                  bool last, struct bl_error *err);
/* Reduces what is left, clips, applies (or skips the step). -BL_EPEER: the communicator failed, and
 * nothing was applied. */
int trainer_apply(struct trainer *trainer, struct comm *comm, struct trainer_report *ret,
                  struct bl_error *err);

/* A host copy of the replicated state. */
struct trainer_snapshot {
    struct trainer_state state;
    int64_t count;
    float *values, *moment1, *moment2, *ema; /* (count); ema NULL when off */
};
int trainer_snapshot(struct trainer *trainer, struct trainer_snapshot *ret, struct bl_error *err);
int trainer_restore(struct trainer *trainer, const struct trainer_snapshot *snapshot,
                    struct bl_error *err);
void trainer_snapshot_release(struct trainer_snapshot *snapshot);
/* An empty snapshot of the trainer's size, to be filled by a checkpoint's reader. */
int trainer_snapshot_make(const struct trainer *trainer, struct trainer_snapshot *ret,
                          struct bl_error *err);
