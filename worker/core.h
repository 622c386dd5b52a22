/* worker/core.h - a worker's rules: joining, forming, which micro-batch is computed next, when a step is
 * reduced and applied, snapshots, leaving. A pure state machine like coordinator/core.h; what it shares
 * with the loader is proto/core_member.h.
 *
 * Engine   the loop gives FORM, COMPUTE, REDUCE, SNAPSHOT and ABORT to the compute thread's queue.
 *          All but ABORT run in order; ABORT makes the running one return soon, discards the queued
 *          ones, and its ABORTED comes after every other completion. A step is applied or not,
 *          never half: an abort in mid-apply finishes the apply.
 * Buffers  a micro-batch that is kept stays in the loop's buffer `slot` (< plan.window) until RELEASE.
 * Link     one connection to the coordinator; CONNECT makes a new one and ends the older. */
#pragma once

#include "common/cluster.h"
#include "common/error.h"
#include "proto/core_member.h"

/* name, what it waits for */
#define WORKER_STATES(X)                                                                           \
    X(JOINING, "Welcome")                                                                          \
    X(OPENING, "the models to be open")                                                            \
    X(READY, "Form")                                                                               \
    X(FORMING, "the communicator, and the state from its source")                                  \
    X(RECEIVING, "the next micro-batch of the step")                                               \
    X(COMPUTING, "the engine's result of a micro-batch")                                           \
    X(HOLDING, "the snapshot's buffer, before the step may be applied")                            \
    X(REDUCING, "the all-reduce and the update")                                                   \
    X(BROKEN, "End, after the communicator failed")                                                \
    X(ENDING, "the engine to have let go of the communicator")                                     \
    X(LEAVING, "the engine to have let go, then it leaves")                                        \
    X(GONE, "nothing")
enum worker_state {
#define X(name, waits_for) WORKER_##name,
    WORKER_STATES(X)
#undef X
        WORKER_STATE_COUNT
};

/* name, where it comes from */
#define WORKER_EVENTS(X)                                                                           \
    MEMBER_EVENTS(X)                                                                               \
    X(FORM, "coordinator")                                                                         \
    X(RENDEZVOUS, "coordinator")                                                                   \
    X(SAVE, "coordinator")                                                                         \
    X(DATA, "loader")                                                                              \
    X(OPENED, "engine")                                                                            \
    X(FORMED, "engine")                                                                            \
    X(COMPUTED, "engine")                                                                          \
    X(APPLIED, "engine")                                                                           \
    X(SNAPPED, "engine")                                                                           \
    X(FAILED, "engine")                                                                            \
    X(ABORTED, "engine")                                                                           \
    X(WRITTEN, "writer")
enum worker_event_type {
#define X(name, source) WORKER_EVENT_##name,
    WORKER_EVENTS(X)
#undef X
        WORKER_EVENT_COUNT
};

#define WORKER_FOLDER_MAX 256

struct worker_event {
    enum worker_event_type type;
    uint64_t now_ms;     /* monotonic */
    uint64_t link;       /* messages of the coordinator, LOST: the connection */
    uint64_t generation; /* of the message's envelope; engine: of the FORM it belongs to */
    uint64_t epoch;      /* messages of the coordinator: which one's, from the envelope */
    union {
        struct {
            uint32_t patience_ms;
        } welcome;
        struct {
            uint32_t rank, world;
            int32_t source;
            uint64_t step, state_generation;
            const char *checkpoint; /* borrowed; handed on in the FORM action, as one_reads is */
            bool one_reads;
        } form;
        struct {
            uint64_t step;
            const char *folder; /* borrowed */
        } save;
        struct {
            int code;
        } stop;
        struct {             /* DATA: header checked against the plan by the loop (sizes, run) */
            uint64_t worker; /* whom it was made for */
            enum bl_kind kind;
            uint64_t step;
            uint32_t micro_batch;
        } data;
        struct {
            struct bl_digest digest;
        } formed;
        struct {
            uint32_t slot;
        } computed;
        struct {
            uint64_t step; /* APPLIED: the step applied; SNAPPED: steps in the copy */
        } applied;
        struct {
            int64_t applied_step; /* steps in the engine's state; -1 = none, or half written over */
            struct bl_digest digest;
        } aborted;
        struct {
            uint64_t step;
            bool ok;
        } written;
    };
};

