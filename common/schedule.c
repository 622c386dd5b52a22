/* common/schedule.c - warm-up, then cosine, constant or warm-up-stable-decay. */
#include "common/schedule.h"

#include <math.h>

double schedule_rate(const struct schedule *schedule, int64_t s)
{
    int64_t W = schedule->warmup_steps, S = schedule->steps;
    double peak = schedule->peak, low = peak * schedule->floor;
    if (s < W)
        return peak * (double)(s + 1) / (double)W;
    double done = 0;
    switch (schedule->kind) {
    case SCHEDULE_CONSTANT:
        return peak;
    case SCHEDULE_COSINE:
        done = S > W ? (double)(s - W) / (double)(S - W) : 1;
        return low + (peak - low) * (1 + cos(M_PI * fmin(done, 1))) / 2;
    case SCHEDULE_WSD:
        if (s < S - schedule->decay_steps)
            return peak;
        done = schedule->decay_steps
                   ? (double)(s - (S - schedule->decay_steps) + 1) / (double)schedule->decay_steps
                   : 1;
        return peak + (low - peak) * fmin(done, 1);
    }
    return peak;
}
