/* loader/core_state.h - what the parts of the loader's rules share. Private to core*.c.
 *
 *   core.c              the table, dispatch, membership, the machine as a whole
 *   core_assignments.c  what is made and shipped next, and what answers it
 *   core_state.c        actions, counting
 *
 * Each calls only those below it. */
#pragma once

#include "loader/core.h"

enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_MAKING, SLOT_SHIPPING };

struct slot {
    enum slot_state state;
    bool dead;     /* MAKING: of no use any more; freed when the pool is done with it */
    uint64_t turn; /* order of arrival */
    uint64_t link, generation;
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
    uint64_t worker;
};

struct loader {
    struct loader_config config;
    struct core_member member;
    enum loader_state state;
    struct loader_actions actions;
    uint64_t made, dropped;

    bool probing;        /* PROBE is with the pool */
    uint64_t probe_link; /* for the Welcome of that connection */
    uint64_t generation; /* assignments of older ones are dead */
    uint64_t turn;
    uint32_t slot_count;
    struct slot *slots;
};

typedef void loader_handler(struct loader *loader, const struct loader_event *event);

/* ---- core_state.c */

/* Appends an action for the living connection and generation. */
struct loader_action *loader_act(struct loader *loader, enum loader_action_type type);
uint32_t loader_slots_in(const struct loader *loader, enum slot_state state);

/* ---- core_assignments.c */

/* Drops every assignment: those being made as soon as the pool is done with them. */
void loader_drop_all(struct loader *loader);
/* A newer generation makes the assignments of all older ones worthless. */
void loader_see_generation(struct loader *loader, uint64_t generation);
loader_handler loader_on_assignment, loader_on_made, loader_on_shipped;
