/* loader/outbox.c - see outbox.h. */
#include "loader/outbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct outbox {
    struct outboxes *all;
    struct outbox *next;
    char endpoint[SOCKET_ENDPOINT_MAX];
    uint64_t used_ms;
    uint64_t waits_ms; /* since when the first message waits */
    bool told;         /* that it waits for long */
    struct wire_socket *socket;
    bool full; /* the socket refused; it will say when it takes one */
    struct outbox_message *first, **end;
};

struct outboxes {
    struct outboxes_options options;
    struct outbox *list;
};

int outboxes_open(const struct outboxes_options *options, struct outboxes **ret,
                  struct bl_error *err)
{
    struct outboxes *o = calloc(1, sizeof *o);
    if (!o)
        return bl_fail(err, BL_ENOMEM, "no memory for the workers' sockets");
    o->options = *options;
    *ret = o;
    return 0;
}

static void outbox_free(struct outbox *outbox)
{
    while (outbox->first)
        outboxes_withdraw(outbox->first);
    wire_socket_close(&outbox->socket, 0);
    free(outbox);
}

void outboxes_close(struct outboxes **outboxes)
{
    struct outboxes *o = *outboxes;
    if (!o)
        return;
    for (struct outbox *outbox = o->list, *next; outbox; outbox = next) {
        next = outbox->next;
        outbox_free(outbox);
    }
    free(o);
    *outboxes = NULL;
}

static void on_writable(void *context, struct wire_socket *socket)
{
    struct outbox *outbox = context;
    outbox->full = false;
    outbox->all->options.writable(outbox->all->options.context);
}

static int outbox_new(struct outboxes *o, const char *endpoint, struct outbox **ret,
                      struct bl_error *err)
{
    BL_TRY(wire_check_endpoint(endpoint, o->options.permitted, err));
    struct outbox *outbox = calloc(1, sizeof *outbox);
    if (!outbox)
        return bl_fail(err, BL_ENOMEM, "no memory for a worker's socket");
    int rc = wire_push(o->options.loop, o->options.zmq, endpoint, on_writable, outbox,
                       &outbox->socket, err);
    if (rc < 0) {
        free(outbox);
        return rc;
    }
    outbox->all = o;
    snprintf(outbox->endpoint, sizeof outbox->endpoint, "%s", endpoint);
    outbox->end = &outbox->first;
    outbox->next = o->list;
    o->list = outbox;
    *ret = outbox;
    return 0;
}

int outboxes_add(struct outboxes *o, const char *endpoint, struct outbox_message *message,
                 uint64_t now_ms, struct bl_error *err)
{
    struct outbox *outbox = o->list;
    while (outbox && strcmp(outbox->endpoint, endpoint) != 0)
        outbox = outbox->next;
    if (!outbox)
        BL_TRY(outbox_new(o, endpoint, &outbox, err));
    outbox->used_ms = now_ms;
    if (!outbox->first)
        outbox->waits_ms = now_ms;
    message->outbox = outbox;
    message->next = NULL;
    *outbox->end = message;
    outbox->end = &message->next;
    return 0;
}

static void leave_queue(struct outbox_message *message)
{
    struct outbox *outbox = message->outbox;
    struct outbox_message **at = &outbox->first;
    while (*at != message)
        at = &(*at)->next;
    *at = message->next;
    if (!*at)
        outbox->end = at;
    message->outbox = NULL;
}

void outboxes_withdraw(struct outbox_message *message)
{
    if (!message->outbox)
        return;
    leave_queue(message);
    wire_frames_close(&message->frames);
}

struct outbox_message *outboxes_ship(struct outboxes *o, uint64_t now_ms)
{
    for (struct outbox *outbox = o->list; outbox; outbox = outbox->next) {
        struct outbox_message *message = outbox->first;
        if (!message || outbox->full)
            continue;
        outbox->full = !wire_push_send(outbox->socket, &message->frames);
        if (outbox->full)
            continue;
        outbox->used_ms = outbox->waits_ms = now_ms;
        outbox->told = false;
        leave_queue(message);
        return message;
    }
    return NULL;
}

const char *outboxes_stuck(struct outboxes *o, uint64_t now_ms, uint64_t after_ms)
{
    for (struct outbox *outbox = o->list; outbox; outbox = outbox->next) {
        if (!outbox->first || outbox->told || now_ms < outbox->waits_ms + after_ms)
            continue;
        outbox->told = true;
        return outbox->endpoint;
    }
    return NULL;
}

void outboxes_sweep(struct outboxes *o, uint64_t now_ms, uint64_t idle_ms)
{
    for (struct outbox **at = &o->list; *at;) {
        struct outbox *outbox = *at;
        if (outbox->first || now_ms < outbox->used_ms + idle_ms) {
            at = &outbox->next;
            continue;
        }
        *at = outbox->next;
        outbox_free(outbox);
    }
}
