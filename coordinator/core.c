/* coordinator/core.c - the coordinator's rules. Numbers like M3 refer to docs/protocol.md.
 *
 * Reading order: the table of rules; looking things up; the journal; losing peers and ending a
 * generation; gathering and forming one; orders; commits, validation, checkpoints; the end; and one
 * function per event. After every event settle() asks anew what the state waits for, so a handler
 * records what happened and never decides what is next. */
#include "coordinator/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/random.h"

#define ORDERS_PER_CALL 64    /* keeps a call short; `more` asks for the next */
#define PENDING_MAX 256       /* records on their way to disk: commits are bounded by steps_ahead */
#define SAVES_MAX 32          /* checkpoints on their way to being registered */
#define SAVES_UNCHECKED_MAX 8 /* written and not yet registered: then rank 0 has to wait */
#define SAVE_FAILURES_MAX 3   /* of a checkpoint without which the run must not go on */
#define FORMING_PATIENCES_MAX 20 /* no generation could be formed for so long: give up */

enum rule { DO, LATE, PROTO };

/* DO     the event has its function below
 * LATE   counted and dropped: it crossed a message of ours, or the peer left
 * PROTO  with the living generation's number it breaks the protocol and the peer goes, else LATE */
static const enum rule rules[COORD_EVENT_COUNT][COORD_STATE_COUNT] = {
#define RULE(event, ...) [COORD_EVENT_##event] = {__VA_ARGS__}
    /* clang-format off */
    /*                GATHER CHECK  PLAN   FORM   TRAIN  VALID  SAVE   ENDING LEAVE  FINISHED */
    RULE(HELLO,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(ENDED,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(BEAT,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(RENDEZVOUS,  LATE,  LATE,  LATE,  DO,    LATE,  LATE,  LATE,  LATE,  LATE,  LATE),
    RULE(FORMED,      LATE,  LATE,  LATE,  DO,    PROTO, PROTO, PROTO, LATE,  LATE,  LATE),
    RULE(GOT,         LATE,  LATE,  LATE,  PROTO, DO,    DO,    DO,    LATE,  LATE,  LATE),
    RULE(USED,        LATE,  LATE,  LATE,  PROTO, DO,    DO,    DO,    LATE,  LATE,  LATE),
    RULE(REPORT,      LATE,  LATE,  LATE,  PROTO, DO,    PROTO, PROTO, LATE,  LATE,  LATE),
    RULE(VALIDATION,  LATE,  LATE,  LATE,  PROTO, PROTO, DO,    LATE,  LATE,  LATE,  LATE),
    RULE(BROKEN,      LATE,  LATE,  LATE,  DO,    DO,    DO,    DO,    LATE,  LATE,  LATE),
    RULE(SAVED,       DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(SENT,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(GOODBYE,     DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(LOST,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(JOURNALED,   DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
    RULE(VERIFIED,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(STOP,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE,  LATE),
    RULE(TICK,        DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    DO,    LATE),
/* clang-format on */
#undef RULE
};

const char *coord_rule_name(enum coord_state state, enum coord_event_type type)
{
    static const char *const names[] = {[DO] = "do", [LATE] = "late", [PROTO] = "proto"};
    return names[rules[type][state]];
}

enum lease_state { LEASE_FREE, LEASE_OUT, LEASE_REVOKED, LEASE_GOT };

/* A group that is ordered for a rank and not Used by it: one place in its window. */
struct lease {
    enum lease_state state;
    enum bl_kind kind;
    uint64_t step;
    uint32_t group;
    uint32_t loader; /* index of the loader that has or had the order */
    uint64_t since_ms;
};

enum phase {
    ABSENT,  /* a free entry */
    OPENING, /* welcome, its models are being opened */
    READY,   /* no communicator, its state is known */
    PLANNED, /* READY, and in the generation whose record is on its way to disk */
    MEMBER,  /* has its Form */
    CLOSING, /* has its End */
};

struct worker {
    enum phase phase;
    uint64_t peer, link, heard_ms, end_sent_ms;
    int64_t applied_step; /* of its last Ended; -1 = no state */
    uint64_t state_generation;
    struct bl_digest digest;
    /* as a MEMBER */
    uint32_t rank;
    bool formed;
    struct bl_digest formed_digest;
    uint64_t done;       /* steps in its state */
    uint64_t next_step;  /* the next group to be ordered for it is groups.first + next_index … */
    uint32_t next_index; /* … of next_step; next_index < groups.count */
    uint32_t next_validate; /* index into its share of the pending validation groups */
    uint32_t lease_count;   /* not LEASE_FREE */
    struct lease *leases;   /* plan.window of them */
    uint64_t *digests;      /* of what is ordered for step s, at s % (steps_ahead + 2) */
};

struct loader {
    bool present, ready;
    uint64_t peer, link, heard_ms;
    uint32_t capacity, held; /* orders it may hold, orders without their Sent */
};

enum save_state { SAVE_FREE, SAVE_WANTED, SAVE_ORDERED, SAVE_VERIFYING, SAVE_JOURNALING };

struct save {
    enum save_state state;
    struct coord_checkpoint checkpoint;
    uint64_t peer, link; /* who writes it; WANTED: nobody yet */
};

enum check { CHECK_RUNNING, CHECK_OK, CHECK_BAD, CHECK_DROPPING };

struct coord {
    struct coord_config config;
    struct bl_timing timing;
    enum coord_state state;
    uint64_t now_ms, pulse_ms, ready_since_ms, absent_until_ms;
    struct coord_actions actions;
    uint64_t late, violations;

    struct coord_ledger ledger; /* what is on disk, and nothing else */
    struct coord_record pending[PENDING_MAX];
    uint64_t journal_first, journal_next; /* pending has the records first <= seq < next */

    struct worker *workers; /* workers_max, of which the first worker_top were ever in use */
    struct lease *leases;   /* the workers' windows */
    uint64_t *digests;      /* the workers' rings */
    struct loader *loaders; /* loaders_max, of which the first loader_top were ever in use */
    uint32_t worker_top, loader_top;
    uint32_t *ranks;        /* rank -> index of its worker, while the generation lives */
    uint32_t revoked_count; /* leases in LEASE_REVOKED */

    bool first;          /* this process has formed no generation yet */
    uint64_t generation; /* highest number given */
    uint64_t formed;     /* highest that was formed, on disk or not */
    uint64_t floor;      /* states of generations below it were annulled, on disk or not */
    uint64_t issued;     /* steps whose commit was given to the journal */
    struct {
        uint32_t world;
        int64_t source; /* index of a worker, -1 = checkpoint */
        uint64_t step, state_generation;
        struct coord_checkpoint checkpoint;
        bool broken; /* a planned worker was lost */
    } plan;
    uint64_t forming_since_ms;  /* this one */
    uint64_t unformed_since_ms; /* the first that failed since one was formed; 0 = none did */
    uint64_t gather_after_ms;   /* a moment's rest after a failed one */
    bool regrouping; /* a worker waits to join: go on to `hold` steps, then a new generation */
    uint64_t hold;
    struct coord_checkpoint checking;
    enum check check;

    uint64_t validating;   /* steps done; meaningful while a result is in or VALIDATING */
    uint8_t *validated;    /* per group: its result is in */
    uint32_t *to_validate; /* groups without one when the generation began to validate */
    uint32_t to_validate_count, validated_count;

    struct save saves[SAVES_MAX];
    uint32_t save_failures;

    uint8_t *seen_samples, *bad_samples; /* bit sets over sample ids */
    uint64_t seen, bad;

    bool stopping;
    int stop_code;
    uint64_t last; /* stopping: steps in the final state */
    uint64_t stop_deadline_ms, leave_deadline_ms;
    bool stop_overdue, leave_journaled;
    int exit_code;
    const char *exit_text;
};

/* ---- Looking things up ------------------------------------------------------------------------
 */

static uint32_t ring_size(const struct coord *c)
{
    return c->config.plan.steps_ahead + 2;
}

static uint64_t *ordered_digest(const struct coord *c, const struct worker *w, uint64_t step)
{
    return &w->digests[step % ring_size(c)];
}

/* Linear: a message costs a few passes over the entries in use, microseconds for a thousand peers. */
static struct worker *worker_find(struct coord *c, uint64_t peer)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase != ABSENT && c->workers[i].peer == peer)
            return &c->workers[i];
    return NULL;
}

static struct loader *loader_find(struct coord *c, uint64_t peer)
{
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (c->loaders[i].present && c->loaders[i].peer == peer)
            return &c->loaders[i];
    return NULL;
}

static uint32_t workers_in(const struct coord *c, enum phase phase)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->worker_top; i++)
        count += c->workers[i].phase == phase;
    return count;
}

static uint32_t peers_present(const struct coord *c)
{
    uint32_t count = c->worker_top - workers_in(c, ABSENT);
    for (uint32_t i = 0; i < c->loader_top; i++)
        count += c->loaders[i].present;
    return count;
}

/* A generation that is formed and lives. */
static bool is_live(const struct coord *c)
{
    return c->state == COORD_TRAINING || c->state == COORD_VALIDATING || c->state == COORD_SAVING;
}

static struct worker *rank_worker(const struct coord *c, uint32_t rank)
{
    return &c->workers[c->ranks[rank]];
}

static struct bl_range rank_groups(const struct coord *c, uint32_t rank)
{
    return bl_share(bl_plan_groups(&c->config.plan, BL_KIND_TRAIN), rank, c->plan.world);
}

static struct coord_action *act(struct coord *c, enum coord_action_type type)
{
    BL_ASSERT_CMP(c->actions.count, <, c->actions.capacity);
    struct coord_action *action = &c->actions.list[c->actions.count++];
    *action = (struct coord_action){.type = type, .generation = c->ledger.generation};
    return action;
}

static struct coord_action *act_to(struct coord *c, enum coord_action_type type, uint64_t peer,
                                   uint64_t link)
{
    struct coord_action *action = act(c, type);
    action->peer = peer;
    action->link = link;
    return action;
}

/* ---- The journal (J1, J2) ---------------------------------------------------------------------
 */

static void journal(struct coord *c, struct coord_record record)
{
    BL_ASSERT_CMP(c->journal_next - c->journal_first, <, PENDING_MAX);
    struct coord_action *action = act(c, COORD_ACTION_JOURNAL);
    action->journal.seq = c->journal_next;
    action->journal.record = record;
    c->pending[c->journal_next++ % PENDING_MAX] = record;
}

static bool journal_is_idle(const struct coord *c)
{
    return c->journal_first == c->journal_next;
}

static bool is_saved(const struct coord *c, uint64_t step)
{
    for (uint32_t i = 0; i < c->ledger.checkpoint_count; i++)
        if (c->ledger.checkpoints[i].step == step)
            return true;
    return false;
}

static bool validation_is_due(const struct coord *c)
{
    return bl_plan_validates(&c->config.plan, c->ledger.committed) &&
           c->ledger.validated < (int64_t)c->ledger.committed;
}

static bool is_complete(const struct coord *c)
{
    return c->ledger.committed == c->config.plan.steps && !validation_is_due(c) &&
           is_saved(c, c->ledger.committed);
}

/* ---- Leaving ----------------------------------------------------------------------------------
 */

static void leave(struct coord *c, int code, const char *text)
{
    if (c->state == COORD_LEAVING || c->state == COORD_FINISHED)
        return;
    c->state = COORD_LEAVING;
    c->exit_code = code;
    c->exit_text = text;
    c->leave_deadline_ms = c->now_ms + c->timing.drain_ms;
    journal(c, (struct coord_record){.type = COORD_RECORD_FINISH,
                                     .step = c->ledger.committed,
                                     .code = (uint32_t)code});
}

static void say_stop(struct coord *c, uint64_t peer, uint64_t link)
{
    struct coord_action *action = act_to(c, COORD_ACTION_STOP, peer, link);
    action->stop.last = c->ledger.committed;
    action->stop.code = c->exit_code;
}

static void say_stop_to_all(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase != ABSENT)
            say_stop(c, c->workers[i].peer, c->workers[i].link);
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (c->loaders[i].present)
            say_stop(c, c->loaders[i].peer, c->loaders[i].link);
}

/* The run contradicts itself: it stops before anything is built on that (S5). */
static void fail(struct coord *c, const struct worker *w, const char *text, uint64_t expected,
                 uint64_t found)
{
    struct coord_action *action = act_to(c, COORD_ACTION_VIOLATION, w->peer, w->link);
    action->refuse.text = text;
    action->refuse.expected = expected;
    action->refuse.found = found;
    c->violations++;
    leave(c, BL_EPROTO, text);
}

/* ---- Losing peers, ending a generation (M5) ---------------------------------------------------
 */

static void lease_free(struct coord *c, struct worker *w, struct lease *lease)
{
    c->revoked_count -= lease->state == LEASE_REVOKED;
    lease->state = LEASE_FREE;
    w->lease_count--;
}

static void lease_revoke(struct coord *c, struct lease *lease)
{
    lease->state = LEASE_REVOKED;
    c->revoked_count++;
}

static void leases_clear(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        for (uint32_t k = 0; w->lease_count > 0 && k < c->config.plan.window; k++)
            if (w->leases[k].state != LEASE_FREE)
                lease_free(c, w, &w->leases[k]);
    }
    BL_ASSERT_CMP(c->revoked_count, ==, 0);
}

static void end_generation(struct coord *c)
{
    leases_clear(c);
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase != MEMBER)
            continue;
        w->phase = CLOSING;
        w->end_sent_ms = c->now_ms;
        act_to(c, COORD_ACTION_END, w->peer, w->link);
    }
    for (uint32_t i = 0; i < c->loader_top; i++)
        if (c->loaders[i].present)
            act_to(c, COORD_ACTION_END, c->loaders[i].peer, c->loaders[i].link);
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state == SAVE_WANTED)
            c->saves[i].state = SAVE_FREE;
    c->state = COORD_ENDING;
}

