/* coordinator/check.c - see check.h. One function a topic; each says what it looked at. */
#include "coordinator/check.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/captions.h"
#include "common/checkpoint.h"
#include "common/cleanup.h"
#include "common/config.h"
#include "common/dataset.h"
#include "common/file.h"
#include "common/hf.h"
#include "common/hf_tensors.h"
#include "common/safetensors.h"
#include "common/schedule.h"
#include "common/size.h"
#include "common/tokenizer.h"
#include "coordinator/estimate.h"

struct check {
    FILE *out; /* NULL: quiet */
    const char *yaml;
    struct bl_error first;
    int errors, warnings;
    const struct config *config;
    struct hf_vision vision;
    struct hf_llm llm;
    struct tokenizer *tokenizer;
    struct dataset *dataset;
    bool vision_there, llm_there;
    int32_t eos;
};

/* -- the report ------------------------------------------------------------------------------- */

static void say(struct check *c, const char *level, const char *topic, const char *format,
                va_list args)
{
    if (!c->out)
        return;
    fprintf(c->out, "%-8s %-9s ", level, topic);
    vfprintf(c->out, format, args);
    putc('\n', c->out);
}

#define SAYER(name, count)                                                                         \
    __attribute__((format(printf, 3, 4))) static void name(struct check *c, const char *topic,     \
                                                           const char *format, ...)                \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, format);                                                                    \
        say(c, #name, topic, format, args);                                                        \
        va_end(args);                                                                              \
        count;                                                                                     \
    }
SAYER(ok, (void)0)
SAYER(note, (void)0)
SAYER(warning, c->warnings++)

/* Prints an error and remembers the first. True: rc is none. */
static bool passes(struct check *c, const char *topic, int rc, struct bl_error *err)
{
    char line[1600];
    if (rc >= 0)
        return true;
    bl_error_complete(err);
    bl_error_format(err, line, sizeof line);
    if (c->out)
        fprintf(c->out, "%-8s %-9s %s\n", "error", topic, line);
    if (!c->errors++)
        c->first = *err;
    return false;
}

/* The same of a model's folder, which a key of RUN.yaml names. */
static bool model_passes(struct check *c, const char *topic, int rc, struct bl_error *err)
{
    if (rc < 0)
        bl_error_key(err, "%s.path", topic);
    return passes(c, topic, rc, err);
}

/* An error about a key of RUN.yaml. */
__attribute__((format(printf, 5, 6))) static void wrong(struct check *c, const char *topic,
                                                        const char *key, const char *remedy,
                                                        const char *format, ...)
{
    struct bl_error err;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bl_fail(&err, BL_ECONFIG, "%s", text);
    bl_error_key(&err, "%s", key);
    bl_error_file(&err, c->yaml);
    if (remedy)
        bl_error_remedy(&err, "%s", remedy);
    passes(c, topic, -BL_ECONFIG, &err);
}

/* "1.3 GB"; four texts live at a time. */
static const char *size_text(int64_t bytes)
{
    static char texts[4][32];
    static int at;
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1000 && unit < 4; unit++)
        value /= 1000;
    at = (at + 1) % 4;
    snprintf(texts[at], sizeof texts[at], "%.*f %s", unit && value < 10 ? 1 : 0, value,
             units[unit]);
    return texts[at];
}

/* -- models ----------------------------------------------------------------------------------- */

static bool check_pictures(struct check *c)
{
    struct bl_error err;
    struct hf_preprocess preprocess;
    const struct hf_vision *v = &c->vision;
    const char *folder = c->config->vision.path;
    if (!model_passes(c, "vision", hf_preprocess_open(folder, v, &preprocess, &err), &err))
        return false;
    if (preprocess.width != v->image_size || preprocess.height != v->image_size) {
        bl_fail(&err, BL_EFORMAT,
                "expected size %lld x %lld as config.json's image_size, found %lld x %lld",
                (long long)v->image_size, (long long)v->image_size, (long long)preprocess.width,
                (long long)preprocess.height);
        bl_error_file(&err, folder);
        bl_error_key(&err, "preprocessor_config.json: size");
        return passes(c, "vision", -BL_EFORMAT, &err);
    }
    if (v->image_size % v->patch)
        warning(
            c, "vision",
            "patches of %lld do not fill %lld pixels: %lld at the right and bottom are not seen",
            (long long)v->patch, (long long)v->image_size, (long long)(v->image_size % v->patch));
    return true;
}

