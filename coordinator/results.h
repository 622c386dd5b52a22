/* coordinator/results.h - what workers reported of steps and validations that are not finished yet. The core says when one
 * counts (COMMITTED, VALIDATED) and when all are void (REWOUND). */
#pragma once

#include <stdint.h>

#include "coordinator/metrics.h"
#include "proto/wire.h"

struct results;

/* micro-batches: of the validation set. */
int results_new(uint32_t validation_micro_batches, struct results **ret, struct bl_error *err);
void results_free(struct results **results);

/* A worker's Report: sums are those of the whole batch, times the slowest rank's. */
void results_report(struct results *results, const Blipren__Report *report);
/* Takes what is known of a step out; false: nothing is (no rank lived to report it). */
bool results_take_step(struct results *results, uint64_t step, struct metrics_step *ret,
                       double share[METRICS_EXPERTS_MAX]);

/* The result of one validation micro-batch. */
void results_validation(struct results *results, const Blipren__Validation *validation);
/* Sums up all micro-batches in order; weight holds what ret->weight points to. */
void results_sum_validation(const struct results *results, struct metrics_validation *ret,
                            double weight[METRICS_EXPERTS_MAX]);
/* Calls visit for every sample caption, in order. */
void results_each_caption(const struct results *results,
                          void (*visit)(void *context, uint64_t sample, const char *text,
                                        bool ended),
                          void *context);
/* Forgets the validation's results; everything. */
void results_clear_validation(struct results *results);
void results_clear(struct results *results);