/* Is the worker's state the run's (M7)? Not annulled by a rewind, and not forked by a generation that
 * was formed without it. Such a state has every committed step: a commit needs all ranks (S3). */
static bool is_survivor(const struct coord *c, const struct worker *w)
{
    return w->applied_step >= 0 && w->state_generation >= c->floor &&
           w->state_generation >= c->formed;
}

static void worker_lost(struct coord *c, struct worker *w, bool dead)
{
    bool was_member = w->phase == MEMBER;
    if (!dead && (was_member || w->phase == CLOSING || is_survivor(c, w)))
        c->absent_until_ms = c->now_ms + c->timing.forming_ms;
    if (w->phase == PLANNED)
        c->plan.broken = true;
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state == SAVE_ORDERED && c->saves[i].link == w->link)
            c->saves[i].state = SAVE_FREE;
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state != LEASE_FREE)
            lease_free(c, w, &w->leases[k]);
    w->phase = ABSENT;
    if (was_member && (is_live(c) || c->state == COORD_FORMING))
        end_generation(c);
}

static void loader_lost(struct coord *c, struct loader *l)
{
    uint32_t index = (uint32_t)(l - c->loaders);
    l->present = false;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        for (uint32_t k = 0; w->lease_count > 0 && k < c->config.plan.window; k++)
            if (w->leases[k].state == LEASE_OUT && w->leases[k].loader == index)
                lease_revoke(c, &w->leases[k]);
    }
}

static void peer_lost(struct coord *c, uint64_t peer, bool dead)
{
    struct worker *w = worker_find(c, peer);
    struct loader *l = w ? NULL : loader_find(c, peer);
    if (w)
        worker_lost(c, w, dead);
    else if (l)
        loader_lost(c, l);
}

static void refuse(struct coord *c, uint64_t peer, uint64_t link, const char *text,
                   uint64_t expected, uint64_t found)
{
    struct coord_action *action = act_to(c, COORD_ACTION_REFUSE, peer, link);
    action->refuse.text = text;
    action->refuse.expected = expected;
    action->refuse.found = found;
}

/* A peer did what no peer does: it goes, the run goes on. */
static void violation(struct coord *c, const struct coord_event *e, const char *text,
                      uint64_t expected, uint64_t found)
{
    struct coord_action *action = act_to(c, COORD_ACTION_VIOLATION, e->peer, e->link);
    action->refuse.text = text;
    action->refuse.expected = expected;
    action->refuse.found = found;
    refuse(c, e->peer, e->link, text, expected, found);
    c->violations++;
    peer_lost(c, e->peer, true);
}

/* ---- Gathering, planning, forming (M1 - M9) ---------------------------------------------------
 */

/* The best state present: of the newest generation, then with the most steps. NULL = none. */
static struct worker *best_survivor(struct coord *c)
{
    struct worker *best = NULL;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase != READY || !is_survivor(c, w))
            continue;
        if (!best || w->state_generation > best->state_generation ||
            (w->state_generation == best->state_generation && w->applied_step > best->applied_step))
            best = w;
    }
    return best;
}

/* Survivors of one generation differ by at most one step, and equal steps have equal bits (S4). */
static bool survivors_agree(struct coord *c, const struct worker *best)
{
    for (uint32_t i = 0; i < c->worker_top; i++) {
        const struct worker *w = &c->workers[i];
        if (w->phase != READY || !is_survivor(c, w) ||
            w->state_generation != best->state_generation)
            continue;
        if (w->applied_step + 1 < best->applied_step) {
            fail(c, w, "survivors are more than one step apart", (uint64_t)best->applied_step,
                 (uint64_t)w->applied_step);
            return false;
        }
        if (w->applied_step == best->applied_step &&
            memcmp(&w->digest, &best->digest, sizeof w->digest) != 0) {
            fail(c, w, "survivors hold different states of one step", (uint64_t)best->applied_step,
                 (uint64_t)w->applied_step);
            return false;
        }
    }
    return true;
}

