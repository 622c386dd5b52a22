/* coordinator/core_wait.c - waits follow progress (P1 - P3): a peer that makes progress is waited for, one that beats but makes none on what it
 * has to do is lost, and a run that makes no progress says for whom it waits. */
#include "coordinator/core_state.h"

/* By the peer's own reports, has nothing that is waited for made progress for so long since then? */
static bool is_stuck(const struct coord *c, const struct signs *signs, uint64_t since_ms,
                     uint32_t wait_ms)
{
    return is_past(c->now_ms, latest(since_ms, signs->progress_ms), wait_ms);
}

static void note_stalled(struct coord *c, uint64_t peer, uint64_t link, const struct signs *signs,
                         uint64_t since_ms, const char *text)
{
    core_note(c, COORD_NOTE_STALLED, peer, link, text)->note.ms =
        c->now_ms - latest(since_ms, signs->progress_ms);
    core_act_to(c, COORD_ACTION_FORGET, peer, link);
}

static void worker_stalled(struct coord *c, struct worker *w, uint64_t since_ms, const char *text)
{
    note_stalled(c, w->peer, w->link, &w->signs, since_ms, text);
    c->faults++;
    core_worker_lost(c, w, false);
}

/* How long w may make no progress before it counts as hung (P2): by what its own micro-batches have taken, so that a slow
 * machine is waited for and a hung one is not; while that is not known, long enough for any. */
static uint32_t hung_after_ms(const struct coord *c, const struct worker *w, enum bl_kind kind)
{
    uint64_t longest_ms = w->longest_ms[kind];
    uint64_t learned_ms = 3 * (uint64_t)c->timing.lost_ms + 8 * longest_ms;
    if (!longest_ms)
        return c->timing.stalled_ms;
    return learned_ms < UINT32_MAX ? (uint32_t)learned_ms : UINT32_MAX;
}

/* The same of an all-reduce, which nobody leaves alone. While a checkpoint is written, rank 0 may wait for the disk. */
static uint32_t reduce_hung_after_ms(const struct coord *c)
{
    uint32_t wait_ms = 0;
    for (int i = 0; i < SAVES_MAX; i++)
        if (c->saves[i].state == SAVE_REQUESTED)
            return c->timing.stalled_ms;
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        uint32_t ms = hung_after_ms(c, rank_worker(c, rank), BL_KIND_TRAIN);
        wait_ms = ms > wait_ms ? ms : wait_ms;
    }
    return wait_ms;
}

/* ---- What a member has to do -------------------------------------------------------------------- */

/* Has w all it needs for step s, so that nothing but the all-reduce is left? */
static bool awaits_reduce(const struct coord *c, const struct worker *w, uint64_t step)
{
    if (w->done != step || w->next_step <= step)
        return false;
    for (uint32_t k = 0; k < c->config.plan.window; k++)
        if (w->leases[k].state != LEASE_FREE && w->leases[k].step <= step)
            return false;
    return true;
}

/* Of the ranks in an all-reduce without progress: which one hangs? One that neither looks for the others' bytes while another one
 * does. NULL: nothing tells them apart, as with collectives that say nothing of it. */
static struct worker *hangs_in_reduce(const struct coord *c, uint32_t wait_ms)
{
    struct worker *hung = NULL;
    bool others_look = false;
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        if (is_past(c->now_ms, latest(w->signs.looks_ms, w->signs.progress_ms), wait_ms))
            hung = w;
        else
            others_look = true;
    }
    return others_look ? hung : NULL;
}

/* The last step's all-reduce is under way in all ranks that have not reported it, and none of them makes progress. Who has not
 * reported what others have is lost, and so is who hangs; if nobody does, they all let go and try anew. */
