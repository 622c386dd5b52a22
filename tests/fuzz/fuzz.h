/* tests/fuzz/fuzz.h - what a fuzz target is: libFuzzer's entry, also called by replay.c. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Returns 0; a defect crashes, or is caught by a sanitizer. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
