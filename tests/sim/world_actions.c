/* tests/sim/world_actions.c - what the loops do: each action of a core becomes messages, writes, work and timers. */
#include "tests/sim/world.h"

static void worker_form(int index, const struct worker_action *a)
{
    struct engine *engine = &w->workers[index].engine;
    struct comm *comm = &w->comms[a->generation];
    BL_ASSERT_CMP(a->generation, <, COMMS_MAX);
    comm->world = a->form.world;
    engine->generation = a->generation;
    engine->rank = a->form.rank;
    engine->op_world = a->form.world;
    engine->rendezvous = 0;
    struct op op = {.type = OP_FORM,
                    .generation = a->generation,
                    .step = a->form.step,
                    .rank = a->form.rank,
                    .world = a->form.world,
                    .source = a->form.source,
                    .have_state = a->form.have_state,
                    .one_reads = a->form.one_reads};
    name_copy(op.checkpoint, a->form.checkpoint);
    engine_queue(index, op);
}

static void worker_write(int index, const struct worker_action *a)
{
    struct process *p = &w->workers[index];
    struct sim_event *e = engine_event(WORKER_EVENT_WRITTEN);
    e->what = SIM_WORKER_OWN;
    e->index = index;
    e->instance = p->instance;
    e->worker.written.step = a->save.step;
    e->worker.written.ok = w->healed || !chance(w->write_failure_chance);
    e->content = p->engine.snap_state;
    name_copy(e->name, a->save.folder);
    uint64_t disk_ms = w->now_ms < w->disk_slow_until_ms ? below(2 * patience()) : 0;
    if (w->unseeing[index]) { /* then sent to the coordinator that asked for it (F3) */
        e->link = p->link >= 0 ? w->links[p->link].coord_instance : 0;
        disk_ms += work();
    }
    sim_push(&w->queue, e, busy_until(p, w->now_ms + delay() + work() + disk_ms));
}

static void worker_message(int index, const struct worker_action *a)
{
    struct process *p = &w->workers[index];
    struct sim_event *e = to_coord(COORD_EVENT_BEAT, a->generation);
    struct coord_event *m = &e->coord;
    switch (a->type) {
    case WORKER_ACTION_ENDED:
        m->type = COORD_EVENT_ENDED;
        m->ended.applied_step = a->ended.applied_step;
        m->ended.state_generation = a->ended.state_generation;
        m->ended.digest = a->ended.digest;
        m->ended.needs_files = w->unseeing[index];
        break;
    case WORKER_ACTION_FORMED:
        m->type = COORD_EVENT_FORMED;
        m->formed.step = a->formed.step;
        m->formed.digest = a->formed.digest;
        if (is_odd(index, LIES) && w->lies_left > 0 && p->engine.op_world > 1) {
            m->formed.digest.bytes[8] = 1;
            w->lies_left--;
        }
        break;
    case WORKER_ACTION_RECEIVED:
    case WORKER_ACTION_CONSUMED:
    case WORKER_ACTION_RESULT:
        m->type = a->type == WORKER_ACTION_RECEIVED   ? COORD_EVENT_RECEIVED
                  : a->type == WORKER_ACTION_CONSUMED ? COORD_EVENT_CONSUMED
                                                      : COORD_EVENT_VALIDATION;
        m->micro_batch.kind = a->micro_batch.kind;
        m->micro_batch.step = a->micro_batch.step;
        m->micro_batch.micro_batch = a->micro_batch.micro_batch;
        e->content = p->engine.state; /* what a result was computed with */
        break;
    case WORKER_ACTION_REPORT:
        m->type = COORD_EVENT_REPORT;
        m->report.step = a->report.step;
        m->report.sample_digest = p->engine.report.sum;
        m->report.trained_count = p->engine.report.count;
        memcpy(e->trained, p->engine.report.ranges, sizeof e->trained);
        break;
    case WORKER_ACTION_BROKEN:
        m->type = COORD_EVENT_BROKEN;
        m->broken.unreached_count = unreached_by(index, &w->comms[a->generation], e->unreached);
        break;
    case WORKER_ACTION_SAVED:
        m->type = COORD_EVENT_SAVED;
        m->saved.step = a->save.step;
        m->saved.ok = a->save.ok;
        name_copy(e->name, a->save.folder);
        break;
    case WORKER_ACTION_GOODBYE:
        m->type = COORD_EVENT_GOODBYE;
        break;
    default:
        BL_ASSERT(a->type == WORKER_ACTION_BEAT);
        m->beat.progress = p->hung ? p->progress : progress_of(p);
        m->beat.looks = looks_of(p);
    }
    send_up_from(p, a->link, e);
}

