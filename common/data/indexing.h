/* common/data/indexing.h - shows people how far the making of an index is, on standard error: one line drawn over and over on a
 * terminal, elsewhere a log line every few seconds. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/data/dataset.h"

/* Zero-initialise; one for the making of one index. */
struct indexing {
    enum dataset_phase phase;
    double began_s, shown_s; /* of the phase: when it began, when it was last shown */
};

/* A dataset_progress; context is a struct indexing. Never stops. */
bool indexing_show(void *context, enum dataset_phase phase, uint64_t done, uint64_t total);

/* "hashing images: 1200 of 20000 (6%), about 1:05 left" */
void indexing_text(enum dataset_phase phase, uint64_t done, uint64_t total, double elapsed_s,
                   char *ret, size_t size);
