/* coordinator/core_state.h - what the parts of the coordinator's rules share: the state they work on, and what they ask of
 * one another. Private to core*.c; core.h is what others see. Numbers like M3 refer to docs/protocol.md.
 *
 *   core.c             the table of rules, one event, the clock, the end, start and replay
 *   core_state.c       looking things up, actions, the journal, leaving
 *   core_peers.c       who is here: Hello, Beat, Goodbye, lost peers, peers that break the protocol
 *   core_generation.c  gathering, planning, forming and ending a generation
 *   core_assign.c      leases: what is ordered from which loader for which worker
 *   core_live.c        commits, validation, checkpoints
 *   core_status.c      names, what a person may see, the invariants
 *
 * After every event settle() (core.c) asks anew what the state waits for, so a handler records what happened and never
 * decides what is next. */
#pragma once

#include "common/limits.h"
#include "coordinator/core.h"

#define ASSIGNMENTS_PER_CALL 64 /* keeps a call short; `more` asks for the next */
#define PENDING_MAX 256       /* records on their way to disk: commits are bounded by steps_ahead */
#define SAVES_MAX 32          /* checkpoints on their way to being registered */
#define SAVES_UNCHECKED_MAX 8 /* written and not yet registered: then rank 0 has to wait */
#define SAVE_FAILURES_MAX 3   /* of a checkpoint without which the run must not go on */
#define FORMING_PATIENCES_MAX 20 /* no generation could be formed for so long: give up */

enum lease_state { LEASE_FREE, LEASE_OUT, LEASE_REVOKED, LEASE_RECEIVED };

/* A micro-batch that is ordered for a rank and not Consumed by it: one place in its window. */
struct lease {
    enum lease_state state;
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
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
    uint64_t done; /* steps in its state */
    uint64_t
        next_step; /* the next micro-batch to be ordered for it is micro-batches.first + next_index … */
    uint32_t next_index;    /* … of next_step; next_index < micro-batches.count */
    uint32_t next_validate; /* index into its share of the pending validation micro-batches */
    uint32_t lease_count;   /* not LEASE_FREE */
    struct lease *leases;   /* plan.window of them */
    uint64_t *digests;      /* of what is ordered for step s, at s % (steps_ahead + 2) */
};

struct loader {
    bool present, ready;
    uint64_t peer, link, heard_ms;
    uint32_t capacity, held; /* assignments it may hold, assignments without their Completed */
};

enum save_state { SAVE_FREE, SAVE_WANTED, SAVE_REQUESTED, SAVE_VERIFYING, SAVE_JOURNALING };

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
    uint32_t passed_over; /* newest checkpoints found damaged that the journal still has */

    uint64_t validating;   /* steps done; meaningful while a result is in or VALIDATING */
    uint8_t *validated;    /* per micro-batch: its result is in */
    uint32_t *to_validate; /* micro-batches without one when the generation began to validate */
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

/* ---- Looking things up */

static inline bool is_past(uint64_t now_ms, uint64_t since_ms, uint32_t wait_ms)
{
    return now_ms >= since_ms + wait_ms;
}

static inline uint32_t ring_size(const struct coord *c)
{
    return c->config.plan.steps_ahead + 2;
}

static inline uint64_t *ordered_digest(const struct coord *c, const struct worker *w, uint64_t step)
{
    return &w->digests[step % ring_size(c)];
}

/* A generation that is formed and lives. */
static inline bool is_live(const struct coord *c)
{
    return c->state == COORD_TRAINING || c->state == COORD_VALIDATING || c->state == COORD_SAVING;
}

static inline struct worker *rank_worker(const struct coord *c, uint32_t rank)
{
    return &c->workers[c->ranks[rank]];
}

static inline struct bl_range rank_micro_batches(const struct coord *c, uint32_t rank)
{
    return bl_share(bl_plan_micro_batches(&c->config.plan, BL_KIND_TRAIN), rank, c->plan.world);
}

static inline bool journal_is_idle(const struct coord *c)
{
    return c->journal_first == c->journal_next;
}

/* ---- core_state.c */

/* Linear: a message costs a few passes over the entries in use, microseconds for a thousand peers. */
struct worker *core_worker_find(struct coord *c, uint64_t peer);
struct loader *core_loader_find(struct coord *c, uint64_t peer);
uint32_t core_workers_in(const struct coord *c, enum phase phase);
uint32_t core_peers_present(const struct coord *c);

/* Adds an action of this event; the caller fills in the rest. core_act_to: one for a peer. */
struct coord_action *core_act(struct coord *c, enum coord_action_type type);
struct coord_action *core_act_to(struct coord *c, enum coord_action_type type, uint64_t peer,
                                 uint64_t link);

