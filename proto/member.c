/* proto/member.c - see member.h. */
#include "proto/member.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/notify.h"

#define LINGER_MS 500
#define PATIENCE_GUESS_MS 10000

static const char *role_name(const struct member *m)
{
    return m->options.role == BLIPREN__ROLE__ROLE_WORKER ? "worker" : "loader";
}

/* -- messages out -- */

void member_send(struct member *m, uint64_t generation, Blipren__Envelope *e)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    e->version = BL_PROTOCOL_VERSION;
    e->generation = generation;
    e->peer = m->incarnation;
    e->epoch = m->epoch;
    if (m->run_known)
        e->run = (ProtobufCBinaryData){sizeof m->run, m->run};
    wire_pack(e, &data, &size);
    if (m->control && wire_dealer_send(m->control, data, size) < 0)
        bl_log(BL_LOG_DEBUG, "message %s not sent: no connection", wire_body_name(e));
}

void member_hello(struct member *m, Blipren__Hello *hello)
{
    hello->role = m->options.role;
    hello->name = m->name;
    const char *secret = getenv(CHILD_SECRET);
    hello->build = m->build;
    hello->secret = secret ? strtoull(secret, NULL, 16) : 0;
    WIRE_ENVELOPE(e, HELLO, hello) = hello;
    member_send(m, 0, &e);
}

void member_goodbye(struct member *m, const char *reason)
{
    char text[1600];
    snprintf(text, sizeof text, "%s", reason);
    wire_text(text);
    Blipren__Goodbye goodbye = BLIPREN__GOODBYE__INIT;
    goodbye.reason = text;
    WIRE_ENVELOPE(e, GOODBYE, goodbye) = &goodbye;
    member_send(m, 0, &e);
}

/* -- leaving -- */

void member_leave(struct member *m)
{
    bl_notify_stopping();
    m->leaving = true;
    files_stop(m->files);
    uv_stop(&m->uv);
}

void member_fail(struct member *m, const struct bl_error *error)
{
    if (!m->error.code)
        m->error = *error;
    char line[1600];
    bl_error_format(&m->error, line, sizeof line);
    member_goodbye(m, line);
    member_leave(m);
}

static enum wire_met whom_it_met(const struct member *m)
{
    if (m->welcomed)
        return WIRE_NOBODY; /* a coordinator was there, and is gone */
    enum wire_met met = wire_met(m->control);
    return met > m->met ? met : m->met;
}

/* No coordinator, for the whole of the patience: what was there instead? */
static void explain_absence(struct member *m, const char *text)
{
    const struct bl_error *malformed = &m->malformed;
    if (m->welcomed) {
        bl_fail(&m->error, BL_EPEER, "%s", text);
    } else if (malformed->code) {
        bl_fail(&m->error, BL_EPEER, "%s: malformed message: %s%s%s", text, malformed->key,
                malformed->key[0] ? ": " : "", malformed->text);
        bl_error_remedy(&m->error, "install the same version of BLIPren on every host");
    } else {
        bl_fail(&m->error, BL_EPEER, "%s: %s", text, wire_met_words(whom_it_met(m)));
        if (whom_it_met(m) == WIRE_OTHER_KEYS)
            bl_error_remedy(&m->error,
                            "copy the coordinator's folder of keys to this host, and give "
                            "it by --keys");
    }
    bl_error_remedy(&m->error, "start blipren-coord there, or give its address by --coord");
}

void member_exit(struct member *m, int code, const char *text)
{
    if (code && !m->error.code) {
        if (code == BL_EPEER)
            explain_absence(m, text);
        else
            bl_fail(&m->error, (enum bl_error_code)code, "%s", text);
        if (code != BL_ESTOPPED)
            bl_error_remedy(&m->error, "see that peer's own log");
        bl_error_peer(&m->error, m->endpoint);
    }
    member_leave(m);
}

void member_say_unseen(const struct member *m)
{
    bl_log(BL_LOG_INFO,
           "this host does not see the run folder %s: its files come from the coordinator",
           m->run_folder);
}

