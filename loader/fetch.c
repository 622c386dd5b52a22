/* loader/fetch.c - see fetch.h. */
#include "loader/fetch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/limits.h"
#include "common/progress.h"
#include "loader/sample.h"
#include "proto/wire.h"

/* A linked list that is taken from its front. */
struct queue {
    struct fetch_micro_batch *first, **end;
};

struct fetch {
    struct fetch_options options;
    int thread_count; /* running */
    pthread_t *threads;

    pthread_mutex_t lock;
    pthread_cond_t work, stop;
    /* under the lock: */
    bool stopping, open_wanted, opened_told, failed_told;
    struct queue jobs, made;
    struct bl_error open_error, failure; /* code 0: none */
    bool open_done, failed;
    struct {
        bool wanted, done, told;
        uint32_t count;
        uint64_t *samples, *hashes; /* (count); the probing thread's from wanted to done */
        struct bl_error error;
    } probe;

    char run_folder[4096];
    uint8_t run[RUN_ID_BYTES];
    struct files *files;
    bool sees_run;
    struct path_map *map;
    char cache_tower[65];
    struct sample_source *source; /* immutable once open_done */

    struct fetch_micro_batch *micro_batches; /* all that exist; the loop's own */
};

static void queue_init(struct queue *q)
{
    q->first = NULL;
    q->end = &q->first;
}

static void queue_add(struct queue *q, struct fetch_micro_batch *g)
{
    g->next_job = NULL;
    *q->end = g;
    q->end = &g->next_job;
}

static struct fetch_micro_batch *queue_take(struct queue *q)
{
    struct fetch_micro_batch *g = q->first;
    if (g && !(q->first = g->next_job))
        q->end = &q->first;
    return g;
}

/* -- the threads ------------------------------------------------------------------------------ */

static bool is_stopping(struct fetch *f)
{
    pthread_mutex_lock(&f->lock);
    bool stopping = f->stopping;
    pthread_mutex_unlock(&f->lock);
    return stopping;
}

/* Between two tries of a read: false when the threads are to stop. */
static bool wait_a_while(void *context, uint32_t ms)
{
    struct fetch *f = context;
    struct timespec until = bl_deadline(ms);
    pthread_mutex_lock(&f->lock);
    while (!f->stopping && pthread_cond_timedwait(&f->stop, &f->lock, &until) == 0)
        ;
    bool stopping = f->stopping;
    pthread_mutex_unlock(&f->lock);
    return !stopping;
}

static void make_void(struct fetch_slot *slot, const struct bl_error *err)
{
    slot->bad = true;
    slot->asked = sample_is_left_out(err);
    slot->unreadable = location_failure_of(err) == LOCATION_UNREADABLE;
    snprintf(slot->reason, sizeof slot->reason, "%s", err->text);
    wire_text(slot->reason);
}

static int make_slot(struct fetch *f, struct fetch_micro_batch *g, struct fetch_slot *slot,
                     struct sample_info *ret, struct bl_error *err)
{
    uint8_t *image = g->image_bytes ? g->images + g->good * g->image_bytes : NULL;
    if (slot->missing)
        BL_TRY(sample_missing(f->source, slot->sample, err));
    return sample_make(f->source, slot->sample, slot->epoch, image, &g->ids, ret, err);
}

/* Makes the slots in order; a stop leaves the rest undone, since nobody will look. */
static int make_micro_batch(struct fetch *f, struct fetch_micro_batch *g, struct bl_error *err)
{
    g->filled = sample_is_filled(f->source);
    g->image_bytes = g->filled ? 0 : sample_image_bytes(f->source, g->rows);
    for (uint32_t i = 0; i < g->count && !is_stopping(f); i++) {
        struct fetch_slot *slot = &g->slots[i];
        struct sample_info info;
        struct bl_error why;
        atomic_store(&g->since_ms, bl_now_ms());
        atomic_store(&g->at, slot->sample + 1);
        int rc = make_slot(f, g, slot, &info, &why);
        if (rc == -BL_ESTOPPED)
            break;
        bl_progress_add(1);
        if (rc < 0 && location_failure_of(&why) == LOCATION_PASSING) {
            *err = why;
            return rc;
        }
        if (rc < 0) {
            make_void(slot, &why);
            continue;
        }
        slot->tokens = info.tokens;
        slot->prefix = info.prefix;
        slot->label_first = info.label_first;
        slot->label_end = info.label_end;
        slot->image_hash = info.image_hash;
        slot->damaged = info.damaged;
        g->good++;
    }
    return 0;
}

