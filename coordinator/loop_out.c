/* coordinator/loop_out.c - the core's actions as messages to peers. */
#include <inttypes.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/log.h"
#include "coordinator/loop_state.h"

static void send_to(struct loop *l, struct peer *peer, uint64_t generation, Blipren__Envelope *e)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    e->version = BL_PROTOCOL_VERSION;
    e->generation = generation;
    e->peer = l->incarnation;
    e->epoch = coord_ledger(l->core)->epoch;
    e->run = (ProtobufCBinaryData){sizeof l->run, l->run};
    wire_pack(e, &data, &size);
    /* The next tick tells the core that it is lost. */
    if (wire_router_send(l->router, &peer->id, data, size) < 0)
        peer->unreachable = true;
}

static void send_welcome(struct loop *l, struct peer *peer, uint64_t generation)
{
    uint32_t patience_ms = (uint32_t)(l->config->cluster.patience_s * 1000);
    Blipren__Welcome welcome = BLIPREN__WELCOME__INIT;
    welcome.run_folder = l->config->run_dir;
    welcome.kind = (Blipren__Kind)l->plan.kind;
    welcome.cache_tower = l->cache_tower;
    welcome.patience_ms = patience_ms;
    welcome.token = (ProtobufCBinaryData){sizeof l->token, l->token};
    welcome.files_port = l->files_port;
    if (peer->role == BL_ROLE_LOADER) {
        welcome.probe = l->probe;
        welcome.n_probe = l->probe_count;
    }
    welcome.heartbeat_ms = bl_timing_of(patience_ms).heartbeat_ms;
    WIRE_ENVELOPE(e, WELCOME, welcome) = &welcome;
    send_to(l, peer, generation, &e);
}

void loop_refuse(struct loop *l, struct peer *peer, const char *text, const char *remedy)
{
    char line[1600];
    snprintf(line, sizeof line, "%s", text);
    wire_text(line);
    Blipren__Refuse refuse = BLIPREN__REFUSE__INIT;
    refuse.text = line;
    refuse.remedy = (char *)(uintptr_t)remedy;
    WIRE_ENVELOPE(e, REFUSE, refuse) = &refuse;
    bl_log_peer(BL_LOG_WARNING, peer->address, "peer=%s refused: %s", peer->name, text);
    send_to(l, peer, 0, &e);
}

static void send_form(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    char name[COORD_CHECKPOINT_NAME_MAX] = "";
    if (a->form.source < 0 && a->form.checkpoint.generation)
        coord_checkpoint_name(a->form.checkpoint, name);
    Blipren__Form form = BLIPREN__FORM__INIT;
    form.rank = a->form.rank;
    form.world = a->form.world;
    form.source = a->form.source;
    form.step = a->form.step;
    form.state_generation = a->form.state_generation;
    form.checkpoint = name;
    form.one_reads = a->form.one_reads;
    WIRE_ENVELOPE(e, FORM, form) = &form;
    send_to(l, peer, a->generation, &e);
}

static void send_assignment(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    static uint64_t samples[BL_MICRO_BATCH_SLOTS_MAX];
    static uint32_t epochs[BL_MICRO_BATCH_SLOTS_MAX];
    static uint64_t missing[BL_MICRO_BATCH_SLOTS_MAX];
    struct peer *worker = peers_of_incarnation(l->peers, a->assignment.worker);
    coord_assignment_samples(l->core, a, samples, epochs);
    if (!l->embed.first_ms)
        l->embed.first_ms = uv_now(&l->uv);
    Blipren__Assignment assignment = BLIPREN__ASSIGNMENT__INIT;
    assignment.kind = (Blipren__Kind)a->assignment.kind;
    assignment.step = a->assignment.step;
    assignment.micro_batch = a->assignment.micro_batch;
    assignment.first = a->assignment.indices.first;
    assignment.n_sample = assignment.n_epoch = a->assignment.indices.count;
    assignment.sample = samples;
    assignment.epoch = epochs;
    for (size_t i = 0; i < assignment.n_sample; i++)
        if (coord_is_missing(l->core, samples[i]))
            missing[assignment.n_missing++] = samples[i];
    assignment.missing = missing;
    assignment.worker = a->assignment.worker;
    assignment.endpoint = worker ? worker->endpoint : (char *)"";
    assignment.rows = worker && worker->rows;
    WIRE_ENVELOPE(e, ASSIGNMENT, assignment) = &assignment;
    send_to(l, peer, a->generation, &e);
}

static void send_save(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    char name[COORD_CHECKPOINT_NAME_MAX];
    coord_checkpoint_name(a->checkpoint, name);
    if (peer->needs_files)
        file_service_permit(l->files, peer->incarnation, name);
    Blipren__Save save = BLIPREN__SAVE__INIT;
    save.step = a->checkpoint.step;
    save.folder = name;
    WIRE_ENVELOPE(e, SAVE, save) = &save;
    send_to(l, peer, a->generation, &e);
}

