/* common/config/config.c - RUN.yaml into struct config: defaults, and what the file alone decides. */
#include "common/config/parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"

static int set_default(struct reader *r, const struct config_key *key)
{
    if (!key->fallback) {
        bl_fail(r->err, BL_ECONFIG, "is missing");
        char expected[256];
        config_expectation(key, expected, sizeof expected);
        bl_error_remedy(r->err, "it takes %s", expected);
        return config_fail_named(r, (struct place){0, 0}, key->path, -BL_ECONFIG);
    }
    if (key->type == CONFIG_CAPTIONS) {
        struct config_captions *list = (void *)((char *)r->config + key->offset);
        struct config_caption *item = config_list_add(&list->at, &list->count, sizeof *item);
        if (!item)
            return bl_fail(r->err, BL_ENOMEM, "out of memory");
        BL_TRY(config_copy_text(key->fallback, &item->column, r->err));
        BL_TRY(config_copy_text("", &item->prefix, r->err));
        return config_copy_text(" ", &item->join, r->err);
    }
    if (!*key->fallback)
        return 0;
    return config_set_scalar(r->config, key, key->fallback, true, r->folder, r->err);
}

/* Failure about a key whose value stands in the file, or is the default. */
#define FAIL_KEY(r, path, ...)                                                                     \
    config_fail_named(r, (r)->places[config_find_key(path) - config_keys], path,                   \
                      bl_fail((r)->err, BL_ECONFIG, __VA_ARGS__))

static bool given(const struct reader *r, const char *path)
{
    return r->places[config_find_key(path) - config_keys].line != 0;
}

/* Relations between keys of one section. */
static int check_data(struct reader *r)
{
    struct config_data *data = &r->config->data;
    if (data->min_tokens > data->max_tokens)
        return FAIL_KEY(r, "data.min_tokens", "expected at most data.max_tokens (%lld), found %lld",
                        (long long)data->max_tokens, (long long)data->min_tokens);
    if (data->validation_source) {
        if (given(r, "data.validation") && data->validation != 0) {
            FAIL_KEY(r, "data.validation", "data.validation_source is given as well");
            return bl_error_remedy(r->err, "remove one of them");
        }
        data->validation = 0;
    }
    if (data->validation >= 1 && data->validation != floor(data->validation))
        return FAIL_KEY(r, "data.validation",
                        "expected a fraction below 1 or a whole number of images, found %g",
                        data->validation);
    return 0;
}

static int check_model(struct reader *r)
{
    const struct config_qformer *qformer = &r->config->qformer;
    if (qformer->width % qformer->heads)
        return FAIL_KEY(r, "qformer.heads",
                        "expected a divisor of qformer.width (%lld), found %lld",
                        (long long)qformer->width, (long long)qformer->heads);
    return 0;
}

/* Training would write among the images. */
static int check_folders(struct reader *r)
{
    const struct config_sources *sources = &r->config->data.sources;
    for (size_t i = 0; i < sources->count; i++)
        if (!strcmp(r->config->run_dir, sources->at[i].source)) {
            FAIL_KEY(r, "run_dir", "expected a folder of its own, found that of data.source%s",
                     sources->written ? "s" : "");
            return bl_error_remedy(r->err, "choose another folder");
        }
    return 0;
}

