/* coordinator/loop_in.c - messages of peers as the core's events. */
#include <inttypes.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "coordinator/loop_state.h"

/* From Hello.build: "blipren VERSION, cuda: …" (worker/ops/ops.h). */
static bool uses_gpu(const char *build)
{
    return strstr(build, ", cuda: ") != NULL;
}

struct build_search {
    const char *build;
    bool equal; /* it must be the same; else only the kind of device */
    const struct peer *other;
};

static void find_other_build(void *context, struct peer *peer)
{
    struct build_search *search = context;
    if (peer->role != BL_ROLE_WORKER)
        return;
    if (search->equal ? strcmp(peer->build, search->build) != 0
                      : uses_gpu(peer->build) != uses_gpu(search->build))
        search->other = peer;
}

/* A worker that is here and with which this one cannot be in a run: NULL: there is none. */
static const struct peer *worker_of_another_kind(struct loop *l, const Blipren__Hello *hello,
                                                 bool equal)
{
    struct build_search search = {.build = hello->build, .equal = equal};
    if (hello->role == BLIPREN__ROLE__ROLE_WORKER)
        peers_each(l->peers, find_other_build, &search);
    return search.other;
}

/* What only texts can tell; the core judges the rest. */
static const char *refusal(struct loop *l, const Blipren__Envelope *m, const char **ret_remedy)
{
    static char text[1600];
    *ret_remedy = "install the same version of BLIPren on every host";
    if (m->version != BL_PROTOCOL_VERSION) {
        snprintf(text, sizeof text, "this coordinator speaks protocol version %d, you speak %u",
                 BL_PROTOCOL_VERSION, m->version);
        return text;
    }
    if (m->run.len && memcmp(m->run.data, l->run, sizeof l->run) != 0) {
        *ret_remedy = "start it again to join this one";
        return "this coordinator owns another run";
    }
    const struct peer *other = worker_of_another_kind(l, m->hello, false);
    if (other) {
        snprintf(text, sizeof text, "a run does not mix CPU and GPU workers: %s is %s; this one %s",
                 other->name, other->build, m->hello->build);
        *ret_remedy = "give every worker the same --device, cpu or cuda";
        return text;
    }
    if (l->config->train.reproducible)
        other = worker_of_another_kind(l, m->hello, true);
    if (!other)
        return NULL;
    snprintf(text, sizeof text,
             "a reproducible run needs workers of one kind: %s is %s; this one %s", other->name,
             other->build, m->hello->build);
    *ret_remedy = "use machines of one kind, or train.reproducible: false";
    return text;
}

/* A second Hello of one connection changes nothing: the core answers Welcome again. */
static bool take_hello(struct loop *l, struct peer *peer, const Blipren__Envelope *m,
                       struct coord_event *e)
{
    bool is_new = peer->role == BL_ROLE_NONE;
    if (is_new) {
        const char *remedy, *text = refusal(l, m, &remedy);
        snprintf(peer->name, sizeof peer->name, "%s", m->hello->name);
        if (text) {
            loop_refuse(l, peer, text, remedy);
            loop_forget(l, peer);
            return false;
        }
        snprintf(peer->endpoint, sizeof peer->endpoint, "%s", m->hello->data_endpoint);
        snprintf(peer->build, sizeof peer->build, "%s", m->hello->build);
        peer->incarnation = m->peer;
        peer->secret = m->hello->secret;
        peer->role = (enum bl_role)m->hello->role;
        wire_know(l->router, peer->connection, true);
    }
    e->type = COORD_EVENT_HELLO;
    e->hello.role = peer->role;
    e->hello.capacity = m->hello->capacity;
    e->hello.epoch = m->epoch;
    if (is_new)
        bl_log_peer(BL_LOG_INFO, peer->name, "peer=%s joins as %s", peer->name,
                    peer->role == BL_ROLE_WORKER ? "worker" : "loader");
    return true;
}

static void take_digest(struct bl_digest *ret, const ProtobufCBinaryData *bytes)
{
    memset(ret, 0, sizeof *ret);
    if (bytes->len == sizeof ret->bytes)
        memcpy(ret->bytes, bytes->data, sizeof ret->bytes);
}

static void take_micro_batch(struct coord_event *e, enum coord_event_type type, Blipren__Kind kind,
                             uint64_t step, uint32_t micro_batch)
{
    e->type = type;
    e->micro_batch.kind = (enum bl_kind)kind;
    e->micro_batch.step = step;
    e->micro_batch.micro_batch = micro_batch;
}

/* How many of the images it was asked to read it did read. */
static void take_probe(struct loop *l, const Blipren__Ended *m, struct coord_event *e)
{
    e->ended.probes = l->probe_count;
    for (uint32_t i = 0; i < l->probe_count; i++) {
        struct dataset_sample sample;
        uint64_t expected;
        dataset_sample(l->dataset, l->probe[i], &sample);
        memcpy(&expected, sample.hash, sizeof expected);
        if (i < m->n_probe_hash && m->probe_hash[i] == expected)
            e->ended.probes_good++;
    }
}

struct scratch {
    struct coord_void voids[BL_MICRO_BATCH_SLOTS_MAX];
    struct bl_range trained[BL_MICRO_BATCH_SLOTS_MAX];
};

