/* coordinator/check_memory.c - what memory a worker will need. */
#include "coordinator/check_parts.h"

#include <stdio.h>

bool check_planned(struct check *c)
{
    struct bl_error err;
    if (!c->vision_there || !c->llm_there || c->errors)
        return c->planned;
    if (!c->planned)
        c->planned = check_passes(c, "memory",
                                  estimate_run(c->worker, c->yaml,
                                               c->dataset ? dataset_longest(c->dataset) : 0,
                                               c->config->threads, &c->estimate, &err),
                                  &err);
    return c->planned;
}

/* A GPU's memory is the worker's alone, or should be. */
static void check_gpu(struct check *c)
{
    const struct estimate *e = &c->estimate;
    if (e->gpu_needed > e->gpu_total && e->gpu_total)
        check_wrong(c, "memory", "train.micro_batch",
                    "lower it, or max_tokens or the Q-Former's size, set train.recompute, or use a "
                    "GPU with more memory",
                    "a worker needs %s of its GPU, which has %s", check_size_text(e->gpu_needed),
                    check_size_text(e->gpu_total));
    else
        check_ok(c, "memory", "a worker needs up to %s of its GPU, which has %s",
                 check_size_text(e->gpu), check_size_text(e->gpu_total));
}

static void check_host(struct check *c)
{
    int64_t total, available;
    const struct estimate *e = &c->estimate;
    estimate_memory(&total, &available);
    char text[200];
    snprintf(text, sizeof text, "a worker needs up to %s%s to train %.1f million numbers",
             check_size_text(e->worker), e->gpu ? " of its host" : "", (double)e->trainable / 1e6);
    if (total && e->worker > total)
        check_wrong(c, "memory", "train.micro_batch",
                    "lower it, or max_tokens or the Q-Former's size, set train.recompute, or use a "
                    "larger machine",
                    "%s; this machine has %s", text, check_size_text(total));
    else if (total && e->worker > available)
        check_warning(c, "memory", "%s; %s are free here now", text, check_size_text(available));
    else
        check_ok(c, "memory", "%s; %s are free here now", text, check_size_text(available));
}

void check_memory(struct check *c)
{
    if (!c->dataset || !check_planned(c))
        return;
    const struct estimate *e = &c->estimate;
    if (e->gpu)
        check_gpu(c);
    check_host(c);
    for (int i = 0; c->out && i < e->count; i++)
        if (e->lines[i].bytes)
            fprintf(c->out, "         %9s   %s\n", check_size_text(e->lines[i].bytes),
                    e->lines[i].what);
}
