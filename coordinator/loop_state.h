/* coordinator/loop_state.h - what the parts of the coordinator's loop share. Private to loop*.c.
 *
 * loop.c calls the others, and they do not call it.
 *
 *   loop.c          start and end, the clock, signals, the journal's and the children's word, actions
 *   loop_in.c       messages to events
 *   loop_out.c      actions to messages
 *   loop_models.c   are a peer's models the run's?
 *   loop_unseen.c   peers that do not see the run folder
 *   loop_embed.c    what is different when the run embeds
 *   loop_embed_plan.c  what `embed --plan` shows
 *   loop_cache.c    a cache that training takes
 *   loop_fill.c     a cache that training fills
 *   loop_files.c    the run folder: its lock, configuration, data; checkpoints; bad samples
 *   loop_notes.c    who is lost or waited for, into the log
 *   loop_figures.c  what a step, a validation and a shard came to: metrics, progress
 *   loop_scale.c    how many workers there are to be; how long training paused for it
 *   loop_control.c  the answers to what is asked through RUN/control
 *
 * All of it runs on the loop's thread, except where a comment says so. */
#pragma once

#include <pthread.h>
#include <stdio.h>
#include <uv.h>

#include "common/cache/cache.h"
#include "common/config/config.h"
#include "common/data/dataset.h"
#include "common/data/run.h"
#include "common/limits.h"
#include "coordinator/bad_samples.h"
#include "coordinator/best.h"
#include "coordinator/children.h"
#include "coordinator/control.h"
#include "coordinator/core.h"
#include "coordinator/file_service.h"
#include "coordinator/journal.h"
#include "coordinator/loop.h"
#include "coordinator/metrics.h"
#include "coordinator/peers.h"
#include "coordinator/progress.h"
#include "coordinator/results.h"
#include "proto/wire.h"

/* Rates are means over about this many steps. */
#define RATE_STEPS 20

struct loop {
    const struct coordinator_options *options;
    struct config *config;
    struct dataset *dataset;
    uint64_t *train_ids, *validate_ids;
    struct bl_plan plan;
    struct {           /* kind EMBED */
        uint8_t *done; /* of each shard whether it was there at the start */
        uint64_t total, found,
            images;        /* distinct ones; in shards that were there; in those that are */
        uint64_t first_ms; /* when the first shard was ordered; 0: not yet */
    } embed;
    char cache_tower
        [65]; /* hash of the tower whose cached features are trained on; "": pixels are */
    uint8_t run[RUN_ID_BYTES];
    uint64_t incarnation;
    int lock_fd;
    struct {
        char vision[65], llm[65]; /* SHA-256, "": not known */
    } models[BL_ROLE_LOADER + 1]; /* as each role says them of itself (Ended) */

    uv_loop_t uv;
    bool uv_open;
    uv_timer_t tick, draw;
    uv_signal_t signals[RUN_SIGNALS_MAX];
    uv_async_t journaled;
    struct wire_context *zmq;
    enum security {
        SECURITY_LOOPBACK, /* of this machine alone */
        SECURITY_KEYS,     /* encrypted; who has the cluster's key is let in */
        SECURITY_NONE      /* --insecure: anybody is, and can listen */
    } security;
    struct wire_socket *router;
    char endpoint[SOCKET_ENDPOINT_MAX];
    struct file_service *files; /* NULL: all peers are children, which see the run folder */
    uint16_t files_port;
    uint8_t token[BL_TOKEN_BYTES]; /* drawn anew at each start */

    uint64_t
        probe[BL_PROBE_SAMPLES_MAX]; /* samples that a loader has to read before it gets work */
    uint32_t probe_count;

    struct coord *core;
    struct journal *journal;
    struct metrics *metrics;
    struct results *results;
    struct peers *peers;
    struct children *children;
    struct control *control; /* NULL: the run folder's file system has no sockets */
    struct bad_samples *bad_samples, *damaged;
    struct fill *fill; /* cache.fill, and the cache is not whole; else NULL */
    uint64_t
        left_out; /* of bad_samples, those that a rule leaves out (data.min_side), since the start */

    pthread_mutex_t lock;
    uint64_t journaled_seq;        /* under the lock, from the journal's thread */
    uint64_t journaled_epoch;      /* under the lock */
    struct bl_error journal_error; /* under the lock */

