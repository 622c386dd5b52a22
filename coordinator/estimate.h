/* coordinator/estimate.h - what a run will need of memory and disk, from shapes alone.
 *
 * a = bytes of an activation: 2 in bf16, 4 in f32. B images of a micro-batch (grain), N vision tokens
 * and K queries of an image, R = B (K + longest caption + BOS) rows of the language model.
 *
 * frozen       (vision + llm parameters) a
 * trainable    P (4 weights + 4 gradients + 8 moments + 12 moments and weights copied for a
 *              checkpoint [+ 8 ema and its copy] [+ 8 fixed-point sums, reproducible] [+ 2 a copy for
 *              bf16 matmuls])
 * vision       a B N (5 D_v + I_v + 3 patch^2)
 * Q-Former     a (layers (20 B K d + 2 B N d) + 5 B N d + 12 B K d)
 * projector    a B K D (12 per expert)
 * llm          a R (layers (2 h + 2 q + 2 kv + 2 i) + 3 h + 4 i + 2 q + 2 kv)
 * head         8 bytes a logit of 256 rows at a time
 * batches      pixels of the window's micro-batches
 * with d, D the widths of Q-Former and llm; h, i, q, kv the llm's hidden, intermediate, query and
 * key-or-value widths. What libraries take on top is not counted: a tenth is added. */
#pragma once

#include <stdint.h>

#include "common/config/config.h"
#include "common/models/hf.h"

struct estimate {
    int64_t trainable_parameters, frozen_parameters;
    /* Bytes of one worker. */
    int64_t frozen, trainable, activations, batches, worker;
    int64_t checkpoint; /* bytes of one on disk */
};

/* longest: tokens of the longest caption, prefix and EOS included. */
void estimate_run(const struct config *config, const struct hf_vision *vision,
                  const struct hf_llm *llm, int64_t longest, struct estimate *ret);

/* Numbers trained: Q-Former and projector (seed.md's shapes). */
int64_t estimate_trainable(const struct config *config, const struct hf_vision *vision,
                           const struct hf_llm *llm);

/* What this machine has: MemTotal and MemAvailable, or less where a control group allows less. 0:
 * unknown. */
void estimate_memory(int64_t *ret_total, int64_t *ret_available);
