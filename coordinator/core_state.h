/* coordinator/core_state.h - what the parts of the coordinator's rules share: the state they work on, and what they ask of
 * one another. Private to core*.c; core.h is what others see. Numbers like M3 refer to docs/protocol.md.
 *
 *   core.c             the table of rules, one event, the clock, the end, start and replay
 *   core_status.c      names, what a person may see, the invariants
 *   core_wait.c        progress: who is waited for, and who is waited for in vain
 *   core_generation.c  gathering, planning and forming a generation
 *   core_live.c        commits, validation, what the journal's word sets free
 *   core_delivery.c    what becomes of an assignment
 *   core_hedge.c       what is late is ordered from a second loader, too
 *   core_assign.c      what is ordered from which loader for which worker
 *   core_save.c        checkpoints
 *   core_reach.c       workers that cannot form a communicator with one another
 *   core_peers.c       who is here: Hello, Beat, Goodbye, lost peers, peers that break the protocol
 *   core_state.c       looking things up, actions, the journal, ending a generation and the run
 *   core_lease.c       a rank's window: what is ordered for it and not consumed
 *
 * Each calls only those below it.
 *
 * After every event settle() (core.c) asks anew what the state waits for, so a handler records what happened and never
 * decides what is next. */
#pragma once

#include "common/limits.h"
#include "coordinator/core.h"

#define ASSIGNMENTS_PER_CALL 64 /* keeps a call short; `more` asks for the next */
#define PEER_HINTS 8192
#define PENDING_MAX 256       /* records on their way to disk: commits are bounded by steps_ahead */
#define DROPPED_AT_ONCE 64    /* checkpoints that leave the ledger */
#define SAVES_MAX 32          /* checkpoints on their way to being registered */
#define SAVES_UNCHECKED_MAX 8 /* written and not yet registered: then rank 0 has to wait */
#define SAVE_FAILURES_MAX 3   /* of a checkpoint without which the run must not continue */
#define FORMING_PATIENCES_MAX 20 /* no generation could be formed for so long: give up */
#define PAIRS_MAX 64             /* of workers that failed to connect, remembered at a time */
#define SUSPECTS_MAX 256         /* samples that one loader could not read */
#define STRIKES_MAX 3            /* assignments taken from a loader before it has to rest */
#define HEDGE_FACTOR 4           /* times what is usual: an assignment that takes longer is late */
#define HEDGE_SHARE 8            /* so many other assignments pay for one hedge … */
#define HEDGES_AT_ONCE 8         /* … and so many may be saved up */
#define TURNAROUNDS 32           /* the latest ones, whose median is what is usual */
#define TURNAROUNDS_JUDGED 8     /* how often, and from how many on */
#define FALLEN_MAX 64            /* workers whose connection closed, remembered at a time */
#define REWINDS_MAX 3            /* to one step, without getting further than before */

enum lease_state { LEASE_FREE, LEASE_OUT, LEASE_REVOKED, LEASE_RECEIVED };

/* The same micro-batch asked of a second loader, while the first still has it. */
struct hedge {
    uint64_t serial; /* order of assigning; 0: there is none */
    uint32_t loader; /* index */
    uint64_t since_ms, shipped_ms;
};

/* A micro-batch that is ordered for a rank and not Consumed by it: one place in its window. */
struct lease {
    enum lease_state state;
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
    uint32_t loader;   /* index of the loader that has or had it */
    uint32_t tries;    /* times it was taken from a loader that made no progress */
    uint64_t serial;   /* OUT: order of assigning */
    uint64_t since_ms; /* in this state */
    /* OUT: 0, or since when its loader says that it is shipped; since when later ones are */
    uint64_t shipped_ms, overtaken_ms;
    uint64_t after_ms;  /* REVOKED: not to be given out before */
    struct hedge hedge; /* OUT */
};

