/* coordinator/loop_in.c - messages of peers as the core's events. */
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "coordinator/loop_state.h"

/* From Hello.build: "blipren VERSION, cuda: …" (worker/ops/ops.h). */
static bool uses_gpu(const char *build)
{
    return strstr(build, ", cuda: ") != NULL;
}

/* What only texts can tell; the core judges the rest. */
static const char *refusal(struct loop *l, const Blipren__Envelope *m, const char **ret_remedy)
{
    static char text[700];
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
    if (m->hello->role != BLIPREN__ROLE__ROLE_WORKER)
        return NULL;
    if (!l->build[0])
        snprintf(l->build, sizeof l->build, "%s", m->hello->build);
    if (uses_gpu(l->build) != uses_gpu(m->hello->build)) {
        snprintf(text, sizeof text,
                 "a run does not mix CPU and GPU workers: the first is %s; this one %s", l->build,
                 m->hello->build);
        *ret_remedy = "give every worker the same --device, cpu or cuda";
        return text;
    }
    if (!l->config->train.reproducible)
        return NULL;
    if (strncmp(l->build, m->hello->build, sizeof l->build - 1) == 0)
        return NULL;
    snprintf(text, sizeof text,
             "a reproducible run needs workers of one kind: the first is %s; this one %s", l->build,
             m->hello->build);
    *ret_remedy = "use machines of one kind, or train.reproducible: false";
    return text;
}

static bool take_hello(struct loop *l, struct peer *peer, const Blipren__Envelope *m,
                       struct coord_event *e)
{
    const char *remedy, *text;
    snprintf(peer->name, sizeof peer->name, "%s", m->hello->name);
    snprintf(peer->endpoint, sizeof peer->endpoint, "%s", m->hello->data_endpoint);
    text = refusal(l, m, &remedy);
    if (text) {
        loop_refuse(l, peer, text, remedy);
        loop_forget(l, peer);
        return false;
    }
    peer->incarnation = m->peer;
    peer->role = (enum bl_role)m->hello->role;
    e->type = COORD_EVENT_HELLO;
    e->hello.role = peer->role;
    e->hello.capacity = m->hello->capacity;
    bl_log(BL_LOG_INFO, "peer=%s joins as %s", peer->name,
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
        e->type = COORD_EVENT_ENDED;
        e->ended.applied_step = m->ended->applied_step;
        e->ended.state_generation = m->ended->state_generation;
        take_digest(&e->ended.digest, &m->ended->state_digest);
        return true;
    case BLIPREN__ENVELOPE__BODY_BEAT:
        snprintf(peer->phase, sizeof peer->phase, "%s", m->beat->phase);
        snprintf(peer->waiting, sizeof peer->waiting, "%s", m->beat->waiting);
        e->type = COORD_EVENT_BEAT;
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
        results_report(l->results, m->report);
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
        take_micro_batch(e, COORD_EVENT_VALIDATION, BLIPREN__KIND__KIND_VALIDATE,
                         m->validation->step, m->validation->micro_batch);
        return true;
    case BLIPREN__ENVELOPE__BODY_BROKEN:
        bl_log(BL_LOG_WARNING, "peer=%s %s", peer->name, m->broken->text);
        e->type = COORD_EVENT_BROKEN;
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
            scratch->voids[i] =
                (struct coord_void){m->completed->voids[i]->slot, m->completed->voids[i]->sample};
        e->micro_batch.void_count = (uint32_t)m->completed->n_voids;
        e->micro_batch.voids = scratch->voids;
        return true;
    case BLIPREN__ENVELOPE__BODY_GOODBYE:
        bl_log(BL_LOG_INFO, "peer=%s leaves: %s", peer->name, m->goodbye->reason);
        e->type = COORD_EVENT_GOODBYE;
        return true;
    default:
        bl_log(BL_LOG_WARNING, "peer=%s sent %s, which is no peer's to send; ignoring", peer->name,
               wire_body_name(m));
        return false;
    }
}

static void handle_message(struct loop *l, struct peer *peer, const Blipren__Envelope *m)
{
    static struct scratch scratch; /* the loop has one thread */
    struct coord_event event = {.peer = m->peer, .link = peer->link, .generation = m->generation};
    if (m->body_case != BLIPREN__ENVELOPE__BODY_HELLO && peer->role == BL_ROLE_NONE)
        return; /* of a connection that was refused or never said Hello */
    if (m->version != BL_PROTOCOL_VERSION && m->body_case != BLIPREN__ENVELOPE__BODY_HELLO)
        return;
    l->handled = m;
    l->sender = peer;
    if (translate(l, peer, m, &event, &scratch))
        loop_step(l, &event);
    l->handled = NULL;
    l->sender = NULL;
}

void loop_message(void *context, const struct wire_id *from, struct wire_frames *frames)
{
    struct loop *l = context;
    Blipren__Envelope *m = NULL;
    struct bl_error err;
    if (l->leaving)
        return;
    struct peer *peer = peers_of_id(l->peers, from);
    if (wire_unpack_frames(frames, &m, &err) < 0) {
        char stranger[96];
        snprintf(stranger, sizeof stranger, "unknown peer at %s", wire_address(frames));
        bl_error_peer(&err, peer->name[0] ? peer->name : stranger);
        bl_log_error(&err);
        if (peer->role == BL_ROLE_NONE)
            peers_remove(l->peers, peer);
        return;
    }
    handle_message(l, peer, m);
    wire_envelope_free(&m);
}
