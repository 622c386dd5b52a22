/* tests/unit/trainer_test.c - ranks as threads train tiny models: reproducible runs have one digest whatever the number of
 * ranks; other runs agree within rounding for any micro-batch; a saved state resumes where it was. */
#include "tests/unit/unit.h"

#include <math.h>
#include <pthread.h>

#include "common/file.h"
#include "common/size.h"
#include "tests/unit/tiny.h"
#include "worker/checkpoint.h"
#include "worker/comm/backend.h"
#include "worker/comm/comm.h"
#include "worker/options_training.h"

#define RANKS_MAX 3
#define BATCH 12
#define STEPS 4

static char folder[64], vision[80], llm[80];

struct job {
    bool moe, reproducible, spares_norms;
    int ranks, threads, group;
    double skip_outliers;
    double losses[STEPS];
    uint8_t digest[RANKS_MAX][32];
    struct comm *comms[RANKS_MAX];
    int rc[RANKS_MAX];
    struct bl_error err[RANKS_MAX];
};
struct seat {
    struct job *job;
    int rank;
};

static int write_models(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/blipren-trainer-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    tiny_write_models(folder);
    snprintf(vision, sizeof vision, "%s/vision", folder);
    snprintf(llm, sizeof llm, "%s/llm", folder);
    return 0;
}

static int remove_models(void **state)
{
    return bl_folder_remove(folder, NULL);
}

struct rig {
    struct ops *ops;
    struct captioner *captioner;
    struct trainer *trainer;
};

static int rig_open(struct rig *rig, const struct job *job, struct bl_error *err)
{
    *rig = (struct rig){0};
    BL_TRY(ops_cpu_open(OPS_F32, job->threads, &rig->ops, err));
    struct captioner_options options = {.vision = vision,
                                        .llm = llm,
                                        .queries = 4,
                                        .layers = 2,
                                        .heads = 3,
                                        .dropout = 0.1f,
                                        .projector = job->moe ? CAPTIONER_MOE : CAPTIONER_NORMAL,
                                        .projector_dropout = 0.1f,
                                        .experts = 4,
                                        .bos_id = -1};
    BL_TRY(captioner_open(rig->ops, &options, &rig->captioner, err));
    struct trainer_options training = {
        .seed = 9,
        .reproducible = job->reproducible,
        .micro_batches = bl_ceil_div(BATCH, job->group),
        .schedule = {.kind = SCHEDULE_COSINE, .peak = 1e-3, .warmup_steps = 2, .steps = STEPS},
        .threads = job->threads,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .eps = 1e-8,
        .weight_decay = 0.01,
        .decay_norms = !job->spares_norms,
        .clip = 1,
        .ema = 0.9f,
        .skip_outliers = job->skip_outliers,
        .experts = job->moe ? 4 : 0,
        .balance = 0.01f,
        .router_z = 0.001f};
    BL_TRY(trainer_open(rig->ops, rig->captioner, &training, &rig->trainer, err));
    return 0;
}

static void rig_close(struct rig *rig)
{
    trainer_free(&rig->trainer);
    captioner_free(&rig->captioner);
    ops_free(&rig->ops);
}

static int one_step(struct rig *rig, const struct job *job, int rank, struct comm *comm,
                    struct trainer_report *report, struct bl_error *err)
{
    int groups = (int)bl_ceil_div(BATCH, job->group);
    int first = rank * groups / job->ranks, end = (rank + 1) * groups / job->ranks;
    BL_TRY(trainer_begin(rig->trainer, err));
    for (int g = first; g < end; g++) {
        struct tiny_batch batch;
        int at = g * job->group, step = (int)trainer_state(rig->trainer)->step;
        tiny_batch_make(&batch, at, (int)bl_min(job->group, BATCH - at), step);
        int rc = trainer_micro_batch(rig->trainer, &batch.mb, comm, g + 1 == end, err);
        tiny_batch_release(&batch);
        BL_TRY(rc);
    }
    return trainer_apply(rig->trainer, comm, report, err);
}

