/* coordinator/estimate.h - what a run will need of memory and disk: what `blipren-worker plan` says, and
 * what this machine has. */
#pragma once

#include <stdint.h>

#include "common/error.h"

enum { ESTIMATE_LINES_MAX = 16, ESTIMATE_WHAT_BYTES = 64 };

struct estimate {
    struct {
        char what[ESTIMATE_WHAT_BYTES];
        int64_t bytes;
    } lines[ESTIMATE_LINES_MAX]; /* where a worker's memory goes */
    int count;
    int64_t worker;     /* bytes of one worker on its host at most */
    int64_t gpu;        /* and on its GPU; 0: it computes on the CPU */
    int64_t gpu_needed; /* what it must have of those */
    int64_t gpu_total;  /* what the GPU has */
    int64_t checkpoint; /* bytes of one on disk */
    int64_t trainable;  /* numbers trained: Q-Former and projector */
};

/* Asks the worker program, a path. longest: tokens of the longest text, prefix and EOS included; 0: the
 * configuration's limit. threads of one worker, 0: all cores. */
int estimate_run(const char *worker, const char *yaml, int64_t longest, int64_t threads,
                 struct estimate *ret, struct bl_error *err);

/* What a device of this machine gives, images a second: the vision tower alone, and a training step from cached features with
 * texts of so many tokens. */
struct estimate_rates {
    double tower, step;
};
/* Asks the worker program, a path; takes some seconds. */
int estimate_measure(const char *worker, const char *yaml, int64_t tokens, int64_t threads,
                     struct estimate_rates *ret, struct bl_error *err);

/* What this machine has: MemTotal and MemAvailable, or less where a control group allows less. 0:
 * unknown. */
void estimate_memory(int64_t *ret_total, int64_t *ret_available);