void member_warn_unused(const struct member *m)
{
    const struct path_map *map = m->options.map;
    for (size_t i = 0; map && i < map->count; i++)
        if (!map->at[i].used)
            bl_log(BL_LOG_WARNING, "--map %s=%s: no path of this run is %s or below it; ignoring",
                   map->at[i].from, map->at[i].to, map->at[i].from);
}

/* -- messages in -- */

/* The file service is where the coordinator is. */
static void point_to_files(struct member *m, const Blipren__Envelope *e)
{
    const Blipren__Welcome *welcome = e->welcome;
    struct files_place place = {
        .peer = m->incarnation, .epoch = e->epoch, .patience_ms = welcome->patience_ms};
    const char *colon = strrchr(m->endpoint, ':');
    memcpy(place.run, m->run, sizeof place.run);
    if (welcome->files_port && welcome->token.len == sizeof place.token && colon) {
        memcpy(place.token, welcome->token.data, sizeof place.token);
        snprintf(place.endpoint, sizeof place.endpoint, "%.*s:%u", (int)(colon - m->endpoint),
                 m->endpoint, welcome->files_port);
    }
    files_point(m->files, &place);
}

static int take_folder(struct member *m, const char *plan, struct bl_error *err)
{
    char buffer[sizeof m->run_folder];
    const char *folder;
    BL_TRY(path_map_apply(m->options.map, plan, buffer, sizeof buffer, &folder, err));
    snprintf(m->run_folder, sizeof m->run_folder, "%s", folder);
    return 0;
}

/* The coordinator's word on the run: taken once, and the same for ever. */
static int take_welcome(struct member *m, const Blipren__Envelope *e, struct bl_error *err)
{
    if (e->run.len != RUN_ID_BYTES)
        return bl_fail(err, BL_EPROTO, "a Welcome without the run's id");
    if (m->run_known && memcmp(m->run, e->run.data, RUN_ID_BYTES) != 0) {
        bl_fail(err, BL_EPEER, "the coordinator now owns another run");
        return bl_error_remedy(err, "start this %s again to join it", role_name(m));
    }
    memcpy(m->run, e->run.data, RUN_ID_BYTES);
    m->run_known = true;
    m->welcomed = true;
    m->epoch = e->epoch;
    m->malformed.code = BL_OK;
    m->patience_ms = e->welcome->patience_ms;
    /* At most BL_PROBE_SAMPLES_MAX, as proto/check.c saw; an empty list is NULL. */
    m->probe_count = (uint32_t)e->welcome->n_probe;
    if (m->probe_count)
        memcpy(m->probe, e->welcome->probe, m->probe_count * sizeof *m->probe);
    BL_TRY(take_folder(m, e->welcome->run_folder, err));
    m->run_kind = (enum bl_kind)e->welcome->kind;
    point_to_files(m, e);
    snprintf(m->cache_tower, sizeof m->cache_tower, "%s", e->welcome->cache_tower);
    bl_notify_ready("%s of the run %s", m->name, m->run_folder);
    return 0;
}

static void take_refuse(struct member *m, const Blipren__Refuse *refuse)
{
    bl_fail(&m->error, BL_EPEER, "refused: %.400s", refuse->text);
    bl_error_remedy(&m->error, "%.200s", refuse->remedy);
    bl_error_peer(&m->error, m->endpoint);
}

/* Is it one of every member's messages? Then *ret has what the rules need of it. */
static bool translate(const struct member *m, const Blipren__Envelope *e, struct member_event *ret)
{
    *ret = (struct member_event){.link = m->link, .generation = e->generation, .epoch = e->epoch};
    switch (e->body_case) {
    case BLIPREN__ENVELOPE__BODY_WELCOME:
        ret->type = MEMBER_EVENT_WELCOME;
        ret->patience_ms = e->welcome->patience_ms;
        return true;
    case BLIPREN__ENVELOPE__BODY_REFUSE:
        ret->type = MEMBER_EVENT_REFUSE;
        return true;
    case BLIPREN__ENVELOPE__BODY_PULSE:
        ret->type = MEMBER_EVENT_PULSE;
        return true;
    case BLIPREN__ENVELOPE__BODY_END:
        ret->type = MEMBER_EVENT_END;
        return true;
    case BLIPREN__ENVELOPE__BODY_STOP:
        ret->type = MEMBER_EVENT_STOP;
        ret->code = bl_error_code(e->stop->reason);
        return true;
    default:
        return false;
    }
}