static void do_worker_action(int index, const struct worker_action *a, const struct sim_event *from)
{
    struct process *p = &w->workers[index];
    struct sim_event *e;
    switch (a->type) {
    case WORKER_ACTION_CONNECT:
        connect_peer(WORKER, index, a->link);
        e = to_coord(COORD_EVENT_HELLO, a->generation);
        e->coord.hello.role = BL_ROLE_WORKER;
        e->coord.hello.epoch = p->epoch;
        send_up(p->link, e);
        return;
    case WORKER_ACTION_OPEN:
        e = engine_event(WORKER_EVENT_OPENED);
        e->what = SIM_WORKER_OWN;
        e->index = index;
        e->instance = p->instance;
        sim_push(&w->queue, e, busy_until(p, w->now_ms + delay() + work()));
        return;
    case WORKER_ACTION_KEEP:
        BL_ASSERT(!p->held[a->micro_batch.slot].used);
        p->held[a->micro_batch.slot] = (struct held){true, a->micro_batch.kind, a->micro_batch.step,
                                                     a->micro_batch.micro_batch, from->content};
        return;
    case WORKER_ACTION_DROP:
        return;
    case WORKER_ACTION_RELEASE:
        BL_ASSERT(p->held[a->micro_batch.slot].used);
        p->held[a->micro_batch.slot].used = false;
        return;
    case WORKER_ACTION_FORM:
        return worker_form(index, a);
    case WORKER_ACTION_HAND_ON:
        p->engine.rendezvous += from->void_count; /* entries */
        return form_join(index);
    case WORKER_ACTION_COMPUTE:
        return engine_queue(index, (struct op){.type = OP_COMPUTE,
                                               .generation = a->generation,
                                               .step = a->micro_batch.step,
                                               .slot = a->micro_batch.slot});
    case WORKER_ACTION_REDUCE:
        return engine_queue(
            index,
            (struct op){.type = OP_REDUCE, .generation = a->generation, .step = a->report.step});
    case WORKER_ACTION_SNAPSHOT:
        return engine_queue(
            index,
            (struct op){.type = OP_SNAPSHOT, .generation = a->generation, .step = a->report.step});
    case WORKER_ACTION_DISCARD:
        return;
    case WORKER_ACTION_ABORT:
        return engine_abort(index);
    case WORKER_ACTION_WRITE:
        return worker_write(index, a);
    case WORKER_ACTION_EXIT:
        if (a->exit.code != 0 && strstr(a->exit.text, "refused") && !w->over)
            TRACE("worker %d was refused", index);
        p->up = false;
        comm_fail(p->engine.generation);
        if (!w->over)
            restart_later(WORKER, index, patience());
        return;
    default:
        return worker_message(index, a);
    }
}

void do_worker(int index, const struct worker_actions *actions, const struct sim_event *from)
{
    struct process *p = &w->workers[index];
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct worker_action *a = &actions->list[i];
        TRACE("  worker %d %s %s g%llu", index, worker_state_name(worker_status(p->worker).state),
              worker_action_name(a->type), (unsigned long long)a->generation);
        do_worker_action(index, a, from);
    }
    worker_check(p->worker);
    if (worker_status(p->worker).violations > 0)
        sim_fail(SIM_UNSAFE, "worker %d saw a violation", index);
    if (!p->up)
        worker_free(&p->worker);
}

