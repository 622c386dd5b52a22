/* worker/core_snapshot.c - the one copy of the state that rank 0 may hold, and the checkpoints written from it (W7, W8). */
#include <stdio.h>
#include <string.h>

#include "worker/core_state.h"

static struct worker_action *say_saved(struct worker *w, uint64_t step, const char *folder, bool ok)
{
    struct worker_action *action = worker_act(w, WORKER_ACTION_SAVED);
    action->save.step = step;
    action->save.ok = ok;
    memcpy(action->save.folder, folder, WORKER_FOLDER_MAX);
    return action;
}

static void take_snapshot(struct worker *w)
{
    BL_ASSERT_CMP(w->snapshot, ==, SNAPSHOT_NONE);
    w->snapshot = SNAPSHOT_TAKING;
    w->snapshot_step = (uint64_t)w->applied_step;
    worker_act(w, WORKER_ACTION_SNAPSHOT)->report.step = w->snapshot_step;
}

static void drop_snapshot(struct worker *w)
{
    worker_act(w, WORKER_ACTION_DISCARD)->report.step = w->snapshot_step;
    w->snapshot = SNAPSHOT_NONE;
}

static void write_snapshot(struct worker *w)
{
    struct worker_action *action = worker_act(w, WORKER_ACTION_WRITE);
    action->save.step = w->snapshot_step;
    memcpy(action->save.folder, w->save_folder, WORKER_FOLDER_MAX);
    memcpy(w->snapshot_folder, w->save_folder, WORKER_FOLDER_MAX);
    w->snapshot_link = w->member.link;
    w->snapshot_generation = w->generation;
    w->snapshot = SNAPSHOT_WRITING;
    w->save_asked = false;
}

/* Serves the Save that was asked for, as far as it can be now. */
static void try_save(struct worker *w)
{
    if (!w->save_asked)
        return;
    if (w->snapshot == SNAPSHOT_HELD && w->snapshot_step == w->save_step)
        return write_snapshot(w);
    if (w->snapshot == SNAPSHOT_HELD && w->snapshot_step > w->save_step)
        return worker_refuse_save(w); /* that state is gone; the copy's own Save comes later */
    if (w->snapshot == SNAPSHOT_HELD)
        drop_snapshot(w); /* nobody asks for an older one any more */
    if (w->snapshot != SNAPSHOT_NONE)
        return;
    bool state_rests = worker_is_live(w) && w->state != WORKER_REDUCING;
    if (state_rests && (uint64_t)w->applied_step == w->save_step)
        take_snapshot(w);
    else
        worker_refuse_save(w);
}

void worker_copy_or_save(struct worker *w)
{
    if (w->rank == 0 && bl_plan_snapshots(&w->plan, (uint64_t)w->applied_step))
        take_snapshot(w);
    else
        try_save(w);
}

void worker_refuse_save(struct worker *w)
{
    if (!w->save_asked)
        return;
    w->save_asked = false;
    say_saved(w, w->save_step, w->save_folder, false);
}

void worker_drop_copy(struct worker *w)
{
    if (w->snapshot == SNAPSHOT_TAKING || w->snapshot == SNAPSHOT_HELD)
        drop_snapshot(w);
}

bool worker_must_hold(const struct worker *w)
{
    return w->rank == 0 && w->snapshot != SNAPSHOT_NONE &&
           bl_plan_snapshots(&w->plan, (uint64_t)w->applied_step + 1);
}

void worker_on_save(struct worker *w, const struct worker_event *e)
{
    if (e->generation != w->generation || strlen(e->save.folder) >= WORKER_FOLDER_MAX)
        return core_member_wrong(&w->member);
    worker_refuse_save(w); /* the newer one counts */
    w->save_asked = true;
    w->save_step = e->save.step;
    memset(w->save_folder, 0, sizeof w->save_folder);
    snprintf(w->save_folder, sizeof w->save_folder, "%s", e->save.folder);
    if (w->state == WORKER_BROKEN)
        worker_refuse_save(w);
    else
        try_save(w);
}

void worker_on_snapped(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT(w->snapshot == SNAPSHOT_TAKING && e->applied.step == w->snapshot_step);
    w->snapshot = SNAPSHOT_HELD;
    if (worker_is_live(w))
        try_save(w);
}

void worker_written(struct worker *w, const struct worker_event *e)
{
    BL_ASSERT(w->snapshot == SNAPSHOT_WRITING && e->written.step == w->snapshot_step);
    w->snapshot = SNAPSHOT_NONE;
    if (w->member.linked && w->member.link == w->snapshot_link)
        say_saved(w, w->snapshot_step, w->snapshot_folder, e->written.ok)->generation =
            w->snapshot_generation;
    if (worker_is_live(w))
        try_save(w);
}