static int play_rank(struct job *job, int rank, struct bl_error *err)
{
    struct rig rig;
    struct comm *comm = job->comms[rank];
    BL_TRY(comm_connect(comm, err));
    int rc = rig_open(&rig, job, err);
    if (rc == 0 && rank == 0)
        rc = trainer_fresh(rig.trainer, err);
    if (rc == 0)
        rc = trainer_share(rig.trainer, comm, 0, err);
    for (int step = 0; step < STEPS && rc == 0; step++) {
        struct trainer_report report;
        rc = one_step(&rig, job, rank, comm, &report, err);
        if (rc == 0 && rank == 0)
            job->losses[step] = report.nll / (double)report.tokens;
    }
    if (rc == 0)
        rc = trainer_digest(rig.trainer, job->digest[rank], err);
    rig_close(&rig);
    return rc;
}

static void *rank_thread(void *argument)
{
    struct seat *seat = argument;
    seat->job->rc[seat->rank] = play_rank(seat->job, seat->rank, &seat->job->err[seat->rank]);
    return NULL;
}

static void publish(void *context, const char *key, const void *value, size_t size)
{
    struct job *job = context;
    for (int r = 0; r < job->ranks; r++)
        comm_deliver(job->comms[r], key, value, size);
}

static void run_job(struct job *job)
{
    pthread_t threads[RANKS_MAX];
    struct seat seats[RANKS_MAX];
    struct bl_error err;
    for (int r = 0; r < job->ranks; r++)
        assert_ok(comm_open(&(struct comm_options){.rank = r,
                                                   .world = job->ranks,
                                                   .host = "127.0.0.1",
                                                   .connect_ms = 60000,
                                                   .publish = publish,
                                                   .context = job},
                            &job->comms[r], &err),
                  err);
    for (int r = 0; r < job->ranks; r++) {
        seats[r] = (struct seat){job, r};
        pthread_create(&threads[r], NULL, rank_thread, &seats[r]);
    }
    for (int r = 0; r < job->ranks; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < job->ranks; r++) {
        comm_free(&job->comms[r]);
        assert_ok(job->rc[r], job->err[r]);
        assert_memory_equal(job->digest[r], job->digest[0], 32);
    }
}

static void reproducible_runs_have_one_digest_for_any_ranks_and_threads(void **state)
{
    for (int moe = 0; moe < 2; moe++) {
        struct job reference = {
            .moe = moe, .reproducible = true, .ranks = 1, .threads = 1, .group = 2};
        run_job(&reference);
        assert_true(isfinite(reference.losses[STEPS - 1]));
        for (int ranks = 1; ranks <= RANKS_MAX; ranks++)
            for (int threads = 1; threads <= 2; threads++) {
                struct job job = {.moe = moe,
                                  .reproducible = true,
                                  .ranks = ranks,
                                  .threads = threads,
                                  .group = 2};
                run_job(&job);
                assert_memory_equal(job.digest[0], reference.digest[0], 32);
                assert_memory_equal(job.losses, reference.losses, sizeof job.losses);
            }
    }
}

static void losses_agree_for_any_micro_batch_and_ranks(void **state)
{
    for (int moe = 0; moe < 2; moe++) {
        struct job reference = {.moe = moe, .ranks = 1, .threads = 1, .group = BATCH};
        run_job(&reference);
        static const int groups[] = {1, 4, 5};
        for (int i = 0; i < 3; i++)
            for (int ranks = 1; ranks <= RANKS_MAX; ranks += 2) {
                struct job job = {.moe = moe, .ranks = ranks, .threads = 1, .group = groups[i]};
                run_job(&job);
                for (int s = 0; s < STEPS; s++)
                    if (fabs(job.losses[s] - reference.losses[s]) > 1e-5 * reference.losses[s])
                        fail_msg("moe %d group %d ranks %d step %d: loss %.9g, expected %.9g", moe,
                                 groups[i], ranks, s, job.losses[s], reference.losses[s]);
            }
    }
}

static void note_copied(void *context)
{
    ++*(int *)context;
}

