/* tests/sim/world_coord.c - coordinators: each start claims an epoch and copies the journal; what counts of two that run at a time. */
#include "tests/sim/world.h"

struct coordinator *coordinator_of(uint32_t instance)
{
    for (int i = 0; i < COORDS; i++)
        if (w->coords[i].up && w->coords[i].instance == instance)
            return &w->coords[i];
    return NULL;
}

/* A record counts: it was on disk while the epoch was its coordinator's, or is in the copy of the next one. */
static void count_record(const struct coord_record *record)
{
    const struct saved *saved =
        saved_find((struct coord_checkpoint){record->step, record->generation});
    w->counted++;
    if (record->type == COORD_RECORD_EPOCH)
        return;
    BL_ASSERT(record->type != COORD_RECORD_CHECKPOINT || saved);
    truth_record(&w->truth, record, saved ? saved->state : 0, w->comms[record->generation].state);
    w->result.generations += record->type == COORD_RECORD_GENERATION;
    w->result.rewinds += record->type == COORD_RECORD_REWIND;
}

void start_coord(int address)
{
    struct coordinator *k = &w->coords[address];
    BL_ASSERT(!k->up && !k->starting);
    k->starting = true;
    k->instance = ++w->coord_instances;
    k->epoch = ++w->epoch;
    TRACE("coord %u claims epoch %llu", k->instance, (unsigned long long)k->epoch);
    struct sim_event *e = sim_event_new(&w->queue);
    e->what = SIM_CLAIMED;
    e->index = address;
    e->instance = k->instance;
    sim_push(&w->queue, e, w->now_ms + below(w->fsync_ms + 1));
}

/* What the newest journal holds by now; of a coordinator that lives also a part of what it is just writing. */
static void copy_journal(struct coordinator *k)
{
    const struct coordinator *from = w->journal < 0 ? NULL : &w->coords[w->journal];
    int count = from ? from->on_disk : 0;
    if (from && from->up)
        count += (int)below((uint32_t)(from->record_count - from->on_disk + 1));
    if (count < w->counted)
        sim_fail(SIM_UNSAFE, "the journal has lost records that counted");
    if (from && from != k)
        memcpy(k->records, from->records, (size_t)count * sizeof *k->records);
    while (w->counted < count)
        count_record(&k->records[w->counted]);
    k->records[count] = (struct coord_record){.type = COORD_RECORD_EPOCH, .step = k->epoch};
    count_record(&k->records[count]);
    k->on_disk = k->record_count = count + 1;
    k->synced_seq = k->counted_seq = 0;
    w->journal = (int)(k - w->coords);
}

void coord_claimed(const struct sim_event *e)
{
    struct coordinator *k = &w->coords[e->index];
    struct bl_error err = {0};
    BL_ASSERT(k->starting && k->instance == e->instance);
    k->starting = false;
    if (is_fenced(k)) { /* another one claimed meanwhile, and this one never began */
        w->result.taken++;
        return;
    }
    copy_journal(k);
    k->up = true;
    k->stalled_until_ms = k->last_fsync_ms = 0;
    k->stepped_ms = k->probed_ms = w->now_ms;
    w->truth.validating = UINT64_MAX; /* results were kept in the other one's memory */
    w->endpoint = e->index;
    w->k = k;
    k->accepted = k->went_back_at = k->unformed = 0;
    for (int i = 0; i < SIM_VALIDATE_MAX; i++)
        k->done[i] = w->shards[i];
    w->config.done = embeds() ? k->done : NULL;
    BL_ASSERT(coord_new(&w->config, &k->core, &err) == 0);
    for (int i = 0; i < k->on_disk; i++)
        if (coord_replay(k->core, &k->records[i], &err) < 0)
            sim_fail(SIM_UNSAFE, "the journal cannot be replayed: %s", err.text);
    do_coord(coord_start(k->core, w->now_ms), NULL);
    tick_later(COORD, 0, k->instance);
}

static struct sim_event *own_event(const struct coordinator *k, enum sim_what what)
{
    struct sim_event *e = to_coord(COORD_EVENT_JOURNALED, 0);
    e->what = what;
    e->instance = k->instance;
    return e;
}

