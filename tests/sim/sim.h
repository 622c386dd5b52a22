/* tests/sim/sim.h - a cluster in one thread: the real cores of the three programs over an imagined network, disk, compute
 * engine and clock, all drawn from one seed. queue.c: chance and time; truth.c: what must hold; world*.c: everything else;
 * simulate.c: the command. */
#pragma once

#include "coordinator/core.h"
#include "loader/core.h"
#include "worker/core.h"

#define SIM_WORKERS_MAX 6
#define SIM_LOADERS_MAX 5
#define SIM_BATCH_MAX 24
#define SIM_STEPS_MAX 12
#define SIM_VALIDATE_MAX 16
#define SIM_SAMPLES_MAX 64
#define SIM_WINDOW_MAX 8
#define SIM_CAPACITY_MAX 6

/* Exit codes of a schedule that fails. */
enum { SIM_OK = 0, SIM_ASSERT = 3, SIM_UNSAFE = 4, SIM_STUCK = 5 };

/* ---- queue.c ---------------------------------------------------------------------------------- */

/* splitmix64: the schedule's only source of chance. */
uint64_t sim_random(uint64_t *state);
/* 0 .. n - 1 */
uint32_t sim_below(uint64_t *state, uint32_t n);
bool sim_chance(uint64_t *state, double p);

enum sim_what {
    SIM_TO_COORD,   /* a message arrives: link */
    SIM_TO_WORKER,  /* a message arrives: link */
    SIM_TO_LOADER,  /* a message arrives: link */
    SIM_COORD_OWN,  /* a timer, the journal, a checksum: the coordinator's own event */
    SIM_CLAIMED,    /* a coordinator has claimed its epoch, and reads the journal */
    SIM_SYNCED,     /* records of a coordinator are on disk: coord.journaled.seq */
    SIM_LOOKED,     /* it has read the run's epoch after that */
    SIM_WORKER_OWN, /* a timer, engine, writer, data: the worker's own event */
    SIM_LOADER_OWN,
    SIM_ENGINE, /* an operation of a worker's engine is over: engine_turn */
    SIM_RESTART,
    SIM_FAULT,
    SIM_HEAL,
};

/* Something that happens at a time. A process's events die with it (instance). */
struct sim_event {
    uint64_t at_ms, turn; /* equal times: in the order they were made */
    enum sim_what what;
    int index;         /* of the worker or loader; SIM_RESTART: enum program, index */
    int program;       /* SIM_RESTART */
    uint32_t instance; /* of the process it belongs to */
    uint32_t link;     /* messages */
    uint64_t engine_turn;
    bool ok;
    uint64_t content; /* DATA: sum of the terms of its samples */
    char name[COORD_CHECKPOINT_NAME_MAX];
    uint32_t void_count, sample_count;
    union {
        struct coord_event coord;
        struct worker_event worker;
        struct loader_event loader;
    };
    /* Not zeroed by sim_event_new, as most events have none: so many of each as a count says. */
    struct coord_void voids[SIM_BATCH_MAX];
    uint64_t samples[SIM_BATCH_MAX]; /* ASSIGNMENT */
    bool missing[SIM_BATCH_MAX];
    struct bl_range trained[SIM_BATCH_MAX];
    uint32_t unreached[SIM_WORKERS_MAX];
};

struct sim_queue {
    struct sim_place { /* an event, and what orders it, which is asked far more often */
        uint64_t at_ms, turn;
        struct sim_event *event;
    } * heap;
    size_t count, capacity;
    struct sim_event *free_list[4096];
    size_t free_count;
    uint64_t turn;
};
/* A zeroed event, but for its arrays; owned by the caller until sim_push. */
struct sim_event *sim_event_new(struct sim_queue *queue);
void sim_push(struct sim_queue *queue, struct sim_event *event, uint64_t at_ms);
/* A copy of an event that could not happen yet; it keeps its place among those made after it. */
void sim_push_again(struct sim_queue *queue, const struct sim_event *event, uint64_t at_ms);
/* The earliest event, the caller's until sim_event_done; NULL = none. */
struct sim_event *sim_pop(struct sim_queue *queue);
void sim_event_done(struct sim_queue *queue, struct sim_event *event);
void sim_queue_release(struct sim_queue *queue);

/* ---- truth.c ---------------------------------------------------------------------------------- */

/* Prints the text, the seed and the command that repeats it; ends the process with the code. */
void sim_fail(int code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
/* What sim_fail prints. */
void sim_failing(uint64_t seed);

/* A trainable state is the hash of everything trained into it, so that two states are equal exactly when their histories
 * are. One node per finished all-reduce. */
struct truth_node {
    uint64_t digest, parent;
    uint64_t generation, step;
};

#define TRUTH_NODES_MAX 4096
struct truth {
    const struct bl_plan *plan;
    uint64_t fresh; /* the state after 0 steps */
    struct truth_node nodes[TRUTH_NODES_MAX];
    uint32_t node_count;
    uint64_t generation;                /* the newest one planned; 0 = none since the last rewind */
    uint64_t committed;                 /* steps of the living lineage, as on disk */
    uint64_t states[SIM_STEPS_MAX + 1]; /* states[s]: after s steps of it */
    bool accepted[SIM_VALIDATE_MAX];    /* validation results kept, of `validating` */
    uint64_t validating;
};
void truth_init(struct truth *truth, const struct bl_plan *plan);
/* An all-reduce of step over all ranks is complete: batch indices in `count`, their terms in `sum`. Returns the new state. */
uint64_t truth_reduced(struct truth *truth, uint64_t generation, uint64_t step, uint64_t state,
                       uint32_t count, uint64_t sum, uint64_t expected);
/* A record is on disk. saved = the state in the checkpoint it names; formed = of the record's generation. */
void truth_record(struct truth *truth, const struct coord_record *record, uint64_t saved,
                  uint64_t formed);
/* A state after `step` steps is taken as the living one (source of a generation, validation, checkpoint). */
void truth_lives(const struct truth *truth, uint64_t state, uint64_t step, const char *where);
void truth_accepted(struct truth *truth, uint64_t step, uint32_t micro_batch);

/* ---- world.c ---------------------------------------------------------------------------------- */

struct sim_options {
    uint64_t seed;
    bool verbose; /* prints every event and action */
};
struct sim_result {
    uint64_t events, ms, generations, rewinds, crashes;
    uint64_t taken;  /* coordinators that ended because another had taken over */
    uint64_t hedges; /* assignments to a second loader */
};
/* Runs one schedule to its end; does not return when it fails. */
struct sim_result sim_run(const struct sim_options *options);
