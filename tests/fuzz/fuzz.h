/* tests/fuzz/fuzz.h - the one function of a fuzz target. It must neither crash nor leak, whatever
 * the bytes; under sanitizers that includes reading what was never written. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads every byte of an output, so that uninitialised or foreign memory is noticed. */
static inline void fuzz_touch(const void *data, size_t size)
{
    static volatile uint8_t sink;
    for (size_t i = 0; i < size; i++)
        sink = (uint8_t)(sink + ((const uint8_t *)data)[i]);
}
