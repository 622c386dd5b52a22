/* worker/engine.h - the thread that computes. The loop gives it commands and takes its events; they
 * share nothing else. worker/core.h decides what is commanded; the words here are its actions and
 * events.
 *
 * Commands run in order. engine_abort makes the one under way return soon and drops the queued ones
 * of its generation and older ones; its ABORTED comes after every other completion. A step is
 * applied or not, never half.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/models/checkpoint.h"
#include "common/config/config.h"
#include "proto/files.h"
#include "worker/batch.h"
#include "worker/trainer.h"

struct engine;

struct engine_options {
    enum bl_kind kind;             /* of the run: TRAIN or EMBED */
    const struct config *config;   /* borrowed for the engine's life */
    const struct dataset *dataset; /* borrowed too */
    const char *
        cache_tower; /* features come from cache.path, of the tower with this hash; "": from pixels. Borrowed */
    /* EMBED: borrowed; as run_images gives them */
    const uint64_t *images;
    uint64_t image_count;
    const char *data_fingerprint;    /* borrowed */
    const struct ops_device *device; /* borrowed */
    int threads;                     /* 0: all cores */
    const char *comm_host;           /* borrowed: address of this worker's network interface */
    int patience_ms;
    struct files
        *files; /* through which checkpoints go; NULL: this host sees the run folder. Borrowed */
    /* Called inside FORM, from the engine's thread: an entry for every rank's rendezvous store. */
    void (*publish)(void *context, uint64_t generation, const char *key, const void *value,
                    size_t size);
    /* Called from the engine's threads when there is an event. */
    void (*wake)(void *context);
    void *context;
};

enum engine_event_kind {
    ENGINE_OPENED,   /* models are loaded */
    ENGINE_FORMED,   /* the communicator is connected and the state in place: digest */
    ENGINE_COMPUTED, /* the batch of `slot` is consumed; of a validation micro-batch: validation */
    ENGINE_APPLIED,  /* report */
    ENGINE_SNAPPED,  /* the state after `step` steps is kept */
    ENGINE_FAILED,   /* the communicator failed: error says how */
    ENGINE_ABORTED,  /* applied_step (-1: no state), digest */
    ENGINE_WRITTEN,  /* the snapshot is completely on disk, or error says why not */
    ENGINE_BROKEN,   /* this worker cannot continue: error */
};

struct engine_caption {
    uint64_t sample;
    char *text; /* owned */
    bool ended;
};

struct engine_validation {
    double nll, shuffled_nll, paired_nll;
    int64_t tokens, correct, shuffled_tokens, images;
    struct captioner_source_sums source[CAPTIONER_SOURCES_MAX]; /* of each of the run's sources */
    int caption_count;
    struct engine_caption *captions;      /* owned */
    double weight[CAPTIONER_EXPERTS_MAX]; /* moe: routing weights summed over the images */
};

#define ENGINE_UNREACHED_MAX 16

struct engine_event {
    enum engine_event_kind kind;
    uint64_t generation, step;
    uint32_t slot;
    int64_t applied_step;
    uint8_t digest[32];
    struct trainer_report report;
    struct engine_validation validation;
    int unreached_count; /* FAILED, of FORM: ranks that could not be connected with (comm.h), the first few */
    int unreached[ENGINE_UNREACHED_MAX];
    struct bl_error error;
};
void engine_event_release(struct engine_event *event);

/* Starts the thread, which loads the models and then posts ENGINE_OPENED or ENGINE_BROKEN. *ret is
 * the caller's. */
int engine_open(const struct engine_options *options, struct engine **ret, struct bl_error *err);
/* Aborts, waits for a write under way, joins. */
void engine_close(struct engine **engine);

/* A new generation's communicator; then the state: from rank `source`, or (-1) from `checkpoint`,
 * or ("") fresh. */
struct engine_forming {
    int rank, world, source;
    bool
        have_state; /* this worker's is the source's already: a broadcast that breaks off cannot spoil it */
    bool
        one_reads; /* source -1: rank 0 loads or starts fresh, and the others take the state from it */
    const char *
        checkpoint; /* RUN/checkpoints/NAME; fetched by its name where this host does not see the run */
};
void engine_form(struct engine *engine, uint64_t generation, const struct engine_forming *forming);
/* An entry of the rendezvous store, for the generation being formed. */
void engine_deliver(struct engine *engine, uint64_t generation, const char *key, const void *value,
                    size_t size);
/* Forward and backward, or validation. The batch is borrowed until COMPUTED or ABORTED. `last`: of
 * this rank's micro-batches of the step, so that its buckets may be reduced as they come. next: the training
 * micro-batch that follows, borrowed for as long, whose vision tower may run beside; NULL: not here yet. */
void engine_compute(struct engine *engine, uint64_t generation, uint32_t slot,
                    const struct batch *batch, bool last, const struct batch *next);
/* All of this rank's micro-batches of the step were computed: reduce and apply. */
void engine_reduce(struct engine *engine, uint64_t generation, uint64_t step);
/* Keeps the state, which must be that after `step` steps, as a snapshot. There is one at a time. Nothing
 * is copied: a command that would change the state waits until the snapshot is written or let go. */
void engine_snapshot(struct engine *engine, uint64_t generation, uint64_t step);
/* Writes the snapshot as a checkpoint folder, on a thread of its own, and lets it go. */
void engine_write(struct engine *engine, const char *folder);
/* Lets the snapshot go. */
void engine_discard(struct engine *engine);
void engine_abort(struct engine *engine, uint64_t generation);

/* What a batch's parts must fit, once ENGINE_OPENED came: the side of its images, and the number of
 * token ids. */
void engine_fits(const struct engine *engine, int64_t *ret_side, int64_t *ret_vocabulary);
/* Bytes of the feature cache's row that must come with each image, since the cache is not on this host; 0: none. */
size_t engine_row_bytes(const struct engine *engine);

/* SHA-256 of the models' folders (HF_IDENTITY_ALL), 64 digits each, once ENGINE_OPENED came; "": a model that it does not use. */
void engine_models(const struct engine *engine, const char **ret_vision, const char **ret_llm);

/* The next event; false when there is none. The caller releases it. */
bool engine_next(struct engine *engine, struct engine_event *ret);
/* What the thread is doing, for heartbeats: "load", "train", "validate", "idle"; waiting: "data",
 * "all-reduce",
 * "checkpoint" (a snapshot that is being written), "". */
void engine_phase(struct engine *engine, const char **ret_phase, const char **ret_waiting);
