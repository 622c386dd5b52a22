/* coordinator/core.h - the coordinator's rules: membership, work assignments, commits, validation,
 * checkpoints, the end. A pure state machine: an event in, actions out; no clock, socket, thread or
 * file. docs/protocol.md states the rules with numbers; core.c cites them.
 *
 * Use      coord_new, coord_replay for each whole record of an existing journal, coord_start; then
 *          coord_step for every message, timer and completion. The loop carries out the returned
 *          actions in order and before the next coord_step. While `more` is set it calls coord_step
 *          with a TICK again (work per call is bounded).
 * Peers    a process is its incarnation (`peer`), one connection of it is a `link`: a number that
 *          the loop gives to each connection and never uses twice. Messages of a link that said no
 *          Hello, or was replaced by a newer one, are counted as late and dropped.
 * Checks   the loop compares protocol version, run token, build and other texts at Hello and
 *          refuses by itself; the core sees the Hellos that passed.
 * Memory   all of it is allocated by coord_new from the plan and the two limits. */
#pragma once

#include "common/cluster.h"
#include "common/error.h"
#include "coordinator/ledger.h"

/* name, what it waits for */
#define COORD_STATES(X)                                                                            \
    X(GATHERING, "enough workers that are ready")                                                  \
    X(CHECKING, "the checksums of the checkpoint to go back to")                                   \
    X(PLANNING, "the new generation's record on disk")                                             \
    X(FORMING, "everyone's Formed")                                                                \
    X(TRAINING, "reports of the lowest uncommitted step, and their commit on disk")                \
    X(VALIDATING, "the results of the validation micro-batches")                                   \
    X(SAVING, "a checkpoint without which it must not continue")                                   \
    X(ENDING, "Ended of the old generation's workers")                                             \
    X(LEAVING, "everyone's Goodbye")                                                               \
    X(FINISHED, "nothing")
enum coord_state {
#define X(name, waits_for) COORD_##name,
    COORD_STATES(X)
#undef X
        COORD_STATE_COUNT
};

/* name, where it comes from */
#define COORD_EVENTS(X)                                                                            \
    X(HELLO, "peer")                                                                               \
    X(ENDED, "peer")                                                                               \
    X(BEAT, "peer")                                                                                \
    X(RENDEZVOUS, "worker")                                                                        \
    X(FORMED, "worker")                                                                            \
    X(RECEIVED, "worker")                                                                          \
    X(CONSUMED, "worker")                                                                          \
    X(REPORT, "worker")                                                                            \
    X(VALIDATION, "worker")                                                                        \
    X(BROKEN, "worker")                                                                            \
    X(SAVED, "worker")                                                                             \
    X(COMPLETED, "loader")                                                                         \
    X(GOODBYE, "peer")                                                                             \
    X(LOST, "loop")                                                                                \
    X(JOURNALED, "loop")                                                                           \
    X(VERIFIED, "loop")                                                                            \
    X(PRUNE, "loop")                                                                               \
    X(CHECKPOINT, "loop")                                                                          \
    X(RELEASE, "loop")                                                                             \
    X(STOP, "loop")                                                                                \
    X(TICK, "loop")
enum coord_event_type {
#define X(name, source) COORD_EVENT_##name,
    COORD_EVENTS(X)
#undef X
        COORD_EVENT_COUNT
};

struct coord_void { /* of Completed */
    uint32_t slot;  /* index within the micro-batch */
    uint64_t sample;
    bool unreadable; /* perhaps only on the loader's host */
    bool asked;      /* left out by a rule: listed, and not counted as bad */
};

