/* coordinator/results.c - see results.h. */
#include "coordinator/results.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Workers are at most one step apart, so two would do. */
#define STEPS_KEPT 8

struct step_result {
    bool used;
    struct metrics_step m;
    double share[BL_EXPERTS_MAX];
};

struct caption {
    uint64_t sample;
    char *text;
    bool ended;
};

struct micro_batch_result {
    bool used;
    struct metrics_validation sums; /* losses are sums here, paired and shuffled too */
    double tokens_shuffled, correct;
    int experts;
    double weight[BL_EXPERTS_MAX];
    size_t caption_count;
    struct caption *captions;
};

struct results {
    struct step_result steps[STEPS_KEPT];
    uint32_t micro_batch_count;
    struct micro_batch_result micro_batches[];
};

int results_new(uint32_t validation_micro_batches, struct results **ret, struct bl_error *err)
{
    struct results *r =
        calloc(1, sizeof *r + (size_t)validation_micro_batches * sizeof r->micro_batches[0]);
    if (!r)
        return bl_fail(err, BL_ENOMEM, "no memory for the results of %u micro-batches",
                       validation_micro_batches);
    r->micro_batch_count = validation_micro_batches;
    *ret = r;
    return 0;
}

static void clear_micro_batch(struct micro_batch_result *g)
{
    for (size_t i = 0; i < g->caption_count; i++)
        free(g->captions[i].text);
    free(g->captions);
    *g = (struct micro_batch_result){0};
}

void results_clear_validation(struct results *r)
{
    for (uint32_t i = 0; i < r->micro_batch_count; i++)
        clear_micro_batch(&r->micro_batches[i]);
}

void results_clear(struct results *r)
{
    memset(r->steps, 0, sizeof r->steps);
    results_clear_validation(r);
}

void results_free(struct results **results)
{
    if (!*results)
        return;
    results_clear(*results);
    free(*results);
    *results = NULL;
}

static struct metrics_source source_of(const Blipren__SourceSum *sum)
{
    return (struct metrics_source){sum->tokens ? sum->nll_sum / (double)sum->tokens : NAN,
                                   (int64_t)sum->tokens, (int64_t)sum->images};
}

void results_report(struct results *r, const Blipren__Report *report)
{
    struct step_result *s = &r->steps[report->step % STEPS_KEPT];
    if (!s->used || s->m.step != (int64_t)report->step)
        *s = (struct step_result){.used = true, .m.step = (int64_t)report->step};
    struct metrics_step *m = &s->m;
    m->loss = report->tokens ? report->nll_sum / (double)report->tokens : NAN;
    m->rate = report->learning_rate;
    m->norm = report->grad_norm;
    m->tokens = (int64_t)report->tokens;
    m->images = (int64_t)report->images;
    m->skipped = report->skipped;
    m->data_wait_s = fmax(m->data_wait_s, report->data_wait_s);
    m->compute_s = fmax(m->compute_s, report->compute_s);
    m->reduce_wait_s = fmax(m->reduce_wait_s, report->reduce_wait_s);
    m->experts = (int)report->n_expert_share;
    for (int i = 0; i < m->experts; i++)
        s->share[i] = report->expert_share[i];
    m->entropy = report->router_entropy;
    m->balance_loss = report->balance_loss;
    m->router_z_loss = report->router_z_loss;
    m->sources = (int)report->n_source;
    for (int i = 0; i < m->sources; i++)
        m->source[i] = source_of(report->source[i]);
}

bool results_take_step(struct results *r, uint64_t step, struct metrics_step *ret,
                       double share[BL_EXPERTS_MAX])
{
    struct step_result *s = &r->steps[step % STEPS_KEPT];
    if (!s->used || s->m.step != (int64_t)step)
        return false;
    *ret = s->m;
    memcpy(share, s->share, sizeof s->share);
    ret->share = share;
    s->used = false;
    return true;
}

