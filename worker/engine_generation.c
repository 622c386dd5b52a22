/* worker/engine_generation.c - forming a generation: its communicator, and the state that all ranks begin with. */
#include "worker/engine_state.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/log.h"

void engine_drop_comm(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    struct comm *comm = e->comm;
    e->comm = NULL;
    e->forming = 0;
    pthread_mutex_unlock(&e->lock);
    comm_free(&comm);
}

struct publisher {
    struct engine *engine;
    uint64_t generation;
};

static void publish(void *context, const char *key, const void *value, size_t size)
{
    struct publisher *p = context;
    p->engine->options.publish(p->engine->options.context, p->generation, key, value, size);
}

/* Hands over the entries of the generation being formed and forgets those of older ones. Under the
 * lock. */
static void deliver_early(struct engine *e)
{
    for (struct entry **at = &e->early; *at;) {
        struct entry *entry = *at;
        if (entry->generation > e->forming) {
            at = &entry->next;
            continue;
        }
        if (entry->generation == e->forming)
            comm_deliver(e->comm, entry->key, entry->value, entry->size);
        *at = entry->next;
        free(entry);
    }
}

void engine_deliver(struct engine *e, uint64_t generation, const char *key, const void *value,
                    size_t size)
{
    struct entry *entry = engine_alloc(sizeof *entry + size);
    entry->generation = generation;
    snprintf(entry->key, sizeof entry->key, "%s", key);
    entry->size = size;
    memcpy(entry->value, value, size);
    pthread_mutex_lock(&e->lock);
    entry->next = e->early;
    e->early = entry;
    if (e->comm)
        deliver_early(e);
    pthread_mutex_unlock(&e->lock);
}

/* Makes the communicator known to deliver and abort, unless the generation is over already. */
static int install_comm(struct engine *e, struct comm *comm, uint64_t generation,
                        struct bl_error *err)
{
    pthread_mutex_lock(&e->lock);
    bool over = generation <= e->ended;
    e->comm = comm;
    e->forming = generation;
    if (over)
        comm_abort(comm);
    deliver_early(e);
    pthread_mutex_unlock(&e->lock);
    return over ? bl_fail(err, BL_EPEER, "the generation ended") : 0;
}

/* Weights of train.init_from in place of the seed's; all else stays that of a fresh state. */
static int take_initial_weights(struct engine *e, struct bl_error *err)
{
    const struct captioner_params *params = captioner_params(e->captioner);
    BL_TRY(checkpoint_read_weights(params, e->ops, e->options.config->train.init_from,
                                   params->values, err));
    return trainer_restart(e->trainer, err);
}

static int is_model(const char *folder, const char *known, enum hf_identity identity,
                    const char *expected, bool *ret, struct bl_error *err)
{
    char hex[65];
    if (identity != HF_IDENTITY_ALL)
        BL_TRY(hf_folder_sha256(folder, identity, hex, err));
    *ret = !strcmp(expected, identity == HF_IDENTITY_ALL ? known : hex);
    return 0;
}

/* A checkpoint of other frozen models would train on, and mean nothing. */
static int check_models(struct engine *e, const char *folder, const struct checkpoint_state *state,
                        struct bl_error *err)
{
    const struct checkpoint_state *own = &e->metadata;
    const struct config *config = e->options.config;
    bool vision, llm;
    BL_TRY(is_model(config->vision.path, own->vision_sha256, state->model_identity,
                    state->vision_sha256, &vision, err));
    BL_TRY(is_model(config->llm.path, own->llm_sha256, state->model_identity, state->llm_sha256,
                    &llm, err));
    if (vision && llm)
        return 0;
    bl_fail(err, BL_ECONFIG, "the checkpoint %s was trained with another model than this one",
            folder);
    bl_error_remedy(err, "put the model back, or start a new run with train.init_from");
    return bl_error_file(err, vision ? config->llm.path : config->vision.path);
}

struct forming {
    struct engine *engine;
    uint64_t generation;
};

static bool is_over(void *context)
{
    const struct forming *f = context;
    return engine_is_over(f->engine, f->generation);
}

/* Where the checkpoint can be read: its folder, or a private one with what was fetched. */
static int find_checkpoint(struct engine *e, const struct command *c, char ret_folder[4096],
                           struct bl_error *err)
{
    struct forming forming = {e, c->generation};
    struct files_need need = {is_over, &forming};
    snprintf(ret_folder, 4096, "%s", c->checkpoint);
    if (!e->options.files)
        return 0;
    int rc = files_get_checkpoint(e->options.files, strrchr(c->checkpoint, '/') + 1, ret_folder,
                                  &need, err);
    return rc == -BL_ESTOPPED ? bl_fail(err, BL_EPEER, "the generation ended") : rc;
}

/* Bits are equal on one kind of device alone. */
static void note_device(const struct engine *e, const struct checkpoint_state *state)
{
    const char *own = e->metadata.device;
    if (e->options.config->train.reproducible && state->device[0] &&
        strcmp(state->device, own) != 0)
        bl_log(BL_LOG_WARNING,
               "the run continues on another kind of device: %s until step %lld, now "
               "%s; its weights will not be those of a run on either alone",
               state->device, (long long)state->step, own);
}