    const Blipren__Envelope *handled; /* the message being handled … */
    struct peer *sender;              /* … and whose it is */
    int disk_jobs;                    /* under way on the thread pool */
    struct best best;
    double latest_train_loss;
    int latest_source_count; /* 0: there is one */
    struct metrics_source latest_sources[BL_SOURCES_MAX];
    uint64_t skipped_in_a_row;     /* steps, up to the latest */
    double step_s, images, tokens; /* running means per step */
    double wait_data, wait_compute, wait_reduce;
    uint64_t last_commit_ms;
    uint64_t hedges;           /* up to the latest step */
    const char *waiting;       /* for whom or what; a literal */
    uint64_t waiting_since_ms; /* UINT64_MAX: it was said */
    uint64_t committed;
    uint64_t notes_ms;              /* of the log's lines about peers: counted up to here … */
    uint32_t notes_said, notes_cut; /* … so many, and so many left out */
    char blame[400];                /* the last of them that may be why the run ends */
    int stops;                      /* signals taken */
    struct {
        bool wanted; /* somebody waits for `target` workers, of `before` */
        uint32_t target, before;
    } scale;
    Blipren__Rendezvous **entries; /* of the rendezvous store, kept for all ranks */
    size_t entry_count, entry_room;
    bool trains;                    /* a generation is formed */
    uint64_t paused_ms;             /* since when none is; 0: none was yet */
    double pause_s;                 /* the latest pause */
    uint64_t probed_ms, stepped_ms; /* the run's epoch was asked for; the core had its last event */
    int probe_ticks;                /* until everyone gets a Pulse; 0: no need */
    bool letting_go;                /* Stop was said: whoever ends does so because of it */
    bool leaving;
    struct bl_error error; /* why it ends, code 0: complete */
};

/* ---- loop_in.c */

/* Turns the peer's message, which is l->handled, into the core's event. It borrows from the message, and from a buffer that
 * the next call overwrites. false: there is nothing for the core in it; the peer may be forgotten then. */
bool loop_take_message(struct loop *l, struct peer *peer, const Blipren__Envelope *message,
                       struct coord_event *ret);

/* ---- loop_models.c */

/* Hashes the models: for loaders their settings alone, for workers all of them, unless all workers will be this coordinator's
 * children, which see the same folders. */
int loop_hash_models(struct loop *l, struct bl_error *err);
/* Does the peer that says Ended have the run's models? Else it is refused. */
bool loop_has_models(struct loop *l, struct peer *peer, const Blipren__Ended *ended);

/* ---- loop_unseen.c */

/* RUN/token, by which peers find out whether they see the run folder; and the file service for those that do not, unless all will be
 * this coordinator's children. The router listens. */
int loop_serve_files(struct loop *l, const char *keys, struct bl_error *err);
/* Can the run use the peer that says Ended, though it may not see the run folder? Else it is refused. */
bool loop_can_use(struct loop *l, struct peer *peer, const Blipren__Ended *ended);

/* ---- loop_out.c */

/* Sends Refuse. The peer may be forgotten afterwards. */
void loop_refuse(struct loop *l, struct peer *peer, const char *text, const char *remedy);
/* For peers_each; context is the loop. */
void loop_pulse_one(void *context, struct peer *peer);
/* Removes the peer, also from `sender`. */
void loop_forget(struct loop *l, struct peer *peer);
/* Keeps the entry of the Rendezvous being handled; forgets all. */
void loop_keep_entry(struct loop *l);
void loop_forget_entries(struct loop *l);
/* Carries out an action that is a message to one peer (or that forgets it); a peer that is gone gets none. */
void loop_send(struct loop *l, const struct coord_action *a);

/* ---- loop_notes.c */

/* Logs a NOTE. */
void loop_note(struct loop *l, const struct coord_action *a);

/* ---- loop_embed.c */

static inline bool loop_embeds(const struct loop *l)
{
    return l->options->kind == BL_KIND_EMBED;
}
/* The run folder is inside cache.path. */
int loop_embed_choose_folder(struct loop *l, struct bl_error *err);
/* Forgets the journal of another run that was in the folder. */
int loop_embed_begin_anew(struct loop *l, struct bl_error *err);
/* The plan, and the shards that are there. Data is prepared. */
int loop_embed_prepare(struct loop *l, struct bl_error *err);
void loop_embed_view(const struct loop *l, struct progress_view *view);
/* Removes what killed workers left, opens the finished cache, and says what it holds. */
int loop_embed_finish(const struct loop *l, struct bl_error *err);

/* ---- loop_embed_plan.c */