static void tick_reduce(struct coord *c)
{
    uint64_t since_ms = 0;
    bool reported = false;
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        const struct worker *w = rank_worker(c, rank);
        if (w->done == c->issued && !awaits_reduce(c, w, c->issued))
            return;
        reported |= w->done > c->issued;
        since_ms = latest(since_ms, w->signs.progress_ms);
    }
    uint32_t wait_ms = reduce_hung_after_ms(c);
    if (!is_past(c->now_ms, since_ms, wait_ms))
        return;
    struct worker *hung = reported ? NULL : hangs_in_reduce(c, wait_ms);
    if (hung)
        return worker_stalled(c, hung, 0, "to exchange gradients in the all-reduce");
    for (uint32_t rank = 0; rank < c->plan.world && is_live(c); rank++) {
        struct worker *w = rank_worker(c, rank);
        if (w->done > c->issued)
            continue;
        if (reported)
            return worker_stalled(c, w, 0, "to report a step that other ranks have reported");
        core_note(c, COORD_NOTE_WAITING, w->peer, w->link, "to finish the all-reduce")->note.ms =
            c->now_ms - since_ms;
    }
    core_end_generation(c);
}

static void tick_member(struct coord *c, struct worker *w)
{
    const struct lease *lease = core_lease_at_hand(c, w);
    if (lease && is_stuck(c, &w->signs, lease->since_ms, hung_after_ms(c, w, lease->kind)))
        return worker_stalled(c, w, lease->since_ms, "to compute a micro-batch");
    for (int i = 0; i < SAVES_MAX && c->state == COORD_SAVING; i++) {
        const struct save *save = &c->saves[i];
        if (save->state == SAVE_REQUESTED && save->link == w->link &&
            is_stuck(c, &w->signs, save->since_ms, c->timing.stalled_ms))
            return worker_stalled(c, w, save->since_ms, "to write a checkpoint");
    }
}

static void tick_workers(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        bool stuck = is_stuck(c, &w->signs, w->since_ms, c->timing.stalled_ms);
        if (w->phase == OPENING && stuck)
            worker_stalled(c, w, w->since_ms, "to open its models");
        else if (w->phase == CLOSING && stuck)
            worker_stalled(c, w, w->since_ms, "to answer End");
        else if (w->phase == MEMBER && is_live(c))
            tick_member(c, w);
    }
}

static void tick_loaders(struct coord *c)
{
    for (uint32_t i = 0; i < c->loader_top; i++) {
        struct loader *l = &c->loaders[i];
        if (!l->present || l->ready || !is_stuck(c, &l->signs, l->since_ms, c->timing.stalled_ms))
            continue;
        note_stalled(c, l->peer, l->link, &l->signs, l->since_ms, "to open the data");
        core_loader_lost(c, l);
    }
}

/* A rank that is done, or loads fast, waits for the others: so all of them must have stopped making progress. */
static void tick_forming(struct coord *c)
{
    uint64_t since_ms = c->forming_since_ms;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        since_ms = latest(since_ms, rank_worker(c, rank)->signs.progress_ms);
    if (!is_past(c->now_ms, since_ms, c->timing.forming_ms))
        return;
    core_blame_unformed(c);
    core_forming_failed(c);
}

/* ---- For whom the run waits --------------------------------------------------------------------- */

static void wait_for(struct coord_wait *wait, uint64_t peer, uint64_t link, const char *text)
{
    wait->peer = peer;
    wait->link = link;
    wait->text = text;
}

static void wait_for_lease(struct coord_wait *wait, const struct lease *lease)
{
    wait->has_micro_batch = true;
    wait->kind = lease->kind;
    wait->step = lease->step;
    wait->micro_batch = lease->micro_batch;
}

/* No loader has room for an assignment: the one whose own made progress longest ago. */
static void wait_for_room(const struct coord *c, struct coord_wait *wait)
{
    const struct loader *slowest = NULL;
    for (uint32_t i = 0; i < c->loader_top; i++) {
        const struct loader *l = &c->loaders[i];
        if (l->present && l->held > 0 &&
            (!slowest || l->signs.progress_ms < slowest->signs.progress_ms))
            slowest = l;
    }
    if (slowest)
        wait_for(wait, slowest->peer, slowest->link, "to make what it was assigned before");
    else
        wait_for(wait, 0, 0, "a loader that has room for an assignment");
}