static void do_open(struct fetch *f, struct fetch_micro_batch *none)
{
    struct bl_error err = {0};
    struct sample_source *source = NULL;
    const struct location_patience patience = {wait_a_while, f};
    char folder[sizeof f->run_folder];
    int rc = files_find_run(f->files, f->run_folder, false, folder, &f->sees_run, &err);
    if (rc == 0)
        rc = sample_source_open(folder, f->run, f->map, f->cache_tower, &patience, &source, &err);
    files_let_go_of_run(f->files);
    pthread_mutex_lock(&f->lock);
    f->source = source;
    if (rc < 0)
        f->open_error = err;
    f->open_done = true;
    pthread_cond_broadcast(&f->work); /* a probe may wait for it */
    pthread_mutex_unlock(&f->lock);
}

static void do_job(struct fetch *f, struct fetch_micro_batch *g)
{
    struct bl_error err;
    int rc = make_micro_batch(f, g, &err);
    atomic_store(&g->at, 0);
    pthread_mutex_lock(&f->lock);
    if (rc == 0) {
        queue_add(&f->made, g);
    } else if (!f->failed) {
        f->failed = true;
        f->failure = err;
    }
    pthread_mutex_unlock(&f->lock);
}

static void do_probe(struct fetch *f, struct fetch_micro_batch *none)
{
    struct bl_error why, err;
    int rc = sample_probe(f->source, f->probe.samples, f->probe.count, f->probe.hashes, &why, &err);
    pthread_mutex_lock(&f->lock);
    f->probe.error = why;
    f->probe.done = rc == 0;
    pthread_mutex_unlock(&f->lock);
}

/* What a thread does next, taken under the lock; NULL: nothing. *ret is its micro-batch. */
typedef void task(struct fetch *f, struct fetch_micro_batch *g);
static task *take_task(struct fetch *f, struct fetch_micro_batch **ret)
{
    if (f->open_wanted) {
        f->open_wanted = false;
        return do_open;
    }
    if (f->probe.wanted && f->source) {
        f->probe.wanted = false;
        return do_probe;
    }
    return (*ret = queue_take(&f->jobs)) ? do_job : NULL;
}

static void *run_thread(void *argument)
{
    struct fetch *f = argument;
    pthread_mutex_lock(&f->lock);
    while (!f->stopping) {
        struct fetch_micro_batch *g = NULL;
        task *next = take_task(f, &g);
        if (!next) {
            pthread_cond_wait(&f->work, &f->lock);
            continue;
        }
        pthread_mutex_unlock(&f->lock);
        next(f, g);
        f->options.wake(f->options.context);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* -- the loop's side -------------------------------------------------------------------------- */

int fetch_start(const struct fetch_options *options, struct fetch **ret, struct bl_error *err)
{
    BL_ASSERT_CMP(options->threads, >=, 1);
    struct fetch *f = calloc(1, sizeof *f);
    if (!f)
        return bl_fail(err, BL_ENOMEM, "no memory for %d threads", options->threads);
    f->options = *options;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->work, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&f->stop, &monotonic);
    pthread_condattr_destroy(&monotonic);
    queue_init(&f->jobs);
    queue_init(&f->made);
    f->threads = calloc((size_t)options->threads, sizeof *f->threads);
    int rc = f->threads ? 0 : bl_fail(err, BL_ENOMEM, "no memory for %d threads", options->threads);
    while (rc == 0 && f->thread_count < options->threads) {
        int code = pthread_create(&f->threads[f->thread_count], NULL, run_thread, f);
        if (code)
            rc = bl_fail(err, BL_ENOMEM, "thread %d of %d cannot be started: %s",
                         f->thread_count + 1, options->threads, strerror(code));
        else
            f->thread_count++;
    }
    if (rc < 0)
        fetch_free(&f);
    else
        *ret = f;
    return rc;
}

void fetch_open(struct fetch *f, struct files *files, const char *run_folder,
                const uint8_t run[RUN_ID_BYTES], struct path_map *map, const char *cache_tower)
{
    pthread_mutex_lock(&f->lock);
    BL_ASSERT(!f->open_done && !f->open_wanted);
    snprintf(f->run_folder, sizeof f->run_folder, "%s", run_folder);
    memcpy(f->run, run, sizeof f->run);
    f->files = files;
    f->map = map;
    snprintf(f->cache_tower, sizeof f->cache_tower, "%s", cache_tower);
    f->open_wanted = true;
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->lock);
}

