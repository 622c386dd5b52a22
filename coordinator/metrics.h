/* coordinator/metrics.h - RUN/metrics.jsonl: every measure once, with its unit in its name;
 * everything else reads from there.
 *
 * One object a line; "type" is "step", "validation" or "rewind". After a rewind to step s the lines
 * of steps >= s that stand above it are void: later lines of the same step replace them. */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "common/limits.h"

/* Of one source: nats a label token (NAN: it had none). */
struct metrics_source {
    double loss;
    int64_t tokens, images;
};

struct metrics_step {
    int64_t step;       /* 1-based: optimizer steps done */
    double epoch, loss; /* epochs begun, with their fraction; nats a label token */
    double rate, norm;  /* learning rate; of the gradient before clipping */
    int64_t tokens, images;
    int skipped;
    int64_t hedged; /* micro-batches asked of a second loader since the step before */
    double step_s;  /* since the step before; NAN: nothing to measure from */
    double data_wait_s, compute_s, reduce_wait_s; /* of the slowest rank */
    int experts;                                  /* 0: the normal projector */
    const double *share;                          /* (experts) mean routing weight */
    double entropy, balance_loss, router_z_loss;
    int sources; /* 0: there is one */
    struct metrics_source source[BL_SOURCES_MAX];
};

struct metrics_validation {
    int64_t step, tokens, images;
    double loss, accuracy; /* nats a label token; share of them that are the arg max */
    /* over the captions whose image could be exchanged for a different one */
    double paired_loss, shuffled_loss;
    int captions, ended;
    int experts;
    const double *weight; /* mean routing weight over the images */
    int sources;          /* 0: there is one */
    struct metrics_source source[BL_SOURCES_MAX];
};

/* Whether the run folder's metrics, if there are any, can be added to: asked before a start takes the run from anybody. The
 * failure names the file. */
int metrics_check(const char *run_folder, struct bl_error *err);

struct metrics;

int metrics_open(const char *run_folder, struct metrics **ret, struct bl_error *err);
void metrics_close(struct metrics **metrics);
/* Each appends one line. A failed write is reported once, by the first call that meets it. */
int metrics_step(struct metrics *metrics, const struct metrics_step *m, struct bl_error *err);
int metrics_validation(struct metrics *metrics, const struct metrics_validation *m,
                       struct bl_error *err);
int metrics_rewind(struct metrics *metrics, int64_t step, struct bl_error *err);
/* A sample caption of a validation goes to RUN/val_predictions.jsonl. */
int metrics_caption(struct metrics *metrics, int64_t step, const char *file_name,
                    const char *reference, const char *caption, int ended, struct bl_error *err);
