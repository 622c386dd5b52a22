/* tests/tools/weights.h - a captioner's trainable weights from and to a folder. */
#pragma once

#include "worker/model/captioner.h"

/* Both files of `folder` from / into the captioner's values. ops: the captioner's own. */
int weights_save(struct ops *ops, struct captioner *c, const char *folder, struct bl_error *err);
int weights_load(struct ops *ops, struct captioner *c, const char *folder, struct bl_error *err);