static void check_vision(struct check *c)
{
    struct bl_error err;
    const char *folder = c->config->vision.path;
    bl_auto(safetensors) struct safetensors *file = NULL;
    bool head =
        c->config->projector.kind == CONFIG_MOE && c->config->projector.routing == CONFIG_POOLED;
    if (!model_passes(c, "vision", hf_vision_open(folder, &c->vision, &err), &err) ||
        !model_passes(c, "vision", safetensors_open(folder, &file, &err), &err) ||
        !model_passes(c, "vision", hf_vision_check(&c->vision, head, file, &err), &err) ||
        !check_pictures(c))
        return;
    c->vision_there = true;
    ok(c, "vision", "%s: %s, %lld layers of %lld, images of %lld x %lld as %lld tokens", folder,
       c->vision.kind == HF_VIT ? "ViT" : "SigLIP", (long long)c->vision.layers,
       (long long)c->vision.hidden, (long long)c->vision.image_size,
       (long long)c->vision.image_size, (long long)c->vision.tokens);
}

static void check_llm(struct check *c)
{
    struct bl_error err;
    const char *folder = c->config->llm.path;
    bl_auto(safetensors) struct safetensors *file = NULL;
    if (!model_passes(c, "llm", hf_llm_open(folder, &c->llm, &err), &err) ||
        !model_passes(c, "llm", safetensors_open(folder, &file, &err), &err) ||
        !model_passes(c, "llm", hf_llm_check(&c->llm, file, &err), &err))
        return;
    c->llm_there = true;
    ok(c, "llm", "%s: %lld layers of %lld, vocabulary of %lld, %lld positions", folder,
       (long long)c->llm.layers, (long long)c->llm.hidden, (long long)c->llm.vocabulary,
       (long long)c->llm.positions_max);
}

/* Every id that the tokenizer can give must have a row in the model. */
static bool check_vocabulary(struct check *c)
{
    struct bl_error err;
    int32_t ids = tokenizer_vocabulary_size(c->tokenizer);
    if (!c->llm_there || ids <= c->llm.vocabulary)
        return true;
    bl_fail(&err, BL_EFORMAT,
            "expected ids below the model's vocabulary of %lld, found ids up to %d",
            (long long)c->llm.vocabulary, ids - 1);
    bl_error_remedy(&err, "tokenizer.json and the weights are of different models");
    bl_error_file(&err, c->config->llm.path);
    bl_error_key(&err, "tokenizer.json");
    return passes(c, "tokenizer", -BL_EFORMAT, &err);
}

static bool check_eos(struct check *c)
{
    struct bl_error err;
    int32_t eos;
    int rc = caption_eos(&c->config->data, c->tokenizer, &c->llm, &eos, &err);
    if (rc < 0)
        bl_error_file(&err, c->yaml);
    if (!passes(c, "tokenizer", rc, &err))
        return false;
    bl_autofree char *text = NULL;
    if (!passes(c, "tokenizer", tokenizer_decode(c->tokenizer, &eos, 1, true, &text, &err), &err))
        return false;
    if (*text)
        warning(c, "tokenizer",
                "captions end with \"%s\", which is no special token; data.eos names another",
                tokenizer_content(c->tokenizer, eos));
    c->eos = eos;
    return true;
}

static void check_tokenizer(struct check *c)
{
    struct bl_error err;
    size_t bos_count;
    if (!passes(c, "tokenizer", tokenizer_open(c->config->llm.path, &c->tokenizer, &err), &err) ||
        !check_vocabulary(c) || !c->llm_there)
        return;
    if (!check_eos(c))
        return;
    const int32_t *bos = tokenizer_bos(c->tokenizer, &bos_count);
    if (bos_count > 1)
        warning(c, "tokenizer", "it puts %zu tokens in front of a text; only the first is used",
                bos_count);
    ok(c, "tokenizer", "%d ids, captions end with %s (%d), BOS is %s",
       tokenizer_vocabulary_size(c->tokenizer), tokenizer_content(c->tokenizer, c->eos), c->eos,
       bos_count && c->config->llm.bos != CONFIG_BOS_NONE ? tokenizer_content(c->tokenizer, bos[0])
                                                          : "not used");
}

