/* coordinator/check.h - `blipren-coord check RUN.yaml`: everything that training would fail on
 * later, before anything starts. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/config/config.h"
#include "common/error.h"

struct check_options {
    const char *yaml;
    const char *worker; /* path of the worker program, which plans the memory and measures */
    bool deep;          /* decode all images, not some of them */
    bool measure;       /* time a worker on this machine too */
    double (*now_s)(void *context); /* NULL: the monotonic clock */
    void *context;
};

/* Prints a line for each check: ok, note, warning or error. Goes on after an error where it can. Returns 0, or the first error
 * (warnings are none). Writes nothing but `out` and the run folder's cache of image hashes. */
int check_run(const struct check_options *options, FILE *out, struct bl_error *err);

/* What of it takes no time and needs no data: the models, the tokenizer, what the run starts from.
 * Hands its warnings to `warn`. 0 or the first error. */
int check_models(const char *yaml, const char *worker, const struct config *config,
                 void (*warn)(const char *line), struct bl_error *err);
