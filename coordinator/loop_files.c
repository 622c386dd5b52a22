/* coordinator/loop_files.c - the run folder: opened under a lock, its checkpoints verified, registered and pruned, its bad samples
 * noted. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/data/indexing.h"
#include "common/file.h"
#include "common/program.h"
#include "common/log.h"
#include "common/size.h"
#include "coordinator/check.h"
#include "coordinator/loop_state.h"
#include "coordinator/registry.h"

#define PROBES 8 /* images by which a loader shows that it sees the data */

struct verification {
    uv_work_t work;
    struct loop *loop;
    loop_verified *verified;
    struct coord_checkpoint checkpoint;
    struct bl_error error;
    bool ok;
};

static void verify_work(uv_work_t *work)
{
    struct verification *v = work->data;
    v->ok = registry_verify(v->loop->config->run_dir, v->checkpoint, &v->error) == 0;
}

static void verify_done(uv_work_t *work, int status)
{
    struct verification *v = work->data;
    struct loop *l = v->loop;
    if (!v->ok)
        bl_log(BL_LOG_WARNING, "%s: %s; passing it over", v->error.file, v->error.text);
    l->disk_jobs--;
    v->verified(l, v->checkpoint, v->ok);
    free(v);
}

void loop_verify(struct loop *l, struct coord_checkpoint checkpoint, loop_verified *verified)
{
    struct verification *v = calloc(1, sizeof *v);
    BL_ASSERT(v != NULL);
    v->work.data = v;
    v->loop = l;
    v->verified = verified;
    v->checkpoint = checkpoint;
    l->disk_jobs++;
    uv_queue_work(&l->uv, &v->work, verify_work, verify_done);
}

struct removal {
    uv_work_t work;
    struct loop *loop;
    struct coord_checkpoint checkpoint;
    struct bl_error error;
    int rc;
};

static void remove_work(uv_work_t *work)
{
    struct removal *r = work->data;
    r->rc = registry_remove(r->loop->config->run_dir, r->checkpoint, &r->error);
}

static void remove_done(uv_work_t *work, int status)
{
    struct removal *r = work->data;
    if (r->rc < 0)
        bl_log_error(&r->error); /* some space less; the next start tidies up */
    r->loop->disk_jobs--;
    free(r);
}

void loop_remove(struct loop *l, struct coord_checkpoint checkpoint)
{
    struct removal *r = calloc(1, sizeof *r);
    BL_ASSERT(r != NULL);
    *r = (struct removal){.work.data = r, .loop = l, .checkpoint = checkpoint};
    l->disk_jobs++;
    uv_queue_work(&l->uv, &r->work, remove_work, remove_done);
}

void loop_remove_old(struct loop *l)
{
    const struct coord_ledger *ledger = coord_ledger(l->core);
    struct bl_error err;
    for (uint32_t i = 0; i + l->config->train.keep_last < ledger->checkpoint_count; i++)
        if (ledger->checkpoints[i].step != l->best.checkpoint.step &&
            registry_remove(l->config->run_dir, ledger->checkpoints[i], &err) < 0)
            bl_log_error(&err); /* some space less; the next start tidies up */
}

bool loop_has_old_checkpoints(const struct loop *l)
{
    const struct coord_ledger *ledger = coord_ledger(l->core);
    uint32_t keep = (uint32_t)l->config->train.keep_last, old = 0;
    for (uint32_t i = 0; i + keep < ledger->checkpoint_count; i++)
        old += ledger->checkpoints[i].step != l->best.checkpoint.step;
    return old > 0;
}

void loop_point_best(struct loop *l)
{
    struct bl_error err;
    if (l->config->train.keep_best && best_improves(&l->best, coord_ledger(l->core)) &&
        registry_point(l->config->run_dir, "best", l->best.checkpoint, &err) < 0)
        bl_log_error(&err); /* a link less; ignoring */
}