/* A rig of one rank with a communicator of its own, in a fresh state. */
static void open_alone(struct rig *rig, struct job *job, struct comm **comm)
{
    struct bl_error err;
    const struct comm_options options = {
        .world = 1, .host = "127.0.0.1", .publish = publish, .context = job};
    assert_ok(comm_open(&options, comm, &err), err);
    assert_ok(rig_open(rig, job, &err), err);
    assert_ok(trainer_fresh(rig->trainer, &err), err);
}

static void write_checkpoint(const struct rig *rig, const char *path)
{
    struct bl_error err;
    struct trainer_snapshot snapshot;
    struct checkpoint_state metadata = {.model_identity = HF_IDENTITY_ALL,
                                        .data_fingerprint = "d",
                                        .vision_path = "v",
                                        .llm_path = "l",
                                        .config = "x: 1\n"};
    int copied = 0;
    assert_ok(trainer_snapshot(rig->trainer, &snapshot, &err), err);
    assert_ok(checkpoint_write(captioner_params(rig->captioner), &snapshot, &metadata, path,
                               note_copied, &copied, &err),
              err);
    assert_int_equal(copied, 1);
}

static int read_checkpoint(struct rig *rig, const char *path, struct checkpoint_state *ret,
                           struct bl_error *err)
{
    return checkpoint_read(captioner_params(rig->captioner), rig->ops, rig->trainer, path, ret,
                           err);
}

static void take_steps(struct rig *rig, struct job *job, struct comm *comm, int count)
{
    struct bl_error err;
    struct trainer_report report;
    for (int s = 0; s < count; s++)
        assert_ok(one_step(rig, job, 0, comm, &report, &err), err);
}

static void assert_same_state(const struct rig *a, const struct rig *b)
{
    struct bl_error err;
    uint8_t digest_a[32], digest_b[32];
    assert_ok(trainer_digest(a->trainer, digest_a, &err), err);
    assert_ok(trainer_digest(b->trainer, digest_b, &err), err);
    assert_memory_equal(digest_a, digest_b, 32);
}

/* -- updates: AdamW's calls, counted, and with split_updates each done tensor by tensor -- */

static const struct captioner_params *updated;
static bool split_updates, norms_spared;
static int update_calls;
static void (*real_adamw)(struct ops *, float *, float *, float *, const float *, int64_t, double,
                          const struct ops_adamw *);

static void counted_adamw(struct ops *self, float *p, float *m, float *v, const float *g,
                          int64_t count, double scale, const struct ops_adamw *o)
{
    const int64_t first = p - updated->values;
    update_calls++;
    for (int64_t i = 0; i < updated->tensors; i++) {
        const struct captioner_param *param = &updated->at[i];
        const int64_t at = param->offset - first;
        if (at < 0 || at >= count)
            continue;
        assert_true(at + param->count <= count);
        assert_true(o->weight_decay == (param->matrix || !norms_spared ? 0.01 : 0));
        if (split_updates)
            real_adamw(self, p + at, m + at, v + at, g + at, param->count, scale, o);
    }
    if (!split_updates)
        real_adamw(self, p, m, v, g, count, scale, o);
}

static void neighbours_updated_in_one_call_are_what_each_tensor_would_be(void **state)
{
    for (int moe = 0; moe < 2; moe++)
        for (int spares = 0; spares < 2; spares++) {
            struct job job = {
                .moe = moe, .spares_norms = spares, .ranks = 1, .threads = 1, .group = 4};
            struct rig rigs[2];
            struct comm *comms[2] = {NULL, NULL};
            norms_spared = spares;
            for (int i = 0; i < 2; i++) {
                open_alone(&rigs[i], &job, &comms[i]);
                updated = captioner_params(rigs[i].captioner);
                real_adamw = rigs[i].ops->adamw;
                rigs[i].ops->adamw = counted_adamw;
                split_updates = i == 1;
                update_calls = 0;
                take_steps(&rigs[i], &job, comms[i], STEPS);
                if (spares)
                    assert_true(update_calls > 2 * STEPS);
                else
                    assert_int_equal(update_calls, STEPS * (moe ? 2 : 1));
            }
            assert_same_state(&rigs[0], &rigs[1]);
            for (int i = 0; i < 2; i++) {
                rig_close(&rigs[i]);
                comm_free(&comms[i]);
            }
        }
}

