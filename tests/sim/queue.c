/* tests/sim/queue.c - chance and time: a generator and a heap of events, both a function of the seed alone. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

uint64_t sim_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint32_t sim_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)((sim_random(state) >> 32) * n >> 32);
}

bool sim_chance(uint64_t *state, double p)
{
    return (double)(sim_random(state) >> 11) * 0x1p-53 < p;
}

static bool earlier(const struct sim_place *a, const struct sim_place *b)
{
    return a->at_ms < b->at_ms || (a->at_ms == b->at_ms && a->turn < b->turn);
}

struct sim_event *sim_event_new(struct sim_queue *queue)
{
    struct sim_event *event =
        queue->free_count > 0 ? queue->free_list[--queue->free_count] : malloc(sizeof *event);
    BL_ASSERT(event != NULL);
    memset(event, 0, offsetof(struct sim_event, voids));
    return event;
}

void sim_event_done(struct sim_queue *queue, struct sim_event *event)
{
    if (queue->free_count < sizeof queue->free_list / sizeof *queue->free_list)
        queue->free_list[queue->free_count++] = event;
    else
        free(event);
}

static void insert(struct sim_queue *queue, struct sim_event *event)
{
    if (queue->count == queue->capacity) {
        queue->capacity = queue->capacity ? 2 * queue->capacity : 256;
        queue->heap = realloc(queue->heap, queue->capacity * sizeof *queue->heap);
        BL_ASSERT(queue->heap != NULL);
    }
    struct sim_place place = {event->at_ms, event->turn, event};
    size_t i = queue->count++;
    for (; i > 0 && earlier(&place, &queue->heap[(i - 1) / 2]); i = (i - 1) / 2)
        queue->heap[i] = queue->heap[(i - 1) / 2];
    queue->heap[i] = place;
}

void sim_push(struct sim_queue *queue, struct sim_event *event, uint64_t at_ms)
{
    event->at_ms = at_ms;
    event->turn = queue->turn++;
    insert(queue, event);
}

void sim_push_again(struct sim_queue *queue, const struct sim_event *event, uint64_t at_ms)
{
    struct sim_event *again = sim_event_new(queue);
    *again = *event;
    again->at_ms = at_ms;
    insert(queue, again);
}

struct sim_event *sim_pop(struct sim_queue *queue)
{
    if (queue->count == 0)
        return NULL;
    struct sim_event *first = queue->heap[0].event;
    struct sim_place last = queue->heap[--queue->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < queue->count; i = child) {
        if (child + 1 < queue->count && earlier(&queue->heap[child + 1], &queue->heap[child]))
            child++;
        if (!earlier(&queue->heap[child], &last))
            break;
        queue->heap[i] = queue->heap[child];
    }
    queue->heap[i] = last;
    return first;
}

void sim_queue_release(struct sim_queue *queue)
{
    for (size_t i = 0; i < queue->count; i++)
        free(queue->heap[i].event);
    for (size_t i = 0; i < queue->free_count; i++)
        free(queue->free_list[i]);
    free(queue->heap);
    memset(queue, 0, sizeof *queue);
}