/* The source, then who has a state, then the others: more than a step can keep busy stay spare. */
static void choose_members(struct coord *c, struct worker *source)
{
    uint32_t room = bl_plan_world_max(&c->config.plan);
    c->plan.world = source != NULL;
    if (source)
        source->phase = PLANNED;
    for (int survivors = 1; survivors >= 0; survivors--)
        for (uint32_t i = 0; i < c->worker_top && c->plan.world < room; i++) {
            struct worker *w = &c->workers[i];
            if (w->phase != READY || is_survivor(c, w) != (survivors == 1))
                continue;
            w->phase = PLANNED;
            c->plan.world++;
        }
}

static void plan_generation(struct coord *c, struct worker *source,
                            struct coord_checkpoint checkpoint)
{
    c->plan.broken = false;
    c->plan.source = source ? source - c->workers : -1;
    c->plan.step = source ? (uint64_t)source->applied_step : checkpoint.step;
    c->plan.state_generation = source ? source->state_generation : 0;
    c->plan.checkpoint = checkpoint;
    bool put_back = c->ledger.committed > 0 || checkpoint.generation > 0;
    if (!source && put_back) {
        journal(c, (struct coord_record){.type = COORD_RECORD_REWIND,
                                         .step = checkpoint.step,
                                         .generation = checkpoint.generation});
        memset(c->saves, 0, sizeof c->saves);
        c->validated_count = 0;
        c->issued = checkpoint.step;
        c->floor = c->generation + 1;
    }
    choose_members(c, source);
    c->generation++;
    journal(c, (struct coord_record){.type = COORD_RECORD_GENERATION,
                                     .generation = c->generation,
                                     .step = c->plan.step,
                                     .world = c->plan.world});
    c->state = COORD_PLANNING;
}

/* How many READY workers the next generation waits for (M2). */
static uint32_t workers_needed(const struct coord *c, uint32_t ready)
{
    if (c->stopping)
        return 1;
    uint32_t need = c->config.workers_min;
    bool patient = c->first && (ready < c->config.workers_min ||
                                c->now_ms < c->ready_since_ms + c->timing.forming_ms);
    if (patient && c->config.workers_wanted > need)
        need = c->config.workers_wanted;
    if (patient && !c->config.members_gone && c->ledger.world > need)
        need = c->ledger.world;
    return need;
}

/* Nothing of this state is lost when everybody leaves: the fresh state is a function of the seed.
 */
static bool is_kept(const struct coord *c, const struct worker *w)
{
    return w->applied_step == 0 || is_saved(c, (uint64_t)w->applied_step);
}

static void settle_gathering(struct coord *c)
{
    uint32_t ready = workers_in(c, READY);
    if (ready < c->config.workers_min)
        c->ready_since_ms = c->now_ms;
    if (is_complete(c))
        return leave(c, 0, "the run is complete");
    struct worker *best = best_survivor(c);
    bool nobody = !best && (c->stop_overdue || c->now_ms >= c->absent_until_ms);
    if (c->stopping && (nobody || (best && is_kept(c, best))))
        return leave(c, c->stop_code, "stopped");
    if (ready < workers_needed(c, ready) || c->now_ms < c->gather_after_ms)
        return;
    if (best) {
        if (survivors_agree(c, best))
            plan_generation(c, best, (struct coord_checkpoint){0});
        return;
    }
    if (c->now_ms < c->absent_until_ms)
        return; /* a worker that is away may come back with its state */
    if (c->ledger.checkpoint_count > 0) {
        c->checking = c->ledger.checkpoints[c->ledger.checkpoint_count - 1];
        c->check = CHECK_RUNNING;
        act(c, COORD_ACTION_VERIFY)->checkpoint = c->checking;
        c->state = COORD_CHECKING;
    } else if (c->ledger.committed == 0) {
        plan_generation(c, NULL, (struct coord_checkpoint){0});
    } else {
        leave(c, BL_EDATA, "no registered checkpoint is whole");
    }
}

static void settle_checking(struct coord *c)
{
    if (c->check == CHECK_BAD) {
        journal(c, (struct coord_record){.type = COORD_RECORD_DAMAGED,
                                         .step = c->checking.step,
                                         .generation = c->checking.generation});
        c->check = CHECK_DROPPING;
    }
    if (c->check == CHECK_DROPPING) {
        if (journal_is_idle(c))
            c->state = COORD_GATHERING;
        return;
    }
    uint32_t ready = workers_in(c, READY);
    if (c->stopping || best_survivor(c) || ready < workers_needed(c, ready))
        c->state = COORD_GATHERING;
    else if (c->check == CHECK_OK)
        plan_generation(c, NULL, c->checking);
}

static void send_forms(struct coord *c)
{
    uint32_t rank = 0;
    int32_t source = -1;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase != PLANNED)
            continue;
        w->phase = MEMBER;
        w->rank = rank;
        w->formed = false;
        w->done = w->next_step = c->plan.step;
        w->next_index = w->next_validate = 0;
        *ordered_digest(c, w, c->plan.step) = 0;
        c->ranks[rank] = i;
        if (i == c->plan.source)
            source = (int32_t)rank;
        rank++;
    }
    BL_ASSERT_CMP(rank, ==, c->plan.world);
    for (rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        struct coord_action *action = act_to(c, COORD_ACTION_FORM, w->peer, w->link);
        action->form.rank = rank;
        action->form.world = c->plan.world;
        action->form.source = source;
        action->form.step = c->plan.step;
        action->form.state_generation = c->plan.state_generation;
        action->form.checkpoint = c->plan.checkpoint;
    }
    c->forming_since_ms = c->now_ms;
    c->state = COORD_FORMING;
}

static void settle_planning(struct coord *c)
{
    if (!journal_is_idle(c))
        return;
    if (!c->plan.broken)
        return send_forms(c);
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase == PLANNED)
            c->workers[i].phase = READY;
    c->state = COORD_GATHERING;
}

static void order_save(struct coord *c, uint64_t step);

/* Everyone holds the same state: the steps in it are the lineage (M8). */
static void settle_forming(struct coord *c)
{
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (!rank_worker(c, rank)->formed)
            return;
    const struct bl_digest *digest = c->plan.source >= 0 ? &c->workers[c->plan.source].digest
                                                         : &rank_worker(c, 0)->formed_digest;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (memcmp(&rank_worker(c, rank)->formed_digest, digest, sizeof *digest) != 0)
            return fail(c, rank_worker(c, rank), "a rank holds another state than the source",
                        c->plan.step, c->plan.step);
    c->formed = c->generation;
    c->first = false;
    c->absent_until_ms = 0;
    c->unformed_since_ms = 0;
    c->save_failures = 0;
    c->regrouping = false;
    if (c->stopping)
        c->last = c->plan.step;
    while (c->issued < c->plan.step)
        journal(c, (struct coord_record){.type = COORD_RECORD_COMMIT,
                                         .generation = c->generation,
                                         .step = c->issued++,
                                         .via_survivors = true});
    c->state = COORD_TRAINING;
    if (bl_plan_checkpoints(&c->config.plan, c->plan.step))
        order_save(c, c->plan.step);
}

static void settle_ending(struct coord *c)
{
    if (workers_in(c, CLOSING) == 0)
        c->state = COORD_GATHERING;
}

/* ---- Orders (O1 - O6) -------------------------------------------------------------------------
 */

static uint64_t sample_at(const struct coord *c, enum bl_kind kind, uint64_t step, uint32_t place,
                          uint32_t *ret_epoch)
{
    *ret_epoch = 0;
    if (kind == BL_KIND_VALIDATE)
        return c->config.validate_ids[place];
    uint64_t index;
    bl_plan_sample(&c->config.plan, step, place, ret_epoch, &index);
    return c->config.train_ids[index];
}

/* Training steps below it may be ordered: within steps_ahead of the lowest step whose commit is not
 * on disk, and never past a validation or a checkpoint that must come first. */
static uint64_t order_end(const struct coord *c)
{
    const struct bl_plan *plan = &c->config.plan;
    uint64_t committed = c->ledger.committed, end = committed + 1 + plan->steps_ahead;
    if (end > plan->steps)
        end = plan->steps;
    if (c->regrouping && end > c->hold)
        end = c->hold;
    if (c->stopping && end > c->last)
        end = c->last;
    for (uint64_t step = committed; step < end; step++)
        if ((step == 0 && !is_saved(c, 0)) ||
            (bl_plan_validates(plan, step) && c->ledger.validated < (int64_t)step))
            return step;
    return end;
}

/* Steps that some rank has all its groups of: it may wait in their all-reduce, so who stops has to
 * get so far. Nobody can get further. */
