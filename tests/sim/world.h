/* tests/sim/world.h - the imagined cluster: processes, connections, disk, engines, and what breaks them. Everything a loop would
 * do for its core is done here, as late, as often lost and as badly timed as the real thing is allowed to. Private to world*.c.
 *
 *   world.c           a schedule: drawn, run, ended          world_net.c      connections
 *   world_engine.c    the workers' engines                   world_process.c  starts, crashes and other faults
 *   world_coord.c     coordinators: epochs, journals
 *   world_actions.c   what the loops do for their cores      world_events.c   what arrives at a core */
#pragma once

#include <stdio.h>
#include <string.h>

#include "common/random.h"
#include "tests/sim/sim.h"

#define LINKS_MAX 8192
#define COMMS_MAX 1024
#define RECORDS_MAX 8192
#define SAVED_MAX 512
#define OPS_MAX 16
#define EVENTS_MAX 400000

#define COORDS 2

enum program { COORD, WORKER, LOADER };

/* A coordinator at one of two addresses, and its journal. Of two that are up the one with the newer epoch has taken over, and the other
 * does not know it yet. */
struct coordinator {
    bool up, starting; /* starting: it has claimed its epoch, and has not read the journal */
    uint32_t instance; /* of all that ever were; also of those before it at this address */
    struct coord *core;
    uint64_t epoch;
    uint64_t stalled_until_ms, last_fsync_ms;
    uint64_t up_cut_until_ms, down_cut_until_ms; /* its host is cut off: nothing arrives, leaves */
    uint64_t stepped_ms, probed_ms;
    uint64_t synced_seq, counted_seq; /* its records on disk; those that count */
    struct coord_record *records;     /* on disk, then on their way; w->records[] */
    uint64_t *seqs;
    int on_disk, record_count;
    uint32_t entries; /* of the rendezvous store, kept */
    /* a run that embeds */
    uint8_t done[SIM_VALIDATE_MAX];  /* the shards that were there at its start */
    uint32_t accepted, went_back_at; /* shards accepted; and when nobody was left last */
    uint32_t unformed;               /* generations that were begun since one was formed */
};

/* One connection between a worker or loader and a coordinator, in order in both directions. */
struct link {
    enum program program;
    int index;
    int address;             /* where it connects: of the coordinators */
    uint32_t instance;       /* of the peer */
    uint64_t core_link;      /* the peer core's number of it */
    uint64_t peer;           /* its incarnation */
    uint32_t coord_instance; /* 0: no coordinator has heard on it */
    bool open;               /* the coordinator's side */
    bool up_lost, down_lost; /* nothing arrives any more */
    uint64_t last_up_ms, last_down_ms;
};

/* The communicator of one generation. */
struct comm {
    uint32_t world;
    int members[SIM_WORKERS_MAX]; /* by rank; -1 = not joined */
    uint32_t joined;
    bool failed;
    uint64_t state; /* what it was formed with */
    int64_t step;
    uint64_t reduce_step, reduce_sum, reduce_state, reduced;
    uint32_t reduce_count, arrived;
};

enum op_type { OP_FORM, OP_COMPUTE, OP_REDUCE, OP_SNAPSHOT };
struct op {
    enum op_type type;
    uint64_t generation, step;
    uint32_t slot, rank, world;
    int32_t source;
    bool have_state;
    bool one_reads;
    char checkpoint[COORD_CHECKPOINT_NAME_MAX];
};

struct engine {
    struct op ops[OPS_MAX];
    int count; /* ops[0] runs if running */
    bool running;
    bool decided;  /* its completion is on the way */
    bool joined;   /* FORM: counted in its comm */
    uint64_t turn; /* completions of an older turn are void */
    uint64_t last_post_ms;
    uint64_t generation;                 /* of the comm it is in; 0 = none */
    uint32_t rank, rendezvous, op_world; /* of that */
    uint64_t state;
    int64_t step; /* of state; -1 = none */
    uint32_t trained_count, indices;
    struct bl_range trained[SIM_BATCH_MAX];
    uint64_t sum;
    uint64_t snap_state;
    struct { /* of the step being reduced, for Report */
        uint32_t count;
        struct bl_range ranges[SIM_BATCH_MAX];
        uint64_t sum;
    } report;
};

