/* worker/engine.c - the compute thread: its queue of commands, its queue of events, and what each
 * command does. */
#include "worker/engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/tokenizer.h"
#include "worker/checkpoint.h"
#include "worker/setup.h"

enum command_kind {
    COMMAND_FORM,
    COMMAND_COMPUTE,
    COMMAND_REDUCE,
    COMMAND_SNAPSHOT,
    COMMAND_ABORT,
    COMMAND_QUIT
};

struct command {
    struct command *next;
    enum command_kind kind;
    uint64_t generation, step;
    int rank, world, source;
    bool have_state, last;
    char checkpoint[1024];
    uint32_t slot;
    const struct batch *batch; /* borrowed from the loop */
};

struct event_node {
    struct event_node *next;
    struct engine_event event;
};

/* A rendezvous entry that came before its communicator was made. */
struct entry {
    struct entry *next;
    uint64_t generation;
    char key[64];
    size_t size;
    uint8_t value[];
};

struct engine {
    struct engine_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;

    /* under the lock */
    struct command *commands, **commands_end;
    struct event_node *events, **events_end;
    uint64_t ended;    /* generations up to this one are over */
    struct comm *comm; /* of `forming`; made and freed by the thread, aborted and fed by others */
    uint64_t forming;
    struct entry *early; /* entries for generations after `forming` */
    const char *phase, *waiting;
    struct trainer_snapshot snapshot; /* count 0: none; the writer's while it runs */

    /* the thread's own */
    struct ops *ops;
    struct captioner *captioner;
    struct trainer *trainer;
    struct tokenizer *tokenizer;
    struct captioner_options model;
    struct captioner_generation how; /* sample captions during validation */
    int32_t eos[8];
    struct checkpoint_state about; /* what a checkpoint says of its run */
    bool has_state, broken, step_open;

    /* the loop's */
    pthread_t writer;
    bool writer_started;
    char folder[1024]; /* what the writer writes */
};

void engine_event_release(struct engine_event *event)
{
    for (int i = 0; i < event->validation.caption_count; i++)
        free(event->validation.captions[i].text);
    free(event->validation.captions);
    event->validation = (struct engine_validation){0};
}

/* -- queues -- */

static void *must_alloc(size_t size)
{
    void *p = calloc(1, size);
    BL_ASSERT(p != NULL); /* a few hundred bytes: without them nothing can be reported either */
    return p;
}

static void post(struct engine *e, const struct engine_event *event)
{
    struct event_node *node = must_alloc(sizeof *node);
    node->event = *event;
    pthread_mutex_lock(&e->lock);
    *e->events_end = node;
    e->events_end = &node->next;
    pthread_mutex_unlock(&e->lock);
    e->options.wake(e->options.context);
}

void engine_fits(const struct engine *e, int64_t *ret_side, int64_t *ret_vocabulary)
{
    *ret_side = captioner_vision(e->captioner)->image_size;
    *ret_vocabulary = captioner_llm(e->captioner)->vocabulary;
}

bool engine_next(struct engine *e, struct engine_event *ret)
{
    pthread_mutex_lock(&e->lock);
    struct event_node *node = e->events;
    if (node) {
        e->events = node->next;
        if (!e->events)
            e->events_end = &e->events;
    }
    pthread_mutex_unlock(&e->lock);
    if (!node)
        return false;
    *ret = node->event;
    free(node);
    return true;
}

static struct command *new_command(enum command_kind kind, uint64_t generation, uint64_t step)
{
    struct command *c = must_alloc(sizeof *c);
    c->kind = kind;
    c->generation = generation;
    c->step = step;
    return c;
}