static uint64_t steps_begun(const struct coord *c)
{
    uint64_t highest = 0;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (rank_worker(c, rank)->next_step > highest)
            highest = rank_worker(c, rank)->next_step;
    return highest;
}

static struct bl_range validation_share(const struct coord *c, uint32_t rank)
{
    return bl_share(c->to_validate_count, rank, c->plan.world);
}

/* The next new group for this rank, of a training step below `end`. */
static bool next_group(const struct coord *c, const struct worker *w, uint64_t end,
                       struct lease *ret_lease)
{
    if (c->state == COORD_VALIDATING) {
        struct bl_range share = validation_share(c, w->rank);
        if (w->next_validate >= share.count)
            return false;
        *ret_lease = (struct lease){.kind = BL_KIND_VALIDATE,
                                    .step = c->validating,
                                    .group = c->to_validate[share.first + w->next_validate]};
        return true;
    }
    if (w->next_step >= end)
        return false;
    *ret_lease = (struct lease){.kind = BL_KIND_TRAIN,
                                .step = w->next_step,
                                .group = rank_groups(c, w->rank).first + w->next_index};
    return true;
}

/* Moves w's cursor past the group it stood at, adding what was ordered to the step's digest. */
static void group_ordered(struct coord *c, struct worker *w, const struct lease *lease)
{
    if (lease->kind == BL_KIND_VALIDATE) {
        w->next_validate++;
        return;
    }
    struct bl_range places = bl_plan_places(&c->config.plan, lease->kind, lease->group);
    uint64_t *digest = ordered_digest(c, w, lease->step);
    for (uint32_t place = places.first; place < places.first + places.count; place++) {
        uint32_t epoch;
        *digest += bl_sample_term(place, sample_at(c, lease->kind, lease->step, place, &epoch));
    }
    if (++w->next_index == rank_groups(c, w->rank).count) {
        w->next_index = 0;
        w->next_step++;
        *ordered_digest(c, w, w->next_step) = 0;
    }
}

static struct lease *lease_in(const struct coord *c, const struct worker *w, enum lease_state state)
{
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state == state)
            return &w->leases[k];
    return NULL;
}

/* A revoked lease first; else the rank whose next group comes first in its share, lowest step
 * first: so ranks are served alike. The lease is in LEASE_REVOKED, to be given out. */
static struct lease *next_lease(struct coord *c, uint64_t end, struct worker **ret_worker)
{
    for (uint32_t rank = 0; c->revoked_count > 0 && rank < c->plan.world; rank++) {
        *ret_worker = rank_worker(c, rank);
        struct lease *lease = lease_in(c, *ret_worker, LEASE_REVOKED);
        if (lease)
            return lease;
    }
    struct worker *best = NULL;
    struct lease best_lease = {0};
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        struct lease lease;
        if (w->lease_count == c->config.plan.window || !next_group(c, w, end, &lease))
            continue;
        if (!best || lease.step < best_lease.step ||
            (lease.step == best_lease.step &&
             w->next_index + w->next_validate < best->next_index + best->next_validate)) {
            best = w;
            best_lease = lease;
        }
    }
    if (!best)
        return NULL;
    group_ordered(c, best, &best_lease);
    struct lease *lease = lease_in(c, best, LEASE_FREE);
    *lease = best_lease;
    lease->loader = UINT32_MAX;
    lease_revoke(c, lease);
    best->lease_count++;
    *ret_worker = best;
    return lease;
}

/* The loader with most room; the one that had the lease before only if no other has any. */
static struct loader *loader_with_room(struct coord *c, uint32_t not_this)
{
    struct loader *best = NULL, *fallback = NULL;
    for (uint32_t i = 0; i < c->loader_top; i++) {
        struct loader *l = &c->loaders[i];
        if (!l->present || !l->ready || l->held == l->capacity)
            continue;
        if (i == not_this)
            fallback = l;
        else if (!best || l->capacity - l->held > best->capacity - best->held)
            best = l;
    }
    return best ? best : fallback;
}

static void issue_orders(struct coord *c)
{
    uint64_t end = order_end(c);
    for (int orders = 0; loader_with_room(c, UINT32_MAX); orders++) {
        if (orders == ORDERS_PER_CALL) {
            c->actions.more = true;
            return;
        }
        struct worker *w;
        struct lease *lease = next_lease(c, end, &w);
        if (!lease)
            return;
        struct loader *l = loader_with_room(c, lease->loader);
        lease->state = LEASE_OUT;
        c->revoked_count--;
        lease->loader = (uint32_t)(l - c->loaders);
        lease->since_ms = c->now_ms;
        l->held++;
        struct coord_action *action = act_to(c, COORD_ACTION_ORDER, l->peer, l->link);
        action->order.kind = lease->kind;
        action->order.step = lease->step;
        action->order.group = lease->group;
        action->order.places = bl_plan_places(&c->config.plan, lease->kind, lease->group);
        action->order.worker = w->peer;
    }
}

void coord_order_samples(const struct coord *c, const struct coord_action *order,
                         uint64_t *ret_sample, uint32_t *ret_epoch)
{
    for (uint32_t i = 0; i < order->order.places.count; i++)
        ret_sample[i] = sample_at(c, order->order.kind, order->order.step,
                                  order->order.places.first + i, &ret_epoch[i]);
}

/* ---- Checkpoints (C1 - C6) --------------------------------------------------------------------
 */

static uint32_t saves_unchecked(const struct coord *c)
{
    uint32_t count = 0;
    for (int i = 0; i < SAVES_MAX; i++)
        count += c->saves[i].state == SAVE_VERIFYING || c->saves[i].state == SAVE_JOURNALING;
    return count;
}

/* A free entry; if there is none, the one whose writer was asked longest ago gives way. NULL: all
 * wait for the checksums of others, which needs a rank 0 that does not wait for its Saves. */
static struct save *save_entry(struct coord *c)
{
    struct save *oldest = NULL;
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state == SAVE_FREE)
            return save;
        if (save->state == SAVE_ORDERED &&
            (!oldest || save->checkpoint.generation < oldest->checkpoint.generation))
            oldest = save;
    }
    return oldest;
}

static bool is_being_saved(const struct coord *c, uint64_t step)
{
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state != SAVE_FREE && c->saves[i].checkpoint.step == step)
            return true;
    return false;
}

static void order_save(struct coord *c, uint64_t step)
{
    struct coord_checkpoint checkpoint = {step, c->generation};
    if (is_saved(c, step) || is_being_saved(c, step))
        return;
    struct save *save = save_entry(c);
    if (save)
        *save = (struct save){.state = SAVE_WANTED, .checkpoint = checkpoint};
    else
        act(c, COORD_ACTION_UNSAVED)->checkpoint = checkpoint;
}

static void send_saves(struct coord *c)
{
    const struct worker *w = rank_worker(c, 0);
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_WANTED || saves_unchecked(c) >= SAVES_UNCHECKED_MAX ||
            save->checkpoint.step > c->ledger.committed)
            continue;
        save->state = SAVE_ORDERED;
        save->peer = w->peer;
        save->link = w->link;
        act_to(c, COORD_ACTION_SAVE, w->peer, w->link)->checkpoint = save->checkpoint;
    }
}

/* Steps after which a living generation has nothing more to do. */
static uint64_t end_step(const struct coord *c)
{
    return c->stopping ? c->last : c->config.plan.steps;
}

/* The run may not go on before the state after `committed` steps is registered. */
static bool must_be_saved(const struct coord *c)
{
    uint64_t done = c->ledger.committed;
    return (done == 0 || done == end_step(c)) && !is_saved(c, done);
}

static void save_failed(struct coord *c, struct save *save)
{
    uint64_t step = save->checkpoint.step;
    act(c, COORD_ACTION_UNSAVED)->checkpoint = save->checkpoint;
    save->state = SAVE_FREE;
    if (is_live(c) && step == c->ledger.committed && must_be_saved(c) &&
        ++c->save_failures >= SAVE_FAILURES_MAX)
        leave(c, BL_EIO, "a checkpoint that is needed cannot be written");
}

/* ---- A living generation (L1, L2, V1 - V3) ------------------------------------------------------------
 */

static void validation_begin(struct coord *c)
{
    uint32_t groups = bl_plan_groups(&c->config.plan, BL_KIND_VALIDATE);
    if (c->validated_count == 0 || c->validating != c->ledger.committed) {
        memset(c->validated, 0, groups);
        c->validated_count = 0;
        c->validating = c->ledger.committed;
    }
    c->to_validate_count = 0;
    for (uint32_t group = 0; group < groups; group++)
        if (!c->validated[group])
            c->to_validate[c->to_validate_count++] = group;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        rank_worker(c, rank)->next_validate = 0;
}

