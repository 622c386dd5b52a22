/* coordinator/core_reach.c - workers that cannot form a communicator with one another (M10). Each failure names a pair, or one
 * worker alone. As few as possible are left out so that no pair is left: of a pair the newcomer, as the others have
 * formed before. Pairs are forgotten after a while that grows with every failure, so that who can be reached again is
 * taken in again. */
#include "coordinator/core_state.h"

#define LEFT_OUT_PATIENCES 10 /* after the first failure; twice as many after each further one */
#define LEFT_OUT_DOUBLINGS_MAX 6
#define LAST_SURVIVOR_FAILURES 3

static uint64_t left_out_ms(const struct coord *c, const struct pair *pair)
{
    uint32_t doublings = pair->failures - 1;
    if (doublings > LEFT_OUT_DOUBLINGS_MAX)
        doublings = LEFT_OUT_DOUBLINGS_MAX;
    return (uint64_t)LEFT_OUT_PATIENCES * c->config.patience_ms << doublings;
}

/* The entry of the pair; a new one takes a free place, or the one of the pair that is forgotten next. */
static struct pair *pair_entry(struct coord *c, uint64_t a, uint64_t b)
{
    struct pair *oldest = &c->pairs[0];
    for (uint32_t i = 0; i < c->pair_count; i++) {
        struct pair *pair = &c->pairs[i];
        if ((pair->a == a && pair->b == b) || (pair->a == b && pair->b == a))
            return pair;
        if (pair->until_ms < oldest->until_ms)
            oldest = pair;
    }
    struct pair *entry = c->pair_count < PAIRS_MAX ? &c->pairs[c->pair_count++] : oldest;
    *entry = (struct pair){.a = a, .b = b};
    return entry;
}

static void pair_add(struct coord *c, const struct worker *a, const struct worker *b)
{
    struct pair *pair = pair_entry(c, a->peer, b->peer);
    pair->failures++;
    pair->until_ms = c->now_ms + left_out_ms(c, pair);
}

void core_pair_failed(struct coord *c, const struct worker *a, const struct worker *b)
{
    pair_add(c, a, b);
    const char *text = a == b ? "failed to form the generation" : "cannot connect with";
    struct coord_action *note = core_note(c, COORD_NOTE_UNFORMED, a->peer, a->link, text);
    note->note.other_link = a == b ? 0 : b->link;
}

void core_pairs_formed(struct coord *c)
{
    for (uint32_t i = 0; i < c->pair_count;) {
        const struct worker *a = core_worker_find(c, c->pairs[i].a);
        const struct worker *b = core_worker_find(c, c->pairs[i].b);
        if (a && b && a->phase == MEMBER && b->phase == MEMBER)
            c->pairs[i] = c->pairs[--c->pair_count];
        else
            i++;
    }
}

/* What counts against a worker: its failed pairs with workers that are here and not left out, and how often they failed. */
struct blame {
    uint32_t pairs, failures;
};

static struct blame blame_of(struct coord *c, const struct worker *w)
{
    struct blame blame = {0};
    for (uint32_t i = 0; i < c->pair_count; i++) {
        const struct pair *pair = &c->pairs[i];
        if (c->now_ms >= pair->until_ms || (pair->a != w->peer && pair->b != w->peer))
            continue;
        const struct worker *other = core_worker_find(c, pair->a == w->peer ? pair->b : pair->a);
        if (!other || other->left_out)
            continue;
        blame.pairs++;
        blame.failures += pair->failures;
    }
    return blame;
}

/* Is `w` rather to be left out than `other`? Of those with as many failed pairs, who failed more often: where one alone may be left
 * out and it was not the cause, the others fail once more and it does not, so that each is tried without in turn. Then who
 * has not the run's state, since who has it has been formed with. */
static bool goes_before(struct coord *c, const struct worker *w, const struct worker *other)
{
    struct blame of_w = blame_of(c, w), of_other = blame_of(c, other);
    if (of_w.pairs != of_other.pairs)
        return of_w.pairs > of_other.pairs;
    if (of_w.failures != of_other.failures)
        return of_w.failures > of_other.failures;
    bool survivor = core_is_survivor(c, w), other_survivor = core_is_survivor(c, other);
    return survivor != other_survivor ? other_survivor : w->link > other->link;
}

static bool is_here(const struct worker *w)
{
    return w->phase == READY || w->phase == CLOSING || w->phase == MEMBER;
}

static bool fails_for_good(const struct coord *c, const struct worker *w)
{
    for (uint32_t i = 0; i < c->pair_count; i++)
        if (c->pairs[i].a == w->peer && c->pairs[i].b == w->peer &&
            c->pairs[i].failures >= LAST_SURVIVOR_FAILURES)
            return true;
    return false;
}

