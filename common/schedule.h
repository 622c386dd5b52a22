/* common/schedule.h - the learning rate as a function of optimizer steps done (docs/recipe.md,
 * Optimizer). */
#pragma once

#include <stdint.h>

enum schedule_kind { SCHEDULE_COSINE, SCHEDULE_CONSTANT, SCHEDULE_WSD };

struct schedule {
    enum schedule_kind kind;
    double peak;
    double floor;         /* a fraction of the peak, 0..1: where cosine and wsd end */
    int64_t warmup_steps; /* W */
    int64_t steps;        /* S, warm-up included */
    int64_t decay_steps;  /* wsd: length of the linear decay at the end */
};

/* The rate of the step that follows s steps done. s < W: peak (s+1)/W. Then cosine: floor + (peak -
 * floor) (1 + cos(pi (s-W)/(S-W))) / 2; constant: peak; wsd: peak, and over the last decay_steps
 * linearly down to the floor. Beyond S: the last value. */
double schedule_rate(const struct schedule *schedule, int64_t s);