static enum coord_state live_state(const struct coord *c)
{
    if (c->issued > c->ledger.committed)
        return COORD_TRAINING;
    if (c->ledger.committed == 0 && !is_saved(c, 0))
        return COORD_SAVING;
    if (!c->stopping && validation_is_due(c))
        return COORD_VALIDATING;
    return c->ledger.committed == end_step(c) ? COORD_SAVING : COORD_TRAINING;
}

static void settle_live(struct coord *c)
{
    bool spare = workers_in(c, READY) > 0 && c->plan.world < bl_plan_world_max(&c->config.plan);
    if (!spare)
        c->regrouping = false;
    else if (!c->regrouping && !c->stopping && c->ledger.committed < c->config.plan.steps) {
        c->regrouping = true;
        c->hold = steps_begun(c);
    }
    if (c->regrouping && !c->stopping && c->ledger.committed >= c->hold)
        return end_generation(c);
    enum coord_state before = c->state;
    c->state = live_state(c);
    if (c->state == COORD_VALIDATING && before != COORD_VALIDATING)
        validation_begin(c);
    if (c->state == COORD_SAVING) {
        if (!must_be_saved(c))
            return leave(c, c->stopping ? c->stop_code : 0,
                         c->stopping ? "stopped" : "the run is complete");
        order_save(c, c->ledger.committed);
    }
    send_saves(c);
    issue_orders(c);
}

static void settle_leaving(struct coord *c)
{
    if (!c->leave_journaled || peers_present(c) > 0)
        return;
    struct coord_action *action = act(c, COORD_ACTION_EXIT);
    action->exit.code = c->exit_code;
    action->exit.text = c->exit_text;
    c->state = COORD_FINISHED;
}

static void settle_finished(struct coord *c)
{
}

static void settle(struct coord *c)
{
    static void (*const settle_state[COORD_STATE_COUNT])(struct coord *) = {
        [COORD_GATHERING] = settle_gathering, [COORD_CHECKING] = settle_checking,
        [COORD_PLANNING] = settle_planning,   [COORD_FORMING] = settle_forming,
        [COORD_TRAINING] = settle_live,       [COORD_VALIDATING] = settle_live,
        [COORD_SAVING] = settle_live,         [COORD_ENDING] = settle_ending,
        [COORD_LEAVING] = settle_leaving,     [COORD_FINISHED] = settle_finished,
    };
    enum coord_state before;
    do {
        before = c->state;
        settle_state[before](c);
    } while (c->state != before);
}

/* ---- One function per event -------------------------------------------------------------------
 */

static bool is_member(const struct coord *c, const struct worker *w, const struct coord_event *e)
{
    return w && w->link == e->link && w->phase == MEMBER && e->generation == c->generation;
}

/* The sender as a member of the living generation; NULL = its message is late. */
static struct worker *member(struct coord *c, const struct coord_event *e)
{
    struct worker *w = worker_find(c, e->peer);
    if (is_member(c, w, e))
        return w;
    c->late++;
    return NULL;
}

static void welcome(struct coord *c, const struct coord_event *e)
{
    act_to(c, COORD_ACTION_WELCOME, e->peer, e->link);
    if (c->leave_journaled)
        say_stop(c, e->peer, e->link);
}

static void hello_worker(struct coord *c, const struct coord_event *e)
{
    uint32_t i = 0;
    while (i < c->worker_top && c->workers[i].phase != ABSENT)
        i++;
    if (i == c->config.workers_max)
        return refuse(c, e->peer, e->link, "no room for another worker", i, (uint64_t)i + 1);
    if (i == c->worker_top)
        c->worker_top++;
    struct worker *w = &c->workers[i];
    w->phase = OPENING;
    w->peer = e->peer;
    w->link = e->link;
    w->heard_ms = e->now_ms;
    w->applied_step = -1;
    welcome(c, e);
}

static void hello_loader(struct coord *c, const struct coord_event *e)
{
    if (e->hello.capacity == 0 || e->hello.capacity > BL_LOADER_CAPACITY_MAX)
        return refuse(c, e->peer, e->link, "a loader's capacity is out of range",
                      BL_LOADER_CAPACITY_MAX, e->hello.capacity);
    uint32_t i = 0;
    while (i < c->loader_top && c->loaders[i].present)
        i++;
    if (i == c->config.loaders_max)
        return refuse(c, e->peer, e->link, "no room for another loader", i, (uint64_t)i + 1);
    if (i == c->loader_top)
        c->loader_top++;
    c->loaders[i] = (struct loader){.present = true,
                                    .peer = e->peer,
                                    .link = e->link,
                                    .heard_ms = e->now_ms,
                                    .capacity = e->hello.capacity};
    welcome(c, e);
}

static void on_hello(struct coord *c, const struct coord_event *e)
{
    const struct worker *w = worker_find(c, e->peer);
    const struct loader *l = loader_find(c, e->peer);
    if (w || l) {
        uint64_t link = w ? w->link : l->link;
        if (link == e->link)
            return (void)act_to(c, COORD_ACTION_WELCOME, e->peer, e->link); /* asked twice */
        act_to(c, COORD_ACTION_FORGET, e->peer, link);
        peer_lost(c, e->peer, false);
    }
    if (e->hello.role == BL_ROLE_WORKER)
        hello_worker(c, e);
    else if (e->hello.role == BL_ROLE_LOADER)
        hello_loader(c, e);
    else
        refuse(c, e->peer, e->link, "a peer is a worker or a loader", BL_ROLE_WORKER,
               e->hello.role);
}

static void on_ended(struct coord *c, const struct coord_event *e)
{
    struct loader *l = loader_find(c, e->peer);
    if (l) {
        if (l->ready)
            return violation(c, e, "a loader is ready once", 1, 2);
        l->ready = true;
        return;
    }
    struct worker *w = worker_find(c, e->peer);
    if (w->phase != OPENING && w->phase != CLOSING)
        return violation(c, e, "Ended is the answer to Welcome or End", CLOSING, w->phase);
    if (e->ended.applied_step < -1 || e->ended.state_generation > c->ledger.generation)
        return violation(c, e, "a state of a generation that never was", c->ledger.generation,
                         e->ended.state_generation);
    w->phase = READY;
    w->applied_step = e->ended.applied_step;
    w->state_generation = e->ended.state_generation;
    w->digest = e->ended.digest;
    if (!is_survivor(c, w))
        return;
    uint64_t most = c->ledger.committed + c->config.plan.steps_ahead + 1;
    if ((uint64_t)w->applied_step > most)
        violation(c, e, "a state with steps that were never ordered", most,
                  (uint64_t)w->applied_step);
    else if ((uint64_t)w->applied_step < c->issued)
        violation(c, e, "a state without a step that its generation committed", c->issued,
                  (uint64_t)w->applied_step);
}

static void on_beat(struct coord *c, const struct coord_event *e)
{
}

static void on_rendezvous(struct coord *c, const struct coord_event *e)
{
    if (!member(c, e))
        return;
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        const struct worker *w = rank_worker(c, rank);
        act_to(c, COORD_ACTION_RELAY, w->peer, w->link);
    }
}

static void on_formed(struct coord *c, const struct coord_event *e)
{
    struct worker *w = member(c, e);
    if (!w)
        return;
    if (w->formed)
        return violation(c, e, "Formed once a generation", 1, 2);
    if (e->formed.step != c->plan.step)
        return violation(c, e, "Formed with another step", c->plan.step, e->formed.step);
    w->formed = true;
    w->formed_digest = e->formed.digest;
}

static struct lease *lease_of(const struct coord *c, const struct worker *w,
                              const struct coord_event *e)
{
    for (uint32_t k = 0; k < c->config.plan.window; k++) {
        struct lease *lease = &w->leases[k];
        if (lease->state != LEASE_FREE && lease->kind == e->group.kind &&
            lease->step == e->group.step && lease->group == e->group.group)
            return lease;
    }
    return NULL;
}

static void on_got(struct coord *c, const struct coord_event *e)
{
    struct worker *w = member(c, e);
    if (!w)
        return;
    struct lease *lease = lease_of(c, w, e);
    if (!lease || lease->state == LEASE_GOT)
        return violation(c, e, "Got without an order", e->group.step, e->group.group);
    c->revoked_count -= lease->state == LEASE_REVOKED;
    lease->state = LEASE_GOT;
}

static void on_used(struct coord *c, const struct coord_event *e)
{
    struct worker *w = member(c, e);
    if (!w)
        return;
    struct lease *lease = lease_of(c, w, e);
    if (!lease || lease->state != LEASE_GOT)
        return violation(c, e, "Used before Got", e->group.step, e->group.group);
    lease_free(c, w, lease);
}

/* Are these ranges, in order, exactly the places of the rank's share? */
static bool trained_is_share(const struct coord *c, const struct worker *w,
                             const struct coord_event *e)
{
    const struct bl_plan *plan = &c->config.plan;
    struct bl_range groups = rank_groups(c, w->rank);
    struct bl_range last = bl_plan_places(plan, BL_KIND_TRAIN, groups.first + groups.count - 1);
    uint64_t next = bl_plan_places(plan, BL_KIND_TRAIN, groups.first).first;
    for (uint32_t i = 0; i < e->report.trained_count; i++) {
        if (e->report.trained[i].first != next)
            return false;
        next += e->report.trained[i].count;
    }
    return next == (uint64_t)last.first + last.count;
}

