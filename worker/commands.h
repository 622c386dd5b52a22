/* worker/commands.h - the worker's subcommands: each takes its own arguments and returns 0 or the failure. */
#pragma once

#include "common/error.h"

/* `caption --checkpoint C IMAGE…` */
int command_caption(int argc, char **argv, struct bl_error *err);
/* `score --checkpoint C --pairs LIST.jsonl` */
int command_score(int argc, char **argv, struct bl_error *err);
/* `plan RUN.yaml` */
int command_plan(int argc, char **argv, struct bl_error *err);
/* `measure RUN.yaml` */
int command_measure(int argc, char **argv, struct bl_error *err);

/* `devices` */
int command_devices(int argc, char **argv, struct bl_error *err);

extern const char command_caption_usage[], command_score_usage[], command_plan_usage[],
    command_measure_usage[], command_devices_usage[];