struct held {
    bool used;
    enum bl_kind kind;
    uint64_t step;
    uint32_t micro_batch;
    uint64_t content;
};

struct process {
    bool up;
    uint32_t instance;
    uint64_t incarnation;
    int link;          /* newest; -1 = none */
    uint64_t epoch;    /* of the coordinator that welcomed it last */
    unsigned attempts; /* to connect */
    uint64_t stalled_until_ms;
    uint64_t up_cut_until_ms, down_cut_until_ms; /* to and from coordinators */
    uint64_t data_cut_until_ms, comm_cut_until_ms;
    uint64_t busy_until_ms, progress, looks; /* works until then; what its Beats say */
    bool hung, was_hung;                     /* its threads do nothing; its loop does */
    uint64_t backlog_ms; /* what its threads say comes no earlier, and in order: they were hung */
    /* worker */
    struct worker *worker;
    struct engine engine;
    struct held held[SIM_WINDOW_MAX];
    /* loader */
    struct loader *loader;
    struct {
        uint64_t turn; /* completions of an older turn are void */
        uint64_t content;
        uint64_t worker;
        uint32_t void_count;
        struct coord_void voids[SIM_BATCH_MAX];
        bool withheld, unshipped;
    } slots[2 * SIM_CAPACITY_MAX];
    uint64_t slot_turn;
    uint32_t capacity, jobs;
};

struct saved {
    struct coord_checkpoint checkpoint;
    uint64_t state;
    bool whole;
};

enum fault {
    CRASH_WORKER,
    CRASH_LOADER,
    CRASH_COORD,
    BREAK_LINK,
    STALL,
    HANG_LOADER,
    HANG_WORKER,
    FAIL_COMM,
    DAMAGE,
    RECONNECT,
    BLACKOUT,
    CUT,
    SLOW_DISK,
    TAKE_OVER,
    RELEASE,
    FAULT_COUNT
};

/* How peers find the coordinator. */
enum finding {
    ONE_ADDRESS, /* it is always at the first */
    IN_TURN,     /* both are tried */
    BY_FILE      /* the newest one says where it is */
};

/* How long a message takes: how often longer than most. */
enum tail { UNIFORM, GEOMETRIC, HEAVY };

/* What is wrong with the odd worker, for as long as the schedule runs. */
enum odd {
    NOT_ODD,
    UNREACHED, /* it and the others cannot connect, and they say so */
    FAILS,     /* it says Broken whenever it should form with others */
    HANGS,     /* it beats and never forms with others */
    LIES,      /* it forms, twice with another state than it says */
    STICKS     /* it beats, and after some micro-batches its engine does nothing any more */
};

struct world {
    uint64_t chance, now_ms;
    bool verbose;
    struct sim_queue queue;
    struct sim_result result;
    struct truth truth;

    /* drawn */
    struct coord_config config;
    uint32_t worker_count, loader_count, capacity, jobs;
    uint32_t delay_ms, slow_ms;
    enum tail tail;
    enum finding finding;
    uint32_t fsync_ms, keep_last;
    double long_chance; /* that work takes many times the patience, while it makes progress */
    int blind_loader;   /* sees no image while the others do; -1: none is */
    enum odd odd;
    int odd_worker, lies_left;
    double slow_chance, silent_chance, bad_chance, duplicate_chance, write_failure_chance;
    bool local, healed, stop_wanted, data_may_fail;
    uint32_t fault_every_ms;
    uint32_t fault_weight[FAULT_COUNT];
    uint64_t train_ids[SIM_SAMPLES_MAX], validate_ids[SIM_SAMPLES_MAX];
    uint64_t heal_ms, end_ms;
    uint64_t expected[SIM_STEPS_MAX]; /* sums of the terms of each step */
    bool unseeing[SIM_WORKERS_MAX];   /* workers on hosts that do not see the run folder */