void loop_register(struct loop *l, struct coord_checkpoint checkpoint)
{
    struct bl_error err;
    int rc = registry_point(l->config->run_dir, "latest", checkpoint, &err);
    loop_point_best(l);
    if (rc < 0)
        bl_log_error(&err); /* the checkpoint itself is complete; ignoring */
    bl_log(BL_LOG_INFO, "checkpoint step=%" PRIu64 " is complete on disk", checkpoint.step);
}

void loop_bad_sample(struct loop *l, uint32_t index)
{
    const Blipren__VoidSlot *slot = l->handled->completed->voids[index];
    struct dataset_sample sample;
    struct bl_error err;
    char image[4096];
    if (slot->sample >= dataset_samples(l->dataset))
        return;
    dataset_sample(l->dataset, slot->sample, &sample);
    location_describe(&sample.location, image, sizeof image);
    if (!slot->asked)
        bl_log(BL_LOG_WARNING, "bad sample=%" PRIu64 " file=%s: %s; ignoring", slot->sample, image,
               slot->reason);
    else if (!l->left_out++)
        bl_log(BL_LOG_INFO,
               "left out sample=%" PRIu64 " file=%s: %s; more of them are only listed, in "
               "bad_samples.jsonl",
               slot->sample, image, slot->reason);
    if (bad_samples_add(l->bad_samples, slot->sample, image, slot->reason, &err) < 0)
        bl_log_error(&err); /* a line less; ignoring */
}

void loop_damaged_images(struct loop *l, const Blipren__Completed *completed)
{
    struct dataset_sample sample;
    struct bl_error err;
    char image[4096];
    for (size_t i = 0; i < completed->n_damaged; i++) {
        uint64_t id = completed->damaged[i], before = bad_samples_count(l->damaged);
        if (id >= dataset_samples(l->dataset))
            continue;
        dataset_sample(l->dataset, id, &sample);
        location_describe(&sample.location, image, sizeof image);
        if (bad_samples_add(l->damaged, id, image, "damaged data", &err) < 0)
            bl_log_error(&err); /* a line less; ignoring */
        if (before == 0 && bad_samples_count(l->damaged))
            bl_log(
                BL_LOG_WARNING,
                "%s has damaged data; it is used with the pixels that could be decoded, the others "
                "filled in as PIL does. More such images are only listed in "
                "%s/" DAMAGED_IMAGES_FILE,
                image, l->config->run_dir);
    }
}

void loop_say_damaged(const struct loop *l)
{
    uint64_t count = l->damaged ? bad_samples_count(l->damaged) : 0;
    if (count)
        bl_log(BL_LOG_WARNING,
               "%" PRIu64 " of the images used have damaged data: %s/" DAMAGED_IMAGES_FILE, count,
               l->config->run_dir);
}

/* Who has the run, for people and `blipren-coord status` on other hosts: "HOST PID". */
static void write_owner(int fd)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    if (ftruncate(fd, 0) == 0)
        dprintf(fd, "%s %d\n", host, (int)getpid());
}

/* Keeps a second coordinator from starting by mistake, where the file system has locks. What makes it harmless is the epoch
 * (coordinator/epoch.h). Who takes over makes a lock of its own: the one before may hold the old one for ever. */
static int lock_run(struct loop *l, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_folder_make(l->config->run_dir, err));
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "lock", err));
    for (bool again = l->options->take_over;; again = false) {
        l->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (l->lock_fd >= 0 && flock(l->lock_fd, LOCK_EX | LOCK_NB) == 0) {
            write_owner(l->lock_fd);
            return 0;
        }
        if (l->lock_fd < 0 || errno != EWOULDBLOCK) {
            bl_fail_errno(err, "cannot be locked");
            return bl_error_file(err, path);
        }
        if (!again)
            break;
        close(l->lock_fd);
        unlink(path);
    }
    bl_fail(err, BL_EUSAGE, "another coordinator works in this run folder");
    bl_error_remedy(err,
                    "stop it first, or choose another run_dir; if it hangs or cannot be reached, "
                    "give --take-over");
    return bl_error_file(err, l->config->run_dir);
}