/* Two steps, a checkpoint, two more; against a fresh process that loads the checkpoint and does the last two. */
static void a_checkpoint_goes_on_with_the_same_bits(void **state)
{
    struct job job = {.moe = true, .reproducible = true, .ranks = 1, .threads = 1, .group = 3};
    struct rig rig, resumed;
    struct bl_error err;
    struct comm *comm = NULL, *other = NULL;
    char path[96];
    snprintf(path, sizeof path, "%s/checkpoints/step-2", folder);
    open_alone(&rig, &job, &comm);
    take_steps(&rig, &job, comm, 2);
    write_checkpoint(&rig, path);
    take_steps(&rig, &job, comm, STEPS - 2);

    struct checkpoint_state read;
    open_alone(&resumed, &job, &other);
    assert_ok(read_checkpoint(&resumed, path, &read, &err), err);
    assert_int_equal(read.step, 2);
    assert_int_equal(read.zero_count, 0);
    assert_string_equal(read.config, "x: 1\n");
    take_steps(&resumed, &job, other, STEPS - 2);
    assert_same_state(&rig, &resumed);

    /* one flipped byte in any file is named */
    const struct captioner_params *params = captioner_params(rig.captioner);
    for (int i = 0; i < read.file_count; i++) {
        char name[200], *data;
        size_t size;
        snprintf(name, sizeof name, "%s/%s", path, read.files[i].name);
        assert_ok(bl_file_read(name, 1 << 26, &data, &size, &err), err);
        data[size - 5] ^= 1;
        assert_ok(bl_file_write(name, data, size, &err), err);
        assert_int_equal(read_checkpoint(&rig, path, NULL, &err), -BL_EFORMAT);
        assert_string_equal(err.file, name);
        assert_int_equal(checkpoint_read_weights(params, rig.ops, path, params->values, &err),
                         -BL_EFORMAT);
        data[size - 5] ^= 1;
        assert_ok(bl_file_write(name, data, size, &err), err);
        free(data);
    }

    /* weights alone are enough to start from, not to resume */
    struct checkpoint_state bare = {.model_identity = HF_IDENTITY_ALL,
                                    .data_fingerprint = "d",
                                    .vision_path = "v",
                                    .llm_path = "l",
                                    .config = read.config};
    for (int i = 0; i < read.file_count; i++) {
        char name[200];
        snprintf(name, sizeof name, "%s/%s", path, read.files[i].name);
        if (strstr(read.files[i].name, ".moment"))
            assert_int_equal(remove(name), 0);
        else
            bare.files[bare.file_count++] = read.files[i];
    }
    assert_int_equal(bare.file_count, read.file_count - 4);
    assert_ok(checkpoint_state_write(path, &bare, &err), err);
    assert_ok(checkpoint_read_weights(params, rig.ops, path, params->values, &err), err);
    assert_int_not_equal(read_checkpoint(&rig, path, NULL, &err), 0);
    char missing[200];
    snprintf(missing, sizeof missing, "%s/qformer.moment1.safetensors", path);
    assert_string_equal(err.file, missing);

    checkpoint_state_release(&read);
    rig_close(&rig);
    rig_close(&resumed);
    comm_free(&comm);
    comm_free(&other);
}

