/* worker/engine.c - the compute thread: its queue of commands, its queue of events, its snapshots. */
#include "worker/engine_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void engine_event_release(struct engine_event *event)
{
    for (int i = 0; i < event->validation.caption_count; i++)
        free(event->validation.captions[i].text);
    free(event->validation.captions);
    event->validation = (struct engine_validation){0};
}

static void *must_alloc(size_t size)
{
    void *p = calloc(1, size);
    BL_ASSERT(p != NULL); /* a few hundred bytes: without them nothing can be reported either */
    return p;
}

static void post(struct engine *e, const struct engine_event *event)
{
    struct event_node *node = must_alloc(sizeof *node);
    node->event = *event;
    pthread_mutex_lock(&e->lock);
    *e->events_end = node;
    e->events_end = &node->next;
    pthread_mutex_unlock(&e->lock);
    e->options.wake(e->options.context);
}

void engine_fits(const struct engine *e, int64_t *ret_side, int64_t *ret_vocabulary)
{
    *ret_side = captioner_vision(e->captioner)->image_size;
    *ret_vocabulary = captioner_llm(e->captioner)->vocabulary;
}

bool engine_next(struct engine *e, struct engine_event *ret)
{
    pthread_mutex_lock(&e->lock);
    struct event_node *node = e->events;
    if (node) {
        e->events = node->next;
        if (!e->events)
            e->events_end = &e->events;
    }
    pthread_mutex_unlock(&e->lock);
    if (!node)
        return false;
    *ret = node->event;
    free(node);
    return true;
}

static struct command *new_command(enum command_kind kind, uint64_t generation, uint64_t step)
{
    struct command *c = must_alloc(sizeof *c);
    c->kind = kind;
    c->generation = generation;
    c->step = step;
    return c;
}

static void give(struct engine *e, struct command *c)
{
    pthread_mutex_lock(&e->lock);
    *e->commands_end = c;
    e->commands_end = &c->next;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

/* The next command; waits. */
static struct command *take(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->phase = "idle";
    e->waiting = "data";
    while (!e->commands)
        pthread_cond_wait(&e->changed, &e->lock);
    struct command *c = e->commands;
    e->commands = c->next;
    if (!e->commands)
        e->commands_end = &e->commands;
    e->waiting = "";
    pthread_mutex_unlock(&e->lock);
    return c;
}

void engine_set_phase(struct engine *e, const char *phase, const char *waiting)
{
    pthread_mutex_lock(&e->lock);
    e->phase = phase;
    e->waiting = waiting;
    pthread_mutex_unlock(&e->lock);
}

void engine_phase(struct engine *e, const char **ret_phase, const char **ret_waiting)
{
    pthread_mutex_lock(&e->lock);
    *ret_phase = e->phase;
    *ret_waiting = e->waiting;
    pthread_mutex_unlock(&e->lock);
}

static bool is_over(struct engine *e, uint64_t generation)
{
    pthread_mutex_lock(&e->lock);
    bool over = generation <= e->ended;
    pthread_mutex_unlock(&e->lock);
    return over;
}

static int snapshot(struct engine *e, const struct command *c, struct engine_event *event)
{
    struct trainer_snapshot copy;
    BL_ASSERT_CMP(c->step, ==, (uint64_t)trainer_state(e->trainer)->step);
    BL_TRY(trainer_snapshot(e->trainer, &copy, &event->error));
    pthread_mutex_lock(&e->lock);
    BL_ASSERT(e->snapshot.count == 0);
    e->snapshot = copy;
    pthread_mutex_unlock(&e->lock);
    event->kind = ENGINE_SNAPPED;
    event->step = c->step;
    return 0;
}

static void *write_snapshot(void *argument)
{
    struct engine *e = argument;
    struct engine_event event = {.kind = ENGINE_WRITTEN, .step = (uint64_t)e->snapshot.state.step};
    checkpoint_write(captioner_params(e->captioner), &e->snapshot, &e->metadata, e->folder,
                     &event.error);
    engine_discard(e);
    post(e, &event);
    return NULL;
}

static void join_writer(struct engine *e)
{
    if (e->writer_started)
        pthread_join(e->writer, NULL);
    e->writer_started = false;
}

void engine_write(struct engine *e, const char *folder)
{
    join_writer(e); /* its WRITTEN came, or there would be no new snapshot */
    snprintf(e->folder, sizeof e->folder, "%s", folder);
    e->writer_started = pthread_create(&e->writer, NULL, write_snapshot, e) == 0;
    if (e->writer_started)
        return;
    struct engine_event event = {.kind = ENGINE_WRITTEN, .step = (uint64_t)e->snapshot.state.step};
    bl_fail(&event.error, BL_ENOMEM, "no thread to write a checkpoint");
    engine_discard(e);
    post(e, &event);
}

void engine_discard(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    trainer_snapshot_release(&e->snapshot);
    pthread_mutex_unlock(&e->lock);
}

static int load_models(struct engine *e, struct bl_error *err)
{
    const struct config *config = e->options.config;
    int32_t bos;
    engine_set_phase(e, "load", "");
    BL_TRY(options_checkpoint_metadata(config, e->options.data_fingerprint, &e->metadata, err));
    BL_TRY(tokenizer_open(config->llm.path, &e->tokenizer, err));
    bos = options_bos(e->tokenizer);
    BL_TRY(
        ops_open(e->options.device, options_precision(config), e->options.threads, &e->ops, err));
    e->model = options_captioner(config, bos);
    BL_TRY(captioner_open(e->ops, &e->model, &e->captioner, err));
    BL_TRY(options_eos(config, captioner_llm(e->captioner), e->tokenizer, e->eos, &e->how.eos_count,
                       err));
    e->how.eos = e->eos;
    e->how.max_new = (int32_t)config->train.max_new_tokens;
    e->how.beams = 1;
    struct trainer_options training = options_trainer(config);
    return trainer_open(e->ops, e->captioner, &training, &e->trainer, err);
}

static void abort_generation(struct engine *e, struct engine_event *event)
{
    engine_drop_comm(e);
    e->broken = false;
    e->step_open = false;
    event->kind = ENGINE_ABORTED;
    event->applied_step = -1;
    if (!e->has_state)
        return;
    event->applied_step = trainer_state(e->trainer)->step;
    trainer_digest(e->trainer, event->digest, NULL);
}

/* Does one command; tells whether *event is to be posted. */
static bool run(struct engine *e, const struct command *c, struct engine_event *event)
{
    static int (*const handlers[])(struct engine *, const struct command *,
                                   struct engine_event *) = {
        [COMMAND_FORM] = engine_do_form,
        [COMMAND_COMPUTE] = engine_do_compute,
        [COMMAND_REDUCE] = engine_do_apply,
        [COMMAND_SNAPSHOT] = snapshot,
    };
    event->generation = c->generation;
    if (c->kind == COMMAND_ABORT) {
        abort_generation(e, event);
        return true;
    }
    if (is_over(e, c->generation) || e->broken)
        return false;
    int rc = handlers[c->kind](e, c, event);
    if (rc == 0)
        return true;
    engine_event_release(event);
    /* A lost peer is the generation's end; anything else is this worker's own trouble. */
    if (event->kind != ENGINE_BROKEN)
        event->kind = rc == -BL_EPEER ? ENGINE_FAILED : ENGINE_BROKEN;
    e->broken = true;
    return true;
}

static void *engine_thread(void *argument)
{
    struct engine *e = argument;
    struct engine_event event = {.kind = ENGINE_OPENED};
    if (load_models(e, &event.error) < 0) {
        event.kind = ENGINE_BROKEN;
        e->broken = true;
    }
    post(e, &event);
    for (;;) {
        struct command *c = take(e);
        if (c->kind == COMMAND_QUIT) {
            free(c);
            break;
        }
        event = (struct engine_event){0};
        bool tell = run(e, c, &event);
        free(c);
        if (tell)
            post(e, &event);
    }
    engine_drop_comm(e);
    trainer_free(&e->trainer);
    captioner_free(&e->captioner);
    tokenizer_free(&e->tokenizer);
    checkpoint_state_release(&e->metadata);
    ops_free(&e->ops);
    return NULL;
}

int engine_open(const struct engine_options *options, struct engine **ret, struct bl_error *err)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return bl_fail(err, BL_ENOMEM, "no memory for the engine");
    e->options = *options;
    e->commands_end = &e->commands;
    e->events_end = &e->events;
    e->phase = "load";
    e->waiting = "";
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    if (pthread_create(&e->thread, NULL, engine_thread, e) != 0) {
        free(e);
        return bl_fail(err, BL_ENOMEM, "no thread for the engine");
    }
    *ret = e;
    return 0;
}

