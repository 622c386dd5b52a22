/* coordinator/check_parts.h - what the parts of `check` share. Private to check*.c.
 *
 *   check_report.c  the lines it prints        check_batches.c  batches, schedule
 *   check_models.c  models and tokenizer       check_memory.c   what a worker needs
 *   check_data.c    captions, labels, lengths  check_disk.c     what checkpoints need
 *   check_images.c  files and what is in them  check_start.c    address, resume, initial weights
 *   check_loaders.c what a loader makes, and how many a worker needs */
#pragma once

#include "common/data/dataset.h"
#include "common/models/hf.h"
#include "common/tokenizer/tokenizer.h"
#include "coordinator/check.h"
#include "coordinator/estimate.h"

struct check {
    FILE *out;                      /* NULL: only errors and warnings matter */
    void (*warn)(const char *line); /* where out is NULL */
    const char *yaml, *worker;
    struct bl_error first;
    int errors, warnings;
    const struct config *config;
    struct config *unfinished; /* the same, where its length may be set */
    struct hf_vision vision;
    struct hf_llm llm;
    struct tokenizer *tokenizer;
    struct dataset *dataset;
    struct estimate estimate;
    bool vision_there, llm_there, planned; /* planned: estimate is filled in */
    bool deep;                             /* look at all images */
    bool measure;                          /* time a worker */
    double (*now_s)(void *clock);
    void *clock;
    int32_t eos;
};

/* ---- check_report.c */

/* A line each; topic: the second column. */
void check_ok(struct check *c, const char *topic, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void check_note(struct check *c, const char *topic, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void check_warning(struct check *c, const char *topic, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Prints an error and remembers the first. True: rc is none. */
bool check_passes(struct check *c, const char *topic, int rc, struct bl_error *err);
/* The same of a model's folder, which a key of RUN.yaml names. */
bool check_model_passes(struct check *c, const char *topic, int rc, struct bl_error *err);
/* An error about a key of RUN.yaml. */
void check_wrong(struct check *c, const char *topic, const char *key, const char *remedy,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));
/* "1.3 GB"; four texts live at a time. */
const char *check_size_text(int64_t bytes);

/* ---- check_models.c: each prints what it looked at */

void check_vision(struct check *c);
void check_llm(struct check *c);
void check_tokenizer(struct check *c);
void check_qformer(struct check *c);

/* ---- check_data.c: each prints what it looked at */

void check_data(struct check *c);
/* Image, BOS and text must fit the positions the model was trained with. */
void check_positions(struct check *c);

/* ---- check_images.c: prints what it looked at */

void check_images(struct check *c);

/* ---- check_batches.c: each prints what it looked at */

void check_batches(struct check *c);
/* The learning rate over the run: a column for each 64th of it. */
void check_schedule(struct check *c);

/* ---- check_memory.c: prints what it looked at */

/* What a worker needs; leaves c->estimate. Without a data set the longest caption is the limit's. */
bool check_planned(struct check *c);
void check_memory(struct check *c);

/* ---- check_disk.c: prints what it looked at */

void check_disk(struct check *c);

/* ---- check_loaders.c: prints what it looked at */

/* Makes samples for a second as a loader's thread does; under --measure also asks how fast a worker trains here. */
void check_loaders(struct check *c);

/* ---- check_start.c: each prints what it looked at */

/* Is the coordinator's an address at all? Whether others may connect is asked when training starts, which can be told
 * --insecure. */
void check_address(struct check *c);
/* An existing run folder: can the run resume under this configuration? */
void check_resume(struct check *c);
/* The checkpoint whose weights a run starts from. */
void check_init(struct check *c);
