/* coordinator/core_generation.c - from READY workers to a formed generation (M1 - M9). */
#include "coordinator/core_state.h"

#include <string.h>

/* The best state present: of the newest generation, then with the most steps. NULL = none. */
static struct worker *best_survivor(struct coord *c)
{
    struct worker *best = NULL;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (w->phase != READY || w->left_out || !core_is_survivor(c, w))
            continue;
        if (!best || w->state_generation > best->state_generation ||
            (w->state_generation == best->state_generation && w->applied_step > best->applied_step))
            best = w;
    }
    return best;
}

/* Survivors of one generation differ by at most one step, and equal steps have equal bits (S4). */
static bool survivors_agree(struct coord *c, const struct worker *best)
{
    for (uint32_t i = 0; i < c->worker_top; i++) {
        const struct worker *w = &c->workers[i];
        if (w->phase != READY || !core_is_survivor(c, w) ||
            w->state_generation != best->state_generation)
            continue;
        if (w->applied_step + 1 < best->applied_step) {
            core_fail(c, w, "survivors are more than one step apart", (uint64_t)best->applied_step,
                      (uint64_t)w->applied_step);
            return false;
        }
        if (w->applied_step == best->applied_step &&
            memcmp(&w->digest, &best->digest, sizeof w->digest) != 0) {
            core_fail(c, w, "survivors hold different states of one step",
                      (uint64_t)best->applied_step, (uint64_t)w->applied_step);
            return false;
        }
    }
    return true;
}

/* The source, then who has a state, then the others: more than a step can keep busy stay spare. */
static void choose_members(struct coord *c, struct worker *source)
{
    uint32_t room = bl_plan_world_max(&c->config.plan);
    c->plan.world = source != NULL;
    if (source)
        source->phase = PLANNED;
    for (int survivors = 1; survivors >= 0; survivors--)
        for (uint32_t i = 0; i < c->worker_top && c->plan.world < room; i++) {
            struct worker *w = &c->workers[i];
            if (w->phase != READY || w->left_out || core_is_survivor(c, w) != (survivors == 1))
                continue;
            w->phase = PLANNED;
            c->plan.world++;
        }
}

/* How far the run got: steps, or shards. */
static uint64_t got_to(const struct coord *c)
{
    return c->config.plan.kind == BL_KIND_EMBED ? c->validated_count : c->issued;
}

/* Counts this rewind; true: it is one too many (M12). What the first generation of a process goes back to is not its failure,
 * nor is a rewind after somebody killed all that were lost. */
static bool rewinds_in_vain(struct coord *c, uint64_t step)
{
    bool further = c->rewinds == 0 || step != c->rewind_step || got_to(c) > c->rewind_from;
    bool excused = core_losses_are_excused(c);
    core_losses_clear(c);
    if (c->first || excused)
        return false;
    if (further) {
        c->rewinds = 0;
        c->rewind_from = got_to(c);
    }
    c->rewind_step = step;
    return ++c->rewinds >= REWINDS_MAX;
}

static void plan_generation(struct coord *c, struct worker *source,
                            struct coord_checkpoint checkpoint)
{
    if (!source && rewinds_in_vain(c, checkpoint.step))
        return core_leave(c, BL_EPEER,
                          "the run went back to one step again and again and got no further");
    c->passed_over = 0;
    c->plan.broken = false;
    c->plan.source = source ? source - c->workers : -1;
    c->plan.step = source ? (uint64_t)source->applied_step : checkpoint.step;
    c->plan.state_generation = source ? source->state_generation : 0;
    c->plan.checkpoint = checkpoint;
    bool put_back = c->ledger.committed > 0 || checkpoint.generation > 0;
    if (!source && put_back) {
        core_journal(c, (struct coord_record){.type = COORD_RECORD_REWIND,
                                              .step = checkpoint.step,
                                              .generation = checkpoint.generation});
        memset(c->saves, 0, sizeof c->saves);
        c->validated_count = 0;
        c->issued = checkpoint.step;
        c->floor = c->generation + 1;
    }
    choose_members(c, source);
    c->generation++;
    core_journal(c, (struct coord_record){.type = COORD_RECORD_GENERATION,
                                          .generation = c->generation,
                                          .step = c->plan.step,
                                          .world = c->plan.world});
    c->state = COORD_PLANNING;
}

