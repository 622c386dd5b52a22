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