/* What `embed --plan` shows. Measures the tower, a training step and the folder's disk, some seconds. */
int loop_embed_show_plan(const struct loop *l, uint64_t image_bytes, uint64_t free_bytes,
                         struct bl_error *err);

/* ---- loop_cache.c */

/* Training takes a whole cache of this tower and these images by itself; one that does not fit is an error. */
int loop_find_cache(struct loop *l, struct bl_error *err);

/* ---- loop_fill.c */

/* Under cache.fill. Takes the cache if it is whole, or can be made so from what earlier runs kept; else it is filled from here
 * on. Data and bad samples are open. */
int loop_fill_open(struct loop *l, struct bl_error *err);
/* Looks, on a thread of libuv's pool, whether every image was met; then makes the cache and tells everybody. */
void loop_fill_try(struct loop *l);
/* The same at the end of the run, and says how far it is. */
int loop_fill_finish(struct loop *l, struct bl_error *err);
void loop_fill_free(struct loop *l);

/* ---- loop_files.c */

typedef void loop_verified(struct loop *l, struct coord_checkpoint checkpoint, bool ok);
/* Checks checksums on a thread of libuv's pool, then calls verified on the loop's. */
void loop_verify(struct loop *l, struct coord_checkpoint checkpoint, loop_verified *verified);
/* Points "best" to a checkpoint that a validation or a registration has shown to be better. */
void loop_point_best(struct loop *l);
/* Removes its folder, on a thread of libuv's pool: a slow file system may take long. */
void loop_remove(struct loop *l, struct coord_checkpoint checkpoint);
/* Removes the folders of all those at the run's end, when the journal takes no more: the next start finds them gone. */
void loop_remove_old(struct loop *l);
/* Does the ledger have some that train.keep_last does not keep, the best apart? */
bool loop_has_old_checkpoints(const struct loop *l);
/* Points "latest" and "best". */
void loop_register(struct loop *l, struct coord_checkpoint checkpoint);
/* Into bad_samples.jsonl and the log: void slot `index` of the Completed being handled. */
void loop_bad_sample(struct loop *l, uint32_t index);
/* Into damaged_images.jsonl, the first into the log too: what a loader says of images that it shipped. */
void loop_damaged_images(struct loop *l, const Blipren__Completed *completed);
/* At the end: how many there are, if any. */
void loop_say_damaged(const struct loop *l);
/* What the peers will read. A start that failed before leaves the old one. */
int loop_write_config(struct loop *l, struct bl_error *err);
/* RUN/endpoint: where this coordinator listens, for who joins by the run folder. */
int loop_write_endpoint(struct loop *l, struct bl_error *err);
/* Unless another coordinator has written its own there. */
void loop_remove_endpoint(struct loop *l);
/* Configuration checked, run folder locked and compared, data indexed. close_all() in loop.c releases what is there. */
int loop_open_files(struct loop *l, struct bl_error *err);

/* ---- loop_figures.c */

/* Shows where the run is; `line`: as a line of the log too, not only as the terminal's last line. */
void loop_progress(struct loop *l, bool line);
/* Says once that the run waits for peers that do not come: the log may be all that a person sees. */
void loop_note_absence(struct loop *l);
/* Step `step` (0-based) is committed; a validation after `step` steps is complete; figures of steps >= `step` are annulled. A
 * failure is the metrics': they cannot be written. */
int loop_committed(struct loop *l, uint64_t step, struct bl_error *err);
int loop_validated(struct loop *l, uint64_t step, struct bl_error *err);
int loop_rewound(struct loop *l, uint64_t step, struct bl_error *err);
/* The Validation being handled says that a shard is on disk. */
void loop_embedded(struct loop *l);

/* ---- loop_scale.c */

/* Children are started, or workers released with `release` (each a RELEASE for the core); the answer comes once a generation has so
 * many, or at once with the reason why it cannot be. */
void loop_scale(struct loop *l, unsigned workers,
                void (*release)(struct loop *l, const struct peer *peer));
/* After each event: has a generation begun, or ended? */
void loop_note_pause(struct loop *l);

/* ---- loop_control.c */

/* Of loop.security. */
extern const char *const loop_security_names[];
void loop_answer_status(struct loop *l);
/* Of the checkpoint that was asked for. */
void loop_answer_checkpoint(struct loop *l, uint64_t step, bool ok);
/* Everyone who waits for something: the run ends. */
void loop_answer_end(struct loop *l);
/* Where a rank's time went in the step that it reports. */
void loop_note_times(struct peer *peer, const Blipren__Report *report);