/* The rank that is furthest behind, and what it lacks. */
static void wait_for_rank(const struct coord *c, struct coord_wait *wait)
{
    const struct worker *slowest = rank_worker(c, 0);
    for (uint32_t rank = 1; rank < c->plan.world; rank++) {
        const struct worker *w = rank_worker(c, rank);
        if (w->done < slowest->done || (w->done == slowest->done && !awaits_reduce(c, w, w->done) &&
                                        awaits_reduce(c, slowest, slowest->done)))
            slowest = w;
    }
    const struct lease *at_hand = core_lease_at_hand(c, slowest);
    if (at_hand) {
        wait_for(wait, slowest->peer, slowest->link, "to compute a micro-batch");
        return wait_for_lease(wait, at_hand);
    }
    for (uint32_t k = 0; k < c->config.plan.window; k++) {
        const struct lease *lease = &slowest->leases[k];
        if (lease->state != LEASE_OUT)
            continue;
        const struct loader *l = &c->loaders[lease->loader];
        wait_for(wait, l->peer, l->link,
                 lease->shipped_ms ? "whose micro-batch, which it says it shipped, has not come to"
                                   : "to make and ship a micro-batch to");
        wait->other_link = slowest->link;
        return wait_for_lease(wait, lease);
    }
    if (awaits_reduce(c, slowest, slowest->done))
        wait_for(wait, slowest->peer, slowest->link,
                 "to finish the all-reduce and report the step");
    else
        wait_for_room(c, wait);
}

static const struct worker *worker_in(const struct coord *c, enum phase phase, bool formed)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase == phase && c->workers[i].formed == formed)
            return &c->workers[i];
    return NULL;
}

/* w NULL: the last one was lost in this very event. */
static void wait_for_worker(struct coord_wait *wait, const struct worker *w, const char *text)
{
    if (w)
        wait_for(wait, w->peer, w->link, text);
}

struct coord_wait coord_wait(const struct coord *c)
{
    struct coord_wait wait = {.ms = c->now_ms - c->moved_ms};
    const struct worker *w = NULL;
    switch (c->state) {
    case COORD_TRAINING:
    case COORD_VALIDATING:
        wait_for_rank(c, &wait);
        break;
    case COORD_SAVING:
        wait_for_worker(&wait, rank_worker(c, 0), "to write a checkpoint");
        break;
    case COORD_FORMING:
        wait_for_worker(&wait, worker_in(c, MEMBER, false), "to form the generation");
        break;
    case COORD_ENDING:
        w = worker_in(c, CLOSING, true);
        wait_for_worker(&wait, w ? w : worker_in(c, CLOSING, false), "to answer End");
        break;
    case COORD_CHECKING:
        wait_for(&wait, 0, 0, "the checksums of a checkpoint");
        break;
    case COORD_PLANNING:
        wait_for(&wait, 0, 0, "the disk that takes the journal");
        break;
    default:
        break; /* for somebody to come, or to go */
    }
    return wait;
}

/* Said after 3 P, or twice the last step's time, and then ever more rarely. */
static void tick_note(struct coord *c)
{
    uint64_t still_ms = c->noted_ms - c->moved_ms;
    uint64_t after_ms = latest(c->timing.note_ms, latest(2 * c->step_ms, 2 * still_ms));
    if (c->now_ms - c->moved_ms < after_ms)
        return;
    struct coord_wait wait = coord_wait(c);
    if (wait.text) {
        struct coord_action *a = core_note(c, COORD_NOTE_WAITING, wait.peer, wait.link, wait.text);
        a->note.ms = wait.ms;
        a->note.other_link = wait.other_link;
        a->note.has_micro_batch = wait.has_micro_batch;
        a->note.micro_batch_kind = wait.kind;
        a->note.step = wait.step;
        a->note.micro_batch = wait.micro_batch;
    }
    c->noted_ms = c->now_ms;
}

void core_tick_waits(struct coord *c)
{
    tick_workers(c);
    tick_loaders(c);
    if (c->state == COORD_TRAINING)
        tick_reduce(c);
    if (c->state == COORD_FORMING)
        tick_forming(c);
    tick_note(c);
}