void coord_journal(const struct coord_action *a)
{
    struct coordinator *k = w->k;
    BL_ASSERT_CMP(k->record_count, <, RECORDS_MAX);
    k->unformed += a->journal.record.type == COORD_RECORD_GENERATION;
    k->seqs[k->record_count] = a->journal.seq;
    k->records[k->record_count++] = a->journal.record;
    struct sim_event *e = own_event(k, SIM_SYNCED);
    e->coord.journaled.seq = a->journal.seq;
    uint64_t slow_ms = chance(w->slow_chance) ? below(w->slow_ms + 1) : 0;
    if (w->now_ms < w->disk_slow_until_ms)
        slow_ms += below(2 * patience());
    k->last_fsync_ms = later(k->last_fsync_ms,
                             later(w->now_ms, k->stalled_until_ms) + below(w->fsync_ms) + slow_ms);
    sim_push(&w->queue, e, k->last_fsync_ms);
}

/* The disk does what it was told even while the process stands still. */
void coord_synced(struct sim_event *e)
{
    struct coordinator *k = coordinator_of(e->instance);
    if (!k)
        return;
    while (k->on_disk < k->record_count && k->seqs[k->on_disk] <= e->coord.journaled.seq)
        k->on_disk++;
    k->synced_seq = e->coord.journaled.seq;
    struct sim_event *looked = own_event(k, SIM_LOOKED);
    looked->coord.journaled.seq = k->synced_seq;
    sim_push(&w->queue, looked, w->now_ms + (chance(0.7) ? 0 : delay()));
}

void coord_looked(struct sim_event *e)
{
    struct coordinator *k = coordinator_of(e->instance);
    if (!k)
        return;
    if (k->stalled_until_ms > w->now_ms)
        return sim_push_again(&w->queue, e, k->stalled_until_ms);
    uint64_t seq = e->coord.journaled.seq;
    while (!is_fenced(k) && seq > k->counted_seq) {
        count_record(&k->records[w->counted]);
        k->counted_seq = k->seqs[w->counted - 1];
    }
    struct sim_event *journaled = own_event(k, SIM_COORD_OWN);
    journaled->coord.journaled.seq = seq;
    journaled->coord.journaled.epoch = w->epoch;
    sim_push(&w->queue, journaled, w->now_ms + (chance(0.7) ? 0 : delay()));
}

void coord_probe(struct coordinator *k)
{
    k->probed_ms = w->now_ms;
    struct sim_event *e = own_event(k, SIM_LOOKED);
    e->coord.journaled.seq = k->synced_seq;
    sim_push(&w->queue, e, w->now_ms + below(w->fsync_ms + 1));
}

bool coord_wakes_taken(struct coordinator *k)
{
    bool was_away = w->now_ms > k->stepped_ms + patience();
    k->stepped_ms = w->now_ms;
    if (!was_away || !is_fenced(k))
        return false;
    w->result.taken++;
    crash_coord(k);
    return true;
}

void coord_end(struct coordinator *k)
{
    if (k->core)
        w->result.hedges += coord_status(k->core).hedges;
    coord_free(&k->core);
}

void crash_coord(struct coordinator *k)
{
    w->result.crashes++;
    k->up = false;
    coord_end(k);
    k->on_disk += (int)below((uint32_t)(k->record_count - k->on_disk + 1));
    k->record_count = k->on_disk;
    for (int i = 0; i < w->link_count; i++) {
        struct link *l = &w->links[i];
        if (l->coord_instance != k->instance || l->down_lost)
            continue;
        l->open = false;
        l->up_lost = l->down_lost = true;
        if (!chance(w->silent_chance))
            tell_peer_lost(i);
    }
    if (w->local)
        crash_local_peers();
}

void coord_restart_later(uint64_t ms)
{
    restart_later(COORD, w->finding == ONE_ADDRESS ? 0 : (int)below(COORDS), ms);
}

void coord_restart(int address)
{
    bool one = w->finding == ONE_ADDRESS;
    for (int i = 0; i < (one ? 1 : COORDS); i++) {
        int at = (address + i) % COORDS;
        if (!w->coords[at].up && !w->coords[at].starting)
            return start_coord(at);
    }
    if (!one)
        restart_later(COORD, address,
                      patience()); /* one of them is about to find that it was taken */
}
