/* coordinator/check.h - `blipren-coord check RUN.yaml`: everything that training would fail on
 * later, before anything starts. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/config/config.h"
#include "common/error.h"

/* Prints a line for each check: ok, note, warning or error. Goes on after an error where it can.
 * Some images are decoded; deep: all. worker: path of the worker program, which plans the memory.
 * Returns 0, or the first error (warnings are none). Writes nothing but `out` and the run folder's
 * cache of image hashes. */
int check_run(const char *yaml, bool deep, const char *worker, FILE *out, struct bl_error *err);

/* What of it takes no time and needs no data: the models, the tokenizer, what the run starts from.
 * Hands its warnings to `warn`. 0 or the first error. */
int check_models(const char *yaml, const char *worker, const struct config *config,
                 void (*warn)(const char *line), struct bl_error *err);
