/* worker/core_state.h - what the parts of the worker's rules share. Private to core*.c.
 *
 *   core.c             the table, dispatch, the machine as a whole
 *   core_generation.c  forming and ending a generation
 *   core_membership.c  joining, being lost, leaving
 *   core_step.c        micro-batches and steps
 *   core_snapshot.c    the state's copy, checkpoints
 *   core_state.c       actions, what a state means
 *
 * Each calls only those below it. */
#pragma once

#include "worker/core.h"

enum buffer_state { BUFFER_FREE, BUFFER_KEPT, BUFFER_IN_ENGINE };

struct buffer {
    enum buffer_state state;
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
};

/* The one copy of the state that rank 0 may hold. */
enum snapshot_state { SNAPSHOT_NONE, SNAPSHOT_TAKING, SNAPSHOT_HELD, SNAPSHOT_WRITING };

struct worker {
    uint64_t incarnation;
    struct bl_plan plan;
    bool plan_known;
    enum worker_state state;
    struct worker_actions actions;
    uint64_t duplicates;

    struct core_member member;
    bool engaged;  /* the engine has a FORM that no ABORTED has ended */
    int stop_code; /* of Stop: LEAVING leads out with it */

    uint64_t generation, state_generation;
    int64_t applied_step; /* steps in the state; -1 = none */
    struct bl_digest digest;
    uint64_t form_step; /* of the state that the generation is formed with */
    uint32_t rank, world;
    uint32_t next_micro_batch; /* of the share, of step applied_step */

    struct buffer *buffers; /* (plan.window) */
    uint8_t *validated;     /* validation micro-batches kept since the state became what it is */

    enum snapshot_state snapshot;
    uint64_t snapshot_step;
    uint64_t snapshot_link, snapshot_generation; /* WRITING: who asked */
    char snapshot_folder[WORKER_FOLDER_MAX];
    bool save_asked; /* a Save that could not begin yet */
    uint64_t save_step;
    char save_folder[WORKER_FOLDER_MAX];
};

/* Each handles the event of its name, in a state whose rule is RULE_DO. */
typedef void worker_handler(struct worker *worker, const struct worker_event *event);

/* ---- core_state.c */

/* Appends an action for the living connection and generation. */
struct worker_action *worker_act(struct worker *worker, enum worker_action_type type);
/* The compute states: a formed generation lives and its communicator works. */
bool worker_is_live(const struct worker *worker);
/* The micro-batches of a step that are this rank's. */
struct bl_range worker_share(const struct worker *worker);
/* Lets go of the communicator; worker_on_aborted follows. */
void worker_abort(struct worker *worker);

/* ---- core_snapshot.c */

/* Rank 0: copies the state in passing, if a checkpoint of it is due; else serves a Save that waits for it. */
void worker_copy_or_save(struct worker *worker);
/* Answers a Save that waits, if there is one: it cannot be served. */
void worker_refuse_save(struct worker *worker);
/* The generation is over: a copy goes, unless it is being written. */
void worker_drop_copy(struct worker *worker);
/* The copy of the next state needs the buffer of the one before: is it in use? */
bool worker_must_hold(const struct worker *worker);
/* The WRITTEN of the copy: it is free again, and its Save is answered. */
void worker_written(struct worker *worker, const struct worker_event *event);
worker_handler worker_on_save, worker_on_snapped;

/* ---- core_step.c */

/* The state became another one: no micro-batch of the step that starts from it is done. */
void worker_begin_step(struct worker *worker);
/* All buffers are free; the engine has let go of them. */
void worker_release_buffers(struct worker *worker);
worker_handler worker_on_data, worker_on_computed, worker_on_applied, worker_on_written;

/* ---- core_membership.c */

extern const struct core_member_calls worker_member_calls;
worker_handler worker_on_welcome, worker_on_refuse, worker_on_pulse, worker_on_stop,
    worker_on_opened, worker_on_lost, worker_on_tick;
/* Says Goodbye, and exits with stop_code. */
void worker_leave(struct worker *worker);

/* ---- core_generation.c */

worker_handler worker_on_end, worker_on_form, worker_on_rendezvous, worker_on_formed,
    worker_on_failed, worker_on_aborted;