static void give(struct engine *e, struct command *c)
{
    pthread_mutex_lock(&e->lock);
    *e->commands_end = c;
    e->commands_end = &c->next;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

/* The next command; waits. */
static struct command *take(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->phase = "idle";
    e->waiting = "data";
    while (!e->commands)
        pthread_cond_wait(&e->changed, &e->lock);
    struct command *c = e->commands;
    e->commands = c->next;
    if (!e->commands)
        e->commands_end = &e->commands;
    e->waiting = "";
    pthread_mutex_unlock(&e->lock);
    return c;
}

static void set_phase(struct engine *e, const char *phase, const char *waiting)
{
    pthread_mutex_lock(&e->lock);
    e->phase = phase;
    e->waiting = waiting;
    pthread_mutex_unlock(&e->lock);
}

void engine_phase(struct engine *e, const char **ret_phase, const char **ret_waiting)
{
    pthread_mutex_lock(&e->lock);
    *ret_phase = e->phase;
    *ret_waiting = e->waiting;
    pthread_mutex_unlock(&e->lock);
}

static bool is_over(struct engine *e, uint64_t generation)
{
    pthread_mutex_lock(&e->lock);
    bool over = generation <= e->ended;
    pthread_mutex_unlock(&e->lock);
    return over;
}

/* -- generations -- */

static void drop_comm(struct engine *e)
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

/* Weights of train.init_from in place of the seed's; step and moments stay those of a fresh state. */
static int take_initial_weights(struct engine *e, struct bl_error *err)
{
    const struct captioner_params *params = captioner_params(e->captioner);
    bl_autofree float *values = calloc((size_t)params->count, sizeof *values);
    if (!values)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld initial weights",
                       (long long)params->count);
    BL_TRY(checkpoint_read_weights(params, e->options.config->train.init_from, values, err));
    return trainer_start_from(e->trainer, values, err);
}

/* A checkpoint of other frozen models would train on, and mean nothing. */
static int check_models(struct engine *e, const char *folder, const struct checkpoint_state *state,
                        struct bl_error *err)
{
    bool vision = !strcmp(state->vision_sha256, e->about.vision_sha256);
    if (vision && !strcmp(state->llm_sha256, e->about.llm_sha256))
        return 0;
    bl_fail(err, BL_ECONFIG, "the checkpoint %s was trained with another model in this place",
            folder);
    bl_error_remedy(err, "put the model back, or start a new run with train.init_from");
    return bl_error_file(err, vision ? e->about.llm_path : e->about.vision_path);
}

static int load_state(struct engine *e, const struct command *c, struct bl_error *err)
{
    if (!c->checkpoint[0]) {
        BL_TRY(trainer_fresh(e->trainer, err));
        return e->options.config->train.init_from ? take_initial_weights(e, err) : 0;
    }
    struct trainer_snapshot snapshot;
    BL_TRY(trainer_snapshot_make(e->trainer, &snapshot, err));
    struct checkpoint_state state = {0};
    int rc = checkpoint_read(captioner_params(e->captioner), c->checkpoint, &snapshot, &state, err);
    if (rc == 0)
        rc = check_models(e, c->checkpoint, &state, err);
    checkpoint_state_release(&state);
    if (rc == 0)
        rc = trainer_restore(e->trainer, &snapshot, err);
    trainer_snapshot_release(&snapshot);
    return rc;
}

/* Takes this worker's own way to the state, when no rank has it. */
static int load_own_state(struct engine *e, const struct command *c, struct engine_event *event)
{
    e->has_state = false;
    if (load_state(e, c, &event->error) < 0) {
        event->kind = ENGINE_BROKEN;
        return -event->error.code;
    }
    e->has_state = true;
    return 0;
}

static int connect_comm(struct engine *e, const struct command *c, struct bl_error *err)
{
    struct publisher publisher = {e, c->generation};
    struct comm_options options = {.rank = c->rank,
                                   .world = c->world,
                                   .host = e->options.comm_host,
                                   .connect_ms = 2 * e->options.patience_ms,
                                   .silence_ms = e->options.patience_ms,
                                   .publish = publish,
                                   .context = &publisher};
    struct comm *comm = NULL;
    BL_TRY(comm_open(&options, &comm, err));
    BL_TRY(install_comm(e, comm, c->generation, err));
    return comm_connect(comm, err);
}

