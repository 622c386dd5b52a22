/* worker/engine_snapshot.c - the snapshot that a checkpoint is written from. Where it is the trainer's own memory, the thread
 * computes on beside the writer, and waits only where it would change what the writer has not read yet. */
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "worker/engine_state.h"

int engine_do_snapshot(struct engine *e, const struct command *c, struct engine_event *event)
{
    BL_ASSERT_CMP(c->step, ==, (uint64_t)trainer_state(e->trainer)->step);
    pthread_mutex_lock(&e->lock);
    BL_ASSERT_CMP(e->snapshot_use, ==, SNAPSHOT_FREE); /* so nobody else reads it */
    pthread_mutex_unlock(&e->lock);
    BL_TRY(trainer_snapshot(e->trainer, &e->snapshot, &event->error));
    pthread_mutex_lock(&e->lock);
    e->snapshot_use = SNAPSHOT_HELD;
    pthread_mutex_unlock(&e->lock);
    event->kind = ENGINE_SNAPPED;
    event->step = c->step;
    return 0;
}

int engine_wait_snapshot(struct engine *e, uint64_t generation, struct bl_error *err)
{
    pthread_mutex_lock(&e->lock);
    const char *waiting = e->waiting;
    e->waiting = "checkpoint";
    while (e->snapshot_use != SNAPSHOT_FREE && !e->snapshot.copied && generation > e->ended)
        pthread_cond_wait(&e->changed, &e->lock);
    bool free = e->snapshot_use == SNAPSHOT_FREE || e->snapshot.copied;
    e->waiting = waiting;
    pthread_mutex_unlock(&e->lock);
    return free ? 0 : bl_fail(err, BL_EPEER, "the generation ended");
}

static void set_free(void *context)
{
    struct engine *e = context;
    pthread_mutex_lock(&e->lock);
    e->snapshot_use = SNAPSHOT_FREE;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

void engine_discard(struct engine *e)
{
    set_free(e);
}

static int write_folder(struct engine *e, const char *folder, struct bl_error *err)
{
    return checkpoint_write(captioner_params(e->captioner), &e->snapshot, &e->metadata, folder,
                            set_free, e, err);
}

/* To this host's disk first: the snapshot is let go of at its speed, not at the network's. */
static int send_folder(struct engine *e, struct bl_error *err)
{
    char folder[4096];
    const char *name = strrchr(e->folder, '/') + 1;
    if (files_checkpoint_folder(e->options.files, name, folder, err) < 0) {
        set_free(e);
        return -err->code;
    }
    int rc = write_folder(e, folder, err);
    if (rc == 0)
        rc = files_put(e->options.files, name, folder, err);
    bl_folder_remove(folder, NULL); /* what is left goes with the process */
    return rc;
}

static void *write_snapshot(void *argument)
{
    struct engine *e = argument;
    struct engine_event event = {.kind = ENGINE_WRITTEN, .step = (uint64_t)e->snapshot.state.step};
    if (e->options.files)
        send_folder(e, &event.error);
    else
        write_folder(e, e->folder, &event.error);
    engine_post(e, &event);
    return NULL;
}

void engine_join_writer(struct engine *e)
{
    if (e->writer_started)
        pthread_join(e->writer, NULL);
    e->writer_started = false;
    free(e->folder);
    e->folder = NULL;
}

void engine_write(struct engine *e, const char *folder)
{
    engine_join_writer(e); /* its WRITTEN came, or there would be no new snapshot */
    pthread_mutex_lock(&e->lock);
    BL_ASSERT_CMP(e->snapshot_use, ==, SNAPSHOT_HELD);
    e->snapshot_use = SNAPSHOT_READ;
    pthread_mutex_unlock(&e->lock);
    e->folder = strdup(folder);
    e->writer_started = e->folder && pthread_create(&e->writer, NULL, write_snapshot, e) == 0;
    if (e->writer_started)
        return;
    struct engine_event event = {.kind = ENGINE_WRITTEN, .step = (uint64_t)e->snapshot.state.step};
    bl_fail(&event.error, BL_ENOMEM, "no thread to write a checkpoint");
    set_free(e);
    engine_post(e, &event);
}
