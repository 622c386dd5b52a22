/* coordinator/loop_figures.c - what a step, a validation and a shard came to: into metrics, log and the line of progress. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "common/log.h"
#include "common/notify.h"
#include "common/size.h"
#include "coordinator/loop_state.h"
#include "coordinator/progress.h"

/* Bad batches come alone; so many in a row are a fault of the weights or of the configuration. */
enum { SKIPPED_IN_A_ROW_MAX = 50 };

/* In training where the time goes; otherwise who or what the run is waiting for. */
static const char *waiting_for(const struct loop *l, const struct coord_status *s)
{
    bool needs_data = s->state == COORD_TRAINING || s->state == COORD_VALIDATING;
    if (needs_data && !s->loaders)
        return "a loader";
    switch (s->state) {
    case COORD_GATHERING:
        return "a worker";
    case COORD_CHECKING:
    case COORD_SAVING:
        return "the checkpoint";
    case COORD_TRAINING:
        return progress_bound_by(l->wait_data, l->wait_compute, l->wait_reduce);
    case COORD_VALIDATING:
        return loop_embeds(l) ? "compute" : "validation";
    default:
        return "connections";
    }
}

void loop_note_absence(struct loop *l)
{
    struct coord_status s = coord_status(l->core);
    const char *waiting = waiting_for(l, &s);
    uint64_t now = uv_now(&l->uv);
    if (!l->waiting || strcmp(waiting, l->waiting) != 0) {
        l->waiting = waiting;
        l->waiting_since_ms = now;
    }
    if (strncmp(waiting, "a ", 2) != 0 || l->waiting_since_ms == UINT64_MAX ||
        now - l->waiting_since_ms < (uint64_t)(l->config->cluster.patience_s * 1000))
        return;
    bl_log(BL_LOG_WARNING, "still waiting for %s; there are %u workers and %u loaders", waiting,
           s.workers, s.loaders);
    l->waiting_since_ms = UINT64_MAX;
}

/* " (2.314 1.870)" of each source, "-" for one without a label; "" where there is one. */
static void compose_sources(char *ret, size_t size, const struct metrics_source *of, int count)
{
    size_t used = 0;
    ret[0] = 0;
    for (int s = 0; s < count && used < size; s++) {
        char loss[16] = "-";
        if (of[s].tokens)
            snprintf(loss, sizeof loss, "%.3f", of[s].loss);
        used += (size_t)snprintf(ret + used, size - used, "%s%s%s", s ? " " : " (", loss,
                                 s + 1 == count ? ")" : "");
    }
}

void loop_progress(struct loop *l, bool line)
{
    struct coord_status s = coord_status(l->core);
    double left = l->step_s > 0 ? l->step_s * (double)(l->plan.steps - s.step) : -1;
    char sources[200];
    compose_sources(sources, sizeof sources, l->latest_sources, l->latest_source_count);
    struct progress_view view = {
        .phase = coord_state_name(s.state),
        .step = (int64_t)s.step,
        .steps = (int64_t)l->plan.steps,
        .epoch = (double)s.step * l->plan.batch / (double)bl_plan_epoch(&l->plan),
        .loss = l->latest_train_loss,
        .source_losses = sources,
        .images_per_s = l->step_s > 0 ? l->images / l->step_s : 0,
        .tokens_per_s = l->step_s > 0 ? l->tokens / l->step_s : 0,
        .seconds_left = left,
        /* a plain line is about the step that it ends */
        .waiting = line && !loop_embeds(l)
                       ? progress_bound_by(l->wait_data, l->wait_compute, l->wait_reduce)
                       : waiting_for(l, &s),
        .workers = (int)s.workers,
        .loaders = (int)s.loaders};
    if (loop_embeds(l))
        loop_embed_view(l, &view);
    progress_show(&view, line);
}

static void blend(double *mean, double x, bool first)
{
    *mean = first ? x : *mean + (x - *mean) / RATE_STEPS;
}

/* A run whose every step is skipped would end as complete, with the weights it began with. */
static int judge_skipped(struct loop *l, const struct metrics_step *m, struct bl_error *err)
{
    const uint64_t most = (uint64_t)bl_min(SKIPPED_IN_A_ROW_MAX, (int64_t)l->plan.steps);
    if (!m->skipped) {
        l->skipped_in_a_row = 0;
        return 0;
    }
    bl_log(BL_LOG_WARNING, "step=%" PRId64 " skipped: its gradient is not usable (norm %g)",
           m->step, m->norm);
    if (++l->skipped_in_a_row < most)
        return 0;
    bl_fail(err, BL_EDATA, "all of the last %" PRIu64 " steps were skipped: nothing is trained",
            l->skipped_in_a_row);
    if (m->norm > 0 && isfinite(m->norm)) {
        bl_error_remedy(err, "raise it: every gradient counts as an outlier");
        return bl_error_key(err, "train.skip_outliers");
    }
    return bl_error_remedy(
        err, "run `blipren-coord check %.100s`: it names frozen weights that are NaN or inf",
        l->options->yaml);
}