static void loader_ship(int index, const struct loader_action *a)
{
    struct process *p = &w->loaders[index];
    uint32_t slot = a->assignment.slot;
    int to = p->slots[slot].withheld ? -1 : worker_index(a->assignment.worker);
    uint64_t sent_ms = later(w->now_ms, p->stalled_until_ms) + delay();
    bool failed = !w->healed && chance(w->slow_chance * 0.2); /* its endpoint cannot be used */
    for (int copies = to < 0 || failed              ? 0
                      : chance(w->duplicate_chance) ? 2
                                                    : 1;
         copies > 0; copies--) {
        struct sim_event *e = engine_event(WORKER_EVENT_DATA);
        e->what = SIM_WORKER_OWN;
        e->index = to;
        e->instance = w->workers[to].instance;
        e->worker.generation = a->generation;
        e->worker.data.worker = a->assignment.worker;
        e->worker.data.kind = a->assignment.kind;
        e->worker.data.step = a->assignment.step;
        e->worker.data.micro_batch = a->assignment.micro_batch;
        e->content = p->slots[slot].content;
        uint64_t *last = &w->data_last_ms[index][to];
        uint64_t cut_ms = later(p->data_cut_until_ms, w->workers[to].data_cut_until_ms);
        *last =
            later(*last, later(later(sent_ms, cut_ms), w->workers[to].stalled_until_ms) + delay());
        if (!w->healed && chance(w->slow_chance * 0.2))
            sim_event_done(&w->queue, e); /* a data connection broke */
        else
            sim_push(&w->queue, e, *last);
    }
    struct sim_event *done = sim_event_new(&w->queue);
    done->what = SIM_LOADER_OWN;
    done->index = index;
    done->instance = p->instance;
    done->loader.type = LOADER_EVENT_SHIPPED;
    done->loader.slot.slot = slot;
    done->loader.slot.failed = failed || p->slots[slot].withheld;
    p->slots[slot].unshipped = failed;
    done->engine_turn = p->slots[slot].turn = ++p->slot_turn;
    sim_push(&w->queue, done, sent_ms);
}

static void loader_make(int index, const struct loader_action *a)
{
    struct process *p = &w->loaders[index];
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_LOADER_OWN;
    e->index = index;
    e->instance = p->instance;
    e->loader.type = LOADER_EVENT_MADE;
    e->loader.slot.slot = a->assignment.slot;
    e->engine_turn = p->slots[a->assignment.slot].turn = ++p->slot_turn;
    sim_push(&w->queue, e, busy_until(p, later(w->now_ms, p->stalled_until_ms) + work()));
}

/* What the loader sees of the samples: all of them, if it is not blind. */
static void loader_accept(int index, uint32_t slot, const struct sim_event *from)
{
    struct process *p = &w->loaders[index];
    p->slots[slot].content = from->content;
    p->slots[slot].void_count = 0;
    p->slots[slot].withheld = p->slots[slot].unshipped = false;
    for (uint32_t i = 0; i < from->sample_count; i++) {
        struct coord_void v = {i, from->samples[i],
                               (index == w->blind_loader && w->now_ms > 3 * patience()) ||
                                   is_absent(from->samples[i]),
                               false};
        if (!v.unreadable && !is_bad(v.sample))
            continue;
        p->slots[slot].voids[p->slots[slot].void_count++] = v;
        p->slots[slot].withheld |= v.unreadable && !from->missing[i];
    }
}