static int read_checkpoint(struct engine *e, const struct command *c, const char *folder,
                           struct bl_error *err)
{
    struct checkpoint_state state = {0};
    BL_TRY(
        checkpoint_read(captioner_params(e->captioner), e->ops, e->trainer, folder, &state, err));
    int rc = check_models(e, c->checkpoint, &state, err);
    if (rc == 0)
        note_device(e, &state);
    checkpoint_state_release(&state);
    return rc;
}

static int load_state(struct engine *e, const struct command *c, struct bl_error *err)
{
    char folder[4096];
    if (!c->checkpoint[0]) {
        BL_TRY(trainer_fresh(e->trainer, err));
        return e->options.config->train.init_from ? take_initial_weights(e, err) : 0;
    }
    int rc = find_checkpoint(e, c, folder, err);
    if (rc == 0)
        rc = read_checkpoint(e, c, folder, err);
    if (e->options.files)
        bl_folder_remove(folder, NULL); /* what is left goes with the process */
    return rc;
}

void engine_state_changes(struct engine *e)
{
    free(e->loaded);
    e->loaded = NULL;
    e->digest_known = false;
}

int engine_digest(struct engine *e, uint8_t ret[32], struct bl_error *err)
{
    if (!e->digest_known)
        BL_TRY(trainer_digest(e->trainer, e->digest, err));
    e->digest_known = true;
    memcpy(ret, e->digest, sizeof e->digest);
    return 0;
}

/* Takes this worker's own way to the state, when no rank has it. What was loaded for a generation that ended before it was
 * formed is not loaded again. */
static int load_own_state(struct engine *e, const struct command *c, struct engine_event *event)
{
    if (e->loaded && !strcmp(e->loaded, c->checkpoint)) {
        e->has_state = true;
        return 0;
    }
    e->has_state = false;
    engine_state_changes(e);
    if (load_state(e, c, &event->error) < 0) {
        if (!engine_is_over(e, c->generation))
            event->kind = ENGINE_BROKEN;
        return -event->error.code;
    }
    e->loaded = strdup(c->checkpoint); /* NULL: then it may be loaded again */
    e->has_state = true;
    return 0;
}

static int connect_comm(struct engine *e, const struct command *c, struct engine_event *event)
{
    struct bl_error *err = &event->error;
    struct publisher publisher = {e, c->generation};
    struct comm_options options = {.rank = c->form.rank,
                                   .world = c->form.world,
                                   .host = e->options.comm_host,
                                   .connect_ms = 2 * e->options.patience_ms,
                                   .publish = publish,
                                   .context = &publisher,
                                   .memory = e->ops->memory,
                                   .collectives = e->ops->collectives,
                                   .device = e->ops};
    struct comm *comm = NULL;
    BL_TRY(comm_open(&options, &comm, err));
    BL_TRY(install_comm(e, comm, c->generation, err));
    int rc = comm_connect(comm, err);
    if (rc < 0)
        event->unreached_count = comm_unreached(comm, event->unreached, ENGINE_UNREACHED_MAX);
    else
        bl_log(BL_LOG_INFO, "device=\"%s\" collectives=%s", e->ops->name, comm_name(comm));
    return rc;
}

/* From another rank, or as that rank for the others. */
static int share_state(struct engine *e, int source, bool have_state, struct bl_error *err)
{
    /* A broadcast that breaks off leaves a newcomer with a mixture. */
    e->has_state = e->has_state && have_state;
    if (!have_state)
        engine_state_changes(e);
    BL_TRY(trainer_share(e->trainer, e->comm, source, err));
    e->has_state = true;
    return 0;
}

/* Each rank loads by itself before it connects; one that reads for all does so afterwards, and the others wait for it in the
 * broadcast, for as long as it makes progress. */
int engine_do_form(struct engine *e, const struct command *c, struct engine_event *event)
{
    const struct engine_forming *f = &c->form;
    bool one_reads = f->source < 0 && f->one_reads;
    int source = one_reads ? 0 : f->source;
    bool have_state = one_reads ? f->rank == 0 : f->have_state;
    struct bl_error *err = &event->error;
    engine_drop_comm(e);
    e->broken = false;
    e->step_open = false;
    engine_set_phase(e, "form", "");
    if (f->source != f->rank)
        BL_TRY(engine_wait_snapshot(e, c->generation, err));
    if (f->source < 0 && !one_reads)
        BL_TRY(load_own_state(e, c, event));
    BL_TRY(connect_comm(e, c, event));
    if (one_reads && f->rank == 0)
        BL_TRY(load_own_state(e, c, event));
    if (source >= 0)
        BL_TRY(share_state(e, source, have_state, err));
    event->kind = ENGINE_FORMED;
    event->step = (uint64_t)trainer_state(e->trainer)->step;
    return engine_digest(e, event->digest, err);
}