/* Appends to the journal. The record counts once it is on disk: then core_on_journaled applies it (J2). */
void core_journal(struct coord *c, struct coord_record record);
/* What the ledger says: that state is registered; a validation must come first; nothing is left to do. */
bool core_is_saved(const struct coord *c, uint64_t step);
bool core_validation_is_due(const struct coord *c);
bool core_is_complete(const struct coord *c);

/* Ends the run: FINISH into the journal, then Stop to everyone. code: 0 or BL_E…; text is static. */
void core_leave(struct coord *c, int code, const char *text);
/* Why a stop is under way: the text of that leaving. */
const char *core_stop_text(const struct coord *c);
/* The run contradicts itself: it stops before anything is built on that (S5). */
void core_fail(struct coord *c, const struct worker *w, const char *text, uint64_t expected,
               uint64_t found);

/* Steps that some rank has all its micro-batches of: it may wait in their all-reduce, so who stops has to
 * get so far. Nobody can get further. */
uint64_t core_steps_begun(const struct coord *c);
/* Steps after which a living generation has nothing more to do. */
uint64_t core_end_step(const struct coord *c);
/* Finishes what was begun, saves, then leaves with this code. */
void core_begin_stop(struct coord *c, int code);

/* ---- core_peers.c */

/* The run is over: they may leave. */
void core_say_stop_to_all(struct coord *c);

/* A peer did what no peer does: it goes, the run goes on. */
void core_violation(struct coord *c, const struct coord_event *e, const char *text,
                    uint64_t expected, uint64_t found);

/* Is w the sender, on its newest connection, and a member of the living generation? w may be NULL. */
bool core_is_member(const struct coord *c, const struct worker *w, const struct coord_event *e);
/* The sender as such a member of the living generation; NULL = its message is late. */
struct worker *core_member(struct coord *c, const struct coord_event *e);

void core_on_hello(struct coord *c, const struct coord_event *e);
void core_on_ended(struct coord *c, const struct coord_event *e);
void core_on_beat(struct coord *c, const struct coord_event *e);
void core_on_goodbye(struct coord *c, const struct coord_event *e);
void core_on_lost(struct coord *c, const struct coord_event *e);
void core_tick_peers(struct coord *c);
/* Who sent it: a peer that is welcome on this link, in a role that sends such messages. */
bool core_sender_is_known(struct coord *c, const struct coord_event *e);

/* ---- core_generation.c */

/* End to all members: nothing of the generation is waited for any more (M5). */
void core_end_generation(struct coord *c);
/* Is the worker's state the run's (M7)? Not annulled by a rewind, and not forked by a generation that
 * was formed without it. Such a state has every committed step: a commit needs all ranks (S3). */
bool core_is_survivor(const struct coord *c, const struct worker *w);
/* How many READY workers the next generation waits for (M2). */
uint32_t core_workers_needed(const struct coord *c, uint32_t ready);

void core_settle_gathering(struct coord *c);
void core_settle_checking(struct coord *c);
void core_settle_planning(struct coord *c);
/* Everyone holds the same state: the steps in it are the lineage (M8). */
void core_settle_forming(struct coord *c);
void core_settle_ending(struct coord *c);
void core_on_rendezvous(struct coord *c, const struct coord_event *e);
void core_on_formed(struct coord *c, const struct coord_event *e);
/* Too slow, or a worker could not connect. Once is bad luck; for long, it will never succeed. */
void core_forming_failed(struct coord *c);
void core_on_broken(struct coord *c, const struct coord_event *e);

/* ---- core_assign.c */

/* Leases of a worker: used or lost; to be ordered again elsewhere (O5); all of all. */
void core_lease_free(struct coord *c, struct worker *w, struct lease *lease);
void core_lease_revoke(struct coord *c, struct lease *lease);
void core_leases_clear(struct coord *c);

/* Assignments whatever loaders and windows have room for. */
void core_assign(struct coord *c);
/* The lease that a micro-batch's message is about; NULL: there is none. */
struct lease *core_lease_of(const struct coord *c, const struct worker *w,
                            const struct coord_event *e);

void core_on_got(struct coord *c, const struct coord_event *e);
void core_on_used(struct coord *c, const struct coord_event *e);
void core_on_sent(struct coord *c, const struct coord_event *e);
void core_tick_leases(struct coord *c);

/* ---- core_live.c */

/* Wants a checkpoint of the state after `step` steps, unless there is one. */
void core_request_save(struct coord *c, uint64_t step);

void core_settle_live(struct coord *c);
void core_on_report(struct coord *c, const struct coord_event *e);
void core_on_validation(struct coord *c, const struct coord_event *e);
void core_on_saved(struct coord *c, const struct coord_event *e);
void core_on_journaled(struct coord *c, const struct coord_event *e);
void core_on_verified(struct coord *c, const struct coord_event *e);