int loop_committed(struct loop *l, uint64_t step, struct bl_error *err)
{
    struct metrics_step m;
    double share[BL_EXPERTS_MAX];
    uint64_t now = uv_now(&l->uv);
    double step_s = l->last_commit_ms ? (double)(now - l->last_commit_ms) / 1000 : NAN;
    bool first = l->step_s <= 0;
    l->last_commit_ms = now;
    l->committed = step + 1;
    if (!results_take_step(l->results, step, &m, share))
        return 0; /* known from a survivor's state alone: no rank lived to tell its loss */
    m.step = (int64_t)step + 1;
    m.epoch = (double)m.step * l->plan.batch / (double)bl_plan_epoch(&l->plan);
    m.step_s = step_s;
    uint64_t hedges = coord_status(l->core).hedges;
    m.hedged = (int64_t)(hedges - l->hedges);
    l->hedges = hedges;
    l->latest_train_loss = m.loss;
    l->latest_source_count = m.sources;
    memcpy(l->latest_sources, m.source, sizeof l->latest_sources);
    if (step_s > 0) { /* not NAN */
        blend(&l->step_s, step_s, first);
        blend(&l->images, (double)m.images, first);
        blend(&l->tokens, (double)m.tokens, first);
        blend(&l->wait_data, m.data_wait_s, first);
        blend(&l->wait_compute, m.compute_s, first);
        blend(&l->wait_reduce, m.reduce_wait_s, first);
    }
    for (int e = 0; e < m.experts; e++)
        if (share[e] < 0.01 && m.step % l->config->log.every == 0)
            bl_log(BL_LOG_WARNING,
                   "step=%" PRId64
                   " expert=%d gets %.2f %% of the routing weight: the mixture collapses",
                   m.step, e, 100 * share[e]);
    if (m.step % l->config->log.every == 0)
        bl_notify_ready("step %" PRId64 " of %" PRIu64 ", loss %.4f; %s", m.step, l->plan.steps,
                        m.loss, l->endpoint);
    if ((step + 1) * l->plan.batch / bl_plan_epoch(&l->plan) >
        step * l->plan.batch / bl_plan_epoch(&l->plan))
        loop_fill_try(l); /* an epoch is over */
    BL_TRY(metrics_step(l->metrics, &m, err));
    loop_progress(l, m.step % l->config->log.every == 0 || m.step == (int64_t)l->plan.steps);
    return judge_skipped(l, &m, err);
}

struct caption_writer {
    struct loop *loop;
    uint64_t step;
    int shown;
};

static void write_caption(void *context, uint64_t sample, const char *text, bool ended)
{
    struct caption_writer *w = context;
    struct dataset_sample shown;
    char image[4096];
    struct dataset_caption reference;
    struct bl_error err;
    if (sample >= dataset_samples(w->loop->dataset))
        return;
    dataset_sample(w->loop->dataset, sample, &shown);
    location_describe(&shown.location, image, sizeof image);
    dataset_caption(w->loop->dataset, sample, 0, &reference);
    if (metrics_caption(w->loop->metrics, (int64_t)w->step, image, reference.text, text, ended,
                        &err) < 0)
        bl_log_error(&err);
    if (w->shown++ < 2)
        bl_log(BL_LOG_INFO, "caption step=%" PRIu64 " \"%s\" (%s)", w->step, text, reference.text);
}

int loop_validated(struct loop *l, uint64_t step, struct bl_error *err)
{
    struct metrics_validation m = {.step = (int64_t)step};
    double weight[BL_EXPERTS_MAX];
    struct caption_writer writer = {l, step, 0};
    char sources[200];
    results_sum_validation(l->results, &m, weight);
    results_each_caption(l->results, write_caption, &writer);
    results_clear_validation(l->results);
    compose_sources(sources, sizeof sources, m.source, m.sources);
    best_validated(&l->best, step, m.loss);
    loop_point_best(l);
    l->last_commit_ms = 0; /* the next step's time is not the validation's */
    bl_log(BL_LOG_INFO,
           "validation step=%" PRIu64
           " loss=%.4f%s accuracy=%.3f image_matters=%.4f captions=%d ended=%d",
           step, m.loss, sources, m.accuracy, m.shuffled_loss - m.paired_loss, m.captions, m.ended);
    loop_fill_try(l);
    return metrics_validation(l->metrics, &m, err);
}

void loop_embedded(struct loop *l)
{
    const Blipren__Validation *m = l->handled->validation;
    struct bl_range indices = bl_plan_indices(&l->plan, BL_KIND_EMBED, m->micro_batch);
    l->embed.images += indices.count;
    loop_progress(l, true);
}

int loop_rewound(struct loop *l, uint64_t step, struct bl_error *err)
{
    results_clear(l->results);
    best_rewound(&l->best, step);
    if (step == l->committed)
        bl_log(BL_LOG_INFO, "the state of step=%" PRIu64 " comes from its checkpoint", step);
    else
        bl_log(BL_LOG_WARNING,
               "no worker's state of step=%" PRIu64 " survived: going back to step=%" PRIu64,
               l->committed, step);
    l->committed = step;
    return metrics_rewind(l->metrics, (int64_t)step, err);
}