void engine_close(struct engine **engine)
{
    struct engine *e = *engine;
    if (!e)
        return;
    join_writer(e); /* it reads the captioner's layout */
    engine_abort(e, UINT64_MAX);
    give(e, new_command(COMMAND_QUIT, 0, 0));
    pthread_join(e->thread, NULL);
    engine_discard(e);
    for (struct engine_event event; engine_next(e, &event);)
        engine_event_release(&event);
    for (struct command *c = e->commands, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    for (struct entry *entry = e->early, *next; entry; entry = next) {
        next = entry->next;
        free(entry);
    }
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->changed);
    free(e);
    *engine = NULL;
}

void engine_form(struct engine *e, uint64_t generation, int rank, int world, int source,
                 bool have_state, const char *checkpoint)
{
    struct command *c = new_command(COMMAND_FORM, generation, 0);
    c->rank = rank;
    c->world = world;
    c->source = source;
    c->have_state = have_state;
    snprintf(c->checkpoint, sizeof c->checkpoint, "%s", checkpoint);
    give(e, c);
}

void engine_deliver(struct engine *e, uint64_t generation, const char *key, const void *value,
                    size_t size)
{
    struct entry *entry = must_alloc(sizeof *entry + size);
    entry->generation = generation;
    snprintf(entry->key, sizeof entry->key, "%s", key);
    entry->size = size;
    memcpy(entry->value, value, size);
    pthread_mutex_lock(&e->lock);
    entry->next = e->early;
    e->early = entry;
    if (e->comm)
        engine_deliver_early(e);
    pthread_mutex_unlock(&e->lock);
}

void engine_compute(struct engine *e, uint64_t generation, uint32_t slot, const struct batch *batch,
                    bool last)
{
    struct command *c = new_command(COMMAND_COMPUTE, generation, batch->step);
    c->slot = slot;
    c->batch = batch;
    c->last = last;
    give(e, c);
}

void engine_reduce(struct engine *e, uint64_t generation, uint64_t step)
{
    give(e, new_command(COMMAND_REDUCE, generation, step));
}

void engine_snapshot(struct engine *e, uint64_t generation, uint64_t step)
{
    give(e, new_command(COMMAND_SNAPSHOT, generation, step));
}

void engine_abort(struct engine *e, uint64_t generation)
{
    pthread_mutex_lock(&e->lock);
    if (generation > e->ended)
        e->ended = generation;
    if (e->comm && e->forming <= generation)
        comm_abort(e->comm);
    pthread_mutex_unlock(&e->lock);
    if (generation != UINT64_MAX)
        give(e, new_command(COMMAND_ABORT, generation, 0));
}