static void do_loader_action(int index, const struct loader_action *a, const struct sim_event *from)
{
    struct process *p = &w->loaders[index];
    struct sim_event *e;
    switch (a->type) {
    case LOADER_ACTION_CONNECT:
        connect_peer(LOADER, index, a->link);
        e = to_coord(COORD_EVENT_HELLO, 0);
        e->coord.hello.role = BL_ROLE_LOADER;
        e->coord.hello.epoch = p->epoch;
        e->coord.hello.capacity = p->capacity;
        send_up(p->link, e);
        return;
    case LOADER_ACTION_OPEN:
        e = sim_event_new(&w->queue);
        e->what = SIM_LOADER_OWN;
        e->index = index;
        e->instance = p->instance;
        e->loader.type = LOADER_EVENT_OPENED;
        sim_push(&w->queue, e, busy_until(p, w->now_ms + work()));
        return;
    case LOADER_ACTION_PROBE:
        e = sim_event_new(&w->queue);
        e->what = SIM_LOADER_OWN;
        e->index = index;
        e->instance = p->instance;
        e->loader.type = LOADER_EVENT_PROBED;
        sim_push(&w->queue, e, w->now_ms + 1 + 2 * delay());
        return;
    case LOADER_ACTION_ACCEPT:
        return loader_accept(index, a->assignment.slot, from);
    case LOADER_ACTION_MAKE:
        return loader_make(index, a);
    case LOADER_ACTION_SHIP:
        return loader_ship(index, a);
    case LOADER_ACTION_DISCARD:
        p->slots[a->assignment.slot].turn = ++p->slot_turn;
        return;
    case LOADER_ACTION_EXIT:
        p->up = false;
        if (!w->over)
            restart_later(LOADER, index, patience());
        return;
    case LOADER_ACTION_COMPLETED:
        e = to_coord(COORD_EVENT_COMPLETED, a->generation);
        e->coord.micro_batch.kind = a->assignment.kind;
        e->coord.micro_batch.step = a->assignment.step;
        e->coord.micro_batch.micro_batch = a->assignment.micro_batch;
        e->coord.micro_batch.withheld =
            p->slots[a->assignment.slot].withheld && !a->assignment.shipped;
        e->coord.micro_batch.unshipped =
            p->slots[a->assignment.slot].unshipped && !a->assignment.shipped;
        if (a->assignment.shipped || e->coord.micro_batch.withheld) {
            e->coord.micro_batch.void_count = p->slots[a->assignment.slot].void_count;
            memcpy(e->voids, p->slots[a->assignment.slot].voids, sizeof e->voids);
        }
        p->slots[a->assignment.slot].turn = ++p->slot_turn;
        return send_up_from(p, a->link, e);
    case LOADER_ACTION_BEAT:
        e = to_coord(COORD_EVENT_BEAT, a->generation);
        e->coord.beat.progress = p->hung ? p->progress : progress_of(p);
        return send_up_from(p, a->link, e);
    case LOADER_ACTION_ENDED:
        e = to_coord(COORD_EVENT_ENDED, a->generation);
        e->coord.ended.applied_step = -1;
        return send_up_from(p, a->link, e);
    case LOADER_ACTION_GOODBYE:
        return send_up_from(p, a->link, to_coord(COORD_EVENT_GOODBYE, a->generation));
    case LOADER_ACTION_COUNT:
        return;
    }
}

void do_loader(int index, const struct loader_actions *actions, const struct sim_event *from)
{
    struct process *p = &w->loaders[index];
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct loader_action *a = &actions->list[i];
        TRACE("  loader %d %s %s g%llu", index, loader_state_name(loader_status(p->loader).state),
              loader_action_name(a->type), (unsigned long long)a->generation);
        do_loader_action(index, a, from);
    }
    loader_check(p->loader);
    if (loader_status(p->loader).violations > 0)
        sim_fail(SIM_UNSAFE, "loader %d saw a violation", index);
    if (!p->up)
        loader_free(&p->loader);
}

static void coord_form(const struct coord_action *a)
{
    struct sim_event *e = sim_event_new(&w->queue);
    e->worker.type = WORKER_EVENT_FORM;
    e->worker.generation = a->generation;
    e->worker.form.rank = a->form.rank;
    e->worker.form.world = a->form.world;
    e->worker.form.source = a->form.source;
    e->worker.form.step = a->form.step;
    e->worker.form.state_generation = a->form.state_generation;
    e->worker.form.one_reads = a->form.one_reads;
    w->k->unformed = 0;
    if (a->form.source < 0)
        w->k->went_back_at = w->k->accepted;
    if (a->form.source < 0 && a->form.checkpoint.generation > 0)
        coord_checkpoint_name(a->form.checkpoint, e->name);
    send_down(a->link, e);
}

