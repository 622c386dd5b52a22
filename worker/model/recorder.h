/* worker/model/recorder.h - runs of operations that come again and again: queued one by one the first time, which prepares the
 * device for them, recorded the second time, replayed from then on (ops.h, recordings). One by one each time where the device
 * records nothing. */
#pragma once

#include "worker/ops/ops.h"

/* All that decides a run's arguments: equal keys, equal operations on equal addresses. */
struct recorder_key {
    int64_t sizes[4];
    const dev_void *at[3];
};
_Static_assert(sizeof(struct recorder_key) == 7 * sizeof(int64_t),
               "its bytes are compared: none may be padding");

enum { RECORDER_RUNS = 32 }; /* remembered; the oldest gives way */

/* Zero-initialise and set ops. */
struct recorder {
    struct ops *ops;
    struct recorder_run {
        struct recorder_key key;
        struct ops_recording *recording; /* NULL: it was queued once */
    } runs[RECORDER_RUNS];
    int count, oldest;
    bool refused; /* the device could not record one; it is not asked again */
};

/* Queues what queue(context) queues, whose failures it returns. */
int recorder_run(struct recorder *recorder, const struct recorder_key *key, ops_queue *queue,
                 void *context, struct bl_error *err);
/* Forgets all runs. */
void recorder_close(struct recorder *recorder);
