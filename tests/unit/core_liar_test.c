/* tests/unit/core_liar_test.c - whatever a peer sends, no core breaks an assert: the other side's messages are drawn at
 * random from small numbers (so that many fit), one's own engine, disk and clock are honest. */
#include "tests/unit/unit.h"

#include "coordinator/core.h"
#include "loader/core.h"
#include "worker/core.h"

static uint64_t chance;

static uint32_t below(uint32_t n)
{
    uint64_t z = chance += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

/* Mostly small, sometimes absurd. */
static uint64_t number(void)
{
    static const uint64_t absurd[] = {UINT64_MAX, INT64_MAX, UINT32_MAX, 1u << 20, 4096};
    return below(20) ? below(5) : absurd[below(5)];
}

static const struct bl_plan plan = {.kind = BL_KIND_TRAIN,
                                    .seed = 1,
                                    .train_samples = 10,
                                    .validate_samples = 3,
                                    .batch = 4,
                                    .micro_batch = 2,
                                    .steps = 6,
                                    .checkpoint_every = 1,
                                    .validate_every = 2,
                                    .validate_at_start = true,
                                    .steps_ahead = 2,
                                    .window = 2};

/* ---- The coordinator among liars -------------------------------------------------------------- */

static uint64_t train_ids[10], validate_ids[3];

/* What an honest loop owes: the disk's and the checksums' answers. */
struct debts {
    uint64_t seq;
    bool verify;
    struct coord_checkpoint checkpoint, saved;
    struct coord_action form, save,
        assignment; /* the last ones: liars may do a part of their work */
    bool over;
};

static void take(struct debts *debts, const struct coord_actions *actions)
{
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct coord_action *a = &actions->list[i];
        if (a->type == COORD_ACTION_JOURNAL)
            debts->seq = a->journal.seq;
        if (a->type == COORD_ACTION_VERIFY) {
            debts->verify = true;
            debts->checkpoint = a->checkpoint;
        }
        if (a->type == COORD_ACTION_SAVE)
            debts->saved = a->checkpoint;
        if (a->type == COORD_ACTION_FORM)
            debts->form = *a;
        if (a->type == COORD_ACTION_SAVE)
            debts->save = *a;
        if (a->type == COORD_ACTION_ASSIGNMENT)
            debts->assignment = *a;
        debts->over |= a->type == COORD_ACTION_EXIT;
    }
}

/* What an honest peer would say to the last of the messages of a kind, or might say at another time. */
static void draw_honest(struct coord_event *e, char *folder, const struct debts *debts)
{
    static const enum coord_event_type types[] = {COORD_EVENT_FORMED,   COORD_EVENT_SAVED,
                                                  COORD_EVENT_RECEIVED, COORD_EVENT_VALIDATION,
                                                  COORD_EVENT_CONSUMED, COORD_EVENT_COMPLETED};
    const struct coord_action *a = &debts->assignment;
    e->type = types[below(6)];
    if (e->type == COORD_EVENT_FORMED) {
        e->peer = debts->form.peer;
        e->formed.step = debts->form.form.step;
        return;
    }
    if (e->type == COORD_EVENT_SAVED) {
        e->peer = debts->save.peer;
        coord_checkpoint_name(debts->save.checkpoint, folder);
        e->saved.step = debts->save.checkpoint.step;
        e->saved.folder = folder;
        e->saved.ok = true;
        return;
    }
    e->peer = e->type == COORD_EVENT_COMPLETED ? a->peer : a->assignment.worker;
    e->micro_batch.kind = a->assignment.kind;
    e->micro_batch.step = a->assignment.step;
    e->micro_batch.micro_batch = a->assignment.micro_batch;
}