/* The last one that has the run's state stays, whoever cannot reach it, unless it has failed by itself again and again. */
static bool is_last_survivor(struct coord *c, const struct worker *w)
{
    if (!core_is_survivor(c, w) || fails_for_good(c, w))
        return false;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        const struct worker *other = &c->workers[i];
        if (other != w && is_here(other) && !other->left_out && core_is_survivor(c, other))
            return false;
    }
    return true;
}

/* The worker with most failed pairs, if leaving it out leaves enough. keep_state: not the last that has the run's. */
static struct worker *next_to_leave_out(struct coord *c, bool keep_state)
{
    struct worker *worst = NULL;
    uint32_t possible = 0;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        struct worker *w = &c->workers[i];
        if (!is_here(w) || w->left_out)
            continue;
        possible++;
        if (blame_of(c, w).pairs > 0 && !(keep_state && is_last_survivor(c, w)) &&
            (!worst || goes_before(c, w, worst)))
            worst = w;
    }
    return possible > c->config.workers_min ? worst : NULL;
}

static void leave_out(struct coord *c, bool keep_state)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        c->workers[i].left_out = false;
    for (struct worker *w; (w = next_to_leave_out(c, keep_state));)
        w->left_out = true;
}

static bool pairs_are_left(struct coord *c)
{
    for (uint32_t i = 0; i < c->worker_top; i++)
        if (is_here(&c->workers[i]) && !c->workers[i].left_out &&
            blame_of(c, &c->workers[i]).pairs > 0)
            return true;
    return false;
}

void core_mark_left_out(struct coord *c)
{
    if (c->pair_count == 0 && !c->releasing && !c->leaves_out)
        return; /* this is asked after every event, and mostly there is nobody */
    leave_out(c, true);
    if (c->pair_count > 0 && pairs_are_left(c))
        leave_out(c, false);
    c->leaves_out = false;
    for (uint32_t i = 0; i < c->worker_top; i++) {
        c->workers[i].left_out |= c->workers[i].told;
        c->leaves_out |= c->workers[i].left_out;
    }
}

uint32_t core_workers_usable(const struct coord *c)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->worker_top; i++)
        count += c->workers[i].phase == READY && !c->workers[i].left_out;
    return count;
}

/* Who is behind: not Formed while others are; has not said where it can be reached while others have; has never been formed
 * with while others have. */
static bool is_formed(const struct coord *c, const struct worker *w)
{
    return w->formed;
}

static bool has_published(const struct coord *c, const struct worker *w)
{
    return w->published;
}

/* Blames those that are behind; false: all or none are. */
static bool blame_those(struct coord *c,
                        bool (*is_well)(const struct coord *c, const struct worker *w))
{
    uint32_t well = 0;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        well += is_well(c, rank_worker(c, rank));
    if (well == 0 || well == c->plan.world)
        return false;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        if (!is_well(c, rank_worker(c, rank)))
            core_pair_failed(c, rank_worker(c, rank), rank_worker(c, rank));
    return true;
}

/* Nobody can be told from the others: each is tried without in turn, the newest first. */
static void guess(struct coord *c)
{
    const struct worker *newest = NULL, *next = NULL;
    for (uint32_t i = 0; i < c->pair_count;)
        if (c->pairs[i].guessed)
            c->pairs[i] = c->pairs[--c->pair_count];
        else
            i++;
    for (uint32_t rank = 0; rank < c->plan.world; rank++) {
        const struct worker *w = rank_worker(c, rank);
        if (!newest || w->link > newest->link)
            newest = w;
        if (w->link < c->guessed_link && (!next || w->link > next->link))
            next = w;
    }
    next = next ? next : newest;
    c->guessed_link = next->link;
    core_pair_failed(c, next, next);
    pair_entry(c, next->peer, next->peer)->guessed = true;
}

void core_blame_unformed(struct coord *c)
{
    if (blame_those(c, is_formed) || blame_those(c, has_published) ||
        blame_those(c, core_is_survivor))
        return;
    guess(c);
}

void core_blame_unserved(struct coord *c, struct worker *w)
{
    bool others = false;
    for (uint32_t rank = 0; rank < c->plan.world; rank++)
        others |= rank_worker(c, rank) != w && rank_worker(c, rank)->received_ms > w->received_ms;
    if (!others)
        return;
    pair_add(c, w, w);
    core_mark_left_out(c);
    if (!w->left_out)
        return;
    core_note(c, COORD_NOTE_LEFT_OUT, w->peer, w->link,
              "is left out for a while: no loader can ship to it");
    core_end_generation(c);
}