struct coord_event {
    enum coord_event_type type;
    uint64_t now_ms;     /* monotonic */
    uint64_t peer, link; /* sender; LOST: who is lost (link 0 = whatever its link) */
    uint64_t generation; /* of the sender's envelope */
    union {
        struct {
            enum bl_role role;
            uint32_t capacity; /* loader: micro-batches it may hold, 1..BL_LOADER_CAPACITY_MAX */
            uint64_t epoch;    /* of the coordinator that welcomed it last; 0: none did */
        } hello;
        /* Ready: no communicator, no assignments. Sent after Welcome once the models (index, tokenizer)
         * are open, and as the answer to End. Loaders send it once, with applied_step -1. */
        struct {
            int64_t applied_step;      /* steps in its state, -1 = it has none */
            uint64_t state_generation; /* the last generation it was Formed in with that state */
            struct bl_digest digest;
            uint32_t probes, probes_good; /* loader: images it was to read, and did read rightly */
            bool needs_files; /* worker: it does not see the run folder, or cannot write there */
        } ended;
        struct {
            uint64_t progress; /* grows with every piece of work the peer does … */
            uint64_t looks;    /* … and this while it waits for other ranks in a collective */
        } beat;
        struct {
            uint64_t step;
            struct bl_digest digest;
        } formed;
        struct {
            uint32_t unreached_count;
            const uint32_t *unreached; /* ranks; borrowed for the call */
        } broken;
        struct { /* RECEIVED, CONSUMED, VALIDATION; COMPLETED with voids */
            enum bl_kind kind;
            uint64_t step;
            uint32_t micro_batch;
            bool unshipped; /* COMPLETED: the worker's endpoint cannot be used */
            bool withheld;  /* COMPLETED: not shipped for voids that nobody has confirmed */
            uint32_t void_count;
            const struct coord_void *voids; /* borrowed for the call; ascending slots */
        } micro_batch;
        struct {
            uint64_t step;
            uint64_t sample_digest;
            uint32_t trained_count;
            const struct bl_range *trained; /* borrowed for the call */
        } report;
        struct {
            uint64_t step;
            const char *folder; /* the name it was told; borrowed for the call */
            bool ok;
        } saved;
        struct {
            bool dead;   /* the process is known to be gone: it will not come back with its state */
            bool killed; /* … and that somebody else ended it: the run is not at fault */
        } lost;
        struct {
            uint64_t seq;   /* this record and all before are on disk … */
            uint64_t epoch; /* … and once they were, the run's epoch was this */
        } journaled;
        struct {
            struct coord_checkpoint checkpoint;
            bool ok; /* all files there, all checksums hold */
        } verified;
        struct { /* of the registered checkpoints none is needed but the newest ones, and one */
            uint32_t keep;
            struct coord_checkpoint and_keep; /* generation 0: none */
        } prune;
    };
};

/* name, what the loop does */
#define COORD_ACTIONS(X)                                                                           \
    X(WELCOME, "send Welcome to peer")                                                             \
    X(REFUSE, "send Refuse (text, expected, found) to peer and forget the link")                   \
    X(FORGET, "the link is dead: close it, answer nothing on it")                                  \
    X(PULSE, "send Pulse to every welcome peer")                                                   \
    X(END, "send End to peer")                                                                     \
    X(FORM, "send Form to peer")                                                                   \
    X(KEEP, "keep the entry of the Rendezvous being handled")                                      \
    X(RELAY, "send all entries kept to peer, as Store")                                            \
    X(RELAYED, "forget the entries kept")                                                          \
    X(ASSIGNMENT,                                                                                  \
      "send Assignment to peer (a loader); coord_assignment_samples gives its samples")            \
    X(SAVE, "send Save to peer")                                                                   \
    X(STOP, "send Stop to peer")                                                                   \
    X(JOURNAL, "append record to the journal; JOURNALED(seq) when it is on disk")                  \
    X(PROBE, "look at the run's epoch; JOURNALED says what it is")                                 \
    X(VERIFY, "check the checkpoint's checksums; VERIFIED follows")                                \
    X(COMMITTED, "step is committed and on disk: write its metrics from the reports kept")         \
    X(REPORTED, "the Report being handled counts: keep it")                                        \
    X(ACCEPTED, "the Validation being handled counts: keep it")                                    \
    X(VALIDATED,                                                                                   \
      "all results after step steps are kept: write them, in order of their micro-batch; EMBED: "  \
      "all micro-batches are there")                                                               \
    X(REWOUND, "metrics of steps >= step are annulled; forget reports and validation results")     \
    X(REGISTERED, "the checkpoint counts: point to it")                                            \
    X(REMOVED, "the checkpoint counts no more: its folder may go")                                 \
    X(UNSAVED, "a checkpoint in passing could not be written: log it, ignoring")                   \
    X(CHECKPOINTED, "the checkpoint that was asked for: registered, or ok is false")               \
    X(BAD_SAMPLE,                                                                                  \
      "voids[void_index] of the Completed being handled is a sample not yet known as bad")         \
    X(NOTE, "log: see enum coord_note")                                                            \
    X(VIOLATION, "log: peer broke the protocol (text, expected, found); REFUSE or EXIT follows")   \
    X(EXIT, "everything is said: leave with code")
