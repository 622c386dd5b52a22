/* worker/engine_state.h - what the parts of the engine share. Private to engine*.c.
 *
 *   engine.c             opening and closing, the thread, what each command calls
 *   engine_load.c        models, tokenizer, trainer
 *   engine_generation.c  a communicator and a state for a new generation
 *   engine_work.c        micro-batches: forward and backward, validation, the step's end
 *   engine_embed.c       the same of an embedding run
 *   engine_snapshot.c    the snapshot that checkpoints are written from
 *   engine_queue.c       commands in, events out, the phase
 *
 * Each calls those below it only. */
#pragma once

#include <pthread.h>

#include "common/tokenizer/tokenizer.h"
#include "worker/checkpoint.h"
#include "worker/embedder.h"
#include "worker/engine.h"
#include "worker/filler.h"
#include "worker/options.h"
#include "worker/options_training.h"
#include "worker/rows.h"

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
    struct engine_forming form;
    bool last;
    char *checkpoint; /* owned; NULL but in FORM, whose form.checkpoint it is */
    uint32_t slot;
    const struct batch *batch, *ahead; /* borrowed from the loop; ahead: the one to come, or NULL */
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
    enum { SNAPSHOT_FREE, SNAPSHOT_HELD, SNAPSHOT_READ } snapshot_use;
    struct trainer_snapshot snapshot; /* the writer's while it is READ */

    /* the thread's own */
    struct ops *ops;
    struct captioner *captioner;
    struct trainer *trainer;
    struct embedder *embedder; /* EMBED: in place of the two above */
    struct rows rows;          /* features of the micro-batch at hand, from the cache */
    struct filler *filler; /* cache.fill, and the cache was not whole when the run was started */
    struct tokenizer *tokenizer;
    struct captioner_options model;
    struct captioner_generation decoding; /* sample captions during validation */
    int32_t eos[8];
    struct checkpoint_state metadata; /* what a checkpoint says of its run */
    bool has_state, broken, step_open;
    char *
        loaded; /* what the state was loaded from (a checkpoint, or "": begun anew) and still is; NULL: nothing */
    bool digest_known; /* and `digest` is that of the state */
    uint8_t digest[32];

    /* the loop's */
    pthread_t writer;
    bool writer_started;
    char *folder; /* what the writer writes; owned */
};

/* ---- engine_queue.c */

/* For a few hundred bytes without which nothing can be reported either: running out aborts. */
void *engine_alloc(size_t size);
void engine_post(struct engine *e, const struct engine_event *event);
struct command *engine_command(enum command_kind kind, uint64_t generation, uint64_t step);
void engine_give(struct engine *e, struct command *c);
/* The next command; waits. The caller's, for engine_command_free. */
struct command *engine_take(struct engine *e);
void engine_command_free(struct command *c);
bool engine_is_over(struct engine *e, uint64_t generation);
/* What the thread does and whom it waits for, for engine_phase; static texts. */
void engine_set_phase(struct engine *e, const char *phase, const char *waiting);

/* ---- engine_snapshot.c */

int engine_do_snapshot(struct engine *e, const struct command *c, struct engine_event *event);
/* Before the state changes: waits until no snapshot needs its present values. -BL_EPEER when the generation ends
 * meanwhile. */
int engine_wait_snapshot(struct engine *e, uint64_t generation, struct bl_error *err);
void engine_join_writer(struct engine *e);

/* ---- engine_load.c */

int engine_load(struct engine *e, struct bl_error *err);

/* ---- engine_generation.c */

/* Ends the communicator, if there is one. */
void engine_drop_comm(struct engine *e);
/* The state is changed, or about to be: nothing that was known of it holds any more. */
void engine_state_changes(struct engine *e);
/* SHA-256 of the state, computed once. */
int engine_digest(struct engine *e, uint8_t ret[32], struct bl_error *err);
/* The thread's commands: each fills in the event that answers. */
int engine_do_form(struct engine *e, const struct command *c, struct engine_event *event);

/* ---- engine_embed.c */

int engine_embed_load(struct engine *e, struct bl_error *err);
int engine_embed_form(struct engine *e, const struct command *c, struct engine_event *event);
int engine_embed_compute(struct engine *e, const struct command *c, struct engine_event *event);

/* ---- engine_work.c */

int engine_do_compute(struct engine *e, const struct command *c, struct engine_event *event);
int engine_do_apply(struct engine *e, const struct command *c, struct engine_event *event);