static void check_qformer(struct check *c)
{
    const struct config_qformer *q = &c->config->qformer;
    if (!c->llm_there || !c->vision_there)
        return;
    int64_t width = q->width ? q->width : c->llm.hidden;
    if (width % q->heads) {
        wrong(c, "qformer", "qformer.heads", "choose heads that divide the width",
              "expected a divisor of the width %lld, found %lld", (long long)width,
              (long long)q->heads);
        return;
    }
    ok(c, "qformer",
       "%lld blocks of %lld, %lld heads, %lld queries, projector %s: %.1f million numbers to train",
       (long long)q->layers, (long long)width, (long long)q->heads, (long long)q->queries,
       c->config->projector.kind == CONFIG_MOE ? "moe" : "normal",
       (double)estimate_trainable(c->config, &c->vision, &c->llm) / 1e6);
}

/* -- data ------------------------------------------------------------------------------------- */

/* What a look at the first captions of training says about labels and EOS. */
struct labels {
    uint64_t captions, with_eos_inside, fewest, most;
};

static int look_at_caption(struct check *c, const struct caption_rules *rules, uint64_t id,
                           uint32_t i, struct labels *labels, struct bl_error *err)
{
    __attribute__((cleanup(token_ids_release))) struct token_ids ids = {0};
    struct dataset_caption caption;
    size_t first;
    enum caption_verdict verdict;
    dataset_caption(c->dataset, id, i, &caption);
    struct caption_text text = {caption.text, caption.size, caption.column};
    BL_TRY(caption_rules_encode(rules, &text, &ids, &first, &verdict, err));
    if (verdict != CAPTION_KEPT || ids.count != caption.tokens ||
        ids.ids[ids.count - 1] != c->eos || first + 2 > ids.count) {
        bl_fail(err, BL_EDATA, "sample %llu has no label or no EOS", (unsigned long long)id);
        return bl_error_file(err, c->config->data.source);
    }
    labels->captions++;
    labels->fewest = labels->captions == 1 || ids.count - first < labels->fewest ? ids.count - first
                                                                                 : labels->fewest;
    labels->most = ids.count - first > labels->most ? ids.count - first : labels->most;
    for (size_t t = first; t + 1 < ids.count; t++)
        if (ids.ids[t] == c->eos) {
            labels->with_eos_inside++;
            break;
        }
    return 0;
}

static void check_labels(struct check *c)
{
    enum { LOOKED_AT = 2000 };
    bl_auto(caption_rules) struct caption_rules *rules = NULL;
    struct bl_error err;
    struct labels labels = {0};
    if (!passes(c, "labels",
                caption_rules_open(&c->config->data, c->tokenizer, c->eos, &rules, &err), &err))
        return;
    uint64_t count = dataset_count(c->dataset, DATASET_TRAIN);
    for (uint64_t s = 0; s < count && s < LOOKED_AT; s++) {
        struct dataset_sample sample;
        uint64_t id = dataset_id(c->dataset, DATASET_TRAIN, s);
        dataset_sample(c->dataset, id, &sample);
        for (uint32_t i = 0; i < sample.caption_count; i++)
            if (!passes(c, "labels", look_at_caption(c, rules, id, i, &labels, &err), &err))
                return;
    }
    if (labels.with_eos_inside)
        warning(c, "labels", "%llu of %llu captions hold the EOS token before their end",
                (unsigned long long)labels.with_eos_inside, (unsigned long long)labels.captions);
    ok(c, "labels",
       "%llu to %llu tokens a caption are trained, EOS included; looked at %llu captions",
       (unsigned long long)labels.fewest, (unsigned long long)labels.most,
       (unsigned long long)labels.captions);
}

/* Captions that begin in the middle of a token are lost silently otherwise. */
static void check_boundary(struct check *c)
{
    uint64_t merged = dataset_caption_verdicts(c->dataset, CAPTION_BOUNDARY);
    uint64_t kept = dataset_caption_verdicts(c->dataset, CAPTION_KEPT);
    if (merged && merged * 10 > kept)
        warning(c, "data",
                "%llu captions are dropped because their first token merges with the prefix; try a "
                "prefix that ends with punctuation",
                (unsigned long long)merged);
}

