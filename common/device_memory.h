/* common/device_memory.h - types of what lies in a device's memory, which on a CPU is the process's own. Whoever is not the device passes
 * addresses on, and reads nothing there.
 *
 * To compilers they are the plain types. tests/memory.py lets clang take them for those of another address space, where no address becomes
 * one of host memory, or the other way, without a cast. */
#pragma once

#include <stdint.h>

#ifdef BLIPREN_CHECK_MEMORY
#define DEVICE_MEMORY __attribute__((address_space(1)))
#else
#define DEVICE_MEMORY
#endif

typedef void DEVICE_MEMORY dev_void;
typedef float DEVICE_MEMORY dev_f32;
typedef double DEVICE_MEMORY dev_f64;
typedef uint8_t DEVICE_MEMORY dev_u8;
typedef int32_t DEVICE_MEMORY dev_i32;
typedef int64_t DEVICE_MEMORY dev_i64;
