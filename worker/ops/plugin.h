/* worker/ops/plugin.h - what a backend in a shared module gives the worker: one exported function,
 * ops_plugin(), that returns this table. The module is libblipren-cuda.so; it is opened at run time so
 * that the programs start on machines without any of its libraries. */
#pragma once

#include "worker/ops/ops.h"

#define OPS_PLUGIN_FILE "libblipren-cuda.so"
#define OPS_PLUGIN_FUNCTION "ops_plugin"

struct ops_plugin {
    /* Of the sources it was built from, and the size of its struct ops: both must be the worker's. */
    const char *version;
    size_t ops_size;
    /* Devices at hand. -BL_EDEVICE says why there is none. */
    int (*count)(int *ret, struct bl_error *err);
    void (*kind)(int index, char *ret, size_t size);
    int64_t (*memory)(int index); /* bytes that the device has; 0: unknown */
    int (*open)(int index, enum ops_precision precision, struct ops **ret, struct bl_error *err);
    /* A device that counts memory (dry.h); there need be none. */
    int (*open_dry)(enum ops_precision precision, struct ops **ret, struct bl_error *err);
};

const struct ops_plugin *ops_plugin(void);
