/* proto/core_member.h - the rules of membership, the same for a worker and a loader (docs/protocol.md, W1 and W2): connecting,
 * Welcome, opening the run, heartbeats, silence, a lost coordinator, coming back, leaving.
 *
 * Pure. A program's core embeds a struct core_member, hands it the events listed below, and does what the calls say: each
 * call emits the action of its name and sets the program's own state. */
#pragma once

#include "common/cluster.h"
#include "common/error.h"

/* The events of every member: name, where it comes from. Each program's list begins with them, so their numbers agree. */
#define MEMBER_EVENTS(X)                                                                           \
    X(WELCOME, "coordinator")                                                                      \
    X(REFUSE, "coordinator")                                                                       \
    X(PULSE, "coordinator")                                                                        \
    X(END, "coordinator")                                                                          \
    X(STOP, "coordinator")                                                                         \
    X(LOST, "loop")                                                                                \
    X(TICK, "loop")
enum member_event_type {
#define X(name, source) MEMBER_EVENT_##name,
    MEMBER_EVENTS(X)
#undef X
        MEMBER_EVENT_COUNT
};

struct member_event {
    enum member_event_type type;
    uint64_t link;        /* messages of the coordinator, LOST: the connection */
    uint64_t generation;  /* of the message's envelope … */
    uint64_t epoch;       /* … and of the coordinator that sent it */
    uint32_t patience_ms; /* WELCOME */
    int code;             /* STOP: what the run ended with, positive BL_E…; 0 = complete */
};

/* The entry of a (state, event) pair in a program's table.
 * DO     the event has its function
 * LATE   counted and dropped: it crossed a message of ours, or its generation or connection is gone
 * PROTO  the coordinator does not do this: the connection is given up for a new one
 * BUG    our own threads and loop do not do this: an assert */
enum core_rule { RULE_DO, RULE_LATE, RULE_PROTO, RULE_BUG };
const char *core_rule_name(enum core_rule rule);

enum core_member_state {
    MEMBER_JOINING, /* connected, or trying to; waits for Welcome */
    MEMBER_OPENING, /* waits for the run's files and models */
    MEMBER_READY,   /* the program's own states */
    MEMBER_GONE
};

/* What the program's core does; each call gets it. */
struct core_member_calls {
    /* CONNECT: a new connection of number member.link, in place of the one before. */
    void (*connect)(void *core);
    /* Welcome came, and the run is not open yet. OPEN, unless it is under way since an earlier connection. */
    void (*open)(void *core, bool start);
    /* The run is open, and nothing of an earlier connection is left. */
    void (*ready)(void *core);
    /* BEAT. */
    void (*beat)(void *core);
    /* The coordinator is lost: drops the work it gave. False: some of it takes time; core_member_resume follows. */
    bool (*let_go)(void *core);
    /* EXIT with code (positive BL_E…, 0: as told). */
    void (*exit)(void *core, int code, const char *text);
};

struct core_member_config {
    uint32_t patience_ms;  /* until Welcome tells the run's */
    uint64_t reconnect_ms; /* without a coordinator for so long: exit */
};

/* Written by the functions below; the program's core reads it, and counts in late and violations too. */
struct core_member {
    const struct core_member_calls *calls;
    void *core;
    struct core_member_config config;
    struct bl_timing timing;
    enum core_member_state state;
    uint64_t now_ms; /* the newest event's */
    uint64_t heard_ms, beat_ms, connect_ms, away_ms;
    uint64_t link;  /* number of the newest connection */
    uint64_t epoch; /* of the coordinator that welcomed it last; none of an older one is heard */
    bool linked;    /* Welcome came on it, and it is not lost */
    bool opening, opened; /* OPEN was emitted; it is done */
    uint64_t late, violations;
};

/* calls and core are borrowed for the member's life. */
void core_member_init(struct core_member *member, const struct core_member_config *config,
                      const struct core_member_calls *calls, void *core);
/* The first connection. */
void core_member_start(struct core_member *member, uint64_t now_ms);

/* Takes note of an event's time, and of a message as a sign of life. False: the event is a message of a connection that is
 * not the living one, or its loss, and is to be dropped; or a message of a coordinator from which another one has taken the run
 * over since (J4): then the connection is given up. */
enum core_source { SOURCE_MESSAGE, SOURCE_LINK, SOURCE_OWN };
bool core_member_admit(struct core_member *member, enum core_source source, uint64_t link,
                       uint64_t epoch, uint64_t now_ms);
/* True: the event is to be handled. Else its rule was applied here; type and state are for the assert's message. */
bool core_member_apply(struct core_member *member, enum core_rule rule, int type, int state);

void core_member_welcome(struct core_member *member, uint32_t patience_ms, uint64_t epoch);
void core_member_opened(struct core_member *member);
void core_member_lost(struct core_member *member);
void core_member_tick(struct core_member *member);

/* The coordinator did what none does: the connection is given up. */
void core_member_wrong(struct core_member *member);
/* Everything that let_go began to drop is gone: ready again, or connects anew. */
void core_member_resume(struct core_member *member);
void core_member_exit(struct core_member *member, int code, const char *text);
