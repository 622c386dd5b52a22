/* common/cluster.h - what the rules of the three programs (coordinator/core.h, worker/core.h,
 * loader/core.h) must agree on: which samples of the batch a micro-batch covers, which rank computes it, which steps
 * are checkpointed and validated, and the waiting times that follow from the one knob. Pure
 * functions.
 *
 * Words    step s (0-based) turns the state after s steps into the state after s + 1. A *batch index* is
 *          an index into a step's global batch (or into the validation set), a *micro-batch* a run of
 *          consecutive batch indices that one loader makes and one worker computes at once, a *generation*
 *          one membership of workers with ranks and a communicator. More: docs/protocol.md. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/limits.h"

/* Numbers of enum Kind and enum Role in proto/kinds.proto. */
enum bl_kind { BL_KIND_NONE = 0, BL_KIND_TRAIN = 1, BL_KIND_VALIDATE = 2, BL_KIND_EMBED = 3 };
/* Micro-batches of a pass: over a list of samples, each once, without steps. */
static inline bool bl_kind_is_pass(enum bl_kind kind)
{
    return kind == BL_KIND_VALIDATE || kind == BL_KIND_EMBED;
}
enum bl_role { BL_ROLE_NONE = 0, BL_ROLE_WORKER = 1, BL_ROLE_LOADER = 2 };

/* SHA-256 over the trainable state; all zero = no state. */
struct bl_digest {
    uint8_t bytes[32];
};

struct bl_range {
    uint32_t first, count;
};

/* How long anybody waits, all from patience P. bl_timing_of keeps, for every P >= 60 ms:
 * 3 heartbeats <= lost (two may be missed); lost <= ending < forming < drain; lease <= lost. */
struct bl_timing {
    uint32_t heartbeat_ms; /* P/6: a Beat or Pulse at least this often */
    uint32_t lost_ms;      /* P: silence after which a peer is lost */
    uint32_t lease_ms;     /* P: an assignment that makes no progress goes to another loader */
    uint32_t forming_ms; /* 2P: a generation that makes no progress ends; also: absent survivors */
    uint32_t note_ms;    /* 3P: no progress: the log says who is waited for */
    uint32_t drain_ms;   /* 4P: from Stop to giving up on the rest */
    uint32_t stalled_ms; /* 20P: a peer that beats but makes no progress on its work is lost */
};
struct bl_timing bl_timing_of(uint32_t patience_ms);

/* What a worker or loader says that was told to stop because the run ended with that code. */
const char *bl_stop_text(int code);

/* One of the run's sources. Its samples follow those of the source before it, in training's order of ids and in validation's. */
struct bl_source {
    uint64_t samples;    /* n: training samples; >= 1 */
    uint64_t draws;      /* d: of an epoch, round(weight n); >= 1 */
    uint64_t validation; /* validation samples, of which the first `validated` are in a pass */
    uint64_t validated;
};

/* The run as the rules see it: from configuration and index, the same in every program. A run of kind EMBED has no steps, and
 * one pass, over the distinct images: micro-batch i is shard i of the feature cache. */
struct bl_plan {
    enum bl_kind kind; /* the run's: TRAIN or EMBED */
    uint64_t seed;
    uint64_t train_samples; /* of all sources; >= 1 */
    uint32_t source_count; /* 0: all samples are one source of weight 1, validated in their order */
    struct bl_source sources[BL_SOURCES_MAX];
    uint64_t validate_samples; /* V: of a pass; 0 = no validation */
    uint32_t batch;            /* G: samples of a step's global batch */
    uint32_t micro_batch;      /* samples of a micro-batch (reproducible: of a grain); 1..batch */
    uint64_t steps;            /* optimizer steps of the whole run; EMBED: 0 */
    uint64_t checkpoint_every; /* 0 = only at step 0 and at the end */
    uint64_t validate_every;   /* 0 = only at the end */
    bool validate_at_start;    /* also after 0 steps */
    uint32_t steps_ahead;      /* steps ordered beyond the one being trained; >= 1 */
    uint32_t window;           /* micro-batches a worker may hold (ordered, not Consumed); >= 1 */
};

/* What a pass of the run is for. */
enum bl_kind bl_plan_pass(const struct bl_plan *plan);
/* Micro-batches of a step, or of a pass. */
uint32_t bl_plan_micro_batches(const struct bl_plan *plan, enum bl_kind kind);
/* The batch indices of one micro-batch; the last may be short. */
struct bl_range bl_plan_indices(const struct bl_plan *plan, enum bl_kind kind,
                                uint32_t micro_batch);
/* Ranks that a step can keep busy: a further worker is a spare. >= 1. */
uint32_t bl_plan_world_max(const struct bl_plan *plan);
/* The micro-batches [first, first + count) of `total` that are rank's: [r*N/W, (r+1)*N/W). */
struct bl_range bl_share(uint32_t total, uint32_t rank, uint32_t world);
/* Must the state after `step` steps be on disk? After 0, each checkpoint_every, and the end. */
bool bl_plan_checkpoints(const struct bl_plan *plan, uint64_t step);
/* Of these, the ones in passing: rank 0 copies its state on reaching them and trains on. */
bool bl_plan_snapshots(const struct bl_plan *plan, uint64_t step);
/* Is the state after `step` steps validated? */
bool bl_plan_validates(const struct bl_plan *plan, uint64_t step);
/* Draws of an epoch, of all sources together: a pass over train_samples where every weight is 1. */
uint64_t bl_plan_epoch(const struct bl_plan *plan);
/* Place of training step -> index in [0, train_samples) of the training samples (invariant 1), and how often its source was gone
 * through before: with weight 1 the epoch. */
void bl_plan_sample(const struct bl_plan *plan, uint64_t step, uint32_t index, uint32_t *ret_pass,
                    uint64_t *ret_index);
/* Index in a validation -> index in the validation samples of all sources. */
uint64_t bl_plan_validation_sample(const struct bl_plan *plan, uint64_t index);
/* The first so many validation samples of each source that make `most` of all of them, as evenly as whole numbers allow; 0: all.
 * Sets `validated` of the sources. Returns their sum. */
uint64_t bl_plan_choose_validation(struct bl_plan *plan, uint64_t most);
/* One term of Report.sample_digest; terms are added modulo 2^64, so their order does not matter. */
uint64_t bl_sample_term(uint32_t index, uint64_t sample);
