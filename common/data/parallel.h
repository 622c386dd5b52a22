/* common/data/parallel.h - the same work on many items by several threads, watched by the calling one. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct parallel; /* one run; given to the items */

struct parallel_work {
    uint64_t count;
    /* Item i, on any thread. Items are begun in order. A failure ends the run; no further item is begun. */
    int (*item)(void *context, struct parallel *run, uint64_t i, struct bl_error *err);
    /* How many items are done: on the calling thread, about ten times a second and at the end. false stops the run. May be
     * NULL. */
    bool (*watch)(void *context, uint64_t done);
    void *context;
};

/* Runs all items and waits for them. The error of the first item (by number) that failed, or -BL_ESTOPPED. */
int parallel_run(const struct parallel_work *work, struct bl_error *err);

/* For an item that waits (location_patience): false when the run is to end. run is a struct parallel. */
bool parallel_wait(void *run, uint32_t ms);
