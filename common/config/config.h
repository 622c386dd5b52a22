/* common/config/config.h - RUN.yaml: one strict schema (schema_*.c) knows each key's type,
 * range, unit, default and help; docs/config.md is printed from it. What is not in the table is an
 * error with file, line and column. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"
#include "common/hub/hub.h"
#include "common/path_map.h"

enum config_precision { CONFIG_BF16, CONFIG_F32 };
enum config_format {
    CONFIG_FORMAT_AUTO,
    CONFIG_IMAGEFOLDER,
    CONFIG_PAIRS,
    CONFIG_ANNOTATIONS,
    CONFIG_PARQUET,
    CONFIG_WEBDATASET
};
enum config_choice { CONFIG_CHOICE_FIRST, CONFIG_CHOICE_ANY };
/* Of equal captions the first is kept: not asked for, within one image, within the whole data set. */
enum config_deduplicate { CONFIG_REPEAT, CONFIG_UNIQUE_OF_IMAGE, CONFIG_UNIQUE };
enum config_bos { CONFIG_BOS_FIRST, CONFIG_BOS_AFTER_IMAGE, CONFIG_BOS_NONE };
enum config_projector_kind { CONFIG_NORMAL, CONFIG_MOE };
enum config_routing { CONFIG_POOLED, CONFIG_MEAN, CONFIG_FIRST_PATCH };
enum config_schedule { CONFIG_COSINE, CONFIG_CONSTANT, CONFIG_WSD };

enum config_labels { CONFIG_LABELS_BOTH, CONFIG_LABELS_TRACE, CONFIG_LABELS_CAPTION };

struct config_strings {
    char **at;
    size_t count;
};

/* A caption column and the text that stands before its captions; order is preference. */
struct config_caption {
    char *column, *prefix; /* prefix as written; "" = none */
    char *join;            /* between prefix and caption: " " or "" */
    char *trace;           /* column of the reasoning before the caption; NULL = none */
    char *open, *close;    /* what stands around a trace; NULL without one */
    enum config_labels labels;
};
struct config_captions {
    struct config_caption *at;
    size_t count;   /* at least 1 */
    size_t written; /* the first so many are those of data.captions, the others of data.sources */
};

/* One of the run's sources, everything said. */
struct config_source {
    char *source; /* a folder, a Parquet file, or a pattern of such */
    double weight;
    enum config_format format;
    char *image_column;              /* NULL: the usual names */
    struct config_captions captions; /* while it is read */
    size_t caption_first,
        caption_count;       /* its columns are data.captions.at[first, first + count) */
    double validation;       /* below 1: fraction of the images; from 1: their number */
    char *validation_source; /* NULL = none */
};
struct config_sources {
    struct config_source *at;
    size_t count;   /* 1 to BL_SOURCES_MAX */
    size_t written; /* those of data.sources; 0: the one is data.source */
};

/* A column of numbers: a sample is kept where its number is min to max. */
struct config_filter {
    char *column;
    double min, max; /* -INFINITY, INFINITY: not given */
};
struct config_filters {
    struct config_filter *at;
    size_t count;
};

struct config_data {
    char *source; /* NULL: data.sources was given; what is read goes by `sources` either way */
    struct config_sources sources;
    enum config_format format;
    char *image_column;  /* NULL: the usual names */
    char *cache;         /* folder of what URLs are cached in */
    int64_t cache_bytes; /* 0 = no limit */
    int64_t host_connections;
    double download_timeout_s, download_patience_s;
    bool private_redirects;
    struct config_captions captions;
    enum config_choice caption_choice;
    bool train_prefix;
    int64_t min_tokens, max_tokens;   /* tokens of the caption alone: no prefix, no EOS */
    int64_t max_trace_tokens;         /* with what stands around it */
    struct config_strings keep, drop; /* PCRE2 patterns, checked at load */
    struct config_strings strip;      /* PCRE2 patterns of openings that are taken off */
    char *script;                     /* a Unicode script; NULL = any */
    double script_share;              /* of the letters, at least */
    enum config_deduplicate deduplicate;
    struct config_filters filters;
    double validation;       /* below 1: fraction of the images; from 1: their number */
    char *validation_source; /* NULL = none */
    char *eos;               /* the token's text; NULL = config.json's eos_token_id */
    int64_t max_pixels;
    int64_t min_side; /* pixels; smaller images are void */
    int64_t max_image_bytes;
    double max_bad_fraction;
};

struct config_qformer {
    int64_t width; /* 0 = the LLM's */
    int64_t queries, layers, heads;
    double dropout;
};

struct config_projector {
    enum config_projector_kind kind;
    int64_t experts;
    enum config_routing routing;
    double dropout;
    double balance, router_z; /* alpha and beta of the loss; moe only */
};

enum config_cache_dtype {
    CONFIG_CACHE_F16,
    CONFIG_CACHE_F32,
    CONFIG_CACHE_BF16,
    CONFIG_CACHE_INT8
};
struct config_cache {
    char *path; /* NULL = none */
    enum config_cache_dtype dtype;
    int64_t shard_images;
    bool fill; /* training writes what is not there yet */
};