static void moments_that_are_zero_have_no_file_and_are_zero_again(void **state)
{
    struct job job = {.ranks = 1, .threads = 1, .group = 3};
    struct rig rig, resumed;
    struct bl_error err;
    struct comm *comm = NULL, *other = NULL;
    struct checkpoint_state read;
    char path[96], name[160];
    snprintf(path, sizeof path, "%s/checkpoints/step-0", folder);
    open_alone(&rig, &job, &comm);
    write_checkpoint(&rig, path);
    snprintf(name, sizeof name, "%s/qformer.moment1.safetensors", path);
    assert_false(bl_path_is_file(name));

    open_alone(&resumed, &job, &other);
    take_steps(&resumed, &job, other, 1); /* something that must go */
    assert_ok(read_checkpoint(&resumed, path, &read, &err), err);
    assert_int_equal(read.zero_count, 2);
    assert_same_state(&rig, &resumed);
    take_steps(&rig, &job, comm, 2);
    take_steps(&resumed, &job, other, 2);
    assert_same_state(&rig, &resumed);

    checkpoint_state_release(&read);
    rig_close(&rig);
    rig_close(&resumed);
    comm_free(&comm);
    comm_free(&other);
}

/* docs/recipe.md, Checkpoint: equal weights, equal hash, whatever else the run has. */
static void weights_have_a_hash_of_their_own(void **state)
{
    struct job job = {.ranks = 1, .threads = 1, .group = 3};
    struct rig rig;
    struct bl_error err;
    struct comm *comm = NULL;
    struct checkpoint_state first, again;
    char path[2][96];
    open_alone(&rig, &job, &comm);
    const struct captioner_params *params = captioner_params(rig.captioner);
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/checkpoints/hash-%d", folder, i);
        if (i > 0) { /* other counters, other moments, the same weights */
            take_steps(&rig, &job, comm, 1);
            assert_ok(checkpoint_read_weights(params, rig.ops, path[0], params->values, &err), err);
        }
        write_checkpoint(&rig, path[i]);
    }
    assert_ok(checkpoint_state_read(path[0], &first, &err), err);
    assert_ok(checkpoint_state_read(path[1], &again, &err), err);
    assert_int_equal(strlen(first.weights_sha256), 64);
    assert_string_equal(first.weights_sha256, again.weights_sha256);
    checkpoint_state_release(&again);

    params->values[params->at[0].offset] += 1;
    write_checkpoint(&rig, path[1]);
    assert_ok(checkpoint_state_read(path[1], &again, &err), err);
    assert_string_not_equal(first.weights_sha256, again.weights_sha256);

    checkpoint_state_release(&first);
    checkpoint_state_release(&again);
    rig_close(&rig);
    comm_free(&comm);
}

/* What comes between the device and a communicator tells that the device has memory of its own. */
static void a_snapshot_of_a_device_with_memory_of_its_own_is_a_copy(void **state)
{
    static const struct comm_memory elsewhere;
    struct job job = {.moe = true, .ranks = 1, .threads = 1, .group = 3};
    struct rig rig, resumed;
    struct bl_error err;
    struct comm *comm = NULL, *other = NULL;
    struct trainer_snapshot own, copy;
    struct checkpoint_state metadata = {.model_identity = HF_IDENTITY_ALL,
                                        .data_fingerprint = "d",
                                        .vision_path = "v",
                                        .llm_path = "l",
                                        .config = "x: 1\n"};
    int copied = 0;
    char path[96];
    snprintf(path, sizeof path, "%s/copy", folder);
    open_alone(&rig, &job, &comm);
    take_steps(&rig, &job, comm, 1);
    assert_ok(trainer_snapshot(rig.trainer, &own, &err), err);
    rig.ops->memory = &elsewhere;
    assert_ok(trainer_snapshot(rig.trainer, &copy, &err), err);
    assert_true(copy.copied && !own.copied);
    for (int i = 0; i < copy.tensor_count; i++)
        assert_ptr_not_equal(copy.tensors[i].data, own.tensors[i].data);
    take_steps(&rig, &job, comm, 1);
    assert_ok(checkpoint_write(captioner_params(rig.captioner), &copy, &metadata, path, note_copied,
                               &copied, &err),
              err);

    open_alone(&resumed, &job, &other);
    struct checkpoint_state read;
    assert_ok(read_checkpoint(&resumed, path, &read, &err), err);
    assert_int_equal(read.step, 1);
    take_steps(&resumed, &job, other, 1);
    assert_same_state(&rig, &resumed);
    checkpoint_state_release(&read);
    rig_close(&rig);
    rig_close(&resumed);
    comm_free(&comm);
    comm_free(&other);
}