/* Fills the event from a message; false: it is dealt with. */
static bool translate(struct loop *l, struct peer *peer, const Blipren__Envelope *m,
                      struct coord_event *e, struct scratch *scratch)
{
    switch (m->body_case) {
    case BLIPREN__ENVELOPE__BODY_HELLO:
        return take_hello(l, peer, m, e);
    case BLIPREN__ENVELOPE__BODY_ENDED:
        if (!loop_has_models(l, peer, m->ended) || !loop_can_use(l, peer, m->ended)) {
            e->type = COORD_EVENT_LOST;
            e->lost.dead = true;
            return true;
        }
        e->type = COORD_EVENT_ENDED;
        e->ended.applied_step = m->ended->applied_step;
        e->ended.needs_files = m->ended->needs_files;
        e->ended.state_generation = m->ended->state_generation;
        take_digest(&e->ended.digest, &m->ended->state_digest);
        peer->rows = m->ended->rows;
        if (peer->role == BL_ROLE_LOADER)
            take_probe(l, m->ended, e);
        return true;
    case BLIPREN__ENVELOPE__BODY_BEAT:
        snprintf(peer->phase, sizeof peer->phase, "%s", m->beat->phase);
        snprintf(peer->waiting, sizeof peer->waiting, "%s", m->beat->waiting);
        e->type = COORD_EVENT_BEAT;
        e->beat.progress = m->beat->progress;
        e->beat.looks = m->beat->looks;
        return true;
    case BLIPREN__ENVELOPE__BODY_RENDEZVOUS:
        e->type = COORD_EVENT_RENDEZVOUS;
        return true;
    case BLIPREN__ENVELOPE__BODY_FORMED:
        e->type = COORD_EVENT_FORMED;
        e->formed.step = m->formed->step;
        take_digest(&e->formed.digest, &m->formed->state_digest);
        return true;
    case BLIPREN__ENVELOPE__BODY_RECEIVED:
        take_micro_batch(e, COORD_EVENT_RECEIVED, m->received->kind, m->received->step,
                         m->received->micro_batch);
        return true;
    case BLIPREN__ENVELOPE__BODY_CONSUMED:
        take_micro_batch(e, COORD_EVENT_CONSUMED, m->consumed->kind, m->consumed->step,
                         m->consumed->micro_batch);
        return true;
    case BLIPREN__ENVELOPE__BODY_REPORT:
        for (size_t i = 0; i < m->report->n_trained; i++)
            scratch->trained[i] =
                (struct bl_range){m->report->trained[i]->first, m->report->trained[i]->count};
        e->type = COORD_EVENT_REPORT;
        e->report.step = m->report->step;
        e->report.sample_digest = m->report->sample_digest;
        e->report.trained_count = (uint32_t)m->report->n_trained;
        e->report.trained = scratch->trained;
        return true;
    case BLIPREN__ENVELOPE__BODY_VALIDATION:
        take_micro_batch(e, COORD_EVENT_VALIDATION, (Blipren__Kind)bl_plan_pass(&l->plan),
                         m->validation->step, m->validation->micro_batch);
        return true;
    case BLIPREN__ENVELOPE__BODY_BROKEN:
        bl_log_peer(BL_LOG_WARNING, peer->name, "peer=%s %s", peer->name, m->broken->text);
        e->type = COORD_EVENT_BROKEN;
        e->broken.unreached = m->broken->unreached;
        e->broken.unreached_count = (uint32_t)m->broken->n_unreached;
        return true;
    case BLIPREN__ENVELOPE__BODY_SAVED:
        e->type = COORD_EVENT_SAVED;
        e->saved.step = m->saved->step;
        e->saved.folder = m->saved->folder;
        e->saved.ok = !m->saved->error[0];
        return true;
    case BLIPREN__ENVELOPE__BODY_COMPLETED:
        take_micro_batch(e, COORD_EVENT_COMPLETED, m->completed->kind, m->completed->step,
                         m->completed->micro_batch);
        for (size_t i = 0; i < m->completed->n_voids; i++)
            scratch->voids[i] = (struct coord_void){
                m->completed->voids[i]->slot, m->completed->voids[i]->sample,
                m->completed->voids[i]->unreadable, m->completed->voids[i]->asked};
        e->micro_batch.withheld = m->completed->withheld;
        if (m->completed->withheld && m->completed->n_voids)
            bl_log_peer(BL_LOG_WARNING, peer->name, "peer=%s cannot read sample=%" PRIu64 ": %s",
                        peer->name, m->completed->voids[0]->sample, m->completed->voids[0]->reason);
        e->micro_batch.unshipped = m->completed->error[0] != 0;
        if (e->micro_batch.unshipped)
            bl_log_peer(BL_LOG_WARNING, peer->name, "peer=%s cannot ship: %s", peer->name,
                        m->completed->error);
        loop_damaged_images(l, m->completed);
        e->micro_batch.void_count = (uint32_t)m->completed->n_voids;
        e->micro_batch.voids = scratch->voids;
        return true;
    case BLIPREN__ENVELOPE__BODY_GOODBYE:
        bl_log_peer(BL_LOG_INFO, peer->name, "peer=%s leaves: %s", peer->name, m->goodbye->reason);
        e->type = COORD_EVENT_GOODBYE;
        return true;
    default:
        bl_log_peer(BL_LOG_WARNING, peer->name,
                    "peer=%s sent %s, which is no peer's to send; connection closed", peer->name,
                    wire_body_name(m));
        wire_cut(l->router, peer->connection);
        return false;
    }
}

bool loop_take_message(struct loop *l, struct peer *peer, const Blipren__Envelope *m,
                       struct coord_event *ret)
{
    static struct scratch scratch; /* the loop has one thread */
    *ret = (struct coord_event){.peer = m->peer, .link = peer->link, .generation = m->generation};
    bool is_hello = m->body_case == BLIPREN__ENVELOPE__BODY_HELLO;
    if (is_hello || m->version == BL_PROTOCOL_VERSION)
        return translate(l, peer, m, ret, &scratch);
    return false;
}