/* Replaces auto. */
static int resolve_cache(struct config *config, struct bl_error *err)
{
    if (config->data.cache || asprintf(&config->data.cache, "%s/images", config->run_dir) >= 0)
        return 0;
    config->data.cache = NULL;
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* Replaces auto. */
static void resolve_batches(struct config_train *train)
{
    if (!train->micro_batch)
        train->micro_batch = train->grain              ? train->grain
                             : train->global_batch < 8 ? train->global_batch
                                                       : 8;
    if (!train->grain)
        train->grain = train->micro_batch;
}

/* Once the number of steps is known. */
static void resolve_steps(struct config_train *train)
{
    if (train->warmup_steps < 0)
        train->warmup_steps = (train->steps * 3 + 99) / 100;
    if (train->decay_steps < 0) {
        train->decay_steps = (train->steps + 4) / 5;
        if (train->decay_steps > train->steps - train->warmup_steps)
            train->decay_steps = train->steps - train->warmup_steps;
    }
}

/* After resolve_batches. */
static int check_batches(struct reader *r)
{
    const struct config_train *train = &r->config->train;
    if (train->micro_batch > train->global_batch)
        return FAIL_KEY(r, "train.micro_batch",
                        "expected at most train.global_batch (%lld), found %lld",
                        (long long)train->global_batch, (long long)train->micro_batch);
    if (train->grain > train->global_batch)
        return FAIL_KEY(r, "train.grain", "expected at most train.global_batch (%lld), found %lld",
                        (long long)train->global_batch, (long long)train->grain);
    if (train->reproducible && train->grain != train->micro_batch) {
        FAIL_KEY(r, "train.micro_batch",
                 "expected train.grain (%lld), since train.reproducible is true, found %lld",
                 (long long)train->grain, (long long)train->micro_batch);
        return bl_error_remedy(r->err, "give one of the two");
    }
    return 0;
}

/* After resolve_steps. */
static int check_steps(struct reader *r)
{
    const struct config_train *train = &r->config->train;
    static const char remedy[] = "lower it, or leave it out: it then follows train.steps";
    if (train->warmup_steps > train->steps) {
        FAIL_KEY(r, "train.warmup_steps", "expected at most train.steps (%lld), found %lld",
                 (long long)train->steps, (long long)train->warmup_steps);
        return bl_error_remedy(r->err, "%s", remedy);
    }
    if (train->schedule == CONFIG_WSD && train->decay_steps > train->steps - train->warmup_steps) {
        FAIL_KEY(r, "train.decay_steps",
                 "expected at most train.steps less train.warmup_steps (%lld), found %lld",
                 (long long)(train->steps - train->warmup_steps), (long long)train->decay_steps);
        return bl_error_remedy(r->err, "%s", remedy);
    }
    return 0;
}

static int check_length(struct reader *r)
{
    const struct config_train *train = &r->config->train;
    if (train->steps && train->epochs > 0) {
        FAIL_KEY(r, "train.epochs", "train.steps is given as well");
        return bl_error_remedy(r->err, "remove one of them");
    }
    if (train->steps || train->epochs > 0)
        return 0;
    bl_fail(r->err, BL_ECONFIG, "is missing");
    bl_error_remedy(r->err, "it takes a whole number of optimizer steps; or give train.epochs");
    return config_fail_named(r, (struct place){0, 0}, "train.steps", -BL_ECONFIG);
}

/* data.source is required, unless there is a list of sources. */
static bool stands_in(const struct reader *r, const struct config_key *key)
{
    return r->config->data.sources.written && !strcmp(key->path, "data.source");
}

static int read_config(struct reader *r)
{
    BL_TRY(config_read_keys(r));
    for (size_t i = 0; i < config_key_count; i++)
        if (!r->places[i].line && !stands_in(r, &config_keys[i]))
            BL_TRY(set_default(r, &config_keys[i]));
    BL_TRY(check_data(r));
    BL_TRY(config_resolve_sources(r));
    BL_TRY(check_folders(r));
    BL_TRY(check_model(r));
    BL_TRY(check_length(r));
    BL_TRY(config_print(r->config, r->err));
    BL_TRY(resolve_cache(r->config, r->err));
    resolve_batches(&r->config->train);
    BL_TRY(check_batches(r));
    if (!r->config->train.steps)
        return 0;
    resolve_steps(&r->config->train);
    return check_steps(r);
}

int config_set_length(struct config *config, uint64_t samples, const char *name,
                      struct bl_error *err)
{
    struct config_train *train = &config->train;
    struct reader r = {.name = name, .config = config, .err = err};
    if (train->steps)
        return 0;
    double steps = ceil(train->epochs * (double)samples / (double)train->global_batch);
    if (!(steps >= 1 && steps <= BL_STEPS_MAX)) {
        bl_fail(err, BL_ECONFIG, "%g epochs of %llu samples are %g steps, expected 1 to %d",
                train->epochs, (unsigned long long)samples, steps, BL_STEPS_MAX);
        bl_error_key(err, "train.epochs");
        return bl_error_file(err, name);
    }
    train->steps = (int64_t)steps;
    train->epochs = 0;
    free(config->text);
    config->text = NULL;
    BL_TRY(config_print(config, err));
    resolve_steps(train);
    return check_steps(&r);
}

int config_parse(const char *yaml, size_t size, const char *name, const char *folder,
                 struct config **ret, struct bl_error *err)
{
    bl_auto(config) struct config *config = calloc(1, sizeof *config);
    struct reader r = {.name = name, .folder = folder, .config = config, .err = err};
    if (!config || !yaml_parser_initialize(&r.parser)) {
        bl_fail(err, BL_ENOMEM, "out of memory");
        return bl_error_file(err, name);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)yaml, size);
    int rc = read_config(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (rc < 0) {
        bl_error_file(err, name);
        return rc;
    }
    *ret = bl_take(&config);
    return 0;
}

int config_open(const char *path, struct config **ret, struct bl_error *err)
{
    bl_autofree char *yaml = NULL;
    size_t size;
    BL_TRY(bl_file_read(path, BL_CONFIG_BYTES_MAX, &yaml, &size, err));
    bl_autofree char *absolute = realpath(path, NULL);
    if (!absolute) {
        bl_fail_errno(err, "cannot be resolved");
        return bl_error_file(err, path);
    }
    *strrchr(absolute, '/') = 0;
    return config_parse(yaml, size, path, absolute, ret, err);
}

void config_release_captions(struct config_captions *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->at[i].column);
        free(list->at[i].prefix);
        free(list->at[i].join);
    }
    free(list->at);
}

void config_free(struct config **config)
{
    struct config *c = *config;
    if (!c)
        return;
    for (size_t i = 0; i < config_key_count; i++) {
        void *at = (char *)c + config_keys[i].offset;
        switch (config_keys[i].type) {
        case CONFIG_TEXT:
        case CONFIG_PATH:
            free(*(char **)at);
            break;
        case CONFIG_PATTERNS: {
            struct config_strings *list = at;
            for (size_t j = 0; j < list->count; j++)
                free(list->at[j]);
            free(list->at);
            break;
        }
        case CONFIG_CAPTIONS:
            config_release_captions(at);
            break;
        case CONFIG_SOURCES:
            config_release_sources(at);
            break;
        default:
            break;
        }
    }
    free(c->text);
    free(c);
    *config = NULL;
}