enum coord_action_type {
#define X(name, effect) COORD_ACTION_##name,
    COORD_ACTIONS(X)
#undef X
        COORD_ACTION_COUNT
};

/* name, what the log says of action.peer (0: of nobody) */
#define COORD_NOTES(X)                                                                             \
    X(LOST, "it was silent for ms; FORGET follows")                                                \
    X(STALLED, "it beats but made no progress for ms; what it was waited for")                     \
    X(REVOKED, "an assignment goes to another loader: why")                                        \
    X(HEDGED, "a second loader makes an assignment, too, as this one is late with it")             \
    X(RESTING, "a loader gets no assignments for ms while others are there")                       \
    X(LEFT_OUT, "a worker is left out of generations for ms: why")                                 \
    X(UNFORMED, "a generation was not formed: what it waited for")                                 \
    X(WAITING, "no progress for ms: what it is waited for")
enum coord_note {
#define X(name, what) COORD_NOTE_##name,
    COORD_NOTES(X)
#undef X
        COORD_NOTE_COUNT
};

struct coord_action {
    enum coord_action_type type;
    uint64_t peer, link; /* the addressee */
    uint64_t generation; /* for the envelope */
    union {
        struct {
            const char *text; /* static */
            uint64_t expected, found;
        } refuse; /* REFUSE, VIOLATION */
        struct {
            enum coord_note kind;
            const char *text;    /* static; a phrase that follows the peer's name */
            uint64_t other_link; /* another peer, named after the text; 0: none */
            uint64_t ms;
            bool has_micro_batch; /* then which */
            enum bl_kind micro_batch_kind;
            uint64_t step;
            uint32_t micro_batch;
        } note;
        struct {
            uint32_t rank, world;
            int32_t source;            /* -1: load the checkpoint, or start fresh without one */
            uint64_t step;             /* steps in the state everyone must hold */
            uint64_t state_generation; /* of the source's state: who has (it, step) has the state */
            struct coord_checkpoint checkpoint; /* source -1; generation 0 = fresh */
            bool one_reads; /* source -1: rank 0 does, and the others take the state from it */
        } form;
        struct {
            enum bl_kind kind;
            uint64_t step;
            uint32_t micro_batch;
            struct bl_range indices;
            uint64_t worker; /* incarnation: the loop knows its endpoint */
        } assignment;
        struct {
            uint64_t last; /* steps in the final state */
            int code;      /* 0: the run is complete, else BL_E… */
        } stop;
        struct {
            uint64_t seq;
            struct coord_record record;
        } journal;
        struct coord_checkpoint checkpoint; /* SAVE, VERIFY, REGISTERED, REMOVED, UNSAVED */
        struct {
            uint64_t step;
            bool ok;
        } checkpointed;
        struct {
            uint64_t step;
            bool via_survivors;
        } committed;
        uint64_t step; /* VALIDATED, REWOUND, ACCEPTED */
        uint32_t void_index;
        struct {
            int code;         /* 0, or positive BL_E… */
            const char *text; /* static: why */
        } exit;
    };
};

struct coord_actions {
    uint32_t count, capacity;
    bool more; /* call coord_step with a TICK at once */
    struct coord_action *list;
};

struct coord_config {
    struct bl_plan plan;
    const uint64_t *train_ids;    /* plan.train_samples sample ids, borrowed for life */
    const uint64_t *validate_ids; /* plan.validate_samples sample ids, borrowed for life */
    const uint8_t *
        done; /* EMBED: of each micro-batch whether it is there already; for the call alone; NULL = none */
    uint64_t sample_count;   /* sample ids are below it */
    double max_bad_fraction; /* of the distinct samples seen */
    uint64_t bad_minimum;    /* samples seen before the fraction is judged */
    uint32_t patience_ms;
    uint32_t workers_max, loaders_max;
    uint32_t workers_min;    /* a generation has at least so many; >= 1 */
    uint32_t workers_wanted; /* the first of this process waits for so many; >= workers_min */
    bool members_gone;       /* workers of an earlier process cannot come back (--local) */
};

