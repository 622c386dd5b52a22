/* worker/engine.h - the thread that computes. The loop gives it commands and takes its events; they
 * share nothing else.
 *
 * Commands run in order. A command of a generation that engine_abort ended is dropped without an
 * event, except that each END gives one ENDED. Events are queued, and `wake` is called (from the
 * engine's threads) when there is one.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/checkpoint.h"
#include "worker/batch.h"
#include "worker/trainer.h"

struct engine;

struct engine_options {
    enum ops_precision precision;
    int threads; /* 0: all cores */
    struct captioner_options captioner;
    struct trainer_options trainer;
    struct checkpoint_state
        about; /* paths, hashes, configuration: what a checkpoint says of its run; borrowed */
    const char *tokenizer;           /* folder; captions are decoded with it */
    struct captioner_generation how; /* sample captions during validation */
    int64_t validation_captions;     /* places of the validation set that get one */
    const char *comm_host;
    int patience_ms;
    /* Called inside a FORM command, from the engine's thread: an entry for every rank's store. */
    void (*publish)(void *context, uint64_t generation, const char *key, const void *value,
                    size_t size);
    /* Called from the engine's threads when there is an event. */
    void (*wake)(void *context);
    void *context;
};

enum engine_event_kind {
    ENGINE_READY,     /* models are loaded */
    ENGINE_FORMED,    /* communicator stands, state is that of `step` */
    ENGINE_BROKEN,    /* the communicator failed; error says how */
    ENGINE_ENDED,     /* the generation's work is dropped; state is that of `step`, or has_state is
                         false */
    ENGINE_USED,      /* batch (kind, step, group) is consumed */
    ENGINE_APPLIED,   /* report */
    ENGINE_VALIDATED, /* validation of a group */
    ENGINE_SAVED,     /* folder is whole on disk, or error says why not */
    ENGINE_FAILED,    /* this worker cannot go on: error */
};

struct engine_caption {
    uint64_t sample;
    char *text; /* owned */
    bool ended;
};

struct engine_validation {
    double nll, shuffled_nll, paired_nll;
    int64_t tokens, correct, shuffled_tokens, images;
    int caption_count;
    struct engine_caption *captions;      /* owned */
    double weight[CAPTIONER_EXPERTS_MAX]; /* moe: routing weights summed over the images */
};

struct engine_event {
    enum engine_event_kind kind;
    uint64_t generation, step;
    uint32_t group;
    enum batch_kind batch_kind;
    bool has_state;
    uint8_t digest[32];
    struct trainer_report report;
    struct engine_validation validation;
    char folder[1024];
    struct bl_error error;
};
void engine_event_release(struct engine_event *event);

/* Starts the thread, which loads the models and then posts ENGINE_READY or ENGINE_FAILED. *ret is
 * the caller's. */
int engine_open(const struct engine_options *options, struct engine **ret, struct bl_error *err);
/* Aborts, waits for a save under way, joins. */
void engine_close(struct engine **engine);

/* A new generation's communicator; then state from rank `source`, or (-1) from `checkpoint`, or
 * ("") fresh. */
void engine_form(struct engine *engine, uint64_t generation, int rank, int world, int source,
                 const char *checkpoint);
/* An entry of the rendezvous store, for the generation being formed. */
void engine_deliver(struct engine *engine, uint64_t generation, const char *key, const void *value,
                    size_t size);
/* Takes the batch over. `last`: the last of this rank in its step. */
void engine_batch(struct engine *engine, struct batch *batch, bool last);
/* All of this rank's groups of the step were given: reduce and apply. */
void engine_apply(struct engine *engine, uint64_t generation, uint64_t step);
/* Copies the state, which must be that of `step`, and writes it beside further work. */
void engine_save(struct engine *engine, uint64_t generation, uint64_t step, const char *folder);
/* Wakes a collective, drops what is queued for `generation` and older ones, and answers
 * ENGINE_ENDED. */
void engine_abort(struct engine *engine, uint64_t generation);

/* The next event; false when there is none. The caller releases it. */
bool engine_next(struct engine *engine, struct engine_event *ret);
/* What the thread is doing, for heartbeats: "load", "train", "validate", "idle"; waiting: "data",
 * "all-reduce", "". */
void engine_phase(struct engine *engine, const char **ret_phase, const char **ret_waiting);