static void draw_message(struct coord_event *e, struct coord_void *voids, struct bl_range *trained,
                         char *folder, const struct debts *debts, uint64_t generation)
{
    static uint32_t ranks[2];
    e->type = (enum coord_event_type)below(COORD_EVENT_GOODBYE + 1);
    e->peer = 1 + below(5);
    e->link = e->peer + 10 * below(2);
    e->generation = below(8) ? generation : number();
    if (below(2)) {
        draw_honest(e, folder, debts);
        e->link = e->peer;
        return;
    }
    switch (e->type) {
    case COORD_EVENT_HELLO:
        e->hello.role = (enum bl_role)(below(10) ? 1 + e->peer % 2 : number());
        e->hello.capacity = (uint32_t)number();
        break;
    case COORD_EVENT_ENDED:
        e->ended.applied_step = (int64_t)number() - 1;
        e->ended.state_generation = below(3) ? generation : number();
        break;
    case COORD_EVENT_BEAT:
        e->beat.progress = number();
        break;
    case COORD_EVENT_FORMED:
        e->formed.step = number();
        break;
    case COORD_EVENT_BROKEN:
        ranks[0] = (uint32_t)number();
        ranks[1] = (uint32_t)number();
        e->broken.unreached = ranks;
        e->broken.unreached_count = below(3);
        break;
    case COORD_EVENT_REPORT:
        e->report.step = number();
        e->report.trained = trained;
        e->report.trained_count = below(3);
        trained[0] = (struct bl_range){(uint32_t)number(), (uint32_t)number()};
        trained[1] = (struct bl_range){(uint32_t)number(), (uint32_t)number()};
        break;
    case COORD_EVENT_SAVED:
        coord_checkpoint_name(debts->saved, folder);
        e->saved.step = below(3) ? debts->saved.step : number();
        e->saved.folder = folder;
        e->saved.ok = below(2);
        break;
    default:
        e->micro_batch.kind = (enum bl_kind)(below(8) ? 1 + below(2) : number());
        e->micro_batch.step = number();
        e->micro_batch.micro_batch = (uint32_t)number();
        e->micro_batch.voids = voids;
        e->micro_batch.void_count = below(3);
        e->micro_batch.withheld = below(2);
        for (int i = 0; i < 2; i++)
            voids[i] = (struct coord_void){(uint32_t)number(), number(), below(2), below(2)};
        break;
    }
}

static void no_message_of_a_peer_breaks_the_coordinator(void **state)
{
    uint64_t states_seen[COORD_STATE_COUNT] = {0};
    for (uint64_t seed = 0; seed < 1500; seed++) {
        chance = seed;
        struct coord_config config = {.plan = plan,
                                      .train_ids = train_ids,
                                      .validate_ids = validate_ids,
                                      .sample_count = 20,
                                      .max_bad_fraction = 1,
                                      .patience_ms = 120,
                                      .workers_max = 3,
                                      .loaders_max = 2,
                                      .workers_min = 1,
                                      .workers_wanted = 1};
        struct coord *c;
        assert_int_equal(coord_new(&config, &c, NULL), 0);
        struct debts debts = {0};
        uint64_t now_ms = 1000;
        take(&debts, coord_start(c, now_ms));
        for (int i = 0; i < 1000 && !debts.over; i++) {
            struct coord_void voids[2];
            struct bl_range trained[2];
            char folder[COORD_CHECKPOINT_NAME_MAX];
            now_ms += below(8);
            struct coord_event e = {.now_ms = now_ms};
            uint32_t pick = below(16);
            if (pick == 0 && debts.seq) {
                e.type = COORD_EVENT_JOURNALED;
                e.journaled.seq = debts.seq;
            } else if (pick == 1 && debts.verify) {
                e.type = COORD_EVENT_VERIFIED;
                e.verified.checkpoint = debts.checkpoint;
                e.verified.ok = below(4) != 0;
                debts.verify = false;
            } else if (pick == 2) {
                e.type = COORD_EVENT_TICK;
            } else if (pick == 3 && below(100) == 0) {
                e.type = COORD_EVENT_STOP;
            } else if (pick == 3 && below(10) == 0) {
                e.type = COORD_EVENT_CHECKPOINT;
            } else if (pick == 4 && below(4) == 0) {
                e.type = COORD_EVENT_LOST;
                e.peer = 1 + below(5);
                e.lost.dead = below(2);
            } else {
                draw_message(&e, voids, trained, folder, &debts, coord_ledger(c)->generation);
            }
            take(&debts, coord_step(c, &e));
            coord_check(c);
            states_seen[coord_status(c).state]++;
        }
        coord_free(&c);
    }
    for (int s = 0; s < COORD_STATE_COUNT; s++)
        if (states_seen[s] == 0)
            fail_msg("expected the state %s to be reached", coord_state_name((enum coord_state)s));
}

/* ---- The worker under a lying coordinator and lying loaders ----------------------------------- */

/* An honest engine, one operation at a time. */
struct engine {
    enum worker_action_type busy; /* 0 = CONNECT: nothing */
    uint64_t generation, step, write_step;
    uint32_t slot;
    bool writing, opening, aborting, over;
    int64_t applied;
};

static void obey(struct engine *engine, const struct worker_actions *actions, uint64_t *link)
{
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct worker_action *a = &actions->list[i];
        switch (a->type) {
        case WORKER_ACTION_CONNECT:
            *link = a->link;
            break;
        case WORKER_ACTION_OPEN:
            engine->opening = true;
            break;
        case WORKER_ACTION_FORM:
            if (!a->form.have_state)
                engine->applied = -1;
            engine->busy = a->type;
            engine->generation = a->generation;
            engine->step = a->form.step;
            break;
        case WORKER_ACTION_COMPUTE:
            engine->busy = a->type;
            engine->slot = a->micro_batch.slot;
            break;
        case WORKER_ACTION_REDUCE:
            engine->busy = a->type;
            engine->step = a->report.step;
            break;
        case WORKER_ACTION_ABORT:
            engine->busy = 0;
            engine->aborting = true;
            break;
        case WORKER_ACTION_WRITE:
            assert_false(engine->writing);
            engine->writing = true;
            engine->write_step = a->save.step;
            break;
        case WORKER_ACTION_EXIT:
            engine->over = true;
            break;
        default:
            break;
        }
    }
}

