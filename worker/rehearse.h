/* worker/rehearse.h - the longest micro-batch before the first one: what a step will take of the device is taken then, or
 * missing then. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "worker/model/captioner.h"

/* B images with texts of `tokens` label tokens, forward and backward, twice: the arena is then of one piece. features: the
 * images' features are given, else the tower looks at black images. What is computed means nothing; gradients must be zeroed
 * before the first step. -BL_ENOMEM, -BL_EDEVICE. */
int rehearse(struct captioner *captioner, int64_t B, int64_t tokens, bool features,
             struct bl_error *err);
/* The same on a CPU that only counts, with a captioner of `options`; `captioner`, which is on a CPU and has seen no micro-batch, then has as
 * much reserved. Grown bit by bit, the memory of the first micro-batches would be touched anew for each one that is longer
 * than those before. -BL_ENOMEM, and what captioner_open fails with. */
int rehearse_dry(struct captioner *captioner, const struct captioner_options *options,
                 enum ops_precision precision, int threads, int64_t B, int64_t tokens,
                 struct bl_error *err);