/* config.yaml of the run folder: may the run resume under the configuration given now? */
static int compare_config(struct loop *l, struct bl_error *err)
{
    char path[4096], notice[600];
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "config.yaml", err));
    if (bl_path_is_file(path)) {
        struct config *before = NULL;
        BL_TRY(config_open(path, &before, err));
        int rc = config_may_resume(before, l->config, notice, sizeof notice, err);
        config_free(&before);
        if (rc < 0)
            return bl_error_file(err, l->options->yaml);
        if (notice[0])
            bl_log(BL_LOG_INFO, "%s", notice);
    }
    return 0;
}

int loop_write_config(struct loop *l, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "config.yaml", err));
    return bl_file_write(path, l->config->text, strlen(l->config->text), err);
}

int loop_write_endpoint(struct loop *l, struct bl_error *err)
{
    char path[4096], line[SOCKET_ENDPOINT_MAX + 1];
    BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "endpoint", err));
    snprintf(line, sizeof line, "%s\n", l->endpoint);
    return bl_file_write(path, line, strlen(line), err);
}

void loop_remove_endpoint(struct loop *l)
{
    char path[4096];
    bl_autofree char *text = NULL;
    size_t size, length = strlen(l->endpoint);
    if (!length || bl_path_join(path, sizeof path, l->config->run_dir, "endpoint", NULL) < 0 ||
        bl_file_read(path, SOCKET_ENDPOINT_MAX, &text, &size, NULL) < 0)
        return;
    if (size > length && strncmp(text, l->endpoint, length) == 0 && text[length] == '\n')
        unlink(path); /* or it is an old one: nobody answers there */
}

/* Ids of the samples to train, and of those that a validation takes, in its order. */
static int read_ids(struct loop *l, struct bl_error *err)
{
    const struct bl_plan *plan = &l->plan;
    l->train_ids = calloc(plan->train_samples + 1, sizeof *l->train_ids);
    l->validate_ids = calloc(plan->validate_samples + 1, sizeof *l->validate_ids);
    if (!l->train_ids || !l->validate_ids)
        return bl_fail(err, BL_ENOMEM, "no memory for %" PRIu64 " sample ids",
                       plan->train_samples + plan->validate_samples);
    for (uint64_t i = 0; i < plan->train_samples; i++)
        l->train_ids[i] = dataset_id(l->dataset, DATASET_TRAIN, i);
    for (uint64_t i = 0; i < plan->validate_samples; i++)
        l->validate_ids[i] =
            dataset_id(l->dataset, DATASET_VALIDATION, bl_plan_validation_sample(plan, i));
    return 0;
}

static uint64_t samples_of(const struct dataset *dataset, uint32_t source)
{
    return dataset_source_samples(dataset, source, DATASET_TRAIN) +
           dataset_source_samples(dataset, source, DATASET_VALIDATION);
}

/* From all over the dataset, and of each source: one that is half there is no use either. */
static void choose_probe(struct loop *l)
{
    uint32_t sources = dataset_source_count(l->dataset);
    uint64_t first = 0;
    for (uint32_t s = 0; s < sources; s++) {
        uint64_t samples = samples_of(l->dataset, s);
        uint32_t probes = (uint32_t)bl_min(bl_ceil_div(PROBES, sources), (int64_t)samples);
        for (uint32_t i = 0; i < probes; i++)
            l->probe[l->probe_count++] = first + i * samples / probes;
        first += samples;
    }
}

/* What a source of a list gives, and which folders decide its split. */
static void note_source(const struct loop *l, uint32_t s)
{
    const struct config_sources *sources = &l->config->data.sources;
    const struct bl_source *source = &l->plan.sources[s];
    char text[600];
    if (sources->written)
        bl_log(BL_LOG_INFO,
               "data sources[%u] train=%" PRIu64 " validation=%" PRIu64 " weight=%g draws=%" PRIu64
               " of an epoch: %s",
               s, source->samples, source->validated, sources->at[s].weight, source->draws,
               sources->at[s].source);
    if (dataset_split_text(l->dataset, s, text, sizeof text))
        bl_log(BL_LOG_INFO, "data %s", text);
}