static int form(struct engine *e, const struct command *c, struct engine_event *event)
{
    struct bl_error *err = &event->error;
    drop_comm(e);
    e->broken = false;
    e->step_open = false;
    set_phase(e, "form", "");
    if (c->source < 0)
        BL_TRY(load_own_state(e, c, event));
    BL_TRY(connect_comm(e, c, err));
    if (c->source >= 0) {
        /* A broadcast that breaks off leaves a newcomer with a mixture. */
        e->has_state = e->has_state && c->have_state;
        BL_TRY(trainer_share(e->trainer, e->comm, c->source, err));
        e->has_state = true;
    }
    event->kind = ENGINE_FORMED;
    event->step = (uint64_t)trainer_state(e->trainer)->step;
    return trainer_digest(e->trainer, event->digest, err);
}

/* -- work -- */

/* A batch as the captioner takes it; arrays are owned by the struct. */
struct prepared {
    struct micro_batch mb;
    int32_t *ids_start, *positions;
    uint8_t *labels;
};

static void prepared_release(struct prepared *p)
{
    free(p->ids_start);
    free(p->positions);
    free(p->labels);
}

static int prepare(const struct batch *b, struct prepared *ret, struct bl_error *err)
{
    size_t good = (size_t)b->good, total = 0;
    for (size_t i = 0; i < good; i++)
        total += (size_t)b->slots[i].tokens;
    struct prepared p = {.ids_start = calloc(good + 1, sizeof(int32_t)),
                         .positions = calloc(good + 1, sizeof(int32_t)),
                         .labels = calloc(total + 1, 1)};
    if (!p.ids_start || !p.positions || !p.labels) {
        prepared_release(&p);
        return bl_fail(err, BL_ENOMEM, "no memory for a micro-batch of %zu samples", good);
    }
    for (size_t i = 0; i < good; i++) {
        int32_t start = p.ids_start[i], tokens = b->slots[i].tokens;
        p.ids_start[i + 1] = start + tokens;
        p.positions[i] = b->slots[i].place;
        memset(p.labels + start + b->slots[i].label_first, 1,
               (size_t)(tokens - b->slots[i].label_first));
    }
    p.mb = (struct micro_batch){.B = b->good,
                                .pixels = b->pixels,
                                .ids = b->ids,
                                .ids_start = p.ids_start,
                                .labels = p.labels,
                                .positions = p.positions};
    *ret = p;
    return 0;
}

/* For every sample the next one whose image differs, or itself when there is none. */
static void pair_with_others(const struct batch *b, int32_t *permutation)
{
    for (int64_t i = 0; i < b->good; i++) {
        permutation[i] = (int32_t)i;
        for (int64_t k = 1; k < b->good && permutation[i] == i; k++) {
            int64_t other = (i + k) % b->good;
            if (b->slots[other].image_hash != b->slots[i].image_hash)
                permutation[i] = (int32_t)other;
        }
    }
}

static int score(struct engine *e, const struct batch *b, const struct micro_batch *mb,
                 struct engine_validation *v, struct bl_error *err)
{
    size_t good = (size_t)b->good;
    bl_autofree struct captioner_score *scores = calloc(good + 1, sizeof *scores);
    bl_autofree struct captioner_score *shuffled = calloc(good + 1, sizeof *shuffled);
    bl_autofree int32_t *permutation = calloc(good + 1, sizeof *permutation);
    if (!scores || !shuffled || !permutation)
        return bl_fail(err, BL_ENOMEM, "no memory for the scores of %zu samples", good);
    pair_with_others(b, permutation);
    BL_TRY(captioner_evaluate(e->captioner, mb, scores, permutation, shuffled, err));
    for (size_t i = 0; i < good; i++) {
        v->nll += scores[i].nll;
        v->tokens += scores[i].tokens;
        v->correct += scores[i].correct;
        if (permutation[i] == (int32_t)i)
            continue;
        v->paired_nll += scores[i].nll;
        v->shuffled_nll += shuffled[i].nll;
        v->shuffled_tokens += shuffled[i].tokens;
    }
    v->images = b->good;
    return 0;
}

static int add_routing(struct engine *e, const struct micro_batch *mb, struct engine_validation *v,
                       struct bl_error *err)
{
    size_t experts = (size_t)e->model.experts;
    if (e->model.projector != CAPTIONER_MOE)
        return 0;
    bl_autofree float *weights = calloc((size_t)mb->B * experts + 1, sizeof *weights);
    if (!weights)
        return bl_fail(err, BL_ENOMEM, "no memory for routing weights");
    BL_TRY(captioner_routing_weights(e->captioner, mb, weights, err));
    for (int64_t b = 0; b < mb->B; b++)
        for (size_t x = 0; x < experts; x++)
            v->weight[x] += weights[(size_t)b * experts + x];
    return 0;
}