struct coord;

/* -BL_ECONFIG names the field that is out of range; -BL_ENOMEM. */
int coord_new(const struct coord_config *config, struct coord **ret_coord, struct bl_error *err);
void coord_free(struct coord **coord);

/* One record of the journal found at start, oldest first. -BL_EFORMAT: it contradicts an earlier
 * one; -BL_ECONFIG: it is another run's (batch, micro-batch, seed, samples). A torn last record is the
 * reader's business: it is not there. */
int coord_replay(struct coord *coord, const struct coord_record *record, struct bl_error *err);

/* The first call after replay, with type TICK's now_ms. */
const struct coord_actions *coord_start(struct coord *coord, uint64_t now_ms);

/* Handles one event. The actions belong to coord and live until the next call. */
const struct coord_actions *coord_step(struct coord *coord, const struct coord_event *event);

/* sample[i], epoch[i] of an ASSIGNMENT's batch index first + i, for i < assignment.indices.count. */
void coord_assignment_samples(const struct coord *coord, const struct coord_action *assignment,
                              uint64_t *ret_sample, uint32_t *ret_epoch);

/* Is it void because more than one loader could not read its image? Then loaders ship it so. */
bool coord_is_missing(const struct coord *coord, uint64_t sample);

/* What a person may want to see; all of it is a copy. */
struct coord_status {
    enum coord_state state;
    bool stopping;
    uint64_t generation, step; /* the highest on disk; the lowest uncommitted one */
    uint32_t world, workers, loaders;
    uint32_t workers_needed;      /* GATHERING */
    uint32_t leases_out;          /* assigned, not Received */
    uint64_t assignments, hedges; /* of this process; hedges: of them those to a second loader */
    uint32_t validation_done, validation_size; /* micro-batches; VALIDATING */
    uint64_t late, violations;                 /* messages dropped, peers dropped */
    uint64_t seen, bad;                        /* distinct samples */
};
struct coord_status coord_status(const struct coord *coord);
/* Its `state` alone, at no cost. */
enum coord_state coord_state_now(const struct coord *coord);

/* For whom the run waits right now, and why: what the log says after a long time without progress. */
struct coord_wait {
    uint64_t peer, link; /* whom; 0: nobody in particular */
    const char
        *text; /* static; a phrase that follows the peer's name; NULL: somebody must come, or go */
    uint64_t other_link;  /* another peer, named after the text; 0: none */
    uint64_t ms;          /* since the run made progress */
    bool has_micro_batch; /* then which */
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
};
struct coord_wait coord_wait(const struct coord *coord);

/* A peer as the rules see it. */
struct coord_member {
    const char *
        phase; /* static: a worker's "opening", "ready", "planned", "member", "closing"; a loader's "opening",
                           * "ready", "resting" */
    int64_t rank;  /* -1: not a member of a generation */
    uint64_t done; /* member: steps in its state */
    uint32_t
        leases; /* worker: micro-batches ordered for it or at hand; loader: assignments it holds */
    uint32_t capacity;    /* loader */
    uint64_t heard_ms;    /* since its last message */
    uint64_t progress_ms; /* since its progress grew */
    bool left_out;        /* worker: not to be a member while others are there */
};
/* false: no peer of the rules has this link. */
bool coord_member(const struct coord *coord, uint64_t link, struct coord_member *ret);

const struct coord_ledger *coord_ledger(const struct coord *coord);

const char *coord_state_name(enum coord_state state);
const char *coord_event_name(enum coord_event_type type);
const char *coord_action_name(enum coord_action_type type);
/* The rule's entry for a pair, as docs/protocol.md prints it: "do", "late" or "proto". */
const char *coord_rule_name(enum coord_state state, enum coord_event_type type);

/* Asserts every invariant that can be seen from inside; for tests and the simulator. */
void coord_check(const struct coord *coord);
