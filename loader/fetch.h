/* loader/fetch.h - the threads that make micro-batches: file, hash, decode, resize, caption, ids. The loop
 * gives them work and takes events; all calls are the loop's and return at once, but fetch_stop.
 *
 * Micro-batches are recycled: whoever holds one (the loop, and each frame that ZeroMQ still sends) lets go
 * by an atomic count, and the next job takes over its memory. So there are never more than the
 * loop's orders and ZeroMQ's queues hold. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/cluster.h"
#include "common/error.h"
#include "common/data/run.h"
#include "common/tokenizer/tokenizer.h"
#include "proto/files.h"

#define FETCH_REASON_MAX 200

struct fetch;

struct fetch_slot {
    uint64_t sample;
    uint32_t epoch;
    bool missing; /* known to be void: it is not fetched again */
    bool bad;     /* nothing below but unreadable and reason */
    bool asked;   /* bad, since a rule of the configuration leaves it out */
    bool
        unreadable; /* bad, perhaps only on this host (loader/sample.h): another loader may read it */
    uint32_t tokens, prefix, label_first, label_end; /* as in proto/data.proto, Slot */
    uint64_t image_hash;
    bool damaged;                  /* made, of a picture whose data is damaged */
    char reason[FETCH_REASON_MAX]; /* what was wrong, one line of UTF-8 */
};

struct fetch_micro_batch {
    uint32_t slot; /* the loop's number of the order */
    uint32_t count, good;
    struct fetch_slot *slots; /* (count) */
    bool filled;              /* the cache is whole by now: no pixels */
    bool rows;                /* asked for: the cache's rows */
    uint8_t *images;          /* (good, image_bytes): pixels u8 RGB, or rows of the feature cache */
    size_t image_bytes;       /* 0: the worker has the features */
    struct token_ids ids;     /* of the good slots, one after the other */

    atomic_int holders;
    atomic_uint_fast64_t at, since_ms; /* being made: the sample in hand + 1, since when; 0: none */
    size_t slots_capacity, images_capacity;
    struct fetch_micro_batch *next_job, *next;
};

enum fetch_event_kind {
    FETCH_OPENED, /* the run's data is open, or error */
    FETCH_MADE,   /* micro-batch is made; the loop holds it */
    FETCH_PROBED, /* fetch_probe_hashes; error: why the first image could not be read */
    FETCH_FAILED, /* this process's memory or files have failed for half a minute: error */
};
struct fetch_event {
    enum fetch_event_kind kind;
    struct fetch_micro_batch *micro_batch;
    struct bl_error error; /* code 0: none */
};

struct fetch_options {
    int threads; /* 1 or more */
    /* Called from the threads when there is an event. */
    void (*wake)(void *context);
    void *context;
};

/* Starts the threads. *ret is the caller's. */
int fetch_start(const struct fetch_options *options, struct fetch **ret, struct bl_error *err);
/* Opens, from the run folder or where this host does not see it from what `files` (borrowed) fetches, configuration, index, tokenizer and preprocessing (map, cache_tower as in sample_source_open), on a thread; FETCH_OPENED
 * follows. Once. */
void fetch_open(struct fetch *fetch, struct files *files, const char *run_folder,
                const uint8_t run[RUN_ID_BYTES], struct path_map *map, const char *cache_tower);
/* Reads the images of these samples and hashes their bytes (sample_probe); FETCH_PROBED follows, once the data is open. One
 * at a time. -BL_ENOMEM. */
int fetch_probe(struct fetch *fetch, const uint64_t *samples, uint32_t count, struct bl_error *err);
/* After FETCH_PROBED, until the next probe: *ret_count hashes, in order; 0: could not be read. Borrowed. */
const uint64_t *fetch_probe_hashes(const struct fetch *fetch, uint32_t *ret_count);
/* After FETCH_OPENED: samples of the index, pixels of an image's side, and whether features come from the run's cache. */
uint64_t fetch_samples(const struct fetch *fetch);
uint32_t fetch_side(const struct fetch *fetch);
/* And whether the run folder is seen. */
bool fetch_sees_run(const struct fetch *fetch);
/* And its models (sample_models). */
void fetch_models(const struct fetch *fetch, const char **ret_vision, const char **ret_llm);
bool fetch_is_cached(const struct fetch *fetch);

struct fetch_order {
    uint32_t slot, count;
    const uint64_t *samples; /* (count) */
    const uint32_t *epochs;  /* (count) */
    const uint64_t *missing; /* (missing_count) */
    size_t missing_count;
    bool
        rows; /* of a cached run: with the images' rows, for a worker that does not see the cache */
};
/* Makes a micro-batch of `count` samples below fetch_samples, of which the missing ones are known to be void; what is at a URL is
 * fetched from now on. FETCH_MADE follows. -BL_ENOMEM. */
int fetch_make(struct fetch *fetch, const struct fetch_order *order, struct bl_error *err);
/* The image with which a thread is busy for longest, as location_describe has it, and for how long; false: no thread is. */
bool fetch_slowest(const struct fetch *fetch, char *ret_name, size_t size, uint64_t *ret_ms);
/* The next event; false when there is none. */
bool fetch_next(struct fetch *fetch, struct fetch_event *ret);
/* Lets go; only atomics, for any thread. */
void fetch_micro_batch_release(struct fetch_micro_batch *micro_batch);

/* Waits for the image in each thread's hands, unless it cannot be read, and ends the threads. */
void fetch_stop(struct fetch *fetch);
/* fetch_stop, then frees all micro-batches: nobody may hold one any more. NULL is fine; sets *fetch to NULL. */
void fetch_free(struct fetch **fetch);
