/* worker/engine_queue.c - the engine's commands and events, and what its thread is doing. */
#include <stdlib.h>
#include <string.h>

#include "common/progress.h"
#include "worker/engine_state.h"

void engine_event_release(struct engine_event *event)
{
    for (int i = 0; i < event->validation.caption_count; i++)
        free(event->validation.captions[i].text);
    free(event->validation.captions);
    event->validation = (struct engine_validation){0};
}

void *engine_alloc(size_t size)
{
    void *p = calloc(1, size);
    BL_ASSERT(p != NULL);
    return p;
}

void engine_post(struct engine *e, const struct engine_event *event)
{
    struct event_node *node = engine_alloc(sizeof *node);
    node->event = *event;
    pthread_mutex_lock(&e->lock);
    *e->events_end = node;
    e->events_end = &node->next;
    pthread_mutex_unlock(&e->lock);
    e->options.wake(e->options.context);
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

struct command *engine_command(enum command_kind kind, uint64_t generation, uint64_t step)
{
    struct command *c = engine_alloc(sizeof *c);
    c->kind = kind;
    c->generation = generation;
    c->step = step;
    return c;
}

void engine_give(struct engine *e, struct command *c)
{
    pthread_mutex_lock(&e->lock);
    *e->commands_end = c;
    e->commands_end = &c->next;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

struct command *engine_take(struct engine *e)
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

void engine_command_free(struct command *c)
{
    free(c->checkpoint);
    free(c);
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

uint64_t engine_progress(const struct engine *e)
{
    return bl_progress();
}

bool engine_is_over(struct engine *e, uint64_t generation)
{
    pthread_mutex_lock(&e->lock);
    bool over = generation <= e->ended;
    pthread_mutex_unlock(&e->lock);
    return over;
}