int fetch_probe(struct fetch *f, const uint64_t *samples, uint32_t count, struct bl_error *err)
{
    bl_autofree uint64_t *copy = calloc(count + 1, sizeof *copy);
    bl_autofree uint64_t *hashes = calloc(count + 1, sizeof *hashes);
    if (!copy || !hashes)
        return bl_fail(err, BL_ENOMEM, "no memory for a probe of %u images", count);
    memcpy(copy, samples, count * sizeof *copy);
    pthread_mutex_lock(&f->lock);
    BL_ASSERT(!f->probe.samples || f->probe.told);
    free(f->probe.samples);
    free(f->probe.hashes);
    memset(&f->probe, 0, sizeof f->probe);
    f->probe.wanted = true;
    f->probe.count = count;
    f->probe.samples = bl_take(&copy);
    f->probe.hashes = bl_take(&hashes);
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

const uint64_t *fetch_probe_hashes(const struct fetch *f, uint32_t *ret_count)
{
    *ret_count = f->probe.count;
    return f->probe.hashes;
}

uint64_t fetch_samples(const struct fetch *f)
{
    return sample_count(f->source);
}

bool fetch_is_cached(const struct fetch *f)
{
    return sample_is_cached(f->source);
}

uint32_t fetch_side(const struct fetch *f)
{
    return sample_side(f->source);
}

bool fetch_sees_run(const struct fetch *f)
{
    return f->sees_run;
}

void fetch_models(const struct fetch *f, const char **ret_vision, const char **ret_llm)
{
    sample_models(f->source, ret_vision, ret_llm);
}

static bool is_among(uint64_t sample, const uint64_t *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (list[i] == sample)
            return true;
    return false;
}

/* A micro-batch that nobody holds any more, or a new one. */
static struct fetch_micro_batch *find_micro_batch(struct fetch *f)
{
    for (struct fetch_micro_batch *g = f->micro_batches; g; g = g->next)
        if (atomic_load_explicit(&g->holders, memory_order_acquire) == 0)
            return g;
    struct fetch_micro_batch *g = calloc(1, sizeof *g);
    if (g) {
        g->next = f->micro_batches;
        f->micro_batches = g;
    }
    return g;
}

/* At least `size` bytes. What was there is not needed: no copy, unlike realloc. */
static void *make_room(void *data, size_t *capacity, size_t size)
{
    if (size <= *capacity)
        return data;
    free(data);
    data = malloc(size);
    *capacity = data ? size : 0;
    return data;
}

int fetch_make(struct fetch *f, const struct fetch_order *o, struct bl_error *err)
{
    size_t images = o->count * sample_image_bytes(f->source, o->rows);
    if (images > BL_FRAME_BYTES_MAX) {
        bl_fail(err, BL_ELIMIT, "a micro-batch of %u images has %zu bytes, more than %d", o->count,
                images, BL_FRAME_BYTES_MAX);
        return bl_error_remedy(err, "make train.micro_batch (train.grain) smaller");
    }
    struct fetch_micro_batch *g = find_micro_batch(f);
    if (g) {
        g->slots = make_room(g->slots, &g->slots_capacity, o->count * sizeof *g->slots);
        g->images =
            make_room(g->images, &g->images_capacity, images + 1); /* of a cached run often none */
    }
    if (!g || !g->slots || !g->images)
        return bl_fail(err, BL_ENOMEM, "no memory for a micro-batch of %u images, %zu bytes",
                       o->count, images);
    atomic_store_explicit(&g->holders, 1, memory_order_relaxed);
    g->slot = o->slot;
    g->rows = o->rows;
    g->count = o->count;
    g->good = 0;
    g->image_bytes = 0;
    g->ids.count = 0;
    for (uint32_t i = 0; i < o->count; i++) {
        uint64_t sample = o->samples[i];
        BL_ASSERT_CMP(sample, <, fetch_samples(f));
        g->slots[i] =
            (struct fetch_slot){.sample = sample,
                                .epoch = o->epochs[i],
                                .missing = is_among(sample, o->missing, o->missing_count)};
        if (!g->slots[i].missing)
            BL_TRY(sample_want(f->source, sample, err));
    }
    pthread_mutex_lock(&f->lock);
    queue_add(&f->jobs, g);
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

bool fetch_slowest(const struct fetch *f, char *ret_name, size_t size, uint64_t *ret_ms)
{
    uint64_t oldest_ms = UINT64_MAX, sample = 0, now = bl_now_ms();
    for (const struct fetch_micro_batch *g = f->micro_batches; g; g = g->next) {
        uint64_t at = atomic_load(&g->at), since_ms = atomic_load(&g->since_ms);
        if (!at || since_ms >= oldest_ms)
            continue;
        oldest_ms = since_ms;
        sample = at - 1;
    }
    if (oldest_ms == UINT64_MAX)
        return false;
    sample_describe(f->source, sample, ret_name, size);
    *ret_ms = now - oldest_ms;
    return true;
}

bool fetch_next(struct fetch *f, struct fetch_event *ret)
{
    bool found = true;
    *ret = (struct fetch_event){0};
    pthread_mutex_lock(&f->lock);
    if (f->failed && !f->failed_told) {
        f->failed_told = true;
        ret->kind = FETCH_FAILED;
        ret->error = f->failure;
    } else if (f->open_done && !f->opened_told) {
        f->opened_told = true;
        ret->kind = FETCH_OPENED;
        ret->error = f->open_error;
    } else if (f->probe.done && !f->probe.told) {
        f->probe.told = true;
        ret->kind = FETCH_PROBED;
        ret->error = f->probe.error;
    } else if ((ret->micro_batch = queue_take(&f->made))) {
        ret->kind = FETCH_MADE;
    } else {
        found = false;
    }
    pthread_mutex_unlock(&f->lock);
    return found;
}

void fetch_micro_batch_release(struct fetch_micro_batch *micro_batch)
{
    atomic_fetch_sub_explicit(&micro_batch->holders, 1, memory_order_release);
}

void fetch_stop(struct fetch *f)
{
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_broadcast(&f->work);
    pthread_cond_broadcast(&f->stop);
    pthread_mutex_unlock(&f->lock);
    while (f->thread_count)
        pthread_join(f->threads[--f->thread_count], NULL);
}

void fetch_free(struct fetch **fetch)
{
    struct fetch *f = *fetch;
    if (!f)
        return;
    fetch_stop(f);
    for (struct fetch_micro_batch *g = f->micro_batches, *next; g; g = next) {
        next = g->next;
        free(g->slots);
        free(g->images);
        token_ids_release(&g->ids);
        free(g);
    }
    sample_source_free(&f->source);
    free(f->probe.samples);
    free(f->probe.hashes);
    pthread_cond_destroy(&f->work);
    pthread_cond_destroy(&f->stop);
    pthread_mutex_destroy(&f->lock);
    free(f->threads);
    free(f);
    *fetch = NULL;
}