static void check_data(struct check *c)
{
    struct bl_error err;
    if (c->eos < 0)
        return; /* the tokenizer's or the model's error was said */
    if (!passes(c, "data", dataset_view(c->config, NULL, NULL, &c->dataset, &err), &err))
        return;
    check_boundary(c);
    if (!passes(c, "data", dataset_judge(c->config, c->dataset, &err), &err)) {
        dataset_free(&c->dataset);
        return;
    }
    uint64_t left_out = 0, dropped = 0;
    for (int v = DATASET_KEPT + 1; v < DATASET_VERDICT_COUNT; v++)
        left_out += dataset_sample_verdicts(c->dataset, (enum dataset_verdict)v);
    for (int v = CAPTION_KEPT + 1; v < CAPTION_VERDICT_COUNT; v++)
        dropped += dataset_caption_verdicts(c->dataset, (enum caption_verdict)v);
    bool validates = c->config->data.validation > 0 || c->config->data.validation_source;
    if (validates && !dataset_count(c->dataset, DATASET_VALIDATION))
        warning(c, "data", "no image is held out for validation");
    ok(c, "data",
       "%llu samples to train, %llu to validate, %llu left out, %llu captions dropped "
       "(blipren-loader inspect shows why); the longest caption has %u tokens",
       (unsigned long long)dataset_count(c->dataset, DATASET_TRAIN),
       (unsigned long long)dataset_count(c->dataset, DATASET_VALIDATION),
       (unsigned long long)left_out, (unsigned long long)dropped, dataset_longest(c->dataset));
    check_labels(c);
}

/* Image, BOS and text must fit the positions the model was trained with. */
static void check_positions(struct check *c)
{
    if (!c->dataset)
        return;
    int64_t image = c->config->qformer.queries + 1;
    int64_t longest = image + dataset_longest(c->dataset);
    if (longest > c->llm.positions_max)
        wrong(c, "positions", "data.max_tokens", "lower it, or use fewer queries",
              "the longest caption needs %lld positions with its image, the model has %lld",
              (long long)longest, (long long)c->llm.positions_max);
    else if (image + c->config->train.max_new_tokens > c->llm.positions_max)
        warning(c, "positions",
                "train.max_new_tokens: %lld with the image is more than the model's %lld positions",
                (long long)c->config->train.max_new_tokens, (long long)c->llm.positions_max);
}

/* -- batches and schedule --------------------------------------------------------------------- */

static void check_batches(struct check *c)
{
    const struct config_train *t = &c->config->train;
    int64_t group = t->reproducible ? t->grain : t->micro_batch;
    int64_t groups = bl_ceil_div(t->global_batch, group);
    if (t->global_batch % group)
        note(c, "batches",
             "the last of a step's %lld micro-batches has %lld samples, the others %lld",
             (long long)groups, (long long)(t->global_batch % group), (long long)group);
    if (c->config->cluster.workers_min > groups)
        warning(c, "batches", "a step has %lld micro-batches: of %lld workers some are idle",
                (long long)groups, (long long)c->config->cluster.workers_min);
    if (!c->dataset)
        return;
    double samples = (double)dataset_count(c->dataset, DATASET_TRAIN);
    if (samples < (double)t->global_batch)
        warning(c, "batches", "a step of %lld samples is more than an epoch of %.0f",
                (long long)t->global_batch, samples);
    ok(c, "batches", "%lld steps of %lld samples in %lld micro-batches: %.2f epochs",
       (long long)t->steps, (long long)t->global_batch, (long long)groups,
       (double)t->steps * (double)t->global_batch / samples);
}

static struct schedule schedule_of(const struct config_train *t)
{
    static const enum schedule_kind kinds[] = {[CONFIG_COSINE] = SCHEDULE_COSINE,
                                               [CONFIG_CONSTANT] = SCHEDULE_CONSTANT,
                                               [CONFIG_WSD] = SCHEDULE_WSD};
    return (struct schedule){.kind = kinds[t->schedule],
                             .peak = t->lr,
                             .floor = t->floor,
                             .warmup_steps = t->warmup_steps,
                             .steps = t->steps,
                             .decay_steps = t->decay_steps};
}