uint32_t core_workers_needed(const struct coord *c, uint32_t ready)
{
    if (c->stopping)
        return 1;
    uint32_t need = c->config.workers_min;
    bool patient = c->first && (ready < c->config.workers_min || core_workers_in(c, OPENING) > 0 ||
                                c->now_ms < c->ready_since_ms + c->timing.forming_ms);
    if (patient && c->config.workers_wanted > need)
        need = c->config.workers_wanted;
    if (patient && !c->config.members_gone && c->ledger.world > need)
        need = c->ledger.world;
    return need;
}

/* Nothing of this state is lost when everybody leaves: the fresh state is a function of the seed.
 */
static bool is_kept(const struct coord *c, const struct worker *w)
{
    return w->applied_step == 0 || core_is_saved(c, (uint64_t)w->applied_step);
}

/* Damaged checkpoints leave the journal only when there is something to resume from without them: files that are away
 * for a while, and come back, must still count (M9). */
static void drop_passed_over(struct coord *c)
{
    const struct coord_ledger *ledger = &c->ledger;
    for (int i = 0; c->passed_over > 0 && i < DROPPED_AT_ONCE; i++) {
        struct coord_checkpoint damaged =
            ledger->checkpoints[ledger->checkpoint_count - c->passed_over--];
        core_journal(c, (struct coord_record){.type = COORD_RECORD_DAMAGED,
                                              .step = damaged.step,
                                              .generation = damaged.generation});
    }
    c->check = CHECK_DROPPING;
    c->state = COORD_CHECKING;
}

void core_settle_gathering(struct coord *c)
{
    core_let_go_of_released(c);
    core_mark_left_out(c);
    uint32_t ready = core_workers_usable(c);
    if (ready < c->config.workers_min)
        c->ready_since_ms = c->now_ms;
    if (core_is_complete(c))
        return core_leave(c, 0, "the run is complete");
    struct worker *best = best_survivor(c);
    bool nobody = !best && (c->stop_overdue || c->now_ms >= c->absent_until_ms);
    if (c->stopping && (nobody || (best && is_kept(c, best))))
        return core_leave(c, c->stop_code, core_stop_text(c));
    if (ready < core_workers_needed(c, ready) || c->now_ms < c->gather_after_ms)
        return;
    if (best) {
        if (survivors_agree(c, best))
            plan_generation(c, best, (struct coord_checkpoint){0});
        return;
    }
    if (c->now_ms < c->absent_until_ms)
        return; /* a worker that is away may come back with its state */
    if (c->passed_over < c->ledger.checkpoint_count) {
        c->checking = c->ledger.checkpoints[c->ledger.checkpoint_count - 1 - c->passed_over];
        c->check = CHECK_RUNNING;
        core_act(c, COORD_ACTION_VERIFY)->checkpoint = c->checking;
        c->state = COORD_CHECKING;
    } else if (c->ledger.committed > 0) {
        core_leave(c, BL_EFORMAT, "no registered checkpoint is complete");
    } else if (c->passed_over) {
        drop_passed_over(c);
    } else {
        plan_generation(c, NULL, (struct coord_checkpoint){0});
    }
}

void core_settle_checking(struct coord *c)
{
    if (c->check == CHECK_BAD) {
        c->passed_over++;
        c->state = COORD_GATHERING;
        return;
    }
    if (c->check == CHECK_DROPPING) {
        if (!journal_is_idle(c))
            return;
        if (c->passed_over > 0)
            return drop_passed_over(c);
        c->state = COORD_GATHERING;
        return;
    }
    uint32_t ready = core_workers_usable(c);
    if (c->stopping || best_survivor(c) || ready < core_workers_needed(c, ready))
        c->state = COORD_GATHERING;
    else if (c->check == CHECK_OK && c->passed_over)
        drop_passed_over(c);
    else if (c->check == CHECK_OK)
        plan_generation(c, NULL, c->checking);
}