/* Snapshots are taken at once: the engine answers before it does anything else. */
static bool snapshot_asked(const struct worker_actions *actions, uint64_t *ret_step)
{
    for (uint32_t i = 0; i < actions->count; i++)
        if (actions->list[i].type == WORKER_ACTION_SNAPSHOT) {
            *ret_step = actions->list[i].report.step;
            return true;
        }
    return false;
}

static bool engine_event(struct engine *engine, struct worker_event *e)
{
    e->generation = engine->generation;
    if (engine->opening && below(2)) {
        e->type = WORKER_EVENT_OPENED;
        engine->opening = false;
        return true;
    }
    if (engine->writing && below(16) == 0) {
        e->type = WORKER_EVENT_WRITTEN;
        e->written.step = engine->write_step;
        e->written.ok = below(2);
        engine->writing = false;
        return true;
    }
    if (engine->aborting) {
        e->type = WORKER_EVENT_ABORTED;
        e->aborted.applied_step = engine->applied;
        engine->aborting = false;
        return true;
    }
    if (!engine->busy)
        return false;
    enum worker_action_type done = engine->busy;
    engine->busy = 0;
    if (below(20) == 0) {
        e->type = WORKER_EVENT_FAILED;
        return true;
    }
    if (done == WORKER_ACTION_FORM) {
        e->type = WORKER_EVENT_FORMED;
        engine->applied = (int64_t)engine->step;
    } else if (done == WORKER_ACTION_COMPUTE) {
        e->type = WORKER_EVENT_COMPUTED;
        e->computed.slot = engine->slot;
    } else {
        e->type = WORKER_EVENT_APPLIED;
        e->applied.step = engine->step;
        engine->applied++;
    }
    return true;
}

static void draw_for_worker(struct worker_event *e, uint64_t generation, int64_t applied)
{
    static const char *const folders[] = {"", "step-1", "step-2"};
    static char long_folder[2 * WORKER_FOLDER_MAX];
    memset(long_folder, 'x', sizeof long_folder - 1);
    static const enum worker_event_type types[] = {
        WORKER_EVENT_WELCOME, WORKER_EVENT_REFUSE, WORKER_EVENT_PULSE,
        WORKER_EVENT_END,     WORKER_EVENT_FORM,   WORKER_EVENT_RENDEZVOUS,
        WORKER_EVENT_SAVE,    WORKER_EVENT_STOP,   WORKER_EVENT_DATA};
    e->type = types[below(sizeof types / sizeof *types)];
    if (e->type == WORKER_EVENT_REFUSE || e->type == WORKER_EVENT_STOP)
        e->type = below(e->type == WORKER_EVENT_STOP ? 8 : 60) ? WORKER_EVENT_DATA : e->type;
    e->generation = e->type == WORKER_EVENT_FORM ? generation + below(3)
                    : below(10)                  ? generation
                                                 : number();
    switch (e->type) {
    case WORKER_EVENT_WELCOME:
        e->welcome.patience_ms = below(10) ? 6000 : (uint32_t)number();
        break;
    case WORKER_EVENT_FORM:
        e->form.rank = below(2) ? 0 : (uint32_t)number();
        e->form.world = (uint32_t)number();
        e->form.source = (int32_t)number() - 1;
        e->form.step = below(2) ? (uint64_t)applied : number();
        e->form.state_generation = below(2) ? generation : number();
        e->form.checkpoint = "";
        break;
    case WORKER_EVENT_SAVE:
        e->save.step = below(2) ? (uint64_t)applied : number();
        e->save.folder = below(20) ? folders[below(3)] : long_folder;
        break;
    case WORKER_EVENT_DATA:
        e->data.worker = below(10) ? 77 : number();
        e->data.kind = (enum bl_kind)(below(8) ? 1 + below(2) : number());
        e->data.step = below(2) ? (uint64_t)applied : number();
        e->data.micro_batch = (uint32_t)number();
        break;
    default:
        break;
    }
}