/* Greedy captions for the group's first places of the validation set, each continued from its own
 * prefix. */
static int write_captions(struct engine *e, const struct batch *b, const struct micro_batch *mb,
                          struct engine_validation *v, struct bl_error *err)
{
    int64_t wanted = 0, total = 0;
    while (wanted < b->good &&
           b->slots[wanted].place < e->options.config->train.validation_captions)
        total += b->slots[wanted++].prefix;
    if (!wanted)
        return 0;
    int32_t max_new = e->how.max_new;
    bl_autofree int32_t *prompt = calloc((size_t)total + 1, sizeof *prompt);
    bl_autofree int32_t *prompt_start = calloc((size_t)wanted + 1, sizeof *prompt_start);
    bl_autofree int32_t *ids = calloc((size_t)wanted * (size_t)max_new, sizeof *ids);
    bl_autofree struct captioner_caption *captions = calloc((size_t)wanted, sizeof *captions);
    v->captions = calloc((size_t)wanted, sizeof *v->captions);
    if (!prompt || !prompt_start || !ids || !captions || !v->captions)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld captions", (long long)wanted);
    for (int64_t i = 0; i < wanted; i++) {
        int32_t prefix = b->slots[i].prefix;
        memcpy(prompt + prompt_start[i], mb->ids + mb->ids_start[i],
               (size_t)prefix * sizeof *prompt);
        prompt_start[i + 1] = prompt_start[i] + prefix;
        captions[i].ids = ids + i * max_new;
    }
    struct micro_batch prompts = *mb;
    prompts.B = wanted;
    prompts.ids = prompt;
    prompts.ids_start = prompt_start;
    BL_TRY(captioner_generate(e->captioner, &prompts, &e->how, captions, err));
    for (int64_t i = 0; i < wanted; i++) {
        struct engine_caption *c = &v->captions[v->caption_count];
        BL_TRY(tokenizer_decode(e->tokenizer, captions[i].ids, (size_t)captions[i].count, true,
                                &c->text, err));
        c->sample = b->slots[i].sample;
        c->ended = captions[i].ended;
        v->caption_count++;
    }
    return 0;
}

static int validate(struct engine *e, const struct batch *b, struct engine_event *event)
{
    set_phase(e, "validate", "");
    struct prepared p;
    BL_TRY(prepare(b, &p, &event->error));
    int rc = b->good ? score(e, b, &p.mb, &event->validation, &event->error) : 0;
    if (rc == 0 && b->good)
        rc = add_routing(e, &p.mb, &event->validation, &event->error);
    if (rc == 0 && b->good)
        rc = write_captions(e, b, &p.mb, &event->validation, &event->error);
    prepared_release(&p);
    return rc;
}

static int open_step(struct engine *e, struct bl_error *err)
{
    if (!e->step_open)
        BL_TRY(trainer_begin(e->trainer, err));
    e->step_open = true;
    return 0;
}

static int train(struct engine *e, const struct batch *b, bool last, struct engine_event *event)
{
    set_phase(e, "train", "");
    BL_TRY(open_step(e, &event->error));
    struct prepared p;
    BL_TRY(prepare(b, &p, &event->error));
    int rc = trainer_group(e->trainer, &p.mb, e->comm, last, &event->error);
    prepared_release(&p);
    return rc;
}

static int compute(struct engine *e, const struct command *c, struct engine_event *event)
{
    BL_ASSERT_CMP(c->batch->step, ==, (uint64_t)trainer_state(e->trainer)->step);
    event->kind = ENGINE_COMPUTED;
    event->slot = c->slot;
    return c->batch->kind == BATCH_TRAIN ? train(e, c->batch, c->last, event)
                                         : validate(e, c->batch, event);
}

