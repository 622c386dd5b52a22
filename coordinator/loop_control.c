/* coordinator/loop_control.c - what comes through RUN/control: a status for people, a checkpoint now, a stop. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "common/log.h"
#include "coordinator/loop_state.h"
#include "coordinator/progress.h"

struct member {
    const struct peer *peer;
    struct coord_member is;
};

struct members {
    struct loop *loop;
    struct member *list;
    size_t count, room;
};

static void count_peer(void *context, struct peer *peer)
{
    ((struct members *)context)->room++;
}

static void take_peer(void *context, struct peer *peer)
{
    struct members *all = context;
    struct member *m = &all->list[all->count];
    m->peer = peer;
    all->count += coord_member(all->loop->core, peer->link, &m->is);
}

/* Workers by rank, those without one last; else by name. */
static int compare(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    uint64_t rank_x = (uint64_t)x->is.rank, rank_y = (uint64_t)y->is.rank;
    if (rank_x != rank_y)
        return rank_x < rank_y ? -1 : 1;
    return strcmp(x->peer->name, y->peer->name);
}

static json_t *whole_or_null(bool known, uint64_t value)
{
    return known ? json_integer((json_int_t)value) : json_null();
}

static json_t *seconds(uint64_t ms)
{
    return json_real((double)ms / 1000);
}

static json_t *describe_worker(const struct member *m)
{
    const struct peer *p = m->peer;
    bool has_times = p->times.steps > 0;
    return json_pack("{s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "name",
                     bl_json_text(p->name), "host", bl_json_text(p->address), "state", m->is.phase,
                     "doing", bl_json_text(p->phase), "waiting", bl_json_text(p->waiting), "rank",
                     whole_or_null(m->is.rank >= 0, (uint64_t)m->is.rank), "step",
                     whole_or_null(m->is.rank >= 0, m->is.done), "data_s",
                     bl_json_number(has_times ? p->times.data_s : NAN), "compute_s",
                     bl_json_number(has_times ? p->times.compute_s : NAN), "reduce_s",
                     bl_json_number(has_times ? p->times.reduce_s : NAN), "heard_s",
                     seconds(m->is.heard_ms), "progress_s", seconds(m->is.progress_ms), "left_out",
                     m->is.left_out);
}

static json_t *describe_loader(const struct member *m)
{
    const struct peer *p = m->peer;
    return json_pack("{s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "name", bl_json_text(p->name),
                     "host", bl_json_text(p->address), "state", m->is.phase, "doing",
                     bl_json_text(p->phase), "waiting", bl_json_text(p->waiting), "assignments",
                     whole_or_null(true, m->is.leases), "capacity",
                     whole_or_null(true, m->is.capacity), "heard_s", seconds(m->is.heard_ms),
                     "progress_s", seconds(m->is.progress_ms));
}

/* The peers in one role. NULL: no memory. */
static json_t *describe_all(struct loop *l, enum bl_role role)
{
    struct members all = {.loop = l};
    peers_each(l->peers, count_peer, &all);
    bl_autofree struct member *list = all.list = calloc(all.room + 1, sizeof *list);
    json_t *array = json_array();
    if (!list)
        return array;
    peers_each(l->peers, take_peer, &all);
    qsort(list, all.count, sizeof *list, compare);
    for (size_t i = 0; i < all.count; i++)
        if (list[i].peer->role == role)
            json_array_append_new(array, role == BL_ROLE_WORKER ? describe_worker(&list[i])
                                                                : describe_loader(&list[i]));
    return array;
}

static const char *name_of(struct loop *l, uint64_t link)
{
    const struct peer *peer = link ? peers_of_link(l->peers, link) : NULL;
    return peer ? peer->name : "";
}

static json_t *describe_waiting(struct loop *l)
{
    struct coord_wait w = coord_wait(l->core);
    if (!w.text)
        return json_null();
    return json_pack("{s:o, s:s, s:o, s:s, s:o, s:o, s:o}", "peer",
                     bl_json_text(name_of(l, w.link)), "for", w.text, "other",
                     bl_json_text(name_of(l, w.other_link)), "kind",
                     w.kind == BL_KIND_VALIDATE ? "validation" : "training", "step",
                     whole_or_null(w.has_micro_batch, w.step), "micro_batch",
                     whole_or_null(w.has_micro_batch, w.micro_batch), "seconds", seconds(w.ms));
}