/* Nothing of an older folder is lost when the new one cannot be written, and what a failed write leaves behind is its own. */
static void a_path_that_is_too_long_is_refused_and_removes_nothing(void **state)
{
    struct job job = {.ranks = 1, .threads = 1, .group = 3};
    struct rig rig;
    struct bl_error err;
    struct comm *comm = NULL;
    struct trainer_snapshot snapshot;
    struct checkpoint_state metadata = {.model_identity = HF_IDENTITY_ALL, .config = "x: 1\n"};
    int copied = 0;
    char path[4200];
    open_alone(&rig, &job, &comm);
    memset(path, 'x', sizeof path);
    memcpy(path, folder, strlen(folder));
    path[strlen(folder)] = '/';
    path[sizeof path - 1] = 0;
    assert_ok(trainer_snapshot(rig.trainer, &snapshot, &err), err);
    assert_int_equal(checkpoint_write(captioner_params(rig.captioner), &snapshot, &metadata, path,
                                      note_copied, &copied, &err),
                     -BL_ELIMIT);
    assert_int_equal(copied, 1);
    assert_true(bl_path_is_folder(vision));
    rig_close(&rig);
    comm_free(&comm);
}

static struct ops_adamw seen;
static void (*real_adamw)(struct ops *, float *, float *, float *, const float *, int64_t, double,
                          const struct ops_adamw *);

static void spy_adamw(struct ops *ops, float *p, float *m, float *v, const float *g, int64_t count,
                      double scale, const struct ops_adamw *o)
{
    seen = *o;
    real_adamw(ops, p, m, v, g, count, scale, o);
}

/* 0.999 as a float is 1.3e-5 off where 1 - beta2 counts. */
static void the_recipes_numbers_reach_the_kernel_as_doubles(void **state)
{
    struct job job = {.ranks = 1, .threads = 1, .group = 3};
    struct rig rig;
    struct comm *comm = NULL;
    struct trainer_report report;
    struct bl_error err;
    const struct config config = {.train = {.global_batch = 4,
                                            .micro_batch = 2,
                                            .beta1 = 0.9,
                                            .beta2 = 0.999,
                                            .eps = 1e-8,
                                            .weight_decay = 0.01}};
    struct trainer_options options = options_trainer(&config);
    assert_true(options.beta1 == 0.9 && options.beta2 == 0.999 && options.eps == 1e-8);
    assert_true(options.weight_decay == 0.01);

    open_alone(&rig, &job, &comm);
    real_adamw = rig.ops->adamw;
    rig.ops->adamw = spy_adamw;
    assert_ok(one_step(&rig, &job, 0, comm, &report, &err), err);
    assert_true(seen.beta1 == 0.9 && seen.beta2 == 0.999 && seen.eps == 1e-8);
    assert_true(seen.lr == report.rate && (double)(float)seen.lr != seen.lr);
    rig_close(&rig);
    comm_free(&comm);
}

/* -- steps that are skipped */

static double wanted_norm; /* of the divided gradient, as the spy tells it; NAN: not finite */

static void spy_norm(struct ops *ops, double *norm, const float *grads, int64_t count, double scale)
{
    if (!count)
        return; /* the router's, which is not there */
    norm[0] += isnan(wanted_norm) ? 0 : wanted_norm * wanted_norm;
    norm[1] += isnan(wanted_norm);
}

/* A trainer past its first hundred steps, whose gradients had a norm of 1 with a deviation of 0.1. */
static const struct trainer_state settled = {
    .step = 1, .updates = 1, .norm_mean = 1, .norm_square = 1.01, .norm_count = 100};

static void open_settled(struct rig *rig, struct job *job, const struct trainer_state *from,
                         struct comm **comm)
{
    struct bl_error err;
    open_alone(rig, job, comm);
    assert_ok(trainer_resume(rig->trainer, from, &err), err);
    rig->ops->grad_norm = spy_norm;
    real_adamw = rig->ops->adamw;
    rig->ops->adamw = spy_adamw;
}