static int apply(struct engine *e, const struct command *c, struct engine_event *event)
{
    BL_ASSERT_CMP(c->step, ==, (uint64_t)trainer_state(e->trainer)->step);
    BL_TRY(open_step(e, &event->error));
    set_phase(e, "train", "all-reduce");
    BL_TRY(trainer_apply(e->trainer, e->comm, &event->report, &event->error));
    e->step_open = false;
    event->kind = ENGINE_APPLIED;
    event->step = c->step;
    return 0;
}

/* -- snapshots -- */

static int snapshot(struct engine *e, const struct command *c, struct engine_event *event)
{
    struct trainer_snapshot copy;
    BL_ASSERT_CMP(c->step, ==, (uint64_t)trainer_state(e->trainer)->step);
    BL_TRY(trainer_snapshot(e->trainer, &copy, &event->error));
    pthread_mutex_lock(&e->lock);
    BL_ASSERT(e->snapshot.count == 0);
    e->snapshot = copy;
    pthread_mutex_unlock(&e->lock);
    event->kind = ENGINE_SNAPPED;
    event->step = c->step;
    return 0;
}

static void *write_snapshot(void *argument)
{
    struct engine *e = argument;
    struct engine_event event = {.kind = ENGINE_WRITTEN, .step = (uint64_t)e->snapshot.state.step};
    checkpoint_write(captioner_params(e->captioner), &e->snapshot, &e->about, e->folder,
                     &event.error);
    engine_discard(e);
    post(e, &event);
    return NULL;
}

static void join_writer(struct engine *e)
{
    if (e->writer_started)
        pthread_join(e->writer, NULL);
    e->writer_started = false;
}

void engine_write(struct engine *e, const char *folder)
{
    join_writer(e); /* its WRITTEN came, or there would be no new snapshot */
    snprintf(e->folder, sizeof e->folder, "%s", folder);
    e->writer_started = pthread_create(&e->writer, NULL, write_snapshot, e) == 0;
    if (e->writer_started)
        return;
    struct engine_event event = {.kind = ENGINE_WRITTEN, .step = (uint64_t)e->snapshot.state.step};
    bl_fail(&event.error, BL_ENOMEM, "no thread to write a checkpoint");
    engine_discard(e);
    post(e, &event);
}

void engine_discard(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    trainer_snapshot_release(&e->snapshot);
    pthread_mutex_unlock(&e->lock);
}

/* -- the thread -- */

static int load_models(struct engine *e, struct bl_error *err)
{
    const struct config *config = e->options.config;
    int32_t bos;
    set_phase(e, "load", "");
    BL_TRY(setup_about(config, e->options.data_fingerprint, &e->about, err));
    BL_TRY(tokenizer_open(config->llm.path, &e->tokenizer, err));
    bos = setup_bos(e->tokenizer);
    BL_TRY(ops_cpu_open(setup_precision(config), e->options.threads, &e->ops, err));
    e->model = setup_captioner(config, bos);
    BL_TRY(captioner_open(e->ops, &e->model, &e->captioner, err));
    BL_TRY(setup_eos(config, captioner_llm(e->captioner), e->tokenizer, e->eos, &e->how.eos_count,
                     err));
    e->how.eos = e->eos;
    e->how.max_new = (int32_t)config->train.max_new_tokens;
    e->how.beams = 1;
    struct trainer_options training = setup_trainer(config);
    return trainer_open(e->ops, e->captioner, &training, &e->trainer, err);
}

static void abort_generation(struct engine *e, struct engine_event *event)
{
    drop_comm(e);
    e->broken = false;
    e->step_open = false;
    event->kind = ENGINE_ABORTED;
    event->applied_step = -1;
    if (!e->has_state)
        return;
    event->applied_step = trainer_state(e->trainer)->step;
    trainer_digest(e->trainer, event->digest, NULL);
}