static void coord_assignment(const struct coord_action *a)
{
    struct sim_event *e = sim_event_new(&w->queue);
    uint64_t samples[SIM_BATCH_MAX];
    uint32_t epochs[SIM_BATCH_MAX];
    BL_ASSERT_CMP(a->assignment.indices.count, <=, SIM_BATCH_MAX);
    if (embeds() && w->k->done[a->assignment.micro_batch])
        sim_fail(SIM_UNSAFE, "shard %u was there and is made again", a->assignment.micro_batch);
    coord_assignment_samples(w->k->core, a, samples, epochs);
    e->loader.type = LOADER_EVENT_ASSIGNMENT;
    e->loader.generation = a->generation;
    e->loader.assignment.kind = a->assignment.kind;
    e->loader.assignment.step = a->assignment.step;
    e->loader.assignment.micro_batch = a->assignment.micro_batch;
    e->loader.assignment.worker = a->assignment.worker;
    for (uint32_t i = 0; i < a->assignment.indices.count; i++) {
        e->content += bl_sample_term(a->assignment.indices.first + i, samples[i]);
        e->samples[e->sample_count++] = samples[i];
        e->missing[i] = coord_is_missing(w->k->core, samples[i]);
    }
    send_down(a->link, e);
}

static void coord_verify(const struct coord_action *a)
{
    const struct saved *saved = saved_find(a->checkpoint);
    struct sim_event *e = to_coord(COORD_EVENT_VERIFIED, 0);
    e->what = SIM_COORD_OWN;
    e->instance = w->k->instance;
    e->coord.verified.checkpoint = a->checkpoint;
    e->coord.verified.ok = saved && saved->whole;
    sim_push(&w->queue, e, w->now_ms + 1 + delay());
}

/* M12, V4: nobody was left three times, and no shard was made in between. */
static void judge_going_back(const struct coord_action *a)
{
    const struct coordinator *k = w->k;
    if (embeds() && strstr(a->exit.text, "again and again") && k->unformed == 0 &&
        k->accepted > k->went_back_at)
        sim_fail(SIM_UNSAFE, "a run that embeds gives up though it gets on");
}

static void coord_exit(const struct coord_action *a)
{
    const struct coord_ledger *ledger = coord_ledger(w->k->core);
    TRACE("coord exits with %d: %s", a->exit.code, a->exit.text);
    judge_going_back(a);
    /* What the last fault does is over after 12 P, or, where a worker hung, which is found out after 20 P, after 36 P. */
    bool may_fail = (a->exit.code == BL_EIO && w->write_failure_chance > 0) ||
                    (a->exit.code == BL_EPEER && w->now_ms < w->heal_ms + 36ull * patience());
    if (a->exit.code == BL_ETAKEN) {
        if (!is_fenced(w->k))
            sim_fail(SIM_UNSAFE, "the newest coordinator says that another took over");
        w->result.taken++;
        return crash_coord(w->k);
    }
    if (a->exit.code == 0) {
        if (ledger->committed != w->config.plan.steps || w->truth.committed != ledger->committed)
            sim_fail(SIM_UNSAFE, "the run ends well with %llu steps",
                     (unsigned long long)ledger->committed);
        const struct coord_checkpoint *last = &ledger->checkpoints[ledger->checkpoint_count - 1];
        for (uint32_t i = 0; embeds() && i < bl_plan_micro_batches(&w->config.plan, BL_KIND_EMBED);
             i++)
            if (!w->shards[i])
                sim_fail(SIM_UNSAFE, "the run ends well without shard %u", i);
        if (embeds()) {
            w->over = true;
            return;
        }
        if (ledger->checkpoint_count == 0 || last->step != w->config.plan.steps)
            sim_fail(SIM_UNSAFE, "the run ends well without its last checkpoint");
        if (bl_plan_validates(&w->config.plan, ledger->committed) &&
            ledger->validated != (int64_t)ledger->committed)
            sim_fail(SIM_UNSAFE, "the run ends well without its last validation");
        w->over = true;
    } else if (a->exit.code == BL_EDATA && w->data_may_fail) {
        w->over = true;
    } else if ((a->exit.code == BL_ESTOPPED && w->stop_wanted) || may_fail ||
               (a->exit.code == BL_EPROTO && w->odd == LIES)) {
        w->stop_wanted = false; /* the second act: the same run again, to its end */
        crash_coord(w->k);
        coord_restart_later(below(patience()));
        if (w->healed)
            w->end_ms += 400ull * patience();
    } else {
        sim_fail(SIM_UNSAFE, "the coordinator leaves with %s: %s", bl_error_name(a->exit.code),
                 a->exit.text);
    }
}

