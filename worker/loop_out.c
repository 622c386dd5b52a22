/* worker/loop_out.c - the core's actions as messages to the coordinator. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/progress.h"
#include "worker/loop_state.h"

static ProtobufCBinaryData digest_bytes(const struct bl_digest *digest)
{
    return (ProtobufCBinaryData){32, (uint8_t *)(uintptr_t)digest->bytes};
}

void loop_send_hello(struct loop *l, const struct worker_action *a)
{
    Blipren__Hello hello = BLIPREN__HELLO__INIT;
    hello.data_endpoint = l->data_endpoint;
    hello.applied_step = a->ended.applied_step;
    hello.state_digest = digest_bytes(&a->ended.digest);
    member_hello(&l->member, &hello);
}

void loop_send_ended(struct loop *l, const struct worker_action *a)
{
    Blipren__Ended ended = BLIPREN__ENDED__INIT;
    ended.applied_step = a->ended.applied_step;
    ended.state_generation = a->ended.state_generation;
    ended.state_digest = digest_bytes(&a->ended.digest);
    ended.needs_files = !l->sees_run;
    const char *vision, *llm;
    engine_models(l->engine, &vision, &llm);
    ended.vision_sha256 = (char *)(uintptr_t)vision;
    ended.llm_sha256 = (char *)(uintptr_t)llm;
    ended.rows = l->row_bytes > 0;
    WIRE_ENVELOPE(e, ENDED, ended) = &ended;
    member_send(&l->member, a->generation, &e);
}

void loop_send_beat(struct loop *l, const struct worker_action *a)
{
    const char *phase = "open", *waiting = "";
    if (l->engine)
        engine_phase(l->engine, &phase, &waiting);
    struct worker_status status = worker_status(l->core);
    Blipren__Beat beat = BLIPREN__BEAT__INIT;
    beat.phase = (char *)(uintptr_t)phase;
    beat.waiting = (char *)(uintptr_t)status.waiting;
    beat.step = status.applied_step < 0 ? 0 : (uint64_t)status.applied_step;
    beat.progress = bl_progress();
    beat.looks = bl_progress_looks();
    WIRE_ENVELOPE(e, BEAT, beat) = &beat;
    member_send(&l->member, a->generation, &e);
}

void loop_send_micro_batch(struct loop *l, const struct worker_action *a)
{
    if (a->type == WORKER_ACTION_RECEIVED) {
        Blipren__Received received = BLIPREN__RECEIVED__INIT;
        received.kind = (Blipren__Kind)a->micro_batch.kind;
        received.step = a->micro_batch.step;
        received.micro_batch = a->micro_batch.micro_batch;
        WIRE_ENVELOPE(e, RECEIVED, received) = &received;
        member_send(&l->member, a->generation, &e);
    } else {
        Blipren__Consumed consumed = BLIPREN__CONSUMED__INIT;
        consumed.kind = (Blipren__Kind)a->micro_batch.kind;
        consumed.step = a->micro_batch.step;
        consumed.micro_batch = a->micro_batch.micro_batch;
        WIRE_ENVELOPE(e, CONSUMED, consumed) = &consumed;
        member_send(&l->member, a->generation, &e);
    }
}

/* Of the mixture; 0: the projector is none. */
static size_t experts(const struct loop *l)
{
    return l->config->projector.kind == CONFIG_MOE ? (size_t)l->config->projector.experts : 0;
}

/* The sums of each of several sources as they are sent. */
struct source_list {
    Blipren__SourceSum sums[BL_SOURCES_MAX], *list[BL_SOURCES_MAX];
    size_t count; /* 0: there is one source */
};

static void list_sources(const struct loop *l, const struct captioner_source_sums *of,
                         struct source_list *ret)
{
    uint32_t count = dataset_source_count(l->dataset);
    ret->count = count > 1 ? count : 0;
    for (size_t i = 0; i < ret->count; i++) {
        ret->sums[i] = (Blipren__SourceSum)BLIPREN__SOURCE_SUM__INIT;
        ret->sums[i].nll_sum = of[i].nll;
        ret->sums[i].tokens = (uint64_t)of[i].tokens;
        ret->sums[i].images = (uint64_t)of[i].images;
        ret->list[i] = &ret->sums[i];
    }
}

void loop_send_report(struct loop *l, const struct worker_action *a)
{
    const struct trainer_report *r = &l->event.report;
    Blipren__Range range = BLIPREN__RANGE__INIT, *ranges[1] = {&range};
    range.first = a->report.indices.first;
    range.count = a->report.indices.count;
    Blipren__Report report = BLIPREN__REPORT__INIT;
    report.step = a->report.step;
    report.nll_sum = r->nll;
    report.tokens = (uint64_t)r->tokens;
    report.images = (uint64_t)r->images;
    report.grad_norm = r->norm;
    report.learning_rate = r->rate;
    report.skipped = r->skipped;
    report.n_trained = range.count > 0;
    report.trained = ranges;
    report.sample_digest = l->step_digest;
    report.data_wait_s = l->data_wait_s;
    report.compute_s = r->compute_s;
    report.reduce_wait_s = r->reduce_wait_s;
    report.n_expert_share = experts(l);
    report.expert_share = (double *)(uintptr_t)r->share;
    report.router_entropy = r->entropy;
    report.balance_loss = r->balance_loss;
    report.router_z_loss = r->router_z_loss;
    struct source_list sources;
    list_sources(l, r->source, &sources);
    report.n_source = sources.count;
    report.source = sources.list;
    WIRE_ENVELOPE(e, REPORT, report) = &report;
    member_send(&l->member, a->generation, &e);
    l->step_digest = 0;
    l->data_wait_s = 0;
}

