/* worker/loop_state.h - what the parts of the worker's loop share. Private to loop*.c.
 *
 *   loop.c       events into the core, its actions out
 *   loop_open.c  the run's files and models             loop_out.c  actions as messages */
#pragma once

#include <pthread.h>

#include "proto/member.h"
#include "worker/core.h"
#include "worker/engine.h"
#include "worker/loop.h"

/* A rendezvous entry on its way from the engine's thread to the coordinator. */
struct outgoing {
    struct outgoing *next;
    uint64_t generation;
    char key[64];
    size_t size;
    uint8_t value[];
};

struct loop {
    const struct worker_options *options;
    struct ops_device device;
    struct member member;
    struct wire_socket *data;
    char data_endpoint[SOCKET_ENDPOINT_MAX];

    struct worker *core;
    struct engine *engine;
    bool sees_run; /* else checkpoints go through the coordinator */
    struct config *config;
    struct dataset *dataset;
    uint64_t *images; /* of an embedding run, as run_images gives them; else NULL */
    uint64_t image_count;
    struct bl_plan plan;
    char fingerprint[65];

    int64_t image_side, vocabulary; /* of the models; 0 until they are open */
    size_t row_bytes; /* of the feature cache's row that loaders ship for each image; 0: none */
    struct batch **buffers;           /* (window), the core's slots */
    struct batch *incoming;           /* the data being handled */
    const Blipren__Envelope *handled; /* the message being handled */
    struct engine_event event;        /* the engine's event being handled */
    uint64_t step_digest;             /* batch indices trained in the step under way */
    double idle_since, data_wait_s;   /* waiting for batches in the step under way */

    pthread_mutex_t lock;
    struct outgoing *outgoing, **outgoing_end; /* under the lock */
};

/* Opens the run's files, then the engine, which posts ENGINE_OPENED. A failure ends the process. */
void loop_open(struct loop *l);

/* Sends what the engine's thread published. */
void loop_send_rendezvous(struct loop *l);
/* Each sends the message its action asks for; what the engine said comes from l->event. */
void loop_send_hello(struct loop *l, const struct worker_action *a);
void loop_send_ended(struct loop *l, const struct worker_action *a);
void loop_send_beat(struct loop *l, const struct worker_action *a);
void loop_send_micro_batch(struct loop *l, const struct worker_action *a);
void loop_send_report(struct loop *l, const struct worker_action *a);
void loop_send_result(struct loop *l, const struct worker_action *a);
void loop_send_formed(struct loop *l, const struct worker_action *a);
void loop_send_broken(struct loop *l, const struct worker_action *a);
void loop_send_saved(struct loop *l, const struct worker_action *a);
