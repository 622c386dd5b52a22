/* loader/core.h - a loader's rules: joining, the bounded queue of assignments, what is made and shipped
 * next, credit. A pure state machine like coordinator/core.h; what it shares with the worker is proto/core_member.h.
 *
 * Assignments   each sits in a `slot` (< capacity + jobs) from ACCEPT to COMPLETED or DISCARD; the loop keeps its samples
 *               and the micro-batch that was made there. An assignment is answered by exactly one Completed on the link it
 *               came by, also when it is not made: Completed is credit. */
#pragma once

#include "common/cluster.h"
#include "common/error.h"
#include "proto/core_member.h"

/* name, what it waits for */
#define LOADER_STATES(X)                                                                           \
    X(JOINING, "Welcome")                                                                          \
    X(OPENING, "index, tokenizer and source to be open")                                           \
    X(PROBING, "the images by which it proves that it sees the data")                              \
    X(WORKING, "assignments, and the threads that make and ship them")                             \
    X(GONE, "nothing")
enum loader_state {
#define X(name, waits_for) LOADER_##name,
    LOADER_STATES(X)
#undef X
        LOADER_STATE_COUNT
};

/* name, where it comes from */
#define LOADER_EVENTS(X)                                                                           \
    MEMBER_EVENTS(X)                                                                               \
    X(ASSIGNMENT, "coordinator")                                                                   \
    X(OPENED, "pool")                                                                              \
    X(PROBED, "pool")                                                                              \
    X(MADE, "pool")                                                                                \
    X(SHIPPED, "loop")
enum loader_event_type {
#define X(name, source) LOADER_EVENT_##name,
    LOADER_EVENTS(X)
#undef X
        LOADER_EVENT_COUNT
};

struct loader_event {
    enum loader_event_type type;
    uint64_t now_ms;     /* monotonic */
    uint64_t link;       /* messages of the coordinator, LOST: the connection */
    uint64_t generation; /* of the message's envelope */
    uint64_t epoch;      /* messages of the coordinator: which one's, from the envelope */
    union {
        struct {
            uint32_t patience_ms;
        } welcome;
        struct {
            enum bl_kind kind;
            uint64_t step;
            uint32_t micro_batch;
            uint64_t worker;
        } assignment;
        struct {
            int code;
        } stop;
        struct { /* MADE, SHIPPED */
            uint32_t slot;
            bool
                failed; /* SHIPPED: it cannot be, its worker's endpoint is none that this loader may use */
        } slot;
    };
};

/* name, what the loop does */
#define LOADER_ACTIONS(X)                                                                          \
    X(CONNECT, "drop the coordinator's connection, if any, make a new one and send Hello on it")   \
    X(OPEN, "open run folder, index and tokenizer; OPENED follows")                                \
    X(PROBE, "pool: read and hash the images that Welcome names; PROBED follows")                  \
    X(BEAT, "send Beat")                                                                           \
    X(ENDED, "send Ended, with what PROBED gave: ready for assignments")                           \
    X(ACCEPT, "keep the Assignment being handled in slot")                                         \
    X(MAKE, "pool: fetch, decode and tokenize slot's samples; MADE follows")                       \
    X(SHIP, "send slot's micro-batch to its worker when the socket takes it; SHIPPED follows")     \
    X(COMPLETED,                                                                                   \
      "slot is free: send Completed, with its voids if it was shipped, else stop shipping it")     \
    X(DISCARD, "slot is free: stop shipping it, send nothing (the link it came by is gone)")       \
    X(GOODBYE, "send Goodbye")                                                                     \
    X(EXIT, "leave with code")
enum loader_action_type {
#define X(name, effect) LOADER_ACTION_##name,
    LOADER_ACTIONS(X)
#undef X
        LOADER_ACTION_COUNT
};

struct loader_action {
    enum loader_action_type type;
    uint64_t link;       /* messages: the connection; CONNECT: the number of the new one */
    uint64_t generation; /* for the envelope: Completed has its assignment's */
    union {
        struct {
            uint32_t slot;
            bool
                shipped; /* COMPLETED: false = it failed, or its generation ended before: no SHIPPED follows */
            enum bl_kind kind;
            uint64_t step;
            uint32_t micro_batch;
            uint64_t worker;
        } assignment;
        struct {
            int code; /* 0, or positive BL_E… */
            const char *text;
        } exit;
    };
};

struct loader_actions {
    uint32_t count, capacity;
    struct loader_action *list;
};

struct loader_config {
    uint32_t capacity; /* assignments it may hold, what Hello says; 1..BL_LOADER_CAPACITY_MAX */
    uint32_t jobs;     /* assignments made at the same time; 1..capacity */
    struct core_member_config member;
};

struct loader;

int loader_new(const struct loader_config *config, struct loader **ret_loader,
               struct bl_error *err);
void loader_free(struct loader **loader);
/* The first call: connects. */
const struct loader_actions *loader_start(struct loader *loader, uint64_t now_ms);
/* Handles one event. The actions belong to loader and live until the next call. */
const struct loader_actions *loader_step(struct loader *loader, const struct loader_event *event);

struct loader_status {
    enum loader_state state;
    uint64_t generation;
    uint32_t queued, making, shipping;
    uint64_t made, dropped, violations;
};
struct loader_status loader_status(const struct loader *loader);

const char *loader_state_name(enum loader_state state);
const char *loader_event_name(enum loader_event_type type);
const char *loader_action_name(enum loader_action_type type);
const char *loader_rule_name(enum loader_state state, enum loader_event_type type);
void loader_check(const struct loader *loader);
