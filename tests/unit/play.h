/* tests/unit/play.h - the cluster around one real loader or worker process: a coordinator and a worker's data port that the test
 * plays over loopback, and the run folder they share. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "common/data/run.h"
#include "proto/socket_state.h"
#include "proto/wire.h"

#define PLAY_WAIT_MS 20000     /* only a failing test waits so long */
#define PLAY_PATIENCE_MS 12000 /* long for a busy machine; a Beat comes after a sixth of it */
#define PLAY_WORKER 77         /* the incarnation of the worker that the test plays */
#define PLAY_SIDE 64           /* of the demo's vision model */

/* The run's images: the first PLAY_GOOD are sound. */
#define PLAY_IMAGES 10
#define PLAY_GOOD 6
struct play_image {
    const char *name, *golden; /* in the run; in tests/golden/image */
    const char *reason;        /* what is wrong with it when the peer sees it, or NULL */
};
extern const struct play_image play_images[PLAY_IMAGES];

#define PLAY_BATCHES_MAX 64
#define PLAY_MESSAGES_MAX 256
struct play {
    uv_loop_t uv;
    uv_timer_t timer;
    struct wire_context *zmq;
    struct wire_socket *control, *data;
    char endpoint[SOCKET_ENDPOINT_MAX], data_endpoint[SOCKET_ENDPOINT_MAX];
    uint8_t run[RUN_ID_BYTES];
    uint64_t generation;
    uint64_t *missing; /* what assignments say of samples that are void on every host; borrowed */
    size_t missing_count;
    bool expired;

    pid_t peer;
    struct wire_id from; /* of the last message */
    int messages, batches;
    Blipren__Envelope *message[PLAY_MESSAGES_MAX]; /* not yet expected, oldest first */
    struct wire_frames batch[PLAY_BATCHES_MAX];
};
extern struct play play;
extern uint32_t play_patience_ms; /* what Welcome says */

/* Group setup and teardown: the run folder. */
int play_make_run(void **state);
int play_remove_run(void **state);
/* A path inside the test's folder, whose subfolders are run and data; four of them live at a time. */
const char *play_path(const char *name);

/* Opens the coordinator's port, and the worker's. */
void play_open(bool with_worker);
/* The coordinator's process ends and another takes its port. */
void play_restart_coordinator(void);
/* Kills what still runs, and closes everything. */
void play_close(void);
/* Starts a program with its messages in FOLDER/log. */
void play_start(const char *const *arguments);
/* Waits for the process; its exit code, or minus the signal. */
int play_exit_code(void);
/* Waits for something to happen, at most so long. */
void play_turn(int wait_ms);

/* The oldest message of that body, taken out of those received; NULL: there is none. It is the caller's. */
Blipren__Envelope *play_take(Blipren__Envelope__BodyCase body);
/* The same, and waits for it. */
Blipren__Envelope *play_expect(Blipren__Envelope__BodyCase body);
void play_expect_and_drop(Blipren__Envelope__BodyCase body);
struct wire_frames *play_expect_batch(int index);
void play_expect_last_line(const char *expected);

/* Each sends a message of the coordinator to whom the last message came from. */
void play_say(Blipren__Envelope *message);
void play_say_welcome(void);
/* The same, with samples whose images a loader is to read. */
void play_say_welcome_probe(const uint64_t *samples, size_t count);
void play_say_pulse(void);
void play_say_end(void);
void play_say_stop(void);
/* Micro-batch g of step 3: samples[0..count) at batch indices from 4 on, in epoch 2. */
void play_say_assignment(uint32_t g, const uint64_t *samples, size_t count, const char *endpoint);
/* Says Stop, and expects the peer to leave in order. */
void play_stop(void);
