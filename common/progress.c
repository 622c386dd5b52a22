/* common/progress.c - see progress.h. */
#include "common/progress.h"

#include <stdatomic.h>

static atomic_uint_fast64_t done;

void bl_progress_add(uint64_t pieces)
{
    atomic_fetch_add_explicit(&done, pieces, memory_order_relaxed);
}

uint64_t bl_progress(void)
{
    return atomic_load_explicit(&done, memory_order_relaxed);
}