/* The learning rate over the run: a column for each 64th of it. */
static void sketch_schedule(struct check *c)
{
    enum { WIDTH = 64, HEIGHT = 6 };
    const struct config_train *t = &c->config->train;
    struct schedule schedule = schedule_of(t);
    double high = schedule_rate(&schedule, bl_min(t->warmup_steps, t->steps - 1));
    ok(c, "schedule", "warm-up over %lld steps to %g, %g at the last", (long long)t->warmup_steps,
       high, schedule_rate(&schedule, t->steps - 1));
    for (int row = HEIGHT; row >= 1; row--) {
        char line[WIDTH + 1] = {0};
        for (int column = 0; column < WIDTH; column++) {
            int64_t step = (int64_t)((double)(t->steps - 1) * column / (WIDTH - 1));
            double filled = high > 0 ? schedule_rate(&schedule, step) / high * HEIGHT : 0;
            line[column] = filled >= row - 0.5 ? '#' : ' ';
        }
        for (int end = WIDTH - 1; end >= 0 && line[end] == ' '; end--)
            line[end] = 0;
        fprintf(c->out, "         %9s |%s\n", row == HEIGHT ? "rate" : "", line);
    }
    char right[32];
    snprintf(right, sizeof right, "%lld", (long long)t->steps);
    fprintf(c->out, "         %9s 0%*s\n", "step", WIDTH, right);
}

/* -- memory and disk -------------------------------------------------------------------------- */

static void check_memory(struct check *c, const struct estimate *e)
{
    int64_t total, available;
    estimate_memory(&total, &available);
    char text[400];
    snprintf(text, sizeof text,
             "a worker needs about %s for the longest micro-batch: frozen weights %s, trained "
             "state %s, activations %s",
             size_text(e->worker), size_text(e->frozen), size_text(e->trainable),
             size_text(e->activations));
    if (total && e->worker > total)
        wrong(c, "memory", "train.micro_batch",
              "lower it, or max_tokens or the Q-Former's size, or use a larger machine",
              "%s; this machine has %s", text, size_text(total));
    else if (total && e->worker > available)
        warning(c, "memory", "%s; %s are free here now", text, size_text(available));
    else
        ok(c, "memory", "%s; %s are free here now", text, size_text(available));
}

/* The path itself, or what is nearest above it and exists. */
static void existing_above(const char *path, char *ret, size_t size)
{
    snprintf(ret, size, "%s", path);
    while (access(ret, F_OK) < 0) {
        char *slash = strrchr(ret, '/');
        if (!slash || slash == ret) {
            snprintf(ret, size, "/");
            return;
        }
        *slash = 0;
    }
}

/* Checkpoints that exist together: the first, the last ones, the best, and the one being written. */
static int64_t checkpoints_kept(const struct config_train *t)
{
    int64_t written = t->checkpoint_every ? t->steps / t->checkpoint_every + 2 : 2;
    return bl_min(t->keep_last + t->keep_best + 2, written);
}

static void check_disk(struct check *c, const struct estimate *e)
{
    char folder[4096];
    struct statvfs fs;
    existing_above(c->config->run_dir, folder, sizeof folder);
    if (!bl_path_is_folder(folder) || access(folder, W_OK | X_OK) < 0) {
        wrong(c, "run_dir", "run_dir", "choose another folder",
              "%.200s is no folder that can be written to", folder);
        return;
    }
    if (!e || statvfs(folder, &fs) < 0)
        return;
    int64_t there = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
    int64_t kept = checkpoints_kept(&c->config->train);
    const char *each = size_text(e->checkpoint);
    if (there < 2 * e->checkpoint)
        wrong(c, "disk", "run_dir", "free some space, or choose another folder",
              "checkpoints of %s are written, and %s are free", each, size_text(there));
    else if (there < kept * e->checkpoint)
        warning(c, "disk", "up to %lld checkpoints of %s are kept, and %s are free",
                (long long)kept, each, size_text(there));
    else
        ok(c, "disk", "up to %lld checkpoints of %s are kept, %s are free", (long long)kept, each,
           size_text(there));
}

/* A run folder that was begun: may it go on under this configuration? */
static void check_resume(struct check *c)
{
    char path[4096], notice[600];
    struct bl_error err;
    bl_auto(config) struct config *before = NULL;
    if (!passes(c, "run_dir",
                bl_path_join(path, sizeof path, c->config->run_dir, "config.yaml", &err), &err) ||
        !bl_path_is_file(path) || !passes(c, "run_dir", config_open(path, &before, &err), &err))
        return;
    int rc = config_may_resume(before, c->config, notice, sizeof notice, &err);
    if (rc < 0)
        bl_error_file(&err, c->yaml);
    if (!passes(c, "run_dir", rc, &err))
        return;
    ok(c, "run_dir", "%s is begun already and goes on", c->config->run_dir);
    if (notice[0])
        note(c, "run_dir", "%s", notice);
}