void results_validation(struct results *r, const Blipren__Validation *v)
{
    if (v->micro_batch >= r->micro_batch_count)
        return;
    struct micro_batch_result *g = &r->micro_batches[v->micro_batch];
    clear_micro_batch(g);
    g->used = true;
    g->sums.loss = v->nll_sum;
    g->sums.tokens = (int64_t)v->tokens;
    g->sums.images = (int64_t)v->images;
    g->sums.paired_loss = v->paired_nll_sum;
    g->sums.shuffled_loss = v->shuffled_nll_sum;
    g->tokens_shuffled = (double)v->shuffled_tokens;
    g->correct = (double)v->correct;
    g->experts = (int)v->n_expert_weight;
    for (int i = 0; i < g->experts; i++)
        g->weight[i] = v->expert_weight[i];
    g->sums.sources = (int)v->n_source;
    for (int i = 0; i < g->sums.sources; i++)
        g->sums.source[i] = (struct metrics_source){
            v->source[i]->nll_sum, (int64_t)v->source[i]->tokens, (int64_t)v->source[i]->images};
    g->captions = calloc(v->n_captions + 1, sizeof *g->captions);
    BL_ASSERT(g->captions != NULL);
    for (size_t i = 0; i < v->n_captions; i++)
        g->captions[g->caption_count++] = (struct caption){.sample = v->captions[i]->sample,
                                                           .text = strdup(v->captions[i]->text),
                                                           .ended = v->captions[i]->ended};
}

/* Losses are sums here. */
static void add_sources(struct metrics_validation *to, const struct metrics_validation *from)
{
    if (from->sources > to->sources)
        to->sources = from->sources;
    for (int s = 0; s < from->sources; s++) {
        to->source[s].loss += from->source[s].loss;
        to->source[s].tokens += from->source[s].tokens;
        to->source[s].images += from->source[s].images;
    }
}

void results_sum_validation(const struct results *r, struct metrics_validation *ret,
                            double weight[BL_EXPERTS_MAX])
{
    struct metrics_validation sum = {.step = ret->step};
    double correct = 0, shuffled_tokens = 0;
    memset(weight, 0, BL_EXPERTS_MAX * sizeof *weight);
    for (uint32_t i = 0; i < r->micro_batch_count; i++) {
        const struct micro_batch_result *g = &r->micro_batches[i];
        sum.loss += g->sums.loss;
        sum.tokens += g->sums.tokens;
        sum.images += g->sums.images;
        sum.paired_loss += g->sums.paired_loss;
        sum.shuffled_loss += g->sums.shuffled_loss;
        shuffled_tokens += g->tokens_shuffled;
        correct += g->correct;
        if (g->experts > sum.experts)
            sum.experts = g->experts;
        for (int x = 0; x < g->experts; x++)
            weight[x] += g->weight[x];
        add_sources(&sum, &g->sums);
        for (size_t c = 0; c < g->caption_count; c++)
            sum.ended += g->captions[c].ended;
        sum.captions += (int)g->caption_count;
    }
    sum.loss /= (double)sum.tokens;
    sum.accuracy = correct / (double)sum.tokens;
    sum.paired_loss /= shuffled_tokens;
    sum.shuffled_loss /= shuffled_tokens;
    for (int x = 0; x < sum.experts; x++)
        weight[x] /= (double)sum.images;
    for (int s = 0; s < sum.sources; s++)
        sum.source[s].loss /= (double)sum.source[s].tokens;
    sum.weight = weight;
    *ret = sum;
}

void results_each_caption(const struct results *r,
                          void (*visit)(void *context, uint64_t sample, const char *text,
                                        bool ended),
                          void *context)
{
    for (uint32_t i = 0; i < r->micro_batch_count; i++)
        for (size_t c = 0; c < r->micro_batches[i].caption_count; c++)
            visit(context, r->micro_batches[i].captions[c].sample,
                  r->micro_batches[i].captions[c].text, r->micro_batches[i].captions[c].ended);
}