/* Commits every step that all ranks have applied (L2). */
static void commit(struct coord *c)
{
    uint64_t lowest = UINT64_MAX;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (rank_worker(c, rank)->done < lowest)
            lowest = rank_worker(c, rank)->done;
    for (; c->issued < lowest; c->issued++) {
        uint64_t digest = 0;
        for (uint32_t rank = 0; rank < c->plan.world; rank++)
            digest += *ordered_digest(c, rank_worker(c, rank), c->issued);
        journal(c, (struct coord_record){.type = COORD_RECORD_COMMIT,
                                         .generation = c->generation,
                                         .step = c->issued,
                                         .digest = digest});
    }
}

static void on_report(struct coord *c, const struct coord_event *e)
{
    struct worker *w = member(c, e);
    if (!w)
        return;
    if (e->report.step != w->done || e->report.step >= w->next_step)
        return violation(c, e, "Report of a step that is not the next", w->done, e->report.step);
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state != LEASE_FREE && w->leases[k].step <= e->report.step)
            return violation(c, e, "Report before its groups were Used", w->leases[k].step,
                             e->report.step);
    uint64_t expected = *ordered_digest(c, w, e->report.step);
    if (!trained_is_share(c, w, e))
        return fail(c, w, "a rank trained other places than its own", rank_groups(c, w->rank).count,
                    e->report.trained_count);
    if (e->report.sample_digest != expected)
        return fail(c, w, "a rank trained other samples than ordered", expected,
                    e->report.sample_digest);
    w->done++;
    commit(c);
}

static void on_validation(struct coord *c, const struct coord_event *e)
{
    struct worker *w = member(c, e);
    if (!w)
        return;
    struct lease *lease = lease_of(c, w, e);
    if (e->group.kind != BL_KIND_VALIDATE || !lease || lease->state != LEASE_GOT)
        return violation(c, e, "a validation result without an order", c->validating,
                         e->group.step);
    if (c->validated[e->group.group])
        return;
    c->validated[e->group.group] = 1;
    c->validated_count++;
    act(c, COORD_ACTION_ACCEPTED)->step = c->validating;
    if (c->validated_count < bl_plan_groups(&c->config.plan, BL_KIND_VALIDATE))
        return;
    act(c, COORD_ACTION_VALIDATED)->step = c->validating;
    journal(c, (struct coord_record){.type = COORD_RECORD_VALIDATED, .step = c->validating});
}

/* Too slow, or a worker could not connect. Once is bad luck; for long, it will never succeed. */
static void forming_failed(struct coord *c)
{
    if (c->unformed_since_ms == 0)
        c->unformed_since_ms = c->now_ms;
    uint64_t most = (uint64_t)FORMING_PATIENCES_MAX * c->config.patience_ms;
    if (c->now_ms >= c->unformed_since_ms + most)
        return leave(c, BL_EPEER, "the workers cannot form a communicator");
    c->gather_after_ms = c->now_ms + c->timing.heartbeat_ms;
    end_generation(c);
}

static void on_broken(struct coord *c, const struct coord_event *e)
{
    if (!member(c, e))
        return;
    if (c->state == COORD_FORMING)
        forming_failed(c);
    else
        end_generation(c);
}

static void on_saved(struct coord *c, const struct coord_event *e)
{
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_ORDERED || save->link != e->link ||
            save->checkpoint.step != e->saved.step)
            continue;
        char name[COORD_CHECKPOINT_NAME_MAX];
        coord_checkpoint_name(save->checkpoint, name);
        if (strcmp(name, e->saved.folder) != 0)
            continue;
        if (!e->saved.ok)
            return save_failed(c, save);
        save->state = SAVE_VERIFYING;
        act(c, COORD_ACTION_VERIFY)->checkpoint = save->checkpoint;
        return;
    }
    c->late++;
}

static void begin_stop(struct coord *c, int code)
{
    if (c->stopping)
        return;
    c->stopping = true;
    c->stop_code = code;
    c->stop_deadline_ms = c->now_ms + c->timing.drain_ms;
    if (is_live(c))
        c->last = steps_begun(c);
}

static bool mark(uint8_t *set, uint64_t sample)
{
    uint8_t bit = (uint8_t)(1u << sample % 8);
    bool is_new = !(set[sample / 8] & bit);
    set[sample / 8] |= bit;
    return is_new;
}

static void count_samples(struct coord *c, const struct coord_event *e)
{
    struct bl_range places = bl_plan_places(&c->config.plan, e->group.kind, e->group.group);
    uint32_t next_void = 0;
    for (uint32_t slot = 0; slot < places.count; slot++) {
        uint32_t epoch;
        uint64_t sample = sample_at(c, e->group.kind, e->group.step, places.first + slot, &epoch);
        c->seen += mark(c->seen_samples, sample);
        if (next_void == e->group.void_count || e->group.voids[next_void].slot != slot)
            continue;
        if (e->group.voids[next_void].sample != sample)
            return violation(c, e, "a void slot names another sample than ordered", sample,
                             e->group.voids[next_void].sample);
        if (mark(c->bad_samples, sample)) {
            c->bad++;
            act(c, COORD_ACTION_BAD_SAMPLE)->void_index = next_void;
        }
        next_void++;
    }
    if (next_void != e->group.void_count)
        return violation(c, e, "void slots out of range or order", next_void, e->group.void_count);
    if (c->seen >= c->config.bad_minimum &&
        (double)c->bad > c->config.max_bad_fraction * (double)c->seen)
        begin_stop(c, BL_EDATA);
}

static void on_sent(struct coord *c, const struct coord_event *e)
{
    struct loader *l = loader_find(c, e->peer);
    if (!l || l->held == 0)
        return violation(c, e, "Sent without an order", 1, 0);
    l->held--;
    if ((e->group.kind != BL_KIND_TRAIN && e->group.kind != BL_KIND_VALIDATE) ||
        e->group.group >= bl_plan_groups(&c->config.plan, e->group.kind) ||
        e->group.step > c->config.plan.steps)
        return violation(c, e, "Sent for a group that is not", e->group.kind, e->group.group);
    if (e->generation == c->generation)
        count_samples(c, e);
}

static void on_goodbye(struct coord *c, const struct coord_event *e)
{
    act_to(c, COORD_ACTION_FORGET, e->peer, e->link);
    peer_lost(c, e->peer, true);
}

static void on_lost(struct coord *c, const struct coord_event *e)
{
    const struct worker *w = worker_find(c, e->peer);
    const struct loader *l = loader_find(c, e->peer);
    if ((!w && !l) || (e->link != 0 && e->link != (w ? w->link : l->link))) {
        c->late++;
        return;
    }
    act_to(c, COORD_ACTION_FORGET, e->peer, w ? w->link : l->link);
    peer_lost(c, e->peer, e->lost.dead);
}

/* A record is on disk: only now does it count, and only now may anybody hear of it (J2). */
static void record_on_disk(struct coord *c, const struct coord_record *record)
{
    int rc = coord_ledger_apply(&c->ledger, record, NULL);
    BL_ASSERT_CMP(rc, ==, 0);
    struct coord_action *action;
    switch (record->type) {
    case COORD_RECORD_COMMIT:
        action = act(c, COORD_ACTION_COMMITTED);
        action->committed.step = record->step;
        action->committed.via_survivors = record->via_survivors;
        if (is_live(c) && record->generation == c->generation && !record->via_survivors &&
            bl_plan_snapshots(&c->config.plan, record->step + 1))
            order_save(c, record->step + 1); /* rank 0 has its copy ready and waits for it (C2) */
        break;
    case COORD_RECORD_REWIND:
        act(c, COORD_ACTION_REWOUND)->step = record->step;
        break;
    case COORD_RECORD_CHECKPOINT:
        act(c, COORD_ACTION_REGISTERED)->checkpoint =
            (struct coord_checkpoint){record->step, record->generation};
        for (int i = 0; i < SAVES_MAX; i++)
            if (c->saves[i].state == SAVE_JOURNALING && c->saves[i].checkpoint.step == record->step)
                c->saves[i].state = SAVE_FREE;
        break;
    case COORD_RECORD_VALIDATED:
        c->validated_count = 0;
        break;
    case COORD_RECORD_FINISH:
        c->leave_journaled = true;
        say_stop_to_all(c);
        break;
    default:
        break;
    }
}

static void on_journaled(struct coord *c, const struct coord_event *e)
{
    BL_ASSERT_CMP(e->journaled.seq, <, c->journal_next);
    while (c->journal_first <= e->journaled.seq) {
        struct coord_record record = c->pending[c->journal_first++ % PENDING_MAX];
        record_on_disk(c, &record);
    }
}

