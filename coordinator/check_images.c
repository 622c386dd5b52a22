/* coordinator/check_images.c - are the images pictures? Decodes some of them, or all (--deep). */
#include "coordinator/check_parts.h"

#include <errno.h>
#include <pthread.h>

#include "common/cleanup.h"
#include "common/data/indexing.h"
#include "common/data/parallel.h"
#include "common/image/image.h"

enum { LOOKED_AT = 64 };

/* What several threads find. */
struct look {
    struct check *check;
    uint64_t count, step; /* samples 0, step, 2 step, … */
    struct indexing indexing;

    pthread_mutex_t lock;
    uint64_t absent; /* under the lock, as what follows: at URLs, and not in the cache yet */
    uint64_t bad, first_bad; /* first_bad: the lowest sample */
    struct bl_error first;
    uint64_t damaged, first_damaged;
    uint64_t small, first_small; /* less than data.min_side */
};

/* What is found of one picture that can be decoded. */
struct looked {
    bool damaged, small;
};

static int decode(const struct config_data *data, const struct dataset_sample *sample,
                  struct parallel *run, struct looked *ret, struct bl_error *err)
{
    const struct location_patience patience = {parallel_wait, run};
    bl_autofree char *bytes = NULL;
    bl_autoimage struct image image = {0};
    size_t size = 0;
    for (unsigned failures = 0; location_read(&sample->location, (size_t)data->max_image_bytes,
                                              &bytes, &size, NULL, err) < 0;)
        BL_TRY(location_before_next_try(&sample->location, ++failures, &patience, err));
    BL_TRY(image_decode((const uint8_t *)bytes, size, data->max_pixels, &image, err));
    ret->damaged = image.damaged;
    ret->small = image.width < data->min_side || image.height < data->min_side;
    return 0;
}

/* Training fetches it. */
static bool is_to_be_fetched(const struct location *location, const struct bl_error *err)
{
    return location->kind == LOCATION_URL && err->os_error == ENOENT;
}

/* One more, under the lock; *first: the lowest sample. */
static void count_one(struct look *look, bool found, uint64_t id, uint64_t *count, uint64_t *first)
{
    if (!found)
        return;
    pthread_mutex_lock(&look->lock);
    if (!(*count)++ || id < *first)
        *first = id;
    pthread_mutex_unlock(&look->lock);
}

/* A picture that is bad is counted; a host that cannot read now ends the look. */
static int look_at_image(void *context, struct parallel *run, uint64_t i, struct bl_error *err)
{
    struct look *look = context;
    struct dataset_sample sample;
    char name[4096];
    uint64_t id = i * look->step;
    dataset_sample(look->check->dataset, id, &sample);
    struct looked found = {0};
    int rc = decode(&look->check->config->data, &sample, run, &found, err);
    count_one(look, found.damaged, id, &look->damaged, &look->first_damaged);
    count_one(look, found.small, id, &look->small, &look->first_small);
    if (rc == 0 || rc == -BL_ESTOPPED || location_failure_of(err) == LOCATION_PASSING)
        return rc;
    location_describe(&sample.location, name, sizeof name);
    pthread_mutex_lock(&look->lock);
    if (is_to_be_fetched(&sample.location, err)) {
        look->absent++;
    } else if (!look->bad++ || id < look->first_bad) {
        look->first_bad = id;
        look->first = *err;
        bl_error_file(&look->first, name);
    }
    pthread_mutex_unlock(&look->lock);
    return 0;
}

static bool watch(void *context, uint64_t done)
{
    struct look *look = context;
    return indexing_show(&look->indexing, DATASET_DECODING, done, look->count);
}

static void judge_damaged(struct check *c, const struct look *look)
{
    struct dataset_sample sample;
    char name[4096];
    if (!look->damaged)
        return;
    dataset_sample(c->dataset, look->first_damaged, &sample);
    location_describe(&sample.location, name, sizeof name);
    check_warning(c, "images",
                  "%llu of %llu decoded have damaged data, and pixels that the decoder made up (as "
                  "PIL's does); the first is %s",
                  (unsigned long long)look->damaged, (unsigned long long)look->count, name);
}

static void note_small(struct check *c, const struct look *look)
{
    struct dataset_sample sample;
    char name[4096];
    if (!look->small)
        return;
    dataset_sample(c->dataset, look->first_small, &sample);
    location_describe(&sample.location, name, sizeof name);
    check_note(c, "images",
               "%llu of %llu decoded are smaller than data.min_side (%lld), and void in training; "
               "the first is %s",
               (unsigned long long)look->small, (unsigned long long)look->count,
               (long long)c->config->data.min_side, name);
}

static void judge(struct check *c, const struct look *look)
{
    struct bl_error err;
    if (look->absent)
        check_note(c, "images",
                   "%llu of %llu looked at are not in data.cache yet: training fetches them, "
                   "blipren-loader fetch does it ahead",
                   (unsigned long long)look->absent, (unsigned long long)look->count);
    if (!look->bad) {
        check_ok(c, "images", "decoded %llu of %llu",
                 (unsigned long long)(look->count - look->absent),
                 (unsigned long long)dataset_samples(c->dataset));
        return;
    }
    if ((double)look->bad <= c->config->data.max_bad_fraction * (double)look->count) {
        check_warning(c, "images", "%llu of %llu decoded are bad, the first is %s: %s",
                      (unsigned long long)look->bad, (unsigned long long)look->count,
                      look->first.file, look->first.text);
        return;
    }
    bl_fail(&err, BL_EDATA, "%llu of %llu images decoded are bad; the first: %.300s",
            (unsigned long long)look->bad, (unsigned long long)look->count, look->first.text);
    bl_error_file(&err, look->first.file);
    bl_error_remedy(&err,
                    "replace them, for example by JPEG files, or allow for more by "
                    "data.max_bad_fraction (%g)",
                    c->config->data.max_bad_fraction);
    check_passes(c, "images", -err.code, &err);
}

void check_images(struct check *c)
{
    if (!c->dataset || !dataset_samples(c->dataset))
        return;
    uint64_t all = dataset_samples(c->dataset);
    struct look look = {.check = c, .step = c->deep ? 1 : (all + LOOKED_AT - 1) / LOOKED_AT};
    struct bl_error err;
    look.count = (all + look.step - 1) / look.step;
    pthread_mutex_init(&look.lock, NULL);
    const struct parallel_work work = {look.count, look_at_image, watch, &look};
    if (check_passes(c, "images", parallel_run(&work, &err), &err)) {
        judge_damaged(c, &look);
        note_small(c, &look);
        judge(c, &look);
    }
    pthread_mutex_destroy(&look.lock);
}