/* What a peer shows of itself. Every message is a sign of life; every one but Beat is progress too. */
struct signs {
    uint64_t heard_ms;
    uint64_t progress, progress_ms; /* the highest number told; when it grew */
    uint64_t looks, looks_ms;       /* the same of its looking for other ranks */
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
    uint64_t peer, link;
    struct signs signs;
    uint64_t since_ms; /* in this phase */
    uint32_t taken; /* times that its micro-batches were taken from a loader, none Received since */
    uint64_t received_ms; /* the last Received of it */
    uint64_t free_ms;     /* the last Consumed or Report: it could begin with what it had next */
    uint64_t longest_ms[BL_KIND_EMBED + 1]; /* that a micro-batch took it; 0: none is done yet */
    bool released, told;  /* it is to leave the run at a step boundary; it has its Stop (M13) */
    bool needs_files;     /* it does not see the run folder (M14) */
    bool left_out;        /* not to be a member while others are there (M10) */
    int64_t applied_step; /* of its last Ended or Formed; -1 = no state */
    uint64_t state_generation;
    struct bl_digest digest;
    /* as a MEMBER */
    uint32_t rank;
    bool published; /* where the others can reach it */
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
    uint64_t peer, link;
    struct signs signs;
    uint64_t since_ms;       /* welcome */
    uint32_t capacity, held; /* assignments it may hold, assignments without their Completed */
    uint32_t strikes;        /* times that assignments were taken from it … */
    uint64_t strike_worker; /* … the last for this worker, from which nothing was Received since */
    uint64_t strike_ms, rest_until_ms;
    uint64_t hedge_noted_ms; /* when the log last said that it is late */
};

enum save_state { SAVE_FREE, SAVE_WANTED, SAVE_REQUESTED, SAVE_VERIFYING, SAVE_JOURNALING };

struct save {
    enum save_state state;
    struct coord_checkpoint checkpoint;
    uint64_t peer, link; /* who writes it; WANTED: nobody yet */
    uint64_t since_ms;   /* REQUESTED */
};

/* Two workers, by incarnation, that failed to connect, or one that failed by itself (a == b). */
struct pair {
    uint64_t a, b;
    uint32_t failures;
    bool guessed;      /* nothing told it from other members */
    uint64_t until_ms; /* left out until then, tried again after */
};

enum check { CHECK_RUNNING, CHECK_OK, CHECK_BAD, CHECK_DROPPING };

/* A sample whose image a loader could not read, until another loader, or the same one later, says so too. */
struct suspect {
    uint64_t sample, peer, since_ms;
};

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
    uint64_t serial;        /* of the last assignment */
    uint64_t hedges;        /* assignments to a second loader */
    uint32_t hedge_credit;  /* other assignments that no hedge was paid with, up to a limit */
    uint32_t turnarounds[TURNAROUNDS];  /* ms from Assignment to Received; a ring */
    uint64_t turnaround_count, late_ms; /* ever; what is longer is late; 0: not known yet */

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
    struct pair pairs[PAIRS_MAX];
    uint32_t pair_count;
    bool releasing;       /* some worker was released, ever */
    bool leaves_out;      /* some worker is left out */
    uint32_t entry_count; /* of the rendezvous store, kept and not relayed yet */
    /* by a hash of the incarnation: where in workers, loaders its peer was found last */
    uint32_t worker_hints[PEER_HINTS], loader_hints[PEER_HINTS];
    uint64_t guessed_link; /* of the last worker that was guessed at */
    uint64_t moved_ms,
        noted_ms; /* when the run last made progress; when the log last said that it makes none */
    uint64_t step_ms;                  /* the last step took so long */
    uint64_t rewind_step, rewind_from; /* of the rewinds of this process … */
    uint32_t rewinds;                  /* … to that step, none from further than the first */
    uint32_t losses;                   /* workers lost since a generation was formed … */
    uint32_t
        faults; /* … of them those by which the run may be at fault: ended by themselves, hung … */
    uint64_t
        fallen[FALLEN_MAX]; /* … and those whose connection closed, and that have not come back */
    uint32_t fallen_count;
    bool checkpoint_asked;            /* run to `pause` steps, save, resume (C8) … */
    uint64_t pause, pause_generation; /* … which this generation has been told; 0: none */
    bool regrouping; /* a worker waits to join: run to `hold` steps, then a new generation */
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

    uint8_t *seen_samples, *bad_samples, *missing_samples; /* bit sets over sample ids */
    struct suspect suspects[SUSPECTS_MAX];                 /* a ring; the oldest is forgotten */
    uint64_t suspect_count;
    uint64_t loader_gone_ms; /* when one was last lost */
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

static inline uint64_t *assigned_digest(const struct coord *c, const struct worker *w,
                                        uint64_t step)
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
    return bl_share(bl_plan_micro_batches(&c->config.plan, c->config.plan.kind), rank,
                    c->plan.world);
}

static inline bool journal_is_idle(const struct coord *c)
{
    return c->journal_first == c->journal_next;
}

static inline uint64_t latest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The run made progress. */
static inline void core_moved(struct coord *c)
{
    c->moved_ms = c->noted_ms = c->now_ms;
}

