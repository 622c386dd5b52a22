/* common/progress.c - see progress.h. */
#include "common/progress.h"

#include <stdatomic.h>

static atomic_uint_fast64_t done, looks;

void bl_progress_add(uint64_t pieces)
{
    atomic_fetch_add_explicit(&done, pieces, memory_order_relaxed);
}

uint64_t bl_progress(void)
{
    return atomic_load_explicit(&done, memory_order_relaxed);
}

void bl_progress_look(void)
{
    atomic_fetch_add_explicit(&looks, 1, memory_order_relaxed);
}

uint64_t bl_progress_looks(void)
{
    return atomic_load_explicit(&looks, memory_order_relaxed);
}