static void on_verified(struct coord *c, const struct coord_event *e)
{
    struct coord_checkpoint found = e->verified.checkpoint;
    if (c->state == COORD_CHECKING && c->check == CHECK_RUNNING && found.step == c->checking.step &&
        found.generation == c->checking.generation) {
        c->check = e->verified.ok ? CHECK_OK : CHECK_BAD;
        return;
    }
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_VERIFYING || save->checkpoint.step != found.step ||
            save->checkpoint.generation != found.generation)
            continue;
        if (!e->verified.ok)
            return save_failed(c, save);
        save->state = SAVE_JOURNALING;
        journal(c, (struct coord_record){.type = COORD_RECORD_CHECKPOINT,
                                         .step = found.step,
                                         .generation = found.generation});
        return;
    }
    c->late++;
}

static void on_stop(struct coord *c, const struct coord_event *e)
{
    begin_stop(c, BL_ESTOPPED);
}

static bool is_past(uint64_t now_ms, uint64_t since_ms, uint32_t wait_ms)
{
    return now_ms >= since_ms + wait_ms;
}

static void tick_peers(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase == ABSENT)
            continue;
        if (is_past(c->now_ms, w->heard_ms, c->timing.lost_ms)) {
            act_to(c, COORD_ACTION_FORGET, w->peer, w->link);
            worker_lost(c, w, false);
        } else if (w->phase == CLOSING && is_past(c->now_ms, w->end_sent_ms, c->timing.ending_ms)) {
            refuse(c, w->peer, w->link, "End was not answered in time (ms)", c->timing.ending_ms,
                   c->now_ms - w->end_sent_ms);
            worker_lost(c, w, true);
        }
    }
    for (uint32_t i = 0; i < c->loader_top; i++) {
        struct loader *l = &c->loaders[i];
        if (!l->present || !is_past(c->now_ms, l->heard_ms, c->timing.lost_ms))
            continue;
        act_to(c, COORD_ACTION_FORGET, l->peer, l->link);
        loader_lost(c, l);
    }
}

static void tick_leases(struct coord *c)
{
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        for (uint32_t k = 0; k < c->config.plan.window; k++) {
            struct lease *lease = &rank_worker(c, rank)->leases[k];
            if (lease->state == LEASE_OUT &&
                is_past(c->now_ms, lease->since_ms, c->timing.lease_ms))
                lease_revoke(c, lease);
        }
}

/* A stop that does not come to its end is cut short twice: first no further step is waited for,
 * then no further checkpoint (E3). */
static void tick_stopping(struct coord *c)
{
    if (!c->stopping || c->now_ms < c->stop_deadline_ms || c->state == COORD_LEAVING)
        return;
    if (c->stop_overdue)
        return leave(c, c->stop_code, "stopped without saving the last steps");
    c->stop_overdue = true;
    c->stop_deadline_ms = c->now_ms + c->timing.drain_ms;
    if (c->state == COORD_TRAINING && c->issued == c->ledger.committed)
        end_generation(c);
}

static void on_tick(struct coord *c, const struct coord_event *e)
{
    if (c->now_ms >= c->pulse_ms) {
        c->pulse_ms = c->now_ms + c->timing.heartbeat_ms;
        act(c, COORD_ACTION_PULSE);
    }
    tick_peers(c);
    if (is_live(c))
        tick_leases(c);
    if (c->state == COORD_FORMING && is_past(c->now_ms, c->forming_since_ms, c->timing.forming_ms))
        forming_failed(c);
    tick_stopping(c);
    if (c->state == COORD_LEAVING && c->now_ms >= c->leave_deadline_ms) {
        for (uint32_t i = 0; i < c->worker_top; i++)
            c->workers[i].phase = ABSENT;
        for (uint32_t i = 0; i < c->loader_top; i++)
            c->loaders[i].present = false;
    }
}

/* ---- The machine ------------------------------------------------------------------------------
 */

static bool is_from_loop(enum coord_event_type type)
{
    return type >= COORD_EVENT_LOST;
}

/* Who sent it: a peer that is welcome on this link, in a role that sends such messages. */
static bool sender_is_known(struct coord *c, const struct coord_event *e)
{
    struct worker *w = worker_find(c, e->peer);
    struct loader *l = w ? NULL : loader_find(c, e->peer);
    if ((!w && !l) || e->link != (w ? w->link : l->link)) {
        c->late++;
        return false;
    }
    *(w ? &w->heard_ms : &l->heard_ms) = e->now_ms;
    bool from_worker = e->type >= COORD_EVENT_RENDEZVOUS && e->type <= COORD_EVENT_SAVED;
    if ((from_worker && !w) || (e->type == COORD_EVENT_SENT && !l)) {
        violation(c, e, "a message of the other role", e->type,
                  w ? BL_ROLE_WORKER : BL_ROLE_LOADER);
        return false;
    }
    if (e->generation > c->ledger.generation) {
        violation(c, e, "a generation that never was", c->ledger.generation, e->generation);
        return false;
    }
    return true;
}

static void handle(struct coord *c, const struct coord_event *e)
{
    static void (*const handlers[COORD_EVENT_COUNT])(struct coord *, const struct coord_event *) = {
        [COORD_EVENT_HELLO] = on_hello,
        [COORD_EVENT_ENDED] = on_ended,
        [COORD_EVENT_BEAT] = on_beat,
        [COORD_EVENT_RENDEZVOUS] = on_rendezvous,
        [COORD_EVENT_FORMED] = on_formed,
        [COORD_EVENT_GOT] = on_got,
        [COORD_EVENT_USED] = on_used,
        [COORD_EVENT_REPORT] = on_report,
        [COORD_EVENT_VALIDATION] = on_validation,
        [COORD_EVENT_BROKEN] = on_broken,
        [COORD_EVENT_SAVED] = on_saved,
        [COORD_EVENT_SENT] = on_sent,
        [COORD_EVENT_GOODBYE] = on_goodbye,
        [COORD_EVENT_LOST] = on_lost,
        [COORD_EVENT_JOURNALED] = on_journaled,
        [COORD_EVENT_VERIFIED] = on_verified,
        [COORD_EVENT_STOP] = on_stop,
        [COORD_EVENT_TICK] = on_tick,
    };
    if (e->type != COORD_EVENT_HELLO && !is_from_loop(e->type) && !sender_is_known(c, e))
        return;
    switch (rules[e->type][c->state]) {
    case DO:
        handlers[e->type](c, e);
        return;
    case PROTO:
        if (is_member(c, worker_find(c, e->peer), e)) {
            violation(c, e, "a message that this state does not expect", c->state, e->type);
            return;
        }
        c->late++;
        return;
    case LATE:
        c->late++;
        return;
    }
}

const struct coord_actions *coord_step(struct coord *c, const struct coord_event *e)
{
    BL_ASSERT_CMP(e->type, <, COORD_EVENT_COUNT);
    c->actions.count = 0;
    c->actions.more = false;
    if (e->now_ms > c->now_ms)
        c->now_ms = e->now_ms;
    handle(c, e);
    settle(c);
    return &c->actions;
}

/* What may not change between the processes of one run (schedule length and milestones may). */
static uint64_t plan_digest(const struct bl_plan *plan)
{
    uint64_t digest = bl_mix64(plan->seed, plan->train_samples);
    digest = bl_mix64(digest, plan->validate_samples);
    return bl_mix64(digest, (uint64_t)plan->batch << 32 | plan->group);
}

const struct coord_actions *coord_start(struct coord *c, uint64_t now_ms)
{
    c->actions.count = 0;
    c->now_ms = c->pulse_ms = c->ready_since_ms = now_ms;
    c->generation = c->ledger.generation;
    c->formed = c->ledger.formed;
    c->floor = c->ledger.floor;
    c->issued = c->ledger.committed;
    if (c->ledger.generation > 0 && !c->config.members_gone)
        c->absent_until_ms = now_ms + c->timing.forming_ms;
    if (!c->ledger.started)
        journal(c, (struct coord_record){.type = COORD_RECORD_START,
                                         .digest = plan_digest(&c->config.plan)});
    settle(c);
    return &c->actions;
}

int coord_replay(struct coord *c, const struct coord_record *record, struct bl_error *err)
{
    uint64_t digest = plan_digest(&c->config.plan);
    if (record->type == COORD_RECORD_START && record->digest != digest) {
        bl_fail(err, BL_ECONFIG,
                "the journal is of another run: expected %016llx but found %016llx",
                (unsigned long long)digest, (unsigned long long)record->digest);
        return bl_error_remedy(err, "seed, data, batch and group sizes of a run cannot change; "
                                    "start a new run folder");
    }
    BL_TRY(coord_ledger_apply(&c->ledger, record, err));
    if (c->ledger.committed <= c->config.plan.steps)
        return 0;
    bl_fail(err, BL_ECONFIG, "the run has done %llu steps already, more than the %llu asked for",
            (unsigned long long)c->ledger.committed, (unsigned long long)c->config.plan.steps);
    return bl_error_key(err, "train.steps");
}

