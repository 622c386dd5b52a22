/* tests/bench/unhedged.c - in place of coordinator/core_hedge.c: a coordinator that asks no second loader, for tests/bench/hedge_bench to
 * compare with. */
#include "coordinator/core_state.h"

void core_learn_turnaround(struct coord *c, const struct lease *lease)
{
}

void core_tick_hedges(struct coord *c)
{
}