/* Before the index is made: of the second one nothing may be left. */
static void warn_of_repeated_sources(const struct loop *l)
{
    char text[600];
    for (size_t i = 0; i < l->config->data.sources.written; i++)
        if (config_source_repeats(l->config, i, text, sizeof text))
            bl_log(BL_LOG_WARNING, "%s", text);
}

static int prepare_data(struct loop *l, struct bl_error *err)
{
    struct indexing indexing = {0};
    char text[900];
    double share;
    bool reused;
    warn_of_repeated_sources(l);
    BL_TRY(dataset_prepare(l->config, indexing_show, &indexing, &l->dataset, &reused, err));
    BL_TRY(
        config_set_length(l->config, dataset_epoch(l->config, l->dataset), l->options->yaml, err));
    run_plan(l->config, l->dataset, &l->plan);
    BL_TRY(read_ids(l, err));
    choose_probe(l);
    bl_log(BL_LOG_INFO, "data train=%" PRIu64 " validation=%" PRIu64 "%s", l->plan.train_samples,
           l->plan.validate_samples, reused ? " (index reused)" : "");
    for (uint32_t s = 0; s < dataset_source_count(l->dataset); s++)
        note_source(l, s);
    if (dataset_stripped_text(l->dataset, text, sizeof text))
        bl_log(BL_LOG_INFO, "%s", text);
    for (int v = CAPTION_KEPT + 1; v < CAPTION_VERDICT_COUNT; v++)
        if (dataset_dropped_text(l->dataset, (enum caption_verdict)v, text, sizeof text, &share))
            bl_log(share > l->config->data.max_bad_fraction ? BL_LOG_WARNING : BL_LOG_INFO, "%s",
                   text);
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++) {
        uint64_t count = dataset_passed(l->dataset, (enum source_passed)kind);
        if (count)
            bl_log(BL_LOG_WARNING, "%" PRIu64 " %s; the first is %s", count,
                   source_passed_words((enum source_passed)kind),
                   dataset_passed_name(l->dataset, (enum source_passed)kind, 0));
    }
    return 0;
}

static void warn(const char *line)
{
    bl_log(BL_LOG_WARNING, "%s", line);
}

int loop_open_files(struct loop *l, struct bl_error *err)
{
    char path[4096], programs[4096], worker[4096];
    BL_TRY(config_open(l->options->yaml, &l->config, err));
    if (loop_embeds(l))
        BL_TRY(loop_embed_choose_folder(l, err));
    BL_TRY(program_folder(programs, sizeof programs, err));
    BL_TRY(bl_path_join(worker, sizeof worker, programs, "blipren-worker", err));
    BL_TRY(check_models(l->options->yaml, worker, l->config, warn, err));
    BL_TRY(lock_run(l, err));
    BL_TRY(loop_hash_models(l, err));
    if (!loop_embeds(l)) {
        if (!l->config->train.steps)
            BL_TRY(
                prepare_data(l, err)); /* how many samples there are decides the steps to compare */
        BL_TRY(compare_config(l, err));
        BL_TRY(bl_path_join(path, sizeof path, l->config->run_dir, "checkpoints", err));
        BL_TRY(bl_folder_make(path, err));
    }
    if (!l->dataset)
        BL_TRY(prepare_data(l, err));
    if (loop_embeds(l)) {
        BL_TRY(loop_embed_begin_anew(l, err));
        BL_TRY(loop_embed_prepare(l, err));
    }
    BL_TRY(run_id(l->config->run_dir, true, l->run, err));
    BL_TRY(bad_samples_open(l->config->run_dir, BAD_SAMPLES_FILE, dataset_samples(l->dataset),
                            &l->bad_samples, err));
    BL_TRY(bad_samples_open(l->config->run_dir, DAMAGED_IMAGES_FILE, dataset_samples(l->dataset),
                            &l->damaged, err));
    if (loop_embeds(l))
        return 0;
    return l->config->cache.fill ? loop_fill_open(l, err) : loop_find_cache(l, err);
}
