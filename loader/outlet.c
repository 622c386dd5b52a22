/* loader/outlet.c - see outlet.h. */
#include "loader/outlet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct outlet {
    struct outlets *all;
    struct outlet *next;
    char endpoint[SOCKET_ENDPOINT_MAX];
    uint64_t used_ms;
    struct wire_socket *socket;
    bool full; /* the socket refused; it will say when it takes one */
    struct parcel *first, **end;
};

struct outlets {
    struct outlets_options options;
    struct outlet *list;
};

int outlets_open(const struct outlets_options *options, struct outlets **ret, struct bl_error *err)
{
    struct outlets *o = calloc(1, sizeof *o);
    if (!o)
        return bl_fail(err, BL_ENOMEM, "no memory for the workers' sockets");
    o->options = *options;
    *ret = o;
    return 0;
}

static void outlet_free(struct outlet *outlet)
{
    while (outlet->first)
        outlets_withdraw(outlet->first);
    wire_socket_close(&outlet->socket, 0);
    free(outlet);
}

void outlets_close(struct outlets **outlets)
{
    struct outlets *o = *outlets;
    if (!o)
        return;
    for (struct outlet *outlet = o->list, *next; outlet; outlet = next) {
        next = outlet->next;
        outlet_free(outlet);
    }
    free(o);
    *outlets = NULL;
}

static void on_writable(void *context, struct wire_socket *socket)
{
    struct outlet *outlet = context;
    outlet->full = false;
    outlet->all->options.writable(outlet->all->options.context);
}

static int outlet_new(struct outlets *o, const char *endpoint, struct outlet **ret,
                      struct bl_error *err)
{
    if (wire_check_endpoint(endpoint, o->options.insecure, err) < 0)
        return bl_error_key(err, "Order.endpoint");
    struct outlet *outlet = calloc(1, sizeof *outlet);
    if (!outlet)
        return bl_fail(err, BL_ENOMEM, "no memory for a worker's socket");
    int rc = wire_push(o->options.loop, o->options.zmq, endpoint, on_writable, outlet,
                       &outlet->socket, err);
    if (rc < 0) {
        free(outlet);
        return rc;
    }
    outlet->all = o;
    snprintf(outlet->endpoint, sizeof outlet->endpoint, "%s", endpoint);
    outlet->end = &outlet->first;
    outlet->next = o->list;
    o->list = outlet;
    *ret = outlet;
    return 0;
}

int outlets_add(struct outlets *o, const char *endpoint, struct parcel *parcel, uint64_t now_ms,
                struct bl_error *err)
{
    struct outlet *outlet = o->list;
    while (outlet && strcmp(outlet->endpoint, endpoint) != 0)
        outlet = outlet->next;
    if (!outlet)
        BL_TRY(outlet_new(o, endpoint, &outlet, err));
    outlet->used_ms = now_ms;
    parcel->outlet = outlet;
    parcel->next = NULL;
    *outlet->end = parcel;
    outlet->end = &parcel->next;
    return 0;
}

static void leave_queue(struct parcel *parcel)
{
    struct outlet *outlet = parcel->outlet;
    struct parcel **at = &outlet->first;
    while (*at != parcel)
        at = &(*at)->next;
    *at = parcel->next;
    if (!*at)
        outlet->end = at;
    parcel->outlet = NULL;
}

void outlets_withdraw(struct parcel *parcel)
{
    if (!parcel->outlet)
        return;
    leave_queue(parcel);
    wire_frames_close(&parcel->frames);
}

struct parcel *outlets_ship(struct outlets *o, uint64_t now_ms)
{
    for (struct outlet *outlet = o->list; outlet; outlet = outlet->next) {
        struct parcel *parcel = outlet->first;
        if (!parcel || outlet->full)
            continue;
        outlet->full = !wire_push_send(outlet->socket, &parcel->frames);
        if (outlet->full)
            continue;
        outlet->used_ms = now_ms;
        leave_queue(parcel);
        return parcel;
    }
    return NULL;
}

void outlets_sweep(struct outlets *o, uint64_t now_ms, uint64_t idle_ms)
{
    for (struct outlet **at = &o->list; *at;) {
        struct outlet *outlet = *at;
        if (outlet->first || now_ms < outlet->used_ms + idle_ms) {
            at = &outlet->next;
            continue;
        }
        *at = outlet->next;
        outlet_free(outlet);
    }
}
