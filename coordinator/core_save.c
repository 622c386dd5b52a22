/* coordinator/core_save.c - checkpoints (C1 - C8): wanted, asked of rank 0, verified, registered, pruned. */
#include "coordinator/core_state.h"

#include <string.h>

static uint32_t saves_unchecked(const struct coord *c)
{
    uint32_t count = 0;
    for (int i = 0; i < SAVES_MAX; i++)
        count += c->saves[i].state == SAVE_VERIFYING || c->saves[i].state == SAVE_JOURNALING;
    return count;
}

/* A free entry; if there is none, the one whose writer was asked longest ago gives way. NULL: all
 * wait for the checksums of others, which needs a rank 0 that does not wait for its Saves. */
static struct save *save_entry(struct coord *c)
{
    struct save *oldest = NULL;
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state == SAVE_FREE)
            return save;
        if (save->state == SAVE_REQUESTED &&
            (!oldest || save->checkpoint.generation < oldest->checkpoint.generation))
            oldest = save;
    }
    return oldest;
}

static bool is_being_saved(const struct coord *c, uint64_t step)
{
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state != SAVE_FREE && c->saves[i].checkpoint.step == step)
            return true;
    return false;
}

void core_request_save(struct coord *c, uint64_t step)
{
    struct coord_checkpoint checkpoint = {step, c->generation};
    if (core_is_saved(c, step) || is_being_saved(c, step))
        return;
    struct save *save = save_entry(c);
    if (save)
        *save = (struct save){.state = SAVE_WANTED, .checkpoint = checkpoint};
    else
        core_act(c, COORD_ACTION_UNSAVED)->checkpoint = checkpoint;
}

void core_send_saves(struct coord *c)
{
    const struct worker *w = rank_worker(c, 0);
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_WANTED || saves_unchecked(c) >= SAVES_UNCHECKED_MAX ||
            save->checkpoint.step > c->ledger.committed)
            continue;
        save->state = SAVE_REQUESTED;
        save->peer = w->peer;
        save->link = w->link;
        save->since_ms = c->now_ms;
        core_act_to(c, COORD_ACTION_SAVE, w->peer, w->link)->checkpoint = save->checkpoint;
    }
}

bool core_must_be_saved(const struct coord *c)
{
    uint64_t done = c->ledger.committed;
    return (done == 0 || done == core_end_step(c)) && !core_is_saved(c, done);
}

static void answer_checkpoint(struct coord *c, uint64_t step, bool ok)
{
    struct coord_action *action = core_act(c, COORD_ACTION_CHECKPOINTED);
    action->checkpointed.step = step;
    action->checkpointed.ok = ok;
    c->checkpoint_asked = false;
}

void core_on_checkpoint(struct coord *c, const struct coord_event *e)
{
    c->checkpoint_asked = true;
    c->pause_generation = 0;
}

void core_settle_asked(struct coord *c)
{
    if (!c->checkpoint_asked || c->stopping)
        return;
    if (!core_is_pausing(c)) {
        c->pause = core_steps_begun(c);
        c->pause_generation = c->generation;
    }
    if (c->ledger.committed == c->pause && core_is_saved(c, c->pause))
        answer_checkpoint(c, c->pause, true);
}

static void save_failed(struct coord *c, struct save *save)
{
    uint64_t step = save->checkpoint.step;
    core_act(c, COORD_ACTION_UNSAVED)->checkpoint = save->checkpoint;
    save->state = SAVE_FREE;
    if (is_live(c) && core_is_pausing(c) && step == c->pause)
        answer_checkpoint(c, step, false);
    if (is_live(c) && step == c->ledger.committed && core_must_be_saved(c) &&
        ++c->save_failures >= SAVE_FAILURES_MAX)
        core_leave(c, BL_EIO, "a checkpoint that is needed cannot be written");
}

void core_on_saved(struct coord *c, const struct coord_event *e)
{
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_REQUESTED || save->link != e->link ||
            save->checkpoint.step != e->saved.step)
            continue;
        char name[COORD_CHECKPOINT_NAME_MAX];
        coord_checkpoint_name(save->checkpoint, name);
        if (strcmp(name, e->saved.folder) != 0)
            continue;
        if (!e->saved.ok)
            return save_failed(c, save);
        save->state = SAVE_VERIFYING;
        core_act(c, COORD_ACTION_VERIFY)->checkpoint = save->checkpoint;
        return;
    }
    c->late++;
}

/* A part at a time, and none while others are on their way: the loop asks again (C7). */
void core_on_prune(struct coord *c, const struct coord_event *e)
{
    const struct coord_ledger *ledger = &c->ledger;
    if (!journal_is_idle(c))
        return;
    uint32_t dropped = 0;
    for (uint32_t i = 0; i + e->prune.keep < ledger->checkpoint_count; i++) {
        struct coord_checkpoint old = ledger->checkpoints[i];
        bool kept =
            old.step == e->prune.and_keep.step && old.generation == e->prune.and_keep.generation;
        if (kept || dropped++ >= DROPPED_AT_ONCE)
            continue;
        core_journal(c, (struct coord_record){.type = COORD_RECORD_REMOVED,
                                              .step = old.step,
                                              .generation = old.generation});
    }
}

void core_on_verified(struct coord *c, const struct coord_event *e)
{
    struct coord_checkpoint found = e->verified.checkpoint;
    if (c->state == COORD_CHECKING && c->check == CHECK_RUNNING && found.step == c->checking.step &&
        found.generation == c->checking.generation) {
        c->check = e->verified.ok ? CHECK_OK : CHECK_BAD;
        return;
    }
    for (int i = 0; i < SAVES_MAX; i++) {
        struct save *save = &c->saves[i];
        if (save->state != SAVE_VERIFYING || save->checkpoint.step != found.step ||
            save->checkpoint.generation != found.generation)
            continue;
        if (!e->verified.ok)
            return save_failed(c, save);
        save->state = SAVE_JOURNALING;
        core_journal(c, (struct coord_record){.type = COORD_RECORD_CHECKPOINT,
                                              .step = found.step,
                                              .generation = found.generation});
        return;
    }
    c->late++;
}
