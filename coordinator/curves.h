/* coordinator/curves.h - RUN/curves.png, drawn from metrics.jsonl. */
#pragma once

#include "common/error.h"

/* Training and validation loss over the steps; of a run without steps nothing is drawn. */
int curves_draw(const char *run_folder, struct bl_error *err);
