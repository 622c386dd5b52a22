/* loader/fill.h - `blipren-loader fetch RUN.yaml`: fetches what is at the URLs of the run's sources before training needs it. */
#pragma once

#include <stdio.h>

#include "common/error.h"

/* Fetches what is not in data.cache, each URL once, and asks again for what has failed for good; shows how far it is on standard
 * error and prints what became of the URLs, by reason, to `out`. -BL_EDATA: more than data.max_bad_fraction have failed for good.
 * -BL_EIO: some could not be fetched for a passing reason. -BL_ESTOPPED: a signal. What was fetched is kept each time. */
int fill_run(const char *yaml, FILE *out, struct bl_error *err);
