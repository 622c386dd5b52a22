/* coordinator/loop_scale.c - `blipren-coord scale`: how many workers there are to be, and the pause between generations. */
#include <inttypes.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "coordinator/loop_state.h"

struct releasing {
    struct loop *loop;
    void (*release)(struct loop *l, const struct peer *peer);
    const struct peer *list[BL_WORKERS_MAX];
    uint32_t count;
};

static bool dismiss(void *context, uint64_t secret)
{
    struct releasing *r = context;
    const struct peer *peer = peers_of_secret(r->loop->peers, secret);
    if (peer)
        r->release(r->loop, peer);
    return peer != NULL;
}

static void take_worker(void *context, struct peer *peer)
{
    struct releasing *r = context;
    struct coord_member member;
    if (peer->role == BL_ROLE_WORKER && r->count < BL_WORKERS_MAX &&
        coord_member(r->loop->core, peer->link, &member))
        r->list[r->count++] = peer;
}

/* The newest first: who has been here for longest stays. */
static int compare_links(const void *a, const void *b)
{
    const struct peer *const *x = a, *const *y = b;
    return (*x)->link < (*y)->link ? 1 : (*x)->link > (*y)->link ? -1 : 0;
}

static void answer_error(struct loop *l, const struct bl_error *err)
{
    control_answer(l->control, CONTROL_SCALE, control_error(err));
}

/* Others start the workers; they can only be let go from here. */
static void scale_joined(struct loop *l, struct releasing *r, unsigned workers)
{
    struct bl_error err;
    peers_each(l->peers, take_worker, r);
    if (r->count < workers) {
        bl_fail(&err, BL_EUSAGE,
                "this coordinator starts no workers (--cluster), and %u are here: start %u more by "
                "what starts them, as `blipren-worker --coord %s`, a Slurm job that joins, or "
                "`docker compose up --scale worker=%u`; each is in from the next step on",
                r->count, workers - r->count, l->endpoint, workers);
        l->scale.wanted = false;
        return answer_error(l, &err);
    }
    qsort(r->list, r->count, sizeof r->list[0], compare_links);
    for (uint32_t i = 0; i < r->count - workers; i++)
        r->release(l, r->list[i]);
}

static bool is_possible(struct loop *l, unsigned workers)
{
    struct bl_error err;
    uint32_t least = (uint32_t)l->config->cluster.workers_min;
    uint32_t most = bl_plan_world_max(&l->plan);
    if (l->children && most > BL_LOCAL_WORKERS_MAX)
        most = BL_LOCAL_WORKERS_MAX;
    if (workers >= least && workers <= most)
        return true;
    bl_fail(&err, BL_EUSAGE,
            "expected %u to %u workers, found %u: cluster.workers_min is %u, and a step has %u "
            "micro-batches",
            least, most, workers, least, bl_plan_world_max(&l->plan));
    answer_error(l, &err);
    return false;
}

static void answer_if_done(struct loop *l)
{
    uint32_t world = coord_status(l->core).world;
    if (!l->scale.wanted || !l->trains || world != l->scale.target)
        return;
    l->scale.wanted = false;
    control_answer(l->control, CONTROL_SCALE,
                   json_pack("{s:I, s:I, s:f}", "workers", (json_int_t)world, "before",
                             (json_int_t)l->scale.before, "pause_s", l->pause_s));
}

void loop_scale(struct loop *l, unsigned workers,
                void (*release)(struct loop *l, const struct peer *peer))
{
    bl_autofree struct releasing *r = calloc(1, sizeof *r);
    BL_ASSERT(r != NULL);
    if (!is_possible(l, workers))
        return;
    *r = (struct releasing){.loop = l, .release = release};
    l->scale.wanted = true;
    l->scale.target = workers;
    l->scale.before = coord_status(l->core).world;
    l->pause_s = 0;
    bl_log(BL_LOG_INFO, "`blipren-coord scale`: from %u workers to %u", l->scale.before, workers);
    if (l->children)
        children_scale(l->children, (int)workers, dismiss, r);
    else
        scale_joined(l, r, workers);
    answer_if_done(l);
}

void loop_note_pause(struct loop *l)
{
    enum coord_state state = coord_state_now(l->core);
    bool trains = state >= COORD_TRAINING && state <= COORD_SAVING;
    uint64_t now_ms = uv_now(&l->uv);
    if (trains == l->trains)
        return;
    l->trains = trains;
    if (!trains) {
        l->paused_ms = now_ms;
        return;
    }
    struct coord_status s = coord_status(l->core);
    l->pause_s = l->paused_ms ? (double)(now_ms - l->paused_ms) / 1000 : 0;
    if (l->paused_ms)
        bl_log(BL_LOG_INFO,
               "generation=%" PRIu64 " is formed: %u workers, training paused for %.2f s",
               s.generation, s.world, l->pause_s);
    answer_if_done(l);
}
