/* worker/model/recorder.c - see recorder.h. */
#include "worker/model/recorder.h"

#include <string.h>

#include "common/log.h"

void recorder_close(struct recorder *recorder)
{
    for (int i = 0; i < recorder->count; i++)
        if (recorder->runs[i].recording)
            recorder->ops->recording_free(recorder->ops, &recorder->runs[i].recording);
    recorder->count = recorder->oldest = 0;
}

static struct recorder_run *find(struct recorder *recorder, const struct recorder_key *key)
{
    for (int i = 0; i < recorder->count; i++)
        if (memcmp(&recorder->runs[i].key, key, sizeof *key) == 0)
            return &recorder->runs[i];
    return NULL;
}

static void remember(struct recorder *recorder, const struct recorder_key *key)
{
    struct recorder_run *run = &recorder->runs[recorder->oldest];
    if (recorder->count < RECORDER_RUNS)
        run = &recorder->runs[recorder->count++];
    else
        recorder->oldest = (recorder->oldest + 1) % RECORDER_RUNS;
    if (run->recording)
        recorder->ops->recording_free(recorder->ops, &run->recording);
    *run = (struct recorder_run){.key = *key};
}

/* false: the device refuses it. */
static bool record(struct recorder *recorder, struct recorder_run *run, ops_queue *queue,
                   void *context)
{
    struct bl_error why = {0};
    char line[1600];
    if (recorder->ops->record(recorder->ops, &run->recording, queue, context, &why) == 0)
        return true;
    recorder->refused = true;
    bl_error_format(&why, line, sizeof line);
    bl_log(BL_LOG_DEBUG, "operations are not recorded, but queued one by one: %s", line);
    return false;
}

int recorder_run(struct recorder *recorder, const struct recorder_key *key, ops_queue *queue,
                 void *context, struct bl_error *err)
{
    struct ops *ops = recorder->ops;
    if (!ops->record || recorder->refused)
        return queue(context, err);
    struct recorder_run *run = find(recorder, key);
    if (run && !run->recording && !record(recorder, run, queue, context))
        return queue(context, err);
    if (run && ops->replay(ops, run->recording))
        return 0;
    if (run)
        recorder_close(recorder); /* void together */
    remember(recorder, key);
    return queue(context, err);
}
