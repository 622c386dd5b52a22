/* tests/unit/trainer_test.c - ranks as threads train tiny models: reproducible runs have one digest whatever the number of
 * ranks; other runs agree within rounding for any micro-batch; a saved state goes on where it was. */
#include "tests/unit/unit.h"

#include <math.h>
#include <pthread.h>

#include "common/file.h"
#include "common/size.h"
#include "tests/unit/tiny.h"
#include "worker/checkpoint.h"
#include "worker/comm/comm.h"

#define RANKS_MAX 3
#define BATCH 12
#define STEPS 4

static char folder[64], vision[80], llm[80];

struct job {
    bool moe, reproducible;
    int ranks, threads, group;
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
        .groups = bl_ceil_div(BATCH, job->group),
        .schedule = {.kind = SCHEDULE_COSINE, .peak = 1e-3, .warmup_steps = 2, .steps = STEPS},
        .beta1 = 0.9f,
        .beta2 = 0.999f,
        .eps = 1e-8f,
        .weight_decay = 0.01f,
        .decay_norms = true,
        .clip = 1,
        .ema = 0.9f,
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
        int rc = trainer_group(rig->trainer, &batch.mb, comm, g + 1 == end, err);
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

/* Two steps, a checkpoint, two more; against a fresh process that loads the checkpoint and does the last two. */
static void a_checkpoint_goes_on_with_the_same_bits(void **state)
{
    struct job job = {.moe = true, .reproducible = true, .ranks = 1, .threads = 1, .group = 3};
    struct rig rig;
    struct bl_error err;
    struct comm *comm = NULL;
    struct trainer_report report;
    uint8_t straight[32], resumed[32];
    char path[96];
    snprintf(path, sizeof path, "%s/checkpoints/step-2", folder);
    struct checkpoint_state metadata = {
        .data_fingerprint = "d", .vision_path = "v", .llm_path = "l", .config = strdup("x: 1\n")};
    assert_ok(comm_open(
                  &(struct comm_options){
                      .world = 1, .host = "127.0.0.1", .publish = publish, .context = &job},
                  &comm, &err),
              err);
    assert_ok(rig_open(&rig, &job, &err), err);
    assert_ok(trainer_fresh(rig.trainer, &err), err);
    for (int s = 0; s < STEPS; s++) {
        assert_ok(one_step(&rig, &job, 0, comm, &report, &err), err);
        if (s != 1)
            continue;
        struct trainer_snapshot snapshot;
        assert_ok(trainer_snapshot(rig.trainer, &snapshot, &err), err);
        assert_ok(
            checkpoint_write(captioner_params(rig.captioner), &snapshot, &metadata, path, &err),
            err);
        trainer_snapshot_release(&snapshot);
    }
    assert_ok(trainer_digest(rig.trainer, straight, &err), err);
    rig_close(&rig);

    struct trainer_snapshot snapshot;
    struct checkpoint_state read;
    assert_ok(rig_open(&rig, &job, &err), err);
    assert_ok(trainer_snapshot_make(rig.trainer, &snapshot, &err), err);
    assert_ok(checkpoint_read(captioner_params(rig.captioner), path, &snapshot, &read, &err), err);
    assert_int_equal(read.step, 2);
    assert_string_equal(read.config, "x: 1\n");
    assert_ok(trainer_restore(rig.trainer, &snapshot, &err), err);
    for (int s = 2; s < STEPS; s++)
        assert_ok(one_step(&rig, &job, 0, comm, &report, &err), err);
    assert_ok(trainer_digest(rig.trainer, resumed, &err), err);
    assert_memory_equal(resumed, straight, 32);

    float *weights = calloc((size_t)snapshot.count, sizeof *weights);
    assert_ok(checkpoint_read(captioner_params(rig.captioner), path, &snapshot, NULL, &err), err);
    assert_ok(checkpoint_read_weights(captioner_params(rig.captioner), path, weights, &err), err);
    assert_memory_equal(weights, snapshot.values, (size_t)snapshot.count * sizeof *weights);

    /* one flipped byte in any file is named */
    for (int i = 0; i < read.file_count; i++) {
        char name[200], *data;
        size_t size;
        snprintf(name, sizeof name, "%s/%s", path, read.files[i].name);
        assert_ok(bl_file_read(name, 1 << 26, &data, &size, &err), err);
        data[size - 5] ^= 1;
        assert_ok(bl_file_write(name, data, size, &err), err);
        assert_int_equal(
            checkpoint_read(captioner_params(rig.captioner), path, &snapshot, NULL, &err),
            -BL_EFORMAT);
        assert_string_equal(err.file, name);
        assert_int_equal(
            checkpoint_read_weights(captioner_params(rig.captioner), path, weights, &err),
            -BL_EFORMAT);
        data[size - 5] ^= 1;
        assert_ok(bl_file_write(name, data, size, &err), err);
        free(data);
    }

    /* weights alone are enough to start from, not to go on */
    struct checkpoint_state bare = {
        .data_fingerprint = "d", .vision_path = "v", .llm_path = "l", .config = read.config};
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
    assert_ok(checkpoint_read_weights(captioner_params(rig.captioner), path, weights, &err), err);
    assert_int_not_equal(
        checkpoint_read(captioner_params(rig.captioner), path, &snapshot, NULL, &err), 0);

    free(weights);
    checkpoint_state_release(&read);
    checkpoint_state_release(&metadata);
    trainer_snapshot_release(&snapshot);
    rig_close(&rig);
    comm_free(&comm);
}

UNIT_MAIN(
    cmocka_unit_test_setup_teardown(reproducible_runs_have_one_digest_for_any_ranks_and_threads,
                                    write_models, remove_models),
    cmocka_unit_test_setup_teardown(losses_agree_for_any_micro_batch_and_ranks, write_models,
                                    remove_models),
    cmocka_unit_test_setup_teardown(a_checkpoint_goes_on_with_the_same_bits, write_models,
                                    remove_models))
