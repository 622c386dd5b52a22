/* coordinator/bad_samples.h - RUN/bad_samples.jsonl: images that could not be used, each once, however often the run is started. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct bad_samples;

/* Reads what is listed already; sample numbers are below sample_count. */
int bad_samples_open(const char *run_folder, uint64_t sample_count, struct bad_samples **ret,
                     struct bl_error *err);
/* Lists it, unless it is listed. */
int bad_samples_add(struct bad_samples *list, uint64_t sample, const char *file_name,
                    const char *reason, struct bl_error *err);
/* Whether it is listed. */
bool bad_samples_has(const struct bad_samples *list, uint64_t sample);
void bad_samples_close(struct bad_samples **list);