static int handle(struct member *m, const Blipren__Envelope *e, struct bl_error *err)
{
    struct member_event event;
    if (!translate(m, e, &event))
        return m->options.calls->message(m->options.context, e, err);
    bool outdated = e->epoch < m->epoch; /* the rules turn away from it (J4) */
    if (outdated)
        bl_log_peer(BL_LOG_WARNING, m->endpoint,
                    "the coordinator at %s is of epoch %llu, and the run is at epoch %llu already: "
                    "looking for the other one",
                    m->endpoint, (unsigned long long)e->epoch, (unsigned long long)m->epoch);
    if (event.type == MEMBER_EVENT_WELCOME && !outdated)
        BL_TRY(take_welcome(m, e, err));
    if (event.type == MEMBER_EVENT_REFUSE && !outdated)
        take_refuse(m, e->refuse);
    m->options.calls->event(m->options.context, &event);
    return 0;
}

/* A coordinator that was killed and comes back is found at once, not after the patience. */
static void on_lost(void *member)
{
    struct member *m = member;
    struct member_event event = {.type = MEMBER_EVENT_LOST, .link = m->link};
    if (!m->leaving)
        m->options.calls->event(m->options.context, &event);
}

/* A malformed message: the connection is closed, and the rules make a new one (W2). */
static void give_up_connection(struct member *m, const struct bl_error *why)
{
    bl_log_peer(BL_LOG_WARNING, m->endpoint,
                "malformed message of the coordinator, connection closed: %s%s%s", why->key,
                why->key[0] ? ": " : "", why->text);
    m->malformed = *why;
    m->met = whom_it_met(m);
    wire_socket_close(&m->control, 0);
    on_lost(m);
}

static void on_control(void *member, const struct wire_id *from, struct wire_frames *frames)
{
    struct member *m = member;
    Blipren__Envelope *e = NULL;
    struct bl_error err;
    if (m->leaving)
        return;
    int rc = wire_unpack_frames(frames, &e, &err);
    if (rc == 0)
        rc = handle(m, e, &err);
    if (rc == -BL_EPROTO) {
        give_up_connection(m, &err);
    } else if (rc < 0) {
        bl_error_peer(&err, m->endpoint);
        member_fail(m, &err);
    }
    if (e)
        wire_envelope_free(&e);
}

void member_connect(struct member *m, uint64_t link)
{
    struct wire_id id = wire_id_make(m->incarnation, link);
    struct bl_error err;
    m->met = whom_it_met(m);
    m->welcomed = false;
    files_wait(m->files);
    wire_socket_close(&m->control, 0);
    m->link = link;
    if (coordinators_next(&m->coordinators, m->endpoint, &err) < 0) {
        bl_log_peer(BL_LOG_WARNING, m->options.coordinator, "%s: %s; trying again",
                    m->options.coordinator, err.text);
        return;
    }
    if (wire_dealer(&m->uv, m->zmq, m->endpoint, &id, on_control, on_lost, m, &m->control, &err) <
        0)
        member_fail(m, &err);
}

/* -- clock, signals, other threads -- */

static void on_wake(uv_async_t *async)
{
    struct member *m = async->data;
    if (!m->leaving)
        m->options.calls->woken(m->options.context);
}

void member_wake(void *member)
{
    struct member *m = member;
    uv_async_send(&m->wake);
}

static void on_tick(uv_timer_t *timer)
{
    struct member *m = timer->data;
    struct member_event event = {.type = MEMBER_EVENT_TICK};
    bl_notify_alive();
    bl_log_counts();
    if (!m->leaving)
        m->options.calls->event(m->options.context, &event);
}

