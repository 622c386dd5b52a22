/* coordinator/ask.h - the commands that talk with a running coordinator, over coordinator/control.h. Each is a command of
 * common/program.h. */
#pragma once

#include "common/error.h"

extern const char ask_usage[];

int command_status(int argc, char **argv, struct bl_error *err);
int command_stop(int argc, char **argv, struct bl_error *err);
int command_checkpoint_now(int argc, char **argv, struct bl_error *err);
int command_scale(int argc, char **argv, struct bl_error *err);