static int range_check(const char *key, uint64_t value, uint64_t least, uint64_t most,
                       struct bl_error *err)
{
    if (value >= least && value <= most)
        return 0;
    bl_fail(err, BL_ECONFIG, "expected %llu to %llu but found %llu", (unsigned long long)least,
            (unsigned long long)most, (unsigned long long)value);
    return bl_error_key(err, "%s", key);
}

static int config_check(const struct coord_config *config, struct bl_error *err)
{
    const struct bl_plan *plan = &config->plan;
    BL_TRY(range_check("train_samples", plan->train_samples, 1, (uint64_t)1 << 40, err));
    BL_TRY(range_check("validate_samples", plan->validate_samples, 0, UINT32_MAX, err));
    BL_TRY(range_check("batch", plan->batch, 1, BL_GLOBAL_BATCH_MAX, err));
    BL_TRY(range_check("group", plan->group, 1, BL_GROUP_SLOTS_MAX, err));
    BL_TRY(range_check("steps", plan->steps, 1, (uint64_t)1 << 40, err));
    BL_TRY(range_check("steps_ahead", plan->steps_ahead, 1, BL_STEPS_AHEAD_MAX, err));
    BL_TRY(range_check("window", plan->window, 1, BL_WINDOW_MAX, err));
    BL_TRY(range_check("sample_count", config->sample_count, 1, (uint64_t)1 << 40, err));
    BL_TRY(range_check("patience_ms", config->patience_ms, BL_PATIENCE_MS_MIN,
                       UINT32_C(24) * 3600 * 1000, err));
    BL_TRY(range_check("workers_max", config->workers_max, 1, BL_WORKERS_MAX, err));
    BL_TRY(range_check("loaders_max", config->loaders_max, 1, BL_LOADERS_MAX, err));
    BL_TRY(range_check("workers_min", config->workers_min, 1, config->workers_max, err));
    return range_check("workers_wanted", config->workers_wanted, config->workers_min,
                       config->workers_max, err);
}

int coord_new(const struct coord_config *config, struct coord **ret_coord, struct bl_error *err)
{
    BL_TRY(config_check(config, err));
    bl_auto(coord) struct coord *c = calloc(1, sizeof *c);
    if (!c)
        return bl_fail(err, BL_ENOMEM, "coordinator: no memory");
    const struct bl_plan *plan = &config->plan;
    uint32_t groups = bl_plan_groups(plan, BL_KIND_VALIDATE);
    uint32_t slots = plan->group;
    c->config = *config;
    c->timing = bl_timing_of(config->patience_ms);
    c->first = true;
    c->journal_first = c->journal_next = 1;
    coord_ledger_init(&c->ledger);
    /* One event at most: forgets or stops every peer, ends or forms everyone, orders, voids. */
    c->actions.capacity = 4 * config->workers_max + 3 * config->loaders_max + 2 * ORDERS_PER_CALL +
                          3 * PENDING_MAX + slots + 2 * SAVES_MAX + 64;
    c->actions.list = calloc(c->actions.capacity, sizeof *c->actions.list);
    c->workers = calloc(config->workers_max, sizeof *c->workers);
    c->loaders = calloc(config->loaders_max, sizeof *c->loaders);
    c->ranks = calloc(config->workers_max, sizeof *c->ranks);
    c->leases = calloc((size_t)config->workers_max * plan->window, sizeof *c->leases);
    c->digests = calloc((size_t)config->workers_max * ring_size(c), sizeof *c->digests);
    c->validated = calloc((size_t)groups + 1, sizeof *c->validated);
    c->to_validate = calloc((size_t)groups + 1, sizeof *c->to_validate);
    c->seen_samples = calloc(config->sample_count / 8 + 1, 1);
    c->bad_samples = calloc(config->sample_count / 8 + 1, 1);
    if (!c->actions.list || !c->workers || !c->loaders || !c->ranks || !c->leases || !c->digests ||
        !c->validated || !c->to_validate || !c->seen_samples || !c->bad_samples)
        return bl_fail(err, BL_ENOMEM, "coordinator: no memory");
    for (uint32_t i = 0; i < config->workers_max; i++) {
        c->workers[i].leases = &c->leases[(size_t)i * plan->window];
        c->workers[i].digests = &c->digests[(size_t)i * ring_size(c)];
    }
    *ret_coord = bl_take(&c);
    return 0;
}

void coord_free(struct coord **coord)
{
    struct coord *c = *coord;
    if (!c)
        return;
    free(c->actions.list);
    free(c->workers);
    free(c->loaders);
    free(c->ranks);
    free(c->leases);
    free(c->digests);
    free(c->validated);
    free(c->to_validate);
    free(c->seen_samples);
    free(c->bad_samples);
    free(c);
    *coord = NULL;
}

void coord_checkpoint_name(struct coord_checkpoint checkpoint, char ret[COORD_CHECKPOINT_NAME_MAX])
{
    snprintf(ret, COORD_CHECKPOINT_NAME_MAX, "step-%06llu-g%llu",
             (unsigned long long)checkpoint.step, (unsigned long long)checkpoint.generation);
}

struct coord_status coord_status(const struct coord *c)
{
    struct coord_status status = {
        .state = c->state,
        .stopping = c->stopping,
        .generation = c->generation,
        .step = c->issued,
        .world = is_live(c) || c->state == COORD_FORMING ? c->plan.world : 0,
        .workers = c->worker_top - workers_in(c, ABSENT),
        .workers_needed = workers_needed(c, workers_in(c, READY)),
        .validation_done = c->validated_count,
        .validation_size = bl_plan_groups(&c->config.plan, BL_KIND_VALIDATE),
        .late = c->late,
        .violations = c->violations,
        .seen = c->seen,
        .bad = c->bad,
    };
    status.loaders = peers_present(c) - status.workers;
    for (uint32_t rank = 0; rank < status.world; rank++)
        for (uint32_t k = 0; k < c->config.plan.window; k++)
            status.leases_out += rank_worker(c, rank)->leases[k].state == LEASE_OUT;
    return status;
}

const struct coord_ledger *coord_ledger(const struct coord *c)
{
    return &c->ledger;
}

const char *coord_state_name(enum coord_state state)
{
    static const char *const names[] = {
#define X(name, waits_for) #name,
        COORD_STATES(X)
#undef X
    };
    return names[state];
}

const char *coord_event_name(enum coord_event_type type)
{
    static const char *const names[] = {
#define X(name, source) #name,
        COORD_EVENTS(X)
#undef X
    };
    return names[type];
}

const char *coord_action_name(enum coord_action_type type)
{
    static const char *const names[] = {
#define X(name, effect) #name,
        COORD_ACTIONS(X)
#undef X
    };
    return names[type];
}

static void check_worker(const struct coord *c, const struct worker *w)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < c->config.plan.window; k++) {
        const struct lease *lease = &w->leases[k];
        count += lease->state != LEASE_FREE;
        if (lease->state == LEASE_OUT)
            BL_ASSERT(c->loaders[lease->loader].present);
    }
    BL_ASSERT_CMP(count, ==, w->lease_count);
    BL_ASSERT(w->lease_count == 0 || w->phase == MEMBER);
    BL_ASSERT(w->phase != PLANNED || c->state == COORD_PLANNING || c->state == COORD_LEAVING);
    if (w->phase != MEMBER || !is_live(c))
        return;
    BL_ASSERT_CMP(w->done, >=, c->issued);
    BL_ASSERT_CMP(w->next_step, >=, w->done);
    BL_ASSERT_CMP(w->next_step, <=, c->ledger.committed + 1 + c->config.plan.steps_ahead);
}

void coord_check(const struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        check_worker(c, &c->workers[i]);
    for (uint32_t i = 0; i < c->loader_top; i++)
        BL_ASSERT(!c->loaders[i].present || c->loaders[i].held <= c->loaders[i].capacity);
    BL_ASSERT_CMP(c->issued, <=, c->config.plan.steps);
    BL_ASSERT_CMP(c->ledger.generation, <=, c->generation);
    BL_ASSERT_CMP(c->actions.count, <=, c->actions.capacity);
    if (is_live(c)) {
        BL_ASSERT_CMP(workers_in(c, MEMBER), ==, c->plan.world);
        BL_ASSERT_CMP(c->ledger.committed, <=, c->issued);
        BL_ASSERT_CMP(c->issued, <=, c->ledger.committed + c->config.plan.steps_ahead + 1);
    }
    if (c->state == COORD_GATHERING || c->state == COORD_CHECKING || c->state == COORD_PLANNING)
        BL_ASSERT_CMP(workers_in(c, MEMBER), ==, 0);
}