struct config_train {
    int64_t steps; /* 0: not known before config_set_length */
    double epochs; /* 0: steps was given, or is known */
    int64_t global_batch;
    int64_t micro_batch; /* under reproducible it equals grain */
    int64_t grain;
    bool recompute;
    bool reproducible;
    double lr;
    int64_t warmup_steps;
    enum config_schedule schedule;
    double floor;        /* as a fraction of lr */
    int64_t decay_steps; /* wsd only */
    double weight_decay, beta1, beta2, eps;
    bool decay_norms;
    double clip;            /* 0 = off */
    double ema;             /* 0 = off */
    double skip_outliers;   /* z-score; 0 = off */
    char *init_from;        /* checkpoint folder; NULL = none */
    int64_t validate_every; /* 0 = only at the end */
    bool validate_at_start;
    int64_t validation_captions;   /* sample captions at each validation */
    int64_t validation_max_images; /* 0 = all */
    int64_t max_new_tokens;
    int64_t checkpoint_every; /* 0 = only at start and end */
    int64_t keep_last;
    bool keep_best;
};

struct config_cluster {
    int64_t workers_min;
    double patience_s;
    char *bind;         /* address or interface of the coordinator's socket */
    int64_t port;       /* 0 = any free one */
    int64_t files_port; /* of the file service; the same */
    char *keys;         /* folder of the cluster's keys; "" = none */
    bool insecure;
    int64_t window;          /* groups on their way to one worker */
    int64_t steps_ahead;     /* steps ordered before the current one is done */
    int64_t loader_threads;  /* of one loader; 0 = its cores */
    int64_t loader_capacity; /* groups one loader may hold */
};

struct config_repository {
    const char *key; /* "vision.path"; static */
    struct hub_id id;
};

struct config_log {
    int64_t every;
};

/* Values are the effective ones: defaults filled in, `auto` resolved where the file alone decides
 * it, paths absolute. Text and lists belong to the configuration. */
struct config {
    char *run_dir;
    int64_t seed;
    enum config_precision precision;
    int64_t threads; /* of one worker; 0 = its cores */
    struct config_data data;
    /* plan_path: the folder as run.yaml has it, where config_map_paths gave this host's as path; else NULL. */
    struct {
        char *path, *plan_path;
    } vision;
    struct {
        char *path, *plan_path;
        enum config_bos bos;
    } llm;
    struct config_qformer qformer;
    struct config_projector projector;
    struct config_cache cache;
    struct config_train train;
    struct config_cluster cluster;
    struct config_log log;

    /* Values that name a repository of the Hub, as the file has them. The members above have its snapshot's folder instead, or,
     * where the cache lacks it, the same name, which opening refuses (hub_refuse_missing). */
    struct {
        struct config_repository *at;
        size_t count;
    } hub;

    /* Canonical text: every key in the table's order, paths absolute (snapshots of the Hub as
     * owner/name@commit, so that every host finds its own), `auto` left as auto. It is
     * YAML that config_parse reads back to the same text; RUN_DIR/config.yaml and state.json hold
     * it. */
    char *text;
};

/* Reads a RUN.yaml. Relative paths start at the file's folder. *ret is the caller's (config_free).
 * -BL_ECONFIG with file:line:column, key, what was expected and found. Whether paths are there is looked
 * at only where they may name a repository of the Hub instead; check does the rest. */
int config_open(const char *path, struct config **ret, struct bl_error *err);
/* The same from memory; `name` stands for the file in messages, relative paths start at `folder`.
 */
int config_parse(const char *yaml, size_t size, const char *name, const char *folder,
                 struct config **ret, struct bl_error *err);
/* NULL is fine; sets *config to NULL. */
void config_free(struct config **config);

/* Puts this host's folders in place of the plan's: run_dir, models, data, caches, train.init_from. Folders of the Hub are this
 * host's already; `text` stays the plan's. -BL_ELIMIT, -BL_ENOMEM. */
int config_map_paths(struct config *config, struct path_map *map, struct bl_error *err);

/* Turns train.epochs into train.steps, now that the number of training samples is known, and the rest that follows from it;
 * nothing where train.steps was given. name: the file's, for errors. -BL_ECONFIG: too many, or other keys do not fit. */
int config_set_length(struct config *config, uint64_t samples, const char *name,
                      struct bl_error *err);
/* Whether a run made with `before` may resume with `now`: -BL_ECONFIG naming the first key that
 * differs and may not. Keys that may change only with a word (the schedule's length) are written to
 * notice, one sentence, "" when none. Folders may move: what they hold is compared by hash
 * elsewhere. */
int config_may_resume(const struct config *before, const struct config *now, char *notice,
                      size_t notice_size, struct bl_error *err);

/* "data.sources[0] and data.sources[2] are the same source, …", for people, where entry i has the path of one before it and reads the
 * same captions from it; else false. */
bool config_source_repeats(const struct config *config, size_t i, char *ret, size_t size);

/* SHA-256 over the keys that may not change on resume: 32 bytes. */
void config_digest(const struct config *config, uint8_t ret[32]);
/* SHA-256 over the keys that decide which captions are kept and how they are split (data.* but
 * the folders' places, and the seed): a dataset.index made under another digest is stale. */
void config_data_digest(const struct config *config, uint8_t ret[32]);

/* What decides which captions are kept and the ids that they become, a line a key ("data.captions: […]"); the caller's. NULL: no
 * memory. */
char *config_caption_rules(const struct config *config);

/* The reference page, docs/config.md. */
int config_print_reference(FILE *out);
