/* worker/engine.c - the compute thread: what each command calls. */
#include "worker/engine_state.h"

#include <stdlib.h>
#include <string.h>

void engine_fits(const struct engine *e, int64_t *ret_side, int64_t *ret_vocabulary)
{
    if (e->embedder) {
        *ret_side = embedder_side(e->embedder);
        *ret_vocabulary = INT32_MAX; /* nobody looks at the captions */
        return;
    }
    *ret_side = captioner_vision(e->captioner)->image_size;
    *ret_vocabulary = captioner_llm(e->captioner)->vocabulary;
}

void engine_models(const struct engine *e, const char **ret_vision, const char **ret_llm)
{
    *ret_vision = e->metadata.vision_sha256;
    *ret_llm = e->metadata.llm_sha256;
}

size_t engine_row_bytes(const struct engine *e)
{
    return rows_wanted(&e->rows);
}

static void abort_generation(struct engine *e, struct engine_event *event)
{
    engine_drop_comm(e);
    e->broken = false;
    e->step_open = false;
    if (e->captioner)
        captioner_forget_ahead(e->captioner);
    event->kind = ENGINE_ABORTED;
    event->applied_step = -1;
    if (!e->has_state)
        return;
    event->applied_step = e->embedder ? 0 : trainer_state(e->trainer)->step;
    if (engine_digest(e, event->digest, &event->error) < 0)
        event->kind = ENGINE_BROKEN; /* a state that cannot be compared is useless */
}

/* Does one command; tells whether *event is to be posted. */
static bool run(struct engine *e, const struct command *c, struct engine_event *event)
{
    typedef int handler(struct engine *, const struct command *, struct engine_event *);
    static handler *const training[] = {
        [COMMAND_FORM] = engine_do_form,
        [COMMAND_COMPUTE] = engine_do_compute,
        [COMMAND_REDUCE] = engine_do_apply,
        [COMMAND_SNAPSHOT] = engine_do_snapshot,
    };
    static handler *const embedding[] = {
        [COMMAND_FORM] = engine_embed_form,
        [COMMAND_COMPUTE] = engine_embed_compute,
    };
    event->generation = c->generation;
    if (c->kind == COMMAND_ABORT) {
        abort_generation(e, event);
        return true;
    }
    if (engine_is_over(e, c->generation) || e->broken)
        return false;
    int rc = (e->embedder ? embedding : training)[c->kind](e, c, event);
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
    engine_set_phase(e, "load", "");
    int rc = e->options.kind == BL_KIND_EMBED ? engine_embed_load(e, &event.error)
                                              : engine_load(e, &event.error);
    if (rc < 0) {
        event.kind = ENGINE_BROKEN;
        e->broken = true;
    }
    engine_post(e, &event);
    for (;;) {
        struct command *c = engine_take(e);
        if (c->kind == COMMAND_QUIT) {
            engine_command_free(c);
            break;
        }
        event = (struct engine_event){0};
        bool tell = run(e, c, &event);
        engine_command_free(c);
        if (tell)
            engine_post(e, &event);
    }
    engine_drop_comm(e);
    rows_close(&e->rows);
    filler_free(&e->filler);
    embedder_free(&e->embedder);
    trainer_free(&e->trainer);
    captioner_free(&e->captioner);
    tokenizer_free(&e->tokenizer);
    checkpoint_state_release(&e->metadata);
    ops_free(&e->ops);
    free(e->loaded);
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
    engine_join_writer(e); /* it reads the captioner's layout */
    engine_abort(e, UINT64_MAX);
    engine_give(e, engine_command(COMMAND_QUIT, 0, 0));
    pthread_join(e->thread, NULL);
    for (struct engine_event event; engine_next(e, &event);)
        engine_event_release(&event);
    for (struct command *c = e->commands, *next; c; c = next) {
        next = c->next;
        engine_command_free(c);
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

void engine_form(struct engine *e, uint64_t generation, const struct engine_forming *forming)
{
    struct command *c = engine_command(COMMAND_FORM, generation, 0);
    c->form = *forming;
    c->form.checkpoint = c->checkpoint = strdup(forming->checkpoint);
    BL_ASSERT(c->checkpoint != NULL);
    engine_give(e, c);
}

void engine_compute(struct engine *e, uint64_t generation, uint32_t slot, const struct batch *batch,
                    bool last, const struct batch *next)
{
    struct command *c = engine_command(COMMAND_COMPUTE, generation, batch->step);
    c->slot = slot;
    c->batch = batch;
    c->ahead = next;
    c->last = last;
    engine_give(e, c);
}

void engine_reduce(struct engine *e, uint64_t generation, uint64_t step)
{
    engine_give(e, engine_command(COMMAND_REDUCE, generation, step));
}

void engine_snapshot(struct engine *e, uint64_t generation, uint64_t step)
{
    engine_give(e, engine_command(COMMAND_SNAPSHOT, generation, step));
}

void engine_abort(struct engine *e, uint64_t generation)
{
    pthread_mutex_lock(&e->lock);
    if (generation > e->ended)
        e->ended = generation;
    if (e->comm && e->forming <= generation)
        comm_abort(e->comm);
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
    if (generation != UINT64_MAX)
        engine_give(e, engine_command(COMMAND_ABORT, generation, 0));
}