static void send_stop(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    Blipren__Stop stop = BLIPREN__STOP__INIT;
    stop.last = a->stop.last;
    stop.reason = (char *)(uintptr_t)bl_error_name(a->stop.code);
    l->letting_go = true;
    if (l->children)
        children_let_go(l->children);
    WIRE_ENVELOPE(e, STOP, stop) = &stop;
    send_to(l, peer, a->generation, &e);
}

static void send_end(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    Blipren__End end = BLIPREN__END__INIT;
    WIRE_ENVELOPE(e, END, end) = &end;
    send_to(l, peer, a->generation, &e);
}

void loop_keep_entry(struct loop *l)
{
    const Blipren__Rendezvous *from = l->handled->rendezvous;
    if (l->entry_count == l->entry_room) {
        l->entry_room = 2 * l->entry_room + 16;
        l->entries = realloc(l->entries, l->entry_room * sizeof *l->entries);
        BL_ASSERT(l->entries != NULL);
    }
    size_t size = blipren__rendezvous__get_packed_size(from);
    bl_autofree uint8_t *packed = malloc(size + 1);
    BL_ASSERT(packed != NULL);
    blipren__rendezvous__pack(from, packed);
    l->entries[l->entry_count] = blipren__rendezvous__unpack(NULL, size, packed);
    BL_ASSERT(l->entries[l->entry_count] != NULL);
    l->entry_count++;
}

void loop_forget_entries(struct loop *l)
{
    for (size_t i = 0; i < l->entry_count; i++)
        blipren__rendezvous__free_unpacked(l->entries[i], NULL);
    l->entry_count = 0;
}

/* In messages that are no larger than a peer takes. */
static void send_entries(struct loop *l, struct peer *peer, const struct coord_action *a)
{
    const size_t most = BL_HEADER_BYTES_MAX / (BL_ENTRY_BYTES_MAX + 128);
    for (size_t first = 0; first < l->entry_count; first += most) {
        size_t left = l->entry_count - first;
        Blipren__Store store = BLIPREN__STORE__INIT;
        store.n_entry = left < most ? left : most;
        store.entry = l->entries + first;
        WIRE_ENVELOPE(e, STORE, store) = &store;
        send_to(l, peer, a->generation, &e);
    }
}

void loop_pulse_one(void *context, struct peer *peer)
{
    struct loop *l = context;
    Blipren__Pulse pulse = BLIPREN__PULSE__INIT;
    WIRE_ENVELOPE(e, PULSE, pulse) = &pulse;
    if (peer->role != BL_ROLE_NONE)
        send_to(l, peer, coord_ledger(l->core)->generation, &e);
}

void loop_forget(struct loop *l, struct peer *peer)
{
    if (peer == l->sender)
        l->sender = NULL;
    wire_know(l->router, peer->connection, false);
    if (peer->needs_files)
        file_service_withdraw(l->files, peer->incarnation);
    peers_remove(l->peers, peer);
}

/* A loader that could not read the images it was asked to says why. */
static const char *what_it_lacks(const struct loop *l, const struct peer *peer)
{
    bool says =
        peer == l->sender && l->handled && l->handled->body_case == BLIPREN__ENVELOPE__BODY_ENDED;
    return says ? l->handled->ended->probe_error : "";
}

void loop_send(struct loop *l, const struct coord_action *a)
{
    struct peer *peer = peers_of_link(l->peers, a->link);
    char text[1024];
    if (!peer)
        return;
    const char *why = what_it_lacks(l, peer);
    switch (a->type) {
    case COORD_ACTION_WELCOME:
        send_welcome(l, peer, a->generation);
        break;
    case COORD_ACTION_REFUSE:
        snprintf(text, sizeof text, "%s (expected %" PRIu64 ", found %" PRIu64 ")%s%s",
                 a->refuse.text, a->refuse.expected, a->refuse.found, why[0] ? ": " : "", why);
        loop_refuse(l, peer, text,
                    why[0] ? "put them at the same path there, or say with --map FROM=TO where "
                             "they are"
                           : "");
        loop_forget(l, peer);
        break;
    case COORD_ACTION_FORGET:
        loop_forget(l, peer);
        break;
    case COORD_ACTION_END:
        send_end(l, peer, a);
        break;
    case COORD_ACTION_FORM:
        send_form(l, peer, a);
        break;
    case COORD_ACTION_RELAY:
        send_entries(l, peer, a);
        break;
    case COORD_ACTION_ASSIGNMENT:
        send_assignment(l, peer, a);
        break;
    case COORD_ACTION_SAVE:
        send_save(l, peer, a);
        break;
    default:
        send_stop(l, peer, a);
        break;
    }
}