static struct trainer_report step_of_norm(struct rig *rig, struct job *job, struct comm *comm,
                                          double norm)
{
    struct bl_error err;
    struct trainer_report report;
    wanted_norm = norm;
    seen = (struct ops_adamw){0};
    assert_ok(one_step(rig, job, 0, comm, &report, &err), err);
    return report;
}

static void assert_weights_kept(const struct rig *rig, const float *before)
{
    const struct captioner_params *p = captioner_params(rig->captioner);
    assert_memory_equal(p->values, before, (size_t)p->count * sizeof(float));
}

static float *copy_weights(const struct rig *rig)
{
    const struct captioner_params *p = captioner_params(rig->captioner);
    float *copy = malloc((size_t)p->count * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, p->values, (size_t)p->count * sizeof *copy);
    return copy;
}

static void a_step_more_than_the_deviations_above_the_mean_is_skipped_and_counted(void **state)
{
    struct job job = {.ranks = 1, .threads = 1, .group = 3, .skip_outliers = 3};
    struct rig rig;
    struct comm *comm = NULL;
    open_settled(&rig, &job, &settled, &comm);
    const struct trainer_state *s = trainer_state(rig.trainer);
    float *before = copy_weights(&rig);

    struct trainer_report r = step_of_norm(&rig, &job, comm, 1.31);
    assert_true(r.skipped && fabs(r.norm - 1.31) < 1e-12);
    assert_weights_kept(&rig, before);
    assert_int_equal(s->skipped_outliers, 1);
    assert_int_equal(s->skipped_bad, 0);
    assert_int_equal(s->updates, 1);
    assert_int_equal(s->step, 2); /* it took its place in the run and in the schedule */
    /* its norm is not learned from: a run of outliers does not become the rule */
    assert_true(s->norm_mean == 1 && s->norm_square == 1.01 && s->norm_count == 100);

    r = step_of_norm(&rig, &job, comm, 1.29);
    assert_false(r.skipped);
    assert_true(memcmp(captioner_params(rig.captioner)->values, before, sizeof *before) != 0);
    assert_int_equal(s->updates, 2);
    assert_int_equal(seen.t, 2); /* Adam's corrections count updates, not steps */
    assert_int_equal(s->step, 3);
    assert_int_equal(s->skipped_outliers, 1);
    assert_true(fabs(s->norm_mean - (0.99 + 0.01 * 1.29)) < 1e-12);
    assert_true(fabs(s->norm_square - (0.99 * 1.01 + 0.01 * 1.29 * 1.29)) < 1e-12);
    assert_int_equal(s->norm_count, 101);
    free(before);
    rig_close(&rig);
    comm_free(&comm);
}

static void outliers_are_kept_where_nobody_asked_and_while_the_mean_is_young(void **state)
{
    for (int young = 0; young < 2; young++) {
        struct job job = {.ranks = 1, .threads = 1, .group = 3, .skip_outliers = young ? 3 : 0};
        struct rig rig;
        struct comm *comm = NULL;
        struct trainer_state from = settled;
        from.norm_count = young ? 99 : 100;
        open_settled(&rig, &job, &from, &comm);
        assert_false(step_of_norm(&rig, &job, comm, 50).skipped);
        assert_int_equal(trainer_state(rig.trainer)->updates, 2);
        assert_int_equal(trainer_state(rig.trainer)->skipped_outliers, 0);
        rig_close(&rig);
        comm_free(&comm);
    }
}

