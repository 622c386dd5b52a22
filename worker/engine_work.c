/* worker/engine_work.c - what a micro-batch and a step mean to the engine: training, validation, applying. */
#include "worker/engine_state.h"

#include <stdlib.h>
#include <string.h>

#include "common/data/captions.h"
#include "common/limits.h"
#include "common/cleanup.h"

_Static_assert(CAPTIONER_SOURCES_MAX == BL_SOURCES_MAX, "each source has its sums");

/* A batch as the captioner takes it; arrays are owned by the struct. */
struct prepared {
    struct micro_batch mb;
    int32_t *ids_start, *positions, *sources;
    uint8_t *labels;
};

static void prepared_release(struct prepared *p)
{
    free(p->ids_start);
    free(p->positions);
    free(p->sources);
    free(p->labels);
}

/* Where they do not come from the micro-batch's pixels. */
static int take_features(struct engine *e, const struct batch *b, struct micro_batch *mb,
                         struct bl_error *err)
{
    if (e->filler)
        return filler_take(e->filler, b, mb, err);
    return b->cached ? rows_take(&e->rows, b, mb, err) : 0;
}

static int prepare(struct engine *e, const struct batch *b, struct prepared *ret,
                   struct bl_error *err)
{
    size_t good = (size_t)b->good, total = 0;
    for (size_t i = 0; i < good; i++)
        total += (size_t)b->slots[i].tokens;
    struct prepared p = {.ids_start = calloc(good + 1, sizeof(int32_t)),
                         .positions = calloc(good + 1, sizeof(int32_t)),
                         .sources = calloc(good + 1, sizeof(int32_t)),
                         .labels = calloc(total + 1, 1)};
    if (!p.ids_start || !p.positions || !p.sources || !p.labels) {
        prepared_release(&p);
        return bl_fail(err, BL_ENOMEM, "no memory for a micro-batch of %zu samples", good);
    }
    for (size_t i = 0; i < good; i++) {
        int32_t start = p.ids_start[i], tokens = b->slots[i].tokens;
        p.ids_start[i + 1] = start + tokens;
        p.positions[i] = b->slots[i].index;
        p.sources[i] = (int32_t)dataset_source_of(e->options.dataset, b->slots[i].sample);
        memset(p.labels + start + b->slots[i].label_first, 1,
               (size_t)(b->slots[i].label_end - b->slots[i].label_first));
    }
    p.mb = (struct micro_batch){.B = b->good,
                                .pixels = b->pixels,
                                .ids = b->ids,
                                .ids_start = p.ids_start,
                                .labels = p.labels,
                                .positions = p.positions,
                                .sources = p.sources};
    if (take_features(e, b, &p.mb, err) < 0) {
        prepared_release(&p);
        return -err->code;
    }
    *ret = p;
    return 0;
}

/* For every sample the next one whose image differs, or itself when there is none. */
static void pair_with_others(const struct batch *b, int32_t *permutation)
{
    for (int64_t i = 0; i < b->good; i++) {
        permutation[i] = (int32_t)i;
        for (int64_t k = 1; k < b->good && permutation[i] == i; k++) {
            int64_t other = (i + k) % b->good;
            if (b->slots[other].image_hash != b->slots[i].image_hash)
                permutation[i] = (int32_t)other;
        }
    }
}

static int score(struct engine *e, const struct batch *b, const struct micro_batch *mb,
                 struct engine_validation *v, struct bl_error *err)
{
    size_t good = (size_t)b->good;
    bl_autofree struct captioner_score *scores = calloc(good + 1, sizeof *scores);
    bl_autofree struct captioner_score *shuffled = calloc(good + 1, sizeof *shuffled);
    bl_autofree int32_t *permutation = calloc(good + 1, sizeof *permutation);
    if (!scores || !shuffled || !permutation)
        return bl_fail(err, BL_ENOMEM, "no memory for the scores of %zu samples", good);
    pair_with_others(b, permutation);
    BL_TRY(captioner_evaluate(e->captioner, mb, scores, permutation, shuffled, err));
    for (size_t i = 0; i < good; i++) {
        v->nll += scores[i].nll;
        v->tokens += scores[i].tokens;
        v->correct += scores[i].correct;
        struct captioner_source_sums *source = &v->source[mb->sources[i]];
        source->nll += scores[i].nll;
        source->tokens += scores[i].tokens;
        source->images++;
        if (permutation[i] == (int32_t)i)
            continue;
        v->paired_nll += scores[i].nll;
        v->shuffled_nll += shuffled[i].nll;
        v->shuffled_tokens += shuffled[i].tokens;
    }
    v->images = b->good;
    return 0;
}

static int add_routing(struct engine *e, const struct micro_batch *mb, struct engine_validation *v,
                       struct bl_error *err)
{
    size_t experts = (size_t)e->model.experts;
    if (e->model.projector != CAPTIONER_MOE)
        return 0;
    bl_autofree float *weights = calloc((size_t)mb->B * experts + 1, sizeof *weights);
    if (!weights)
        return bl_fail(err, BL_ENOMEM, "no memory for routing weights");
    BL_TRY(captioner_routing_weights(e->captioner, mb, weights, err));
    for (int64_t b = 0; b < mb->B; b++)
        for (size_t x = 0; x < experts; x++)
            v->weight[x] += weights[(size_t)b * experts + x];
    return 0;
}

