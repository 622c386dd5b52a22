/* worker/engine_state.h - what the parts of the engine share. Private to engine*.c.
 *
 *   engine.c             the thread, its queues of commands and events, snapshots
 *   engine_generation.c  a communicator and a state for a new generation
 *   engine_work.c        groups: forward and backward, validation, the step's end */
#pragma once

#include <pthread.h>

#include "common/tokenizer/tokenizer.h"
#include "worker/checkpoint.h"
#include "worker/engine.h"
#include "worker/options.h"

enum command_kind {
    COMMAND_FORM,
    COMMAND_COMPUTE,
    COMMAND_REDUCE,
    COMMAND_SNAPSHOT,
    COMMAND_ABORT,
    COMMAND_QUIT
};

struct command {
    struct command *next;
    enum command_kind kind;
    uint64_t generation, step;
    int rank, world, source;
    bool have_state, last;
    char checkpoint[1024];
    uint32_t slot;
    const struct batch *batch; /* borrowed from the loop */
};

struct event_node {
    struct event_node *next;
    struct engine_event event;
};

/* A rendezvous entry that came before its communicator was made. */
struct entry {
    struct entry *next;
    uint64_t generation;
    char key[64];
    size_t size;
    uint8_t value[];
};

struct engine {
    struct engine_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;

    /* under the lock */
    struct command *commands, **commands_end;
    struct event_node *events, **events_end;
    uint64_t ended;    /* generations up to this one are over */
    struct comm *comm; /* of `forming`; made and freed by the thread, aborted and fed by others */
    uint64_t forming;
    struct entry *early; /* entries for generations after `forming` */
    const char *phase, *waiting;
    struct trainer_snapshot snapshot; /* count 0: none; the writer's while it runs */

    /* the thread's own */
    struct ops *ops;
    struct captioner *captioner;
    struct trainer *trainer;
    struct tokenizer *tokenizer;
    struct captioner_options model;
    struct captioner_generation how; /* sample captions during validation */
    int32_t eos[8];
    struct checkpoint_state metadata; /* what a checkpoint says of its run */
    bool has_state, broken, step_open;

    /* the loop's */
    pthread_t writer;
    bool writer_started;
    char folder[1024]; /* what the writer writes */
};

/* ---- engine.c */

/* What the thread does and whom it waits for, for engine_phase; static texts. */
void engine_set_phase(struct engine *e, const char *phase, const char *waiting);

/* ---- engine_generation.c */

/* Ends the communicator, if there is one. */
void engine_drop_comm(struct engine *e);
/* Hands over the entries of the generation being formed and forgets those of older ones. Under the
 * lock. */
void engine_deliver_early(struct engine *e);
/* The thread's commands: each fills in the event that answers. */
int engine_do_form(struct engine *e, const struct command *c, struct engine_event *event);

/* ---- engine_work.c */

int engine_do_compute(struct engine *e, const struct command *c, struct engine_event *event);
int engine_do_apply(struct engine *e, const struct command *c, struct engine_event *event);