    struct coordinator coords[COORDS];
    struct coordinator *k; /* the one that acts now */
    uint32_t coord_instances;
    uint64_t epoch; /* RUN/epoch */
    int journal,
        endpoint; /* of the coordinators: whose the newest journal is; who wrote RUN/endpoint last */
    int counted;  /* records of the newest journal that count, or did in the one it is a copy of */
    bool over;
    bool shards[SIM_VALIDATE_MAX]; /* a run that embeds: those on disk */
    uint64_t disk_slow_until_ms;
    struct process workers[SIM_WORKERS_MAX], loaders[SIM_LOADERS_MAX];
    int link_count;
    uint64_t data_last_ms[SIM_LOADERS_MAX][SIM_WORKERS_MAX];
    int saved_count;
    struct comm comms[COMMS_MAX];

    /* From here on a schedule begins with what the one before left: what is used is written first. */
    struct saved saved[SAVED_MAX];
    struct link links[LINKS_MAX];
    struct coord_record records[COORDS][RECORDS_MAX];
    uint64_t seqs[COORDS][RECORDS_MAX];
};

extern struct world *w; /* one at a time: what works on it reads as rules, not as plumbing */

#define TRACE(...)                                                                                 \
    do {                                                                                           \
        if (w->verbose) {                                                                          \
            printf("%6llu ", (unsigned long long)w->now_ms);                                       \
            printf(__VA_ARGS__);                                                                   \
            putchar('\n');                                                                         \
        }                                                                                          \
    } while (0)

static inline uint32_t below(uint32_t n)
{
    return sim_below(&w->chance, n);
}

static inline bool chance(double p)
{
    return sim_chance(&w->chance, p);
}

/* How long something takes: mostly little, sometimes long. */
static inline uint64_t delay(void)
{
    uint64_t ms = below(w->delay_ms + 1);
    for (int i = 0; w->tail != UNIFORM && !w->healed && i < 6 && chance(0.4); i++)
        ms = w->tail == HEAVY ? 2 * ms + 1 : ms + below(w->delay_ms + 1);
    return chance(w->slow_chance) ? ms + below(w->slow_ms + 1) : ms;
}

/* How long work takes: sometimes far longer than anybody's patience. */
static inline uint64_t work(void)
{
    uint64_t ms = 1 + delay();
    return chance(w->long_chance) ? ms + below(10 * w->config.patience_ms) : ms;
}

static inline uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint32_t patience(void)
{
    return w->config.patience_ms;
}

static inline bool embeds(void)
{
    return w->config.plan.kind == BL_KIND_EMBED;
}

static inline struct process *process_of(enum program program, int index)
{
    return program == WORKER ? &w->workers[index] : &w->loaders[index];
}

static inline bool is_odd(int index, enum odd odd)
{
    return w->odd == odd && w->odd_worker == index;
}

/* Something that the process does until then. */
static inline uint64_t busy_until(struct process *p, uint64_t ms)
{
    p->busy_until_ms = later(p->busy_until_ms, ms);
    return ms;
}

/* What its Beat says: more than the last time while it works. */
static inline uint64_t progress_of(struct process *p)
{
    return p->progress += w->now_ms < p->busy_until_ms;
}

/* The same of how often it looked for other ranks' bytes. */
static inline uint64_t looks_of(struct process *p)
{
    bool waits = p->engine.running && p->engine.ops[0].type == OP_REDUCE && !p->hung;
    return p->looks += waits;
}

/* ---- world.c */

/* The worker with this incarnation, if it is up; else -1. */
int worker_index(uint64_t incarnation);
/* Is the sample an image that no loader can decode, or one that none can read? */
bool is_bad(uint64_t sample);
bool is_absent(uint64_t sample);
void name_copy(char to[COORD_CHECKPOINT_NAME_MAX], const char *from);
struct bl_digest digest_of(uint64_t number);
/* NULL: that checkpoint was never written. */
struct saved *saved_find(struct coord_checkpoint checkpoint);
struct coord_checkpoint checkpoint_named(const char *name);