static void a_gradient_that_is_not_finite_is_skipped_and_the_schedule_moves_on(void **state)
{
    struct job job = {.ranks = 1, .threads = 1, .group = 3};
    struct rig rig;
    struct comm *comm = NULL;
    struct trainer_state from = settled;
    from.step = 0;
    open_settled(&rig, &job, &from, &comm);
    const struct trainer_state *s = trainer_state(rig.trainer);
    float *before = copy_weights(&rig);
    struct trainer_report r = step_of_norm(&rig, &job, comm, NAN);
    assert_true(r.skipped && r.step == 0 && r.rate == 0.5e-3); /* half of the warm-up */
    assert_weights_kept(&rig, before);
    assert_int_equal(s->skipped_bad, 1);
    assert_int_equal(s->skipped_outliers, 0);
    assert_int_equal(s->updates, 1);
    assert_true(s->norm_mean == 1 && s->norm_count == 100);
    r = step_of_norm(&rig, &job, comm, 1);
    assert_true(!r.skipped && r.step == 1 && r.rate == 1e-3);
    assert_int_equal(seen.t, 2);
    free(before);
    rig_close(&rig);
    comm_free(&comm);
}

/* All images of the batch could not be read. */
static void a_step_without_a_label_token_is_skipped_and_counted(void **state)
{
    struct job job = {.ranks = 1, .threads = 1, .group = 3};
    struct rig rig;
    struct comm *comm = NULL;
    struct bl_error err;
    struct trainer_report r;
    struct tiny_batch batch;
    open_alone(&rig, &job, &comm);
    float *before = copy_weights(&rig);
    tiny_batch_make(&batch, 7, 1, 0); /* one index, which is void */
    assert_int_equal(batch.mb.B, 0);
    assert_ok(trainer_begin(rig.trainer, &err), err);
    assert_ok(trainer_micro_batch(rig.trainer, &batch.mb, comm, true, &err), err);
    assert_ok(trainer_apply(rig.trainer, comm, &r, &err), err);
    assert_true(r.skipped);
    assert_int_equal(r.tokens, 0);
    assert_int_equal(trainer_state(rig.trainer)->skipped_bad, 1);
    assert_int_equal(trainer_state(rig.trainer)->step, 1);
    assert_int_equal(trainer_state(rig.trainer)->updates, 0);
    assert_weights_kept(&rig, before);
    tiny_batch_release(&batch);
    free(before);
    rig_close(&rig);
    comm_free(&comm);
}

UNIT_MAIN(
    cmocka_unit_test_setup_teardown(the_recipes_numbers_reach_the_kernel_as_doubles, write_models,
                                    remove_models),

    cmocka_unit_test_setup_teardown(reproducible_runs_have_one_digest_for_any_ranks_and_threads,
                                    write_models, remove_models),
    cmocka_unit_test_setup_teardown(losses_agree_for_any_micro_batch_and_ranks, write_models,
                                    remove_models),
    cmocka_unit_test_setup_teardown(neighbours_updated_in_one_call_are_what_each_tensor_would_be,
                                    write_models, remove_models),
    cmocka_unit_test_setup_teardown(a_checkpoint_goes_on_with_the_same_bits, write_models,
                                    remove_models),
    cmocka_unit_test_setup_teardown(a_snapshot_of_a_device_with_memory_of_its_own_is_a_copy,
                                    write_models, remove_models),
    cmocka_unit_test_setup_teardown(moments_that_are_zero_have_no_file_and_are_zero_again,
                                    write_models, remove_models),
    cmocka_unit_test_setup_teardown(weights_have_a_hash_of_their_own, write_models, remove_models),
    cmocka_unit_test_setup_teardown(a_path_that_is_too_long_is_refused_and_removes_nothing,
                                    write_models, remove_models),
    cmocka_unit_test_setup_teardown(
        a_step_more_than_the_deviations_above_the_mean_is_skipped_and_counted, write_models,
        remove_models),
    cmocka_unit_test_setup_teardown(
        outliers_are_kept_where_nobody_asked_and_while_the_mean_is_young, write_models,
        remove_models),
    cmocka_unit_test_setup_teardown(
        a_gradient_that_is_not_finite_is_skipped_and_the_schedule_moves_on, write_models,
        remove_models),
    cmocka_unit_test_setup_teardown(a_step_without_a_label_token_is_skipped_and_counted,
                                    write_models, remove_models))
