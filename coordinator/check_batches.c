/* coordinator/check_batches.c - the run's batches and its learning rate. */
#include "coordinator/check_parts.h"

#include <stdio.h>

#include "common/schedule.h"
#include "common/size.h"

void check_batches(struct check *c)
{
    const struct config_train *t = &c->config->train;
    int64_t micro_batch = t->reproducible ? t->grain : t->micro_batch;
    int64_t micro_batches = bl_ceil_div(t->global_batch, micro_batch);
    if (t->global_batch % micro_batch)
        check_note(c, "batches",
                   "the last of a step's %lld micro-batches has %lld samples, the others %lld",
                   (long long)micro_batches, (long long)(t->global_batch % micro_batch),
                   (long long)micro_batch);
    if (c->config->cluster.workers_min > micro_batches)
        check_warning(c, "batches", "a step has %lld micro-batches: of %lld workers some are idle",
                      (long long)micro_batches, (long long)c->config->cluster.workers_min);
    if (!c->dataset)
        return;
    double samples = (double)dataset_epoch(c->config, c->dataset);
    char sources[64] = "";
    if (dataset_source_count(c->dataset) > 1)
        snprintf(sources, sizeof sources, " of %.0f draws from %u sources", samples,
                 dataset_source_count(c->dataset));
    if (samples < (double)t->global_batch)
        check_warning(c, "batches", "a step of %lld samples is more than an epoch of %.0f",
                      (long long)t->global_batch, samples);
    check_ok(c, "batches", "%lld steps of %lld samples in %lld micro-batches: %.2f epochs%s",
             (long long)t->steps, (long long)t->global_batch, (long long)micro_batches,
             (double)t->steps * (double)t->global_batch / samples, sources);
}

static struct schedule schedule_of(const struct config_train *t)
{
    static const enum schedule_kind kinds[] = {[CONFIG_COSINE] = SCHEDULE_COSINE,
                                               [CONFIG_CONSTANT] = SCHEDULE_CONSTANT,
                                               [CONFIG_WSD] = SCHEDULE_WSD};
    return (struct schedule){.kind = kinds[t->schedule],
                             .peak = t->lr,
                             .floor = t->floor,
                             .warmup_steps = t->warmup_steps,
                             .steps = t->steps,
                             .decay_steps = t->decay_steps};
}

void check_schedule(struct check *c)
{
    enum { WIDTH = 64, HEIGHT = 6 };
    const struct config_train *t = &c->config->train;
    struct schedule schedule = schedule_of(t);
    double high = schedule_rate(&schedule, bl_min(t->warmup_steps, t->steps - 1));
    check_ok(c, "schedule", "warm-up over %lld steps to %g, %g at the last",
             (long long)t->warmup_steps, high, schedule_rate(&schedule, t->steps - 1));
    for (int row = HEIGHT; row >= 1; row--) {
        char line[WIDTH + 1] = {0};
        for (int column = 0; column < WIDTH; column++) {
            int64_t step = (int64_t)((double)(t->steps - 1) * column / (WIDTH - 1));
            double filled = high > 0 ? schedule_rate(&schedule, step) / high * HEIGHT : 0;
            line[column] = filled >= row - 0.5 ? '#' : ' ';
        }
        for (int end = WIDTH - 1; end >= 0 && line[end] == ' '; end--)
            line[end] = 0;
        fprintf(c->out, "         %9s |%s\n", row == HEIGHT ? "rate" : "", line);
    }
    char right[32];
    snprintf(right, sizeof right, "%lld", (long long)t->steps);
    fprintf(c->out, "         %9s 0%*s\n", "step", WIDTH, right);
}
