/* worker/loop_open.c - opening the run. Configuration and index are read on a thread of libuv's pool, for an index may have
 * gigabytes and its disk may be slow; the models then on the engine's. */
#include <stdlib.h>
#include <string.h>

#include "common/data/run.h"
#include "common/file.h"
#include "worker/loop_state.h"

/* What the pool's thread works on: nothing of the loop's. */
struct opening {
    uv_work_t work;
    struct loop *loop;
    char run_folder[4096];
    struct files *files;
    bool sees_run;
    uint8_t run[RUN_ID_BYTES];
    struct config *config;
    struct dataset *dataset;
    struct path_map *map;
    enum bl_kind kind;
    uint64_t *images, image_count;
    struct bl_error error; /* code 0: none */
};

/* Called on the engine's thread. */
static void publish(void *context, uint64_t generation, const char *key, const void *value,
                    size_t size)
{
    struct loop *l = context;
    struct outgoing *o = calloc(1, sizeof *o + size);
    BL_ASSERT(o != NULL);
    o->generation = generation;
    snprintf(o->key, sizeof o->key, "%s", key);
    o->size = size;
    memcpy(o->value, value, size);
    pthread_mutex_lock(&l->lock);
    *l->outgoing_end = o;
    l->outgoing_end = &o->next;
    pthread_mutex_unlock(&l->lock);
    member_wake(&l->member);
}

static void wake(void *context)
{
    struct loop *l = context;
    member_wake(&l->member);
}

static int open_engine(struct loop *l, struct bl_error *err)
{
    if (l->images)
        run_embed_plan(l->config, l->image_count, &l->plan);
    else
        run_plan(l->config, l->dataset, &l->plan);
    bl_hex(dataset_fingerprint(l->dataset), 32, l->fingerprint);
    BL_TRY(worker_set_plan(l->core, &l->plan, err));
    l->buffers = calloc(l->plan.window, sizeof(struct batch *));
    if (!l->buffers)
        return bl_fail(err, BL_ENOMEM, "no memory for %u buffers", l->plan.window);
    struct engine_options options = {.kind = l->plan.kind,
                                     .cache_tower = l->member.cache_tower,
                                     .config = l->config,
                                     .dataset = l->dataset,
                                     .images = l->images,
                                     .image_count = l->image_count,
                                     .data_fingerprint = l->fingerprint,
                                     .device = &l->device,
                                     .threads = l->options->threads,
                                     .comm_host = l->options->host,
                                     .files = l->sees_run ? NULL : l->member.files,
                                     .patience_ms = (int)(l->config->cluster.patience_s * 1000),
                                     .publish = publish,
                                     .wake = wake,
                                     .context = l};
    return engine_open(&options, &l->engine, err);
}

static int open_files(struct opening *o)
{
    char folder[sizeof o->run_folder];
    BL_TRY(files_find_run(o->files, o->run_folder, true, folder, &o->sees_run, &o->error));
    int rc = run_open(folder, o->run, o->map, &o->config, &o->dataset, &o->error);
    files_let_go_of_run(o->files);
    return rc;
}

static void read_run(uv_work_t *work)
{
    struct opening *o = work->data;
    if (open_files(o) < 0)
        return;
    if (o->kind == BL_KIND_EMBED)
        run_images(o->dataset, &o->images, &o->image_count, &o->error);
}

/* On the loop's thread again; also when the loop is being closed. */
static void take_run(uv_work_t *work, int status)
{
    struct opening *o = work->data;
    struct loop *l = o->loop;
    struct bl_error err = o->error;
    l->config = o->config;
    l->dataset = o->dataset;
    l->images = o->images;
    l->image_count = o->image_count;
    l->sees_run = o->sees_run;
    free(o);
    if (l->member.leaving)
        return;
    if (!err.code)
        member_warn_unused(&l->member);
    if (!err.code && !l->sees_run)
        member_say_unseen(&l->member);
    if (err.code || open_engine(l, &err) < 0)
        member_fail(&l->member, &err);
}

void loop_open(struct loop *l)
{
    struct opening *o = calloc(1, sizeof *o);
    BL_ASSERT(o != NULL);
    o->work.data = o;
    o->loop = l;
    o->map = l->options->map;
    o->files = l->member.files;
    o->kind = l->member.run_kind;
    snprintf(o->run_folder, sizeof o->run_folder, "%s", l->member.run_folder);
    memcpy(o->run, l->member.run, sizeof o->run);
    uv_queue_work(&l->member.uv, &o->work, read_run, take_run);
}