/* Who writes checkpoints, and reads them for all if somebody cannot: the first that sees the run folder (M14). */
static uint32_t first_rank(const struct coord *c, bool *ret_all_see)
{
    uint32_t first = c->worker_top, seeing = c->worker_top;
    *ret_all_see = true;
    for (uint32_t i = c->worker_top; i-- > 0;) {
        if (c->workers[i].phase != PLANNED)
            continue;
        first = i;
        if (c->workers[i].needs_files)
            *ret_all_see = false;
        else
            seeing = i;
    }
    return seeing < c->worker_top ? seeing : first;
}

static void send_forms(struct coord *c)
{
    core_act(c, COORD_ACTION_RELAYED); /* what is left of an earlier generation */
    c->entry_count = 0;
    bool all_see;
    uint32_t rank = 0, first = first_rank(c, &all_see);
    int32_t source = -1;
    for (uint32_t n = 0; n <= c->worker_top; n++) {
        uint32_t i = n ? n - 1 : first; /* then the others */
        struct worker *w = &c->workers[i];
        if (w->phase != PLANNED)
            continue;
        w->phase = MEMBER;
        w->since_ms = c->now_ms;
        w->rank = rank;
        w->formed = w->published = false;
        w->taken = 0;
        w->received_ms = c->now_ms;
        w->done = w->next_step = c->plan.step;
        w->next_index = w->next_validate = 0;
        *assigned_digest(c, w, c->plan.step) = 0;
        c->ranks[rank] = i;
        if (i == c->plan.source)
            source = (int32_t)rank;
        rank++;
    }
    BL_ASSERT_CMP(rank, ==, c->plan.world);
    for (rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        struct coord_action *action = core_act_to(c, COORD_ACTION_FORM, w->peer, w->link);
        action->form.rank = rank;
        action->form.world = c->plan.world;
        action->form.source = source;
        action->form.step = c->plan.step;
        action->form.state_generation = c->plan.state_generation;
        action->form.checkpoint = c->plan.checkpoint;
        action->form.one_reads = source < 0 && !all_see;
    }
    c->forming_since_ms = c->now_ms;
    c->state = COORD_FORMING;
}

void core_settle_planning(struct coord *c)
{
    if (!journal_is_idle(c))
        return;
    if (!c->plan.broken)
        return send_forms(c);
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase == PLANNED)
            c->workers[i].phase = READY;
    c->state = COORD_GATHERING;
}

static bool has_digest(const struct worker *w, const struct bl_digest *digest)
{
    return memcmp(&w->formed_digest, digest, sizeof *digest) == 0;
}

/* The state that everybody must hold: the source's; of a checkpoint what most ranks read from it. NULL: no state has most. */
static const struct bl_digest *state_of_most(const struct coord *c)
{
    if (c->plan.source >= 0)
        return &c->workers[c->plan.source].digest;
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        const struct bl_digest *digest = &rank_worker(c, rank)->formed_digest;
        uint32_t same = 0;
        for (uint32_t other = 0; other < c->plan.world; other++)
            same += has_digest(rank_worker(c, other), digest);
        if (2 * same > c->plan.world)
            return digest;
    }
    return NULL;
}

/* A rank with another state goes, and the generation with it (M11). */
static bool ranks_agree(struct coord *c)
{
    const struct bl_digest *digest = state_of_most(c);
    if (!digest) {
        core_fail(c, rank_worker(c, 0), "ranks hold different states of one checkpoint",
                  c->plan.step, c->plan.step);
        return false;
    }
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (!has_digest(rank_worker(c, rank), digest)) {
            core_drop_worker(c, rank_worker(c, rank), "a rank holds another state than the source",
                             c->plan.step, c->plan.step);
            return false;
        }
    return true;
}