static void no_message_of_another_breaks_a_worker(void **state)
{
    uint64_t states_seen[WORKER_STATE_COUNT] = {0};
    for (uint64_t seed = 0; seed < 1500; seed++) {
        chance = seed;
        struct worker_config config = {.incarnation = 77,
                                       .member = {.patience_ms = 6000, .reconnect_ms = 600000}};
        struct worker *w;
        assert_int_equal(worker_new(&config, &w, NULL), 0);
        assert_int_equal(worker_set_plan(w, &plan, NULL), 0);
        struct engine engine = {.applied = -1};
        uint64_t now_ms = 1000, link = 0;
        const struct worker_actions *actions = worker_start(w, now_ms);
        obey(&engine, actions, &link);
        for (int i = 0; i < 1000 && !engine.over; i++) {
            now_ms += below(8);
            struct worker_event e = {.now_ms = now_ms, .link = link};
            uint64_t step;
            if (snapshot_asked(actions, &step) && !engine.aborting) {
                e.type = WORKER_EVENT_SNAPPED;
                e.generation = engine.generation;
                e.applied.step = step;
            } else if (below(3) && engine_event(&engine, &e)) {
                /* its own */
            } else if (below(20) == 0) {
                e.type = below(10) ? WORKER_EVENT_TICK : WORKER_EVENT_LOST;
            } else {
                draw_for_worker(&e, worker_status(w).generation, worker_status(w).applied_step);
            }
            actions = worker_step(w, &e);
            obey(&engine, actions, &link);
            worker_check(w);
            states_seen[worker_status(w).state]++;
        }
        worker_free(&w);
    }
    for (int s = 0; s < WORKER_STATE_COUNT; s++)
        if (states_seen[s] == 0)
            fail_msg("expected the state %s to be reached",
                     worker_state_name((enum worker_state)s));
}

/* ---- The loader under a lying coordinator ----------------------------------------------------- */

static void no_message_of_the_coordinator_breaks_a_loader(void **state)
{
    for (uint64_t seed = 0; seed < 1500; seed++) {
        chance = seed;
        struct loader_config config = {
            .capacity = 3, .jobs = 2, .member = {.patience_ms = 600, .reconnect_ms = 600000}};
        struct loader *l;
        assert_int_equal(loader_new(&config, &l, NULL), 0);
        bool making[5] = {0}, shipping[5] = {0}, opening = false, probing = false, over = false;
        uint64_t now_ms = 1000, link = 1;
        const struct loader_actions *actions = loader_start(l, now_ms);
        for (int i = 0; i < 600 && !over; i++) {
            for (uint32_t k = 0; k < actions->count; k++) {
                const struct loader_action *a = &actions->list[k];
                uint32_t slot = a->assignment.slot;
                opening |= a->type == LOADER_ACTION_OPEN;
                probing |= a->type == LOADER_ACTION_PROBE;
                over |= a->type == LOADER_ACTION_EXIT;
                if (a->type == LOADER_ACTION_CONNECT)
                    link = a->link;
                if (a->type == LOADER_ACTION_MAKE)
                    making[slot] = true;
                if (a->type == LOADER_ACTION_SHIP)
                    shipping[slot] = true;
                if (a->type == LOADER_ACTION_COMPLETED || a->type == LOADER_ACTION_DISCARD)
                    shipping[slot] = making[slot] = false;
            }
            now_ms += below(8);
            struct loader_event e = {.now_ms = now_ms, .link = link, .generation = number()};
            uint32_t slot = below(5);
            if (opening && below(3) == 0) {
                e.type = LOADER_EVENT_OPENED;
                opening = false;
            } else if (probing && below(3) == 0) {
                e.type = LOADER_EVENT_PROBED;
                probing = false;
            } else if (making[slot] && below(2)) {
                e.type = LOADER_EVENT_MADE;
                e.slot.slot = slot;
                making[slot] = false;
            } else if (shipping[slot]) {
                e.type = LOADER_EVENT_SHIPPED;
                e.slot.slot = slot;
                shipping[slot] = false;
            } else if (below(10) == 0) {
                e.type = below(5) ? LOADER_EVENT_TICK : LOADER_EVENT_LOST;
            } else {
                static const enum loader_event_type types[] = {
                    LOADER_EVENT_WELCOME, LOADER_EVENT_REFUSE,     LOADER_EVENT_PULSE,
                    LOADER_EVENT_END,     LOADER_EVENT_ASSIGNMENT, LOADER_EVENT_STOP};
                e.type = types[below(sizeof types / sizeof *types)];
                if (e.type == LOADER_EVENT_REFUSE || e.type == LOADER_EVENT_STOP)
                    e.type = below(20) ? LOADER_EVENT_ASSIGNMENT : e.type;
                if (e.type == LOADER_EVENT_WELCOME)
                    e.welcome.patience_ms = below(10) ? 6000 : (uint32_t)number();
            }
            actions = loader_step(l, &e);
            loader_check(l);
        }
        loader_free(&l);
    }
}

UNIT_MAIN(cmocka_unit_test(no_message_of_a_peer_breaks_the_coordinator),
          cmocka_unit_test(no_message_of_another_breaks_a_worker),
          cmocka_unit_test(no_message_of_the_coordinator_breaks_a_loader))
