/* common/data/cell.h - the bytes of one value of a Parquet file, for any thread at any time. Files stay open between calls, as many
 * as threads read at once and some more. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/data/location.h"
#include "common/error.h"

/* Reads the value at a LOCATION_CELL, at most max_bytes (-BL_ELIMIT). *ret_data is the caller's (free), NUL-terminated beyond its
 * size. *ret_stamp (may be NULL) is the file's. A null value and a row behind the last are -BL_EFORMAT. */
int cell_read(const struct location *location, size_t max_bytes, char **ret_data, size_t *ret_size,
              struct bl_stamp *ret_stamp, struct bl_error *err);