static void coord_pulse(const struct coord_action *a)
{
    for (int i = 0; i < w->link_count; i++)
        if (w->links[i].open && w->links[i].coord_instance == w->k->instance) {
            if (w->links[i].program == WORKER)
                down_worker((uint64_t)i + 1, WORKER_EVENT_PULSE, a->generation);
            else
                down_loader((uint64_t)i + 1, LOADER_EVENT_PULSE, a->generation);
        }
}

/* The odd worker said that it formed with another state. */
static bool is_liar(const struct coord_action *a)
{
    const struct link *l = &w->links[coord_link(a->link)];
    if (w->odd == LIES && strstr(a->refuse.text, "ranks hold different states"))
        return true; /* of two nobody can tell which */
    return l->program == WORKER && is_odd(l->index, LIES) && strstr(a->refuse.text, "state");
}

/* Its threads do nothing, or did nothing for a while, or it is no more. */
static bool was_hung(const struct coord_action *a)
{
    const struct link *l = &w->links[coord_link(a->link)];
    const struct process *p = process_of(l->program, l->index);
    return p->was_hung || p->incarnation != a->peer;
}

/* Long after everything was mended honest peers make progress, and nobody may be blamed for what takes its time. */
static void coord_note(const struct coord_action *a)
{
    TRACE("  note %d: %s", a->note.kind, a->note.text);
    if (is_fenced(w->k))
        return; /* its peers are another's */
    bool mended = w->healed && w->now_ms > w->heal_ms + 8ull * patience();
    if (a->note.kind == COORD_NOTE_STALLED && !was_hung(a))
        sim_fail(SIM_UNSAFE, "a peer that makes progress is given up: %s", a->note.text);
    if (mended && a->note.kind == COORD_NOTE_REVOKED && strstr(a->note.text, "makes no progress"))
        sim_fail(SIM_UNSAFE, "an assignment is taken from a loader that makes progress: %s",
                 a->note.text);
    if (mended && w->odd == NOT_ODD && a->note.kind == COORD_NOTE_UNFORMED)
        sim_fail(SIM_UNSAFE, "a generation is not formed at the first try: %s", a->note.text);
}

/* Its folder goes: nobody may go back to it any more. */
static void coord_removed(const struct coord_action *a)
{
    const struct coord_ledger *ledger = coord_ledger(w->k->core);
    for (uint32_t i = 0; i < ledger->checkpoint_count; i++)
        if (ledger->checkpoints[i].step == a->checkpoint.step)
            sim_fail(SIM_UNSAFE, "a checkpoint on record is removed");
    saved_find(a->checkpoint)->whole = false;
}

/* J2, J3: what leaves a coordinator because of a record leaves it once the record counts. */
static void check_counts(const struct sim_event *from)
{
    if (from && from->coord.type == COORD_EVENT_JOURNALED &&
        from->coord.journaled.seq > w->k->counted_seq)
        sim_fail(SIM_UNSAFE, "a coordinator acts on a record that does not count");
}