static void strip(char *text)
{
    size_t size;
    const char *stripped = caption_strip(text, strlen(text), &size);
    memmove(text, stripped, size);
    text[size] = 0;
}

/* Greedy captions for the micro-batch's first samples of the validation set, each continued from its own
 * prefix. */
static int write_captions(struct engine *e, const struct batch *b, const struct micro_batch *mb,
                          struct engine_validation *v, struct bl_error *err)
{
    int64_t wanted = 0, total = 0;
    while (wanted < b->good &&
           b->slots[wanted].index < e->options.config->train.validation_captions)
        total += b->slots[wanted++].prefix;
    if (!wanted)
        return 0;
    int32_t max_new = e->decoding.max_new;
    bl_autofree int32_t *prompt = calloc((size_t)total + 1, sizeof *prompt);
    bl_autofree int32_t *prompt_start = calloc((size_t)wanted + 1, sizeof *prompt_start);
    bl_autofree int32_t *ids = calloc((size_t)wanted * (size_t)max_new, sizeof *ids);
    bl_autofree struct captioner_caption *captions = calloc((size_t)wanted, sizeof *captions);
    v->captions = calloc((size_t)wanted, sizeof *v->captions);
    if (!prompt || !prompt_start || !ids || !captions || !v->captions)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld captions", (long long)wanted);
    for (int64_t i = 0; i < wanted; i++) {
        int32_t prefix = b->slots[i].prefix;
        memcpy(prompt + prompt_start[i], mb->ids + mb->ids_start[i],
               (size_t)prefix * sizeof *prompt);
        prompt_start[i + 1] = prompt_start[i] + prefix;
        captions[i].ids = ids + i * max_new;
    }
    struct micro_batch prompts = *mb;
    prompts.B = wanted;
    prompts.ids = prompt;
    prompts.ids_start = prompt_start;
    BL_TRY(captioner_generate(e->captioner, &prompts, &e->decoding, captions, err));
    for (int64_t i = 0; i < wanted; i++) {
        struct engine_caption *c = &v->captions[v->caption_count];
        BL_TRY(tokenizer_decode(e->tokenizer, captions[i].ids, (size_t)captions[i].count, true,
                                &c->text, err));
        strip(c->text);
        c->sample = b->slots[i].sample;
        c->ended = captions[i].ended;
        v->caption_count++;
    }
    return 0;
}

static int validate(struct engine *e, const struct batch *b, struct engine_event *event)
{
    engine_set_phase(e, "validate", "");
    struct prepared p;
    BL_TRY(prepare(e, b, &p, &event->error));
    int rc = b->good ? score(e, b, &p.mb, &event->validation, &event->error) : 0;
    if (rc == 0 && b->good)
        rc = add_routing(e, &p.mb, &event->validation, &event->error);
    if (rc == 0 && b->good)
        rc = write_captions(e, b, &p.mb, &event->validation, &event->error);
    prepared_release(&p);
    return rc;
}

static int open_step(struct engine *e, struct bl_error *err)
{
    if (!e->step_open)
        BL_TRY(trainer_begin(e->trainer, err));
    e->step_open = true;
    return 0;
}

static int train(struct engine *e, const struct command *c, struct engine_event *event)
{
    engine_set_phase(e, "train", "");
    BL_TRY(open_step(e, &event->error));
    struct prepared p;
    BL_TRY(prepare(e, c->batch, &p, &event->error));
    int rc = trainer_micro_batch(e->trainer, &p.mb, e->comm, c->last, &event->error);
    prepared_release(&p);
    if (rc == 0 && c->ahead && captioner_looks_ahead(e->captioner))
        rc = captioner_look_ahead(e->captioner, c->ahead->good, c->ahead->pixels, &event->error);
    return rc;
}

int engine_do_compute(struct engine *e, const struct command *c, struct engine_event *event)
{
    BL_ASSERT_CMP(c->batch->step, ==, (uint64_t)trainer_state(e->trainer)->step);
    event->kind = ENGINE_COMPUTED;
    event->slot = c->slot;
    return c->batch->kind == BATCH_TRAIN ? train(e, c, event) : validate(e, c->batch, event);
}

int engine_do_apply(struct engine *e, const struct command *c, struct engine_event *event)
{
    BL_ASSERT_CMP(c->step, ==, (uint64_t)trainer_state(e->trainer)->step);
    BL_TRY(open_step(e, &event->error));
    BL_TRY(engine_wait_snapshot(e, c->generation, &event->error));
    engine_set_phase(e, "train", "all-reduce");
    engine_state_changes(e);
    BL_TRY(trainer_apply(e->trainer, e->comm, &event->report, &event->error));
    e->step_open = false;
    event->kind = ENGINE_APPLIED;
    event->step = c->step;
    return 0;
}