/* name, what the loop does */
#define WORKER_ACTIONS(X)                                                                          \
    X(CONNECT, "drop the coordinator's connection, if any, make a new one and send Hello on it")   \
    X(OPEN, "open run folder and models; OPENED follows")                                          \
    X(BEAT, "send Beat")                                                                           \
    X(ENDED, "send Ended")                                                                         \
    X(FORMED, "send Formed")                                                                       \
    X(RECEIVED, "send Received")                                                                   \
    X(CONSUMED, "send Consumed")                                                                   \
    X(REPORT, "send Report with the sums that the engine gave with APPLIED")                       \
    X(RESULT, "send Validation with the sums that the engine gave with COMPUTED")                  \
    X(BROKEN, "send Broken")                                                                       \
    X(SAVED, "send Saved")                                                                         \
    X(GOODBYE, "send Goodbye")                                                                     \
    X(KEEP, "the data being handled stays in buffer slot")                                         \
    X(DROP, "forget the data being handled")                                                       \
    X(RELEASE, "buffer slot is free")                                                              \
    X(FORM, "engine: communicator of world ranks, then the state; FORMED or FAILED follows")       \
    X(HAND_ON, "engine: the Rendezvous being handled")                                             \
    X(COMPUTE, "engine: forward and backward (or validation) of slot; COMPUTED or FAILED")         \
    X(REDUCE, "engine: all-reduce and apply step; APPLIED or FAILED follows")                      \
    X(SNAPSHOT, "engine: copy the state after step steps; SNAPPED follows")                        \
    X(DISCARD, "the snapshot is not needed")                                                       \
    X(ABORT, "engine: let go of the communicator; ABORTED follows")                                \
    X(WRITE, "writer: write the snapshot as folder; WRITTEN follows")                              \
    X(EXIT, "leave with code")
enum worker_action_type {
#define X(name, effect) WORKER_ACTION_##name,
    WORKER_ACTIONS(X)
#undef X
        WORKER_ACTION_COUNT
};

#define WORKER_NO_SLOT UINT32_MAX

struct worker_action {
    enum worker_action_type type;
    uint64_t link;       /* messages: the connection; CONNECT: the number of the new one */
    uint64_t generation; /* for the envelope, or the engine */
    union {
        struct {
            int64_t applied_step;
            uint64_t state_generation;
            struct bl_digest digest;
        } ended; /* also CONNECT: what Hello says */
        struct {
            uint64_t step;
            struct bl_digest digest;
        } formed;
        struct { /* RECEIVED, CONSUMED, RESULT, KEEP, RELEASE, COMPUTE */
            uint32_t slot;
            enum bl_kind kind;
            uint64_t step;
            uint32_t micro_batch;
            bool
                last; /* COMPUTE: the rank's last micro-batch of the step: reduce buckets as they come */
            uint32_t
                next; /* COMPUTE: the slot of the training micro-batch that follows; WORKER_NO_SLOT: not kept yet */
        } micro_batch;
        struct {
            uint64_t step;
            struct bl_range indices; /* this rank's share of the global batch: Report.trained */
        } report;                    /* also REDUCE, SNAPSHOT, DISCARD (step alone) */
        struct {
            uint32_t rank, world;
            int32_t source;
            uint64_t step;
            bool have_state; /* the state is here already: the same bytes may be written over it */
            const char *checkpoint; /* of the FORM event; "" = fresh */
            bool one_reads;         /* source -1: rank 0 loads, the others take it from there */
        } form;
        struct {
            uint64_t step;
            bool ok;
            char folder[WORKER_FOLDER_MAX];
        } save; /* WRITE, SAVED */
        struct {
            int code; /* 0, or positive BL_E… */
            const char *text;
        } exit;
    };
};

struct worker_actions {
    uint32_t count, capacity;
    struct worker_action *list;
};

struct worker_config {
    uint64_t incarnation; /* random, not 0 */
    struct core_member_config member;
};

struct worker;

int worker_new(const struct worker_config *config, struct worker **ret_worker,
               struct bl_error *err);
void worker_free(struct worker **worker);
/* The plan becomes known when the run folder was opened: before OPENED is fed. Allocates. */
int worker_set_plan(struct worker *worker, const struct bl_plan *plan, struct bl_error *err);

/* The first call: connects. */
const struct worker_actions *worker_start(struct worker *worker, uint64_t now_ms);
/* Handles one event. The actions belong to worker and live until the next call; the loop carries
 * them out in order before the next call. */
const struct worker_actions *worker_step(struct worker *worker, const struct worker_event *event);

struct worker_status {
    enum worker_state state;
    uint64_t generation;
    uint32_t rank, world;
    int64_t applied_step; /* -1: no state */
    uint32_t held;        /* micro-batches in buffers */
    uint64_t late, duplicates, violations;
    const char *waiting; /* "data", "compute", "all-reduce", "" */
};
struct worker_status worker_status(const struct worker *worker);

const char *worker_state_name(enum worker_state state);
const char *worker_event_name(enum worker_event_type type);
const char *worker_action_name(enum worker_action_type type);
const char *worker_rule_name(enum worker_state state, enum worker_event_type type);
void worker_check(const struct worker *worker);
