/* loader/core_state.c - the ground the rules stand on: actions, and how many assignments are where. */
#include "loader/core_state.h"

struct loader_action *loader_act(struct loader *l, enum loader_action_type type)
{
    BL_ASSERT_CMP(l->actions.count, <, l->actions.capacity);
    struct loader_action *action = &l->actions.list[l->actions.count++];
    *action =
        (struct loader_action){.type = type, .link = l->member.link, .generation = l->generation};
    return action;
}

uint32_t loader_slots_in(const struct loader *l, enum slot_state state)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < l->slot_count; i++)
        count += l->slots[i].state == state;
    return count;
}