static void do_coord_action(const struct coord_action *a, const struct sim_event *from)
{
    struct sim_event *e;
    if (a->type != COORD_ACTION_EXIT)
        check_counts(from);
    switch (a->type) {
    case COORD_ACTION_WELCOME:
        w->links[coord_link(a->link)].open = true;
        e = sim_event_new(&w->queue);
        if (is_worker_link(a->link)) {
            e->worker.type = WORKER_EVENT_WELCOME;
            e->worker.welcome.patience_ms = patience();
        } else {
            e->loader.type = LOADER_EVENT_WELCOME;
            e->loader.welcome.patience_ms = patience();
        }
        return send_down(a->link, e);
    case COORD_ACTION_REFUSE:
        if (!is_liar(a))
            sim_fail(SIM_UNSAFE, "an honest peer is refused: %s", a->refuse.text);
        if (is_worker_link(a->link))
            down_worker(a->link, WORKER_EVENT_REFUSE, a->generation);
        else
            down_loader(a->link, LOADER_EVENT_REFUSE, a->generation);
        w->links[coord_link(a->link)].open = false;
        return;
    case COORD_ACTION_FORGET:
        w->links[coord_link(a->link)].open = false;
        return;
    case COORD_ACTION_PULSE:
        return coord_pulse(a);
    case COORD_ACTION_END:
        if (is_worker_link(a->link))
            down_worker(a->link, WORKER_EVENT_END, a->generation);
        else
            down_loader(a->link, LOADER_EVENT_END, a->generation);
        return;
    case COORD_ACTION_FORM:
        return coord_form(a);
    case COORD_ACTION_KEEP:
        w->k->entries++;
        return;
    case COORD_ACTION_RELAYED:
        w->k->entries = 0;
        return;
    case COORD_ACTION_RELAY:
        e = sim_event_new(&w->queue);
        e->worker.type = WORKER_EVENT_RENDEZVOUS;
        e->worker.generation = a->generation;
        e->void_count = w->k->entries;
        return send_down(a->link, e);
    case COORD_ACTION_ASSIGNMENT:
        return coord_assignment(a);
    case COORD_ACTION_SAVE:
        e = sim_event_new(&w->queue);
        e->worker.type = WORKER_EVENT_SAVE;
        e->worker.generation = a->generation;
        e->worker.save.step = a->checkpoint.step;
        coord_checkpoint_name(a->checkpoint, e->name);
        return send_down(a->link, e);
    case COORD_ACTION_STOP:
        if (is_worker_link(a->link))
            down_worker(a->link, WORKER_EVENT_STOP, a->generation);
        else
            down_loader(a->link, LOADER_EVENT_STOP, a->generation);
        return;
    case COORD_ACTION_JOURNAL:
        return coord_journal(a);
    case COORD_ACTION_VERIFY:
        return coord_verify(a);
    case COORD_ACTION_ACCEPTED:
        if (w->k != &w->coords[w->journal])
            return; /* its journal was copied: what it says from here on is lost */
        w->k->accepted++;
        if (embeds() && !w->shards[from->coord.micro_batch.micro_batch])
            sim_fail(SIM_UNSAFE, "shard %u is said to be on disk, and is not",
                     from->coord.micro_batch.micro_batch);
        truth_lives(&w->truth, from->content, a->step, "validation");
        return truth_accepted(&w->truth, a->step, from->coord.micro_batch.micro_batch);
    case COORD_ACTION_BAD_SAMPLE:
        if (!is_bad(from->voids[a->void_index].sample))
            sim_fail(SIM_UNSAFE, "a good sample is called bad");
        return;
    case COORD_ACTION_NOTE:
        return coord_note(a);
    case COORD_ACTION_VIOLATION:
        if (is_liar(a))
            return;
        sim_fail(SIM_UNSAFE, "a violation among honest peers: %s: expected %llu, found %llu",
                 a->refuse.text, (unsigned long long)a->refuse.expected,
                 (unsigned long long)a->refuse.found);
        return;
    case COORD_ACTION_EXIT:
        return coord_exit(a);
    case COORD_ACTION_REMOVED:
        return coord_removed(a);
    case COORD_ACTION_PROBE:
        return coord_probe(w->k);
    case COORD_ACTION_REPORTED:
    case COORD_ACTION_COMMITTED:
    case COORD_ACTION_VALIDATED:
    case COORD_ACTION_REWOUND:
    case COORD_ACTION_REGISTERED:
    case COORD_ACTION_UNSAVED:
    case COORD_ACTION_CHECKPOINTED:
    case COORD_ACTION_COUNT:
        return;
    }
}

void do_coord(const struct coord_actions *actions, const struct sim_event *from)
{
    struct coordinator *k = w->k;
    uint32_t instance = k->instance;
    coord_check(k->core);
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct coord_action *a = &actions->list[i];
        TRACE("  coord %s %s g%llu peer %llx", coord_state_name(coord_status(w->k->core).state),
              coord_action_name(a->type), (unsigned long long)a->generation,
              (unsigned long long)a->peer >> 48);
        do_coord_action(a, from);
        if (!k->up || k->instance != instance)
            return; /* it left */
    }
    if (!actions->more)
        return;
    const struct coord_event tick = {.type = COORD_EVENT_TICK, .now_ms = w->now_ms};
    do_coord(coord_step(w->k->core, &tick), NULL);
}