/* ---- core_lease.c */

/* Leases of a worker: used or lost; to be ordered again elsewhere (O5), unless a second loader has it; all of all. */
void core_lease_free(struct coord *c, struct worker *w, struct lease *lease);
void core_lease_revoke(struct coord *c, struct lease *lease);
void core_leases_clear(struct coord *c);
/* The lease that a micro-batch's message is about; NULL: there is none. */
struct lease *core_lease_of(const struct coord *c, const struct worker *w,
                            const struct coord_event *e);
/* The micro-batch that w computes. NULL: it waits for data, or for other ranks. */
const struct lease *core_lease_at_hand(const struct coord *c, const struct worker *w);
/* The micro-batch that w waits for, and has nothing else to compute; NULL: there is none. */
struct lease *core_awaited_lease(const struct coord *c, const struct worker *w);

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

/* A log line about a peer; the caller may fill in more. */
struct coord_action *core_note(struct coord *c, enum coord_note kind, uint64_t peer, uint64_t link,
                               const char *text);

/* Appends to the journal. The record counts once it is on disk: then core_on_journaled applies it (J2). */
void core_journal(struct coord *c, struct coord_record record);
/* What the ledger says: that state is registered; a validation must come first; nothing is left to do. */
bool core_is_saved(const struct coord *c, uint64_t step);
bool core_validation_is_due(const struct coord *c);
bool core_is_complete(const struct coord *c);

/* Is the worker's state the run's (M7)? Not annulled by a rewind, and not forked by a generation that
 * was formed without it. Such a state has every committed step: a commit needs all ranks (S3). */
bool core_is_survivor(const struct coord *c, const struct worker *w);

/* End to all members: nothing of the generation is waited for any more (M5). */
void core_end_generation(struct coord *c);
/* Ends the run: FINISH into the journal, then Stop to everyone. code: 0 or BL_E…; text is static. */
void core_leave(struct coord *c, int code, const char *text);
/* EXIT at once: nothing more is said or written. */
void core_exit(struct coord *c, int code, const char *text);
/* Why a stop is under way: the text of that leaving. */
const char *core_stop_text(const struct coord *c);
/* The run contradicts itself: it stops before anything is built on that (S5). */
void core_fail(struct coord *c, const struct worker *w, const char *text, uint64_t expected,
               uint64_t found);

/* Steps that some rank has all its micro-batches of: it may wait in their all-reduce, so who stops has to
 * get so far. Nobody can get further. */
uint64_t core_steps_begun(const struct coord *c);
/* Is it to rest after `pause` steps, for a checkpoint that was asked for? */
bool core_is_pausing(const struct coord *c);
/* Steps after which a living generation has nothing more to do, for now. */
uint64_t core_end_step(const struct coord *c);
/* Finishes what was begun, saves, then leaves with this code. */
void core_begin_stop(struct coord *c, int code);

/* ---- core_peers.c */

/* The peer is lost; dead: it will not come back with its state. The caller has said FORGET or REFUSE. */
void core_worker_lost(struct coord *c, struct worker *w, bool dead);
void core_loader_lost(struct coord *c, struct loader *l);
/* No worker was lost since a generation was formed: forgets those before. */
void core_losses_clear(struct coord *c);
/* Were workers lost, and none of them in a way that may come again because of what the run does (M12)? */
bool core_losses_are_excused(const struct coord *c);
/* A worker broke the protocol: it is dropped, the run continues. */
void core_drop_worker(struct coord *c, struct worker *w, const char *text, uint64_t expected,
                      uint64_t found);

/* The run is over: they may leave. */
void core_say_stop_to_all(struct coord *c);

/* A peer broke the protocol: it is dropped, the run continues. */
void core_violation(struct coord *c, const struct coord_event *e, const char *text,
                    uint64_t expected, uint64_t found);

/* Is w the sender, on its newest connection, and a member of the living generation? w may be NULL. */
bool core_is_member(const struct coord *c, const struct worker *w, const struct coord_event *e);
/* The sender as such a member of the living generation; NULL = its message is late. */
struct worker *core_member(struct coord *c, const struct coord_event *e);

void core_on_hello(struct coord *c, const struct coord_event *e);
void core_on_release(struct coord *c, const struct coord_event *e);
/* Stop to who was released and is no member (M13). */
void core_let_go_of_released(struct coord *c);
void core_on_ended(struct coord *c, const struct coord_event *e);
void core_on_beat(struct coord *c, const struct coord_event *e);
void core_on_goodbye(struct coord *c, const struct coord_event *e);
void core_on_lost(struct coord *c, const struct coord_event *e);
void core_tick_peers(struct coord *c);
/* Who sent it: a peer that is welcome on this link, in a role that sends such messages. */
bool core_sender_is_known(struct coord *c, const struct coord_event *e);