/* Does one command; tells whether *event is to be posted. */
static bool run(struct engine *e, const struct command *c, struct engine_event *event)
{
    static int (*const handlers[])(struct engine *, const struct command *,
                                   struct engine_event *) = {
        [COMMAND_FORM] = form,
        [COMMAND_COMPUTE] = compute,
        [COMMAND_REDUCE] = apply,
        [COMMAND_SNAPSHOT] = snapshot,
    };
    event->generation = c->generation;
    if (c->kind == COMMAND_ABORT) {
        abort_generation(e, event);
        return true;
    }
    if (is_over(e, c->generation) || e->broken)
        return false;
    int rc = handlers[c->kind](e, c, event);
    if (rc == 0)
        return true;
    engine_event_release(event);
    /* A lost peer is the generation's end; anything else is this worker's own trouble. */
    if (event->kind != ENGINE_BROKEN)
        event->kind = rc == -BL_EPEER ? ENGINE_FAILED : ENGINE_BROKEN;
    e->broken = true;
    return true;
}

static void *engine_thread(void *argument)
{
    struct engine *e = argument;
    struct engine_event event = {.kind = ENGINE_OPENED};
    if (load_models(e, &event.error) < 0) {
        event.kind = ENGINE_BROKEN;
        e->broken = true;
    }
    post(e, &event);
    for (;;) {
        struct command *c = take(e);
        if (c->kind == COMMAND_QUIT) {
            free(c);
            break;
        }
        event = (struct engine_event){0};
        bool tell = run(e, c, &event);
        free(c);
        if (tell)
            post(e, &event);
    }
    drop_comm(e);
    trainer_free(&e->trainer);
    captioner_free(&e->captioner);
    tokenizer_free(&e->tokenizer);
    checkpoint_state_release(&e->about);
    ops_free(&e->ops);
    return NULL;
}

int engine_open(const struct engine_options *options, struct engine **ret, struct bl_error *err)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return bl_fail(err, BL_ENOMEM, "no memory for the engine");
    e->options = *options;
    e->commands_end = &e->commands;
    e->events_end = &e->events;
    e->phase = "load";
    e->waiting = "";
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    if (pthread_create(&e->thread, NULL, engine_thread, e) != 0) {
        free(e);
        return bl_fail(err, BL_ENOMEM, "no thread for the engine");
    }
    *ret = e;
    return 0;
}

void engine_close(struct engine **engine)
{
    struct engine *e = *engine;
    if (!e)
        return;
    join_writer(e); /* it reads the captioner's layout */
    engine_abort(e, UINT64_MAX);
    give(e, new_command(COMMAND_QUIT, 0, 0));
    pthread_join(e->thread, NULL);
    engine_discard(e);
    for (struct engine_event event; engine_next(e, &event);)
        engine_event_release(&event);
    for (struct command *c = e->commands, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    for (struct entry *entry = e->early, *next; entry; entry = next) {
        next = entry->next;
        free(entry);
    }
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->changed);
    free(e);
    *engine = NULL;
}

/* -- commands -- */

void engine_form(struct engine *e, uint64_t generation, int rank, int world, int source,
                 bool have_state, const char *checkpoint)
{
    struct command *c = new_command(COMMAND_FORM, generation, 0);
    c->rank = rank;
    c->world = world;
    c->source = source;
    c->have_state = have_state;
    snprintf(c->checkpoint, sizeof c->checkpoint, "%s", checkpoint);
    give(e, c);
}

void engine_deliver(struct engine *e, uint64_t generation, const char *key, const void *value,
                    size_t size)
{
    struct entry *entry = must_alloc(sizeof *entry + size);
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

void engine_compute(struct engine *e, uint64_t generation, uint32_t slot, const struct batch *batch,
                    bool last)
{
    struct command *c = new_command(COMMAND_COMPUTE, generation, batch->step);
    c->slot = slot;
    c->batch = batch;
    c->last = last;
    give(e, c);
}

void engine_reduce(struct engine *e, uint64_t generation, uint64_t step)
{
    give(e, new_command(COMMAND_REDUCE, generation, step));
}

void engine_snapshot(struct engine *e, uint64_t generation, uint64_t step)
{
    give(e, new_command(COMMAND_SNAPSHOT, generation, step));
}

void engine_abort(struct engine *e, uint64_t generation)
{
    pthread_mutex_lock(&e->lock);
    if (generation > e->ended)
        e->ended = generation;
    if (e->comm && e->forming <= generation)
        comm_abort(e->comm);
    pthread_mutex_unlock(&e->lock);
    if (generation != UINT64_MAX)
        give(e, new_command(COMMAND_ABORT, generation, 0));
}
