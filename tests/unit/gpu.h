/* tests/unit/gpu.h - the device of the tests that tests/gpu/run takes to a GPU. */
#pragma once

#include "tests/unit/unit.h"

#include <stdlib.h>

#include "worker/ops/ops.h"

/* The one that BLIPREN_OPS names, or else cuda:0; the caller's (ops_free). */
static inline struct ops *gpu_open(enum ops_precision precision)
{
    struct ops *ops;
    struct ops_device device;
    struct bl_error err = {0};
    const char *name = getenv("BLIPREN_OPS");
    assert_ok(ops_device_choose(name ? name : "cuda:0", &device, &err), err);
    assert_ok(ops_open(&device, precision, 1, &ops, &err), err);
    return ops;
}