/* A checkpoint's files as its state.json knows them; *ret_weights: how many numbers the weights are. */
static int open_checkpoint(const char *folder, int64_t *ret_weights, struct bl_error *err)
{
    static const char *const names[] = {"qformer.safetensors", "projector.safetensors"};
    struct checkpoint_state state;
    BL_TRY(checkpoint_state_read(folder, &state, err));
    int rc = checkpoint_verify(folder, &state, err);
    checkpoint_state_release(&state);
    *ret_weights = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        char path[4096];
        bl_auto(safetensors) struct safetensors *file = NULL;
        BL_TRY(bl_path_join(path, sizeof path, folder, names[i], err));
        BL_TRY(safetensors_open(path, &file, err));
        for (size_t t = 0; t < safetensors_count(file); t++) {
            const struct tensor *tensor = safetensors_at(file, t);
            *ret_weights += (int64_t)(tensor->size_bytes / bl_dtype_bytes(tensor->dtype));
        }
    }
    return rc;
}

/* A run that goes on has weights of its own. */
static bool is_begun(const struct config *config)
{
    char path[4096];
    return bl_path_join(path, sizeof path, config->run_dir, "journal", NULL) == 0 &&
           bl_path_is_file(path);
}

/* The checkpoint whose weights a run starts from. */
static void check_init(struct check *c)
{
    struct bl_error err;
    int64_t found, expected;
    const char *folder = c->config->train.init_from;
    if (!folder || is_begun(c->config))
        return;
    int rc = open_checkpoint(folder, &found, &err);
    if (rc < 0)
        bl_error_key(&err, "train.init_from");
    if (!passes(c, "init_from", rc, &err))
        return;
    expected = c->vision_there && c->llm_there ? estimate_trainable(c->config, &c->vision, &c->llm)
                                               : found;
    if (found != expected)
        wrong(c, "init_from", "train.init_from",
              "give qformer and projector as that checkpoint was trained, or leave the key out",
              "%.200s holds %lld weights, and this run has %lld", folder, (long long)found,
              (long long)expected);
    else
        ok(c, "init_from", "%s", folder);
}

/* -- public ----------------------------------------------------------------------------------- */

static void check_all(struct check *c)
{
    struct estimate estimate;
    ok(c, "config", "%s", c->yaml);
    check_vision(c);
    check_llm(c);
    check_tokenizer(c);
    check_qformer(c);
    check_data(c);
    check_positions(c);
    check_batches(c);
    sketch_schedule(c);
    check_init(c);
    check_resume(c);
    if (c->dataset && c->vision_there) {
        estimate_run(c->config, &c->vision, &c->llm, dataset_longest(c->dataset), &estimate);
        check_memory(c, &estimate);
    }
    check_disk(c, c->dataset && c->vision_there ? &estimate : NULL);
}

int check_run(const char *yaml, FILE *out, struct bl_error *err)
{
    struct check c = {.out = out, .yaml = yaml, .eos = -1};
    struct config *config = NULL;
    struct bl_error wrong_config;
    if (passes(&c, "config", config_open(yaml, &config, &wrong_config), &wrong_config)) {
        c.config = config;
        check_all(&c);
    }
    dataset_free(&c.dataset);
    tokenizer_free(&c.tokenizer);
    config_free(&config);
    fprintf(out, "%d errors, %d warnings\n", c.errors, c.warnings);
    if (!c.errors)
        return 0;
    if (err)
        *err = c.first;
    return -c.first.code;
}

int check_models(const char *yaml, const struct config *config, struct bl_error *err)
{
    struct check c = {.yaml = yaml, .config = config, .eos = -1};
    check_vision(&c);
    check_llm(&c);
    check_tokenizer(&c);
    check_qformer(&c);
    check_init(&c);
    tokenizer_free(&c.tokenizer);
    if (!c.errors)
        return 0;
    *err = c.first;
    return -c.first.code;
}