void core_settle_forming(struct coord *c)
{
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (!rank_worker(c, rank)->formed)
            return;
    if (!ranks_agree(c))
        return;
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        struct worker *w = rank_worker(c, rank);
        w->applied_step = (int64_t)c->plan.step;
        w->state_generation = c->generation;
        w->digest = w->formed_digest;
    }
    core_pairs_formed(c);
    c->formed = c->generation;
    c->first = false;
    c->absent_until_ms = 0;
    c->unformed_since_ms = 0;
    c->save_failures = 0;
    c->regrouping = false;
    core_losses_clear(c);
    if (c->stopping)
        c->last = c->plan.step;
    while (c->issued < c->plan.step)
        core_journal(c, (struct coord_record){.type = COORD_RECORD_COMMIT,
                                              .generation = c->generation,
                                              .step = c->issued++,
                                              .via_survivors = true});
    c->state = COORD_TRAINING;
    if (bl_plan_checkpoints(&c->config.plan, c->plan.step))
        core_request_save(c, c->plan.step);
}

void core_settle_ending(struct coord *c)
{
    if (core_workers_in(c, CLOSING) == 0)
        c->state = COORD_GATHERING;
}

/* Every rank needs the entries of all, so they go together: one by one they would be as many messages as pairs of ranks. */
void core_relay(struct coord *c)
{
    for (uint32_t rank = 0; rank < c->plan.world && c->entry_count > 0; rank++) {
        const struct worker *w = rank_worker(c, rank);
        core_act_to(c, COORD_ACTION_RELAY, w->peer, w->link);
    }
    core_act(c, COORD_ACTION_RELAYED);
    c->entry_count = 0;
}

void core_on_rendezvous(struct coord *c, const struct coord_event *e)
{
    struct worker *from = core_member(c, e);
    if (!from)
        return;
    from->published = true;
    core_act(c, COORD_ACTION_KEEP);
    if (++c->entry_count == c->plan.world)
        core_relay(c);
}

void core_on_formed(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    if (w->formed)
        return core_violation(c, e, "Formed once a generation", 1, 2);
    if (e->formed.step != c->plan.step)
        return core_violation(c, e, "Formed with another step", c->plan.step, e->formed.step);
    w->formed = true;
    w->formed_digest = e->formed.digest;
}

static void note_left_out(struct coord *c)
{
    core_mark_left_out(c);
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (c->workers[i].phase != ABSENT && c->workers[i].left_out)
            core_note(c, COORD_NOTE_LEFT_OUT, c->workers[i].peer, c->workers[i].link,
                      "is left out for a while: the others continue without it");
}

void core_forming_failed(struct coord *c)
{
    if (c->unformed_since_ms == 0)
        c->unformed_since_ms = c->now_ms;
    note_left_out(c);
    /* Time to leave out each of them in turn, where nothing tells who is at fault. */
    uint64_t most = (FORMING_PATIENCES_MAX + 3ull * c->plan.world) * c->config.patience_ms;
    if (c->now_ms >= c->unformed_since_ms + most)
        return core_leave(c, BL_EPEER, "the workers cannot form a communicator");
    c->gather_after_ms = c->now_ms + c->timing.heartbeat_ms;
    core_end_generation(c);
}

void core_on_broken(struct coord *c, const struct coord_event *e)
{
    struct worker *w = core_member(c, e);
    if (!w)
        return;
    if (c->state != COORD_FORMING)
        return core_end_generation(c);
    for (uint32_t i = 0; i < e->broken.unreached_count; i++)
        if (e->broken.unreached[i] < c->plan.world)
            core_pair_failed(c, w, rank_worker(c, e->broken.unreached[i]));
    if (e->broken.unreached_count == 0)
        core_pair_failed(c, w, w);
    core_forming_failed(c);
}
