/* coordinator/pull.h - `blipren-coord pull`: what a RUN.yaml names on the Hub, into the local cache (common/hub/pull.h). */
#pragma once

#include <stdbool.h>

#include "common/error.h"

/* Pulls every repository of the configuration, with progress on standard error and a line each on standard output. missing_only:
 * those alone that the cache lacks, before a run. */
int pull_run(const char *yaml, bool missing_only, struct bl_error *err);
