/* worker/devices.c - `blipren-worker devices`: what --device can name here, a line each; the coordinator
 * reads it to know how many workers this machine is good for. */
#include <stdio.h>

#include "common/arguments.h"
#include "common/file.h"
#include "worker/commands.h"
#include "worker/ops/ops.h"

const char command_devices_usage[] =
    "usage: blipren-worker devices\n"
    "\n"
    "Prints a line for each device that --device accepts: its name, a tab, and what it is.\n";

int command_devices(int argc, char **argv, struct bl_error *err)
{
    int rest;
    BL_TRY(arguments_read(argc, argv, (const struct argument[]){{0}}, &rest, err));
    if (rest)
        return bl_fail(err, BL_EUSAGE, "unexpected argument %.100s", argv[1]);
    for (int i = -1, count = ops_device_count(); i < count; i++) {
        char name[32] = "cpu", kind[256];
        struct ops_device device;
        if (i >= 0)
            snprintf(name, sizeof name, "cuda:%d", i);
        BL_TRY(ops_device_choose(name, &device, err));
        ops_device_kind(&device, kind, sizeof kind);
        printf("%s\t%s\n", name, kind);
    }
    return bl_output_finish(err);
}