/* ---- world_coord.c */

/* The one that is up with this instance; NULL: none. */
struct coordinator *coordinator_of(uint32_t instance);
/* Is it up, and another has taken over? */
static inline bool is_fenced(const struct coordinator *k)
{
    return k->epoch != w->epoch;
}
/* Claims the next epoch; then it reads the journal and begins, unless another one claims meanwhile. */
void start_coord(int address);
void coord_claimed(const struct sim_event *e);
/* The acting one's records: on their way, on disk, and whether they count. */
void coord_journal(const struct coord_action *a);
void coord_synced(struct sim_event *e);
void coord_looked(struct sim_event *e);
void coord_probe(struct coordinator *k);
/* It stood still for longer than P: does it find that the run is another's? Then it has ended. */
bool coord_wakes_taken(struct coordinator *k);
/* Counts what it did, and frees its core. */
void coord_end(struct coordinator *k);
/* The journal keeps what is on disk, and of what was on its way a part from its beginning: a torn
 * record is one that is not there. */
void crash_coord(struct coordinator *k);
/* A coordinator starts, at either address if peers look at both. */
void coord_restart_later(uint64_t ms);
void coord_restart(int address);

/* ---- world_net.c */

/* Events given to these are theirs. A link is an index into w->links; core_link is what a core calls it. */
void connect_peer(enum program program, int index, uint64_t core_link);
void send_up(int link, struct sim_event *e);
struct sim_event *to_coord(enum coord_event_type type, uint64_t generation);
void send_up_from(const struct process *p, uint64_t core_link, struct sim_event *e);
int coord_link(uint64_t link);
void send_down(uint64_t link, struct sim_event *e);
void down_worker(uint64_t link, enum worker_event_type type, uint64_t generation);
void down_loader(uint64_t link, enum loader_event_type type, uint64_t generation);
bool is_worker_link(uint64_t link);
void tell_coord_lost(int link, bool dead);
void tell_peer_lost(int link);
/* What is under way on the link is lost; each side hears of it, or has to notice by the silence. */
void break_link(int link);

/* ---- world_engine.c */

/* A new event of the engine for its worker's core. */
struct sim_event *engine_event(enum worker_event_type type);
/* A member is gone: who waits for it fails; who had everything already may still get through. */
void comm_fail(uint64_t generation);
/* The ranks that this worker cannot connect with; returns how many. */
uint32_t unreached_by(int index, const struct comm *comm, uint32_t *ret_ranks);
/* The engine, whose operation is FORM, has met its rendezvous: the comm is complete once all have. */
void form_join(int index);
/* The all-reduce that has begun ends, once all ranks have come and none of them hangs. */
void reduce_go(uint64_t generation);
void engine_queue(int index, struct op op);
/* The running operation comes to its end: what it changes, and what the loop hears. */
void op_end(int index, bool ok);
void engine_abort(int index);

/* ---- world_process.c */

/* The next tick, restart, fault: some time from now. */
void tick_later(enum program program, int index, uint32_t instance);
void restart_later(enum program program, int index, uint64_t ms);
/* With a local coordinator. */
void crash_local_peers(void);
void fault_later(void);
void random_fault(void);
/* From here on nothing breaks, and everything that was broken is mended: the run has to finish. */
void heal(void);
void restart(const struct sim_event *e);

/* ---- world_actions.c */

/* Carries out what a core asked for; `from` is the event it answers, NULL at the start. */
void do_worker(int index, const struct worker_actions *actions, const struct sim_event *from);
void do_loader(int index, const struct loader_actions *actions, const struct sim_event *from);
void do_coord(const struct coord_actions *actions, const struct sim_event *from);

/* ---- world_events.c */

/* Each takes the event's content, not the event. What cannot happen yet is pushed again. */
void to_coord_now(struct sim_event *e);
void coord_own(struct sim_event *e);
void worker_now(struct sim_event *e);
void loader_now(struct sim_event *e);
void engine_now(struct sim_event *e);