/* ---- core_reach.c */

/* Marks the workers to be left out, from the pairs that failed; nobody if too few would stay. */
void core_mark_left_out(struct coord *c);
/* READY and not left out. */
uint32_t core_workers_usable(const struct coord *c);
/* The generation that forms is not formed: two of its members cannot connect, one has failed (a == b). */
void core_pair_failed(struct coord *c, const struct worker *a, const struct worker *b);
/* No loader can ship to the member, while others get their data: the generation continues without it, if enough stay. */
void core_blame_unserved(struct coord *c, struct worker *w);
/* Whoever made no progress in the generation that forms, as far as one can tell. */
void core_blame_unformed(struct coord *c);
/* Members that are formed together reach each other. */
void core_pairs_formed(struct coord *c);

/* ---- core_save.c */

/* Wants a checkpoint of the state after `step` steps, unless there is one. */
void core_request_save(struct coord *c, uint64_t step);
/* Asks rank 0 for those that are wanted, a few at a time. */
void core_send_saves(struct coord *c);
/* The run may not continue before the state after `committed` steps is registered. */
bool core_must_be_saved(const struct coord *c);
/* A checkpoint that was asked for (C8): this generation rests after the steps that some rank has begun, until their state
 * is registered. */
void core_settle_asked(struct coord *c);
void core_on_saved(struct coord *c, const struct coord_event *e);
void core_on_checkpoint(struct coord *c, const struct coord_event *e);
void core_on_prune(struct coord *c, const struct coord_event *e);
void core_on_verified(struct coord *c, const struct coord_event *e);

/* ---- core_assign.c */

/* The sample at an index of a step's batch, or of a pass. */
uint64_t core_sample_at(const struct coord *c, enum bl_kind kind, uint64_t step, uint32_t index,
                        uint32_t *ret_epoch);
/* Assignments whatever loaders and windows have room for. */
void core_assign(struct coord *c);
/* Says Assignment to the loader, which has room for it; returns its order. */
uint64_t core_order(struct coord *c, struct loader *l, const struct worker *w,
                    const struct lease *lease);
/* The loader that shall have it: not `not_this`, unless alone. NULL: none has room. */
struct loader *core_loader_with_room(struct coord *c, uint32_t not_this);

/* ---- core_hedge.c */

/* The micro-batch took so long from Assignment to Received. */
void core_learn_turnaround(struct coord *c, const struct lease *lease);
/* Asks another loader, too, for what workers wait for and is late (O10). */
void core_tick_hedges(struct coord *c);

/* ---- core_delivery.c */

void core_on_received(struct coord *c, const struct coord_event *e);
void core_on_consumed(struct coord *c, const struct coord_event *e);
void core_on_completed(struct coord *c, const struct coord_event *e);
/* Takes micro-batches from loaders that make no progress on them. */
void core_tick_leases(struct coord *c);

/* ---- core_live.c */

void core_settle_live(struct coord *c);
void core_on_report(struct coord *c, const struct coord_event *e);
void core_on_validation(struct coord *c, const struct coord_event *e);
void core_on_journaled(struct coord *c, const struct coord_event *e);

/* ---- core_generation.c */

/* How many READY workers the next generation waits for (M2). */
uint32_t core_workers_needed(const struct coord *c, uint32_t ready);

void core_settle_gathering(struct coord *c);
void core_settle_checking(struct coord *c);
void core_settle_planning(struct coord *c);
/* Everyone holds the same state: the steps in it are the lineage (M8). */
void core_settle_forming(struct coord *c);
void core_settle_ending(struct coord *c);
/* Sends the entries kept to all ranks. */
void core_relay(struct coord *c);
void core_on_rendezvous(struct coord *c, const struct coord_event *e);
void core_on_formed(struct coord *c, const struct coord_event *e);
/* Nobody makes progress, or a worker could not connect. Once is bad luck; for long, it will never succeed. */
void core_forming_failed(struct coord *c);
void core_on_broken(struct coord *c, const struct coord_event *e);

/* ---- core_wait.c */

/* Drops whoever makes no progress on what is waited for; says for whom the run waits. */
void core_tick_waits(struct coord *c);