/* The first signal ends the process in order; the handlers are gone then, so that a second one ends it at once. */
static void leave_on_signal(struct member *m, int number)
{
    struct bl_error err;
    for (int i = 0; i < m->signal_count; i++)
        uv_signal_stop(&m->signals[i]);
    bl_fail(&err, BL_ESTOPPED, "stopped by signal %d", number);
    member_fail(m, &err);
}

static void on_grace_over(uv_timer_t *timer)
{
    leave_on_signal(timer->data, SIGTERM);
}

/* Who is asked to leave may be one of all: the coordinator, asked too, then needs them for the steps under way and the last
 * checkpoint, and says Stop. */
static void on_signal(uv_signal_t *signal, int number)
{
    struct member *m = signal->data;
    if (!m->options.grace_s || !m->welcomed)
        return leave_on_signal(m, number);
    if (uv_is_active((uv_handle_t *)&m->grace))
        return;
    bl_log(BL_LOG_INFO, "signal %d: leaving in %u s, or when the run ends", number,
           m->options.grace_s);
    uv_timer_start(&m->grace, on_grace_over, 1000 * (uint64_t)m->options.grace_s, 0);
}

/* -- start and end -- */

static void start_handles(struct member *m)
{
    int numbers[RUN_SIGNALS_MAX];
    m->signal_count = run_signals(numbers);
    uv_loop_init(&m->uv);
    uv_async_init(&m->uv, &m->wake, on_wake);
    uv_timer_init(&m->uv, &m->tick);
    uv_timer_init(&m->uv, &m->grace);
    m->wake.data = m->tick.data = m->grace.data = m;
    uv_timer_start(&m->tick, on_tick, MEMBER_TICK_MS, MEMBER_TICK_MS);
    for (int i = 0; i < m->signal_count; i++) {
        uv_signal_init(&m->uv, &m->signals[i]);
        m->signals[i].data = m;
        uv_signal_start(&m->signals[i], on_signal, numbers[i]);
    }
}

static void name_yourself(struct member *m)
{
    const struct member_options *o = &m->options;
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    if (o->name)
        snprintf(m->name, sizeof m->name, "%s", o->name);
    else
        snprintf(m->name, sizeof m->name, "%s:%d", host, (int)getpid());
    wire_text(m->name);
    snprintf(m->build, sizeof m->build, "blipren " BLIPREN_VERSION "%s%s", o->kind ? ", " : "",
             o->kind ? o->kind : "");
    bl_log_identity(role_name(m), "%s", m->name);
}

int member_open(struct member *m, const struct member_options *options, struct bl_error *err)
{
    *m = (struct member){
        .options = *options, .incarnation = wire_incarnation(), .patience_ms = PATIENCE_GUESS_MS};
    if (options->parent)
        run_die_with_parent(options->parent);
    name_yourself(m);
    start_handles(m);
    /* a coordinator that starts us was told already */
    if (coordinators_open(&m->coordinators, options->coordinator,
                          options->keys || options->insecure || options->parent, m->endpoint,
                          err) < 0)
        return bl_error_key(err, "--coord");
    if (!options->keys && m->endpoint[0] && !wire_is_loopback(m->endpoint))
        bl_log(BL_LOG_WARNING,
               "security=none: connections are neither encrypted nor authenticated");
    if (wire_context_open(options->keys, &m->zmq, err) < 0)
        return bl_error_key(err, "--keys");
    return files_new(m->zmq, &m->files, err);
}

struct core_member_config member_config(const struct member *m)
{
    return (struct core_member_config){m->patience_ms, (uint64_t)m->options.patience_s * 1000};
}

int member_run(struct member *m, struct bl_error *err)
{
    if (!m->leaving)
        uv_run(&m->uv, UV_RUN_DEFAULT);
    if (!m->error.code)
        return 0;
    *err = m->error;
    return -m->error.code;
}

void member_close(struct member *m)
{
    wire_socket_close(&m->control, LINGER_MS);
    wire_loop_close(&m->uv);
    files_free(&m->files);
    wire_context_close(&m->zmq);
}
