/* coordinator/bad_samples.h - samples that something is wrong with, each once, however often the run is started:
 * RUN/bad_samples.jsonl has those that could not be used, RUN/damaged_images.jsonl those that were used though their
 * image's data is damaged. */
#pragma once

#include <stdint.h>

#include "common/error.h"

struct bad_samples;

#define BAD_SAMPLES_FILE "bad_samples.jsonl"
#define DAMAGED_IMAGES_FILE "damaged_images.jsonl"

/* Reads what is listed already in the file of that name; sample numbers are below sample_count. */
int bad_samples_open(const char *run_folder, const char *name, uint64_t sample_count,
                     struct bad_samples **ret, struct bl_error *err);
/* How many are listed. */
uint64_t bad_samples_count(const struct bad_samples *list);
/* Lists it, unless it is listed. */
int bad_samples_add(struct bad_samples *list, uint64_t sample, const char *file_name,
                    const char *reason, struct bl_error *err);
void bad_samples_close(struct bad_samples **list);