static Blipren__Validation validation_sums(const struct engine_validation *v, size_t experts)
{
    Blipren__Validation m = BLIPREN__VALIDATION__INIT;
    m.nll_sum = v->nll;
    m.tokens = (uint64_t)v->tokens;
    m.correct = (uint64_t)v->correct;
    m.shuffled_nll_sum = v->shuffled_nll;
    m.shuffled_tokens = (uint64_t)v->shuffled_tokens;
    m.paired_nll_sum = v->paired_nll;
    m.n_expert_weight = experts;
    m.expert_weight = (double *)(uintptr_t)v->weight;
    m.images = (uint64_t)v->images;
    return m;
}

void loop_send_result(struct loop *l, const struct worker_action *a)
{
    const struct engine_validation *v = &l->event.validation;
    size_t count = (size_t)v->caption_count;
    bl_autofree Blipren__Caption *captions = calloc(count + 1, sizeof *captions);
    bl_autofree Blipren__Caption **list = calloc(count + 1, sizeof *list);
    BL_ASSERT(captions && list);
    for (size_t i = 0; i < count; i++) {
        captions[i] = (Blipren__Caption)BLIPREN__CAPTION__INIT;
        captions[i].sample = v->captions[i].sample;
        captions[i].text = v->captions[i].text;
        captions[i].ended = v->captions[i].ended;
        wire_text(captions[i].text);
        list[i] = &captions[i];
    }
    Blipren__Validation result = validation_sums(v, experts(l));
    struct source_list sources;
    list_sources(l, v->source, &sources);
    result.n_source = sources.count;
    result.source = sources.list;
    result.step = a->micro_batch.step;
    result.micro_batch = a->micro_batch.micro_batch;
    result.n_captions = wire_captions_fit(list, count);
    result.captions_left_out = (uint32_t)(count - result.n_captions);
    result.captions = list;
    WIRE_ENVELOPE(e, VALIDATION, validation) = &result;
    member_send(&l->member, a->generation, &e);
}

void loop_send_formed(struct loop *l, const struct worker_action *a)
{
    Blipren__Formed formed = BLIPREN__FORMED__INIT;
    formed.step = a->formed.step;
    formed.state_digest = digest_bytes(&a->formed.digest);
    WIRE_ENVELOPE(e, FORMED, formed) = &formed;
    member_send(&l->member, a->generation, &e);
}

void loop_send_broken(struct loop *l, const struct worker_action *a)
{
    Blipren__Broken broken = BLIPREN__BROKEN__INIT;
    wire_text(l->event.error.text); /* what the system and libraries say may be anything */
    broken.text = l->event.error.text;
    uint32_t unreached[ENGINE_UNREACHED_MAX];
    for (int i = 0; i < l->event.unreached_count; i++)
        unreached[i] = (uint32_t)l->event.unreached[i];
    broken.n_unreached = (size_t)l->event.unreached_count;
    broken.unreached = unreached;
    WIRE_ENVELOPE(e, BROKEN, broken) = &broken;
    member_send(&l->member, a->generation, &e);
}

void loop_send_saved(struct loop *l, const struct worker_action *a)
{
    char line[600] = "";
    if (!a->save.ok)
        bl_error_format(&l->event.error, line, sizeof line);
    wire_text(line);
    Blipren__Saved saved = BLIPREN__SAVED__INIT;
    saved.step = a->save.step;
    saved.folder = (char *)(uintptr_t)a->save.folder;
    saved.error = a->save.ok ? (char *)"" : line[0] ? line : (char *)"failed";
    WIRE_ENVELOPE(e, SAVED, saved) = &saved;
    member_send(&l->member, a->generation, &e);
}

void loop_send_rendezvous(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    struct outgoing *o = l->outgoing;
    l->outgoing = NULL;
    l->outgoing_end = &l->outgoing;
    pthread_mutex_unlock(&l->lock);
    for (struct outgoing *next; o; o = next) {
        next = o->next;
        Blipren__Rendezvous entry = BLIPREN__RENDEZVOUS__INIT;
        entry.key = o->key;
        entry.value = (ProtobufCBinaryData){o->size, o->value};
        WIRE_ENVELOPE(e, RENDEZVOUS, rendezvous) = &entry;
        member_send(&l->member, o->generation, &e);
        free(o);
    }
}