/* The latest loss of each of several sources; null: none, or it had no label. */
static json_t *describe_sources(const struct loop *l)
{
    json_t *losses = json_array();
    for (int s = 0; s < l->latest_source_count; s++)
        json_array_append_new(losses, bl_json_number(l->latest_sources[s].loss));
    return losses;
}

const char *const loop_security_names[] = {"loopback", "keys", "none"};

static json_t *describe_run(struct loop *l)
{
    struct coord_status s = coord_status(l->core);
    const struct coord_ledger *ledger = coord_ledger(l->core);
    uint32_t checkpoints = ledger->checkpoint_count;
    bool knows_rate = l->step_s > 0;
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return json_pack(
        "{s:o, s:o, s:i, s:s, s:o, s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, "
        "s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
        "run_folder", bl_json_text(l->config->run_dir), "host", bl_json_text(host), "pid",
        (int)getpid(), "version", BLIPREN_VERSION, "endpoint", bl_json_text(l->endpoint),
        "security", loop_security_names[l->security], "state", coord_state_name(s.state),
        "stopping", (int)s.stopping, "generation", whole_or_null(true, s.generation), "step",
        whole_or_null(true, s.step), "steps", whole_or_null(true, l->plan.steps), "epoch",
        bl_json_number((double)s.step * l->plan.batch / (double)bl_plan_epoch(&l->plan)), "loss",
        bl_json_number(knows_rate ? l->latest_train_loss : NAN), "images_per_s",
        bl_json_number(knows_rate ? l->images / l->step_s : NAN), "tokens_per_s",
        bl_json_number(knows_rate ? l->tokens / l->step_s : NAN), "seconds_left",
        bl_json_number(knows_rate ? l->step_s * (double)(l->plan.steps - s.step) : NAN), "bound_by",
        progress_bound_by(l->wait_data, l->wait_compute, l->wait_reduce), "checkpoint",
        whole_or_null(checkpoints, checkpoints ? ledger->checkpoints[checkpoints - 1].step : 0),
        "samples_seen", whole_or_null(true, s.seen), "samples_bad", whole_or_null(true, s.bad),
        "assignments", whole_or_null(true, s.assignments), "hedged", whole_or_null(true, s.hedges),
        "workers_needed",
        whole_or_null(true, s.state == COORD_GATHERING && s.workers_needed > s.workers
                                ? s.workers_needed - s.workers
                                : 0),
        "source_losses", describe_sources(l), "waiting", describe_waiting(l), "workers",
        describe_all(l, BL_ROLE_WORKER), "loaders", describe_all(l, BL_ROLE_LOADER));
}

void loop_answer_status(struct loop *l)
{
    control_answer(l->control, CONTROL_STATUS, describe_run(l));
}

void loop_answer_checkpoint(struct loop *l, uint64_t step, bool ok)
{
    struct bl_error err;
    bl_fail(&err, BL_EIO, "the checkpoint could not be written; the coordinator's log says why");
    control_answer(l->control, CONTROL_CHECKPOINT,
                   ok ? json_pack("{s:o}", "step", whole_or_null(true, step))
                      : control_error(&err));
}

void loop_answer_end(struct loop *l)
{
    uint64_t step = coord_ledger(l->core)->committed;
    bool saved = !l->error.code || l->error.code == BL_ESTOPPED;
    static const enum control_command commands[] = {CONTROL_CHECKPOINT, CONTROL_SCALE,
                                                    CONTROL_STOP};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        enum control_command command = commands[i];
        if (command == CONTROL_SCALE && saved) {
            struct bl_error err;
            bl_fail(&err, BL_EPEER, "the run ended before a step with so many workers");
            control_answer(l->control, command, control_error(&err));
            continue;
        }
        control_answer(l->control, command,
                       saved ? json_pack("{s:o, s:b}", "step", whole_or_null(true, step),
                                         "complete", (int)!l->error.code)
                             : control_error(&l->error));
    }
}

void loop_note_times(struct peer *peer, const Blipren__Report *report)
{
    struct peer_times *t = &peer->times;
    double weight = t->steps < RATE_STEPS ? 1.0 / ++t->steps : 1.0 / RATE_STEPS;
    t->data_s += weight * (report->data_wait_s - t->data_s);
    t->compute_s += weight * (report->compute_s - t->compute_s);
    t->reduce_s += weight * (report->reduce_wait_s - t->reduce_s);
}
